"""The states of the managed node, driven over its services as `ros2 lifecycle` does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticStatus
from helpers.harness import FaultyNode, NodeProcess, Vehicle, base_values
from helpers.tiny_models import make_tiny_model
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState

from stprune_ros.msg import PlanningHint
from stprune_ros.ros import diagnostics
from stprune_ros.ros.managed_node import INACTIVE, STILL_LOADING

MANUAL = {'lifecycle.autostart': False}
TRANSITIONS = {
    'configure': Transition.TRANSITION_CONFIGURE,
    'activate': Transition.TRANSITION_ACTIVATE,
    'deactivate': Transition.TRANSITION_DEACTIVATE,
    'cleanup': Transition.TRANSITION_CLEANUP,
}


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path


@pytest.fixture
def vehicle(domain_id: int) -> Iterator[Vehicle]:
    made = Vehicle(domain_id, '/managed')
    yield made
    made.close()


def change(vehicle: Vehicle, node: NodeProcess, name: str) -> bool:
    """Whether the transition ``name`` succeeded."""
    request = ChangeState.Request(transition=Transition(id=TRANSITIONS[name]))
    return bool(vehicle.call(ChangeState, 'change_state', request, node).success)


def state(vehicle: Vehicle, node: NodeProcess) -> str:
    return str(vehicle.call(GetState, 'get_state', GetState.Request(), node).current_state.label)


def next_ok(vehicle: Vehicle, node: NodeProcess) -> PlanningHint:
    """The next valid hint."""
    heard = len(vehicle.hints)
    vehicle.wait_until(lambda: any(hint.status == PlanningHint.OK for hint in vehicle.hints[heard:]), 'OK', node)
    return next(hint for hint in vehicle.hints[heard:] if hint.status == PlanningHint.OK)


def wait_for_note(vehicle: Vehicle, node: NodeProcess, note: str) -> PlanningHint:
    """The next hint with this note."""
    heard = len(vehicle.hints)
    vehicle.wait_until(lambda: any(note in hint.info.notes for hint in vehicle.hints[heard:]), note, node)
    return next(hint for hint in vehicle.hints[heard:] if note in hint.info.notes)


def subscribed(vehicle: Vehicle) -> bool:
    topics = ('input/front/image/compressed', 'input/kinematic_state')
    return any(vehicle.node.count_subscribers(f'{vehicle.node_name}/{topic}') for topic in topics)


def test_transitions_load_begin_pause_and_free(model, vehicle, tmp_path):
    node = FaultyNode(tmp_path, vehicle, {**base_values(model), **MANUAL, 'output.heartbeat_ms': 300.0}, load='slow')
    try:
        assert state(vehicle, node) == 'unconfigured'
        assert '[WARN] ' in node.output() and INACTIVE in node.output()
        values = vehicle.wait_for_diagnostic('lifecycle', diagnostics.NOT_ACTIVE, node)
        assert values == {'state': 'unconfigured'}
        assert change(vehicle, node, 'configure')  # at once: the model loads for 1.5 s and more
        assert state(vehicle, node) == 'inactive'
        vehicle.wait_for_diagnostic('model', diagnostics.LOADING, node)
        assert wait_for_note(vehicle, node, STILL_LOADING).status == PlanningHint.NO_HINT
        hint = wait_for_note(vehicle, node, INACTIVE)
        assert (hint.status, hint.info.model_id) == (PlanningHint.NO_HINT, 'tiny')
        assert state(vehicle, node) == 'inactive' and not subscribed(vehicle)

        assert change(vehicle, node, 'activate')
        first = next_ok(vehicle, node)
        while first.info.sequence < 30:  # so that numbers that began anew would show
            first = next_ok(vehicle, node)
        assert state(vehicle, node) == 'active' and subscribed(vehicle)
        vehicle.wait_for_diagnostic('lifecycle', diagnostics.ALL_WELL, node)

        assert change(vehicle, node, 'deactivate')
        vehicle.wait_until(lambda: not subscribed(vehicle), 'end of subscriptions', node)
        wait_for_note(vehicle, node, INACTIVE)
        heard, until = len(vehicle.hints), time.monotonic() + 1.0
        vehicle.wait_until(lambda: time.monotonic() > until, 'a second', node)
        assert {hint.status for hint in vehicle.hints[heard:]} == {PlanningHint.NO_HINT}
        vehicle.wait_for_diagnostic('lifecycle', diagnostics.NOT_ACTIVE, node)

        assert change(vehicle, node, 'activate')
        assert next_ok(vehicle, node).info.sequence > first.info.sequence
        assert node.output().count('loading the model') == 1
        assert change(vehicle, node, 'deactivate') and change(vehicle, node, 'cleanup')
        assert state(vehicle, node) == 'unconfigured'
        assert change(vehicle, node, 'configure') and change(vehicle, node, 'activate')
        assert next_ok(vehicle, node).info.model_id == 'tiny'
        assert node.output().count("model 'tiny' (") == 2

        shutdown = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVE_SHUTDOWN))
        assert vehicle.call(ChangeState, 'change_state', shutdown, node).success
        assert vehicle.wait_for_end(node) == 0
    finally:
        node.stop()
    assert 'Traceback' not in node.output()
    sequences = [hint.info.sequence for hint in vehicle.hints]
    assert sequences == sorted(sequences)


def test_a_node_that_starts_by_itself_is_inactive_while_it_loads(model, vehicle, tmp_path):
    node = FaultyNode(tmp_path, vehicle, base_values(model), load='slow')
    try:
        vehicle.wait_for_diagnostic('model', diagnostics.LOADING, node)
        assert state(vehicle, node) in ('inactive', 'active')
        next_ok(vehicle, node)
        assert state(vehicle, node) == 'active'
    finally:
        code = node.stop()
    assert code == 0


def test_an_activation_while_the_model_loads_counts_when_it_is_there(model, vehicle, tmp_path):
    node = FaultyNode(tmp_path, vehicle, {**base_values(model), **MANUAL}, load='slow')
    try:
        assert change(vehicle, node, 'configure') and change(vehicle, node, 'activate')
        assert state(vehicle, node) == 'active'
        wait_for_note(vehicle, node, STILL_LOADING)
        next_ok(vehicle, node)
    finally:
        code = node.stop()
    assert code == 0


def test_a_transition_that_fails_is_logged_and_shown_and_may_be_tried_again(model, vehicle, tmp_path):
    folder = tmp_path / 'late'
    node = FaultyNode(tmp_path, vehicle, {**base_values(folder), **MANUAL})
    try:
        assert not change(vehicle, node, 'configure')
        assert state(vehicle, node) == 'unconfigured'
        sentence = f"configure: model folder '{folder}' does not exist"
        values = vehicle.wait_for_diagnostic('lifecycle', diagnostics.TRANSITION_FAILED, node)
        assert values['reason'].startswith(sentence)
        lifecycle = vehicle.diagnostic('lifecycle')
        assert lifecycle is not None and lifecycle.level == DiagnosticStatus.ERROR
        assert f"transition 'configure' failed: model folder '{folder}' does not exist" in node.output()
        folder.symlink_to(model)
        node.fail(load='raise')
        assert change(vehicle, node, 'configure')
        values = vehicle.wait_for_diagnostic('model', diagnostics.LOADING_FAILED, node)
        assert values['reason'].startswith('loading failed with RuntimeError: CUDA error')
        assert state(vehicle, node) == 'unconfigured'
        node.fail(activate='raise')
        assert change(vehicle, node, 'configure')
        wait_for_note(vehicle, node, INACTIVE)
        vehicle.wait_until(lambda: "model 'tiny' (" in node.output(), 'the model', node)
        assert not change(vehicle, node, 'activate')  # with an exception that nobody foresaw
        assert state(vehicle, node) == 'unconfigured'
        values = vehicle.wait_for_diagnostic('lifecycle', diagnostics.TRANSITION_FAILED, node)
        assert values['reason'] == 'activate: RuntimeError: CUDA error: device-side assert triggered'
        node.fail()
        assert change(vehicle, node, 'configure') and change(vehicle, node, 'activate')
        next_ok(vehicle, node)
        vehicle.wait_for_diagnostic('lifecycle', diagnostics.ALL_WELL, node)
    finally:
        code = node.stop()
    assert code == 0
    assert 'Traceback' not in node.output()


@pytest.mark.parametrize(('place', 'sentence'), [('load', 'loading failed with '), ('activate', '')])
def test_a_start_that_fails_ends_in_a_sentence(model, vehicle, tmp_path, place, sentence):
    node = FaultyNode(tmp_path, vehicle, base_values(model), **{place: 'raise'})
    assert vehicle.wait_for_end(node) == 1
    said = f'stprune_node: {sentence}RuntimeError: CUDA error: device-side assert triggered'
    assert said in node.output()
    assert 'Traceback' not in node.output()


def used(node: NodeProcess) -> tuple[int, int, float]:
    """Threads, file descriptors and resident memory in MB."""
    process = Path(f'/proc/{node.process.pid}')
    pages = int((process / 'statm').read_text().split()[1])
    threads, files = len(list((process / 'task').iterdir())), len(list((process / 'fd').iterdir()))
    return threads, files, pages * os.sysconf('SC_PAGE_SIZE') / 1e6


@pytest.mark.slow
def test_fifty_ups_and_downs_leave_nothing_behind(model, vehicle, tmp_path):
    node = NodeProcess(tmp_path, vehicle, {**base_values(model), **MANUAL, 'inference.describe': False})
    settled: list[tuple[int, int, float]] = []
    try:
        assert change(vehicle, node, 'configure')
        for _ in range(50):
            assert change(vehicle, node, 'activate')
            next_ok(vehicle, node)
            assert change(vehicle, node, 'deactivate')
            settled.append(used(node))
    finally:
        code = node.stop()
    assert code == 0
    warm, last = settled[9], settled[-1]
    assert last[0] <= warm[0] and last[1] <= warm[1], (warm, last)
    assert last[2] - warm[2] < 10.0, settled
    print(f'(threads, descriptors, MB) after 10 and 50 times: {warm}, {last}')


@pytest.mark.slow
def test_loading_again_and_again_leaves_nothing_behind(vehicle, tmp_path):
    heavy = make_tiny_model(tmp_path / 'heavy', 'ringworld', width=1024)
    (heavy / 'stprune.json').unlink(missing_ok=True)
    weights_mb = (heavy / 'model.safetensors').stat().st_size / 1e6
    assert weights_mb > 50
    node = NodeProcess(tmp_path, vehicle, {**base_values(heavy), **MANUAL, 'inference.describe': False})
    settled: list[tuple[int, int, float]] = []
    try:
        for _ in range(6):
            assert change(vehicle, node, 'configure') and change(vehicle, node, 'activate')
            next_ok(vehicle, node)  # what was never used takes no memory
            loaded_mb = used(node)[2]
            assert change(vehicle, node, 'deactivate') and change(vehicle, node, 'cleanup')
            vehicle.listen_until(lambda: used(node)[2] < loaded_mb - weights_mb / 2, 30.0)  # noqa: B023
            assert used(node)[2] < loaded_mb - weights_mb / 2
            settled.append(used(node))
    finally:
        code = node.stop()
    assert code == 0
    warm, last = settled[1], settled[-1]
    assert last[0] <= warm[0] and last[1] <= warm[1], (warm, last)
    assert last[2] - warm[2] < weights_mb / 4, settled
    print(f'(threads, descriptors, MB) after 2 and 6 times: {warm}, {last}')
