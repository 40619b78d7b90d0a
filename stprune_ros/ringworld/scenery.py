"""What stands beside the roads of ringworld: house fronts, and in the hard world street furniture before them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from stprune_ros.ringworld.paints import draw_clothes, draw_paint
from stprune_ros.ringworld.route import BLOCK
from stprune_ros.ringworld.shapes import BUILDING, POLE, Face, box
from stprune_ros.ringworld.world import CURB, ROAD

WALLS = ((176, 152, 130), (150, 120, 104), (168, 168, 160), (132, 138, 150), (190, 176, 150), (140, 110, 100))
FURNITURE_RANGE = 60.0  # m
FURNITURE_SIDE = ROAD + 0.45  # m from the middle of the road: between parked cars and pavement
SIZES = (  # length, width, height (m) of what is set up: bin, skip, hoarding, post
    (0.7, 0.5, 1.1),
    (2.8, 0.6, 1.3),
    (1.8, 0.2, 2.0),
    (0.3, 0.3, 1.8),
)
TRUNK, CROWN = (96, 78, 62), (66, 88, 58)


def walls(origin: np.ndarray, forward: np.ndarray, slope: float, seed: int) -> list[Face]:
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


def furniture(origin: np.ndarray, forward: np.ndarray, slope: float, seed: int) -> list[Face]:
    """Street furniture and trees around a camera, which hide what is behind them."""
    faces = []
    for i in range(round(origin[0] / BLOCK) - 2, round(origin[0] / BLOCK) + 2):
        for j in range(round(origin[1] / BLOCK) - 2, round(origin[1] / BLOCK) + 2):
            pieces, places = _pieces(seed, i, j)
            offsets = places - origin[:2]
            ahead, aside = offsets @ forward, np.abs(offsets @ np.array([forward[1], -forward[0]]))
            seen = (ahead > -2.0) & (ahead < FURNITURE_RANGE) & (aside < ahead.clip(0.0) * slope + 3.0)
            faces += [face for n in np.flatnonzero(seen) for face in pieces[n]]
    return faces


@lru_cache(maxsize=512)
def _pieces(seed: int, i: int, j: int) -> tuple[list[list[Face]], np.ndarray]:
    """What stands at the kerbs of a block, each as its faces, and where: (n, 2)."""
    rng = np.random.default_rng([seed, 9, i + 1000, j + 1000])
    pieces, places = [], []
    for axis in (0, 1):
        for side in (FURNITURE_SIDE, BLOCK - FURNITURE_SIDE):
            for along in np.arange(15.0, BLOCK - 15.0, 6.0):
                if rng.random() < 0.4:
                    at = np.array([along + rng.uniform(0.0, 3.0), side] if axis == 0 else [side, along])
                    place = at + np.array([i, j]) * BLOCK
                    pieces.append(_piece(rng, place, axis * np.pi / 2))
                    places.append(place)
    return pieces, np.array(places).reshape(-1, 2)


def _piece(rng: np.random.Generator, place: np.ndarray, yaw: float) -> list[Face]:
    kind = int(rng.integers(len(SIZES) + 1))
    if kind == len(SIZES):
        crown = draw_paint(rng, CROWN)
        trunk = box(place, yaw, (0.35, 0.35, 2.2), 0.0, TRUNK, POLE, -1)
        return trunk + box(place, yaw, (1.8, 1.8, 1.8), 2.2, crown, POLE, -1)
    return box(place, yaw, SIZES[kind], 0.0, draw_clothes(rng), POLE, -1)
