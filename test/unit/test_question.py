"""What may be asked, and the replies to a question."""

from __future__ import annotations

import math

import pytest
from helpers.asked_pipeline import (
    NAMES,
    TEXT,
)

from stprune_ros.core.types import Status
from stprune_ros.errors import StpruneError
from stprune_ros.inference.question import NOTHING_INFERRED, Ask, Question, Reply


@pytest.mark.parametrize(
    ('values', 'sentence'),
    [
        ({'text': ' '}, 'the question is empty: nothing can be asked'),
        ({'text': 'a' * 501}, 'the question has 501 characters, and 500 are allowed: make it shorter'),
        ({'text': 'a\nb'}, "the question 'a?b' holds a character that does not print: remove it"),
        ({'candidates': ('one',)}, 'candidates are 1: give 2 to 16, or none for a text'),
        ({'candidates': tuple(map(str, range(17)))}, 'candidates are 17: give 2 to 16, or none for a text'),
        ({'candidates': ('yes', '')}, 'candidate 2 is empty: nothing can be asked'),
        ({'candidates': ('yes', 'b' * 101)}, 'candidate 2 has 101 characters, and 100 are allowed: make it shorter'),
        ({'candidates': ('yes', 'no', 'yes')}, "candidate 'yes' stands there a second time: remove it"),
        ({'deadline_s': 60.5}, 'the deadline is 60.5 s: it must be above 0 and at most 60 s'),
        ({'deadline_s': -1.0}, 'the deadline is -1 s: it must be above 0 and at most 60 s'),
        ({'deadline_s': math.nan}, 'the deadline is nan s: it must be above 0 and at most 60 s'),
        ({'cameras': ('a', 'b', 'a')}, "camera 'a' stands there a second time: remove it"),
        ({'cameras': ('a', '\x1b[2J')}, "camera '?[2J' holds a character that does not print: remove it"),
    ],
)
def test_what_is_out_of_bounds_is_refused_in_a_sentence(values, sentence):
    with pytest.raises(StpruneError) as refused:
        Question(**{'text': 'what?', **values})
    assert str(refused.value) == sentence


def test_bounds_themselves_are_allowed():
    candidates = tuple(f'{number:0100d}' for number in range(16))
    question = Question('a' * 500, candidates=candidates, deadline_s=60.0)
    assert (len(question.text), question.candidates) == (500, candidates)


def test_only_cameras_of_the_ring_can_be_asked_about():
    Question('what?', cameras=('LEFT', 'FRONT')).require_cameras(NAMES)
    with pytest.raises(StpruneError) as refused:
        Question('what?', cameras=('LEFT', 'REAR')).require_cameras(NAMES)
    assert str(refused.value) == "camera 'REAR' cannot be asked about: the ring has 'FRONT', 'RIGHT', 'LEFT'"


def test_the_last_reply_counts_and_nothing_follows_it():
    woken = []
    ask = Ask(TEXT, lambda: woken.append(ask.reply))
    words, last = Reply(Status.TIMEOUT, text='a', tokens=1), Reply(Status.OK, text='a car', tokens=2)
    ask.tell(words)
    assert not ask.is_over
    ask.finish(last)
    ask.finish(Reply(Status.ERROR))
    ask.tell(Reply(Status.ERROR))
    ask.expire()
    assert ask.is_over and ask.reply is last and woken == [words, last]


def test_a_deadline_that_passes_leaves_the_words_or_says_what_was_waited_for():
    silent, talking = Ask(TEXT), Ask(TEXT)
    silent.expire()
    assert silent.reply == Reply(Status.TIMEOUT, f'no answer came within 60 s: {NOTHING_INFERRED}')
    words = Reply(Status.TIMEOUT, text='a', tokens=1)
    talking.tell(words)
    talking.expire()
    assert talking.is_over and talking.reply is words


def test_only_some_statuses_come_with_an_answer():
    answered = {status.name for status in Status if Reply(status, text='yes').has_answer}
    assert answered == {'OK', 'DEGRADED', 'STALE', 'TIMEOUT'}
    assert not Reply(Status.OK).has_answer
