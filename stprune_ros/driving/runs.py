"""All drives of a plan, in processes side by side; each drive is a file of its own, so that a run can go on later."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from stprune_ros.driving.drive import run_drive
from stprune_ros.driving.files import read_drive, write_drive
from stprune_ros.driving.guides import Guide, NoHints, OnAnswer, PipelineHints, TrueHints
from stprune_ros.driving.latency import Latency
from stprune_ros.driving.plan import NO_HINTS, TRUE_HINTS, DrivePlan, Source, identity, settings_for
from stprune_ros.driving.planner import Planner
from stprune_ros.driving.record import Drive
from stprune_ros.errors import Interrupted, StpruneError
from stprune_ros.progress import Say, say_nothing
from stprune_ros.results import write_json
from stprune_ros.ringworld.world import SteppedWorld
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

PLAN, DRIVES = 'plan.json', 'drives'
Task = tuple[int, Source]  # a world's seed, and where hints come from
Found = dict[tuple[int, str], Mapping[str, Any]]  # drives by seed and name of the source


class Driver:
    """Drives one world after another; ``prepare`` and ``run`` are what worker processes call."""

    ready: Driver | None = None

    def __init__(self, plan: DrivePlan, latency: Latency, settings: Settings, output: Path) -> None:
        self.plan, self.latency, self.settings, self.output = plan, latency, settings, output
        self.backend, self.prompt = load_model(settings)

    @classmethod
    def prepare(cls, plan: DrivePlan, latency: Latency, settings: Settings, output: Path) -> None:
        """Load the model once per process, on one thread: drives run in parallel.

        Ctrl-C reaches every process of a terminal: workers leave it to the one that started them.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(1)
        cls.ready = cls(plan, latency, settings, output)

    @classmethod
    def run(cls, task: Task) -> None:
        """Drive with the driver of this process, into the drive's file."""
        assert cls.ready is not None
        seed, source = task
        write_drive(drive_file(cls.ready.output, source, seed), cls.ready.drive(seed, source)[0])

    def drive(self, seed: int, source: Source, on_answer: OnAnswer | None = None) -> tuple[Drive, SteppedWorld]:
        """One drive, and the world after it; ``on_answer`` as for `PipelineHints`."""
        world, planner = self.plan.new_world(seed), Planner(source.method != NO_HINTS)
        return run_drive(world, planner, self._guide(seed, source, on_answer), self.plan.hz), world

    def _guide(self, seed: int, source: Source, on_answer: OnAnswer | None) -> Guide:
        if source.method == NO_HINTS:
            return NoHints()
        if source.method == TRUE_HINTS:
            return TrueHints(self.latency.valid_for_ms)
        settings = settings_for(source, seed, self.settings)
        return PipelineHints(settings, self.backend, self.prompt, self.latency, on_answer)


def drive_file(output: Path, source: Source, seed: int) -> Path:
    """Where a drive is written."""
    return output / DRIVES / source.name.replace(' ', '_') / f'{seed}.json'


def drive_all(
    plan: DrivePlan,
    latency: Latency,
    settings: Settings,
    workers: int,
    output: Path,
    resume: bool = False,
    say: Say = say_nothing,
) -> tuple[dict[str, Any], Found]:
    """Every drive of the plan, each written as soon as it is done; with ``resume`` those that are there stay.

    Returns the plan's `identity` and the drives. Raises StpruneError if the model cannot be loaded, or the folder
    holds drives of another plan.
    """
    backend, _ = load_model(settings, say)  # in this process first: a mistake is reported once, not by every worker
    ran = json.loads(json.dumps(identity(plan, latency, backend.info, settings)))
    plan_file = output / PLAN
    if next((output / DRIVES).glob('*/*.json'), None) is not None:
        if not resume:
            raise StpruneError(
                f"'{output}' holds drives of an earlier run: add --resume to go on with them, or name another --output"
            )
        _refuse_another(plan_file, ran)
    output.mkdir(parents=True, exist_ok=True)
    write_json(plan_file, ran)
    tasks = [(seed, source) for seed in plan.seeds for source in plan.sources]
    files = {task: drive_file(output, task[1], task[0]) for task in tasks}
    open_tasks = [task for task in tasks if not files[task].exists()]
    try:
        if open_tasks:
            _run_all(open_tasks, workers, (plan, latency, settings, output))
    except (KeyboardInterrupt, BrokenProcessPool) as error:
        done = sum(files[task].exists() for task in tasks)
        if isinstance(error, BrokenProcessPool):
            raise StpruneError(
                f'one of {workers} processes that drive was ended from outside after {done} of {len(tasks)} drives:'
                f" they are in '{output / DRIVES}', where --resume goes on;"
                ' where memory was short, choose fewer --workers'
            ) from None
        raise _interruption(done, len(tasks), output / DRIVES, plan_file) from None
    return ran, {(seed, source.name): read_drive(files[seed, source], seed, plan.seconds) for seed, source in tasks}


def _interruption(done: int, tasks: int, folder: Path, plan_file: Path) -> Interrupted:
    if not done:
        return Interrupted(
            f'interrupted before the first of {tasks} drives was finished: --resume begins again',
            {'files': [plan_file]},
        )
    return Interrupted(
        f"interrupted after {done} of {tasks} drives: they are in '{folder}', where --resume goes on",
        {'files': [plan_file]},
    )


def _run_all(tasks: Sequence[Task], workers: int, setup: tuple[DrivePlan, Latency, Settings, Path]) -> None:
    """Raises BrokenProcessPool where one of the processes is gone; whatever it raises, none is left behind."""
    others = set(active_children())
    pool = ProcessPoolExecutor(min(workers, len(tasks)), get_context('spawn'), Driver.prepare, setup)
    try:
        driven = as_completed([pool.submit(Driver.run, task) for task in tasks])
        for drive in tqdm(driven, total=len(tasks), unit='drive', disable=None):
            drive.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(active_children()) - others:  # a drive that has begun would be waited for
            process.terminate()
        raise
    pool.shutdown()


def _refuse_another(file: Path, ran: Mapping[str, Any]) -> None:
    """The latencies of further ratios may be new; all else must be equal."""
    try:
        found = json.loads(file.read_text(encoding='utf-8'))
        then, now = found['up_to_hint_ms'], ran['up_to_hint_ms']
        same = {**found, 'up_to_hint_ms': now} == ran and all(
            then[keep] == now[keep] for keep in then.keys() & now.keys()
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        same = False
    if not same:
        raise StpruneError(f"'{file}' is of drives under another plan: name another --output")
