"""Every failure mode has a status of its own: those of the node, of its model and of its clock."""

from __future__ import annotations

import pytest

pytest.importorskip('rclpy')
from pathlib import Path

from builtin_interfaces.msg import Time
from helpers.answers import make_answer
from helpers.healths import NOW, SETTINGS, all_values, found, healthy, report

from stprune_ros.ros import diagnostics
from stprune_ros.ros.diagnostics import ERROR, OK, WARN, Report, reports, to_array
from stprune_ros.ros.health import Health


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


def test_message_holds_every_status():
    message = to_array('/car/stprune_node', reports(healthy(), SETTINGS, NOW), Time(sec=5))
    assert message.header.stamp.sec == 5
    assert {status.name for status in message.status} >= {'/car/stprune_node: camera back', '/car/stprune_node: rig'}
    inference = next(status for status in message.status if status.name.endswith('inference'))
    assert {pair.key: pair.value for pair in inference.values}['encode_ms'] == '12.0'


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


def test_a_clock_that_tells_no_age_is_a_warning():
    health = healthy()
    health.clock_fault = 'ROS time stands still'
    assert found(health)['clock'] == (WARN, diagnostics.NO_TIME)
    assert report(health, 'clock').values == {'reason': 'ROS time stands still'}


def test_what_was_refused_to_a_managed_node_is_shown():
    health = healthy()
    health.transition_refused = "transition 'activate' is not possible"
    assert report(health, 'lifecycle').values['refused'] == "transition 'activate' is not possible"
    assert report(health, 'lifecycle').level == OK


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
