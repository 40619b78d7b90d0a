"""Questions between ticks: answered from what a tick has prefilled, one token a tick where newer sets always wait.

A question about the whole window stands behind the prompt of the tick, as the hint's does, and costs no prefill. One
about some cameras, or without the history, takes a prefill of its own from the same features and keep masks. That
cannot be interrupted, so it is begun only while no newer set waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import is_not
from threading import Event

from stprune_ros.core.types import Answer, EgoState, Status
from stprune_ros.errors import StpruneError, listed, one_line
from stprune_ros.inference.describer import Leave, status_of
from stprune_ros.inference.question import IN_WORK, NO_GAP, Ask, Reply, cut_short
from stprune_ros.inference.stages import StageClock
from stprune_ros.vlm.backend import Backend, Context, Generated, Text
from stprune_ros.vlm.parsing import clean_text
from stprune_ros.vlm.prompt import Prompt, View


@dataclass(frozen=True, slots=True)
class Scene:
    """What a tick leaves for questions: its answer, its prefilled prompt, and what that was made of."""

    answer: Answer
    context: Context
    views: Sequence[View]
    ego: EgoState | None
    degraded: bool


@dataclass(slots=True)
class _Draft:
    """An answer in progress."""

    ask: Ask
    scene: Scene
    text: Text
    clock: StageClock
    tokens: int = field(default=0)


class Asker:
    """Answers one question at a time. One thread at a time.

    ``make_room`` is called before a text is begun, for a backend writes one at a time; ``free`` after a failure that is
    no StpruneError.
    """

    def __init__(
        self,
        backend: Backend,
        prompt: Prompt,
        make_room: Callable[[], object],
        free: Callable[[], object],
        synchronize: Callable[[], object] | None,
    ) -> None:
        self._backend, self._prompt, self._make_room, self._free = backend, prompt, make_room, free
        self._synchronize = synchronize
        self._draft: _Draft | None = None

    def go_on(
        self, ask: Ask | None, scene: Scene | None, max_new_tokens: int, cancel: Event | None, leave: Leave | None
    ) -> bool:
        """Begin or go on with the answer in a tick that has left ``scene``; whether the tick was used for it.

        It ends by itself; where ``leave`` says that a newer set waits it goes on in the next tick. Raises nothing: what
        fails is said to whoever asked.
        """
        if self._draft is not None and (self._draft.ask is not ask or self._draft.ask.is_over):
            self.drop()
        if ask is None or ask.is_over or (scene is None and self._draft is None):
            return False
        waits = leave if leave is not None else lambda: False
        try:
            if self._draft is None:
                assert scene is not None
                self._begin(ask, scene, max_new_tokens, waits)
            if self._draft is not None:
                self._write(self._draft, cancel, waits)
        except Exception as error:
            self._failed(ask, scene, error)
        return True

    def drop(self) -> None:
        """Give the text in progress up, if there is one; the question may begin anew."""
        if self._draft is not None:
            self._draft.text.close()
            self._draft = None

    def _begin(self, ask: Ask, scene: Scene, max_new_tokens: int, waits: Leave) -> None:
        """Score the candidates, or begin a text; neither where that is refused, has to wait, or would come too late."""
        if _ended_late(ask, scene):
            return
        question = ask.question
        try:
            self._backend.check_candidates(question.text, question.candidates)
        except StpruneError as error:
            ask.finish(Reply(Status.NO_HINT, str(error), answer=scene.answer))
            return
        views = asked_views(scene.views, question.cameras, question.current_only)
        if question.cameras and not any(view.frames for view in views):
            reason = f'camera {listed(question.cameras)} has no usable frame: ask about another one'
            ask.finish(Reply(Status.NO_HINT, reason, answer=scene.answer))
            return
        clock, context = StageClock(self._synchronize), scene.context
        if len(views) < len(scene.views) or any(map(is_not, views, scene.views)):
            if waits():
                ask.waits_for = NO_GAP
                return
            ask.waits_for = IN_WORK
            with clock.stage('prefill'):
                context = self._backend.prefill(self._prompt.system, self._prompt.content(views, scene.ego))
            if _ended_late(ask, scene):
                return
        ask.waits_for = IN_WORK
        if question.candidates:
            with clock.stage('score'):
                scores = self._backend.score(context, question.text, question.candidates)
            ask.finish(self._scored(ask, scene, scores, clock))
            return
        self._make_room()
        with clock.stage('write'):
            text = self._backend.begin(context, question.text, max_new_tokens)
        self._draft = _Draft(ask, scene, text, clock)

    def _write(self, draft: _Draft, cancel: Event | None, waits: Leave) -> None:
        """At least one token, and further ones while no newer set waits."""
        entered, ask = draft.tokens, draft.ask

        def pause(tokens: int) -> bool:
            if tokens > draft.tokens:
                draft.tokens = tokens
                ask.tell(self._so_far(draft))
            return (cancel is not None and cancel.is_set()) or (tokens > entered and waits())

        with draft.clock.stage('write'):
            generated = draft.text.write(ask.deadline, ask.cancel, pause)
        if generated is not None:
            self._draft = None
            ask.finish(self._written(draft, generated))

    def _failed(self, ask: Ask, scene: Scene | None, error: Exception) -> None:
        answer = self._draft.scene.answer if self._draft is not None else scene.answer if scene is not None else None
        self.drop()
        sentence = f'the answer failed with {type(error).__name__}: {one_line(error)}'
        ask.finish(Reply(Status.ERROR, str(error) if isinstance(error, StpruneError) else sentence, answer=answer))
        if not isinstance(error, StpruneError):
            self._free()

    def _so_far(self, draft: _Draft) -> Reply:
        """The words up to now, as they are said where nothing follows before the deadline."""
        text, _ = clean_text(draft.text.so_far())
        reason = cut_short(draft.ask.question.deadline_s)
        words = Reply(Status.TIMEOUT, reason, text, True, (), draft.tokens)
        return self._judged(words, draft.scene, draft.clock)

    def _written(self, draft: _Draft, generated: Generated) -> Reply:
        text, status = clean_text(generated.text)
        reason = 'the model wrote nothing that can be shown' if status == Status.INVALID else generated.note
        if generated.timed_out:
            status = Status.TIMEOUT
            reason = cut_short(draft.ask.question.deadline_s) if text else draft.ask.no_word
        reply = Reply(status, reason, text, not generated.finished, (), generated.tokens)
        return self._judged(reply, draft.scene, draft.clock)

    def _scored(self, ask: Ask, scene: Scene, scores: Sequence[float], clock: StageClock) -> Reply:
        if not all(map(math.isfinite, scores)):
            return self._judged(Reply(Status.INVALID, 'the model gave candidates no probability'), scene, clock)
        best = ask.question.candidates[scores.index(max(scores))]
        return self._judged(Reply(Status.OK, text=best, probabilities=tuple(map(math.exp, scores))), scene, clock)

    def _judged(self, reply: Reply, scene: Scene, clock: StageClock) -> Reply:
        """The reply with what it came from; a model with random weights has said nothing."""
        status, reason = status_of(reply.status, scene.degraded, late=False), reply.reason
        info, notes = self._backend.info, scene.answer.notes
        if not info.trained:
            reply = replace(reply, text='')  # nor does anybody get to see words of it
            status, reason = Status.INVALID, f"model '{info.model_id}' has random weights: its answers mean nothing"
        elif status == Status.DEGRADED and not reason:
            reason = f'the input was incomplete: {"; ".join(notes)}'
        return replace(reply, status=status, reason=reason, stage_ms=dict(clock.stage_ms), answer=scene.answer)


def _ended_late(ask: Ask, scene: Scene) -> bool:
    """End a question whose deadline has passed before there was a word; whether it was so."""
    is_late = time.monotonic() >= ask.deadline
    if is_late:
        ask.finish(Reply(Status.TIMEOUT, ask.no_word, answer=scene.answer))
    return is_late


def asked_views(views: Sequence[View], cameras: Sequence[str], current_only: bool) -> list[View]:
    """The views of a window that a question is about, with their newest frame only or all of them."""
    chosen = [view for view in views if not cameras or view.camera in cameras]
    if not current_only:
        return chosen
    return [replace(view, frames=view.frames[-1:]) if len(view.frames) > 1 else view for view in chosen]
