"""Every failure mode has a status of its own."""

from __future__ import annotations

import pytest

pytest.importorskip('rclpy')

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from builtin_interfaces.msg import Time
from helpers.answers import make_answer

from stprune_ros.core.types import Answer, CameraState, Choice, Status, ViewReport
from stprune_ros.ros import diagnostics
from stprune_ros.ros import health as counted
from stprune_ros.ros.diagnostics import ERROR, OK, WARN, Report, reports, to_array
from stprune_ros.ros.health import Health
from stprune_ros.ros.rates import Rates
from stprune_ros.settings.settings import Settings

SETTINGS = Settings.from_values({'cameras.stale_after_ms': 1000.0})
NOW = 100.0


def healthy() -> Health:
    """After twenty seconds at 10 Hz in which all was well."""
    health = Health({'front': NOW - 0.1, 'back': NOW - 0.2}, odometry=NOW - 0.05, answer=answer(), latency_s=0.4)
    health.listening_since, health.answered, health.model = NOW - 20.0, NOW - 0.1, answer().provenance
    health.described, health.description = NOW - 0.1, Status.OK
    run(health, 20)
    return health


def run(health: Health, seconds: int, back_hz: int = 10, **per_second: int) -> None:
    """More seconds of all counts."""
    usual = {'sets_full': 10, 'done': 10, 'valid': 10, 'used_back': back_hz, 'odometry_refused': 0, 'lost_back': 0}
    grow = {**usual, **per_second}
    health.lost = dict(health.lost or {'back': 0})
    health.counters, health.ticks, health.used = (Counter(one) for one in (health.counters, health.ticks, health.used))
    health.rates = health.rates if health.received else Rates()
    before = health.set_closed
    for _ in range(seconds):
        health.received.update(front=10, back=back_hz)
        health.used.update(front=10, back=grow['used_back'])
        health.lost['back'] += grow['lost_back']
        health.counters.update({what: grow[what] for what in grow if what.startswith(('sets', 'frames'))})
        health.ticks.update({fate: grow[fate] for fate in counted.FATES if fate in grow})
        health.hints[counted.VALID] += grow['valid']
        health.odometry_received += 50
        health.odometry_refused += grow['odometry_refused']
        health.sample(health.odometry_received / 50)
    # The rates count from 0, everything else ends NOW.
    if health.set_closed == before:
        health.set_closed = before and before - seconds
    elif health.set_closed is not None:
        health.set_closed += NOW - health.odometry_received / 50


def answer(status: Status = Status.OK, trained: bool = True, back: CameraState = CameraState.OK) -> Answer:
    views = (ViewReport('front', CameraState.OK, 1, 1, 100, 10), ViewReport('back', back))
    return make_answer(status, views=views, model_trained=trained, stage_ms={'encode': 12.0})


def found(health: Health) -> dict[str, tuple[bytes, str]]:
    return {report.name: (report.level, report.message) for report in reports(health, SETTINGS, NOW)}


def all_values(health: Health) -> dict[str, Mapping[str, str]]:
    return {report.name: report.values for report in reports(health, SETTINGS, NOW)}


def test_all_is_well():
    assert set(found(healthy()).values()) == {(OK, diagnostics.ALL_WELL)}


def test_before_the_first_answer_nothing_is_claimed():
    health = Health({'front': None}, waiting=("no camera_info for camera 'front' yet",), listening_since=NOW - 1.0)
    says = found(health)
    assert says['rig'] == (WARN, diagnostics.WAITING)
    assert says['camera front'] == (ERROR, diagnostics.NO_IMAGES)
    assert says['odometry'] == (WARN, diagnostics.NO_ODOMETRY)
    assert says['inference'] == (OK, diagnostics.NOTHING_YET)
    assert says['model'] == (OK, diagnostics.NOT_LOADED)
    assert says['synchronisation'] == (OK, diagnostics.NOTHING_YET)
    inference = next(report for report in reports(health, SETTINGS, NOW) if report.name == 'inference')
    assert inference.values['output_latency_s'] == diagnostics.NOT_AVAILABLE
    values = {name: values for name, values in all_values(health).items() if name in ('camera front', 'odometry')}
    assert values['camera front'] == {
        **dict.fromkeys(
            ('age_s', 'view_age_s', 'lost', 'received_hz', 'used_hz', 'lost_hz'), diagnostics.NOT_AVAILABLE
        ),
        **dict.fromkeys(('received', 'used', 'skipped'), '0'),
    }
    assert values['odometry'] == {'age_s': 'n/a', 'received': '0', 'refused': '0', 'received_hz': 'n/a'}


def test_a_node_that_does_not_listen_says_nothing_of_cameras_and_calibration():
    health = Health({'front': None}, state='inactive')
    says = found(health)
    for name in ('lifecycle', 'rig', 'camera front'):
        assert says[name] == (WARN, diagnostics.NOT_ACTIVE)


def test_another_node_of_the_same_name_is_a_warning():
    health = healthy()
    health.twin = True
    assert found(health)['lifecycle'] == (WARN, diagnostics.TWIN)


def test_a_clock_that_goes_back_again_and_again_is_a_warning():
    health = healthy()
    for jumps, expected in ((1, (OK, diagnostics.ALL_WELL)), (2, (WARN, diagnostics.JUMPING))):
        health.counters['clock_jumps'] = jumps
        health.sample(20.0 + jumps)
        assert found(health)['clock'] == expected


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


def test_model_and_counters_are_in_the_values():
    health = healthy()
    health.model = make_answer(model_id='tiny', model_revision='abc', prompt_id='driving-2').provenance
    health.counters = {'sets_full': 3}
    values = {report.name: report.values for report in reports(health, SETTINGS, NOW)}
    assert values['model'] == {'id': 'tiny', 'revision': 'abc', 'prompt': 'driving-2'}
    assert values['synchronisation'] == {
        'sets_full': '3',
        'sets_full_hz': '10.0',
        'sets_partial_hz': '0.0',
        'spread_ms': 'n/a',
    }
    health.model = make_answer(hint_calibration_id='c0ffee').provenance
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
    assert (report.values['age_s'], report.values['reason']) == ('0.050', 'odometry contradicts itself')
    health.odometry = NOW - 5.0
    assert found(health)['odometry'] == (WARN, diagnostics.NO_ODOMETRY)


def test_odometry_is_not_used_before_the_ring_is_known():
    health = healthy()
    health.waiting = ('no camera_info',)
    assert found(health)['odometry'] == (WARN, diagnostics.ODOMETRY_NOT_USED)
    assert report(health, 'odometry').values['reason'] == diagnostics.WAITING


def test_skipped_sets_warn_until_they_stop():
    health = healthy()
    run(health, 1, skipped=3)
    assert found(health)['inference'] == (WARN, diagnostics.SKIPPING)
    run(health, 1)
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
    health.model = answer(trained=False).provenance
    assert found(health)['model'] == (WARN, diagnostics.UNTRAINED)


LATENCY = Settings.from_values({'latency.target_ms': 60.0})


def latency(health: Health) -> diagnostics.Report:
    return next(report for report in reports(health, LATENCY, NOW) if report.name == 'latency')


def test_latency_target_out_of_reach_is_a_warning_with_both_numbers():
    health = healthy()
    health.answer = make_answer(wait_ms=30.0, hint_ms=40.0, keep_ratio=0.05, choice=Choice(0.05, 72.0, 60.0))
    assert (latency(health).level, latency(health).message) == (WARN, diagnostics.TOO_SLOW)
    assert latency(health).values == {
        'target_ms': '60',
        'expected_ms': '72.0',
        'source_to_hint_ms': '70.0',
        'keep_ratio': '0.05',
    }
    health.answer = make_answer(hint_ms=40.0, choice=Choice(0.1, 55.0, 60.0))
    assert (latency(health).level, latency(health).message) == (OK, diagnostics.ALL_WELL)


def test_a_latency_target_that_was_missed_is_a_warning_whatever_was_expected():
    health = healthy()
    health.answer = make_answer(wait_ms=30.0, hint_ms=30.1, choice=Choice(0.1, 55.0, 60.0))
    assert (latency(health).level, latency(health).message) == (WARN, diagnostics.TARGET_MISSED)
    assert latency(health).values['source_to_hint_ms'] == '60.1'
    health.answer = make_answer(Status.NO_HINT)  # nothing was inferred
    assert (latency(health).level, latency(health).message) == (WARN, diagnostics.TARGET_MISSED)
    assert latency(health).values['source_to_hint_ms'] == diagnostics.NOT_AVAILABLE
    health.answer = None
    assert (latency(health).level, latency(health).message) == (OK, diagnostics.NOTHING_YET)


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
    health.ticks = {'done': 5, 'failed': 4, 'dropped': 3, 'cancelled': 2, 'skipped': 1}
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


@pytest.mark.parametrize(('waited', 'level'), [(4.9, OK), (5.1, WARN)])
def test_no_answer_is_well_for_a_moment_only(waited, level):
    health = healthy()
    health.answer = health.answered = None
    health.listening_since = NOW - waited
    message = diagnostics.NOTHING_YET if level == OK else diagnostics.NO_ANSWER
    assert found(health)['inference'] == (level, message)
    health.listening_since = None  # nothing is expected
    assert found(health)['inference'] == (OK, diagnostics.NOTHING_YET)


def test_answers_that_stopped_are_a_warning_however_good_the_last_one_was():
    health = healthy()
    health.answered = NOW - 1.9  # two heartbeats of a second
    assert found(health)['inference'] == (OK, diagnostics.ALL_WELL)
    health.answered = NOW - 2.1
    assert found(health)['inference'] == (WARN, diagnostics.NO_ANSWER)
    health.gap_s = 0.8  # the usual time between two, as with slow cameras
    assert found(health)['inference'] == (OK, diagnostics.ALL_WELL)
    health.gap_s, health.answered = 60.0, NOW - 5.1  # the first answer after a pause makes no pause usual
    assert found(health)['inference'] == (WARN, diagnostics.NO_ANSWER)
    health.gap_s = 0.0
    health.answer = make_answer(stage_ms={'prefill': 3000.0})  # where each takes three seconds they may
    assert found(health)['inference'] == (OK, diagnostics.ALL_WELL)
    slow = Settings.from_values({'inference.period_ms': 3000.0})
    health.answer = answer()
    [inference] = [one for one in reports(health, slow, NOW) if one.name == 'inference']
    assert inference.level == OK


@pytest.mark.parametrize(
    ('waited_s', 'says'), [(4.9, (OK, diagnostics.NOTHING_YET)), (5.1, (WARN, diagnostics.NO_ANSWER))]
)
def test_the_first_answer_may_take_longer(waited_s, says):
    health = healthy()
    health.answer, health.answered, health.listening_since = None, None, NOW - waited_s
    assert found(health)['inference'] == says


def test_sets_that_stopped_are_a_warning_at_once():
    """Not only when they are out of the ten seconds over which rates are."""
    health = healthy()
    run(health, 4, sets_full=0)
    assert found(health)['synchronisation'] == (OK, diagnostics.ALL_WELL)
    run(health, 2, sets_full=0)
    assert found(health)['synchronisation'] == (WARN, diagnostics.NO_SETS)


@pytest.mark.parametrize('status', [Status.STALE, Status.INVALID])
def test_a_description_that_was_not_valid_is_a_warning_beside_a_good_hint(status):
    health = healthy()
    health.description = status
    assert found(health)['inference'] == (WARN, diagnostics.DESCRIPTION_NOT_VALID)
    silent = Settings.from_values({'inference.describe': False})
    [inference] = [one for one in reports(health, silent, NOW) if one.name == 'inference']
    assert inference.level == OK, 'nobody asks for one any more'


@pytest.mark.parametrize(
    ('values', 'age_s', 'message'),
    [
        ({}, 4.9, diagnostics.ALL_WELL),
        ({}, 5.1, diagnostics.NO_DESCRIPTION),
        ({'inference.describe_period_ms': 10000.0}, 29.9, diagnostics.ALL_WELL),  # that is their pace
        ({'inference.describe_period_ms': 10000.0}, 30.1, diagnostics.NO_DESCRIPTION),
        ({'inference.describe_period_ms': 1000.0}, 4.9, diagnostics.ALL_WELL),
        ({'inference.describe_period_ms': 1000.0}, 5.1, diagnostics.NO_DESCRIPTION),
        ({'inference.period_ms': 4000.0}, 11.9, diagnostics.ALL_WELL),
        ({'inference.describe': False}, 19.0, diagnostics.ALL_WELL),
    ],
)
def test_hints_without_a_description_are_not_well_for_longer_than_their_pace(values, age_s, message):
    health = healthy()
    health.listening_since, health.described = NOW - 60.0, NOW - age_s
    settings = Settings.from_values(values)
    [inference] = [one for one in reports(health, settings, NOW) if one.name == 'inference']
    assert (inference.level, inference.message) == (OK if message == diagnostics.ALL_WELL else WARN, message)
    health.described = None
    health.listening_since = NOW - age_s  # none yet, counted from the beginning
    [inference] = [one for one in reports(health, settings, NOW) if one.name == 'inference']
    assert inference.message == message


def test_a_description_may_be_as_late_after_every_beginning():
    health = healthy()
    health.described = NOW - 60.0  # before the node paused
    health.listening_since = NOW - 4.9
    assert found(health)['inference'] == (OK, diagnostics.ALL_WELL)
    health.listening_since = NOW - 5.1
    assert found(health)['inference'] == (WARN, diagnostics.NO_DESCRIPTION)
    health.description_failures = 1
    assert found(health)['inference'] == (WARN, diagnostics.DESCRIPTION_FAILED), 'why there is none'


def test_what_became_of_descriptions_is_counted():
    health = healthy()
    health.texts.update(begun=7, written=4, dropped=2)
    values = all_values(health)['inference']
    assert {key: values[key] for key in values if key.startswith('texts_')} == {
        'texts_begun': '7',
        'texts_written': '4',
        'texts_dropped': '2',
        'texts_failed': '0',
    }
    assert values['description'] == 'OK'
    assert all_values(Health({}))['inference']['description'] == 'n/a'


@pytest.mark.parametrize('fate', ['failed', 'cancelled', 'dropped'])
def test_few_answered_sets_are_a_warning_even_if_the_last_one_was(fate):
    health = healthy()
    run(health, 20, **{'done': 1, 'valid': 1, fate: 9})
    assert found(health)['inference'] == (WARN, diagnostics.FEW_ANSWERS)
    run(health, 20)
    assert found(health)['inference'] == (OK, diagnostics.ALL_WELL)


def test_hints_that_were_published_are_counted_by_whether_they_were_valid():
    health = Health({})
    for status in (Status.OK, Status.DEGRADED, Status.STALE, Status.NO_HINT, Status.OK):
        health.published(answer(status))
    values = report(health, 'inference').values
    assert (values['valid'], values['not_valid']) == ('3', '2')
    assert health.answer is not None and health.answered is not None


@pytest.mark.parametrize(
    ('grow', 'level', 'message'),
    [
        ({}, OK, diagnostics.ALL_WELL),
        ({'sets_full': 6, 'sets_partial': 4}, OK, diagnostics.ALL_WELL),
        ({'sets_full': 4, 'sets_partial': 6}, WARN, diagnostics.NOT_FULL),
        ({'sets_full': 0, 'sets_partial': 1}, WARN, diagnostics.NOT_FULL),
        ({'sets_full': 0}, WARN, diagnostics.NO_SETS),
        ({'sets_full': 0, 'sets_skipped': 1}, WARN, diagnostics.FEW_VIEWS),
        ({'frames_crowded': 1}, WARN, diagnostics.CROWDED),
    ],
)
def test_synchronisation_is_well_only_while_most_sets_are_full(grow, level, message):
    health = healthy()
    run(health, 20, **grow)
    assert found(health)['synchronisation'] == (level, message)


def test_no_sets_are_well_at_first_and_while_nothing_is_expected():
    health = healthy()
    run(health, 20, sets_full=0)
    for begun in (NOW - 5.0, None):
        health.listening_since = begun
        assert found(health)['synchronisation'] == (OK, diagnostics.NOTHING_YET)


def test_odometry_of_which_most_is_refused_is_not_ok_even_if_the_newest_is_good():
    health = healthy()
    run(health, 20, odometry_refused=24)
    assert found(health)['odometry'] == (OK, diagnostics.ALL_WELL)
    run(health, 20, odometry_refused=26)
    assert found(health)['odometry'] == (WARN, diagnostics.ODOMETRY_NOT_USED)
    assert report(health, 'odometry').values['received_hz'] == '50.0'


def test_what_was_refused_to_a_managed_node_is_shown():
    health = healthy()
    health.transition_refused = "transition 'activate' is not possible"
    assert report(health, 'lifecycle').values['refused'] == "transition 'activate' is not possible"
    assert report(health, 'lifecycle').level == OK


def test_all_faults_of_the_inputs_are_said():
    health = healthy()
    health.waiting, health.unheard, health.timing = ('a',), {('image', 'back'): 'b'}, {'back': 'c2'}
    health.untold = {('image', 'back'): 'c1'}
    health.unusable, health.outdated, health.odometry_fault = ('d',), 'e', 'f'
    health.cameras['back'] = NOW - 5
    assert health.faults(SETTINGS, NOW) == ['a', 'b', 'c1', 'c2', *'def', "camera 'back' is silent for 5 s"]


def test_values_are_stripped_of_what_controls_a_terminal_and_bounded():
    forged = Report('rig', WARN, 'x', {'0': 'a\n[ERROR] [brake.node]\x1b[31m\u202e', '1': 'b' * 10**6})
    [status] = to_array('node', [forged], Time()).status
    values = [pair.value for pair in status.values]
    assert values[0] == 'a?[ERROR] [brake.node]?[31m?' and len(values[1]) == 1000


def test_names_and_messages_are_constants_without_doubles():
    source = Path(diagnostics.__file__).read_text(encoding='utf-8')
    words = {name: value for name, value in vars(diagnostics).items() if name.isupper() and isinstance(value, str)}
    assert len(words) > 40 and len(set(words.values())) == len(words)
    for name, word in words.items():
        assert source.count(f"'{word}'") <= 1, name
    statuses = {one.name for one in reports(healthy(), SETTINGS, NOW)}
    assert statuses <= {*words.values(), *map(diagnostics.camera_status, ('front', 'back'))}


def test_sets_that_a_newer_one_replaced_were_not_begun():
    health = healthy()
    run(health, 20, done=1, valid=1, skipped=9)
    run(health, 1)
    assert found(health)['inference'] == (OK, diagnostics.ALL_WELL)


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
