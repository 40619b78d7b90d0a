"""Collisions, times to collision and lines passed at red: hand-made scenes, and properties of overlap."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.driving.events import (
    CENTRE,
    HORIZON_S,
    Boxes,
    LineWatch,
    actors_in_reach,
    kind_of,
    near_actors,
    next_line,
    overlaps,
    time_to_collision,
    touched,
)
from stprune_ros.ringworld.route import BLOCK, FRONT_BUMPER
from stprune_ros.ringworld.traffic import PEDESTRIAN_SIZE, VEHICLE_SIZE, Actor
from stprune_ros.ringworld.world import STOP_LINE, Ego, Snapshot

LINE = BLOCK - STOP_LINE


def vehicle(x: float, y: float, yaw: float = 0.0, vx: float = 0.0, vy: float = 0.0) -> Actor:
    return Actor(1, 'vehicle', 'red', x, y, yaw, *VEHICLE_SIZE, vx, vy)


def pedestrian(x: float, y: float, vx: float = 0.0, vy: float = 0.0) -> Actor:
    return Actor(2, 'pedestrian', 'red', x, y, 0.0, *PEDESTRIAN_SIZE, vx, vy)


def scene(*actors: Actor, speed: float = 5.0) -> Snapshot:
    return Snapshot(0.0, Ego(0.0, 0.0, 0.0, speed, 0.0), actors, seed=0)


def box(x: float, y: float, yaw: float, length: float, width: float) -> Boxes:
    return Boxes(np.array([[x, y]]), np.array([[math.cos(yaw), math.sin(yaw)]]), np.array([[length / 2, width / 2]]))


places, turns, sizes = st.floats(-8.0, 8.0), st.floats(-math.pi, math.pi), st.floats(0.5, 6.0)
boxes = st.builds(box, places, places, turns, sizes, sizes)


@given(boxes, boxes)
def test_overlap_is_mutual_and_true_where_a_corner_lies_inside(one: Boxes, other: Boxes) -> None:
    found = bool(overlaps(one, other)[0])
    assert found == bool(overlaps(other, one)[0])
    left = one.headings[0][::-1] * (-1, 1)
    offsets = [(a, b) for a in (-0.999, 0.0, 0.999) for b in (-0.999, 0.0, 0.999)]
    points = [one.centres[0] + a * one.halves[0, 0] * one.headings[0] + b * one.halves[0, 1] * left for a, b in offsets]
    across = other.headings[0][::-1] * (-1, 1)
    inside = any(
        abs((point - other.centres[0]) @ other.headings[0]) < other.halves[0, 0]
        and abs((point - other.centres[0]) @ across) < other.halves[0, 1]
        for point in points
    )
    assert found or not inside
    if np.hypot(*(one.centres[0] - other.centres[0])) > np.hypot(*one.halves[0]) + np.hypot(*other.halves[0]):
        assert not found


@pytest.mark.parametrize(
    ('actor', 'kind'),
    [
        (vehicle(FRONT_BUMPER + 2.1, 0.5), 'vehicle ahead'),
        (vehicle(-2.9, 0.0), 'struck from behind'),
        (vehicle(2.0, 2.0, math.pi / 2), 'crossing vehicle'),
        (vehicle(FRONT_BUMPER + 2.1, 0.5, math.pi), 'oncoming vehicle'),
        (pedestrian(FRONT_BUMPER, 0.9), 'pedestrian'),
    ],
)
def test_who_is_touched_and_how(actor: Actor, kind: str) -> None:
    assert touched(scene(actor), [actor]) == [(actor.id, kind)]
    assert kind_of(scene().ego, actor) == kind
    standing = touched(scene(actor, speed=0.0), [actor])
    assert standing == ([(actor.id, kind)] if kind == 'struck from behind' else [])


@pytest.mark.parametrize(
    ('x', 'degrees', 'kind'),
    [
        (CENTRE + 0.1, 0.0, 'vehicle ahead'),
        (CENTRE - 0.1, 0.0, 'struck from behind'),
        (5.0, 44.0, 'vehicle ahead'),
        (5.0, 46.0, 'crossing vehicle'),
        (5.0, -134.0, 'crossing vehicle'),
        (5.0, -136.0, 'oncoming vehicle'),
    ],
)
def test_where_one_kind_ends_and_the_next_begins(x: float, degrees: float, kind: str) -> None:
    assert kind_of(scene().ego, vehicle(x, 0.0, math.radians(degrees))) == kind


def test_nobody_beside_or_just_ahead_is_touched() -> None:
    others = [vehicle(FRONT_BUMPER + 2.21, 0.0), vehicle(CENTRE, 1.91), pedestrian(FRONT_BUMPER + 0.26, 0.0)]
    assert touched(scene(*others), others) == []


def test_who_is_far_away_and_lights_are_passed_over() -> None:
    light = Actor(3, 'light', '', 9.0, 0.0, 0.0, 0.4, 1.2, 5.6, state='red')
    near, far = vehicle(20.0, 0.0), vehicle(30.0, 10.1)
    assert near_actors(scene(near, far, light)) == [near]


@pytest.mark.parametrize(
    ('actor', 'expected'),
    [
        (vehicle(FRONT_BUMPER + 2.2 + 10.01, 0.0), 2.1),  # 10 m of gap at 5 m/s, looked at each 0.1 s
        (vehicle(FRONT_BUMPER + 2.2 + 10.01, 0.0, vx=5.0), HORIZON_S),
        (vehicle(FRONT_BUMPER + 2.2 + 10.01, 0.0, vx=2.5), 4.1),
        (vehicle(FRONT_BUMPER + 2.2 + 10.01, 3.0), HORIZON_S),
        (pedestrian(FRONT_BUMPER + 5.0, -3.0, vy=1.5), 1.2),
    ],
)
def test_time_to_collision(actor: Actor, expected: float) -> None:
    assert time_to_collision(scene(actor), [actor]) == pytest.approx(expected)
    assert time_to_collision(scene(actor, speed=0.0), [actor]) == HORIZON_S


def test_who_comes_from_afar_may_be_met_all_the_same() -> None:
    fast, standing = vehicle(22.0, -36.0, math.pi / 2, vy=9.0), vehicle(33.0, 0.0)
    light, beyond = Actor(3, 'light', '', 9.0, 0.0, 0.0, 0.4, 1.2, 5.6), pedestrian(34.0, 0.0)
    found = actors_in_reach(scene(fast, light, standing, beyond))
    assert found == [fast, standing]
    assert time_to_collision(scene(), [fast]) == pytest.approx(3.7)  # 22 - 0.95 - 3.6 m at 5 m/s, 36 - 3.15 m at 9


@given(st.floats(-60.0, 60.0), st.floats(-60.0, 60.0), st.floats(-9.0, 9.0), st.floats(-9.0, 9.0), st.floats(0.0, 9.0))
def test_whoever_is_out_of_reach_is_not_met(x: float, y: float, vx: float, vy: float, speed: float) -> None:
    actor = vehicle(x, y, math.atan2(vy, vx), vx, vy)
    if not actors_in_reach(scene(actor, speed=speed)):
        assert time_to_collision(scene(speed=speed), [actor]) == HORIZON_S


def test_nobody_near_is_never_met() -> None:
    assert time_to_collision(scene(), []) == HORIZON_S


@given(st.floats(-500.0, 500.0))
def test_the_next_line_is_ahead_and_within_a_block(position: float) -> None:
    line = next_line(position)
    assert position <= line + 1e-9 < position + BLOCK + 1e-6
    assert (line + STOP_LINE) % BLOCK == pytest.approx(0.0, abs=1e-6) or (line + STOP_LINE) % BLOCK == pytest.approx(
        BLOCK
    )


def watch(fronts: list[float], reds: list[bool], speed: float = 5.0) -> tuple[LineWatch, list[tuple[bool, bool]]]:
    lines = LineWatch()
    return lines, [lines.look((0, front - FRONT_BUMPER), speed, red) for front, red in zip(fronts, reds, strict=True)]


def test_a_line_and_then_a_light_is_run_once_each() -> None:
    fronts = [LINE - 20.0, LINE - 0.1, LINE + 0.1, LINE + 2.0, LINE + FRONT_BUMPER + 0.1, LINE + 9.0]
    lines, found = watch(fronts, [True] * 6)
    assert found == [(False, False)] * 2 + [(True, False), (False, False), (False, True), (False, False)]
    assert (lines.lines_passed, lines.lights_run) == (1, 1)


def test_who_stops_behind_the_line_until_green_has_run_no_light() -> None:
    fronts = [LINE - 20.0, LINE - 0.1, LINE + 0.5, LINE + 0.5, LINE + FRONT_BUMPER + 0.1]
    lines, _ = watch(fronts, [True, True, True, False, False])
    assert (lines.lines_passed, lines.lights_run) == (1, 0)


def test_a_light_that_turns_red_in_the_step_that_passes_the_line_costs_nothing() -> None:
    fronts = [LINE - 0.3, LINE + 0.1, LINE + 2.0, LINE + FRONT_BUMPER + 0.1, LINE + 9.0]
    lines, _ = watch(fronts, [False, True, True, True, True], speed=8.0)
    assert (lines.lines_passed, lines.lights_run) == (0, 0)


def test_green_and_a_light_that_turns_red_too_late_cost_nothing() -> None:
    fronts = [LINE - 20.0, LINE - 2.0, LINE + 0.5, LINE + 5.0]
    assert watch(fronts, [False] * 4)[0].lines_passed == 0
    assert watch(fronts, [False, True, True, True])[0].lines_passed == 0  # 5 m/s need 2.5 m
    fronts[1] = LINE - 3.0
    assert watch(fronts, [False, True, True, True])[0].lines_passed == 1


def test_a_line_that_was_run_once_counts_no_second_time_where_red_came_too_late() -> None:
    """Round the block and past the same line again, whose light turns red 0.3 m ahead of it."""
    lines, _ = watch([LINE - 20.0, LINE - 0.1, LINE + 0.1, LINE + FRONT_BUMPER + 0.1], [True] * 4)
    lines.look(None, 5.0, False)
    again = [(LINE - 3.0, False), (LINE - 0.3, True), (LINE + 0.1, True), (LINE + FRONT_BUMPER + 0.1, True)]
    assert [lines.look((0, front - FRONT_BUMPER), 5.0, red) for front, red in again] == [(False, False)] * 4
    assert (lines.lines_passed, lines.lights_run) == (1, 1)


def test_a_bend_lies_between_two_roads() -> None:
    lines = LineWatch()
    lines.look((0, LINE - FRONT_BUMPER - 1.0), 5.0, True)
    assert lines.look(None, 5.0, False) == (False, False)
    assert lines.look((1, LINE - FRONT_BUMPER + 1.0), 5.0, True) == (False, False)
