"""A node among publishers that freeze, lag, lie and send bombs: over real DDS, the publisher in this process."""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy')

from conftest import new_domain_id
from helpers import harness
from helpers.harness import AZIMUTH_DEG, NodeProcess, Vehicle, base_values, compressed_image, jpeg, odometry
from helpers.tiny_models import make_tiny_model
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage
from tf2_msgs.msg import TFMessage

from stprune_ros.msg import CameraStatus, PlanningHint
from stprune_ros.ros import diagnostics

OK, INVALID, FROZEN = CameraStatus.OK, CameraStatus.INVALID, CameraStatus.FROZEN
FORGED = '\n[ERROR] [1.0] [brake.node]: brakes failed\x1b[31m'
Running = tuple[Vehicle, NodeProcess]


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path


@pytest.fixture(scope='module')
def running(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A vehicle and a node that has answered once; tests leave both as they found them."""
    vehicle = Vehicle(new_domain_id(), '/hostile')
    values = {**base_values(model), 'inference.describe': False, 'cameras.frozen_after_ms': 500.0}
    node = NodeProcess(tmp_path_factory.mktemp('node'), vehicle, values)
    try:
        next_hint(vehicle, node, PlanningHint.OK, 'the first hint')
        yield vehicle, node
        code = node.stop()
        assert code == 0 and 'Traceback' not in node.output()
    finally:
        node.stop()
        vehicle.close()


def stamp_ns(hint: PlanningHint) -> int:
    return hint.header.stamp.sec * 10**9 + hint.header.stamp.nanosec


def states(hint: PlanningHint) -> dict[str, int]:
    return {camera.name: camera.state for camera in hint.info.cameras}


def next_hint(
    vehicle: Vehicle,
    node: NodeProcess,
    status: int,
    what: str,
    fits: Callable[[PlanningHint], bool] = lambda hint: True,
) -> PlanningHint:
    """The next hint with ``status`` that fits, from images published from now on."""
    since = vehicle.stamp_ns

    def fresh() -> list[PlanningHint]:
        return [hint for hint in vehicle.hints if hint.status == status and stamp_ns(hint) > since and fits(hint)]

    vehicle.wait_until(lambda: bool(fresh()), what, node)
    return fresh()[-1]


def left_is(state: int) -> Callable[[PlanningHint], bool]:
    """Whether the left camera has that state in a hint and the others are well: on a busy machine they may be late."""
    return lambda hint: states(hint) == {'front': OK, 'right': OK, 'left': state}


def report(vehicle: Vehicle, name: str) -> Any:
    found = [one for array in vehicle.diagnostics[-1:] for one in array.status if one.name.endswith(f': {name}')]
    return found[0] if found else None


def resident_mb(node: NodeProcess) -> float:
    """Memory of the node."""
    [pages] = re.findall(r'^VmHWM:\s+(\d+) kB$', Path(f'/proc/{node.process.pid}/status').read_text(), re.MULTILINE)
    return int(pages) / 1024


def recovered(vehicle: Vehicle, node: NodeProcess) -> None:
    """Everything is well again."""
    hint = next_hint(vehicle, node, PlanningHint.OK, 'recovery')
    assert set(states(hint).values()) == {OK}


def test_a_frozen_side_camera_degrades_and_is_named(running):
    vehicle, node = running
    vehicle.frozen = {'left'}
    hint = next_hint(vehicle, node, PlanningHint.DEGRADED, 'FROZEN', left_is(FROZEN))
    assert any("camera 'left' sends the same image again and again" in note for note in hint.info.notes)
    vehicle.wait_until(lambda: report(vehicle, 'camera left').message == diagnostics.CAMERA_FROZEN, 'ERROR', node)
    assert report(vehicle, 'camera left').level == diagnostics.ERROR
    assert report(vehicle, 'camera right').level == diagnostics.OK
    vehicle.frozen = set()
    recovered(vehicle, node)


@pytest.mark.parametrize('frozen', [{'front'}, set(AZIMUTH_DEG)], ids=['critical', 'all'])
def test_a_frozen_critical_camera_and_a_frozen_ring_give_no_hint(running, frozen):
    vehicle, node = running
    vehicle.frozen = frozen
    hint = next_hint(
        vehicle,
        node,
        PlanningHint.NO_HINT,
        'NO_HINT',
        lambda hint: list(states(hint).values()).count(FROZEN) == len(frozen),
    )
    assert {camera for camera, state in states(hint).items() if state == FROZEN} == frozen
    assert hint.behavior == PlanningHint.BEHAVIOR_UNKNOWN and hint.valid_for.sec == hint.valid_for.nanosec == 0
    vehicle.frozen = set()
    recovered(vehicle, node)


def with_size(data: bytes, width: int, height: int) -> bytes:
    at = data.index(b'\xff\xc0')
    return data[: at + 5] + struct.pack('>HH', height, width) + data[at + 9 :]


def tall() -> bytes:
    return cv2.imencode('.jpg', np.zeros((3000, 1, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ('data', 'text', 'sentence'),
    [
        (tall(), 'jpeg', 'images cannot be prepared for the model'),
        (with_size(jpeg(), 30001, 30001), 'jpeg', 'the image has 30001x30001 pixels, more than 49152 in all'),
        (jpeg()[:300], f'jpeg{FORGED}', "the compressed image ('jpeg?[ERROR]"),
        (b'no image', 'x' * 10**6, "bytes of format 'xxx"),
        (cv2.imencode('.bmp', np.zeros((48, 64, 3), np.uint8))[1].tobytes(), 'bmp', 'are no jpeg or png'),
    ],
    ids=['1x3000', 'bomb', 'forged', 'long', 'bmp'],
)
def test_an_image_that_cannot_be_used_costs_one_view(running, data, text, sentence):
    vehicle, node = running
    good, before = vehicle.images['left'], resident_mb(node)
    vehicle.images['left'] = lambda: compressed_image(data, text)
    hint = next_hint(vehicle, node, PlanningHint.DEGRADED, 'INVALID', left_is(INVALID))
    vehicle.images['left'] = good
    [note] = [note for note in hint.info.notes if "camera 'left'" in note]
    assert sentence in note and note.isprintable() and len(note) < 1000
    recovered(vehicle, node)
    assert resident_mb(node) - before < 100
    assert not re.search(r'^\[ERROR\] \[1\.0\] \[brake', node.output(), re.MULTILINE)
    assert '\x1b' not in node.output()


@pytest.mark.parametrize(('sec', 'nanosec'), [(2**31 - 1, 5), (-1, 0), (-(2**31), 0), (1_700_000_000, 4_000_000_000)])
def test_impossible_stamps_are_refused(running, sec, nanosec):
    vehicle, node = running
    make, stamped = vehicle.images['left'], vehicle._stamped

    def lie(message: Any, stamp: int | None = None) -> Any:
        message = stamped(message, stamp)
        if isinstance(message, CompressedImage) and message.format == 'liar':
            message.header.stamp.sec, message.header.stamp.nanosec = sec, nanosec
        return message

    vehicle.images['left'] = lambda: compressed_image(bytes(make().data), 'liar')
    vehicle._stamped = lie  # type: ignore[method-assign]
    try:
        hint = next_hint(vehicle, node, PlanningHint.DEGRADED, 'hint without the liar')
    finally:
        vehicle._stamped, vehicle.images['left'] = stamped, make  # type: ignore[method-assign]
    assert states(hint)['front'] == states(hint)['right'] == OK
    assert states(hint)['left'] in (CameraStatus.MISSING, CameraStatus.STALE)
    recovered(vehicle, node)
    assert 'which no clock has, and are refused' in node.output()


def test_frames_with_forged_and_endless_names_neither_forge_a_line_nor_end_the_node(running):
    vehicle, node = running
    for number in range(300):
        message = odometry()
        message.child_frame_id = f'f{number}{FORGED}'
        vehicle._odometry.publish(vehicle._stamped(message, vehicle.stamp_ns + number))
        if number % 10 == 0:
            vehicle.listen_until(lambda: False, 0.05)
        if number % 100 == 0:
            stamped = [harness._transform('front') for _ in range(3000)]
            for name, one in enumerate(stamped, 3000 * number):
                one.child_frame_id = f'g{name}{FORGED}'
            vehicle._tf.publish(TFMessage(transforms=stamped))
    recovered(vehicle, node)
    assert re.search(r"odometry gives its twist in 'f\d+\?\[ERROR\]", node.output())
    assert not re.search(r'^\[ERROR\] \[1\.0\] \[brake', node.output(), re.MULTILINE)
    assert '\x1b' not in node.output()
    assert node.output().count('brakes failed') <= 110  # what is said is bounded


@pytest.mark.parametrize('size', [0, 3, 11, 40])
def test_bytes_that_are_no_message_do_not_end_the_node(running, size):
    vehicle, node = running
    whole = serialize_message(vehicle._stamped(compressed_image(jpeg())))
    for damaged in (whole[:size], bytes([0, 1, 0, 0]) + b'\xff' * size, whole[:4] + b'\xff\xff\xff\x7f' * size):
        for publisher in vehicle._image_publishers.values():
            publisher.publish(damaged)
    recovered(vehicle, node)


def test_a_callback_that_raises_is_logged_and_does_not_end_the_node(model, domain_id, tmp_path):
    vehicle = Vehicle(domain_id, '/raises')
    node = NodeProcess(tmp_path, vehicle, base_values(model), program=('-m', 'helpers.faulty_callback'))
    try:
        next_hint(vehicle, node, PlanningHint.OK, 'the first hint')
        boom = harness._transform('front')
        boom.child_frame_id = 'boom'
        vehicle._tf.publish(TFMessage(transforms=[boom]))
        said = "a message on '/tf_static' failed and is left out: ZeroDivisionError at faulty_callback.py:"
        vehicle.wait_until(lambda: said in node.output(), 'the failure', node)
        next_hint(vehicle, node, PlanningHint.OK, 'the next hint')
    finally:
        code = node.stop()
        vehicle.close()
    assert code == 0
    assert 'Traceback' not in node.output()
    assert not re.search(r'^\[ERROR\] \[brake', node.output(), re.MULTILINE)


def bad_k(message: CameraInfo) -> None:
    message.k = [0.0] * 9


def bad_d(message: CameraInfo) -> None:
    message.d = array('d', [float('nan')] * 1000)


def huge(message: CameraInfo) -> None:
    message.width = message.height = 2**32 - 1


def nameless(message: CameraInfo) -> None:
    message.header.frame_id = ''


def unknown_model(message: CameraInfo) -> None:
    message.distortion_model = f'lens{FORGED}'


@pytest.mark.parametrize('spoil', [bad_k, bad_d, huge, nameless, unknown_model], ids=lambda spoil: spoil.__name__)
def test_a_camera_without_usable_calibration_is_invalid_until_it_has_one(
    model, domain_id, tmp_path, monkeypatch, spoil
):
    vehicle, good = Vehicle(domain_id, '/uncalibrated'), harness._camera_info
    values = {**base_values(model), 'inference.describe': False, 'cameras.anchor': 'front'}

    def info(camera: str) -> CameraInfo:
        message = good(camera)
        if camera == 'left':
            spoil(message)
        return message

    monkeypatch.setattr(harness, '_camera_info', info)
    node = NodeProcess(tmp_path, vehicle, values)
    try:
        hint = next_hint(vehicle, node, PlanningHint.DEGRADED, 'a hint without the left camera', left_is(INVALID))
        assert any(note.startswith("camera_info of camera 'left'") for note in hint.info.notes)
        assert all(note.isprintable() and len(note) < 1000 for note in hint.info.notes)
        vehicle.wait_until(lambda: report(vehicle, 'rig').message == diagnostics.INCOMPLETE, 'a ring less one', node)
        assert report(vehicle, 'rig').level == diagnostics.WARN
        vehicle.wait_until(lambda: report(vehicle, 'camera left').message == diagnostics.CAMERA_INVALID, 'ERROR', node)
        monkeypatch.setattr(harness, '_camera_info', good)
        recovered(vehicle, node)
        vehicle.wait_until(lambda: report(vehicle, 'rig').message == diagnostics.ALL_WELL, 'rig ok', node)
    finally:
        code = node.stop()
        vehicle.close()
    assert code == 0
    assert '\x1b' not in node.output() and 'Traceback' not in node.output()


def test_a_camera_whose_calibration_does_not_come_is_waited_for_and_then_left_out(model, domain_id, tmp_path):
    vehicle = Vehicle(domain_id, '/waited')
    publisher = vehicle._infos['left']
    vehicle.silence_camera_info('left')
    values = {**base_values(model), 'cameras.anchor': 'front', 'cameras.calibration_wait_ms': 2500.0}
    node = NodeProcess(tmp_path, vehicle, values)
    try:
        vehicle.wait_until(lambda: bool(vehicle.hints), 'a heartbeat', node)
        assert vehicle.hints[0].status == PlanningHint.NO_HINT
        hint = next_hint(vehicle, node, PlanningHint.DEGRADED, 'a hint without the left camera', left_is(INVALID))
        assert any(note.startswith("no camera_info for camera 'left' yet") for note in hint.info.notes)
        vehicle._infos['left'] = publisher
        recovered(vehicle, node)
    finally:
        code = node.stop()
        vehicle.close()
    assert code == 0


def test_a_dead_anchor_that_is_not_critical_is_replaced(model, domain_id, tmp_path):
    vehicle = Vehicle(domain_id, '/anchor')
    values = {**base_values(model), 'inference.describe': False, 'cameras.critical': ['right', 'left']}
    node = NodeProcess(tmp_path, vehicle, values)
    try:
        recovered(vehicle, node)
        front = vehicle.images.pop('front')
        hint = next_hint(
            vehicle, node, PlanningHint.DEGRADED, 'STALE', lambda hint: states(hint).get('front') == CameraStatus.STALE
        )
        assert states(hint)['right'] == states(hint)['left'] == OK
        said = "the anchor, camera 'front', sends nothing: camera 'right' is the anchor meanwhile"
        assert said in node.output()
        vehicle.wait_until(lambda: report(vehicle, 'camera front').message == diagnostics.CAMERA_STALE, 'stale', node)
        vehicle.images['front'] = front
        recovered(vehicle, node)
        vehicle.wait_until(lambda: "camera 'front' is the anchor again" in node.output(), 'its return', node)
        stamps = [stamp_ns(hint) for hint in vehicle.hints if hint.status in (PlanningHint.OK, PlanningHint.DEGRADED)]
        assert stamps == sorted(set(stamps))
    finally:
        code = node.stop()
        vehicle.close()
    assert code == 0


@pytest.mark.parametrize('critical', [['front'], ['right']])
def test_five_cameras_are_not_called_missing_because_the_anchor_lags(model, domain_id, tmp_path, critical):
    """Its images come 500 ms after the others': in time for nothing, yet nobody else is missing."""
    vehicle = Vehicle(domain_id, '/lags')
    values = {**base_values(model), 'inference.describe': False, 'cameras.critical': critical}
    sent: list[int] = []

    def late(stamp: int) -> int:
        sent.append(stamp)
        return sent[-6] if len(sent) > 5 else stamp - 500_000_000

    node = NodeProcess(tmp_path, vehicle, values)
    try:
        recovered(vehicle, node)
        vehicle.stamp_of['front'] = late
        vehicle.listen_until(lambda: len(sent) > 20, 60.0)
        before = len(vehicle.hints)
        hint = next_hint(vehicle, node, PlanningHint.OK if critical == ['front'] else PlanningHint.DEGRADED, 'a hint')
        assert states(hint)['right'] == states(hint)['left'] == OK
        for one in vehicle.hints[before:]:
            assert CameraStatus.MISSING not in {states(one).get('right'), states(one).get('left')}
        replaced = "the anchor, camera 'front', comes " in node.output()
        assert replaced is (critical == ['right'])
    finally:
        code = node.stop()
        vehicle.close()
    assert code == 0
