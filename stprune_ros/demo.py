"""The demo: a small world, the node on it over DDS, the replay beside it, and how far the two agree.

Node, player and recorder are processes of their own, as they would be in a vehicle; no wait is without a limit.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from stprune_ros.core.types import Behavior, Status
from stprune_ros.errors import StpruneError
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagTopics
from stprune_ros.io.ground_truth import GroundTruth
from stprune_ros.replay import command
from stprune_ros.replay.results import HINT_TOPIC
from stprune_ros.resources import dds_profile
from stprune_ros.results import Show, write_json
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import require_model

NODE = '/stprune_node'
HZ = 5.0
# Where the world's recording has them; a user's file may name those of another rig.
TOPICS = {
    'topics.image': '/camera/{camera}/image_raw/compressed',
    'topics.camera_info': '/camera/{camera}/camera_info',
    'topics.odometry': '/odom',
}
READY_S, DRAIN_S, END_S = 180.0, 3.0, 20.0


def demo(output: Path, *, seed: int, seconds: float, values: Mapping[str, Any] | None = None, show: Show) -> int:
    """Run everything into the folder ``output`` and show what came of it; returns 0.

    ``values`` are parameters by dotted name for both halves.
    Raises StpruneError where the live half or the replay did not work.
    """
    bag = output / 'world'
    # Long: the demo shall also work on a slow machine.
    values = {'output.valid_for_ms': 10000.0, **(values or {}), **TOPICS}
    require_model(Settings.from_values(values))  # names a wrong one before anything is made
    _make_world(bag, seed, seconds)
    print(f'live    node, player and recorder over DDS, {seconds:g} s in real time ...', flush=True)
    live(bag, output, seconds, values)
    print('replay  the same bag, as fast as it goes ...', flush=True)
    command.run(bag, output, Settings.from_values(values), show)
    found = compare(output / 'live.mcap', output / 'results.mcap', GroundTruth.beside(bag))
    write_json(output / 'live.json', found)
    written = [output / name for name in ('report.html', 'summary.json', 'results.mcap', 'live.json', 'live.mcap')]
    live_line = f'{found["valid"]} hints in {found["messages"]} messages; {found["hits"]} of {found["known"]} are right'
    if found['missed']:
        live_line += (
            f'\n        {found["missed"]} replayed hints had none live: this machine was too busy, or sets were lost;'
            f" see '{output / 'log'}'"
        )
    agree_line = f'{found["agreed"]} of {found["compared"]} live hints equal the replayed hint of the same stamp'
    show(f'live    {live_line}\nagree   {agree_line}', {'files': written, 'live': found})
    if not found['compared']:
        raise StpruneError(
            f'no live hint can be compared with the replay: {found["messages"]} messages arrived,'
            f" {found['valid']} of them with a valid hint; see '{output / 'log'}'"
        )
    return 0


@dataclass
class Process:
    """A running process with its log; ends with the ``with`` block at the latest."""

    name: str
    log: Path
    running: subprocess.Popen[bytes]

    @classmethod
    def start(
        cls, stack: ExitStack, name: str, logs: Path, arguments: list[str], environment: Mapping[str, str]
    ) -> Process:
        """Start ``python arguments`` with its output in a log file, its standard input a pipe."""
        logs.mkdir(parents=True, exist_ok=True)
        file: IO[bytes] = stack.enter_context((logs / f'{name}.log').open('wb'))
        running = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=file, stderr=file, env=dict(environment)
        )
        process = cls(name, logs / f'{name}.log', running)
        stack.callback(process.end)
        return process

    def wait_for(self, text: str, limit_s: float, others: tuple[Process, ...] = ()) -> None:
        """Wait until ``text`` stands in the log; StpruneError at the limit or where this or another process ended."""
        end = time.monotonic() + limit_s
        while text not in self.log.read_text(errors='replace'):
            for process in (self, *others):
                process.check()
            if time.monotonic() > end:
                raise StpruneError(f"the {self.name} did not say '{text}' within {limit_s:g} s; see '{self.log}'")
            time.sleep(0.1)

    def wait_for_end(self, limit_s: float, others: tuple[Process, ...] = ()) -> None:
        """Wait until the process ends well; StpruneError at the limit or where it or another one fails."""
        end = time.monotonic() + limit_s
        while self.running.poll() is None:
            for process in others:
                process.check()
            if time.monotonic() > end:
                raise StpruneError(f"the {self.name} did not end within {limit_s:g} s; see '{self.log}'")
            time.sleep(0.1)
        if self.running.returncode:
            raise StpruneError(self._how_it_ended())

    def check(self) -> None:
        """Raise StpruneError where the process has ended."""
        if self.running.poll() is not None:
            raise StpruneError(self._how_it_ended())

    def end(self) -> None:
        """Ask the process to stop, and kill it where it does not."""
        if self.running.stdin is not None:
            self.running.stdin.close()
        if self.running.poll() is None:
            self.running.send_signal(signal.SIGINT)
        try:
            self.running.wait(END_S)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()

    def _how_it_ended(self) -> str:
        lines = self.log.read_text(errors='replace').strip().splitlines()
        last = f': {lines[-1]}' if lines else ''
        return f"the {self.name} ended with exit code {self.running.returncode}{last}; see '{self.log}'"


def live(bag: Path, output: Path, seconds: float, values: Mapping[str, Any]) -> None:
    """Play ``bag`` in real time into the node and record what it publishes in ``output``/live.mcap."""
    with Bag(bag) as opened:
        cameras = list(BagTopics.from_bag(opened, Settings.from_values(TOPICS)).cameras)
    parameters = {
        'use_sim_time': True,  # the stamps are the recording's: by today's clock every answer would be stale
        'cameras.names': cameras,
        **values,
        **TOPICS,
        'lifecycle.autostart': True,
    }
    file = output / 'demo.param.yaml'
    file.write_text(yaml.safe_dump({'/**': {'ros__parameters': parameters}}, sort_keys=False), encoding='utf-8')
    environment = _environment(output)
    with ExitStack() as stack:
        logs = output / 'log'
        recording = ['-m', 'stprune_ros.ros.recorder', str(output / 'live.mcap'), NODE]
        recorder = Process.start(stack, 'recorder', logs, recording, environment)
        node = Process.start(
            stack,
            'node',
            logs,
            ['-m', 'stprune_ros.ros.node', '--ros-args', '--params-file', str(file)],
            environment,
        )
        recorder.wait_for('ready', READY_S, (node,))
        playing = ['-m', 'stprune_ros.cli', 'play', str(bag), '--clock', '--wait', f'{READY_S:g}']
        player = Process.start(stack, 'player', logs, playing, environment)
        player.wait_for_end(READY_S + 3 * seconds + END_S, (node, recorder))
        time.sleep(DRAIN_S)  # for the answer to the last frame set
        node.check()


def compare(live_file: Path, replayed: Path, truth: GroundTruth | None) -> dict[str, Any]:
    """Hints that arrived live against the replayed ones of the same stamps, and against the truth."""
    arrived, expected = read_hints(live_file), read_hints(replayed)
    valid = {stamp: behavior for stamp, (status, behavior) in arrived if status.is_valid}
    known = {stamp: truth.at(stamp).behavior for stamp in valid} if truth else {}
    replayed_hints = {stamp: behavior for stamp, (status, behavior) in expected if status.is_valid}
    common = [stamp for stamp in valid if stamp in replayed_hints]
    return {
        'messages': len(arrived),
        'status': dict(sorted(Counter(status.name for _, (status, _) in arrived).items())),
        'valid': len(valid),
        'hints': dict(sorted(Counter(behavior.name for behavior in valid.values()).items())),
        'known': sum(1 for behavior in known.values() if behavior),
        'hits': sum(1 for stamp, behavior in known.items() if behavior == valid[stamp].name),
        'missed': len(replayed_hints) - len(common),
        'compared': len(common),
        'agreed': sum(1 for stamp in common if valid[stamp] == replayed_hints[stamp]),
        'different_stamps': [stamp for stamp in common if valid[stamp] != replayed_hints[stamp]],
    }


def read_hints(file: Path) -> list[tuple[int, tuple[Status, Behavior]]]:
    """(stamp in ns, (status, behavior)) of every planning hint in a results file."""
    hints = []
    with Bag(file) as bag:
        for record in bag.messages([HINT_TOPIC]):
            message = record.message()
            stamp = message.header.stamp
            hints.append((stamp.sec * 10**9 + stamp.nanosec, (Status(message.status), Behavior(message.behavior))))
    return hints


def _make_world(bag: Path, seed: int, seconds: float) -> None:
    from stprune_ros.ringworld.recording import record_world

    print(f'world   seed {seed}, {seconds:g} s at {HZ:g} Hz ...', flush=True)
    if (bag / 'truth.json').is_file():  # the last demo's, and nobody else's
        shutil.rmtree(bag)
    elif bag.exists():
        raise StpruneError(f"'{bag}' is in the way of the demo's world; name another --output")
    bag.parent.mkdir(parents=True, exist_ok=True)
    record_world(bag, seed, seconds, HZ)


def _environment(output: Path) -> dict[str, str]:
    """A DDS domain of its own on this machine only, unless the caller chose one; logs beside the results."""
    chosen = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'ROS_DOMAIN_ID': str(1 + os.getpid() % 100)}
    profile = dict([dds_profile()])
    return {**chosen, **profile, **os.environ, 'ROS_LOG_DIR': str((output / 'log').resolve()), 'PYTHONUNBUFFERED': '1'}
