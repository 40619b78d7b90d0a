"""Lens distortion of sensor_msgs/CameraInfo on normalised coordinates: plumb_bob, rational_polynomial, equidistant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stprune_ros.errors import StpruneError


def distort(x: np.ndarray, y: np.ndarray, model: str, d: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Ideal to distorted normalised coordinates, elementwise; no coefficients means no distortion.

    Raises StpruneError for a model that is not known.
    """
    if not any(d):
        return x, y
    r2 = x * x + y * y
    if model == 'equidistant':
        k = [*d, 0.0, 0.0, 0.0, 0.0][:4]
        r = np.sqrt(r2)
        theta = np.arctan(r)
        t2 = theta * theta
        bent = theta * (1 + t2 * (k[0] + t2 * (k[1] + t2 * (k[2] + t2 * k[3]))))
        scale = np.where(r > 1e-9, bent / np.maximum(r, 1e-9), 1.0)
        return x * scale, y * scale
    if model not in ('plumb_bob', 'rational_polynomial'):
        raise StpruneError(
            f"distortion model '{model}' is unknown; use plumb_bob, rational_polynomial, equidistant, or rectify"
        )
    k1, k2, p1, p2, k3, k4, k5, k6 = [*d, *[0.0] * 8][:8]
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return (
        x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
    )


def undistort(x: np.ndarray, y: np.ndarray, model: str, d: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Distorted to ideal normalised coordinates, by fixed-point iteration on `distort` (the usual way)."""
    ideal_x, ideal_y = x, y
    for _ in range(20 if any(d) else 0):
        bent_x, bent_y = distort(ideal_x, ideal_y, model, d)
        ideal_x, ideal_y = ideal_x + (x - bent_x), ideal_y + (y - bent_y)
    return ideal_x, ideal_y
