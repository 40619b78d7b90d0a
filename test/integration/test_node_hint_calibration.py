"""The node with a calibration of its hints: what it publishes, and that nothing may change under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip('rclpy')

from helpers.harness import NodeProcess, Vehicle, base_values
from helpers.tiny_models import make_tiny_model
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters

from stprune_ros.msg import PlanningHint
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.hint_calibration import HintCalibration, bound_parameters
from stprune_ros.vlm.loading import as_its_model_asks, load_model

STOP = PlanningHint.BEHAVIOR_STOP


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one, so that its hints are let through."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path


def write_calibration(path: Path, model: Path, **parameters: Any) -> dict[str, Any]:
    """A calibration for the tiny model that says STOP whatever it sees; returns the node's parameters with it."""
    values = base_values(model)
    settings = Settings.from_values(values)
    backend, prompt = load_model(settings)
    tree = {
        'model': {'id': backend.info.model_id, 'revision': backend.info.revision},
        'prompt': prompt.id,
        'parameters': {**bound_parameters(as_its_model_asks(settings)), **parameters},
        'temperature': 2.0,
        'candidates': [
            {'behavior': one.name, 'bias': 30.0 if one.name == 'STOP' else 0.0, 'content_free': 0.0}
            for one in prompt.behaviors
        ],
        'report': {},
    }
    path.write_text(yaml.safe_dump(tree))
    return {**values, 'prompt.calibration': str(path)}


def set_parameter(vehicle: Vehicle, node: NodeProcess, name: str, value: float) -> tuple[bool, str]:
    request = SetParameters.Request()
    number = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
    request.parameters = [Parameter(name=name, value=number)]
    result = vehicle.call(SetParameters, 'set_parameters', request, node).results[0]
    return result.successful, result.reason


def test_hints_are_calibrated_as_long_as_the_node_runs(model: Path, domain_id: int, tmp_path: Path):
    file = tmp_path / 'c.yaml'
    values = write_calibration(file, model)
    vehicle = Vehicle(domain_id, '/calibrated')
    node = NodeProcess(tmp_path, vehicle, values)
    try:
        vehicle.wait_until(lambda: any(hint.status == PlanningHint.OK for hint in vehicle.hints), 'hint', node)
        hint = next(hint for hint in vehicle.hints if hint.status == PlanningHint.OK)
        assert hint.confidence_source == PlanningHint.CONFIDENCE_CALIBRATED
        assert hint.info.hint_calibration_id == HintCalibration.load(file).id
        assert hint.behavior == STOP == hint.candidates[int(np.argmax(hint.probabilities))]
        assert hint.confidence > 0.99
        vehicle.wait_until(lambda: any(text.description for text in vehicle.texts), 'description', node)
        assert (
            next(text for text in vehicle.texts if text.description).info.hint_calibration_id
            == hint.info.hint_calibration_id
        )

        accepted, reason = set_parameter(vehicle, node, 'pruning.keep_ratio', 0.25)
        assert not accepted
        assert reason.startswith(f"calibration file '{file}' was fitted with pruning.keep_ratio 0.5, here it is 0.25: ")
        accepted, reason = set_parameter(vehicle, node, 'latency.target_ms', 50.0)
        assert not accepted
        assert 'holds for one keep ratio' in reason
        assert set_parameter(vehicle, node, 'output.valid_for_ms', 50000.0) == (True, ''), 'what changes no score may'
        heard = len(vehicle.hints)
        vehicle.wait_until(lambda: len(vehicle.hints) > heard + 1, 'more hints', node)
        assert vehicle.hints[-1].confidence_source == PlanningHint.CONFIDENCE_CALIBRATED
        assert vehicle.hints[-1].info.keep_ratio == 0.5
        assert f'hint calibration {hint.info.hint_calibration_id}' in node.output()
    finally:
        node.stop()
        vehicle.close()


def test_a_node_with_the_calibration_of_another_ratio_does_not_start(model: Path, domain_id: int, tmp_path: Path):
    values = write_calibration(tmp_path / 'c.yaml', model, **{'pruning.keep_ratio': 0.1})
    vehicle = Vehicle(domain_id, '/miscalibrated')
    node = NodeProcess(tmp_path, vehicle, values)
    try:
        assert node.wait() == 1
    finally:
        node.stop()
        vehicle.close()
    last, file = node.output().strip().splitlines()[-1], tmp_path / 'c.yaml'
    assert last == (
        f"stprune_node: calibration file '{file}' was fitted with pruning.keep_ratio 0.1, here it is 0.5:"
        ' fit one for this with `stprune calibrate`, or leave prompt.calibration empty'
    )
    assert vehicle.hints == []
