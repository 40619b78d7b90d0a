"""What the node has seen, used and published: facts, from which the diagnostics judge."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from stprune_ros.core.types import Answer, Provenance, Status
from stprune_ros.ros.rates import Key, Rates
from stprune_ros.settings.settings import Settings

ACTIVE = 'active'  # the state of a managed node in which it works

RECEIVED, USED, LOST = 'received', 'used', 'lost'  # images of a camera: that came, that sets hold, that DDS lost
REFUSED = 'refused'
ODOMETRY_RECEIVED, ODOMETRY_REFUSED = 'odometry_received', 'odometry_refused'
VALID, NOT_VALID = 'valid', 'not_valid'  # hints, as they were published
# What became of the windows (`Worker.counts`).
DONE, FAILED, SKIPPED, DROPPED, CANCELLED = FATES = ('done', 'failed', 'skipped', 'dropped', 'cancelled')
CLOCK_JUMPS = 'clock_jumps'  # of the sensor stream, as are the next
SETS_FULL, SETS_PARTIAL, SETS_SKIPPED, CROWDED = 'sets_full', 'sets_partial', 'sets_skipped', 'frames_crowded'


@dataclass
class Health:
    """Written by the node's callbacks and its worker; times are time.monotonic() seconds."""

    cameras: dict[str, float | None]  # last image
    listening_since: float | None = None  # None while nothing is expected
    received: Counter[str] = field(default_factory=Counter)  # images, by camera
    used: Mapping[str, int] = field(default_factory=dict)  # images in frame sets, by camera
    lost: Mapping[str, int] | None = None  # images that DDS lost; None where it does not tell
    odometry: float | None = None  # last message
    odometry_fault: str = ''  # why it is not used
    odometry_received: int = 0  # messages
    odometry_refused: int = 0  # those that were not used
    waiting: tuple[str, ...] = ()  # what is missing before the ring is known
    outdated: str = ''  # in what way the ring is not that of the newest calibration
    unusable: tuple[str, ...] = ()  # why cameras are left out of the ring
    unheard: Mapping[tuple[str, str], str] = field(default_factory=dict)  # why nothing can come: by input and camera
    untold: Mapping[tuple[str, str], str] = field(default_factory=dict)  # who publish what nothing tells apart
    timing: Mapping[str, str] = field(default_factory=dict)  # what is wrong with the stamps of a camera
    mixed: frozenset[str] = frozenset()  # cameras whose images come from several publishers in turn
    model: Provenance | None = None  # of what is loaded
    answer: Answer | None = None  # as it was published
    answered: float | None = None  # when its hint went out
    gap_s: float = 0.0  # between that and the one before
    set_closed: float | None = None  # when the last frame set was seen
    hints: Counter[str] = field(default_factory=Counter)  # those that went out, VALID and NOT_VALID
    latency_s: float = float('nan')
    failures: int = 0  # since the last answer
    described: float | None = None  # when the last description went out, or none was asked for
    description: Status | None = None  # its status, as it was published
    description_failures: int = 0  # since then
    texts: Counter[str] = field(default_factory=Counter)  # what became of descriptions, see Describer.counts
    hint_is_out: bool = False  # of the tick in work
    hang_s: float = 0.0  # for how long the tick in work has taken, where that is too long
    ticks: Mapping[str, int] = field(default_factory=dict)  # what became of the windows, see Worker.counts
    state: str = ACTIVE  # of the managed node
    transition_fault: str = ''  # why its last transition failed
    twin: bool = False  # another node has the same name
    transition_refused: str = ''  # what was asked of it last that its state does not allow
    loading_s: float | None = None  # for how long the model has been loading, where it is
    loading_fault: str = ''  # why it could not be loaded
    clock_fault: str = ''  # why no age can be told
    counters: Counter[str] = field(default_factory=Counter)  # of the sensor streams since the node began
    spread_ms: float = math.nan  # span of the stamps in the newest set, offsets taken off
    rates: Rates = field(default_factory=Rates)

    def published(self, answer: Answer) -> None:
        """A hint went out."""
        now = time.monotonic()
        self.gap_s = now - self.answered if self.answered is not None else 0.0
        self.answer, self.answered = answer, now
        self.hints[VALID if answer.hint.status.is_valid else NOT_VALID] += 1

    def sample(self, now: float) -> None:
        """Let the rates know where all counts stand."""
        self.rates.sample(now, self.counts())
        if self.rates.grown_last(SETS_FULL) or self.rates.grown_last(SETS_PARTIAL):
            self.set_closed = now

    def counts(self) -> dict[Key, int]:
        """Everything that is counted."""
        by_camera = {RECEIVED: self.received, USED: self.used, LOST: self.lost or {}}
        found = {(what, name): counts.get(name, 0) for what, counts in by_camera.items() for name in self.cameras}
        odometry = {ODOMETRY_RECEIVED: self.odometry_received, ODOMETRY_REFUSED: self.odometry_refused}
        everything = {**self.counters, **self.hints, **self.ticks, **odometry}
        return {**found, **{(what, ''): count for what, count in everything.items()}}

    def silent_cameras(self, settings: Settings, now: float) -> list[str]:
        """A sentence for each camera that has sent nothing for longer than the stale limit, or nothing at all."""
        limit, begun = settings.cameras.stale_after_ms / 1e3, self.listening_since
        if begun is None or now - begun <= limit:
            return []
        never = [f"camera '{camera}' has sent no image yet" for camera, seen in self.cameras.items() if seen is None]
        ages = {camera: now - seen for camera, seen in self.cameras.items() if seen is not None}
        return never + [f"camera '{camera}' is silent for {age:.0f} s" for camera, age in ages.items() if age > limit]

    def faults(self, settings: Settings, now: float) -> list[str]:
        """What is wrong with the inputs just now, as sentences for log and heartbeats."""
        return [
            *self.waiting,
            *self.unheard.values(),
            *self.untold.values(),
            *self.timing.values(),
            *self.unusable,
            *filter(None, [self.outdated, self.odometry_fault]),
            *self.silent_cameras(settings, now),
        ]
