"""The hard world: it repeats by seed, weather and kerbside things hide others, and only what is seen is asked about."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stprune_ros.ringworld import questions
from stprune_ros.ringworld.paints import CARS, draw_paint
from stprune_ros.ringworld.recording import record_world
from stprune_ros.ringworld.renderer import RING, RenderedView, render_view
from stprune_ros.ringworld.route import BLOCK, LANE
from stprune_ros.ringworld.scenery import FURNITURE_SIDE, furniture
from stprune_ros.ringworld.scenes import make_scene
from stprune_ros.ringworld.shapes import POLE, VEHICLE
from stprune_ros.ringworld.traffic import COLOURS, HARD_TRAFFIC, Actor
from stprune_ros.ringworld.truth import (
    ATTENTIVE,
    DISTINCT,
    FAINT,
    INATTENTIVE,
    MIN_CLARITY,
    MIN_PIXELS,
    REFERENCE,
    distinctness,
    judge,
    scene_truth,
    visible_actors,
)
from stprune_ros.ringworld.weather import TEXELS, Surfaces, Weather, draw_weather, in_weather, light_at
from stprune_ros.ringworld.world import Ego, Snapshot, World

EGO = Ego(20.0, -LANE, 0.0, 5.0, 0.0)
POSE = (EGO.x, EGO.y, EGO.yaw)
DAY = Weather(1.0, 1e6, 0.0)


@pytest.fixture(scope='module')
def worlds() -> list[World]:
    return [World(seed, 8.0, hard=True) for seed in range(8)]


def car(x: float, y: float = EGO.y, colour: str = 'red', **more: object) -> Actor:
    return Actor(0, 'vehicle', colour, x, y, 0.0, 4.4, 1.9, 1.6, **more)  # type: ignore[arg-type]


def front(weather: Weather | None, *actors: Actor, t: float = 0.0, seed: int = 1) -> RenderedView:
    return render_view(Snapshot(t, EGO, actors, seed, weather), RING[0])


def seen(weather: Weather | None, *actors: Actor) -> list[int]:
    numbered = tuple(replace(actor, id=number) for number, actor in enumerate(actors))
    snapshot = Snapshot(0.0, EGO, numbered, 1, weather)
    return [actor.id for actor in visible_actors(snapshot, RING[0], render_view(snapshot, RING[0]))]


def test_a_hard_world_follows_from_its_seed(worlds: list[World]) -> None:
    again = World(3, 8.0, hard=True)
    assert again.snapshot(5.31) == worlds[3].snapshot(5.31)
    one, two = (render_view(again.snapshot(2.0), RING[0]) for _ in range(2))
    assert (one.rgb == two.rgb).all()
    assert (one.clarity == two.clarity).all()  # type: ignore[union-attr]
    easy = World(3, 8.0).snapshot(2.0)
    assert (easy.weather, easy.paints) == (None, {})
    assert render_view(easy, RING[0]).clarity is None
    assert not (make_scene(7).images == make_scene(7, hard=True).images).all()


def test_pictures_of_other_cameras_and_times_have_other_noise() -> None:
    weather = Weather(0.2, 100.0, 0.7)
    now, later = (front(weather, t=t).rgb.astype(int) for t in (1.0, 1.1))
    assert 1.0 < np.abs(now - later).mean() < 12.0


def test_there_is_three_times_the_traffic() -> None:
    for kind in ('vehicle', 'pedestrian'):
        hard, easy = (
            sum(actor.kind == kind for seed in range(20) for actor in World(seed, 8.0, hard).snapshot(0.0).actors)
            for hard in (True, False)
        )
        assert hard / easy == pytest.approx(HARD_TRAFFIC, rel=0.2), kind


def test_nobody_drives_through_anybody(worlds: list[World]) -> None:
    for world in worlds:
        for t in np.arange(0.0, 8.0, 0.5):
            snapshot = world.snapshot(float(t))
            bumper = np.array([snapshot.ego.x, snapshot.ego.y])
            bumper += 1.3 * np.array([np.cos(snapshot.ego.yaw), np.sin(snapshot.ego.yaw)])
            for other in snapshot.actors:
                if other.kind == 'pedestrian':
                    assert np.hypot(*(bumper - (other.x, other.y))) > 1.0
            drivers = [actor for actor in snapshot.actors if actor.lamps]
            lanes: dict[tuple[float, float], list[float]] = {}
            for actor in drivers:
                along, across = (actor.x, actor.y) if abs(np.cos(actor.yaw)) > 0.5 else (actor.y, actor.x)
                lanes.setdefault((round(across, 3), round(actor.yaw, 3)), []).append(along)
            assert all((np.diff(sorted(lane)) > 4.3).all() for lane in lanes.values())


def test_only_parked_cars_have_their_lamps_off(worlds: list[World]) -> None:
    for world in worlds:
        vehicles = [actor for actor in world.snapshot(4.0).actors if actor.kind == 'vehicle']
        assert all(actor.lamps for actor in vehicles if actor.moving)
        parked = [actor for actor in vehicles if min(abs(abs(actor.y) - 4.45), abs(abs(actor.x) - 4.45)) < 0.01]
        assert parked and not any(actor.lamps for actor in parked)
    night = Weather(0.1, 1e6, 0.0)
    on, off = (front(night, car(EGO.x + 14.0, lamps=lamps)).rgb.astype(int) for lamps in (True, False))
    brighter = (on - off).max(-1)
    assert (brighter > 40).sum() > 20  # two tail lamps and the glow around them
    assert np.abs(front(DAY, car(EGO.x + 14.0)).rgb.astype(int).mean() - off.mean()) > 20


def test_weather_varies() -> None:
    drawn = [draw_weather(seed) for seed in range(400)]
    night, fog, rain = (
        np.array([test(weather) for weather in drawn])
        for test in (lambda w: w.daylight < 0.35, lambda w: w.fog < 50, lambda w: w.rain > 0)
    )
    assert (night | fog | rain).all()
    for share in (fog, rain, night):
        assert 0.42 < share.mean() < 0.7
    assert (night & fog & rain).any() and (~night & fog & ~rain).any()


def test_fog_takes_more_of_what_is_farther_and_night_of_what_is_not_lit() -> None:
    cars = [car(EGO.x + 3.6 + gap + 2.2, EGO.y) for gap in (6.0, 20.0, 40.0)]
    foggy = Weather(1.0, 25.0, 0.0)
    left = []
    for actor in cars:
        found = front(foggy, actor)
        left.append(float(found.clarity[found.classes == VEHICLE].mean()))  # type: ignore[index]
        depth = float(found.depth[found.classes == VEHICLE].mean())
        assert left[-1] == pytest.approx(np.exp(-depth / 25.0), rel=0.05)
    assert left == sorted(left, reverse=True)
    night = Weather(0.1, 1e6, 0.0)
    points = np.array([[[EGO.x + 12.0, EGO.y, 0.5], [EGO.x - 12.0, EGO.y, 0.5], [36.0, 36.0, 0.5]]])
    ahead, behind, block = light_at(points, POSE, night)[0]
    assert ahead > behind + 0.3  # headlights
    assert block == pytest.approx(0.1, abs=0.02)
    lamp, between = light_at(np.array([[[-24.0, 6.0, 0.0], [-12.0, 6.0, 0.0]]]), POSE, night)[0]
    assert lamp > between + 0.2
    assert light_at(points, POSE, DAY) == pytest.approx(1.0)


def surfaces(offset: float, yaw: float, actor_ids: np.ndarray) -> Surfaces:
    """A grey patch at a place on an actor that stands ``offset`` m along x, turned by ``yaw``."""
    local = np.stack(np.meshgrid(np.linspace(-1, 1, 24), np.linspace(0, 1, 16)), -1)
    x = offset + local[..., 0] * np.cos(yaw)
    points = np.stack([x, local[..., 0] * np.sin(yaw), local[..., 1]], -1).astype(np.float32)
    grey, none = np.full((16, 24, 3), 120.0, np.float32), np.zeros((16, 24), bool)
    poses = np.array([[offset, 0.0, yaw]])
    return Surfaces(grey, points, np.ones((16, 24)), actor_ids, poses, none, (0.0, 0.0, 0.0), (1, 0, 0))


def test_the_texture_of_an_actor_moves_with_it() -> None:
    own, ground = np.zeros((16, 24), int), np.full((16, 24), -1)
    here, there = (in_weather(surfaces(*pose, own), DAY)[0].astype(float) for pose in ((3.0, 0.0), (8.3, 0.7)))
    assert here.std() > 8.0  # not one grey
    assert np.abs(here - there).mean() < 2.0
    other = in_weather(surfaces(8.3, 0.7, ground), DAY)[0].astype(float)
    assert np.abs(here - other).mean() > 8.0
    again = in_weather(surfaces(3.0 + TEXELS / 12.0, 0.0, ground), DAY)[0].astype(float)
    assert np.abs(again - in_weather(surfaces(3.0, 0.0, ground), DAY)[0]).mean() < 2.0  # the tile has no seam


def test_rain_falls_through_the_picture() -> None:
    wet, dry = (front(Weather(1.0, 1e6, rain)) for rain in (1.0, 0.0))
    assert 5.0 < np.abs(wet.rgb.astype(int) - dry.rgb).mean() < 60.0
    assert wet.clarity.min() < 0.3 < dry.clarity.min()  # type: ignore[union-attr]  # drops on the lens


def test_fog_hides_a_car_that_a_clear_day_shows() -> None:
    far = car(EGO.x + 32.0, EGO.y)
    assert seen(None, far) == seen(Weather(0.8, 100.0, 0.0), far) == [0]
    assert seen(Weather(0.8, 7.0, 0.0), far) == []
    assert seen(Weather(0.8, 7.0, 0.0), car(EGO.x + 12.0, EGO.y)) == [0]


def test_things_that_stand_at_the_kerb_hide_what_is_behind_them() -> None:
    """Some pedestrian on a pavement is hidden in the hard world and not in the ordinary one without furniture."""
    pieces = furniture(np.array([20.0, -LANE, 1.6]), np.array([1.0, 0.0]), 0.7, 1)
    assert len(pieces) > 20
    assert {face.class_index for face in pieces} == {POLE}
    assert all(face.actor_id == -1 for face in pieces)
    to_axis = np.abs((np.array([face.points[:, :2].mean(0) for face in pieces]) + BLOCK / 2) % BLOCK - BLOCK / 2)
    assert (np.abs(to_axis.min(-1) - FURNITURE_SIDE) < 1.0).all()
    hidden = 0
    for x in np.arange(EGO.x + 8.0, EGO.x + 40.0, 0.5):
        walker = Actor(0, 'pedestrian', 'red', float(x), -7.2, 0.0, 0.5, 0.55, 1.75)
        bare, beset = (int((front(weather, walker).actor_ids == 0).sum()) for weather in (None, DAY))
        hidden += bare > 100 and beset < bare / 2
    assert hidden > 3


def test_all_that_all_observers_see_is_in_the_picture(worlds: list[World]) -> None:
    """Without it the picture would be another one, at its place."""
    tried = 0
    for world in worlds[:4]:
        snapshot = world.snapshot(5.0)
        pictures = [render_view(snapshot, camera) for camera in RING]
        truth = scene_truth(world, snapshot, RING, pictures)
        for camera, picture, visible in zip(RING, pictures, truth.second_opinions[1].views, strict=True):
            for one in visible[-2:]:  # the farthest
                away = tuple(replace(a, x=a.x + 1e4) if a.id == one.id else a for a in snapshot.actors)
                without = render_view(replace(snapshot, actors=away), camera)
                there = (picture.actor_ids == one.id) & (picture.classes != POLE)
                assert np.abs(picture.rgb.astype(int) - without.rgb).max(-1)[there].mean() > 12.0
                tried += 1
    assert tried > 20


def test_how_far_something_stands_out() -> None:
    rgb, (v, u) = np.full((40, 40, 3), 100.0), np.mgrid[10:20, 10:20].reshape(2, -1)
    assert distinctness(rgb, u, v) == 0.0
    for step, expected in ((FAINT, 0.0), ((FAINT + DISTINCT) / 2, 0.5), (DISTINCT, 1.0), (90.0, 1.0)):
        rgb[v, u, 1] = 100.0 + step  # one channel is enough
        assert distinctness(rgb, u, v) == pytest.approx(expected)
    rgb[30:, 30:] = 0.0  # what is farther away does not matter
    assert distinctness(rgb, u, v) == 1.0
    everywhere = np.mgrid[0:40, 0:40].reshape(2, -1)
    assert distinctness(np.full((40, 40, 3), 9.0), everywhere[1], everywhere[0]) == 0.0


def test_paints_are_called_by_the_colour_they_are_nearest_to() -> None:
    assert tuple(CARS) == COLOURS
    rng, nominal = np.random.default_rng(0), np.array(list(CARS.values()))
    for index, paint in enumerate(CARS.values()):
        for _ in range(200):
            assert np.linalg.norm(nominal - draw_paint(rng, paint), axis=1).argmin() == index


def test_a_colour_that_is_lost_is_not_asked_about(worlds: list[World]) -> None:
    """Whether it can be named is for each observer to say, and a question needs all of them."""
    snapshot = Snapshot(0.0, EGO, (car(EGO.x + 12.0),), 1, DAY)
    [sight] = visible_actors(snapshot, RING[0], render_view(snapshot, RING[0]))
    assert (sight.colour, sight.pixels > MIN_PIXELS) == ('red', True)
    for clarity, named in ((0.9, 3), (1.2 * MIN_CLARITY, 2), (0.7 * MIN_CLARITY, 1), (0.3 * MIN_CLARITY, 0)):
        views = [(replace(sight, clarity=clarity),), *[()] * 5]
        opinions = [judge(worlds[0], snapshot, views, observer) for observer in (ATTENTIVE, INATTENTIVE)]
        truth = replace(judge(worlds[0], snapshot, views, REFERENCE), second_opinions=tuple(opinions))
        assert sum(each.views[0][0].colour == 'red' for each in (truth, *opinions)) == named
        asked = questions.unambiguous(questions.car_colour, truth, questions.ALL_VIEWS)
        assert [question.answer for question in asked] == (['red'] if named == 3 else [])
        [counted] = questions.unambiguous(questions.car_count, truth, (0,))
        assert counted.answer == 'one'  # it is seen all the same
    assert 'front: car.' in questions.describe(truth)


def test_a_hard_drive_is_recorded(tmp_path: Path) -> None:
    for name, hard in (('one', True), ('two', True), ('easy', False)):
        record_world(tmp_path / name / 'bag', 3, 0.5, 2.0, hard=hard)
    one, two, easy = ((tmp_path / name / 'bag' / 'bag.mcap').read_bytes() for name in ('one', 'two', 'easy'))
    assert one == two != easy
    truths = [json.loads((tmp_path / name / 'bag' / 'truth.json').read_text()) for name in ('one', 'easy')]
    assert [truth.get('hard') for truth in truths] == [True, None]
    actors = [[actor for view in truth['ticks'][0]['views'].values() for actor in view] for truth in truths]
    assert len(actors[0]) > len(actors[1])
    assert all(actor.get('colour', 'red') in COLOURS for actor in actors[0])
