"""The keep ratio that holds a latency target, on simulated machines: bounded, quick down, slow up, else at rest."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stprune_ros.core.types import Choice
from stprune_ros.inference.governor import STEP, Cost, Governor
from stprune_ros.settings.parameters import LatencySettings

FULL, TEXT = 1440, 80
few = settings(max_examples=100)
LIMITS = LatencySettings(100.0, 0.02, 1.0)


@dataclass(frozen=True)
class Machine:
    """Milliseconds before the tokens are chosen, behind them, and per token; ``slow`` stretches everything."""

    spent: float
    fixed: float
    each: float
    slow: float = 1.0

    def slower(self, factor: float) -> Machine:
        return Machine(self.spent, self.fixed, self.each, self.slow * factor)

    def total(self, ratio: float) -> float:
        return self.slow * (self.spent + self.fixed + self.each * ratio * FULL)

    def best(self, limits: LatencySettings) -> float:
        """The ratio that just meets the target, within the limits."""
        room = limits.target_ms / self.slow - self.spent - self.fixed
        return min(max(room / (self.each * FULL), limits.keep_min), limits.keep_max)


def drive(
    governor: Governor,
    machine: Callable[[int], Machine] | Machine,
    ticks: int,
    limits: LatencySettings = LIMITS,
    jitter: float = 0.0,
    start: float = 0.5,
) -> list[tuple[Choice, float]]:
    """Run ``ticks`` ticks; the choice of each and its time to the hint. ``jitter``: standard deviation, as a share."""
    dice = random.Random(7)
    done = []
    for tick in range(ticks):
        here = machine(tick) if callable(machine) else machine
        spent, fixed, each = (
            part * here.slow * max(0.2, dice.gauss(1, jitter)) for part in (here.spent, here.fixed, here.each)
        )
        choice = governor.choose(limits, start, spent, FULL)
        kept = round(choice.ratio * FULL)
        rest = fixed + each * kept
        governor.observe(Cost(spent, rest, min(rest, each * (kept + TEXT)), kept, kept + TEXT))
        done.append((choice, spent + rest))
    return done


machines = st.builds(Machine, st.floats(0, 60), st.floats(0.1, 60), st.floats(0.001, 0.5))
limits_of = st.builds(LatencySettings, st.floats(1, 1000), st.floats(0.001, 0.3), st.floats(0.3, 1.0))


@few
@given(
    limits_of,
    st.floats(0.001, 1.0),
    st.lists(
        st.tuples(
            st.floats(-1e3, 1e5),
            st.floats(allow_nan=True),
            st.floats(0, 1e4),
            st.integers(0, 2000),
            st.integers(0, 4000),
        ),
        max_size=30,
    ),
)
def test_never_outside_the_limits_whatever_was_measured(limits, start, readings):
    governor = Governor()
    for spent, rest, prefill, kept, full in readings:
        choice = governor.choose(limits, start, spent, full)
        assert limits.keep_min <= choice.ratio <= limits.keep_max
        governor.observe(Cost(spent, rest, prefill, kept, kept + 10))


@few
@given(machines, limits_of)
def test_finds_the_ratio_of_any_linear_machine(machine, limits):
    *_, (choice, total) = drive(Governor(), machine, 120, limits)
    best = machine.best(limits)
    if machine.total(limits.keep_min) > limits.target_ms * 0.94:
        assert choice.ratio <= limits.keep_min / STEP**2
    else:
        assert total <= limits.target_ms + machine.each  # a token is the smallest step
        assert not choice.misses
    if best == limits.keep_max and machine.total(best) < 0.9 * limits.target_ms:
        assert choice.ratio == best
    # What it leaves free: the margin, and less than two steps.
    used = machine.total(min(choice.ratio / STEP**2, limits.keep_max))
    assert choice.ratio == limits.keep_max or used >= 0.94 * limits.target_ms


@few
@given(machines, limits_of)
def test_comes_to_rest(machine, limits):
    ratios = [choice.ratio for choice, _ in drive(Governor(), machine, 160, limits)]
    assert len(set(ratios[-40:])) == 1


@few
@given(machines, st.floats(1.0, 4.0))
def test_a_slower_tick_never_raises_the_ratio(machine, factor):
    ratios = []
    for last in (machine, machine.slower(factor)):
        governor = Governor()
        drive(governor, lambda tick, last=last: last if tick == 39 else machine, 40)
        ratios.append(governor.choose(LIMITS, 0.5, machine.spent, FULL).ratio)
    assert ratios[1] <= ratios[0]


@few
@given(machines, st.floats(0, 100), st.floats(0, 100))
def test_less_time_left_never_raises_the_ratio(machine, one, other):
    governor = Governor()
    drive(governor, machine, 40)
    early, late = sorted((one, other))
    ratios = [governor.choose(LIMITS, 0.5, spent, FULL).ratio for spent in (early, late, early)]
    assert ratios[1] <= ratios[0]
    assert ratios[2] == ratios[0], 'one late tick leaves no trace'


@few
@given(
    st.builds(Machine, st.floats(0, 20), st.floats(0.1, 20), st.floats(0.02, 0.1)),
    st.floats(1.2, 3.0),
)
def test_a_slower_machine_is_followed_and_so_is_its_recovery(machine, factor):
    slow = machine.slower(factor)
    done = drive(Governor(), lambda tick: slow if 60 <= tick < 120 else machine, 260)
    within = [total <= LIMITS.target_ms + slow.slow * slow.each for _, total in done]
    assert slow.total(LIMITS.keep_min) > 0.94 * LIMITS.target_ms or all(within[66:120])
    before, after = done[59][0].ratio, done[-1][0].ratio
    assert STEP**2.01 <= after / before <= STEP**-2.01
    ups = [b[0].ratio / a[0].ratio for a, b in itertools.pairwise(done[120:])]
    assert max(ups) <= 1 / STEP**2.01, 'slow to go up'


def test_jitter_moves_it_little_and_the_target_holds():
    machine = Machine(30, 10, 0.1)
    done = drive(Governor(), machine, 2000, jitter=0.08)[20:]
    ratios = [choice.ratio for choice, _ in done]
    assert sum(total <= 100 for _, total in done) / len(done) > 0.95
    assert min(ratios) > 0.4 * machine.best(LIMITS)
    assert sum(a != b for a, b in itertools.pairwise(ratios)) < 0.2 * len(ratios)
    wild = drive(Governor(), machine, 2000, jitter=0.15)[20:]
    assert sum(total <= 100 for _, total in wild) / len(wild) > 0.93


def test_one_hiccup_costs_a_while_not_for_ever():
    machine = Machine(30, 20, 0.05)
    done = drive(Governor(), lambda tick: machine.slower(6) if tick == 60 else machine, 130)
    assert done[61][0].ratio < done[59][0].ratio
    assert done[-1][0].ratio >= done[59][0].ratio * STEP


def test_a_target_out_of_reach_is_known_with_its_number():
    governor = Governor()
    choice, total = drive(governor, Machine(80, 30, 0.1), 20)[-1]
    assert choice.misses
    assert choice.ratio == LIMITS.keep_min
    assert choice.expected_ms == pytest.approx(total, rel=0.05)
    assert not drive(governor, Machine(20, 30, 0.1), 60)[-1][0].misses


def test_until_it_knows_better_it_starts_where_it_is_told():
    governor = Governor()
    choice = governor.choose(LIMITS, 0.3, 10.0, FULL)
    assert (choice.ratio, choice.misses) == (0.3, False)
    assert math.isnan(choice.expected_ms)
    assert governor.choose(LatencySettings(100.0, 0.4, 1.0), 0.3, 10.0, FULL).ratio == 0.4


def test_limits_may_change_while_it_runs():
    governor = Governor()
    drive(governor, Machine(10, 10, 0.1), 60)
    assert governor.choose(LatencySettings(100.0, 0.02, 0.25), 0.5, 10.0, FULL).ratio == 0.25
    tight = governor.choose(LatencySettings(40.0, 0.02, 1.0), 0.5, 10.0, FULL).ratio
    assert 10 + 10 + 0.1 * tight * FULL <= 40
