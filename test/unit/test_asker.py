"""Questions: their bounds, what they are answered from, and that hints go on as without them."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import pairwise
from threading import Event

import numpy as np
import pytest
import torch
from helpers.engines import make_tiny, needs_llama
from helpers.texts import with_changed_texts
from helpers.tiny_gguf import make_tiny_gguf

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import CameraFrame, EgoState, FrameSet, Status, Window
from stprune_ros.errors import StpruneError
from stprune_ros.inference.asker import asked_views
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.inference.question import IN_WORK, NO_GAP, NOTHING_INFERRED, Ask, Question, Reply
from stprune_ros.inference.stages import StageClock
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model
from stprune_ros.vlm.parsing import clean_text
from stprune_ros.vlm.prompt import View

MS = 1_000_000
NAMES = ('FRONT', 'RIGHT', 'LEFT')
EGO = EgoState(0, None, None, (5.0, 0.0, 0.0), (0.0, 0.0, 0.1))
TOKENS = 6
QUIET = {'inference.describe': False}
PACED = {'inference.describe_period_ms': 5000.0, 'output.valid_for_ms': 60000.0, 'inference.watchdog_ms': 0.0}
TEXT = Question('what is left of me?', deadline_s=60.0)
CANDIDATES = ('a car', 'a wall', 'nothing')


@pytest.fixture(scope='module', params=['transformers', pytest.param('llama.cpp', marks=needs_llama)])
def loaded(request, tmp_path_factory):
    """A tiny model that passes for a trained one, on each engine, and its prompt."""
    path = make_tiny(request.param, tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    values = {'model.path': str(path), 'model.device': 'cpu', 'model.engine': request.param}
    if request.param == 'llama.cpp':
        values['model.gguf'] = str(make_tiny_gguf(path, path.with_suffix('.gguf')))
    return load_model(Settings.from_values(values))


@pytest.fixture
def make(loaded, tmp_path):
    path = tmp_path / 'rig.yaml'
    entries = [f'{n}: {{azimuth_deg: {a}, hfov_deg: 90, width: 96, height: 64}}' for n, a in zip(NAMES, (0, -120, 120))]
    path.write_text('cameras:\n  ' + '\n  '.join(entries))

    def build(values=QUIET):
        settings = Settings.from_values({'inference.max_new_tokens': TOKENS, 'pruning.keep_ratio': 0.25, **values})
        return Pipeline(settings, loaded[0], CameraRig.from_file(path), loaded[1], decode)

    return build


def decode(frame, _limits):
    seed = [NAMES.index(frame.camera), frame.stamp_ns % 2**32]
    return np.random.default_rng(seed).integers(0, 255, (64, 96, 3), np.uint8), 1


def frame_set(ms, without=()):
    frames = {n: CameraFrame(n, ms * MS) for n in NAMES if n not in without}
    return FrameSet(ms, ms * MS, NAMES, frames, ego=EGO)


def window(*times, without=()):
    return Window(tuple(frame_set(ms, without) for ms in times), len(times))


@pytest.fixture
def prefills(loaded, monkeypatch):
    """The contents that were prefilled: the camera of each text with one, and how many images."""
    seen = []
    prefill = loaded[0].prefill

    def count(system, content):
        seen.append(sum(not isinstance(part, str) for part in content))
        return prefill(system, content)

    monkeypatch.setattr(loaded[0], 'prefill', count)
    return seen


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


def test_a_question_that_would_end_a_turn_is_refused(make, loaded):
    mark = loaded[0]._chat._tokenizer.eos_token
    for question in (Question(f'what? {mark}'), Question('what?', candidates=('yes', f'no {mark}'))):
        ask = Ask(question)
        make().run(window(1000), ask=ask)
        assert ask.reply.status == Status.NO_HINT
        assert f"holds '{mark}', which is no word to this model: remove it" in ask.reply.reason


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


def test_what_fails_is_said_and_the_hint_stays(make, loaded, monkeypatch):
    def broken(*_):
        raise RuntimeError('CUDA error')

    freed, pipeline, ask, hints = [], make(), Ask(TEXT), []
    monkeypatch.setattr(loaded[0], 'begin', broken)
    monkeypatch.setattr(loaded[0], 'free', lambda: freed.append(True))
    pipeline.run(window(1000), ask=ask, on_hint=hints.append)
    assert ask.reply.status == Status.ERROR and ask.reply.reason == 'the answer failed with RuntimeError: CUDA error'
    assert hints[0].hint.status == Status.OK and freed == [True] and ask.reply.answer.hint == hints[0].hint


def test_what_an_engine_refuses_is_said_in_its_words(make, loaded, monkeypatch):
    def full(*_):
        raise StpruneError('900 tokens more do not fit')

    freed, ask = [], Ask(TEXT)
    monkeypatch.setattr(loaded[0], 'begin', full)
    monkeypatch.setattr(loaded[0], 'free', lambda: freed.append(True))
    make().run(window(1000), ask=ask)
    assert (ask.reply.status, ask.reply.reason, freed) == (Status.ERROR, '900 tokens more do not fit', [])


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
