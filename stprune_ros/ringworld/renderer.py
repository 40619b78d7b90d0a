"""Pinhole images of ringworld with dense truth: a depth buffer over flat faces, drawn with OpenCV.

Base frame as in REP-103; optical frames look along z with x to the right and y down. Pixel centres lie at integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import mul

import cv2
import numpy as np

from stprune_ros.ringworld.route import BLOCK
from stprune_ros.ringworld.scenery import furniture, walls
from stprune_ros.ringworld.shapes import (
    BUILDING,
    FACES,
    GREEN_LIGHT,
    GROUND,
    MARKING,
    PAVED,
    RED_LIGHT,
    SKY,
    Face,
    yaw_rotation,
)
from stprune_ros.ringworld.weather import Surfaces, in_weather
from stprune_ros.ringworld.world import CURB, ROAD, STOP_LINE, Snapshot

WIDTH, HEIGHT = 320, 192
NEAR_PLANE = 0.25  # m in front of the camera
DRAW_DISTANCE = 70.0  # m beyond which actors are not drawn
SUN = np.array([0.45, 0.35, 0.82])
RISE = np.linspace(0.0, 1.0, HEIGHT // 2, dtype=np.float32)[:, None, None]
SKY_RGB = np.array([120, 165, 220]) * (1 - RISE) + np.array([205, 220, 232]) * RISE  # from the top to the horizon
HAZE_ENDS = np.reciprocal(np.float32(0.0025))  # m from which it grows no more
COLUMNS = np.tile(np.arange(WIDTH), HEIGHT)  # of the pixels of a picture
# Meadow, pavement, road and markings, each with its seven grains; markings have none.
GROUND_RGB = np.array([(104, 122, 84), (164, 160, 154), (84, 86, 90), (222, 222, 216)], np.float32).repeat(7, 0)
GROUND_RGB[:21] += np.tile(np.arange(7, dtype=np.float32) * 1.5, 3)[:, None]
GROUND_CLASSES = np.array([GROUND, GROUND, PAVED, MARKING], np.uint8)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: azimuth (rad, left positive), horizontal field of view (rad), position in base_link (m)."""

    name: str
    azimuth: float
    fov: float
    position: tuple[float, float, float]

    @property
    def focal(self) -> float:
        """Focal length in pixels, both axes."""
        return WIDTH / 2 / math.tan(self.fov / 2)

    @property
    def k(self) -> np.ndarray:
        """Camera matrix (3, 3)."""
        return np.array([[self.focal, 0, (WIDTH - 1) / 2], [0, self.focal, (HEIGHT - 1) / 2], [0, 0, 1.0]])

    @property
    def rotation(self) -> np.ndarray:
        """Rotation (3, 3) that takes optical coordinates to base_link."""
        c, s = math.cos(self.azimuth), math.sin(self.azimuth)
        return np.array([[s, 0.0, c], [-c, 0.0, s], [0.0, -1.0, 0.0]])

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels and depth (n, 3) of points (n, 3) in base_link; behind the camera the depth is negative."""
        local = (points - np.array(self.position)) @ self.rotation
        depth = np.where(np.abs(local[:, 2]) < 1e-9, 1e-9, local[:, 2])
        uv = local[:, :2] / depth[:, None] * self.focal + np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
        return np.column_stack([uv, local[:, 2]])


def _ring() -> tuple[Camera, ...]:
    cameras = []
    for name, azimuth in (
        ('FRONT', 0),
        ('FRONT_RIGHT', -55),
        ('BACK_RIGHT', -110),
        ('BACK', 180),
        ('BACK_LEFT', 110),
        ('FRONT_LEFT', 55),
    ):
        angle = math.radians(azimuth)
        fov = math.radians(110 if name == 'BACK' else 70)
        cameras.append(Camera(f'CAM_{name}', angle, fov, (1.3 + 0.8 * math.cos(angle), 0.6 * math.sin(angle), 1.6)))
    return tuple(cameras)


RING = _ring()  # in ring order: clockwise from above, front first
VIEW_NAMES = ('front', 'front right', 'right', 'back', 'left', 'front left')  # of RING, as CameraRig.direction has it


@dataclass(frozen=True)
class RenderedView:
    """One rendered view: ``rgb`` uint8 (H, W, 3); the rest (H, W).

    ``classes`` uint8 are indices into `CLASSES`, ``actor_ids`` int16 (-1: none), ``depth`` float32 in metres along the
    optical axis, infinite in the sky. ``clarity`` float32 is the share of a surface's own colour that darkness, fog and
    rain leave; None in the ordinary world, where all of it is left.
    """

    rgb: np.ndarray
    classes: np.ndarray
    actor_ids: np.ndarray
    depth: np.ndarray
    clarity: np.ndarray | None = None


def render_view(snapshot: Snapshot, camera: Camera) -> RenderedView:
    """The view of ``camera`` at a snapshot, with its dense truth."""
    ego = snapshot.ego
    turn = yaw_rotation(ego.yaw)
    origin = np.array([ego.x, ego.y, 0.0]) + turn @ np.array(camera.position)
    axes = turn @ camera.rotation
    canvas = _Canvas(camera, origin, axes, snapshot)
    forward, slope = axes[:2, 2], math.tan(camera.fov / 2)
    for face in walls(origin, forward, slope, snapshot.seed):
        canvas.draw(face)
    for face in furniture(origin, forward, slope, snapshot.seed) if snapshot.weather else ():
        canvas.draw(face)
    for actor in snapshot.actors:
        offset = np.array([actor.x, actor.y]) - origin[:2]
        ahead, aside = float(offset @ forward), abs(float(offset[0] * forward[1] - offset[1] * forward[0]))
        if math.hypot(ahead, aside) < DRAW_DISTANCE and ahead > -4.0 and aside < max(ahead, 0.0) * slope + 5.0:
            for face in FACES[actor.kind](actor, origin, snapshot.paints.get(actor.id)):
                canvas.draw(face)
    return canvas.finish()


class _Canvas:
    """Ground and sky first, then faces against the inverse depth; colours are looked up once at the end."""

    def __init__(self, camera: Camera, origin: np.ndarray, axes: np.ndarray, snapshot: Snapshot) -> None:
        self.camera, self.origin, self.axes, self.snapshot = camera, origin, axes, snapshot
        self.focal = camera.focal
        self.u = ((np.arange(WIDTH) - (WIDTH - 1) / 2) / camera.focal).astype(np.float32)
        self.v = ((np.arange(HEIGHT) - (HEIGHT - 1) / 2) / camera.focal).astype(np.float32)
        self.nearness = np.zeros((HEIGHT, WIDTH), np.float32)
        self.index = np.zeros((HEIGHT, WIDTH), np.int16)
        self.materials: list[tuple[tuple[float, ...], int, int, bool]] = [((0.0, 0.0, 0.0), SKY, -1, False)]
        self._backdrop()

    def _backdrop(self) -> None:
        self.rgb = np.empty((HEIGHT, WIDTH, 3), np.float32)
        self.rgb[: HEIGHT // 2] = SKY_RGB
        self.classes = np.zeros((HEIGHT, WIDTH), np.uint8)
        rows = slice(HEIGHT // 2, HEIGHT)
        depth = (float(self.origin[2]) / self.v[rows])[:, None]
        axes = self.axes.astype(np.float32)
        x = float(self.origin[0]) + depth * (axes[0, 2] + self.u * axes[0, 0])
        y = float(self.origin[1]) + depth * (axes[1, 2] + self.u * axes[1, 0])
        self.classes[rows], self.rgb[rows] = _ground(x, y)
        self.nearness[rows] = 1.0 / depth

    def draw(self, face: Face) -> None:
        """Draw a face where it is nearer than what is there."""
        # A few numbers each time, and this is the innermost loop: plain floats take a tenth of numpy's time for them.
        local = (face.points - self.origin) @ self.axes
        corners = local.tolist()
        normal = _normal(corners)
        if sum(map(mul, normal, corners[0])) >= 1e-6:  # seen from behind, without a doubt
            return
        distance = float(np.array(normal) @ local[0])
        if distance >= -1e-6:  # seen from behind or edge on
            return
        if min(corner[2] for corner in corners) < NEAR_PLANE:
            corners = _clip(local).tolist()
            if len(corners) < 3:
                return
        columns = [x / z * self.focal + (WIDTH - 1) / 2 for x, _, z in corners]
        rows = [y / z * self.focal + (HEIGHT - 1) / 2 for _, y, z in corners]
        left, right = max(math.floor(min(columns)), 0), min(math.ceil(max(columns)) + 1, WIDTH)
        top, bottom = max(math.floor(min(rows)), 0), min(math.ceil(max(rows)) + 1, HEIGHT)
        if right <= left or bottom <= top:
            return
        outline = [(_fixed(column - left), _fixed(row - top)) for column, row in zip(columns, rows, strict=True)]
        mask = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillConvexPoly(mask, np.array(outline, np.int32), 1, shift=4)
        a, b, c = (np.float32(part / distance) for part in normal)
        near = a * self.u[None, left:right] + b * self.v[top:bottom, None] + c
        here = self.nearness[top:bottom, left:right]
        hit = near > here
        hit &= mask.view(bool)
        np.copyto(here, near, where=hit)
        np.copyto(self.index[top:bottom, left:right], len(self.materials), where=hit)
        light = 1.0
        if face.shaded:
            world = self.axes @ np.array(normal)
            light = 0.72 + 0.28 * abs(float(world @ SUN)) / max(math.sqrt(float(world @ world)), 1e-9)
        rgb = tuple(light * channel for channel in face.rgb)
        self.materials.append((rgb, face.class_index, face.actor_id, face.glows))

    def finish(self) -> RenderedView:
        drawn = self.index > 0
        colours = np.array([row[0] for row in self.materials], np.float32).take(self.index, 0)
        np.copyto(self.rgb, colours, where=drawn[..., None])
        classes = np.array([row[1] for row in self.materials], np.uint8).take(self.index)
        np.copyto(classes, self.classes, where=~drawn)
        actor_ids = np.array([row[2] for row in self.materials], np.int16).take(self.index)
        with np.errstate(divide='ignore'):
            depth = np.reciprocal(self.nearness)
        self._windows(classes, depth)
        if self.snapshot.weather:
            glows = np.array([row[3] for row in self.materials])[self.index]
            rgb, clarity = in_weather(self._surfaces(depth, actor_ids, glows), self.snapshot.weather)
            return RenderedView(rgb, classes, actor_ids, depth, clarity)
        clear = np.exp(np.minimum(depth, HAZE_ENDS) / np.float32(-140.0))
        clear[(classes == SKY) | (classes == RED_LIGHT) | (classes == GREEN_LIGHT)] = 1.0
        hazy = 1 - clear
        for channel, haze in enumerate((205.0, 220.0, 232.0)):  # one after another: rows of three would be slow
            self.rgb[..., channel] *= clear
            self.rgb[..., channel] += np.float32(haze) * hazy
        return RenderedView(self.rgb.clip(0, 255, out=self.rgb).astype(np.uint8), classes, actor_ids, depth)

    def _surfaces(self, depth: np.ndarray, actor_ids: np.ndarray, glows: np.ndarray) -> Surfaces:
        """What the weather needs to know of every pixel."""
        snapshot = self.snapshot
        u, v = np.meshgrid(self.u, self.v)
        rays = np.stack([u, v, np.ones_like(u)], -1) @ self.axes.T.astype(np.float32)
        distance = depth * np.linalg.norm(rays, axis=-1)
        points = np.where(np.isfinite(depth), depth, 0.0)[..., None] * rays + self.origin.astype(np.float32)
        poses = np.array([(actor.x, actor.y, actor.yaw) for actor in snapshot.actors] or [(0.0, 0.0, 0.0)])
        ego = (snapshot.ego.x, snapshot.ego.y, snapshot.ego.yaw)
        frame = (snapshot.seed, round(1000 * snapshot.t), round(math.degrees(self.camera.azimuth)) % 360)
        return Surfaces(self.rgb, points, distance, actor_ids, poses, glows, ego, frame)

    def _windows(self, classes: np.ndarray, depth: np.ndarray) -> None:
        pixels = np.flatnonzero((classes == BUILDING) & (depth < 60.0))
        slant = self.axes[0, 2] + self.axes[1, 2] + self.u * (self.axes[0, 0] + self.axes[1, 0])
        along = self.origin[0] + self.origin[1] + depth.ravel()[pixels] * slant[COLUMNS[pixels]]
        pixels = pixels[along % 3.0 < 1.5]
        up = (self.origin[2] - depth.ravel()[pixels] * self.v[pixels // WIDTH]) % 3.2
        pane = pixels[(up > 1.1) & (up < 2.6)]
        self.rgb.reshape(-1, 3)[pane] *= np.array([0.55, 0.62, 0.72], np.float32)


def _normal(corners: list[list[float]]) -> tuple[float, float, float]:
    """Across the face of which these are the first corners, as long as twice the area of those three."""
    one, two, three = corners[:3]
    ax, ay, az = (b - a for a, b in zip(one, two, strict=True))
    bx, by, bz = (b - a for a, b in zip(two, three, strict=True))
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


def _fixed(pixels: float) -> int:
    """As OpenCV takes them with four bits of fraction; what is far outside the picture is brought nearer."""
    return round(min(max(pixels, -4000.0), 4000.0) * 16)


def _clip(points: np.ndarray) -> np.ndarray:
    """The part of a polygon (n, 3) in front of the near plane."""
    kept = []
    for one, two in zip(points, np.roll(points, -1, axis=0), strict=True):
        if one[2] >= NEAR_PLANE:
            kept.append(one)
        if (one[2] >= NEAR_PLANE) != (two[2] >= NEAR_PLANE):
            kept.append(one + (two - one) * (NEAR_PLANE - one[2]) / (two[2] - one[2]))
    return np.array(kept).reshape(-1, 3)


def _ground(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class and colour of ground points."""
    rx = np.abs((x + BLOCK / 2) % BLOCK - BLOCK / 2)
    ry = np.abs((y + BLOCK / 2) % BLOCK - BLOCK / 2)
    nearest, other = np.minimum(rx, ry), np.maximum(rx, ry)
    road = nearest < ROAD
    approach = road & (other > ROAD)
    mark = approach & (other > STOP_LINE) & (np.abs(nearest - 3.5) < 0.08)  # edges
    mark |= approach & (np.abs(other - STOP_LINE) < 0.22) & (nearest < 3.5)  # stop lines
    # What repeats takes longest to find out and is looked for only where it may be: dashes, and zebras.
    middle = np.nonzero(approach & (nearest < 0.12) & (other > STOP_LINE))
    mark[middle] |= np.where(ry[middle] < rx[middle], x[middle], y[middle]) % 6.0 < 3.0
    across = np.nonzero(approach & (other > 6.0) & (other < 8.2))
    mark[across] |= nearest[across] % 1.1 < 0.55
    kinds = np.where(mark, 3, np.where(road, 2, nearest < CURB)).astype(np.int32)
    grain = ((x * 7.0).astype(np.int32) * 31 + (y * 7.0).astype(np.int32) * 17) % 7
    return GROUND_CLASSES.take(kinds), GROUND_RGB.take(7 * kinds + grain, 0)
