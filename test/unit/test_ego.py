"""Odometry as it is in the field: what is usable is used, what is not is refused once and in words."""

import math
from types import SimpleNamespace as Box

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.core.ego import EgoTrack, in_words, interpolate
from stprune_ros.core.odometry import read_odometry
from stprune_ros.core.types import EgoState

MS = 1_000_000


def vector(x=0.0, y=0.0, z=0.0):
    return Box(x=x, y=y, z=z)


def odometry(
    ms, speed=5.0, position=(1.0, 2.0, 0.0), q=(0.0, 0.0, 0.0, 1.0), child='base_link', covariance=1.0, yaw_rate=0.0
):
    stamp = round(ms * MS)
    return Box(
        header=Box(stamp=Box(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id='map'),
        child_frame_id=child,
        pose=Box(pose=Box(position=vector(*position), orientation=Box(x=q[0], y=q[1], z=q[2], w=q[3]))),
        twist=Box(twist=Box(linear=vector(speed), angular=vector(z=yaw_rate)), covariance=[covariance] * 36),
    )


def track(*messages):
    ego = EgoTrack(200 * MS)
    notes = [note for message in messages for note in ego.add(message)]
    return ego, notes


def test_interpolates_at_the_stamp():
    ego, notes = track(odometry(1000, speed=4.0, position=(1, 0, 0)), odometry(1100, speed=6.0, position=(2, 0, 0)))
    state = ego.at(1025 * MS)
    assert state.speed == pytest.approx(4.5)
    assert state.position == pytest.approx((1.25, 0, 0))
    assert notes == []


def test_the_base_frame_may_have_a_slash():
    ego = EgoTrack(200 * MS, '/base_link')
    assert ego.add(odometry(1000)) == []
    assert ego.at(1000 * MS).speed == 5.0


def test_holds_the_nearest_within_the_limit_and_refuses_beyond():
    ego, _ = track(odometry(1000))
    assert ego.at(1200 * MS).speed == 5.0
    assert ego.at(1201 * MS) is None
    assert ego.why_none(1300 * MS) == [
        'odometry is 300 ms behind the images, more than 0.2 s (ego.max_age_ms): not used; check the clocks and its'
        ' rate'
    ]
    assert ego.why_none(1400 * MS) == []  # said once


def test_stamps_of_another_age_are_said_in_days():
    ego, _ = track(odometry(1000))
    [sentence] = ego.why_none(66 * 86400 * 10**9)
    assert '66.0 days behind the images' in sentence


@given(st.sampled_from([1, -1]), st.floats(0, 1))
def test_either_sign_of_a_quaternion_is_the_same_turn(sign, share):
    a = EgoState(0, None, (0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    half = math.sqrt(0.5)
    b = EgoState(100, None, (0.0, 0.0, sign * half, sign * half), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    q = interpolate(a, b, round(share * 100)).orientation
    assert np.linalg.norm(q) == pytest.approx(1)
    assert 0 <= q[2] <= half + 1e-9 and q[3] > 0


@pytest.mark.parametrize(
    ('message', 'sentence'),
    [
        (odometry(0), 'without a stamp'),
        (odometry(1, speed=math.nan), 'NaN or infinite twist is refused'),
        (odometry(1, child=''), 'empty child_frame_id'),
        (odometry(1, child='gps'), "in 'gps', from which no static transform leads to 'base_link': not used"),
        (odometry(1, covariance=0.0), 'covariances are all zero'),
        (odometry(1, position=(0, 0, 0)), 'exactly (0, 0, 0)'),
        (odometry(1, position=(math.nan, 0, 0)), 'not finite'),
        (odometry(1, q=(0, 0, 0, 0)), 'orientation is zero'),
    ],
)
def test_each_oddity_is_said_once(message, sentence):
    _, notes = track(message, message)
    assert len(notes) == 1
    assert sentence in notes[0]


def test_bad_parts_do_not_poison_good_ones():
    reading, _, refusal = read_odometry(odometry(1, position=(math.inf, 0, 0), q=(math.nan, 0, 0, 0)), 'base_link')
    assert reading.position is None and reading.orientation is None and refusal == ''
    ego, _ = track(odometry(1, position=(math.inf, 0, 0), q=(math.nan, 0, 0, 0)))
    state = ego.at(MS)
    assert state.position is None and state.orientation is None
    assert state.speed == 5.0


def test_a_looped_bag_starts_anew_and_memory_is_bounded():
    ego, _ = track(*(odometry(ms, speed=5.0 if ms % 1000 else math.nan) for ms in range(1000, 60_000, 50)))
    assert (len(ego._states), len(ego._refused)) == (191, 11)
    ego.add(odometry(1000))
    assert ego.newest_ns == 1000 * MS


def test_recorded_field_odometry(test_data):
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    ego = EgoTrack(200 * MS)
    notes, count = [], 0
    with AnyReader(
        [test_data / 'vehicle_odometry' / 'bag'], default_typestore=get_typestore(Stores.ROS2_HUMBLE)
    ) as bag:
        connections = [c for c in bag.connections if c.topic == '/odometry']
        for connection, received, raw in bag.messages(connections):
            message = bag.deserialize(raw, connection.msgtype)
            notes += ego.add(message)
            count += 1
            assert ego.at(received) is None  # its stamps are 66 days old
    assert count == 2143
    assert len(notes) == 4
    for word in ('child_frame_id', 'covariances', 'exactly (0, 0, 0)', 'turn rate is zero while the pose moves'):
        assert any(word in note for note in notes)
    state = ego.at(ego.newest_ns)
    assert state.position is None and state.orientation is not None and math.isfinite(state.speed)
    assert '66' in ego.why_none(received)[0]


def test_lengths_of_time_in_words():
    assert [in_words(s) for s in (0.05, 2.0, 66 * 86400)] == ['50 ms', '2.0 s', '66.0 days']
