"""What answers to a set are worth: rows, measures and their intervals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.question_runs import rows_of
from helpers.question_sets import (
    needs_packages,
)

from stprune_ros.core.types import EgoState
from stprune_ros.evaluation.datasets.answers import AnswerKey, SetAnswer
from stprune_ros.evaluation.datasets.dataset import Dataset, Moment, SetQuestion
from stprune_ros.evaluation.datasets.files import Faults
from stprune_ros.evaluation.datasets.nuscenes import nominal_rig
from stprune_ros.evaluation.datasets.table import Figures, measures_table
from stprune_ros.evaluation.datasets.text_metrics import rouge_l
from stprune_ros.evaluation.hits import BLIND_TRIAL, FULL_TRIAL, Trial

pytestmark = needs_packages
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
        AnswerKey(q.id, trial): SetAnswer(texts.get(q.id, ''), False, False, 36 if trial == FULL_TRIAL else 9)
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
    assert (rows['bleu_1', 'none']['questions'], rows['bleu_4', 'none']['value']) == (2, 0.0)
    assert ('judge', 'none') not in rows and ('mae', 'blind') not in rows, 'nobody judged, and no number was said'
    assert '| none | 100% | 1.000 |' in measures_table(found.measures())


def test_runs_of_what_draws_lots_are_one_row() -> None:
    found = figures({FULL_TRIAL: RIGHT, LOTS[0]: RIGHT, LOTS[1]: {}, BLIND_TRIAL: {}})
    [row] = [row for row in found.measures() if (row['measure'], row['method']) == ('accuracy', 'random')]
    assert (row['value'], row['questions']) == (0.5, 4)
    assert rows_of(found.table(RUN))['random', 0.1, 'all']['questions'] == 12
    words = {row['method']: row['value'] for row in found.measures() if row['measure'] == 'bleu_1'}
    assert words['random'] > 0 and words['random'] == pytest.approx(words['none'] / 2, abs=1e-4)


def test_what_differs_from_all_tokens_stands_behind_a_value_with_its_interval() -> None:
    row = {'method': 'random', 'keep': 0.1, 'value': 0.25, 'minus_full': -0.125, 'minus_full_lo': -0.3}
    text = measures_table(
        [{**row, 'measure': 'mae', 'minus_full_hi': 0.05}, {**row, 'measure': 'bleu_1', 'minus_full': None}]
    )
    assert text.splitlines()[-1] == '| random | 10% | 0.250 (-0.125 [-0.300, +0.050]) | 0.250 |'


def test_the_first_measure_of_a_question_counts_in_the_table() -> None:
    found = figures({FULL_TRIAL: RIGHT, BLIND_TRIAL: {}})
    two = {'match0': ('match', 'language'), 'match1': ('language', 'match')}
    moments = tuple(
        replace(m, questions=tuple(replace(q, measures=two.get(q.id, q.measures)) for q in m.questions))
        for m in found.dataset.moments
    )
    said = dict.fromkeys(two, 'at 100.0, 50.0 or there')
    answers = {key: replace(answer, text=said.get(key.id, answer.text)) for key, answer in found.answers.items()}
    both = Figures(replace(found.dataset, moments=moments), found.trials, answers, {})
    scores = both._first_scores()[FULL_TRIAL]
    places = {q.id: place for place, (_, q) in enumerate(both.asked)}
    assert scores[places['match0']] == pytest.approx(1.0, abs=1e-6)
    by_words = rouge_l(said['match1'], ['<c1,CAM_FRONT,100.0,50.0>'])
    assert by_words < 1.0 and scores[places['match1']] == pytest.approx(by_words)


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
