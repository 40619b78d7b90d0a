"""Ego motion from nav_msgs/Odometry as it is in the field: what is usable is used, what is not is said once."""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from operator import attrgetter, itemgetter
from typing import Any

from stprune_ros.core.odometry import Reading, ToBase, Triple, nowhere, read_odometry, unit
from stprune_ros.core.odometry_check import OdometryCheck
from stprune_ros.core.stamps import stamp_of
from stprune_ros.core.types import EgoState
from stprune_ros.errors import kind_of

KEEP_NS = 10_000_000_000  # history of samples
KEPT = 2000  # samples at most: 10 s at 200 Hz, or all that a stuck clock sends
MAX_PENDING = 100  # samples that wait to be judged
MAX_SAID = 100  # different sentences; a source that makes more of them only fills the log
JUMP_NS = 1_000_000_000  # stamps that step back farther than this mean that the source started anew
SETTLING_NS = 500_000_000  # how long the first samples are worth waiting for others to judge them by

# What varies beside the numbers in a sentence about one and the same trouble.
VARYING = re.compile(r'[-+]?# m/s (forward|backward)(, # m/s to the (left|right))?|[-+]?#( (ms|s|days)\b)?')

_stamp = attrgetter('stamp_ns')


class EgoTrack:
    """Recent motion of the vehicle frame, interpolated at a stamp.

    ``max_age_ns`` is the farthest a sample may be from it; ``to_base`` leads from another frame to ``base_frame``.
    A sample is judged when it comes, the first ones as soon as there are enough or one of them is asked for.
    """

    def __init__(self, max_age_ns: int, base_frame: str = 'base_link', to_base: ToBase = nowhere) -> None:
        self.max_age_ns = max_age_ns
        self.base_frame = base_frame.lstrip('/')
        self.fault = ''  # why the newest message is not used
        self.refused = 0  # samples that were not used
        self.absent = 'no odometry: hints come without ego motion'  # what to say before the first message
        self._to_base = to_base
        self._check = OdometryCheck()
        self._states: list[EgoState] = []  # what may be used, by stamp
        self._refused: list[tuple[int, str]] = []  # stamp and reason of what may not, by stamp
        self._pending: list[Reading] = []
        self._first_ns: int | None = None
        self._newest_ns: int | None = None
        self._notes: list[str] = []
        self._said: set[str] = set()

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest readable sample, None before the first."""
        return self._newest_ns

    def is_settling(self, stamp_ns: int) -> bool:
        """Whether the first samples wait for others to be judged by, and ``stamp_ns`` is near enough for that."""
        return bool(self._pending) and self._first_ns is not None and abs(stamp_ns - self._first_ns) < SETTLING_NS

    def add(self, message: Any) -> list[str]:
        """Take a duck-typed Odometry; returns what is new to say about it, each thing once per track."""
        reading, notes, refusal = read_odometry(message, self.base_frame, self._to_base)
        self._notes += [*notes, *filter(None, [refusal])]
        if reading is None:
            self.fault = refusal
            self._refuse(stamp_of(message.header), refusal)
            return self.take_notes()
        if self._newest_ns is not None and reading.stamp_ns < self._newest_ns - JUMP_NS:
            self.clear()
        self._first_ns = reading.stamp_ns if self._first_ns is None else self._first_ns
        self._newest_ns = max(self._newest_ns or 0, reading.stamp_ns)
        self._check.add(reading)
        self._pending.append(reading)
        if self._check.is_settled or len(self._pending) >= MAX_PENDING:
            self._judge()
        old = bisect_left(self._states, self._newest_ns - KEEP_NS, key=_stamp)
        del self._states[: max(old, len(self._states) - KEPT)]
        return self.take_notes()

    def at(self, stamp_ns: int) -> EgoState | None:
        """Ego state at a stamp: interpolated between two samples, else the nearest; None beyond ``max_age_ns``."""
        self._judge()
        at = bisect_left(self._states, stamp_ns, key=_stamp)
        before, after = self._states[max(at - 1, 0) : at], self._states[at : at + 1]
        near = [state for state in (*before, *after) if abs(state.stamp_ns - stamp_ns) <= self.max_age_ns]
        if len(near) == 2:
            return interpolate(near[0], near[1], stamp_ns)
        return near[0] if near else None

    def why_none(self, stamp_ns: int) -> list[str]:
        """Why `at` finds nothing, said once."""
        reason = self.reason(stamp_ns)
        if reason:
            self._notes.append(reason)
        return self.take_notes()

    def reason(self, stamp_ns: int) -> str:
        """Why `at` finds nothing at a stamp; '' where it finds something."""
        self._judge()
        stamps = [state.stamp_ns for state in self._states]
        if any(abs(stamp - stamp_ns) <= self.max_age_ns for stamp in stamps):
            return ''
        refused = [(abs(stamp - stamp_ns), why) for stamp, why in self._refused]
        if refused and min(refused)[0] <= self.max_age_ns:
            return min(refused)[1]
        stamps += [stamp for stamp, _ in self._refused]
        if not stamps:
            return self.fault or self.absent
        away = (stamp_ns - min(stamps, key=lambda stamp: abs(stamp - stamp_ns))) / 1e9
        return (
            f'odometry is {in_words(abs(away))} {"behind" if away > 0 else "ahead of"} the images, more than'
            f' {self.max_age_ns / 1e9:g} s (ego.max_age_ms): not used; check the clocks and its rate'
        )

    def clear(self) -> None:
        """Forget all samples: the clock jumped."""
        self._check.clear()
        self._states.clear()
        self._refused.clear()
        self._pending.clear()
        self._first_ns = self._newest_ns = None
        self.fault = ''

    def _judge(self) -> None:
        """Judge the samples that were not judged yet."""
        for reading in self._pending:
            verdict = self._check.judge(reading)
            self._notes += verdict.notes
            if verdict.state is not None:
                insort(self._states, verdict.state, key=_stamp)
            else:
                self._notes.append(verdict.refusal)
                self._refuse(reading.stamp_ns, verdict.refusal)
            if reading.stamp_ns == self._newest_ns:
                self.fault = verdict.refusal
        self._pending.clear()

    def _refuse(self, stamp_ns: int, why: str) -> None:
        self.refused += 1
        if stamp_ns:
            insort(self._refused, (stamp_ns, why))
            old = bisect_left(self._refused, self._refused[-1][0] - KEEP_NS, key=itemgetter(0))
            del self._refused[: max(old, len(self._refused) - KEPT)]

    def take_notes(self) -> list[str]:
        """New notes; the same with other numbers is not new."""
        fresh = []
        for note in self._notes:
            kind = _kind(note)
            if kind not in self._said and len(self._said) < MAX_SAID:
                self._said.add(kind)
                fresh.append(note)
        self._notes.clear()
        return fresh


def _kind(note: str) -> str:
    return VARYING.sub('#', kind_of(note))


def interpolate(a: EgoState, b: EgoState, stamp_ns: int) -> EgoState:
    """The state between two samples: linear, with the orientation on the shorter arc (q and -q are the same turn)."""
    share = (stamp_ns - a.stamp_ns) / max(b.stamp_ns - a.stamp_ns, 1)
    orientation = a.orientation
    if a.orientation is not None and b.orientation is not None:
        sign = 1.0 if sum(p * q for p, q in zip(a.orientation, b.orientation)) >= 0 else -1.0
        x, y, z, w = (p + share * (sign * q - p) for p, q in zip(a.orientation, b.orientation))
        orientation = unit((x, y, z, w)) or a.orientation
    return EgoState(
        stamp_ns,
        None if a.position is None or b.position is None else _mix(a.position, b.position, share),
        orientation,
        _mix(a.linear, b.linear, share),
        _mix(a.angular, b.angular, share),
    )


def in_words(seconds: float) -> str:
    """A length of time for a sentence: ms, s or days."""
    if seconds < 1:
        return f'{seconds * 1e3:.0f} ms'
    return f'{seconds:.1f} s' if seconds < 86400 else f'{seconds / 86400:.1f} days'


def _mix(a: Triple, b: Triple, share: float) -> Triple:
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2])
