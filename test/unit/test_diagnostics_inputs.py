"""Every failure mode of cameras and odometry has a status of its own."""

from __future__ import annotations

import pytest

pytest.importorskip('rclpy')
from collections import Counter
from dataclasses import replace

from helpers.healths import NOW, SETTINGS, all_values, answer, found, healthy, report, run

from stprune_ros.core.types import CameraState, Status, ViewReport
from stprune_ros.ros import diagnostics
from stprune_ros.ros.diagnostics import ERROR, OK, WARN, reports
from stprune_ros.settings.settings import Settings


def test_stale_camera_is_an_error_of_that_camera_only():
    health = healthy()
    health.cameras['back'] = NOW - 1.5
    says = found(health)
    assert says['camera back'] == (ERROR, diagnostics.CAMERA_STALE)
    assert says['camera front'] == (OK, diagnostics.ALL_WELL)
    assert health.silent_cameras(SETTINGS, NOW) == ["camera 'back' is silent for 2 s"]


def test_broken_images_are_an_error_of_that_camera():
    health = healthy()
    health.answer = answer(Status.DEGRADED, back=CameraState.INVALID)
    assert found(health)['camera back'] == (ERROR, diagnostics.CAMERA_INVALID)


def test_a_camera_of_several_publishers_is_an_error_even_without_an_answer():
    health = healthy()
    health.mixed, health.answer = frozenset({'back'}), None
    assert found(health)['camera back'] == (ERROR, diagnostics.CAMERA_MIXED)
    assert found(health)['camera front'] == (OK, diagnostics.ALL_WELL)


def test_publishers_that_nothing_tells_apart_are_a_warning_of_their_topic():
    health = healthy()
    health.untold = {('image', 'back'): 'A', ('odometry', ''): 'B'}
    says = {report.name: (report.level, report.message, report.values) for report in reports(health, SETTINGS, NOW)}
    for name, sentence in (('camera back', 'A'), ('odometry', 'B')):
        level, message, values = says[name]
        assert (level, message, values['publishers']) == (WARN, diagnostics.UNTOLD, sentence)
    assert says['camera front'][:2] == (OK, diagnostics.ALL_WELL) and 'publishers' not in says['camera front'][2]


def test_what_is_known_to_be_wrong_is_said_before_publishers_that_nothing_tells_apart():
    health = healthy()
    health.untold = {('image', 'back'): 'A', ('odometry', ''): 'B'}
    health.timing, health.odometry_fault = {'back': 'stamps go back'}, 'it is of another time'
    assert found(health)['camera back'] == (WARN, diagnostics.CAMERA_TIMING)
    assert found(health)['odometry'] == (WARN, diagnostics.ODOMETRY_NOT_USED)


def test_a_wrong_camera_info_is_a_warning_of_that_camera_only():
    health = healthy()
    health.answer = answer(Status.DEGRADED, back=CameraState.MISCALIBRATED)
    assert found(health)['camera back'] == (WARN, diagnostics.CAMERA_MISCALIBRATED)
    assert found(health)['camera front'] == (OK, diagnostics.ALL_WELL)


def test_the_stale_limit_is_that_of_the_settings():
    health, patient = healthy(), Settings.from_values({'cameras.stale_after_ms': 3000.0})
    health.cameras['back'] = NOW - 2.0
    back = next(report for report in reports(health, patient, NOW) if report.name == 'camera back')
    assert (back.level, back.values['age_s']) == (OK, '2.000')
    assert health.silent_cameras(patient, NOW) == []


def test_a_camera_that_never_sent_an_image_is_named():
    health = healthy()
    health.cameras['back'] = None
    assert health.silent_cameras(SETTINGS, NOW) == ["camera 'back' has sent no image yet"]
    health.listening_since = NOW - 0.9  # within the stale limit it may be slow to start
    assert health.silent_cameras(SETTINGS, NOW) == []
    health.listening_since = None
    assert health.silent_cameras(SETTINGS, NOW) == []


@pytest.mark.parametrize('seen', [None, NOW - 5.0])
def test_missing_odometry_is_a_warning(seen):
    health = healthy()
    health.odometry = seen
    assert found(health)['odometry'] == (WARN, diagnostics.NO_ODOMETRY)


def test_odometry_that_comes_but_is_not_used_is_not_ok():
    health = healthy()
    health.odometry_fault = 'odometry contradicts itself'
    assert found(health)['odometry'] == (WARN, diagnostics.ODOMETRY_NOT_USED)
    [report] = [report for report in reports(health, SETTINGS, NOW) if report.name == 'odometry']
    assert (report.values['age_s'], report.values['reason']) == ('0.050', 'odometry contradicts itself')
    health.odometry = NOW - 5.0
    assert found(health)['odometry'] == (WARN, diagnostics.NO_ODOMETRY)


def test_odometry_is_not_used_before_the_ring_is_known():
    health = healthy()
    health.waiting = ('no camera_info',)
    assert found(health)['odometry'] == (WARN, diagnostics.ODOMETRY_NOT_USED)
    assert report(health, 'odometry').values['reason'] == diagnostics.WAITING


def test_wrong_stamps_warn_and_say_what_is_wrong_as_long_as_they_last():
    health = healthy()
    health.timing = {'back': 'its stamps repeat'}
    assert found(health)['camera back'] == (WARN, diagnostics.CAMERA_TIMING)
    assert found(health)['camera front'] == (OK, diagnostics.ALL_WELL)
    [back] = [report for report in reports(health, SETTINGS, NOW) if report.name == 'camera back']
    assert back.values['timing'] == 'its stamps repeat'
    health.timing = {}
    assert found(health)['camera back'] == (OK, diagnostics.ALL_WELL)


def test_topics_that_nobody_publishes_stand_beside_what_is_missing():
    health = healthy()
    health.cameras['back'], health.odometry, health.waiting = None, None, ('no camera_info',)
    health.unheard = {('image', 'back'): 'A', ('odometry', ''): 'B', ('camera_info', 'back'): 'C'}
    values = {report.name: report.values for report in reports(health, SETTINGS, NOW)}
    assert (values['camera back']['topic'], values['odometry']['topic']) == ('A', 'B')
    assert list(values['rig'].values()) == ['no camera_info', 'C']
    assert 'topic' not in values['camera front']


def test_images_ahead_of_the_clock_are_a_warning_beyond_the_limit():
    health = healthy()
    health.latency_s = -0.099
    assert found(health)['clock'] == (OK, diagnostics.ALL_WELL)
    health.latency_s = -0.101
    assert found(health)['clock'] == (WARN, diagnostics.AHEAD)
    assert report(health, 'clock').values == {'ahead_s': '0.101'}


def test_what_came_was_used_skipped_and_lost_is_in_the_values_of_a_camera():
    health = healthy()
    run(health, 20, back_hz=8, used_back=6, lost_back=2)
    values = report(health, 'camera back').values
    assert {key: values[key] for key in ('received', 'used', 'skipped', 'lost')} == {
        'received': '360',
        'used': '320',
        'skipped': '40',
        'lost': '40',
    }
    assert (values['received_hz'], values['used_hz'], values['lost_hz']) == ('8.0', '6.0', '2.0')
    health.lost = None  # a middleware that does not tell
    values = report(health, 'camera back').values
    assert values['lost'] == values['lost_hz'] == diagnostics.NOT_AVAILABLE


def test_a_camera_whose_images_come_but_are_never_used_is_a_warning():
    health = healthy()
    run(health, 20, used_back=0)
    assert found(health)['camera back'] == (WARN, diagnostics.CAMERA_UNUSED)
    assert found(health)['camera front'] == (OK, diagnostics.ALL_WELL)
    run(health, 1, used_back=1)
    assert found(health)['camera back'] == (OK, diagnostics.ALL_WELL)


@pytest.mark.parametrize(('back_hz', 'lost', 'expected'), [(1, 0, '10.0'), (1, 9, '10.0'), (3, 20, '23.0')])
def test_a_camera_that_sends_far_less_than_others_or_before_is_a_warning(back_hz, lost, expected):
    health = healthy()
    run(health, 20, back_hz=back_hz, lost_back=lost)
    back = report(health, 'camera back')
    assert (back.level, back.message) == (WARN, diagnostics.CAMERA_SLOW)
    assert (back.values['expected_hz'], back.values['received_hz']) == (expected, f'{back_hz}.0')


def test_a_ring_that_sends_far_less_than_before_is_a_warning_of_each_camera():
    health = healthy()
    for second in range(20):
        health.received.update(front=1, back=1)
        health.used.update(front=1, back=1)  # type: ignore[attr-defined]
        health.sample(100.0 + second)
    cameras = [one for one in reports(health, SETTINGS, NOW) if one.name.startswith('camera')]
    assert {(one.level, one.message) for one in cameras} == {(WARN, diagnostics.CAMERA_SLOW)}
    assert {one.values['expected_hz'] for one in cameras} == {'10.0'}


@pytest.mark.parametrize('back_hz', [4, 10, 30])
def test_rates_that_differ_by_less_than_that_are_well(back_hz):
    health = healthy()
    run(health, 20, back_hz=back_hz)
    assert found(health)['camera back'] == (OK, diagnostics.ALL_WELL)
    if back_hz < 30:
        assert found(health)['camera front'] == (OK, diagnostics.ALL_WELL)


def test_odometry_of_which_most_is_refused_is_not_ok_even_if_the_newest_is_good():
    health = healthy()
    run(health, 20, odometry_refused=24)
    assert found(health)['odometry'] == (OK, diagnostics.ALL_WELL)
    run(health, 20, odometry_refused=26)
    assert found(health)['odometry'] == (WARN, diagnostics.ODOMETRY_NOT_USED)
    assert report(health, 'odometry').values['received_hz'] == '50.0'


def test_all_faults_of_the_inputs_are_said():
    health = healthy()
    health.waiting, health.unheard, health.timing = ('a',), {('image', 'back'): 'b'}, {'back': 'c2'}
    health.untold = {('image', 'back'): 'c1'}
    health.unusable, health.outdated, health.odometry_fault = ('d',), 'e', 'f'
    health.cameras['back'] = NOW - 5
    assert health.faults(SETTINGS, NOW) == ['a', 'b', 'c1', 'c2', *'def', "camera 'back' is silent for 5 s"]


@pytest.mark.parametrize(('seconds', 'level'), [(10, OK), (11, WARN)])
def test_rates_are_compared_over_a_whole_window_only(seconds, level):
    health = healthy()
    health.received, health.odometry_received = Counter(), 0
    run(health, seconds, back_hz=1)
    assert found(health)['camera back'][0] == level


def test_the_age_of_a_view_is_that_of_what_the_last_answer_shows():
    health = healthy()
    views = (
        ViewReport('front', CameraState.OK, health.answer.stamp_ns - 250_000_000, 1, 100, 10),
        ViewReport('back', CameraState.STALE),
    )
    health.answer = replace(health.answer, views=views)
    values = all_values(health)
    assert values['camera front']['view_age_s'] == '0.250'
    assert values['camera back']['view_age_s'] == diagnostics.NOT_AVAILABLE
    assert found(health)['camera front'] == (OK, diagnostics.ALL_WELL)
