"""Questions that end before their answer: whoever asked is gone, or time jumps or stands."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip('rclpy')

from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from conftest import new_domain_id
from helpers.asking import BUSY, QUESTION, Asking, hinted, started, wait_for_hints
from helpers.harness import Vehicle
from helpers.question_graph import Graph
from helpers.simulated_time import SimulatedTime
from rclpy.action import ActionClient

from stprune_ros.action import Ask
from stprune_ros.msg import PlanningHint
from stprune_ros.ros.questions import FOUND_S

GONE = 'the question was given up: whoever asked is gone'
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
