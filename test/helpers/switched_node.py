"""stprune_node whose activity follows its standard input: 'up' activates, 'down' deactivates, the end stops it."""

from __future__ import annotations

import os
import select
import sys

import rclpy
from rclpy.executors import SingleThreadedExecutor

from stprune_ros.ros.node import StpruneNode
from stprune_ros.vlm.loading import load_model


def main() -> int:
    """Run until the end of standard input; the exit code says how often a worker did not end."""
    rclpy.init(args=sys.argv)
    node = StpruneNode()
    node.configure(*load_model(node.settings))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    stuck, active = 0, False
    while True:
        executor.spin_once(timeout_sec=0.05)
        readable, _, _ = select.select([sys.stdin], [], [], 0)
        words = os.read(sys.stdin.fileno(), 100).decode().split() if readable else ['']
        for word in words:
            if word == 'up':
                node.activate()
                active = True
            elif word == 'down':
                stuck += not node.deactivate()
                active = False
            if word:
                print(f'is {word}', flush=True)
        if not words:
            break
    if active:
        stuck += not node.deactivate()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    return stuck


if __name__ == '__main__':
    sys.exit(main())
