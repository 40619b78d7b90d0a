"""Descriptions at their own pace: when one is begun, and how it goes on between later ticks.

The pace is that of the stamps of frame sets, not of a clock: so a bag gives the same descriptions every time it is
replayed, however long that takes, and the node, given the same sets, the same ones.

A text that is left for a newer tick goes on whenever no newer set waits. Where one always does it would never end; so
each tick writes as much of it as is owed by then (`tokens_owed`). A text is thereby there before the next is due, and
before it has expired, at the mean cost per tick that the period asks for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Event

from stprune_ros.core.types import Answer, Description, Status
from stprune_ros.inference.stages import StageClock
from stprune_ros.settings.settings import Settings, nanoseconds
from stprune_ros.vlm.backend import Backend, Context, Generated, Text
from stprune_ros.vlm.parsing import clean_text

# What became of descriptions: begun, then written (those cut short, too), dropped (cancelled, of another time), failed.
BEGUN, WRITTEN, DROPPED, FAILED = FATES = ('begun', 'written', 'dropped', 'failed')
# Of the time for which a description is valid: by then it is there, which leaves the other half for the last tick.
VALID_SHARE = 0.5

Leave = Callable[[], bool]  # whether a newer set waits


def is_due(stamp_ns: int, begun_ns: int | None, period_ns: int) -> bool:
    """Whether a set may be described where the last that was has the stamp ``begun_ns``; time may have gone back."""
    return begun_ns is None or stamp_ns - begun_ns >= period_ns or stamp_ns < begun_ns


def tokens_owed(limit: int, since_ns: int, span_ns: int) -> int:
    """How many of ``limit`` tokens should be there ``since_ns`` after a text's own set; all from ``span_ns`` on.

    A text that is shorter than ``limit`` is there earlier.
    """
    return limit if since_ns >= span_ns else -(-limit * max(since_ns, 0) // span_ns)


@dataclass(slots=True)
class _Draft:
    """A text in progress; ``answer`` is that of its set, ``spent_ms`` its processing time up to the text."""

    answer: Answer
    text: Text
    limit: int
    degraded: bool
    spent_ms: float
    describe_ms: float = 0.0


class Describer:
    """Writes one description at a time. One thread at a time.

    ``counts`` says what became of them, by FATES; ``failed`` is the answer whose text failed in this tick. While it is
    ``wanted``, which any thread may set, the next set is described, whatever the period is.
    """

    def __init__(self, backend: Backend, question: str, synchronize: Callable[[], object] | None) -> None:
        self.counts: Counter[str] = Counter()
        self.failed: Answer | None = None
        self.wanted = False
        self._backend, self._question, self._synchronize = backend, question, synchronize
        self._begun_ns: int | None = None  # stamp of the set that was described last
        self._draft: _Draft | None = None

    def is_due(self, stamp_ns: int, settings: Settings) -> bool:
        """Whether a set with this stamp is to be described."""
        period_ns = nanoseconds(settings.inference.describe_period_ms)
        return settings.inference.describe and (self.wanted or is_due(stamp_ns, self._begun_ns, period_ns))

    def begin(self, answer: Answer, context: Context, degraded: bool, spent_ms: float, settings: Settings) -> None:
        """Begin the text of an answer whose hint is out, in place of one in progress.

        ``spent_ms`` is the processing time of its tick so far. Raises what the backend raises.
        """
        self.drop()
        self.wanted = False
        self._begun_ns = answer.stamp_ns
        self.counts[BEGUN] += 1
        limit, clock = settings.inference.max_new_tokens, StageClock(self._synchronize)
        try:
            with clock.stage('describe'):
                text = self._backend.begin(context, self._question, limit)
        except BaseException:
            self._fail(answer)
            raise
        self._draft = _Draft(answer, text, limit, degraded, spent_ms, clock.stage_ms['describe'])

    def go_on(self, stamp_ns: int, settings: Settings, cancel: Event | None, leave: Leave | None) -> Answer | None:
        """Go on with the text in progress in a tick whose set has this stamp; the answer with it once it is written.

        None while it is not, and where it was dropped: ``cancel`` is set, time went back, or descriptions were switched
        off. Raises what the backend raises; the text is then gone.
        """
        draft, self.failed = self._draft, None
        if draft is None:
            return None
        since_ns, limits = stamp_ns - draft.answer.stamp_ns, settings.inference
        if not limits.describe or since_ns < 0 or _is_set(cancel):
            self.drop()
            return None
        period_ns = nanoseconds(limits.describe_period_ms)
        span_ns = min(period_ns, round(VALID_SHARE * nanoseconds(settings.output.valid_for_ms)))
        owed = tokens_owed(draft.limit, since_ns, span_ns)
        pause = None if leave is None or not period_ns else lambda tokens: tokens >= owed and leave()
        # The time of other ticks is none of its own.
        left_ms = limits.deadline_ms - draft.spent_ms - draft.describe_ms
        clock = StageClock(self._synchronize)
        deadline = clock.deadline_s(max(left_ms, 1e-3)) if limits.deadline_ms else None
        try:
            with clock.stage('describe'):
                generated = draft.text.write(deadline, cancel, pause)
        except BaseException:
            self._draft = None
            self._fail(draft.answer)
            raise
        draft.describe_ms += clock.stage_ms['describe']
        if generated is None:
            return None
        if _is_set(cancel):
            self.drop()
            return None
        self._draft = None
        self.counts[WRITTEN] += 1
        return self._described(draft, generated)

    def drop(self) -> None:
        """Give the text in progress up, if there is one."""
        if self._draft is not None:
            self._draft.text.close()
            self._draft = None
            self.counts[DROPPED] += 1

    def postpone(self) -> None:
        """Give the text in progress up, if there is one, and begin another as soon as there is room for it."""
        self.wanted = self.wanted or self._draft is not None
        self.drop()

    def _fail(self, answer: Answer) -> None:
        self.counts[FAILED] += 1
        self.failed = answer

    def _described(self, draft: _Draft, generated: Generated) -> Answer:
        text, status = clean_text(generated.text)
        if generated.timed_out and not text:  # not a word yet, which is no fault of the model
            status = Status.TIMEOUT
        if not self._backend.info.trained:
            status = Status.INVALID
        description = Description(
            status_of(status, draft.degraded, generated.timed_out), text, not generated.finished, generated.note
        )
        answer = draft.answer
        timing = replace(answer.timing, stage_ms={**answer.timing.stage_ms, 'describe': draft.describe_ms})
        notes = (*answer.notes, *filter(None, [generated.note]))
        return replace(answer, description=description, timing=timing, notes=notes)


def status_of(status: Status, degraded: bool, late: bool) -> Status:
    """A status as it may go out, of what came from incomplete input or too late."""
    if status == Status.OK and late:
        return Status.TIMEOUT
    return Status.DEGRADED if status == Status.OK and degraded else status


def _is_set(cancel: Event | None) -> bool:
    return cancel is not None and cancel.is_set()
