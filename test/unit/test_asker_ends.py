"""Questions that end before their answer: deadlines, cancels, and what fails."""

from __future__ import annotations

import time
from functools import partial
from threading import Event

import pytest
from helpers.asked_pipeline import (
    CANDIDATES,
    ENGINES,
    MS,
    QUIET,
    TEXT,
    asked_pipeline,
    counted_prefills,
    loaded_engine,
    window,
)
from helpers.texts import with_changed_texts

from stprune_ros.core.types import Status
from stprune_ros.errors import StpruneError
from stprune_ros.inference.question import IN_WORK, NOTHING_INFERRED, Ask, Question, Reply


@pytest.fixture(scope='module', params=ENGINES)
def loaded(request, tmp_path_factory):
    return loaded_engine(request.param, tmp_path_factory.mktemp('model'))


@pytest.fixture
def make(loaded, tmp_path):
    return partial(asked_pipeline, loaded, tmp_path)


@pytest.fixture
def prefills(loaded, monkeypatch):
    return counted_prefills(loaded[0], monkeypatch)


def test_the_deadline_cuts_a_text_short(make, loaded, monkeypatch):
    def slow(write, deadline, cancel, pause):
        def count(tokens):
            time.sleep(max(0.0, deadline - time.monotonic()) if tokens == 2 else 0)
            return pause(tokens)

        return write(deadline, cancel, count)

    monkeypatch.setattr(loaded[0], 'begin', with_changed_texts(loaded[0], slow))
    ask = Ask(Question('what?', deadline_s=2.0))
    make().run(window(1000), ask=ask)
    assert ask.reply.status == Status.TIMEOUT and ask.reply.truncated and ask.reply.has_answer
    assert ask.reply.reason == 'the deadline of 2 s cut the answer short'


TOO_LATE = f'no answer came within 60 s: {IN_WORK}'
PARTS = [{}, {'candidates': CANDIDATES}, {'cameras': ('LEFT',)}]


@pytest.mark.parametrize('values', PARTS)
def test_a_deadline_that_passed_before_a_set_was_inferred_ends_a_question(make, prefills, values):
    ask = Ask(Question('what?', deadline_s=0.01, **values))
    answer = make().run(window(1000), ask=ask, on_hint=lambda _: time.sleep(0.02))
    assert prefills == [3] and ask.is_over and ask.reply.answer.hint == answer.hint
    reason = f'no answer came within 0.01 s: {NOTHING_INFERRED}'
    assert (ask.reply.status, ask.reply.reason, ask.reply.has_answer) == (Status.TIMEOUT, reason, False)


@pytest.mark.parametrize('values', PARTS[1:])
def test_a_prompt_of_its_own_that_takes_too_long_ends_a_question(make, loaded, monkeypatch, values):
    ask, prefill = Ask(Question('what?', deadline_s=60.0, current_only=True, **values)), loaded[0].prefill

    def slow(system, content):
        if sum(not isinstance(part, str) for part in content) < 6:
            assert ask.waits_for == IN_WORK
            ask.deadline = time.monotonic()
        return prefill(system, content)

    monkeypatch.setattr(loaded[0], 'prefill', slow)
    make().run(window(800, 1000), ask=ask)
    assert ask.reply.answer.stamp_ns == 1000 * MS
    assert (ask.reply.status, ask.reply.reason, ask.reply.text) == (Status.TIMEOUT, TOO_LATE, '')


def test_a_deadline_that_passes_before_the_first_word_leaves_none(make, loaded, monkeypatch):
    ask = Ask(TEXT)

    def late(write, *arguments):
        assert ask.waits_for == IN_WORK
        return write(time.monotonic(), *arguments[1:])

    monkeypatch.setattr(loaded[0], 'begin', with_changed_texts(loaded[0], late))
    make().run(window(1000), ask=ask)
    assert (ask.reply.status, ask.reply.reason, ask.reply.text) == (Status.TIMEOUT, TOO_LATE, '')
    assert ask.reply.answer.stamp_ns == 1000 * MS and [*ask.reply.stage_ms] == ['write']


def test_a_question_that_is_over_is_dropped_and_the_next_begins(make):
    pipeline, first, second = make(), Ask(TEXT), Ask(Question('what is right of me?', deadline_s=60.0))
    pipeline.run(window(1000), ask=first, leave=lambda: True)
    first.finish(Reply(Status.NO_HINT, 'cancelled'))
    pipeline.run(window(1100), ask=second)
    assert first.reply.reason == 'cancelled' and second.reply.status == Status.OK
    assert second.reply.answer.stamp_ns == 1100 * MS


class Held:
    """A text; ``closed`` counts how often it was given up."""

    def __init__(self, text):
        self.text, self.closed = text, 0

    def close(self):
        self.closed += 1
        self.text.close()

    def __getattr__(self, name):
        return getattr(self.text, name)


@pytest.fixture
def held(loaded, monkeypatch):
    """The texts that were begun."""
    seen, begin = [], loaded[0].begin

    def hold(*arguments):
        seen.append(Held(begin(*arguments)))
        return seen[-1]

    monkeypatch.setattr(loaded[0], 'begin', hold)
    return seen


@pytest.mark.parametrize('gone', [True, False])
def test_a_question_that_is_over_holds_nothing_and_does_not_begin_again(make, held, gone):
    """Whether the node still knows of it in the next tick or not."""
    pipeline, ask = make(), Ask(TEXT)
    pipeline.run(window(1000), ask=ask, leave=lambda: True)
    assert [text.closed for text in held] == [0]
    ask.finish(Reply(Status.NO_HINT, 'cancelled'))
    pipeline.run(window(1100), ask=None if gone else ask)
    assert [text.closed for text in held] == [1]


def test_another_question_takes_the_place_of_one_that_nobody_ended(make, held):
    pipeline, second = make(), Ask(Question('what is right of me?', deadline_s=60.0))
    pipeline.run(window(1000), ask=Ask(TEXT), leave=lambda: True)
    pipeline.run(window(1100), ask=second)
    assert [text.closed for text in held] == [1, 0]
    assert second.reply.status == Status.OK and second.reply.answer.stamp_ns == 1100 * MS


def test_a_text_that_ended_by_itself_is_not_given_up(make, held):
    pipeline, ask = make(), Ask(TEXT)
    pipeline.run(window(1000), ask=ask)
    assert ask.is_over
    pipeline.run(window(1100))
    assert [text.closed for text in held] == [0]


def test_freed_caches_give_a_text_up_and_the_question_begins_anew(make, held):
    pipeline, ask = make(), Ask(TEXT)
    pipeline.run(window(1000), ask=ask, leave=lambda: True)
    pipeline.free()
    assert [text.closed for text in held] == [1] and not ask.is_over
    pipeline.run(window(1100), ask=ask)
    assert ask.reply.status == Status.OK and ask.reply.answer.stamp_ns == 1100 * MS


def test_a_text_goes_on_where_a_set_cannot_be_inferred(make):
    pipeline, ask = make({**QUIET, 'cameras.critical': ['FRONT']}), Ask(TEXT)
    pipeline.run(window(900, without=('FRONT',)), ask=ask)
    assert ask.reply is None and ask.waits_for == NOTHING_INFERRED
    pipeline.run(window(1000), ask=ask, leave=lambda: True)
    assert ask.reply.tokens == 1
    pipeline.run(window(1100, without=('FRONT',)), ask=ask, leave=lambda: True)
    assert ask.reply.tokens == 2 and ask.reply.answer.stamp_ns == 1000 * MS


def test_whoever_cancels_within_a_tick_is_not_written_for(make):
    ask = Ask(TEXT, lambda: ask.reply.tokens == 2 and ask.finish(Reply(Status.NO_HINT, 'cancelled', tokens=2)))
    told, tell = [], ask.tell
    ask.tell = lambda words: told.append(words.tokens) or tell(words)
    make().run(window(1000), ask=ask)
    assert ask.reply.reason == 'cancelled' and told == [1, 2]


def test_words_so_far_are_those_of_a_text_cut_short(make):
    told = []
    ask = Ask(TEXT, lambda: told.append(ask.reply))
    make().run(window(1000, without=('LEFT',)), ask=ask)
    for number, words in enumerate(told[:-1], 1):
        assert (words.status, words.truncated, words.tokens) == (Status.TIMEOUT, True, number)
        assert words.reason == 'the deadline of 60 s cut the answer short' and words.answer.stamp_ns == 1000 * MS


def test_a_cancelled_tick_leaves_the_text(make):
    pipeline, ask, cancel = make(), Ask(TEXT), Event()
    pipeline.run(window(1000), ask=ask, cancel=cancel, on_hint=lambda _: cancel.set())
    assert not ask.is_over
    pipeline.run(window(1100), ask=ask)
    assert ask.reply.status == Status.OK


def test_what_fails_is_said_and_the_hint_stays(make, loaded, monkeypatch):
    def broken(*_):
        raise RuntimeError('CUDA error')

    freed, pipeline, ask, hints = [], make(), Ask(TEXT), []
    monkeypatch.setattr(loaded[0], 'begin', broken)
    monkeypatch.setattr(loaded[0], 'free', lambda: freed.append(True))
    pipeline.run(window(1000), ask=ask, on_hint=hints.append)
    assert ask.reply.status == Status.ERROR and ask.reply.reason == 'the answer failed with RuntimeError: CUDA error'
    assert hints[0].hint.status == Status.OK and freed == [True] and ask.reply.answer.hint == hints[0].hint


def test_what_fails_in_a_later_tick_is_about_the_set_that_it_was_begun_with(make, held, monkeypatch):
    def broken(*_):
        raise RuntimeError('CUDA error')

    pipeline, ask = make(), Ask(TEXT)
    pipeline.run(window(1000), ask=ask, leave=lambda: True)
    monkeypatch.setattr(held[0].text, 'write', broken, raising=False)
    pipeline.run(window(1100), ask=ask)
    assert ask.reply.status == Status.ERROR and ask.reply.answer.stamp_ns == 1000 * MS
    assert held[0].closed == 1


def test_what_an_engine_refuses_is_said_in_its_words(make, loaded, monkeypatch):
    def full(*_):
        raise StpruneError('900 tokens more do not fit')

    freed, ask = [], Ask(TEXT)
    monkeypatch.setattr(loaded[0], 'begin', full)
    monkeypatch.setattr(loaded[0], 'free', lambda: freed.append(True))
    make().run(window(1000), ask=ask)
    assert (ask.reply.status, ask.reply.reason, freed) == (Status.ERROR, '900 tokens more do not fit', [])
