"""A question, what came of it, and the place where whoever asks and whoever answers meet."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event, Lock

from stprune_ros.core.types import Answer, Status
from stprune_ros.errors import StpruneError, listed, plain

MAX_QUESTION, MAX_CANDIDATE = 500, 100  # characters
CANDIDATES = range(2, 17)  # so many may be scored
ANSWERED = (Status.OK, Status.DEGRADED, Status.STALE, Status.TIMEOUT)  # with any other status a text is not read
MAX_DEADLINE_S, DEADLINE_S = 60.0, 10.0  # the longest, and that of a question without one
NOTHING_INFERRED = 'no frame set was inferred in that time'
IN_WORK = 'the model was still at work on it'
NO_GAP = (
    'a newer frame set always waited, and a question about some cameras or without the history takes a prompt of its'
    ' own: ask about the whole window'
)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: of ``cameras`` (none: the whole ring), of the current frames only or with their history.

    With ``candidates`` those are scored, without a text is written. Raises StpruneError where something is out of
    bounds.
    """

    text: str
    cameras: tuple[str, ...] = ()
    current_only: bool = False
    candidates: tuple[str, ...] = ()
    deadline_s: float = DEADLINE_S

    def __post_init__(self) -> None:
        _require_text('the question', self.text, MAX_QUESTION)
        if self.candidates and len(self.candidates) not in CANDIDATES:
            raise StpruneError(
                f'candidates are {len(self.candidates)}: give {CANDIDATES[0]} to {CANDIDATES[-1]}, or none for a text'
            )
        for number, candidate in enumerate(self.candidates):
            _require_text(f'candidate {number + 1}', candidate, MAX_CANDIDATE)
            if candidate in self.candidates[:number]:
                raise StpruneError(f"candidate '{plain(candidate)}' stands there a second time: remove it")
        if not 0 < self.deadline_s <= MAX_DEADLINE_S:
            raise StpruneError(
                f'the deadline is {self.deadline_s:g} s: it must be above 0 and at most {MAX_DEADLINE_S:g} s'
            )
        for camera in self.cameras:
            _require_printable('camera', camera)
        if len({*self.cameras}) < len(self.cameras):
            twice = next(camera for camera, times in Counter(self.cameras).items() if times > 1)
            raise StpruneError(f"camera '{plain(twice)}' stands there a second time: remove it")

    def require_cameras(self, ring: tuple[str, ...]) -> None:
        """Raise StpruneError naming a camera that is not in the ring."""
        for camera in self.cameras:
            if camera not in ring:
                raise StpruneError(f"camera '{plain(camera)}' cannot be asked about: the ring has {listed(ring)}")


def _require_text(what: str, text: str, limit: int) -> None:
    if not text.strip():
        raise StpruneError(f'{what} is empty: nothing can be asked')
    if len(text) > limit:
        raise StpruneError(f'{what} has {len(text)} characters, and {limit} are allowed: make it shorter')
    _require_printable(what, text)


def _require_printable(what: str, text: str) -> None:
    if not text.isprintable():
        raise StpruneError(f"{what} '{plain(text)}' holds a character that does not print: remove it")


@dataclass(frozen=True, slots=True)
class Reply:
    """What is said to a question; NO_HINT stands for no answer, and ``reason`` says why there is none, or no good one.

    ``probabilities`` has one for each candidate, ``tokens`` are those of the text, ``stage_ms`` what the answer took
    beside its tick, whose ``answer`` has stamp, views and provenance: None before there was one.
    """

    status: Status
    reason: str = ''
    text: str = ''
    truncated: bool = False
    probabilities: tuple[float, ...] = ()
    tokens: int = 0
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    answer: Answer | None = None

    @property
    def has_answer(self) -> bool:
        """Whether there is something to be read."""
        return bool(self.text) and self.status in ANSWERED


class Ask:
    """A question from when it was asked until it is over, for two threads.

    ``reply`` is the newest, and the last one once ``cancel`` is set. ``deadline`` is in time.monotonic() seconds.
    ``waits_for`` says why there is no word yet. ``wake`` is called after each reply.
    """

    def __init__(self, question: Question, wake: Callable[[], object] = lambda: None) -> None:
        self.question = question
        self.deadline = time.monotonic() + question.deadline_s
        self.cancel = Event()
        self.reply: Reply | None = None
        self.waits_for = NOTHING_INFERRED
        self._wake = wake
        self._lock = Lock()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be said."""
        return self.cancel.is_set()

    def tell(self, words: Reply) -> None:
        """What is written so far."""
        self._set(words, last=False)

    def finish(self, reply: Reply) -> None:
        """The last reply, unless there was one."""
        self._set(reply, last=True)

    @property
    def no_word(self) -> str:
        """What is said where the deadline passed before there was a word."""
        return f'no answer came within {self.question.deadline_s:g} s: {self.waits_for}'

    def expire(self) -> None:
        """The deadline passed, and whoever answers has not said so."""
        words = self.reply
        self.finish(Reply(Status.TIMEOUT, self.no_word) if words is None else words)

    def _set(self, reply: Reply, last: bool) -> None:
        with self._lock:
            if self.is_over:
                return
            self.reply = reply
            if last:
                self.cancel.set()
        self._wake()


def status_name(status: int) -> str:
    """The name of a status in Ask.action, where NO_HINT is NO_ANSWER."""
    return 'NO_ANSWER' if status == Status.NO_HINT else Status(status).name


def cut_short(deadline_s: float) -> str:
    """What is said of a text that the deadline ended."""
    return f'the deadline of {deadline_s:g} s cut the answer short'
