"""What happens to the ego vehicle in a world: whom it touches, how near it comes, which lines it passes at red.

Everything follows from the states of the world, none of it from pictures or hints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stprune_ros.ringworld.route import BLOCK, FRONT_BUMPER
from stprune_ros.ringworld.traffic import VEHICLE_SIZE, Actor
from stprune_ros.ringworld.world import STOP_LINE, Ego, Snapshot

LENGTH, WIDTH = VEHICLE_SIZE[:2]  # of the ego vehicle
CENTRE = FRONT_BUMPER - LENGTH / 2  # of the ego vehicle, ahead of base_link
MOVING = 0.3  # m/s below which the ego vehicle stands: whoever walks into it then is not hit by it
NEAR = 40.0  # m, |dx| + |dy|: who is on the maps of a drive
HORIZON_S, LOOK_S = 5.0, 0.1  # of the time to collision, and between two looks ahead
HARD_BRAKING = 5.0  # m/s2 with which one who cannot stop ahead of a line is excused
KINDS = ('pedestrian', 'vehicle ahead', 'crossing vehicle', 'oncoming vehicle', 'struck from behind')
STOP_LINE_RUN, RED_LIGHT_RUN = 'stop line', 'red light'


@dataclass(frozen=True, slots=True)
class Boxes:
    """Rectangles on the ground: centres (N, 2), unit headings (N, 2), half lengths and half widths (N,)."""

    centres: np.ndarray
    headings: np.ndarray
    halves: np.ndarray  # (N, 2)

    @classmethod
    def of_actors(cls, actors: Sequence[Actor]) -> Boxes:
        """Those of vehicles and pedestrians."""
        centres = np.array([(actor.x, actor.y) for actor in actors]).reshape(-1, 2)
        headings = np.array([(math.cos(actor.yaw), math.sin(actor.yaw)) for actor in actors]).reshape(-1, 2)
        return cls(
            centres, headings, np.array([(actor.length / 2, actor.width / 2) for actor in actors]).reshape(-1, 2)
        )

    @classmethod
    def of_ego(cls, ego: Ego) -> Boxes:
        """The ego vehicle, N = 1."""
        heading = np.array([[math.cos(ego.yaw), math.sin(ego.yaw)]])
        return cls(np.array([[ego.x, ego.y]]) + CENTRE * heading, heading, np.array([[LENGTH / 2, WIDTH / 2]]))


def overlaps(one: Boxes, other: Boxes, shift: np.ndarray | None = None) -> np.ndarray:
    """Which rectangles of ``other`` (N) overlap the one rectangle, bool (N,), by the separating axis theorem.

    ``shift`` (T, N, 2) moves them, for bool (T, N).
    """
    apart = other.centres - one.centres + (0.0 if shift is None else shift)
    separated = np.zeros(apart.shape[:-1], bool)
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])  # a heading to the direction on its left
    for boxes in (one, other):
        for axis in (boxes.headings, boxes.headings @ turn):
            reach = sum(
                half * np.abs(np.sum(axis * direction, axis=-1))
                for box in (one, other)
                for half, direction in ((box.halves[:, 0], box.headings), (box.halves[:, 1], box.headings @ turn))
            )
            separated |= np.abs(np.sum(apart * axis, axis=-1)) > reach
    return ~separated


def near_actors(snapshot: Snapshot) -> list[Actor]:
    """Vehicles and pedestrians that are on a map of what is around the ego vehicle."""
    ego = snapshot.ego
    return [
        actor
        for actor in snapshot.actors
        if actor.kind != 'light' and abs(actor.x - ego.x) + abs(actor.y - ego.y) < NEAR
    ]


def actors_in_reach(snapshot: Snapshot) -> list[Actor]:
    """Vehicles and pedestrians that may be met within the horizon: nobody else is as near, or comes as fast."""
    ego = snapshot.ego
    return [
        actor
        for actor in snapshot.actors
        if actor.kind != 'light'
        and math.hypot(actor.x - ego.x, actor.y - ego.y)
        < 2 * LENGTH + HORIZON_S * (ego.speed + math.hypot(actor.vx, actor.vy))
    ]


def touched(snapshot: Snapshot, actors: Sequence[Actor]) -> list[tuple[int, str]]:
    """(id, one of `KINDS`) of whom the ego vehicle overlaps; standing it hits nobody but is struck from behind."""
    hit = overlaps(Boxes.of_ego(snapshot.ego), Boxes.of_actors(actors))
    found = [(actor.id, kind_of(snapshot.ego, actor)) for actor, is_hit in zip(actors, hit, strict=True) if is_hit]
    return [(number, kind) for number, kind in found if snapshot.ego.speed > MOVING or kind == KINDS[-1]]


def kind_of(ego: Ego, actor: Actor) -> str:
    """How the ego vehicle meets an actor, one of `KINDS`."""
    if actor.kind == 'pedestrian':
        return KINDS[0]
    along = math.cos(actor.yaw - ego.yaw)
    if along < -math.cos(math.pi / 4):
        return KINDS[3]
    if along < math.cos(math.pi / 4):
        return KINDS[2]
    ahead = (actor.x - ego.x) * math.cos(ego.yaw) + (actor.y - ego.y) * math.sin(ego.yaw)
    return KINDS[1] if ahead > CENTRE else KINDS[4]


def time_to_collision(snapshot: Snapshot, actors: Sequence[Actor]) -> float:
    """Seconds until the ego vehicle overlaps somebody if all go on straight as they do; `HORIZON_S` for none, and while
    it stands."""
    ego = snapshot.ego
    if ego.speed <= MOVING or not actors:
        return HORIZON_S
    times = np.arange(0.0, HORIZON_S, LOOK_S)
    velocities = np.array([(actor.vx, actor.vy) for actor in actors])
    velocities = velocities - ego.speed * np.array([math.cos(ego.yaw), math.sin(ego.yaw)])
    hits = overlaps(Boxes.of_ego(ego), Boxes.of_actors(actors), times[:, None, None] * velocities).any(axis=1)
    return float(times[hits.argmax()]) if hits.any() else HORIZON_S


class LineWatch:
    """Counts stop lines that the front bumper passes at red, and crossings that are entered so.

    Where the light turned red too late to stop at `HARD_BRAKING` nothing counts: the other drivers would go on, too.
    Whoever passes a line at red and stands before the rear axle has passed it at red has overrun the line only.
    """

    def __init__(self) -> None:
        self.lines_passed = 0
        self.lights_run = 0
        self._before: tuple[int, float] | None = None  # axis, and position of base_link along it
        self._excused: float | None = None  # the line that could not be minded
        self._overrun: float | None = None  # the line that was passed at red
        self._was_red = False

    def look(self, road: tuple[int, float] | None, speed: float, red: bool) -> tuple[bool, bool]:
        """One step of the ego vehicle on its ``road``: axis, and position of base_link (m); None in a bend.

        ``red`` is the light of the axis. Returns whether a line was passed, and a crossing entered, in this step.
        """
        before, self._before = self._before, road
        if road is None:
            return False, False
        axis, along = road
        from_along = before[1] if before is not None and before[0] == axis else along
        line = next_line(from_along + FRONT_BUMPER)  # it may have been passed in this very step
        if red and not self._was_red and line - along - FRONT_BUMPER < speed**2 / (2 * HARD_BRAKING):
            self._excused = line
        self._was_red = red
        if before is None or before[0] != axis or not red:
            return False, False
        passed = next_line(before[1] + FRONT_BUMPER)
        overran = passed < along + FRONT_BUMPER and passed != self._excused
        if overran:
            self._overrun = passed
        entered = self._overrun is not None and before[1] <= self._overrun < along
        if entered:
            self._overrun = None
        self.lines_passed += overran
        self.lights_run += entered
        return overran, entered


def next_line(position: float) -> float:
    """The first stop line (m) at or behind a position along a road in the direction of travel."""
    return math.ceil((position + STOP_LINE) / BLOCK) * BLOCK - STOP_LINE
