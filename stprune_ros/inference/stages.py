"""Times of the stages of a tick."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STAGES = ('decode', 'prepare', 'encode', 'prune', 'prefill', 'hint', 'describe')


class StageClock:
    """Disjoint stage times in ms, and the time since it was made.

    ``synchronize`` waits until the device has done what it was given: a GPU says at once that it will, and without
    waiting the time would be spent in whichever stage reads a value first.
    """

    def __init__(self, synchronize: Callable[[], object] | None = None) -> None:
        self.stage_ms: dict[str, float] = {}
        self._synchronize = synchronize
        self._started = time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time that the block takes to the stage ``name``."""
        started = time.perf_counter()
        try:
            yield
            if self._synchronize is not None:
                self._synchronize()
        finally:
            self.stage_ms[name] = self.stage_ms.get(name, 0.0) + (time.perf_counter() - started) * 1e3

    @property
    def elapsed_ms(self) -> float:
        """Milliseconds since the clock was made."""
        return (time.monotonic() - self._started) * 1e3

    def past(self, limit_ms: float) -> bool:
        """Whether more than ``limit_ms`` have passed; 0 means no limit."""
        return limit_ms > 0 and self.elapsed_ms > limit_ms

    def deadline_s(self, limit_ms: float) -> float | None:
        """The time.monotonic() seconds at which ``limit_ms`` have passed; None for no limit."""
        return self._started + limit_ms / 1e3 if limit_ms > 0 else None
