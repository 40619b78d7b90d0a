"""The ring: which camera is whose neighbour, and which image columns two neighbours share.

Everything follows from calibration (CameraInfo and extrinsics, or a rig file), never from the order of a list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, compress
from pathlib import Path

import numpy as np

from stprune_ros.core.camera_model import CameraModel
from stprune_ros.core.rig_file import read_rig_file
from stprune_ros.core.types import DIRECTIONS
from stprune_ros.errors import StpruneError, listed

NEAR_RANGE_M = 5.0  # m; objects nearer than this are too large for the question where they are
SAME_ANGLE = 1e-6  # radians; azimuths that differ by less are one azimuth
SAME_PLACE_M = 1e-3  # two cameras cannot be nearer
SAME_ATTITUDE = 1e-4  # radians


@dataclass(frozen=True, slots=True)
class UnusableCamera:
    """A camera that belongs to the vehicle and has no place in the ring, and why; ``azimuth`` None: not known."""

    name: str
    reason: str
    azimuth: float | None = None


class CameraRig:
    """The cameras of one vehicle as a ring.

    ``notes`` are sentences about cameras that were left out or whose geometry is doubtful; ``unusable`` cameras, whose
    calibration cannot be used, have no view as long as that lasts.
    Raises StpruneError for no cameras, a name given twice, a camera that looks up or down, or two that are one.
    """

    def __init__(self, cameras: Iterable[CameraModel], notes: Sequence[str] = ()) -> None:
        models = list(cameras)
        if not models:
            raise StpruneError('a rig needs at least one camera')
        self.cameras: dict[str, CameraModel] = {model.name: model for model in models}
        if len(self.cameras) != len(models):
            raise StpruneError(f'a rig names a camera twice: {", ".join(model.name for model in models)}')
        for model in models:
            if model.is_vertical:
                raise StpruneError(
                    f"camera '{model.name}' looks {model.vertical_word} (its axis is {model.from_vertical_deg:.0f}"
                    ' degrees from the vertical): it cannot be part of the ring;'
                    ' take it out of cameras.names, cameras.anchor and cameras.critical'
                )
        refuse_identical(models)
        self.ring: tuple[str, ...] = tuple(model.name for model in _clockwise(models))
        self.notes = (*notes, *_doubts(models))
        self.unusable: tuple[UnusableCamera, ...] = ()
        self._shared: dict[tuple[str, str, int], np.ndarray] = {}

    @classmethod
    def of(cls, models: Sequence[CameraModel], named: Collection[str] = ()) -> CameraRig:
        """The ring of those cameras that look around; a note says which others are left out.

        Raises StpruneError as the class does, also where a camera among ``named``, which the user asked for, looks up
        or down, and where all do.
        """
        refuse_identical(models)
        if models and all(model.is_vertical for model in models):
            raise StpruneError(
                f'every camera looks {models[0].vertical_word} ({", ".join(model.name for model in models)}): its'
                ' rotation must take optical-frame vectors (z forward, x right, y down) into the vehicle frame'
            )
        kept = [not model.is_vertical or model.name in named for model in models]
        notes = [left_out(model) for model, is_kept in zip(models, kept) if not is_kept]
        return cls(list(compress(models, kept)), notes)

    @classmethod
    def from_file(cls, path: str | Path, named: Collection[str] = ()) -> CameraRig:
        """Rig from a YAML file such as config/rigs/nuscenes.yaml. StpruneError names the file and the camera."""
        try:
            return cls.of(read_rig_file(path), named)
        except StpruneError as error:
            raise error if str(path) in str(error) else StpruneError(f"rig file '{path}': {error}") from None

    @property
    def foremost(self) -> str:
        """The camera nearest straight ahead, be it usable or not."""
        known = [camera for camera in self.unusable if camera.azimuth is not None]
        nearest = min(known, key=lambda camera: abs(camera.azimuth or 0.0), default=None)
        first = self.ring[0]
        if nearest is None or abs(nearest.azimuth or 0.0) >= abs(self.azimuth(first)):
            return first
        return nearest.name

    def same_as(self, other: CameraRig) -> bool:
        """Whether both hold the same cameras with the same calibration."""
        return (
            self.ring == other.ring
            and self.unusable == other.unusable
            and all(_key(self.cameras[camera]) == _key(other.cameras[camera]) for camera in self.ring)
        )

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
        """Where a camera looks, in words, by 45-degree sectors: 'front', 'front left' ... 'front right'.

        On the border of two sectors it is the one nearer to the front, whatever rounding says.
        """
        azimuth = self.azimuth(camera)
        sector = math.ceil(abs(azimuth) / (math.tau / 8) - 0.5 - SAME_ANGLE)
        return DIRECTIONS[(sector if azimuth > 0 else -sector) % 8]

    def columns_seen(self, camera: str, other: str, range_m: float = math.inf) -> np.ndarray:
        """Which columns of ``camera`` show what ``other`` sees too: bool (width,).

        Judged on the horizon at ``range_m`` metres from ``camera``; infinity leaves the parallax out. Each column of a
        camera on its side spans its whole view along the horizon: all are seen, or none.
        """
        seen = self._seen(camera, other, range_m)
        model = self.cameras[camera]
        return np.full(model.width, seen.any()) if model.on_its_side else seen

    def overlap(self, camera: str, other: str, range_m: float = math.inf) -> tuple[int, int]:
        """The longest run of columns [start, stop) of ``camera`` that ``other`` sees too; (0, 0) if none."""
        return longest_run(self.columns_seen(camera, other, range_m))

    def shared(self, camera: str, other: str, columns: int) -> np.ndarray:
        """Which of ``columns`` equal parts of the image of ``camera`` show something ``other`` sees: bool (columns,).

        Generous: near and far, so that an object counts wherever it stands.
        """
        key = (camera, other, columns)
        if key not in self._shared:
            seen = self.columns_seen(camera, other) | self.columns_seen(camera, other, NEAR_RANGE_M)
            parts = np.arange(len(seen)) * columns // len(seen)
            self._shared[key] = np.asarray(np.bincount(parts, seen, columns) > 0)
        return np.array(self._shared[key])

    def overlap_deg(self, camera: str, other: str) -> float:
        """Shared horizontal field of view in degrees, at infinity."""
        start, stop = longest_run(self._seen(camera, other, math.inf))
        if stop - start < 2:
            return 0.0
        rays = self.cameras[camera].horizon_rays()[start:stop]
        steps = np.clip((rays[1:] * rays[:-1]).sum(axis=1), -1.0, 1.0)
        return float(np.degrees(np.arccos(steps).sum()) * (stop - start) / (stop - start - 1))  # from edge to edge

    def _seen(self, camera: str, other: str, range_m: float) -> np.ndarray:
        """As `columns_seen`, for each place along the horizon: columns, or rows of a camera on its side."""
        model, neighbour = self.cameras[camera], self.cameras[other]
        rays = model.horizon_rays()
        # At infinity the cameras stand at the same place.
        points = neighbour.translation + rays if math.isinf(range_m) else model.translation + rays * range_m
        return neighbour.sees_azimuth_of(points)


def longest_run(mask: np.ndarray) -> tuple[int, int]:
    """Start and stop of the longest run of True in a bool (n,) array; (0, 0) if there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    if not len(edges):
        return 0, 0
    starts, stops = edges[::2], edges[1::2]
    best = int(np.argmax(stops - starts))
    return int(starts[best]), int(stops[best])


def _clockwise(models: Sequence[CameraModel]) -> list[CameraModel]:
    """The cameras clockwise from the one nearest straight ahead.

    Those that look the same way stand from left to right, and by name where that is the same too.
    """
    least = min(abs(model.azimuth) for model in models)
    ahead = min(
        (model for model in models if abs(model.azimuth) <= least + SAME_ANGLE), key=lambda model: model.name
    ).azimuth

    def turn(model: CameraModel) -> float:
        return (ahead - model.azimuth + SAME_ANGLE) % math.tau

    def place(model: CameraModel) -> float:
        x, y = model.translation[:2]
        return float(math.sin(model.azimuth) * x - math.cos(model.azimuth) * y)  # metres to the right

    return [
        model
        for same_way in _groups(models, turn, SAME_ANGLE)
        for same_place in _groups(same_way, place, SAME_PLACE_M)
        for model in sorted(same_place, key=lambda model: model.name)
    ]


def _groups(
    models: Sequence[CameraModel], key: Callable[[CameraModel], float], tolerance: float
) -> list[list[CameraModel]]:
    """The cameras by ``key``, ascending; those whose keys differ by rounding only are in one group."""
    groups: list[list[CameraModel]] = []
    for model in sorted(models, key=key):
        if groups and key(model) - key(groups[-1][-1]) <= tolerance:
            groups[-1].append(model)
        else:
            groups.append([model])
    return groups


def refuse_identical(models: Sequence[CameraModel]) -> None:
    """Raise StpruneError where several cameras have the same position and attitude, which no two can have."""
    same = identical_cameras(models)
    if same:
        raise StpruneError(same_place(same))


def same_place(cameras: Sequence[str]) -> str:
    """What to say of cameras with the same position and attitude."""
    return (
        f'the cameras {listed(cameras)} have the same position and attitude; give each its own extrinsics, or leave'
        ' all but one of them out of cameras.names'
    )


def identical_cameras(models: Sequence[CameraModel]) -> list[str]:
    """The cameras that have the position and attitude of another."""

    def identical(a: CameraModel, b: CameraModel) -> bool:
        turned = np.abs(a.rotation - b.rotation).max()
        return bool(turned < SAME_ATTITUDE and np.linalg.norm(a.translation - b.translation) < SAME_PLACE_M)

    pairs = [(a, b) for a, b in combinations(models, 2) if identical(a, b)]
    return [model.name for model in models if any(model is one for pair in pairs for one in pair)]


def left_out(model: CameraModel) -> str:
    """The note for a camera that has no place in the ring."""
    more = ', or set cameras.frame_convention if its frame is not an optical one' if model.rotation[2, 2] > 0 else ''
    return (
        f"camera '{model.name}' looks {model.vertical_word} (its axis is {model.from_vertical_deg:.0f} degrees from the"
        f' vertical): it is left out of the ring; name the others in cameras.names to silence this{more}'
    )


def _doubts(models: Sequence[CameraModel]) -> list[str]:
    """Sentences about geometry that is probably not what was meant."""
    doubts = []
    for model in models:
        unknown = int((~np.isfinite(model.horizon_rays()).all(axis=1)).sum())
        if unknown:
            doubts.append(
                f"the lens of camera '{model.name}' is described by its calibration up to a part of the image only:"
                f' {unknown} of {len(model.horizon_rays())} columns are taken to share nothing; calibrate it anew'
            )
    if len(models) > 1 and all(model.upside_down for model in models):
        doubts.append(
            'every camera hangs upside down; if none does, the z axis of cameras.base_frame points down, or the frames'
            ' are not what cameras.frame_convention says'
        )
    return doubts


def _key(model: CameraModel) -> tuple[object, ...]:
    arrays = (model.k, model.rotation, model.translation)
    return (model.name, model.width, model.height, model.distortion_model, model.d, *(a.tobytes() for a in arrays))
