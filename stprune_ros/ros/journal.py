"""The node's log: what is wrong is said when it begins, now and then while it lasts, and when it is over.

Whatever comes in, so many lines a minute and no more are written, and so many faults and no more are remembered.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from threading import RLock
from typing import Any

from stprune_ros.errors import kind_of, listed, pattern_of, plain

LINGER_S = 3.0  # what is gone for less was never over
EVENTS_LINGER_S = 60.0  # the same for what happens now and then
FIRST_REMINDER_S, LONGEST_REMINDER_S = 60.0, 6000.0  # what lasts is said again then, and ten times later
MAX_KNOWN = 1000  # faults at a time
MAX_LINES, MAX_ALIKE, MINUTE_S = 60, 10, 60.0  # of each level, and of those that differ in names and numbers only
MAX_SENTENCE = 1000  # characters


@dataclass(slots=True)
class _Fault:
    """Something wrong, from its first sentence on; times are those of the journal's clock."""

    text: str
    began: float
    last: float
    source: str
    reminder_s: float = FIRST_REMINDER_S  # after its beginning
    count: int = 0


class Journal:
    """Writes to an rclpy logger; for any thread. Sentences that differ in numbers only are about one fault.

    ``cameras`` are names: where several have the same fault at once, that is one line. ``now`` is a clock in seconds.
    """

    def __init__(self, logger: Any, now: Callable[[], float] = time.monotonic) -> None:
        self.cameras: Sequence[str] = ()
        self._now = now
        self._faults: dict[str, _Fault] = {}  # by the kind of sentence
        self._lines: Counter[tuple[str, str]] = Counter()  # of this minute, by level and pattern ('': all)
        self._minute = now()
        self._left_out = 0
        self._lock = RLock()
        # rclpy lets no line of code log at two levels.
        self._write = {
            'info': lambda text: logger.info(text),
            'warning': lambda text: logger.warning(text),
            'error': lambda text: logger.error(text),
        }

    def info(self, text: str) -> None:
        """Log something that is no fault."""
        self._line('info', text)

    def error(self, text: str) -> None:
        """Log a fault that others count."""
        self._line('error', text)

    def warn(self, text: str) -> None:
        """Something happened: said the first, tenth, hundredth ... time."""
        text = plain(text, MAX_SENTENCE)
        with self._lock:
            fault = self._meet(text, '')
            if fault is not None and not fault.source and _is_told(fault.count):
                self._line('warning', f'{text} ({fault.count} times)' if fault.count > 1 else text)

    def holds(self, source: str, texts: Iterable[str]) -> None:
        """All that ``source`` finds wrong now: said when it begins, and over once it is found no more."""
        with self._lock:
            now, known = self._now(), {*self._faults}
            met = {kind_of(text): text for text in (plain(text, MAX_SENTENCE) for text in texts)}
            found = {kind: fault for kind, text in met.items() if (fault := self._meet(text, source)) is not None}
            self._lines_of([fault for kind, fault in found.items() if kind not in known], lambda fault: fault.text)
            due = [fault for fault in found.values() if now - fault.began >= fault.reminder_s]
            for fault in due:
                fault.reminder_s += min(9 * fault.reminder_s, LONGEST_REMINDER_S)
            self._lines_of(due, lambda fault: f'{fault.text} (for {now - fault.began:.0f} s now)')
            self._end([fault for fault in self._of(source) if now - fault.last > LINGER_S])

    def look(self) -> None:
        """To be called about once a second: what happens no more is over, and what was left out is counted."""
        with self._lock:
            now = self._now()
            over = [fault for fault in self._of('') if now - fault.last > EVENTS_LINGER_S]
            for fault in over:
                del self._faults[kind_of(fault.text)]
                if fault.count > 1:
                    seconds = fault.last - fault.began
                    self.info(f'over after {fault.count} times in {seconds:.0f} s: {fault.text}')
            self._turn(now)

    def forget(self) -> None:
        """What still holds will be said again."""
        with self._lock:
            self._faults.clear()

    def _of(self, source: str) -> list[_Fault]:
        return [fault for fault in self._faults.values() if fault.source == source]

    def _meet(self, text: str, source: str) -> _Fault | None:
        """The fault that a sentence is about; None where no more can be remembered."""
        kind, now = kind_of(text), self._now()
        fault = self._faults.get(kind)
        if fault is None:
            if len(self._faults) >= MAX_KNOWN:
                self._left_out += 1
                return None
            fault = self._faults[kind] = _Fault(text, now, now, source)
        fault.last, fault.source = now, source or fault.source
        fault.count += 1
        return fault

    def _end(self, over: list[_Fault]) -> None:
        for fault in over:
            del self._faults[kind_of(fault.text)]
        self._lines_of(over, lambda fault: f'over after {fault.last - fault.began:.0f} s: {fault.text}', 'info')

    def _lines_of(self, faults: Sequence[_Fault], words: Callable[[_Fault], str], level: str = 'warning') -> None:
        """A line for each fault; those that cameras have in common make one."""
        groups: dict[str, list[_Fault]] = {}
        for fault in faults:
            groups.setdefault(self._without_cameras(fault.text), []).append(fault)
        for first, *others in groups.values():
            cameras = [camera for camera in (self._camera_in(fault.text) for fault in others) if camera]
            self._line(level, f'{words(first)} (the same of {listed(cameras)})' if cameras else words(first))

    def _camera_in(self, text: str) -> str:
        """The camera that a sentence names first, '' where it names none."""
        found = {name: match.start() for name in self.cameras if (match := _as_name(name).search(text))}
        return min(found, key=lambda name: (found[name], -len(name)), default='')

    def _without_cameras(self, text: str) -> str:
        """What sentences about different cameras have in common; the sentence itself where it names none."""
        common = kind_of(text)
        for name in sorted(self.cameras, key=len, reverse=True):
            common = _as_name(name).sub('*', common)
        return common if self._camera_in(text) else text

    def _line(self, level: str, text: str) -> None:
        with self._lock:
            self._turn(self._now())
            every, alike = (level, ''), (level, pattern_of(text))
            if self._lines[every] >= MAX_LINES or self._lines[alike] >= MAX_ALIKE:
                self._left_out += 1
                return
            self._lines.update((every, alike))
            self._write[level](plain(text, MAX_SENTENCE))

    def _turn(self, now: float) -> None:
        """Begin a new minute where it is time."""
        if now - self._minute < MINUTE_S:
            return
        if self._left_out:
            self._write['warning'](f'{self._left_out} further sentences were left out of the log')
        self._minute, self._left_out = now, 0
        self._lines.clear()


class Episode:
    """Failures in a row until something works again: said the first, tenth, hundredth ... time, and at the end.

    Another kind of failure is said at once, too. For one thread.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._kind = ''
        self.count = 0

    def again(self, sentence: str) -> None:
        """It happened (again)."""
        self.count += 1
        if kind_of(sentence) != self._kind or _is_told(self.count):
            self._kind = kind_of(sentence)
            times = '' if self.count == 1 else f' ({self.count} times in a row)'
            self._journal.error(f'{sentence}{times}')

    def over(self, what: str) -> None:
        """``what`` works again; says so where it did not."""
        if self.count:
            self._journal.info(f'{what} works again after {self.count} failures')
        self.count, self._kind = 0, ''


def _is_told(count: int) -> bool:
    """Whether a fault is said this time: the 1st, 10th, 100th, 1,000th, and every 10,000th."""
    return count in (1, 10, 100, 1000) or count % 10000 == 0


@cache
def _as_name(name: str) -> re.Pattern[str]:
    """Finds a name that is not a part of a word or number."""
    before, after = (r'\d' if end.isdigit() else '[A-Za-z0-9]' for end in (name[0], name[-1]))
    return re.compile(f'(?<!{before}){re.escape(name)}(?!{after})')
