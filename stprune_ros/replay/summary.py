"""Counts what a replay did; the result is summary.json."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Answer, Choice, Description, Provenance, Status
from stprune_ros.settings.settings import Settings

MAX_SENTENCES = 50


class Sentences:
    """Sentences in the order of their first appearance, with counts; bounded, however many different ones there are."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.times: dict[str, tuple[int, int]] = {}  # stamps in ns of the first and the last time
        self.total = 0
        self.unlisted = 0

    def add(self, sentence: str, stamp_ns: int = 0) -> bool:
        """Count a sentence about the tick of ``stamp_ns``, 0 before the first; True where it is new and taken up."""
        self.total += 1
        known = sentence in self.counts
        if known or len(self.counts) < MAX_SENTENCES:
            self.counts[sentence] = self.counts.get(sentence, 0) + 1
            self.times[sentence] = (self.times.get(sentence, (stamp_ns, 0))[0], stamp_ns)
        else:
            self.unlisted += 1
        return not known and sentence in self.counts

    def listed(self) -> dict[str, int]:
        """Sentence to count; what found no room is counted under one last sentence."""
        return {**self.counts, 'others': self.unlisted} if self.unlisted else dict(self.counts)

    def timed(self) -> list[dict[str, Any]]:
        """Sentences with their counts and the stamps in ns of their first and last time."""
        return [
            {
                'sentence': sentence,
                'count': count,
                'first_ns': self.times[sentence][0],
                'last_ns': self.times[sentence][1],
            }
            for sentence, count in self.counts.items()
        ]


class ReplayStatistics:
    """Adds up answers; ``notes`` are told once each, ``errors`` are counted."""

    def __init__(self) -> None:
        self.ticks = 0
        self._ran = 0  # of them, those that did not fail: means and quantiles are theirs
        self.notes = Sentences()
        self.errors = Sentences()
        self._status: Counter[str] = Counter()
        self._hints: Counter[str] = Counter()
        self._descriptions: Counter[str] = Counter()
        self._views: dict[str, Counter[str]] = defaultdict(Counter)
        self._budgets: Counter[str] = Counter()
        self._stage_ms: dict[str, list[float]] = defaultdict(list)
        self._hint_ms: list[float] = []  # ticks with a hint
        self._tick_ms: list[float] = []
        self._choices: list[Choice] = []  # ticks with a latency target
        self._met = 0
        self._off_budget = 0.0
        self._confusion: dict[str, Counter[str]] = defaultdict(Counter)
        self._provenance: Provenance | None = None  # of the last tick

    def add(self, answer: Answer, truth: str = '') -> None:
        """Count one tick; ``truth`` is the name of the behavior that would have been right, '' where nobody knows."""
        self.ticks += 1
        hint = answer.hint
        self._status[hint.status.name] += 1
        self._hints[hint.behavior.name] += 1
        if truth:
            said = hint.behavior if hint.status.is_valid else hint.status
            self._confusion[truth][said.name] += 1
        if hint.status == Status.ERROR:
            return
        self._ran += 1
        provenance, timing = answer.provenance, answer.timing
        self._provenance = provenance
        ratio = 1.0 if provenance.method == 'none' else provenance.keep_ratio
        for view in answer.views:
            budget = ratio * view.tokens_full
            self._views[view.camera].update(
                frames=view.frames, full=view.tokens_full, kept=view.tokens_kept, absent=not view.state.has_frame
            )
            self._budgets[view.camera] += budget  # type: ignore[assignment]
        # Of the tick and not of a view: with one budget for the ring a view may keep more or less than its ratio.
        self._off_budget = max(self._off_budget, abs(answer.tokens_kept - ratio * answer.tokens_full))
        for stage, ms in timing.stage_ms.items():
            self._stage_ms[stage].append(ms)
        self._tick_ms.append(timing.tick_ms)
        if not math.isnan(timing.hint_ms):
            self._hint_ms.append(timing.hint_ms)
        if timing.choice is not None:
            self._choices.append(timing.choice)
            self._met += timing.source_to_hint_ms <= timing.choice.target_ms

    @property
    def ticks_per_s(self) -> float | None:
        """How many ticks the machine makes in a second of processing, descriptions included; None without one.

        Ticks that failed do not count.
        """
        spent_ms = sum(self._tick_ms)
        return round(1e3 * self._ran / spent_ms, 3) if spent_ms else None

    def add_description(self, description: Description) -> None:
        """Count one description."""
        self._descriptions[description.status.name] += 1

    def summary(
        self,
        bag: Path,
        settings: Settings,
        rig: CameraRig,
        anchor: str,
        counters: Mapping[str, int],
        topics: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The content of summary.json. Token counts are means per tick, times are in ms, overlaps in degrees.

        Ticks that failed are in ``ticks``, ``status`` and ``errors``, and in no mean and no time.

        ``hint_ms`` is the time up to the hint, ``tick_ms`` the whole tick, the description included where there is one.
        """
        last = self._provenance
        views = {camera: self._view(camera, rig) for camera in rig.ring}
        unseen = [camera for camera, view in views.items() if view['ticks_without'] == self._ran]
        return {
            'bag': str(bag),
            'model_id': last.model_id if last else '',
            'model_revision': last.model_revision if last else '',
            'model_trained': last.model_trained if last else False,
            'prompt_id': last.prompt_id if last else '',
            'hint_calibration_id': last.hint_calibration_id if last else '',
            'method': settings.pruning.method,
            'keep_ratio': settings.pruning.keep_ratio,
            'joint_common': last.joint_common if last else None,
            'interrupted': False,
            'cameras': list(rig.ring),
            'cameras_missing': [*unseen, *(camera.name for camera in rig.unusable)],
            'anchor': anchor,
            'topics': dict(topics),
            'ticks': self.ticks,
            **{key: counters.get(key, 0) for key in ('sets_full', 'sets_partial', 'sets_skipped')},
            'counters': {
                key: counters[key] for key in sorted(counters) if not key.startswith('sets_') and key != 'ticks'
            },
            'tokens_full': _sum(views, 'tokens_full'),
            'tokens_kept': _sum(views, 'tokens_kept'),
            'tokens_budget': _sum(views, 'tokens_budget'),
            'tokens_off_budget_max': round(self._off_budget, 3),
            'views': views,
            'hints': dict(sorted(self._hints.items())),
            'status': dict(sorted(self._status.items())),
            'descriptions': dict(sorted(self._descriptions.items())),
            'truth': self._truth(),
            'errors': self.errors.total,
            'error_sentences': self.errors.listed(),
            'notes': list(self.notes.counts),
            'warned': [*self.errors.timed(), *self.notes.timed()],
            'stage_ms': {stage: quantiles(values) for stage, values in self._stage_ms.items()},
            'hint_ms': quantiles(self._hint_ms) if self._hint_ms else None,
            'tick_ms': quantiles(self._tick_ms) if self._tick_ms else None,
            'latency': self._latency(),
        }

    def _view(self, camera: str, rig: CameraRig) -> dict[str, Any]:
        counts, ticks = self._views[camera], max(1, self._ran)
        return {
            'direction': rig.direction(camera),
            'overlap_right_deg': round(rig.overlap_deg(camera, rig.right(camera)), 2) if len(rig.ring) > 1 else 0.0,
            'ticks_without': counts['absent'] if counts else self._ran,
            'frames': round(counts['frames'] / ticks, 3),
            'tokens_full': round(counts['full'] / ticks, 3),
            'tokens_kept': round(counts['kept'] / ticks, 3),
            'tokens_budget': round(self._budgets[camera] / ticks, 3),
        }

    def _latency(self) -> dict[str, Any] | None:
        """How the latency target was held: the ratios chosen, and how many of the ticks had their hint in time."""
        if not self._choices:
            return None
        ratios = [choice.ratio for choice in self._choices]
        return {
            'target_ms': self._choices[-1].target_ms,
            'ticks': len(ratios),
            'met': self._met,
            'met_share': round(self._met / len(ratios), 4),
            'out_of_reach': sum(choice.misses for choice in self._choices),
            'keep_ratio': {
                'min': round(min(ratios), 4),
                'median': round(float(np.median(ratios)), 4),
                'max': round(max(ratios), 4),
            },
        }

    def _truth(self) -> dict[str, Any] | None:
        if not self._confusion:
            return None
        known = sum(sum(answers.values()) for answers in self._confusion.values())
        hits = sum(answers[truth] for truth, answers in self._confusion.items())
        return {
            'known': known,
            'hits': hits,
            'misses': known - hits,
            'answers': {truth: dict(sorted(answers.items())) for truth, answers in sorted(self._confusion.items())},
        }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    p50, p95, top = np.percentile(values, [50, 95, 100])
    return {'p50': round(float(p50), 3), 'p95': round(float(p95), 3), 'max': round(float(top), 3)}


def _sum(views: Mapping[str, Mapping[str, Any]], key: str) -> float:
    return round(float(sum(view[key] for view in views.values())), 3)
