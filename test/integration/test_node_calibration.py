"""Calibration that comes late, wrong or anew to a running node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy')

from geometry_msgs.msg import TransformStamped
from helpers import harness
from helpers.harness import AZIMUTH_DEG, NodeProcess, Vehicle, base_values
from helpers.tiny_models import make_tiny_model
from tf2_msgs.msg import TFMessage

from stprune_ros.msg import PlanningHint
from stprune_ros.ros import qos


@pytest.fixture(scope='module')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path


def transforms(change: Callable[[TransformStamped], None] = lambda stamped: None) -> TFMessage:
    message = TFMessage(transforms=[harness._transform(camera) for camera in AZIMUTH_DEG])
    for stamped in message.transforms:
        change(stamped)
    return message


def status(vehicle: Vehicle, name: str) -> Any:
    found = [s for array in vehicle.diagnostics[-1:] for s in array.status if s.name.endswith(f': {name}')]
    return found[0] if found else None


def says(vehicle: Vehicle, text: str) -> Callable[[], bool]:
    return lambda: any(text in note for hint in vehicle.hints[-1:] for note in hint.info.notes)


def test_calibration_changes_under_a_running_node(tiny, domain_id, tmp_path, monkeypatch):
    vehicle = Vehicle(domain_id, '/changes')
    node = NodeProcess(tmp_path, vehicle, {**base_values(tiny), 'inference.describe': False})
    good = harness._camera_info

    def longer(camera: str) -> Any:
        message = good(camera)
        message.k[0] *= 1.0 if camera == 'front' else 2.0
        return message

    try:
        vehicle.wait_until(lambda: vehicle.hints[-1:] and vehicle.hints[-1].status == PlanningHint.OK, 'OK', node)
        # camera_info: the old ring stays, and everything says so until the old calibration comes back.
        monkeypatch.setattr(harness, '_camera_info', longer)
        vehicle.wait_until(says(vehicle, 'changed; restart the node to use it'), 'the change', node)
        assert vehicle.hints[-1].status == PlanningHint.DEGRADED
        outdated = 'calibration changed, the ring did not'
        vehicle.wait_until(lambda: status(vehicle, 'rig') and status(vehicle, 'rig').message == outdated, 'WARN', node)
        monkeypatch.setattr(harness, '_camera_info', good)
        vehicle.wait_until(lambda: vehicle.hints[-1].status == PlanningHint.OK, 'OK again', node)
        vehicle.wait_until(lambda: status(vehicle, 'rig').message == 'ok', 'rig ok', node)
        # /tf_static: a new ring.
        swapped = {'left_optical': 'right_optical', 'right_optical': 'left_optical'}

        def swap(stamped: TransformStamped) -> None:
            stamped.child_frame_id = swapped.get(stamped.child_frame_id, stamped.child_frame_id)

        vehicle._tf.publish(transforms(swap))
        new = 'ring, clockwise: front (front), left (right), right (left)'
        vehicle.wait_until(lambda: new in node.output(), 'a new ring', node)
        seen = len(vehicle.hints)
        vehicle.wait_until(
            lambda: any(hint.status == PlanningHint.OK for hint in vehicle.hints[seen:]), 'OK with the new ring', node
        )
        # What cannot be used changes nothing but the status.
        vehicle._tf.publish(
            transforms(lambda stamped: setattr(stamped, 'child_frame_id', f'{stamped.child_frame_id}x'))
        )
        same = transforms()
        for stamped in same.transforms:
            stamped.transform.rotation = same.transforms[0].transform.rotation
        vehicle._tf.publish(same)
        vehicle.wait_until(says(vehicle, 'the ring stays as it was'), 'the refusal', node)
        assert vehicle.hints[-1].status == PlanningHint.DEGRADED
    finally:
        code = node.stop()
        vehicle.close()
    assert code == 0
    assert 'Traceback' not in node.output()


@pytest.mark.parametrize(
    ('values', 'topic', 'change', 'sentence'),
    [
        ({}, '/tf', None, 'comes on /tf only; publish it on /tf_static'),
        ({'cameras.base_frame': 'ego'}, '/tf_static', None, "ends in 'base_link', and 'ego' is not in it"),
        ({}, '/tf_static', (1.0, 0.0, 0.0, 0.0), 'have the same position and attitude'),
        ({}, '/tf_static', (0.0, 0.0, 0.0, 0.0), 'cannot be used: its quaternion (0, 0, 0, 0) is zero'),
    ],
    ids=['moving', 'root', 'identical', 'zero'],
)
def test_a_node_that_waits_says_for_what(tiny, domain_id, tmp_path, values, topic, change, sentence):
    vehicle = Vehicle(domain_id, '/waits')
    vehicle.node.destroy_publisher(vehicle._tf)

    def turn(stamped: TransformStamped) -> None:
        rotation = stamped.transform.rotation
        if change is not None:
            rotation.x, rotation.y, rotation.z, rotation.w = change

    publisher = vehicle.node.create_publisher(TFMessage, topic, qos.TF_STATIC)
    message = transforms(turn)
    vehicle.act = lambda act=vehicle.act: (act(), publisher.publish(message))  # type: ignore[method-assign]
    node = NodeProcess(tmp_path, vehicle, {**base_values(tiny), **values})
    try:
        vehicle.wait_until(says(vehicle, sentence), sentence, node)
        assert vehicle.hints[-1].status == PlanningHint.NO_HINT
        vehicle.wait_for_diagnostic('rig', 'waiting for calibration', node)
    finally:
        code = node.stop()
        vehicle.close()
    assert code == 0
