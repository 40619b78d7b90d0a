"""Questions about a tick with answers known to be true, of four kinds, and the description that the model should write.

Answers are balanced: a question form is drawn first, then one of the answers that it has in this scene, then a view.
A question is asked only if all observers agree on its answer (see truth.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stprune_ros.core.types import Behavior
from stprune_ros.ringworld.renderer import VIEW_NAMES
from stprune_ros.ringworld.traffic import COLOURS
from stprune_ros.ringworld.truth import NO_REASON, REASONS, SceneTruth, VisibleActor

QUESTION_KINDS = ('perception', 'motion', 'cross-view', 'planning')
HINT_QUESTION = 'what should the ego vehicle do?'
DESCRIBE_QUESTION = 'describe the scene.'
HINT_TEXT = {Behavior.NONE: 'none', Behavior.SLOW_DOWN: 'slow down', Behavior.STOP: 'stop'}
NUMBERS = ('zero', 'one', 'two', 'three')
YES_NO = ('yes', 'no')
ALL_VIEWS = tuple(range(len(VIEW_NAMES)))
MIN_SIDEWAYS = 0.5  # m/s from which a pedestrian walks to one side
STANDING_BELOW, MOVING_ABOVE = 0.1, 1.0  # m/s; a car that creeps in between is not asked about
# A second actor is about as near as the nearest one up to this factor and these metres beyond it.
AS_NEAR_FACTOR, AS_NEAR_METRES = 1.1, 0.5


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its true answer, the closed set of answers, and its kind (one of `QUESTION_KINDS`)."""

    kind: str
    text: str
    answer: str
    candidates: tuple[str, ...]


def questions_about(
    truth: SceneTruth,
    rng: np.random.Generator,
    count: int,
    views: tuple[int, ...] = ALL_VIEWS,
    motion: bool = True,
    extra_forms: tuple[Form, ...] = (),
) -> list[Question]:
    """Up to ``count`` questions about one tick, seen in ``views`` (indices in ring order).

    Without ``motion`` nothing is asked that needs history. ``extra_forms`` are drawn more often, once more for each
    time they are listed. Fewer questions come back where the scene has too few unambiguous ones.
    """
    forms = [form for form in FORMS + extra_forms if motion or form not in MOTION_FORMS]
    chosen: list[Question] = []
    for _ in range(8 * count):
        if len(chosen) == count:
            break
        form = forms[int(rng.integers(len(forms)))]
        options = unambiguous(form, truth, views)
        if not options:
            continue
        answers = sorted({option.answer for option in options})
        answer = answers[int(rng.integers(len(answers)))]
        if rng.random() > KEEP_PROBABILITY.get((form, answer), 1.0):
            continue
        same = [option for option in options if option.answer == answer]
        chosen.append(same[int(rng.integers(len(same)))])
    return chosen


def unambiguous(form: Form, truth: SceneTruth, views: tuple[int, ...]) -> list[Question]:
    """The questions of a form on whose answers all observers agree."""
    options = form(truth, views)
    for opinion in truth.second_opinions:
        agreed = form(opinion, views)
        options = [option for option in options if option in agreed]
    return options


def hint_question(truth: SceneTruth) -> Question:
    """The question behind the planning hint."""
    return Question('planning', HINT_QUESTION, HINT_TEXT[truth.behavior], tuple(HINT_TEXT.values()))


def describe(truth: SceneTruth, views: tuple[int, ...] = ALL_VIEWS) -> str:
    """The description: what to do and why, then per view the light ahead, the nearest car and a pedestrian.

    It does not say what moves: the bundled model does not see that well enough to be believed.
    """
    parts = ['clear ahead.' if truth.behavior == Behavior.NONE else f'{HINT_TEXT[truth.behavior]} for {truth.reason}.']
    for index in views:
        contents = _contents(truth.views[index], front=index == 0)
        if contents:
            parts.append(f'{VIEW_NAMES[index]}: {", ".join(contents)}.')
    return ' '.join(parts)


def _contents(view: tuple[VisibleActor, ...], front: bool) -> list[str]:
    light, car, pedestrian = _nearest(view, 'light'), _nearest(view, 'vehicle'), _nearest(view, 'pedestrian')
    contents = [f'{light.state} light'] if front and light else []
    contents += [f'{car.colour} car'.strip()] if car else []
    return contents + (['pedestrian'] if pedestrian else [])


def _nearest(view: tuple[VisibleActor, ...], kind: str) -> VisibleActor | None:
    return next((actor for actor in view if actor.kind == kind), None)


def _clearly_nearest(view: tuple[VisibleActor, ...], kind: str) -> VisibleActor | None:
    """The nearest actor of a kind; None if one about as near has another colour or moves otherwise."""
    found = _all(view, kind)
    limit = AS_NEAR_FACTOR * found[0].distance + AS_NEAR_METRES if found else 0.0
    appearances = {(actor.colour, actor.moving, actor.sideways > 0) for actor in found if actor.distance < limit}
    return found[0] if len(appearances) == 1 else None


def _all(view: tuple[VisibleActor, ...], kind: str) -> list[VisibleActor]:
    return [actor for actor in view if actor.kind == kind]


def car_colour(truth: SceneTruth, views: tuple[int, ...]) -> list[Question]:
    """Colour of the nearest car in a view."""
    found = [(index, _clearly_nearest(truth.views[index], 'vehicle')) for index in views]
    return [
        Question('perception', f'what colour is the nearest car in {VIEW_NAMES[index]}?', car.colour, COLOURS)
        for index, car in found
        if car and car.colour
    ]


def car_count(truth: SceneTruth, views: tuple[int, ...]) -> list[Question]:
    """Cars in a view, three standing for three and more."""
    counts = [(index, min(3, len(_all(truth.views[index], 'vehicle')))) for index in views]
    return [
        Question('perception', f'how many cars are in {VIEW_NAMES[index]}?', NUMBERS[n], NUMBERS) for index, n in counts
    ]


def pedestrian_present(truth: SceneTruth, views: tuple[int, ...]) -> list[Question]:
    """Whether a view shows a pedestrian."""
    found = [(index, _nearest(truth.views[index], 'pedestrian')) for index in views]
    return [
        Question('perception', f'is a pedestrian in {VIEW_NAMES[index]}?', 'yes' if it else 'no', YES_NO)
        for index, it in found
    ]


def light_state(truth: SceneTruth, views: tuple[int, ...]) -> list[Question]:
    """Colour of the traffic light ahead."""
    if 0 not in views:
        return []
    light = _nearest(truth.views[0], 'light')
    answer = light.state if light else 'nothing'
    return [Question('perception', 'what does the traffic light ahead show?', answer, ('red', 'green', 'nothing'))]


def car_view(truth: SceneTruth, views: tuple[int, ...]) -> list[Question]:
    """Which view shows the car of a colour, where only one does."""
    options = []
    for colour in COLOURS:
        having = [
            index for index in views if any(actor.colour == colour for actor in _all(truth.views[index], 'vehicle'))
        ]
        if len(having) == 1:
            options.append(
                Question('perception', f'which view shows a {colour} car?', VIEW_NAMES[having[0]], VIEW_NAMES)
            )
    return options


def car_moves(truth: SceneTruth, views: tuple[int, ...]) -> list[Question]:
    """Whether the nearest car of a view moves over ground."""
    found = [(index, _clearly_nearest(truth.views[index], 'vehicle')) for index in views]
    return [
        Question('motion', f'does the nearest car in {VIEW_NAMES[index]} move?', 'yes' if car.moving else 'no', YES_NO)
        for index, car in found
        if car and not STANDING_BELOW < car.speed < MOVING_ABOVE
    ]


def pedestrian_walks(truth: SceneTruth, views: tuple[int, ...]) -> list[Question]:
    """Which way the nearest pedestrian of a view walks, as seen in that view."""
    options = []
    for index in views:
        it = _clearly_nearest(truth.views[index], 'pedestrian')
        if it and (not it.moving or abs(it.sideways) > MIN_SIDEWAYS):
            way = 'nowhere' if not it.moving else 'right' if it.sideways > 0 else 'left'
            text = f'which way does the nearest pedestrian in {VIEW_NAMES[index]} walk?'
            options.append(Question('motion', text, way, ('left', 'right', 'nowhere')))
    return options


def same_car(truth: SceneTruth, views: tuple[int, ...]) -> list[Question]:
    """Whether the cars nearest to the common edge of two neighbouring views are one car."""
    options = []
    for index in views:
        after = (index + 1) % len(VIEW_NAMES)
        here, there = _all(truth.views[index], 'vehicle'), _all(truth.views[after], 'vehicle')
        if after in views and here and there:
            same = max(here, key=lambda car: car.right).id == min(there, key=lambda car: car.left).id
            text = f'is it one car between {VIEW_NAMES[index]} and {VIEW_NAMES[after]}?'
            options.append(Question('cross-view', text, 'yes' if same else 'no', YES_NO))
    return options


def pedestrian_count(truth: SceneTruth, views: tuple[int, ...]) -> list[Question]:
    """Pedestrians around the ego vehicle, each counted once, three standing for three and more."""
    ids = {actor.id for index in views for actor in _all(truth.views[index], 'pedestrian')}
    return [Question('cross-view', 'how many pedestrians are around?', NUMBERS[min(3, len(ids))], NUMBERS)]


def hint_reason(truth: SceneTruth, views: tuple[int, ...]) -> list[Question]:
    """The reason of the hint."""
    candidates = (NO_REASON, *REASONS.values())
    return [Question('planning', 'what is the reason to slow down or stop?', truth.reason, candidates)]


def reason_view(truth: SceneTruth, views: tuple[int, ...]) -> list[Question]:
    """Which view shows the reason best."""
    shown = [index for index in truth.reason_views() if index in views]
    answer = VIEW_NAMES[shown[0]] if shown else NO_REASON
    return [Question('planning', 'which view shows the reason?', answer, (*VIEW_NAMES, NO_REASON))]


def hint(truth: SceneTruth, views: tuple[int, ...]) -> list[Question]:
    """The hint itself."""
    return [hint_question(truth)]


Form = Callable[[SceneTruth, tuple[int, ...]], list[Question]]
FORMS: tuple[Form, ...] = (
    car_colour,
    car_count,
    pedestrian_present,
    light_state,
    car_view,
    car_moves,
    pedestrian_walks,
    same_car,
    pedestrian_count,
    hint,
    hint_reason,
    reason_view,
)
MOTION_FORMS = (car_moves, pedestrian_walks)  # need more than one frame
# How often a drawn question is kept whose answer would otherwise be a good guess (tuned on 200 worlds).
KEEP_PROBABILITY: dict[tuple[Form, str], float] = {
    (car_count, 'zero'): 0.35,
    (car_count, 'one'): 0.45,
    (pedestrian_present, 'no'): 0.6,
    (car_view, 'front'): 0.35,
    (car_view, 'back'): 0.5,
    (same_car, 'yes'): 0.5,
    (pedestrian_count, 'one'): 0.6,
    (pedestrian_count, 'zero'): 0.7,
    (hint, 'stop'): 0.45,
    (hint, 'none'): 0.7,
    (hint_reason, 'red light'): 0.6,
    (reason_view, 'front'): 0.4,
}
