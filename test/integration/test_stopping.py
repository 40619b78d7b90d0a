"""Signals end the node whatever it does, before `ros2 launch` escalates: after 5 s it would send the next one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip('rclpy')

from helpers.harness import FaultyNode, NodeProcess, Vehicle, base_values
from helpers.tiny_models import make_tiny_model

from stprune_ros.msg import PlanningHint
from stprune_ros.ros import diagnostics
from stprune_ros.ros.supervisor import CANNOT_START, INFERENCE_HANGS
from stprune_ros.ros.watchdog import SIGNAL

BOTH = pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
STOPS_S, ESCAPES_S = 3.0, 4.0
LEASE_S = 20.0  # of a DDS participant that says nothing


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path


@pytest.fixture
def vehicle(domain_id: int) -> Iterator[Vehicle]:
    made = Vehicle(domain_id, '/stops')
    yield made
    made.close()


def stop(node: NodeProcess, number: int) -> tuple[int, float]:
    """Exit code, and the seconds that it took."""
    began = time.monotonic()
    return node.stop(number), time.monotonic() - began


def wait_for_work(vehicle: Vehicle, node: NodeProcess) -> None:
    """Until a tick is in work that will not end by itself."""
    vehicle.wait_until(lambda: 'ring, clockwise' in node.output(), 'the ring', node)
    until = time.monotonic() + 1.0
    vehicle.wait_until(lambda: time.monotonic() > until, 'a second', node)


@BOTH
def test_an_idle_node_stops(model, vehicle, tmp_path, number):
    vehicle.images.clear()
    node = NodeProcess(tmp_path, vehicle, base_values(model))
    vehicle.wait_until(lambda: 'ring, clockwise' in node.output(), 'the ring', node)
    code, took_s = stop(node, number)
    assert code == 0 and took_s < STOPS_S
    assert 'Traceback' not in node.output()


def test_a_node_that_stopped_is_gone_from_the_graph(model, vehicle, tmp_path):
    """By its own word: others would believe in a silent one for the 20 s of DDS's lease."""
    node = NodeProcess(tmp_path, vehicle, base_values(model))

    def is_known() -> bool:
        namespace, _, name = vehicle.node_name.rpartition('/')
        return (name, namespace) in vehicle.node.get_node_names_and_namespaces()

    vehicle.wait_until(is_known, 'the node', node)
    code, _ = stop(node, signal.SIGINT)
    vehicle.listen_until(lambda: not is_known(), LEASE_S / 2)
    assert code == 0 and not is_known()


def test_a_lost_terminal_is_a_stop(model, vehicle, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and the node would heed that
    try:
        node = NodeProcess(tmp_path, vehicle, base_values(model))
    finally:
        signal.signal(signal.SIGHUP, before)
    vehicle.wait_until(lambda: 'ring, clockwise' in node.output(), 'the ring', node)
    code, took_s = stop(node, signal.SIGHUP)
    assert code == 0 and took_s < STOPS_S


@pytest.mark.parametrize('words', [['my.param.yaml'], ['--params-file', 'my.param.yaml'], ['--help', '--ros-args']])
def test_arguments_that_ros_would_pass_over_are_refused(words):
    command = [sys.executable, '-m', 'stprune_ros.ros.node', *words]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == CANNOT_START
    assert found.stderr == (
        f"stprune_node: argument '{words[0]}' is not known; parameters and remaps go behind --ros-args, as in"
        ' --ros-args --params-file FILE\n'
    )


@BOTH
def test_a_node_that_loads_stops(model, vehicle, tmp_path, number):
    node = FaultyNode(tmp_path, vehicle, base_values(model), load='hang')
    vehicle.wait_for_diagnostic('model', diagnostics.LOADING, node)
    code, took_s = stop(node, number)
    assert code == 0 and took_s < STOPS_S
    assert 'Traceback' not in node.output()


@BOTH
@pytest.mark.parametrize('place', ['prefill', 'generate'])
def test_a_node_that_infers_stops(model, vehicle, tmp_path, place, number):
    """Also in a call that takes long, but not too long."""
    values = {**base_values(model), 'inference.watchdog_ms': 60000.0}
    node = FaultyNode(tmp_path, vehicle, values, **{place: 'hang'})
    wait_for_work(vehicle, node)
    code, took_s = stop(node, number)
    assert code == 0 and took_s < STOPS_S
    assert 'Traceback' not in node.output()


@BOTH
def test_a_node_that_hangs_stops_and_says_that_it_hung(model, vehicle, tmp_path, number):
    node = FaultyNode(tmp_path, vehicle, {**base_values(model), 'inference.watchdog_ms': 500.0}, score='hang')
    vehicle.wait_until(lambda: any(hint.status == PlanningHint.ERROR for hint in vehicle.hints), 'the hang', node)
    code, took_s = stop(node, number)
    assert code == INFERENCE_HANGS and took_s < ESCAPES_S
    assert 'Traceback' not in node.output()


@BOTH
def test_a_node_whose_interpreter_is_stuck_stops(model, vehicle, tmp_path, number):
    node = FaultyNode(tmp_path, vehicle, base_values(model), prefill='lock')
    wait_for_work(vehicle, node)
    code, took_s = stop(node, number)
    assert code == -SIGNAL and took_s < ESCAPES_S
    assert 'stprune_node: the process was still there 3.3 s after it was told to stop: it is ended by' in node.output()


@BOTH
@pytest.mark.parametrize('after_s', [0.3, 0.6, 1.2])
def test_a_signal_soon_after_the_start_prints_no_traceback(model, vehicle, tmp_path, number, after_s):
    node = NodeProcess(tmp_path, vehicle, base_values(model))
    time.sleep(after_s)
    code, took_s = stop(node, number)
    assert 'Traceback' not in node.output()
    assert code == 0 and took_s < STOPS_S
