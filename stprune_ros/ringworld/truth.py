"""What is true at one time of a world: what each view shows, what lies in the way, what the ego vehicle should do.

A hint never rests on what no camera sees: only things that are visible in some view count. Beside the truth stands what
a keener and a duller observer would call true: where they differ, a question has no clear answer and is not asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stprune_ros.core.types import Behavior
from stprune_ros.ringworld.renderer import GREEN_LIGHT, PEDESTRIAN, RED_LIGHT, VEHICLE, Camera, Picture
from stprune_ros.ringworld.world import BLOCK, FRONT_BUMPER, STOP_LINE, Snapshot, Thing, World

VISIBLE = 120  # pixels of a 320 x 192 picture from which a thing counts as seen
LAMP_VISIBLE = 16
KEEN, DULL = 0.5, 1.5  # share of these pixels that a keener, a duller observer needs
DOUBT = 0.07  # how far, as a share, either misjudges distances
STOP_WITHIN = 12.0  # m from the front bumper
SLOW_WITHIN = 26.0
CORRIDOR = 1.9  # half width of what the ego vehicle needs, m
DIRECTIONS = ('front', 'front right', 'right', 'back', 'left', 'front left')  # of the ring, in ring order


@dataclass(frozen=True, slots=True)
class Sight:
    """A thing in a view: pixels, middle and horizontal extent of its pixels, distance from base_link (m), own motion.

    ``speed`` and ``sideways``, to the right of the view, are own speeds (m/s), ego motion left out.
    """

    id: int
    kind: str
    colour: str
    state: str
    pixels: int
    u: float
    v: float
    left: int
    right: int
    distance: float
    moving: bool
    speed: float
    sideways: float


@dataclass(frozen=True, slots=True)
class Truth:
    """Truth of one tick: per view (ring order) what is seen, nearest first; what to do and why (id -1: no reason).

    ``doubts`` holds what a keener and more careful, and what a duller and bolder observer would call true.
    """

    t: float
    speed: float
    yaw_rate: float
    views: tuple[tuple[Sight, ...], ...]
    behavior: Behavior
    reason: str
    reason_id: int
    gap: float
    doubts: tuple[Truth, ...] = ()

    def reason_views(self) -> list[int]:
        """Views that show the reason, the one with most pixels first."""
        found = [
            (sight.pixels, index)
            for index, view in enumerate(self.views)
            for sight in view
            if sight.id == self.reason_id
        ]
        return [index for _, index in sorted(found, reverse=True)]


def truth_of(world: World, snapshot: Snapshot, cameras: tuple[Camera, ...], pictures: list[Picture]) -> Truth:
    """Truth at a snapshot from the world and the rendered views (pictures in the order of ``cameras``)."""
    faint = [_sights(snapshot, camera, picture) for camera, picture in zip(cameras, pictures, strict=True)]
    doubts = tuple(
        _judged(world, snapshot, faint, share, scale) for share, scale in ((KEEN, 1 + DOUBT), (DULL, 1 - DOUBT))
    )
    return replace(_judged(world, snapshot, faint, 1.0, 1.0), doubts=doubts)


def _judged(world: World, snapshot: Snapshot, faint: Sequence[tuple[Sight, ...]], share: float, scale: float) -> Truth:
    """Truth for an observer who needs ``share`` of the usual pixels and takes limits as ``scale`` times as far."""
    views = tuple(
        tuple(s for s in view if s.pixels >= share * (LAMP_VISIBLE if s.kind == 'light' else VISIBLE)) for view in faint
    )
    behavior, thing, gap = hazard(world, snapshot, {sight.id for view in views for sight in view}, scale)
    reason = {'light': 'red light', 'vehicle': 'car', 'pedestrian': 'pedestrian'}[thing.kind] if thing else 'nothing'
    ego = snapshot.ego
    return Truth(snapshot.t, ego.speed, ego.yaw_rate, views, behavior, reason, thing.id if thing else -1, gap)


def hazard(
    world: World, snapshot: Snapshot, seen: set[int], scale: float = 1.0
) -> tuple[Behavior, Thing | None, float]:
    """What to do, the thing that is the reason and its gap (m) to the front bumper; only things in ``seen`` count.

    The corridor is straight ahead; once the ego vehicle turns (yaw rate not zero) it follows the bend. ``scale``
    stretches the limits, and the corridor three times as much in metres.
    """
    worst: tuple[Behavior, Thing | None, float] = (Behavior.NONE, None, math.inf)
    stop, slow = scale * STOP_WITHIN, scale * SLOW_WITHIN
    for thing in snapshot.things:
        if thing.id not in seen:
            continue
        gap = (
            _light_gap(snapshot, thing)
            if thing.kind == 'light'
            else _gap(world, snapshot, thing, CORRIDOR + 3 * (scale - 1))
        )
        behavior = Behavior.STOP if gap < stop else Behavior.SLOW_DOWN if gap < slow else Behavior.NONE
        away = thing.vx * math.cos(snapshot.ego.yaw) + thing.vy * math.sin(snapshot.ego.yaw)
        if thing.kind == 'vehicle' and away > 2.0 and behavior != Behavior.NONE:
            behavior = Behavior.SLOW_DOWN if gap < stop else Behavior.NONE
        if behavior != Behavior.NONE and (-int(behavior), gap) < (-int(worst[0]), worst[2]):
            worst = (behavior, thing, gap)
    return worst


def _gap(world: World, snapshot: Snapshot, thing: Thing, corridor: float) -> float:
    ego = snapshot.ego
    dx, dy = thing.x - ego.x, thing.y - ego.y
    if abs(dx) + abs(dy) > 50.0:
        return math.inf
    along = dx * math.cos(ego.yaw) + dy * math.sin(ego.yaw)
    place: tuple[float, float] | None = (along, -dx * math.sin(ego.yaw) + dy * math.cos(ego.yaw))
    if abs(ego.yaw_rate) > 0.05:
        place = world.route.locate(thing.x, thing.y, world.progress(snapshot.t))
    if place is None or abs(place[1]) > corridor or place[0] < FRONT_BUMPER - 1.0:
        return math.inf
    half = 0.25
    if thing.kind == 'vehicle':
        turned = abs(math.cos(thing.yaw - ego.yaw))
        half = turned * thing.length / 2 + (1.0 - turned) * thing.width / 2
    return max(0.0, place[0] - half - FRONT_BUMPER)


def _light_gap(snapshot: Snapshot, light: Thing) -> float:
    """Distance to the stop line of a red light that faces the ego vehicle."""
    ego = snapshot.ego
    facing = math.cos(light.yaw - ego.yaw) < -0.98
    if light.state != 'red' or not facing or abs(ego.yaw_rate) > 0.05:
        return math.inf
    ahead = (light.x - ego.x) * math.cos(ego.yaw) + (light.y - ego.y) * math.sin(ego.yaw)
    aside = -(light.x - ego.x) * math.sin(ego.yaw) + (light.y - ego.y) * math.cos(ego.yaw)
    gap = ahead - 9.0 - STOP_LINE - FRONT_BUMPER
    return max(gap, 0.0) if gap > -2.0 and abs(aside) < BLOCK / 4 else math.inf


def _sights(snapshot: Snapshot, camera: Camera, picture: Picture) -> tuple[Sight, ...]:
    """All that a keen observer sees in a view, nearest first."""
    ego = snapshot.ego
    lamp = (picture.classes == RED_LIGHT) | (picture.classes == GREEN_LIGHT)
    solid = (picture.classes == VEHICLE) | (picture.classes == PEDESTRIAN) | lamp
    rows, columns = np.nonzero(solid & (picture.things >= 0))
    ids = picture.things[rows, columns]
    sights = []
    right = ego.yaw + camera.azimuth - math.pi / 2
    for number in np.unique(ids):
        thing, mine = snapshot.things[number], ids == number
        if mine.sum() < KEEN * (LAMP_VISIBLE if thing.kind == 'light' else VISIBLE):
            continue
        u, v = columns[mine], rows[mine]
        distance = math.hypot(thing.x - ego.x, thing.y - ego.y)
        speed = math.hypot(thing.vx, thing.vy)
        sideways = thing.vx * math.cos(right) + thing.vy * math.sin(right)
        place = (int(mine.sum()), float(u.mean()), float(v.mean()), int(u.min()), int(u.max()), distance)
        sights.append(Sight(thing.id, thing.kind, thing.colour, thing.state, *place, thing.moving, speed, sideways))
    return tuple(sorted(sights, key=lambda sight: (sight.distance, sight.id)))
