"""The node over real DDS: a vehicle in this process, the node in another."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy')

from conftest import new_domain_id
from helpers.harness import (
    AZIMUTH_DEG,
    NodeProcess,
    Vehicle,
    base_values,
    compressed_image,
    jpeg,
    odometry,
    stamp_ns,
)
from helpers.tiny_models import make_tiny_model
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from stprune_ros.io.drawing import COLOURS, FOOTER_HEIGHT, HEADER_HEIGHT, TILE_HEIGHT, TILE_WIDTH
from stprune_ros.msg import CameraStatus, PlanningHint, SceneDescription
from stprune_ros.pruning.reason import KEPT_REASONS

RING = ['front', 'right', 'left']


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one, so that its hints are let through."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path


@pytest.fixture(scope='module')
def running(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Vehicle, NodeProcess]]:
    """A vehicle and a node that has answered once; tests leave both as they found them."""
    vehicle = Vehicle(new_domain_id(), '/node_test')
    node = NodeProcess(tmp_path_factory.mktemp('node'), vehicle, base_values(model))
    try:
        vehicle.wait_until(lambda: bool(vehicle.hints and vehicle.texts), 'hint and description', node)
        yield vehicle, node
    finally:
        node.stop()
        vehicle.close()


def next_hint(
    vehicle: Vehicle, node: NodeProcess, status: int, what: str, wanted: dict[str, int] | None = None
) -> PlanningHint:
    """The next hint with ``status``, and cameras in the ``wanted`` states, from images published from now on."""
    since = vehicle.stamp_ns

    def fresh() -> list[PlanningHint]:
        found = [hint for hint in vehicle.hints if hint.status == status and stamp_ns(hint) > since]
        return [hint for hint in found if wanted is None or states(hint) == wanted]

    vehicle.wait_until(lambda: bool(fresh()), what, node)
    return fresh()[-1]


def states(hint: PlanningHint) -> dict[str, int]:
    return {camera.name: camera.state for camera in hint.info.cameras}


def set_parameter(vehicle: Vehicle, node: NodeProcess, name: str, value: float) -> tuple[bool, str]:
    request = SetParameters.Request()
    number = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
    request.parameters = [Parameter(name=name, value=number)]
    result = vehicle.call(SetParameters, 'set_parameters', request, node).results[0]
    return result.successful, result.reason


def test_hint_carries_source_stamp_distribution_and_provenance(running):
    vehicle, node = running
    hint = next_hint(vehicle, node, PlanningHint.OK, 'hint from full sets')
    assert stamp_ns(hint) in vehicle.stamps
    assert hint.header.frame_id == 'base_link'
    assert (hint.valid_for.sec, hint.valid_for.nanosec) == (60, 0)
    assert hint.behavior in hint.candidates
    assert sum(hint.probabilities) == pytest.approx(1.0, abs=1e-5)
    assert hint.confidence == pytest.approx(max(hint.probabilities), abs=1e-6)
    assert [camera.name for camera in hint.info.cameras] == RING
    assert set(states(hint).values()) == {CameraStatus.OK}
    assert hint.info.tokens_full == sum(camera.tokens_full for camera in hint.info.cameras) > 0
    assert abs(hint.info.tokens_kept - hint.info.tokens_full / 2) <= len(RING)
    assert 0 < hint.info.output_latency < 60
    assert list(hint.info.notes) == []


def test_the_weight_of_commonness_goes_from_the_model_to_a_number_and_back(running):
    vehicle, node = running
    for value in (2.4, -1.0):
        assert set_parameter(vehicle, node, 'pruning.joint_common', value) == (True, '')
        next_hint(vehicle, node, PlanningHint.OK, f'hint at {value}')
    for value, allowed in ((-0.5, 'allowed are 0 to 10, and -1 to leave it to the model'), (11.0, '')):
        done, reason = set_parameter(vehicle, node, 'pruning.joint_common', value)
        assert not done
        assert allowed in reason


def test_description_follows_with_the_same_stamps(running):
    vehicle, node = running
    before = len(vehicle.texts)
    vehicle.wait_until(lambda: len(vehicle.texts) > before, 'description', node)
    text = vehicle.texts[-1]
    assert stamp_ns(text) in vehicle.stamps
    assert stamp_ns(text) in {stamp_ns(hint) for hint in vehicle.hints}
    assert text.info.model_id == 'tiny'


@pytest.mark.parametrize(
    'broken',
    [
        compressed_image(jpeg()[:300]),
        compressed_image(b''),
        compressed_image(b'no image at all'),
        compressed_image(jpeg()[:300], 'h264'),
    ],
    ids=['truncated', 'empty', 'garbage', 'video'],
)
def test_broken_image_costs_one_view_not_the_node(running, broken):
    vehicle, node = running
    good = vehicle.images['left']
    vehicle.images['left'] = lambda: broken
    wanted = {'front': CameraStatus.OK, 'right': CameraStatus.OK, 'left': CameraStatus.INVALID}
    hint = next_hint(vehicle, node, PlanningHint.DEGRADED, 'hint without the left view alone', wanted)
    vehicle.images['left'] = good
    assert any("'left'" in note for note in hint.info.notes)
    assert states(next_hint(vehicle, node, PlanningHint.OK, 'recovery'))['left'] == CameraStatus.OK


def test_camera_that_changes_its_size_is_followed(running):
    vehicle, node = running
    good = vehicle.images['left']
    tokens = next_hint(vehicle, node, PlanningHint.OK, 'hint').info.cameras[2].tokens_full
    vehicle.images['left'] = lambda: compressed_image(jpeg(scale=2))

    def larger() -> bool:
        hint = vehicle.hints[-1]
        return hint.status == PlanningHint.OK and hint.info.cameras[2].tokens_full > 1.5 * tokens

    vehicle.wait_until(larger, 'hint with the larger view', node)
    vehicle.images['left'] = good
    vehicle.wait_until(lambda: not larger(), 'hint with the smaller view', node)
    assert PlanningHint.ERROR not in {hint.status for hint in vehicle.hints}


def test_broken_critical_camera_means_no_hint(running):
    vehicle, node = running
    good = vehicle.images['front']
    vehicle.images['front'] = lambda: compressed_image(b'no image at all')
    hint = next_hint(vehicle, node, PlanningHint.NO_HINT, 'NO_HINT')
    vehicle.images['front'] = good
    assert hint.behavior == PlanningHint.BEHAVIOR_UNKNOWN
    assert list(hint.candidates) == []
    next_hint(vehicle, node, PlanningHint.OK, 'recovery')


def test_silent_side_camera_degrades(running):
    vehicle, node = running
    good = vehicle.images.pop('right')
    hint = next_hint(vehicle, node, PlanningHint.DEGRADED, 'hint without the right view')
    vehicle.images['right'] = good
    assert states(hint)['right'] in (CameraStatus.MISSING, CameraStatus.STALE)
    next_hint(vehicle, node, PlanningHint.OK, 'recovery')


def test_nan_odometry_is_refused_and_said_once(running):
    vehicle, node = running
    vehicle.odometry = odometry(speed=float('nan'))
    hint = next_hint(vehicle, node, PlanningHint.DEGRADED, 'hint without ego motion')
    vehicle.odometry = odometry()
    assert any('odometry' in note for note in hint.info.notes)
    next_hint(vehicle, node, PlanningHint.OK, 'recovery')
    said = [line for line in node.output().splitlines() if 'NaN or infinite twist' in line]
    assert sum('[WARN]' in line for line in said) == 1  # and, a while later, that it is over


def test_source_that_starts_anew_is_followed(running):
    vehicle, node = running
    vehicle.behind_ns = 30 * 10**9
    jumped = vehicle.stamp_ns - 10 * 10**9
    before = len(vehicle.hints)

    def answered() -> bool:
        new = vehicle.hints[before:]
        return any(hint.status == PlanningHint.OK and stamp_ns(hint) < jumped for hint in new)

    vehicle.wait_until(answered, 'hint from the old time', node)
    vehicle.behind_ns = 0
    next_hint(vehicle, node, PlanningHint.OK, 'hint from the new time')


def test_dynamic_parameter_changes_the_next_hint(running):
    vehicle, node = running
    assert set_parameter(vehicle, node, 'pruning.keep_ratio', 0.25) == (True, '')
    vehicle.wait_until(lambda: vehicle.hints[-1].info.keep_ratio == 0.25, 'hint with the new ratio', node)
    hint = vehicle.hints[-1]
    assert abs(hint.info.tokens_kept - hint.info.tokens_full / 4) <= len(RING)
    assert set_parameter(vehicle, node, 'pruning.keep_ratio', 0.5) == (True, '')


def test_bad_parameter_values_are_refused_with_a_reason(running):
    vehicle, node = running
    accepted, reason = set_parameter(vehicle, node, 'pruning.keep_ratio', 1.5)
    assert not accepted
    assert 'pruning.keep_ratio' in reason
    accepted, reason = set_parameter(vehicle, node, 'history.stride_ms', 300.0)
    assert not accepted
    assert 'read-only' in reason


def test_parameters_describe_themselves(running):
    vehicle, node = running
    request = DescribeParameters.Request(names=['pruning.keep_ratio', 'history.frames'])
    ratio, frames = vehicle.call(DescribeParameters, 'describe_parameters', request, node).descriptors
    assert (ratio.floating_point_range[0].from_value, ratio.floating_point_range[0].to_value) == (0.001, 1.0)
    assert not ratio.read_only
    assert 'tokens' in ratio.description
    assert (frames.integer_range[0].from_value, frames.integer_range[0].to_value) == (1, 16)
    assert frames.read_only


def test_picture_shows_the_ring_to_whoever_looks_as_rviz_does(running):
    """RViz's displays subscribe reliable and volatile unless told otherwise, raw or compressed."""
    vehicle, node = running
    as_rviz = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE)
    raw, jpegs, topic = [], [], f'{vehicle.node_name}/debug/kept_tokens/image'
    subscriptions = [
        vehicle.node.create_subscription(Image, topic, raw.append, as_rviz),
        vehicle.node.create_subscription(CompressedImage, f'{topic}/compressed', jpegs.append, as_rviz),
    ]
    vehicle.wait_until(lambda: bool(raw and jpegs), 'both pictures', node)
    for subscription in subscriptions:
        vehicle.node.destroy_subscription(subscription)
    picture, jpeg_of = raw[-1], {stamp_ns(message): message for message in jpegs}
    height, width = HEADER_HEIGHT + 2 * (TILE_HEIGHT + FOOTER_HEIGHT), 2 * TILE_WIDTH
    assert (picture.height, picture.width, picture.step, picture.encoding) == (height, width, 3 * width, 'rgb8')
    assert stamp_ns(picture) in vehicle.stamps
    pixels = np.frombuffer(picture.data, np.uint8).reshape(height, width, 3)
    same = next((jpeg_of[stamp_ns(message)] for message in raw if stamp_ns(message) in jpeg_of), jpegs[-1])
    decoded = cv2.imdecode(np.frombuffer(same.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert decoded.shape == pixels.shape and same.format == 'jpeg'
    outlines = [(pixels == COLOURS[reason]).all(axis=2).sum() for reason in KEPT_REASONS]
    assert sum(outlines) > 100, 'kept tokens have a reason'


def test_diagnostics_name_every_camera(running):
    vehicle, node = running
    vehicle.wait_until(lambda: bool(vehicle.diagnostics), 'diagnostics', node)
    names = {status.name.partition(': ')[2] for status in vehicle.diagnostics[-1].status}
    assert {f'camera {camera}' for camera in AZIMUTH_DEG} <= names
    assert {'rig', 'model', 'odometry', 'inference', 'synchronisation'} <= names


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_missing_camera_info_means_heartbeats_and_signals_end_it_cleanly(model, domain_id, tmp_path, number):
    vehicle = Vehicle(domain_id, '/missing')
    vehicle.silence_camera_info('left')
    node = NodeProcess(tmp_path, vehicle, base_values(model))
    try:
        missing = "no camera_info for camera 'left' yet"

        def says(messages: list) -> bool:
            return any(note.startswith(missing) for message in messages[-1:] for note in message.info.notes)

        vehicle.wait_until(lambda: says(vehicle.hints) and says(vehicle.texts), missing, node)
        assert vehicle.hints[-1].status == PlanningHint.NO_HINT
        assert vehicle.texts[-1].status == SceneDescription.NO_HINT
    finally:
        code = node.stop(number)
        vehicle.close()
    assert code == 0
    assert 'Traceback' not in node.output()


def test_untrained_model_never_hints(domain_id, tmp_path):
    vehicle = Vehicle(domain_id, '/untrained')
    node = NodeProcess(tmp_path, vehicle, base_values(make_tiny_model(tmp_path / 'random', 'ringworld')))
    try:
        hint = next_hint(vehicle, node, PlanningHint.INVALID, 'INVALID hint')
    finally:
        code = node.stop()
        vehicle.close()
    assert hint.behavior == PlanningHint.BEHAVIOR_UNKNOWN
    assert not hint.info.model_trained
    assert code == 0
