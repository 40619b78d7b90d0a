"""What `stprune fleet` does: plan, refuse, run on Ray, and leave an index of what there is, also when interrupted."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stprune_ros.errors import BagError, Interrupted, SettingsError, StpruneError
from stprune_ros.fleet.cluster import Pool, connected, require_ray, resources
from stprune_ros.fleet.dispatch import Dispatcher, Progress, take_result
from stprune_ros.fleet.index import FAILED, MISSING, Entry, content, hints_in, join_rows, write_rows
from stprune_ros.fleet.ledger import LOCK, Ledger
from stprune_ros.fleet.page import fleet_page
from stprune_ros.fleet.plan import REPORTS, Drive, Run, Setting, runs_of
from stprune_ros.fleet.split import why_whole
from stprune_ros.folder_lock import locked
from stprune_ros.progress import said_while_slow
from stprune_ros.resources import version
from stprune_ros.results import Show, replaced_at_once, table, write_json
from stprune_ros.vlm.loading import ModelIdentity, model_identity, require_model

WINDOW_S = 600.0  # of long bags, unless it is said


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """How a fleet is run; what is None is found out. ``window_s`` 0: no bag is split."""

    output: Path
    resume: bool
    address: str
    workers: int | None
    threads: int
    gpus: float | None
    memory: int
    window_s: float | None
    patience_s: float


def run(drives: Sequence[Drive], settings: Sequence[Setting], options: FleetOptions, show: Show) -> int:
    """Run what is missing, write the index and show it; returns 0.

    Raises StpruneError where nothing can be run, and at the end where a replay failed; Interrupted when it was.
    """
    _refuse_split(settings, options.window_s)
    models = _models(settings)
    runs = [Run(drive, setting) for drive in sorted(drives, key=lambda one: one.name) for setting in settings]
    with locked(options.output, options.output / LOCK, 'fleet'):
        ledger = Ledger(options.output, runs, models)
        ledger.take_over(options.resume)
        entries = {one: Entry(one) for one in runs}
        earlier = ledger.earlier()
        for one in runs:
            if ledger.is_done(one):
                take_result(entries[one], ledger)
                entries[one].deaths, entries[one].parts = earlier.get(one.folder.as_posix(), (0, 1))
        stopped_by: BaseException | None = None
        try:
            if any(not ledger.is_done(one) for one in runs):
                _run_missing([entries[one] for one in runs_of(drives, settings)], ledger, settings, options)
        except (KeyboardInterrupt, StpruneError, OSError) as error:
            stopped_by = error
        finally:
            ledger.discard_work()
        has_none = all(entry.state == MISSING for entry in entries.values())
        if has_none and stopped_by is not None and not isinstance(stopped_by, KeyboardInterrupt):
            raise stopped_by
        found = _write_index(list(entries.values()), ledger)
    result = {'files': [options.output / name for name in REPORTS], 'fleet': found}
    if isinstance(stopped_by, KeyboardInterrupt):
        raise _interruption(found, options.output, result) from None
    if stopped_by is not None:
        raise stopped_by
    show(summary_text(found, options.output), result)
    failed = [entry for entry in entries.values() if entry.state == FAILED]
    if failed:
        raise BagError(
            f"{len(failed)} of {len(runs)} replays failed, first that of '{failed[0].run.folder}': {failed[0].sentence}"
        )
    return 0


def _interruption(found: Mapping[str, Any], output: Path, result: Mapping[str, Any]) -> Interrupted:
    if not found['done']:
        return Interrupted(
            f'interrupted before the first of {found["runs"]} replays was finished: the same command with --resume'
            ' begins again',
            result,
        )
    return Interrupted(
        f'interrupted after {found["done"]} of {found["runs"]} replays: they are in'
        f" '{output / 'fleet.html'}', and the same command with --resume goes on",
        result,
    )


def summary_text(found: Mapping[str, Any], output: Path) -> str:
    """A fleet in a few lines for a terminal."""
    rows = []
    for one in found['settings']:
        truth, flips, times = one['truth'], one['flips'], one['hint_ms']
        rows.append(
            [
                one['setting'],
                f'{one["done"]}/{one["runs"]}',
                one['ticks'],
                f'{one["tokens_kept"]:.1f} of {one["tokens_full"]:.1f}',
                f'{truth["hits"]} of {truth["known"]}' if truth else 'not known',
                f'{flips["ticks"]} of {flips["common"]}' if flips else 'n/a',
                f'{times["p50"]:.0f}' if times else 'n/a',
                one['errors'],
            ]
        )
    head = ('setting', 'replays', 'ticks', 'tokens per tick', 'right', 'flips', 'hint ms', 'errors')
    lines = [table(head, rows), *found['notes']]
    if found['deaths']:
        lines.append(f'workers that died and were replaced: {found["deaths"]}')
    return '\n'.join([*lines, f'report  {output / "fleet.html"}'])


def _refuse_split(settings: Sequence[Setting], window_s: float | None) -> None:
    for setting in settings:
        why = why_whole(setting.settings) if window_s else ''
        if why:
            raise SettingsError(f'--window is {window_s:g}, but {why}')


def _models(settings: Sequence[Setting]) -> dict[str, ModelIdentity]:
    """The model of each setting by its name; raises ModelError where one is not there."""
    found = {}
    for setting in settings:
        require_model(setting.settings)
        found[setting.name] = model_identity(setting.settings, _say)
    return found


def _run_missing(entries: Sequence[Entry], ledger: Ledger, settings: Sequence[Setting], options: FleetOptions) -> None:
    require_ray()
    window_s = WINDOW_S if options.window_s is None else options.window_s
    uses_gpu = any(setting.settings.model.device != 'cpu' for setting in settings)
    starting = f"connecting to Ray at '{options.address}'" if options.address else 'starting Ray on this machine'
    with ExitStack() as stack:
        with said_while_slow(_say, lambda: starting):
            dashboard = stack.enter_context(connected(options.address, options.workers, options.threads))
        given = resources(
            options.workers, options.threads, options.gpus, options.memory, uses_gpu, bool(options.address)
        )
        _say(f'up to {given.workers} workers' + (f"; Ray's dashboard is at {dashboard}" if dashboard else ''))
        pool = stack.enter_context(closing(Pool(given)))
        dispatcher = Dispatcher(entries, ledger, pool, window_s, options.patience_s)
        with _bar(dispatcher.bytes, dispatcher.bytes_done) as advance:
            dispatcher.run(advance)


@contextmanager
def _bar(total: int, done: int) -> Iterator[Callable[[Progress], None]]:
    """A bar over the bytes of all bags, with replays, ticks, their rate and the time left; nothing in a log."""
    form = '{percentage:3.0f}%|{bar}| {desc}[{elapsed}<{remaining}]'
    started = time.monotonic()
    with tqdm(total=total, initial=done, bar_format=form, dynamic_ncols=True, disable=not sys.stderr.isatty()) as bar:

        def advance(progress: Progress) -> None:
            rate = progress.ticks / (time.monotonic() - started)
            text = f'{progress.runs}/{progress.of} replays, {progress.ticks} ticks, {rate:.1f} ticks/s '
            bar.set_description_str(text, refresh=False)
            bar.update(progress.bytes - bar.n)

        yield advance


def _write_index(entries: Sequence[Entry], ledger: Ledger) -> dict[str, Any]:
    """Write fleet.json, fleet.html and fleet.parquet from what is there; returns the content of the first."""
    there = [entry for entry in entries if entry.summary is not None]
    for entry in there:
        rows = ledger.rows(entry.run)
        if not rows.is_file():
            write_rows(ledger.home(entry.run), entry.run, rows)
        entry.said = hints_in(rows)
    strangers = ledger.strangers()
    notes = [] if not strangers else [_strangers(strangers)]
    found = content(entries, {'version': version(), 'date': date.today().isoformat(), 'notes': notes})
    write_json(ledger.output / 'fleet.json', found)
    with replaced_at_once(ledger.output / 'fleet.html') as part:
        part.write_text(fleet_page(found), encoding='utf-8')
    join_rows([ledger.rows(entry.run) for entry in there], ledger.output / 'fleet.parquet')
    return found


def _strangers(folders: Sequence[str]) -> str:
    more = f' and {len(folders) - 1} more' if len(folders) > 1 else ''
    return f"not in this index: the results in '{folders[0]}'{more}, of bags or settings that were not named this time"


def _say(sentence: str) -> None:
    tqdm.write(f'stprune: {sentence}', file=sys.stderr)
