"""Duck-typed CameraInfo and TFMessage, and camera models that look where they are told."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from stprune_ros.core.camera_model import OPTICAL_FROM_LINK, CameraModel

OPTICAL = (-0.5, 0.5, -0.5, 0.5)  # of an optical frame in its camera's body frame
RING = {'F': 0.0, 'FR': -60.0, 'BR': -120.0, 'B': 180.0, 'BL': 120.0, 'FL': 60.0}


def turn(axis: int, degrees: float) -> np.ndarray:
    """Rotation matrix about x, y or z."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.eye(3)
    a, b = [(1, 2), (2, 0), (0, 1)][axis]
    matrix[[a, a, b, b], [a, b, a, b]] = (c, -s, s, c)
    return matrix


def camera(
    name: str,
    azimuth_deg: float = 0.0,
    pitch_deg: float = 0.0,
    roll_deg: float = 0.0,
    *,
    hfov_deg: float = 70.0,
    size: tuple[int, int] = (320, 192),
    focal: float | None = None,
    position: Sequence[float] = (0.0, 0.0, 1.5),
    model: str = '',
    d: Sequence[float] = (),
) -> CameraModel:
    """A camera with its principal point in the middle; pitch down positive, roll about the optical axis."""
    width, height = size
    f = focal or width / 2 / math.tan(math.radians(hfov_deg) / 2)
    k = np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1]])
    rotation = turn(2, azimuth_deg) @ turn(1, pitch_deg) @ OPTICAL_FROM_LINK @ turn(2, roll_deg)
    return CameraModel(name, width, height, k, rotation, np.array(position, dtype=float), model, tuple(d))


def info(
    frame_id: str = 'optical',
    *,
    width: int = 320,
    height: int = 192,
    fx: float = 160.0,
    fy: float | None = None,
    centre: tuple[float, float] | None = None,
    model: str = 'plumb_bob',
    d: Sequence[float] = (0.0,) * 5,
    r: Sequence[float] | None = None,
    p: Sequence[float] | None = None,
    roi: tuple[int, int, int, int] = (0, 0, 0, 0),
    binning: tuple[int, int] = (0, 0),
    **more: Any,
) -> Any:
    """A CameraInfo; ``roi`` is x, y, width, height."""
    fy = fx if fy is None else fy
    cx, cy = centre or ((width - 1) / 2, (height - 1) / 2)
    fields = {
        'header': SimpleNamespace(frame_id=frame_id),
        'width': width,
        'height': height,
        'distortion_model': model,
        'd': list(d),
        'k': [fx, 0, cx, 0, fy, cy, 0, 0, 1],
        'r': list(np.eye(3).ravel() if r is None else r),
        'p': [fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0] if p is None else list(p),
        'binning_x': binning[0],
        'binning_y': binning[1],
        'roi': SimpleNamespace(x_offset=roi[0], y_offset=roi[1], width=roi[2], height=roi[3], do_rectify=False),
    }
    return SimpleNamespace(**{**fields, **more})


def transform(
    parent: str, child: str, q: Sequence[float] = (0.0, 0.0, 0.0, 1.0), t: Sequence[float] = (0.0, 0.0, 0.0)
) -> Any:
    """One TransformStamped."""
    return SimpleNamespace(
        header=SimpleNamespace(frame_id=parent),
        child_frame_id=child,
        transform=SimpleNamespace(
            rotation=SimpleNamespace(x=q[0], y=q[1], z=q[2], w=q[3]),
            translation=SimpleNamespace(x=t[0], y=t[1], z=t[2]),
        ),
    )


def tf(*transforms: Any) -> Any:
    """A TFMessage."""
    return SimpleNamespace(transforms=list(transforms))


def yaw(degrees: float) -> tuple[float, float, float, float]:
    """Quaternion of a turn to the left."""
    return 0.0, 0.0, math.sin(math.radians(degrees) / 2), math.cos(math.radians(degrees) / 2)
