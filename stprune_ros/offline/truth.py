"""The truth that a synthetic bag brings along: what would have been right at each time."""

from __future__ import annotations

import json
from bisect import bisect_left
from pathlib import Path

from stprune_ros.core.types import Behavior, StpruneError

NEAR_NS = 20_000_000


class Truth:
    """Right behaviors by time, from a file ``truth.json`` in the bag folder."""

    def __init__(self, behaviors: dict[int, str]) -> None:
        self._behaviors = behaviors
        self._stamps = sorted(behaviors)

    @classmethod
    def beside(cls, bag: Path) -> Truth | None:
        """The truth of a bag, None where it has none; StpruneError for a truth file that cannot be read."""
        path = (bag if bag.is_dir() else bag.parent) / 'truth.json'
        if not path.is_file():
            return None
        try:
            ticks = json.loads(path.read_text(encoding='utf-8'))['ticks']
            return cls({int(tick['stamp_ns']): Behavior[tick['behavior']].name for tick in ticks})
        except (ValueError, KeyError, TypeError) as error:
            raise StpruneError(f"truth file '{path}' is not readable: {error!r}") from None

    def behavior(self, stamp_ns: int) -> str:
        """Name of the right behavior within 20 ms of ``stamp_ns``, '' where the file says nothing."""
        index = bisect_left(self._stamps, stamp_ns)
        near = [stamp for stamp in self._stamps[max(0, index - 1) : index + 1] if abs(stamp - stamp_ns) <= NEAR_NS]
        return self._behaviors[min(near, key=lambda stamp: abs(stamp - stamp_ns))] if near else ''
