"""Questions that end before their answer: whoever asked is gone, or time jumps or stands."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip('rclpy')

import rclpy
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from conftest import new_domain_id
from helpers.asking import BUSY, QUESTION, Asking, hinted, started, wait_for_hints
from helpers.harness import Vehicle
from helpers.simulated_time import SimulatedTime
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from stprune_ros.action import Ask
from stprune_ros.msg import PlanningHint
from stprune_ros.ros.questions import FOUND_S, Questions
from stprune_ros.ros.ros_time import RosTime
from stprune_ros.settings.settings import Settings

GONE = 'the question was given up: whoever asked is gone'
LIMIT_S = 180.0  # only bounds how long a failure takes
KILLED = f"""
import rclpy
from builtin_interfaces.msg import Duration
from rclpy.action import ActionClient
from stprune_ros.action import Ask
rclpy.init()
node = rclpy.create_node('killed')
client = ActionClient(node, Ask, '/left/ask')
client.wait_for_server()
client.send_goal_async(Ask.Goal(question={QUESTION!r}, deadline=Duration(sec=60)))
rclpy.spin(node)
"""


class Graph:
    """A node that takes questions and never answers one, and clients of it, each a DDS participant of its own."""

    def __init__(self, domain_id: int) -> None:
        self.domain_id = domain_id
        self._contexts: list[Context] = []
        self._executors: list[SingleThreadedExecutor] = []
        self.said: list[str] = []
        node = self._new_node('left')
        pipeline = SimpleNamespace(rig=SimpleNamespace(ring=('front',)))
        journal = SimpleNamespace(info=self.said.append, warn=self.said.append)
        parts: Any = (node, Settings, lambda: pipeline, RosTime(node.get_clock()), None, journal)
        self.questions = Questions(*parts)
        node.create_timer(0.1, self.questions.look)

    def _new_node(self, name: str) -> Any:
        context = Context()
        rclpy.init(context=context, domain_id=self.domain_id)
        node = rclpy.create_node(name, context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        self._contexts.append(context)
        self._executors.append(executor)
        return node

    def client(self) -> ActionClient:
        """A client that the node has found; how many there are is what `listeners` counts."""
        count, node = self.listeners(), self._new_node('client')
        client = ActionClient(node, Ask, '/left/ask')
        self.spin_until(lambda: client.server_is_ready() and self.listeners() == count + 1, 'the client')
        return client

    def listeners(self) -> int:
        """Clients that the node knows of."""
        return len(self.questions._node.get_subscriptions_info_by_topic('/left/ask/_action/feedback'))

    def ask(self, client: ActionClient) -> Any:
        """The future of a goal's handle, once the node has it."""
        sent = client.send_goal_async(Ask.Goal(question=QUESTION, deadline=Duration(sec=60)))
        self.spin_until(sent.done, 'the response to a goal')
        return sent

    def spin_until(self, condition: Callable[[], bool], what: str) -> None:
        """Let all go on until ``condition`` holds."""
        ends = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < ends, f'no {what} within {LIMIT_S} s'
            for executor in self._executors:
                executor.spin_once(timeout_sec=0.01)

    def spin(self, seconds: float) -> None:
        """Let all go on for so long."""
        ends = time.monotonic() + seconds
        self.spin_until(lambda: time.monotonic() > ends, 'end')

    def close(self) -> None:
        """Leave the graph."""
        self.questions.give_up('the test is over')
        self.spin(0.2)
        self.questions.close()
        for executor, context in zip(self._executors, self._contexts):
            executor.shutdown()
            rclpy.shutdown(context=context)


@pytest.fixture
def graph(domain_id: int) -> Iterator[Graph]:
    made = Graph(domain_id)
    yield made
    made.close()


def test_a_client_that_leaves_without_a_word_is_missed_at_once(graph: Graph):
    client = graph.client()
    asked = time.monotonic()
    graph.ask(client)
    graph.spin(FOUND_S + 1.0)
    assert graph.questions.current is not None and graph.said == [], 'whoever asked is there'
    client.destroy()
    graph.spin_until(lambda: graph.questions.current is None, 'end of the question')
    assert graph.said == [GONE] and time.monotonic() - asked < 58, 'it is not the deadline that ends it'
    other = graph.client()
    graph.ask(other)
    assert graph.questions.current is not None, 'there is room for the next one'


def test_one_that_came_later_does_not_keep_a_question_and_one_that_was_there_does(graph: Graph):
    early, asking = graph.client(), graph.client()
    graph.ask(asking)
    graph.spin(FOUND_S + 1.0)
    late = graph.client()
    result = graph.ask(late).result().get_result_async()
    graph.spin_until(result.done, 'the refusal')
    assert result.result().result.reason == BUSY
    asking.destroy()
    graph.spin_until(lambda: graph.listeners() == 2, 'two clients')
    graph.spin(2.0)
    assert graph.questions.current is not None, 'nothing tells that it was not the early one'
    early.destroy()
    graph.spin_until(lambda: graph.questions.current is None, 'end of the question')
    assert graph.said == [GONE] and graph.listeners() == 1


def test_a_client_that_was_killed_is_missed_before_the_deadline(graph: Graph):
    """As soon as DDS misses it, which for Fast DDS is after 20 s."""
    env = {**os.environ, 'ROS_DOMAIN_ID': str(graph.domain_id)}
    process = subprocess.Popen([sys.executable, '-c', KILLED], env=env)
    try:
        graph.spin_until(lambda: graph.questions.current is not None, 'the question')
        asked = time.monotonic()
        graph.spin(FOUND_S + 1.0)
    finally:
        process.kill()
        process.wait()
    graph.spin_until(lambda: graph.questions.current is None, 'end of the question')
    assert graph.said == [GONE] and time.monotonic() - asked < 58, 'it is not the deadline that ends it'


def test_simulated_time_that_jumps_or_stands(tmp_path: Path):
    """A clock that jumps back ends a question; where it stands nobody can tell how old an answer is."""
    vehicle = Vehicle(new_domain_id(), '/simulated')
    clock = SimulatedTime(vehicle)
    node = started(tmp_path, vehicle, **{'use_sim_time': True, 'output.max_ahead_ms': 60000.0})
    client = ActionClient(vehicle.node, Ask, f'{vehicle.node_name}/ask')
    try:
        vehicle.wait_until(lambda: len(hinted(vehicle)) > 2, 'hints', node)
        asking = Asking(client, vehicle, node, deadline=Duration(sec=60))
        vehicle.wait_until(lambda: len(asking.feedback) > 1, 'words', node)
        clock.fixed_ns = time.time_ns() - 20_000_000_000
        status, result = asking.result()
        assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Ask.Result.NO_ANSWER)
        assert result.reason == 'the question was given up: the time of the images jumped'
        clock.fixed_ns = None
        wait_for_hints(vehicle, node)
        asking = Asking(client, vehicle, node, candidates=['yes', 'no'], deadline=Duration(sec=60))
        assert asking.result()[1].status == Ask.Result.OK
        clock.runs = False
        stale = len([hint for hint in vehicle.hints if hint.status == PlanningHint.STALE])
        vehicle.wait_until(
            lambda: len([hint for hint in vehicle.hints if hint.status == PlanningHint.STALE]) > stale, 'STALE', node
        )
        asking = Asking(client, vehicle, node, candidates=['yes', 'no'], deadline=Duration(sec=60))
        status, result = asking.result()
        assert (status, result.status) == (GoalStatus.STATUS_SUCCEEDED, Ask.Result.STALE)
        assert result.reason == 'the answer had expired when it went out: it is true of its stamp, not of now'
        assert result.text and len(result.probabilities) == 2
    finally:
        code = node.stop()
        vehicle.close()
    assert code == 0 and 'Traceback' not in node.output()
