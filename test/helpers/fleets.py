"""Fleets as a user runs them: the command in a process of its own, its workers, and a Ray cluster beside it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stprune_ros.fleet.tasks import Broken, Died, Outcome, Pace, Task
from stprune_ros.io.bag_reader import Bag

ROOT = Path(__file__).resolve().parents[2]
TIMES = ('stage_ms', 'hint_ms', 'tick_ms', 'times')
# A cluster of one node that keeps to this machine: prints its address, and ends with its standard input.
CLUSTER = """
import sys, tempfile
import ray
context = ray.init(address='local', num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level='ERROR',
                   object_store_memory=100 * 2**20, _temp_dir=sys.argv[1])
print(context.address_info['gcs_address'], flush=True)
sys.stdin.read()
"""


class Command:
    """`stprune` with these arguments, running in a session of its own."""

    def __init__(self, *arguments: str | Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'stprune_ros.cli', *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, 'PYTHONPATH': str(ROOT), **environment},
        )

    def wait_until(self, happened: Callable[[], Any], what: str, timeout_s: float = 240.0) -> Any:
        """What ``happened`` returns once that is true; fails where the command ends before."""
        end = time.monotonic() + timeout_s
        while not (found := happened()):
            assert self.process.poll() is None, f'it ended before {what}: {self.process.communicate()}'
            assert time.monotonic() < end, f'no {what} within {timeout_s:g} s'
            time.sleep(0.05)
        return found

    def busy_workers(self) -> list[int]:
        """Processes of its Ray that do a task."""
        return [pid for pid, title in descendants(self.process.pid).items() if title.startswith('ray::FleetWorker.do')]

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal sends it: to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, timeout_s: float = 300.0) -> tuple[int, str, str]:
        """Exit code, stdout and stderr."""
        out, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, err


def descendants(root: int) -> dict[int, str]:
    """The processes below ``root`` with their titles."""
    parents: dict[int, int] = {}
    titles: dict[int, str] = {}
    for folder in Path('/proc').iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int((folder / 'stat').read_text().rpartition(')')[2].split()[1])
                titles[int(folder.name)] = (
                    (folder / 'cmdline').read_bytes().replace(b'\0', b' ').decode(errors='replace')
                )
            except OSError:  # it has just ended
                continue

    def is_below(pid: int) -> bool:
        while pid in parents and pid != root:
            pid = parents[pid]
        return pid == root

    return {pid: titles[pid].strip() for pid in titles if pid != root and is_below(pid)}


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray cluster on this machine: its address, and the environment that whoever connects needs."""
    environment = {
        'RAY_USAGE_STATS_ENABLED': '0',
        'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER': '0',
        'RAY_AUTH_MODE': 'token',
        'RAY_AUTH_TOKEN': os.urandom(32).hex(),
        'PYTHONPATH': str(ROOT),
    }
    with subprocess.Popen(
        [sys.executable, '-c', CLUSTER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield process.stdout.readline().strip(), environment
        finally:
            process.stdin.close()
            process.wait(60)


def summary_of(folder: Path) -> dict[str, Any]:
    """The content of summary.json but for times."""
    found = json.loads((folder / 'summary.json').read_text())
    return {key: value for key, value in found.items() if key not in TIMES}


def messages_of(folder: Path) -> list[tuple[str, int, str]]:
    """What results.mcap says, message by message, but for times and pictures, which show times."""
    found = []
    with Bag(folder / 'results.mcap') as bag:
        for record in bag.messages():
            message = record.message()
            if hasattr(message, 'info'):
                message.info.stage_ms = message.info.stage_ms * 0
            if record.topic.startswith('/stprune_node/output') or '/probability/' in record.topic:
                found.append((record.topic, record.receive_ns, repr(message)))
    return found


STUCK = Broken('still at it')
LONG_S = 20.0


class Script:
    """Workers that do at once what ``act`` says of a task; the last one that was given is done first.

    Who waits longer than ``LONG_S`` for one that is stuck would do so for ever.
    """

    def __init__(self, count: int, act: Callable[[Task], Outcome | Died]) -> None:
        self.count, self.act = count, act
        self.given: list[Task] = []
        self.waiting: list[tuple[int, Task]] = []
        self.told: dict[int, Pace] = {}
        self.ended: dict[int, str] = {}
        self.stuck_since = math.inf

    @property
    def idle(self) -> int:
        return self.count - len(self.waiting)

    def submit(self, number: int, task: Task) -> None:
        assert self.idle > 0 and number not in self.told
        self.given.append(task)
        self.told[number] = Pace(1, 4, 2)
        self.waiting.append((number, task))

    def wait(self, timeout_s: float) -> list[tuple[int, Outcome | Died]]:
        number, task = self.waiting[-1]
        if number in self.ended:
            found: Outcome | Died = Died(self.ended[number])
        else:
            found = self.act(task)
        if found == STUCK:
            self.stuck_since = min(self.stuck_since, time.monotonic())
            assert time.monotonic() - self.stuck_since < LONG_S, f'nobody has ended it within {LONG_S:g} s'
            return []
        self.stuck_since = math.inf
        self.waiting.pop()
        return [(number, found)]

    def paces(self) -> dict[int, Pace]:
        return dict(self.told)

    def end(self, number: int, why: str) -> None:
        self.ended[number] = why

    def close(self) -> None:
        """Nothing is left of them."""
