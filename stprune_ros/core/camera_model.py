"""One calibrated camera: which way each of its pixels looks, and where in its image a point stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from stprune_ros.core.distortion import Lens, lens_of

OPTICAL_FROM_LINK = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # REP-103, columns: optical axes
VERTICAL_DEG = 30.0  # an axis nearer to the vertical has no direction around the vehicle
FEWEST_FOCAL = 0.01  # image widths; less is a focal length in other units than pixels
HUGE = 1e100  # as good as infinite
MAX_SIDE = 2**16 - 1  # pixels, as in a JPEG: the horizon takes memory for each
LISTED = 12  # numbers in a sentence
HORIZON_KNOTS, HORIZON_STEPS = 49, 17  # places along and across the image where the horizon is looked for


@dataclass(frozen=True)
class CameraModel:
    """One calibrated camera.

    ``width`` and ``height`` in pixels; ``k`` (3, 3) intrinsics in pixels; ``rotation`` (3, 3) takes optical-frame
    vectors (z forward, x right, y down) into the vehicle frame; ``translation`` (3,) is the camera's place there, in
    metres. Whole numbers are pixel centres, as in OpenCV. ``whole`` is the size of the image without the region of
    interest, None where there is none.
    """

    name: str
    width: int
    height: int
    k: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    distortion_model: str = ''
    d: tuple[float, ...] = ()
    whole: tuple[int, int] | None = None

    @cached_property
    def lens(self) -> Lens:
        """The lens; raises StpruneError where `lens_of` does."""
        return lens_of(self.distortion_model, self.d)

    @property
    def azimuth(self) -> float:
        """Direction of the optical axis in the vehicle's plane, radians, left positive (REP-103)."""
        axis = self.rotation[:, 2]
        return math.atan2(axis[1], axis[0])

    @property
    def from_vertical_deg(self) -> float:
        """Angle between the optical axis and the vertical, up or down, in degrees."""
        axis = self.rotation[:, 2]
        return math.degrees(math.atan2(math.hypot(axis[0], axis[1]), abs(axis[2])))

    @property
    def is_vertical(self) -> bool:
        """Whether the camera looks up or down, so that it has no place in a ring."""
        return self.from_vertical_deg <= VERTICAL_DEG + 1e-6

    @property
    def vertical_word(self) -> str:
        """'up' or 'down': to which side of the horizon the axis points."""
        return 'up' if self.rotation[2, 2] > 0 else 'down'

    @property
    def on_its_side(self) -> bool:
        """Whether the horizon runs along the image's columns instead of its rows."""
        return bool(abs(self.rotation[2, 0]) > abs(self.rotation[2, 1]) + 1e-6)

    @property
    def upside_down(self) -> bool:
        """Whether the image's lower side shows what is above."""
        return not self.on_its_side and bool(self.rotation[2, 1] > 0)

    def rays(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Unit vectors (n, 3) in the vehicle frame of pixels (n,), (n,); NaN beyond what the lens describes."""
        x, y = (u - self.k[0, 2]) / self.k[0, 0], (v - self.k[1, 2]) / self.k[1, 1]
        return np.asarray(self.lens.directions(x, y) @ self.rotation.T)

    def horizon_rays(self) -> np.ndarray:
        """Unit vectors (width, 3) in the vehicle frame: where each image column meets the horizon.

        A column that does not show the horizon gives its pixel nearest to it, and one beyond what the lens describes
        NaN. For a camera on its side: of each image row, (height, 3).
        """
        return self._horizon

    def azimuth_span(self) -> tuple[float, float]:
        """Azimuths of the left and the right end of the view, in radians; the left one is not the smaller."""
        rays = self._horizon[np.isfinite(self._horizon).all(axis=1)]
        if not len(rays):
            return self.azimuth, self.azimuth
        azimuths = np.unwrap(np.arctan2(rays[:, 1], rays[:, 0]))
        return float(azimuths.max()), float(azimuths.min())

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels u (n,), v (n,) of vehicle-frame points (n, 3); NaN behind the camera or beyond what the lens shows."""
        x, y = self.lens.image((points - self.translation) @ self.rotation)
        return self.k[0, 0] * x + self.k[0, 2], self.k[1, 1] * y + self.k[1, 2]

    def sees_azimuth_of(self, points: np.ndarray) -> np.ndarray:
        """Whether vehicle-frame points (n, 3) stand within the view along the horizon, at any height: bool (n,)."""
        u, v = self.project(points)
        place, size = (v, self.height) if self.on_its_side else (u, self.width)
        return np.asarray((place > -0.5 - 1e-6) & (place < size - 0.5 + 1e-6))  # NaN compares false

    @cached_property
    def _horizon(self) -> np.ndarray:
        along, across = (self.height, self.width) if self.on_its_side else (self.width, self.height)

        def look(places: np.ndarray, heights: np.ndarray) -> np.ndarray:
            return self.rays(heights, places) if self.on_its_side else self.rays(places, heights)

        knots = np.unique(np.linspace(0, along - 1, HORIZON_KNOTS).round())
        steps = np.linspace(0, across - 1, HORIZON_STEPS)
        rise = look(np.repeat(knots, len(steps)), np.tile(steps, len(knots)))[:, 2].reshape(len(knots), len(steps))
        middle = self.k[0, 2] if self.on_its_side else self.k[1, 2]
        level = np.array([_level_step(steps, row, middle) for row in rise])

        def nearer(places: np.ndarray, heights: np.ndarray) -> np.ndarray:
            both = look(np.tile(places, 2), np.concatenate([heights, heights + 0.25]))[:, 2]
            here, there = both[: len(places)], both[len(places) :]
            slope = (there - here) / 0.25
            fits = np.isfinite(slope) & (np.abs(slope) > 1e-9)
            move = np.where(fits, here / np.where(fits, slope, 1.0), 0.0)
            return np.asarray(np.clip(heights - move, 0.0, across - 1.0))

        known = np.isfinite(level)
        if not known.any():
            return np.full((along, 3), np.nan)
        knots, level = knots[known], level[known]
        for _ in range(3):
            level = nearer(knots, level)
        places = np.arange(along, dtype=float)
        return np.asarray(look(places, nearer(places, np.interp(places, knots, level))))


def intrinsics_faults(width: int, height: int, k: np.ndarray, d: Sequence[float]) -> list[str]:
    """What is wrong with the numbers of a calibration: a few words each, naming the value."""
    faults = []
    if width <= 0 or height <= 0:
        faults.append(f'width {width} and height {height} must be positive')
    elif max(width, height) > MAX_SIDE:
        faults.append(f'width {width} and height {height} must be at most {MAX_SIDE}')
    if not np.isfinite(k).all():
        faults.append(f'k has values that are not finite ({_numbers(k.ravel())})')
    if not (np.abs(np.asarray(d, dtype=float)) < HUGE).all():
        faults.append(f'd has values that are not finite ({_numbers(d)})')
    if faults:
        return faults
    focal, centre = (k[0, 0], k[1, 1]), (k[0, 2], k[1, 2])
    for axis, value, size, name in zip('xy', focal, (width, height), ('width', 'height')):
        if value <= 0:
            faults.append(f'f{axis} is {value:g}')
        elif value < FEWEST_FOCAL * size:
            faults.append(f'f{axis} is {value:g} for a {name} of {size} pixels')
    if centre == (0, 0):
        faults.append('cx and cy are 0, which is a corner of the image')
    for axis, value, size, name in zip('xy', centre, (width, height), ('width', 'height')):
        if not -size <= value <= 2 * size:
            faults.append(f'c{axis} is {value:g} for a {name} of {size} pixels')
    if not faults and not np.allclose(k - [[k[0, 0], 0, k[0, 2]], [0, k[1, 1], k[1, 2]], [0, 0, 1]], 0, atol=1e-6):
        faults.append(f'k is ({_numbers(k.ravel())}) where fx, 0, cx, 0, fy, cy, 0, 0, 1 is expected')
    return faults


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    rest = f' and {len(values) - LISTED} more' if len(values) > LISTED else ''
    return ', '.join(f'{value:g}' for value in values[:LISTED]) + rest


def _level_step(steps: np.ndarray, rise: np.ndarray, middle: float) -> float:
    """Where ``rise`` (n,) over ``steps`` (n,) passes zero, nearest to ``middle``; else where it is nearest to zero."""
    change = np.flatnonzero(rise[:-1] * rise[1:] <= 0)  # NaN compares false
    if len(change):
        span = rise[change + 1] - rise[change]
        share = np.where(span != 0, -rise[change] / np.where(span != 0, span, 1.0), 0.0)
        found = steps[change] + share * (steps[1] - steps[0])
        return float(found[np.argmin(np.abs(found - middle))])
    if not np.isfinite(rise).any():
        return math.nan
    return float(steps[np.nanargmin(np.abs(rise))])
