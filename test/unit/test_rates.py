"""How fast counts grow."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.ros.rates import LEAST_S, WINDOW_S, Rates

KEY = ('received', 'left')


def fed(*counts: int, step_s: float = 1.0) -> Rates:
    rates = Rates()
    for number, count in enumerate(counts):
        rates.sample(100.0 + number * step_s, {KEY: count})
    return rates


def test_nothing_is_told_before_there_is_time_enough():
    for rates in (Rates(), fed(5), fed(5, 9, step_s=LEAST_S / 2)):
        assert math.isnan(rates.hz(*KEY)) and not rates.is_full
    assert (Rates().grown(*KEY), Rates().grown_last(*KEY), fed(5).grown(*KEY), fed(5).grown_last(*KEY)) == (0, 0, 0, 0)


@given(st.integers(0, 50), st.integers(2, 40), st.floats(LEAST_S, 3.0))
def test_a_steady_rate_is_found(per_step, steps, step_s):
    rates = fed(*(7 + per_step * number for number in range(steps)), step_s=step_s)
    assert rates.hz(*KEY) == pytest.approx(per_step / step_s)
    assert rates.span_s < WINDOW_S + 2 * step_s
    assert rates.is_full is (rates.span_s >= WINDOW_S)
    if rates.is_full:
        assert rates.best_hz(*KEY) == pytest.approx(per_step / step_s)


def test_only_the_window_counts_and_the_best_stays():
    counts = [10 * number for number in range(21)]
    rates = fed(*counts, *(200 + number for number in range(1, 12)))
    assert (rates.grown(*KEY), rates.grown_last(*KEY), rates.hz(*KEY)) == (10, 1, 1.0)
    assert rates.best_hz(*KEY) == 10.0
    assert rates.grown('used', 'left') == 0 and rates.best_hz('used', 'left') == 0.0


def test_a_count_that_begins_anew_is_no_negative_rate():
    rates = fed(100, 110, 120, 3, 13)
    assert (rates.grown(*KEY), rates.hz(*KEY)) == (10, 10.0)


@given(st.lists(st.floats(0.0, 30.0), max_size=200))
def test_samples_are_bounded_by_the_window(steps):
    rates, now = Rates(), 0.0
    for number, step in enumerate(steps):
        now += step
        rates.sample(now, {KEY: number})
        inside = sum(1 for at, _ in rates._samples if at > now - WINDOW_S)
        assert len(rates._samples) <= inside + 2
