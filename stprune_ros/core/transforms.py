"""The tree of static transforms: the way from one frame to another, up and down, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stprune_ros.errors import StpruneError, plain

MAX_FRAMES = 2000  # no vehicle has as many; further ones are not kept
MAX_NAME = 255  # characters of a frame's name
FARTHEST_M = 1e9  # as good as infinite
LENGTH_TOLERANCE = 0.01  # of a squared quaternion length from 1, as in tf2


@dataclass(frozen=True)
class Pose:
    """Takes vectors of one frame into another: ``rotation`` (3, 3) first, then ``translation`` (3,) in metres."""

    rotation: np.ndarray
    translation: np.ndarray

    def after(self, first: Pose) -> Pose:
        """This one behind another."""
        return Pose(self.rotation @ first.rotation, self.rotation @ first.translation + self.translation)

    @property
    def inverse(self) -> Pose:
        """The way back."""
        return Pose(self.rotation.T, -self.rotation.T @ self.translation)

    @classmethod
    def identity(cls) -> Pose:
        """From a frame to itself."""
        return cls(np.eye(3), np.zeros(3))


@dataclass(frozen=True)
class Edge:
    """A frame's parent and the pose in it, None where the message cannot be used and ``fault`` says why."""

    parent: str
    pose: Pose | None
    fault: str = ''


class StaticTransforms:
    """Static transforms by child frame, the newest usable one of each, as tf2 keeps them."""

    def __init__(self) -> None:
        self._edges: dict[str, Edge] = {}
        self._moving: dict[str, Edge] = {}  # seen on /tf, only to explain what is missing
        self._full = False  # frames came that were not kept

    def __len__(self) -> int:
        """Frames with a usable transform to their parent."""
        return sum(edge.pose is not None for edge in self._edges.values())

    def add(self, message: Any) -> bool:
        """Take a duck-typed TFMessage of /tf_static; True where a usable transform is new or another than before.

        As in tf2 a later transform of the same child wins, and one that cannot be used changes nothing.
        """
        changed = False
        self._full |= len(message.transforms) > MAX_FRAMES
        for stamped in message.transforms[:MAX_FRAMES]:
            child, edge = _edge_of(stamped)
            known = self._edges.get(child)
            if known is None and len(self._edges) >= MAX_FRAMES:
                self._full = True
                continue
            if edge.pose is None and known is not None and known.pose is not None:
                continue
            changed |= edge.pose is not None and not _same(known, edge)
            self._edges[child] = edge
        return changed

    def contradicted_by(self, other: StaticTransforms) -> list[str]:
        """Frames that stand elsewhere in ``other``, sorted."""
        both = sorted(self._edges.keys() & other._edges.keys())
        known = [(frame, self._edges[frame], other._edges[frame]) for frame in both]
        return [frame for frame, one, two in known if one.pose and two.pose and not _same(one, two)]

    def add_moving(self, message: Any) -> bool:
        """Take a TFMessage of /tf: never used, but where a way is missing it is said that it would lead over it.

        True where it names a frame that was not named before.
        """
        before = len(self._moving)
        for child, edge in map(_edge_of, message.transforms[:MAX_FRAMES]):
            if child in self._moving or len(self._moving) < MAX_FRAMES:
                self._moving[child] = edge
        return len(self._moving) > before

    def lookup(self, target: str, source: str) -> Pose:
        """The pose that takes vectors of frame ``source`` into frame ``target``.

        Raises StpruneError where no way leads there, naming the frame at which it ends and what would mend it.
        """
        target, source = target.lstrip('/'), source.lstrip('/')
        up, down = self._ancestors(source), self._ancestors(target)
        common = next((frame for frame in up if frame in down), None)
        if common is None:
            raise self._no_way(target, source, list(up), list(down))
        return down[common].inverse.after(up[common])

    def way(self, target: str, source: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Rotation (3, 3) and translation (3,) of `lookup`; None where no way leads there."""
        try:
            pose = self.lookup(target, source)
        except StpruneError:
            return None
        return pose.rotation, pose.translation

    def _ancestors(self, frame: str) -> dict[str, Pose]:
        """A frame and all above it, nearest first, each with the pose that takes the frame's vectors there."""
        found = {frame: Pose.identity()}
        while (edge := self._edges.get(frame)) is not None and edge.pose is not None:
            pose = edge.pose.after(found[frame])
            frame = edge.parent
            if frame in found:
                way = list(found)
                cycle = ' -> '.join([*way[way.index(frame) :], frame])
                raise StpruneError(f'the static transforms go round in a circle: {cycle}; one of them is wrong')
            found[frame] = pose
        return found

    def _no_way(self, target: str, source: str, up: list[str], down: list[str]) -> StpruneError:
        for end in (up[-1], down[-1]):
            edge = self._edges.get(end)
            if edge is not None:  # only one that cannot be used ends a way
                return StpruneError(
                    f"the static transform from '{edge.parent}' to '{end}' cannot be used: {edge.fault};"
                    ' mend its publisher'
                )
        if self._full:
            return StpruneError(
                f"no static transform leads from '{source}' to '{target}' among the {MAX_FRAMES} frames that are kept,"
                ' and more are published; find who names so many on /tf_static'
            )
        moving = self._first_moving(up, down)
        if moving is not None:
            return StpruneError(
                f"the transform from '{self._moving[moving].parent}' to '{moving}', which the way from '{source}' to"
                f" '{target}' needs, comes on /tf only; publish it on /tf_static"
            )
        if len(up) == 1 and not self._is_parent(source):
            return StpruneError(f"no static transform leads from '{source}' to '{target}'; publish it on /tf_static")
        if len(down) == 1 and not self._is_parent(target):
            return StpruneError(
                f"the tree of '{source}' ends in '{up[-1]}', and '{target}' is not in it; set cameras.base_frame to the"
                f" vehicle's frame, such as '{up[-1]}'"
            )
        return StpruneError(
            f"the tree of '{source}' ends in '{up[-1]}', that of '{target}' in '{down[-1]}', and nothing joins them;"
            ' publish the transform between them on /tf_static, or set cameras.base_frame'
        )

    def _is_parent(self, frame: str) -> bool:
        return any(edge.parent == frame for edge in self._edges.values())

    def _first_moving(self, up: list[str], down: list[str]) -> str | None:
        """The first frame on the way whose transform comes on /tf, where /tf completes the way."""

        def onwards(way: list[str]) -> tuple[list[str], list[str]]:
            frames, moving = list(way), []
            while True:
                static, other = self._edges.get(frames[-1]), self._moving.get(frames[-1])
                if static is not None and static.pose is not None:
                    parent = static.parent
                elif other is not None:
                    moving.append(frames[-1])
                    parent = other.parent
                else:
                    return frames, moving
                if parent in frames:
                    return frames, moving
                frames.append(parent)

        (above, moving_up), (over, moving_down) = onwards(up), onwards(down)
        if not set(above) & set(over):
            return None
        return next(iter([*moving_up, *moving_down]), None)


def frame_name(text: str) -> str:
    """The name of a frame as a message gives it: without tf's leading slash, and fit to stand in a sentence."""
    return plain(text.lstrip('/'), MAX_NAME)


def matrix_from_quaternion(quaternion: Sequence[float]) -> np.ndarray | None:
    """Rotation matrix (3, 3) of a quaternion x, y, z, w of any length; None where it is zero or not finite."""
    q = np.asarray(quaternion, dtype=float)
    norm = float(np.linalg.norm(q))
    if not math.isfinite(norm) or norm < 1e-6:
        return None
    x, y, z, w = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_matrix(matrix: np.ndarray) -> tuple[float, float, float, float]:
    """Quaternion x, y, z, w of a rotation matrix (3, 3); w is not negative."""
    m = matrix
    outer = np.array(
        [
            [1 + m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]],
            [m[0, 1] + m[1, 0], 1 - m[0, 0] + m[1, 1] - m[2, 2], m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], 1 - m[0, 0] - m[1, 1] + m[2, 2], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], 1 + m[0, 0] + m[1, 1] + m[2, 2]],
        ]
    )  # four times the products of the quaternion's parts
    row = outer[int(np.argmax(np.diag(outer)))]
    x, y, z, w = (float(value) for value in row / np.linalg.norm(row) * (1.0 if row[3] >= 0 else -1.0))
    return x, y, z, w


def quaternion_fault(quaternion: Sequence[float]) -> str:
    """Why a quaternion x, y, z, w is no rotation, '' where it is one; its length may be off as far as tf2 allows."""
    numbers = ', '.join(f'{value:g}' for value in quaternion)
    length = math.sqrt(sum(value * value for value in quaternion))
    if not math.isfinite(length):
        return f'its quaternion ({numbers}) is not finite'
    if length < 1e-6:
        return f'its quaternion ({numbers}) is zero'
    if abs(length * length - 1.0) > LENGTH_TOLERANCE:
        return f'its quaternion ({numbers}) has length {length:.3g}, not 1'
    return ''


def _edge_of(stamped: Any) -> tuple[str, Edge]:
    child, parent = frame_name(stamped.child_frame_id), frame_name(stamped.header.frame_id)
    rotation, translation = stamped.transform.rotation, stamped.transform.translation
    quaternion = tuple(float(value) for value in (rotation.x, rotation.y, rotation.z, rotation.w))
    offset = np.array([translation.x, translation.y, translation.z], dtype=float)
    fault = quaternion_fault(quaternion)
    if not (np.abs(offset) < FARTHEST_M).all():
        fault = f'its translation ({", ".join(f"{value:g}" for value in offset)}) is not finite'
    if not parent or parent == child:
        fault = 'it names no parent frame' if not parent else 'it leads from the frame to itself'
    matrix = None if fault else matrix_from_quaternion(quaternion)
    pose = Pose(matrix, offset) if matrix is not None else None
    return child, Edge(parent, pose, fault)


def _same(known: Edge | None, edge: Edge) -> bool:
    if known is None or known.pose is None or edge.pose is None or known.parent != edge.parent:
        return False
    return bool(
        np.array_equal(known.pose.rotation, edge.pose.rotation)
        and np.array_equal(known.pose.translation, edge.pose.translation)
    )
