"""Velocity and turn rate from successive poses: over a short window, so that no single pose decides.

Positions and orientations are looked at apart from each other, for one may be renewed less often than the other. A pose
that is repeated while its source has no newer one counts once; one that is repeated for longer stands still. A jump, as
localisation makes when it corrects itself, is no motion.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np

from stprune_ros.core.odometry import Quaternion, Triple

WINDOW_NS = 300_000_000  # what a velocity is taken over
KEEP_NS = 3_000_000_000  # how far back it may reach for poses that are renewed seldom
MIN_POINTS = 4  # three steps: one that jumps is then outvoted
MAX_POINTS = 12
MIN_STEP_NS = 10_000_000  # poses nearer than this to the last one add noise only
PATIENCE = 2.5  # how many usual intervals a pose may stay the same before it stands still
MIN_HELD_NS = 100_000_000
STEADY = 4.0  # how many times what steps differ by is no chance, nor a jump among them
SAME_M = 1e-6  # m or rad; a pose that differs by less is the same


@dataclass(frozen=True, slots=True)
class Rate:
    """A motion by the pose between two stamps: ``vector`` (3,) in the axes of the child frame, None where unknown.

    ``size`` is its length, which does not need an orientation: m/s, or rad/s. ``steady`` says that it is far more than
    what its steps differ by.
    """

    start_ns: int
    end_ns: int
    vector: np.ndarray | None
    size: float
    steady: bool = False


class PoseSeries:
    """The different values of one part of the pose, and how long the newest has been there."""

    def __init__(self, is_position: bool) -> None:
        self._is_position = is_position
        self._jump = (
            (3.0, 0.3) if is_position else (1.5, 0.15)
        )  # faster (m/s, rad/s) and farther (m, rad) than the rest
        self.moved = False  # whether the part ever changed
        self._points: deque[tuple[int, tuple[float, ...], Quaternion | None]] = deque()
        self._held_ns = 0

    def add(self, stamp_ns: int, value: Triple | Quaternion, orientation: Quaternion | None) -> None:
        """Take a newer value; for positions with the orientation at that place."""
        if self._points and _distance(self._points[-1][1], value) < SAME_M:
            self._held_ns = stamp_ns
            return
        if self._points:
            self.moved = True
            if stamp_ns - self._points[-1][0] < MIN_STEP_NS:
                return
        self._points.append((stamp_ns, value, orientation))
        self._held_ns = stamp_ns
        while self._points[0][0] < stamp_ns - KEEP_NS:
            self._points.popleft()

    def restart(self) -> None:
        """Forget the values, but not whether there was motion: there is a gap."""
        self._points.clear()

    def rate(self) -> Rate | None:
        """The motion of late; None before there are two values, or one that has stood for a while."""
        if not self._points:
            return None
        last_ns = self._points[-1][0]
        gaps = [b[0] - a[0] for a, b in pairwise(list(self._points)[-MAX_POINTS:])]
        usual = median(gaps) if gaps else 0
        if self._held_ns - last_ns >= max(PATIENCE * usual, MIN_HELD_NS):
            return Rate(last_ns, self._held_ns, np.zeros(3), 0.0)
        if not gaps:
            return None
        points = self._recent(last_ns)
        vectors, sizes, seconds = self._steps(points)
        size = _typical(sizes[:, None], seconds, *self._jump)
        vector = None if vectors is None else _typical(vectors, seconds, *self._jump)
        if vector is None or vectors is None:
            return Rate(points[0][0], last_ns, None, float(size[0]))
        steady = _is_steady(vectors, seconds, vector)
        return Rate(points[0][0], last_ns, vector, float(np.linalg.norm(vector)), steady)

    def _recent(self, last_ns: int) -> list[tuple[int, tuple[float, ...], Quaternion | None]]:
        points = list(self._points)
        count = sum(point[0] >= last_ns - WINDOW_NS for point in points)
        points = points[-max(count, MIN_POINTS) :]
        if len(points) <= MAX_POINTS:
            return points
        return [points[round(index * (len(points) - 1) / (MAX_POINTS - 1))] for index in range(MAX_POINTS)]

    def _steps(
        self, points: list[tuple[int, tuple[float, ...], Quaternion | None]]
    ) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
        """Rates from point to point: (n, 3) in child axes or None, their sizes (n,), and the seconds they took (n,)."""
        stamps, values, turns = zip(*points)
        seconds = np.diff(np.array(stamps)) / 1e9
        steps = np.diff(np.array(values), axis=0) if self._is_position else _turns(np.array(values))
        steps = steps / seconds[:, None]
        sizes = np.sqrt((steps * steps).sum(axis=1))
        if not self._is_position:
            return steps, sizes, seconds
        return None if None in turns else _inverse_rotate(_middles(np.array(turns)), steps), sizes, seconds


def _typical(steps: np.ndarray, seconds: np.ndarray, speed: float, length: float) -> np.ndarray:
    """Mean rate (k,) of steps (n, k), jumps counted as the median step."""
    middle = middle_of(steps)
    away = np.linalg.norm(steps - middle, axis=1)
    if len(steps) >= MIN_POINTS - 1:
        steps = np.where(((away > speed) & (away * seconds > length))[:, None], middle, steps)
    return np.asarray((steps * seconds[:, None]).sum(axis=0) / seconds.sum())


def _is_steady(steps: np.ndarray, seconds: np.ndarray, mean: np.ndarray) -> bool:
    """Whether the way of steps (n, k) is much longer than what noise makes of one: a single step tells nothing."""
    if len(steps) < 2:
        return False
    away = (steps - mean) * seconds[:, None]
    noise = np.sqrt((away * away).sum() / (len(steps) - 1))
    return bool(np.linalg.norm(mean) * seconds.sum() > STEADY * noise)


def middle_of(values: np.ndarray) -> np.ndarray:
    """Median (k,) of values (n, k); NumPy's own is slow for few values."""
    ordered, half = np.sort(values, axis=0), len(values) // 2
    return np.asarray(ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2)


def _distance(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """The largest difference of two positions or, either sign being the same turn, of two quaternions."""
    same = max(abs(p - q) for p, q in zip(a, b))
    return min(same, max(abs(p + q) for p, q in zip(a, b))) if len(a) == 4 else same


def _turns(q: np.ndarray) -> np.ndarray:
    """Rotation vectors (n - 1, 3) in rad between successive quaternions (n, 4), the short way, in axes of the first."""
    a, b = q[:-1], q[1:]
    vectors = a[:, 3:] * b[:, :3] - b[:, 3:] * a[:, :3] - _cross(a[:, :3], b[:, :3])
    cosines = (a * b).sum(axis=1)
    sines = np.sqrt((vectors * vectors).sum(axis=1))
    angles = 2.0 * np.arctan2(sines, np.abs(cosines))
    share = np.where(sines > 1e-12, angles / np.maximum(sines, 1e-12), 2.0)
    return np.asarray(vectors * (np.where(cosines < 0, -1.0, 1.0) * share)[:, None])


def _middles(q: np.ndarray) -> np.ndarray:
    """Unit quaternions (n - 1, 4) half way between successive ones (n, 4)."""
    a, b = q[:-1], q[1:]
    middle = a + np.where((a * b).sum(axis=1) < 0, -1.0, 1.0)[:, None] * b
    return np.asarray(middle / np.sqrt((middle * middle).sum(axis=1))[:, None])


def _inverse_rotate(q: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, 3) of the parent frame in the axes that the quaternions (n, 4) describe."""
    cross = 2.0 * _cross(-q[:, :3], vectors)
    return np.asarray(vectors + q[:, 3:] * cross + _cross(-q[:, :3], cross))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross products (n, 3); NumPy's own is slow for few vectors."""
    return np.asarray(a[:, (1, 2, 0)] * b[:, (2, 0, 1)] - a[:, (2, 0, 1)] * b[:, (1, 2, 0)])
