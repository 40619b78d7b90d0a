"""Questions to the real node over DDS: answers, refusals and ends in words, while hints keep their rate."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip('rclpy')

from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from helpers.asking import (
    BUSY,
    TOKENS,
    VALID_MS,
    Asking,
    asked_node,
    asked_vehicle,
    command,
    hinted,
    is_asked,
    wait_for_hints,
)
from helpers.faulty_node import CRAWL
from helpers.harness import FaultyNode, Vehicle, stamp_ns
from helpers.reports import report_in
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.parameter import Parameter

from stprune_ros.action import Ask
from stprune_ros.msg import PlanningHint, SceneDescription
from stprune_ros.srv import DescribeNow


@pytest.fixture(scope='module')
def vehicle() -> Iterator[Vehicle]:
    with asked_vehicle('/asked') as made:
        yield made


@pytest.fixture(scope='module')
def node(tmp_path_factory: pytest.TempPathFactory, vehicle: Vehicle) -> Iterator[FaultyNode]:
    """One for all tests."""
    with asked_node(tmp_path_factory.mktemp('asked'), vehicle) as started:
        yield started


@pytest.fixture
def ask(node: FaultyNode, vehicle: Vehicle, client: ActionClient) -> Iterator[Any]:
    """Asks; afterwards texts crawl again and hints come."""
    vehicle.wait_until(client.server_is_ready, 'the action', node)
    yield lambda **fields: Asking(client, vehicle, node, **fields)
    node.fail(generate=CRAWL)


@pytest.fixture(scope='module')
def client(vehicle: Vehicle) -> ActionClient:
    return ActionClient(vehicle.node, Ask, f'{vehicle.node_name}/ask')


def change(vehicle: Vehicle, node: FaultyNode, transition: int) -> None:
    request = ChangeState.Request(transition=Transition(id=transition))
    assert vehicle.call(ChangeState, 'change_state', request, node).success


def set_parameter(vehicle: Vehicle, node: FaultyNode, name: str, value: float | bool) -> None:
    parameter = Parameter(name, value=value).to_parameter_msg()
    response = vehicle.call(SetParameters, 'set_parameters', SetParameters.Request(parameters=[parameter]), node)
    assert response.results[0].successful


def test_an_answer_comes_within_its_deadline_while_hints_go_on(ask, vehicle, node):
    """As where a newer set always waits."""
    wait_for_hints(vehicle, node)
    before, sets = len(hinted(vehicle)), len(vehicle.stamps)
    asking = ask(deadline=Duration(sec=60))
    status, result = asking.result()
    assert (status, result.status) == (GoalStatus.STATUS_SUCCEEDED, Ask.Result.OK)
    assert result.text and result.reason == '' and 0 < result.tokens <= TOKENS and asking.took_s < 60
    during, sets = len(hinted(vehicle)) - before, len(vehicle.stamps) - sets
    assert during >= result.tokens - 2, 'a hint for each token'
    assert during >= sets / 2, 'and about one for each set, on a busy machine'
    hint = {stamp_ns(hint): hint for hint in vehicle.hints}[stamp_ns(result)]
    assert result.header.frame_id == 'base_link' and result.valid_for.sec == 60
    for name in ('sequence', 'model_id', 'model_revision', 'prompt_id', 'cameras', 'tokens_kept'):
        assert getattr(result.info, name) == getattr(hint.info, name), name
    assert result.info.output_latency > hint.info.output_latency and list(result.stage_names) == ['write']
    said = [words.text for words in asking.feedback]
    assert said and all(result.text.startswith(text) for text in said)
    assert [words.tokens for words in asking.feedback] == sorted({words.tokens for words in asking.feedback})


def test_what_the_model_refuses_has_a_set_and_no_answer(ask, vehicle):
    status, result = ask(candidates=['a car', '<|im_end|>'], deadline=Duration(sec=60)).result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Ask.Result.NO_ANSWER)
    assert "holds '<|im_end|>', which is no word to this model: remove it" in result.reason
    assert stamp_ns(result) in vehicle.stamps and result.valid_for == Duration() and result.info.model_id == 'tiny'


def test_candidates_are_scored(ask):
    """Those of a part of the window wait for a gap, which there is at this rate."""
    for fields in ({}, {'cameras': ['left'], 'current_only': True}):
        status, result = ask(candidates=['a car', 'a wall'], deadline=Duration(sec=60), **fields).result()
        assert (status, result.status) == (GoalStatus.STATUS_SUCCEEDED, Ask.Result.OK)
        assert sum(result.probabilities) == pytest.approx(1, abs=1e-5) and len(result.probabilities) == 2
        assert result.text == ['a car', 'a wall'][result.probabilities[1] > result.probabilities[0]]
        assert list(result.stage_names) == (['prefill', 'score'] if fields else ['score'])


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        ({'question': 'a' * 501}, 'the question has 501 characters, and 500 are allowed: make it shorter'),
        ({'candidates': ['one']}, 'candidates are 1: give 2 to 16, or none for a text'),
        ({'cameras': ['rear']}, "camera 'rear' cannot be asked about: the ring has 'front', 'right', 'left'"),
        ({'deadline': Duration(sec=61)}, 'the deadline is 61 s: it must be above 0 and at most 60 s'),
        ({'deadline': Duration(sec=-1)}, 'the deadline is -1 s: it must be above 0 and at most 60 s'),
    ],
    ids=['long', 'candidates', 'camera', 'late', 'before'],
)
def test_what_is_refused_ends_at_once_in_a_sentence(ask, fields, sentence):
    status, result = ask(**fields).result()
    assert (status, result.status, result.reason) == (GoalStatus.STATUS_ABORTED, Ask.Result.NO_ANSWER, sentence)
    assert (result.text, stamp_ns(result), result.valid_for) == ('', 0, Duration())


def test_one_question_at_a_time_and_cancel(ask):
    first = ask(deadline=Duration(sec=60))
    status, result = ask().result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Ask.Result.NO_ANSWER)
    assert result.reason == BUSY
    assert first.cancel() == 1
    status, result = first.result()
    assert (status, result.status) == (GoalStatus.STATUS_CANCELED, Ask.Result.NO_ANSWER)
    assert (result.reason, result.text) == ('the question was cancelled', '')
    assert first.cancel() == 0, 'it is over'
    status, _ = ask(candidates=['a car', 'a wall'], deadline=Duration(sec=60)).result()
    assert status == GoalStatus.STATUS_SUCCEEDED, 'there is room for the next one'


def test_the_deadline_leaves_the_words_that_are_there(ask, vehicle):
    vehicle.period_s = 0.3  # so that not all of them are
    try:
        status, result = ask(deadline=Duration(sec=3)).result()
    finally:
        vehicle.period_s = 0.1
    assert (status, result.status) == (GoalStatus.STATUS_SUCCEEDED, Ask.Result.TIMEOUT)
    assert result.text and result.truncated and 0 < result.tokens < TOKENS
    assert result.reason == 'the deadline of 3 s cut the answer short'
    assert stamp_ns(result) in vehicle.stamps


@pytest.mark.parametrize(
    ('deadline', 'seconds'), [(Duration(sec=1, nanosec=500_000_000), 1.5), (Duration(), 10)], ids=['given', 'none']
)
def test_without_images_the_deadline_says_what_was_waited_for(ask, vehicle, node, deadline, seconds):
    makers, vehicle.images = vehicle.images, {}
    try:
        vehicle.listen_until(lambda: False, 1.0)
        asking = ask(deadline=deadline)
        status, result = asking.result()
    finally:
        vehicle.images = makers
    assert seconds <= asking.took_s < seconds + 15, 'on a busy machine'
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Ask.Result.TIMEOUT)
    assert result.reason == f'no answer came within {seconds} s: no frame set was inferred in that time'
    wait_for_hints(vehicle, node)


def test_a_failure_is_said_to_whoever_asked_and_hints_go_on(ask, vehicle, node):
    node.fail(generate='raise')
    status, result = ask(deadline=Duration(sec=60)).result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Ask.Result.ERROR)
    assert result.reason.startswith('the answer failed with RuntimeError: CUDA error')
    wait_for_hints(vehicle, node)
    assert PlanningHint.ERROR not in {hint.status for hint in vehicle.hints}
    assert 'the answer failed with RuntimeError: CUDA error' in node.output()


def test_an_answer_that_has_expired_says_so(ask, vehicle, node):
    set_parameter(vehicle, node, 'output.valid_for_ms', 1000.0)
    try:
        status, result = ask(deadline=Duration(sec=60)).result()
    finally:
        set_parameter(vehicle, node, 'output.valid_for_ms', VALID_MS)
    assert (status, result.status) == (GoalStatus.STATUS_SUCCEEDED, Ask.Result.STALE)
    assert result.reason == 'the answer had expired when it went out: it is true of its stamp, not of now'
    assert result.text and result.valid_for.sec == 1


def test_a_description_comes_when_it_is_wanted(ask, vehicle, node):
    def described() -> set[int]:
        return {stamp_ns(text) for text in vehicle.texts if text.status == SceneDescription.OK}

    node.fail()
    before, now_ns = described(), vehicle.stamp_ns
    response = vehicle.call(DescribeNow, 'describe_now', DescribeNow.Request(), node)
    assert (response.accepted, response.message) == (True, 'the next frame set is described')
    vehicle.wait_until(lambda: bool(described() - before), 'a description', node)
    assert max(described()) >= now_ns - 10**9
    node.fail(generate=CRAWL)
    set_parameter(vehicle, node, 'inference.describe', False)
    response = vehicle.call(DescribeNow, 'describe_now', DescribeNow.Request(), node)
    set_parameter(vehicle, node, 'inference.describe', True)
    assert not response.accepted
    assert response.message == "descriptions are switched off: set 'inference.describe' to true"
    asking = ask(deadline=Duration(sec=60))
    response = vehicle.call(DescribeNow, 'describe_now', DescribeNow.Request(), node)
    assert not response.accepted
    assert response.message == 'a question is being answered, and texts come one at a time: ask again when it is over'
    assert asking.cancel() == 1


def test_the_command_asks_the_node(ask, vehicle, node):
    node.fail()
    for more, code in (([], 0), (['--candidate', 'a car', '--candidate', 'a wall'], 0), (['--cameras', 'rear'], 1)):
        process = command(vehicle, '--json', *more)
        vehicle.wait_until(lambda process=process: process.poll() is not None, 'the command', node)
        output, errors = process.communicate()
        report = report_in(output, 'ask')
        assert process.returncode == report['exit_code'] == code, errors
        if code:
            [sentence] = report['errors']
            assert sentence == "camera 'rear' cannot be asked about: the ring has 'front', 'right', 'left'"
            continue
        found = report['result']
        # On a busy machine an image may be late: the answer is then DEGRADED, and says so.
        assert found['status'] == ('DEGRADED' if found['reason'] else 'OK')
        assert found['text'] and found['stamp_ns'] in vehicle.stamps
        assert found['valid_until_ns'] == found['stamp_ns'] + 60 * 10**9
        assert {*found['cameras']} == {'front', 'right', 'left'}
        assert [one['text'] for one in found['candidates']] == more[1::2]


def test_ctrl_c_cancels_the_question(ask, vehicle, node):
    vehicle.period_s = 1.0  # a token a second: it will not be done
    process = command(vehicle)
    try:
        while not is_asked(vehicle, node):
            assert process.poll() is None
            vehicle.listen_until(lambda: False, 0.5)
        process.send_signal(signal.SIGINT)
        vehicle.wait_until(lambda: process.poll() is not None, 'the end of the command', node)
    finally:
        vehicle.period_s = 0.1
    assert (process.returncode, process.stderr.read() if process.stderr else '') == (130, 'stprune: interrupted\n')
    status, _ = ask(candidates=['yes', 'no'], deadline=Duration(sec=60)).result()
    assert status == GoalStatus.STATUS_SUCCEEDED, 'there is room for the next one'


def test_deactivation_and_a_jump_of_the_clock_end_a_question(ask, vehicle, node):
    asking = ask(deadline=Duration(sec=60))
    vehicle.wait_until(lambda: len(asking.feedback) > 1, 'words', node)
    vehicle.behind_ns = 20_000_000_000
    status, result = asking.result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Ask.Result.NO_ANSWER)
    assert result.reason == 'the question was given up: the time of the images jumped'
    wait_for_hints(vehicle, node)
    asking = ask(deadline=Duration(sec=60))
    change(vehicle, node, Transition.TRANSITION_DEACTIVATE)
    status, result = asking.result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Ask.Result.NO_ANSWER)
    assert result.reason == 'the question was given up: the node stopped listening'
    status, result = ask().result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Ask.Result.NO_ANSWER)
    assert result.reason.startswith('nothing can be asked: the node is not active')
    response = vehicle.call(DescribeNow, 'describe_now', DescribeNow.Request(), node)
    assert not response.accepted and response.message.startswith('nothing can be asked: the node is not active')
    vehicle.behind_ns = 0
    change(vehicle, node, Transition.TRANSITION_ACTIVATE)
    wait_for_hints(vehicle, node)


def test_a_question_ends_with_the_node(ask, vehicle, node):
    """The last test: the node is gone after it."""
    asking = ask(deadline=Duration(sec=60))
    vehicle.wait_until(lambda: len(asking.feedback) > 1, 'words', node)
    node.process.send_signal(signal.SIGINT)
    vehicle.listen_until(asking.is_over, 30.0)
    assert asking.is_over()
    status, result = asking.result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Ask.Result.NO_ANSWER)
    assert result.reason == 'the question was given up: the node ends'
