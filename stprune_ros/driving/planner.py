"""A planner that follows a route and heeds hints: a hint only restricts, ends at its expiry, and never lifts a limit.

Times are nanoseconds of the source clock, speeds m/s, accelerations m/s2. The planner knows its route and its speed and
nothing of what is around it: whatever it does about others it does because a hint says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stprune_ros.core.types import Behavior, Status

SLOW, WIDE_GAP = 3.5, 6.0  # the most under SLOW_DOWN, and under INCREASE_GAP, which names no distance
CAUTION = 4.0  # the most while no hint holds
SPEED_UP, SLOW_BY, STOP_BY = 1.6, 2.5, 4.0
RESPONSE_S = 0.5  # within which a small difference in speed is made up
MAX_AHEAD_NS = 100_000_000  # clocks differ a little; what is farther in the future is not believed

# The highest speed that each behavior leaves. What is not here restricts nothing: the planner does not know it.
LIMITS: Mapping[Behavior, float] = {
    Behavior.SLOW_DOWN: SLOW,
    Behavior.STOP: 0.0,
    Behavior.YIELD: 0.0,
    Behavior.INCREASE_GAP: WIDE_GAP,
}


@dataclass(frozen=True, slots=True)
class TimedHint:
    """A hint as a consumer gets it: when its images were taken, and when it ends."""

    stamp_ns: int
    expires_ns: int
    status: Status
    behavior: Behavior

    def holds(self, now_ns: int) -> bool:
        """Whether it says anything at ``now_ns``."""
        return self.status.is_valid and self.stamp_ns - MAX_AHEAD_NS <= now_ns < self.expires_ns


@dataclass(frozen=True, slots=True)
class Command:
    """What the planner does: ``limit`` (m/s) it keeps to, and ``acceleration`` (m/s2).

    ``behavior`` is what the hint that holds says, UNKNOWN where none holds.
    """

    limit: float
    acceleration: float
    behavior: Behavior


class Planner:
    """Holds the newest valid hint until it expires or a later one comes.

    One that ``heeds`` no hints drives as its route allows.
    """

    def __init__(self, heeds: bool = True) -> None:
        self.heeds = heeds
        self._held: TimedHint | None = None

    def take(self, hint: TimedHint, now_ns: int) -> None:
        """Take a hint; what does not hold, or is older than what does, changes nothing."""
        if hint.holds(now_ns) and (self._held is None or hint.stamp_ns > self._held.stamp_ns):
            self._held = hint

    def command(self, now_ns: int, speed: float, route_speed: float) -> Command:
        """What to do now at ``speed``, where the route alone would allow ``route_speed``."""
        if not self.heeds:
            return Command(route_speed, acceleration(speed, route_speed), Behavior.UNKNOWN)
        if self._held is not None and not self._held.holds(now_ns):
            self._held = None
        behavior = Behavior.UNKNOWN if self._held is None else self._held.behavior
        limit = speed_limit(behavior, route_speed)
        return Command(limit, acceleration(speed, limit), behavior)


def speed_limit(behavior: Behavior, route_speed: float) -> float:
    """The highest speed under a hint that holds, UNKNOWN for none; never above what the route allows."""
    if behavior == Behavior.UNKNOWN:
        return min(route_speed, CAUTION)
    return min(route_speed, LIMITS.get(behavior, route_speed))


def acceleration(speed: float, limit: float) -> float:
    """Acceleration towards a limit; to a stop it brakes harder than to a lower speed."""
    hardest = STOP_BY if limit <= 0.0 else SLOW_BY
    return max(-hardest, min(SPEED_UP, (limit - speed) / RESPONSE_S))
