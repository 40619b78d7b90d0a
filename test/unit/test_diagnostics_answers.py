"""Every failure mode of sets, hints and descriptions has a status of its own."""

from __future__ import annotations

import pytest

pytest.importorskip('rclpy')
from helpers.answers import make_answer
from helpers.healths import NOW, SETTINGS, all_values, answer, found, healthy, report, run

from stprune_ros.core.types import Choice, Status
from stprune_ros.ros import diagnostics
from stprune_ros.ros.diagnostics import ERROR, OK, WARN, reports
from stprune_ros.ros.health import Health
from stprune_ros.settings.settings import Settings


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


def test_the_span_of_the_newest_set_is_a_value():
    health = healthy()
    [before] = [report for report in reports(health, SETTINGS, NOW) if report.name == 'synchronisation']
    health.spread_ms = 79.25
    [after] = [report for report in reports(health, SETTINGS, NOW) if report.name == 'synchronisation']
    assert (before.values['spread_ms'], after.values['spread_ms']) == (diagnostics.NOT_AVAILABLE, '79.2')


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


def test_sets_that_a_newer_one_replaced_were_not_begun():
    health = healthy()
    run(health, 20, done=1, valid=1, skipped=9)
    run(health, 1)
    assert found(health)['inference'] == (OK, diagnostics.ALL_WELL)
