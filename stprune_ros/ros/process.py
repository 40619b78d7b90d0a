"""The process around the node: signals, the executor's loop, and the exit code."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from stprune_ros.errors import SettingsError, StpruneError, plain
from stprune_ros.ros.managed_node import NODE_NAME, StpruneNode
from stprune_ros.ros.supervisor import CANNOT_START, INFERENCE_FAILED, INFERENCE_HANGS, Ending
from stprune_ros.ros.watchdog import STOP_S, Watchdog, stop_signals, tell

SOURCE_PLACE = re.compile(r', at [^ ,]+:\d+')  # rcl names its own source lines
SPIN_S = 0.2
DRAIN_S = 0.2  # for the last messages, and the response to a shutdown
WORKER_STOPS_S = 1.0  # with the rest well within 3 s; a native call may take longer, and is left behind
MAX_FAULTS = 100  # of the executor itself, one after the other


def run(arguments: list[str] | None) -> int:
    """Run the node until a signal, a shutdown or a fault ends it, and the process with it.

    Returns the exit code only where there was nothing to run.
    """
    stopped: list[int] = []
    for number in stop_signals():
        signal.signal(number, lambda number, _: stopped.append(number))
    try:
        # rclpy's own handlers would pull the context away from under the worker.
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        _refuse_words(sys.argv if arguments is None else arguments)
        node = StpruneNode()
    except (StpruneError, rclpy_implementation.RCLError) as error:
        tell(f'{NODE_NAME}: {_reason(error)}')
        return CANNOT_START
    watchdog = Watchdog(NODE_NAME)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ending = _spin(executor, node, watchdog, stopped)
    watchdog.beat(STOP_S)
    if ending.sentence:
        if ending.code != CANNOT_START:
            node.get_logger().fatal(ending.sentence)
        tell(f'{NODE_NAME}: {ending.sentence}')
    if node.questions.give_up('the node ends'):
        _drain(executor, node)
    node.close(WORKER_STOPS_S)
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    with suppress(OSError):
        sys.stdout.flush()
    # The interpreter's own end takes seconds on a busy machine, and would crash with a thread inside a native call.
    os._exit(ending.code)


def _refuse_words(arguments: list[str]) -> None:
    """Raise SettingsError for arguments that ROS would pass over: parameters among them would be left out silently."""
    words = remove_ros_args(args=arguments)[1:]
    if words:
        raise SettingsError(
            f"argument '{plain(words[0])}' is not known; parameters and remaps go behind --ros-args, as in --ros-args"
            ' --params-file FILE'
        )


def _reason(error: Exception) -> str:
    """Why there is no node, in one line; rcl has an empty sentence where a secured start fails."""
    text = ' '.join(SOURCE_PLACE.sub('', str(error)).split())
    if isinstance(error, StpruneError) or os.environ.get('ROS_SECURITY_ENABLE', '').lower() != 'true':
        return text
    return f'{text}; ROS_SECURITY_ENABLE is true, which needs security libraries and a keystore: see SECURITY.md'


def _spin(executor: SingleThreadedExecutor, node: StpruneNode, watchdog: Watchdog, stopped: list[int]) -> Ending:
    watchdog.beat(node.settings.model.load_timeout_ms / 1e3)  # from here on this thread may never run again
    node.start()
    faults = 0
    while not stopped and node.ending is None:
        faults = faults + 1 if _spin_once(executor, node, SPIN_S) else 0
        watchdog.beat(node.longest_silence_s)
        if faults >= MAX_FAULTS:
            return Ending(INFERENCE_FAILED, f'{faults} callbacks failed one after the other: the node ends')
    if node.ending is None:
        return Ending(INFERENCE_HANGS if node.hangs else 0)
    _drain(executor, node, stopped)
    return node.ending


def _drain(executor: SingleThreadedExecutor, node: StpruneNode, stopped: Sequence[int] = ()) -> None:
    until = time.monotonic() + DRAIN_S
    while not stopped and time.monotonic() < until:
        _spin_once(executor, node, DRAIN_S / 4)


def _spin_once(executor: SingleThreadedExecutor, node: StpruneNode, timeout_s: float) -> bool:
    """One callback, or none within ``timeout_s``; whether it failed."""
    try:
        executor.spin_once(timeout_sec=timeout_s)
    except Exception as error:  # of a callback: no message may end the node
        node.callback_failed(error)
        return True
    return False
