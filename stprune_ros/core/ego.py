"""Ego motion from nav_msgs/Odometry as it is in the field: what is usable is used, what is not is said once."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from stprune_ros.core.types import EgoState

KEEP_NS = 10_000_000_000  # history of samples
JUMP_NS = 1_000_000_000  # stamps that step back farther than this mean that the source started anew

_stamp = attrgetter('stamp_ns')


class EgoTrack:
    """Recent odometry, interpolated at a stamp; ``max_age_ns`` is the farthest a sample may be from it."""

    def __init__(self, max_age_ns: int, base_frame: str = 'base_link') -> None:
        self.max_age_ns = max_age_ns
        self.base_frame = base_frame
        self._samples: list[EgoState] = []
        self._said: set[str] = set()

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest sample, None before the first."""
        return self._samples[-1].stamp_ns if self._samples else None

    def add(self, message: Any) -> list[str]:
        """Take a duck-typed Odometry; returns what is new to say about it, each thing once per track."""
        state, notes = read_odometry(message, self.base_frame)
        if state is not None:
            if self._samples and state.stamp_ns < self._samples[-1].stamp_ns - JUMP_NS:
                self._samples.clear()
            insort(self._samples, state, key=_stamp)
            while self._samples[0].stamp_ns < self._samples[-1].stamp_ns - KEEP_NS:
                self._samples.pop(0)
        return self._new(notes)

    def at(self, stamp_ns: int) -> EgoState | None:
        """Ego state at a stamp: interpolated between two samples, else the nearest; None beyond ``max_age_ns``."""
        at = bisect_left(self._samples, stamp_ns, key=_stamp)
        before, after = self._samples[max(at - 1, 0) : at], self._samples[at : at + 1]
        near = [state for state in (*before, *after) if abs(state.stamp_ns - stamp_ns) <= self.max_age_ns]
        if len(near) == 2:
            return interpolate(near[0], near[1], stamp_ns)
        return near[0] if near else None

    def why_none(self, stamp_ns: int) -> list[str]:
        """Why `at` finds nothing, said once."""
        if not self._samples:
            return self._new(['no odometry: hints come without ego motion'])
        nearest = min(self._samples, key=lambda state: abs(state.stamp_ns - stamp_ns))
        away = (stamp_ns - nearest.stamp_ns) / 1e9
        if abs(away) * 1e9 <= self.max_age_ns:
            return []
        side = 'behind' if away > 0 else 'ahead of'
        return self._new(
            [
                f'odometry is {in_words(abs(away))} {side} the images, more than {self.max_age_ns / 1e9:g} s:'
                ' not used; check the clocks'
            ],
            kind=f'odometry {side}',
        )

    def clear(self) -> None:
        """Forget all samples: the clock jumped."""
        self._samples.clear()

    def _new(self, notes: Sequence[str], kind: str = '') -> list[str]:
        fresh = [note for note in notes if (kind or note) not in self._said]
        self._said.update(kind or note for note in notes)
        return fresh


def read_odometry(message: Any, base_frame: str) -> tuple[EgoState | None, list[str]]:
    """An Odometry message as an EgoState (None where it is unusable), and notes on what was refused or assumed."""
    stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
    position = _triple(message.pose.pose.position)
    linear, angular = _triple(message.twist.twist.linear), _triple(message.twist.twist.angular)
    if stamp_ns == 0:
        return None, ['odometry without a stamp is refused; its driver must set header.stamp']
    if not all(map(math.isfinite, (*linear, *angular))):
        return None, ['odometry with NaN or infinite twist is refused']
    notes = []
    if not message.child_frame_id:
        notes.append(f"odometry has an empty child_frame_id: its twist is taken to be in '{base_frame}'")
    elif message.child_frame_id.lstrip('/') != base_frame:
        notes.append(f"odometry gives its twist in '{message.child_frame_id}', not '{base_frame}': taken as it is")
    if not any(message.twist.covariance):
        notes.append('odometry covariances are all zero: its accuracy is unknown')
    if not all(map(math.isfinite, position)) or not any(position):
        notes.append(
            'odometry samples whose position is not finite or exactly (0, 0, 0) count as having none:'
            ' motion comes from the twist'
        )
        usable_position = None
    else:
        usable_position = position
    rotation = message.pose.pose.orientation
    orientation = _unit((rotation.x, rotation.y, rotation.z, rotation.w))
    if orientation is None:
        notes.append('odometry orientation is zero or not finite: not used')
    return EgoState(stamp_ns, usable_position, orientation, linear, angular), notes


def interpolate(a: EgoState, b: EgoState, stamp_ns: int) -> EgoState:
    """The state between two samples: linear, with the orientation on the shorter arc (q and -q are the same turn)."""
    share = (stamp_ns - a.stamp_ns) / max(b.stamp_ns - a.stamp_ns, 1)
    orientation = a.orientation
    if a.orientation is not None and b.orientation is not None:
        sign = 1.0 if sum(p * q for p, q in zip(a.orientation, b.orientation)) >= 0 else -1.0
        x, y, z, w = (p + share * (sign * q - p) for p, q in zip(a.orientation, b.orientation))
        orientation = _unit((x, y, z, w)) or a.orientation
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


def _triple(vector: Any) -> tuple[float, float, float]:
    return float(vector.x), float(vector.y), float(vector.z)


def _mix(a: tuple[float, float, float], b: tuple[float, float, float], share: float) -> tuple[float, float, float]:
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2])


def _unit(q: tuple[float, float, float, float]) -> tuple[float, float, float, float] | None:
    norm = math.sqrt(sum(value * value for value in q))
    if not math.isfinite(norm) or norm < 1e-6:
        return None
    return q[0] / norm, q[1] / norm, q[2] / norm, q[3] / norm
