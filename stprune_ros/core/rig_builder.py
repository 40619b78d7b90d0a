"""From CameraInfo and static transforms to a ring, or a sentence about what is in the way."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stprune_ros.core.camera_model import OPTICAL_FROM_LINK, CameraModel, intrinsics_faults
from stprune_ros.core.distortion import lens_of
from stprune_ros.core.rig import (
    CameraRig,
    UnusableCamera,
    identical_cameras,
    left_out,
    refuse_identical,
    same_place,
)
from stprune_ros.core.transforms import StaticTransforms, frame_name
from stprune_ros.errors import StpruneError, plain
from stprune_ros.settings.parameters import CameraSettings

# Takes optical-frame vectors into the frame that camera_info names.
FRAME_FROM_OPTICAL: Mapping[str, np.ndarray] = {
    'optical': np.eye(3),
    'body': OPTICAL_FROM_LINK,
    'body_frd': np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
}
RECTIFIED_WORDS = {'rect', 'rectified', 'undistorted', 'undistort'}


class RigBuilder:
    """Collects CameraInfo and static transforms (duck-typed messages) until the ring is known.

    ``rectified`` names the cameras whose images are rectified: those follow P and R instead of K and D.
    """

    def __init__(self, settings: CameraSettings | None = None, rectified: Collection[str] = ()) -> None:
        self.settings = settings or CameraSettings()
        self.base_frame = self.settings.base_frame.lstrip('/')
        self.rectified = frozenset(rectified)
        self.transforms = StaticTransforms()
        self._infos: dict[str, Any] = {}

    def add_camera_info(self, camera: str, info: Any) -> bool:
        """Take a CameraInfo; True where it is new or differs from the last one of this camera."""
        known = self._infos.get(camera)
        self._infos[camera] = info
        return known is None or calibration_key(known) != calibration_key(info)

    def add_transforms(self, message: Any) -> bool:
        """Take a TFMessage of /tf_static; True where it changes the tree."""
        return self.transforms.add(message)

    def to_base(self, frame: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Rotation (3, 3) and translation (3,) from ``frame`` into the base frame; None where no way leads there."""
        return self.transforms.way(self.base_frame, frame)

    def differs(self, camera: str, info: Any) -> bool:
        """Whether a CameraInfo says something else than the one taken last."""
        return camera in self._infos and calibration_key(self._infos[camera]) != calibration_key(info)

    def has_optics(self, camera: str) -> bool:
        """Whether the CameraInfo of a camera can be used, transforms aside."""
        try:
            self._optics(camera, self._infos[camera])
        except (KeyError, StpruneError):
            return False
        return True

    def missing(self, cameras: Sequence[str]) -> list[str]:
        """What still stands between the messages so far and a rig, one sentence each; empty when all is there."""
        problems = []
        for camera in cameras:
            try:
                self._model(camera)
            except StpruneError as error:
                problems.append(str(error))
        if not problems:
            try:
                self.build(cameras)
            except StpruneError as error:
                problems.append(str(error))
        return problems

    def build(self, cameras: Sequence[str]) -> CameraRig:
        """The rig of these cameras; raises StpruneError with the first thing that is missing or cannot be."""
        models = self._with_baselines([self._model(camera) for camera in cameras])
        refuse_identical(models)
        self._check_frame_convention(models)
        return self._rig(models)

    def usable(self, cameras: Sequence[str], waited: bool = False) -> CameraRig:
        """The ring of those cameras whose calibration can be used, the others beside it: one costs its view only.

        A camera_info or a transform that has not come may still come: unless it was ``waited`` for long enough, that
        raises StpruneError. So do frames that cannot be what cameras.frame_convention says, and a ring of no camera.
        """
        models, unusable = [], []
        for camera in cameras:
            try:
                models.append(self._model(camera))
            except StpruneError as error:
                if not waited and not self._is_settled(camera):
                    raise
                unusable.append(UnusableCamera(camera, str(error), self._azimuth(camera)))
        models = self._with_baselines(models)
        self._check_frame_convention(models)
        same = identical_cameras(models)
        unusable += [UnusableCamera(name, same_place(same)) for name in same]
        models = [model for model in models if model.name not in same]
        unusable += [UnusableCamera(model.name, left_out(model), math.pi) for model in models if model.is_vertical]
        models = [model for model in models if not model.is_vertical]
        if not models:
            raise StpruneError(unusable[0].reason)
        rig = self._rig(models)
        rig.unusable = tuple(unusable)
        return rig

    def _is_settled(self, camera: str) -> bool:
        """Whether the camera_info of a camera has come and says nothing that can be used, whatever tf will say."""
        info = self._infos.get(camera)
        return info is not None and not (frame_name(info.header.frame_id) and self.has_optics(camera))

    def _azimuth(self, camera: str) -> float | None:
        """Where a camera looks, as far as tf says without its optics."""
        try:
            return self._without_optics(camera).azimuth
        except (KeyError, StpruneError):
            return None

    def _rig(self, models: Sequence[CameraModel]) -> CameraRig:
        named = {*self.settings.names, *self.settings.critical, self.settings.anchor}
        rig = CameraRig.of(models, named)
        without_p = [camera for camera in rig.ring if camera in self.rectified and not any(self._infos[camera].p)]
        rig.notes = (
            *rig.notes,
            *(
                f"camera_info of camera '{camera}' has no P: its rectified images are read with K; publish P, or set"
                ' cameras.rectified: never'
                for camera in without_p
            ),
        )
        return rig

    def mounted(self, cameras: Sequence[str]) -> dict[str, CameraModel]:
        """Those cameras of which tf says where they sit and look, by name; width 0 where camera_info says no more.

        None of those that coincide. Raises StpruneError where frames are not what the frame convention says.
        """
        models = []
        for camera in cameras:
            try:
                models.append(self._model(camera) if self.has_optics(camera) else self._without_optics(camera))
            except (KeyError, StpruneError):
                continue
        models = self._with_baselines(models)
        self._check_frame_convention(models)
        same = identical_cameras(models)
        return {model.name: model for model in models if model.name not in same}

    def _without_optics(self, camera: str) -> CameraModel:
        pose = self.transforms.lookup(self.base_frame, frame_name(self._infos[camera].header.frame_id))
        rotation = pose.rotation @ FRAME_FROM_OPTICAL[self.settings.frame_convention]
        return CameraModel(camera, 0, 0, np.eye(3), rotation, pose.translation)

    def _model(self, camera: str) -> CameraModel:
        info = self._infos.get(camera)
        if info is None:
            raise StpruneError(
                f"no camera_info for camera '{camera}' yet; check its topic, give cameras.rig_file, or leave it out of"
                ' cameras.names'
            )
        frame = frame_name(info.header.frame_id)
        if not frame:
            raise StpruneError(
                f"camera_info of camera '{camera}' has no frame_id; its driver must set it, or give cameras.rig_file"
            )
        width, height, k, model, d, turned = self._optics(camera, info)
        try:
            pose = self.transforms.lookup(self.base_frame, frame)
        except StpruneError as error:
            raise StpruneError(f"camera '{camera}': {error}; or give cameras.rig_file") from None
        rotation = pose.rotation @ FRAME_FROM_OPTICAL[self.settings.frame_convention] @ turned.T
        size = _whole_size(info)
        whole = size if size != (width, height) else None
        return CameraModel(camera, width, height, k, rotation, pose.translation, model, d, whole)

    def _optics(self, camera: str, info: Any) -> tuple[int, int, np.ndarray, str, tuple[float, ...], np.ndarray]:
        """Size, intrinsics and lens of the images, and the rotation (3, 3) from the camera's to the image's axes."""
        width, height = int(info.width), int(info.height)
        k, turned = np.array(info.k, dtype=float).reshape(3, 3), np.eye(3)
        model, d = plain(str(info.distortion_model)), tuple(float(value) for value in info.d)
        faults = []
        if camera in self.rectified:
            p, r = np.array(info.p, dtype=float).reshape(3, 4), np.array(info.r, dtype=float).reshape(3, 3)
            k, model, d = p[:, :3] if p.any() else k, '', ()
            if r.any() and not np.allclose(r @ r.T, np.eye(3), atol=1e-2):
                faults.append(f'r is no rotation ({", ".join(f"{value:g}" for value in r.ravel())})')
            turned = r if r.any() else turned
        faults = [*intrinsics_faults(width, height, k, d), *faults]
        if faults:
            raise StpruneError(
                f"camera_info of camera '{camera}' is not calibrated: {'; '.join(faults)}; calibrate it, or give"
                ' cameras.rig_file'
            )
        try:
            lens_of(model, d)
        except StpruneError as error:
            raise StpruneError(f"camera_info of camera '{camera}': {error}; or give cameras.rig_file") from None
        width, height, k = _cropped(camera, info, width, height, k)
        return width, height, k, model, d, turned

    def _check_frame_convention(self, models: Sequence[CameraModel]) -> None:
        """Refuse frames that cannot be what cameras.frame_convention says; ring cameras do not all lie on their sides.

        A body frame read as an optical one makes every camera look up or down, the other way round all lie on a side.
        """
        convention = self.settings.frame_convention
        frames = [frame_name(self._infos[model.name].header.frame_id) for model in models]
        if convention == 'optical' and models and all(model.is_vertical for model in models):
            words = {model.vertical_word for model in models}
            better = 'body_frd' if words == {'down'} else 'body'
            raise StpruneError(
                f"every camera looks {' or '.join(sorted(words))} in '{self.base_frame}': camera_info.frame_id"
                f" ('{frames[0]}') seems to be a body frame (x forward), not an optical one (z forward, REP-103); set"
                f' cameras.frame_convention: {better}, or publish optical frames'
            )
        if convention != 'optical' and len(models) > 1 and all(model.on_its_side for model in models):
            raise StpruneError(
                f"every camera lies on its side in '{self.base_frame}' with cameras.frame_convention: {convention};"
                f" camera_info.frame_id ('{frames[0]}') seems to be an optical frame (z forward): set it to optical"
            )

    def _with_baselines(self, models: Sequence[CameraModel]) -> list[CameraModel]:
        """The same cameras; those of a stereo pair that share a frame stand as far apart as P says."""
        frames = [frame_name(self._infos[model.name].header.frame_id) for model in models]
        shifted = []
        for model, frame in zip(models, frames):
            p = np.array(self._infos[model.name].p, dtype=float).reshape(3, 4)
            place = model.translation
            if frames.count(frame) > 1 and np.isfinite(p).all() and p[0, 0] > 0 and p[1, 1] > 0:
                place = place - model.rotation @ (p[0, 3] / p[0, 0], p[1, 3] / p[1, 1], 0.0)
            shifted.append(replace(model, translation=place))
        return shifted


def rectified_cameras(settings: CameraSettings, topics: Mapping[str, str]) -> frozenset[str]:
    """Which cameras send rectified images, by their image topics, as image_proc names them: image_rect, ..._rect_color.

    Undistorted ones follow P, too. cameras.rectified decides for all where it is not 'auto'.
    """
    if settings.rectified != 'auto':
        return frozenset(topics if settings.rectified == 'always' else ())
    return frozenset(camera for camera, topic in topics.items() if RECTIFIED_WORDS & set(_words(topic)))


def _words(topic: str) -> list[str]:
    """Lower-case words of a topic: '/left/imageRect_color' is left, image, rect, color."""
    return re.split(r'[/_]', re.sub(r'([a-z])([A-Z])', r'\1_\2', topic).lower())


def calibration_key(info: Any) -> tuple[Any, ...]:
    """All that a CameraInfo says about geometry, to be compared."""
    roi = info.roi
    return (
        *(info.header.frame_id, info.width, info.height, info.distortion_model),
        *(np.asarray(values, dtype=float).tobytes() for values in (info.k, info.d, info.r, info.p)),
        *(info.binning_x, info.binning_y, roi.x_offset, roi.y_offset, roi.width, roi.height),
    )


def _whole_size(info: Any) -> tuple[int, int]:
    """Width and height of an image of the whole sensor, in binned pixels."""
    return int(info.width) // max(int(info.binning_x), 1), int(info.height) // max(int(info.binning_y), 1)


def _cropped(camera: str, info: Any, width: int, height: int, k: np.ndarray) -> tuple[int, int, np.ndarray]:
    """Size and intrinsics of the image that the driver sends: the region of interest, in binned pixels."""
    roi = info.roi
    left, top, wide, high = (int(value) for value in (roi.x_offset, roi.y_offset, roi.width, roi.height))
    if not any((left, top, wide, high)):
        wide, high = width, height
    if not (wide > 0 and high > 0 and left + wide <= width and top + high <= height):
        raise StpruneError(
            f"camera_info of camera '{camera}' has an roi of {wide}x{high} at {left}, {top}, which does not lie in"
            f' {width}x{height}; its driver must set it in pixels of the full sensor, or leave it 0'
        )
    bins = np.array([max(int(info.binning_x), 1), max(int(info.binning_y), 1)])
    size = np.array([wide, high]) // bins
    if not size.all():
        raise StpruneError(
            f"camera_info of camera '{camera}' has binning {bins[0]}x{bins[1]}, more than its {wide}x{high} pixels;"
            ' its driver must set it, or leave it 0'
        )
    cropped = k.copy()
    cropped[0, 0], cropped[1, 1] = (k[0, 0], k[1, 1]) / bins
    # The middle of a binned pixel is the middle of those that it combines.
    cropped[:2, 2] = (k[:2, 2] - (left, top) + 0.5) / bins - 0.5
    return int(size[0]), int(size[1]), cropped
