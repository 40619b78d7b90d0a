"""On the worker's thread: one tick, published piece by piece, and what is said where it fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Event
from typing import TYPE_CHECKING

from stprune_ros.core.types import Answer, Description, Status, Window
from stprune_ros.errors import one_line
from stprune_ros.inference.provenance import provenance_of
from stprune_ros.inference.question import Ask
from stprune_ros.ros.health import Health
from stprune_ros.ros.journal import Episode, Journal
from stprune_ros.ros.outputs import Outputs, failure_sentence
from stprune_ros.ros.ros_time import RosTime
from stprune_ros.settings.settings import Settings

if TYPE_CHECKING:
    from stprune_ros.inference.pipeline import Pipeline
    from stprune_ros.vlm.backend import Backend


TICK = 'tick'  # a source of the journal: what is degraded in each


@dataclass(frozen=True, slots=True)
class Tick:
    """A window to infer, with what for and where to report."""

    window: Window
    pipeline: Pipeline
    health: Health


class Ticks:
    """Runs ticks; ``settings`` gives those of the moment, ``newer_waits`` whether a text is to be left for now.

    ``question`` gives what is asked at the moment.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        ros_time: RosTime,
        outputs: Outputs,
        journal: Journal,
        newer_waits: Callable[[], bool],
        question: Callable[[], Ask | None],
    ) -> None:
        self._settings, self._time, self._outputs, self._journal = settings, ros_time, outputs, journal
        self._newer_waits, self._question = newer_waits, question
        self._failures, self._description_failures = Episode(journal), Episode(journal)

    def run(self, tick: Tick, cancel: Event) -> bool:
        """One tick; returns whether its hint is out, and publishes nothing once ``cancel`` is set.

        Raises what the backend raises up to the hint.
        """
        settings, window, pipeline, ask = self._settings(), tick.window, tick.pipeline, self._question()
        pipeline.settings = settings
        pipeline.describer.counts = tick.health.texts
        tick.health.hint_is_out = False
        if not settings.inference.describe or ask is not None:
            tick.health.described = time.monotonic()  # none is missed
        hinted: list[tuple[Answer, Answer]] = []  # as inferred, and as published

        def publish_hint(answer: Answer) -> None:
            published = self._outputs.hint(answer, settings, cancel)
            if published is not None:
                tick.health.hint_is_out = True
                tick.health.published(published.without_images())
                hinted.append((answer, published))

        def publish_text(answer: Answer) -> None:
            published = self._outputs.description(answer, settings, cancel)
            if published is not None:
                self._described(tick.health, published.description)

        now_ns = self._time.now_ns()  # 0: simulated time does not run yet
        wait_ms = max(0.0, (now_ns - window.current.stamp_ns) / 1e6) if now_ns else 0.0
        with_images = self._outputs.picture_wanted
        try:
            answer = pipeline.run(
                window,
                wait_ms=wait_ms,
                cancel=cancel,
                on_hint=publish_hint,
                on_text=publish_text,
                leave=self._newer_waits,
                ask=ask,
                with_images=with_images,
            )
        except BaseException as error:
            if not hinted:
                raise
            self._description_failed(tick, pipeline.describer.failed or hinted[0][0], error, cancel)
            return True
        if not hinted or cancel.is_set():
            return bool(hinted)
        if with_images:
            self._attempt(lambda: self._show(pipeline, answer, settings), 'the picture could not be published')
        published = replace(answer, hint=hinted[0][1].hint)  # with the times of the whole tick
        self._answered(tick.health, published.without_images())
        return True

    def failed(self, tick: Tick, error: BaseException, cancel: Event) -> None:
        """There will be no hint: say so, unless nobody waits for it any more, and go on with empty caches."""
        sentence = failure_sentence(error)
        self._failures.again(sentence)
        if not cancel.is_set():
            backend, prompt = tick.pipeline.backend, tick.pipeline.prompt
            provenance = provenance_of(self._settings(), backend.info, prompt)
            answer = Answer.without_result(Status.ERROR, tick.window, provenance, notes=(sentence,))
            self._attempt(lambda: self._publish(answer, cancel), 'the failure could not be published')
        self.free(tick.pipeline)

    def free(self, holder: Pipeline | Backend) -> None:
        """Empty the caches of a pipeline and its backend, or of a backend; after an error that may fail as well."""
        self._attempt(holder.free, 'caches could not be freed')

    def _answered(self, health: Health, answer: Answer) -> None:
        health.answer = answer
        self._failures.over('inference')
        self._journal.holds(TICK, answer.notes)

    def _described(self, health: Health, description: Description) -> None:
        """A description went out, of this tick's set or of an earlier one."""
        health.described, health.description = time.monotonic(), description.status
        if description.note:
            self._journal.warn(description.note)
        if description.status != Status.NO_HINT:
            self._description_failures.over('the description')
            health.description_failures = 0

    def _description_failed(self, tick: Tick, answer: Answer, error: BaseException, cancel: Event) -> None:
        """The hint of ``answer`` is out and stays what it is; it may be that of an earlier tick."""
        sentence = f'the description failed with {type(error).__name__}: {one_line(error)}'
        self._failures.over('inference')
        self._journal.holds(TICK, answer.notes)
        self._description_failures.again(sentence)
        tick.health.description_failures = self._description_failures.count
        failed = replace(answer, description=Description(Status.ERROR), notes=(*answer.notes, sentence))
        self._attempt(
            lambda: self._outputs.description(failed, self._settings(), cancel), 'the failure could not be published'
        )
        self.free(tick.pipeline)

    def _show(self, pipeline: Pipeline, answer: Answer, settings: Settings) -> None:
        self._outputs.picture(pipeline.explained(answer), pipeline.rig, settings)

    def _publish(self, answer: Answer, cancel: Event) -> None:
        self._outputs.hint(answer, self._settings(), cancel)
        self._outputs.description(answer, self._settings(), cancel)

    def _attempt(self, action: Callable[[], object], otherwise: str) -> None:
        """Handlers of failures must not fail themselves: the thread would end."""
        try:
            action()
        except BaseException as error:
            self._journal.warn(f'{otherwise}: {type(error).__name__}: {one_line(error)}')
