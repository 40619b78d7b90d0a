"""Questions about a tick with answers known to be true, of four kinds, and the text that the model should write.

Balanced by construction: a question form is drawn first, then one of the answers it has in this scene, then a view.
Nothing is asked that a keener and a duller observer would answer differently (see truth.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stprune_ros.core.types import Behavior
from stprune_ros.ringworld.truth import DIRECTIONS, Sight, Truth
from stprune_ros.ringworld.world import COLOURS

KINDS = ('perception', 'motion', 'cross-view', 'planning')
HINT_QUESTION = 'what should the ego vehicle do?'
DESCRIBE_QUESTION = 'describe the scene.'
HINT_TEXT = {Behavior.NONE: 'none', Behavior.SLOW_DOWN: 'slow down', Behavior.STOP: 'stop'}
NUMBERS = ('zero', 'one', 'two', 'three')
YES_NO = ('yes', 'no')
SIDEWAYS = 0.5  # m/s from which a pedestrian walks to one side
STANDS, MOVES = 0.1, 1.0  # m/s; what creeps in between is not asked about
NEARER = 1.1, 0.5  # a thing is surely nearest if the next is farther by this factor and by these metres


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its true answer, the closed set of answers, and its kind."""

    kind: str
    text: str
    answer: str
    candidates: tuple[str, ...]


def questions_about(
    truth: Truth,
    rng: np.random.Generator,
    count: int,
    views: tuple[int, ...] = tuple(range(6)),
    motion: bool = True,
    more: tuple[Form, ...] = (),
) -> list[Question]:
    """``count`` questions about one tick with the views ``views``; without ``motion`` none that need history.

    Forms in ``more`` are asked more often, once more for each time they are in it.
    """
    forms = [form for form in FORMS + more if motion or form not in (car_moves, pedestrian_walks)]
    chosen: list[Question] = []
    for _ in range(8 * count):
        if len(chosen) == count:
            break
        form = forms[int(rng.integers(len(forms)))]
        options = clear(form, truth, views)
        if not options:
            continue
        answers = sorted({option.answer for option in options})
        answer = answers[int(rng.integers(len(answers)))]
        if rng.random() > ASKED.get((form, answer), 1.0):
            continue
        same = [option for option in options if option.answer == answer]
        chosen.append(same[int(rng.integers(len(same)))])
    return chosen


def clear(form: Form, truth: Truth, views: tuple[int, ...]) -> list[Question]:
    """The questions of a form on whose answer all observers agree."""
    options = form(truth, views)
    for doubt in truth.doubts:
        agreed = form(doubt, views)
        options = [option for option in options if option in agreed]
    return options


def hint_question(truth: Truth) -> Question:
    """The question behind the planning hint."""
    return Question('planning', HINT_QUESTION, HINT_TEXT[truth.behavior], tuple(HINT_TEXT.values()))


def describe(truth: Truth, views: tuple[int, ...] = tuple(range(6))) -> str:
    """The description: what to do and why, then per view the light, the nearest car and the nearest pedestrian.

    It does not say what moves: the bundled model does not see that well enough to be believed.
    """
    parts = ['clear ahead.' if truth.behavior == Behavior.NONE else f'{HINT_TEXT[truth.behavior]} for {truth.reason}.']
    for index in views:
        said = _say(truth.views[index], index == 0)
        if said:
            parts.append(f'{DIRECTIONS[index]}: {", ".join(said)}.')
    return ' '.join(parts)


def _say(view: tuple[Sight, ...], front: bool) -> list[str]:
    light, car, pedestrian = _nearest(view, 'light'), _nearest(view, 'vehicle'), _nearest(view, 'pedestrian')
    said = [f'{light.state} light'] if front and light else []
    said += [f'{car.colour} car'] if car else []
    return said + (['pedestrian'] if pedestrian else [])


def _nearest(view: tuple[Sight, ...], kind: str) -> Sight | None:
    return next((sight for sight in view if sight.kind == kind), None)


def _surely_nearest(view: tuple[Sight, ...], kind: str) -> Sight | None:
    """The nearest thing of a kind, None if another of other colour or motion is about as near."""
    found = _all(view, kind)
    limit = NEARER[0] * found[0].distance + NEARER[1] if found else 0.0
    looks = [(s.colour, s.moving, s.sideways > 0) for s in found if s.distance < limit]
    return found[0] if len(set(looks)) == 1 else None


def _all(view: tuple[Sight, ...], kind: str) -> list[Sight]:
    return [sight for sight in view if sight.kind == kind]


def car_colour(truth: Truth, views: tuple[int, ...]) -> list[Question]:
    """Colour of the nearest car in a view."""
    found = [(index, _surely_nearest(truth.views[index], 'vehicle')) for index in views]
    return [
        Question('perception', f'what colour is the nearest car in {DIRECTIONS[index]}?', car.colour, COLOURS)
        for index, car in found
        if car
    ]


def car_count(truth: Truth, views: tuple[int, ...]) -> list[Question]:
    """Cars in a view, three standing for three and more."""
    counts = [(index, min(3, len(_all(truth.views[index], 'vehicle')))) for index in views]
    return [
        Question('perception', f'how many cars are in {DIRECTIONS[index]}?', NUMBERS[n], NUMBERS) for index, n in counts
    ]


def pedestrian_there(truth: Truth, views: tuple[int, ...]) -> list[Question]:
    """Whether a view shows a pedestrian."""
    found = [(index, _nearest(truth.views[index], 'pedestrian')) for index in views]
    return [
        Question('perception', f'is a pedestrian in {DIRECTIONS[index]}?', 'yes' if it else 'no', YES_NO)
        for index, it in found
    ]


def light_state(truth: Truth, views: tuple[int, ...]) -> list[Question]:
    """Colour of the traffic light ahead."""
    if 0 not in views:
        return []
    light = _nearest(truth.views[0], 'light')
    answer = light.state if light else 'nothing'
    return [Question('perception', 'what does the traffic light ahead show?', answer, ('red', 'green', 'nothing'))]


def car_view(truth: Truth, views: tuple[int, ...]) -> list[Question]:
    """Which view shows the car of a colour, where only one does."""
    options = []
    for colour in COLOURS:
        having = [
            index for index in views if any(sight.colour == colour for sight in _all(truth.views[index], 'vehicle'))
        ]
        if len(having) == 1:
            options.append(
                Question('perception', f'which view shows a {colour} car?', DIRECTIONS[having[0]], DIRECTIONS)
            )
    return options


def car_moves(truth: Truth, views: tuple[int, ...]) -> list[Question]:
    """Whether the nearest car of a view moves over ground."""
    found = [(index, _surely_nearest(truth.views[index], 'vehicle')) for index in views]
    return [
        Question('motion', f'does the nearest car in {DIRECTIONS[index]} move?', 'yes' if car.moving else 'no', YES_NO)
        for index, car in found
        if car and not STANDS < car.speed < MOVES
    ]


def pedestrian_walks(truth: Truth, views: tuple[int, ...]) -> list[Question]:
    """Which way the nearest pedestrian of a view walks, as seen in that view."""
    options = []
    for index in views:
        it = _surely_nearest(truth.views[index], 'pedestrian')
        if it and (not it.moving or abs(it.sideways) > SIDEWAYS):
            way = 'nowhere' if not it.moving else 'right' if it.sideways > 0 else 'left'
            text = f'which way does the nearest pedestrian in {DIRECTIONS[index]} walk?'
            options.append(Question('motion', text, way, ('left', 'right', 'nowhere')))
    return options


def same_car(truth: Truth, views: tuple[int, ...]) -> list[Question]:
    """Whether the cars nearest to the common edge of two neighbouring views are one car."""
    options = []
    for index in views:
        after = (index + 1) % len(DIRECTIONS)
        here, there = _all(truth.views[index], 'vehicle'), _all(truth.views[after], 'vehicle')
        if after in views and here and there:
            same = max(here, key=lambda s: s.right).id == min(there, key=lambda s: s.left).id
            text = f'is it one car between {DIRECTIONS[index]} and {DIRECTIONS[after]}?'
            options.append(Question('cross-view', text, 'yes' if same else 'no', YES_NO))
    return options


def pedestrian_count(truth: Truth, views: tuple[int, ...]) -> list[Question]:
    """Pedestrians around the ego vehicle, each counted once, three standing for three and more."""
    ids = {sight.id for index in views for sight in _all(truth.views[index], 'pedestrian')}
    return [Question('cross-view', 'how many pedestrians are around?', NUMBERS[min(3, len(ids))], NUMBERS)]


def why(truth: Truth, views: tuple[int, ...]) -> list[Question]:
    """The reason of the hint."""
    candidates = ('nothing', 'red light', 'car', 'pedestrian')
    return [Question('planning', 'what is the reason to slow down or stop?', truth.reason, candidates)]


def reason_view(truth: Truth, views: tuple[int, ...]) -> list[Question]:
    """Which view shows the reason best."""
    shown = [index for index in truth.reason_views() if index in views]
    answer = DIRECTIONS[shown[0]] if shown else 'nothing'
    return [Question('planning', 'which view shows the reason?', answer, (*DIRECTIONS, 'nothing'))]


def what_to_do(truth: Truth, views: tuple[int, ...]) -> list[Question]:
    """The hint itself."""
    return [hint_question(truth)]


Form = Callable[[Truth, tuple[int, ...]], list[Question]]
FORMS: tuple[Form, ...] = (
    car_colour,
    car_count,
    pedestrian_there,
    light_state,
    car_view,
    car_moves,
    pedestrian_walks,
    same_car,
    pedestrian_count,
    what_to_do,
    why,
    reason_view,
)
# How often a drawn question is asked whose answer would otherwise be a good guess (counted over 200 worlds).
ASKED: dict[tuple[Form, str], float] = {
    (car_count, 'zero'): 0.35,
    (car_count, 'one'): 0.45,
    (pedestrian_there, 'no'): 0.6,
    (car_view, 'front'): 0.35,
    (car_view, 'back'): 0.5,
    (same_car, 'yes'): 0.5,
    (pedestrian_count, 'one'): 0.6,
    (pedestrian_count, 'zero'): 0.7,
    (what_to_do, 'stop'): 0.45,
    (what_to_do, 'none'): 0.7,
    (why, 'red light'): 0.6,
    (reason_view, 'front'): 0.4,
}
