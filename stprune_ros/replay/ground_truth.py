"""The truth that a synthetic bag brings along: what would have been right at each time."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stprune_ros.bounded_yaml import read_text
from stprune_ros.core.types import Behavior
from stprune_ros.errors import StpruneError, shown

MATCH_NS = 20_000_000
MAX_BYTES = 2**28  # a tick takes 2 kB: three hours at 10 Hz


@dataclass(frozen=True)
class TickTruth:
    """What is right at one time: behavior name, and the scene in words ('' where the file has none)."""

    behavior: str
    description: str = ''


NO_TRUTH = TickTruth('')


class GroundTruth:
    """What is right by time, from a file ``truth.json`` in the bag folder."""

    def __init__(self, ticks: Mapping[int, TickTruth]) -> None:
        self._ticks = ticks
        self._stamps = sorted(ticks)

    @classmethod
    def beside(cls, bag: Path) -> GroundTruth | None:
        """The truth of a bag, None where it has none; StpruneError for a truth file that cannot be read."""
        path = (bag if bag.is_dir() else bag.parent) / 'truth.json'
        if not path.is_file():
            return None
        try:
            ticks = json.loads(read_text(path, MAX_BYTES))['ticks']
            return cls({int(tick['stamp_ns']): _true_tick(tick) for tick in ticks})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise StpruneError(f"truth file '{path}' is not readable: {shown(error)}") from None

    def at(self, stamp_ns: int) -> TickTruth:
        """What is right within 20 ms of ``stamp_ns``; an empty behavior where the file says nothing."""
        index = bisect_left(self._stamps, stamp_ns)
        near = [stamp for stamp in self._stamps[max(0, index - 1) : index + 1] if abs(stamp - stamp_ns) <= MATCH_NS]
        return self._ticks[min(near, key=lambda stamp: abs(stamp - stamp_ns))] if near else NO_TRUTH


def _true_tick(tick: Mapping[str, Any]) -> TickTruth:
    return TickTruth(Behavior[tick['behavior']].name, str(tick.get('description', '')))
