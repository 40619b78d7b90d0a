"""Twist and pose as two witnesses: frames, missing halves, contradictions, jumps and implausible values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.odometry_drives import HUGE, KNOWN, MISSING, MS, START_MS, about, circle, drive, message, yaw
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stprune_ros.core.ego import EgoTrack
from stprune_ros.core.transforms import matrix_from_quaternion


@pytest.mark.parametrize('covariance', [KNOWN, [0.0] * 36, MISSING, HUGE], ids=['known', 'zero', 'minus one', 'huge'])
@pytest.mark.parametrize('hz', [5, 10, 50, 200])
@pytest.mark.parametrize(('speed', 'rate'), [(8.0, 0.0), (8.0, 0.3), (6.0, -0.4), (-3.0, 0.0), (-2.0, 0.2)])
def test_motion_comes_from_the_pose_where_the_twist_is_empty(speed, rate, hz, covariance):
    def make(ms):
        position, q = circle(ms, speed, rate)
        return message(ms, position=position, q=q, covariance=covariance)

    _, states, said = drive(make, hz=hz)
    for state in states:
        assert state.linear == pytest.approx((speed, 0, 0), abs=0.02 * abs(speed))
        assert state.angular == pytest.approx((0, 0, rate), abs=0.01)
        assert state.is_reversing == (speed < 0)
    assert len(about(said, 'odometry velocity')) == 1
    assert 'taken from the pose' in about(said, 'odometry velocity')[0]


def test_the_first_sample_is_judged_with_those_after_it():
    ego = EgoTrack(200 * MS)
    for ms in range(START_MS, START_MS + 140, 20):
        assert ego.is_settling(START_MS * MS) == (START_MS < ms <= START_MS + 100)
        ego.add(message(ms, position=circle(ms, 8.0, 0.0)[0], q=yaw(0.7)))
    assert ego.at(START_MS * MS).speed == pytest.approx(8.0)


@pytest.mark.parametrize('covariance', [MISSING, HUGE])
def test_a_covariance_that_says_not_provided_outweighs_the_numbers(covariance):
    def make(ms):
        position, q = circle(ms, 8.0, 0.2)
        return message(ms, (1.5, 0, 0), (0, 0, 1.0), position, q, covariance=covariance)

    _, states, _ = drive(make)
    assert all(state.linear[0] == pytest.approx(8.0, abs=0.05) for state in states)
    assert all(state.angular[2] == pytest.approx(0.2, abs=0.01) for state in states)


@pytest.mark.parametrize('position', [(0, 0, 0), (4.0, 2.0, 0.0)])
def test_neither_twist_nor_pose_is_nothing(position):
    ego, states, said = drive(lambda ms: message(ms, (3.0, 0, 0), position=position, covariance=MISSING))
    assert set(states) == {None}
    assert 'does not give its twist' in ego.fault
    assert len(about(said, 'does not give its twist')) == 1


def test_a_car_that_stands_and_says_so_stands():
    ego, states, said = drive(lambda ms: message(ms, position=(4.0, 2.0, 0.0)))
    assert {state.speed for state in states} == {0.0}
    assert (ego.fault, said) == ('', [])


def test_noise_of_a_standing_car_is_no_motion():
    noise = np.random.default_rng(1)

    def make(ms):
        return message(ms, position=(4.0, 2.0, 0.0) + noise.normal(0, 0.003, 3), q=yaw(noise.normal(0, 0.0005)))

    _, states, said = drive(make, seconds=4)
    assert max(state.speed for state in states) < 0.2
    assert said == []


def test_pose_motion_ends_when_the_car_stops():
    def make(ms):
        position, q = circle(min(ms, START_MS + 1000), 8.0, 0.0)
        return message(ms, position=position, q=q)

    _, states, _ = drive(make, seconds=2)
    assert states[-1].speed == 0.0
    assert states[20].speed == pytest.approx(8.0)


def test_turn_rate_alone_may_be_missing():
    def make(ms):
        position, q = circle(ms, 5.0, 0.5)
        return message(ms, (5.0, 0, 0), position=position, q=q)

    _, states, said = drive(make)
    assert all(state.linear == (5.0, 0.0, 0.0) for state in states)
    assert all(state.angular[2] == pytest.approx(0.5, abs=0.01) for state in states)
    assert said == ['odometry turn rate is zero while the pose moves: it is taken from the pose']


@pytest.mark.parametrize(
    ('linear', 'rate', 'numbers'),
    [
        ((28.8, 0, 0), 0.3, ('8.0 m/s forward', '28.8 m/s forward')),  # km/h
        ((800.0, 0, 0), 0.3, ('8.0 m/s forward', '800.0 m/s forward')),  # cm/s
        ((0.5, 0, 0), 0.3, ('8.0 m/s forward', '0.5 m/s forward')),
        ((-8.0, 0, 0), 0.3, ('8.0 m/s forward', '8.0 m/s backward')),
        ((8.0, 0, 0), -0.3, ('+0.30 rad/s', '-0.30 rad/s')),
        ((8.0, 0, 0), 17.2, ('+0.30 rad/s', '+17.20 rad/s')),  # degrees
    ],
)
def test_contradiction_is_refused_with_both_numbers(linear, rate, numbers):
    def make(ms):
        position, q = circle(ms, 8.0, 0.3)
        return message(ms, linear, (0, 0, rate), position, q)

    ego, states, said = drive(make)
    assert set(states) == {None}
    [sentence] = about(said, 'contradicts itself')
    assert all(number in sentence for number in numbers)
    assert 'contradicts itself' in ego.fault
    assert 'contradicts itself' in ego.reason(round((START_MS + 1000) * MS))


def test_a_twist_in_the_axes_of_the_world_contradicts_the_pose():
    heading = 2.0

    def make(ms):
        position, q = circle(ms, 8.0, 0.0, heading)
        return message(ms, (8 * math.cos(heading), 8 * math.sin(heading), 0), position=position, q=q)

    _, states, said = drive(make)
    assert set(states) == {None}
    assert '3.3 m/s backward, 7.3 m/s to the left by its twist' in about(said, 'contradicts')[0]


def test_it_is_used_again_when_both_agree_again():
    def make(ms):
        position, q = circle(ms, 8.0, 0.0)
        wrong = START_MS + 1000 <= ms < START_MS + 2000
        return message(ms, (28.8 if wrong else 8.0, 0, 0), position=position, q=q)

    ego, states, _ = drive(make, seconds=4)
    assert sum(state is None for state in states) > 20  # at(stamp) still finds the last good one for 0.2 s
    assert {state.speed for state in states if state} == {8.0}
    assert states[-1].speed == 8.0 and ego.fault == ''


def test_one_wrong_twist_poisons_nothing():
    def make(ms):
        position, q = circle(ms, 8.0, 0.1)
        return message(ms, (60.0 if round(ms) == START_MS + 1000 else 8.0, 0, 0), (0, 0, 0.1), position, q)

    _, states, said = drive(make)
    assert [state.speed for state in states] == pytest.approx([8.0] * len(states))
    assert said == ['odometry leaps from 8.0 m/s to 60.0 m/s: not used until it stays there']


@pytest.mark.parametrize('empty', [False, True])
def test_a_jump_of_the_localisation_is_no_speed(empty):
    def make(ms):
        position, q = circle(ms, 8.0, 0.1)
        jump = np.array([1.5, 2.0, 0.0]) * (ms > START_MS + 1000) + np.array([-40.0, 0, 0]) * (ms > START_MS + 1500)
        turned = yaw(0.7 + 0.1 * (ms - START_MS) / 1e3 + (0.3 if ms > START_MS + 1000 else 0.0))
        moving = (0, 0, 0) if empty else (8.0, 0, 0)
        return message(ms, moving, (0, 0, 0.0 if empty else 0.1), position + jump, turned if not empty else q)

    _, states, said = drive(make, seconds=2)
    assert [state.speed for state in states] == pytest.approx([8.0] * len(states), abs=0.3 if empty else 0)
    assert about(said, 'contradicts') == []


def test_a_pose_that_is_renewed_seldom_does_not_contradict():
    def make(ms):
        position, q = circle(ms - (ms - START_MS) % 250, 8.0, 0.1)
        return message(ms, (8.0, 0, 0), (0, 0, 0.1), position, q)

    _, states, said = drive(make, seconds=4)
    assert {state.speed for state in states} == {8.0}
    assert said == []


def test_hard_braking_does_not_contradict():
    speed, distance = 20.0, 100.0

    def make(ms):
        nonlocal speed, distance
        speed = max(0.0, speed - (9.0 * 0.02 if ms > START_MS + 600 else 0.0))
        distance += speed * 0.02
        return message(ms, (speed, 0, 0), position=(distance, 3.0, 0.0))

    _, states, said = drive(make, seconds=4)
    assert None not in states
    assert (states[-1].speed, said) == (0.0, [])


def test_a_pose_that_freezes_after_it_moved_contradicts():
    def make(ms):
        position, q = circle(min(ms, START_MS + 1000), 8.0, 0.1)
        return message(ms, (8.0, 0, 0), (0, 0, 0.1), position, q)

    ego, states, said = drive(make, seconds=2)
    assert states[-1] is None
    assert '0.0 m/s forward by its pose but 8.0 m/s forward by its twist' in ego.fault
    assert len(about(said, 'contradicts')) == 1


@pytest.mark.parametrize('position', [(0, 0, 0), (5.0, -1.75, 0.0)])
def test_a_pose_that_never_moves_is_not_given(position):
    ego, states, said = drive(lambda ms: message(ms, (-3.0, 0, 0), (0, 0, 0.3), position))
    assert all(state.is_reversing and state.angular[2] == 0.3 for state in states)
    assert ego.fault == ''
    assert len(said) == 2 and all('having none' in note or 'never changes' in note for note in said)


def test_position_without_orientation_confirms_the_speed_only():
    def make(ms):
        position, _ = circle(ms, 8.0, 0.3)
        return message(ms, (8.0, 0, 0), (0, 0, 0.3), position)  # the orientation stays at its default

    _, states, said = drive(make, seconds=3)
    assert {state.speed for state in states if state} == {8.0} and states[-1] is not None
    assert len(about(said, 'orientation never changes')) == 1
    assert about(said, 'contradicts') == []


@pytest.mark.parametrize(
    ('linear', 'angular', 'said'),
    [
        ((130.0, 0, 0), (0, 0, 0), 'odometry says 130.0 m/s, more than the 100 that a road vehicle can do'),
        ((0, 0, -1e9), (0, 0, 0), 'more than the 100 that a road vehicle can do'),
        ((3.0, 0, 0), (0, 0, -17.0), 'odometry says 17.0 rad/s, more than the 4 that a road vehicle can do'),
    ],
)
def test_what_no_road_vehicle_does_is_refused(linear, angular, said):
    ego, states, notes = drive(lambda ms: message(ms, linear, angular))
    assert set(states) == {None}
    assert said in ego.fault
    assert len(about(notes, 'road vehicle')) == 1


@pytest.mark.parametrize('child', ['odom', 'map', 'world', 'car1/odom', '/map'])
def test_a_twist_in_a_frame_of_the_world_is_not_used(child):
    def to_base(frame):  # a tree may well lead there
        return np.eye(3), np.zeros(3)

    ego, states, said = drive(lambda ms: message(ms, (8, 0, 0), child=child), to_base=to_base)
    assert set(states) == {None}
    [sentence] = said
    assert 'a frame of the world: not used' in sentence and ego.fault == sentence
    assert ego.why_none(START_MS * MS) == []


def test_a_vehicle_frame_on_both_sides_leaves_the_twist():
    def make(ms):
        found = message(ms, (8, 0, 0), position=circle(ms, 30.0, 0.0)[0])
        found.header.frame_id = 'base_link'
        return found

    _, states, _ = drive(make)
    assert {state.speed for state in states} == {8.0}


def test_a_way_that_appears_later_is_taken():
    ways = {}
    ego = EgoTrack(200 * MS, to_base=ways.get)
    ego.add(message(1000, (8, 0, 0), child='imu'))
    assert ego.at(1000 * MS) is None and 'no static transform leads' in ego.fault
    ways['imu'] = np.diag([-1.0, -1.0, 1.0]), np.zeros(3)
    ego.add(message(1020, (8, 0, 0), child='imu'))
    assert ego.at(1020 * MS).is_reversing and ego.fault == ''


QUATERNION = st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: sum(v * v for v in q) > 0.01)
SHORT = st.tuples(*[st.floats(-5, 5)] * 3)


@settings(max_examples=60)
@given(QUATERNION, SHORT, SHORT, st.tuples(*[st.floats(-1.5, 1.5)] * 3))
def test_the_twist_of_a_rigid_body_is_the_vehicles_wherever_it_is_measured(mounting, place, velocity, rates):
    rotation, place = matrix_from_quaternion(mounting), np.array(place)
    velocity, rates = np.array(velocity), np.array(rates)
    at_sensor = velocity + np.cross(rates, place)  # what a point of the body does, in vehicle axes
    ego = EgoTrack(200 * MS, to_base={'sensor': (rotation, place)}.get)
    ego.add(message(1000, rotation.T @ at_sensor, rotation.T @ rates, child='sensor'))
    state = ego.at(1000 * MS)
    assert state.linear == pytest.approx(velocity, abs=1e-9)
    assert state.angular == pytest.approx(rates, abs=1e-9)
    assert state.speed == pytest.approx(math.hypot(velocity[0], velocity[1]), abs=1e-9)


@pytest.mark.parametrize('empty', [False, True])
@settings(max_examples=25)
@given(
    mounting=QUATERNION, place=SHORT, speed=st.floats(-10, 10).filter(lambda v: abs(v) > 1), rate=st.floats(-0.5, 0.5)
)
@example(mounting=(0.0, 0.0, 0.0, 1.0), place=(0.0, -3.0, 0.0), speed=2.0, rate=-0.5)  # the sensor creeps at 0.5 m/s
def test_pose_and_twist_of_any_sensor_agree(empty, mounting, place, speed, rate):
    rotation, place = matrix_from_quaternion(mounting), np.array(place)
    rate = rate if abs(rate) > 0.15 else 0.0
    at_sensor = np.array([speed, 0, 0]) + np.cross((0, 0, rate), place)

    def make(ms):
        position, q = circle(ms, speed, rate)
        turn = matrix_from_quaternion(q)
        sensor = np.array(mounting) / np.linalg.norm(mounting)
        (x, y, z, w), (a, b, c, d) = q, sensor
        q = w * a + x * d + y * c - z * b, w * b - x * c + y * d + z * a, w * c + x * b - y * a + z * d, 0.0
        q = (*q[:3], w * d - x * a - y * b - z * c)
        linear, angular = rotation.T @ at_sensor, rotation.T @ (0.0, 0.0, rate)
        if empty:
            linear = angular = (0, 0, 0)
        return message(ms, linear, angular, position + turn @ place, q, child='sensor')

    _, states, said = drive(make, seconds=0.8, to_base={'sensor': (rotation, place)}.get)
    assert about(said, 'contradicts') == []
    for state in states:
        assert state.linear == pytest.approx((speed, 0, 0), abs=0.15 if empty else 1e-6)
        assert state.angular == pytest.approx((0, 0, rate), abs=0.01 if empty else 1e-6)
    position, q = circle(START_MS + 500, speed, rate)
    assert states[0].position == pytest.approx(position, abs=1e-6)
    assert abs(np.dot(states[0].orientation, q)) == pytest.approx(1)


def test_the_vehicles_pose_beside_a_sensors_twist_is_understood():
    lidar = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # its y looks forward

    def make(ms):
        position, q = circle(ms, 8.0, 0.3)
        return message(ms, lidar.T @ (8.0, 0, 0), (0, 0, 0.3), position, q, child='lidar')

    _, states, said = drive(make, to_base={'lidar': (lidar, np.zeros(3))}.get)
    assert all(state.linear == pytest.approx((8.0, 0, 0)) for state in states)
    assert about(said, 'contradicts') == []
