"""Every failure mode has a status of its own."""

from __future__ import annotations

import pytest

pytest.importorskip('rclpy')

from builtin_interfaces.msg import Time
from helpers.answers import make_answer

from stprune_ros.core.types import Answer, CameraState, Choice, Status, ViewReport
from stprune_ros.ros import diagnostics
from stprune_ros.ros.diagnostics import ERROR, OK, WARN, Health, reports, to_array
from stprune_ros.settings.settings import Settings

SETTINGS = Settings.from_values({'cameras.stale_after_ms': 1000.0})
NOW = 100.0


def healthy() -> Health:
    return Health({'front': NOW - 0.1, 'back': NOW - 0.2}, odometry=NOW - 0.05, answer=answer(), latency_s=0.4)


def answer(status: Status = Status.OK, trained: bool = True, back: CameraState = CameraState.OK) -> Answer:
    views = (ViewReport('front', CameraState.OK, 1, 1, 100, 10), ViewReport('back', back))
    return make_answer(status, views=views, model_trained=trained, stage_ms={'encode': 12.0})


def found(health: Health) -> dict[str, tuple[bytes, str]]:
    return {report.name: (report.level, report.message) for report in reports(health, SETTINGS, NOW)}


def test_all_is_well():
    assert set(found(healthy()).values()) == {(OK, diagnostics.ALL_WELL)}


def test_before_the_first_answer_nothing_is_claimed():
    health = Health({'front': None}, waiting=("no camera_info for camera 'front' yet",))
    says = found(health)
    assert says['rig'] == (WARN, diagnostics.WAITING)
    assert says['camera front'] == (ERROR, diagnostics.NO_IMAGES)
    assert says['odometry'] == (WARN, diagnostics.NO_ODOMETRY)
    assert says['inference'] == (OK, diagnostics.NOTHING_YET)
    inference = next(report for report in reports(health, SETTINGS, NOW) if report.name == 'inference')
    assert inference.values['output_latency_s'] == diagnostics.NOT_AVAILABLE


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


def test_a_wrong_camera_info_is_a_warning_of_that_camera_only():
    health = healthy()
    health.answer = answer(Status.DEGRADED, back=CameraState.MISCALIBRATED)
    assert found(health)['camera back'] == (WARN, diagnostics.CAMERA_MISCALIBRATED)
    assert found(health)['camera front'] == (OK, diagnostics.ALL_WELL)


def test_the_stale_limit_is_that_of_the_settings():
    health, patient = healthy(), Settings.from_values({'cameras.stale_after_ms': 3000.0})
    health.cameras['back'] = NOW - 2.0
    back = next(report for report in reports(health, patient, NOW) if report.name == 'camera back')
    assert (back.level, back.values) == (OK, {'age_s': '2.000'})
    assert health.silent_cameras(patient, NOW) == []


def test_a_camera_that_never_sent_an_image_is_named():
    health = healthy()
    health.cameras['back'] = None
    assert health.silent_cameras(SETTINGS, NOW) == ["camera 'back' has sent no image yet"]


def test_model_and_counters_are_in_the_values():
    health = healthy()
    health.answer = make_answer(model_id='tiny', model_revision='abc', prompt_id='driving-2')
    health.counters = {'sets_full': 3}
    values = {report.name: report.values for report in reports(health, SETTINGS, NOW)}
    assert values['model'] == {'id': 'tiny', 'revision': 'abc', 'prompt': 'driving-2'}
    assert values['synchronisation'] == {'sets_full': '3', 'spread_ms': 'n/a'}
    health.answer = make_answer(hint_calibration_id='c0ffee')
    values = {report.name: report.values for report in reports(health, SETTINGS, NOW)}
    assert values['model']['hint_calibration'] == 'c0ffee'


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
    assert report.values == {'age_s': '0.050', 'reason': 'odometry contradicts itself'}
    health.odometry = NOW - 5.0
    assert found(health)['odometry'] == (WARN, diagnostics.NO_ODOMETRY)


def test_skipped_sets_warn_until_they_stop():
    health = healthy()
    health.skipped = 3
    assert found(health)['inference'] == (WARN, diagnostics.SKIPPING)
    assert found(health)['inference'] == (OK, diagnostics.ALL_WELL)


@pytest.mark.parametrize('status', [Status.TIMEOUT, Status.INVALID, Status.NO_HINT])
def test_answer_that_is_no_hint_is_a_warning(status):
    health = healthy()
    health.answer = answer(status)
    assert found(health)['inference'] == (WARN, diagnostics.NOT_VALID)


def test_failure_outranks_the_last_good_answer():
    health = healthy()
    health.failures = 1
    assert found(health)['inference'] == (ERROR, diagnostics.FAILED)


def test_random_weights_are_a_warning():
    health = healthy()
    health.answer = answer(trained=False)
    assert found(health)['model'] == (WARN, diagnostics.UNTRAINED)


def test_latency_target_out_of_reach_is_a_warning_with_both_numbers():
    health = healthy()
    health.answer = make_answer(wait_ms=30.0, hint_ms=40.0, keep_ratio=0.05, choice=Choice(0.05, 72.0, 60.0))
    [latency] = [report for report in reports(health, SETTINGS, NOW) if report.name == 'latency']
    assert (latency.level, latency.message) == (WARN, diagnostics.TOO_SLOW)
    assert latency.values == {
        'target_ms': '60',
        'expected_ms': '72.0',
        'source_to_hint_ms': '70.0',
        'keep_ratio': '0.05',
    }
    health.answer = make_answer(hint_ms=40.0, choice=Choice(0.1, 55.0, 60.0))
    assert found(health)['latency'] == (OK, diagnostics.ALL_WELL)


def test_times_up_to_the_hint_and_of_the_tick_are_told_apart():
    health = healthy()
    health.answer = make_answer(hint_ms=8.0, stage_ms={'encode': 12.0})
    values = next(report for report in reports(health, SETTINGS, NOW) if report.name == 'inference').values
    assert (values['up_to_hint_ms'], values['tick_ms']) == ('8.0', '12.0')
    health.answer = answer()
    values = next(report for report in reports(health, SETTINGS, NOW) if report.name == 'inference').values
    assert values['up_to_hint_ms'] == diagnostics.NOT_AVAILABLE


def test_message_holds_every_status():
    message = to_array('/car/stprune_node', reports(healthy(), SETTINGS, NOW), Time(sec=5))
    assert message.header.stamp.sec == 5
    assert {status.name for status in message.status} >= {'/car/stprune_node: camera back', '/car/stprune_node: rig'}
    inference = next(status for status in message.status if status.name.endswith('inference'))
    assert {pair.key: pair.value for pair in inference.values}['encode_ms'] == '12.0'


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


def test_the_span_of_the_newest_set_is_a_value():
    health = healthy()
    [before] = [report for report in reports(health, SETTINGS, NOW) if report.name == 'synchronisation']
    health.spread_ms = 79.25
    [after] = [report for report in reports(health, SETTINGS, NOW) if report.name == 'synchronisation']
    assert (before.values['spread_ms'], after.values['spread_ms']) == (diagnostics.NOT_AVAILABLE, '79.2')


def report(health: Health, name: str) -> diagnostics.Report:
    return next(one for one in reports(health, SETTINGS, NOW) if one.name == name)


@pytest.mark.parametrize('state', ['unconfigured', 'inactive', 'finalized'])
def test_a_node_that_nobody_activated_is_not_ok(state):
    health = healthy()
    health.state = state
    assert found(health)['lifecycle'] == (WARN, diagnostics.NOT_ACTIVE)
    assert report(health, 'lifecycle').values == {'state': state}


def test_a_transition_that_failed_is_an_error_with_its_reason():
    health = healthy()
    health.transition_fault = 'configure: no model'
    assert found(health)['lifecycle'] == (ERROR, diagnostics.TRANSITION_FAILED)
    assert report(health, 'lifecycle').values == {'state': 'active', 'reason': 'configure: no model'}


def test_loading_and_its_failure_are_states_of_the_model():
    health = Health({})
    health.loading_s = 3.21
    assert found(health)['model'] == (WARN, diagnostics.LOADING)
    assert report(health, 'model').values == {'loading_s': '3.2'}
    health.loading_s, health.loading_fault = None, 'no weights'
    assert found(health)['model'] == (ERROR, diagnostics.LOADING_FAILED)
    assert report(health, 'model').values == {'reason': 'no weights'}


def test_a_hang_outranks_failures_and_the_last_good_answer():
    health = healthy()
    health.hang_s, health.failures = 12.34, 2
    assert found(health)['inference'] == (ERROR, diagnostics.HANGS)
    assert report(health, 'inference').values['hang_s'] == '12.3'


def test_a_description_that_failed_is_a_warning_beside_a_good_hint():
    health = healthy()
    health.description_failures = 1
    assert found(health)['inference'] == (WARN, diagnostics.DESCRIPTION_FAILED)


def test_what_became_of_the_frame_sets_is_in_the_values():
    health = healthy()
    health.ticks, health.skipped = {'done': 5, 'failed': 4, 'dropped': 3, 'cancelled': 2, 'skipped': 1}, 1
    values = report(health, 'inference').values
    assert [values[key] for key in ('done', 'failed', 'dropped', 'cancelled', 'skipped')] == ['5', '4', '3', '2', '1']


def test_a_clock_that_tells_no_age_is_a_warning():
    health = healthy()
    health.clock_fault = 'ROS time stands still'
    assert found(health)['clock'] == (WARN, diagnostics.NO_TIME)
    assert report(health, 'clock').values == {'reason': 'ROS time stands still'}


def test_images_ahead_of_the_clock_are_a_warning_beyond_the_limit():
    health = healthy()
    health.latency_s = -0.099
    assert found(health)['clock'] == (OK, diagnostics.ALL_WELL)
    health.latency_s = -0.101
    assert found(health)['clock'] == (WARN, diagnostics.AHEAD)
    assert report(health, 'clock').values == {'ahead_s': '0.101'}
