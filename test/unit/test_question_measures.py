"""Measures of answers to data sets, against examples counted by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from helpers.question_sets import needs_packages

from stprune_ros.core.rig import CameraRig
from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.bootstrap import SceneCounts, accuracy, difference, recovered
from stprune_ros.evaluation.datasets.dataset import Dataset, Moment, SetQuestion
from stprune_ros.evaluation.datasets.drivelm import challenge
from stprune_ros.evaluation.datasets.files import Faults
from stprune_ros.evaluation.datasets.measures import (
    agreement,
    average_precision,
    best_match,
    coordinates,
    exact,
    match_f1,
    matched,
    mean_error,
    numbers_in,
    overlap,
)
from stprune_ros.evaluation.datasets.nuscenes import nominal_rig
from stprune_ros.evaluation.datasets.table import _paired
from stprune_ros.evaluation.datasets.text_metrics import bleu, cider, require_packages, rouge_l, words

pytestmark = needs_packages
RIG: CameraRig = nominal_rig(['CAM_FRONT'])


def place(x: float, y: float, camera: str = 'CAM_FRONT') -> str:
    return f'<c1,{camera},{x},{y}>'


def test_words_lose_case_and_punctuation() -> None:
    assert words("The car's light: it isn't red. Stop!") == (
        'the',
        'car',
        "'s",
        'light',
        'it',
        'is',
        "n't",
        'red',
        'stop',
    )
    assert words('see <c1,CAM_BACK,10.5,20.0>,\nthen go.') == (
        *('see', '<', 'c1', 'cam_back', ',10.5,20.0', '>', 'then', 'go'),
    )  # fmt: skip
    assert words('') == () == words(' . ')


def test_bleu_by_hand() -> None:
    """Of 5, 4, 3 and 2 n-grams of the answer 4, 2, 1 and none are in the truth; the answer is the longer one."""
    found = bleu(['the car stops here now'], [['The car stops now.']])
    assert found == pytest.approx([0.8, math.sqrt(0.8 / 2), (0.8 / 2 / 3) ** (1 / 3), 0.0])


def test_bleu_of_a_short_answer_is_less_and_takes_the_nearest_reference() -> None:
    penalty = math.exp(1 - 3 / 2)
    assert bleu(['red car'], [['a red car']])[:2] == pytest.approx([penalty, penalty])
    assert bleu(['red car'], [['a red car', 'red car']])[:2] == pytest.approx([1.0, 1.0])
    assert bleu(['', 'red car'], [['stop'], ['red car']])[0] == pytest.approx(math.exp(1 - 3 / 2))


def test_bleu_of_questions_with_different_numbers_of_references() -> None:
    """One that has no second reference has no empty one, which would be the nearest in length."""
    found = bleu(['the', 'b'], [('the car stops right here',), ('b', 'c')])
    assert found[0] == pytest.approx(math.exp(1 - 6 / 2))


def test_rouge_l_by_hand() -> None:
    """A common subsequence of 4 words: precision 4/5, recall 1."""
    assert rouge_l('the car stops here now', ['the car stops now']) == pytest.approx(2.44 * 0.8 / (1 + 1.44 * 0.8))
    assert rouge_l('now stops', ['the car stops now']) == pytest.approx(2.44 * 0.5 * 0.25 / (0.25 + 1.44 * 0.5))
    assert rouge_l('x', ['y', 'x']) == 1.0
    assert rouge_l('', ['y']) == rouge_l('x', ['y']) == 0.0


def test_cider_by_hand() -> None:
    """Every n-gram stands in one of two truths, so all weigh ln 2: the same text is 1 in three of four orders.

    'a bus' has two of the three words of 'a blue bus' and none of its pairs, of which it has one less.
    """
    found = cider(['the red car', 'a bus'], [['the red car'], ['a blue bus']])
    pair = 10 * (2 / math.sqrt(2 * 3)) / 4 * math.exp(-1 / (2 * 36))
    assert found.tolist() == pytest.approx([7.5, pair])


def test_cider_counts_what_all_say_for_nothing_and_repetition_once() -> None:
    assert cider(['a car', 'a car'], [['a car'], ['a car']]).tolist() == [0.0, 0.0]
    once, twice = cider(['red', 'red red'], [['red'], ['blue']])[0], cider(['red red', 'x'], [['red'], ['blue']])[0]
    assert once == pytest.approx(2.5) and twice == pytest.approx(2.5 / 2 * math.exp(-1 / 72))
    both = cider(['red', 'x'], [['red', 'green'], ['blue']])[0]
    assert both == pytest.approx(2.5 / 2), 'the mean over its two references'


def test_missing_packages_are_named_with_the_extra() -> None:
    with pytest.raises(StpruneError, match=r"needs nowhere-to-be-found: pip install '.\[datasets\]'"):
        require_packages({'no_such_module': 'nowhere-to-be-found', 'json': 'json'})
    require_packages()


def test_coordinates_are_decimal_numbers_in_pairs() -> None:
    assert coordinates('<c1,CAM_FRONT,10.5,20.0> at 3 m, 7.25').tolist() == [[10.5, 20.0]]
    assert coordinates('3 cars').shape == (0, 2)


def test_what_is_nearer_than_16_pixels_matches() -> None:
    truth = place(100.0, 50.0)
    assert match_f1(place(107.9, 58.0), truth) == pytest.approx(1.0, abs=1e-6)  # 15.9 pixels over both axes
    assert match_f1(place(108.0, 58.0), truth) == 0.0  # 16
    assert matched(place(101.0, 50.0), truth) == [(100.0, 50.0)], 'the true ones, not those of the answer'


def test_f1_counts_what_is_missing_and_what_is_too_much() -> None:
    truths = f'{place(100.0, 50.0)} {place(300.0, 20.0)} {place(500.0, 20.0)}'
    answer = f'{place(301.0, 20.0)} {place(900.0, 900.0)}'
    precision, recall = 1 / 2, 1 / 3
    assert match_f1(answer, truths) == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-6)
    assert match_f1('no places', truths) == match_f1(answer, 'none') == 0.0
    assert best_match(answer, ['none', truths]) == match_f1(answer, truths)


def test_each_true_place_matches_once_and_the_nearest_one() -> None:
    near, far = place(100.0, 50.0), place(110.0, 50.0)
    assert match_f1(f'{near} {near}', near) == pytest.approx(2 / 3, abs=1e-6)
    assert matched(place(108.0, 50.0), f'{near} {far}') == [(110.0, 50.0)]
    assert matched(f'{place(104.0, 50.0)} {place(92.0, 50.0)}', f'{near} {far}') == [(100.0, 50.0)], 'in the order said'


def test_exact_means_letter_by_letter() -> None:
    assert [exact(text, ['Yes.', 'yes']) for text in ('Yes.', 'yes', 'Yes', '')] == [1, 1, 0, 0]


def test_agreement_looks_at_words_or_at_the_first_object() -> None:
    assert agreement(' MOVING. ', ['moving']) == 1
    assert agreement('not \n moving', ['Not moving.']) == 1
    assert agreement('moving fast', ['moving']) == 0
    assert agreement('it is <Car>[c1, 1,2,3,4]', ['<car>[c1,10,20,30,40]; <bus>[c2,1,2,3,4]']) == 1
    assert agreement('<car>[c2,10,20,30,40]', ['<car>[c1,10,20,30,40]']) == 0


def test_errors_of_numbers() -> None:
    assert mean_error('(3.0, 1.0)', ['(3.5, -1.0)']) == pytest.approx(1.25)
    assert mean_error('about 4 m in c1', ['5']) == 1.0
    assert math.isnan(mean_error('far away', ['5']))
    assert math.isnan(mean_error('3', ['(3.5, -1.0)']))


@pytest.mark.parametrize(
    ('text', 'numbers'),
    [
        ('1,234', [1234.0]),
        ('about -1,234,567.5 m, then 5', [-1234567.5, 5.0]),
        ('(10,200)', [10.0, 200.0]),
        ('[-1,234,567]', [-1.0, 234.0, 567.0]),
        ('12,34 and 1,2345', [12.0, 34.0, 1.0, 2345.0]),
        ('\u22125 or \u20132.5', [-5.0, -2.5]),
        ('3\u20135 m', [3.0, 5.0]),
        ('1e-05, 2.5E3', [1e-05, 2500.0]),
        ('.5 and -.25', [0.5, -0.25]),
        ('c1 v1.2 5.', [5.0]),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, numbers: list[float]) -> None:
    assert numbers_in(text) == numbers


def test_a_number_beyond_all_measure_is_none() -> None:
    for huge in ('9' * 400, '1e300', '-1000000001'):
        assert math.isnan(mean_error(huge, ['5'])) and math.isnan(mean_error('5', [huge]))
    assert mean_error('1000000000', ['5']) == 1e9 - 5
    assert mean_error(f'4 of {"9" * 400}', ['5']) == 1.0, 'only as many as are true ones'


def test_numbers_are_compared_where_both_sides_said_one() -> None:
    drives, nan = np.array([0, 1, 2]), np.nan
    one, other = _paired(drives, np.array([[5.0, nan, 0.0]]), np.array([[1.0, 2.0, nan]]))
    assert (one.questions, other.questions) == (1, 1)
    assert one.accuracy - other.accuracy == 4.0
    nothing, _ = _paired(drives, np.array([[nan, 1.0, nan]]), np.array([[1.0, nan, 1.0]]))
    assert nothing.questions == 0


def test_draws_of_scenes_without_a_number_are_no_error_of_nothing() -> None:
    """Of three scenes two have numbers: every draw that has any says the same. A single scene gives no interval."""
    drives, nan = np.array([0, 0, 1, 2]), np.nan
    numbers = SceneCounts.of(drives, np.array([7.0, 5.0, 6.0, nan]))
    assert accuracy(numbers) == (6.0, 6.0, 6.0)
    drawn = numbers.resampled()
    assert np.isnan(drawn).mean() == pytest.approx((1 / 3) ** 3, abs=0.02) and set(drawn[~np.isnan(drawn)]) == {6.0}
    assert difference(numbers, SceneCounts.of(drives, np.array([1.0, 5.0, 3.0, nan]))) == (3.0, 3.0, 3.0)
    full, blind = (SceneCounts.of(drives, np.array([value, value, value, nan])) for value in (8.0, 4.0))
    assert recovered(numbers, full, blind) == (0.5, 0.5, 0.5)
    alone = SceneCounts.of(drives, np.array([7.0, 5.0, nan, nan]))
    assert accuracy(alone) == (6.0, None, None) and difference(alone, alone) == (0.0, None, None)


def test_classes_of_objects_may_hold_blanks_and_dots() -> None:
    for name in ('bus.rigid', 'traffic light'):
        truth = [f'<{name}>[c1,0,0,10,10]']
        assert average_precision(f'<{name}>[c2,0,0,10,10]', truth) == 0.0
        assert average_precision(f'< {name} > [c1,0,0,10,10]', truth) == 1.0


def test_overlap_and_average_precision_by_hand() -> None:
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert overlap((0, 0, 10, 10), (20, 20, 30, 30)) == 0.0
    truth = ['<car>[c1,0,0,10,10]; <car>[c1,100,0,110,10]']
    # The second and the third of three are right: 1/2 and 2/3 of what was said up to there.
    said = '<bus>[c1,0,0,10,10]; <car>[c1,0,0,10,9]; <car>[c1,100,0,110,10]'
    assert average_precision(said, truth) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert average_precision('<car>[c1,0,0,10,10]; <car>[c1,0,0,10,10]', truth) == pytest.approx(1 / 2)
    assert average_precision('<car>[c2,0,0,10,10]', truth) == 0.0, 'another camera'
    assert average_precision('<car>[c1,0,0,4,10]', truth) == 0.0, 'too little of it'
    assert average_precision('<car>[c1,0,0,5,10]', truth) == 0.5, 'half of it is enough'
    second_first = '<car>[c1,100,0,110,10]; <car>[c1,0,0,10,10]; <bus>[c1,0,0,10,10]'
    assert average_precision(second_first, truth) == 1.0, 'what comes behind the last right one costs nothing'
    assert average_precision('none', ['none']) == 1.0
    assert average_precision('<car>[c1,0,0,4,10]', ['none']) == 0.0


def moment(questions: dict[str, tuple[str, str, str]]) -> Dataset:
    """One key frame whose questions have (text, measure, truth) by their ids."""
    asked = tuple(
        SetQuestion(i, n, text, m, (m,), (truth,)) for n, (i, (text, m, truth)) in enumerate(questions.items())
    )
    moments = (Moment(0, 0, RIG, {'CAM_FRONT': (None,)}, (None,), asked),)
    return Dataset('drivelm', Path('set.json'), 'r', moments, Faults())


def test_the_first_answer_of_a_key_frame_decides_which_questions_count() -> None:
    """As DriveLM's evaluation does: questions about objects that the first answer does not have are skipped."""
    seen, unseen = place(100.0, 50.0), place(700.0, 50.0)
    questions = {
        'a': ('which objects?', 'language', f'a car {seen} and {unseen}'),
        'b': (f'does {seen} move?', 'accuracy', 'Yes.'),
        'c': (f'does {unseen} move?', 'accuracy', 'Yes.'),
        'd': ('what does the car do?', 'accuracy', 'B'),
        'e': ('what comes first?', 'match', f'{seen} then {unseen}'),
    }
    answers = {'a': f'a car {place(102.0, 50.0)}', 'b': 'Yes.', 'c': 'Yes.', 'd': 'A', 'e': seen}
    found = challenge(moment(questions), answers, {})
    assert (found['questions'], found['skipped']) == (4, 1)
    assert found['accuracy'] == 0.5
    assert found['match_f1'] == pytest.approx(2 / 3, abs=1e-4)
    assert (found['chatgpt'], found['match'], found['final']) == (None, None, None)
    assert found['language']['rouge_l'] == pytest.approx(rouge_l(answers['a'], [questions['a'][2]]), abs=1e-4)
    assert found['language']['cider'] == 0.0, 'of one text nothing is rare'


def test_the_final_score_weighs_four_parts() -> None:
    questions = {
        'a': ('which objects?', 'language', 'a car'),
        'b': ('safe?', 'judge', 'slow down'),
        'c': ('red?', 'accuracy', 'Yes.'),
        'd': ('where?', 'match', place(100.0, 50.0)),
        'e': ('which other?', 'language', 'a blue bus'),
    }
    answers = {'a': 'a car', 'b': 'stop', 'c': 'Yes.', 'd': place(100.0, 50.0), 'e': 'a blue bus'}
    found = challenge(moment(questions), answers, {'b': 0.5, 'd': 0.25})
    assert found['chatgpt'] == 0.5
    assert found['match'] == pytest.approx((1 + 0.25) / 2, abs=1e-4)
    language = found['language']
    mean = (sum(language[f'bleu_{n}'] for n in (1, 2, 3, 4)) / 4 + language['rouge_l'] + language['cider'] / 10) / 3
    assert language['score'] == pytest.approx(mean, abs=1e-4)
    assert found['final'] == pytest.approx(0.4 * 0.5 + 0.2 * mean + 0.2 * 0.625 + 0.2 * 1.0, abs=1e-3)
