"""Bootstrap intervals over scenes: questions about the same scene are not independent, scenes are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

RESAMPLES = 2000
LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval
MIN_ACCURACY = 1e-9  # keeps ratios finite


@dataclass
class SceneCounts:
    """Correct answers and questions per scene, as [correct, asked] by scene id."""

    scenes: dict[int, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))

    def add(self, scene: int, correct: bool) -> None:
        """Count one question about a scene."""
        self.scenes[scene][0] += correct
        self.scenes[scene][1] += 1

    @property
    def questions(self) -> int:
        """Questions over all scenes."""
        return sum(asked for _, asked in self.scenes.values())

    @property
    def accuracy(self) -> float:
        """Share of questions answered correctly."""
        return sum(correct for correct, _ in self.scenes.values()) / self.questions


def accuracy_interval(counts: SceneCounts) -> tuple[float, float]:
    """95 % interval (low, high) of the accuracy."""
    table = np.array(list(counts.scenes.values()), float)
    correct, asked = table[_resamples(len(table))].sum(axis=1).T
    low, high = np.percentile(correct / asked, LEVEL)
    return float(low), float(high)


def relative_accuracy(counts: SceneCounts, full: SceneCounts) -> tuple[float, float, float]:
    """Accuracy divided by that of ``full``, and its 95 % interval (low, high).

    The interval is paired: a resample holds the same scenes for both.
    """
    scenes = [scene for scene in full.scenes if scene in counts.scenes]
    pruned_table = np.array([counts.scenes[scene] for scene in scenes], float)
    full_table = np.array([full.scenes[scene] for scene in scenes], float)
    resamples = _resamples(len(scenes))
    correct, asked = pruned_table[resamples].sum(axis=1).T
    full_correct, full_asked = full_table[resamples].sum(axis=1).T
    ratios = (correct / asked) / np.maximum(full_correct / full_asked, MIN_ACCURACY)
    low, high = np.percentile(ratios, LEVEL)
    return counts.accuracy / max(full.accuracy, MIN_ACCURACY), float(low), float(high)


def _resamples(scenes: int) -> np.ndarray:
    """Which scenes each resample holds: indices (RESAMPLES, scenes)."""
    return np.random.default_rng(0).integers(scenes, size=(RESAMPLES, scenes))
