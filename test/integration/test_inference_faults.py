"""Faults of the backend in the real node: it says so, goes on where it can, and ends where it cannot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticStatus
from helpers.harness import FaultyNode, NodeProcess, Vehicle, base_values, stamp_ns
from helpers.tiny_models import make_tiny_model

from stprune_ros.msg import PlanningHint, SceneDescription
from stprune_ros.ros import diagnostics
from stprune_ros.ros.supervisor import INFERENCE_FAILED, INFERENCE_HANGS
from stprune_ros.ros.watchdog import SIGNAL


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path


@pytest.fixture
def vehicle(domain_id: int) -> Iterator[Vehicle]:
    made = Vehicle(domain_id, '/faults')
    yield made
    made.close()


def impatient(model: Path, **values: Any) -> dict[str, Any]:
    """A node that calls half a second a hang."""
    return {**base_values(model), 'inference.watchdog_ms': 500.0, **values}


def next_with(vehicle: Vehicle, node: NodeProcess, status: int) -> PlanningHint:
    """The next hint with ``status``."""
    heard = len(vehicle.hints)
    vehicle.wait_until(lambda: any(hint.status == status for hint in vehicle.hints[heard:]), f'status {status}', node)
    return next(hint for hint in vehicle.hints[heard:] if hint.status == status)


def test_failures_in_a_row_end_the_process(model, vehicle, tmp_path):
    node = FaultyNode(tmp_path, vehicle, {**base_values(model), 'inference.max_failures': 12})
    next_with(vehicle, node, PlanningHint.OK)
    node.fail(score='raise')
    assert vehicle.wait_for_end(node) == INFERENCE_FAILED
    said = node.output()
    assert 'stprune_node: inference failed 12 times in a row (inference.max_failures): the node ends' in said
    assert 'inference failed with RuntimeError: CUDA error: device-side assert triggered (10 times in a row)' in said
    assert said.count('inference failed with') == 2
    assert 'Traceback' not in said
    assert vehicle.hints[-1].status == PlanningHint.ERROR
    assert 'inference failed 12 times in a row (inference.max_failures): the node ends' in vehicle.hints[-1].info.notes
    inference = vehicle.diagnostic('inference')
    assert inference is not None and inference.message == diagnostics.FAILED


def diagnostic_values(vehicle) -> dict[str, str]:
    return {pair.key: pair.value for pair in vehicle.diagnostic('inference').values}


def test_failures_that_are_not_in_a_row_do_not_end_it(model, vehicle, tmp_path):
    node = FaultyNode(tmp_path, vehicle, {**base_values(model), 'inference.max_failures': 1000000})
    try:
        for _ in range(3):
            node.fail(score='raise')
            next_with(vehicle, node, PlanningHint.ERROR)
            node.fail()
            next_with(vehicle, node, PlanningHint.OK)
            values = vehicle.wait_for_diagnostic('inference', diagnostics.ALL_WELL, node)
            assert values['failures'] == '0'
        # A report each second may be older than the last failure.
        vehicle.wait_until(lambda: int(diagnostic_values(vehicle)['failed']) >= 3, 'three failures', node)
    finally:
        code = node.stop()
    assert code == 0


def test_an_inference_thread_that_is_dead_ends_the_process(model, vehicle, tmp_path):
    """Where even the handler of failures fails."""
    node = FaultyNode(tmp_path, vehicle, base_values(model))
    next_with(vehicle, node, PlanningHint.OK)
    node.fail(score='raise', info='exit')
    assert vehicle.wait_for_end(node) == INFERENCE_FAILED
    assert 'stprune_node: the inference thread has ended (SystemExit: 7): the node ends' in node.output()


@pytest.mark.parametrize('place', ['encode', 'prefill', 'score'])
def test_a_backend_that_hangs_in_its_first_tick_is_an_error_and_then_the_end(model, vehicle, tmp_path, place):
    values = impatient(model, **{'inference.abort_ms': 6000.0, 'output.heartbeat_ms': 300.0})
    node = FaultyNode(tmp_path, vehicle, values, **{place: 'hang'})
    found = vehicle.wait_for_diagnostic('inference', diagnostics.HANGS, node)
    inference = vehicle.diagnostic('inference')
    assert inference is not None and inference.level == DiagnosticStatus.ERROR
    assert float(found['hang_s']) >= 0.5
    hint = next_with(vehicle, node, PlanningHint.ERROR)
    assert diagnostics.HANGS in hint.info.notes
    assert vehicle.wait_for_end(node) == INFERENCE_HANGS
    said = node.output()
    assert 'inference hangs: a tick has taken more than 500 ms' in said
    assert 's (inference.abort_ms): the node ends' in said
    assert {hint.status for hint in vehicle.hints} <= {PlanningHint.NO_HINT, PlanningHint.ERROR}


def test_the_answer_of_a_hang_is_dropped(model, vehicle, tmp_path):
    node = FaultyNode(tmp_path, vehicle, impatient(model))
    try:
        next_with(vehicle, node, PlanningHint.OK)
        node.fail(score='slow')
        vehicle.wait_until(lambda: 'inference goes on after' in node.output(), 'end of the hang', node)
        vehicle.wait_until(lambda: node.output().count('inference hangs') == 2, 'the next hang', node)
        heard = len(vehicle.hints)
        vehicle.wait_until(lambda: node.output().count('inference hangs') == 4, 'more of them', node)
        late = [hint.status for hint in vehicle.hints[heard:]]
        assert late and set(late) <= {PlanningHint.NO_HINT, PlanningHint.ERROR}
        node.fail()
        next_with(vehicle, node, PlanningHint.OK)
        values = vehicle.wait_for_diagnostic('inference', diagnostics.ALL_WELL, node)
        assert int(values['cancelled']) >= 4
    finally:
        code = node.stop()
    assert code == 0


@pytest.mark.parametrize('place', ['load', 'prefill', 'score'])
def test_a_call_that_holds_the_interpreter_lock_ends_the_process(model, vehicle, tmp_path, place):
    limits = {'inference.abort_ms': 9000.0, 'model.load_timeout_ms': 20000.0}
    node = FaultyNode(tmp_path, vehicle, impatient(model, **limits), **{place: 'lock'})
    assert vehicle.wait_for_end(node) == -SIGNAL
    said = node.output()
    assert f'stprune_node: the process has stood still for {20 if place == "load" else 9} s: it is ended by' in said
    assert '_hold_the_lock' in said  # the stacks of all threads


def test_loading_that_never_ends_ends_the_process(model, vehicle, tmp_path):
    node = FaultyNode(tmp_path, vehicle, {**base_values(model), 'model.load_timeout_ms': 3000.0}, load='hang')
    began = time.monotonic()
    assert vehicle.wait_for_end(node) == INFERENCE_HANGS
    assert time.monotonic() - began > 3.0
    assert 's, more than model.load_timeout_ms, 3000 ms: the node ends' in node.output()


def test_a_description_that_fails_leaves_the_hint_alone(model, vehicle, tmp_path):
    node = FaultyNode(tmp_path, vehicle, base_values(model), generate='raise')
    try:
        vehicle.wait_until(lambda: len(vehicle.texts) > 4 and vehicle.texts[-1].status, 'descriptions', node)
        vehicle.wait_until(lambda: vehicle.texts[-1].status == SceneDescription.ERROR, 'ERROR', node)
        values = vehicle.wait_for_diagnostic('inference', diagnostics.DESCRIPTION_FAILED, node)
        assert values['failures'] == '0'
        failed = {stamp_ns(text): text for text in vehicle.texts if text.status == SceneDescription.ERROR}
        hints = {stamp_ns(hint): hint for hint in vehicle.hints if hint.status == PlanningHint.OK}
        common = failed.keys() & hints.keys()
        assert common
        for stamp in common:
            assert failed[stamp].info.sequence == hints[stamp].info.sequence
            assert [camera.name for camera in failed[stamp].info.cameras] == ['front', 'right', 'left']
            assert failed[stamp].info.notes[-1].startswith('the description failed with RuntimeError: CUDA error')
        assert PlanningHint.ERROR not in {hint.status for hint in vehicle.hints}
        node.fail()
        vehicle.wait_for_diagnostic('inference', diagnostics.ALL_WELL, node)
    finally:
        code = node.stop()
    assert code == 0
    assert node.output().count('the description failed with') <= 2
    assert 'the description works again after' in node.output()


def test_a_description_that_hangs_leaves_the_hint_alone(model, vehicle, tmp_path):
    # The hint of the first tick must be no hang, on a busy machine either: none comes after it.
    more = {'inference.watchdog_ms': 3000.0, 'output.heartbeat_ms': 300.0, 'inference.abort_ms': 0.0}
    node = FaultyNode(tmp_path, vehicle, impatient(model, **more), generate='hang')
    try:
        hint = next_with(vehicle, node, PlanningHint.OK)
        vehicle.wait_until(lambda: vehicle.texts[-1].status == SceneDescription.ERROR, 'ERROR', node)
        vehicle.wait_for_diagnostic('inference', diagnostics.HANGS, node)
        after = vehicle.hints[vehicle.hints.index(hint) + 1 :]
        assert {later.status for later in after} <= {PlanningHint.NO_HINT}
        assert {stamp_ns(later) for later in after} <= {stamp_ns(hint)}
    finally:
        code = node.stop()
    assert code == INFERENCE_HANGS
