"""Where a static patch of an image was before the vehicle moved: what is left after that is motion of its own.

Depth is not known: below the horizon a patch is taken to lie on the ground through base_link, above it and beyond
FAR_RANGE_M at the distance FAR_RANGE_M.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from stprune_ros.core.camera_model import CameraModel
from stprune_ros.core.types import EgoState

FAR_RANGE_M = 40.0  # m


def planar_motion(then: EgoState, now: EgoState) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) and translation (3,) that take base_link points of ``now`` to base_link of ``then``.

    From the twist of both states, taken as constant in between: it is there where a position often is not.
    """
    seconds = (now.stamp_ns - then.stamp_ns) / 1e9
    yaw = (then.angular[2] + now.angular[2]) / 2 * seconds
    forward, side = ((a + b) / 2 * seconds for a, b in zip(then.linear[:2], now.linear[:2]))
    c, s = math.cos(yaw), math.sin(yaw)
    # Along an arc the vehicle heads, on average, half way between its two yaws.
    ch, sh = math.cos(yaw / 2), math.sin(yaw / 2)
    translation = np.array([ch * forward - sh * side, sh * forward + ch * side, 0.0])
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]), translation


def patch_points(camera: CameraModel, rows: int, columns: int) -> np.ndarray:
    """Points in base_link (rows * columns, 3) that the middles of the patches of an image grid are taken to show."""
    v, u = np.mgrid[:rows, :columns]
    pixels_u = (u.ravel() + 0.5) * camera.width / columns - 0.5
    pixels_v = (v.ravel() + 0.5) * camera.height / rows - 0.5
    rays = camera.rays(pixels_u, pixels_v)
    height = max(float(camera.translation[2]), 0.1)
    down = np.maximum(-rays[:, 2], 1e-9)
    distance = np.minimum(height / down, FAR_RANGE_M)
    return np.asarray(rays * distance[:, None] + camera.translation)


def static_flow(camera: CameraModel, rows: int, columns: int, egos: Sequence[EgoState | None]) -> np.ndarray:
    """Where each patch of the newest frame was in every frame: (T, rows * columns, 2), row and column, fractional.

    ``egos`` holds the ego state of each frame, oldest first, the newest last. NaN where the patch lay outside the image
    and for frames without an ego state.
    """
    points = patch_points(camera, rows, columns)
    now = egos[-1]
    flow = np.full((len(egos), rows * columns, 2), np.nan)
    for t, then in enumerate(egos):
        if then is None or now is None:
            continue
        rotation, translation = planar_motion(then, now)
        u, v = camera.project(points @ rotation.T + translation)
        row = (v + 0.5) * rows / camera.height - 0.5
        column = (u + 0.5) * columns / camera.width - 0.5
        inside = (row > -0.5) & (row < rows - 0.5) & (column > -0.5) & (column < columns - 0.5)
        flow[t, inside] = np.stack([row, column], axis=1)[inside]
    return flow
