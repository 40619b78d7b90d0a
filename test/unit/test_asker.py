"""Questions: what they are answered from, and that hints and descriptions go on as without them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers.asked_pipeline import (
    CANDIDATES,
    EGO,
    ENGINES,
    MS,
    PACED,
    TEXT,
    TOKENS,
    asked_pipeline,
    counted_prefills,
    frame_set,
    loaded_engine,
    window,
)
from helpers.texts import with_changed_texts

from stprune_ros.core.types import Status, Window
from stprune_ros.inference.asker import asked_views
from stprune_ros.inference.question import NO_GAP, Ask, Question
from stprune_ros.inference.stages import StageClock
from stprune_ros.vlm.parsing import clean_text
from stprune_ros.vlm.prompt import View


@pytest.fixture(scope='module', params=ENGINES)
def loaded(request, tmp_path_factory):
    return loaded_engine(request.param, tmp_path_factory.mktemp('model'))


@pytest.fixture
def make(loaded, tmp_path):
    return partial(asked_pipeline, loaded, tmp_path)


@pytest.fixture
def prefills(loaded, monkeypatch):
    return counted_prefills(loaded[0], monkeypatch)


def test_views_that_are_asked_about():
    views = [View('front', 'FRONT', ['old', 'new']), View('left', 'LEFT', ['only']), View('right', 'RIGHT', [])]
    assert asked_views(views, (), False) == views
    assert asked_views(views, ('LEFT', 'FRONT'), False) == views[:2]
    assert asked_views(views, (), True) == [View('front', 'FRONT', ['new']), *views[1:]]


def test_a_text_comes_from_the_prompt_of_the_tick(make, prefills):
    pipeline, ask = make(), Ask(TEXT)
    answer = pipeline.run(window(800, 1000), ask=ask)
    assert prefills == [6], 'none of its own'
    reply = ask.reply
    assert ask.is_over and reply.status == Status.OK and reply.text and reply.reason == ''
    assert 0 < reply.tokens <= TOKENS and reply.truncated == (reply.tokens == TOKENS)
    assert replace(reply.answer, description=answer.description) == answer
    assert reply.answer.stamp_ns == 1000 * MS and reply.probabilities == ()
    assert [*reply.stage_ms] == ['write'] and reply.stage_ms['write'] > 0
    alone = make()
    scene = alone._infer(window(800, 1000), 0.0, None, False, StageClock())[1]
    expected = alone.backend.generate(scene.context, TEXT.text, TOKENS)
    assert (reply.text, reply.tokens) == (clean_text(expected.text)[0], expected.tokens)


def test_hints_are_the_same_with_and_without_a_question(make):
    without, asked = make(), make()
    for ms in (1000, 1100, 1200):
        alone = without.run(window(ms))
        answer = asked.run(window(ms), ask=Ask(TEXT))
        assert answer.hint == alone.hint


def test_a_question_goes_on_by_one_token_a_tick_where_newer_sets_always_wait(make):
    whole, ask, told = Ask(TEXT), None, []
    make().run(window(1000), ask=whole)
    ask = Ask(TEXT, lambda: told.append(ask.reply))
    pipeline, hints = make(), []
    ticks = 0
    while not ask.is_over:
        pipeline.run(window(1000 + 100 * ticks), ask=ask, leave=lambda: True, on_hint=hints.append)
        ticks += 1
        assert ticks <= TOKENS + 1
    assert len(hints) == ticks and [reply.tokens for reply in told[:-1]] == [*range(1, len(told))]
    for one, other in pairwise(told):
        assert other.text.startswith(one.text)
    assert (ask.reply.text, ask.reply.tokens) == (whole.reply.text, whole.reply.tokens)
    assert ask.reply.answer.stamp_ns == 1000 * MS, 'of the set that it was begun with'
    assert ticks == ask.reply.tokens + (0 if ask.reply.truncated else 1)


def test_candidates_are_scored_and_sum_to_one(make, prefills):
    ask = Ask(Question('which?', candidates=CANDIDATES))
    answer = make().run(window(1000), ask=ask)
    reply = ask.reply
    assert prefills == [3]
    assert reply.status == Status.OK and sum(reply.probabilities) == pytest.approx(1) and reply.tokens == 0
    assert reply.text == CANDIDATES[int(np.argmax(reply.probabilities))] and len(reply.probabilities) == 3
    assert [*reply.stage_ms] == ['score'] and reply.answer.hint == answer.hint


@pytest.mark.parametrize(
    ('values', 'images'),
    [
        ({'cameras': ('LEFT',)}, 2),
        ({'cameras': ('LEFT', 'FRONT')}, 4),
        ({'cameras': ('FRONT', 'RIGHT')}, 4),
        ({'current_only': True}, 3),
        ({'cameras': ('RIGHT',), 'current_only': True}, 1),
        ({'cameras': ('LEFT', 'FRONT', 'RIGHT')}, None),
    ],
)
def test_a_part_of_the_window_takes_a_prompt_of_its_own(make, prefills, values, images):
    ask = Ask(Question('what?', deadline_s=60.0, **values))
    make().run(window(800, 1000), ask=ask)
    assert prefills == [6] + ([] if images is None else [images])
    assert ask.reply.status == Status.OK and ('prefill' in ask.reply.stage_ms) == (images is not None)


def test_a_prompt_of_its_own_waits_until_no_newer_set_does(make, prefills):
    pipeline, ask = make(), Ask(Question('what?', cameras=('LEFT',), deadline_s=60.0))
    pipeline.run(window(1000), ask=ask, leave=lambda: True)
    assert prefills == [3] and not ask.is_over and ask.waits_for == NO_GAP
    pipeline.run(window(1100), ask=ask, leave=lambda: False)
    assert prefills == [3, 3, 1] and ask.reply.status == Status.OK and ask.reply.answer.stamp_ns == 1100 * MS


def test_a_prompt_of_its_own_says_of_its_part_what_that_of_the_tick_does(make, loaded, monkeypatch):
    seen, prefill = [], loaded[0].prefill
    monkeypatch.setattr(loaded[0], 'prefill', lambda *prompt: seen.append(prompt) or prefill(*prompt))
    make().run(window(800, 1000), ask=Ask(Question('what?', cameras=('LEFT',), current_only=True)))
    scene = make()._infer(window(800, 1000), 0.0, None, False, StageClock())[1]
    [left] = [view for view in scene.views if view.camera == 'LEFT']
    assert len(left.frames) == 2
    expected = loaded[1].content([replace(left, frames=left.frames[1:])], EGO)
    (system, content), texts = seen[1], [part for part in expected if isinstance(part, str)]
    assert system == loaded[1].system and [part for part in content if isinstance(part, str)] == texts
    [frame] = [part for part in content if not isinstance(part, str)]
    assert torch.equal(frame.features.tokens, left.frames[1].features.tokens)


def test_a_camera_without_a_frame_cannot_be_asked_about(make):
    ask = Ask(Question('what?', cameras=('LEFT',)))
    make().run(window(1000, without=('LEFT',)), ask=ask)
    assert (ask.reply.status, ask.reply.reason) == (
        Status.NO_HINT,
        "camera 'LEFT' has no usable frame: ask about another one",
    )
    assert {view.camera: view.state.name for view in ask.reply.answer.views}['LEFT'] == 'MISSING'


def test_what_is_current_is_asked_of_cameras_that_have_it_now(make, prefills):
    """A camera that died has no current frame, whatever the history holds of it."""
    dead = Window((frame_set(800), frame_set(1000, ('LEFT',))), 2)
    ask = Ask(Question('what?', cameras=('LEFT', 'RIGHT'), current_only=True, deadline_s=60.0))
    make().run(dead, ask=ask)
    assert prefills == [4, 1] and ask.reply.status == Status.DEGRADED
    ask = Ask(Question('what?', cameras=('LEFT',), current_only=True, deadline_s=60.0))
    make().run(dead, ask=ask)
    assert ask.reply.reason == "camera 'LEFT' has no usable frame: ask about another one"


def test_incomplete_input_is_said(make):
    ask = Ask(TEXT)
    make().run(window(1000, without=('LEFT',)), ask=ask)
    assert ask.reply.status == Status.DEGRADED and ask.reply.has_answer
    assert ask.reply.reason == "the input was incomplete: camera 'LEFT' has no frame in this set"


def test_all_that_the_input_lacks_is_said(make):
    ask = Ask(TEXT)
    make().run(window(1000, without=('LEFT', 'RIGHT')), ask=ask)
    lacks = [f"camera '{camera}' has no frame in this set" for camera in ('RIGHT', 'LEFT')]
    assert ask.reply.reason == f'the input was incomplete: {"; ".join(lacks)}'


def test_times_are_taken_when_the_device_is_done_and_words_keep_theirs(make):
    waited, told, pipeline = [], [], make()
    pipeline._asker._synchronize = lambda: waited.append(True)
    ask = Ask(TEXT, lambda: told.append(ask.reply))
    pipeline.run(window(1000), ask=ask)
    assert len(waited) == 2, 'behind the beginning and behind the words'
    assert len(told) > 1 and told[0].stage_ms['write'] < told[-1].stage_ms['write']


def test_a_question_that_would_end_a_turn_is_refused(make, loaded):
    mark = loaded[0]._chat._tokenizer.eos_token
    for question in (Question(f'what? {mark}'), Question('what?', candidates=('yes', f'no {mark}'))):
        ask = Ask(question)
        make().run(window(1000), ask=ask)
        assert ask.reply.status == Status.NO_HINT
        assert f"holds '{mark}', which is no word to this model: remove it" in ask.reply.reason


def test_descriptions_wait_for_a_question_and_come_afterwards(make):
    pipeline, texts, ask = make(PACED), [], Ask(TEXT)
    pipeline.run(window(1000), on_text=texts.append, leave=lambda: True)  # a description is begun
    pipeline.run(window(1100), on_text=texts.append, ask=ask)
    assert ask.reply.status == Status.OK and texts == [], 'one text at a time'
    pipeline.run(window(1200), on_text=texts.append)
    assert [text.stamp_ns for text in texts] == [1200 * MS], 'made up for at once'


@pytest.mark.parametrize('wanted', [False, True])
def test_a_question_makes_no_description_due_and_forgets_none(make, wanted):
    pipeline, texts = make(PACED), []
    pipeline.run(window(1000), on_text=texts.append)
    pipeline.describer.wanted = wanted
    pipeline.run(window(1100), on_text=texts.append, ask=Ask(TEXT))
    pipeline.run(window(1200), on_text=texts.append)
    assert [text.stamp_ns // MS for text in texts] == [1000, *[1200] * wanted]


def test_no_description_is_wanted_where_they_are_off(make):
    pipeline, texts = make(), []
    pipeline.describer.wanted = True
    pipeline.run(window(1000), on_text=texts.append)
    assert texts == []


def test_a_description_that_is_wanted_comes_whatever_the_period(make):
    pipeline, texts = make(PACED), []
    pipeline.run(window(1000), on_text=texts.append)
    pipeline.run(window(1100), on_text=texts.append)
    pipeline.describer.wanted = True
    pipeline.run(window(1200), on_text=texts.append)
    pipeline.run(window(1300), on_text=texts.append)
    assert [text.stamp_ns // MS for text in texts] == [1000, 1200]


@pytest.mark.parametrize(
    ('text', 'note', 'without', 'status', 'reason'),
    [
        ('\x1b\u202e', '', (), Status.INVALID, 'the model wrote nothing that can be shown'),
        ('a car', 'cut', (), Status.OK, 'cut'),
        ('a car', 'cut', ('LEFT',), Status.DEGRADED, 'cut'),
    ],
)
def test_what_is_said_of_a_text(make, loaded, monkeypatch, text, note, without, status, reason):
    def other(write, *arguments):
        return replace(write(*arguments), text=text, note=note)

    monkeypatch.setattr(loaded[0], 'begin', with_changed_texts(loaded[0], other))
    ask = Ask(TEXT)
    make().run(window(1000, without=without), ask=ask)
    assert (ask.reply.status, ask.reply.reason) == (status, reason)


def test_a_model_with_random_weights_says_nothing(make, loaded, monkeypatch):
    monkeypatch.setattr(loaded[0], 'info', replace(loaded[0].info, trained=False))
    for question in (TEXT, Question('which?', candidates=CANDIDATES)):
        told = []
        ask = Ask(question, lambda: told.append(ask.reply))  # noqa: B023
        make().run(window(1000), ask=ask)
        assert told and {(reply.status, reply.text) for reply in told} == {(Status.INVALID, '')}, 'not even in between'
        assert ask.reply.reason == "model 'tiny' has random weights: its answers mean nothing"


def test_scores_that_are_no_numbers_are_no_answer(make, loaded, monkeypatch):
    pipeline, ask = make(), Ask(Question('which?', candidates=CANDIDATES))
    score = loaded[0].score

    def nan(context, question, texts):
        return [math.nan, *[-1.0] * (len(texts) - 1)] if question == 'which?' else score(context, question, texts)

    monkeypatch.setattr(loaded[0], 'score', nan)
    pipeline.run(window(1000), ask=ask)
    assert ask.reply.status == Status.INVALID and ask.reply.reason == 'the model gave candidates no probability'
