"""How far a stage of training has come, and the learning rate that follows from it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LOWEST_SHARE = 0.03  # of the highest learning rate, at the end


@dataclass
class Schedule:
    """A stage ends after ``steps``, or after ``seconds`` (0: no limit) if that is sooner; ``spent`` are those used."""

    steps: int
    seconds: float = 0.0
    spent: float = 0.0
    clock: Callable[[], float] = time.monotonic
    _started: float | None = field(default=None, init=False)

    def start(self) -> None:
        """Let the clock run."""
        self._started = self.clock() - self.spent

    def elapsed(self) -> float:
        """Seconds that the stage has had, earlier runs included."""
        return self.spent if self._started is None else self.clock() - self._started

    def progress(self, step: int) -> float:
        """0 at the start, 1 and more at the end."""
        limit = self.elapsed() / self.seconds if self.seconds else 0.0
        return max(step / max(self.steps, 1), limit)

    def apply(self, optimizer: Any, step: int, highest: float, warm_up: int) -> None:
        """Set the learning rate of a step: a linear start, then a cosine down to `LOWEST_SHARE`."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress(step))))
        rate = highest * min(1.0, (step + 1) / warm_up) * (LOWEST_SHARE + (1 - LOWEST_SHARE) * cosine)
        for group in optimizer.param_groups:
            group['lr'] = rate
