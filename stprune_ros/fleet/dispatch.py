"""Which worker does what, and what follows from it: runs, parts of long bags, and tasks whose workers die."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Protocol

from stprune_ros.errors import StpruneError, sentence_of
from stprune_ros.fleet.index import DONE, FAILED, MISSING, Entry
from stprune_ros.fleet.ledger import Ledger, move
from stprune_ros.fleet.split import Cut
from stprune_ros.fleet.tasks import Broken, Died, JoinParts, Outcome, Pace, ReplayPart, ReplayRun, RunTask, Split, Task
from stprune_ros.replay.command import fault

ATTEMPTS = 3  # of a task whose workers die
WAIT_S = 0.5  # between two looks at the pace


class Workers(Protocol):
    """What does the tasks, as `cluster.Pool` does."""

    @property
    def idle(self) -> int:
        """How many have nothing to do."""
        ...

    def submit(self, number: int, task: Task) -> None:
        """Give a task with a number of its own to one of those."""
        ...

    def wait(self, timeout_s: float) -> list[tuple[int, Outcome | Died]]:
        """What came of tasks by their numbers, or nothing after ``timeout_s``."""
        ...

    def paces(self) -> Mapping[int, Pace]:
        """How far tasks are that a worker has begun, by their numbers."""
        ...

    def end(self, number: int, why: str) -> None:
        """End the worker of a task, which then has died."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the fleet is: runs that are done of all, bytes of bags that are, and ticks inferred by now."""

    runs: int
    of: int
    bytes: int
    ticks: int


@dataclass(slots=True)
class _Job:
    """One task of a run, to be tried again where its worker dies; ``cut`` and ``key`` are those of a part."""

    entry: Entry
    task: RunTask
    deaths: int = 0
    cut: Cut | None = None
    key: str = ''


@dataclass(slots=True)
class _Parts:
    """The parts of a run, and which are not there yet."""

    key: str
    cuts: tuple[Cut, ...]
    open: set[Cut]


class Dispatcher:
    """Runs every entry that is not done, and writes into it what came of it."""

    def __init__(
        self, entries: Iterable[Entry], ledger: Ledger, workers: Workers, window_s: float, patience_s: float
    ) -> None:
        """``patience_s`` is how long a worker may get no further before it is ended, 0: for ever."""
        self._patience_s = patience_s
        self._moved: dict[int, tuple[Pace, float]] = {}  # how far a task was when it got further last, and when
        self._entries, self._ledger, self._workers, self._window_s = list(entries), ledger, workers, window_s
        self._queue = deque(_Job(entry, self._whole(entry)) for entry in self._entries if not ledger.is_done(entry.run))
        self._running: dict[int, _Job] = {}  # by the numbers of their tasks
        self._parts: dict[Path, _Parts] = {}  # by the folder of their run
        self._numbers = count()
        self._ticks = 0  # inferred in tasks that are over

    def run(self, on_progress: Callable[[Progress], object]) -> None:
        """Do all there is to do; ``on_progress`` is called now and then."""
        while self._queue or self._running:
            while self._queue and self._workers.idle:
                self._start(self._queue.popleft())
            paces = self._workers.paces()
            for number, outcome in self._workers.wait(WAIT_S):
                self._take(self._running.pop(number), outcome)
            self._end_stalled(paces)
            on_progress(self._progress(paces))

    def _end_stalled(self, paces: Mapping[int, Pace]) -> None:
        now = time.monotonic()
        self._moved = {
            number: self._moved[number]
            if self._moved.get(number, (None,))[0] == paces[number]
            else (paces[number], now)
            for number in self._running.keys() & paces.keys()
        }
        for number, (_, since) in self._moved.items():
            if 0 < self._patience_s < now - since:
                self._workers.end(number, f'nothing came of it for {self._patience_s:g} s, and its worker was ended')

    def _start(self, job: _Job) -> None:
        number, job.task = next(self._numbers), replace(job.task, into=self._ledger.new_place())
        self._running[number] = job
        self._workers.submit(number, job.task)

    def _take(self, job: _Job, outcome: Outcome | Died) -> None:
        place = job.task.into
        if isinstance(outcome, Died):
            self._ledger.discard(place)
            self._died(job, outcome)
        elif isinstance(outcome, Broken):
            self._ledger.discard(place)
            self._fail(job.entry, outcome.sentence)
        elif isinstance(outcome, Split):
            self._ledger.discard(place)
            self._split(job.entry, outcome)
        elif job.cut is not None:
            self._keep_part(job, job.cut)
        else:
            self._publish(job)

    def _died(self, job: _Job, death: Died) -> None:
        job.deaths += 1
        job.entry.deaths += 1
        if job.deaths < ATTEMPTS:
            self._queue.appendleft(job)
        else:
            self._fail(job.entry, f'{job.deaths} workers in a row died of it, the last one so: {death.reason}')

    def _fail(self, entry: Entry, sentence: str) -> None:
        entry.state, entry.sentence = FAILED, sentence
        self._queue = deque(job for job in self._queue if job.entry is not entry)  # its other parts
        self._parts.pop(entry.run.folder, None)

    def _keep_part(self, job: _Job, cut: Cut) -> None:
        try:
            move(job.task.into, self._ledger.part(job.entry.run, job.key, cut))
        except OSError as error:
            self._ledger.discard(job.task.into)
            self._fail(job.entry, sentence_of(error))
            return
        self._ticks += cut.ticks
        self._part_done(job.entry, cut)

    def _publish(self, job: _Job) -> None:
        entry = job.entry
        try:
            self._ledger.publish(entry.run, job.task.into)
        except (StpruneError, OSError) as error:
            self._ledger.discard(job.task.into)
            self._fail(entry, sentence_of(error))
            return
        parts = self._parts.pop(entry.run.folder, None)
        self._ledger.discard_parts(entry.run)
        take_result(entry, self._ledger)
        if parts is None and entry.summary is not None:
            self._ticks += int(entry.summary['ticks'])

    def _whole(self, entry: Entry) -> RunTask:
        return ReplayRun(entry.run, Path(), self._ledger.home(entry.run), self._window_s)

    def _split(self, entry: Entry, found: Split) -> None:
        entry.parts = len(found.cuts)
        missing = [cut for cut in found.cuts if not self._ledger.part(entry.run, found.key, cut).exists()]
        self._parts[entry.run.folder] = _Parts(found.key, found.cuts, set(missing))
        for cut in reversed(missing):
            self._queue.appendleft(_Job(entry, ReplayPart(entry.run, cut, Path()), cut=cut, key=found.key))
        if not missing:
            self._join(entry)

    def _part_done(self, entry: Entry, cut: Cut) -> None:
        parts = self._parts.get(entry.run.folder)
        if parts is None:  # another part failed
            return
        parts.open.discard(cut)
        if not parts.open:
            self._join(entry)

    def _join(self, entry: Entry) -> None:
        parts = self._parts[entry.run.folder]
        files = tuple(self._ledger.part(entry.run, parts.key, cut) for cut in parts.cuts)
        self._queue.appendleft(_Job(entry, JoinParts(entry.run, files, Path(), self._ledger.home(entry.run))))

    def _progress(self, paces: Mapping[int, Pace]) -> Progress:
        done = sum(entry.state != MISSING for entry in self._entries)
        moving = ticks = 0.0
        for number, job in self._running.items():
            pace = paces.get(number, Pace())
            moving += pace.share * job.entry.run.drive.bytes / job.entry.parts
            ticks += pace.ticks
        for folder, parts in self._parts.items():
            entry = next(entry for entry in self._entries if entry.run.folder == folder)
            moving += entry.run.drive.bytes * (len(parts.cuts) - len(parts.open)) / len(parts.cuts)
        read = min(self.bytes_done + round(moving), self.bytes)
        return Progress(done, len(self._entries), read, self._ticks + round(ticks))

    @property
    def bytes(self) -> int:
        """Bytes of the bags of all runs."""
        return sum(entry.run.drive.bytes for entry in self._entries)

    @property
    def bytes_done(self) -> int:
        """Bytes of those of the runs that are over."""
        return sum(entry.run.drive.bytes for entry in self._entries if entry.state != MISSING)


def take_result(entry: Entry, ledger: Ledger) -> None:
    """Read what the folder of a run holds into its entry: a replay in which nothing could be inferred has failed."""
    entry.summary = ledger.summary(entry.run)
    entry.sentence = fault(entry.summary, entry.run.drive.path)
    entry.state = FAILED if entry.sentence else DONE
