"""What the report keeps of every tick: numbers and words, no pictures and no masks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stprune_ros.core.types import Answer, CameraState, Status
from stprune_ros.io.ground_truth import NO_TRUTH, TickTruth


@dataclass(frozen=True, slots=True)
class ViewRecord:
    """One view of a tick: tokens before and after pruning."""

    camera: str
    state: CameraState
    full: int
    kept: int


@dataclass(frozen=True, slots=True)
class TickRecord:
    """One tick; ``said`` is the behavior of a valid hint, else its status.

    ``shares`` are the probabilities of the candidates by name; ``hint_ms`` is the age of the set plus the time up to
    the hint, NaN without one; ``speed`` is in m/s, None without odometry.
    """

    stamp_ns: int
    said: str
    status: Status
    confidence: float
    shares: Mapping[str, float]
    text: str
    truncated: bool
    stage_ms: Mapping[str, float]
    hint_ms: float
    keep_ratio: float
    views: tuple[ViewRecord, ...]
    notes: tuple[str, ...]
    speed: float | None = None
    truth: TickTruth = NO_TRUTH

    @classmethod
    def from_answer(cls, answer: Answer, speed: float | None = None, truth: TickTruth = NO_TRUTH) -> TickRecord:
        """The record of an answer."""
        hint = answer.hint
        return cls(
            stamp_ns=answer.stamp_ns,
            said=hint.behavior.name if hint.status.is_valid else hint.status.name,
            status=hint.status,
            confidence=hint.confidence if hint.status.is_valid else math.nan,
            shares={behavior.name: share for behavior, share in hint.distribution},
            text=answer.description.text,
            truncated=answer.description.truncated,
            stage_ms=dict(answer.timing.stage_ms),
            hint_ms=answer.timing.source_to_hint_ms,
            keep_ratio=answer.provenance.keep_ratio,
            views=tuple(ViewRecord(v.camera, v.state, v.tokens_full, v.tokens_kept) for v in answer.views),
            notes=answer.notes,
            speed=speed,
            truth=truth,
        )

    @property
    def is_wrong(self) -> bool:
        """Whether the truth is known, and another one than what was said."""
        return bool(self.truth.behavior) and self.truth.behavior != self.said

    @property
    def is_partial(self) -> bool:
        """Whether a camera brought no usable frame."""
        return any(not view.state.has_frame for view in self.views)


def words(name: str) -> str:
    """A behavior or status as people read it."""
    return {'NONE': 'no restriction'}.get(name, name.lower().replace('_', ' '))


def stamp_text(stamp_ns: int) -> str:
    """A stamp in seconds with all its nine decimals, as the command line takes it."""
    return f'{stamp_ns // 10**9}.{stamp_ns % 10**9:09d}'


def columns(records: Sequence[TickRecord]) -> dict[str, Any]:
    """All ticks for the page's script, one list for each value; null where there is none. Texts are kept once."""
    texts: dict[str, int] = {}
    names = list(dict.fromkeys(name for record in records for name in record.shares))
    stages = list(dict.fromkeys(stage for record in records for stage in record.stage_ms))
    cameras = list(dict.fromkeys(view.camera for record in records for view in record.views))
    views = [{view.camera: view for view in record.views} for record in records]
    start_ns = records[0].stamp_ns if records else 0

    def index(text: str) -> int:
        return texts.setdefault(text, len(texts))

    return {
        'stamp': [stamp_text(record.stamp_ns) for record in records],
        'seconds': [round((record.stamp_ns - start_ns) / 1e9, 3) for record in records],
        'said': [record.said for record in records],
        'status': [record.status.name for record in records],
        'confidence': [_number(record.confidence, 3) for record in records],
        'truth': [record.truth.behavior for record in records],
        'shares': {name: [_number(record.shares.get(name, 0.0), 3) for record in records] for name in names},
        'stages': {stage: [_number(record.stage_ms.get(stage, 0.0), 1) for record in records] for stage in stages},
        'hint_ms': [_number(record.hint_ms, 1) for record in records],
        'ratio': [_number(record.keep_ratio, 4) for record in records],
        'kept': {camera: [found[camera].kept if camera in found else 0 for found in views] for camera in cameras},
        'full': {camera: [found[camera].full if camera in found else 0 for found in views] for camera in cameras},
        'state': {
            camera: [(found[camera].state if camera in found else CameraState.UNKNOWN).name for found in views]
            for camera in cameras
        },
        'speed': [None if record.speed is None else _number(record.speed, 1) for record in records],
        'text': [index(f'{record.text} ...' if record.truncated else record.text) for record in records],
        'true_text': [index(record.truth.description) for record in records],
        'notes': [[index(note) for note in record.notes] for record in records],
        'texts': list(texts),
    }


def _number(value: float, digits: int) -> float | None:
    return None if not math.isfinite(value) else round(float(value), digits)
