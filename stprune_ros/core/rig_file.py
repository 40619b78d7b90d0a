"""Rig files: the geometry of a ring in YAML, for rigs without tf."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from stprune_ros.bounded_yaml import load, read_text
from stprune_ros.core.camera_model import OPTICAL_FROM_LINK, CameraModel, intrinsics_faults
from stprune_ros.core.distortion import lens_of
from stprune_ros.core.transforms import matrix_from_quaternion, quaternion_fault, quaternion_from_matrix
from stprune_ros.errors import MAX_NAME, StpruneError, one_line, plain, shown

KEYS = (
    *('width', 'height', 'hfov_deg', 'k', 'distortion_model', 'd'),
    *('azimuth_deg', 'pitch_deg', 'rotation', 'position'),
)
MAX_CAMERAS = 64
SAME_ROTATION = 1e-7  # in a matrix


def read_rig_file(path: str | Path) -> list[CameraModel]:
    """The cameras of a YAML file such as config/rigs/nuscenes.yaml.

    StpruneError names the file and every bad camera, a line each.
    """
    try:
        tree = load(read_text(path))
    except OSError as error:
        raise StpruneError(f"rig file '{path}' cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise StpruneError(f"rig file '{path}' cannot be read: {one_line(error)}") from None
    cameras = tree.get('cameras') if isinstance(tree, dict) else None
    if not isinstance(cameras, dict) or not cameras:
        raise StpruneError(f"rig file '{path}' has no 'cameras' mapping")
    models, faults = [], []
    if len(cameras) > MAX_CAMERAS:
        raise StpruneError(f"rig file '{path}' has {len(cameras)} cameras; a ring has at most {MAX_CAMERAS}")
    for key, entry in cameras.items():
        name, length = plain(str(key)), len(str(key))
        try:
            if length > MAX_NAME:
                raise StpruneError(f'its name has {length} characters; a name has at most {MAX_NAME}')
            models.append(_model_from_entry(name, entry))
        except StpruneError as error:
            faults.append(f"rig file '{path}', camera '{name}': {error}")
    if faults:
        raise StpruneError('\n'.join(faults))
    return models


def attitude_entry(rotation: np.ndarray) -> dict[str, Any]:
    """The keys that give ``rotation`` (3, 3): azimuth and pitch, or a quaternion where these cannot say it."""
    x, y, z = (float(value) for value in rotation[:, 2])
    # Plus 0.0, as -0 is nothing to read.
    azimuth, pitch = round(math.degrees(math.atan2(y, x)), 6), round(math.degrees(math.atan2(-z, math.hypot(x, y))), 6)
    entry: dict[str, Any] = {'azimuth_deg': azimuth + 0.0, 'pitch_deg': pitch + 0.0}
    if np.abs(_rotation(entry) - rotation).max() < SAME_ROTATION:
        return entry
    return {'rotation': [round(value, 9) + 0.0 for value in quaternion_from_matrix(rotation)]}


def _model_from_entry(name: str, entry: object) -> CameraModel:
    if not isinstance(entry, dict):
        raise StpruneError(f'it must be a mapping with {", ".join(KEYS)}')
    unknown = [plain(str(key)) for key in entry if key not in KEYS]
    if unknown:
        raise StpruneError(f"'{unknown[0]}' is not known here; known are {', '.join(KEYS)}")
    for one, other in (('k', 'hfov_deg'), ('rotation', 'azimuth_deg'), ('rotation', 'pitch_deg')):
        if one in entry and other in entry:
            raise StpruneError(f"'{one}' and '{other}' say the same thing; give one of them")
    width, height = _integer(entry, 'width'), _integer(entry, 'height')
    model = plain(str(entry.get('distortion_model') or ''))
    d = tuple(_numbers(entry, 'd', None)) if 'd' in entry else ()
    if 'k' in entry:
        k = np.array(_numbers(entry, 'k', 9)).reshape(3, 3)
    else:
        k = np.array([[1.0, 0, (width - 1) / 2], [0, 1.0, (height - 1) / 2], [0, 0, 1.0]])
        k[0, 0] = k[1, 1] = max(width, height)
    faults = intrinsics_faults(width, height, k, d)
    if faults:
        raise StpruneError(f'not calibrated: {"; ".join(faults)}')
    if 'k' not in entry:
        k[0, 0] = k[1, 1] = _focal(_number(entry, 'hfov_deg'), width, model, d)
    lens_of(model, d)
    translation = np.array(_numbers(entry, 'position', 3)) if 'position' in entry else np.zeros(3)
    if not np.isfinite(translation).all():
        raise StpruneError(f'position {shown(entry["position"])} must be finite')
    return CameraModel(name, width, height, k, _rotation(entry), translation, model, d)


def _focal(hfov_deg: float, width: int, model: str, d: tuple[float, ...]) -> float:
    """Focal length in pixels with which the image is as wide as the field of view."""
    half = math.radians(hfov_deg) / 2
    lens = lens_of(model, d)
    edge = lens.image(np.array([[math.sin(half), 0.0, math.cos(half)]]))[0][0] if 0 < half < math.pi else math.nan
    if not edge > 0:
        raise StpruneError(
            f'hfov_deg {hfov_deg:g} must lie between 0 and what the distortion model reaches, 180 without one;'
            ' wider lenses need distortion_model: equidistant'
        )
    return float(width / 2 / edge)


def _rotation(entry: Mapping[str, Any]) -> np.ndarray:
    if 'rotation' in entry:
        quaternion = _numbers(entry, 'rotation', 4)
        fault = quaternion_fault(quaternion)
        matrix = matrix_from_quaternion(quaternion)
        if fault or matrix is None:
            raise StpruneError(f'rotation must be a quaternion x, y, z, w of length 1: {fault}')
        return matrix
    yaw = math.radians(_number(entry, 'azimuth_deg'))
    pitch = math.radians(_number(entry, 'pitch_deg')) if 'pitch_deg' in entry else 0.0
    c, s = math.cos(yaw), math.sin(yaw)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    c, s = math.cos(pitch), math.sin(pitch)
    tilt = np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])
    return np.asarray(turn @ tilt @ OPTICAL_FROM_LINK)


def _value(entry: Mapping[str, Any], key: str) -> Any:
    if key not in entry:
        raise StpruneError(f"'{key}' is missing")
    return entry[key]


def _number(entry: Mapping[str, Any], key: str) -> float:
    try:
        value = float(_value(entry, key))
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise StpruneError(f"'{key}' is {shown(entry[key])}, not a finite number")
    return value


def _integer(entry: Mapping[str, Any], key: str) -> int:
    value = _number(entry, key)
    if value != int(value):
        raise StpruneError(f"'{key}' is {shown(entry[key])}, not an integer")
    return int(value)


def _numbers(entry: Mapping[str, Any], key: str, count: int | None) -> list[float]:
    """A list of numbers, flat or of lists, finite or not."""
    try:
        values = [float(value) for value in np.asarray(entry[key], dtype=float).ravel()]
    except (TypeError, ValueError, OverflowError):
        raise StpruneError(f"'{key}' is {shown(entry[key])}, not a list of numbers") from None
    if count is not None and len(values) != count:
        raise StpruneError(f"'{key}' has {len(values)} numbers, not {count}")
    return values
