"""A drive to look at: the map of its film, and what its page shows step by step."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stprune_ros.core.types import Behavior
from stprune_ros.driving import film
from stprune_ros.driving.drive import run_drive
from stprune_ros.driving.files import drive_as_json
from stprune_ros.driving.film import CAR_COLOUR, EGO_COLOUR, GREEN, PEDESTRIAN_COLOUR, RED, SIDE, road_picture
from stprune_ros.driving.guides import NoHints
from stprune_ros.driving.page import MAX_WORLDS, replayed, worlds_to_show
from stprune_ros.driving.plan import NO_HINTS, TRUE_HINTS, DrivePlan, Source
from stprune_ros.driving.planner import Planner
from stprune_ros.driving.record import Drive, Event, Step
from stprune_ros.ringworld.route import BLOCK
from stprune_ros.ringworld.traffic import PEDESTRIAN_SIZE, VEHICLE_SIZE, Actor
from stprune_ros.ringworld.world import Ego, Snapshot

SEED, HEIGHT, SCALE = 930_016, 300, SIDE / 40
PLAN = DrivePlan((Source(NO_HINTS), Source(TRUE_HINTS)), range(40), 'ringworld', 3.0, 2.0)


def seen(picture: np.ndarray, ahead: float, left: float) -> tuple[int, ...]:
    """The colour so many metres ahead of base_link, and to its left."""
    row, column = round(0.72 * HEIGHT - SCALE * ahead), round(SIDE / 2 - SCALE * left)
    return tuple(picture[row, column].tolist())


@pytest.mark.parametrize('turned', [False, True])
@pytest.mark.parametrize('red', [(True, False), (False, True)])
def test_the_map_has_the_way_of_the_ego_vehicle_up(turned: bool, red: tuple[bool, bool]) -> None:
    """16 m before a crossing, on the first road or, turned, on the one across."""
    x, y, yaw = (1.75, BLOCK - 16.0, np.pi / 2) if turned else (BLOCK - 16.0, -1.75, 0.0)

    def at(ahead: float, left: float) -> tuple[float, float]:
        return (x - left, y + ahead) if turned else (x + ahead, y + left)

    car = Actor(1, 'vehicle', 'red', *at(12.0, 4.0), yaw, *VEHICLE_SIZE)
    person = Actor(2, 'pedestrian', 'red', *at(8.0, -6.0), yaw, *PEDESTRIAN_SIZE)
    far = Actor(3, 'vehicle', 'red', *at(20.0, 20.1), yaw, *VEHICLE_SIZE)
    picture = road_picture(Snapshot(0.0, Ego(x, y, yaw, 5.0, 0.0), (car, person, far), 0), red, HEIGHT)
    assert picture.shape == (HEIGHT, SIDE, 3)
    assert seen(picture, 12.0, 4.0) == CAR_COLOUR
    assert seen(picture, 8.0, -6.0) == PEDESTRIAN_COLOUR
    assert seen(picture, 1.4, 0.0) == EGO_COLOUR
    assert seen(picture, 12.0, -4.0) not in (CAR_COLOUR, PEDESTRIAN_COLOUR)
    own, other = (RED if red[turned] else GREEN), (RED if red[not turned] else GREEN)
    assert seen(picture, 16.0 - 9.2, 0.0) == own  # where this lane stops
    assert seen(picture, 16.0 + 9.2, 3.5) == own  # and the oncoming one
    assert seen(picture, 16.0 - 1.75, 1.75 + 9.2) == other


def test_the_caption_says_what_has_happened_so_far() -> None:
    def caption(*events: Event) -> np.ndarray:
        picture = np.full((HEIGHT, SIDE, 3), 90, np.uint8)
        drive = Drive(SEED, 3.0, events=list(events))
        film._caption(picture, drive, Step(1.0, 0.0, 0.0, 0.0, 5.0, 3.0, 4.0, Behavior.STOP, 5.0))
        return picture

    hit = Event(1.0, 'pedestrian')
    assert np.array_equal(caption(), caption(Event(1.05, 'pedestrian')))
    assert not np.array_equal(caption(), caption(hit))
    assert np.array_equal(caption(hit, hit), caption(Event(0.1, 'red light'), hit, hit))  # the last two


def test_the_page_shows_each_step_as_the_drive_was() -> None:
    world = PLAN.new_world(SEED)
    drive = run_drive(world, Planner(heeds=False), NoHints(), 2.0)
    ticks = [{'t': 0.0, 'truth': 'STOP'}, {'t': 0.5, 'truth': 'NONE'}]
    read = {**json.loads(json.dumps(drive_as_json(drive))), 'ticks': ticks}
    shown = replayed(PLAN, SEED, Source(NO_HINTS), read, 1000.0)
    assert shown['t'] == [0.25 * step for step in range(12)]
    assert shown['truth'] == ['STOP', 'STOP', *['NONE'] * 10]
    assert shown['speed'] == [round(step.speed, 1) for step in drive.steps[::5]]
    assert shown['events'] == [{'t': 2.2, 'kind': 'vehicle ahead', 'actor': drive.events[0].actor}]
    assert shown['red'] == [[0, 1], *[[1]] * 11]  # both, and then the first road has green
    hit = shown['actors'][8]  # those near, lights left out, at 2 s
    assert len(hit) == len({tuple(one) for one in hit})
    assert {kind for kind, *_ in hit} == {0, 1}


def test_the_hints_of_a_page_end_as_those_of_the_drive() -> None:
    hint = {'t': 0.0, 'out': 0.0, 'status': 'OK', 'hint': 'STOP', 'confidence': 1.0, 'kept': 0, 'full': 0}
    read = {'hints': [hint], 'ticks': [], 'events': [], 'measures': {}}
    shown = replayed(PLAN, SEED, Source(TRUE_HINTS), read, 700.0)
    assert shown['hint'] == ['UNKNOWN', 'STOP', 'STOP', *['UNKNOWN'] * 9]
    assert shown['truth'] == ['UNKNOWN'] * 12
    assert replayed(PLAN, SEED, Source(NO_HINTS), read, 700.0)['limit'] != shown['limit']


def test_what_happens_without_hints_does_not_choose_the_worlds_of_a_page() -> None:
    found = {(seed, name): {'measures': {'collisions': 0}} for seed in PLAN.seeds for name in (NO_HINTS, TRUE_HINTS)}
    for seed in range(20):
        found[seed, NO_HINTS]['measures']['collisions'] = 3
    for seed in range(21, 37):
        found[seed, TRUE_HINTS]['measures']['collisions'] = 1
    assert worlds_to_show(PLAN, found, []) == [*range(21, 37)]
    assert worlds_to_show(PLAN, found, [2]) == [2, *range(21, 36)]
    assert len(worlds_to_show(PLAN, found, range(20))) == 20 > MAX_WORLDS
