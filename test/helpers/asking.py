"""Questions to the real node over DDS, for the tests of what becomes of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import new_domain_id
from helpers.faulty_node import CRAWL
from helpers.harness import FaultyNode, Vehicle, base_values
from helpers.tiny_models import make_tiny_model
from rclpy.action import ActionClient

from stprune_ros.action import Ask
from stprune_ros.msg import PlanningHint
from stprune_ros.srv import DescribeNow

QUESTION = 'what is left of me?'
BUSY = 'another question is being answered: ask again when it is over, or cancel it'
TOKENS = 30
VALID_MS = 60000.0
VALUES = {
    'inference.describe_period_ms': 600000.0,
    'inference.max_new_tokens': TOKENS,
    'output.valid_for_ms': VALID_MS,
}
PROGRAM = 'import sys; from stprune_ros.cli import main; sys.exit(main(sys.argv[1:]))'


def started(folder: Path, vehicle: Vehicle, **values: Any) -> FaultyNode:
    """A node with a tiny model that passes for a trained one. Its texts crawl: one token a tick."""
    path = make_tiny_model(folder / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return FaultyNode(folder, vehicle, {**base_values(path), **VALUES, **values}, generate=CRAWL)


@contextmanager
def asked_vehicle(namespace: str) -> Iterator[Vehicle]:
    """A vehicle in a DDS domain of its own."""
    made = Vehicle(new_domain_id(), namespace)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def asked_node(folder: Path, vehicle: Vehicle) -> Iterator[FaultyNode]:
    """A node that hints and has ended well afterwards."""
    node = started(folder, vehicle)
    vehicle.wait_until(lambda: len(hinted(vehicle)) > 2, 'hints', node)
    yield node
    assert node.stop() == 0
    assert 'Traceback' not in node.output(), node.output()


class Asking:
    """One goal; ``feedback`` is all of it."""

    def __init__(self, client: ActionClient, vehicle: Vehicle, node: FaultyNode, **fields: Any) -> None:
        self._vehicle, self._node = vehicle, node
        self.feedback: list[Any] = []
        self.began = time.monotonic()
        sent = client.send_goal_async(
            Ask.Goal(**{'question': QUESTION, **fields}), lambda said: self.feedback.append(said.feedback)
        )
        vehicle.wait_until(sent.done, 'the response to a goal', node)
        self.handle = sent.result()
        assert self.handle.accepted
        self._future = self.handle.get_result_async()

    def is_over(self) -> bool:
        """Whether the result is there."""
        return bool(self._future.done())

    def result(self) -> tuple[int, Any]:
        """State of the goal and result, once it is there."""
        self._vehicle.wait_until(self.is_over, 'the result of a goal', self._node)
        self.took_s = time.monotonic() - self.began
        return self._future.result().status, self._future.result().result

    def cancel(self) -> int:
        """How many goals are to be cancelled."""
        future = self.handle.cancel_goal_async()
        self._vehicle.wait_until(future.done, 'the response to a cancel', self._node)
        return len(future.result().goals_canceling)


def command(vehicle: Vehicle, *words: str) -> subprocess.Popen[str]:
    """`stprune ask` in a process of its own, with 60 s for an answer."""
    line = [sys.executable, '-c', PROGRAM, 'ask', QUESTION, '--node', vehicle.node_name, '--deadline', '60', *words]
    env = {**os.environ, 'ROS_DOMAIN_ID': str(vehicle.domain_id)}
    return subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def is_asked(vehicle: Vehicle, node: FaultyNode) -> bool:
    """Whether the node is at work on a question; where it is not, it has described a set."""
    return not vehicle.call(DescribeNow, 'describe_now', DescribeNow.Request(), node).accepted


def hinted(vehicle: Vehicle) -> list[PlanningHint]:
    """The hints that were valid."""
    return [hint for hint in vehicle.hints if hint.status == PlanningHint.OK]


def wait_for_hints(vehicle: Vehicle, node: FaultyNode) -> None:
    """Wait until some more have come."""
    heard = len(hinted(vehicle))
    vehicle.wait_until(lambda: len(hinted(vehicle)) > heard + 2, 'hints', node)
