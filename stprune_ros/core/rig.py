"""The ring: which camera is whose neighbour, and which image columns two neighbours share.

Everything follows from calibration (CameraInfo and extrinsics, or a rig file), never from the order of a list.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from stprune_ros.core.distortion import distort, undistort
from stprune_ros.errors import StpruneError

DIRECTIONS = ('front', 'front left', 'left', 'back left', 'back', 'back right', 'right', 'front right')
NEAR_RANGE_M = 5.0  # m; objects nearer than this are too large for the question where they are
OPTICAL_FROM_LINK = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # REP-103, columns: optical axes


@dataclass(frozen=True)
class CameraModel:
    """One calibrated camera.

    ``width`` and ``height`` in pixels; ``k`` (3, 3) intrinsics in pixels; ``rotation`` (3, 3) takes optical-frame
    vectors (z forward, x right, y down) into the vehicle frame; ``translation`` (3,) is the camera's place there, in
    metres.
    """

    name: str
    width: int
    height: int
    k: np.ndarray
    rotation: np.ndarray
    translation: np.ndarray
    distortion_model: str = ''
    d: tuple[float, ...] = ()

    @property
    def azimuth(self) -> float:
        """Direction of the optical axis in the vehicle's plane, radians, left positive (REP-103)."""
        axis = self.rotation[:, 2]
        return math.atan2(axis[1], axis[0])

    def rays(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Unit vectors (n, 3) in the vehicle frame of pixels (n,), (n,)."""
        x, y = undistort(
            (u - self.k[0, 2]) / self.k[0, 0], (v - self.k[1, 2]) / self.k[1, 1], self.distortion_model, self.d
        )
        return _unit(np.stack([x, y, np.ones_like(x)], axis=1) @ self.rotation.T)

    def horizon_rays(self) -> np.ndarray:
        """Unit vectors (width, 3) in the vehicle frame: where each image column meets the horizon."""
        columns = np.arange(self.width)  # OpenCV's convention: whole numbers are pixel centres
        x = undistort((columns - self.k[0, 2]) / self.k[0, 0], np.zeros(self.width), self.distortion_model, self.d)[0]
        down = self.rotation[2]
        # The row at which a column's ray is level; a camera that looks straight up or down has none.
        y = -(down[0] * x + down[2]) / down[1] if abs(down[1]) > 1e-3 else np.zeros_like(x)
        return _unit(np.stack([x, y, np.ones_like(x)], axis=1) @ self.rotation.T)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels u (n,), v (n,) of vehicle-frame points (n, 3); NaN behind the camera."""
        optical = (points - self.translation) @ self.rotation
        z = optical[:, 2]
        in_front = z > 1e-6
        safe = np.where(in_front, z, 1.0)
        x, y = distort(optical[:, 0] / safe, optical[:, 1] / safe, self.distortion_model, self.d)
        u, v = self.k[0, 0] * x + self.k[0, 2], self.k[1, 1] * y + self.k[1, 2]
        return np.where(in_front, u, np.nan), np.where(in_front, v, np.nan)


class CameraRig:
    """The cameras of one vehicle as a ring; raises StpruneError for no cameras or a name given twice."""

    def __init__(self, cameras: Iterable[CameraModel]) -> None:
        models = list(cameras)
        if not models:
            raise StpruneError('a rig needs at least one camera')
        self.cameras: dict[str, CameraModel] = {model.name: model for model in models}
        if len(self.cameras) != len(models):
            raise StpruneError(f'a rig names a camera twice: {", ".join(model.name for model in models)}')
        first = min(models, key=lambda model: (abs(model.azimuth), model.name))
        clockwise = sorted(models, key=lambda model: ((first.azimuth - model.azimuth) % math.tau, model.name))
        self.ring: tuple[str, ...] = tuple(model.name for model in clockwise)

    def azimuth(self, camera: str) -> float:
        """Azimuth of a camera in radians, left positive."""
        return self.cameras[camera].azimuth

    def left(self, camera: str) -> str:
        """The next camera counter-clockwise."""
        return self.ring[(self.ring.index(camera) - 1) % len(self.ring)]

    def right(self, camera: str) -> str:
        """The next camera clockwise."""
        return self.ring[(self.ring.index(camera) + 1) % len(self.ring)]

    def direction(self, camera: str) -> str:
        """Where a camera looks, in words, by 45-degree sectors: 'front', 'front left' ... 'front right'."""
        sector = round(self.azimuth(camera) / (math.tau / 8)) % 8
        return DIRECTIONS[sector]

    def columns_seen(self, camera: str, other: str, range_m: float = math.inf) -> np.ndarray:
        """Which columns of ``camera`` show what ``other`` sees too: bool (width,).

        Judged on the horizon at ``range_m`` metres from ``camera``; infinity leaves the parallax out.
        """
        model, neighbour = self.cameras[camera], self.cameras[other]
        rays = model.horizon_rays()
        # At infinity the cameras stand at the same place.
        points = neighbour.translation + rays if math.isinf(range_m) else model.translation + rays * range_m
        columns, _ = neighbour.project(points)
        return np.asarray((columns >= -0.5) & (columns < neighbour.width - 0.5))  # NaN compares false

    def overlap(self, camera: str, other: str, range_m: float = math.inf) -> tuple[int, int]:
        """The longest run of columns [start, stop) of ``camera`` that ``other`` sees too; (0, 0) if none."""
        return longest_run(self.columns_seen(camera, other, range_m))

    def shared(self, camera: str, other: str, columns: int) -> np.ndarray:
        """Which of ``columns`` equal parts of the image of ``camera`` show something ``other`` sees: bool (columns,).

        Generous: near and far, so that an object counts wherever it stands.
        """
        seen = self.columns_seen(camera, other) | self.columns_seen(camera, other, NEAR_RANGE_M)
        parts = np.arange(len(seen)) * columns // len(seen)
        return np.asarray(np.bincount(parts, seen, columns) > 0)

    def overlap_deg(self, camera: str, other: str) -> float:
        """Shared horizontal field of view in degrees, at infinity."""
        start, stop = self.overlap(camera, other)
        if stop - start < 2:
            return 0.0
        rays = self.cameras[camera].horizon_rays()[start:stop]
        steps = np.clip((rays[1:] * rays[:-1]).sum(axis=1), -1.0, 1.0)
        return float(np.degrees(np.arccos(steps).sum()) * (stop - start) / (stop - start - 1))  # from edge to edge

    @classmethod
    def from_file(cls, path: str | Path) -> CameraRig:
        """Rig from a YAML file such as config/rigs/nuscenes.yaml. StpruneError names the file and the camera."""
        try:
            tree = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise StpruneError(f"rig file '{path}' cannot be read: {' '.join(str(error).split())}") from None
        cameras = tree.get('cameras') if isinstance(tree, dict) else None
        if not isinstance(cameras, dict) or not cameras:
            raise StpruneError(f"rig file '{path}' has no 'cameras' mapping")
        models = []
        for name, entry in cameras.items():
            try:
                models.append(_model_from_entry(str(name), entry))
            except (KeyError, TypeError, ValueError, StpruneError) as error:
                what = f'{error} is missing' if isinstance(error, KeyError) else str(error)
                raise StpruneError(f"rig file '{path}', camera '{name}': {what}") from None
        return cls(models)


class RigBuilder:
    """Collects CameraInfo and static transforms (duck-typed messages) until the ring is known."""

    def __init__(self, base_frame: str = 'base_link') -> None:
        self.base_frame = base_frame
        self._infos: dict[str, Any] = {}
        self._edges: dict[str, tuple[str, np.ndarray, np.ndarray]] = {}

    def add_camera_info(self, camera: str, info: Any) -> bool:
        """Take a CameraInfo; True where it is new or differs from the last one of this camera."""
        known = self._infos.get(camera)
        self._infos[camera] = info
        return known is None or _calibration_key(known) != _calibration_key(info)

    def add_transforms(self, message: Any) -> None:
        """Take a TFMessage; transforms with a broken rotation are left out, and `missing` will say so."""
        for stamped in message.transforms:
            rotation, translation = stamped.transform.rotation, stamped.transform.translation
            matrix = matrix_from_quaternion((rotation.x, rotation.y, rotation.z, rotation.w))
            offset = np.array([translation.x, translation.y, translation.z], dtype=float)
            if matrix is not None and np.isfinite(offset).all():
                child = stamped.child_frame_id.lstrip('/')
                self._edges[child] = (stamped.header.frame_id.lstrip('/'), matrix, offset)

    def missing(self, cameras: Sequence[str]) -> list[str]:
        """What still stands between the messages so far and a rig, one sentence each; empty when all is there."""
        problems = []
        for camera in cameras:
            try:
                self._model(camera)
            except StpruneError as error:
                problems.append(str(error))
        return problems

    def build(self, cameras: Sequence[str]) -> CameraRig:
        """The rig of these cameras; raises StpruneError with the first thing that is missing."""
        return CameraRig(self._model(camera) for camera in cameras)

    def _model(self, camera: str) -> CameraModel:
        info = self._infos.get(camera)
        if info is None:
            raise StpruneError(f"no camera_info for camera '{camera}' yet; check its topic, or give cameras.rig_file")
        k = np.asarray(info.k, dtype=float).reshape(3, 3)
        if not np.isfinite(k).all() or k[0, 0] <= 0 or info.width <= 0 or info.height <= 0:
            raise StpruneError(
                f"camera_info of camera '{camera}' is not calibrated: width {info.width}, height {info.height},"
                f' fx {k[0, 0]:g}; calibrate it, or give cameras.rig_file'
            )
        rotation, translation = self._chain(camera, info.header.frame_id.lstrip('/'))
        return CameraModel(
            camera, int(info.width), int(info.height), k, rotation, translation,
            info.distortion_model, tuple(float(value) for value in info.d),
        )  # fmt: skip

    def _chain(self, camera: str, frame: str) -> tuple[np.ndarray, np.ndarray]:
        rotation, translation = np.eye(3), np.zeros(3)
        start, seen = frame, set()
        while frame != self.base_frame:
            if frame not in self._edges or frame in seen:
                raise StpruneError(
                    f"no static transform leads from '{start}' (camera '{camera}') to '{self.base_frame}';"
                    ' publish it on /tf_static, or give cameras.rig_file'
                )
            seen.add(frame)
            frame, matrix, offset = self._edges[frame]
            rotation, translation = matrix @ rotation, matrix @ translation + offset
        return rotation, translation


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def longest_run(mask: np.ndarray) -> tuple[int, int]:
    """Start and stop of the longest run of True in a bool (n,) array; (0, 0) if there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    if not len(edges):
        return 0, 0
    starts, stops = edges[::2], edges[1::2]
    best = int(np.argmax(stops - starts))
    return int(starts[best]), int(stops[best])


def matrix_from_quaternion(quaternion: Sequence[float]) -> np.ndarray | None:
    """Rotation matrix (3, 3) of a quaternion x, y, z, w of any length; None where it is zero or not finite."""
    q = np.asarray(quaternion, dtype=float)
    norm = float(np.linalg.norm(q))
    if not math.isfinite(norm) or norm < 1e-6:
        return None
    x, y, z, w = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _model_from_entry(name: str, entry: Mapping[str, Any]) -> CameraModel:
    width, height = int(entry['width']), int(entry['height'])
    if width <= 0 or height <= 0:
        raise StpruneError(f'width {width} and height {height} must be positive')
    if 'k' in entry:
        k = np.asarray(entry['k'], dtype=float).reshape(3, 3)
    else:
        fov = math.radians(float(entry['hfov_deg']))
        if not 0 < fov < math.pi:
            raise StpruneError(f'hfov_deg {entry["hfov_deg"]} must lie between 0 and 180; wider lenses need k and d')
        focal = width / 2 / math.tan(fov / 2)
        k = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
    if 'rotation' in entry:
        rotation = matrix_from_quaternion(entry['rotation'])
        if rotation is None:
            raise StpruneError('rotation must be a quaternion x, y, z, w that is not zero')
    else:
        yaw, pitch = math.radians(float(entry['azimuth_deg'])), math.radians(float(entry.get('pitch_deg', 0.0)))
        turn = matrix_from_quaternion((0, 0, math.sin(yaw / 2), math.cos(yaw / 2)))
        tilt = matrix_from_quaternion((0, math.sin(pitch / 2), 0, math.cos(pitch / 2)))
        rotation = turn @ tilt @ OPTICAL_FROM_LINK  # type: ignore[operator]
    translation = np.asarray(entry.get('position', (0.0, 0.0, 0.0)), dtype=float).reshape(3)
    return CameraModel(
        name, width, height, k, rotation, translation,
        str(entry.get('distortion_model', '')), tuple(float(value) for value in entry.get('d', ())),
    )  # fmt: skip


def _calibration_key(info: Any) -> tuple[Any, ...]:
    return info.header.frame_id, info.width, info.height, tuple(info.k), info.distortion_model, tuple(info.d)
