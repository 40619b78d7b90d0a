"""`stprune ask` against a node that is not ours: whatever it says is understood, shown without harm, or cancelled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip('rclpy')

import rclpy
from builtin_interfaces.msg import Duration, Time
from helpers.reports import report_in
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import Header

from stprune_ros.action import Ask
from stprune_ros.msg import CameraStatus, InferenceInfo

NAME = '/other'
LIMIT_S = 120.0
PROGRAM = 'import sys; from stprune_ros.cli import main; sys.exit(main(sys.argv[1:]))'
EVIL = '\x1b[2J\u202e\x9b'


class Other:
    """An action server in a thread, which answers with ``result``; it takes no goal before ``release`` is set."""

    def __init__(self, domain_id: int) -> None:
        self.result = Ask.Result(status=Ask.Result.OK, text='yes', header=Header(stamp=Time(sec=5)))
        self.goals: list[Any] = []
        self.cancelled, self.release = threading.Event(), threading.Event()
        self.release.set()
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self._node = rclpy.create_node('other', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._server: Any = ActionServer(
            self._node, Ask, '~/ask', self._answer, goal_callback=self._take, cancel_callback=self._cancel
        )
        self.waits = False
        self._server.register_handle_accepted_callback(lambda goal: self.waits or goal.execute())
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()

    def _take(self, goal: Any) -> GoalResponse:
        self.goals.append(goal)
        self.release.wait(LIMIT_S)
        return GoalResponse.ACCEPT

    def _answer(self, goal: Any) -> Any:
        goal.succeed()
        return self.result

    def _cancel(self, _: Any) -> CancelResponse:
        self.cancelled.set()
        return CancelResponse.ACCEPT

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self._thread.join(LIMIT_S)
        self._server.destroy()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture
def other(domain_id: int) -> Iterator[Other]:
    made = Other(domain_id)
    yield made
    made.close()


def start(domain_id: int, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, '-c', PROGRAM, 'ask', 'what?', '--node', NAME, '--json', *options]
    env = {**os.environ, 'ROS_DOMAIN_ID': str(domain_id)}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_texts_of_another_process_control_no_terminal(other: Other, domain_id: int):
    camera = CameraStatus(name=f'front{EVIL}', state=CameraStatus.STALE)
    other.result = Ask.Result(
        status=Ask.Result.DEGRADED,
        header=other.result.header,
        text=f'a car{EVIL}',
        reason=f'because{EVIL}',
        stage_names=[f'write{EVIL}'],
        stage_ms=array('f', [2.5]),
        info=InferenceInfo(model_id=EVIL, model_revision=EVIL, prompt_id=EVIL, cameras=[camera]),
    )
    process = start(domain_id)
    output, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, errors
    assert errors == 'a car?[2J??\nstprune: because?[2J??\n'
    assert not {*EVIL[:1], *EVIL[-2:]} & {*output}
    found = report_in(output, 'ask')['result']
    assert (found['status'], found['text']) == ('DEGRADED', 'a car?[2J??')
    assert found['cameras'] == {'front?[2J??': 'STALE'} and found['stage_ms'] == {'write?[2J??': 2.5}
    assert {found[name] for name in ('model_id', 'model_revision', 'prompt_id')} == {'?[2J??'}


def test_what_is_asked_is_what_was_given_and_the_answer_what_came(other: Other, domain_id: int):
    header = Header(stamp=Time(sec=5, nanosec=6))
    probabilities, valid_for = array('f', [0.25, 0.75]), Duration(sec=1, nanosec=500_000_000)
    other.result = Ask.Result(
        status=Ask.Result.OK, text='no', header=header, probabilities=probabilities, valid_for=valid_for, tokens=3
    )
    given = ['--cameras', 'left,front', '--current-only', '--candidate', 'yes', '--candidate', 'no']
    output, errors = start(domain_id, *given).communicate(timeout=LIMIT_S)
    found, [goal] = report_in(output, 'ask')['result'], other.goals
    assert errors == ' 75.0%  no\n 25.0%  yes\n'
    assert (goal.question, list(goal.cameras), goal.current_only) == ('what?', ['left', 'front'], True)
    assert (list(goal.candidates), goal.deadline) == (['yes', 'no'], Duration(sec=10))
    assert (found['stamp_ns'], found['valid_until_ns'], found['tokens']) == (5_000_000_006, 6_500_000_006, 3)
    assert found['candidates'] == [{'text': 'yes', 'probability': 0.25}, {'text': 'no', 'probability': 0.75}]


def test_a_text_without_a_status_that_allows_it_is_not_read(other: Other, domain_id: int):
    other.result.status, other.result.reason = Ask.Result.INVALID, 'it means nothing'
    process = start(domain_id, '--candidate', 'yes', '--candidate', 'no')
    output, errors = process.communicate(timeout=LIMIT_S)
    report = report_in(output, 'ask')
    assert (process.returncode, errors) == (1, 'stprune: it means nothing\n')
    assert (report['result']['text'], report['result']['candidates']) == ('', [])


@pytest.mark.parametrize(
    'result', [{'status': 77}, {'status': 1, 'info': InferenceInfo(cameras=[CameraStatus(name='front', state=99)])}]
)
def test_a_node_of_another_release_is_named(other: Other, domain_id: int, result: dict[str, Any]):
    other.result = Ask.Result(text='a car', **result)
    process = start(domain_id)
    output, _ = process.communicate(timeout=LIMIT_S)
    report = report_in(output, 'ask')
    assert process.returncode == report['exit_code'] == 1
    [sentence] = report['errors']
    assert sentence.startswith("the node '/other' is of another release, whose answers are not understood (")
    assert sentence.endswith('): install the same one here')


@pytest.mark.parametrize(
    ('given', 'sent'),
    [('2.3', Duration(sec=2, nanosec=300_000_000)), ('1e-12', Duration(nanosec=1))],
    ids=['seconds', 'less than the clock can tell'],
)
def test_the_deadline_is_what_was_given(other: Other, domain_id: int, given: str, sent: Duration):
    """Zero would stand for none, and so for ten seconds."""
    output, errors = start(domain_id, '--deadline', given).communicate(timeout=LIMIT_S)
    assert report_in(output, 'ask')['result']['text'] == 'yes', errors
    assert [goal.deadline for goal in other.goals] == [sent]


def test_ctrl_c_before_the_node_took_the_question_cancels_it_all_the_same(other: Other, domain_id: int):
    other.waits = True
    other.release.clear()
    process = start(domain_id)
    try:
        while not other.goals:
            assert process.poll() is None
            other.release.wait(0.05)
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
    finally:
        other.release.set()
    assert other.cancelled.wait(LIMIT_S), 'the node would be busy up to the deadline'
    assert process.wait(LIMIT_S) == 130
