"""Visual features of the frames of a window: each is decoded and encoded once, and kept while it is in the window."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stprune_ros.core.camera_model import CameraModel
from stprune_ros.core.motion import static_flow
from stprune_ros.core.rig import CameraRig
from stprune_ros.core.stream import mixed_images
from stprune_ros.core.types import CameraFrame, CameraState, EgoState, FrameSet, HeldFrame, ViewReport, Window
from stprune_ros.errors import StpruneError
from stprune_ros.inference.stages import StageClock
from stprune_ros.io.images import FAR_LARGER, DecodeLimits
from stprune_ros.pruning.view_tokens import ViewTokens
from stprune_ros.settings.parameters import CameraSettings
from stprune_ros.vlm.backend import Backend, ImageFeatures, PreparedImages

ASPECT_TOLERANCE = 0.02  # an image whose aspect differs by more is not the one that camera_info describes

FrameKey = tuple[str, int]  # camera, stamp_ns
# Pixels of a frame within the limits, RGB uint8 (height, width, 3), and by how much the sides were reduced. Raises
# StpruneError for an image that is broken or beyond the limits.
Decode = Callable[[CameraFrame, DecodeLimits], tuple[np.ndarray, int]]


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A frame and its pixels, whose sides were reduced by the factor ``reduced_by``."""

    frame: CameraFrame
    image: np.ndarray
    reduced_by: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels as the camera sent it."""
        return self.image.shape[1] * self.reduced_by, self.image.shape[0] * self.reduced_by


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

    def __init__(
        self, backend: Backend, rig: CameraRig, decode: Decode, cameras: CameraSettings, side: Sequence[str] = ()
    ) -> None:
        """Images of the cameras in ``side`` are prepared as such, see `Backend.prepare`."""
        self._backend = backend
        self._rig = rig
        self._decode = decode
        self._side = frozenset(side)
        self._limits = {
            model.name: DecodeLimits(
                backend.side_pixels if model.name in self._side else backend.model_pixels,
                _max_pixels(model, cameras.max_pixels),
                cameras.formats,
            )
            for model in rig.cameras.values()
        }
        self._frames: dict[FrameKey, EncodedFrame | None] = {}  # of the last window; None: could not be decoded

    def update(
        self, window: Window, clock: StageClock, with_images: bool = False
    ) -> tuple[list[ViewFeatures], list[str]]:
        """Features of every view of the window in ring order, and sentences about images that could not be decoded.

        Raises what the backend raises; the cache is then as it was before.
        """
        sets = [self._shown(frame_set) for frame_set in window.sets]
        frames = [held.frame for shown in sets for held in shown.values()]
        current = sets[-1]
        # Also of a camera that is silent just now: it will come back. And of a frame that is broken as long as it is
        # held: it is not tried again.
        all_held = [held.frame for frame_set in window.sets for held in frame_set.held.values()]
        known = {key: self._frames[key] for key in map(_key, frames + all_held) if key in self._frames}
        newest_first = {_key(held.frame): held.frame for shown in reversed(sets) for held in shown.values()}
        wanted = [frame for frame in newest_first.values() if frame.camera in current and not frame.frozen]
        notes = [_frozen(held.frame) for held in current.values() if held.frame.frozen]
        notes += [mixed_images(camera) for camera in window.current.cameras if camera in window.current.mixed]
        with clock.stage('decode'):
            decoded = self._decode_new([frame for frame in wanted if _key(frame) not in known], known, notes)
        ordered = {key: decoded[key] for key in map(_key, frames) if key in decoded}
        groups = [group for group in self._by_pixels(ordered) if group]
        with clock.stage('prepare'):
            prepared = [self._prepare(group, known, notes) for group in groups]
        with clock.stage('encode'):
            for group, images in zip(groups, prepared, strict=True):
                known.update(self._encode(group, images))
        self._frames = known  # nothing older than this window is ever asked for again
        pictures = self._pictures(current, decoded) if with_images else {}
        views = [self._view(camera, window, sets, pictures) for camera in window.current.cameras]
        return views, notes

    def clear(self) -> None:
        """Forget every frame."""
        self._frames.clear()

    def _shown(self, frame_set: FrameSet) -> dict[str, HeldFrame]:
        """What each view of a set shows: the frame that is held for it, its own where none is or that one is broken."""
        shown = {}
        for camera, frame in frame_set.frames.items():
            held = frame_set.held.get(camera)
            is_broken = held is not None and self._frames.get(_key(held.frame), held) is None
            shown[camera] = HeldFrame(frame, frame_set.ego) if held is None or is_broken else held
        return shown

    def _by_pixels(self, decoded: Mapping[FrameKey, DecodedFrame]) -> list[dict[FrameKey, DecodedFrame]]:
        """The frames of cameras that have all pixels of the model, and those of side cameras."""
        return [{key: one for key, one in decoded.items() if (key[0] in self._side) == side} for side in (False, True)]

    def _pictures(
        self, current: Mapping[str, HeldFrame], decoded: Mapping[FrameKey, DecodedFrame]
    ) -> dict[FrameKey, np.ndarray]:
        """The pictures of the current frames; those that were encoded in an earlier tick are decoded again."""
        pictures = {key: found.image for key, found in decoded.items()}
        for held in current.values():
            key = _key(held.frame)
            if key not in pictures and self._frames.get(key) is not None:
                pictures[key] = self._decode(held.frame, self._limits[held.frame.camera])[0]
        return pictures

    def _decode_new(
        self, frames: Sequence[CameraFrame], known: dict[FrameKey, EncodedFrame | None], notes: list[str]
    ) -> dict[FrameKey, DecodedFrame]:
        """Decode what one tick may decode, the newest first: one set of images as large as they may be.

        A current frame always has room. One of the history that has none is left for the next tick. Those that are
        broken go into ``known``, with a sentence in ``notes``.
        """
        room = sum(limits.max_pixels for limits in self._limits.values())
        decoded = {}
        for frame in frames:
            limits = self._limits[frame.camera]
            if room < limits.max_pixels:
                continue
            try:
                image, reduced_by = self._decode(frame, limits)
            except StpruneError as error:
                notes.append(left_out(frame, error))
                known[_key(frame)] = None
            else:
                decoded[_key(frame)] = DecodedFrame(frame, image, reduced_by)
                room -= math.prod(decoded[_key(frame)].size)
        return decoded

    def _prepare(
        self, decoded: dict[FrameKey, DecodedFrame], known: dict[FrameKey, EncodedFrame | None], notes: list[str]
    ) -> PreparedImages:
        """What the backend makes of all pictures; those that it refuses go from ``decoded`` into ``known``.

        They are either all of side cameras or none is.
        """
        side = any(camera in self._side for camera, _ in decoded)
        try:
            return self._backend.prepare([found.image for found in decoded.values()], side)
        except StpruneError:  # one of them, most likely: each by itself
            for key, found in list(decoded.items()):
                try:
                    self._backend.prepare([found.image], side)
                except StpruneError as error:
                    notes.append(left_out(found.frame, error))
                    known[key] = None
                    del decoded[key]
        return self._backend.prepare([found.image for found in decoded.values()], side)

    def _encode(
        self, decoded: Mapping[FrameKey, DecodedFrame], prepared: PreparedImages
    ) -> dict[FrameKey, EncodedFrame]:
        encoded = self._backend.encode(prepared)
        return {
            key: EncodedFrame(features, found.size)
            for (key, found), features in zip(decoded.items(), encoded, strict=True)
        }

    def _view(
        self,
        camera: str,
        window: Window,
        sets: Sequence[Mapping[str, HeldFrame]],
        pictures: Mapping[FrameKey, np.ndarray],
    ) -> ViewFeatures:
        """What a view brings; ``sets`` is what each set of the window shows."""
        if camera not in sets[-1]:
            return ViewFeatures(camera, _state_without_frame(camera, window.current))
        frame = sets[-1][camera].frame
        if frame.frozen:
            return ViewFeatures(camera, CameraState.FROZEN, frame.stamp_ns)
        current = self._frames[_key(frame)]
        if current is None:
            return ViewFeatures(camera, CameraState.INVALID, frame.stamp_ns)
        first = window.slots - len(window.sets)  # at a cold start the oldest slots are empty
        features, slots, egos = [], [], []
        seen: set[FrameKey] = set()
        for slot, shown in enumerate(sets, start=first):
            if camera not in shown:
                continue
            past = shown[camera]
            encoded = self._frames.get(_key(past.frame))
            # A frame that several sets show stands where it came first. A compressed image shows its size when decoded:
            # history of another size has another token grid.
            if _key(past.frame) not in seen and encoded is not None and encoded.features.grid == current.features.grid:
                seen.add(_key(past.frame))
                features.append(encoded.features)
                slots.append(slot)
                egos.append(past.ego)
        note = self._calibration_note(camera, current.size)
        state = CameraState.MISCALIBRATED if note else CameraState.OK
        return ViewFeatures(
            camera, state, frame.stamp_ns, tuple(features), tuple(slots), tuple(egos), pictures.get(_key(frame)), note
        )

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


def _state_without_frame(camera: str, current: FrameSet) -> CameraState:
    if camera in current.mixed:
        return CameraState.INVALID
    return CameraState.STALE if camera in current.stale else CameraState.MISSING


def _frozen(frame: CameraFrame) -> str:
    return (
        f"camera '{frame.camera}' sends the same image again and again under new stamps: its view is left out; restart"
        ' the camera, or set cameras.frozen_after_ms to 0 for a simulator without noise'
    )


def _max_pixels(model: CameraModel, given: int) -> int:
    """The most pixels that an image of a camera may have; ``given`` is cameras.max_pixels."""
    return given or FAR_LARGER * math.prod(model.whole or (model.width, model.height))


def _key(frame: CameraFrame) -> FrameKey:
    return frame.camera, frame.stamp_ns
