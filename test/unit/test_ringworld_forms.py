"""The twelve forms of questions, each against truths written by hand: text, answer and candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from helpers.scene_truths import car, light, pedestrian, truth

from stprune_ros.core.types import Behavior
from stprune_ros.ringworld import questions
from stprune_ros.ringworld.questions import (
    ALL_VIEWS,
    FORMS,
    KEEP_PROBABILITY,
    MOTION_FORMS,
    Form,
    describe,
    hint_question,
    questions_about,
    unambiguous,
)
from stprune_ros.ringworld.truth import SceneTruth, VisibleActor

COLOURS = ('red', 'blue', 'white', 'black', 'yellow', 'green')
VIEWS = ('front', 'front right', 'right', 'back', 'left', 'front left')
NUMBERS = ('zero', 'one', 'two', 'three')
YES_NO = ('yes', 'no')


def asked(form: Form, found: SceneTruth, views: Sequence[int] = ALL_VIEWS) -> dict[str, str]:
    """Answers by text of the question; every question of the form has one kind and contains its answer."""
    made = form(found, tuple(views))
    assert len({question.text for question in made}) == len(made)
    assert all(question.answer in question.candidates for question in made)
    return {question.text: question.answer for question in made}


def candidates(form: Form, found: SceneTruth) -> set[tuple[str, ...]]:
    return {question.candidates for question in form(found, ALL_VIEWS)}


def kinds(form: Form, found: SceneTruth) -> set[str]:
    return {question.kind for question in form(found, ALL_VIEWS)}


def test_there_are_twelve_forms_of_four_kinds() -> None:
    full = truth(
        {'front': [car(1), light(2, 'red'), pedestrian(3)], 'front right': [car(1)]},
        Behavior.STOP,
        'red light',
        2,
    )
    found = {form.__name__: ' '.join(kinds(form, full)) for form in FORMS}
    assert found == {
        **dict.fromkeys(('car_colour', 'car_count', 'pedestrian_present', 'light_state'), 'perception'),
        'car_view': '',
        **dict.fromkeys(('car_moves', 'pedestrian_walks'), 'motion'),
        **dict.fromkeys(('same_car', 'pedestrian_count'), 'cross-view'),
        **dict.fromkeys(('hint', 'hint_reason', 'reason_view'), 'planning'),
    }
    assert kinds(questions.car_view, truth({'back': [car(1)]})) == {'perception'}
    assert {form for form, _ in KEEP_PROBABILITY} <= set(FORMS)
    assert set(MOTION_FORMS) == {form for form in FORMS if kinds(form, full) == {'motion'}}


def test_car_colour() -> None:
    found = truth({'front': [car(1, 'blue', 6.0), car(2, 'red', 12.0)], 'left': [car(3, 'green'), pedestrian(4)]})
    assert asked(questions.car_colour, found) == {
        'what colour is the nearest car in front?': 'blue',
        'what colour is the nearest car in left?': 'green',
    }
    assert candidates(questions.car_colour, found) == {COLOURS}
    assert asked(questions.car_colour, found, (1, 2)) == {}


@pytest.mark.parametrize(('second', 'clear'), [(11.4, False), (11.6, True)])
def test_a_car_about_as_near_leaves_the_nearest_one_open(second: float, clear: bool) -> None:
    """As near is 1.1 times 10 m and 0.5 m more: 11.5 m. Cars that look alike leave nothing open."""
    found = truth({'front': [car(1, 'blue', 10.0), car(2, 'red', second)]})
    assert bool(asked(questions.car_colour, found)) is clear
    assert bool(asked(questions.car_moves, found)) is clear
    alike = truth({'front': [car(1, 'blue', 10.0), car(2, 'blue', second)]})
    assert asked(questions.car_colour, alike) == {'what colour is the nearest car in front?': 'blue'}
    moving = car(2, 'blue', second, moving=True, speed=5.0)
    assert bool(asked(questions.car_moves, truth({'front': [car(1, 'blue', 10.0), moving]}))) is clear
    other_way = [pedestrian(1, 10.0, sideways=1.0), pedestrian(2, second, sideways=-1.0)]
    assert bool(asked(questions.pedestrian_walks, truth({'front': other_way}))) is clear


def test_car_count() -> None:
    found = truth({'front': [car(1), car(2), pedestrian(9)], 'back': [car(n) for n in range(3, 8)], 'left': [car(8)]})
    counts = dict.fromkeys(VIEWS, 'zero') | {'front': 'two', 'back': 'three', 'left': 'one'}
    assert asked(questions.car_count, found) == {f'how many cars are in {name}?': n for name, n in counts.items()}
    assert candidates(questions.car_count, found) == {NUMBERS}
    assert asked(questions.car_count, found, (3,)) == {'how many cars are in back?': 'three'}


def test_pedestrian_present() -> None:
    found = truth({'right': [car(1), pedestrian(2)], 'back': [car(1)]})
    answers = dict.fromkeys(VIEWS, 'no') | {'right': 'yes'}
    assert asked(questions.pedestrian_present, found) == {f'is a pedestrian in {n}?': a for n, a in answers.items()}
    assert candidates(questions.pedestrian_present, found) == {YES_NO}


@pytest.mark.parametrize(
    ('front', 'answer'),
    [
        ([light(1, 'red')], 'red'),
        ([light(1, 'green')], 'green'),
        ([light(1, 'green', 15.0), light(2, 'red', 25.0)], 'green'),
        ([car(3)], 'nothing'),
    ],
)
def test_light_state(front: list[VisibleActor], answer: str) -> None:
    found = truth({'front': front, 'front left': [light(7, 'red')]})
    assert asked(questions.light_state, found) == {'what does the traffic light ahead show?': answer}
    assert candidates(questions.light_state, found) == {('red', 'green', 'nothing')}
    assert asked(questions.light_state, found, (1, 2, 3, 4, 5)) == {}


def test_car_view() -> None:
    """Only colours that one view shows are asked about, also where that view shows two such cars."""
    found = truth(
        {'front': [car(1, 'red'), car(2, 'white'), car(3, 'white')], 'back': [car(4, 'red'), car(5, 'black')]}
    )
    assert asked(questions.car_view, found) == {
        'which view shows a white car?': 'front',
        'which view shows a black car?': 'back',
    }
    assert candidates(questions.car_view, found) == {VIEWS}
    assert asked(questions.car_view, found, (0, 1)) == {
        'which view shows a red car?': 'front',
        'which view shows a white car?': 'front',
    }


@pytest.mark.parametrize(
    ('speed', 'moving', 'answer'),
    [
        (0.0, False, 'no'),
        (0.1, False, 'no'),
        (0.2, False, None),
        (0.9, True, None),
        (1.0, True, 'yes'),
        (6.0, True, 'yes'),
    ],
)
def test_car_moves(speed: float, moving: bool, answer: str | None) -> None:
    found = truth({'left': [car(1, speed=speed, moving=moving), car(2, distance=30.0)]})
    expected = {} if answer is None else {'does the nearest car in left move?': answer}
    assert asked(questions.car_moves, found) == expected
    assert candidates(questions.car_moves, found) == ({YES_NO} if expected else set())


@pytest.mark.parametrize(
    ('sideways', 'answer'), [(1.3, 'right'), (-1.3, 'left'), (0.0, 'nowhere'), (0.4, None), (-0.4, None)]
)
def test_pedestrian_walks(sideways: float, answer: str | None) -> None:
    """``sideways`` is positive to the right of the view; whoever walks along the line of sight is not asked about."""
    found = truth({'back': [pedestrian(1, sideways=sideways)]})
    expected = {} if answer is None else {'which way does the nearest pedestrian in back walk?': answer}
    assert asked(questions.pedestrian_walks, found) == expected
    assert candidates(questions.pedestrian_walks, found) == ({('left', 'right', 'nowhere')} if expected else set())


def test_same_car() -> None:
    """A view's right edge meets the left edge of the next view clockwise."""
    whole, edge = car(1, left=10, right=60), car(2, left=280, right=319)
    copy, other = car(2, left=0, right=30), car(3, left=100, right=140)
    found = truth({'front': [whole, edge], 'front right': [other, copy], 'right': [car(4, left=0, right=20)]})
    assert asked(questions.same_car, found) == {
        'is it one car between front and front right?': 'yes',
        'is it one car between front right and right?': 'no',
    }
    assert candidates(questions.same_car, found) == {YES_NO}
    assert asked(questions.same_car, found, (0, 2)) == {}
    assert asked(questions.same_car, found, (1, 2)) == {'is it one car between front right and right?': 'no'}


def test_same_car_closes_the_ring() -> None:
    found = truth({'front left': [car(5, left=300, right=319)], 'front': [car(5, left=0, right=9), car(6, right=319)]})
    assert asked(questions.same_car, found) == {'is it one car between front left and front?': 'yes'}


@pytest.mark.parametrize(('ids', 'answer'), [((), 'zero'), ((4,), 'one'), ((4, 5), 'two'), ((4, 5, 6, 7), 'three')])
def test_pedestrian_count(ids: tuple[int, ...], answer: str) -> None:
    """Each pedestrian counts once, also where two views show them."""
    people = [pedestrian(number) for number in ids]
    found = truth({'front': [*people, car(1)], 'front left': people[:1], 'back': people[-1:]})
    assert asked(questions.pedestrian_count, found) == {'how many pedestrians are around?': answer}
    assert candidates(questions.pedestrian_count, found) == {NUMBERS}
    assert asked(questions.pedestrian_count, found, (2,)) == {'how many pedestrians are around?': 'zero'}


@pytest.mark.parametrize('reason', ['nothing', 'red light', 'car', 'pedestrian'])
def test_hint_reason(reason: str) -> None:
    found = truth({}, Behavior.STOP, reason, 1)
    assert asked(questions.hint_reason, found) == {'what is the reason to slow down or stop?': reason}
    assert candidates(questions.hint_reason, found) == {('nothing', 'red light', 'car', 'pedestrian')}


def test_reason_view() -> None:
    """The view that shows most of the reason."""
    text = 'which view shows the reason?'
    shown = {'front left': [pedestrian(3, pixels=300)], 'front': [pedestrian(3, pixels=200), pedestrian(4, pixels=900)]}
    found = truth(shown, Behavior.STOP, 'pedestrian', 3)
    assert found.reason_views() == [5, 0]
    assert asked(questions.reason_view, found) == {text: 'front left'}
    assert asked(questions.reason_view, found, (0, 1)) == {text: 'front'}
    assert asked(questions.reason_view, found, (1,)) == {text: 'nothing'}
    assert asked(questions.reason_view, truth(shown)) == {text: 'nothing'}
    assert candidates(questions.reason_view, found) == {(*VIEWS, 'nothing')}


@pytest.mark.parametrize(
    ('behavior', 'answer'),
    [(Behavior.NONE, 'none'), (Behavior.SLOW_DOWN, 'slow down'), (Behavior.STOP, 'stop')],
)
def test_hint(behavior: Behavior, answer: str) -> None:
    found = truth({}, behavior)
    assert asked(questions.hint, found) == {'what should the ego vehicle do?': answer}
    assert candidates(questions.hint, found) == {('none', 'slow down', 'stop')}
    assert [hint_question(found)] == questions.hint(found, ())


def test_questions_on_which_observers_differ_are_not_asked() -> None:
    same = truth({'front': [car(1)]})
    attentive = truth({'front': [car(1)], 'left': [car(2)]})
    found = replace(same, second_opinions=(attentive, same))
    agreed = {question.text for question in unambiguous(questions.car_count, found, ALL_VIEWS)}
    assert agreed == {f'how many cars are in {name}?' for name in VIEWS if name != 'left'}
    inattentive = truth({})
    found = replace(same, second_opinions=(same, inattentive))
    assert 'how many cars are in front?' not in {q.text for q in unambiguous(questions.car_count, found, ALL_VIEWS)}
    careful = replace(same, behavior=Behavior.STOP)
    assert unambiguous(questions.hint, replace(same, second_opinions=(careful, same)), ALL_VIEWS) == []


def test_description() -> None:
    front = [car(1, 'blue', 6.0), car(2, 'red', 9.0), light(3, 'red'), pedestrian(4), pedestrian(5)]
    found = truth(
        {'front': front, 'right': [light(6, 'green')], 'back': [pedestrian(7)]}, Behavior.STOP, 'red light', 3
    )
    assert describe(found) == 'stop for red light. front: red light, blue car, pedestrian. back: pedestrian.'
    assert describe(found, (3,)) == 'stop for red light. back: pedestrian.'
    assert describe(truth({'left': [car(1, 'white')]})) == 'clear ahead. left: white car.'
    assert describe(truth({}, Behavior.SLOW_DOWN, 'car', 1)) == 'slow down for car.'


def test_drawn_questions_follow_the_arguments() -> None:
    found = truth({'front': [car(1, moving=True, speed=5.0), pedestrian(2, sideways=1.0)], 'left': [car(3, 'blue')]})
    rng = np.random.default_rng(0)
    everything = questions_about(found, rng, 300)
    assert len(everything) == 300
    forms = {form: {q.text for q in form(found, ALL_VIEWS)} for form in FORMS}
    times = Counter(form.__name__ for q in everything for form, texts in forms.items() if q.text in texts)
    assert all(times[form.__name__] for form in FORMS if form is not questions.same_car)
    still = questions_about(found, rng, 200, motion=False)
    assert len(still) == 200
    assert not any(q.kind == 'motion' for q in still)
    only = questions_about(found, rng, 200, extra_forms=(questions.car_moves,) * 20)
    assert sum(q.text in forms[questions.car_moves] for q in only) > 80
    assert {q.text for q in questions_about(found, rng, 200, views=(4,))} <= {
        q.text for form in FORMS for q in form(found, (4,))
    }


def test_answers_are_drawn_evenly_before_views() -> None:
    """Five views without a pedestrian do not make 'no' five times as frequent as 'yes'."""
    found = truth({'left': [pedestrian(1)]})
    drawn = [q for q in questions_about(found, np.random.default_rng(1), 1500) if q.text.startswith('is a pedestrian')]
    yes = sum(q.answer == 'yes' for q in drawn) / len(drawn)
    assert yes == pytest.approx(1 / (1 + KEEP_PROBABILITY[questions.pedestrian_present, 'no']), abs=0.1)
    assert len({q.text for q in drawn}) == 6
