"""Asks a running node, for `stprune ask`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import rclpy
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from stprune_ros.action import Ask
from stprune_ros.core.types import CameraState, Status
from stprune_ros.errors import StpruneError, one_line, plain
from stprune_ros.inference.question import ANSWERED, Question, status_name
from stprune_ros.ros import topic_graph
from stprune_ros.vlm.parsing import MAX_CHARACTERS

FOUND_S = 5.0  # until a node of a network has been found
ANSWERED_S = 5.0  # behind the deadline; and for the node to hear that nobody waits any more


class Words(Protocol):
    """Shows the words so far."""

    def __call__(self, text: str) -> None:
        """Show them."""

    def end(self) -> None:
        """Nothing follows."""


def ask_node(question: Question, name: str, words: Words | None) -> dict[str, Any]:
    """The answer of the node with the full name ``name`` as `replay.ask.reply_summary` has that of a bag.

    Raises StpruneError where it cannot be found or does not answer. Ctrl-C cancels the question.
    """
    topic_graph.require_node_name(name)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('stprune_ask', enable_rosout=False, start_parameter_services=False)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        client: Any = ActionClient(node, Ask, f'{name}/ask')
        _spin(
            executor,
            client.server_is_ready,
            FOUND_S,
            f"no node '{plain(name)}' that can be asked was found within {FOUND_S:g} s: look at its name, ROS_DOMAIN_ID"
            ' and ROS_AUTOMATIC_DISCOVERY_RANGE',
        )
        goal = Ask.Goal(
            question=question.text,
            cameras=list(question.cameras),
            current_only=question.current_only,
            deadline=_duration(question.deadline_s),
            candidates=list(question.candidates),
        )
        limit_s = question.deadline_s + ANSWERED_S
        late = f"the node '{plain(name)}' did not answer within {limit_s:g} s: see its log and /diagnostics"
        sent = client.send_goal_async(goal, (lambda said: words(_text(said.feedback))) if words is not None else None)
        try:
            _spin(executor, sent.done, limit_s, late)
            if not sent.result().accepted:
                raise StpruneError(f"the node '{plain(name)}' did not take the question: see its log")
            result = sent.result().get_result_async()
            _spin(executor, result.done, limit_s, late)
        except KeyboardInterrupt:
            _spin(executor, sent.done, ANSWERED_S, late)  # before that there is nothing that could be cancelled
            _spin(executor, sent.result().cancel_goal_async().done, ANSWERED_S, late)
            raise
        finally:
            if words is not None:
                words.end()
        if result.result().status == GoalStatus.STATUS_UNKNOWN:
            raise StpruneError(f"the node '{plain(name)}' forgot the question: ask again")
        try:
            return _summary(result.result().result, question)
        except ValueError as error:  # a number that has no name
            raise StpruneError(
                f"the node '{plain(name)}' is of another release, whose answers are not understood ({one_line(error)}):"
                ' install the same one here'
            ) from None
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()


def _spin(executor: SingleThreadedExecutor, condition: Callable[[], bool], limit_s: float, otherwise: str) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > until:
            raise StpruneError(otherwise)
        executor.spin_once(timeout_sec=0.05)


def _duration(seconds: float) -> Duration:
    """At least 1 ns: zero stands for no deadline given."""
    sec, nanosec = divmod(max(1, round(seconds * 1e9)), 10**9)
    return Duration(sec=sec, nanosec=nanosec)


def _text(said: Any) -> str:
    """Words of another process as a terminal may show them."""
    return plain(said.text, MAX_CHARACTERS)


def _summary(result: Any, question: Question) -> dict[str, Any]:
    stamp, valid_for, info = result.header.stamp, result.valid_for, result.info
    stamp_ns = stamp.sec * 10**9 + stamp.nanosec
    text = _text(result) if Status(result.status) in ANSWERED else ''
    probabilities = result.probabilities if text else ()
    return {
        'status': status_name(result.status),
        'reason': plain(result.reason, MAX_CHARACTERS),
        'text': text,
        'truncated': result.truncated,
        'candidates': [{'text': text, 'probability': p} for text, p in zip(question.candidates, probabilities)],
        'stamp_ns': stamp_ns,
        'valid_until_ns': stamp_ns + valid_for.sec * 10**9 + valid_for.nanosec,
        'tokens': result.tokens,
        'stage_ms': {name: round(ms, 3) for name, ms in zip(map(plain, result.stage_names), result.stage_ms)},
        'model_id': plain(info.model_id),
        'model_revision': plain(info.model_revision),
        'prompt_id': plain(info.prompt_id),
        'keep_ratio': round(info.keep_ratio, 6),
        'cameras': {plain(camera.name): CameraState(camera.state).name for camera in info.cameras},
    }
