"""Bootstrap intervals over scenes: questions about one scene are not independent, scenes are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

RESAMPLES = 2000
LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval


@dataclass
class Counts:
    """Right answers and questions per scene."""

    scenes: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def add(self, scene: int, hit: bool) -> None:
        """Count one question."""
        self.scenes[scene][0] += hit
        self.scenes[scene][1] += 1

    @property
    def total(self) -> int:
        """Questions."""
        return sum(asked for _, asked in self.scenes.values())

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return sum(right for right, _ in self.scenes.values()) / self.total


def interval(counts: Counts) -> tuple[float, float]:
    """95 % interval of the accuracy."""
    table = np.array(list(counts.scenes.values()), float)
    right, asked = table[_draws(len(table))].sum(axis=1).T
    low, high = np.percentile(right / asked, LEVEL)
    return float(low), float(high)


def ratio_of(counts: Counts, full: Counts) -> tuple[float, float, float]:
    """Accuracy relative to ``full`` and its 95 % interval; the same scenes are drawn for both."""
    mine, whole = _resampled(counts, full)
    low, high = np.percentile(mine / np.maximum(whole, 1e-9), LEVEL)
    return counts.accuracy / max(full.accuracy, 1e-9), float(low), float(high)


def difference_of(counts: Counts, other: Counts) -> tuple[float, float, float]:
    """By how much the accuracy is above ``other`` and its 95 % interval; the same scenes are drawn for both."""
    mine, theirs = _resampled(counts, other)
    low, high = np.percentile(mine - theirs, LEVEL)
    return counts.accuracy - other.accuracy, float(low), float(high)


def _resampled(counts: Counts, other: Counts) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies of both in every resample of the scenes that both have."""
    scenes = [scene for scene in other.scenes if scene in counts.scenes]
    draws = _draws(len(scenes))
    both = (np.array([one.scenes[scene] for scene in scenes], float)[draws].sum(axis=1).T for one in (counts, other))
    (right, asked), (other_right, other_asked) = both
    return right / asked, other_right / other_asked


def _draws(scenes: int) -> np.ndarray:
    """Which scenes each resample holds: (RESAMPLES, scenes)."""
    return np.random.default_rng(0).integers(scenes, size=(RESAMPLES, scenes))
