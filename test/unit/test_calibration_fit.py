"""The maths of a calibration: what is fitted, what is left alone, and how probabilities are judged."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.calibrate.fit import BIAS_SPREAD, LOG_TEMPERATURE_SPREAD, Correction, fit_correction, no_correction
from stprune_ros.calibrate.quality import BINS, interval_of_change, probabilities, quality, reliability

ZEROS = np.zeros(3)


def drawn(ticks: int, temperature: float, biases: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and truths as often right as the correction says."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3, (ticks, len(biases)))
    shares = probabilities(scores / temperature + np.array(biases))
    return scores, np.array([rng.choice(len(biases), p=share) for share in shares])


def test_the_correction_that_made_the_data_is_found():
    scores, truth = drawn(20_000, 2.0, [0.8, -0.5, -0.3])
    found = fit_correction(scores, truth, np.ones(len(truth)), ZEROS)
    assert found.temperature == pytest.approx(2.0, rel=0.05)
    assert found.biases == pytest.approx([0.8, -0.5, -0.3], abs=0.07)


def penalised(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray, temperature: float, biases: np.ndarray):
    """The objective, written anew."""
    shares = probabilities(scores / temperature + biases)
    likelihood = np.log(shares[np.arange(len(truth)), truth])
    return (
        -(weights * likelihood).sum()
        + ((biases**2).sum() / BIAS_SPREAD**2 + np.log(temperature) ** 2 / LOG_TEMPERATURE_SPREAD**2) / 2
    )


def test_nothing_near_is_more_likely():
    scores, truth = drawn(60, 1.5, [1.0, 0.0, -1.0])
    weights = np.linspace(0.1, 1.0, len(truth))
    found = fit_correction(scores, truth, weights, ZEROS)
    best = penalised(scores, truth, weights, found.temperature, found.biases)
    for factor, *steps in product((0.99, 1.0, 1.01), *[(-0.01, 0.0, 0.01)] * 3):
        other = penalised(scores, truth, weights, found.temperature * factor, found.biases + steps)
        assert other >= best - 1e-9
    assert found.biases.sum() == pytest.approx(0, abs=1e-6)


def test_weights_are_numbers_of_observations():
    scores, truth = drawn(40, 1.0, [0.5, 0.0, -0.5])
    twice = fit_correction(np.repeat(scores, 2, 0), np.repeat(truth, 2), np.full(80, 0.5), ZEROS)
    once = fit_correction(scores, truth, np.ones(40), ZEROS)
    assert twice.biases == pytest.approx(once.biases, abs=1e-6)
    assert twice.temperature == pytest.approx(once.temperature, abs=1e-6)
    assert fit_correction(scores, truth, np.full(40, 0.1), ZEROS).biases != pytest.approx(once.biases, abs=1e-2)


def test_a_rare_behavior_does_not_run_off():
    """Right once in 30 observations where the model never believed it; without a prior its bias has no bound."""
    scores = np.tile([0.0, 0.0, -30.0], (30, 1))
    truth = np.array([0] * 15 + [1] * 14 + [2])
    found = fit_correction(scores, truth, np.ones(30), ZEROS)
    assert np.abs(found.biases).max() < 5
    assert np.isfinite(found.temperature)
    separable = fit_correction(np.eye(3)[[0, 1] * 10], np.array([0, 1] * 10), np.ones(20), ZEROS)
    assert 0.05 < separable.temperature < 1, 'always right: surer, but not endlessly'


def test_what_is_never_right_keeps_the_odds_that_the_model_gives():
    scores, truth = drawn(500, 1.0, [0.9, -0.9])
    third = np.full((500, 1), -1.0)
    found = fit_correction(np.hstack([scores, third]), truth, np.ones(500), ZEROS)
    alone = fit_correction(scores, truth, np.ones(500), np.zeros(2))
    assert found.biases[2] == 0
    assert found.biases[:2] == pytest.approx(alone.biases, abs=1e-9), 'fitted as if it were not there'
    assert found.temperature == pytest.approx(alone.temperature, abs=1e-9)


def test_content_free_scores_come_off_first():
    scores, truth = drawn(300, 1.0, [0.0, 0.0, 0.0])
    prior = np.array([2.0, 0.0, -2.0])
    found = fit_correction(scores + prior, truth, np.ones(300), prior)
    assert found.biases == pytest.approx(fit_correction(scores, truth, np.ones(300), ZEROS).biases, abs=1e-9)
    assert found.logits(scores + prior) == pytest.approx(scores / found.temperature + found.biases)


@given(st.permutations(range(3)), st.floats(-50, 50))
def test_order_of_candidates_and_a_constant_change_nothing(order: list[int], shift: float):
    scores, truth = drawn(50, 1.3, [0.4, 0.0, -0.4])
    plain = fit_correction(scores, truth, np.ones(50), ZEROS)
    inverse = np.argsort(order)
    moved = fit_correction(scores[:, order] + shift, inverse[truth], np.ones(50), ZEROS)
    assert moved.biases[inverse] == pytest.approx(plain.biases, abs=1e-5)
    assert moved.temperature == pytest.approx(plain.temperature, abs=1e-5)


def test_no_correction_changes_nothing():
    scores = np.array([[0.1, -3.0]])
    assert (no_correction(2).logits(scores) == scores).all()
    assert Correction(np.array([1.0, 0.0]), 2.0, np.array([0.0, 5.0])).logits(scores).tolist() == [[-0.45, 3.5]]


def test_figures_by_hand():
    shares = np.array([[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.3, 0.7, 0.0], [0.1, 0.4, 0.5]])
    truth = np.array([0, 1, 1, 0, 1])
    found = quality(shares, truth, none=0)
    assert found.ticks == 5
    assert found.accuracy == 0.4
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.3, 0.7, 0.3, 0.4]).mean())
    # Confidences 0.9 (right), 0.6 (wrong), 0.7 twice (right, wrong), 0.5 (wrong).
    assert found.expected_calibration_error == pytest.approx((0.1 + 0.6 + 2 * 0.2 + 0.5) / 5)
    assert (found.missed, found.needless) == (1, 1)
    assert found.bins[9].tolist() == pytest.approx([1, 0.9, 1.0])
    assert found.bins[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 0, 1]
    others = quality(shares, truth, none=1)
    assert (others.missed, others.needless) == (1, 2)


def test_confidence_of_one_and_impossible_truths_have_a_place():
    found = quality(np.array([[1.0, 0.0]]), np.array([1]), none=0)
    assert found.bins[BINS - 1, 0] == 1
    assert found.expected_calibration_error == 1
    assert np.isfinite(found.log_loss)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_bins_hold_every_tick_once(ticks: list[tuple[float, bool]]):
    confidence, right = np.array([tick[0] for tick in ticks]), np.array([tick[1] for tick in ticks])
    bins = reliability(confidence, right)
    assert bins[:, 0].sum() == len(ticks)
    assert (bins[:, 0] * bins[:, 1]).sum() == pytest.approx(confidence.sum())
    assert (bins[:, 0] * bins[:, 2]).sum() == pytest.approx(right.sum())


def test_probabilities_that_are_right_as_often_as_they_say_have_no_error():
    confidence = np.repeat([0.25, 0.75], 400)
    right = np.tile([True] + [False] * 3, 100).tolist() + np.tile([True] * 3 + [False], 100).tolist()
    shares = np.stack([confidence, 1 - confidence], 1)
    truth = np.where(right, 0, 1)
    assert quality(shares, truth, none=0).expected_calibration_error == pytest.approx(0)


def test_the_interval_of_change_is_that_of_whole_bags():
    """Every bag gets better by the same: no spread. One that gets worse widens it past zero."""
    before, after = np.full((40, 2), 0.5), np.tile([0.8, 0.2], (40, 1))
    bags = np.repeat(range(4), 10)
    low, high = interval_of_change(before, after, np.zeros(40, int), bags, none=0)['log_loss']
    assert low == pytest.approx(np.log(0.5 / 0.8)) == high
    truth = np.repeat([0, 0, 0, 1], 10)
    low, high = interval_of_change(before, after, truth, bags, none=0)['log_loss']
    assert low < 0 < high
