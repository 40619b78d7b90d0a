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
from helpers.question_runs import evaluate, measure, rows_of, sentence_of, table_of, tiny_params
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

from stprune_ros import cli
from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.datasets.answers import AnswerFile, AnswerKey, SetAnswer
from stprune_ros.evaluation.hits import Trial

pytestmark = needs_packages
DEFAULT = 'st_prune_joint+ring+gauge'


@pytest.fixture(scope='module')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_params(tmp_path_factory.mktemp('params'))


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
