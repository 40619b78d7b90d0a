"""How good probabilities are: accuracy, log loss, calibration error by confidence, and what changes for a planner."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10  # of confidence, equally wide
RESAMPLES = 1000
LEAST = 1e-12  # probability that counts as the least, so that one tick cannot make the log loss infinite


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures over n ticks.

    ``expected_calibration_error`` is the mean over ticks of how far the share of right hints in a tick's bin of
    confidence lies from the mean confidence there. ``bins`` (BINS, 3) holds ticks, mean confidence and share of right
    hints of each. ``missed`` counts ticks that called for a restriction and got NONE, ``needless`` the reverse.
    """

    ticks: int
    accuracy: float
    log_loss: float
    expected_calibration_error: float
    bins: np.ndarray
    missed: int
    needless: int


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def quality(shares: np.ndarray, truth: np.ndarray, none: int) -> Quality:
    """The figures of probabilities ``shares`` (n, K) where ``truth`` (n,) is right; ``none`` is the candidate NONE."""
    said, confidence = shares.argmax(-1), shares.max(-1)
    right = said == truth
    bins = reliability(confidence, right)
    error = float((bins[:, 0] * np.abs(bins[:, 1] - bins[:, 2])).sum() / len(truth))
    likelihood = np.maximum(shares[np.arange(len(truth)), truth], LEAST)
    return Quality(
        ticks=len(truth),
        accuracy=float(right.mean()),
        log_loss=float(-np.log(likelihood).mean()),
        expected_calibration_error=error,
        bins=bins,
        missed=int(((truth != none) & (said == none)).sum()),
        needless=int(((truth == none) & (said != none)).sum()),
    )


def reliability(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(BINS, 3): ticks, mean confidence and share of right hints by bin of ``confidence``; zeros in empty bins."""
    index = np.minimum((confidence * BINS).astype(int), BINS - 1)
    ticks = np.bincount(index, minlength=BINS).astype(float)
    sums = [np.bincount(index, values, BINS) for values in (confidence, right.astype(float))]
    return np.stack([ticks, *(total / np.maximum(ticks, 1) for total in sums)], axis=1)


def interval_of_change(
    before: np.ndarray, after: np.ndarray, truth: np.ndarray, bags: np.ndarray, none: int
) -> dict[str, tuple[float, float]]:
    """95 % intervals of how log loss and calibration error change, by drawing whole bags anew.

    ``before`` and ``after`` are probabilities (n, K), ``bags`` (n,) numbers the bag of each tick: ticks of one bag are
    not independent.
    """
    rng, changes = np.random.default_rng(0), []
    rows = [np.flatnonzero(bags == bag) for bag in np.unique(bags)]
    for _ in range(RESAMPLES):
        drawn = np.concatenate([rows[number] for number in rng.integers(0, len(rows), len(rows))])
        old, new = (quality(shares[drawn], truth[drawn], none) for shares in (before, after))
        changes.append((new.log_loss - old.log_loss, new.expected_calibration_error - old.expected_calibration_error))
    low, high = np.percentile(changes, [2.5, 97.5], axis=0)
    names = ('log_loss', 'expected_calibration_error')
    return {name: (float(low[number]), float(high[number])) for number, name in enumerate(names)}
