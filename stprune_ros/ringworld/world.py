"""A small driving world with known truth: a road grid, traffic that obeys lights, pedestrians, one ego vehicle.

The seed determines everything. Metres, seconds and radians; the world frame is the odometry frame (x along the first
road, y left, z up), right-hand traffic. base_link of the ego vehicle is the centre of its rear axle on the ground.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from stprune_ros.errors import SettingsError
from stprune_ros.ringworld.paints import Paint, draw_paints
from stprune_ros.ringworld.route import BLOCK, FRONT_BUMPER, TURN_RADIUS, Route, idm_acceleration
from stprune_ros.ringworld.traffic import (
    HARD_TRAFFIC,
    PEDESTRIAN_SIZE,
    VEHICLE_SIZE,
    Actor,
    Driver,
    Pedestrian,
    make_drivers,
    make_parked,
    make_pedestrians,
)
from stprune_ros.ringworld.weather import Weather, draw_weather

ROAD = 5.5  # half width of a road with its parking strips
CURB = 8.5  # outer edge of the pavement, from the middle of the road
STOP_LINE = 9.2  # from the middle of the crossing road
LIGHT_OFFSET = 9.0  # from the middle of the crossing road; lights hang behind the crossing
STEP = 0.05  # s of simulation


@dataclass(frozen=True, slots=True)
class Ego:
    """Ego pose in the world and its speed (m/s, along x of base_link) and yaw rate (rad/s)."""

    x: float
    y: float
    yaw: float
    speed: float
    yaw_rate: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole world at one time (seconds since its start).

    The hard world has ``weather``, and ``paints``: the RGB of vehicles and of pedestrians' clothes by actor.
    """

    t: float
    ego: Ego
    actors: tuple[Actor, ...]
    seed: int
    weather: Weather | None = None
    paints: Mapping[int, Paint] = field(default_factory=dict)


class SteppedWorld:
    """A world that goes on by `STEP` seconds with each `step`; ``seconds`` says how far traffic is laid out.

    ``snapshot(t)`` gives its state at any time before `simulated_s`: how fast a pedestrian goes is seen from the
    step after it. Where drivers are compared pedestrians rest by numbers of their own (``apart``): whoever is kept
    waiting changes nobody else. A ``hard`` one has weather, `HARD_TRAFFIC` times the traffic, colours that look alike
    and street furniture.
    Raises SettingsError if the duration is not positive or exceeds ten minutes.
    """

    def __init__(self, seed: int, seconds: float = 14.0, hard: bool = False, apart: bool = False) -> None:
        if not 0.0 < seconds <= 600.0:
            raise SettingsError(f'a ringworld of {seconds:g} s cannot be made; choose more than 0 s and at most 600 s')
        self.seed = seed
        self.seconds = seconds
        self.hard = hard
        rng = np.random.default_rng([seed, 1])
        self.maneuver = str(rng.choice(['drive', 'drive', 'drive', 'left', 'right', 'right', 'stand']))
        self.route = Route(self.maneuver if self.maneuver in TURN_RADIUS else 'straight', -rng.uniform(12.0, 55.0))
        self._cycle = rng.uniform(14.0, 22.0)
        self._phase = rng.uniform(0.0, self._cycle)
        self._s = 0.0
        self._v = 0.0 if self.maneuver == 'stand' else rng.uniform(0.0, 8.0)
        traffic = HARD_TRAFFIC if hard else 1
        self._drivers = make_drivers(rng, self.route.start, seconds, traffic)
        parked = make_parked(rng, self.route.start, seconds, traffic)
        self._parked = [replace(actor, id=number) for number, actor in enumerate(parked, len(self._drivers))]
        self._pedestrians = make_pedestrians(rng, self.route.start, seconds, traffic)
        self._weather = draw_weather(seed) if hard else None
        self._paints = draw_paints(seed, self._colours()) if hard else {}
        self._ego_track: list[tuple[float, float]] = []  # progress and speed
        self._driver_track: list[np.ndarray] = []
        self._pedestrian_track: list[np.ndarray] = []
        # Who draws from the numbers of all changes what the next one draws.
        self._rests = [
            np.random.default_rng([seed, 10, index]) if apart else rng for index in range(len(self._pedestrians))
        ]
        self._record_states()

    @property
    def simulated_s(self) -> float:
        """Seconds that were simulated: whatever is before can be looked at."""
        return (len(self._ego_track) - 1) * STEP

    @property
    def ego_progress(self) -> float:
        """Distance (m) that the ego vehicle has gone by the last step."""
        return self._s

    @property
    def ego_speed(self) -> float:
        """Speed (m/s) of the ego vehicle after the last step."""
        return self._v

    def step(self, acceleration: float) -> None:
        """Go on by `STEP`, the ego vehicle with ``acceleration`` (m/s2) along its route; it never goes backward."""
        self._advance((len(self._ego_track) - 1) * STEP, acceleration)
        self._record_states()

    def light(self, axis: int, t: float) -> str:
        """'red' or 'green' for traffic along ``axis``; both are red for a second between the phases."""
        phase = (t + self._phase) % self._cycle
        half = self._cycle / 2.0
        return 'green' if (phase < half - 1.0 if axis == 0 else half <= phase < self._cycle - 1.0) else 'red'

    def ego(self, t: float) -> Ego:
        """The ego vehicle at ``t`` seconds; raises SettingsError outside the simulated time."""
        index, fraction = self._moment(t)
        s, v = (1.0 - fraction) * np.array(self._ego_track[index]) + fraction * np.array(self._ego_track[index + 1])
        x, y, yaw = self.route.pose(s)
        return Ego(float(x), float(y), float(yaw), float(v), float(v * self.route.curvature(s)))

    def snapshot(self, t: float) -> Snapshot:
        """The world at ``t`` seconds; raises SettingsError outside the simulated time."""
        ego = self.ego(t)
        index, fraction = self._moment(t)
        actors = self._vehicle_actors(index, fraction) + self._parked
        actors += self._pedestrian_actors(index, fraction, len(actors))
        actors += self._light_actors(ego, t, len(actors))
        return Snapshot(t, ego, tuple(actors), self.seed, self._weather, self._paints)

    def _moment(self, t: float) -> tuple[int, float]:
        """The step before ``t`` seconds, and how much of the next one has passed."""
        index = int(max(t, 0.0) / STEP)
        if not -1e-6 <= t <= self.seconds + 1e-6 or index + 1 >= len(self._ego_track):
            limit = min(self.seconds, self.simulated_s)
            raise SettingsError(f'time {t:g} s lies outside this ringworld of {limit:g} s')
        return index, max(t, 0.0) / STEP - index

    def progress(self, t: float) -> float:
        """Distance (m) that the ego vehicle has gone at ``t``."""
        index = int(t / STEP)
        fraction = t / STEP - index
        return (1.0 - fraction) * self._ego_track[index][0] + fraction * self._ego_track[index + 1][0]

    def _colours(self) -> list[tuple[str, str]]:
        """(kind, colour) of whom colours are drawn for, by the number that `snapshot` gives them."""
        vehicles = [*(driver.colour for driver in self._drivers), *(actor.colour for actor in self._parked)]
        clothes = [pedestrian.colour for pedestrian in self._pedestrians]
        return [('vehicle', colour) for colour in vehicles] + [('pedestrian', colour) for colour in clothes]

    def _record_states(self) -> None:
        self._ego_track.append((self._s, self._v))
        self._driver_track.append(np.array([(d.s, d.v) for d in self._drivers]).reshape(-1, 2))
        self._pedestrian_track.append(np.array([(p.x, p.y) for p in self._pedestrians]).reshape(-1, 2))

    def _advance(self, t: float, ego_acceleration: float) -> None:
        ex, ey, _ = self.route.pose(self._s)
        accelerations = [self._driver_acceleration(driver, t, ex, ey) for driver in self._drivers]
        for driver, acceleration in zip(self._drivers, accelerations, strict=True):
            driver.v = max(0.0, driver.v + acceleration * STEP)
            driver.s += driver.v * STEP
        self._v = max(0.0, self._v + ego_acceleration * STEP)
        self._s += self._v * STEP
        for pedestrian, rests in zip(self._pedestrians, self._rests, strict=True):
            self._walk(pedestrian, rests)

    def _to_stop_line(self, position: float, t: float, axis: int, v: float) -> float:
        """Distance to the next stop line at red; infinite at green or where stopping is no longer possible."""
        crossing = math.ceil((position + STOP_LINE) / BLOCK) * BLOCK
        gap = crossing - STOP_LINE - position
        possible = gap > v * v / 10.0 - 0.5
        return gap if self.light(axis, t) == 'red' and possible else math.inf

    def _driver_acceleration(self, driver: Driver, t: float, ex: float, ey: float) -> float:
        desired_speed = 0.0 if t < driver.waits_until else driver.desired_speed
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
        for pedestrian in self._pedestrians:
            along, across = (pedestrian.x, pedestrian.y) if driver.axis == 0 else (pedestrian.y, pedestrian.x)
            ahead = driver.sign * along - driver.s - 2.8
            if 0.0 < ahead < gap and abs(across - driver.lateral) < 2.4:
                gap, closing = ahead, driver.v
        return idm_acceleration(driver.v, desired_speed, gap, closing)

    def scripted_acceleration(self) -> float:
        """What the world's own driver of the ego vehicle does next (m/s2): it sees everything and obeys the lights."""
        t = (len(self._ego_track) - 1) * STEP
        if self.maneuver == 'stand':
            return -3.0
        s, v = self._s, self._v
        desired_speed = self.route.desired_speed(s)
        gap, closing = math.inf, v
        yaw = self.route.pose(s)[2]
        road = self.route.road(s)
        if road is not None:
            gap = self._to_stop_line(road[1] + FRONT_BUMPER, t, road[0], v) + 1.0
        for driver in self._drivers:
            x, y = _driver_xy(driver, driver.s)
            heading = (0.0 if driver.sign == 1 else math.pi) if driver.axis == 0 else driver.sign * math.pi / 2
            gap, closing = self._yield_to(x, y, 2.2, 2.0, driver.v if abs(heading - yaw) < 0.1 else 0.0, gap, closing)
        for pedestrian in self._pedestrians:
            gap, closing = self._yield_to(pedestrian.x, pedestrian.y, 0.3, 2.4, 0.0, gap, closing)
        return idm_acceleration(v, desired_speed, gap, closing)

    def _yield_to(
        self, x: float, y: float, half: float, width: float, speed: float, gap: float, closing: float
    ) -> tuple[float, float]:
        """Gap to what lies ahead and the speed at which it shrinks, after looking at one more road user."""
        ex, ey, _ = self.route.pose(self._s)
        if abs(x - ex) + abs(y - ey) > 50.0:
            return gap, closing
        position = self.route.locate(x, y, self._s)
        if position is None or abs(position[1]) > width or position[0] - half - FRONT_BUMPER > gap:
            return gap, closing
        return position[0] - half - FRONT_BUMPER, self._v - speed

    def _walk(self, pedestrian: Pedestrian, rests: np.random.Generator) -> None:
        if pedestrian.role == 'stand':
            return
        if pedestrian.role == 'along':
            pedestrian.x += pedestrian.speed * STEP
            return
        if pedestrian.pause > 0.0:
            pedestrian.pause -= STEP
            return
        at_curb = abs(pedestrian.y) > ROAD
        if at_curb and pedestrian.goal * pedestrian.y < 0.0 and not self._gap_in_traffic(pedestrian):
            return
        pedestrian.y += math.copysign(pedestrian.speed * STEP, pedestrian.goal - pedestrian.y)
        if abs(pedestrian.y - pedestrian.goal) < pedestrian.speed * STEP:
            pedestrian.goal, pedestrian.pause = -pedestrian.goal, rests.uniform(1.0, 5.0)

    def _gap_in_traffic(self, pedestrian: Pedestrian) -> bool:
        """Whether no vehicle is about to pass where the pedestrian wants to cross."""
        ex, ey, _ = self.route.pose(self._s)
        ahead = pedestrian.x - ex - FRONT_BUMPER
        if abs(ey) < ROAD and -6.0 < ahead < 4.0 + self._v * 2.0:
            return False
        gaps = [(d.sign * pedestrian.x - d.s, d.v) for d in self._drivers if d.axis == 0]
        return not any(-6.0 < gap < 5.0 + 2.0 * v for gap, v in gaps)

    def _vehicle_actors(self, index: int, fraction: float) -> list[Actor]:
        actors = []
        track = (1.0 - fraction) * self._driver_track[index] + fraction * self._driver_track[index + 1]
        for number, (driver, (s, v)) in enumerate(zip(self._drivers, track, strict=True)):
            x, y = _driver_xy(driver, float(s))
            yaw = (0.0 if driver.sign == 1 else math.pi) if driver.axis == 0 else driver.sign * math.pi / 2
            velocity = (driver.sign * float(v), 0.0) if driver.axis == 0 else (0.0, driver.sign * float(v))
            actors.append(Actor(number, 'vehicle', driver.colour, x, y, yaw, *VEHICLE_SIZE, *velocity, lamps=True))
        return actors

    def _pedestrian_actors(self, index: int, fraction: float, first: int) -> list[Actor]:
        """Pedestrians, numbered from ``first`` on."""
        before, after = self._pedestrian_track[index], self._pedestrian_track[index + 1]
        actors = []
        for number, (pedestrian, old, new) in enumerate(zip(self._pedestrians, before, after, strict=True), first):
            x, y = ((1.0 - fraction) * old + fraction * new).tolist()
            vx, vy = ((new - old) / STEP).tolist()
            pose = (x, y, math.atan2(vy, vx))
            actors.append(Actor(number, 'pedestrian', pedestrian.colour, *pose, *PEDESTRIAN_SIZE, vx, vy))
        return actors

    def _light_actors(self, ego: Ego, t: float, first: int) -> list[Actor]:
        """Lights of the nearest crossings, one for each direction, facing the traffic that obeys it."""
        actors: list[Actor] = []
        base_x, base_y = round(ego.x / BLOCK), round(ego.y / BLOCK)
        for i, j in ((-1, 0), (0, 0), (1, 0), (0, -1), (0, 1)):
            for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
                along, across = sign * LIGHT_OFFSET, -sign * 4.2 if axis == 0 else sign * 4.2
                x, y = (along, across) if axis == 0 else (across, along)
                yaw = (math.pi if sign == 1 else 0.0) if axis == 0 else -sign * math.pi / 2
                place = ((base_x + i) * BLOCK + x, (base_y + j) * BLOCK + y, yaw)
                number = first + len(actors)
                actors.append(Actor(number, 'light', '', *place, 0.4, 1.2, 5.6, state=self.light(axis, t)))
        return actors


class World(SteppedWorld):
    """A world simulated once for ``seconds`` with its scripted ego driver; see `SteppedWorld`."""

    def __init__(self, seed: int, seconds: float = 14.0, hard: bool = False) -> None:
        super().__init__(seed, seconds, hard)
        for _ in range(math.ceil(seconds / STEP) + 1):
            self.step(self.scripted_acceleration())


def _driver_xy(driver: Driver, s: float) -> tuple[float, float]:
    return (driver.sign * s, driver.lateral) if driver.axis == 0 else (driver.lateral, driver.sign * s)
