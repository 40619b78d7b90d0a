"""One tick from end to end: a window of frame sets in, an answer out. Used by the node and by replay alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

import numpy as np
import torch

from stprune_ros.core.motion import static_flow
from stprune_ros.core.rig import CameraRig
from stprune_ros.core.stream import Roles
from stprune_ros.core.types import (
    Answer,
    Behavior,
    CameraFrame,
    CameraState,
    Choice,
    EgoState,
    Status,
    ViewReport,
    Window,
)
from stprune_ros.errors import StpruneError
from stprune_ros.inference.blank import blank_answer
from stprune_ros.inference.governor import Cost, Governor, Limits
from stprune_ros.pruning.pruner import SpatioTemporalPruner
from stprune_ros.pruning.selection import warm_up
from stprune_ros.pruning.similarity import SimilarityCache
from stprune_ros.pruning.view_tokens import PruningConfig, ViewTokens
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend, Context, ImageFeatures, VisualFrame
from stprune_ros.vlm.parsing import Hint, clean_text, read_hint
from stprune_ros.vlm.prompt import Prompt, View

STAGES = ('decode', 'encode', 'prune', 'prefill', 'hint', 'describe')

Key = tuple[str, int]  # camera, stamp_ns


@dataclass
class _View:
    """What one view brings to the tick: frames that could be used, oldest first, and their places in the history."""

    camera: str
    state: CameraState
    stamp_ns: int
    features: list[ImageFeatures]
    slots: tuple[int, ...]
    egos: tuple[EgoState | None, ...] = ()


class Pipeline:
    """Decodes and encodes what is new, prunes, and asks the model. One thread at a time.

    ``decode`` turns a CameraFrame into RGB uint8 (height, width, 3) and says by how much it reduced the sides, which it
    may do for a model that reduces pictures to a given number of pixels. It raises StpruneError for a broken image.
    ``settings`` may be replaced between ticks (dynamic parameters).
    """

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        rig: CameraRig,
        prompt: Prompt,
        decode: Callable[[CameraFrame, int], tuple[np.ndarray, int]],
    ) -> None:
        self.settings = settings
        self.backend = backend
        self.rig = rig
        self.roles = Roles.of(settings, rig)
        self.prompt = prompt
        self._decode = decode
        self._features: dict[Key, ImageFeatures | None] = {}  # frames of the last window; None: could not be decoded
        self._similarities = SimilarityCache()
        self._governor = Governor()
        self._sizes_said: set[str] = set()
        warm_up()

    def run(
        self,
        window: Window,
        *,
        wait_ms: float = 0.0,
        cancel: Event | None = None,
        on_hint: Callable[[Answer], None] | None = None,
    ) -> Answer:
        """Answer for the current set of ``window``; ``on_hint`` gets it as soon as the hint is known, before the text.

        ``wait_ms`` is the age of the set, which counts against a latency target. A set without a critical camera is not
        inferred: status NO_HINT. ``cancel`` ends the tick early, NO_HINT too.
        Raises what the backend raises when it fails; the caches are then still consistent.
        """
        clock = _StageClock()
        started = time.monotonic()
        deadline_s = self.settings['inference.deadline_ms'] / 1e3
        deadline = started + deadline_s if deadline_s else None
        notes: list[str] = []

        views = self._views(window, clock, notes)
        answer = replace(
            blank_answer(Status.UNKNOWN, window, self.settings, self.backend.info, self.prompt.id),
            views=tuple(ViewReport(view.camera, view.state, view.stamp_ns) for view in views),
            wait_ms=wait_ms,
        )
        lost = [view.camera for view in views if view.camera in self.roles.critical and view.state != CameraState.OK]
        if lost:
            notes.append(f'nothing was inferred: critical camera {", ".join(lost)} has no usable frame')
            status = Status.NO_HINT
            return replace(
                answer, status=status, description_status=status, notes=tuple(notes), stage_ms=clock.stage_ms
            )

        spent_ms = wait_ms + _ms_since(started)
        choice = self._choose(views, spent_ms)
        answer = replace(answer, choice=choice, keep_ratio=choice.ratio if choice else answer.keep_ratio)
        with clock.stage('prune'):
            kept = self._prune(views, window.slots, answer.keep_ratio)
        with clock.stage('prefill'):
            content = self.prompt.content(self._prompt_views(views, kept), window.current.ego)
            context = self.backend.prefill(self.prompt.system, content)
        answer = replace(
            answer, views=_reports(views, kept), tokens_text=context.tokens_text, stage_ms=dict(clock.stage_ms)
        )

        degraded = self._degradation(window, views, notes)
        if choice is not None and choice.misses:
            notes.append(_too_slow(choice))
        if _over(deadline) or _is_set(cancel):
            self._learn(answer, spent_ms, wait_ms + _ms_since(started))
            status = Status.NO_HINT if _is_set(cancel) else Status.TIMEOUT
            return replace(
                answer, status=status, description_status=status, notes=tuple(notes), stage_ms=clock.stage_ms
            )
        with clock.stage('hint'):
            hint = self._hint(context)
        answer = replace(answer, hint_ms=_ms_since(started))
        self._learn(answer, spent_ms, answer.source_to_hint_ms)
        status = _status(hint.status, degraded, late=_over(deadline))
        answer = replace(
            answer,
            status=status,
            behavior=hint.behavior if status in (Status.OK, Status.DEGRADED) else Behavior.UNKNOWN,
            distribution=hint.distribution,
            confidence=hint.confidence,
            confidence_source=hint.confidence_source,
            notes=tuple(notes),
            stage_ms=dict(clock.stage_ms),
        )
        if on_hint is not None:
            on_hint(answer)
        if not self.settings['inference.describe'] or _is_set(cancel):
            return replace(answer, description_status=Status.NO_HINT)

        with clock.stage('describe'):
            generated = self.backend.generate(
                context, self.prompt.describe_question, self.settings['inference.max_new_tokens'], deadline, cancel
            )
        text, text_status = clean_text(generated.text)
        return replace(
            answer,
            description=text,
            description_status=_status(
                text_status if self.backend.info.trained else Status.INVALID, degraded, generated.timed_out
            ),
            truncated=not generated.finished,
            stage_ms=clock.stage_ms,
        )

    def free(self) -> None:
        """Drop every cached feature and similarity, here and in the backend."""
        self._features.clear()
        self._similarities.clear()
        self.backend.free()

    def _views(self, window: Window, clock: _StageClock, notes: list[str]) -> list[_View]:
        """Features of every usable frame of the window, encoding only those that the last tick did not have."""
        frames = [frame for frame_set in window.sets for frame in frame_set.frames.values()]
        current = {frame.camera for frame in window.current.frames.values()}
        wanted = {_key(frame): frame for frame in frames if frame.camera in current}
        # Also of a camera that is silent just now: it will come back.
        known = {key: self._features[key] for key in map(_key, frames) if key in self._features}
        new = [frame for key, frame in wanted.items() if key not in known]
        with clock.stage('decode'):
            images = [(frame, self._image(frame, notes)) for frame in new]
        good = [(frame, image) for frame, image in images if image is not None]
        with clock.stage('encode'):
            encoded = self.backend.encode([image for _, image in good]) if good else []
        known.update({_key(frame): None for frame, image in images if image is None})
        known.update({_key(frame): features for (frame, _), features in zip(good, encoded)})
        self._features = known  # nothing older than this window is ever asked for again
        return [self._view(camera, window) for camera in window.current.cameras]

    def _view(self, camera: str, window: Window) -> _View:
        frame = window.current.frames.get(camera)
        if frame is None:
            stale = camera in window.current.stale
            return _View(camera, CameraState.STALE if stale else CameraState.MISSING, 0, [], ())
        current = self._features[_key(frame)]
        if current is None:
            return _View(camera, CameraState.INVALID, frame.stamp_ns, [], ())
        first = window.slots - len(window.sets)
        usable = []
        for slot, frame_set in enumerate(window.sets, start=first):
            past = frame_set.frames.get(camera)
            features = self._features[_key(past)] if past is not None else None
            # A compressed image shows its size when decoded: history of another size has another token grid.
            if features is not None and features.grid == current.grid:
                usable.append((features, slot, frame_set.ego))
        found, slots, egos = zip(*usable)
        return _View(camera, CameraState.OK, frame.stamp_ns, list(found), slots, egos)

    def _image(self, frame: CameraFrame, notes: list[str]) -> np.ndarray | None:
        try:
            image, reduced_by = self._decode(frame, self.backend.model_pixels)
        except StpruneError as error:
            notes.append(f"image of camera '{frame.camera}' is left out: {error}")
            return None
        model = self.rig.cameras[frame.camera]
        height, width = image.shape[:2]
        if (
            abs(width * model.height - height * model.width) > 0.02 * width * model.height
            and frame.camera not in self._sizes_said
        ):
            self._sizes_said.add(frame.camera)
            notes.append(
                f"camera_info of camera '{frame.camera}' is for {model.width}x{model.height}, its images are"
                f' {width * reduced_by}x{height * reduced_by}: its overlaps cannot be trusted;'
                ' publish the camera_info that belongs to the images'
            )
        return image

    def _choose(self, views: list[_View], spent_ms: float) -> Choice | None:
        """The keep ratio that the latency target leaves room for; None without a target."""
        limits = Limits(*(self.settings[f'latency.{name}'] for name in ('target_ms', 'keep_min', 'keep_max')))
        if not limits.target_ms:
            return None
        full = sum(math.prod(features.grid) for view in views for features in view.features)
        return self._governor.choose(limits, self.settings['pruning.keep_ratio'], spent_ms, full)

    def _learn(self, answer: Answer, spent_ms: float, until_ms: float) -> None:
        """Let the governor know what the tick took up to the hint, or up to where it was cut."""
        if answer.choice is not None:
            kept, run = answer.tokens_kept, answer.tokens_kept + answer.tokens_text
            prefill_ms = answer.stage_ms['prefill']
            self._governor.observe(Cost(spent_ms, until_ms - spent_ms, prefill_ms, kept, run))

    def _prune(self, views: list[_View], history: int, ratio: float) -> list[torch.Tensor]:
        """Keep masks per view, bool (T, rows, columns)."""
        config = replace(config_of(self.settings), keep_ratio=ratio)
        tokens = [
            view_tokens(
                view.camera,
                view.features,
                view.slots,
                self.rig,
                view.egos,
                overlap=config.calibrated_overlap,
                motion=config.compensate_motion,
            )
            for view in views
        ]
        return SpatioTemporalPruner(config, self._similarities)(tokens, history)

    def _prompt_views(self, views: list[_View], kept: list[torch.Tensor]) -> list[View]:
        return [
            View(
                self.rig.direction(view.camera),
                view.camera,
                [VisualFrame(features, keep.flatten()) for features, keep in zip(view.features, masks)],
            )
            for view, masks in zip(views, kept)
        ]

    def _hint(self, context: Context) -> Hint:
        behaviors = [behavior for behavior, _ in self.prompt.candidates]
        texts = [text for _, text in self.prompt.candidates]
        scores = self.backend.score(context, self.prompt.hint_question, texts)
        hint = read_hint(behaviors, scores)
        return hint if self.backend.info.trained else replace(hint, status=Status.INVALID)

    def _degradation(self, window: Window, views: list[_View], notes: list[str]) -> bool:
        """Whether the input is incomplete; says how in ``notes``."""
        broken = bool(notes)
        for view in views:
            if view.state in (CameraState.MISSING, CameraState.STALE):
                notes.append(f"camera '{view.camera}' has no frame in this set")
        if window.current.ego is None:
            notes.append('no odometry near the frame: the prompt says nothing about ego motion')
        info = self.backend.info
        if not info.trained:
            notes.append(f"model '{info.model_id}' has random weights: its answers mean nothing")
        elif info.domain:
            notes.append(f"model '{info.model_id}' knows only {info.domain}: its answers mean nothing anywhere else")
        return broken or not window.current.full or window.current.ego is None


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
    """The token grid of one view, with what calibration (``overlap``) and odometry (``motion``) know about it."""
    if not features:
        return ViewTokens(camera, torch.zeros(0, 0, 0, 0), ())
    rows, columns = features[0].grid
    tokens = torch.stack([frame.tokens.reshape(rows, columns, -1) for frame in features])
    shared = flow = None
    if overlap:
        left, right = (rig.shared(camera, other, columns) for other in (rig.left(camera), rig.right(camera)))
        shared = (torch.from_numpy(left).to(tokens.device), torch.from_numpy(right).to(tokens.device))
    if motion:
        found = static_flow(rig.cameras[camera], rows, columns, egos)
        flow = torch.from_numpy(found).to(tokens.device, torch.float32)
    return ViewTokens(camera, tokens, slots, shared, flow, frames=tuple(frame.tokens for frame in features))


def config_of(settings: Settings) -> PruningConfig:
    """What `pruning.*` asks for."""

    def value(name: str) -> Any:
        return settings[f'pruning.{name}']

    return PruningConfig(
        method=value('method'),
        keep_ratio=value('keep_ratio'),
        lambda_temporal=value('lambda_temporal'),
        lambda_spatial=value('lambda_spatial'),
        seed=value('seed'),
        compensate_motion=value('compensate_motion'),
        calibrated_overlap=value('calibrated_overlap'),
        one_pays=value('one_pays'),
        skip_frozen=value('skip_frozen'),
        scaled_terms=value('scaled_terms'),
        joint_weights=(value('joint_volatility'), value('joint_recency'), value('joint_common')),
    )


class _StageClock:
    """Disjoint stage times in ms."""

    def __init__(self) -> None:
        self.stage_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stage_ms[name] = self.stage_ms.get(name, 0.0) + (time.perf_counter() - started) * 1e3


def _key(frame: CameraFrame) -> Key:
    return frame.camera, frame.stamp_ns


def _reports(views: list[_View], kept: list[torch.Tensor]) -> tuple[ViewReport, ...]:
    return tuple(
        ViewReport(view.camera, view.state, view.stamp_ns, len(mask), mask.numel(), int(mask.sum()), mask.cpu().numpy())
        for view, mask in zip(views, kept)
    )


def _status(status: Status, degraded: bool, late: bool) -> Status:
    if status == Status.OK and late:
        return Status.TIMEOUT
    return Status.DEGRADED if status == Status.OK and degraded else status


def _too_slow(choice: Choice) -> str:
    about = 10 * math.ceil(choice.expected_ms / 10)  # rounded, so that every tick says the same
    return (
        f"'latency.target_ms' is {choice.target_ms:g}, but even at keep ratio {choice.ratio:g} a hint takes about"
        f' {about} ms: raise it, or lower latency.keep_min, history.frames or model.max_image_pixels'
    )


def _ms_since(started: float) -> float:
    return (time.monotonic() - started) * 1e3


def _over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


def _is_set(cancel: Event | None) -> bool:
    return cancel is not None and cancel.is_set()
