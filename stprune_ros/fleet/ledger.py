"""The output folder of a fleet: what is there already, what is written beside and moved in, and whose it is.

Only the process that holds the lock moves anything into place, and what a worker writes has a name that no other worker
is given: nothing that bears its final name is ever half written, or written by two.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from stprune_ros.bounded_yaml import read_text
from stprune_ros.errors import BagError, SettingsError, StpruneError, plain, shown
from stprune_ros.fleet.plan import METADATA, STORAGES, Run
from stprune_ros.fleet.split import Cut
from stprune_ros.io.bag_identity import bag_identity
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.replay.command import fault
from stprune_ros.replay.moment import plain_values
from stprune_ros.resources import version
from stprune_ros.results import write_json
from stprune_ros.vlm.loading import ModelIdentity

OWN = '.fleet'  # folder of what is no result: lock, rows, parts, and what is being written
TRUTH = 'truth.json'
OF_BAG = (METADATA, TRUTH)
LOCK = f'{OWN}/lock'
MAX_BYTES = 2**26  # of summary.json


class Ledger:
    """The results of ``runs`` in the folder ``output``; ``models`` has the model of each setting by its name.

    Use within the lock `LOCK`.
    """

    def __init__(self, output: Path, runs: Sequence[Run], models: Mapping[str, ModelIdentity]) -> None:
        self.output = output
        self._runs, self._models = runs, models
        self._inputs = {run.folder: inputs_of(run) for run in runs}  # as they are before anything runs
        self._failed: set[Run] = set()
        self._numbers = count()

    def take_over(self, resume: bool) -> None:
        """Take what an earlier fleet has done of these runs for done, but for replays that failed.

        Raises StpruneError where the folder holds something else than results of these runs, or is not resumed.
        """
        there = sorted(path.name for path in self.output.iterdir() if path.name != OWN)
        if there and not resume:
            raise StpruneError(
                f"'{self.output}' is not empty ('{there[0]}'): add --resume to run what an earlier fleet left, or name"
                ' another --output'
            )
        self._failed = {run for run in self._runs if self.home(run).exists() and not self._is_kept(run)}
        self.discard_work()  # of a fleet that was killed

    def home(self, run: Run) -> Path:
        """The folder of a run."""
        return self.output / run.folder

    def is_done(self, run: Run) -> bool:
        """Whether the folder of a run is there, and not that of a replay which failed under an earlier fleet."""
        return self.home(run).exists() and run not in self._failed

    def summary(self, run: Run) -> dict[str, Any]:
        """The content of summary.json of a run that is done. Raises BagError where it is not readable."""
        return _summary(self.home(run))

    def rows(self, run: Run) -> Path:
        """The file with the rows of a run."""
        return self.output / OWN / 'rows' / run.folder.with_name(f'{run.folder.name}.parquet')

    def part(self, run: Run, key: str, cut: Cut) -> Path:
        """The file with the ticks of a part."""
        return self._parts(run) / key / f'{cut.from_ns}-{cut.until_ns}.jsonl'

    def new_place(self) -> Path:
        """A place for a worker to write to, which nobody else is given."""
        self._work.mkdir(parents=True, exist_ok=True)
        return self._work / str(next(self._numbers))

    def publish(self, run: Run, place: Path) -> None:
        """Move the folder of a run to where it belongs, and its rows.

        Raises BagError where it is not what was asked for: a worker elsewhere may find another model, and somebody may
        still be writing to the bag.
        """
        sentence = self._difference(run, _summary(place), None)
        if sentence:
            raise BagError(f'what a worker replayed is not what was asked for: {sentence}')
        changed = _other_file(self._inputs[run.folder], inputs_of(run))
        if changed:
            raise BagError(f"'{plain(changed)}' changed meanwhile: once nobody writes to it, --resume replays it")
        self._inputs_file(run).parent.mkdir(parents=True, exist_ok=True)
        write_json(self._inputs_file(run), self._inputs[run.folder])
        move(rows_beside(place), self.rows(run))
        if self.home(run).exists():  # of a replay that failed
            move(self.home(run), self.new_place())
        move(place, self.home(run))
        self._failed.discard(run)

    def discard(self, place: Path) -> None:
        """Remove what a worker wrote that is not wanted."""
        for path in (place, rows_beside(place)):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def discard_parts(self, run: Run) -> None:
        """Remove the parts of a run that is done, also those of a bag that was replaced since, under other keys."""
        shutil.rmtree(self._parts(run), ignore_errors=True)
        with suppress(OSError):  # there are parts under other settings
            self._parts(run).parent.rmdir()

    def discard_work(self) -> None:
        """Remove all that was being written."""
        shutil.rmtree(self._work, ignore_errors=True)

    def earlier(self) -> dict[str, tuple[int, int]]:
        """What only an earlier fleet.json says of a folder: how many workers died of it, and in how many parts it was.

        Nothing where there is none that can be read.
        """
        try:
            found = json.loads(read_text(self.output / 'fleet.json', MAX_BYTES))
            runs = [run for bag in found['bags'] for run in bag['runs']]
            return {str(run['folder']): (int(run['deaths']), int(run['parts'])) for run in runs}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}

    def strangers(self) -> list[str]:
        """Folders of bags and settings that are none of these runs, relative to the output."""
        own = {run.folder for run in self._runs}
        found = [path.parent.relative_to(self.output) for path in self.output.glob('*/*/summary.json')]
        return sorted(str(folder) for folder in found if folder not in own)

    @property
    def _work(self) -> Path:
        return self.output / OWN / 'work'

    def _parts(self, run: Run) -> Path:
        return self.output / OWN / 'parts' / run.folder

    def _is_kept(self, run: Run) -> bool:
        """Whether the results of a run stay as they are; it is tried again where it failed: its bag may be repaired.

        Raises SettingsError where they are those of another run.
        """
        summary = self.summary(run)
        sentence = self._difference(run, summary, None)
        if not sentence and fault(summary, run.drive.path):
            return False
        if not sentence:
            with Bag(run.drive.path) as bag:
                windows = BagWindows(bag, run.setting.settings)
                identity = bag_identity(bag, windows.topics.images)
            sentence = self._difference(run, summary, identity) or _other_version(summary) or self._changed(run)
        if sentence:
            raise SettingsError(
                f"'{self.home(run)}' holds the results of another run: {sentence}; name another --output, or remove it"
            )
        return True

    def _changed(self, run: Run) -> str:
        """Which file has another size or time than before the run, '' where none has."""
        try:
            then = json.loads(read_text(self._inputs_file(run), MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            then = None
        if not isinstance(then, dict):
            return 'nothing is known of the files that it read'
        changed = _other_file(then, self._inputs[run.folder])
        return f"'{plain(changed)}' has changed since" if changed else ''

    def _inputs_file(self, run: Run) -> Path:
        return self.output / OWN / 'inputs' / run.folder.with_name(f'{run.folder.name}.json')

    def _difference(self, run: Run, summary: Mapping[str, Any], bag_id: str | None) -> str:
        """How a replay differs from a run, naming both sides, '' where it does not."""
        wanted = {f"'{name}'": value for name, value in plain_values(run.setting.settings).items()}
        wanted |= dict(self._models[run.setting.name]._asdict()) if summary.get('model_id') else {}
        wanted |= {'interrupted': False, 'span': None} | ({'bag_id': bag_id} if bag_id is not None else {})
        found = {f"'{name}'": value for name, value in summary.get('parameters', {}).items()} | {
            name: summary.get(name) for name in wanted if not name.startswith("'")
        }
        for name, value in wanted.items():
            if found.get(name) != value:
                return f'there {name} is {shown(found.get(name))}, here it is {shown(value)}'
        return ''


def _other_version(summary: Mapping[str, Any]) -> str:
    """Which version replayed it, where that is not this one: a table of both would be of neither. '' where it is."""
    versions = summary.get('versions')
    then = versions.get('stprune_ros') if isinstance(versions, dict) else None
    return '' if then == version() else f'there stprune_ros is {shown(then)}, here it is {shown(version())}'


def _other_file(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first file, by name, that `inputs_of` has other figures of than before, '' where there is none."""
    return min((name for name in then.keys() | now.keys() if then.get(name) != now.get(name)), default='')


def inputs_of(run: Run) -> dict[str, list[int]]:
    """Size in bytes and time of change in ns of each file that a run reads beside its model, by name.

    `bag_identity` looks at the first image only, and neither at the truth nor at a rig file.
    """
    bag = run.drive.path
    files = (
        [bag, bag.with_name(TRUTH)]
        if bag.is_file()
        else [one for one in bag.iterdir() if one.name in OF_BAG or one.suffix in STORAGES]
    )
    rig_file = run.setting.settings.cameras.rig_file
    files += [Path(rig_file)] if rig_file else []
    return {
        file.name: [found.st_size, found.st_mtime_ns] for file in files if file.is_file() for found in [file.stat()]
    }


def rows_beside(place: Path) -> Path:
    """The file for the rows of a run that is written to ``place``."""
    return place.with_name(f'{place.name}.parquet')


def move(source: Path, target: Path) -> None:
    """Move in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def _summary(folder: Path) -> dict[str, Any]:
    file = folder / 'summary.json'
    try:
        found = json.loads(read_text(file, MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise BagError(f"'{folder}' is no output folder of a replay, its summary.json cannot be read: remove it")
    return found
