"""What would have been right at each time of a bag: a truth.json that a synthetic bag brings along, or a CSV file.

A CSV file has a line of column names and then one line per stamp: ``stamp_ns`` (header.stamp of the anchor frame in
nanoseconds), ``behavior`` (STOP, SLOW_DOWN ...), and where stamps of bags overlap ``bag``, the name of a line's bag.
"""

from __future__ import annotations

import csv
import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from stprune_ros.bounded_yaml import read_text
from stprune_ros.core.types import Behavior
from stprune_ros.errors import StpruneError, plain, shown

MATCH_NS = 20_000_000
MAX_BYTES = 2**28  # a tick takes 2 kB: three hours at 10 Hz
COLUMNS, BAG_COLUMN = ('stamp_ns', 'behavior'), 'bag'
EVERY_BAG = ''  # the bag of lines that name none
BEHAVIORS = tuple(behavior.name for behavior in Behavior if behavior != Behavior.UNKNOWN)


@dataclass(frozen=True)
class TickTruth:
    """What is right at one time: behavior name, and the scene in words ('' where the file has none)."""

    behavior: str
    description: str = ''


NO_TRUTH = TickTruth('')


class GroundTruth:
    """What is right by time; ``stamps`` in ns, in order."""

    def __init__(self, ticks: Mapping[int, TickTruth]) -> None:
        self._ticks = ticks
        self.stamps = sorted(ticks)

    @classmethod
    def beside(cls, bag: Path) -> GroundTruth | None:
        """The truth.json of a bag, None where it has none; StpruneError for a truth file that cannot be read."""
        path = (bag if bag.is_dir() else bag.parent) / 'truth.json'
        return read_truth(path)[EVERY_BAG] if path.is_file() else None

    def nearest(self, stamp_ns: int, tolerance_ns: int = MATCH_NS) -> int | None:
        """The stamp next to ``stamp_ns`` and within the tolerance, the earlier of two; None where there is none."""
        index = bisect_left(self.stamps, stamp_ns)
        near = [stamp for stamp in self.stamps[max(0, index - 1) : index + 1] if abs(stamp - stamp_ns) <= tolerance_ns]
        return min(near, key=lambda stamp: abs(stamp - stamp_ns)) if near else None

    def at(self, stamp_ns: int, tolerance_ns: int = MATCH_NS) -> TickTruth:
        """What is right within the tolerance of ``stamp_ns``; an empty behavior where the file says nothing."""
        nearest = self.nearest(stamp_ns, tolerance_ns)
        return NO_TRUTH if nearest is None else self._ticks[nearest]


def read_truth(path: Path) -> dict[str, GroundTruth]:
    """The truth that a .json or a CSV file holds, by the name of the bag; under EVERY_BAG what names no bag.

    Raises StpruneError naming the file and what is wrong in it.
    """
    try:
        if path.suffix == '.json':
            ticks = json.loads(read_text(path, MAX_BYTES))['ticks']
            return _by_bag(path, (_entry(path, tick) for tick in ticks))
        table = StringIO(read_text(path, MAX_BYTES).removeprefix('\ufeff'), newline='')
        return _by_bag(path, _lines(path, csv.DictReader(table, strict=True)))
    except OSError as error:
        raise StpruneError(f"truth file '{path}' cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, csv.Error) as error:
        raise StpruneError(f"truth file '{path}' is not readable: {shown(error)}") from None


def _by_bag(path: Path, entries: Iterable[tuple[str, int, TickTruth]]) -> dict[str, GroundTruth]:
    found: dict[str, dict[int, TickTruth]] = defaultdict(dict)
    for bag, stamp_ns, truth in entries:
        if stamp_ns in found[bag]:
            raise StpruneError(f"truth file '{path}' holds stamp {stamp_ns} twice: remove one")
        found[bag][stamp_ns] = truth
    if not found:
        raise StpruneError(f"truth file '{path}' holds no stamp")
    return {bag: GroundTruth(ticks) for bag, ticks in found.items()}


def _lines(path: Path, reader: csv.DictReader[str]) -> Iterable[tuple[str, int, TickTruth]]:
    names = tuple(reader.fieldnames or ())
    if not {*COLUMNS} <= {*names} <= {*COLUMNS, BAG_COLUMN}:
        raise StpruneError(
            f"truth file '{path}' has the columns {', '.join(map(plain, names)) or 'none'}; they must be"
            f' {", ".join(COLUMNS)}, and may be {BAG_COLUMN}'
        )
    for line in reader:
        where = f"truth file '{path}', line {reader.line_num}"
        if None in line or None in line.values() or '' in line.values():
            raise StpruneError(f'{where} has not one value for each of {", ".join(names)}')
        if not line['stamp_ns'].strip().isdecimal():
            raise StpruneError(
                f"{where}: stamp_ns is '{plain(line['stamp_ns'])}'; it must be a whole number of nanoseconds"
            )
        truth = TickTruth(_known(line['behavior'].strip(), where))
        yield line.get(BAG_COLUMN, EVERY_BAG).strip(), int(line['stamp_ns']), truth


def _entry(path: Path, tick: Mapping[str, Any]) -> tuple[str, int, TickTruth]:
    stamp_ns = int(tick['stamp_ns'])
    behavior = _known(tick['behavior'], f"truth file '{path}', stamp {stamp_ns}")
    return EVERY_BAG, stamp_ns, TickTruth(behavior, str(tick.get('description', '')))


def _known(name: str, where: str) -> str:
    if name not in BEHAVIORS:
        raise StpruneError(f"{where}: '{plain(str(name))}' is no behavior; known are {', '.join(BEHAVIORS)}")
    return name
