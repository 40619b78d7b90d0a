"""Paired bootstrap over scenes: questions about the same scene are not independent, scenes are.

Every figure of a comparison comes from the same resampled scenes, so that what makes a scene hard for all methods
alike cancels out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval
TINY = 1e-9  # keeps ratios finite

Interval = tuple[float, float | None, float | None]  # the value, and its 95 % interval (low, high); of one scene none


@dataclass(frozen=True)
class SceneCounts:
    """Correct answers and questions per scene: float (S,) each, scenes in the same order for all that are compared."""

    correct: np.ndarray
    asked: np.ndarray

    @classmethod
    def of(cls, scenes: np.ndarray, right: np.ndarray) -> SceneCounts:
        """Count answers: ``scenes`` int (Q,), numbers from 0, and ``right`` (Q,) or (runs, Q), NaN where not asked."""
        right = np.atleast_2d(right)
        size = int(scenes.max(initial=-1)) + 1
        correct, asked = (
            sum(np.bincount(scenes, weights, size) for weights in values)
            for values in (np.nan_to_num(right), (~np.isnan(right)).astype(float))
        )
        return cls(np.asarray(correct, float), np.asarray(asked, float))

    @property
    def questions(self) -> int:
        """Questions over all scenes."""
        return int(self.asked.sum())

    @property
    def scenes(self) -> int:
        """Scenes with a question."""
        return int((self.asked > 0).sum())

    @property
    def accuracy(self) -> float:
        """Share of questions answered correctly."""
        return float(self.correct.sum() / self.asked.sum())

    def resampled(self) -> np.ndarray:
        """The accuracy in each of `RESAMPLES` draws of as many scenes: (RESAMPLES,), NaN where one has no question."""
        drawn = np.random.default_rng(0).integers(len(self.asked), size=(RESAMPLES, len(self.asked)))
        asked = self.asked[drawn].sum(axis=1)
        return np.asarray(self.correct[drawn].sum(axis=1) / np.where(asked > 0, asked, np.nan))


def accuracy(counts: SceneCounts) -> Interval:
    """The accuracy."""
    return counts.accuracy, *_interval(counts.resampled(), counts)


def difference(counts: SceneCounts, other: SceneCounts) -> Interval:
    """Accuracy minus that of ``other``."""
    return counts.accuracy - other.accuracy, *_interval(counts.resampled() - other.resampled(), counts)


def recovered(counts: SceneCounts, full: SceneCounts, blind: SceneCounts) -> Interval:
    """(accuracy - blind) / (full - blind): of what pictures add to guessing, the share that is left."""

    def share(mine: np.ndarray, whole: np.ndarray, guessed: np.ndarray) -> np.ndarray:
        return np.asarray((mine - guessed) / np.maximum(whole - guessed, TINY))

    value = share(*(np.array(x.accuracy) for x in (counts, full, blind)))
    return float(value), *_interval(share(*(x.resampled() for x in (counts, full, blind))), counts)


def flips(right: np.ndarray, before: np.ndarray) -> tuple[float, float]:
    """Shares of questions that went from right to wrong, from wrong to right: ``right`` (runs, Q), ``before`` (Q,)."""
    right = np.atleast_2d(right)
    both = ~np.isnan(right) & ~np.isnan(before)
    count = max(int(both.sum()), 1)
    lost, won = ((both & (before == old) & (right == 1 - old)).sum() / count for old in (1, 0))
    return float(lost), float(won)


def _interval(values: np.ndarray, counts: SceneCounts) -> tuple[float, float] | tuple[None, None]:
    """The interval of what draws say; those that say nothing do not count. Draws of a single scene are all the same."""
    if counts.scenes < 2:
        return None, None
    low, high = np.nanpercentile(values, LEVEL)
    return float(low), float(high)
