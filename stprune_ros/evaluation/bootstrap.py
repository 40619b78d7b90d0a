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
    scenes = [scene for scene in full.scenes if scene in counts.scenes]
    mine = np.array([counts.scenes[scene] for scene in scenes], float)
    whole = np.array([full.scenes[scene] for scene in scenes], float)
    draws = _draws(len(scenes))
    (right, asked), (full_right, full_asked) = mine[draws].sum(axis=1).T, whole[draws].sum(axis=1).T
    ratios = (right / asked) / np.maximum(full_right / full_asked, 1e-9)
    low, high = np.percentile(ratios, LEVEL)
    return counts.accuracy / max(full.accuracy, 1e-9), float(low), float(high)


def _draws(scenes: int) -> np.ndarray:
    """Which scenes each resample holds: (RESAMPLES, scenes)."""
    return np.random.default_rng(0).integers(scenes, size=(RESAMPLES, scenes))
