"""A small driving world with known truth: a road grid, traffic that obeys lights, pedestrians, one ego vehicle.

Everything follows from the seed. Metres, seconds and radians; the world frame is the odometry frame (x along the first
road, y left, z up), right-hand traffic. base_link of the ego vehicle is the centre of its rear axle on the ground.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from stprune_ros.errors import StpruneError
from stprune_ros.ringworld.route import LANE, TURN_RADIUS, Route, follow

BLOCK = 72.0  # distance between parallel roads
ROAD = 5.5  # half width of a road, parking strip included
CURB = 8.5  # outer edge of the pavement from the middle of the road
STOP_LINE = 9.2  # from the middle of the crossing road
LIGHT_OFFSET = 9.0  # lights hang behind the crossing
FRONT_BUMPER = 3.6  # from base_link
STEP = 0.05  # simulation step
COLOURS = ('red', 'blue', 'white', 'black', 'yellow', 'green')


@dataclass(frozen=True, slots=True)
class Ego:
    """Ego pose in the world and its speed (m/s, along x of base_link) and yaw rate (rad/s)."""

    x: float
    y: float
    yaw: float
    speed: float
    yaw_rate: float


@dataclass(frozen=True, slots=True)
class Thing:
    """A vehicle, pedestrian or light: centre on the ground, heading, size, velocity; ``state`` is a light's colour."""

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

    @property
    def moving(self) -> bool:
        """Faster than 0.3 m/s over ground."""
        return math.hypot(self.vx, self.vy) > 0.3


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole world at one time (seconds since its start)."""

    t: float
    ego: Ego
    things: tuple[Thing, ...]
    seed: int


@dataclass
class Driver:
    """A vehicle on a straight lane: ``axis`` 0 is along x, 1 along y; ``sign`` its direction; ``s`` its progress."""

    axis: int
    sign: int
    lateral: float
    s: float
    v: float
    wish: float
    colour: str
    waits_until: float = 0.0


@dataclass
class Walker:
    """A pedestrian: stands, walks along the pavement, or crosses the road again and again."""

    role: str
    x: float
    y: float
    colour: str
    speed: float = 0.0
    goal: float = 0.0
    pause: float = 0.0


class World:
    """A world simulated once for ``seconds``; ``snapshot(t)`` gives its state at any time in [0, seconds].

    Raises StpruneError for a duration that is not positive or beyond ten minutes.
    """

    def __init__(self, seed: int, seconds: float = 14.0) -> None:
        if not 0.0 < seconds <= 600.0:
            raise StpruneError(f'a ringworld of {seconds:g} s cannot be made; choose more than 0 s and at most 600 s')
        self.seed = seed
        self.seconds = seconds
        rng = np.random.default_rng([seed, 1])
        self.plan = str(rng.choice(['drive', 'drive', 'drive', 'left', 'right', 'right', 'stand']))
        self.route = Route(self.plan if self.plan in TURN_RADIUS else 'straight', -rng.uniform(12.0, 55.0))
        self._cycle = rng.uniform(14.0, 22.0)
        self._phase = rng.uniform(0.0, self._cycle)
        self._s = 0.0
        self._v = 0.0 if self.plan == 'stand' else rng.uniform(0.0, 8.0)
        self._drivers = _drivers(rng, self.route.start, seconds)
        self._parked = _parked(rng, self.route.start, seconds)
        self._walkers = _walkers(rng, self.route.start, seconds)
        self._track: list[tuple[float, float, float, float]] = []
        self._driver_track: list[np.ndarray] = []
        self._walker_track: list[np.ndarray] = []
        for index in range(math.ceil(seconds / STEP) + 2):
            self._log()
            self._advance(index * STEP, rng)

    def light(self, axis: int, t: float) -> str:
        """'red' or 'green' for traffic along ``axis``; both are red for a second between the phases."""
        phase = (t + self._phase) % self._cycle
        half = self._cycle / 2.0
        return 'green' if (phase < half - 1.0 if axis == 0 else half <= phase < self._cycle - 1.0) else 'red'

    def snapshot(self, t: float) -> Snapshot:
        """The world at ``t`` seconds; raises StpruneError outside the simulated time."""
        if not -1e-6 <= t <= self.seconds + 1e-6:
            raise StpruneError(f'time {t:g} s lies outside this ringworld of {self.seconds:g} s')
        index = int(max(t, 0.0) / STEP)
        part = max(t, 0.0) / STEP - index
        s, v, *_ = (1.0 - part) * np.array(self._track[index]) + part * np.array(self._track[index + 1])
        x, y, yaw = self.route.pose(s)
        ego = Ego(float(x), float(y), float(yaw), float(v), float(v * self.route.curvature(s)))
        things = [*self._vehicles(index, part), *self._people(index, part), *self._lights(ego, t)]
        return Snapshot(t, ego, tuple(replace(thing, id=number) for number, thing in enumerate(things)), self.seed)

    def progress(self, t: float) -> float:
        """Distance (m) that the ego vehicle has gone at ``t``."""
        index = int(t / STEP)
        part = t / STEP - index
        return (1.0 - part) * self._track[index][0] + part * self._track[index + 1][0]

    def _log(self) -> None:
        self._track.append((self._s, self._v, 0.0, 0.0))
        self._driver_track.append(np.array([(d.s, d.v) for d in self._drivers]).reshape(-1, 2))
        self._walker_track.append(np.array([(w.x, w.y) for w in self._walkers]).reshape(-1, 2))

    def _advance(self, t: float, rng: np.random.Generator) -> None:
        ex, ey, _ = self.route.pose(self._s)
        accelerations = [self._driver_acceleration(driver, t, ex, ey) for driver in self._drivers]
        push = self._ego_acceleration(t)
        for driver, acceleration in zip(self._drivers, accelerations, strict=True):
            driver.v = max(0.0, driver.v + acceleration * STEP)
            driver.s += driver.v * STEP
        self._v = max(0.0, self._v + push * STEP)
        self._s += self._v * STEP
        for walker in self._walkers:
            self._walk(walker, t, rng)

    def _to_stop_line(self, position: float, t: float, axis: int, v: float) -> float:
        """Distance to the next red stop line, infinite if green or no longer possible to stop."""
        crossing = math.ceil((position + STOP_LINE) / BLOCK) * BLOCK
        gap = crossing - STOP_LINE - position
        possible = gap > v * v / 10.0 - 0.5
        return gap if self.light(axis, t) == 'red' and possible else math.inf

    def _driver_acceleration(self, driver: Driver, t: float, ex: float, ey: float) -> float:
        wish = 0.0 if t < driver.waits_until else driver.wish
        gap, closing = self._to_stop_line(driver.s + 2.2, t, driver.axis, driver.v) + 1.0, driver.v
        for other in self._drivers:
            same = other is not driver and (other.axis, other.sign, other.lateral) == (
                driver.axis,
                driver.sign,
                driver.lateral,
            )
            if same and 0.0 < other.s - driver.s < gap + 4.4:
                gap, closing = other.s - driver.s - 4.4, driver.v - other.v
        along, across = (ex, ey) if driver.axis == 0 else (ey, ex)
        ahead = driver.sign * (along + 1.3 * (driver.axis == 0)) - driver.s - 4.6
        if -4.0 < ahead < gap and abs(across - driver.lateral) < 2.2:
            gap, closing = ahead, driver.v
        for walker in self._walkers:
            along, across = (walker.x, walker.y) if driver.axis == 0 else (walker.y, walker.x)
            ahead = driver.sign * along - driver.s - 2.8
            if 0.0 < ahead < gap and abs(across - driver.lateral) < 2.4:
                gap, closing = ahead, driver.v
        return follow(driver.v, wish, gap, closing)

    def _ego_acceleration(self, t: float) -> float:
        if self.plan == 'stand':
            return -3.0
        s, v = self._s, self._v
        bend = self.route.arc_start - s
        wish = 8.0 if s > self.route.arc_end else min(8.0, math.sqrt(3.5**2 + 3.0 * max(bend, 0.0)))
        gap, closing = math.inf, v
        x, y, yaw = self.route.pose(s)
        if self.route.curvature(s) == 0.0:
            axis = 0 if s < self.route.arc_start else 1
            along = x if axis == 0 else math.copysign(1.0, yaw) * y
            gap = self._to_stop_line(along + FRONT_BUMPER, t, axis, v) + 1.0
        for driver in self._drivers:
            x, y = _driver_xy(driver, driver.s)
            heading = (0.0 if driver.sign == 1 else math.pi) if driver.axis == 0 else driver.sign * math.pi / 2
            gap, closing = self._yield_to(x, y, 2.2, 2.0, driver.v if abs(heading - yaw) < 0.1 else 0.0, gap, closing)
        for walker in self._walkers:
            gap, closing = self._yield_to(walker.x, walker.y, 0.3, 2.4, 0.0, gap, closing)
        return follow(v, wish, gap, closing)

    def _yield_to(
        self, x: float, y: float, half: float, width: float, speed: float, gap: float, closing: float
    ) -> tuple[float, float]:
        ex, ey, _ = self.route.pose(self._s)
        if abs(x - ex) + abs(y - ey) > 50.0:
            return gap, closing
        place = self.route.locate(x, y, self._s)
        if place is None or abs(place[1]) > width or place[0] - half - FRONT_BUMPER > gap:
            return gap, closing
        return place[0] - half - FRONT_BUMPER, self._v - speed

    def _walk(self, walker: Walker, t: float, rng: np.random.Generator) -> None:
        if walker.role == 'stand':
            return
        if walker.role == 'along':
            walker.x += walker.speed * STEP
            return
        if walker.pause > 0.0:
            walker.pause -= STEP
            return
        at_curb = abs(walker.y) > ROAD
        if at_curb and walker.goal * walker.y < 0.0 and not self._clear(walker):
            return
        walker.y += math.copysign(walker.speed * STEP, walker.goal - walker.y)
        if abs(walker.y - walker.goal) < walker.speed * STEP:
            walker.goal, walker.pause = -walker.goal, rng.uniform(1.0, 5.0)

    def _clear(self, walker: Walker) -> bool:
        """Whether no vehicle is about to pass where the pedestrian wants to cross."""
        ex, ey, _ = self.route.pose(self._s)
        ahead = walker.x - ex - FRONT_BUMPER
        if abs(ey) < ROAD and -6.0 < ahead < 4.0 + self._v * 2.0:
            return False
        gaps = [(d.sign * walker.x - d.s, d.v) for d in self._drivers if d.axis == 0]
        return not any(-6.0 < gap < 5.0 + 2.0 * v for gap, v in gaps)

    def _vehicles(self, index: int, part: float) -> list[Thing]:
        things = []
        track = (1.0 - part) * self._driver_track[index] + part * self._driver_track[index + 1]
        for driver, (s, v) in zip(self._drivers, track, strict=True):
            x, y = _driver_xy(driver, float(s))
            yaw = (0.0 if driver.sign == 1 else math.pi) if driver.axis == 0 else driver.sign * math.pi / 2
            velocity = (driver.sign * float(v), 0.0) if driver.axis == 0 else (0.0, driver.sign * float(v))
            things.append(Thing(0, 'vehicle', driver.colour, x, y, yaw, 4.4, 1.9, 1.6, *velocity))
        return things + self._parked

    def _people(self, index: int, part: float) -> list[Thing]:
        before, after = self._walker_track[index], self._walker_track[index + 1]
        things = []
        for walker, old, new in zip(self._walkers, before, after, strict=True):
            x, y = (1.0 - part) * old + part * new
            vx, vy = (new - old) / STEP
            yaw = math.atan2(vy, vx)
            things.append(
                Thing(0, 'pedestrian', walker.colour, float(x), float(y), yaw, 0.5, 0.55, 1.75, float(vx), float(vy))
            )
        return things

    def _lights(self, ego: Ego, t: float) -> list[Thing]:
        """Lights of the nearest crossings, one for each direction, facing the traffic that obeys it."""
        things = []
        base_x, base_y = round(ego.x / BLOCK), round(ego.y / BLOCK)
        for i, j in ((-1, 0), (0, 0), (1, 0), (0, -1), (0, 1)):
            for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
                along, across = sign * LIGHT_OFFSET, -sign * 4.2 if axis == 0 else sign * 4.2
                x, y = (along, across) if axis == 0 else (across, along)
                yaw = (math.pi if sign == 1 else 0.0) if axis == 0 else -sign * math.pi / 2
                place = ((base_x + i) * BLOCK + x, (base_y + j) * BLOCK + y, yaw)
                things.append(Thing(0, 'light', '', *place, 0.4, 1.2, 5.6, state=self.light(axis, t)))
        return things


def _driver_xy(driver: Driver, s: float) -> tuple[float, float]:
    return (driver.sign * s, driver.lateral) if driver.axis == 0 else (driver.lateral, driver.sign * s)


def _colour(rng: np.random.Generator) -> str:
    return COLOURS[int(rng.integers(len(COLOURS)))]


def _drivers(rng: np.random.Generator, start: float, seconds: float) -> list[Driver]:
    """Oncoming, leading, double-parked, following and crossing vehicles."""
    drivers: list[Driver] = []
    reach = 90.0 + 8.0 * seconds
    for s in np.arange(-start - 60.0 - reach, -start + 10.0, 22.0):
        if rng.random() < 0.35:
            drivers.append(Driver(0, -1, LANE, float(s + rng.uniform(0, 10)), 6.0, rng.uniform(5.0, 9.0), _colour(rng)))
    lead = rng.random()
    if lead < 0.35:  # double-parked ahead, drives off later
        gap = rng.uniform(9.0, 34.0)
        drivers.append(
            Driver(0, 1, -LANE, start + FRONT_BUMPER + gap + 2.2, 0.0, 9.0, _colour(rng), rng.uniform(4.0, 14.0))
        )
    elif lead < 0.6:
        drivers.append(Driver(0, 1, -LANE, start + rng.uniform(30.0, 45.0), 7.0, rng.uniform(8.0, 10.0), _colour(rng)))
    if rng.random() < 0.4:
        drivers.append(Driver(0, 1, -LANE, start - rng.uniform(10.0, 22.0), 2.0, rng.uniform(6.0, 8.0), _colour(rng)))
    for crossing in np.arange(0.0, max(start + 8.0 * seconds, 1.0), BLOCK):
        for sign in (1, -1):
            lateral = float(crossing + sign * LANE)
            for s in (-62.0, -48.0, -34.0, -20.0):
                if rng.random() < 0.28:
                    drivers.append(
                        Driver(1, sign, lateral, s + rng.uniform(0, 6), 6.0, rng.uniform(5.0, 9.0), _colour(rng))
                    )
    return drivers


def _parked(rng: np.random.Generator, start: float, seconds: float) -> list[Thing]:
    things = []
    for x in np.arange(start - 50.0, start + 60.0 + 8.0 * seconds, 9.0):
        for side in (1, -1):
            if abs((x + BLOCK / 2) % BLOCK - BLOCK / 2) > 16.0 and rng.random() < 0.16:
                yaw = 0.0 if side == -1 else math.pi
                things.append(Thing(0, 'vehicle', _colour(rng), float(x), side * 4.45, yaw, 4.4, 1.9, 1.6))
    for y in (-44.0, -30.0, 30.0, 44.0):
        for side in (1, -1):
            if rng.random() < 0.2:
                things.append(Thing(0, 'vehicle', _colour(rng), side * 4.45, y, side * math.pi / 2, 4.4, 1.9, 1.6))
    return things


def _walkers(rng: np.random.Generator, start: float, seconds: float) -> list[Walker]:
    walkers: list[Walker] = []
    far = start + 50.0 + 6.0 * seconds
    for side in (1.0, -1.0):
        for x in np.arange(start - 20.0, far, 24.0):
            roll = rng.random()
            place = float(x + rng.uniform(0.0, 16.0))
            if roll < 0.12:
                walkers.append(Walker('stand', place, side * rng.uniform(6.4, 8.0), _colour(rng)))
            elif roll < 0.24:
                speed = float(rng.choice([-1.3, 1.3]))
                walkers.append(Walker('along', place, side * rng.uniform(6.4, 8.0), _colour(rng), speed))
    for x in np.arange(start + 8.0, far, 26.0):
        if rng.random() < 0.7:
            side = float(rng.choice([-1.0, 1.0]))
            y = side * float(rng.uniform(0.0, 6.5))
            place = float(x + rng.uniform(0.0, 14.0))
            walkers.append(Walker('cross', place, y, _colour(rng), rng.uniform(1.0, 1.6), -side * 6.8))
    return walkers
