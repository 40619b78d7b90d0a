"""A /clock beside a vehicle, which runs, stands or jumps with it."""

from __future__ import annotations

import time

from helpers.harness import Vehicle
from rosgraph_msgs.msg import Clock

PERIOD_S = 0.05


class SimulatedTime:
    """A /clock that follows the vehicle's stamps as long as it runs; ``fixed_ns`` stands in their place."""

    def __init__(self, vehicle: Vehicle, fixed_ns: int | None = None) -> None:
        self.runs, self.fixed_ns = True, fixed_ns
        self._vehicle, self._act, self._next = vehicle, vehicle.act, 0.0
        self._publisher = vehicle.node.create_publisher(Clock, '/clock', 10)
        vehicle.act = self.act  # type: ignore[method-assign]

    def act(self) -> None:
        self._act()
        if self.runs and time.monotonic() >= self._next:
            self._next = time.monotonic() + PERIOD_S
            now_ns = time.time_ns() - self._vehicle.behind_ns if self.fixed_ns is None else self.fixed_ns
            message = Clock()
            message.clock.sec, message.clock.nanosec = divmod(now_ns, 10**9)
            self._publisher.publish(message)
