"""What a run of `stprune eval --dataset` that was interrupted says in the end: the same as one that was not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
from helpers.question_runs import table_of, tiny_params
from helpers.question_sets import CAMERAS, GREY, draw, key_frame, needs_packages, picture_name, qa, write_tables

from stprune_ros import cli
from stprune_ros.core.rig import CameraRig
from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.datasets import drivelm
from stprune_ros.evaluation.datasets.answers import AnswerFile, AnswerKey, SetAnswer
from stprune_ros.evaluation.datasets.asking import Asking
from stprune_ros.evaluation.datasets.dataset import Moment
from stprune_ros.evaluation.hits import FULL_TRIAL, Trial
from stprune_ros.settings.settings import Settings

pytestmark = needs_packages


@pytest.fixture(scope='module')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_params(tmp_path_factory.mktemp('params'))


def faulty_set(folder: Path) -> Path:
    """Four key frames of two questions: two have an earlier picture that cannot be used, one a present one."""
    frames = {}
    for n in range(4):
        for camera in CAMERAS:
            draw(folder / 'nuscenes' / 'samples' / camera / picture_name(0, n, camera), GREY)
        asked = [qa(f'what is <|image_pad|> there at {n}?' if n == 1 else f'Is it {n}?', 'No.', 0)]
        frames[f'f{n}'] = key_frame(0, n, {'perception': [*asked, qa(f'what at {n}?', 'a car', 2)]})
    samples = folder / 'nuscenes' / 'samples'
    draw(samples / 'CAM_BACK' / picture_name(0, 0, 'CAM_BACK'), np.full((32, 32, 3), 90, np.uint8))  # before f1
    (samples / 'CAM_BACK' / picture_name(0, 3, 'CAM_BACK')).write_bytes(b'x')  # present in f3
    draw(
        samples / 'CAM_FRONT' / picture_name(0, 1, 'CAM_FRONT'), np.full((32, 32, 3), 90, np.uint8)
    )  # of f1 and before f2
    path = folder / 'set.json'
    path.write_text(json.dumps({'s': {'key_frames': frames}}))
    return path


def evaluate(output: Path, data: Path, tiny: Path, *options: str) -> int:
    output.mkdir(exist_ok=True)
    command = ['eval', '--dataset', 'drivelm', '--data', str(data), '--params', str(tiny), '--method', 'uniform']
    return cli.main([*command, '--frames', '2', '--output', str(output / 'r.json'), *options])


@pytest.mark.parametrize('answers', [1, 6, 11, 15], ids=lambda n: f'after {n} answers')
def test_an_interrupted_run_counts_the_same_faults(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    data = faulty_set(tmp_path / 'set')
    assert evaluate(tmp_path / 'whole', data, tiny) == 0
    whole = table_of(tmp_path / 'whole')
    samples = tmp_path / 'set' / 'nuscenes' / 'samples'
    assert [note.partition('; the first is ')[0] for note in whole['notes'][1:-1]] == [
        'earlier pictures left out: 3',
        'questions left out, the model does not take them: 1',
        'questions left out, a picture cannot be used: 2',
        '3 of 8 questions were not asked under every method and ratio',
    ]
    first = samples / 'CAM_FRONT' / picture_name(0, 0, 'CAM_FRONT')
    assert whole['notes'][1].endswith(f"; the first is picture '{first}' has another size than the present one")
    add = AnswerFile.add

    def interrupted(self: AnswerFile, *arguments: Any) -> None:
        if len(self.answers) == answers:
            raise KeyboardInterrupt
        add(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(AnswerFile, 'add', interrupted)
        assert evaluate(tmp_path / 'parts', data, tiny) == (130 if answers < 15 else 0)
    for _ in range(2):
        assert evaluate(tmp_path / 'parts', data, tiny, '--resume') == 0
        assert table_of(tmp_path / 'parts') == whole
    lines = (tmp_path / 'parts' / 'r.tiny.drivelm.answers.jsonl').read_text().splitlines()
    assert sum('"faults"' in line for line in lines) == 2, 'once for each moment'


def test_a_picture_that_was_mended_is_no_fault_any_more(tmp_path: Path, tiny: Path) -> None:
    data = faulty_set(tmp_path / 'set')
    assert evaluate(tmp_path / 'r', data, tiny, '--limit', '3') == 0
    assert 'earlier pictures left out: 2; ' in ' '.join(table_of(tmp_path / 'r')['notes'])
    for n, camera in ((0, 'CAM_BACK'), (1, 'CAM_FRONT')):
        draw(tmp_path / 'set' / 'nuscenes' / 'samples' / camera / picture_name(0, n, camera), GREY)
    assert evaluate(tmp_path / 'r', data, tiny, '--resume') == 0
    assert 'earlier pictures left out' not in ' '.join(table_of(tmp_path / 'r')['notes'])


def lines_of(output: Path) -> list[dict[str, Any]]:
    lines = (output / 'r.tiny.drivelm.answers.jsonl').read_text().splitlines()[1:]
    return [row for row in map(json.loads, lines) if 'text' in row]


def plain_set(folder: Path) -> Path:
    """Three key frames half a second apart, each with one question; with two frames each shows the one before, too."""
    for n, camera in product(range(3), CAMERAS):
        draw(folder / 'nuscenes' / 'samples' / camera / picture_name(0, n, camera), GREY)
    frames = {f'f{n}': key_frame(0, n, {'perception': [qa(f'what at {n}?', 'a car', 2)]}) for n in range(3)}
    path = folder / 'set.json'
    path.write_text(json.dumps({'s': {'key_frames': frames}}))
    return path


def test_moments_whose_pictures_were_replaced_are_asked_anew(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = plain_set(tmp_path / 'set'), tmp_path / 'r'
    assert evaluate(output, data, tiny) == 0
    before = lines_of(output)
    noise = np.random.default_rng(3).integers(0, 255, GREY.shape, np.uint8)
    draw(tmp_path / 'set' / 'nuscenes' / 'samples' / 'CAM_FRONT' / picture_name(0, 0, 'CAM_FRONT'), noise)
    assert evaluate(output, data, tiny) == 1
    assert f'holds {len(before)} answers of an earlier run: add --resume' in capsys.readouterr().err
    assert evaluate(output, data, tiny, '--resume') == 0
    told = capsys.readouterr().err
    file = output / 'r.tiny.drivelm.answers.jsonl'
    assert (
        f"6 answers in '{file}' are about pictures or a calibration that were replaced since: they are asked anew"
        in told
    )
    assert '6 answers were asked for, 3 were in the file already' in told
    after = lines_of(output)
    assert after[: len(before)] == before and len(after) == len(before) + 6
    assert {row['id'] for row in after[len(before) :]} == {'s_f0_0', 's_f1_0'}, 'the present one, and one it precedes'
    assert evaluate(tmp_path / 'new', data, tiny) == 0
    assert table_of(output) == table_of(tmp_path / 'new')
    assert evaluate(output, data, tiny, '--resume') == 0
    told = capsys.readouterr().err
    assert '0 answers were asked for, 9 were in the file already' in told and 'replaced' not in told


@pytest.mark.parametrize(
    ('table', 'changes', 'anew'),
    [
        ('calibrated_sensor', lambda row: row.update(translation=[9.0, 0.0, 1.0]), 9),
        ('calibrated_sensor', lambda row: row['camera_intrinsic'][0].__setitem__(0, 50.0), 9),
        # Of the first sample nobody knows the motion.
        ('ego_pose', lambda row: row['translation'].__setitem__(0, row['translation'][0] * 1.5), 6),
    ],
)
def test_moments_whose_calibration_or_motion_was_replaced_are_asked_anew(
    tmp_path: Path,
    tiny: Path,
    capsys: pytest.CaptureFixture[str],
    table: str,
    changes: Callable[[Any], None],
    anew: int,
) -> None:
    data, output = plain_set(tmp_path / 'set'), tmp_path / 'r'
    tables = write_tables(tmp_path / 'set', {(0, n): f'f{n}' for n in range(3)})
    assert evaluate(output, data, tiny) == 0
    rows = json.loads((tables / f'{table}.json').read_text())
    for row in rows:
        changes(row)
    (tables / f'{table}.json').write_text(json.dumps(rows))
    capsys.readouterr()
    assert evaluate(output, data, tiny, '--resume') == 0
    told = capsys.readouterr().err
    assert f'{anew} answers were asked for, {9 - anew} were in the file already' in told


def test_a_moment_is_told_from_others_by_names_sizes_and_times_of_its_pictures(tmp_path: Path) -> None:
    dataset = drivelm.read(plain_set(tmp_path / 'set'), 2)
    names = ('s_f0_0', 's_f1_0', 's_f2_0')
    then = dataset.identities
    assert list(then) == list(names) and len(set(then.values())) == 3
    picture = tmp_path / 'set' / 'nuscenes' / 'samples' / 'CAM_BACK' / picture_name(0, 2, 'CAM_BACK')
    stat = picture.stat()
    os.utime(picture, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert [dataset.identities[name] == then[name] for name in names] == [True, True, False]
    picture.write_bytes(picture.read_bytes() + b' ')
    os.utime(picture, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert [dataset.identities[name] == then[name] for name in names] == [True, True, False]
    picture.unlink()
    assert [dataset.identities[name] == then[name] for name in names] == [True, True, False]
    (tmp_path / 'set').rename(tmp_path / 'moved')
    moved = drivelm.read(tmp_path / 'moved' / 'set.json', 2)
    assert moved.identities == {name: then[name] for name in names[:2]}


def test_last_bits_of_figures_tell_no_moments_apart(tmp_path: Path) -> None:
    moment = drivelm.read(plain_set(tmp_path / 'set'), 2).moments[0]

    def changed(by: float) -> Moment:
        models = [replace(model, translation=model.translation + by) for model in moment.rig.cameras.values()]
        return replace(moment, rig=CameraRig(models))

    assert changed(1e-12).identity == moment.identity != changed(1e-3).identity


def test_what_was_said_about_another_moment_counts_for_nothing(tmp_path: Path) -> None:
    path, keys = tmp_path / 'a.jsonl', [AnswerKey(name, FULL_TRIAL) for name in ('q', 'r')]
    old, new = SetAnswer('old', False, False, 1), SetAnswer('new', False, False, 1)
    with AnswerFile(path, {}, resume=False, moments={'q': '1', 'r': '2'}) as file:
        for key in keys:
            file.add(key, old)
            file.add_score(key, 'judge', 0.25)
    with AnswerFile(path, {}, resume=True, moments={'q': '3', 'r': '2'}) as file:
        assert (file.answers, file.outdated) == ({keys[1]: old}, {keys[0]})
        assert file.scores == {(keys[1], 'judge'): 0.25}
        file.add(keys[0], new)
        file.add_score(keys[0], 'judge', 0.75)
        assert not file.outdated
    with AnswerFile(path, {}, resume=True, moments={'q': '3', 'r': '2'}) as file:
        assert (file.answers, file.outdated) == ({keys[0]: new, keys[1]: old}, set())
        assert file.scores == {(keys[0], 'judge'): 0.75, (keys[1], 'judge'): 0.25}
    with AnswerFile(path, {}, resume=True, moments={'q': '1'}) as file:  # back again, and a run without r
        assert (file.answers, file.outdated) == (dict.fromkeys(keys, old), set())


def test_one_run_writes_to_a_file_of_answers(tmp_path: Path) -> None:
    """The line that the first one is writing would be cut off by the second one, as if it were torn."""
    key, path = AnswerKey('q', FULL_TRIAL), tmp_path / 'a.jsonl'
    with AnswerFile(path, {}, resume=False, moments={}) as file:
        file.add(key, SetAnswer('one', False, False, 1))
        assert path.read_text().endswith('}\n') and '"one"' in path.read_text(), 'whatever ends the run now'
        with path.open('ab') as writing:
            writing.write(b'{"id": ')
        before = path.read_bytes()
        with pytest.raises(StpruneError) as error:
            AnswerFile(path, {}, resume=True, moments={})
        assert str(error.value) == f"another run is writing to '{path}': wait for its end, or name another --output"
        assert path.read_bytes() == before
    with pytest.raises(StpruneError, match='holds 1 answers'):
        AnswerFile(path, {}, resume=False, moments={})
    with AnswerFile(path, {}, resume=True, moments={}) as file:  # who was refused holds it no longer
        assert list(file.answers) == [key]


def test_not_even_one_answer_is_overwritten(tmp_path: Path) -> None:
    key, path = AnswerKey('q', FULL_TRIAL), tmp_path / 'a.jsonl'
    with AnswerFile(path, {}, resume=False, moments={}):
        pass
    with AnswerFile(path, {}, resume=False, moments={}) as file:  # nobody has answered yet
        file.add(key, SetAnswer('one', False, False, 1))
    before = path.read_bytes()
    with pytest.raises(StpruneError, match='holds 1 answers of an earlier run: add --resume'):
        AnswerFile(path, {}, resume=False, moments={})
    assert path.read_bytes() == before
    rows = [('earlier pictures left out', 'p', 2)]
    with AnswerFile(path, {}, resume=True, moments={}) as file:
        file.add_faults('q', rows)
        file.add_faults('q', rows)
        file.add_faults('r', [])
    with AnswerFile(path, {}, resume=True, moments={}) as file:
        assert file.answers == {key: SetAnswer('one', False, False, 1)} and file.faults == {'q': rows}
    assert path.read_text().count('\n') == 3
    for wrong in ('{"id": "q", "faults": 7}', '{"id": "q", "faults": [["a"]]}', '{"id": ["q"], "faults": []}'):
        path.write_bytes(before + f'{wrong}\n'.encode())
        with pytest.raises(StpruneError, match='holds no answers of stprune eval'):
            AnswerFile(path, {}, resume=True, moments={})


def test_a_run_goes_on_only_with_answers_to_the_same(
    tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Methods, ratios and the number of questions may be others; what changes an answer may not."""
    data, output = faulty_set(tmp_path / 'set'), tmp_path / 'r'
    assert evaluate(output, data, tiny, '--limit', '2') == 0
    assert evaluate(output, data, tiny, '--limit', '3', '--method', 'uniform,random', '--keep', '0.5', '--resume') == 0
    values = json.loads(tiny.read_text())['/**']['ros__parameters']

    def refused(params: Path, *options: str) -> None:
        capsys.readouterr()
        assert evaluate(output, data, params, '--limit', '2', '--resume', *options) == 1
        sentence = 'holds answers to another set, model or prompt, or with other settings: remove it, or'
        assert sentence in capsys.readouterr().err

    refused(tiny, '--frames', '1')
    for n, changed in enumerate(({'inference.max_new_tokens': 3}, {'pruning.lambda_temporal': 0.5})):
        params = tmp_path / f'{n}.yaml'
        params.write_text(json.dumps({'/**': {'ros__parameters': {**values, **changed}}}))
        refused(params)
    note = Path(values['model.path']) / 'stprune.json'
    before = note.read_text()
    note.write_text(json.dumps({**json.loads(before), 'pruning.joint_common': 1.5}))  # with the same weights
    refused(tiny)
    note.write_text(before)
    tables = write_tables(tmp_path / 'set', {(0, n): f'f{n}' for n in range(4)})
    refused(tiny)
    (tables / 'ego_pose.json').unlink()
    refused(tiny)
    rmtree(tables)
    assert evaluate(output, data, tiny, '--limit', '2', '--resume') == 0


def test_the_file_for_the_tools_of_the_set_is_of_the_first_run(tmp_path: Path, tiny: Path) -> None:
    """Two runs of what draws lots differ, and so do the draws of two moments."""
    asked = [qa(f'what at {n}?', 'a car', 2) for n in range(6)]
    for camera in CAMERAS:
        noise = np.random.default_rng(CAMERAS.index(camera)).integers(0, 255, (64, 64, 3), np.uint8)
        draw(tmp_path / 'set' / 'nuscenes' / 'samples' / camera / picture_name(0, 0, camera), noise)
    tree = {'s': {'key_frames': {'f': key_frame(0, 0, {'perception': asked})}}}
    data = tmp_path / 'set' / 'set.json'
    data.write_text(json.dumps(tree))
    output = tmp_path / 'r'
    assert evaluate(output, data, tiny, '--method', 'random', '--seeds', '2', '--frames', '1') == 0
    lines = (output / 'r.tiny.drivelm.answers.jsonl').read_text().splitlines()
    rows = [row for line in lines[1:] if (row := json.loads(line))['method'] == 'random']
    said = [[row['text'] for row in rows if row['seed'] == seed] for seed in (0, 1)]
    written = json.loads((output / 'r.tiny.drivelm.random.0.1.output.json').read_text())
    assert said[0] != said[1] and [row['answer'] for row in written] == said[0]


def test_a_method_that_keeps_a_whole_image_is_asked_where_the_ratio_leaves_one(tmp_path: Path) -> None:
    asking = Asking.__new__(Asking)
    object.__setattr__(asking, 'settings', Settings())  # it is frozen
    moment = replace(drivelm.read(plain_set(tmp_path / 'set'), 2).moments[0], egos=(None,) * 4)
    found = {keep: asking._is_defined(Trial('evs', keep, 0), moment) for keep in (0.24, 0.25, 0.5)}
    assert found == {0.24: False, 0.25: True, 0.5: True}
    assert asking._is_defined(Trial('random', 0.1, 0), moment)


def test_lots_are_drawn_anew_for_every_moment_and_run() -> None:
    asking = Asking.__new__(Asking)
    object.__setattr__(asking, 'settings', Settings())  # it is frozen
    drawn = {
        asking._variant(Trial('random', 0.1, seed), moment).config.seed for seed in range(3) for moment in range(50)
    }
    assert len(drawn) == 150
