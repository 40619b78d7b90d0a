"""A drive to look at: the map of its film, and what its page shows step by step."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from helpers.answers import make_answer

from stprune_ros.core.types import Behavior
from stprune_ros.driving import film
from stprune_ros.driving.drive import run_drive
from stprune_ros.driving.files import drive_as_json
from stprune_ros.driving.film import CAR_COLOUR, EGO_COLOUR, GREEN, PEDESTRIAN_COLOUR, RED, SIDE, road_picture
from stprune_ros.driving.guides import NoHints
from stprune_ros.driving.measures import MEASURES
from stprune_ros.driving.page import MAX_WORLDS, drive_page, replayed, worlds_to_show
from stprune_ros.driving.plan import ALL_TOKENS, NO_HINTS, TRUE_HINTS, DrivePlan, Source, sources_of
from stprune_ros.driving.planner import Planner
from stprune_ros.driving.record import Drive, Event, Step
from stprune_ros.driving.summary import summarize
from stprune_ros.ringworld.recording import START_NS
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
    chosen = drive.steps[::5]
    assert shown['limit'] == [round(step.limit, 1) for step in chosen]
    assert shown['ttc'] == [round(step.ttc, 1) for step in chosen] and len({*shown['ttc']}) > 2
    assert shown['ego'] == [(round(step.x, 1), round(step.y, 1), round(step.yaw, 2)) for step in chosen]
    ahead = next(actor for actor in world.snapshot(0.0).actors if actor.id == drive.events[0].actor)
    assert (round(ahead.x, 1), round(ahead.y, 1)) in [place[1:3] for place in shown['actors'][0]]
    hit = shown['actors'][8]  # those near, lights left out, at 2 s
    assert len(hit) == len({tuple(one) for one in hit})
    assert {kind for kind, *_ in hit} == {0, 1}


def test_a_picture_of_a_film_shows_the_moment_of_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    world = PLAN.new_world(SEED)
    drive = run_drive(world, Planner(heeds=False), NoHints(), 2.0)
    seen: list[tuple[float, list[bool]]] = []
    steps: list[float] = []

    def road(snapshot: Snapshot, red: list[bool], height: int) -> np.ndarray:
        seen.append((snapshot.t, red))
        return np.zeros((height, SIDE, 3), np.uint8)

    monkeypatch.setattr(film, 'ring_picture', lambda *_: np.zeros((HEIGHT, HEIGHT, 3), np.uint8))
    monkeypatch.setattr(film, 'overlap_columns', lambda *_: [])
    monkeypatch.setattr(film, 'road_picture', road)
    monkeypatch.setattr(film, '_caption', lambda picture, drive, step: steps.append(step.t))
    for t in (0.0, 0.5, 2.97):
        answer = make_answer(stamp_ns=START_NS + round(t * 1e9))
        shape = film.frame_picture(answer, drive, world, None).shape  # type: ignore[arg-type]
        assert shape == (round(film.SCALE * HEIGHT), round(film.SCALE * HEIGHT) + SIDE, 3)
    assert [t for t, _ in seen] == pytest.approx([0.0, 0.5, 2.97])
    assert [red for _, red in seen] == [[True, True], [False, True], [False, True]]
    assert steps == pytest.approx([0.0, 0.5, 2.95]), 'the last one at the very end'


@pytest.mark.parametrize(
    ('worlds', 'minus', 'caption'),
    [
        (2, '+2.00 [+2.00, +2.00]', 'Paired differences over the same worlds, with 95 % interval'),
        (1, '+2.00', 'Differences in one world, which gives no interval'),
    ],
)
def test_the_tables_of_a_page_are_means_and_what_differs_from_all_tokens(worlds: int, minus: str, caption: str) -> None:
    plan = DrivePlan(sources_of(('uniform',), (0.1,)), range(worlds), 'ringworld', 1.0, 2.0)
    worth = {NO_HINTS: 9.0, TRUE_HINTS: 1.0, ALL_TOKENS: 2.0, 'uniform 0.1': 4.0, 'random 0.1': 8.0}
    read = {'hints': [], 'ticks': [], 'events': []}
    found = {
        (seed, source.name): {**read, 'measures': dict.fromkeys(MEASURES, worth[source.name])}
        for seed in plan.seeds
        for source in plan.sources
    }
    ran = {'seconds': 1.0, 'world': 'ringworld', 'profile': 'none', 'valid_for_ms': 1000.0, 'model': ['m', '1']}
    html = drive_page(plan, summarize(plan, ran, found), found, [], '')
    cells = re.findall(r'<th scope="row">uniform 0.1</th><td>(.*?)</td>', html)
    assert cells == ['4.00', minus] and f'<caption>{caption}</caption>' in html


def test_the_hints_of_a_page_end_as_those_of_the_drive() -> None:
    hint = {'t': 0.0, 'out': 0.0, 'status': 'OK', 'hint': 'STOP', 'confidence': 1.0, 'kept': 0, 'full': 0}
    read = {'hints': [hint], 'ticks': [], 'events': [], 'measures': {}}
    shown = replayed(PLAN, SEED, Source(TRUE_HINTS), read, 700.0)
    assert shown['hint'] == ['UNKNOWN', 'STOP', 'STOP', *['UNKNOWN'] * 9]
    assert shown['limit'] == [4.0, 0.0, 0.0, *[4.0] * 9], 'which is not the speed'
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
