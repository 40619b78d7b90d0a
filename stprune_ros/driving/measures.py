"""What a drive is judged by, in figures."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from stprune_ros.core.types import Behavior
from stprune_ros.driving.events import HORIZON_S, KINDS, MOVING, RED_LIGHT_RUN, STOP_LINE_RUN
from stprune_ros.driving.record import Drive
from stprune_ros.ringworld.recording import stamp_ns

GOING = 1.0  # m/s from which on a vehicle that comes to stand has stopped
EXCUSE_S = 2.0  # a stop is needless where nothing said STOP truly within this time before it

# Name of each measure, and what it says in a table.
MEASURES: Mapping[str, str] = {
    'collisions': 'collisions',
    **{kind.replace(' ', '_'): kind for kind in KINDS},
    'red_lights': 'red lights run',
    'stop_lines': 'stop lines passed at red',
    'min_ttc_s': 'least time to collision, s',
    'progress_m': 'progress, m',
    'needless_stops': 'needless stops',
    'flips_per_min': 'hint flips per minute',
    'stale_share': 'share of time without a valid hint',
    'hints_right': 'share of hints that are true',
}


def measure(drive: Drive) -> dict[str, Any]:
    """Every figure of `MEASURES` for one drive; None where there is nothing to measure (no hint came)."""
    counts = {kind.replace(' ', '_'): sum(event.kind == kind for event in drive.events) for kind in KINDS}
    return {
        'collisions': sum(counts.values()),
        **counts,
        'red_lights': sum(event.kind == RED_LIGHT_RUN for event in drive.events),
        'stop_lines': sum(event.kind == STOP_LINE_RUN for event in drive.events),
        'min_ttc_s': round(0.0 if any(counts.values()) else min((s.ttc for s in drive.steps), default=HORIZON_S), 2),
        'progress_m': round(drive.steps[-1].progress, 2),
        'needless_stops': needless_stops(drive),
        'flips_per_min': flips_per_minute(drive),
        'stale_share': stale_share(drive),
        'hints_right': hints_right(drive),
    }


def needless_stops(drive: Drive) -> int:
    """How often the vehicle came to stand although nothing had truly said STOP within `EXCUSE_S`."""
    count, was_going = 0, False
    for step in drive.steps:
        if step.speed >= GOING:
            was_going = True
        elif was_going and step.speed < MOVING:
            was_going = False
            recent = [tick for tick in drive.ticks if step.t - EXCUSE_S <= tick.t <= step.t]
            count += all(tick.truth != Behavior.STOP for tick in recent)
    return count


def flips_per_minute(drive: Drive) -> float | None:
    """How often a valid hint says something else than the valid one before."""
    valid = [said.behavior for said in drive.said if said.status.is_valid]
    if not drive.said:
        return None
    return round(sum(one != other for one, other in pairwise(valid)) * 60.0 / drive.seconds, 2)


def stale_share(drive: Drive) -> float | None:
    """Share of the steps in which no hint holds; those before the first hint could be out count, too."""
    if not drive.said:
        return None
    return round(sum(step.behavior == Behavior.UNKNOWN for step in drive.steps) / len(drive.steps), 4)


def hints_right(drive: Drive) -> float | None:
    """Share of the hints, expired ones too, that say what was true of their images."""
    truth = {stamp_ns(tick.t): tick.truth for tick in drive.ticks}
    if not drive.said:
        return None
    return round(sum(said.behavior == truth[stamp_ns(said.stamp_s)] for said in drive.said) / len(drive.said), 4)
