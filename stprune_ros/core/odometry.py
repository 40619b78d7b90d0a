"""One nav_msgs/Odometry message: what it says, in which frame, and whether that can be used at all.

REP-103 and nav_msgs: the pose is that of ``child_frame_id`` in ``header.frame_id``, the twist stands in
``child_frame_id``. An empty ``child_frame_id`` is taken to be the vehicle frame, and said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from stprune_ros.core.stamps import impossible, stamp_of
from stprune_ros.core.transforms import frame_name

Triple: TypeAlias = tuple[float, float, float]
Quaternion: TypeAlias = tuple[float, float, float, float]
# Rotation (3, 3) and translation (3,) that take points of a frame into the vehicle frame; None where no way leads.
ToBase: TypeAlias = Callable[[str], 'tuple[np.ndarray, np.ndarray] | None']

WORLD_FRAMES = {'map', 'odom', 'world', 'earth', 'utm'}  # names that REP-105 and custom give to what stands still
NOT_PROVIDED = 1e4  # variance: a standard deviation of 100 m/s (or rad/s) says nothing
HUGE = 1e100  # as good as infinite
FORWARD, YAW = 0, 35  # places of their variances in the (6, 6) covariance


@dataclass(frozen=True, slots=True)
class Reading:
    """A usable message in its own frames; ``stamp_ns`` in ns.

    ``position`` (m) and ``orientation`` (unit quaternion x, y, z, w) are the pose of ``child`` in ``parent``, None
    where they are not usable; ``linear`` (m/s) and ``angular`` (rad/s) stand in ``child``; ``linear_given`` and
    ``angular_given`` are False where the covariance says that they are not provided. ``rotation`` (3, 3) and
    ``translation`` (3,) take points of ``child`` into the vehicle frame.
    """

    stamp_ns: int
    parent: str
    child: str
    position: Triple | None
    orientation: Quaternion | None
    linear: Triple
    angular: Triple
    linear_given: bool = True
    angular_given: bool = True
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    translation: np.ndarray = field(default_factory=lambda: np.zeros(3))

    @property
    def turned(self) -> bool:
        """Whether its frame is another than the vehicle's."""
        return bool(self.translation.any() or (self.rotation != np.eye(3)).any())


def nowhere(_frame: str) -> None:
    """The way to the vehicle frame where there are no transforms."""


def read_odometry(message: Any, base_frame: str, to_base: ToBase = nowhere) -> tuple[Reading | None, list[str], str]:
    """A duck-typed Odometry as a Reading, notes on what was assumed, and why it is refused ('' where it is not).

    A refused message has no Reading.
    """
    stamp_ns = stamp_of(message.header)
    linear, angular = _triple(message.twist.twist.linear), _triple(message.twist.twist.angular)
    parent, child = frame_name(message.header.frame_id), frame_name(message.child_frame_id)
    if impossible(message.header):
        sentence = (
            f'odometry with the stamp {impossible(message.header)}, which no clock has, is refused; its driver must set'
            ' header.stamp'
        )
        return None, [], sentence
    if stamp_ns == 0:
        return None, [], 'odometry without a stamp is refused; its driver must set header.stamp'
    if not all(map(_is_finite, (*linear, *angular))):
        return None, [], 'odometry with NaN or infinite twist is refused'
    rotation, translation, notes, refusal = _frame(parent, child, base_frame, to_base)
    if refusal:
        return None, notes, refusal

    covariance = message.twist.covariance
    if not any(covariance):
        notes.append('odometry covariances are all zero: its accuracy is unknown')
    position, orientation = _pose(message.pose.pose, notes)
    if child and child == parent:  # a pose of the vehicle in itself says nothing
        position = orientation = None
    unknown = len(covariance) > 0 and covariance[FORWARD] < 0
    reading = Reading(
        stamp_ns,
        parent,
        child,
        position,
        orientation,
        linear,
        angular,
        linear_given=not (unknown or _is_empty(covariance, FORWARD)),
        angular_given=not (unknown or _is_empty(covariance, YAW)),
        rotation=rotation,
        translation=translation,
    )
    return reading, notes, ''


def is_world_frame(frame: str, parent: str = '') -> bool:
    """Whether a frame stands still: it is the one that poses are given in, or is named as such."""
    return bool(frame) and (frame == parent or frame.rpartition('/')[2].lower() in WORLD_FRAMES)


def unit(q: Quaternion) -> Quaternion | None:
    """The quaternion at length one; None where it is zero or not finite."""
    norm = math.sqrt(sum(value * value for value in q))
    if not math.isfinite(norm) or norm < 1e-6:
        return None
    return q[0] / norm, q[1] / norm, q[2] / norm, q[3] / norm


def _frame(parent: str, child: str, base_frame: str, to_base: ToBase) -> tuple[np.ndarray, np.ndarray, list[str], str]:
    """How to turn the twist into the vehicle frame: rotation, translation, notes and refusal."""
    stays = np.eye(3), np.zeros(3)
    if not child:
        note = f"odometry has an empty child_frame_id: its twist is taken to be in '{base_frame}'"
        return *stays, [note], ''
    if child == base_frame:
        return *stays, [], ''
    if is_world_frame(child, parent):
        sentence = (
            f"odometry gives its twist in '{child}', a frame of the world: not used; its driver must give it in a frame"
            ' of the vehicle and name that in child_frame_id'
        )
        return *stays, [], sentence
    way = to_base(child)
    if way is None:
        sentence = (
            f"odometry gives its twist in '{child}', from which no static transform leads to '{base_frame}': not used;"
            ' publish it on /tf_static, or set cameras.base_frame'
        )
        return *stays, [], sentence
    note = f"odometry gives its twist in '{child}': it is turned into '{base_frame}' by the static transforms"
    return *way, [note], ''


def _pose(pose: Any, notes: list[str]) -> tuple[Triple | None, Quaternion | None]:
    position: Triple | None = _triple(pose.position)
    if not all(map(_is_finite, position or ())) or not any(position or ()):
        notes.append(
            'odometry samples whose position is not finite or exactly (0, 0, 0) count as having none:'
            ' motion comes from the twist'
        )
        if not all(map(_is_finite, position or ())):
            position = None
    rotation = pose.orientation
    orientation = unit((rotation.x, rotation.y, rotation.z, rotation.w))
    if orientation is None:
        notes.append('odometry orientation is zero or not finite: not used')
    return position, orientation


def _is_empty(covariance: Sequence[float], place: int) -> bool:
    """Whether a variance says that its value is not provided: negative, or huge."""
    return len(covariance) > place and (covariance[place] < 0 or covariance[place] >= NOT_PROVIDED)


def _is_finite(value: float) -> bool:
    """Whether a number is one that may be squared."""
    return abs(value) < HUGE


def _triple(vector: Any) -> Triple:
    return float(vector.x), float(vector.y), float(vector.z)
