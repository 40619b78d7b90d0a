"""The node's clock, and whether the age of anything can be told by it."""

from __future__ import annotations

import time

from rclpy.clock import Clock

NOT_BEGUN = 'ROS time has not begun: nothing came on /clock yet'
STANDS = 'ROS time stands still: nothing comes on /clock any more'
STANDS_AFTER_S = 2.0  # real time; the slowest common source of /clock sends once a second


class RosTime:
    """Reads a clock of ROS time, which may be simulated; for any thread.

    Somebody must read it more often than every STANDS_AFTER_S.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_ns, self._moved = -1, time.monotonic()

    def now_ns(self) -> int:
        """The time in ns; 0 where simulated time has not begun."""
        now_ns = int(self._clock.now().nanoseconds)
        if now_ns != self._last_ns:
            self._last_ns, self._moved = now_ns, time.monotonic()
        return now_ns

    @property
    def fault(self) -> str:
        """NOT_BEGUN or STANDS where no age can be told, '' where time runs."""
        if self.now_ns() == 0:
            return NOT_BEGUN
        return STANDS if time.monotonic() - self._moved > STANDS_AFTER_S else ''
