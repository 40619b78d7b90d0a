"""Answers to messages: the same for rclpy's classes and a typestore's, and nothing read into an answer that is none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.answers import make_answer
from rosbags.interfaces import Nodetype

from stprune_ros.core.types import Answer, Behavior, CameraState, ConfidenceSource, Status, ViewReport
from stprune_ros.io.bag_reader import message_store
from stprune_ros.io.messages import (
    MessageTypes,
    expired,
    is_fresh,
    planning_hint,
    ros_types,
    scene_description,
    store_types,
)
from stprune_ros.settings.settings import Settings

STAMP = 1_700_000_000_123_456_789
SETTINGS = Settings.from_values({'output.valid_for_ms': 1500.0, 'output.max_ahead_ms': 100.0})
NOTHING = (Status.UNKNOWN, Status.NO_HINT, Status.STALE, Status.TIMEOUT, Status.INVALID, Status.ERROR)


def answer(status: Status = Status.OK, description_status: Status = Status.OK, **changes: Any) -> Answer:
    views = (
        ViewReport('front', CameraState.OK, STAMP, 4, 1200, 120, np.ones((4, 15, 20), bool)),
        ViewReport('back', CameraState.MISSING),
    )
    values = {
        'sequence': 7,
        'stamp_ns': STAMP,
        'behavior': Behavior.YIELD,
        'distribution': ((Behavior.YIELD, 0.75), (Behavior.NONE, 0.25)),
        'confidence': 0.75,
        'confidence_source': ConfidenceSource.CALIBRATED,
        'text': 'A van waits on the left.',
        'truncated': True,
        'views': views,
        'tokens_text': 90,
        'model_id': 'tiny',
        'model_revision': '0123abcd',
        'model_trained': True,
        'prompt_id': 'driving-1',
        'hint_calibration_id': 'c0ffee',
        'method': 'st_prune',
        'keep_ratio': 0.1,
        'stage_ms': {'decode': 1.5, 'encode': 20.0},
        'notes': ('no odometry',),
    }
    return make_answer(status=status, description_status=description_status, **{**values, **changes})


def classes(name: str) -> MessageTypes:
    if name == 'store':
        return store_types(message_store())
    pytest.importorskip('rclpy')
    return ros_types()


@pytest.fixture(params=['ros', 'store'])
def types(request) -> MessageTypes:
    return classes(request.param)


def test_hint_says_everything(types):
    hint = planning_hint(answer(), SETTINGS, types, 0.25)
    assert (hint.header.stamp.sec, hint.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
    assert hint.header.frame_id == 'base_link'
    assert (hint.valid_for.sec, hint.valid_for.nanosec) == (1, 500_000_000)
    assert (hint.status, hint.behavior, hint.confidence_source) == (1, 100, 2)
    assert list(hint.candidates) == [100, 1]
    assert list(hint.probabilities) == [0.75, 0.25]
    assert hint.confidence == 0.75
    info = hint.info
    assert (info.sequence, info.tokens_full, info.tokens_kept, info.tokens_text) == (7, 1200, 120, 90)
    assert (info.model_id, info.model_revision, info.model_trained) == ('tiny', '0123abcd', True)
    assert (info.prompt_id, info.hint_calibration_id) == ('driving-1', 'c0ffee')
    assert (info.method, list(info.notes)) == ('st_prune', ['no odometry'])
    assert info.keep_ratio == pytest.approx(0.1)
    assert dict(zip(info.stage_names, info.stage_ms)) == {'decode': 1.5, 'encode': 20.0}
    assert info.output_latency == 0.25
    front, back = info.cameras
    assert (front.name, front.state, front.frames, front.tokens_full, front.tokens_kept) == ('front', 1, 4, 1200, 120)
    assert (front.stamp.sec, front.stamp.nanosec) == (1_700_000_000, 123_456_789)
    assert (back.name, back.state, back.stamp.sec, back.tokens_kept) == ('back', 2, 0, 0)


def test_values_come_from_where_they_should(types):
    """No two of them alike, so that none can stand for another."""
    views = (
        ViewReport('left', CameraState.OK, STAMP + 10**9 + 5, 3, 300, 31),
        ViewReport('right', CameraState.STALE, STAMP - 10**9, 2, 200, 22),
    )
    stages = {'prune': 2.5, 'encode': 20.0, 'describe': 30.0}
    given = answer(views=views, stage_ms=stages, model_trained=False, truncated=False, notes=('one', 'two'))
    settings = SETTINGS.changed({'cameras.base_frame': 'rear_axle'})
    text = scene_description(given, settings, types, 0.5)
    assert (text.header.stamp.sec, text.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
    assert text.header.frame_id == planning_hint(given, settings, types).header.frame_id == 'rear_axle'
    assert (text.valid_for.sec, text.valid_for.nanosec) == (1, 500_000_000)
    assert text.truncated is False
    info = text.info
    assert (info.sequence, info.tokens_full, info.tokens_kept, info.output_latency) == (7, 500, 53, 0.5)
    assert info.model_trained is False
    assert info.keep_ratio == pytest.approx(0.1)  # what was asked for, not what was kept
    assert list(info.notes) == ['one', 'two']
    assert (list(info.stage_names), list(info.stage_ms)) == (['prune', 'encode', 'describe'], [2.5, 20.0, 30.0])
    left, right = info.cameras
    assert (left.stamp.sec, left.stamp.nanosec) == (1_700_000_001, 123_456_794)
    assert (left.frames, left.tokens_full, left.tokens_kept) == (3, 300, 31)
    assert (right.stamp.sec, right.state, right.frames, right.tokens_full) == (1_699_999_999, 3, 2, 200)


def unfilled(message: Any, msgtype: str, path: str = '') -> list[str]:
    """Fields of a message, and of the messages in it, that say no more than a default-constructed one."""
    store = message_store()
    found = []
    for name, (kind, inner) in store.fielddefs[msgtype][1]:
        value = getattr(message, name)
        if kind == Nodetype.NAME:
            found += unfilled(value, inner, f'{path}{name}.')
        elif kind == Nodetype.SEQUENCE and inner[0][0] == Nodetype.NAME:
            found += unfilled(value[0], inner[0][1], f'{path}{name}[0].') if value else [f'{path}{name}']
        elif not (len(value) if hasattr(value, '__len__') else value):
            found.append(path + name)
    return found


def test_every_field_of_every_message_is_filled():
    types = classes('store')
    assert unfilled(planning_hint(answer(), SETTINGS, types, 0.25, 3), 'stprune_ros/msg/PlanningHint') == []
    assert unfilled(scene_description(answer(), SETTINGS, types, 0.25, 3), 'stprune_ros/msg/SceneDescription') == []


def test_output_latency_is_unknown_in_a_replay(types):
    assert math.isnan(planning_hint(answer(), SETTINGS, types).info.output_latency)
    assert math.isnan(scene_description(answer(), SETTINGS, types).info.output_latency)


@pytest.mark.parametrize('status', NOTHING)
def test_hint_that_is_none_says_unknown_and_nothing_else(types, status):
    hint = planning_hint(answer(status), SETTINGS, types)
    assert hint.status == status
    assert (hint.behavior, hint.confidence, hint.confidence_source) == (0, 0.0, 0)
    assert len(hint.candidates) == len(hint.probabilities) == 0
    assert (hint.valid_for.sec, hint.valid_for.nanosec) == (0, 0)
    assert hint.info.model_id == 'tiny'


def test_degraded_hint_is_valid(types):
    hint = planning_hint(answer(Status.DEGRADED), SETTINGS, types)
    assert (hint.status, hint.behavior, hint.valid_for.sec) == (2, 100, 1)


@pytest.mark.parametrize('status', [Status.OK, Status.DEGRADED, Status.TIMEOUT])
def test_description_has_a_status_of_its_own(types, status):
    text = scene_description(answer(Status.INVALID, status), SETTINGS, types)
    assert (text.status, text.description, text.truncated) == (status, 'A van waits on the left.', True)
    assert text.valid_for.sec == 1


@pytest.mark.parametrize('status', [Status.UNKNOWN, Status.NO_HINT, Status.STALE, Status.INVALID, Status.ERROR])
def test_description_that_is_none_is_empty(types, status):
    text = scene_description(answer(Status.OK, status), SETTINGS, types)
    assert (text.status, text.description, text.truncated, text.valid_for.sec) == (status, '', False, 0)


def test_both_kinds_of_classes_say_the_same_on_the_wire():
    pytest.importorskip('rclpy')
    from rclpy.serialization import deserialize_message, serialize_message

    store, live_types = message_store(), ros_types()
    for convert, name in ((planning_hint, 'PlanningHint'), (scene_description, 'SceneDescription')):
        live = convert(answer(), SETTINGS, live_types, 0.25)
        offline = convert(answer(), SETTINGS, store_types(store), 0.25)
        data = bytes(store.serialize_cdr(offline, f'stprune_ros/msg/{name}'))
        # Not byte by byte: DDS leaves the padding between fields as it finds it.
        assert deserialize_message(data, type(live)) == deserialize_message(serialize_message(live), type(live))


@pytest.mark.parametrize(
    ('age_ms', 'fresh'), [(0, True), (1500, True), (1500.000001, False), (-100, True), (-100.000001, False)]
)
def test_the_age_of_an_answer_is_bounded_on_both_sides(age_ms, fresh):
    assert is_fresh(STAMP, STAMP + round(age_ms * 1e6), SETTINGS) is fresh


def test_nothing_is_fresh_where_simulated_time_has_not_begun():
    assert not is_fresh(0, 0, SETTINGS)
    assert not is_fresh(STAMP, 0, SETTINGS)


def test_what_expired_says_nothing():
    late = expired(answer())
    assert (late.hint.status, late.description.status) == (Status.STALE, Status.STALE)
    assert planning_hint(late, SETTINGS, classes('store')).behavior == Behavior.UNKNOWN


@pytest.mark.parametrize('status', [status for status in NOTHING if status != Status.STALE])
def test_only_what_was_valid_becomes_stale(status):
    late = expired(answer(status, Status.INVALID))
    assert (late.hint.status, late.description.status) == (status, Status.INVALID)
    cut = expired(answer(status, Status.TIMEOUT))
    assert (cut.hint.status, cut.description.status) == (status, Status.STALE)
    assert expired(answer(Status.DEGRADED, status)).hint.status == Status.STALE


def test_messages_count_where_somebody_counts(types):
    for convert in (planning_hint, scene_description):
        assert convert(answer(), SETTINGS, types).alive_counter == 0
        assert convert(answer(), SETTINGS, types, 0.25, 2**40).alive_counter == 2**40


def test_constants_equal_the_messages():
    pytest.importorskip('rclpy')
    from stprune_ros.msg import CameraStatus, PlanningHint, SceneDescription

    for status in Status:
        assert getattr(PlanningHint, status.name) == getattr(SceneDescription, status.name) == status
    for behavior in Behavior:
        assert getattr(PlanningHint, f'BEHAVIOR_{behavior.name}') == behavior
    for source in ConfidenceSource:
        assert getattr(PlanningHint, f'CONFIDENCE_{source.name}') == source
    for state in CameraState:
        assert getattr(CameraStatus, state.name) == state
