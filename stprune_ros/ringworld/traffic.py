"""Who else is on the roads of a ringworld, and where each begins: drawn from the world's random numbers, in this order.

Metres, seconds and radians in the world frame, as in `world`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stprune_ros.ringworld.route import BLOCK, FRONT_BUMPER, LANE

VEHICLE_SIZE = (4.4, 1.9, 1.6)  # length, width, height
PEDESTRIAN_SIZE = (0.5, 0.55, 1.75)
COLOURS = ('red', 'blue', 'white', 'black', 'yellow', 'green')
HARD_TRAFFIC = 3


@dataclass(frozen=True, slots=True)
class Actor:
    """A vehicle, pedestrian or traffic light: centre on the ground, heading, size, velocity.

    ``kind`` is 'vehicle', 'pedestrian' or 'light'; ``state`` is a light's colour, '' for anything else. ``lamps`` of
    vehicles are on unless they are parked.
    """

    id: int
    kind: str
    colour: str
    x: float
    y: float
    yaw: float
    length: float
    width: float
    height: float
    vx: float = 0.0
    vy: float = 0.0
    state: str = ''
    lamps: bool = False

    @property
    def moving(self) -> bool:
        """Faster than 0.3 m/s over ground."""
        return math.hypot(self.vx, self.vy) > 0.3


@dataclass
class Driver:
    """The driver of a vehicle on a straight lane.

    ``axis`` 0 is along x, 1 along y; ``sign`` is the direction of travel, ``lateral`` the lane's offset, ``s`` the
    progress (m), ``v`` the speed (m/s); the vehicle stands until ``waits_until`` (s).
    """

    axis: int
    sign: int
    lateral: float
    s: float
    v: float
    desired_speed: float
    colour: str
    waits_until: float = 0.0


@dataclass
class Pedestrian:
    """A pedestrian whose ``role`` is to 'stand', to walk 'along' the pavement, or to 'cross' the road back and forth.

    Whoever crosses walks to y = ``goal``, rests for ``pause`` seconds and turns round.
    """

    role: str
    x: float
    y: float
    colour: str
    speed: float = 0.0
    goal: float = 0.0
    pause: float = 0.0


def _colour(rng: np.random.Generator) -> str:
    return COLOURS[int(rng.integers(len(COLOURS)))]


def make_drivers(rng: np.random.Generator, start: float, seconds: float, traffic: int) -> list[Driver]:
    """Oncoming, leading, double-parked, following and crossing vehicles."""
    drivers: list[Driver] = []
    reach = 90.0 + 8.0 * seconds
    rows = 1 if traffic == 1 else 2  # places for a vehicle where there is one ordinarily; each is taken more often, too
    chance, room = traffic / rows, 1.0 / rows**2
    for s in np.arange(-start - 60.0 - reach, -start + 10.0, 22.0 / rows):
        if rng.random() < 0.35 * chance:
            place = float(s + rng.uniform(0, 10 * room))
            drivers.append(Driver(0, -1, LANE, place, 6.0, rng.uniform(5.0, 9.0), _colour(rng)))
    lead = rng.random()
    if lead < 0.35:  # double-parked ahead, drives off later
        gap = rng.uniform(9.0, 34.0)
        drivers.append(
            Driver(0, 1, -LANE, start + FRONT_BUMPER + gap + 2.2, 0.0, 9.0, _colour(rng), rng.uniform(4.0, 14.0))
        )
    elif lead < 0.6:
        drivers.append(Driver(0, 1, -LANE, start + rng.uniform(30.0, 45.0), 7.0, rng.uniform(8.0, 10.0), _colour(rng)))
    if traffic > 1:
        for s in np.arange(start + 60.0, start + 110.0, 12.0):
            if rng.random() < 0.5:
                drivers.append(Driver(0, 1, -LANE, float(s), 7.0, rng.uniform(7.0, 9.0), _colour(rng)))
    if rng.random() < 0.4:
        drivers.append(Driver(0, 1, -LANE, start - rng.uniform(10.0, 22.0), 2.0, rng.uniform(6.0, 8.0), _colour(rng)))
    for crossing in np.arange(0.0, max(start + 8.0 * seconds, 1.0), BLOCK):
        for sign in (1, -1):
            lateral = float(crossing + sign * LANE)
            for s in np.arange(-62.0, -14.0, 14.0 / rows)[: 4 * rows].tolist():
                if rng.random() < 0.28 * chance:
                    place = s + rng.uniform(0, 6 * room)
                    drivers.append(Driver(1, sign, lateral, place, 6.0, rng.uniform(5.0, 9.0), _colour(rng)))
    return drivers


def make_parked(rng: np.random.Generator, start: float, seconds: float, traffic: int) -> list[Actor]:
    actors = []
    for x in np.arange(start - 50.0, start + 60.0 + 8.0 * seconds, 9.0):
        for side in (1, -1):
            if abs((x + BLOCK / 2) % BLOCK - BLOCK / 2) > 16.0 and rng.random() < 0.16 * traffic:
                yaw = 0.0 if side == -1 else math.pi
                actors.append(Actor(0, 'vehicle', _colour(rng), float(x), side * 4.45, yaw, *VEHICLE_SIZE))
    for y in (-44.0, -30.0, 30.0, 44.0):
        for side in (1, -1):
            if rng.random() < 0.2 * traffic:
                actors.append(Actor(0, 'vehicle', _colour(rng), side * 4.45, y, side * math.pi / 2, *VEHICLE_SIZE))
    return actors


def make_pedestrians(rng: np.random.Generator, start: float, seconds: float, traffic: int) -> list[Pedestrian]:
    pedestrians: list[Pedestrian] = []
    far = start + 50.0 + 6.0 * seconds
    for side in (1.0, -1.0):
        for x in np.arange(start - 20.0, far, 24.0):
            draw = rng.random()
            place = float(x + rng.uniform(0.0, 16.0))
            if draw < 0.12 * traffic:
                pedestrians.append(Pedestrian('stand', place, side * rng.uniform(6.4, 8.0), _colour(rng)))
            elif draw < 0.24 * traffic:
                speed = float(rng.choice([-1.3, 1.3]))
                pedestrians.append(Pedestrian('along', place, side * rng.uniform(6.4, 8.0), _colour(rng), speed))
    nearest = 8.0 if traffic == 1 else 16.0  # among so many one stands in front of the ego vehicle, which must stop
    for x in np.arange(start + nearest, far, 26.0 / traffic):
        if rng.random() < 0.7:
            side = float(rng.choice([-1.0, 1.0]))
            y = side * float(rng.uniform(0.0, 6.5))
            place = float(x + rng.uniform(0.0, 14.0 / traffic))
            pedestrians.append(Pedestrian('cross', place, y, _colour(rng), rng.uniform(1.0, 1.6), -side * 6.8))
    return pedestrians
