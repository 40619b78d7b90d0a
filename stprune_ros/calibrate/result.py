"""A correction fitted on some drives, and what it changes on others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stprune_ros.calibrate.drives import ScoredDrive
from stprune_ros.calibrate.fit import Correction, fit_correction, no_correction
from stprune_ros.calibrate.quality import Quality, interval_of_change, probabilities, quality
from stprune_ros.core.types import Behavior
from stprune_ros.errors import BagError


@dataclass(frozen=True, eq=False)
class DriveSet:
    """Ticks of several drives as one table, and what they were worth with and without the correction."""

    drives: tuple[ScoredDrive, ...]
    true_behaviors: dict[Behavior, int]  # ticks by what is right, in the order of the candidates
    before: Quality
    after: Quality


@dataclass(frozen=True, eq=False)
class Calibrated:
    """A correction, the drives it was ``fitted`` on and the others that it is ``judged`` on.

    ``changed`` counts the hints there that became another, ``freed`` those that became NONE, and ``freed_wrongly``
    those of them where a restriction was right. ``intervals`` are 95 % intervals of what changes, by figure; empty with
    a single drive.
    """

    behaviors: tuple[Behavior, ...]
    correction: Correction
    fitted: DriveSet
    judged: DriveSet
    changed: int
    freed: int
    freed_wrongly: int
    intervals: dict[str, tuple[float, float]]


def calibrate(
    fit_on: Sequence[ScoredDrive], judge_on: Sequence[ScoredDrive], behaviors: tuple[Behavior, ...]
) -> Calibrated:
    """Fit on ``fit_on`` and judge on ``judge_on``. Raises BagError where the truth to fit on has one behavior only."""
    scores, truth = _table(fit_on)
    seen = np.unique(truth)
    if len(seen) < 2:
        raise BagError(
            f'the truth says {behaviors[seen[0]].name} in all {len(truth)} ticks to fit on, so nothing can be told'
            ' apart: add drives where another behavior is right'
        )
    weights = np.concatenate([np.full(len(drive.truth), drive.weight) for drive in fit_on])
    free = np.mean([drive.content_free for drive in fit_on], axis=0)
    correction = fit_correction(scores, truth, weights, free)
    none = behaviors.index(Behavior.NONE)

    scores, truth = _table(judge_on)
    before, after = probabilities(scores), probabilities(correction.logits(scores))
    said, says = before.argmax(-1), after.argmax(-1)
    freed = (said != none) & (says == none)
    bags = np.concatenate([np.full(len(drive.truth), number) for number, drive in enumerate(judge_on)])
    return Calibrated(
        behaviors=behaviors,
        correction=correction,
        fitted=_drive_set(fit_on, correction, behaviors),
        judged=_drive_set(judge_on, correction, behaviors),
        changed=int((said != says).sum()),
        freed=int(freed.sum()),
        freed_wrongly=int((freed & (truth != none)).sum()),
        intervals=interval_of_change(before, after, truth, bags, none) if len(judge_on) > 1 else {},
    )


def _table(drives: Sequence[ScoredDrive]) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n, K) and true candidates (n,) of all ticks."""
    return np.concatenate([drive.scores for drive in drives]), np.concatenate([drive.truth for drive in drives])


def _drive_set(drives: Sequence[ScoredDrive], correction: Correction, behaviors: tuple[Behavior, ...]) -> DriveSet:
    scores, truth = _table(drives)
    none, counts = behaviors.index(Behavior.NONE), Counter(truth.tolist())
    found = (no_correction(len(behaviors)), correction)
    before, after = (quality(probabilities(one.logits(scores)), truth, none) for one in found)
    true_behaviors = {behavior: counts[number] for number, behavior in enumerate(behaviors)}
    return DriveSet(tuple(drives), true_behaviors, before, after)
