"""Descriptions at their own pace: which sets get one, how its text goes on between ticks, and what ends it."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
from helpers.texts import with_changed_texts
from helpers.tiny_models import make_tiny_model
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Behavior, CameraFrame, CameraState, EgoState, FrameSet, Status, Window
from stprune_ros.errors import ModelError
from stprune_ros.inference.describer import BEGUN, DROPPED, FAILED, WRITTEN, is_due, tokens_owed
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

MS = 1_000_000
NAMES = ('FRONT', 'RIGHT', 'LEFT')
EGO = EgoState(0, None, None, (5.0, 0.0, 0.0), (0.0, 0.0, 0.1))
TOKENS = 12
PACED = {'inference.describe_period_ms': 1000.0, 'output.valid_for_ms': 60000.0, 'inference.watchdog_ms': 0.0}
SOON = {'inference.describe_period_ms': 300.0}


@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
    """A tiny model that passes for a trained one, and its prompt."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return load_model(Settings.from_values({'model.path': str(path), 'model.device': 'cpu'}))


@pytest.fixture
def make(loaded, tmp_path):
    path = tmp_path / 'rig.yaml'
    entries = [f'{n}: {{azimuth_deg: {a}, hfov_deg: 90, width: 96, height: 64}}' for n, a in zip(NAMES, (0, -120, 120))]
    path.write_text('cameras:\n  ' + '\n  '.join(entries))
    backend, prompt = loaded

    def build(values):
        settings = Settings.from_values({'inference.max_new_tokens': TOKENS, 'pruning.keep_ratio': 0.25, **values})
        return Pipeline(settings, backend, CameraRig.from_file(path), prompt, decode)

    return build


def decode(frame, _limits):
    """Pixels that depend on camera and stamp."""
    seed = [NAMES.index(frame.camera), frame.stamp_ns % 2**32]
    return np.random.default_rng(seed).integers(0, 255, (64, 96, 3), np.uint8), 1


def frame_set(ms, without=()):
    frames = {n: CameraFrame(n, ms * MS) for n in NAMES if n not in without}
    return FrameSet(ms, ms * MS, NAMES, frames, ego=EGO)


def window(*sets):
    return Window(tuple(sets), 4)


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(0, 2000), st.integers(-(10**6), 2 * 10**18))
def test_the_first_set_after_a_period_is_described_and_none_before(steps, period, start):
    stamps = [start + sum(steps[:count]) for count in range(len(steps) + 1)]
    begun = []
    for stamp in stamps:
        if is_due(stamp, begun[-1] if begun else None, period):
            begun.append(stamp)
    assert begun[0] == start
    for one, other in zip(begun, [*begun[1:], None]):
        waiting = [stamp for stamp in stamps if one < stamp and (other is None or stamp < other)]
        assert all(stamp - one < period for stamp in waiting)
        assert other is None or other - one >= period
    assert is_due(begun[-1] - 1, begun[-1], period), 'time began anew'


@given(st.integers(1, 1024), st.integers(1, 10**12), st.lists(st.integers(-(10**12), 2 * 10**12), min_size=2))
def test_what_is_owed_grows_with_time_to_all_of_it(limit, span_ns, times):
    owed = [tokens_owed(limit, since, span_ns) for since in sorted(times)]
    assert owed == sorted(owed)
    for since, tokens in zip(sorted(times), owed):
        assert 0 <= tokens <= limit
        assert tokens == limit or tokens - 1 < limit * max(since, 0) / span_ns <= tokens + 1e-6 * limit
    assert (tokens_owed(limit, 0, span_ns), tokens_owed(limit, span_ns, span_ns)) == (0, limit)
    assert tokens_owed(limit, 5, 0) == limit


@pytest.fixture
def whole(make):
    """The text of a set in one go."""

    def written(stamp_ms):
        return make({}).run(window(frame_set(stamp_ms))).description

    return written


def test_descriptions_come_once_a_period_of_stamps(make):
    """However long the ticks take: nothing waits here, so each is written in its own tick."""
    pipeline, texts, hints = make(SOON), [], []
    stamps = [1000, 1100, 1290, 1300, 1400, 1700, 1999, 2000, 500, 600, 800]
    for ms in stamps:
        answer = pipeline.run(window(frame_set(ms)), on_hint=hints.append, on_text=texts.append)
        assert (answer.description.status == Status.NO_HINT) == (not texts or texts[-1].stamp_ns != ms * MS)
        assert ('describe' in answer.timing.stage_ms) == (answer.description.status != Status.NO_HINT)
    assert [text.stamp_ns // MS for text in texts] == [1000, 1300, 1700, 2000, 500, 800]
    assert [hint.stamp_ns // MS for hint in hints] == stamps
    assert pipeline.describer.counts == {BEGUN: 6, WRITTEN: 6}
    alone = make({}).run(window(frame_set(1300)))
    assert texts[1].description == alone.description


def test_a_text_that_is_left_is_that_of_its_own_set_word_for_word(make, whole):
    pipeline, texts, answers = make(PACED), [], []
    for ms in range(1000, 2100, 100):
        missing = ('LEFT',) if ms == 1000 else ()
        answers.append(
            pipeline.run(window(frame_set(ms, missing)), on_text=texts.append, leave=lambda: True, wait_ms=ms / 100)
        )
    [text] = texts
    alone = make({}).run(window(frame_set(1000, ('LEFT',))))
    assert alone.description.status == Status.DEGRADED and alone.description.text
    assert (text.description, text.stamp_ns, text.sequence) == (alone.description, 1000 * MS, 1000)
    assert [view.state for view in text.views] == [CameraState.OK, CameraState.OK, CameraState.MISSING]
    assert text.hint == answers[0].hint and text.notes == answers[0].notes and text.timing.wait_ms == 10
    assert {**text.timing.stage_ms, 'describe': 0} == {**answers[0].timing.stage_ms, 'describe': 0}
    assert text.timing.stage_ms['describe'] > 0
    for answer in answers:
        assert answer.description.status == Status.NO_HINT
        assert answer.hint.behavior != Behavior.UNKNOWN
        assert 'describe' not in answer.timing.stage_ms, 'its cost is not that of the tick'
    assert pipeline.describer.counts == {BEGUN: 2, WRITTEN: 1}, 'the next one is begun, once this one is out'


@pytest.mark.parametrize(('period', 'valid', 'last'), [(1000.0, 60000.0, 2000), (1000.0, 800.0, 1400)])
def test_a_text_is_there_before_the_next_one_is_due_and_before_it_expires(
    make,
    monkeypatch,
    period,
    valid,
    last,
):
    """Though newer sets always wait: each tick writes what is owed, and then no more."""
    pipeline, texts, written = (
        make({**PACED, 'inference.describe_period_ms': period, 'output.valid_for_ms': valid}),
        [],
        [],
    )

    def slices(write, deadline, cancel, pause):
        counted = []
        result = write(deadline, cancel, lambda tokens: counted.append(tokens) or pause(tokens))
        written.append(TOKENS if result is not None else counted[-1])
        return result

    backend = pipeline.backend
    monkeypatch.setattr(backend, 'begin', with_changed_texts(backend, slices))
    for ms in range(1000, last, 100):
        pipeline.run(window(frame_set(ms)), on_text=texts.append, leave=lambda: True)
    assert texts == []
    assert written == [tokens_owed(TOKENS, ms, last - 1000) for ms in range(0, last - 1000, 100)]
    pipeline.run(window(frame_set(last)), on_text=texts.append, leave=lambda: True)
    [text] = texts
    assert text.description.truncated and text.description.status == Status.OK, 'by the limit of tokens'


def test_what_is_not_owed_is_written_while_nothing_waits(make, whole):
    pipeline, texts = make(PACED), []
    waits = iter([False, False, True])
    pipeline.run(window(frame_set(1000)), on_text=texts.append, leave=lambda: next(waits))
    assert next(waits, None) is None and texts == []
    pipeline.run(window(frame_set(1001)), on_text=texts.append, leave=lambda: False)
    [text] = texts
    assert (text.stamp_ns, text.description) == (1000 * MS, whole(1000))


def test_the_length_of_a_text_is_that_of_its_beginning(make, whole):
    pipeline, texts = make(PACED), []
    left(pipeline)
    pipeline.settings = pipeline.settings.changed({'inference.max_new_tokens': 2})
    pipeline.run(window(frame_set(2000)), on_text=texts.append, leave=lambda: True)
    [text] = texts
    assert (text.stamp_ns, text.description) == (1000 * MS, whole(1000))


def test_what_an_engine_says_of_a_text_stands_beside_it_and_in_the_notes(make, monkeypatch):
    pipeline, texts, crowded = make({}), [], 'no room beside the next prompt'
    backend = pipeline.backend
    changed = with_changed_texts(backend, lambda write, *given: replace(write(*given), note=crowded))
    monkeypatch.setattr(backend, 'begin', changed)
    answer = pipeline.run(window(frame_set(1000)), on_text=texts.append)
    assert texts == [answer]
    assert answer.description.note == crowded and answer.notes[-1] == crowded


def left(pipeline, ms=1000):
    """A pipeline that has begun a text and left it."""
    assert pipeline.run(window(frame_set(ms)), leave=lambda: True).description.status == Status.NO_HINT
    assert pipeline.describer.counts == {BEGUN: 1}


def cancelled(pipeline, texts):
    cancel = Event()
    return pipeline.run(window(frame_set(1100)), on_text=texts.append, on_hint=lambda _: cancel.set(), cancel=cancel)


def switched_off(pipeline, texts):
    pipeline.settings = pipeline.settings.changed({'inference.describe': False})
    return pipeline.run(window(frame_set(1100)), on_text=texts.append)


def time_goes_back(pipeline, texts):
    pipeline.settings = pipeline.settings.changed({'inference.describe': True})
    return pipeline.run(window(frame_set(999, NAMES)), on_text=texts.append)  # nothing to infer from


def freed(pipeline, texts):
    pipeline.free()
    return pipeline.run(window(frame_set(1100)), on_text=texts.append)


@pytest.mark.parametrize('end', [cancelled, switched_off, time_goes_back, freed])
def test_what_ends_a_text_is_counted_and_nothing_of_it_goes_out(make, end):
    pipeline, texts = make(PACED), []
    left(pipeline)
    text = pipeline.describer._draft.text
    answer = end(pipeline, texts)
    assert 1000 * MS not in [text.stamp_ns for text in texts]
    assert answer.description.status == Status.NO_HINT
    assert pipeline.describer.counts == {BEGUN: 1, DROPPED: 1}
    assert pipeline.describer._draft is None
    with pytest.raises(ModelError, match='a text was to go on that had ended'):
        text.write()  # it holds nothing any more


def test_a_text_cancelled_while_it_goes_on_is_dropped(make):
    pipeline, texts, cancel = make(PACED), [], Event()
    left(pipeline)
    pipeline.run(window(frame_set(1100)), on_text=texts.append, cancel=cancel, leave=lambda: cancel.set() or False)
    assert texts == [] and pipeline.describer.counts == {BEGUN: 1, DROPPED: 1}


@pytest.mark.parametrize('hinted', [False, True])
def test_a_tick_that_is_cancelled_begins_no_text(make, hinted):
    pipeline, texts, cancel = make(PACED), [], Event()
    if not hinted:
        cancel.set()
    pipeline.run(window(frame_set(1000)), on_text=texts.append, on_hint=lambda _: cancel.set(), cancel=cancel)
    assert texts == [] and pipeline.describer.counts == {}


def test_a_text_that_fails_between_ticks_fails_as_that_of_its_set(make, monkeypatch):
    pipeline, hints, texts = make(PACED), [], []
    backend, begin = pipeline.backend, pipeline.backend.begin

    def failing(write, *given):
        if hints[-1].stamp_ns == 1100 * MS:
            raise RuntimeError('CUDA error')
        return write(*given)

    monkeypatch.setattr(backend, 'begin', with_changed_texts(backend, failing))
    run = {'on_hint': hints.append, 'on_text': texts.append, 'leave': lambda: True}
    pipeline.run(window(frame_set(1000)), **run)
    with pytest.raises(RuntimeError, match='CUDA error'):
        pipeline.run(window(frame_set(1100)), **run)
    assert [hint.stamp_ns // MS for hint in hints] == [1000, 1100], 'the hint stays'
    assert pipeline.describer.failed == hints[0]
    pipeline.run(window(frame_set(1200)), **run)
    assert pipeline.describer.failed is None
    assert pipeline.describer.counts == {BEGUN: 1, FAILED: 1}, 'one a period, also after a failure'
    monkeypatch.setattr(backend, 'begin', begin)
    pipeline.run(window(frame_set(2000)), on_text=texts.append)
    [text] = texts
    assert text.stamp_ns == 2000 * MS


def test_a_beginning_that_fails_is_counted_too(make, monkeypatch):
    pipeline, hints = make(PACED), []
    monkeypatch.setattr(pipeline.backend, 'begin', lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pipeline.run(window(frame_set(1000)), on_hint=hints.append)
    assert pipeline.describer.failed == hints[0]
    assert pipeline.describer.counts == {BEGUN: 1, FAILED: 1}
    assert pipeline.run(window(frame_set(1100))).description.status == Status.NO_HINT


def test_the_deadline_counts_the_processing_time_of_the_text_s_own_set(make, monkeypatch):
    pipeline, lefts = make({**PACED, 'inference.deadline_ms': 50_000.0}), []

    def slow(write, deadline, *rest):
        lefts.append(deadline - time.monotonic())
        time.sleep(0.2)
        return write(deadline, *rest)

    backend = pipeline.backend
    monkeypatch.setattr(backend, 'begin', with_changed_texts(backend, slow))
    first = pipeline.run(window(frame_set(1000)), leave=lambda: True)
    time.sleep(0.5)  # what other ticks take
    pipeline.run(window(frame_set(1100)), leave=lambda: True)
    assert lefts[0] == pytest.approx(50 - first.timing.tick_ms / 1e3, abs=0.3)
    assert 0.2 <= lefts[0] - lefts[1] < 0.5


def test_the_deadline_counts_the_way_to_the_hint_and_no_older_text(make, monkeypatch):
    """One of an earlier set that is written to its end in the tick in which the next is begun."""
    pipeline, lefts = make({**PACED, 'inference.deadline_ms': 50_000.0}), []
    backend, score = pipeline.backend, pipeline.backend.score

    def slow_score(*given):
        time.sleep(1.0)
        return score(*given)

    def slow(write, deadline, *rest):
        lefts.append(deadline - time.monotonic())
        time.sleep(3.0 * (len(lefts) == 2))
        return write(deadline, *rest)

    monkeypatch.setattr(backend, 'begin', with_changed_texts(backend, slow))
    monkeypatch.setattr(backend, 'score', slow_score)
    for ms in (1000, 2000):
        pipeline.run(window(frame_set(ms)), leave=lambda: True)
    assert pipeline.describer.counts == {BEGUN: 2, WRITTEN: 1}
    assert lefts[0] <= 49 and lefts[1] <= 49
    assert 47 < lefts[2] <= 49


def test_a_text_past_its_deadline_goes_out_as_it_is(make, monkeypatch):
    pipeline, texts = make({**PACED, 'inference.deadline_ms': 30_000.0}), []
    pipeline.run(window(frame_set(1000)), on_text=texts.append, leave=lambda: True)
    pipeline.run(window(frame_set(1250)), on_text=texts.append, leave=lambda: True)
    pipeline.describer._draft.describe_ms = 30_000.0
    pipeline.run(window(frame_set(1300)), on_text=texts.append, leave=lambda: True)
    [text] = texts
    assert (text.stamp_ns, text.description.status, text.description.truncated) == (1000 * MS, Status.TIMEOUT, True)
    assert pipeline.describer.counts == {BEGUN: 1, WRITTEN: 1}


def test_sets_that_are_due_and_have_no_hint_say_so_in_their_order(make):
    """Behind the text that is in progress; and the next set is due."""
    pipeline, texts = make(PACED), []
    counts = pipeline.describer.counts = Counter()
    pipeline.run(window(frame_set(1000)), on_text=texts.append, leave=lambda: True)
    pipeline.run(window(frame_set(1900, ('FRONT',))), on_text=texts.append, leave=lambda: True)
    assert texts == []
    pipeline.run(window(frame_set(2000, ('FRONT',))), on_text=texts.append, leave=lambda: True)
    pipeline.run(window(frame_set(2100)), on_text=texts.append)
    assert [(text.stamp_ns // MS, text.description.status) for text in texts] == [
        (1000, Status.OK),
        (2000, Status.NO_HINT),
        (2100, Status.OK),
    ]
    assert counts == {BEGUN: 2, WRITTEN: 2}


def test_the_governor_does_not_learn_what_texts_of_other_sets_take(make, monkeypatch):
    pipeline, costs = make({**PACED, 'latency.target_ms': 60_000.0}), []
    monkeypatch.setattr(pipeline._governor, 'observe', costs.append)

    def slow(write, *given):
        time.sleep(2.0)
        return write(*given)

    backend = pipeline.backend
    monkeypatch.setattr(backend, 'begin', with_changed_texts(backend, slow))
    answers = [pipeline.run(window(frame_set(ms)), leave=lambda: True) for ms in (1000, 1100)]
    assert all(cost.spent_ms + cost.rest_ms < 2000 for cost in costs) and len(costs) == 2
    assert all(answer.timing.source_to_hint_ms < 2000 and answer.timing.tick_ms < 2000 for answer in answers)
