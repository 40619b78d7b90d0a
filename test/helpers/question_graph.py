"""The part of a node that takes questions, over DDS, without a model behind it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import rclpy
from builtin_interfaces.msg import Duration
from helpers.asking import QUESTION, VALID_MS
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor

from stprune_ros.action import Ask
from stprune_ros.ros.questions import Questions
from stprune_ros.ros.ros_time import RosTime
from stprune_ros.settings.settings import Settings

LIMIT_S = 180.0  # only bounds how long a failure takes
NUMBER = 77  # of what goes out


class Graph:
    """A node that takes questions and answers none by itself, and clients of it, each a DDS participant of its own."""

    def __init__(self, domain_id: int) -> None:
        self.domain_id = domain_id
        self._contexts: list[Context] = []
        self._executors: list[SingleThreadedExecutor] = []
        self.said: list[str] = []
        node, settings = self._new_node('left'), Settings.from_values({'output.valid_for_ms': VALID_MS})
        pipeline = SimpleNamespace(rig=SimpleNamespace(ring=('front',)))
        outputs = SimpleNamespace(numbered=lambda answer: replace(answer, sequence=NUMBER))
        journal = SimpleNamespace(info=self.said.append, warn=self.said.append)
        parts: Any = (node, lambda: settings, lambda: pipeline, RosTime(node.get_clock()), outputs, journal)
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

    def ask(self, client: ActionClient, heard: Callable[[Any], object] | None = None, seconds: int = 60) -> Any:
        """The future of a goal's handle, once the node has it; ``heard`` gets its feedback."""
        sent = client.send_goal_async(Ask.Goal(question=QUESTION, deadline=Duration(sec=seconds)), heard)
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
