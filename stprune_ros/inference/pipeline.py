"""One tick: a window of frame sets in, an answer out. Node and replay run it alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Event

import torch

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.stream import CameraRoles
from stprune_ros.core.types import (
    Answer,
    Behavior,
    CameraState,
    Choice,
    Description,
    Hint,
    Provenance,
    Status,
    Timing,
    ViewReport,
    Window,
)
from stprune_ros.errors import listed
from stprune_ros.inference.asker import Asker, Scene
from stprune_ros.inference.describer import Describer, Leave, status_of
from stprune_ros.inference.features import Decode, FeatureCache, ViewFeatures, view_tokens
from stprune_ros.inference.governor import Cost, Governor
from stprune_ros.inference.provenance import provenance_of
from stprune_ros.inference.question import Ask
from stprune_ros.inference.stages import StageClock
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.explain import explain
from stprune_ros.pruning.pruner import SpatioTemporalPruner
from stprune_ros.pruning.selection import free_recordings
from stprune_ros.pruning.selection import warm_up as warm_up  # also for whoever waits before the first tick
from stprune_ros.pruning.similarity import SimilarityCache
from stprune_ros.pruning.view_tokens import ViewTokens
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend, Context, VisualFrame
from stprune_ros.vlm.device import synchronizer
from stprune_ros.vlm.parsing import read_hint
from stprune_ros.vlm.prompt import Prompt, View


@dataclass(frozen=True, slots=True)
class _Selection:
    """What was selected from in a tick, and what was kept: enough to explain it."""

    tokens: list[ViewTokens]
    kept: list[torch.Tensor]
    config: PruningConfig
    history: int


class Pipeline:
    """Encodes what is new, prunes, asks the model for a hint and then for a description. One thread at a time.

    ``describer`` holds a description that was left for a newer tick. ``settings`` may be replaced between ticks
    (dynamic parameters).
    """

    def __init__(self, settings: Settings, backend: Backend, rig: CameraRig, prompt: Prompt, decode: Decode) -> None:
        self.settings = settings
        self.backend = backend
        self.rig = rig
        self.calibration_fault = (
            ''  # why the ring is not what it should be, set by the owner: every answer is then DEGRADED
        )
        self.roles = CameraRoles.from_settings(settings, rig)
        self.prompt = prompt
        side = self.roles.side if settings.model.side_image_pixels else ()
        self._features = FeatureCache(backend, rig, decode, settings.cameras, side)
        self._similarities = SimilarityCache()
        self._governor = Governor()
        self._selection: _Selection | None = None  # of the last tick, where its pictures were asked for
        self._synchronize = synchronizer(backend.info.device)
        self.describer = Describer(backend, prompt.describe_question, self._synchronize)
        self._asker = Asker(backend, prompt, self.describer.postpone, self.free, self._synchronize)
        warm_up(backend.info.device)

    def run(
        self,
        window: Window,
        *,
        wait_ms: float = 0.0,
        cancel: Event | None = None,
        on_hint: Callable[[Answer], None] | None = None,
        on_text: Callable[[Answer], None] | None = None,
        leave: Leave | None = None,
        ask: Ask | None = None,
        with_images: bool = False,
    ) -> Answer:
        """Answer for the current set of ``window``; ``on_hint`` gets it as soon as the hint is known, before any text.

        ``wait_ms`` is the age of the set, which counts against a latency target. A set without a critical camera is not
        inferred: status NO_HINT. ``cancel`` ends the tick early, NO_HINT too. ``with_images`` leaves the pictures that
        were decoded in the answer's views, and here what `explained` needs.
        With ``inference.describe_period_ms`` not every set is described, and a text is left while ``leave`` says that a
        newer set waits; later ticks go on with it. ``on_text`` gets each answer whose description is there, in the
        order of their stamps: that of this set, or of an earlier one. ``ask`` is a question that is to be answered: a
        tick that goes to it leaves descriptions for the next.
        Raises what the backend raises when it fails; the caches are then still consistent.
        """
        clock, self._selection = StageClock(self._synchronize), None
        answer, scene = self._infer(window, wait_ms, cancel, with_images, clock)
        if on_hint is not None:
            on_hint(answer)
        spent_ms = clock.elapsed_ms  # on this set: what follows may be for another one
        describer, settings, stamp_ns = self.describer, self.settings, window.current.stamp_ns
        if self._asker.go_on(ask, scene, settings.inference.max_new_tokens, cancel, leave):
            return replace(answer, description=Description(Status.NO_HINT))
        described = describer.go_on(stamp_ns, settings, cancel, leave)
        if described is not None and on_text is not None:
            on_text(described)
        if not describer.is_due(stamp_ns, settings) or _is_set(cancel):
            return replace(answer, description=Description(Status.NO_HINT))
        if scene is not None:
            describer.begin(answer, scene.context, scene.degraded, spent_ms, settings)
            described = describer.go_on(stamp_ns, settings, cancel, leave)
            if described is None:
                return replace(answer, description=Description(Status.NO_HINT))
            answer = described
        if on_text is not None:
            on_text(answer)
        return answer

    def _infer(
        self, window: Window, wait_ms: float, cancel: Event | None, with_images: bool, clock: StageClock
    ) -> tuple[Answer, Scene | None]:
        """The answer up to its hint, and what it was read from where there may be a text."""
        deadline_ms = self.settings.inference.deadline_ms
        views, notes = self._features.update(window, clock, with_images)
        notes += [camera.reason for camera in self.rig.unusable]
        absent = [view.camera for view in views if not view.state.has_frame]
        absent += [camera.name for camera in self.rig.unusable]
        lost = [camera for camera in absent if camera in self.roles.critical]
        if lost:
            notes.append(f'nothing was inferred: critical camera {listed(lost)} has no usable frame')
            reports = self._reports([view.report() for view in views])
            timing = Timing(clock.stage_ms, wait_ms)
            answer = Answer.without_result(Status.NO_HINT, window, self._provenance(), reports, timing, notes)
            return answer, None

        spent_ms = wait_ms + clock.elapsed_ms
        choice = self._choose(views, spent_ms)
        ratio = choice.ratio if choice is not None else self.settings.pruning.keep_ratio
        with clock.stage('prune'):
            selection = self._prune(views, window.slots, ratio)
        kept, self._selection = selection.kept, selection if with_images else None
        with clock.stage('prefill'):
            shown = self._prompt_views(views, kept)
            content = self.prompt.content(shown, window.current.ego)
            context = self.backend.prefill(self.prompt.system, content)

        reports = self._reports([view.report(keep.numpy()) for view, keep in zip(views, kept)])
        provenance = replace(self._provenance(), keep_ratio=ratio, tokens_text=context.tokens_text)
        notes += self._notes(window, views, choice)
        degraded = bool(self.calibration_fault or self.rig.unusable) or _is_degraded(window, views)
        cancelled = _is_set(cancel)
        if cancelled or clock.past(deadline_ms):
            status = Status.NO_HINT if cancelled else Status.TIMEOUT
            timing = Timing(dict(clock.stage_ms), wait_ms, choice=choice)
            answer = Answer.without_result(status, window, provenance, reports, timing, notes)
            self._learn(answer, spent_ms, wait_ms + clock.elapsed_ms)
            return answer, None

        with clock.stage('hint'):
            hint = self._hint(context)
        answer = Answer(
            stamp_ns=window.current.stamp_ns,
            sequence=window.current.sequence,
            hint=_published(hint, degraded, clock.past(deadline_ms)),
            description=Description(Status.UNKNOWN),  # until it is written
            provenance=provenance,
            views=reports,
            timing=Timing(dict(clock.stage_ms), wait_ms, clock.elapsed_ms, choice),
            notes=tuple(notes),
        )
        self._learn(answer, spent_ms, answer.timing.source_to_hint_ms)
        return answer, Scene(answer, context, shown, window.current.ego, degraded)

    def explained(self, answer: Answer) -> Answer:
        """The answer of the last tick, run ``with_images``, with the reasons of every token in its views.

        Apart from the tick itself, so that no hint waits for it.
        """
        if self._selection is None:
            return answer
        found, self._selection = self._selection, None
        reasons = explain(found.tokens, found.kept, found.config, found.history, self._similarities)
        by_camera = {view.name: one.numpy() for view, one in zip(found.tokens, reasons)}
        views = (replace(view, reasons=by_camera.get(view.camera)) for view in answer.views)
        return replace(answer, views=tuple(views))

    def free(self) -> None:
        """Drop every cached feature, similarity and recording, here and in the backend, and a text in progress."""
        self.describer.drop()
        self._asker.drop()
        self._selection = None
        self._features.clear()
        self._similarities.clear()
        free_recordings()
        self.backend.free()

    def _provenance(self) -> Provenance:
        return provenance_of(self.settings, self.backend.info, self.prompt)

    def _reports(self, views: Sequence[ViewReport]) -> tuple[ViewReport, ...]:
        """The views of an answer: those of the ring, then the cameras whose calibration cannot be used."""
        return *views, *(ViewReport(camera.name, CameraState.INVALID) for camera in self.rig.unusable)

    def _choose(self, views: Sequence[ViewFeatures], spent_ms: float) -> Choice | None:
        """The keep ratio that the latency target leaves room for; None without a target."""
        if not self.settings.latency.target_ms:
            return None
        tokens_full = sum(math.prod(features.grid) for view in views for features in view.features)
        return self._governor.choose(self.settings.latency, self.settings.pruning.keep_ratio, spent_ms, tokens_full)

    def _learn(self, answer: Answer, spent_ms: float, until_ms: float) -> None:
        """Let the governor know what the tick took up to the hint, or up to where it was cut."""
        if answer.timing.choice is not None:
            kept, run = answer.tokens_kept, answer.tokens_kept + answer.provenance.tokens_text
            prefill_ms = answer.timing.stage_ms['prefill']
            self._governor.observe(Cost(spent_ms, until_ms - spent_ms, prefill_ms, kept, run))

    def _prune(self, views: Sequence[ViewFeatures], history: int, ratio: float) -> _Selection:
        """Keep masks per view, bool (T, rows, columns), on the host: whoever reads them need not wait for a GPU."""
        config = replace(self.settings.pruning.for_model(self.backend.info.joint_common), keep_ratio=ratio)
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
        masks = SpatioTemporalPruner(config, self._similarities)(tokens, history)
        return _Selection(tokens, [mask.cpu() for mask in masks], config, history)

    def _prompt_views(self, views: Sequence[ViewFeatures], kept: Sequence[torch.Tensor]) -> list[View]:
        return [
            View(
                self.rig.direction(view.camera),
                view.camera,
                [VisualFrame(features, keep.flatten()) for features, keep in zip(view.features, masks)],
            )
            for view, masks in zip(views, kept)
        ]

    def _hint(self, context: Context) -> Hint:
        texts = [text for _, text in self.prompt.candidates]
        scores = self.backend.score(context, self.prompt.hint_question, texts)
        hint = read_hint(self.prompt.behaviors, scores, self.prompt.calibration)
        return hint if self.backend.info.trained else replace(hint, status=Status.INVALID)

    def _notes(self, window: Window, views: Sequence[ViewFeatures], choice: Choice | None) -> list[str]:
        """What to say about incomplete input, a model whose answers mean little, and a target out of reach."""
        notes = [*filter(None, [self.calibration_fault]), *(view.note for view in views if view.note)]
        for view in views:
            if view.state in (CameraState.MISSING, CameraState.STALE):
                notes.append(f"camera '{view.camera}' has no frame in this set")
        if window.current.ego is None:
            notes.append('no usable odometry near the frame: the prompt says nothing about ego motion')
        info = self.backend.info
        if not info.trained:
            notes.append(f"model '{info.model_id}' has random weights: its answers mean nothing")
        elif info.domain:
            notes.append(f"model '{info.model_id}' knows only {info.domain}: its answers mean nothing anywhere else")
        if choice is not None and choice.misses:
            notes.append(_too_slow(choice))
        return notes


def _is_degraded(window: Window, views: Sequence[ViewFeatures]) -> bool:
    """Whether the input is incomplete or cannot be trusted: a fact about this tick, as long as it lasts."""
    return window.current.ego is None or any(view.state != CameraState.OK for view in views)


def _published(hint: Hint, degraded: bool, late: bool) -> Hint:
    """The hint as it may go out: without a behavior unless its status is valid."""
    status = status_of(hint.status, degraded, late)
    return replace(hint, status=status, behavior=hint.behavior if status.is_valid else Behavior.UNKNOWN)


def _too_slow(choice: Choice) -> str:
    about = 10 * math.ceil(choice.expected_ms / 10)  # rounded, so that every tick says the same
    return (
        f"'latency.target_ms' is {choice.target_ms:g}, but even at keep ratio {choice.ratio:g} a hint takes about"
        f' {about} ms: raise it, or lower latency.keep_min, history.frames or model.max_image_pixels'
    )


def _is_set(cancel: Event | None) -> bool:
    return cancel is not None and cancel.is_set()
