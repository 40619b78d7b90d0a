"""Questions to the real node over DDS: answers, refusals and ends in words, while hints keep their rate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy')

from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from helpers.faulty_node import CRAWL
from helpers.harness import FaultyNode, Vehicle, base_values, stamp_ns
from helpers.tiny_models import make_tiny_model
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient

from stprune_ros.action import Ask
from stprune_ros.msg import PlanningHint, SceneDescription
from stprune_ros.srv import DescribeNow

QUESTION = 'what is left of me?'
SLOW_DESCRIPTIONS = {'inference.describe_period_ms': 600000.0}
LONG = {**SLOW_DESCRIPTIONS, 'inference.max_new_tokens': 200}


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path


@pytest.fixture
def vehicle(domain_id: int) -> Iterator[Vehicle]:
    made = Vehicle(domain_id, '/asked')
    yield made
    made.close()


class Asking:
    """One goal; ``feedback`` is all of it."""

    def __init__(self, client: ActionClient, vehicle: Vehicle, node: FaultyNode, **fields: Any) -> None:
        self._vehicle, self._node = vehicle, node
        self.feedback: list[Any] = []
        self.began = time.monotonic()
        sent = client.send_goal_async(
            Ask.Goal(**{'question': QUESTION, **fields}), lambda said: self.feedback.append(said.feedback)
        )
        vehicle.wait_until(sent.done, 'the response to a goal', node)
        self.handle = sent.result()
        assert self.handle.accepted
        self._future = self.handle.get_result_async()

    def result(self) -> tuple[int, Any]:
        """State of the goal and result, once it is there."""
        self._vehicle.wait_until(self._future.done, 'the result of a goal', self._node)
        self.took_s = time.monotonic() - self.began
        return self._future.result().status, self._future.result().result

    def cancel(self) -> int:
        """How many goals are to be cancelled."""
        future = self.handle.cancel_goal_async()
        self._vehicle.wait_until(future.done, 'the response to a cancel', self._node)
        return len(future.result().goals_canceling)


@pytest.fixture
def run(model: Path, vehicle: Vehicle, tmp_path: Path) -> Iterator[Any]:
    """Start the node and wait for its hints; the rest is asking."""
    nodes: list[FaultyNode] = []

    def begin(values: dict[str, Any], **faults: str) -> tuple[FaultyNode, Any]:
        node = FaultyNode(tmp_path, vehicle, {**base_values(model), **values}, **faults)
        nodes.append(node)
        client = ActionClient(vehicle.node, Ask, f'{vehicle.node_name}/ask')
        vehicle.wait_until(lambda: client.server_is_ready() and len(hinted(vehicle)) > 2, 'hints', node)
        return node, lambda **fields: Asking(client, vehicle, node, **fields)

    yield begin
    for node in nodes:
        assert node.stop() == 0
        assert 'Traceback' not in node.output(), node.output()


def hinted(vehicle: Vehicle) -> list[PlanningHint]:
    return [hint for hint in vehicle.hints if hint.status == PlanningHint.OK]


def change(vehicle: Vehicle, node: FaultyNode, transition: int) -> None:
    request = ChangeState.Request(transition=Transition(id=transition))
    assert vehicle.call(ChangeState, 'change_state', request, node).success


def test_an_answer_comes_within_its_deadline_while_hints_go_on(run, vehicle):
    """Every text crawls, as where a newer set always waits: one token a tick."""
    _, ask = run({**SLOW_DESCRIPTIONS, 'inference.max_new_tokens': 6}, generate=CRAWL)
    before, sets = len(hinted(vehicle)), len(vehicle.stamps)
    asking = ask(deadline=Duration(sec=60))
    status, result = asking.result()
    assert (status, result.status) == (GoalStatus.STATUS_SUCCEEDED, Ask.Result.OK)
    assert result.text and result.reason == '' and 0 < result.tokens <= 6 and asking.took_s < 60
    during, sets = len(hinted(vehicle)) - before, len(vehicle.stamps) - sets
    assert during >= result.tokens - 1, 'a hint for each token'
    assert during >= sets / 2, 'and about one for each set, on a busy machine'
    hints = {stamp_ns(hint): hint for hint in vehicle.hints}
    hint = hints[stamp_ns(result)]
    assert result.header.frame_id == 'base_link' and result.valid_for.sec == 60
    assert (result.info.sequence, result.info.model_id, result.info.prompt_id) == (
        hint.info.sequence,
        hint.info.model_id,
        hint.info.prompt_id,
    )
    assert result.info.output_latency > hint.info.output_latency and list(result.stage_names) == ['write']
    said = [words.text for words in asking.feedback]
    assert said and all(result.text.startswith(text) for text in said)
    assert [words.tokens for words in asking.feedback] == sorted({words.tokens for words in asking.feedback})


def test_candidates_are_scored(run):
    _, ask = run(SLOW_DESCRIPTIONS)
    for fields in ({}, {'cameras': ['left'], 'current_only': True}):
        status, result = ask(candidates=['a car', 'a wall'], **fields).result()
        assert (status, result.status) == (GoalStatus.STATUS_SUCCEEDED, Ask.Result.OK)
        assert sum(result.probabilities) == pytest.approx(1, abs=1e-5) and len(result.probabilities) == 2
        assert result.text == ['a car', 'a wall'][result.probabilities[1] > result.probabilities[0]]
        assert list(result.stage_names) == (['prefill', 'score'] if fields else ['score'])


@pytest.mark.parametrize(
    ('fields', 'sentence'),
    [
        ({'question': 'a' * 501}, 'the question has 501 characters, and 500 are allowed: make it shorter'),
        ({'candidates': ['one']}, 'candidates are 1: give 2 to 16, or none for a text'),
        (
            {'cameras': ['rear']},
            "camera 'rear' cannot be asked about: the ring has 'front', 'right', 'left'",
        ),
        ({'deadline': Duration(sec=61)}, 'the deadline is 61 s: it must be above 0 and at most 60 s'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_what_is_refused_ends_at_once_in_a_sentence(run, fields, sentence):
    _, ask = run(SLOW_DESCRIPTIONS)
    status, result = ask(**fields).result()
    assert (status, result.status, result.reason) == (GoalStatus.STATUS_ABORTED, Ask.Result.NO_ANSWER, sentence)
    assert (result.text, stamp_ns(result), result.valid_for) == ('', 0, Duration())


def test_one_question_at_a_time_and_cancel(run, vehicle):
    _, ask = run(LONG, generate=CRAWL)
    first = ask(deadline=Duration(sec=60))
    status, result = ask().result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Ask.Result.NO_ANSWER)
    assert result.reason == 'another question is being answered: ask again when it is over, or cancel it'
    assert first.cancel() == 1
    status, result = first.result()
    assert (status, result.status) == (GoalStatus.STATUS_CANCELED, Ask.Result.NO_ANSWER)
    assert (result.reason, result.text) == ('the question was cancelled', '')
    assert first.cancel() == 0, 'it is over'
    status, result = ask(candidates=['a car', 'a wall']).result()
    assert status == GoalStatus.STATUS_SUCCEEDED, 'there is room for the next one'


def test_the_deadline_leaves_the_words_that_are_there(run, vehicle):
    _, ask = run(LONG, generate=CRAWL)
    asking = ask(deadline=Duration(sec=3))
    status, result = asking.result()
    assert (status, result.status) == (GoalStatus.STATUS_SUCCEEDED, Ask.Result.TIMEOUT)
    assert result.text and result.truncated and 0 < result.tokens < 200
    assert result.reason == 'the deadline of 3 s cut the answer short'
    assert stamp_ns(result) in vehicle.stamps


def test_without_images_the_deadline_says_what_was_waited_for(run, vehicle):
    _, ask = run(SLOW_DESCRIPTIONS)
    vehicle.period_s = 3600.0
    vehicle.listen_until(lambda: False, 1.0)
    vehicle._next = time.monotonic() + 3600
    status, result = ask(deadline=Duration(sec=2)).result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Ask.Result.TIMEOUT)
    assert result.reason == 'no answer came within 2 s: no frame set came that could be inferred'


def test_deactivation_and_a_jump_of_the_clock_end_a_question(run, vehicle):
    node, ask = run(LONG, generate=CRAWL)
    asking = ask(deadline=Duration(sec=60))
    vehicle.wait_until(lambda: len(asking.feedback) > 1, 'words', node)
    vehicle.behind_ns = 20_000_000_000
    status, result = asking.result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Ask.Result.NO_ANSWER)
    assert result.reason == 'the question was given up: the time of the images jumped'
    asking = ask(deadline=Duration(sec=60))
    change(vehicle, node, Transition.TRANSITION_DEACTIVATE)
    status, result = asking.result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Ask.Result.NO_ANSWER)
    assert result.reason == 'the question was given up: the node stopped listening'
    status, result = ask().result()
    assert result.reason.startswith('nothing can be asked: the node is not active')
    response = vehicle.call(DescribeNow, 'describe_now', DescribeNow.Request(), node)
    assert not response.accepted and response.message.startswith('nothing can be asked: the node is not active')


def test_a_question_ends_with_the_node(run, vehicle):
    node, ask = run(LONG, generate=CRAWL)
    asking = ask(deadline=Duration(sec=60))
    vehicle.wait_until(lambda: len(asking.feedback) > 1, 'words', node)
    node.process.send_signal(2)
    vehicle.listen_until(asking._future.done, 20.0)
    result = asking._future.result().result
    assert (result.status, result.reason) == (Ask.Result.NO_ANSWER, 'the question was given up: the node ends')


def test_a_failure_is_said_to_whoever_asked_and_hints_go_on(run, vehicle):
    node, ask = run(LONG, generate='raise')
    status, result = ask().result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Ask.Result.ERROR)
    assert result.reason.startswith('the answer failed with RuntimeError: CUDA error')
    node.fail()
    heard = len(hinted(vehicle))
    vehicle.wait_until(lambda: len(hinted(vehicle)) > heard + 2, 'hints', node)
    assert PlanningHint.ERROR not in {hint.status for hint in vehicle.hints}


def test_an_answer_that_has_expired_says_so(run):
    _, ask = run({**SLOW_DESCRIPTIONS, 'output.valid_for_ms': 2000.0, 'inference.max_new_tokens': 4}, generate='slow')
    status, result = ask(deadline=Duration(sec=60)).result()
    assert status == GoalStatus.STATUS_SUCCEEDED
    assert result.status in (Ask.Result.OK, Ask.Result.STALE)
    if result.status == Ask.Result.STALE:
        assert result.reason == 'the answer had expired when it went out: it is true of its stamp, not of now'
    assert result.text and result.valid_for.sec == 2


def test_a_description_comes_when_it_is_wanted(run, vehicle):
    node, _ = run(SLOW_DESCRIPTIONS)

    def described() -> list[SceneDescription]:
        return [text for text in vehicle.texts if text.status == SceneDescription.OK]

    vehicle.wait_until(lambda: len(described()) == 1, 'the first one', node)
    response = vehicle.call(DescribeNow, 'describe_now', DescribeNow.Request(), node)
    assert (response.accepted, response.message) == (True, 'the next frame set is described')
    vehicle.wait_until(lambda: len(described()) == 2, 'the second one', node)


def test_the_command_asks_the_node(run, vehicle):
    node, _ = run(SLOW_DESCRIPTIONS)
    program = 'import sys; from stprune_ros.cli import main; sys.exit(main(sys.argv[1:]))'
    words = ['ask', QUESTION, '--node', vehicle.node_name, '--json', '--deadline', '30']
    env = {**os.environ, 'ROS_DOMAIN_ID': str(vehicle.domain_id)}
    for more, code in (([], 0), (['--candidate', 'a car', '--candidate', 'a wall'], 0), (['--cameras', 'rear'], 1)):
        command = [sys.executable, '-c', program, *words, *more]
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        vehicle.wait_until(lambda process=process: process.poll() is not None, 'the command', node)
        output, errors = process.communicate()
        report = json.loads(output)
        assert process.returncode == report['exit_code'] == code, errors
        found = report['result']
        if code:
            [sentence] = report['errors']
            assert sentence == "camera 'rear' cannot be asked about: the ring has 'front', 'right', 'left'"
        else:
            assert found['status'] == 'OK' and found['text'] and found['stamp_ns'] in vehicle.stamps
            assert found['valid_until_ns'] == found['stamp_ns'] + 60 * 10**9
            assert found['cameras'] == dict.fromkeys(['front', 'right', 'left'], 'OK')
            assert [one['text'] for one in found['candidates']] == more[1::2]
