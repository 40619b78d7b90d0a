"""Records what the node publishes, as the bytes that arrive, into one MCAP file.

`python -m stprune_ros.ros.recorder FILE NODE` prints 'ready' once the node's publishers are matched, and stops at the
end of its standard input, SIGINT or SIGTERM; every message is on disk as soon as it arrives.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions

from stprune_ros.io.bag_reader import message_store
from stprune_ros.io.mcap_writer import McapWriter
from stprune_ros.io.message_definitions import message_definition
from stprune_ros.ros.player import message_class

OUTPUTS = {
    'output/planning_hint': 'stprune_ros/msg/PlanningHint',
    'output/scene_description': 'stprune_ros/msg/SceneDescription',
}


def subscribe(node: Node, writer: McapWriter, source: str) -> list[str]:
    """Write every message of the two outputs of node ``source`` (a full name) to ``writer``; returns their topics."""
    store = message_store()
    topics = []
    for name, msgtype in OUTPUTS.items():
        topic = f'{source}/{name}'
        writer.add_topic(topic, msgtype, message_definition(store, msgtype), store.hash_rihs01(msgtype))

        def write(data: bytes, topic: str = topic) -> None:
            writer.write(topic, time.time_ns(), data)
            writer.flush()

        node.create_subscription(message_class(msgtype), topic, write, QoSProfile(depth=50), raw=True)
        topics.append(topic)
    return topics


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(prog='python -m stprune_ros.ros.recorder', description=__doc__)
    parser.add_argument('file', type=Path)
    parser.add_argument('node', help='full name of the node to record, such as /stprune_node')
    options = parser.parse_args(arguments)
    stopped: list[Any] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stopped.append(number))
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('stprune_recorder', enable_rosout=False, start_parameter_services=False)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    announced = False
    try:
        with McapWriter(options.file) as writer:
            topics = subscribe(node, writer, options.node)
            while not stopped and not _input_ended():
                executor.spin_once(timeout_sec=0.1)
                if not announced and all(node.count_publishers(topic) for topic in topics):
                    announced = True
                    print('ready', flush=True)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()
    return 0


def _input_ended() -> bool:
    """Whether the parent closed our standard input (or died): then there is nobody left to record for."""
    readable, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)


if __name__ == '__main__':
    sys.exit(main())
