"""Where odometry tells little: the first samples of a slow source, and signs at low speed."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.odometry_drives import MS, START_MS, about, circle, drive, message, yaw

from stprune_ros.core.ego import EgoTrack


def asked_at_once(make, seconds=4, hz=1):
    """States at each message of ``make``, asked for before the next one comes."""
    ego, states = EgoTrack(200 * MS), []
    for ms in np.arange(START_MS, START_MS + 1e3 * seconds, 1e3 / hz):
        ego.add(make(ms))
        states.append(ego.at(round(ms * MS)))
    return states


@pytest.mark.parametrize('pause_ms', [0, 4000])
def test_an_empty_twist_does_not_stand_before_there_is_a_second_pose(pause_ms):
    def make(ms):
        ms += pause_ms * (ms > START_MS + 1500)
        position, q = circle(ms, 5.0, 0.0)
        return message(ms, position=position, q=q)

    ego = EgoTrack(200 * MS)
    speeds = []
    for ms in range(START_MS, START_MS + 4000, 1000):
        ego.add(make(ms))
        stamp_ns = (ms + pause_ms * (ms > START_MS + 1500)) * MS
        state = ego.at(stamp_ns)
        speeds.append(state and round(state.speed, 3))
        assert (state is None) == ('no second pose yet' in ego.reason(stamp_ns))
    assert speeds == [None, 5.0, None if pause_ms else 5.0, 5.0]
    assert ego.fault == ''


@pytest.mark.parametrize(('hz', 'unknown'), [(50, 5), (10, 1), (1, 1)])
def test_a_car_that_stands_is_known_to_as_soon_as_its_pose_has_stayed(hz, unknown):
    states = asked_at_once(lambda ms: message(ms, position=(4.0, 2.0, 0.0)), hz=hz)
    assert [state and state.speed for state in states[unknown:]] == [0.0] * (len(states) - unknown)


def test_without_a_pose_a_zero_twist_stands_from_the_first_sample():
    states = asked_at_once(lambda ms: message(ms))
    assert [state.speed for state in states] == [0.0] * 4


def test_a_twist_that_was_filled_before_is_believed_when_it_is_zero_after_a_pause():
    def make(ms):
        position, q = circle(min(ms, START_MS + 1000), 5.0, 0.0)
        return message(ms, (5.0 * (ms < START_MS + 1000), 0, 0), position=position, q=q)

    ego = EgoTrack(200 * MS)
    for ms in (*range(START_MS, START_MS + 1100, 20), START_MS + 5000):
        ego.add(make(ms))
    assert ego.at((START_MS + 5000) * MS).speed == 0.0


SIGNS = [(0.5, -0.5), (-0.5, 0.5), (0.32, -0.4), (0.5, -0.3), (-0.9, 0.38)]


@pytest.mark.parametrize(('rate', 'hz'), [(0.0, 50), (0.0, 10), (0.1, 50), (0.0, 200), (0.1, 10)])
@pytest.mark.parametrize(('by_twist', 'by_pose'), SIGNS)
def test_a_sign_is_judged_apart_from_the_size(by_twist, by_pose, rate, hz):
    def make(ms):
        position, q = circle(ms, by_pose, rate)
        return message(ms, (by_twist, 0, 0), (0, 0, rate), position, q)

    _, states, said = drive(make, hz=hz)
    assert set(states) == {None}
    [sentence] = about(said, 'contradicts itself')
    for speed, witness in ((by_pose, 'pose'), (by_twist, 'twist')):
        assert f'{abs(speed):.1f} m/s {"backward" if speed < 0 else "forward"} by its {witness}' in sentence


@pytest.mark.parametrize('noise_m', [0.0, 0.003, 0.01, 0.02, 0.04])
@pytest.mark.parametrize('speed', [0.3, -0.4, 0.5, -1.0])
@pytest.mark.parametrize('hz', [10, 50])
def test_noise_of_the_pose_is_no_sign(speed, noise_m, hz):
    noise = np.random.default_rng(3)

    def make(ms):
        position, q = circle(ms, speed, 0.1)
        return message(ms, (speed, 0, 0), (0, 0, 0.1), position + noise.normal(0, noise_m, 3), q)

    _, _, said = drive(make, seconds=10, hz=hz)
    assert [note for note in about(said, 'contradicts') if ('forward' in note) and ('backward' in note)] == []


@pytest.mark.parametrize('jump_m', [-0.15, -0.25, -0.6])
def test_a_correction_while_creeping_is_no_sign(jump_m):
    def make(ms):
        position, q = circle(ms, 0.4, 0.0)
        ahead = circle(START_MS + 1000, jump_m, 0.0)[0] - np.array(circle(START_MS, 0.0, 0.0)[0])
        return message(ms, (0.4, 0, 0), position=position + ahead * (ms > START_MS + 1000), q=q)

    _, states, said = drive(make, seconds=2)
    assert None not in states and about(said, 'contradicts') == []


@pytest.mark.parametrize('hz', [5, 10, 50])
@pytest.mark.parametrize('late_ms', [0, 100])
def test_changing_between_forward_and_backward_is_no_contradiction(late_ms, hz):
    def make(ms):
        t = (ms - START_MS - late_ms) / 1e3
        position = 4.0 + 0.6 / 2.0 * np.sin(2.0 * t)  # a lot at a time: up to 1.2 m/s2
        speed = 0.6 * np.cos(2.0 * (t + late_ms / 1e3))
        return message(ms, (speed, 0, 0), position=(position, 3.0, 0.0), q=yaw(0.0))

    _, states, said = drive(make, seconds=8, hz=hz)
    assert None not in states and about(said, 'contradicts') == []
