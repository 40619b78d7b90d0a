"""The examples of the documentation: the consumer in Python over DDS, and the rule in C++ where it can be compiled."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

import pytest

pytest.importorskip('rclpy')

import rclpy
from rclpy.context import Context
from rosgraph_msgs.msg import Clock

from stprune_ros.msg import PlanningHint

ROOT = Path(__file__).resolve().parents[2]
TOPIC = '/examples/hint'
LIMIT_S = 120.0
START_S = 100.0
HEADERS = Path(os.environ.get('STPRUNE_INSTALL_PREFIX', '/nowhere')) / 'include' / 'stprune_ros'


def hint(stamp_s: float, behavior: int, status: int = PlanningHint.OK, confidence: float = 0.9, valid_s: float = 1.0):
    message = PlanningHint(status=status, behavior=behavior, confidence=confidence)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(round(stamp_s * 1e9), 10**9)
    message.valid_for.sec, message.valid_for.nanosec = divmod(round(valid_s * 1e9), 10**9)
    return message


class Consumer:
    """The example in a process of its own, with a clock and a publisher of hints."""

    def __init__(self, domain_id: int) -> None:
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self._node = rclpy.create_node('vehicle', namespace='/examples', context=self._context)
        self._clock = self._node.create_publisher(Clock, '/clock', 10)
        self._hints = self._node.create_publisher(PlanningHint, TOPIC, 10)
        command = [sys.executable, str(ROOT / 'examples' / 'hint_consumer.py'), '--ros-args', '-p', f'topic:={TOPIC}']
        self._process = subprocess.Popen(
            [*command, '-p', 'use_sim_time:=true'],
            env={**os.environ, 'ROS_DOMAIN_ID': str(domain_id), 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])},
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lines: Queue[str] = Queue()
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.strip())

    def next_line(self, now_s: float, *hints: PlanningHint) -> str:
        """What it says next, while it is ``now_s`` and the hints are sent again and again."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            assert self._process.poll() is None, 'the example has ended'
            clock = Clock()
            clock.clock.sec, clock.clock.nanosec = divmod(round(now_s * 1e9), 10**9)
            self._clock.publish(clock)
            for message in hints:
                time.sleep(0.05)  # it holds one message only
                self._hints.publish(message)
            try:
                return self._lines.get(timeout=0.2)
            except Empty:
                continue
        pytest.fail('it says nothing')

    def close(self) -> int:
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(LIMIT_S)
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)
        return code


@pytest.fixture
def consumer(domain_id: int) -> Iterator[Consumer]:
    made = Consumer(domain_id)
    yield made
    assert made.close() == 0


def test_the_consumer_checks_status_stamp_and_expiry(consumer: Consumer):
    stop, slow = PlanningHint.BEHAVIOR_STOP, PlanningHint.BEHAVIOR_SLOW_DOWN
    assert consumer.next_line(START_S) == 'NONE'
    assert consumer.next_line(START_S, hint(START_S, slow, PlanningHint.DEGRADED)) == 'SLOW_DOWN'
    invalid = [hint(START_S + 0.01, stop, status) for status in range(8) if status not in (1, 2)]
    invalid += [
        hint(START_S - 0.5, stop),  # older than what holds
        hint(START_S + 0.02, stop, valid_s=-0.02),  # expired
        hint(START_S + 5, stop),  # from the future
    ]
    # None of them is said: the next word is about one that counts, of which the model is not sure enough.
    unsure = hint(START_S + 0.05, stop, confidence=0.4)
    assert consumer.next_line(START_S, *invalid, unsure) == 'NONE'
    assert consumer.next_line(START_S, *invalid, hint(START_S + 0.06, stop)) == 'STOP'
    heartbeat = hint(START_S + 0.06, 0, PlanningHint.NO_HINT, 0.0, 0.0)
    # It takes nothing back, and at 101.07 s the hint is over without a word of anybody.
    assert consumer.next_line(START_S + 1.07, heartbeat) == 'NONE'


def test_what_the_consumer_cannot_do_is_no_restriction_and_a_later_hint_counts(consumer: Consumer):
    stop, shift = PlanningHint.BEHAVIOR_STOP, PlanningHint.BEHAVIOR_SHIFT_LEFT
    assert consumer.next_line(START_S) == 'NONE'
    assert consumer.next_line(START_S, hint(START_S, stop)) == 'STOP'
    assert consumer.next_line(START_S, hint(START_S + 0.01, shift)) == 'NONE'


@pytest.mark.skipif(not HEADERS.is_dir() or not shutil.which('g++'), reason='needs generated C++ headers and g++')
def test_the_rule_in_cpp_judges_as_it_says(tmp_path: Path):
    prefixes = [sys.prefix, *os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)]
    folders = [folder for prefix in filter(None, prefixes) for folder in (Path(prefix) / 'include').glob('*')]
    program, source = tmp_path / 'rule', ROOT / 'test' / 'helpers' / 'hint_rule_test.cpp'
    includes = [f'-I{folder}' for folder in (HEADERS, *folders)]
    command = ['g++', '-std=c++17', '-Wall', '-Wextra', '-Werror', *includes, str(source), '-o', str(program)]
    subprocess.run(command, check=True)
    assert subprocess.run([program], check=False).returncode == 0
