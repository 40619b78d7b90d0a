"""Pinhole images of ringworld with dense truth: a depth buffer over flat faces, drawn with OpenCV.

Base frame as in REP-103; optical frames look along z with x to the right and y down. Pixel centres lie at integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from stprune_ros.ringworld.world import BLOCK, CURB, ROAD, STOP_LINE, Actor, Snapshot

WIDTH, HEIGHT = 320, 192
CLASSES = ('sky', 'ground', 'road', 'marking', 'building', 'vehicle', 'pedestrian', 'red light', 'green light', 'pole')
SKY, GROUND, PAVED, MARKING, BUILDING, VEHICLE, PEDESTRIAN, RED_LIGHT, GREEN_LIGHT, POLE = range(len(CLASSES))
NEAR_PLANE = 0.25  # m in front of the camera
DRAW_DISTANCE = 70.0  # m beyond which actors are not drawn

RGB = {
    'red': (196, 32, 36),
    'blue': (36, 70, 196),
    'white': (236, 236, 236),
    'black': (28, 28, 32),
    'yellow': (236, 196, 30),
    'green': (30, 140, 60),
}
WALLS = ((176, 152, 130), (150, 120, 104), (168, 168, 160), (132, 138, 150), (190, 176, 150), (140, 110, 100))
SUN = np.array([0.45, 0.35, 0.82])


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
    optical axis, infinite in the sky.
    """

    rgb: np.ndarray
    classes: np.ndarray
    actor_ids: np.ndarray
    depth: np.ndarray


@dataclass(frozen=True)
class Face:
    """A flat convex face in world coordinates (n, 3), its colour, class (index into `CLASSES`) and actor (-1: none)."""

    points: np.ndarray
    rgb: tuple[float, float, float]
    class_index: int
    actor_id: int = -1
    shaded: bool = True


def render_view(snapshot: Snapshot, camera: Camera) -> RenderedView:
    """The view of ``camera`` at a snapshot, with its dense truth."""
    ego = snapshot.ego
    turn = _yaw_rotation(ego.yaw)
    origin = np.array([ego.x, ego.y, 0.0]) + turn @ np.array(camera.position)
    axes = turn @ camera.rotation
    canvas = _Canvas(camera, origin, axes, snapshot.seed)
    forward = axes[:2, 2]
    for face in _walls(origin, forward, math.tan(camera.fov / 2), snapshot.seed):
        canvas.draw(face)
    for actor in snapshot.actors:
        offset = np.array([actor.x, actor.y]) - origin[:2]
        ahead, aside = float(offset @ forward), abs(float(offset[0] * forward[1] - offset[1] * forward[0]))
        if (
            math.hypot(ahead, aside) < DRAW_DISTANCE
            and ahead > -4.0
            and aside < max(ahead, 0.0) * math.tan(camera.fov / 2) + 5.0
        ):
            for face in FACES[actor.kind](actor, origin):
                canvas.draw(face)
    return canvas.finish()


def _yaw_rotation(yaw: float) -> np.ndarray:
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


class _Canvas:
    """Ground and sky first, then faces against the inverse depth; colours are looked up once at the end."""

    def __init__(self, camera: Camera, origin: np.ndarray, axes: np.ndarray, seed: int) -> None:
        self.camera, self.origin, self.axes, self.seed = camera, origin, axes, seed
        self.u = ((np.arange(WIDTH) - (WIDTH - 1) / 2) / camera.focal).astype(np.float32)
        self.v = ((np.arange(HEIGHT) - (HEIGHT - 1) / 2) / camera.focal).astype(np.float32)
        self.nearness = np.zeros((HEIGHT, WIDTH), np.float32)
        self.index = np.zeros((HEIGHT, WIDTH), np.int16)
        self.materials: list[tuple[tuple[float, ...], int, int]] = [((0.0, 0.0, 0.0), SKY, -1)]
        self._backdrop()

    def _backdrop(self) -> None:
        self.rgb = np.empty((HEIGHT, WIDTH, 3), np.float32)
        rise = np.linspace(0.0, 1.0, HEIGHT // 2, dtype=np.float32)[:, None, None]
        self.rgb[: HEIGHT // 2] = np.array([120, 165, 220]) * (1 - rise) + np.array([205, 220, 232]) * rise
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
        local = (face.points - self.origin) @ self.axes
        normal = _cross(local[1] - local[0], local[2] - local[1])
        distance = float(normal @ local[0])
        if distance >= -1e-6:  # seen from behind or edge on
            return
        if local[:, 2].min() < NEAR_PLANE:
            local = _clip(local)
            if len(local) < 3:
                return
        uv = local[:, :2] / local[:, 2:] * self.camera.focal + np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
        low = np.maximum(np.floor(uv.min(0)).astype(int), 0)
        high = np.minimum(np.ceil(uv.max(0)).astype(int) + 1, (WIDTH, HEIGHT))
        if (high <= low).any():
            return
        mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        cv2.fillConvexPoly(mask, np.round(np.clip(uv - low, -4000, 4000) * 16).astype(np.int32), 1, shift=4)
        a, b, c = (normal / distance).astype(np.float32)
        near = a * self.u[None, low[0] : high[0]] + b * self.v[low[1] : high[1], None] + c
        here = self.nearness[low[1] : high[1], low[0] : high[0]]
        hit = (near > here) & (mask > 0)
        np.copyto(here, near, where=hit)
        np.copyto(self.index[low[1] : high[1], low[0] : high[0]], len(self.materials), where=hit)
        light = 1.0
        if face.shaded:
            world = self.axes @ normal
            light = 0.72 + 0.28 * abs(float(world @ SUN)) / max(math.sqrt(float(world @ world)), 1e-9)
        self.materials.append((tuple(light * channel for channel in face.rgb), face.class_index, face.actor_id))

    def finish(self) -> RenderedView:
        drawn = self.index > 0
        colours = np.array([row[0] for row in self.materials], np.float32)
        self.rgb[drawn] = colours[self.index[drawn]]
        classes = np.where(drawn, np.array([row[1] for row in self.materials], np.uint8)[self.index], self.classes)
        actor_ids = np.array([row[2] for row in self.materials], np.int16)[self.index]
        with np.errstate(divide='ignore'):
            depth = np.where(self.nearness > 0, 1.0 / self.nearness, np.inf).astype(np.float32)
        self._windows(classes, depth)
        plain = (classes == SKY) | (classes == RED_LIGHT) | (classes == GREEN_LIGHT)
        haze = np.where(plain, np.float32(1.0), np.exp(self.nearness.clip(0.0025) ** -1 / np.float32(-140.0)))[
            ..., None
        ]
        self.rgb *= haze
        self.rgb += np.array([205, 220, 232], np.float32) * (1 - haze)
        return RenderedView(self.rgb.clip(0, 255).astype(np.uint8), classes, actor_ids, depth)

    def _windows(self, classes: np.ndarray, depth: np.ndarray) -> None:
        v, u = np.nonzero((classes == BUILDING) & (depth < 60.0))
        z = depth[v, u]
        along = (
            self.origin[0]
            + self.origin[1]
            + z * (self.axes[0, 2] + self.axes[1, 2] + self.u[u] * (self.axes[0, 0] + self.axes[1, 0]))
        )
        up = self.origin[2] - z * self.v[v]
        pane = (along % 3.0 < 1.5) & (up % 3.2 > 1.1) & (up % 3.2 < 2.6)
        self.rgb[v[pane], u[pane]] *= np.array([0.55, 0.62, 0.72], np.float32)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # numpy's own takes ten times as long for two short vectors, and this is the innermost loop
    (ax, ay, az), (bx, by, bz) = a.tolist(), b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])


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
    lengthwise = np.where(ry < rx, x, y)
    road = nearest < ROAD
    approach = road & (other > ROAD)
    dash = approach & (nearest < 0.12) & (lengthwise % 6.0 < 3.0) & (other > STOP_LINE)
    edge = approach & (np.abs(nearest - 3.5) < 0.08) & (other > STOP_LINE)
    zebra = approach & (other > 6.0) & (other < 8.2) & (nearest % 1.1 < 0.55)
    line = approach & (np.abs(other - STOP_LINE) < 0.22) & (nearest < 3.5)
    mark = dash | edge | zebra | line
    pavement = ~road & (nearest < CURB)
    classes = np.where(mark, MARKING, np.where(road, PAVED, GROUND)).astype(np.uint8)
    grain = (((x * 7.0).astype(np.int32) * 31 + (y * 7.0).astype(np.int32) * 17) % 7).astype(np.float32)
    rgb = np.empty((*x.shape, 3), np.float32)
    rgb[:] = np.array([104, 122, 84])
    rgb[pavement] = (164, 160, 154)
    rgb[road] = (84, 86, 90)
    rgb += grain[..., None] * 1.5
    rgb[mark] = (222, 222, 216)
    return classes, rgb


def _walls(origin: np.ndarray, forward: np.ndarray, slope: float, seed: int) -> list[Face]:
    """House fronts along the blocks around a camera."""
    faces = []
    for i in range(round(origin[0] / BLOCK) - 2, round(origin[0] / BLOCK) + 2):
        for j in range(round(origin[1] / BLOCK) - 2, round(origin[1] / BLOCK) + 2):
            fronts, ends = _block(seed, i, j)
            offsets = ends - origin[:2]
            ahead, aside = offsets @ forward, offsets @ np.array([forward[1], -forward[0]])
            edge = (aside > ahead * slope).all(1) | (-aside > ahead * slope).all(1)
            seen = (ahead.max(1) > 0.0) & (np.square(offsets).sum(2).min(1) < 110.0**2) & ~edge
            faces += [fronts[n] for n in np.flatnonzero(seen)]
    return faces


@lru_cache(maxsize=512)
def _block(seed: int, i: int, j: int) -> tuple[list[Face], np.ndarray]:
    """The twelve house fronts of a block and their ends on the ground (12, 2, 2)."""
    low, high = CURB + 1.0, BLOCK - CURB - 1.0
    corners = np.array([[low, low], [high, low], [high, high], [low, high]]) + np.array([i, j]) * BLOCK
    pick = np.random.default_rng([seed, 2, i + 1000, j + 1000])
    faces = []
    for side in range(4):
        step = (corners[(side + 1) % 4] - corners[side]) / 3
        for unit in range(3):
            one, two, top = (
                corners[side] + unit * step,
                corners[side] + (unit + 1) * step,
                float(pick.uniform(6.0, 17.0)),
            )
            points = np.array([[*one, 0.0], [*two, 0.0], [*two, top], [*one, top]])
            faces.append(Face(points, WALLS[int(pick.integers(len(WALLS)))], BUILDING))
    return faces, np.array([face.points[:2, :2] for face in faces])


def _box(
    centre: Sequence[float] | np.ndarray,
    yaw: float,
    size: Sequence[float],
    low: float,
    rgb: Sequence[float],
    class_index: int,
    actor_id: int,
) -> list[Face]:
    """Sides and top of a box, faces counter-clockwise from outside: front, left, back, right, top."""
    length, width, height = size
    flat = np.array([[1, -1], [1, 1], [-1, 1], [-1, -1]]) * np.array([length / 2, width / 2])
    base = np.column_stack([flat, np.full(4, low)]) @ _yaw_rotation(yaw).T + np.array([centre[0], centre[1], 0.0])
    lid = base + np.array([0.0, 0.0, height])
    colour = (float(rgb[0]), float(rgb[1]), float(rgb[2]))
    sides = [np.array([base[n], base[(n + 1) % 4], lid[(n + 1) % 4], lid[n]]) for n in range(4)]
    return [Face(points, colour, class_index, actor_id) for points in [*sides, lid]]


def _vehicle(actor: Actor, origin: np.ndarray) -> list[Face]:
    paint, glass = RGB[actor.colour], (58, 74, 92)
    turn = _yaw_rotation(actor.yaw)
    centre = np.array([actor.x, actor.y, 0.0])
    body = _box(centre, actor.yaw, (actor.length, actor.width, 0.65), 0.3, paint, VEHICLE, actor.id)
    cabin_at = centre + turn @ np.array([-0.25, 0.0, 0.0])
    cabin = _box(cabin_at, actor.yaw, (2.3, 1.65, 0.6), 0.95, glass, VEHICLE, actor.id)
    cabin[4] = Face(cabin[4].points, (float(paint[0]), float(paint[1]), float(paint[2])), VEHICLE, actor.id)
    shade = np.array([[2.3, -1.05, 0.02], [2.3, 1.05, 0.02], [-2.3, 1.05, 0.02], [-2.3, -1.05, 0.02]]) @ turn.T + centre
    faces = [Face(shade, (46, 47, 50), PAVED, -1, False), *body, *cabin]
    if math.hypot(actor.x - origin[0], actor.y - origin[1]) > 40.0:
        return faces
    for side in (1.0, -1.0):
        for along in (1.35, -1.35):
            angles = np.linspace(0.0, 2 * np.pi, 9)[:-1] * -side
            ring = np.column_stack(
                [along + 0.34 * np.cos(angles), np.full(8, side * 0.97), 0.34 + 0.34 * np.sin(angles)]
            )
            faces.append(Face(ring @ turn.T + centre, (22, 22, 24), VEHICLE, actor.id, False))
        for end, lamp in ((1.0, (250, 246, 214)), (-1.0, (120, 24, 24))):
            y = np.array([side * 0.9, side * 0.55])
            y = y if end * side < 0 else y[::-1]
            quad = np.array(
                [[end * 2.22, y[0], 0.6], [end * 2.22, y[1], 0.6], [end * 2.22, y[1], 0.8], [end * 2.22, y[0], 0.8]]
            )
            faces.append(Face(quad @ turn.T + centre, lamp, VEHICLE, actor.id, False))
    return faces


def _card(actor: Actor, origin: np.ndarray, shape: np.ndarray, rgb: Sequence[float], class_index: int) -> Face:
    """A flat shape (n, 2: right, up; clockwise) that stands at an actor and turns to the camera."""
    to = np.array([origin[0] - actor.x, origin[1] - actor.y])
    to /= max(float(np.linalg.norm(to)), 1e-6)
    right = np.array([-to[1], to[0], 0.0])
    points = np.array([actor.x, actor.y, 0.0]) + shape[:, :1] * right + shape[:, 1:] * np.array([0.0, 0.0, 1.0])
    return Face(points, (float(rgb[0]), float(rgb[1]), float(rgb[2])), class_index, actor.id, False)


def _disc(x: float, y: float, radius: float) -> np.ndarray:
    angles = np.linspace(0.0, 2 * np.pi, 11)[:-1]
    return np.column_stack([x + radius * np.cos(angles), y + radius * np.sin(angles)])


def _pedestrian(actor: Actor, origin: np.ndarray) -> list[Face]:
    legs = [np.array([[x - 0.1, 0.0], [x + 0.1, 0.0], [x + 0.1, 0.85], [x - 0.1, 0.85]]) for x in (-0.14, 0.14)]
    torso = np.array([[-0.2, 0.8], [0.2, 0.8], [0.32, 1.4], [-0.32, 1.4]])
    faces = [_card(actor, origin, leg, (52, 48, 70), PEDESTRIAN) for leg in legs]
    faces.append(_card(actor, origin, torso, (232, 120, 30), PEDESTRIAN))
    faces.append(_card(actor, origin, _disc(0.0, 1.6, 0.17), (226, 180, 150), PEDESTRIAN))
    return faces


def _light(actor: Actor, origin: np.ndarray) -> list[Face]:
    faces = _box((actor.x, actor.y), actor.yaw, (0.2, 0.2, 3.4), 0.0, (70, 74, 78), POLE, actor.id)[:4]
    faces += _box((actor.x, actor.y), actor.yaw, (0.4, 1.3, 2.4), 3.3, (38, 40, 44), POLE, actor.id)
    turn, centre = _yaw_rotation(actor.yaw), np.array([actor.x, actor.y, 0.0])
    to = origin[:2] - centre[:2]
    faced = float(to @ turn[:2, 0]) > 0.75 * math.hypot(*to)  # hoods hide the lamps from the side
    for colour, up in (('red', 5.1), ('green', 3.9)):
        on = faced and actor.state == colour
        disc = _disc(0.0, up, 0.52)
        ring = np.column_stack([np.full(len(disc), 0.22), disc[:, 0], disc[:, 1]]) @ turn.T + centre
        lit = {'red': ((255, 40, 30), RED_LIGHT), 'green': ((40, 255, 110), GREEN_LIGHT)}[colour]
        rgb, class_index = lit if on else ((62, 62, 64), POLE)
        faces.append(Face(ring, rgb, class_index, actor.id, False))
    return faces


FACES = {'vehicle': _vehicle, 'pedestrian': _pedestrian, 'light': _light}
