"""What sets that are built on nuScenes share: picture files, the moments around them, and the tables ``v1.0-*``.

A picture's name tells its camera and its time: LOG__CAM_FRONT__MICROSECONDS.jpg. With the tables come the calibration
of each car, its motion, and the pictures between those that a set names; without them the mounting is nominal.
The layout is that of https://www.nuscenes.org/nuscenes (schema of the tables).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stprune_ros.core.camera_model import CameraModel, intrinsics_faults
from stprune_ros.core.rig import CameraRig
from stprune_ros.core.transforms import matrix_from_quaternion
from stprune_ros.core.types import EgoState
from stprune_ros.errors import StpruneError, listed, plain
from stprune_ros.evaluation.datasets.files import Faults, is_file, rows_of
from stprune_ros.resources import resource_path

NAME = re.compile(r'(?P<log>.+)__(?P<camera>CAM_[A-Z_]+)__(?P<stamp>[0-9]{10,17})\.(?:jpg|jpeg|png)')
NOMINAL_RIG = 'config/rigs/nuscenes.yaml'
STRIDE_US = 500_000  # between key frames of nuScenes, and between instants of the node's history
SAME_TIME_US = 150_000  # pictures of one instant are nearer than this
MAX_NAME = 1000  # characters of a path
FRAME_FOLDERS = ('samples', 'sweeps')
# Where pictures and tables lie, seen from the file of questions.
ROOTS = ('.', 'nuscenes', 'data/nuscenes', 'data', 'val_data', '../nuscenes', '..')
POSES = 'ego_pose.json'  # of the tables the one without which the others are of use
TABLES = ('sample.json', 'sample_data.json', 'calibrated_sensor.json', POSES)
NO_TABLES = (
    'no tables of nuScenes (v1.0-*/sample_data.json) beside the set know it: the mounting of cameras is the nominal'
    ' one, the motion of the car is not known, and history is what pictures the set names'
)
NO_PLACE = 'questions left out, a camera has no place in the ring'
LEAST_S = 0.01  # a velocity is not taken over less


class Picture(NamedTuple):
    """A picture by what its name says: the drive's log, the camera, µs, and the name itself."""

    log: str
    camera: str
    stamp_us: int
    name: str

    @classmethod
    def of(cls, text: object) -> Picture | None:
        """From a path as sets write it, whatever folders stand before the name; None for anything else."""
        return _picture(text) if isinstance(text, str) and len(text) < MAX_NAME else None


class Shot(NamedTuple):
    """A row of sample_data that a camera took."""

    picture: Picture
    ego_token: str
    sensor_token: str


@dataclass(frozen=True)
class PictureFolder:
    """Where the pictures of nuScenes lie, below or beside the folder of a set."""

    data: Path

    def find(self, picture: Picture) -> Path | None:
        """The file of a picture, None where there is none. Only the name is taken from the set, no folder."""
        for root in self.roots:
            path = root / picture.camera / picture.name
            if is_file(path):
                return path
        return None

    def files(
        self, instants: Sequence[Mapping[str, Picture]], cameras: Collection[str], faults: Faults
    ) -> dict[str, tuple[Path | None, ...]]:
        """For each of ``cameras`` its file at every instant, None where there is none; missing ones are counted."""
        found = {c: tuple(self.find(row[c]) if c in row else None for row in instants) for c in cameras}
        missing = [row[c].name for c in cameras for row, path in zip(instants, found[c]) if c in row and path is None]
        if missing:
            faults.add('earlier pictures that are missing', missing[0], len(missing))
        return found

    @cached_property
    def roots(self) -> tuple[Path, ...]:
        """Folders that have a folder for each camera."""
        places = [self.data / root / folder for root in ROOTS for folder in (*FRAME_FOLDERS, '.')]
        return tuple(place for place in places if next(place.glob('CAM_*'), None) is not None)


@dataclass
class Tables:
    """The part of the tables that some samples need: shots by sample and camera, sensors, poses of the car."""

    shots: dict[str, dict[str, list[Shot]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    previous: dict[str, str] = field(default_factory=dict)  # sample token -> that of the sample before
    models: dict[str, CameraModel] = field(default_factory=dict)  # by sensor token
    poses: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # rotation and translation

    @classmethod
    def read(cls, data: Path, samples: Collection[str], back: int) -> tuple[Tables | None, tuple[str, ...]]:
        """Read what ``samples`` and ``back`` samples before each need, and say in sentences what is not there.

        None where no tables know any of the samples. Raises StpruneError where a table is broken.
        """
        tables, notes = cls(), []
        there = [p for root in ROOTS for p in sorted((data / root).glob('v1.0-*')) if p.is_dir()]
        for folder in {path.resolve(): path for path in there}.values():
            missing = [name for name in TABLES if not is_file(folder / name)]
            if missing in ([], [POSES]):
                tables._add(folder, samples, back)
            if missing == [POSES]:
                notes.append(f"'{plain(folder.name)}' lacks '{POSES}': the motion of the car is not known")
            elif 0 < len(missing) < len(TABLES):
                notes.append(f"'{plain(folder.name)}' lacks {listed(missing)}: the tables in it are not used")
        return (tables, tuple(notes)) if tables.shots else (None, (*notes, NO_TABLES))

    def _add(self, folder: Path, samples: Collection[str], back: int) -> None:
        before = {_text(row, 'token'): _text(row, 'prev') for row in rows_of(folder / 'sample.json')}
        wanted = {token for token in samples if token in before}
        for _ in range(back):
            wanted |= {before[token] for token in wanted if before.get(token)}
        self.previous |= {token: before[token] for token in wanted}
        sizes: dict[str, tuple[str, int, int]] = {}
        for row in rows_of(folder / 'sample_data.json'):
            if _text(row, 'sample_token') in wanted and (picture := Picture.of(row.get('filename'))):
                shot = Shot(picture, _text(row, 'ego_pose_token'), _text(row, 'calibrated_sensor_token'))
                self.shots[_text(row, 'sample_token')][picture.camera].append(shot)
                sizes[shot.sensor_token] = picture.camera, _size(row, 'width'), _size(row, 'height')
        for row in rows_of(folder / 'calibrated_sensor.json'):
            if _text(row, 'token') in sizes:
                self.models[row['token']] = _model(row, *sizes[row['token']], folder)
        needed = {shot.ego_token for cameras in self.shots.values() for row in cameras.values() for shot in row}
        for row in rows_of(folder / POSES) if is_file(folder / POSES) else ():
            if _text(row, 'token') in needed:
                self.poses[row['token']] = _pose(row, folder / POSES)

    def around(self, sample: str, back: int) -> dict[str, list[Shot]]:
        """What each camera took for a sample and ``back`` samples before it, oldest first."""
        found: dict[str, list[Shot]] = defaultdict(list)
        for _ in range(back + 1):
            for camera, shots in self.shots.get(sample, {}).items():
                found[camera] += shots
            sample = self.previous.get(sample, '')
        return {camera: sorted(shots, key=lambda shot: shot.picture.stamp_us) for camera, shots in found.items()}

    def rig(self, shots: Mapping[str, Sequence[Shot]], cameras: Collection[str]) -> CameraRig | None:
        """The ring of ``cameras`` as it is calibrated, None where the tables do not have all of them."""
        tokens = {camera: shots[camera][-1].sensor_token for camera in cameras if shots.get(camera)}
        models = [self.models[token] for token in tokens.values() if token in self.models]
        return CameraRig(models) if len(models) == len(cameras) else None

    def ego(self, shots: Sequence[Shot], stamp_us: int) -> EgoState | None:
        """The state of the car when the nearest of ``shots``, of one camera and in order, was taken, or None."""
        known = [shot for shot in shots if shot.ego_token in self.poses]
        if not known:
            return None
        at = min(range(len(known)), key=lambda index: abs(known[index].picture.stamp_us - stamp_us))
        if abs(known[at].picture.stamp_us - stamp_us) > SAME_TIME_US or len(known) < 2:
            return None
        first, second = (known[at - 1], known[at]) if at else (known[0], known[1])
        return _state(known[at], self.poses[known[at].ego_token], first, second, self.poses)


def moments_of(pictures: Iterable[Picture], anchor: str = 'CAM_FRONT') -> list[dict[str, Picture]]:
    """Pictures by the instant they show, oldest first: for each of the anchor camera the nearest of every other."""
    rows: dict[str, list[Picture]] = defaultdict(list)
    for picture in dict.fromkeys(pictures):
        rows[picture.camera].append(picture)
    if not rows:
        return []
    lead = sorted(rows[anchor] if anchor in rows else next(iter(rows.values())), key=lambda p: p.stamp_us)
    found = []
    for picture in lead:
        nearest = (min(row, key=lambda p: abs(p.stamp_us - picture.stamp_us)) for row in rows.values())
        found.append({p.camera: p for p in nearest if abs(p.stamp_us - picture.stamp_us) <= SAME_TIME_US})
    return found


def crossed(pictures: Iterable[tuple[str, Picture]]) -> str:
    """The first picture that stands under the name of another camera, for a sentence, '' where all are right."""
    return next((f'{p.name} under {plain(camera)}' for camera, p in pictures if camera not in ('', p.camera)), '')


def earlier_shots(shots: Mapping[str, Sequence[Shot]], stamp_us: int, count: int) -> list[dict[str, Picture]]:
    """The instants at one to ``count`` strides before ``stamp_us``, oldest first, as far as there are pictures."""
    found = []
    for steps in range(count, 0, -1):
        wanted = stamp_us - steps * STRIDE_US
        nearest = {
            camera: min((shot.picture for shot in row), key=lambda p: abs(p.stamp_us - wanted))
            for camera, row in shots.items()
        }
        found.append({c: p for c, p in nearest.items() if abs(p.stamp_us - wanted) <= SAME_TIME_US})
    return found


def nominal_rig(cameras: Collection[str]) -> CameraRig:
    """The ring of ``cameras`` with the nominal mounting. Raises StpruneError for a camera that it does not have."""
    whole = CameraRig.from_file(resource_path(NOMINAL_RIG))
    unknown = sorted(set(cameras) - set(whole.ring))
    if unknown:
        raise StpruneError(f"camera '{plain(unknown[0])}' is none of {', '.join(whole.ring)}")
    return CameraRig(whole.cameras[camera] for camera in whole.ring if camera in cameras)


@cache
def _picture(text: str) -> Picture | None:
    found = NAME.fullmatch(text.replace('\\', '/').rpartition('/')[2])
    return Picture(found['log'], found['camera'], int(found['stamp']), found[0]) if found else None


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) else ''


def _size(row: Mapping[str, Any], key: str) -> int:
    """Pixels; 0, which no camera has, for what is no whole number."""
    value = row.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _model(row: Mapping[str, Any], camera: str, width: int, height: int, folder: Path) -> CameraModel:
    try:
        k = np.array(row['camera_intrinsic'], float).reshape(3, 3)
        rotation, translation = _turned(row)
        faults = intrinsics_faults(width, height, k, ())
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        faults = [str(error)]
    if faults:
        token = plain(str(row.get('token')))
        raise StpruneError(f"'{folder}' has a calibration of {camera} that is none, {token}: {'; '.join(faults)}")
    return CameraModel(camera, width, height, k, rotation, translation)


def _pose(row: Mapping[str, Any], path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        return _turned(row)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise StpruneError(f"'{path}' has a pose that is none, {plain(str(row.get('token')))}: {error}") from None


def _turned(row: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) and translation (3,) of a row; the tables write quaternions as w, x, y, z."""
    w, x, y, z = (float(value) for value in row['rotation'])
    rotation, translation = matrix_from_quaternion((x, y, z, w)), np.array(row['translation'], float)
    if rotation is None or translation.shape != (3,) or not np.isfinite(translation).all():
        raise ValueError('rotation or translation has other numbers than it needs')
    return rotation, translation


def _state(
    at: Shot,
    pose: tuple[np.ndarray, np.ndarray],
    first: Shot,
    second: Shot,
    poses: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> EgoState | None:
    """The state from the poses of two shots that follow on each other, in axes half way between them."""
    seconds = (second.picture.stamp_us - first.picture.stamp_us) / 1e6
    if seconds < LEAST_S:
        return None
    (turned, place), (turned_on, place_on) = poses[first.ego_token], poses[second.ego_token]
    relative = turned.T @ turned_on
    yaw = float(np.arctan2(relative[1, 0], relative[0, 0]))
    c, s = np.cos(yaw / 2), np.sin(yaw / 2)
    way = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]]) @ turned.T @ (place_on - place) / seconds
    position = tuple(float(value) for value in pose[1])
    linear = tuple(float(value) for value in way)
    return EgoState(at.picture.stamp_us * 1000, position, None, linear, (0.0, 0.0, yaw / seconds))  # type: ignore[arg-type]
