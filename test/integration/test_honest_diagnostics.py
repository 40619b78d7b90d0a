"""Diagnostics and log of the real node under faults: nothing wrong shows OK, and each episode is said with its end."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy')

from conftest import new_domain_id
from diagnostic_msgs.msg import DiagnosticStatus
from helpers.harness import AZIMUTH_DEG, FaultyNode, NodeProcess, Vehicle, base_values, compressed_image, jpeg, odometry
from helpers.tiny_models import make_tiny_model
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry

from stprune_ros.msg import PlanningHint
from stprune_ros.ros import diagnostics
from stprune_ros.ros.journal import MAX_ALIKE, MAX_LINES

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
HOUR_NS = 3600 * 10**9
FORGED = '\n[ERROR] [1.0] [brake.node]: brakes failed\x1b[31m\u202e\x9b\r\x00'
CAMERAS = [diagnostics.camera_status(camera) for camera in AZIMUTH_DEG]


class Car(Vehicle):
    """A vehicle whose odometry may have stamps of another time."""

    odometry_behind_ns = 0

    def _stamped(self, message: Any, stamp_ns: int | None = None) -> Any:
        if isinstance(message, Odometry):
            stamp_ns = self.stamp_ns - self.odometry_behind_ns
        return super()._stamped(message, stamp_ns)


Running = tuple[Car, NodeProcess]


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path


@pytest.fixture(scope='module')
def running(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A car and a node that has answered once; tests leave both as they found them."""
    car = Car(new_domain_id(), '/honest')
    values = {**base_values(model), 'inference.describe': False, 'cameras.stale_after_ms': 3000.0}
    node = NodeProcess(tmp_path_factory.mktemp('node'), car, values)
    try:
        all_well(car, node)
        yield car, node
        code = node.stop()
        assert code == 0 and 'Traceback' not in node.output()
    finally:
        node.stop()
        car.close()


def says(car: Vehicle, name: str) -> tuple[bytes, str]:
    found = car.diagnostic(name)
    return (found.level, found.message) if found is not None else (b'', '')


def values(car: Vehicle, name: str) -> dict[str, str]:
    found = car.diagnostic(name)
    assert found is not None
    return {pair.key: pair.value for pair in found.values}


def wait_for(car: Vehicle, node: NodeProcess, level: bytes, **messages: str) -> None:
    """Wait until one and the same report says all of this; cameras by their names."""
    wanted = {
        name if name not in AZIMUTH_DEG else diagnostics.camera_status(name): text for name, text in messages.items()
    }
    car.wait_until(
        lambda: all(says(car, name) == (level, text) for name, text in wanted.items()),
        f'{level!r} of {wanted}, not {[says(car, name) for name in wanted]},',
        node,
    )


def rate(car: Vehicle, camera: str, name: str) -> float:
    """Hertz that the newest report says of a camera, NaN where it says nothing."""
    return float(values(car, f'camera {camera}').get(name, 'nan'))


def all_well(car: Vehicle, node: NodeProcess) -> None:
    names = [*CAMERAS, diagnostics.ODOMETRY, diagnostics.SYNCHRONISATION, diagnostics.CLOCK, diagnostics.RIG]
    wait_for(car, node, OK, **dict.fromkeys(names, diagnostics.ALL_WELL))


def lines(node: NodeProcess, level: str, text: str) -> int:
    """How many lines of the log have this level and text."""
    return sum(f'[{level}]' in line and text in line for line in node.output().splitlines())


def wait_for_line(car: Vehicle, node: NodeProcess, level: str, text: str, before: int) -> None:
    """Wait until the log has more such lines than ``before``; a busy machine may bring one of its own."""
    car.wait_until(lambda: lines(node, level, text) > before, f'another {text}', node)
    assert lines(node, level, text) <= before + 2, node.output()


def change(car: Vehicle, node: NodeProcess, asked: Transition) -> bool:
    return bool(car.call(ChangeState, 'change_state', ChangeState.Request(transition=asked), node).success)


def test_a_node_without_any_camera_says_so_in_few_lines_and_is_not_well(model, domain_id, tmp_path):
    car = Vehicle(domain_id, '/nothing', info_topic='/elsewhere/{}')
    car.odometry = None
    good, car.images = car.images, {}
    del car._infos['left'], car._infos['front'], car._infos['right']
    node = NodeProcess(tmp_path, car, base_values(model))
    try:
        wait_for(car, node, WARN, inference=diagnostics.NO_ANSWER, synchronisation=diagnostics.NO_SETS)
        wait_for(car, node, WARN, odometry=diagnostics.NO_ODOMETRY, rig=diagnostics.WAITING)
        wait_for(car, node, ERROR, **dict.fromkeys(CAMERAS, diagnostics.NO_IMAGES))
        assert says(car, 'model') == (OK, diagnostics.ALL_WELL)  # it is loaded, whatever comes
        assert values(car, 'inference')['status'] == diagnostics.NOT_AVAILABLE
        left = values(car, 'camera left')
        assert (left['age_s'], left['received'], left['received_hz']) == (diagnostics.NOT_AVAILABLE, '0', '0.0')
        car.wait_until(lambda: 'nobody publishes' in ' '.join(values(car, 'rig').values()), 'why nothing comes', node)
        warned = [line for line in node.output().splitlines() if '[WARN]' in line]
        assert len(warned) == 3, warned  # calibration, its topics, images
        assert lines(node, 'WARN', 'has sent no image yet (the same of ') == 1
        for camera in AZIMUTH_DEG:
            assert f"'{camera}'" in next(line for line in warned if 'has sent no image yet' in line)
        car.images = good  # which come, but without calibration are used for nothing
        wait_for(car, node, WARN, **dict.fromkeys(CAMERAS, diagnostics.CAMERA_UNUSED))
        car.wait_until(lambda: lines(node, 'INFO', 'over after') >= 1, 'its end', node)
        assert re.search(r'over after \d+ s: camera .* has sent no image yet \(the same of ', node.output())
    finally:
        code = node.stop()
        car.close()
    assert code == 0


def test_what_came_was_used_and_was_lost_is_counted_for_cameras_and_sets(running):
    car, node = running
    all_well(car, node)
    car.wait_until(lambda: float(values(car, 'camera left')['received_hz']) > 0, 'rates', node)
    before = {name: values(car, name) for name in (*CAMERAS, 'synchronisation', 'inference', 'odometry')}
    sent = len(car.stamps)
    car.wait_until(
        lambda: int(values(car, 'camera left')['received']) > int(before['camera left']['received']) + 20, '', node
    )
    for camera in CAMERAS:
        now = values(car, camera)
        counts = {'received', 'used', 'skipped', 'lost', 'received_hz', 'used_hz', 'lost_hz'}
        assert set(now) == {'age_s', 'view_age_s'} | counts
        grown = {key: int(now[key]) - int(before[camera][key]) for key in ('received', 'used')}
        assert 0 < grown['used'] <= grown['received'] + 3
        assert grown['received'] <= len(car.stamps) - sent + 12  # not more than was sent since about then
        assert int(now['received']) == int(now['used']) + int(now['skipped'])
        assert now['lost'].isdigit()  # Fast DDS tells
        assert float(now['used_hz']) > 0
    assert float(values(car, 'synchronisation')['sets_full_hz']) > 0
    inference = values(car, 'inference')
    for key in ('done', 'valid'):
        assert int(inference[key]) > int(before['inference'][key]) and float(inference[f'{key}_hz']) > 0
    for key in ('skipped', 'failed', 'dropped', 'cancelled'):
        assert inference[key].isdigit() and re.fullmatch(r'\d+\.\d', inference[f'{key}_hz'])
    assert int(values(car, 'odometry')['received']) > int(before['odometry']['received'])


def test_images_that_dds_loses_are_counted(running):
    car, node = running
    all_well(car, node)
    before, other = int(values(car, 'camera left')['lost']), int(values(car, 'camera right')['lost'])
    large = car._stamped(compressed_image(jpeg() + bytes(3_000_000)))  # of one stamp, so that none is used
    for _ in range(30):
        for _ in range(20):  # best effort, in far more fragments than a socket holds
            car._image_publishers['left'].publish(large)
        car.listen_until(lambda: int(values(car, 'camera left')['lost']) > before, 2.0)
        if int(values(car, 'camera left')['lost']) > before:
            break
    assert int(values(car, 'camera left')['lost']) > before
    assert int(values(car, 'camera right')['lost']) - other < int(values(car, 'camera left')['lost']) - before
    assert float(values(car, 'camera left')['lost_hz']) > 0
    all_well(car, node)


def test_a_camera_that_dies_twice_is_logged_twice_and_so_is_each_recovery(running):
    car, node = running
    said = "camera 'right' is silent for"
    missing = "camera 'right' has no frame in this set"
    for _ in range(2):
        begun, over, lacked = (lines(node, *what) for what in (('WARN', said), ('INFO', said), ('WARN', missing)))
        good = car.images.pop('right')
        wait_for(car, node, ERROR, right=diagnostics.CAMERA_STALE)
        wait_for_line(car, node, 'WARN', said, begun)
        wait_for_line(car, node, 'WARN', missing, lacked)
        wait_for(car, node, WARN, synchronisation=diagnostics.NOT_FULL)
        car.images['right'] = good
        wait_for_line(car, node, 'INFO', said, over)
        all_well(car, node)
    assert re.search(rf'over after \d+ s: {said}', node.output())


def test_a_tenth_of_a_camera_is_a_warning(running):
    car, node = running
    good, publisher = car.images['left'], car._image_publishers['left']
    publish: Callable[[Any], None] = publisher.publish

    class Lossy:
        def publish(self, message: Any) -> None:
            if len(car.stamps) % 20 < 2:
                publish(message)

    car._image_publishers['left'] = Lossy()
    wait_for(car, node, WARN, left=diagnostics.CAMERA_SLOW)
    # Both are rounded to tenths, so that just below a third they may stand at it for a moment.
    car.wait_until(lambda: rate(car, 'left', 'received_hz') < rate(car, 'left', 'expected_hz') / 3, 'its rate', node)
    wait_for(car, node, WARN, synchronisation=diagnostics.NOT_FULL)
    car._image_publishers['left'] = publisher
    all_well(car, node)
    assert car.images['left'] is good


def test_zero_stamps_of_the_anchor_leave_nothing_well(running):
    car, node = running
    car.stamp_of['front'] = lambda stamp: 0
    wait_for(car, node, WARN, front=diagnostics.CAMERA_TIMING)
    wait_for(car, node, WARN, left=diagnostics.CAMERA_UNUSED, right=diagnostics.CAMERA_UNUSED)
    wait_for(car, node, WARN, synchronisation=diagnostics.NO_SETS, inference=diagnostics.NO_ANSWER)
    del car.stamp_of['front']
    all_well(car, node)
    car.wait_until(lambda: says(car, 'inference')[1] != diagnostics.NO_ANSWER, 'an answer', node)


@pytest.mark.parametrize('ahead', [{'left'}, set(AZIMUTH_DEG)], ids=['one', 'all'])
def test_stamps_of_the_future_leave_nothing_well(running, ahead):
    car, node = running
    car.stamp_of = dict.fromkeys(ahead, lambda stamp: stamp + HOUR_NS)
    if len(ahead) == 1:
        wait_for(car, node, WARN, left=diagnostics.CAMERA_TIMING, synchronisation=diagnostics.NOT_FULL)
        assert 'ahead of the anchor' in values(car, 'camera left')['timing']
    else:
        wait_for(car, node, WARN, clock=diagnostics.AHEAD, inference=diagnostics.NOT_VALID)
        assert values(car, 'inference')['status'] == 'STALE'
        wait_for(car, node, WARN, odometry=diagnostics.ODOMETRY_NOT_USED)
    car.stamp_of = {}
    all_well(car, node)


def test_odometry_that_is_nan_or_hours_off_is_not_used_and_each_episode_is_logged(running):
    car, node = running
    nan = 'odometry with NaN or infinite twist is refused'
    for _ in range(2):
        begun, over = lines(node, 'WARN', nan), lines(node, 'INFO', nan)
        car.odometry = odometry(speed=math.nan)
        wait_for(car, node, WARN, odometry=diagnostics.ODOMETRY_NOT_USED)
        car.wait_until(lambda: values(car, 'odometry').get('reason', '').startswith(nan), nan, node)
        assert int(values(car, 'odometry')['refused']) > 0
        wait_for_line(car, node, 'WARN', nan, begun)
        car.odometry = odometry()
        wait_for(car, node, OK, odometry=diagnostics.ALL_WELL)
        wait_for_line(car, node, 'INFO', nan, over)
    car.odometry_behind_ns = HOUR_NS
    wait_for(car, node, WARN, odometry=diagnostics.ODOMETRY_NOT_USED)
    car.wait_until(lambda: 'behind the images' in values(car, 'odometry').get('reason', ''), 'the hour', node)
    car.odometry_behind_ns = 0
    all_well(car, node)


def test_no_string_from_the_wire_forges_a_line_or_a_value(running):
    car, node = running
    good = car.images['left']
    car.images['left'] = lambda: compressed_image(b'no image', f'jpeg{FORGED}')
    car.odometry = odometry()
    car.odometry.child_frame_id = f'f{FORGED}'
    wait_for(car, node, ERROR, left=diagnostics.CAMERA_INVALID)
    car.wait_until(lambda: 'brake.node' in values(car, 'odometry').get('reason', ''), 'the frame', node)
    heard = len(car.hints)
    car.wait_until(
        lambda: any('brake.node' in note for hint in car.hints[heard:] for note in hint.info.notes), '', node
    )
    car.images['left'], car.odometry = good, odometry()
    all_well(car, node)
    car.wait_until(lambda: lines(node, 'INFO', 'brakes failed') >= 2, 'the end of both', node)
    assert not re.search(r'^\[ERROR\] \[1\.0\] \[brake', node.output(), re.MULTILINE)
    assert not re.search('[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]', node.output())
    told = [note for hint in car.hints for note in hint.info.notes]
    told += [pair.value for array in car.diagnostics for status in array.status for pair in status.values]
    assert all(text.isprintable() and len(text) <= 1000 for text in told)


def test_names_that_are_ever_new_do_not_fill_the_log(running):
    car, node = running
    before = len(node.output().splitlines())
    since = car.diagnostics[-1].header.stamp.sec
    for number in range(400):
        message = odometry()
        message.child_frame_id = f'frame{number}'
        car._odometry.publish(car._stamped(message))
        car.images['left'] = lambda number=number: compressed_image(b'no image', f'format{number}')
        if number % 4 == 0:
            car.listen_until(lambda: False, 0.05)
    car.images['left'] = car.images['right']
    all_well(car, node)
    minutes = 2 + (car.diagnostics[-1].header.stamp.sec - since) // 60
    assert len(node.output().splitlines()) - before <= minutes * (2 * MAX_LINES + 1)
    assert 1 <= lines(node, 'WARN', "odometry gives its twist in 'frame") <= minutes * MAX_ALIKE
    good = car.images.pop('right')  # there is room left for other faults
    said = lines(node, 'WARN', "camera 'right' is silent")
    wait_for_line(car, node, 'WARN', "camera 'right' is silent", said)
    car.images['right'] = good
    all_well(car, node)


def test_transitions_are_logged_and_what_a_state_does_not_allow_is_refused_by_name(running):
    car, node = running
    assert "transition 'configure': the node was 'unconfigured' and is 'inactive'" in node.output()
    assert "transition 'activate': the node was 'inactive' and is 'active'" in node.output()
    for asked, name in (
        (Transition(id=Transition.TRANSITION_ACTIVATE), 'activate'),
        (Transition(label='configure'), 'configure'),
        (Transition(id=99), 'number 99'),
        (Transition(label=f'fly{FORGED}'), 'fly?[ERROR]'),
    ):
        assert not change(car, node, asked)
        refused = f"transition '{name}"
        car.wait_until(lambda start=refused: values(car, 'lifecycle').get('refused', '').startswith(start), name, node)
        assert values(car, 'lifecycle')['refused'].endswith(
            " is not possible in state 'active': possible are 'deactivate', 'shutdown'"
        )
        assert lines(node, 'WARN', refused) == 1
    assert says(car, 'lifecycle') == (OK, diagnostics.ALL_WELL)
    assert 'No transition matching' not in node.output() and 'Unable to start' not in node.output()
    assert change(car, node, Transition(label='deactivate'))
    assert "transition 'deactivate': the node was 'active' and is 'inactive'" in node.output()
    wait_for(car, node, WARN, lifecycle=diagnostics.NOT_ACTIVE)
    assert 'refused' not in values(car, 'lifecycle')
    assert says(car, 'inference') == (OK, diagnostics.NOTHING_YET)  # and nothing is expected
    assert change(car, node, Transition(id=Transition.TRANSITION_ACTIVATE))
    all_well(car, node)


def test_hints_that_all_expire_and_a_target_that_is_missed_are_not_well(model, domain_id, tmp_path):
    car = Vehicle(domain_id, '/late')
    given = {'output.valid_for_ms': 1000.0, 'latency.target_ms': 1000.0, 'inference.describe': False}
    node = FaultyNode(tmp_path, car, {**base_values(model), **given}, score='slow')
    stale = 's after their images and go out as STALE'
    try:
        wait_for(car, node, WARN, inference=diagnostics.NOT_VALID)
        assert values(car, 'inference')['status'] == 'STALE' and values(car, 'inference')['valid'] == '0'
        assert int(values(car, 'inference')['not_valid']) > 0
        latency = car.diagnostic('latency')
        assert latency is not None and latency.level == WARN
        assert latency.message in (diagnostics.TARGET_MISSED, diagnostics.TOO_SLOW)
        assert float(values(car, 'latency')['source_to_hint_ms']) > 1000
        wait_for_line(car, node, 'WARN', stale, 0)
        node.fail()
        wait_for_line(car, node, 'INFO', stale, 0)
        wait_for(car, node, OK, latency=diagnostics.ALL_WELL)
        car.wait_until(lambda: car.hints[-1].status == PlanningHint.OK, 'a valid hint', node)
        assert int(values(car, 'inference')['valid']) > 0
    finally:
        code = node.stop()
        car.close()
    assert code == 0


@pytest.mark.slow  # half a minute passes before anything is said
def test_two_nodes_of_one_name_are_told_of(model, domain_id, tmp_path):
    car = Car(domain_id, '/twins')
    (tmp_path / 'twin').mkdir()
    node = NodeProcess(tmp_path, car, base_values(model))
    twin = NodeProcess(tmp_path / 'twin', car, {**base_values(model), 'lifecycle.autostart': False})
    try:
        car.wait_until(
            lambda: all("another node is called '" in one.output() for one in (node, twin)), 'word of both', node
        )
        assert twin.stop() == 0
        wait_for(car, node, OK, lifecycle=diagnostics.ALL_WELL)
        car.wait_until(lambda: 'over after' in node.output(), 'the end', node)
    finally:
        codes = node.stop(), twin.stop()
        car.close()
    assert codes == (0, 0)
