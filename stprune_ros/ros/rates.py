"""How fast counts grow: over the last seconds, and at best."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

WINDOW_S = 10.0
LEAST_S = 0.9  # over less, one more or less of a thing would make another rate

Key = tuple[str, str]  # what is counted, and of which camera ('': of none)


class Rates:
    """Give it all counts about once a second (`sample`); times are time.monotonic() seconds.

    A count that fell began anew, and everything is judged from there on.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[Key, int]]] = deque()
        self._best: dict[Key, float] = {}

    def sample(self, now: float, counts: Mapping[Key, int]) -> None:
        """Take the counts as they stand at ``now``."""
        if self._samples and any(counts.get(key, 0) < before for key, before in self._samples[-1][1].items()):
            self._samples.clear()
        self._samples.append((now, dict(counts)))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW_S:
            self._samples.popleft()
        if self.is_full:
            self._best = {key: max(self.hz(*key), self._best.get(key, 0.0)) for key in counts}

    @property
    def span_s(self) -> float:
        """Over how long a time rates are; 0 before the second sample."""
        return self._samples[-1][0] - self._samples[0][0] if self._samples else 0.0

    @property
    def is_full(self) -> bool:
        """Whether that is the whole window."""
        return self.span_s >= WINDOW_S

    def grown(self, what: str, camera: str = '') -> int:
        """By how much a count grew within the window."""
        return self._since(0, (what, camera))

    def grown_last(self, what: str, camera: str = '') -> int:
        """By how much it grew between the last two samples."""
        return self._since(-2, (what, camera)) if len(self._samples) > 1 else 0

    def hz(self, what: str, camera: str = '') -> float:
        """How fast a count grows, in 1/s; NaN before that can be told."""
        return self._since(0, (what, camera)) / self.span_s if self.span_s >= LEAST_S else math.nan

    def best_hz(self, what: str, camera: str = '') -> float:
        """The highest rate over a whole window so far; 0 before the first."""
        return self._best.get((what, camera), 0.0)

    def _since(self, at: int, key: Key) -> int:
        return self._samples[-1][1].get(key, 0) - self._samples[at][1].get(key, 0) if self._samples else 0
