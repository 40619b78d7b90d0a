"""Ground truth at one instant: what each view shows, what blocks the way, and what the ego vehicle should do.

Only actors that are visible in some view can be the reason for a hint. In the hard world darkness, fog and rain hide as
well as other things do: there pixels count by how far they stand out from what is around them, and a colour counts only
where enough of it is left. The truth also holds the opinions of two other
observers, one who notices more and is more careful and one who notices less. Where they differ, the case is
borderline, and questions about it are not asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from stprune_ros.core.types import Behavior
from stprune_ros.ringworld.renderer import Camera, RenderedView
from stprune_ros.ringworld.route import BLOCK, FRONT_BUMPER
from stprune_ros.ringworld.shapes import GREEN_LIGHT, PEDESTRIAN, RED_LIGHT, VEHICLE
from stprune_ros.ringworld.traffic import Actor
from stprune_ros.ringworld.world import LIGHT_OFFSET, STOP_LINE, Snapshot, SteppedWorld

MIN_PIXELS = 120  # pixels of a 320 x 192 image from which a vehicle or pedestrian counts as visible
MIN_LAMP_PIXELS = 16  # the same for the lit lamp of a traffic light
# Hard world: mean distance of an actor from the colour around it from which its pixels count, and count fully.
FAINT, DISTINCT = 5.0, 20.0
AROUND = 5  # pixels beside an actor whose mean colour it must stand out from
MIN_CLARITY = 0.15  # share of its colour that must be left, or nobody can name it
STOP_WITHIN = 12.0  # m from the front bumper
SLOW_WITHIN = 26.0
CORRIDOR = 1.9  # half width of the lane that the ego vehicle needs, m
MAX_RANGE = 50.0  # m, |dx| + |dy|; nothing farther away is a hazard
MOVING_AWAY = 2.0  # m/s along the ego heading from which a vehicle ahead is only followed
TURNING = 0.05  # rad/s of yaw rate from which the corridor follows the route
REASONS = {'light': 'red light', 'vehicle': 'car', 'pedestrian': 'pedestrian'}
NO_REASON = 'nothing'


@dataclass(frozen=True, slots=True)
class Observer:
    """An observer who needs ``pixel_share`` of the usual pixels and takes distance limits times ``range_scale``."""

    pixel_share: float
    range_scale: float


REFERENCE = Observer(1.0, 1.0)
ATTENTIVE = Observer(0.5, 1 + 0.07)
INATTENTIVE = Observer(1.5, 1 - 0.07)


@dataclass(frozen=True, slots=True)
class VisibleActor:
    """An actor as one view shows it.

    ``u``, ``v`` are the mean column and row of its pixels, ``left`` and ``right`` their first and last column;
    ``distance`` (m) is from base_link. ``speed`` and ``sideways`` (to the right of the view) are its own, over ground,
    in m/s. In the hard world ``pixels`` count by how far they stand out, ``clarity`` is the share of its colour that is
    left, and ``colour`` is '' where that is too little for an observer to name it.
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
    clarity: float = 1.0


@dataclass(frozen=True, slots=True)
class SceneTruth:
    """The truth of one instant.

    ``views`` lists what each view shows, in ring order, nearest first. ``behavior`` is the right hint, ``reason`` names
    what it is for, ``reason_id`` the actor (-1 without one) and ``gap`` its distance (m) from the front bumper.
    ``second_opinions`` is the same as `ATTENTIVE` and `INATTENTIVE` observers judge it.
    """

    t: float
    speed: float
    yaw_rate: float
    views: tuple[tuple[VisibleActor, ...], ...]
    behavior: Behavior
    reason: str
    reason_id: int
    gap: float
    second_opinions: tuple[SceneTruth, ...] = ()

    def reason_views(self) -> list[int]:
        """Indices of the views that show the reason, the one with most pixels first."""
        found = [
            (actor.pixels, index)
            for index, view in enumerate(self.views)
            for actor in view
            if actor.id == self.reason_id
        ]
        return [index for _, index in sorted(found, reverse=True)]


def scene_truth(
    world: SteppedWorld, snapshot: Snapshot, cameras: tuple[Camera, ...], rendered: Sequence[RenderedView]
) -> SceneTruth:
    """Truth at a snapshot, from the world and its rendered views (in the order of ``cameras``)."""
    candidates = [visible_actors(snapshot, camera, view) for camera, view in zip(cameras, rendered, strict=True)]
    opinions = tuple(judge(world, snapshot, candidates, observer) for observer in (ATTENTIVE, INATTENTIVE))
    return replace(judge(world, snapshot, candidates, REFERENCE), second_opinions=opinions)


def judge(
    world: SteppedWorld, snapshot: Snapshot, candidates: Sequence[tuple[VisibleActor, ...]], observer: Observer
) -> SceneTruth:
    """Truth for one observer, from what the most attentive one sees in each view."""
    share = observer.pixel_share
    views = tuple(
        tuple(_as_named(actor, observer) for actor in view if actor.pixels >= share * _min_pixels(actor))
        for view in candidates
    )
    visible = {actor.id for view in views for actor in view}
    behavior, actor, gap = hazard(world, snapshot, visible, observer.range_scale)
    reason = REASONS[actor.kind] if actor else NO_REASON
    ego = snapshot.ego
    return SceneTruth(snapshot.t, ego.speed, ego.yaw_rate, views, behavior, reason, actor.id if actor else -1, gap)


def hazard(
    world: SteppedWorld, snapshot: Snapshot, visible: set[int], range_scale: float = 1.0
) -> tuple[Behavior, Actor | None, float]:
    """The hint, the actor that is its reason, and that actor's gap (m) to the front bumper.

    Only actors whose ids are in ``visible`` count. The corridor is straight ahead; while the ego vehicle turns it
    follows the route. ``range_scale`` stretches the distance limits; the corridor grows by 3 m times its excess over 1.
    """
    worst: tuple[Behavior, Actor | None, float] = (Behavior.NONE, None, math.inf)
    stop, slow = range_scale * STOP_WITHIN, range_scale * SLOW_WITHIN
    for actor in snapshot.actors:
        if actor.id not in visible:
            continue
        gap = (
            _light_gap(snapshot, actor)
            if actor.kind == 'light'
            else _corridor_gap(world, snapshot, actor, CORRIDOR + 3 * (range_scale - 1))
        )
        behavior = Behavior.STOP if gap < stop else Behavior.SLOW_DOWN if gap < slow else Behavior.NONE
        away = actor.vx * math.cos(snapshot.ego.yaw) + actor.vy * math.sin(snapshot.ego.yaw)
        if actor.kind == 'vehicle' and away > MOVING_AWAY and behavior != Behavior.NONE:
            behavior = Behavior.SLOW_DOWN if gap < stop else Behavior.NONE
        if behavior != Behavior.NONE and (-int(behavior), gap) < (-int(worst[0]), worst[2]):
            worst = (behavior, actor, gap)
    return worst


def _corridor_gap(world: SteppedWorld, snapshot: Snapshot, actor: Actor, corridor: float) -> float:
    """Distance from the front bumper to an actor in the corridor, infinite for one beside or behind it."""
    ego = snapshot.ego
    dx, dy = actor.x - ego.x, actor.y - ego.y
    if abs(dx) + abs(dy) > MAX_RANGE:
        return math.inf
    ahead = dx * math.cos(ego.yaw) + dy * math.sin(ego.yaw)
    position: tuple[float, float] | None = (ahead, -dx * math.sin(ego.yaw) + dy * math.cos(ego.yaw))
    if abs(ego.yaw_rate) > TURNING:
        position = world.route.locate(actor.x, actor.y, world.progress(snapshot.t))
    if position is None or abs(position[1]) > corridor or position[0] < FRONT_BUMPER - 1.0:
        return math.inf
    half_length = 0.25
    if actor.kind == 'vehicle':
        aligned = abs(math.cos(actor.yaw - ego.yaw))
        half_length = aligned * actor.length / 2 + (1.0 - aligned) * actor.width / 2
    return max(0.0, position[0] - half_length - FRONT_BUMPER)


def _light_gap(snapshot: Snapshot, light: Actor) -> float:
    """Distance to the stop line of a red light that faces the ego vehicle, infinite for any other light."""
    ego = snapshot.ego
    facing = math.cos(light.yaw - ego.yaw) < -0.98
    if light.state != 'red' or not facing or abs(ego.yaw_rate) > TURNING:
        return math.inf
    ahead = (light.x - ego.x) * math.cos(ego.yaw) + (light.y - ego.y) * math.sin(ego.yaw)
    aside = -(light.x - ego.x) * math.sin(ego.yaw) + (light.y - ego.y) * math.cos(ego.yaw)
    gap = ahead - LIGHT_OFFSET - STOP_LINE - FRONT_BUMPER
    return max(gap, 0.0) if gap > -2.0 and abs(aside) < BLOCK / 4 else math.inf


def visible_actors(snapshot: Snapshot, camera: Camera, rendered: RenderedView) -> tuple[VisibleActor, ...]:
    """Every actor that the attentive observer sees in a view, nearest first."""
    ego = snapshot.ego
    lamp = (rendered.classes == RED_LIGHT) | (rendered.classes == GREEN_LIGHT)
    solid = (rendered.classes == VEHICLE) | (rendered.classes == PEDESTRIAN) | lamp
    rows, columns = np.nonzero(solid & (rendered.actor_ids >= 0))
    ids = rendered.actor_ids[rows, columns]
    visible = []
    smooth = None if rendered.clarity is None else cv2.GaussianBlur(rendered.rgb, (0, 0), 1.0).astype(np.float32)
    right = ego.yaw + camera.azimuth - math.pi / 2
    for number in np.unique(ids):
        actor, mask = snapshot.actors[number], ids == number
        u, v = columns[mask], rows[mask]
        pixels, clarity = int(mask.sum()), 1.0
        if smooth is not None and rendered.clarity is not None:
            pixels = round(pixels * distinctness(smooth, u, v))
            clarity = float(rendered.clarity[v, u].mean())
        if pixels < ATTENTIVE.pixel_share * _min_pixels(actor):
            continue
        extent = (pixels, float(u.mean()), float(v.mean()), int(u.min()), int(u.max()))
        distance = math.hypot(actor.x - ego.x, actor.y - ego.y)
        speed = math.hypot(actor.vx, actor.vy)
        sideways = actor.vx * math.cos(right) + actor.vy * math.sin(right)
        motion = (distance, actor.moving, speed, sideways)
        visible.append(VisibleActor(actor.id, actor.kind, actor.colour, actor.state, *extent, *motion, clarity))
    return tuple(sorted(visible, key=lambda actor: (actor.distance, actor.id)))


def distinctness(rgb: np.ndarray, u: np.ndarray, v: np.ndarray) -> float:
    """How far the pixels at columns ``u`` and rows ``v`` of ``rgb`` (H, W, 3) stand out from those around, 0 to 1."""
    low, high = np.array([v.min(), u.min()]) - AROUND, np.array([v.max(), u.max()]) + AROUND + 1
    low, high = low.clip(0), np.minimum(high, rgb.shape[:2])
    part = rgb[low[0] : high[0], low[1] : high[1]]
    mask = np.zeros(part.shape[:2], np.uint8)
    mask[v - low[0], u - low[1]] = 1
    around = (cv2.dilate(mask, np.ones((2 * AROUND + 1,) * 2, np.uint8)) > mask) if not mask.all() else mask > 0
    contrast = float(np.abs(part[mask > 0] - part[around].mean(0)).max(-1).mean())
    return min(1.0, max(0.0, (contrast - FAINT) / (DISTINCT - FAINT)))


def _as_named(actor: VisibleActor, observer: Observer) -> VisibleActor:
    enough = actor.clarity >= observer.pixel_share * MIN_CLARITY
    return actor if enough or actor.kind == 'light' else replace(actor, colour='')


def _min_pixels(actor: Actor | VisibleActor) -> int:
    return MIN_LAMP_PIXELS if actor.kind == 'light' else MIN_PIXELS
