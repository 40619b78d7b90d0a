"""One thread that infers, fed by a mailbox in which the newest wins, so answers never lag behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition, Event, Thread
from typing import Generic, TypeVar

Item = TypeVar('Item')


class Worker(Generic[Item]):
    """Calls ``work(item, cancel)`` on a thread of its own.

    An exception goes to ``failed(item, error)`` and work goes on. ``skipped`` counts items that a newer one replaced
    before their turn came, since the last start. May be started again after `stop`.
    """

    def __init__(self, work: Callable[[Item, Event], None], failed: Callable[[Item, Exception], None]) -> None:
        self.skipped = 0
        self._work = work
        self._failed = failed
        self._waiting: deque[Item] = deque()
        self._cancel = Event()  # of the item in work
        self._closed = True
        self._changed = Condition()
        self._thread: Thread | None = None

    @property
    def running(self) -> bool:
        """Whether the thread is there, at work or waiting for it."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start the thread. Raises RuntimeError where the last one has not ended yet."""
        if self.running:
            raise RuntimeError('the worker is running already')
        self.skipped = 0
        self._closed = False
        self._waiting.clear()
        # A daemon, because a native call that never returns must not keep the process alive.
        self._thread = Thread(target=self._run, name='inference', daemon=True)
        self._thread.start()

    def put(self, *items: Item) -> None:
        """Leave items, oldest first, in place of those that still wait; never blocks on the work.

        Items that came due together are not late because of the work, so none of them replaces another.
        """
        with self._changed:
            self.skipped += len(self._waiting)
            self._waiting = deque(items)
            self._changed.notify()

    def drop(self) -> None:
        """Throw away what waits and cancel what runs; its worker must then keep the result to itself."""
        with self._changed:
            self._waiting.clear()
            self._cancel.set()

    def stop(self, timeout_s: float) -> bool:
        """Drop everything and end the thread; False if it is still at work after ``timeout_s``."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._cancel.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.running

    def _take(self) -> tuple[Item, Event] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            self._cancel = Event()  # under the lock, so that no `drop` can fall between the two items
            return self._waiting.popleft(), self._cancel

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            item, cancel = taken
            try:
                self._work(item, cancel)
            except Exception as error:  # whatever a backend raises must not end the thread
                if not cancel.is_set():
                    self._failed(item, error)
