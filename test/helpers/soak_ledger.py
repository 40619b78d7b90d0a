"""What a soak hears from the node, and whether it holds: order, silences, statuses under faults, sums, resources."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from helpers.faults import Fault
from helpers.harness import Vehicle, stamp_ns

from stprune_ros.core.types import Status
from stprune_ros.ros import diagnostics

ANCHOR = 'front'
JUMP_NS = 10**9  # stamps that step back by more belong to another time
KEPT = 5000  # sets that are remembered
LOOK_S = 0.1  # how often the clock of the ledger goes on
STALL_S = 0.25  # what is beyond this between two looks is a pause of the soak itself, not of the node
FADES_S = 0.7  # sets that were sent so shortly before the end of a fault may have met its end
# Rates over ten seconds outlast a fault; and the machine may be slower than the cameras.
OUTLASTS = (diagnostics.SKIPPING, diagnostics.FEW_ANSWERS, diagnostics.CAMERA_SLOW)
SETS = ('sets_full', 'sets_partial', 'sets_skipped')
# Why a set was not answered, with the diagnostic status that counts it.
DROPS = {
    'sets_skipped': ('synchronisation', 'too few views'),
    'sets_between': ('synchronisation', 'between two ticks (inference.period_ms)'),
    'sets_flushed': ('synchronisation', 'flushed while it waited for odometry'),
    'skipped': ('inference', 'a newer one took its place'),
    'dropped': ('inference', 'flushed while it waited for inference'),
    'cancelled': ('inference', 'cancelled in work'),
    'failed': ('inference', 'inference failed'),
}


@dataclass(frozen=True, slots=True)
class Sums:
    """Where the node says its frame sets went."""

    sets: int
    answers: int
    drops: Mapping[str, int]

    @property
    def open(self) -> int:
        """Sets of which nothing became yet."""
        return self.sets - self.answers - sum(self.drops.values())

    def __str__(self) -> str:
        reasons = ', '.join(f'{count} {DROPS[key][1]}' for key, count in self.drops.items() if count)
        return f'{self.sets} sets = {self.answers} answers + {sum(self.drops.values())} dropped ({reasons})'


@dataclass(frozen=True, slots=True)
class Usage:
    """What the process of the node holds, at ``at`` (time.monotonic() seconds)."""

    at: float
    rss_mb: float
    threads: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Of a process that runs."""
        process = Path(f'/proc/{pid}')
        pages = int((process / 'statm').read_text().split()[1])
        counts = (len(list((process / name).iterdir())) for name in ('task', 'fd'))
        return cls(time.monotonic(), pages * os.sysconf('SC_PAGE_SIZE') / 1e6, *counts)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A set on its way: which time its stamp is of, and when it was sent, in time.monotonic() and in the ledger's."""

    era: int
    at: float
    now_s: float


@dataclass(slots=True)
class _Topic:
    """What was heard on one output; ``longest_s`` is the longest silence."""

    heard: float
    order: tuple[int, int] = (0, 0)  # of the newest stamp: time, and stamp in it
    sequence: int = -1
    counter: int = 0
    lost: int = 0
    longest_s: float = 0.0
    is_silent: bool = False  # as was said already
    statuses: Counter[str] = field(default_factory=Counter)


class Ledger:
    """Feed it what is sent (`sent`) and, as often as possible, what the vehicle heard (`take`).

    ``faults`` collects what does not hold, a sentence each. ``now_s`` is a clock that stands still while the machine
    has no core for the soak, or for a thread of the node that could run: all limits are in its seconds.
    """

    def __init__(self, silence_s: float) -> None:
        self.faults: list[str] = []
        self.latencies_s: list[float] = []
        self.now_s = self.lost_s = 0.0  # that clock, and for how long it stood
        self.usage: list[Usage] = []
        self._silence_s, self._pid = silence_s, 0
        self._sent: dict[int, _Sent] = {}  # by stamp of the anchor
        self._era, self._newest_ns = 0, 0
        self._looked, self._starved_s = time.monotonic(), 0.0
        self._hints, self._texts = _Topic(0.0), _Topic(0.0)
        self._describes = True
        self._well: deque[float] = deque(maxlen=KEPT)  # when sets were sent that were answered with OK
        self._levels: deque[tuple[float, dict[str, DiagnosticStatus]]] = deque(maxlen=300)

    def sent(self, camera: str, at_ns: int) -> None:
        """An image goes out."""
        if camera != ANCHOR or not at_ns:
            return
        self._era += at_ns < self._newest_ns - JUMP_NS
        self._newest_ns = at_ns
        self._sent.setdefault(at_ns, _Sent(self._era, time.monotonic(), self.now_s))
        if len(self._sent) > KEPT:
            del self._sent[next(iter(self._sent))]

    def begin(self, pid: int) -> None:
        """From now on silence counts, and what this process holds."""
        self._pid, self._starved_s = pid, starved_s(pid)

    def take(self, vehicle: Vehicle) -> None:
        """Take, and forget, what the vehicle heard since the last time."""
        self._go_on()
        for name, topic, messages in (('hint', self._hints, vehicle.hints), ('text', self._texts, vehicle.texts)):
            self._judge_silence(name, topic)
            for message in messages:
                self._hear(name, topic, message)
            messages.clear()
        self._levels.extend((self.now_s, _by_name(array)) for array in vehicle.diagnostics)
        vehicle.diagnostics.clear()

    def describes(self, whether: bool) -> None:
        """Descriptions are switched on or off: off, they may be silent."""
        self._describes = whether
        self._texts.heard, self._texts.is_silent = self.now_s, False

    def judge_answers(self, fault: Fault, began: float, ended: float) -> None:
        """No answer may be OK that is of a set sent within a fault; call it once that is over and out of the pipes."""
        shown = [at - began for at in self._well if began + fault.degrades_s < at < ended - FADES_S]
        if shown:
            self.faults.append(f"OK {len(shown)} times within '{fault.name}', first {shown[0]:.1f} s after its begin")

    def judge_diagnostics(self, fault: Fault, began: float, ended: float) -> None:
        """Its diagnostic status must not have been OK within a fault."""
        if not fault.diagnostic:
            return
        seen = [levels for at, levels in self._levels if began + fault.shows_s < at < ended]
        well = sum(_level(levels, fault.diagnostic) == diagnostics.OK for levels in seen)
        if well:
            self.faults.append(f"diagnostics say '{fault.diagnostic}' is OK, {well} of {len(seen)} times, within"
                               f" '{fault.name}'")  # fmt: skip

    def is_well(self, since: float, names: Iterable[str]) -> bool:
        """Whether a set that was sent after ``since`` was answered with OK, and these statuses are OK after it."""
        if not (self._well and self._well[-1] > since and self._levels and self._levels[-1][0] > since):
            return False
        return all(_is_good(self._levels[-1][1].get(name)) for name in names)

    @property
    def state(self) -> str:
        """In words, for a report of what is wrong."""
        levels = self._levels[-1][1] if self._levels else {}
        wrong = [f'{name}: {found.message}' for name, found in levels.items() if found.level != diagnostics.OK]
        return f'{dict(self._hints.statuses)}; {"; ".join(wrong) or "diagnostics all OK"}'

    @property
    def sums(self) -> Sums | None:
        """As the node said last; None before it did."""
        if not self._levels:
            return None
        levels = self._levels[-1][1]
        values = {name: {pair.key: pair.value for pair in found.values} for name, found in levels.items()}
        counts = {key: int(values['synchronisation'].get(key, 0)) for key in SETS}
        drops = {key: int(values[name].get(key, 0)) for key, (name, _) in DROPS.items()}
        return Sums(sum(counts.values()), int(values['inference']['done']), drops)

    def judge_sums(self, sums: Sums) -> None:
        """At rest: everything became something, and what the node says is what was heard."""
        if sums.open:
            self.faults.append(f'{sums.open} sets have no fate: {sums}')
        lost = self._hints.lost
        if not sums.answers - lost <= self.answers_heard <= sums.answers:
            self.faults.append(f'{self.answers_heard} answers were heard, {lost} lost, of {sums.answers}')

    @property
    def answers_heard(self) -> int:
        """Hints of sets, valid or not."""
        return sum(count for status, count in self._hints.statuses.items() if status.startswith('answer'))

    @property
    def statuses(self) -> Mapping[str, int]:
        """Statuses of the answers that were heard."""
        found = self._hints.statuses
        return {
            status.removeprefix('answer '): found[status] for status in sorted(found) if status.startswith('answer')
        }

    @property
    def longest_silence_s(self) -> float:
        """On either topic."""
        return max(self._hints.longest_s, self._texts.longest_s)

    @property
    def lost(self) -> int:
        """Hints and descriptions that did not arrive."""
        return self._hints.lost + self._texts.lost

    def _go_on(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        before, self._starved_s = self._starved_s, starved_s(self._pid) if self._pid else 0.0
        passed = max(0.0, min(now - self._looked, STALL_S) - (self._starved_s - before))
        self.now_s, self.lost_s = self.now_s + passed, self.lost_s + now - self._looked - passed
        self._looked = now

    def _judge_silence(self, name: str, topic: _Topic) -> None:
        if not self._pid or (topic is self._texts and not self._describes):
            return
        silence_s = self.now_s - topic.heard
        topic.longest_s = max(topic.longest_s, silence_s)
        if silence_s > self._silence_s and not topic.is_silent:
            topic.is_silent = True
            self.faults.append(f'no {name} for {silence_s:.1f} s')

    def _hear(self, name: str, topic: _Topic, message: Any) -> None:
        topic.heard, topic.is_silent = self.now_s, False
        if message.alive_counter <= topic.counter:
            self.faults.append(f'the alive counter of the {name} went from {topic.counter} to {message.alive_counter}')
        topic.lost += max(0, message.alive_counter - topic.counter - 1) if topic.counter else 0
        topic.counter = message.alive_counter
        stamp = stamp_ns(message)
        sent = self._sent.get(stamp)
        if stamp and sent is None:
            self.faults.append(f'a {name} has the stamp {stamp}, which no set had')
            return
        order = (sent.era, stamp) if sent is not None else (0, 0)
        if order < topic.order:
            self.faults.append(f'the stamp of a {name} went back from {topic.order} to {order}')
        is_new = message.info.sequence > topic.sequence
        if message.info.sequence < max(0, topic.sequence):
            self.faults.append(f'the sequence of the {name} went from {topic.sequence} to {message.info.sequence}')
        topic.order = order
        topic.sequence = message.info.sequence if stamp else -1
        self._count(topic, message, sent if is_new else None)

    def _count(self, topic: _Topic, message: Any, sent: _Sent | None) -> None:
        status = Status(message.status)
        is_answer = sent is not None and bool(message.info.cameras) and status != Status.ERROR
        topic.statuses[f'{"answer" if is_answer else "other"} {status.name}'] += 1
        if topic is self._hints and is_answer and sent is not None and status.is_valid:
            self.latencies_s.append(time.monotonic() - sent.at)
            if status == Status.OK:
                self._well.append(sent.now_s)

    def use(self) -> None:
        """Look at what the process holds, once a second."""
        if self._pid and (not self.usage or time.monotonic() - self.usage[-1].at >= 1.0):
            self.usage.append(Usage.of(self._pid))


def starved_s(pid: int) -> float:
    """For how long the threads of a process could have run, but waited for a core, in all since their start."""
    waited_ns = 0
    for thread in Path(f'/proc/{pid}/task').iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            waited_ns += int((thread / 'schedstat').read_text().split()[1])
    return waited_ns / 1e9


def slope_mb(usage: Iterable[Usage]) -> float:
    """By how many MB memory grows in 10 minutes: the line of least squares."""
    found = list(usage)
    return float(np.polyfit([one.at for one in found], [one.rss_mb for one in found], 1)[0] * 600)


def _by_name(array: DiagnosticArray) -> dict[str, DiagnosticStatus]:
    return {one.name.partition(': ')[2]: one for one in array.status}


def _level(levels: Mapping[str, DiagnosticStatus], name: str) -> bytes:
    return levels[name].level if name in levels else diagnostics.OK


def _is_good(status: DiagnosticStatus | None) -> bool:
    """OK, or what outlasts a fault."""
    return status is None or status.level == diagnostics.OK or status.message in OUTLASTS
