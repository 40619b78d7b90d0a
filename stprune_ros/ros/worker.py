"""One thread that loads, infers and frees, fed by a mailbox in which the newest wins, so answers never lag behind."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Condition, Event, Thread
from typing import Generic, TypeVar

Item = TypeVar('Item')
Job = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Busy:
    """What the thread is at since ``started`` (time.monotonic() seconds).

    Once ``cancel`` is set its result is of no interest any more. What is ``slow`` may take minutes.
    """

    slow: bool = False
    started: float = field(default_factory=time.monotonic)
    cancel: Event = field(default_factory=Event)


class Worker(Generic[Item]):
    """Calls ``work(item, cancel)`` on a thread of its own, which returns whether its result is out all the same.

    Whatever it raises goes to ``failed(item, error, cancel)``, and work goes on; where `failed` itself raises the
    thread ends, and ``fatal`` says with what. ``counts`` holds what became of the items that were put since the start:
    done, failed, skipped (a newer one took their place), dropped (while they waited) and cancelled (while in work,
    before there was a result). ``failures`` counts those in a row up to now.
    """

    def __init__(
        self, work: Callable[[Item, Event], bool], failed: Callable[[Item, BaseException, Event], None]
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.failures = 0
        self.fatal: BaseException | None = None
        self.busy: Busy | None = None
        self._work = work
        self._failed = failed
        self._waiting: deque[Item] = deque()
        self._jobs: deque[tuple[Job, bool]] = deque()
        self._closed = False
        self._changed = Condition()
        # A daemon, because a native call that never returns must not keep the process alive.
        self._thread = Thread(target=self._run, name='inference', daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread is there, at work or waiting for it."""
        return self._thread.is_alive()

    @property
    def has_waiting(self) -> bool:
        """Whether there is something else to do than what is in work."""
        return bool(self._waiting or self._jobs or self._closed)

    def put(self, *items: Item) -> None:
        """Leave items, oldest first, in place of those that still wait; never blocks on the work.

        Items that came due together are not late because of the work, so none of them replaces another.
        """
        with self._changed:
            self.counts['skipped'] += len(self._waiting)
            self._waiting = deque(items)
            self._changed.notify()

    def do(self, job: Job, *, slow: bool = False) -> None:
        """Have a job done before any item that waits; jobs keep their order, are never dropped and must not raise.

        ``slow`` tells whoever watches that it may take minutes.
        """
        with self._changed:
            self._jobs.append((job, slow))
            self._changed.notify()

    def drop(self) -> None:
        """Throw away what waits and cancel the item in work, whose result must then be kept back."""
        with self._changed:
            self.counts['dropped'] += len(self._waiting)
            self._waiting.clear()
            if self.busy is not None:
                self.busy.cancel.set()

    def stop(self, timeout_s: float) -> bool:
        """Drop everything, jobs too, and end the thread; False if it is still at work after ``timeout_s``."""
        self.drop()
        with self._changed:
            self._closed = True
            self._jobs.clear()
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self.running

    def _run(self) -> None:
        try:
            while self._next():
                pass
        except BaseException as error:  # of a handler or a job: there is nobody left on this thread who could say so
            self.fatal = error
        self.busy = None

    def _next(self) -> bool:
        """Wait for one piece of work and do it; False once the worker was stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._jobs or self._waiting)
            if self._closed:
                return False
            job, slow = self._jobs.popleft() if self._jobs else (None, False)
            item = self._waiting.popleft() if job is None else None
            # Under the lock, so that no `drop` can fall between the two.
            self.busy = busy = Busy(slow)
        if job is not None:
            job()
        else:
            assert item is not None
            self._attempt(item, busy.cancel)
        self.busy = None
        return True

    def _attempt(self, item: Item, cancel: Event) -> None:
        try:
            is_out = self._work(item, cancel)
        except BaseException as error:  # SystemExit, too: no backend may end the thread
            self.failures += 1
            self.counts['cancelled' if cancel.is_set() else 'failed'] += 1
            self._failed(item, error, cancel)
        else:
            if not cancel.is_set():
                self.failures = 0
            self.counts['done' if is_out or not cancel.is_set() else 'cancelled'] += 1
