"""The planner: a hint only restricts, ends at its expiry, and where none holds the planner is careful."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.core.types import Behavior, Status
from stprune_ros.driving.planner import (
    CAUTION,
    MAX_AHEAD_NS,
    SLOW,
    SLOW_BY,
    SPEED_UP,
    STOP_BY,
    WIDE_GAP,
    Planner,
    TimedHint,
    acceleration,
    speed_limit,
)

S = 10**9
speeds = st.floats(0.0, 20.0)
behaviors = st.sampled_from(Behavior)
hints = st.builds(
    lambda stamp, valid, status, behavior: TimedHint(stamp, stamp + valid, status, behavior),
    st.integers(0, 10 * S),
    st.integers(1, 3 * S),
    st.sampled_from(Status),
    behaviors,
)


def hint(behavior: Behavior, stamp_s: float = 1.0, valid_s: float = 1.0, status: Status = Status.OK) -> TimedHint:
    return TimedHint(round(stamp_s * S), round((stamp_s + valid_s) * S), status, behavior)


@given(behaviors, speeds)
def test_no_hint_raises_the_speed_limit(behavior: Behavior, route: float) -> None:
    limit = speed_limit(behavior, route)
    assert 0.0 <= limit <= route
    assert speed_limit(Behavior.STOP, route) <= speed_limit(Behavior.SLOW_DOWN, route)
    assert speed_limit(Behavior.SLOW_DOWN, route) <= speed_limit(Behavior.INCREASE_GAP, route)
    assert speed_limit(Behavior.INCREASE_GAP, route) <= speed_limit(Behavior.NONE, route) == route


@given(st.lists(hints, max_size=8), speeds, speeds, st.integers(0, 12 * S))
def test_whatever_is_taken_the_route_s_limit_stands(
    taken: list[TimedHint], route: float, speed: float, now_ns: int
) -> None:
    planner = Planner()
    for one in taken:
        planner.take(one, now_ns)
    command = planner.command(now_ns, speed, route)
    assert command.limit <= route
    assert command.acceleration <= acceleration(speed, route)
    if command.behavior != Behavior.UNKNOWN:
        newest = max(one.stamp_ns for one in taken if one.holds(now_ns))
        assert command.behavior in {one.behavior for one in taken if one.stamp_ns == newest and one.holds(now_ns)}


@given(speeds, speeds, speeds)
def test_a_lower_limit_never_speeds_up(speed: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert acceleration(speed, low) <= acceleration(speed, high)
    assert -STOP_BY <= acceleration(speed, low) <= SPEED_UP
    if low > 0.0:
        assert acceleration(speed, low) >= -SLOW_BY


def test_it_brakes_harder_to_stop_than_to_slow_down() -> None:
    assert [acceleration(8.0, limit) for limit in (0.0, SLOW, 9.0)] == [-STOP_BY, -SLOW_BY, SPEED_UP]
    assert acceleration(3.6, 3.5) == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ('behavior', 'limit'),
    [
        (Behavior.NONE, 8.0),
        (Behavior.SLOW_DOWN, SLOW),
        (Behavior.STOP, 0.0),
        (Behavior.YIELD, 0.0),
        (Behavior.INCREASE_GAP, WIDE_GAP),
        (Behavior.TURN_LEFT, 8.0),
        (Behavior.UNKNOWN, CAUTION),
    ],
)
def test_what_each_behavior_leaves(behavior: Behavior, limit: float) -> None:
    assert speed_limit(behavior, 8.0) == limit


def test_a_hint_ends_at_its_expiry_and_then_caution_holds() -> None:
    planner = Planner()
    assert planner.command(0, 5.0, 8.0).limit == CAUTION
    planner.take(hint(Behavior.STOP), S)
    assert planner.command(2 * S - 1, 5.0, 8.0) == planner.command(S, 5.0, 8.0)
    assert planner.command(2 * S - 1, 5.0, 8.0).limit == 0.0
    ended = planner.command(2 * S, 5.0, 8.0)
    assert (ended.limit, ended.behavior) == (CAUTION, Behavior.UNKNOWN)
    assert planner.command(round(1.5 * S), 5.0, 8.0).behavior == Behavior.UNKNOWN  # what has ended does not come back


def test_the_newest_valid_hint_counts_and_nothing_else_takes_it_back() -> None:
    planner = Planner()
    planner.take(hint(Behavior.STOP, 1.0), S)
    planner.take(hint(Behavior.NONE, 0.9), S)  # older
    planner.take(hint(Behavior.NONE, 1.05, status=Status.STALE), round(1.1 * S))
    planner.take(hint(Behavior.NONE, 1.05, 0.01), round(1.1 * S))  # expired
    planner.take(hint(Behavior.NONE, 3.0), round(1.1 * S))  # in the future
    assert planner.command(round(1.1 * S), 5.0, 8.0).behavior == Behavior.STOP
    planner.take(hint(Behavior.SLOW_DOWN, 1.1, status=Status.DEGRADED), round(1.2 * S))
    assert planner.command(round(1.2 * S), 5.0, 8.0).limit == SLOW


def test_of_two_hints_about_the_same_images_the_first_stands() -> None:
    planner = Planner()
    planner.take(hint(Behavior.STOP), S)
    planner.take(hint(Behavior.NONE), S)
    assert planner.command(S, 5.0, 8.0).behavior == Behavior.STOP


def test_clocks_may_differ_a_little() -> None:
    early = hint(Behavior.STOP, 1.0)
    assert early.holds(S - MAX_AHEAD_NS)
    assert not early.holds(S - MAX_AHEAD_NS - 1)


def test_one_that_heeds_nothing_drives_as_the_route_allows() -> None:
    planner = Planner(heeds=False)
    planner.take(hint(Behavior.STOP), S)
    for speed, route in product((0.0, 8.0), (3.5, 8.0)):
        command = planner.command(S, speed, route)
        assert (command.limit, command.acceleration) == (route, acceleration(speed, route))
