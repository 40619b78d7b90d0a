"""Which ticks of a replay have a picture in its report: those where something happened, within a number of bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from stprune_ros.replay.records import TickRecord

MAX_BYTES = 2_000_000  # of JPEG; a third more as text, so that a report of 200 ticks stays below 3 MB
UNSURE, EVEN = 4, 8  # how many ticks of these kinds have a picture


class Event(IntEnum):
    """What makes a tick worth a picture; the first ones lose theirs last."""

    FLIP = 0  # another hint than in the tick before
    WRONG = 1  # another hint than the truth
    ERROR = 2  # no valid hint
    PARTIAL = 3  # a camera without a usable frame
    UNSURE = 4  # among those of lowest confidence
    EVEN = 5  # nothing: only evenly spread


LIMITS = {Event.UNSURE: UNSURE, Event.EVEN: EVEN}


@dataclass(frozen=True, slots=True)
class _Page:
    event: Event
    confidence: float
    jpeg: bytes


class Album:
    """Takes the picture of every tick and keeps some; ``events`` are by the number of the tick, evenly spread ones not.

    Where there is no room for all, pictures of the last kind go first, and of one kind those nearest to another.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.events: dict[int, list[Event]] = {}
        self._pages: dict[int, _Page] = {}
        self._bytes = 0
        self._last: TickRecord | None = None
        self._count = 0

    @property
    def pictures(self) -> dict[int, bytes]:
        """JPEG by the number of the tick."""
        return {number: page.jpeg for number, page in sorted(self._pages.items())}

    def add(self, record: TickRecord, jpeg: bytes) -> None:
        """The next tick and its picture."""
        events = events_of(record, self._last)
        if events:
            self.events[self._count] = events
        confidence = math.inf if math.isnan(record.confidence) else record.confidence
        event = events[0] if events else Event.UNSURE if self._is_unsure(confidence) else Event.EVEN
        self._pages[self._count] = _Page(event, confidence, jpeg)
        self._bytes += len(jpeg)
        self._last, self._count = record, self._count + 1
        for kind, limit in LIMITS.items():
            if sum(page.event == kind for page in self._pages.values()) > limit:
                self._drop(kind)
        while self._bytes > self.max_bytes and len(self._pages) > 1:
            self._drop(max(page.event for page in self._pages.values()))

    def _is_unsure(self, confidence: float) -> bool:
        known = sorted(page.confidence for page in self._pages.values() if page.event == Event.UNSURE)
        return confidence < math.inf and (len(known) < UNSURE or confidence < known[-1])

    def _drop(self, event: Event) -> None:
        """Forget one picture of a kind; the first tick of it stays as long as there is another."""
        numbers = sorted(number for number, page in self._pages.items() if page.event == event)
        if event == Event.UNSURE:
            number = max(numbers, key=lambda one: self._pages[one].confidence)
        else:
            gaps = {later: later - earlier for earlier, later in pairwise(numbers)}
            number = min(gaps, key=lambda one: gaps[one], default=numbers[0])
        self._bytes -= len(self._pages.pop(number).jpeg)


def events_of(record: TickRecord, previous: TickRecord | None) -> list[Event]:
    """What happened in a tick, the most important first."""
    happened = {
        Event.FLIP: previous is not None and previous.said != record.said,
        Event.WRONG: record.is_wrong,
        Event.ERROR: not record.status.is_valid,
        Event.PARTIAL: record.is_partial,
    }
    return [event for event, is_so in happened.items() if is_so]
