"""Visual features of the frames of a window: each is decoded and encoded once, and kept while it is in the window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stprune_ros.core.motion import static_flow
from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import CameraFrame, CameraState, EgoState, ViewReport, Window
from stprune_ros.errors import StpruneError
from stprune_ros.inference.stages import StageClock
from stprune_ros.pruning.view_tokens import ViewTokens
from stprune_ros.vlm.backend import Backend, ImageFeatures

ASPECT_TOLERANCE = 0.02  # an image whose aspect differs by more is not the one that camera_info describes

FrameKey = tuple[str, int]  # camera, stamp_ns
# Pixels of a frame for a model that reduces images to so many, RGB uint8 (height, width, 3), and by how much the sides
# were reduced. Raises StpruneError for a broken image.
Decode = Callable[[CameraFrame, int], tuple[np.ndarray, int]]


@dataclass(frozen=True)
class EncodedFrame:
    """Features of one frame, and its (width, height) in pixels as the camera sent it."""

    features: ImageFeatures
    size: tuple[int, int]


@dataclass(frozen=True)
class ViewFeatures:
    """What one view brings to a tick: the features of its frames, oldest first, none where it has no current frame.

    ``slots`` gives each frame's place in the history, 0 oldest; ``egos`` the ego state at each; ``image`` is the
    picture of the current frame where it was asked for; ``note`` says what is wrong with the view's calibration.
    """

    camera: str
    state: CameraState
    stamp_ns: int = 0
    features: tuple[ImageFeatures, ...] = ()
    slots: tuple[int, ...] = ()
    egos: tuple[EgoState | None, ...] = ()
    image: np.ndarray | None = None
    note: str = ''

    def report(self, keep: np.ndarray | None = None) -> ViewReport:
        """The view for an answer; ``keep`` (frames, rows, columns) is what pruning kept, None where it did not run."""
        if keep is None:
            return ViewReport(self.camera, self.state, self.stamp_ns, image=self.image)
        return ViewReport(
            self.camera, self.state, self.stamp_ns, len(keep), keep.size, int(keep.sum()), keep, self.image
        )


class FeatureCache:
    """Decodes and encodes the frames of each window that the window before did not have. One thread at a time."""

    def __init__(self, backend: Backend, rig: CameraRig, decode: Decode) -> None:
        self._backend = backend
        self._rig = rig
        self._decode = decode
        self._frames: dict[FrameKey, EncodedFrame | None] = {}  # of the last window; None: could not be decoded

    def update(
        self, window: Window, clock: StageClock, with_images: bool = False
    ) -> tuple[list[ViewFeatures], list[str]]:
        """Features of every view of the window in ring order, and sentences about images that could not be decoded.

        Raises what the backend raises; the cache is then as it was before.
        """
        frames = [frame for frame_set in window.sets for frame in frame_set.frames.values()]
        current = window.current.frames
        # Also of a camera that is silent just now: it will come back.
        known = {key: self._frames[key] for key in map(_key, frames) if key in self._frames}
        new = {_key(frame): frame for frame in frames if frame.camera in current and _key(frame) not in known}
        decoded: dict[FrameKey, tuple[np.ndarray, int]] = {}
        notes = []
        with clock.stage('decode'):
            for key, frame in new.items():
                try:
                    decoded[key] = self._decode(frame, self._backend.model_pixels)
                except StpruneError as error:
                    notes.append(left_out(frame, error))
        with clock.stage('prepare'):
            prepared = self._backend.prepare([image for image, _ in decoded.values()])
        with clock.stage('encode'):
            encoded = self._backend.encode(prepared)
        known.update(dict.fromkeys(new))
        for (key, (image, reduced_by)), features in zip(decoded.items(), encoded, strict=True):
            known[key] = EncodedFrame(features, (image.shape[1] * reduced_by, image.shape[0] * reduced_by))
        self._frames = known  # nothing older than this window is ever asked for again
        images = {camera: decoded[_key(frame)][0] for camera, frame in current.items() if _key(frame) in decoded}
        views = [
            self._view(camera, window, images.get(camera) if with_images else None) for camera in window.current.cameras
        ]
        return views, notes

    def clear(self) -> None:
        """Forget every frame."""
        self._frames.clear()

    def _view(self, camera: str, window: Window, image: np.ndarray | None) -> ViewFeatures:
        frame = window.current.frames.get(camera)
        if frame is None:
            stale = camera in window.current.stale
            return ViewFeatures(camera, CameraState.STALE if stale else CameraState.MISSING)
        current = self._frames[_key(frame)]
        if current is None:
            return ViewFeatures(camera, CameraState.INVALID, frame.stamp_ns)
        first = window.slots - len(window.sets)  # at a cold start the oldest slots are empty
        features, slots, egos = [], [], []
        for slot, frame_set in enumerate(window.sets, start=first):
            past = frame_set.frames.get(camera)
            encoded = self._frames[_key(past)] if past is not None else None
            # A compressed image shows its size when decoded: history of another size has another token grid.
            if encoded is not None and encoded.features.grid == current.features.grid:
                features.append(encoded.features)
                slots.append(slot)
                egos.append(frame_set.ego)
        note = self._calibration_note(camera, current.size)
        state = CameraState.MISCALIBRATED if note else CameraState.OK
        return ViewFeatures(camera, state, frame.stamp_ns, tuple(features), tuple(slots), tuple(egos), image, note)

    def _calibration_note(self, camera: str, size: tuple[int, int]) -> str:
        """What to say of images with another aspect than the calibration, or not cut to its roi, '' where they fit."""
        model, (width, height) = self._rig.cameras[camera], size
        same_shape = abs(width * model.height - height * model.width) <= ASPECT_TOLERANCE * width * model.height
        # A region of interest may have the shape of the whole: images as large as that were not cut to it.
        is_cut = model.whole is None or width < model.whole[0] or height < model.whole[1]
        if same_shape and is_cut:
            return ''
        return (
            f"camera_info of camera '{camera}' is for {model.width}x{model.height}, its images are"
            f' {width}x{height}: its overlaps cannot be trusted;'
            ' publish the camera_info that belongs to the images'
        )


def view_tokens(
    camera: str,
    features: Sequence[ImageFeatures],
    slots: tuple[int, ...],
    rig: CameraRig,
    egos: Sequence[EgoState | None],
    *,
    overlap: bool,
    motion: bool,
) -> ViewTokens:
    """The token grid of one view, with what calibration (``overlap``) and odometry (``motion``) know about it.

    ``slots`` and ``egos`` hold each frame's place in the history and the ego state at its time, oldest first.
    """
    if not features:
        return ViewTokens(camera, torch.zeros(0, 0, 0, 0), ())
    rows, columns = features[0].grid
    tokens = torch.stack([frame.tokens.reshape(rows, columns, -1) for frame in features])  # [T, rows, columns, D]
    shared = flow = None
    if overlap:
        left, right = (rig.shared(camera, other, columns) for other in (rig.left(camera), rig.right(camera)))
        shared = (torch.from_numpy(left).to(tokens.device), torch.from_numpy(right).to(tokens.device))
    if motion:
        found = static_flow(rig.cameras[camera], rows, columns, egos)
        flow = torch.from_numpy(found).to(tokens.device, torch.float32)
    return ViewTokens(camera, tokens, slots, shared, flow, frames=tuple(frame.tokens for frame in features))


def left_out(frame: CameraFrame, error: StpruneError) -> str:
    """What to say about an image that cannot be decoded."""
    return f"image of camera '{frame.camera}' is left out: {error}"


def _key(frame: CameraFrame) -> FrameKey:
    return frame.camera, frame.stamp_ns
