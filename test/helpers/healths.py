"""What a node counts when all is well, and what diagnostics make of it."""

from __future__ import annotations

import pytest

pytest.importorskip('rclpy')
from collections import Counter
from collections.abc import Mapping

from helpers.answers import make_answer

from stprune_ros.core.types import Answer, CameraState, Status, ViewReport
from stprune_ros.ros import diagnostics
from stprune_ros.ros import health as counted
from stprune_ros.ros.diagnostics import reports
from stprune_ros.ros.health import Health
from stprune_ros.ros.rates import Rates
from stprune_ros.settings.settings import Settings

SETTINGS = Settings.from_values({'cameras.stale_after_ms': 1000.0})
NOW = 100.0


def healthy() -> Health:
    """After twenty seconds at 10 Hz in which all was well."""
    health = Health({'front': NOW - 0.1, 'back': NOW - 0.2}, odometry=NOW - 0.05, answer=answer(), latency_s=0.4)
    health.listening_since, health.answered, health.model = NOW - 20.0, NOW - 0.1, answer().provenance
    health.described, health.description = NOW - 0.1, Status.OK
    run(health, 20)
    return health


def run(health: Health, seconds: int, back_hz: int = 10, **per_second: int) -> None:
    """More seconds of all counts."""
    usual = {'sets_full': 10, 'done': 10, 'valid': 10, 'used_back': back_hz, 'odometry_refused': 0, 'lost_back': 0}
    grow = {**usual, **per_second}
    health.lost = dict(health.lost or {'back': 0})
    health.counters, health.ticks, health.used = (Counter(one) for one in (health.counters, health.ticks, health.used))
    health.rates = health.rates if health.received else Rates()
    before = health.set_closed
    for _ in range(seconds):
        health.received.update(front=10, back=back_hz)
        health.used.update(front=10, back=grow['used_back'])
        health.lost['back'] += grow['lost_back']
        health.counters.update({what: grow[what] for what in grow if what.startswith(('sets', 'frames'))})
        health.ticks.update({fate: grow[fate] for fate in counted.FATES if fate in grow})
        health.hints[counted.VALID] += grow['valid']
        health.odometry_received += 50
        health.odometry_refused += grow['odometry_refused']
        health.sample(health.odometry_received / 50)
    # The rates count from 0, everything else ends NOW.
    if health.set_closed == before:
        health.set_closed = before and before - seconds
    elif health.set_closed is not None:
        health.set_closed += NOW - health.odometry_received / 50


def answer(status: Status = Status.OK, trained: bool = True, back: CameraState = CameraState.OK) -> Answer:
    views = (ViewReport('front', CameraState.OK, 1, 1, 100, 10), ViewReport('back', back))
    return make_answer(status, views=views, model_trained=trained, stage_ms={'encode': 12.0})


def found(health: Health) -> dict[str, tuple[bytes, str]]:
    return {report.name: (report.level, report.message) for report in reports(health, SETTINGS, NOW)}


def all_values(health: Health) -> dict[str, Mapping[str, str]]:
    return {report.name: report.values for report in reports(health, SETTINGS, NOW)}


def report(health: Health, name: str) -> diagnostics.Report:
    return next(one for one in reports(health, SETTINGS, NOW) if one.name == name)
