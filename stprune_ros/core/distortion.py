"""Lenses as sensor_msgs/CameraInfo names them: between directions and distorted normalised image coordinates.

plumb_bob and rational_polynomial go through OpenCV. The fisheye does not: OpenCV's divides by z, which ends at 90
degrees from the axis; here it is solved in the angle itself, with OpenCV's polynomial.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import cv2
import numpy as np

from stprune_ros.errors import StpruneError

# Names are compared in small letters, without blanks, underscores and hyphens: 'Brown Conrady' is brown_conrady.
NO_DISTORTION = ('', 'none', 'pinhole', 'perspective')
# OpenCV's order in all of them: k1, k2, p1, p2[, k3].
PLUMB_BOB = ('plumbbob', 'radtan', 'radialtangential', 'brownconrady')
RATIONAL = ('rationalpolynomial', 'rational')
# theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8) in all of them.
FISHEYE = (
    *('equidistant', 'equi', 'fisheye', 'opencvfisheye'),
    *('kannalabrandt', 'kannalabrandt4', 'kannalabrandt8'),  # the 8 counts fx, fy, cx, cy too
)
# What the drivers that use them mean is another formula, but without coefficients it is a pinhole like any other.
ONLY_WITHOUT_COEFFICIENTS = ('inversebrownconrady', 'modifiedbrownconrady')
COUNTS = {'plumb_bob': (0, 4, 5), 'rational_polynomial': (8, 12, 14), 'equidistant': (4,)}
ACCURACY = 1e-8  # of an inverted lens, normalised image coordinates
RADII = np.tan(np.radians(np.linspace(0.0, 89.5, 180)))  # where a polynomial is looked at for folds
BEARINGS = np.linspace(0.0, math.tau, 25)  # the last is the first again
THETAS = np.linspace(0.0, math.pi, 1801)


class Lens(ABC):
    """Directions in the optical frame (z forward, x right, y down) and where a lens shows them.

    The polynomials of a calibration describe the image; farther out they may fold back. What lies beyond the first fold
    has no coordinates, and coordinates that no direction before it reaches have no direction: both are NaN.
    """

    @abstractmethod
    def directions(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Unit vectors (n, 3) of distorted normalised coordinates (n,), (n,); NaN where there are none."""

    @abstractmethod
    def image(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distorted normalised coordinates x (n,), y (n,) of vectors (n, 3) of any length; NaN where not seen."""


class PolynomialLens(Lens):
    """A pinhole with OpenCV's radial, tangential, thin-prism and tilt terms; ``d`` has 0, 4, 5, 8, 12 or 14 numbers."""

    def __init__(self, d: Sequence[float] = ()) -> None:
        self._d = np.array(d if any(d) else (), dtype=float)

    def directions(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """As in `Lens`."""
        wanted = np.stack([x, y], axis=1).astype(float)
        ideal = wanted
        if len(self._d) and len(wanted):
            stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-12)
            found = cv2.undistortPointsIter(wanted[:, None], np.eye(3), self._d, np.eye(3), np.eye(3), stop)
            ideal = self._settled(np.asarray(found, dtype=float)[:, 0], wanted)
        return unit(np.column_stack([ideal, np.ones(len(ideal))]))

    def image(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As in `Lens`; nothing behind the camera is seen."""
        z = vectors[:, 2]
        seen = z > 1e-6 * np.linalg.norm(vectors, axis=1)
        ideal = vectors[:, :2] / np.where(seen, z, 1.0)[:, None]
        if len(self._d):
            seen &= self._inside(ideal)
            ideal = self._distort(np.where(seen[:, None], ideal, 0.0))
        x, y = np.where(seen[:, None], ideal, np.nan).T
        return x, y

    def _distort(self, ideal: np.ndarray) -> np.ndarray:
        """Distorted coordinates (n, 2) of ideal ones."""
        return self._distort_with_slope(ideal)[0]

    def _distort_with_slope(self, ideal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distorted coordinates (n, 2) of ideal ones, and their derivatives (n, 2, 2) by the ideal ones."""
        if not len(ideal):
            return ideal, np.zeros((0, 2, 2))
        points = np.column_stack([ideal, np.ones(len(ideal))])[:, None]
        bent, slope = cv2.projectPoints(points, np.zeros(3), np.zeros(3), np.eye(3), self._d)
        # At z = 1 a shift of the camera, columns 3 and 4, is a shift of the point.
        return np.asarray(bent, dtype=float)[:, 0], np.asarray(slope[:, 3:5]).reshape(-1, 2, 2)

    @cached_property
    def _reach(self) -> tuple[np.ndarray, np.ndarray]:
        """Distorted radii (25, 180) by bearing and ideal radius, and the ideal radius (25,) at which each one folds."""
        ways = np.stack([np.cos(BEARINGS), np.sin(BEARINGS)], axis=1)
        bent = self._distort((ways[:, None] * RADII[:, None]).reshape(-1, 2)).reshape(len(ways), len(RADII), 2)
        radii = (bent * ways[:, None]).sum(axis=2)
        rising = np.diff(radii, axis=1) > 0  # NaN compares false
        last = np.where(rising.all(axis=1), len(RADII) - 1, rising.argmin(axis=1))
        return radii, RADII[last]

    @cached_property
    def _farthest(self) -> float:
        """The largest distorted radius before a fold."""
        radii, folds = self._reach
        return float(np.max(radii, where=folds[:, None] >= RADII, initial=0.0))

    def _inside(self, ideal: np.ndarray) -> np.ndarray:
        """Whether ideal coordinates (n, 2) lie before the fold: bool (n,)."""
        bearing = np.arctan2(ideal[:, 1], ideal[:, 0]) % math.tau
        return np.asarray(np.hypot(*ideal.T) <= np.interp(bearing, BEARINGS, self._reach[1]))

    def _settled(self, ideal: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The same points, by Newton's method where OpenCV's iteration did not arrive; NaN where that fails too."""
        ideal = np.where(np.isfinite(ideal), ideal, 0.0)
        known = self._arrived(ideal, wanted)
        # Well beyond the farthest that the image reaches there is nothing to look for.
        left = np.flatnonzero(~known & (np.hypot(*wanted.T) < 1.05 * self._farthest))
        if len(left):
            ideal[left] = self._newton(wanted[left])
            known[left] = self._arrived(ideal[left], wanted[left])
        return np.where(known[:, None], ideal, np.nan)

    def _arrived(self, ideal: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        off = np.abs(self._distort(ideal) - wanted).max(axis=1)
        return np.asarray((off < ACCURACY) & self._inside(ideal))

    def _newton(self, wanted: np.ndarray) -> np.ndarray:
        radii, folds = self._reach
        bearing = np.arctan2(wanted[:, 1], wanted[:, 0]) % math.tau
        nearest = np.rint(np.nan_to_num(bearing) / BEARINGS[1]).astype(int)
        start = np.zeros(len(wanted))
        for row in np.unique(nearest):
            here, rising = nearest == row, folds[row] >= RADII
            start[here] = np.interp(np.hypot(*wanted[here].T), radii[row, rising], RADII[rising])
        ideal = start[:, None] * np.stack([np.cos(bearing), np.sin(bearing)], axis=1)
        for _ in range(20):
            there, slope = self._distort_with_slope(ideal)
            off = wanted - there
            if np.abs(off).max() < ACCURACY / 100:
                break
            (xx, xy), (yx, yy) = slope[:, 0].T, slope[:, 1].T
            area = xx * yy - xy * yx
            area = np.where(np.abs(area) > 1e-9, area, np.inf)
            move = np.stack([yy * off[:, 0] - xy * off[:, 1], xx * off[:, 1] - yx * off[:, 0]], axis=1)
            ideal = np.nan_to_num(np.clip(ideal + move / area[:, None], -RADII[-1], RADII[-1]))
        return np.asarray(ideal)


class FisheyeLens(Lens):
    """Distance from the image's centre as a polynomial of the angle from the axis, up to 180 degrees.

    ``d`` holds k1 to k4; all zero is the ideal fisheye, r = f theta.
    """

    def __init__(self, d: Sequence[float]) -> None:
        k1, k2, k3, k4 = map(float, d)
        self._powers = np.array([k4, 0.0, k3, 0.0, k2, 0.0, k1, 0.0, 1.0, 0.0])  # of theta, highest first
        radii = np.polyval(self._powers, THETAS)
        rising = np.diff(radii) > 0
        last = len(THETAS) - 1 if rising.all() else int(rising.argmin())
        self._thetas, self._radii = THETAS[: last + 1], radii[: last + 1]

    def directions(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """As in `Lens`."""
        radius = np.hypot(x, y)
        theta = np.interp(radius, self._radii, self._thetas)
        slope = np.polyder(self._powers)
        for _ in range(4):
            steep = np.maximum(np.polyval(slope, theta), 1e-6)
            theta = np.clip(theta - (np.polyval(self._powers, theta) - radius) / steep, 0.0, self._thetas[-1])
        off = np.abs(np.polyval(self._powers, theta) - radius)
        theta = np.where(off < ACCURACY, theta, np.nan)
        side = np.sin(theta) / np.where(radius > 0, radius, 1.0)
        return np.stack([x * side, y * side, np.cos(theta)], axis=1)

    def image(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As in `Lens`."""
        x, y, z = vectors.T
        side = np.hypot(x, y)
        theta = np.arctan2(side, z)
        seen = (theta <= self._thetas[-1]) & ((side > 0) | (z > 0))
        scale = np.where(seen, np.polyval(self._powers, theta) / np.where(side > 0, side, 1.0), np.nan)
        return x * scale, y * scale


def lens_of(model: str, d: Sequence[float]) -> Lens:
    """The lens of a distortion model and its coefficients.

    Raises StpruneError for a model that is not known, or a count of coefficients that is not the model's; zeros at the
    end are not counted.
    """
    key = model.lower().replace('_', '').replace('-', '').replace(' ', '')
    bent = any(d)
    if key in NO_DISTORTION and bent:
        raise StpruneError(
            f"distortion model '{model}' comes with coefficients that are not 0; name the model they belong to"
        )
    if key in NO_DISTORTION or (key in ONLY_WITHOUT_COEFFICIENTS and not bent):
        return PolynomialLens()
    if key in PLUMB_BOB:
        return PolynomialLens(_counted(model, 'plumb_bob', d))
    if key in RATIONAL:
        return PolynomialLens(_counted(model, 'rational_polynomial', d))
    if key in FISHEYE:
        return FisheyeLens(_counted(model, 'equidistant', d))
    raise StpruneError(
        f"distortion model '{model}' is unknown; use {', '.join(COUNTS)}, or rectify the images and name"
        ' their topics as rectified'
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, 3) at length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _counted(model: str, meant: str, d: Sequence[float]) -> Sequence[float]:
    """The coefficients, zeros behind a count of the model left out."""
    counts = COUNTS[meant]
    for count in reversed(counts):
        if len(d) == count or (len(d) > count and not any(d[count:])):
            return d[:count]
    raise StpruneError(
        f"distortion model '{model}' comes with {len(d)} coefficients; it takes"
        f' {" or ".join(str(count) for count in counts if count)}'
    )
