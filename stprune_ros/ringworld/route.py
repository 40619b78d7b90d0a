"""The path of the ego vehicle, and the car-following model of all drivers."""

from __future__ import annotations

import math

import numpy as np

BLOCK = 72.0  # distance between parallel roads, m
LANE = 1.75  # lane centre from the middle of the road, m
FRONT_BUMPER = 3.6  # of the ego vehicle, from base_link, m
TURN_RADIUS = {'left': 9.0, 'right': 6.0}
CRUISE, BEND = 8.0, 3.5  # m/s on a free road, and round a corner


class Route:
    """The path of the ego vehicle: straight along the first road, or round the corner at the first crossing.

    ``turn`` is 'left', 'right' or anything else for straight; ``start`` is x (m) of the first pose.
    """

    def __init__(self, turn: str, start: float) -> None:
        self.turn = turn
        self.start = start
        radius = TURN_RADIUS.get(turn, 0.0)
        exit_lane = {'right': -LANE, 'left': LANE}.get(turn, 0.0)
        self.arc_start = exit_lane - radius - start if radius else math.inf
        self.arc_end = self.arc_start + radius * math.pi / 2 if radius else math.inf

    def curvature(self, s: float) -> float:
        """Signed curvature (1/m, left positive) at progress ``s`` (m)."""
        if not self.arc_start <= s < self.arc_end:
            return 0.0
        return (1.0 if self.turn == 'left' else -1.0) / TURN_RADIUS[self.turn]

    def desired_speed(self, s: float) -> float:
        """Speed (m/s) on a free road at progress ``s`` (m): slower ahead of a bend and in it."""
        bend = self.arc_start - s
        return CRUISE if s > self.arc_end else min(CRUISE, math.sqrt(BEND**2 + 3.0 * max(bend, 0.0)))

    def pose(self, s: float) -> tuple[float, float, float]:
        """Pose (x, y, yaw) in the world at progress ``s`` (m)."""
        if s < self.arc_start:
            return self.start + s, -LANE, 0.0
        side = 1.0 if self.turn == 'left' else -1.0
        radius = TURN_RADIUS[self.turn]
        angle = min(s - self.arc_start, self.arc_end - self.arc_start) / radius
        x = self.start + self.arc_start + radius * math.sin(angle)
        y = -LANE + side * radius * (1.0 - math.cos(angle))
        rest = max(0.0, s - self.arc_end)
        return x, y + side * rest, side * angle

    def road(self, s: float) -> tuple[int, float] | None:
        """Axis of the road at progress ``s`` (m), and how far along it that is (m); None in the bend."""
        if self.curvature(s) != 0.0:
            return None
        x, y, yaw = self.pose(s)
        return (0, x) if s < self.arc_start else (1, math.copysign(1.0, yaw) * y)

    def locate(self, x: float, y: float, s: float, reach: float = 40.0) -> tuple[float, float] | None:
        """Distance (m) ahead of progress ``s`` along the route, and lateral offset (m, left positive), of a point.

        None for a point that is behind, or farther ahead than ``reach``.
        """
        if s >= self.arc_end or self.arc_start == math.inf or s + reach < self.arc_start:
            px, py, yaw = self.pose(s)
            ahead = (x - px) * math.cos(yaw) + (y - py) * math.sin(yaw)
            side = -(x - px) * math.sin(yaw) + (y - py) * math.cos(yaw)
            return (ahead, side) if 0.0 < ahead < reach else None
        best = None
        for step in np.arange(0.0, reach, 1.0):
            px, py, yaw = self.pose(s + step)
            ahead = (x - px) * math.cos(yaw) + (y - py) * math.sin(yaw)
            side = -(x - px) * math.sin(yaw) + (y - py) * math.cos(yaw)
            if 0.0 <= ahead < 1.0 and (best is None or abs(side) < abs(best[1])):
                best = (float(step + ahead), side)
        return best


def idm_acceleration(v: float, desired_speed: float, gap: float, closing: float) -> float:
    """Acceleration (m/s2) of the intelligent driver model.

    ``v`` and ``desired_speed`` in m/s; ``gap`` (m) to what is ahead, infinite for a free road; ``closing`` is the speed
    (m/s) at which the gap shrinks.
    """
    if desired_speed <= 0.0:
        return -3.0 if v > 0.0 else 0.0
    desired_gap = 2.5 + max(0.0, 1.2 * v + v * closing / (2.0 * math.sqrt(1.6 * 2.5)))
    return max(-6.0, 1.6 * (1.0 - (v / desired_speed) ** 4 - (desired_gap / max(gap, 0.1)) ** 2))
