"""What everything in ringworld is made of: flat faces with a colour and a class, and the shapes of its actors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stprune_ros.ringworld.paints import Paint
from stprune_ros.ringworld.traffic import Actor

CLASSES = ('sky', 'ground', 'road', 'marking', 'building', 'vehicle', 'pedestrian', 'red light', 'green light', 'pole')
SKY, GROUND, PAVED, MARKING, BUILDING, VEHICLE, PEDESTRIAN, RED_LIGHT, GREEN_LIGHT, POLE = range(len(CLASSES))

RGB: dict[str, Paint] = {
    'red': (196, 32, 36),
    'blue': (36, 70, 196),
    'white': (236, 236, 236),
    'black': (28, 28, 32),
    'yellow': (236, 196, 30),
    'green': (30, 140, 60),
}


@dataclass(frozen=True)
class Face:
    """A flat convex face in world coordinates (n, 3), its colour, class (index into `CLASSES`) and actor (-1: none).

    What ``glows`` needs no light to be seen; without ``shaded`` the sun shines alike on it from everywhere.
    """

    points: np.ndarray
    rgb: tuple[float, float, float]
    class_index: int
    actor_id: int = -1
    shaded: bool = True
    glows: bool = False


def yaw_rotation(yaw: float) -> np.ndarray:
    """Rotation (3, 3) by ``yaw`` (rad) about the vertical."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def box(
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
    base = np.column_stack([flat, np.full(4, low)]) @ yaw_rotation(yaw).T + np.array([centre[0], centre[1], 0.0])
    lid = base + np.array([0.0, 0.0, height])
    colour = (float(rgb[0]), float(rgb[1]), float(rgb[2]))
    sides = [np.array([base[n], base[(n + 1) % 4], lid[(n + 1) % 4], lid[n]]) for n in range(4)]
    return [Face(points, colour, class_index, actor_id) for points in [*sides, lid]]


def _vehicle(actor: Actor, origin: np.ndarray, paint: Paint | None) -> list[Face]:
    paint, glass = paint or RGB[actor.colour], (58, 74, 92)
    turn = yaw_rotation(actor.yaw)
    centre = np.array([actor.x, actor.y, 0.0])
    body = box(centre, actor.yaw, (actor.length, actor.width, 0.65), 0.3, paint, VEHICLE, actor.id)
    cabin_at = centre + turn @ np.array([-0.25, 0.0, 0.0])
    cabin = box(cabin_at, actor.yaw, (2.3, 1.65, 0.6), 0.95, glass, VEHICLE, actor.id)
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
            faces.append(Face(quad @ turn.T + centre, lamp, VEHICLE, actor.id, False, glows=actor.lamps))
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


def _pedestrian(actor: Actor, origin: np.ndarray, paint: Paint | None) -> list[Face]:
    legs = [np.array([[x - 0.1, 0.0], [x + 0.1, 0.0], [x + 0.1, 0.85], [x - 0.1, 0.85]]) for x in (-0.14, 0.14)]
    torso = np.array([[-0.2, 0.8], [0.2, 0.8], [0.32, 1.4], [-0.32, 1.4]])
    faces = [_card(actor, origin, leg, (52, 48, 70), PEDESTRIAN) for leg in legs]
    faces.append(_card(actor, origin, torso, paint or (232, 120, 30), PEDESTRIAN))
    faces.append(_card(actor, origin, _disc(0.0, 1.6, 0.17), (226, 180, 150), PEDESTRIAN))
    return faces


def _light(actor: Actor, origin: np.ndarray, paint: Paint | None) -> list[Face]:
    faces = box((actor.x, actor.y), actor.yaw, (0.2, 0.2, 3.4), 0.0, (70, 74, 78), POLE, actor.id)[:4]
    faces += box((actor.x, actor.y), actor.yaw, (0.4, 1.3, 2.4), 3.3, (38, 40, 44), POLE, actor.id)
    turn, centre = yaw_rotation(actor.yaw), np.array([actor.x, actor.y, 0.0])
    to = origin[:2] - centre[:2]
    faced = float(to @ turn[:2, 0]) > 0.75 * math.hypot(*to)  # hoods hide the lamps from the side
    for colour, up in (('red', 5.1), ('green', 3.9)):
        on = faced and actor.state == colour
        disc = _disc(0.0, up, 0.52)
        ring = np.column_stack([np.full(len(disc), 0.22), disc[:, 0], disc[:, 1]]) @ turn.T + centre
        lit = {'red': ((255, 40, 30), RED_LIGHT), 'green': ((40, 255, 110), GREEN_LIGHT)}[colour]
        rgb, class_index = lit if on else ((62, 62, 64), POLE)
        faces.append(Face(ring, rgb, class_index, actor.id, False, glows=on))
    return faces


FACES = {'vehicle': _vehicle, 'pedestrian': _pedestrian, 'light': _light}
