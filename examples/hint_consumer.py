"""Takes planning hints as a planner should: status and expiry first, then one restriction that ends by itself.

    python examples/hint_consumer.py --ros-args -r __node:=my_planner -p topic:=/stprune_node/output/planning_hint

Prints what holds whenever that changes: the name of a restriction, or NONE. With a bag add `-p use_sim_time:=true`.
"""

from __future__ import annotations

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile

from stprune_ros.msg import PlanningHint

TOPIC = '/stprune_node/output/planning_hint'
LEAST_CONFIDENCE = 0.5  # the model's own probability: calibrate it before it means anything
MAX_AHEAD_NS = 100_000_000  # clocks differ a little; what is farther in the future is not believed
CHECK_S = 0.05  # how often it is looked whether the restriction has expired

# What this planner can do: slow down and stop. Of everything else it knows nothing, and so does nothing about it.
RESTRICTIONS = {PlanningHint.BEHAVIOR_SLOW_DOWN: 'SLOW_DOWN', PlanningHint.BEHAVIOR_STOP: 'STOP'}


def stamp_ns(hint: PlanningHint) -> int:
    """Acquisition time of the images that the hint is about."""
    return hint.header.stamp.sec * 10**9 + hint.header.stamp.nanosec


def expires_ns(hint: PlanningHint) -> int:
    """When the hint ends; it is counted from the images, so that a slow model does not lengthen it."""
    return stamp_ns(hint) + hint.valid_for.sec * 10**9 + hint.valid_for.nanosec


def is_valid(hint: PlanningHint, now_ns: int) -> bool:
    """Whether a hint says anything at ``now_ns``; all other fields of one that does not are to be left alone."""
    if hint.status not in (PlanningHint.OK, PlanningHint.DEGRADED):
        return False
    return stamp_ns(hint) - MAX_AHEAD_NS <= now_ns < expires_ns(hint)


class HintConsumer(Node):
    """Holds the newest valid hint until it expires or a later one comes."""

    def __init__(self) -> None:
        super().__init__('hint_consumer')
        topic = self.declare_parameter('topic', TOPIC).value
        self._hint: PlanningHint | None = None
        self._said = ''
        # Depth 1, as the publisher has it: an old hint is of no use.
        self.create_subscription(PlanningHint, topic, self._receive, QoSProfile(depth=1))
        self.create_timer(CHECK_S, self._update)

    def _receive(self, hint: PlanningHint) -> None:
        # Heartbeats and errors take nothing back: the last hint stands until it expires.
        newer = self._hint is None or stamp_ns(hint) > stamp_ns(self._hint)
        if newer and is_valid(hint, self.get_clock().now().nanoseconds):
            self._hint = hint
        self._update()

    def _update(self) -> None:
        if self._hint is not None and not is_valid(self._hint, self.get_clock().now().nanoseconds):
            self._hint = None
        restriction = 'NONE'
        if self._hint is not None and self._hint.confidence >= LEAST_CONFIDENCE:
            restriction = RESTRICTIONS.get(self._hint.behavior, 'NONE')
        if restriction != self._said:
            self._said = restriction
            print(restriction, flush=True)


def main() -> None:
    """Run until it is interrupted."""
    rclpy.init()
    try:
        rclpy.spin(HintConsumer())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass


if __name__ == '__main__':
    main()
