"""Recorded drives, played over DDS in real time from one process into the node in another."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip('rclpy')

from helpers.harness import Listener, NodeProcess, Vehicle, base_values, playing, stamp_ns
from helpers.small_bags import AZIMUTH_DEG, PERIOD_NS, START_NS, Item, camera_info, drive, odometry, write_bag
from helpers.tiny_models import make_tiny_model

from stprune_ros.io.bag_reader import Bag
from stprune_ros.msg import PlanningHint

RING = ['CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_RIGHT', 'CAM_BACK', 'CAM_LEFT', 'CAM_FRONT_LEFT']
VALID = (PlanningHint.OK, PlanningHint.DEGRADED)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path


def stamps_of(bag: Path, topic: str) -> set[int]:
    """Header stamps of a topic, read without ROS."""
    with Bag(bag) as found:
        headers = (record.message().header.stamp for record in found.messages([topic]))
        return {stamp.sec * 10**9 + stamp.nanosec for stamp in headers}


def test_six_rolling_cameras_give_hints_and_descriptions_with_source_stamps(test_data, tiny, domain_id, tmp_path):
    bag = test_data / 'pandaset_002' / 'bag'
    values = {
        **base_values(tiny),
        'use_sim_time': True,
        'cameras.names': sorted(RING),
        'sync.tolerance_ms': 90.0,
        'sync.max_wait_ms': 200.0,
        'model.max_image_pixels': 20000,
    }
    remaps = {'~/input/kinematic_state': '/odom'}
    for camera in RING:
        remaps[f'~/input/{camera}/image/compressed'] = f'/camera/{camera}/image_raw/compressed'
        remaps[f'~/input/{camera}/camera_info'] = f'/camera/{camera}/camera_info'
    listener = Listener(domain_id, '/recorded')
    node = NodeProcess(tmp_path, listener, values, remaps)
    try:
        with playing(bag, listener, '--clock', '--wait', '120', '--loop', '20'):
            listener.wait_until(
                lambda: (
                    any(hint.status in VALID for hint in listener.hints)
                    and any(text.status in VALID for text in listener.texts)
                ),
                'hint and description',
                node,
            )
    finally:
        code = node.stop()
        listener.close()
    hint = next(hint for hint in listener.hints if hint.status in VALID)
    text = next(text for text in listener.texts if text.status in VALID)
    stamps = stamps_of(bag, '/camera/CAM_FRONT/image_raw/compressed')
    for message in (hint, text):
        assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec in stamps
        assert [camera.name for camera in message.info.cameras] == RING
        assert 0 < message.info.tokens_kept <= message.info.tokens_full / 2 + len(RING)
    assert code == 0


def test_sets_that_wait_for_the_odometry_to_settle_are_all_answered(tiny, domain_id, tmp_path):
    before = START_NS - PERIOD_NS
    known = [Item(f'/camera/{camera}/camera_info', before, camera_info(before, camera)) for camera in AZIMUTH_DEG]
    # The third sample, by which odometry settles, comes long before the third set, which may replace one that waits.
    settles = START_NS + 3 * PERIOD_NS // 2
    items = sorted([*known, *drive(8), Item('/odom', settles, odometry(settles))], key=lambda item: item.stamp_ns)
    bag = write_bag(tmp_path / 'bag', items)
    values = {**base_values(tiny), 'use_sim_time': True, 'topics.odometry': '/odom', 'inference.describe': False}
    values['topics.image'] = '/camera/{camera}/image_raw/compressed'
    values['topics.camera_info'] = '/camera/{camera}/camera_info'
    listener = Listener(domain_id, '/settling')
    node = NodeProcess(tmp_path, listener, values)
    first = [START_NS, START_NS + PERIOD_NS]
    try:
        with playing(bag, listener, '--clock', '--wait', '120', '--rate', '0.02'):
            listener.wait_until(lambda: any(stamp_ns(hint) > first[1] for hint in listener.hints), 'third hint', node)
    finally:
        code = node.stop()
        listener.close()
    said = [(stamp_ns(hint), hint.status, hint.info.notes) for hint in listener.hints if stamp_ns(hint)]
    assert [stamp for stamp, status, _ in said if status == PlanningHint.OK][:2] == first, said
    assert code == 0


def test_a_bag_that_loops_is_followed_under_its_clock(tiny, domain_id, tmp_path):
    bag = write_bag(tmp_path / 'bag', drive(20))
    values = {**base_values(tiny), 'use_sim_time': True, 'topics.odometry': '/odom', 'inference.describe': False}
    values['topics.image'] = '/camera/{camera}/image_raw/compressed'
    values['topics.camera_info'] = '/camera/{camera}/camera_info'
    listener = Listener(domain_id, '/looping')
    node = NodeProcess(tmp_path, listener, values)

    def loops() -> list[list[PlanningHint]]:
        """The answers that are valid, a list per round of the bag."""
        found: list[list[PlanningHint]] = [[]]
        for hint in listener.hints:
            if hint.status in VALID:
                if found[-1] and stamp_ns(hint) < stamp_ns(found[-1][-1]):
                    found.append([])
                found[-1].append(hint)
        return found

    try:
        with playing(bag, listener, '--clock', '--wait', '120', '--loop', '30'):
            listener.wait_until(lambda: len(loops()) > 2 and len(loops()[-1]) > 3, 'a third round', node)
    finally:
        code = node.stop()
        listener.close()
    assert code == 0
    recorded = {START_NS + tick * PERIOD_NS for tick in range(20)}
    answers = [hint for found in loops() for hint in found]
    assert {stamp_ns(hint) for hint in answers} <= recorded
    assert all(any(hint.status == PlanningHint.OK for hint in found) for found in loops())
    sequences = [hint.info.sequence for hint in answers]
    assert sequences == sorted(set(sequences))  # they go on while the stamps begin anew
    assert 'history flushed: the clock jumped by -' in node.output()
    assert 'images of camera' not in node.output()  # one step back in a round is no fault of a camera


def test_awkward_odometry_is_said_once_and_poisons_nothing(test_data, tiny, domain_id, tmp_path):
    vehicle = Vehicle(domain_id, '/awkward')
    vehicle.odometry = None
    node = NodeProcess(tmp_path, vehicle, base_values(tiny))
    said = (
        'empty child_frame_id',
        'exactly (0, 0, 0)',
        'covariances are all zero',
        'days behind the images',
    )
    remap = f'/odometry:={vehicle.node_name}/input/kinematic_state'
    try:
        with playing(test_data / 'vehicle_odometry' / 'bag', vehicle, '--remap', remap):
            vehicle.wait_until(lambda: all(words in node.output() for words in said), 'notes on the odometry', node)
            before = len(vehicle.hints)
            vehicle.wait_until(lambda: len(vehicle.hints) > before + 5, 'more hints', node)
    finally:
        code = node.stop()
        vehicle.close()
    assert {hint.status for hint in vehicle.hints[before:]} <= {PlanningHint.DEGRADED, PlanningHint.NO_HINT}
    assert any(hint.status == PlanningHint.DEGRADED for hint in vehicle.hints[before:])
    for words in said:
        assert node.output().count(words) == 1
    assert code == 0
