"""Data types passed between components: frozen dataclasses without behaviour beyond what follows from their fields.

All times are integer nanoseconds of the source clock (``header.stamp``), never "now".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np

# Where a camera looks, by 45-degree sectors, counter-clockwise.
DIRECTIONS = ('front', 'front left', 'left', 'back left', 'back', 'back right', 'right', 'front right')


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

    @property
    def is_valid(self) -> bool:
        """Whether what comes with this status may be used."""
        return self in (Status.OK, Status.DEGRADED)


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
    TOKEN_PROBABILITY = 1  # the model's probabilities as they come
    CALIBRATED = 2  # those, brought to what was right on recorded drives


class CameraState(IntEnum):
    """State of one camera in one frame set; values equal CameraStatus.msg."""

    UNKNOWN = 0
    OK = 1
    MISSING = 2  # no frame within the tolerance of the anchor
    STALE = 3  # silent for longer than the stale limit
    FROZEN = 4  # the same image again under a new stamp
    INVALID = 5  # a frame came but cannot be decoded
    MISCALIBRATED = 6  # its camera_info is for other images; the frame is used all the same

    @property
    def has_frame(self) -> bool:
        """Whether the model saw a current frame of this camera."""
        return self in (CameraState.OK, CameraState.MISCALIBRATED)


@dataclass(frozen=True, slots=True)
class CameraFrame:
    """One image of one camera, not decoded yet.

    ``encoding`` is the Image encoding ('rgb8', ...) or the CompressedImage format; ``height`` and ``width`` are pixels,
    0 where only decoding can tell; ``payload`` is the message as received, held by reference and never changed.
    ``frozen`` says that the camera has sent the same image under new stamps for longer than it may.
    """

    camera: str
    stamp_ns: int
    encoding: str = ''
    height: int = 0
    width: int = 0
    payload: Any = None
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class EgoState:
    """Motion of the vehicle frame ``cameras.base_frame`` at ``stamp_ns`` (REP-103: x forward, y left, z up).

    ``position`` is (3,) metres in the odometry frame or None where the source gives no usable position;
    ``orientation`` is a unit quaternion x, y, z, w or None; ``linear`` (m/s) and ``angular`` (rad/s) are in its axes.
    """

    stamp_ns: int
    position: tuple[float, float, float] | None
    orientation: tuple[float, float, float, float] | None
    linear: tuple[float, float, float]
    angular: tuple[float, float, float]

    @property
    def speed(self) -> float:
        """Speed over ground in m/s, never negative."""
        return float(np.hypot(self.linear[0], self.linear[1]))

    @property
    def forward(self) -> float:
        """Speed along the vehicle in m/s, negative in reverse."""
        return self.linear[0]

    @property
    def is_reversing(self) -> bool:
        """Whether it goes backward, and more so than sideways."""
        return self.forward < 0 and -self.forward > abs(self.linear[1])


@dataclass(frozen=True, slots=True)
class HeldFrame:
    """An earlier frame that a view shows until its turn comes, and the ego state of the set that it came with."""

    frame: CameraFrame
    ego: EgoState | None


@dataclass(frozen=True, slots=True)
class FrameSet:
    """One synchronised tick: at most one current frame per view.

    ``cameras`` lists every view of the rig in ring order; a view without an entry in ``frames`` is missing.
    ``stamp_ns`` is the acquisition time of the anchor frame, ``spread_ns`` the span of the offset-corrected stamps.
    ``stale`` names the missing views that have been silent for longer than the stale limit, ``mixed`` those whose
    images come from several publishers in turn and are left out. ``held`` has the views whose turn it is not: they
    show an earlier frame in place of that in ``frames``.
    """

    sequence: int
    stamp_ns: int
    cameras: tuple[str, ...]
    frames: Mapping[str, CameraFrame]
    spread_ns: int = 0
    ego: EgoState | None = None
    stale: frozenset[str] = frozenset()
    mixed: frozenset[str] = frozenset()
    held: Mapping[str, HeldFrame] = field(default_factory=dict)

    @property
    def missing(self) -> tuple[str, ...]:
        """Views without a frame, in ring order."""
        return tuple(camera for camera in self.cameras if camera not in self.frames)

    @property
    def full(self) -> bool:
        """True where every view has a frame."""
        return not self.missing

    def without_images(self) -> FrameSet:
        """The same set for whoever keeps it for its stamps: the images need not stay in memory for that."""
        frames = {camera: replace(frame, payload=None) for camera, frame in self.frames.items()}
        held = {camera: replace(held, frame=replace(held.frame, payload=None)) for camera, held in self.held.items()}
        return replace(self, frames=frames, held=held)


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

    ``stamp_ns`` is that of the frame shown as the current one (0 without one); ``keep`` is bool (frames, rows, columns)
    or None; ``image`` is that frame as the model got it, RGB uint8 (height, width, 3), and ``reasons`` are of the shape
    of ``keep`` and say why each token stayed or went, as numbers of `pruning.reason.Reason`, where somebody asked.
    """

    camera: str
    state: CameraState
    stamp_ns: int = 0
    frames: int = 0
    tokens_full: int = 0
    tokens_kept: int = 0
    keep: np.ndarray | None = None
    image: np.ndarray | None = None
    reasons: np.ndarray | None = None


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
class Hint:
    """A behavior with its probability; ``distribution`` holds every candidate in the order given, summing to one.

    Unless the status is valid the behavior is UNKNOWN; the distribution may still be there, for whoever analyses it.
    """

    status: Status
    behavior: Behavior = Behavior.UNKNOWN
    distribution: tuple[tuple[Behavior, float], ...] = ()
    confidence: float = 0.0
    confidence_source: ConfidenceSource = ConfidenceSource.NONE


@dataclass(frozen=True, slots=True)
class Description:
    """A text about the scene, written after the hint is out; ``truncated`` where the deadline or the limit cut it.

    ``note`` is a sentence about what else cut it, '' where nothing did.
    """

    status: Status
    text: str = ''
    truncated: bool = False
    note: str = ''

    @property
    def has_text(self) -> bool:
        """Whether the text may be shown: TIMEOUT leaves what was written before the deadline."""
        return self.status.is_valid or self.status == Status.TIMEOUT


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which model answered which prompt, and how its input was pruned.

    ``hint_calibration_id`` names the calibration that the scores of hints go through, '' without one;
    ``joint_common`` is the weight of commonness that held, None where no model is known.
    """

    model_id: str
    model_revision: str
    model_trained: bool
    prompt_id: str
    method: str
    keep_ratio: float
    tokens_text: int = 0
    hint_calibration_id: str = ''
    joint_common: float | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """What a tick took, in ms: ``stage_ms`` holds disjoint stages.

    ``wait_ms`` is the age of the set when the tick began (0 in replay), ``hint_ms`` the time from there to the hint,
    NaN without one. ``choice`` is the keep ratio that a latency target led to, None without a target.
    """

    stage_ms: Mapping[str, float] = field(default_factory=dict)
    wait_ms: float = 0.0
    hint_ms: float = math.nan
    choice: Choice | None = None

    @property
    def source_to_hint_ms(self) -> float:
        """What a latency target counts: age of the set and time to the hint; NaN without a hint."""
        return self.wait_ms + self.hint_ms

    @property
    def tick_ms(self) -> float:
        """Processing time of the whole tick."""
        return sum(self.stage_ms.values())


@dataclass(frozen=True, slots=True)
class Answer:
    """What one tick says about one frame set.

    ``notes`` are sentences about what is degraded, for logs and diagnostics; no status follows from them.
    """

    stamp_ns: int
    sequence: int
    hint: Hint
    description: Description
    provenance: Provenance
    views: tuple[ViewReport, ...] = ()
    timing: Timing = field(default_factory=Timing)
    notes: tuple[str, ...] = ()

    @classmethod
    def without_result(
        cls,
        status: Status,
        window: Window | None,
        provenance: Provenance,
        views: tuple[ViewReport, ...] = (),
        timing: Timing | None = None,
        notes: Sequence[str] = (),
    ) -> Answer:
        """An answer that hints and describes nothing, about the current set of ``window`` (None: before the first)."""
        current = window.current if window is not None else None
        return cls(
            stamp_ns=current.stamp_ns if current is not None else 0,
            sequence=current.sequence if current is not None else 0,
            hint=Hint(status),
            description=Description(status),
            provenance=provenance,
            views=views,
            timing=timing or Timing(),
            notes=tuple(notes),
        )

    def without_images(self) -> Answer:
        """The same answer without the pictures in its views, for whoever keeps it."""
        return replace(self, views=tuple(replace(view, image=None) for view in self.views))

    @property
    def tokens_full(self) -> int:
        """Visual tokens before pruning, all views."""
        return sum(view.tokens_full for view in self.views)

    @property
    def tokens_kept(self) -> int:
        """Visual tokens after pruning, all views."""
        return sum(view.tokens_kept for view in self.views)
