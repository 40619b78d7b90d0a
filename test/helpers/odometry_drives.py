"""Odometry messages of short drives, and what a track makes of them."""

from __future__ import annotations

import math
from types import SimpleNamespace as Box

import numpy as np

from stprune_ros.core.ego import EgoTrack

MS = 1_000_000
START_MS = 5000
MISSING = [-1.0] + [0.0] * 35
HUGE = [99999.0 if place % 7 == 0 else 0.0 for place in range(36)]
KNOWN = [0.1 if place % 7 == 0 else 0.0 for place in range(36)]


def vector(values):
    return Box(x=float(values[0]), y=float(values[1]), z=float(values[2]))


def yaw(angle):
    return 0.0, 0.0, math.sin(angle / 2), math.cos(angle / 2)


def message(
    ms, linear=(0, 0, 0), angular=(0, 0, 0), position=(0, 0, 0), q=(0, 0, 0, 1), child='base_link', covariance=KNOWN
):
    stamp = round(ms * MS)
    return Box(
        header=Box(stamp=Box(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id='odom'),
        child_frame_id=child,
        pose=Box(pose=Box(position=vector(position), orientation=Box(x=q[0], y=q[1], z=q[2], w=q[3]))),
        twist=Box(twist=Box(linear=vector(linear), angular=vector(angular)), covariance=covariance),
    )


def circle(ms, speed, rate, heading=0.7):
    """Position and orientation of a car at ``ms`` that goes along a circle, or straight; never at the origin."""
    t = (ms - START_MS) / 1e3
    now = heading + rate * t
    if rate:
        place = speed / rate * np.array([math.sin(now) - math.sin(heading), math.cos(heading) - math.cos(now), 0])
    else:
        place = speed * t * np.array([math.cos(heading), math.sin(heading), 0])
    return tuple(place + (30.0, -20.0, 1.0)), yaw(now)


def drive(make, seconds=1.5, hz=50, to_base=lambda frame: None):
    """A track after the messages of ``make`` (ms -> message), the states at each of them, and what was said."""
    ego = EgoTrack(200 * MS, to_base=to_base)
    states, said = [], []
    for ms in np.arange(START_MS, START_MS + 1e3 * seconds, 1e3 / hz):
        said += ego.add(make(ms))
        if ms >= START_MS + 500:
            states.append(ego.at(round(ms * MS)))
    return ego, states, said


def about(said, words):
    return [note for note in said if words in note]
