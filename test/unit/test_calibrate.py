"""`stprune calibrate` on small real bags: what it fits, counts, writes and refuses; then replay with what it wrote."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.reports import report_in
from helpers.small_bags import PERIOD_NS, START_NS, Item, drive, write_bag
from helpers.tiny_models import make_tiny_model

from stprune_ros.calibrate import drives
from stprune_ros.calibrate.drives import DriveScorer, ScoredDrive
from stprune_ros.calibrate.report import LISTED, content, write
from stprune_ros.calibrate.result import calibrate as calibrate_drives
from stprune_ros.cli import main
from stprune_ros.core.types import Behavior, ConfidenceSource
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.ground_truth import GroundTruth, TickTruth
from stprune_ros.replay.results import HINT_TOPIC
from stprune_ros.settings.parameter_file import load_settings
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import ModelInfo
from stprune_ros.vlm.hint_calibration import HintCalibration
from stprune_ros.vlm.loading import load_model

TICKS = 6
VALUES = {'history.stride_ms': 100.0, 'pruning.keep_ratio': 0.3, 'inference.max_new_tokens': 3, 'model.device': 'cpu'}


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model that passes for a trained one: what it scores has little to do with any truth."""
    path = make_tiny_model(tmp_path_factory.mktemp('models') / 'tiny', 'ringworld')
    (path / 'stprune.json').write_text(json.dumps({'trained': True}))
    return path


@pytest.fixture
def params(tmp_path: Path, model: Path) -> Path:
    return write_params(tmp_path / 'params.yaml', {'model.path': str(model), **VALUES})


def write_params(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(json.dumps({'/**': {'ros__parameters': values}}))
    return path


@pytest.fixture(scope='module')
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four drives; the third has no left camera, so that its hints are DEGRADED and count all the same."""
    folder = tmp_path_factory.mktemp('bags')

    def without_left(item: Item) -> Item | None:
        return None if item.topic == '/camera/left/image_raw/compressed' and item.stamp_ns > START_NS else item

    made = [write_bag(folder / f'drive_{number}', drive(TICKS)) for number in (0, 1)]
    return [*made, write_bag(folder / 'drive_2', drive(TICKS, without_left)), write_bag(folder / 'd3', drive(TICKS))]


def write_truth(path: Path, bags: list[Path], said: str = 'SNSSNS', shift_ns: int = 0) -> Path:
    """One line per tick and bag; ``said`` are the first letters of STOP, NONE and YIELD, '.' for no line."""
    names = {behavior.name[0]: behavior.name for behavior in (Behavior.STOP, Behavior.NONE, Behavior.YIELD)}
    with path.open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(['stamp_ns', 'behavior', 'bag'])
        for bag in bags:
            for tick, letter in enumerate(said):
                if letter != '.':
                    writer.writerow([START_NS + tick * PERIOD_NS + shift_ns, names[letter], bag.name])
    return path


def calibrate(bags: list[Path], output: Path, params: Path, *more: Any) -> int:
    return main(['calibrate', *map(str, bags), '--output', str(output), '--params', str(params), *map(str, more)])


def test_a_calibration_is_fitted_written_and_used(bags, tmp_path: Path, params: Path, capsys):
    truth, output = write_truth(tmp_path / 'truth.csv', bags), tmp_path / 'c.yaml'
    assert calibrate(bags[:2], output, params, '--held-out', *bags[2:], '--truth', truth, '--json') == 0
    told = capsys.readouterr()
    result = report_in(told.out, 'calibrate')['result']
    said = [line for line in told.err.splitlines() if not line.startswith('stprune: ')]
    assert said[0].startswith('fit       2 bags, 12 of 12 ticks: NONE 4, STOP 8 (0 ticks without a hint, 0 without')
    assert said[1].startswith('held out  2 bags, 12 of 12 ticks: NONE 4, STOP 8 (')
    assert said[3] == (
        'unknown   SLOW_DOWN, YIELD, INCREASE_GAP, SHIFT_LEFT, SHIFT_RIGHT: never right in the bags to fit on, left as'
        ' the model has it'
    )
    assert said[-1] == f"wrote   '{output}' and '{tmp_path / 'c.png'}'"
    assert (tmp_path / 'c.png').read_bytes().startswith(b'\x89PNG')
    assert not list(tmp_path.glob('*.part'))

    tree, settings = yaml.safe_load(output.read_text()), load_settings(params)
    assert result == {'calibration': tree, 'files': [str(output), str(tmp_path / 'c.png')]}
    backend, prompt = load_model(settings)
    assert tree['model'] == {'id': 'tiny', 'revision': backend.info.revision}
    assert tree['prompt'] == prompt.id
    assert tree['parameters']['pruning.keep_ratio'] == 0.3
    report = tree['report']
    assert (report['fitted']['bag_count'], report['held_out']['bag_count']) == (2, 2)
    assert [Path(bag).name for bag in report['fitted']['bags']] == ['drive_0', 'drive_1']
    assert [Path(bag).name for bag in report['held_out']['bags']] == ['drive_2', 'd3']
    before, after = (report['held_out'][name] for name in ('before', 'after'))
    assert after['log_loss'] < before['log_loss']
    biases = {entry['behavior']: entry['bias'] for entry in tree['candidates']}
    assert [*biases] == [behavior.name for behavior in prompt.behaviors]
    assert biases['YIELD'] == 0
    assert all(entry['content_free'] == 0 for entry in tree['candidates'])

    plain, calibrated = (replayed(bags[3], tmp_path / name, path) for name, path in (
        ('plain', params),
        ('calibrated', write_params(tmp_path / 'q.yaml', {**params_of(params), 'prompt.calibration': str(output)})),
    ))  # fmt: skip
    found = HintCalibration.load(output)
    assert len(calibrated) == TICKS
    for old, new in zip(plain, calibrated, strict=True):
        weights = np.exp(found.apply(np.log(np.float64(old.probabilities))))
        assert list(new.probabilities) == pytest.approx(list(weights / weights.sum()), abs=1e-5)
        assert new.behavior == new.candidates[int(np.argmax(new.probabilities))]
        assert new.confidence == pytest.approx(max(new.probabilities))
        assert (old.confidence_source, new.confidence_source) == (
            ConfidenceSource.TOKEN_PROBABILITY,
            ConfidenceSource.CALIBRATED,
        )
        assert (old.info.hint_calibration_id, new.info.hint_calibration_id) == ('', found.id)
    summary = json.loads((tmp_path / 'calibrated' / 'summary.json').read_text())
    assert summary['hint_calibration_id'] == found.id
    assert f'<dt>hint calibration</dt><dd>{found.id}</dd>' in (tmp_path / 'calibrated' / 'report.html').read_text()
    assert json.loads((tmp_path / 'plain' / 'summary.json').read_text())['hint_calibration_id'] == ''


def params_of(params: Path) -> dict[str, Any]:
    return json.loads(params.read_text())['/**']['ros__parameters']


def replayed(bag: Path, output: Path, params: Path) -> list[Any]:
    """The hints of a replay."""
    assert main(['replay', str(bag), '--output', str(output), '--params', str(params)]) == 0
    with Bag(output / 'results.mcap') as results:
        return [record.message() for record in results.messages([HINT_TOPIC])]


def test_the_scores_are_those_of_a_replay(bags, tmp_path: Path, params: Path):
    """One way through the pipeline; and a truth counts for the tick that is next to it."""
    settings = load_settings(params)
    backend, prompt = load_model(settings)
    ticks = {START_NS + 3 * PERIOD_NS + 5_000_000: 'STOP', START_NS: 'NONE', 7: 'NONE'}
    truth = GroundTruth({stamp_ns: TickTruth(behavior) for stamp_ns, behavior in ticks.items()})
    notes: list[str] = []
    scorer = DriveScorer(settings, backend, prompt, 5_000_000, True, notes.append)
    found = scorer.score(bags[0], truth, lambda: None)
    hints = replayed(bags[0], tmp_path / 'out', params)
    assert (found.ticks, found.without_hint, found.without_truth, found.unused) == (TICKS, 0, TICKS - 2, 1)
    assert found.stamps.tolist() == [START_NS, START_NS + 3 * PERIOD_NS]
    assert [prompt.behaviors[index] for index in found.truth] == [Behavior.NONE, Behavior.STOP]
    for row, hint in zip(found.scores, (hints[0], hints[3]), strict=True):
        assert np.exp(row) == pytest.approx(np.array(hint.probabilities), abs=1e-6)
    assert math.fsum(np.exp(found.content_free)) == pytest.approx(1)
    assert np.abs(found.content_free - found.scores[0]).max() > 1e-3, 'grey pictures are other pictures'
    assert found.weight == pytest.approx(0.3)
    assert notes == []


def test_grey_pictures_are_what_content_free_means(bags, params: Path, monkeypatch: pytest.MonkeyPatch):
    settings = load_settings(params)
    backend, prompt = load_model(settings)
    shown: list[np.ndarray] = []
    prepare = backend.prepare
    monkeypatch.setattr(backend, 'prepare', lambda images, side: shown.extend(images) or prepare(images, side))
    texts: list[str] = []
    original = backend.prefill

    def prefill(system: str, content: Any) -> Any:
        texts.append(''.join(part for part in content if isinstance(part, str)))
        return original(system, content)

    monkeypatch.setattr(backend, 'prefill', prefill)
    DriveScorer(settings, backend, prompt, 1, True, print).score(
        bags[0], GroundTruth({START_NS: TickTruth('STOP')}), lambda: None
    )
    frames = 3 * settings.history.frames
    assert all((image == drives.GREY).all() for image in shown[-frames:])
    assert all(len(np.unique(image)) > 1 for image in shown[:-frames])
    assert len(texts) == TICKS + 1
    assert prompt.missing_ego in texts[-1] and prompt.missing_ego not in texts[-2]


def test_content_free_scores_go_into_the_file(bags, tmp_path: Path, params: Path):
    twins, output = [tmp_path / 'one', tmp_path / 'other'], tmp_path / 'c.yaml'
    for twin in twins:  # what fits one of them fits the other, whatever the model says
        shutil.copytree(bags[0], twin)
        write_own_truth(twin, 'SNSNSN')
    assert calibrate(twins, output, params, '--content-free') == 0
    free = [entry['content_free'] for entry in yaml.safe_load(output.read_text())['candidates']]
    assert math.fsum(math.exp(one) for one in free) == pytest.approx(1, abs=1e-2)
    assert len(set(free)) > 2


def test_without_named_ones_the_last_third_is_held_out(bags, tmp_path: Path, params: Path, capsys):
    truth = write_truth(tmp_path / 'truth.csv', bags)
    for given, held in ((bags, ['d3']), (bags[:3], ['drive_2']), (bags[:2], ['drive_1'])):
        assert calibrate(given, tmp_path / 'c.yaml', params, '--truth', truth) == 0
        report = yaml.safe_load((tmp_path / 'c.yaml').read_text())['report']
        assert [Path(bag).name for bag in report['held_out']['bags']] == held
        assert len(report['fitted']['bags']) == len(given) - 1
    assert 'change ' not in capsys.readouterr().out, 'one drive has no spread'


def test_ticks_without_truth_and_truth_without_ticks_are_said(bags, tmp_path: Path, params: Path, capsys):
    truth = write_truth(tmp_path / 'truth.csv', bags[:2], said='SN..SNNN')
    assert calibrate(bags[:2], tmp_path / 'c.yaml', params, '--truth', truth) == 0
    fit, held, *_ = capsys.readouterr().out.splitlines()
    counts = '(0 ticks without a hint, 2 without a truth, 2 stamps of the truth without a tick)'
    assert fit == f'fit       1 bags, 4 of 6 ticks: NONE 2, STOP 2 {counts}'
    assert held.endswith(counts)


LETTERS = {
    'S': Behavior.STOP,
    'N': Behavior.NONE,
    'Y': Behavior.YIELD,
    'T': Behavior.TURN_LEFT,
    'D': Behavior.SLOW_DOWN,
    'G': Behavior.INCREASE_GAP,
    '<': Behavior.SHIFT_LEFT,
    '>': Behavior.SHIFT_RIGHT,
}


def copy(bags: list[Path], folder: Path) -> list[Path]:
    return [Path(shutil.copytree(bag, folder / bag.name)) for bag in bags]


def write_own_truth(bag: Path, letters: str) -> None:
    names = {'X': 'FLY', **{letter: behavior.name for letter, behavior in LETTERS.items()}}
    ticks = [{'stamp_ns': START_NS + tick * PERIOD_NS, 'behavior': names[one]} for tick, one in enumerate(letters)]
    (bag / 'truth.json').write_text(json.dumps({'ticks': ticks}))


def refusal(capsys) -> str:
    """The last line on stderr; notes about the bags may come before it."""
    *notes, last = capsys.readouterr().err.splitlines()
    assert all(line.startswith('stprune: ') for line in (*notes, last))
    return last


def test_bad_input_is_one_sentence_and_leaves_the_last_result(bags, tmp_path: Path, params: Path, capsys):
    """All that is said before the model is loaded, and most of what comes after."""
    own, output = copy(bags, tmp_path), tmp_path / 'c.yaml'
    for bag in own:
        write_own_truth(bag, 'SNSSNS')
    assert calibrate(own, output, params) == 0
    old = {path: path.read_bytes() for path in (output, tmp_path / 'c.png')}
    capsys.readouterr()
    all_bags = write_truth(tmp_path / 'all.csv', bags)
    far = write_truth(tmp_path / 'far.csv', bags, shift_ns=50_000_000)
    some = write_truth(tmp_path / 'some.csv', bags[:1])
    every = tmp_path / 'every.csv'
    every.write_text('\n'.join(line.rpartition(',')[0] for line in some.read_text().splitlines()))
    one_class = write_truth(tmp_path / 'one.csv', bags, said='SSSSSS')
    latency = write_params(tmp_path / 'latency.yaml', {**params_of(params), 'latency.target_ms': 100.0})
    inside = next(own[0].glob('*.mcap'))
    for given, more, words in (
        (bags, (), f"bag '{bags[0]}' has no truth.json beside it: give --truth FILE"),
        (bags[:1], ('--truth', all_bags), f"there is only bag '{bags[0]}': give another one to hold out"),
        ([bags[0], bags[0]], ('--truth', all_bags), f"bag '{bags[0]}' is given twice, also as '{bags[0]}'"),
        ([own[0]], ('--held-out', inside), f"bag '{inside}' is given twice, also as '{own[0]}'"),
        (bags, ('--truth', some), f"truth file '{some}' has no line for bag 'drive_1'; its bags are drive_0"),
        ([bags[0], own[0]], ('--truth', all_bags), f"bags '{bags[0]}' and '{own[0]}' have the same name in truth"),
        (bags, ('--truth', tmp_path / 'none.csv'), 'cannot be read: No such file'),
        (bags, ('--truth', far), f"no tick of bag '{bags[0]}' is within 20 ms of a stamp of its truth: ticks are from"),
        (bags, ('--truth', every), f"bags '{bags[0]}' and '{bags[1]}' both have a tick at {START_NS} ns, and truth"),
        (bags, ('--truth', one_class), 'the truth says STOP in all 18 ticks to fit on, so nothing can be told apart'),
        ([*bags, tmp_path / 'nowhere'], ('--truth', all_bags), "has no line for bag 'nowhere'"),
        (bags, ('--truth', all_bags, '--params', latency), "parameter 'latency.target_ms' is 100, but a calibration"),
        (bags, ('--truth', all_bags, '--output', tmp_path / 'x' / 'c.yaml'), 'there is no folder'),
        (bags, ('--truth', all_bags, '--output', tmp_path / 'c.png'), 'name a .yaml file for --output'),
        (bags, ('--truth', all_bags, '--output', all_bags), f"'{all_bags}' is the truth; name another --output"),
        (bags, ('--truth', all_bags, '--output', params), f"'{params}' is the parameter file; name another --output"),
    ):
        assert calibrate(given, output, params, *more) == 1, words
        assert words in refusal(capsys)
    for letters, words in (
        (
            'TN',
            f"the truth of bag '{own[1]}' says TURN_LEFT at {START_NS} ns, which is no candidate of the prompt: NONE,",
        ),
        ('XN', "stamp 1700000000000000000: 'FLY' is no behavior; known are NONE"),
    ):
        write_own_truth(own[1], letters)
        assert calibrate(own, output, params) == 1
        assert words in refusal(capsys)
    assert {path: path.read_bytes() for path in old} == old
    assert sorted(path.name for path in tmp_path.glob('*.part')) == []


def test_a_calibration_that_makes_held_out_drives_worse_is_not_written(bags, tmp_path: Path, params: Path, capsys):
    """The drives to fit on say what the model says, which makes it surer, and the held-out one something else."""
    own, output = copy(bags, tmp_path), tmp_path / 'c.yaml'
    backend, prompt = load_model(load_settings(params))
    truth = GroundTruth({START_NS: TickTruth('STOP')})
    scored = DriveScorer(load_settings(params), backend, prompt, 1, False, print).score(own[0], truth, lambda: None)
    by_behavior = {behavior: letter for letter, behavior in LETTERS.items()}
    other, said = (by_behavior[prompt.behaviors[index]] for index in scored.scores.mean(0).argsort()[-2:])
    for bag, letters in zip(own, (said * 6, said * 6, said * 5 + other, other * 6)):
        write_own_truth(bag, letters)
    assert calibrate(own, output, params) == 1
    streams = capsys.readouterr()
    assert 'before' in streams.out, 'the figures are shown all the same'
    assert 'on the 1 held-out bags the calibration makes the log loss worse' in streams.err
    assert f"'{output}' is not written" in streams.err
    assert not output.exists() and not (tmp_path / 'c.png').exists()


def test_a_model_with_random_weights_has_nothing_to_calibrate(bags, tmp_path: Path, params: Path, model: Path, capsys):
    untrained = Path(shutil.copytree(model, tmp_path / 'untrained'))
    (untrained / 'stprune.json').write_text(json.dumps({'trained': False}))
    write_params(params, {**params_of(params), 'model.path': str(untrained)})
    truth = write_truth(tmp_path / 'truth.csv', bags)
    assert calibrate(bags, tmp_path / 'c.yaml', params, '--truth', truth) == 1
    assert f"no tick of bag '{bags[0]}' has a hint that counts: INVALID, model 'untrained' has random weights" in (
        capsys.readouterr().err
    )


def test_a_file_of_very_many_drives_can_still_be_read(tmp_path: Path):
    """Five thousand bags with long names: all are counted, some are named."""
    settings, rng = Settings(), np.random.default_rng(0)
    truth = np.array([0, 1, 0, 1])
    scores = np.log(np.array([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]]))
    stamps = np.arange(4, dtype=np.int64) * 10**9
    many = [
        ScoredDrive(Path(f'/data/{"x" * 80}/{number}'), stamps, scores + rng.normal(0, 0.1, (4, 2)), truth,
                    np.zeros(2), 4, 0, 0, 0, frozenset())
        for number in range(5000)
    ]  # fmt: skip
    result = calibrate_drives(many[:4990], many[4990:], (Behavior.NONE, Behavior.STOP))
    info = ModelInfo('tiny', 'abc', 'qwen3_vl', True, 'cpu', 'float32')
    write(tmp_path / 'c.yaml', result, content(result, settings, info, 'driving-1'))
    found = HintCalibration.load(tmp_path / 'c.yaml')
    found.require_settings(settings)
    found.require_model('tiny', 'abc')
    assert found.parameters['pruning.joint_common'] == 0.0  # what held, not that it was left to the model
    assert found.biases == pytest.approx(result.correction.biases, abs=1e-6)
    report = yaml.safe_load((tmp_path / 'c.yaml').read_text())['report']
    assert (report['fitted']['bag_count'], len(report['fitted']['bags'])) == (4990, LISTED)
