"""Stamps, sequence numbers and expiry of what the node publishes, as a planner sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticStatus
from helpers.harness import FaultyNode, NodeProcess, Vehicle, base_values, stamp_ns
from helpers.simulated_time import SimulatedTime
from helpers.tiny_models import make_tiny_model
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters

from stprune_ros.msg import PlanningHint, SceneDescription
from stprune_ros.ros import diagnostics
from stprune_ros.ros.ros_time import NOT_BEGUN, STANDS

VALID = (PlanningHint.OK, PlanningHint.DEGRADED)


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path


@pytest.fixture
def vehicle(domain_id: int) -> Iterator[Vehicle]:
    made = Vehicle(domain_id, '/order')
    yield made
    made.close()


def assert_in_order(messages: Sequence[PlanningHint | SceneDescription]) -> None:
    """Stamps and sequence numbers never go back, and each message counts one more."""
    stamps = [stamp_ns(message) for message in messages]
    assert stamps == sorted(stamps)
    sequences = [message.info.sequence for message in messages]
    assert sequences == sorted(sequences)
    counters = [message.alive_counter for message in messages]
    assert counters == list(range(counters[0], counters[0] + len(messages)))


def test_a_reader_that_drops_older_stamps_gets_every_hint_of_a_slow_backend(model, vehicle, tmp_path):
    values = {**base_values(model), 'output.heartbeat_ms': 300.0}
    node = FaultyNode(tmp_path, vehicle, values, score='slow')
    newest, kept = -1, 0
    try:
        vehicle.wait_until(lambda: sum(hint.status in VALID for hint in vehicle.hints) >= 6, 'six hints', node)
    finally:
        code = node.stop()
    assert code == 0
    valid = [hint for hint in vehicle.hints if hint.status in VALID]
    beats = [hint for hint in vehicle.hints if hint.status == PlanningHint.NO_HINT]
    assert len(beats) > 6  # between the hints
    for hint in vehicle.hints:
        if stamp_ns(hint) >= newest:
            newest, kept = stamp_ns(hint), kept + (hint.status in VALID)
    assert kept == len(valid)
    assert len({stamp_ns(hint) for hint in valid}) == len({hint.info.sequence for hint in valid}) == len(valid)
    assert {stamp_ns(beat) for beat in beats} <= {0, *map(stamp_ns, valid)}
    assert_in_order(vehicle.hints)
    assert_in_order(vehicle.texts)


def test_a_heartbeat_before_the_first_answer_has_no_stamp(model, vehicle, tmp_path):
    vehicle.images.clear()
    node = NodeProcess(tmp_path, vehicle, {**base_values(model), 'output.heartbeat_ms': 300.0})
    try:
        vehicle.wait_until(lambda: len(vehicle.hints) > 3 and len(vehicle.texts) > 3, 'heartbeats', node)
    finally:
        node.stop()
    for message in (*vehicle.hints, *vehicle.texts):
        assert (stamp_ns(message), message.info.sequence) == (0, 0)
    assert_in_order(vehicle.hints)
    assert_in_order(vehicle.texts)


def test_images_of_the_future_give_no_hint(model, vehicle, tmp_path):
    """As with a front camera whose clock is an hour ahead."""
    vehicle.stamp_of['front'] = lambda now_ns: now_ns + 3600 * 10**9
    node = NodeProcess(tmp_path, vehicle, base_values(model))
    try:
        vehicle.wait_until(lambda: any(hint.status == PlanningHint.STALE for hint in vehicle.hints), 'STALE', node)
        values = vehicle.wait_for_diagnostic('clock', diagnostics.AHEAD, node)
        assert float(values['ahead_s']) == pytest.approx(3600, abs=30)
        clock, inference = vehicle.diagnostic('clock'), vehicle.diagnostic('inference')
        assert clock is not None and clock.level == DiagnosticStatus.WARN
        assert inference is not None and inference.level == DiagnosticStatus.WARN
    finally:
        code = node.stop()
    assert code == 0
    assert {hint.status for hint in vehicle.hints} <= {PlanningHint.STALE, PlanningHint.NO_HINT}
    assert all(hint.valid_for.sec == hint.valid_for.nanosec == 0 for hint in vehicle.hints)
    assert 's ahead of the clock, and answers go out as STALE' in node.output()


@pytest.mark.parametrize('clock', [None, 0], ids=['none', 'zero'])
def test_without_a_clock_that_runs_there_is_no_hint(model, vehicle, tmp_path, clock):
    if clock is not None:
        SimulatedTime(vehicle, fixed_ns=clock)
    node = NodeProcess(tmp_path, vehicle, {**base_values(model), 'use_sim_time': True})
    try:
        vehicle.wait_until(lambda: any(hint.status == PlanningHint.STALE for hint in vehicle.hints), 'STALE', node)
        values = vehicle.wait_for_diagnostic('clock', diagnostics.NO_TIME, node)
        assert values['reason'] == NOT_BEGUN
        vehicle.wait_for_diagnostic('inference', diagnostics.NOT_VALID, node)
    finally:
        code = node.stop()
    assert code == 0
    assert {hint.status for hint in vehicle.hints} <= {PlanningHint.STALE, PlanningHint.NO_HINT}
    assert f'{NOT_BEGUN}; answers go out as STALE' in node.output()


@pytest.mark.parametrize('ahead_ms', [100.0, 60000.0], ids=['stamps go on', 'only the clock tells'])
def test_a_clock_that_stops_ends_the_hints_until_it_runs_again(model, vehicle, tmp_path, ahead_ms):
    vehicle.behind_ns = 10**9 * 86400
    clock = SimulatedTime(vehicle)
    values = {**base_values(model), 'use_sim_time': True, 'output.max_ahead_ms': ahead_ms}
    node = NodeProcess(tmp_path, vehicle, values)

    def newest(*statuses: int) -> bool:
        answers = [hint for hint in vehicle.hints if hint.status != PlanningHint.NO_HINT]
        return bool(answers) and answers[-1].status in statuses

    try:
        vehicle.wait_until(lambda: newest(*VALID), 'a hint', node)
        vehicle.wait_for_diagnostic('clock', diagnostics.ALL_WELL, node)
        clock.runs = False
        vehicle.wait_until(lambda: newest(PlanningHint.STALE), 'STALE', node)
        values = vehicle.wait_for_diagnostic('clock', diagnostics.NO_TIME, node)
        assert values['reason'] == STANDS
        heard = len(vehicle.hints)
        vehicle.wait_until(lambda: len(vehicle.hints) > heard + 3, 'more', node)
        assert {hint.status for hint in vehicle.hints[heard:]} <= {PlanningHint.STALE, PlanningHint.NO_HINT}
        clock.runs = True
        vehicle.wait_until(lambda: newest(*VALID), 'a hint', node)
        vehicle.wait_for_diagnostic('clock', diagnostics.ALL_WELL, node)
    finally:
        code = node.stop()
    assert code == 0


def test_the_kind_of_time_cannot_change_under_a_running_node(model, vehicle, tmp_path):
    node = NodeProcess(tmp_path, vehicle, base_values(model))

    def set_sim_time(value: bool) -> Any:
        given = ParameterValue(type=ParameterType.PARAMETER_BOOL, bool_value=value)
        request = SetParameters.Request(parameters=[Parameter(name='use_sim_time', value=given)])
        return vehicle.call(SetParameters, 'set_parameters', request, node).results[0]

    try:
        vehicle.wait_until(lambda: vehicle.hints[-1:] and vehicle.hints[-1].status in VALID, 'a hint', node)
        refused = set_sim_time(True)
        assert not refused.successful
        assert refused.reason.startswith("parameter 'use_sim_time' cannot change while the node runs")
        assert set_sim_time(False).successful
        heard = len(vehicle.hints)
        vehicle.wait_until(lambda: len(vehicle.hints) > heard + 5, 'hints', node)
        assert {hint.status for hint in vehicle.hints[heard:]} <= {*VALID, PlanningHint.NO_HINT}
        assert any(hint.status in VALID for hint in vehicle.hints[heard:])
    finally:
        code = node.stop()
    assert code == 0
