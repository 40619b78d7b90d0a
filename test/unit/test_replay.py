"""What a replay leaves behind, from small real bags through a tiny real model."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from helpers.small_bags import PERIOD_NS, START_NS, drive, write_bag
from helpers.small_replays import (
    FILES,
    damaged,
    run,
    tiny_parameters,
    trained_model,
    without_times,
)
from helpers.tiny_models import make_tiny_model

from stprune_ros.core.types import Behavior
from stprune_ros.io.bag_identity import bag_identity
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.replay.moment import parameter_text
from stprune_ros.replay.replay import replay
from stprune_ros.replay.results import HINT_TOPIC, SCENE_TOPIC
from stprune_ros.settings.parameter_file import load_settings
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

CONTRACT = {
    'bag', 'model_id', 'method', 'keep_ratio', 'ticks', 'sets_full', 'sets_partial', 'sets_skipped', 'tokens_full',
    'tokens_kept', 'views', 'stage_ms', 'hints', 'errors',
}  # fmt: skip


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_model(tmp_path_factory.mktemp('models'))


@pytest.fixture
def params(tmp_path: Path, model: Path) -> Path:
    return tiny_parameters(tmp_path, model)


def test_everything_is_left_behind(tmp_path: Path, params: Path, capsys):
    output = tmp_path / 'out'
    summary = run(write_bag(tmp_path / 'bag', drive(6)), output, params)
    assert summary.keys() >= CONTRACT
    assert sorted(path.name for path in output.iterdir()) == FILES
    assert summary['cameras'] == ['front', 'right', 'left']
    assert (summary['ticks'], summary['sets_full'], summary['sets_partial'], summary['errors']) == (6, 6, 0, 0)
    assert sum(summary['hints'].values()) == 6
    assert summary['tokens_full'] > summary['tokens_kept'] > 0
    for view in summary['views'].values():
        assert abs(view['tokens_kept'] - summary['keep_ratio'] * view['tokens_full']) <= 1
    assert summary['stage_ms'].keys() == {'decode', 'prepare', 'encode', 'prune', 'prefill', 'hint', 'describe'}
    assert summary['hint_ms']['p50'] < summary['tick_ms']['p50'], 'the description comes after the hint'
    assert summary['latency'] is None
    assert 'ticks   6 (6 full, 0 partial, 0 skipped frame sets)' in capsys.readouterr().out
    with Bag(output / 'results.mcap') as bag:
        assert bag.notes == []
        hints = [record.message() for record in bag.messages([HINT_TOPIC])]
        scenes = [record.message() for record in bag.messages([SCENE_TOPIC])]
    stamps = [START_NS + tick * PERIOD_NS for tick in range(6)]
    assert [hint.header.stamp.sec * 10**9 + hint.header.stamp.nanosec for hint in hints] == stamps
    assert [scene.header.stamp for scene in scenes] == [hint.header.stamp for hint in hints]
    assert all(math.isclose(hint.probabilities.sum(), 1, abs_tol=1e-5) for hint in hints)
    assert [camera.name for camera in hints[0].info.cameras] == ['front', 'right', 'left']
    assert all(math.isnan(hint.info.output_latency) for hint in hints)


def test_two_runs_differ_in_times_only(tmp_path: Path, params: Path):
    bag = write_bag(tmp_path / 'bag', drive(5))
    first, second = (run(bag, tmp_path / name, params) for name in ('first', 'second'))
    assert without_times(first) == without_times(second)


def test_views_take_turns_alike_in_every_run(tmp_path: Path, params: Path):
    values = json.loads(params.read_text())
    values['/**']['ros__parameters']['cameras.refresh_ms'] = 4 * PERIOD_NS / 1e6
    params.write_text(json.dumps(values))
    bag = write_bag(tmp_path / 'bag', drive(10))
    first, second = (run(bag, tmp_path / name, params) for name in ('first', 'second'))
    assert without_times(first) == without_times(second)
    with Bag(tmp_path / 'first' / 'results.mcap') as results:
        hints = [record.message() for record in results.messages([HINT_TOPIC])]
    ages = [
        [(h.header.stamp.sec - c.stamp.sec) * 10**9 + h.header.stamp.nanosec - c.stamp.nanosec for c in h.info.cameras]
        for h in hints
    ]
    assert all(age[0] == 0 for age in ages)
    cells = {
        camera: [(START_NS + n * PERIOD_NS + camera * 2 * PERIOD_NS) // (4 * PERIOD_NS) for n in range(10)]
        for camera in (0, 1)
    }
    for place, cell in cells.items():
        since = [n - cell.index(one) for n, one in enumerate(cell)]
        assert [age[1 + place] for age in ages] == [n * PERIOD_NS for n in since]
    assert max(max(age) for age in ages) == 3 * PERIOD_NS
    assert first['status'] == {'OK': 10}
    assert 'data:image' in (tmp_path / 'first' / 'report.html').read_text()


@pytest.mark.parametrize(
    ('method', 'keep', 'share'), [('none', '0.5', 1.0), ('uniform', '0.5', 0.5), ('st_prune', '1.0', 1.0)]
)
def test_method_and_keep_ratio_from_the_command_line(
    tmp_path: Path, params: Path, method: str, keep: str, share: float
):
    summary = run(write_bag(tmp_path / 'bag', drive(2)), tmp_path / 'out', params, '--method', method, '--keep', keep)
    assert summary['method'] == method
    assert (summary['joint_common'], summary['parameters']['pruning.joint_common']) == (0.0, -1.0)
    assert summary['tokens_kept'] == pytest.approx(share * summary['tokens_full'], abs=3)
    assert summary['tokens_off_budget_max'] <= len(summary['cameras']) / 2


def test_latency_target_is_summed_up(tmp_path: Path, params: Path, capsys):
    values = json.loads(params.read_text())
    values['/**']['ros__parameters'].update({'latency.target_ms': 0.001, 'latency.keep_min': 0.2})
    params.write_text(json.dumps(values))
    summary = run(write_bag(tmp_path / 'bag', drive(6)), tmp_path / 'out', params)
    latency = summary['latency']
    assert (latency['ticks'], latency['met'], latency['out_of_reach']) == (6, 0, 4)
    assert latency['keep_ratio'] == {'min': 0.2, 'median': 0.2, 'max': 0.3}
    assert any("'latency.target_ms' is 0.001, but even at keep ratio 0.2" in note for note in summary['notes'])
    assert summary['status'] == {'OK': 6}, 'a slow machine is no incomplete input'
    assert 'latency 0 of 6 hints within 0.001 ms, keep ratio 0.2 to 0.3; not repeatable' in capsys.readouterr().out
    assert 'hints within 0.001 ms; keep ratio 0.2 to 0.3' in (tmp_path / 'out' / 'report.html').read_text()


def test_untrained_model_is_marked_everywhere(tmp_path: Path, params: Path, model: Path, capsys):
    values = json.loads(params.read_text())
    untrained = make_tiny_model(tmp_path / 'untrained', 'ringworld')
    values['/**']['ros__parameters']['model.path'] = str(untrained)
    params.write_text(json.dumps(values))
    summary = run(write_bag(tmp_path / 'bag', drive(2)), tmp_path / 'out', params)
    assert summary['model_trained'] is False
    assert summary['status'] == {'INVALID': 2}
    assert 'NOT TRAINED' in capsys.readouterr().out
    assert 'This model is not trained.' in (tmp_path / 'out' / 'report.html').read_text()


def test_truth_beside_the_bag_is_compared(tmp_path: Path, params: Path):
    bag = write_bag(tmp_path / 'bag', drive(4))
    free = run(bag, tmp_path / 'free', params)
    with Bag(tmp_path / 'free' / 'results.mcap') as results:
        said = [Behavior(record.message().behavior).name for record in results.messages([HINT_TOPIC])][:3]
    true = ['STOP' if said[0] != 'STOP' else 'NONE', *said[1:]]
    ticks = [{'stamp_ns': START_NS + i * PERIOD_NS, 'behavior': name} for i, name in enumerate(true)]
    (bag / 'truth.json').write_text(json.dumps({'ticks': ticks}))
    summary = run(bag, tmp_path / 'out', params)
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for right, given in zip(true, said):
        answers[right][given] += 1
    assert free['truth'] is None
    assert summary['truth'] == {'known': 3, 'hits': 2, 'misses': 1, 'answers': answers}


def test_replaying_takes_a_loaded_model_and_prints_nothing(tmp_path: Path, params: Path, capfd):
    settings = load_settings(params)
    backend, prompt = load_model(settings)
    capfd.readouterr()
    said, seen, output = [], [], tmp_path / 'out'

    def count() -> None:
        seen.append((output / 'results.mcap').stat().st_size)

    with Bag(write_bag(tmp_path / 'bag', drive(4, damaged('truncated')))) as bag:
        windows = BagWindows(bag, settings)
        summary = replay(windows, backend, prompt, output, say=said.append, on_message=count)
        assert len(seen) == windows.message_count == 4 * 7  # per tick three images, three camera_infos, odometry
    assert capfd.readouterr() == ('', '')
    assert len(set(seen)) >= 4, 'the results are on disk after each tick'
    assert len(said) == len(set(said))
    assert set(said) == {*summary['error_sentences'], *summary['notes']}
    assert summary == json.loads((output / 'summary.json').read_text())
    assert (summary['model_id'], summary['prompt_id']) == (backend.info.model_id, prompt.id)


def test_results_hold_the_hint_as_it_went_out_and_descriptions_only_where_wanted(tmp_path: Path, params: Path):
    values = json.loads(params.read_text())
    bag = write_bag(tmp_path / 'bag', drive(2))
    for describe, scenes in ((True, 2), (False, 0)):
        values['/**']['ros__parameters']['inference.describe'] = describe
        params.write_text(json.dumps(values))
        output = tmp_path / f'describe_{describe}'
        run(bag, output, params)
        with Bag(output / 'results.mcap') as results:
            hints = list(results.messages([HINT_TOPIC]))
            assert len(list(results.messages([SCENE_TOPIC]))) == scenes
        assert [hint.receive_ns for hint in hints] == [START_NS, START_NS + PERIOD_NS]
        assert all('describe' not in hint.message().info.stage_names for hint in hints)


def test_descriptions_come_at_the_pace_of_the_bag_s_stamps(tmp_path: Path, params: Path):
    """However fast it is replayed, the same ones each time; and each says what it says where every set is described."""
    values = json.loads(params.read_text())
    bag, texts, summaries = write_bag(tmp_path / 'bag', drive(7)), [], []
    for number, periods in enumerate((0.0, 2.5, 2.5)):
        values['/**']['ros__parameters']['inference.describe_period_ms'] = periods * PERIOD_NS / 1e6
        params.write_text(json.dumps(values))
        summaries.append(run(bag, tmp_path / str(number), params))
        with Bag(tmp_path / str(number) / 'results.mcap') as results:
            found = [(one.receive_ns, one.message()) for one in results.messages([SCENE_TOPIC])]
        texts.append({(at_ns - START_NS) // PERIOD_NS: message.description for at_ns, message in found})
    assert list(texts[0]) == list(range(7)) and any(texts[0].values())
    assert texts[1] == {number: texts[0][number] for number in (0, 3, 6)}
    assert texts[2] == texts[1]
    assert [sum(summary['descriptions'].values()) for summary in summaries] == [7, 3, 3]
    for summary in summaries:
        assert summary['ticks'] == 7 and summary['tick_ms']['p50'] > 0
        assert 0 < summary['times']['ticks_per_s'] < 1e4


def test_parameters_of_a_run_are_left_as_a_file_that_gives_the_same(tmp_path: Path):
    settings = Settings.from_values(
        {
            'cameras.names': ['a', 'b'],
            'cameras.offsets_ms': [1.5, 0.0],
            'model.path': "it's",
            'inference.describe': False,
        }
    )
    for given in (settings, Settings()):
        file = tmp_path / 'x.param.yaml'
        file.write_text(parameter_text(given), encoding='utf-8')
        assert load_settings(file) == given


def test_what_was_warned_is_in_the_summary_with_its_time(tmp_path: Path, params: Path):
    summary = run(write_bag(tmp_path / 'bag', drive(4, damaged('truncated'))), tmp_path / 'out', params)
    [found] = [one for one in summary['warned'] if 'is truncated' in one['sentence']]
    assert (found['count'], found['first_ns'], found['last_ns']) == (1, START_NS + PERIOD_NS, START_NS + PERIOD_NS)
    assert summary['versions']['torch'] == version('torch') and summary['parameters']['pruning.keep_ratio'] == 0.3


def test_the_identity_of_a_bag_is_its_content(tmp_path: Path):
    same = [write_bag(tmp_path / name, drive(3)) for name in ('one', 'copy')]
    later = write_bag(tmp_path / 'longer', drive(4))
    other = write_bag(tmp_path / 'other', drive(3, lambda item: replace(item, stamp_ns=item.stamp_ns + 1)))

    def identity(path: Path) -> str:
        with Bag(path) as bag:
            return bag_identity(bag, ['/camera/front/image_raw/compressed'])

    found = [identity(path) for path in (*same, later, other)]
    assert found[0] == found[1] and len(set(found)) == 3


@pytest.mark.slow
def test_recorded_ring(tmp_path: Path, params: Path, test_data: Path):
    values = json.loads(params.read_text())
    values['/**']['ros__parameters'].update({'inference.period_ms': 1000.0, 'inference.describe': False})
    params.write_text(json.dumps(values))
    summary = run(test_data / 'pandaset_002' / 'bag', tmp_path / 'out', params)
    assert summary['cameras'] == ['CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_RIGHT', 'CAM_BACK', 'CAM_LEFT', 'CAM_FRONT_LEFT']
    assert summary['sets_full'] + summary['sets_partial'] == 40
    assert summary['sets_full'] >= 38
    assert summary['sets_skipped'] == 0
    assert all(view['tokens_kept'] > 0 for view in summary['views'].values())
    overlaps = np.array([view['overlap_right_deg'] for view in summary['views'].values()])
    assert overlaps.min() == pytest.approx(0.7, abs=0.2)
    assert overlaps.max() == pytest.approx(60.7, abs=0.5)
