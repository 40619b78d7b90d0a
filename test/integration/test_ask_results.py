"""What goes out as the result of a question, whatever became of it: times, numbers, and nothing that is no answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip('rclpy')

from action_msgs.msg import GoalStatus
from helpers.answers import make_answer
from helpers.harness import stamp_ns
from helpers.question_graph import NUMBER, Graph

from stprune_ros.action import Ask
from stprune_ros.core.types import Answer, Status
from stprune_ros.inference.question import Reply

HALVES = (0.25, 0.75)


@pytest.fixture
def graph(domain_id: int) -> Iterator[Graph]:
    made = Graph(domain_id)
    yield made
    made.close()


def seen(seconds_ago: float) -> Answer:
    """The answer of a tick whose images are that old."""
    return make_answer(stamp_ns=time.time_ns() - round(seconds_ago * 1e9), sequence=1)


def result(graph: Graph, sent: Any) -> tuple[int, Any]:
    """State of a goal and its result, once it is there."""
    future = sent.result().get_result_async()
    graph.spin_until(future.done, 'the result')
    return future.result().status, future.result().result


def test_what_goes_out_for_each_reply(graph: Graph):
    """Of what is no answer there is neither a text nor a probability, and nothing that could be used for a time."""
    client = graph.client()
    replies = [
        Reply(Status.OK, '', 'b', False, HALVES, 0, {'prefill': 2.5, 'score': 1.5}, seen(0.0)),
        Reply(Status.TIMEOUT, 'cut', 'a ca', True, (), 2, {'write': 4.0}, seen(0.0)),
        Reply(Status.INVALID, 'random weights', '', True, HALVES, 3, {}, seen(0.0)),
        Reply(Status.DEGRADED, 'old', 'b', False, HALVES, 0, {}, seen(90.0)),
        Reply(Status.NO_HINT, 'refused', '', answer=seen(90.0)),
    ]
    found = []
    for reply in replies:
        sent = graph.ask(client)
        graph.questions.current.finish(reply)
        state, told = result(graph, sent)
        found.append((state, told.status, told.text, told.truncated, list(told.probabilities), told.tokens))
        assert told.header.frame_id == 'base_link' and stamp_ns(told) == reply.answer.stamp_ns
        assert (told.info.sequence, told.info.model_id) == (NUMBER, reply.answer.provenance.model_id)
        assert dict(zip(told.stage_names, told.stage_ms, strict=True)) == reply.stage_ms
        old_s = (time.time_ns() - reply.answer.stamp_ns) / 1e9
        assert old_s - 10.0 < told.info.output_latency <= old_s, 'in seconds'
        assert (told.valid_for.sec * 10**9 + told.valid_for.nanosec > 0) == reply.has_answer
    done, gone = GoalStatus.STATUS_SUCCEEDED, GoalStatus.STATUS_ABORTED
    assert found == [
        (done, Ask.Result.OK, 'b', False, [*HALVES], 0),
        (done, Ask.Result.TIMEOUT, 'a ca', True, [], 2),
        (gone, Ask.Result.INVALID, '', False, [], 3),
        (done, Ask.Result.STALE, 'b', False, [*HALVES], 0),
        (gone, Ask.Result.NO_ANSWER, '', False, [], 0),
    ]


def test_each_question_counts_its_own_words_and_says_each_once(graph: Graph):
    client, heard = graph.client(), []
    for counts in ((1, 3), (1, 2)):
        sent = graph.ask(client, lambda said: heard.append((said.feedback.tokens, said.feedback.text)))
        before = len(heard)
        for number, tokens in enumerate(counts, 1):
            graph.questions.current.tell(Reply(Status.TIMEOUT, text='a' * tokens, tokens=tokens))
            graph.spin_until(lambda: len(heard) == before + number, 'a word')  # noqa: B023
            graph.questions.look()  # nothing is new
        graph.questions.current.finish(Reply(Status.OK, text='aaaa', tokens=4, answer=seen(0.0)))
        assert result(graph, sent)[1].tokens == 4
        graph.spin_until(lambda: heard[-1][0] == 4, 'the last words')
    assert heard == [(n, 'a' * n) for n in (1, 3, 4, 1, 2, 4)]


def test_a_deadline_that_nobody_minds_leaves_the_words_so_far(graph: Graph):
    client = graph.client()
    sent = graph.ask(client, seconds=1)
    asked = time.monotonic()
    graph.questions.current.tell(Reply(Status.TIMEOUT, 'cut', 'a ca', True, tokens=2, answer=seen(0.0)))
    state, told = result(graph, sent)
    assert (state, told.status, told.reason, told.text) == (
        GoalStatus.STATUS_SUCCEEDED,
        Ask.Result.TIMEOUT,
        'cut',
        'a ca',
    )
    assert time.monotonic() - asked > 1.0 and graph.questions.current is None


def test_only_what_is_open_can_be_given_up(graph: Graph):
    assert not graph.questions.give_up('the test wants it')
    sent = graph.ask(graph.client())
    assert graph.questions.give_up('the test wants it')
    state, told = result(graph, sent)
    assert (state, told.reason) == (GoalStatus.STATUS_ABORTED, 'the question was given up: the test wants it')
    assert not graph.questions.give_up('again')
