"""Runs of `stprune eval --dataset` on invented sets: figures, files, what is left out, resuming, judges."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.question_sets import (
    GREY,
    OPTIONS,
    draw,
    grey_set,
    make_drivelm,
    make_lingoqa,
    make_nuinstruct,
    needs_packages,
    picture_name,
    qa,
)
from helpers.reports import report_in
from helpers.tiny_models import make_tiny_model

from stprune_ros import cli
from stprune_ros.core.types import EgoState
from stprune_ros.errors import ModelError, StpruneError
from stprune_ros.evaluation.datasets.answers import AnswerFile, AnswerKey, SetAnswer
from stprune_ros.evaluation.datasets.dataset import Dataset, Moment, SetQuestion
from stprune_ros.evaluation.datasets.files import Faults
from stprune_ros.evaluation.datasets.judge import Judge, load_judge
from stprune_ros.evaluation.datasets.nuscenes import nominal_rig
from stprune_ros.evaluation.datasets.table import Figures, measures_table
from stprune_ros.evaluation.fidelity import BLIND_TRIAL, FULL_TRIAL
from stprune_ros.evaluation.hits import Trial

pytestmark = needs_packages
DEFAULT = 'st_prune_joint+ring+gauge'


@pytest.fixture(scope='module')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parameters with a tiny model that has a token for every letter and says two tokens."""
    folder = tmp_path_factory.mktemp('params')
    model = make_tiny_model(folder / 'tiny', 'ringworld')
    path = folder / 'params.yaml'
    values = {'model.path': str(model), 'model.device': 'cpu', 'inference.max_new_tokens': 2}
    path.write_text(json.dumps({'/**': {'ros__parameters': values}}))
    return path


def evaluate(folder: Path, name: str, data: Path, *options: str) -> int:
    return cli.main(['eval', '--dataset', name, '--data', str(data), '--output', str(folder / 'r.json'), *options])


def table_of(folder: Path) -> dict[str, Any]:
    [table] = json.loads((folder / 'r.json').read_text())['tables']
    return table


def rows_of(table: dict[str, Any]) -> dict[tuple[str, float, str], dict[str, Any]]:
    return {(row['method'], row['keep'], row['kind']): row for row in table['rows']}


def measure(table: dict[str, Any], name: str, method: str = 'none', keep: float = 1.0) -> dict[str, Any]:
    [row] = [r for r in table['measures'] if (r['measure'], r['method'], r['keep']) == (name, method, keep)]
    return row


def sentence_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The last sentence on stderr."""
    return capsys.readouterr().err.splitlines()[-1].removeprefix('stprune: ')


def bomb(path: Path) -> None:
    """A PNG of a few bytes whose header says 60,000 by 60,000 pixels."""
    small = cv2.imencode('.png', GREY)[1].tobytes()
    path.write_bytes(small[:16] + (60_000).to_bytes(4, 'big') * 2 + small[24:])


@pytest.mark.parametrize(
    ('name', 'make', 'ending', 'questions', 'scored'),
    [
        ('drivelm', make_drivelm, '.output.json', 16, 14),
        ('lingoqa', make_lingoqa, '.predictions.csv', 8, 8),
        ('nuinstruct', make_nuinstruct, '.predictions.json', 14, 12),
    ],
)
def test_the_bundled_model_takes_every_set_with_all_tokens_and_a_tenth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, make: Any, ending: str, questions: int, scored: int
) -> None:
    data = make(tmp_path / 'set').parent
    assert evaluate(tmp_path, name, data, '--model', 'ringworld', '--method', f'{DEFAULT},uniform') == 0
    told = capsys.readouterr()
    table = table_of(tmp_path)
    assert (table['world'], table['host'], table['scenes']) == (name, 'ringworld', 2)
    rows = rows_of(table)
    for method, keep in (('none', 1.0), ('blind', 1.0), (DEFAULT, 0.1), ('uniform', 0.1)):
        assert rows[method, keep, 'all']['questions'] == scored
        assert 0 <= rows[method, keep, 'all']['lo'] <= rows[method, keep, 'all']['accuracy'] <= 1
    assert rows['none', 1.0, 'all']['accuracy'] > 0, 'the questions are of its own world'
    assert rows['uniform', 0.1, 'all']['minus_lo'] <= rows['uniform', 0.1, 'all']['minus_default']
    assert "model 'ringworld' knows only ringworld" in told.err
    assert f'<!-- fidelity ringworld, {name}: all -->' in told.out and f'| {DEFAULT} | 10% |' in told.out
    assert (tmp_path / f'r.ringworld.{name}.png').stat().st_size > 10_000
    lines = (tmp_path / f'r.ringworld.{name}.answers.jsonl').read_text().splitlines()
    assert len(lines) == 1 + 4 * questions
    said = {method: [row['text'] for line in lines[1:] if (row := json.loads(line))['method'] == method] for method in
            ('none', 'blind')}  # fmt: skip
    assert said['none'] != said['blind'], 'grey pictures show something else'
    for method in ('none.1', f'{DEFAULT}.0.1', 'uniform.0.1', 'blind.1'):
        file = tmp_path / f'r.ringworld.{name}.{method}{ending}'
        count = len(json.loads(file.read_text())) if ending.endswith('json') else len(file.read_text().splitlines()) - 1
        assert count == questions
    assert evaluate(tmp_path, name, data, '--model', 'ringworld', '--method', f'{DEFAULT},uniform', '--resume') == 0
    assert f'0 answers were asked for, {4 * questions} were in the file already' in capsys.readouterr().err
    assert table_of(tmp_path) == table


@pytest.mark.parametrize('fault', ['missing', 'bomb', 'oblong'])
def test_questions_without_their_pictures_are_left_out_with_a_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, tiny: Path
) -> None:
    """The rest is asked, and the file for the set's own tools has an empty answer for what was not."""
    make_drivelm(tmp_path / 'set')
    path = tmp_path / 'set' / 'nuscenes' / 'samples' / 'CAM_BACK' / picture_name(1, 3, 'CAM_BACK')
    if fault == 'missing':
        path.unlink()
    elif fault == 'bomb':
        bomb(path)
    else:
        draw(path, np.full((4, 900, 3), 90, np.uint8))
    assert evaluate(tmp_path, 'drivelm', tmp_path / 'set', '--params', str(tiny), '--method', 'uniform') == 0
    told = capsys.readouterr().err
    reason = {
        'missing': f'a picture is missing: 8; the first is {path.name}',
        'bomb': f"a picture cannot be used: 8; the first is picture '{path}' cannot be used: it has 60000x60000 pixels",
        'oblong': 'a picture cannot be used: 8; the first is images cannot be prepared for the model: absolute',
    }[fault]
    assert told.count(f'stprune: questions left out, {reason}') == 1
    assert any(f'questions left out, {reason}' in note for note in table_of(tmp_path)['notes'])
    assert table_of(tmp_path)['scenes'] == 1
    answers = json.loads((tmp_path / 'r.tiny.drivelm.none.1.output.json').read_text())
    assert len(answers) == 16
    assert [row['answer'] == '' for row in answers if row['id'].startswith('s1')] == [True] * 8
    assert all(row['answer'] for row in answers if row['id'] == 's0_f03_7')


def test_a_set_without_any_usable_picture_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    path = grey_set(tmp_path / 'set', {'f': {'perception': [qa('what?', 'that', 2)] * 3}})
    for picture in (tmp_path / 'set').rglob('*.jpg'):
        picture.write_bytes(b'x')
    assert evaluate(tmp_path, 'drivelm', path, '--params', str(tiny)) == 1
    assert sentence_of(capsys).startswith(f"no question of '{path}' could be asked: questions left out, a picture")
    for picture in (tmp_path / 'set').rglob('*.jpg'):
        picture.unlink()
    assert evaluate(tmp_path, 'drivelm', path, '--params', str(tiny)) == 1
    expected = f"'{path}' has no question that can be asked: questions left out, a picture is missing: 3; the first is "
    assert sentence_of(capsys).startswith(expected)


def test_a_set_without_answers_is_asked_and_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    """As the public validation file of DriveLM, for which only its test server has the answers."""
    data = make_drivelm(tmp_path / 'set', answers=False)
    options = ('--params', str(tiny), '--method', 'uniform', '--json')
    assert evaluate(tmp_path, 'drivelm', data, *options) == 0
    told = capsys.readouterr()
    result = report_in(told.out, 'eval')['result']
    sentence = (
        f"16 of 16 questions of '{data}' have no true answer: they are asked and not scored; hold some out of a file"
        ' that has answers'
    )
    assert sentence in result['table']['notes'] and f'stprune: {sentence}\n' in told.err
    assert (result['table']['rows'], result['table']['measures'], result['table']['full']) == ([], [], None)
    assert table_of(tmp_path) == result['table'] and not list(tmp_path.glob('r.*.png'))
    answers = json.loads((tmp_path / 'r.tiny.drivelm.uniform.0.1.output.json').read_text())
    assert [set(row) for row in answers] == [{'id', 'question', 'answer'}] * 16
    assert [row['id'] for row in answers] == [f's{n}_f{n}3_{i}' for n in range(2) for i in range(8)]
    assert any(row['answer'] for row in answers)


def test_options_are_chosen_from_where_the_model_has_words_for_them(tmp_path: Path, tiny: Path) -> None:
    groups = {'perception': [qa(f'what next? {OPTIONS}', 'B', 0), qa('Is it?', 'No.', 0), qa('what?', 'that', 2)]}
    data = grey_set(tmp_path / 'set', {'f': groups})
    said = {}
    for name, model in (('tiny', ('--params', str(tiny))), ('ringworld', ('--model', 'ringworld'))):
        (tmp_path / name).mkdir()
        assert evaluate(tmp_path / name, 'drivelm', data, *model, '--method', 'uniform') == 0
        lines = (tmp_path / name / f'r.{name}.drivelm.answers.jsonl').read_text().splitlines()
        rows = [row for line in lines[1:] if (row := json.loads(line))['method'] == 'none']
        said[name] = {row['id']: row for row in rows}
    chosen = {name: [row['chosen'] for _, row in sorted(rows.items())] for name, rows in said.items()}
    assert chosen == {'tiny': [True, True, False], 'ringworld': [False, True, False]}, 'ringworld knows no B'
    assert said['tiny']['s_f_0']['text'] in 'ABCD' and said['tiny']['s_f_1']['text'] in ('Yes.', 'No.')
    assert not said['tiny']['s_f_0']['cut'] and said['tiny']['s_f_2']['cut']
    prompts = {
        name: json.loads((tmp_path / name / f'r.{name}.drivelm.answers.jsonl').read_text().splitlines()[0])['run'][
            'prompt'
        ]
        for name in said
    }
    assert prompts['tiny'].startswith('questions-') and prompts['ringworld'].startswith('ringworld-')


def test_questions_that_the_model_does_not_take_are_counted_and_the_rest_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: Path
) -> None:
    groups = {'perception': [qa('what is <|image_pad|> there?', 'a car', 2), qa('what else?', 'a bus', 2)]}
    data = grey_set(tmp_path / 'set', {'f': groups, 'g': groups})
    assert evaluate(tmp_path, 'drivelm', data, '--params', str(tiny), '--method', 'uniform') == 0
    told = capsys.readouterr().err
    assert 'questions left out, the model does not take them: 2; the first is s_f_0: ' in told
    assert '2 of 4 questions were not asked under every method and ratio' in told
    assert measure(table_of(tmp_path), 'rouge_l')['questions'] == 2


def test_ctrl_c_leaves_the_answers_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = grey_set(tmp_path / 'set', {'f': {'perception': [qa(f'what at {n}?', 'a car', 2) for n in range(9)]}})
    add = AnswerFile.add

    def interrupted(self: AnswerFile, *arguments: Any) -> None:
        if len(self.answers) == 7:
            raise KeyboardInterrupt
        add(self, *arguments)

    monkeypatch.setattr(AnswerFile, 'add', interrupted)
    assert evaluate(tmp_path, 'drivelm', data, '--params', str(tiny), '--method', 'uniform') == 130
    path = tmp_path / 'r.tiny.drivelm.answers.jsonl'
    expected = f"interrupted after 7 answers: they are in '{path}', where --resume goes on"
    assert sentence_of(capsys) == expected and len(path.read_text().splitlines()) == 8


def test_limit_frames_and_methods_that_read_the_question(tmp_path: Path, tiny: Path) -> None:
    data = make_nuinstruct(tmp_path / 'set')
    options = ('--params', str(tiny), '--method', 'dart+text,evs,random', '--keep', '0.25,0.5', '--seeds', '2')
    assert evaluate(tmp_path, 'nuinstruct', data, *options, '--limit', '9', '--frames', '2') == 0
    lines = (tmp_path / 'r.tiny.nuinstruct.answers.jsonl').read_text().splitlines()
    rows = [json.loads(line) for line in lines[1:]]
    asked = Counter((row['method'], row['keep'], row['seed']) for row in rows)
    # evs keeps the first of two frames: it is not defined at a quarter.
    cells = [('dart+text', 0.25, 0), ('dart+text', 0.5, 0), ('evs', 0.5, 0), ('blind', 1.0, 0), ('none', 1.0, 0)]
    cells += [('random', keep, seed) for keep in (0.25, 0.5) for seed in (0, 1)]
    assert asked == dict.fromkeys(cells, 9)
    assert {row['tokens'] for row in rows} == {2 * 6 * rows[0]['tokens'] // 12}
    assert measure(table_of(tmp_path), 'agreement', 'random', 0.25)['questions'] == 2 * 6


@pytest.mark.parametrize('method', ['rsp', 'st_prune+keep_one_copy', 'uniform,st_prune+ring+calibrated_overlap'])
def test_what_needs_a_ring_is_refused_for_one_camera(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    data = make_lingoqa(tmp_path / 'set')
    assert evaluate(tmp_path, 'lingoqa', data, '--model', 'ringworld', '--method', method) == 1
    named = method.rpartition(',')[2]
    part = named if named == 'rsp' else named.rpartition('+')[2]
    expected = f"'{part}' compares a view with its neighbours, and lingoqa has one camera: omit '{named}'"
    assert sentence_of(capsys) == expected


def test_views_take_no_turns_in_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = grey_set(tmp_path / 'set', {'f': {'perception': [qa('what?', 'that', 2)]}})
    (tmp_path / 'p.yaml').write_text(json.dumps({'/**': {'ros__parameters': {'cameras.refresh_ms': 500.0}}}))
    options = ('--params', str(tmp_path / 'p.yaml'), '--method', 'uniform+refresh')
    assert evaluate(tmp_path, 'drivelm', data, *options) == 1
    sentence = "views take no turns in a data set, whose instants are too far apart: omit 'uniform+refresh'"
    assert sentence_of(capsys) == sentence


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (('--dataset', 'drivelm'), '--dataset drivelm needs --data FOLDER: where the set lies on this computer'),
        (('--dataset', 'drivelm', '--data', '.', '--scenes', '3'), '--scenes is of ringworld; omit it, or --dataset'),
        (('--dataset', 'drivelm', '--data', '.', '--world', 'hard'), '--world is of ringworld; omit it, or --dataset'),
        (('--output', 'x.json', '--limit', '3'), '--limit is of data sets; name one with --dataset'),
        (('--output', 'x.json', '--judge', 'x'), '--judge is of data sets; name one with --dataset'),
        ((), '`stprune eval` needs --output FILE, for the result as JSON'),
    ],
)
def test_options_of_the_other_kind_are_refused(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], sentence: str
) -> None:
    assert cli.main(['eval', *options]) == 1
    assert sentence_of(capsys) == sentence


def test_answers_are_kept_line_by_line_and_a_torn_line_is_given_up(tmp_path: Path) -> None:
    path, run = tmp_path / 'a.jsonl', {'set': ['drivelm', 'x']}
    keys = [AnswerKey(f'q{n}', Trial('none', 1.0, 0)) for n in range(3)]
    answer = SetAnswer('ein\u2028Löwe\x85', True, False, 12)  # no end of a line in this file
    with AnswerFile(path, run, resume=False, moments={}) as file:
        for key in keys[:2]:
            file.add(key, answer)
            assert path.read_text().endswith('"tokens": 12}\n'), 'before anything else is done'
        file.add_score(keys[0], 'judge', 0.5)
    with path.open('ab') as torn:
        torn.write('{"id": "q2", "text": "ö'.encode()[:-1])
    with AnswerFile(path, run, resume=True, moments={}) as file:
        assert file.answers == dict.fromkeys(keys[:2], answer)
        assert file.scores == {(keys[0], 'judge'): 0.5}
        file.add(keys[2], answer)
    with AnswerFile(path, run, resume=True, moments={}) as file:
        assert list(file.answers) == keys
    for lines in path.read_text().split('\n')[:-1]:
        json.loads(lines)
    with pytest.raises(StpruneError, match='holds 3 answers of an earlier run: add --resume to go on with them, or'):
        AnswerFile(path, run, resume=False, moments={})
    with pytest.raises(StpruneError, match='holds answers to another set, model or prompt, or with other settings'):
        AnswerFile(path, {'set': ['drivelm', 'y']}, resume=True, moments={})
    path.write_text('{"run": 1}\n{"id": 7}\n')
    with pytest.raises(StpruneError, match='holds no answers of stprune eval: name another --output'):
        AnswerFile(path, run, resume=True, moments={})


def test_a_thousand_questions_go_on_after_sigkill_without_asking_one_twice(tmp_path: Path, tiny: Path) -> None:
    """Twenty key frames of fifty questions each about the same grey pictures, under three trials."""
    closed = [qa(f'what at {n}? following options: A. red B. none', 'B', 0) for n in range(48)]
    asked = [*closed, qa('what stands there?', 'a car', 2), qa('what comes next?', 'a bus', 2)]
    data = grey_set(tmp_path / 'set', {f'f{n}': {'perception': asked} for n in range(20)})
    options = ['--params', str(tiny), '--method', 'uniform', '--frames', '1', '--output', str(tmp_path / 'r.json')]
    command = [sys.executable, '-m', 'stprune_ros.cli', 'eval', '--dataset', 'drivelm', '--data', str(data), *options]
    path = tmp_path / 'r.tiny.drivelm.answers.jsonl'
    environment = {**os.environ, 'PYTHONPATH': str(Path(cli.__file__).parents[1]), 'OMP_NUM_THREADS': '1'}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < until:
            if path.exists() and path.read_bytes().count(b'\n') >= 400:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, 'it was killed before its end'
    before = path.read_bytes()
    whole = before[: before.rfind(b'\n') + 1]
    done = subprocess.run([*command, '--resume'], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    after = path.read_bytes()
    assert after.startswith(whole), 'what was answered stays as it was'
    kept = whole.count(b'\n') - 1
    assert f'{3000 - kept} answers were asked for, {kept} were in the file already' in done.stderr
    rows = [json.loads(line) for line in after.splitlines()[1:]]
    found = Counter((row['id'], row['method']) for row in rows)
    expected = {
        (f's_f{f}_{n}', method) for f in range(20) for n in range(50) for method in ('none', 'blind', 'uniform')
    }
    assert found == dict.fromkeys(expected, 1)
    assert rows_of(table_of(tmp_path))['uniform', 0.1, 'all']['questions'] == 1000


@pytest.mark.parametrize(
    ('content', 'sentence'),
    [
        (b'{"s": {"key_frames": {', 'is no JSON that can be read: Expecting property name'),
        ('{"s": "Straße"}'.encode('latin-1'), 'is no UTF-8, which JSON has to be: byte 0xdf at 11 is none; if it is'),
        (b'[' * 200_000, 'is nested deeper than any file of questions: it is damaged'),
        (b'{}', 'has no question that can be asked'),
        (b'[]', 'has no question that can be asked'),
        (b'{"s": {"key_frames": {}}}', 'without a key frame in it'),
        (b'{"s": 7}', "it is an object with the keys \\['s'\\], without a key frame in it"),
        (b'"text"', 'it is a str, not an object of scenes'),
        (b'', 'is no JSON that can be read: Expecting value'),
    ],
    ids=['cut', 'latin-1', 'deep', 'empty', 'empty list', 'no frames', 'no scenes', 'text', 'nothing'],
)  # fmt: skip
def test_files_that_are_no_questions_end_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, sentence: str
) -> None:
    (tmp_path / 'set.json').write_bytes(content)
    assert evaluate(tmp_path, 'drivelm', tmp_path / 'set.json', '--model', 'ringworld') == 1
    told = capsys.readouterr().err
    assert told.count('stprune: ') == told.count('\n') and 'Traceback' not in told
    assert re.search(sentence, told.splitlines()[-1])
    assert not list(tmp_path.glob('r.*'))


TENTH = Trial('st_prune_joint+ring+gauge', 0.1, 0)
LOTS = (Trial('random', 0.1, 0), Trial('random', 0.1, 1))


def figures(said: dict[Trial, dict[str, str]], judged: dict[tuple[str, Trial], float] | None = None) -> Figures:
    """Three drives of one moment each; in each a question of every sort, the third drive without true answers."""
    rig = nominal_rig(['CAM_FRONT'])
    truths = {
        'exact': 'B',
        'match': '<c1,CAM_FRONT,100.0,50.0>',
        'text': 'a red car',
        'judge': 'slow down',
        'number': '5',
    }
    measures = {'exact': 'accuracy', 'match': 'match', 'text': 'language', 'judge': 'judge', 'number': 'mae'}
    moments = []
    for n in range(3):
        asked = [
            SetQuestion(f'{sort}{n}', 5 * n + place, f'{sort}?', sort, (measures[sort],), (truth,) if n < 2 else ())
            for place, (sort, truth) in enumerate(truths.items())
        ]
        ego = EgoState(0, None, None, (5.0 * (n == 0), 0.0, 0.0), (0.0, 0.0, 0.0))
        moments.append(Moment(n, n, rig, {'CAM_FRONT': (None,)}, (ego,), tuple(asked)))
    dataset = Dataset('drivelm', Path('set.json'), 'r', tuple(moments), Faults())
    answers = {
        AnswerKey(q.id, trial): SetAnswer(texts.get(q.id, ''), False, False, 36)
        for trial, texts in said.items()
        for q in dataset.questions
    }
    scores = {AnswerKey(name, trial): score for (name, trial), score in (judged or {}).items()}
    return Figures(dataset, list(said), answers, scores)


RIGHT = {'exact0': 'B', 'match0': '100.0, 50.0', 'text0': 'a red car', 'number0': '5', 'exact1': 'B', 'number1': '8'}
RUN = {'default': TENTH.method, 'world': 'drivelm', 'model': ['m', 'r'], 'seeds': 1}


def test_a_row_of_the_table_is_the_mean_score_of_its_questions() -> None:
    """Of six scored questions with all tokens four are right: errors and judges without a judge do not count."""
    found = figures({FULL_TRIAL: RIGHT, TENTH: {**RIGHT, 'exact0': 'A', 'exact1': 'A'}, BLIND_TRIAL: {}})
    table = found.table(RUN)
    rows = rows_of(table)
    assert (rows['none', 1.0, 'all']['questions'], rows['none', 1.0, 'all']['accuracy']) == (6, round(4 / 6, 4))
    assert rows[TENTH.method, 0.1, 'all']['accuracy'] == round(2 / 6, 4)
    assert rows['none', 1.0, 'exact']['accuracy'] == 1.0 and rows[TENTH.method, 0.1, 'exact']['accuracy'] == 0.0
    assert (rows[TENTH.method, 0.1, 'exact']['right_to_wrong'], rows['none', 1.0, 'match']['accuracy']) == (1.0, 0.5)
    assert rows['none', 1.0, 'ego driving']['accuracy'] == 1.0
    assert rows['none', 1.0, 'ego standing']['accuracy'] == round(1 / 3, 4)
    kinds = {kind for _, _, kind in rows}
    assert kinds == {'all', 'exact', 'match', 'text', 'ego driving', 'ego standing'}
    assert (table['scenes'], table['tokens'], table['full'], table['blind']) == (2, 36, round(4 / 6, 4), 0.0)


def test_measures_are_paired_with_all_tokens_over_drives() -> None:
    found = figures({FULL_TRIAL: RIGHT, TENTH: {**RIGHT, 'exact0': 'A', 'number1': '7'}, BLIND_TRIAL: {}})
    rows = {(row['measure'], row['method']): row for row in found.measures()}
    exact = rows['accuracy', TENTH.method]
    assert (exact['value'], exact['minus_full'], exact['questions']) == (0.5, -0.5, 2)
    assert (exact['minus_full_lo'], exact['minus_full_hi']) == (-1.0, 0.0)
    assert rows['mae', 'none']['value'] == 1.5 and rows['mae', TENTH.method]['minus_full'] == -0.5
    assert rows['rouge_l', 'none']['value'] == 0.5 and rows['rouge_l', 'blind']['value'] == 0.0
    assert rows['bleu_1', 'none']['value'] == pytest.approx(2.718281828 ** (1 - 6 / 3), abs=1e-4)
    assert 'lo' not in rows['bleu_1', 'none'], 'a figure of the whole corpus'
    assert ('judge', 'none') not in rows and ('mae', 'blind') not in rows, 'nobody judged, and no number was said'
    assert '| none | 100% | 1.000 |' in measures_table(found.measures())


def test_runs_of_what_draws_lots_are_one_row() -> None:
    found = figures({FULL_TRIAL: RIGHT, LOTS[0]: RIGHT, LOTS[1]: {}, BLIND_TRIAL: {}})
    [row] = [row for row in found.measures() if (row['measure'], row['method']) == ('accuracy', 'random')]
    assert (row['value'], row['questions']) == (0.5, 4)
    assert rows_of(found.table(RUN))['random', 0.1, 'all']['questions'] == 12


def test_what_a_judge_says_counts_where_the_set_asks_for_one() -> None:
    scores = {('judge0', FULL_TRIAL): 1.0, ('judge1', FULL_TRIAL): 0.5, ('judge0', BLIND_TRIAL): 0.0}
    scores['judge1', BLIND_TRIAL] = 0.25
    found = figures({FULL_TRIAL: RIGHT, BLIND_TRIAL: {}}, scores)
    rows = rows_of(found.table(RUN))
    assert (rows['none', 1.0, 'judge']['accuracy'], rows['blind', 1.0, 'judge']['accuracy']) == (0.75, 0.125)
    assert rows['none', 1.0, 'all']['questions'] == 8


def test_a_question_that_a_trial_did_not_get_counts_for_none() -> None:
    found = figures({FULL_TRIAL: RIGHT, BLIND_TRIAL: {}})
    answers = {key: answer for key, answer in found.answers.items() if key != AnswerKey('text0', BLIND_TRIAL)}
    less = Figures(found.dataset, found.trials, answers, {})
    assert less.unasked == 1
    assert rows_of(less.table(RUN))['none', 1.0, 'all']['questions'] == 5


JUDGE = """
calls = []

def half(question, truths, answer):
    with open(CALLS, 'a') as file:
        file.write(f'{question}|{len(truths)}\\n')
    return 0.5

def wild(question, truths, answer):
    return 7

def broken(question, truths, answer):
    raise RuntimeError('no network')
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which the judges of module my_judges count their calls."""
    calls = tmp_path / 'calls'
    (tmp_path / 'my_judges.py').write_text(JUDGE.replace('CALLS', repr(str(calls))))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, 'my_judges', raising=False)
    return calls


def test_a_judge_is_asked_once_for_each_answer_and_only_where_it_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: Path, plug_in: Path
) -> None:
    groups = {'perception': [qa('what is there?', 'a car', 2)], 'planning': [qa('is that safe?', 'no', 1)]}
    groups['prediction'] = [qa('where?', 'at 1.0, 2.0', 3), qa('and what else?', '', 1), qa('Is it?', 'No.', 0)]
    data = grey_set(tmp_path / 'set', {'f': groups, 'g': groups})
    options = ('--params', str(tiny), '--method', 'uniform')
    assert evaluate(tmp_path, 'drivelm', data, *options) == 0
    assert not plug_in.exists()
    assert '2 of 10 questions are for a judge and not scored: name one with --judge' in capsys.readouterr().err
    [challenge, *_] = table_of(tmp_path)['challenge']
    assert (challenge['chatgpt'], challenge['match'], challenge['final']) == (None, None, None)
    for _ in range(2):
        assert evaluate(tmp_path, 'drivelm', data, *options, '--judge', 'my_judges:half', '--resume') == 0
        calls = Counter(plug_in.read_text().splitlines())
        assert calls == {'is that safe?|1': 2 * 3, 'where?|1': 2 * 3}
    table = table_of(tmp_path)
    assert measure(table, 'judge')['value'] == 0.5 and measure(table, 'judge')['questions'] == 4
    assert rows_of(table)['none', 1.0, 'judge']['accuracy'] == 0.5
    [challenge, *_] = table['challenge']
    assert (challenge['chatgpt'], challenge['match']) == (0.5, 0.25) and challenge['final'] >= 0.4 * 0.5
    assert not any('for a judge' in note for note in table['notes'])


def test_a_judge_without_questions_for_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: Path, plug_in: Path
) -> None:
    data = make_nuinstruct(tmp_path / 'set')
    assert evaluate(tmp_path, 'nuinstruct', data, '--params', str(tiny), '--judge', 'my_judges:half') == 1
    assert sentence_of(capsys) == 'no question of nuinstruct is for a judge: omit --judge'


def test_judges_that_are_none_end_in_a_sentence(tmp_path: Path, plug_in: Path) -> None:
    with pytest.raises(
        StpruneError, match="--judge 'nowhere' is neither a folder with a text classifier nor MODULE:FUNC"
    ):
        load_judge('nowhere')
    with pytest.raises(StpruneError, match="judge 'my_judges:other' cannot be imported: module 'my_judges' has no"):
        load_judge('my_judges:other')
    with pytest.raises(StpruneError, match="judge 'no_such_module:f' cannot be imported: No module named"):
        load_judge('no_such_module:f')
    with pytest.raises(StpruneError, match="judge 'my_judges:wild' said 7, which is no number from 0 to 1"):
        load_judge('my_judges:wild').score('q', ['t'], 'a')
    with pytest.raises(StpruneError, match="judge 'my_judges:broken' failed: RuntimeError: no network"):
        load_judge('my_judges:broken').score('q', ['t'], 'a')
    assert Judge('x', lambda question, truths, answer: len(truths) / 4).score('q', ['a', 'b'], 'c') == 0.5


def tiny_classifier(folder: Path, labels: int = 1) -> Any:
    """A text classifier with random weights, in safetensors, and the model itself."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir()
    letters = 'abcdefghijklmnopqrstuvwxyz0123456789:.?!QAS'
    marks = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    (folder / 'vocab.txt').write_text('\n'.join([*marks, *letters, *(f'##{letter}' for letter in letters)]))
    BertTokenizerFast(vocab_file=str(folder / 'vocab.txt'), do_lower_case=False).save_pretrained(folder)
    torch.manual_seed(3)
    size = {'hidden_size': 16, 'intermediate_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2}
    config = BertConfig(vocab_size=5 + 2 * len(letters), num_labels=labels, initializer_range=0.5, **size)
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    return model


def test_a_text_classifier_judges_as_lingo_judge_does(tmp_path: Path) -> None:
    """The input is that of the published judge, the logit above 0 means right, and one true answer is enough."""
    import torch
    from transformers import AutoTokenizer

    model, tokenizer = tiny_classifier(tmp_path / 'lingo'), AutoTokenizer.from_pretrained(tmp_path / 'lingo')

    def logit(truth: str, answer: str) -> float:
        text = f'[CLS]\nQuestion: How many?\nAnswer: {truth}\nStudent: {answer}'
        with torch.inference_mode():
            return float(model(**tokenizer(text, return_tensors='pt')).logits)

    answers, truths = ('one', 'two cars', 'none'), (['one'], ['a car', '2'], ['no', 'yes', 'x y z'])
    best = {
        (answer, n): max(logit(truth, answer) for truth in row) for answer in answers for n, row in enumerate(truths)
    }
    with torch.no_grad():
        model.classifier.bias -= float(np.median(list(best.values()))) + 1e-4
    model.save_pretrained(tmp_path / 'lingo')
    judge = load_judge(str(tmp_path / 'lingo'))
    assert judge.name.startswith('lingo@')
    verdicts = []
    for answer, n in best:
        expected = max(logit(truth, answer) for truth in truths[n]) > 0
        assert judge.score('How many?', [f' {truth.upper()} ' for truth in truths[n]], answer.upper()) == expected
        verdicts.append(expected)
    assert set(verdicts) == {True, False}


def test_classifiers_that_cannot_judge_are_refused(tmp_path: Path) -> None:
    tiny_classifier(tmp_path / 'two', labels=2)
    with pytest.raises(ModelError, match='has 2 logits; one that judges has one'):
        load_judge(str(tmp_path / 'two'))
    model = tiny_classifier(tmp_path / 'half')
    model.bert.save_pretrained(tmp_path / 'half')
    with pytest.raises(ModelError, match='lacks 2 weights of a text classifier'):
        load_judge(str(tmp_path / 'half'))
    (tmp_path / 'half' / 'model.safetensors').rename(tmp_path / 'half' / 'pytorch_model.bin')
    with pytest.raises(ModelError, match='has no .safetensors file; weights in other formats are not read'):
        load_judge(str(tmp_path / 'half'))
