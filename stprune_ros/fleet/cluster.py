"""Ray: the only file that imports it. Workers that do tasks, on this machine or on a cluster that runs."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stprune_ros.errors import StpruneError, one_line, plain
from stprune_ros.fleet.interrupts import own_handlers, unstoppable
from stprune_ros.fleet.ray_folder import ray_folder
from stprune_ros.fleet.tasks import Died, Outcome, Pace, Task
from stprune_ros.resources import version

LISTEN_S, ANSWER_S = 1.5, 8.0  # how long an address, and the cluster at it, may take to answer
TRIAL = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
STORE_BYTES = 100 * 2**20  # of a local Ray's object store: files carry what is large
LOCAL = {
    # Away from Linux Ray keeps to the loopback interface; this makes it do so here, too. With the token below nobody
    # but its own processes may ask it to run anything.
    'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER': '0',
    'RAY_AUTH_MODE': 'token',
}


@dataclass(frozen=True, slots=True)
class Resources:
    """How many workers, and what each is given: threads of the CPU, a share of GPUs, bytes of memory (0: not said)."""

    workers: int
    threads: int = 1
    gpus: float = 0.0
    memory: int = 0


def require_ray() -> None:
    """Raise StpruneError where Ray or pyarrow is not installed."""
    missing = [name for name in ('ray', 'pyarrow') if importlib.util.find_spec(name) is None]
    if missing:
        raise StpruneError(f"a fleet needs {' and '.join(missing)}: pip install '.[fleet]' (extra 'fleet')")


@contextmanager
def connected(address: str, workers: int | None, threads: int) -> Iterator[str]:
    """A Ray cluster: that of ``address``, or where it is '' one on this machine that ends with the block.

    The latter has as many cores as ``workers`` need, all of this machine's where they are not said. Yields the address
    of its dashboard, '' where it has none. Raises StpruneError where the address does not answer.
    """
    cpus = len(os.sched_getaffinity(0)) if workers is None else workers * threads
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    os.environ['RAY_DISABLE_FAILURE_SIGNAL_HANDLER'] = '1'  # with it Ray ends as if nobody handled SIGTERM
    with (
        Path(os.devnull).open('w') as nowhere,
        redirect_stdout(nowhere),  # Ray prints there that a worker died, which is counted here
        _on(address) if address else _local(max(cpus, threads)) as dashboard,
    ):
        yield dashboard


@contextmanager
def _local(cpus: int) -> Iterator[str]:
    os.environ.update(LOCAL)
    os.environ['RAY_AUTH_TOKEN'] = secrets.token_hex(32)
    import ray

    with ray_folder() as folder:
        try:
            with own_handlers():
                context = ray.init(
                    address='local',
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level='ERROR',
                    configure_logging=True,
                    object_store_memory=STORE_BYTES,
                    _temp_dir=str(folder / 'ray'),  # which Ray opens to everybody
                    _system_config={'enable_metrics_collection': False},
                )
            yield context.dashboard_url or ''
        finally:
            with unstoppable():
                ray.shutdown()


@contextmanager
def _on(address: str) -> Iterator[str]:
    import ray

    why = _no_listener(address) or _no_cluster(address)
    if why:
        raise StpruneError(f"no Ray cluster answers at '{plain(address)}' ({why}): check --address, or omit it")
    try:
        with own_handlers():
            context = ray.init(address=address, log_to_driver=False, logging_level='ERROR')
        yield context.dashboard_url or ''
    finally:
        with unstoppable():
            ray.shutdown()


def _no_listener(address: str) -> str:
    """Why nothing listens at host:port, which Ray itself would try for long; '' where something does."""
    host, colon, port = address.rpartition('://')[2].rpartition(':')
    if not colon or not port.isdecimal():
        return ''
    try:
        socket.create_connection((host.strip('[]'), int(port)), LISTEN_S).close()
    except (OSError, OverflowError) as error:
        return one_line(error)
    return ''


def _no_cluster(address: str) -> str:
    """Why Ray cannot connect, '' where it can; tried in a process of its own, for it may wait for ever."""
    try:
        done = subprocess.run([sys.executable, '-c', TRIAL, address], capture_output=True, text=True, timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        return f'no answer within {ANSWER_S:g} s'
    lines = done.stderr.strip().splitlines() or ['it ended without a word']
    return plain(lines[-1].rpartition('Error: ')[2], 200) if done.returncode else ''


def resources(
    workers: int | None, threads: int, gpus: float | None, memory: int, uses_gpu: bool, grows: bool
) -> Resources:
    """What each worker gets, and how many there may be: as many as the cluster holds, unless ``workers`` says it.

    Where ``gpus`` is not said a worker has a GPU if there are some and the model ``uses_gpu``. Raises StpruneError
    where the cluster holds no worker; one that ``grows`` may hold as many as ``workers`` says.
    """
    import ray

    there = ray.cluster_resources()
    if gpus is None:
        gpus = 1.0 if uses_gpu and there.get('GPU') else 0.0
    wanted = {'CPU': float(threads), 'GPU': gpus, 'memory': float(memory)}
    fits = min(int(there.get(name, 0.0) / amount) for name, amount in wanted.items() if amount)
    if not fits and (workers is None or not grows):
        name = next(name for name, amount in wanted.items() if amount > there.get(name, 0.0))
        raise StpruneError(
            f'a worker is to have {wanted[name]:g} {name}, and the cluster has {there.get(name, 0.0):g} in all: ask for'
            ' less, or say --workers where it will grow'
        )
    return Resources(workers or fits, threads, gpus, memory)


class Pool:
    """Workers that do one task each, started when there is one to do; one that dies is replaced. Use in `connected`."""

    def __init__(self, given: Resources) -> None:
        import ray

        self._ray, self._workers = ray, given.workers
        options: dict[str, Any] = {'num_cpus': given.threads, 'num_gpus': given.gpus, 'max_restarts': 0}
        if given.memory:
            options['memory'] = given.memory
        self._board = ray.remote(FleetBoard).options(num_cpus=0).remote()
        self._kind = ray.remote(FleetWorker).options(**options)
        self._given = (str(Path.cwd()), given.threads, version(), self._board)
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, int]] = {}
        self._ended: dict[int, str] = {}

    @property
    def idle(self) -> int:
        """How many workers have nothing to do, or are not there yet."""
        return self._workers - len(self._busy)

    def submit(self, number: int, task: Task) -> None:
        """Give a task with a number of its own to an idle worker."""
        actor = self._idle.pop() if self._idle else self._kind.remote(*self._given)
        self._busy[actor.do.remote(number, task)] = (actor, number)

    def wait(self, timeout_s: float) -> list[tuple[int, Outcome | Died]]:
        """What came of tasks by their numbers, nothing after ``timeout_s``. Raises StpruneError if none can start."""
        ready, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=timeout_s)
        return [self._collect(ref) for ref in ready]

    def paces(self) -> dict[int, Pace]:
        """How far the tasks are that a worker has begun, by their numbers."""
        found: dict[int, Pace] = self._ray.get(self._board.read.remote())
        return found

    def end(self, number: int, why: str) -> None:
        """End the worker of a task, which then has died: of ``why``."""
        self._ended[number] = why
        for actor, other in self._busy.values():
            if other == number:
                self._ray.kill(actor)

    def close(self) -> None:
        """End every worker, whatever it does."""
        for actor in [*self._idle, *(actor for actor, _ in self._busy.values())]:
            self._ray.kill(actor)

    def _collect(self, ref: Any) -> tuple[int, Outcome | Died]:
        actor, number = self._busy.pop(ref)
        try:
            outcome: Outcome = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            if getattr(error, 'actor_init_failed', False):
                raise StpruneError(f'no worker can start: {_cause(error)}') from None
            self._ray.kill(actor)
            return number, Died(self._ended.pop(number, '') or _cause(error))
        self._idle.append(actor)
        return number, outcome


def _cause(error: BaseException) -> str:
    """Of Ray's pages of text the line that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith(('The actor died', 'Worker unexpectedly', 'Task was killed'))]
    return plain((causes or lines or [type(error).__name__])[-1], 300)


class FleetBoard:
    """Where workers say how far they are."""

    def __init__(self) -> None:
        self._paces: dict[int, Pace] = {}

    def tell(self, number: int, pace: Pace) -> None:
        self._paces[number] = pace

    def read(self) -> dict[int, Pace]:
        return self._paces


class FleetWorker:
    """A worker in a process of its own, on any machine of the cluster."""

    def __init__(self, folder: str, threads: int, wanted: str, board: Any) -> None:
        if version() != wanted:
            raise StpruneError(f'it has stprune_ros {version()}, and the fleet is of {wanted}')
        from stprune_ros.fleet.worker import Worker  # brings torch

        self._worker, self._board = Worker(folder, threads), board

    def do(self, number: int, task: Task) -> Outcome:
        self._board.tell.remote(number, Pace())
        return self._worker.do(task, lambda pace: self._board.tell.remote(number, pace))
