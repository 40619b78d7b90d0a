"""What is true of a snapshot: hazards, observers who differ, and what a view shows; against snapshots by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from stprune_ros.core.types import Behavior
from stprune_ros.ringworld.recording import truth_as_json
from stprune_ros.ringworld.renderer import HEIGHT, RING, WIDTH, RenderedView, render_view
from stprune_ros.ringworld.route import FRONT_BUMPER, LANE
from stprune_ros.ringworld.scenes import draw_time, token_truth
from stprune_ros.ringworld.shapes import GREEN_LIGHT, PEDESTRIAN, POLE, RED_LIGHT, SKY, VEHICLE
from stprune_ros.ringworld.traffic import Actor
from stprune_ros.ringworld.truth import (
    ATTENTIVE,
    INATTENTIVE,
    REFERENCE,
    VisibleActor,
    hazard,
    judge,
    scene_truth,
    visible_actors,
)
from stprune_ros.ringworld.world import Ego, Snapshot, World

EGO = Ego(10.0, -LANE, 0.0, 5.0, 0.0)
SIZES = {'vehicle': (4.4, 1.9, 1.6), 'pedestrian': (0.5, 0.55, 1.75), 'light': (0.4, 1.2, 5.6)}
STOP, SLOW, NONE = Behavior.STOP, Behavior.SLOW_DOWN, Behavior.NONE


def ahead(kind: str, gap: float, aside: float = 0.0, yaw: float = 0.0, ego: Ego = EGO, **more: object) -> Actor:
    """An actor whose near side is ``gap`` metres before the front bumper and ``aside`` to the left; yaw against ego."""
    half = {'vehicle': 2.2, 'pedestrian': 0.25, 'light': 0.0}[kind]
    x, y = FRONT_BUMPER + gap + half, aside
    c, s = math.cos(ego.yaw), math.sin(ego.yaw)
    where = (ego.x + c * x - s * y, ego.y + s * x + c * y, ego.yaw + yaw)
    return Actor(0, kind, 'red', *where, *SIZES[kind], **more)  # type: ignore[arg-type]


def red_light(gap: float, aside: float = -4.2, state: str = 'red', yaw: float = math.pi, ego: Ego = EGO) -> Actor:
    """A light that faces the ego vehicle, ``gap`` metres before whose stop line the ego vehicle is."""
    return ahead('light', gap + 9.0 + 9.2, aside, yaw, ego, state=state)


def snapshot(*actors: Actor, ego: Ego = EGO) -> Snapshot:
    return Snapshot(0.0, ego, tuple(replace(actor, id=number) for number, actor in enumerate(actors)), seed=1)


@pytest.fixture(scope='module')
def world() -> World:
    return World(0, 1.0)


def hint(world: World, *actors: Actor, ego: Ego = EGO, scale: float = 1.0) -> tuple[Behavior, int | None]:
    """Behavior, and the index of the actor that is its reason; all are visible."""
    behavior, reason, gap = hazard(world, snapshot(*actors, ego=ego), set(range(len(actors))), scale)
    assert (reason is None) == (behavior == NONE) == math.isinf(gap)
    return behavior, reason.id if reason else None


@pytest.mark.parametrize('yaw', [0.0, 1.0, math.pi / 2, -2.0])
@pytest.mark.parametrize('kind', ['vehicle', 'pedestrian'])
def test_limits_count_from_bumper_to_near_side(world: World, kind: str, yaw: float) -> None:
    """Whichever way the ego vehicle heads."""
    ego = replace(EGO, yaw=yaw)
    assert hint(world, ahead(kind, 11.9, ego=ego), ego=ego) == (STOP, 0)
    assert hint(world, ahead(kind, 12.1, ego=ego), ego=ego) == (SLOW, 0)
    assert hint(world, ahead(kind, 25.9, ego=ego), ego=ego) == (SLOW, 0)
    assert hint(world, ahead(kind, 26.1, ego=ego), ego=ego) == (NONE, None)


def test_a_vehicle_across_the_lane_is_as_long_as_it_is_wide(world: World) -> None:
    across = ahead('vehicle', 10.0, yaw=math.pi / 2)
    assert hazard(world, snapshot(across), {0})[2] == pytest.approx(10.0 + 2.2 - 0.95)
    oncoming = ahead('vehicle', 10.0, yaw=math.pi)
    assert hazard(world, snapshot(oncoming), {0})[2] == pytest.approx(10.0)


@pytest.mark.parametrize(('aside', 'expected'), [(1.85, STOP), (-1.85, STOP), (1.95, NONE), (-1.95, NONE)])
def test_only_the_corridor_counts(world: World, aside: float, expected: Behavior) -> None:
    assert hint(world, ahead('pedestrian', 5.0, aside))[0] == expected


def test_what_is_beside_or_behind_is_no_hazard(world: World) -> None:
    at_axle = replace(ahead('pedestrian', 0.0), x=EGO.x + FRONT_BUMPER - 1.1)
    assert hint(world, at_axle) == (NONE, None)
    assert hint(world, replace(at_axle, x=EGO.x - 10.0)) == (NONE, None)
    touching = replace(at_axle, x=EGO.x + FRONT_BUMPER - 0.9)
    assert hazard(world, snapshot(touching), {0})[::2] == (STOP, 0.0)


def test_a_vehicle_that_drives_ahead_is_only_followed(world: World) -> None:
    assert hint(world, ahead('vehicle', 11.0, vx=2.1)) == (SLOW, 0)
    assert hint(world, ahead('vehicle', 11.0, vx=1.9)) == (STOP, 0)
    assert hint(world, ahead('vehicle', 13.0, vx=2.1)) == (NONE, None)
    assert hint(world, ahead('vehicle', 11.0, vx=-5.0)) == (STOP, 0)
    assert hint(world, ahead('pedestrian', 11.0, vx=2.1)) == (STOP, 0)
    north = replace(EGO, yaw=math.pi / 2)
    assert hint(world, ahead('vehicle', 11.0, ego=north, vy=5.0), ego=north) == (SLOW, 0)
    assert hint(world, ahead('vehicle', 11.0, ego=north, vx=5.0), ego=north) == (STOP, 0)


def test_a_red_light_counts_from_its_stop_line(world: World) -> None:
    assert hint(world, red_light(11.9)) == (STOP, 0)
    assert hint(world, red_light(12.1)) == (SLOW, 0)
    assert hint(world, red_light(26.1)) == (NONE, None)
    assert hint(world, red_light(5.0, state='green')) == (NONE, None)
    assert hint(world, red_light(5.0, yaw=math.pi / 2)) == (NONE, None)
    assert hint(world, red_light(5.0, yaw=0.0)) == (NONE, None)
    assert hint(world, red_light(5.0, aside=18.5)) == (NONE, None)
    assert hint(world, red_light(5.0, aside=-17.5)) == (STOP, 0)
    assert hazard(world, snapshot(red_light(-1.5)), {0})[::2] == (STOP, 0.0)  # stopped just behind the line
    assert hint(world, red_light(-2.5)) == (NONE, None)  # passed
    turning = replace(EGO, yaw_rate=0.1)
    assert hint(world, red_light(5.0, ego=turning), ego=turning) == (NONE, None)


def test_the_strongest_hint_wins_then_the_nearest(world: World) -> None:
    slow_near, stop = ahead('vehicle', 3.0, vx=5.0), red_light(11.0)
    assert hint(world, slow_near, stop) == (STOP, 1)
    assert hint(world, stop, ahead('pedestrian', 10.0)) == (STOP, 1)
    assert hint(world, stop, ahead('pedestrian', 11.5)) == (STOP, 0)
    assert hint(world, ahead('vehicle', 20.0), ahead('pedestrian', 15.0)) == (SLOW, 1)


def test_nobody_brakes_for_what_is_not_seen(world: World) -> None:
    both = snapshot(ahead('pedestrian', 5.0), ahead('vehicle', 15.0))
    assert hazard(world, both, {0, 1})[0] == STOP
    behavior, reason, gap = hazard(world, both, {1})
    assert (behavior, reason, gap) == (SLOW, both.actors[1], pytest.approx(15.0))
    assert hazard(world, both, set()) == (NONE, None, math.inf)


@pytest.mark.parametrize(('turn', 'sign'), [('left', 1.0), ('right', -1.0)])
def test_a_turning_vehicle_looks_round_the_corner(turn: str, sign: float) -> None:
    """The corridor follows the route while the yaw rate is not zero, and is straight otherwise."""
    world = next(w for w in (World(seed, 14.0) for seed in range(60)) if w.maneuver == turn and _turning(w))
    t = _turning(world)
    ego = world.snapshot(t).ego
    assert ego.yaw_rate * sign > 0.05
    x, y, _ = world.route.pose(world.progress(t) + 9.0)
    person = Actor(0, 'pedestrian', 'red', x, y, 0.0, *SIZES['pedestrian'])
    behavior, _, gap = hazard(world, Snapshot(t, ego, (person,), 1), {0})
    assert behavior == STOP
    assert gap == pytest.approx(9.0 - 0.25 - FRONT_BUMPER, abs=0.3)
    assert hazard(world, Snapshot(t, replace(ego, yaw_rate=0.0), (person,), 1), {0})[0] == NONE
    straight_on = ahead('pedestrian', 8.0, ego=ego)
    assert hazard(world, Snapshot(t, ego, (straight_on,), 1), {0})[0] == NONE


def _turning(world: World) -> float:
    """A time shortly after the bend began; 0 if there is none."""
    return next((float(t) for t in np.arange(0.5, 13.5, 0.1) if abs(world.snapshot(float(t)).ego.yaw) > 0.3), 0.0)


def seen(number: int, kind: str, pixels: int) -> VisibleActor:
    return VisibleActor(number, kind, '', '', pixels, 0.0, 0.0, 0, 0, 10.0, False, 0.0, 0.0)


@pytest.mark.parametrize(('kind', 'usual'), [('vehicle', 120), ('pedestrian', 120), ('light', 16)])
def test_observers_need_more_or_fewer_pixels(world: World, kind: str, usual: int) -> None:
    for observer, needed in ((REFERENCE, usual), (ATTENTIVE, usual // 2), (INATTENTIVE, usual * 3 // 2)):
        view = (seen(0, kind, needed), seen(1, kind, needed - 1))
        truth = judge(world, snapshot(), [view, (), (), (), (), ()], observer)
        assert [actor.id for actor in truth.views[0]] == [0]


@pytest.mark.parametrize(
    ('gap', 'attentive', 'usual', 'inattentive'),
    [
        (11.0, STOP, STOP, STOP),
        (11.5, STOP, STOP, SLOW),
        (12.5, STOP, SLOW, SLOW),
        (13.0, SLOW, SLOW, SLOW),
        (25.0, SLOW, SLOW, NONE),
        (27.0, SLOW, NONE, NONE),
    ],
)
def test_observers_take_limits_differently(
    world: World, gap: float, attentive: Behavior, usual: Behavior, inattentive: Behavior
) -> None:
    now = snapshot(ahead('pedestrian', gap))
    views = [(seen(0, 'pedestrian', 500),), (), (), (), (), ()]
    found = [judge(world, now, views, observer).behavior for observer in (ATTENTIVE, REFERENCE, INATTENTIVE)]
    assert found == [attentive, usual, inattentive]


@pytest.mark.parametrize(
    ('aside', 'behaviors'), [(1.6, [STOP, STOP, STOP]), (1.8, [STOP, STOP, NONE]), (2.0, [STOP, NONE, NONE])]
)
def test_observers_take_the_corridor_differently(world: World, aside: float, behaviors: list[Behavior]) -> None:
    now = snapshot(ahead('pedestrian', 5.0, aside))
    views = [(seen(0, 'pedestrian', 500),), (), (), (), (), ()]
    assert [judge(world, now, views, o).behavior for o in (ATTENTIVE, REFERENCE, INATTENTIVE)] == behaviors


def test_a_reason_has_its_name(world: World) -> None:
    for actor, name in ((ahead('vehicle', 5.0), 'car'), (ahead('pedestrian', 5.0), 'pedestrian')):
        truth = judge(world, snapshot(actor), [(seen(0, actor.kind, 500),)], REFERENCE)
        assert (truth.reason, truth.reason_id, truth.gap) == (name, 0, pytest.approx(5.0))
    truth = judge(world, snapshot(red_light(5.0)), [(seen(0, 'light', 20),)], REFERENCE)
    assert (truth.reason, truth.reason_id, truth.gap) == ('red light', 0, pytest.approx(5.0))
    truth = judge(world, snapshot(), [()], REFERENCE)
    assert (truth.behavior, truth.reason, truth.reason_id, truth.gap) == (NONE, 'nothing', -1, math.inf)
    assert (truth.speed, truth.yaw_rate) == (EGO.speed, EGO.yaw_rate)


def blank_view() -> RenderedView:
    shape = (HEIGHT, WIDTH)
    return RenderedView(
        np.zeros((*shape, 3), np.uint8), np.full(shape, SKY, np.uint8), np.full(shape, -1, np.int16), np.ones(shape)
    )


def paint(view: RenderedView, rows: slice, columns: slice, number: int, kind: int) -> None:
    view.actor_ids[rows, columns], view.classes[rows, columns] = number, kind


def test_pixels_of_a_view_become_visible_actors() -> None:
    """Right of the ego vehicle looks the third camera: +x there is to the left of the picture."""
    near = replace(ahead('vehicle', 0.0), x=EGO.x + 3.0, y=EGO.y - 4.0, vx=2.0)
    person = replace(ahead('pedestrian', 0.0), x=EGO.x, y=EGO.y - 10.0, vx=-1.0)
    lamp = red_light(20.0)
    hidden = replace(near, x=EGO.x + 1.0)
    now = snapshot(person, near, lamp, hidden)
    view = blank_view()
    paint(view, slice(100, 110), slice(40, 60), 1, VEHICLE)
    paint(view, slice(50, 60), slice(200, 206), 0, PEDESTRIAN)
    paint(view, slice(10, 12), slice(90, 94), 2, RED_LIGHT)
    paint(view, slice(12, 40), slice(91, 93), 2, POLE)  # a post is not the lamp
    paint(view, slice(150, 155), slice(0, 11), 3, VEHICLE)  # 55 pixels: under half of 120
    right = RING[2]
    found = visible_actors(now, right, view)
    assert [(actor.id, actor.kind, actor.pixels) for actor in found] == [
        (1, 'vehicle', 200),
        (0, 'pedestrian', 60),
        (2, 'light', 8),
    ]
    car, walker, _ = found
    assert (car.left, car.right, car.u, car.v) == (40, 59, 49.5, 104.5)
    assert (car.distance, car.speed, car.moving) == (pytest.approx(5.0), pytest.approx(2.0), True)
    assert car.sideways == pytest.approx(2.0 * math.cos(right.azimuth - math.pi / 2))
    assert car.sideways < -1.0 < 0.9 < walker.sideways
    assert found[2].state == 'red'


def test_sideways_is_where_an_actor_goes_in_the_picture() -> None:
    """Rendered twice, a walker's pixels move to the side that the truth names, in every view."""
    for camera in RING:
        heading = camera.azimuth
        x, y = EGO.x + 1.3 + 8.0 * math.cos(heading), EGO.y + 8.0 * math.sin(heading)
        for velocity in ((1.0, 0.0), (0.0, 1.0)):
            person = replace(ahead('pedestrian', 0.0), x=x, y=y, vx=velocity[0], vy=velocity[1])
            later = replace(person, x=x + 0.3 * velocity[0], y=y + 0.3 * velocity[1])
            before, after = (
                visible_actors(snapshot(actor), camera, render_view(snapshot(actor), camera))[0]
                for actor in (person, later)
            )
            if abs(before.sideways) > 0.3:
                assert (after.u - before.u) * before.sideways > 0


def test_truth_of_a_snapshot_holds_two_more_opinions(world: World) -> None:
    person = ahead('pedestrian', 12.5)
    now = snapshot(person)
    rendered = [render_view(now, camera) for camera in RING]
    truth = scene_truth(world, now, RING, rendered)
    assert truth.behavior == SLOW
    assert [opinion.behavior for opinion in truth.second_opinions] == [STOP, SLOW]
    assert truth.reason_views() == [0]
    assert all(opinion.second_opinions == () for opinion in truth.second_opinions)
    assert [len(view) for view in truth.views] == [1, 0, 0, 0, 0, 0]


def test_truth_file_says_what_is_true(world: World) -> None:
    now = snapshot(ahead('vehicle', 8.0), red_light(20.0))
    truth = scene_truth(world, now, RING, [render_view(now, camera) for camera in RING])
    tick = truth_as_json(replace(truth, t=1.5))
    assert tick['stamp_ns'] == 1_700_000_001_500_000_000
    assert (tick['behavior'], tick['reason'], tick['reason_id'], tick['gap']) == ('STOP', 'car', 0, 8.0)
    assert tick['reason_views'] == ['front']
    assert (tick['speed'], tick['yaw_rate']) == (5.0, 0.0)
    assert tick['description'] == 'stop for car. front: red light, red car.'
    car, light = tick['views']['CAM_FRONT']
    pixels = [actor.pixels for actor in truth.views[0]]
    assert car == {
        'id': 0,
        'kind': 'vehicle',
        'colour': 'red',
        'pixels': pixels[0],
        'distance': 13.8,
        'moving': False,
    }
    assert (light['kind'], light['state'], 'colour' in light) == ('light', 'red', False)
    assert [name for name, view in tick['views'].items() if view] == ['CAM_FRONT']
    assert truth_as_json(replace(truth, gap=math.inf))['gap'] is None


class HalfAndHalf:
    """A world in which a pedestrian blocks the way in the first half, a car in the second, and nothing in the end."""

    seconds = 9.0

    def snapshot(self, t: float) -> Snapshot:
        return snapshot(*([ahead('pedestrian', 5.0)] if t < 4.0 else [ahead('vehicle', 5.0)] if t < 8.0 else []))


def test_times_are_drawn_by_behavior_and_pedestrians_six_times_as_often() -> None:
    rng = np.random.default_rng(0)
    stops = [draw_time(HalfAndHalf(), 2, rng, 0.0) for _ in range(300)]  # type: ignore[arg-type]
    assert max(stops) < 8.0
    assert np.mean(np.array(stops) < 4.0) == pytest.approx(6 / 7, abs=0.06)
    clear = [draw_time(HalfAndHalf(), 3, rng, 0.0) for _ in range(50)]  # type: ignore[arg-type]
    assert np.mean(np.array(clear) >= 8.0) > 0.9  # unless none of forty times is clear
    assert min(draw_time(HalfAndHalf(), 2, rng, 7.0) for _ in range(20)) >= 7.0  # type: ignore[arg-type]


def test_dense_truth_of_a_view(world: World) -> None:
    """Patches are 32 x 32 pixels of the rendered picture: row 2, column 3 is patch 23."""
    car = replace(ahead('vehicle', 8.0), colour='white', yaw=math.pi / 2)
    person = ahead('pedestrian', 5.0, 1.0, vy=-1.0)
    now = snapshot(car, person)
    view = blank_view()
    view.depth[:] = 10.0
    paint(view, slice(64, 96), slice(96, 144), 0, VEHICLE)  # patch 23 wholly, half of patch 24
    paint(view, slice(64, 96), slice(112, 120), 1, PEDESTRIAN)  # a quarter of patch 23
    paint(view, slice(96, 104), slice(96, 97), 1, PEDESTRIAN)  # 8 pixels are too few
    actors = visible_actors(now, RING[0], view)
    truth = judge(world, now, [actors, actors, (), (), (), ()], REFERENCE)
    dense = token_truth(view, now, truth, 0)
    assert truth.reason_id == 1
    assert np.flatnonzero(dense['kind'] >= 0).tolist() == [23, 24]
    assert (dense['kind'][23], dense['actor'][23], dense['colour'][23]) == (0, 0, 2)
    assert dense['share'][23, [VEHICLE, PEDESTRIAN]].tolist() == [191, 64]
    assert dense['moving'][[23, 24, 25]].tolist() == [0, 0, -1]
    assert (dense['nearest'][23], dense['copy'][23], dense['reason'][23], dense['side'][23]) == (1, 0, 0, -1)
    assert token_truth(view, now, truth, 1)['copy'][23] == 1
    angle = math.pi / 2 - math.atan2(0.0, car.x - EGO.x)
    assert dense['heading'][23].tolist() == pytest.approx([math.cos(angle), math.sin(angle)], abs=1e-3)
    assert dense['position'][24, 0] == pytest.approx((135.5 - (4 * 32 + 15.5)) / 16, abs=0.01)
    assert dense['position'][23, 2] == pytest.approx((actors[1].u - (3 * 32 + 15.5)) / 32, abs=0.01)
    assert dense['position'][23, 3] == pytest.approx((actors[1].v - (2 * 32 + 15.5)) / 32, abs=0.01)
    assert dense['position'][24, 4] == pytest.approx(math.log(10.0 / RING[0].focal), abs=0.01)
    assert set(np.flatnonzero(dense['anchor']).tolist()) == {23}
    for lamp, kind in ((RED_LIGHT, 2), (GREEN_LIGHT, 3)):
        view = blank_view()
        paint(view, slice(0, 8), slice(0, 8), 0, lamp)
        state = {2: 'red', 3: 'green'}[kind]
        now = snapshot(red_light(5.0, state=state))
        truth = judge(world, now, [visible_actors(now, RING[0], view), (), (), (), (), ()], REFERENCE)
        dense = token_truth(view, now, truth, 0)
        assert (dense['kind'][0], dense['moving'][0], dense['nearest'][0]) == (kind, -1, -1)
        assert dense['reason'][0] == (2 if state == 'red' else 0)


def test_dense_truth_of_a_walker(world: World) -> None:
    for vy, side in ((-1.0, 1), (1.0, 0), (0.0, 2)):  # y is to the left of the front view
        now = snapshot(ahead('pedestrian', 15.0, vy=vy))
        view = blank_view()
        paint(view, slice(64, 96), slice(96, 128), 0, PEDESTRIAN)
        truth = judge(world, now, [visible_actors(now, RING[0], view), (), (), (), (), ()], REFERENCE)
        dense = token_truth(view, now, truth, 0)
        assert (dense['kind'][23], dense['side'][23], dense['reason'][23], dense['colour'][23]) == (1, side, 1, -1)
