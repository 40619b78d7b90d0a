"""What `stprune eval --dataset` prints and writes where methods and ratios are unusual, and where it cannot write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.question_sets import OPTIONS, grey_set, needs_packages, qa

from stprune_ros import cli
from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.datasets import drivelm
from stprune_ros.evaluation.datasets.answers import AnswerKey, SetAnswer
from stprune_ros.evaluation.datasets.dataset import Dataset, Moment, SetQuestion
from stprune_ros.evaluation.datasets.files import Faults
from stprune_ros.evaluation.datasets.judge import Judge
from stprune_ros.evaluation.datasets.nuscenes import nominal_rig
from stprune_ros.evaluation.datasets.table import Figures
from stprune_ros.evaluation.fidelity import EvaluationPlan
from stprune_ros.evaluation.hits import BLIND_TRIAL, FULL_TRIAL
from stprune_ros.evaluation.tables import by_kind, percent

pytestmark = needs_packages
ASKED = {'perception': [qa('Is it?', 'No.', 0), qa('what is there?', 'a car', 2), qa(f'what next? {OPTIONS}', 'B', 0)]}


def evaluate(folder: Path, *options: str) -> int:
    data = grey_set(folder / 'set', {'f': ASKED})
    command = ['eval', '--dataset', 'drivelm', '--data', str(data), '--model', 'ringworld', '--method', 'uniform']
    return cli.main([*command, *options])


def files_beside(output: Path) -> set[str]:
    return {file.name for file in output.parent.iterdir() if file.name.endswith('.output.json')}


def test_ratios_that_are_near_have_files_and_columns_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'r.json'
    assert evaluate(tmp_path, '--keep', '0.5,0.5000001,0.25,0.254,0.50', '--output', str(output)) == 0
    text = capsys.readouterr().out
    kept = ('uniform.0.5', 'uniform.0.5000001', 'uniform.0.25', 'uniform.0.254', 'none.1', 'blind.1')
    assert files_beside(output) == {f'r.ringworld.drivelm.{name}.output.json' for name in kept}
    assert '\n| method | 50.00001% | 50% | 25.4% | 25% |\n' in text and '\n| at 25% | all |' in text
    assert '\n| uniform | 25.4% | ' in text
    rows = json.loads(output.read_text())['tables'][0]['rows']
    counts = {row['keep']: row['questions'] for row in rows if (row['method'], row['kind']) == ('uniform', 'all')}
    assert counts == {0.5: 3, 0.5000001: 3, 0.25: 3, 0.254: 3}, 'once each'


def test_questions_with_lists_of_answers_are_in_the_file_for_the_tools_and_scored(tmp_path: Path) -> None:
    """The challenge's program fails on an id that is missing."""
    asked = [qa(f'what next? {OPTIONS}', list('ABCD'), 0), qa('where?', {'x': 1}, 2), qa(f'and? {OPTIONS}', 'B', 0)]
    data = grey_set(tmp_path / 'set', {'f': {'planning': asked}})
    given = ('--dataset', 'drivelm', '--data', str(data), '--model', 'ringworld', '--method', 'uniform')
    assert cli.main(['eval', *given, '--output', str(tmp_path / 'r.json')]) == 0
    rows = json.loads((tmp_path / 'r.ringworld.drivelm.none.1.output.json').read_text())
    assert [(row['id'], row['question'], bool(row['answer'])) for row in rows] == [
        (f's_f_{n}', entry['Q'], True) for n, entry in enumerate(asked)
    ]
    [table] = json.loads((tmp_path / 'r.json').read_text())['tables']
    counts = {row['kind']: row['questions'] for row in table['rows'] if row['method'] == 'none'}
    assert counts == {'accuracy': 2, 'all': 2, 'ego unknown': 2}
    assert any(note.startswith('1 of 3 questions of ') and 'have no true answer' in note for note in table['notes'])
    [key_frame] = drivelm.read(data).moments
    ids = [question.id for question in key_frame.questions]
    assert drivelm.challenge(drivelm.read(data), dict(zip(ids, 'DDD')), {})['accuracy'] == 0.5, 'D is one of the list'


def test_where_nothing_is_pruned_all_tokens_and_no_pictures_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'r.json'
    assert evaluate(tmp_path, '--keep', '1', '--output', str(output)) == 0
    text = capsys.readouterr().out
    tables = [line for line in text.splitlines() if line.startswith('<!--')]
    assert tables == ['<!-- fidelity ringworld, drivelm: kinds -->'], 'others would be empty'
    lines = text.splitlines()
    assert lines[1].startswith('| at 100% | all |')
    assert [line.split(' | ')[0] for line in lines[3:6]] == ['| questions', '| none', '| blind']
    assert files_beside(output) == {f'r.ringworld.drivelm.{name}.1.output.json' for name in ('none', 'blind')}


def test_the_folder_of_the_output_must_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for world in ([], ['--dataset', 'drivelm', '--data', str(grey_set(tmp_path / 'set', {'f': ASKED}))]):
        output = tmp_path / 'nowhere' / 'r.json'
        assert cli.main(['eval', *world, '--model', 'ringworld', '--output', str(output)]) == 1
        expected = f"stprune: there is no folder '{tmp_path / 'nowhere'}' for 'r.json'; make it\n"
        assert capsys.readouterr().err == expected
    assert not (tmp_path / 'nowhere').exists()


def test_a_trial_runs_once_however_often_it_is_named() -> None:
    trials = list(EvaluationPlan(('uniform', 'random', 'uniform'), (0.1, 1.0, 0.1), 2).trials())
    assert trials == [FULL_TRIAL, ('uniform', 0.1, 0), ('random', 0.1, 0), ('random', 0.1, 1)]
    assert BLIND_TRIAL not in trials


def test_ratios_that_differ_are_named_differently() -> None:
    assert [percent(keep) for keep in (1.0, 0.5, 0.07, 0.125, 0.0001, 0.1, 0.1000001)] == [
        *('100%', '50%', '7%', '12.5%', '0.01%', '10%', '10.00001%'),
    ]  # fmt: skip


def test_kinds_are_shown_at_the_ratio_nearest_to_a_tenth() -> None:
    def row(method: str, keep: float, accuracy: float) -> dict[str, Any]:
        return {'method': method, 'keep': keep, 'kind': 'all', 'accuracy': accuracy, 'questions': 12}

    rows = [row('none', 1.0, 0.9), row('blind', 1.0, 0.1), row('a', 0.5, 0.8), row('a', 0.25, 0.7)]
    assert by_kind({'rows': rows}).splitlines() == [
        *('| at 25% | all |', '|---|---|', '| questions | 12 |', '| none | 90.0 |', '| blind | 10.0 |', '| a | 70.0 |'),
    ]  # fmt: skip
    assert '| at 10% | all |' in by_kind({'rows': [*rows, row('a', 0.1, 0.6), row('a', 0.05, 0.5)]})


def test_intervals_are_over_drives_not_moments() -> None:
    """Eight moments of two drives, in one of which all is right: a draw of two drives is all right, half or nothing."""
    rig = nominal_rig(['CAM_FRONT'])
    moments = tuple(
        Moment(
            n, n // 4, rig, {'CAM_FRONT': (None,)}, (None,), (SetQuestion(f'q{n}', n, '?', 'k', ('accuracy',), ('B',)),)
        )
        for n in range(8)
    )
    dataset = Dataset('drivelm', Path('set.json'), 'r', moments, Faults())
    said = {f'q{n}': SetAnswer('B' if n < 4 else 'A', False, False, 36) for n in range(8)}
    trials = [FULL_TRIAL, BLIND_TRIAL]
    found = Figures(dataset, trials, {AnswerKey(i, t): answer for t in trials for i, answer in said.items()}, {})
    full, _ = found.measures()
    assert (full['value'], full['lo'], full['hi']) == (0.5, 0.0, 1.0)
    run = {'default': 'uniform', 'world': 'drivelm', 'model': ['m', 'r'], 'seeds': 1}
    row = found.table(run)['rows'][0]
    assert (row['method'], row['kind'], row['accuracy'], row['lo'], row['hi']) == ('none', 'all', 0.5, 0.0, 1.0)


def test_a_judge_says_numbers_from_0_to_1() -> None:
    for said in (-0.001, 1.001, float('nan'), 'no'):
        with pytest.raises(StpruneError, match="judge 'j' "):
            Judge('j', lambda question, truths, answer, said=said: said).score('q', ['t'], 'a')
    assert [Judge('j', lambda *_, said=said: said).score('q', ['t'], 'a') for said in (0, 1, True)] == [0.0, 1.0, 1.0]
