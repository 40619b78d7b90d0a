"""The data that walks through the house: frozen dataclasses, no behaviour beyond checks.

All times are integer nanoseconds of the source clock (``header.stamp``), never "now".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np


class Status(IntEnum):
    """Status of an output message; values equal PlanningHint.msg and SceneDescription.msg."""

    UNKNOWN = 0
    OK = 1
    DEGRADED = 2
    NO_HINT = 3
    STALE = 4
    TIMEOUT = 5
    INVALID = 6
    ERROR = 7


class Behavior(IntEnum):
    """Hinted behavior; 0..7 equal Autoware's PlanningFactor, 100 and up are ours. None asks to go faster."""

    UNKNOWN = 0
    NONE = 1
    SLOW_DOWN = 2
    STOP = 3
    SHIFT_LEFT = 4
    SHIFT_RIGHT = 5
    TURN_LEFT = 6
    TURN_RIGHT = 7
    YIELD = 100
    INCREASE_GAP = 101


class ConfidenceSource(IntEnum):
    """Where ``confidence`` comes from; values equal PlanningHint.msg."""

    NONE = 0
    TOKEN_PROBABILITY = 1
    SELF_REPORTED = 2
    CALIBRATED = 3


class CameraState(IntEnum):
    """State of one camera in one frame set; values equal CameraStatus.msg."""

    UNKNOWN = 0
    OK = 1
    MISSING = 2  # no frame within the tolerance of the anchor
    STALE = 3  # silent for longer than the stale limit
    FROZEN = 4  # the same image again under a new stamp
    INVALID = 5  # a frame came but cannot be decoded


@dataclass(frozen=True, slots=True)
class CameraFrame:
    """One image of one camera, not decoded yet.

    ``encoding`` is the Image encoding ('rgb8', ...) or the CompressedImage format; ``height`` and ``width`` are pixels,
    0 where only decoding can tell; ``payload`` is the message as received, held by reference and never changed.
    """

    camera: str
    stamp_ns: int
    encoding: str = ''
    height: int = 0
    width: int = 0
    payload: Any = None


@dataclass(frozen=True, slots=True)
class EgoState:
    """Motion of base_link at ``stamp_ns`` (REP-103: x forward, y left, z up).

    ``position`` is (3,) metres in the odometry frame or None where the source gives no usable position;
    ``orientation`` is a unit quaternion x, y, z, w or None; ``linear`` (m/s) and ``angular`` (rad/s) are in base_link.
    """

    stamp_ns: int
    position: tuple[float, float, float] | None
    orientation: tuple[float, float, float, float] | None
    linear: tuple[float, float, float]
    angular: tuple[float, float, float]

    @property
    def speed(self) -> float:
        """Speed over ground in m/s."""
        return float(np.hypot(self.linear[0], self.linear[1]))


@dataclass(frozen=True, slots=True)
class FrameSet:
    """One synchronised tick: at most one current frame per view.

    ``cameras`` lists every view of the rig in ring order; a view without an entry in ``frames`` is missing.
    ``stamp_ns`` is the acquisition time of the anchor frame, ``spread_ns`` the span of the offset-corrected stamps.
    ``stale`` names the missing views that have been silent for longer than the stale limit.
    """

    sequence: int
    stamp_ns: int
    cameras: tuple[str, ...]
    frames: Mapping[str, CameraFrame]
    spread_ns: int = 0
    ego: EgoState | None = None
    stale: frozenset[str] = frozenset()

    @property
    def missing(self) -> tuple[str, ...]:
        """Views without a frame, in ring order."""
        return tuple(camera for camera in self.cameras if camera not in self.frames)

    @property
    def full(self) -> bool:
        """True where every view has a frame."""
        return not self.missing


@dataclass(frozen=True, slots=True)
class Window:
    """The frame sets of one tick, oldest first, the current one last; ``slots`` counts those asked for."""

    sets: tuple[FrameSet, ...]
    slots: int

    @property
    def current(self) -> FrameSet:
        """The newest frame set."""
        return self.sets[-1]


@dataclass(frozen=True, slots=True)
class ViewReport:
    """What one view brought to a tick: state, frames used, tokens before and after pruning, and the keep mask.

    ``stamp_ns`` is that of the current frame (0 without one); ``keep`` is bool (frames, rows, columns) or None.
    """

    camera: str
    state: CameraState
    stamp_ns: int = 0
    frames: int = 0
    tokens_full: int = 0
    tokens_kept: int = 0
    keep: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A keep ratio chosen for a latency target; ``expected_ms`` up to the hint with it, NaN until there is a guess."""

    ratio: float
    expected_ms: float
    target_ms: float

    @property
    def misses(self) -> bool:
        """Whether the target is out of reach: a ratio above the lowest is chosen only where it can be met."""
        return self.expected_ms > self.target_ms


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything one tick says; ``distribution`` holds (behavior, probability) for every candidate, summing to one.

    ``status`` is that of the hint, ``description_status`` that of the text, which is written after the hint is out.
    ``max_speed`` (m/s) and ``distance`` (m) are NaN when unknown. ``stage_ms`` holds disjoint stage times.
    ``wait_ms`` is the age of the set when the tick began (0 in replay), ``hint_ms`` the time from there to the hint,
    NaN without one. ``choice`` is the keep ratio that a latency target led to, None without a target.
    ``notes`` are sentences about what is degraded, for logs and diagnostics.
    """

    sequence: int
    stamp_ns: int
    status: Status
    behavior: Behavior = Behavior.UNKNOWN
    distribution: tuple[tuple[Behavior, float], ...] = ()
    confidence: float = 0.0
    confidence_source: ConfidenceSource = ConfidenceSource.NONE
    max_speed: float = float('nan')
    distance: float = float('nan')
    description_status: Status = Status.UNKNOWN
    description: str = ''
    truncated: bool = False
    views: tuple[ViewReport, ...] = ()
    tokens_text: int = 0
    model_id: str = ''
    model_revision: str = ''
    model_trained: bool = False
    prompt_id: str = ''
    method: str = ''
    keep_ratio: float = 1.0
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    wait_ms: float = 0.0
    hint_ms: float = float('nan')
    choice: Choice | None = None
    notes: tuple[str, ...] = ()

    @property
    def source_to_hint_ms(self) -> float:
        """What a latency target counts: age of the set and time to the hint; NaN without a hint."""
        return self.wait_ms + self.hint_ms

    @property
    def tick_ms(self) -> float:
        """Processing time of the whole tick."""
        return sum(self.stage_ms.values())

    @property
    def tokens_full(self) -> int:
        """Visual tokens before pruning, all views."""
        return sum(view.tokens_full for view in self.views)

    @property
    def tokens_kept(self) -> int:
        """Visual tokens after pruning, all views."""
        return sum(view.tokens_kept for view in self.views)
