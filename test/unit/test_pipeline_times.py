"""What a tick takes: its deadline, the latency target, and which stage is charged for the work of a device."""

import math
import time
from functools import partial
from threading import Event

import pytest
import torch
from helpers.pipelines import EGO, Counting, build_pipeline, decode, frame_set, load_tiny, make_rig, window
from helpers.texts import with_changed_texts

from stprune_ros.core.types import (
    Behavior,
    Status,
)
from stprune_ros.inference import pipeline as pipeline_module
from stprune_ros.inference import stages
from stprune_ros.inference.governor import Cost
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.inference.stages import STAGES, StageClock
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.device import synchronizer


@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp('model'))


@pytest.fixture
def rig(tmp_path):
    return make_rig(tmp_path / 'rig.yaml')


@pytest.fixture
def make(loaded, rig):
    return partial(build_pipeline, loaded, rig=rig)


def test_a_deadline_that_has_passed_drops_the_hint(make):
    hints = []
    answer = make({'inference.deadline_ms': 0.001}).run(window(frame_set(1000)), on_hint=hints.append)
    assert answer.hint.status == answer.description.status == Status.TIMEOUT
    assert [hint.hint for hint in hints] == [answer.hint]


def test_cancel_ends_the_tick(make):
    cancel = Event()
    cancel.set()
    answer = make().run(window(frame_set(1000)), cancel=cancel)
    assert answer.hint.status == Status.NO_HINT
    assert answer.hint.behavior == Behavior.UNKNOWN


@pytest.mark.parametrize(('limit_ms', 'timed_out'), [(0.0, False), (10_000.0, False), (1.0, True)])
def test_the_deadline_is_milliseconds_of_processing(make, monkeypatch, limit_ms, timed_out):
    pipeline = make({'inference.deadline_ms': limit_ms})
    deadlines = []

    def spy(write, deadline, *rest):
        deadlines.append(deadline)
        return write(deadline, *rest)

    backend = pipeline.backend._backend
    monkeypatch.setattr(backend, 'begin', with_changed_texts(backend, spy))
    started = time.monotonic()
    answer = pipeline.run(window(frame_set(1000)))
    if timed_out:
        assert answer.hint.status == Status.TIMEOUT
        assert deadlines == []
    elif limit_ms:
        assert answer.hint.status == Status.OK
        assert started + limit_ms / 1e3 <= deadlines[0] <= time.monotonic() + limit_ms / 1e3
    else:
        assert deadlines == [None]


def test_without_a_latency_target_the_ratio_stays(make):
    answer = make().run(window(frame_set(1000)), wait_ms=5000.0)
    assert answer.timing.choice is None
    assert (answer.provenance.keep_ratio, answer.timing.wait_ms) == (0.25, 5000.0)
    assert 0 < answer.timing.hint_ms < answer.timing.tick_ms


def test_a_target_out_of_reach_means_the_lowest_ratio_and_a_word_about_it(make):
    pipeline = make({'latency.target_ms': 0.01, 'latency.keep_min': 0.1})
    sets = [frame_set(ms) for ms in (1000, 1500, 2000)]
    answers = [pipeline.run(window(*sets[: index + 1])) for index in range(3)]
    assert [answer.provenance.keep_ratio for answer in answers] == [0.25, 0.25, 0.1]
    assert abs(answers[-1].tokens_kept - 0.1 * answers[-1].tokens_full) <= 1
    [note] = answers[-1].notes
    assert "'latency.target_ms' is 0.01, but even at keep ratio 0.1 a hint takes about" in note
    assert answers[-1].hint.status == Status.OK


def test_the_age_of_a_set_counts_against_the_target(make):
    pipeline = make({'latency.target_ms': 60000.0, 'latency.keep_max': 0.5, 'output.valid_for_ms': 60000.0})
    sets = [frame_set(ms) for ms in (1000, 1500, 2000, 2500)]
    for index in range(3):
        pipeline.run(window(*sets[: index + 1]))
    late, early = (pipeline.run(window(*sets), wait_ms=wait_ms) for wait_ms in (70000.0, 0.0))
    assert (late.provenance.keep_ratio, late.timing.choice.misses) == (0.05, True)
    assert early.provenance.keep_ratio > 0.25
    assert early.timing.choice.expected_ms < 60000


def test_a_tick_cut_by_its_deadline_is_learnt_from(make):
    pipeline = make({'latency.target_ms': 0.01, 'inference.deadline_ms': 0.001})
    sets = [frame_set(ms) for ms in (1000, 1500, 2000)]
    answers = [pipeline.run(window(*sets[: index + 1])) for index in range(3)]
    assert [answer.hint.status for answer in answers] == [Status.TIMEOUT] * 3
    assert answers[-1].provenance.keep_ratio == 0.05
    assert math.isnan(answers[-1].timing.hint_ms)


@pytest.mark.parametrize('ego', [EGO, None])
def test_a_hint_that_comes_after_the_deadline_is_none(make, monkeypatch, ego):
    """Lateness outranks degraded input: what came too late must not be used."""
    pipeline = make({'inference.deadline_ms': 10_000.0, 'inference.describe': False})
    score = pipeline.backend._backend.score

    def slow(*arguments):
        monkeypatch.setattr(StageClock, 'elapsed_ms', property(lambda clock: 11_000.0))
        return score(*arguments)

    monkeypatch.setattr(pipeline.backend._backend, 'score', slow)
    answer = pipeline.run(window(frame_set(1000, ego=ego)))
    assert (answer.hint.status, answer.hint.behavior) == (Status.TIMEOUT, Behavior.UNKNOWN)
    assert answer.hint.distribution


def test_a_tick_cancelled_after_its_hint_is_not_described(make):
    cancel = Event()
    answer = make().run(window(frame_set(1000)), cancel=cancel, on_hint=lambda _: cancel.set())
    assert answer.hint.status == Status.OK
    assert answer.description.status == Status.NO_HINT
    assert 'describe' not in answer.timing.stage_ms


def test_what_a_hint_takes_is_learnt_on_top_of_the_age_of_the_set(make):
    pipeline = make({'latency.target_ms': 60_000.0, 'output.valid_for_ms': 60000.0})
    answers = [pipeline.run(window(frame_set(ms)), wait_ms=5000.0) for ms in (1000, 1500, 2000)]
    assert answers[-1].timing.choice.expected_ms > 5000.0


def test_the_governor_learns_the_tokens_and_the_prefill_of_the_tick(make, monkeypatch):
    pipeline, chosen, costs = make({'latency.target_ms': 60_000.0, 'output.valid_for_ms': 60000.0}), [], []
    choose, observe = pipeline._governor.choose, pipeline._governor.observe
    monkeypatch.setattr(pipeline._governor, 'choose', lambda *given: chosen.append(given) or choose(*given))
    monkeypatch.setattr(pipeline._governor, 'observe', lambda cost: costs.append(cost) or observe(cost))
    answer = pipeline.run(window(frame_set(1000), frame_set(1500)), wait_ms=20.0)
    [(*_, spent_ms, tokens_full)], [cost] = chosen, costs
    assert tokens_full == answer.tokens_full
    upto_ms = answer.timing.source_to_hint_ms - spent_ms
    prefill_ms, kept = answer.timing.stage_ms['prefill'], answer.tokens_kept
    assert cost == Cost(spent_ms, upto_ms, prefill_ms, kept, kept + answer.provenance.tokens_text)


class Device:
    """A clock, and a GPU whose work takes time only when somebody waits for it."""

    def __init__(self, monkeypatch):
        self.now_s, self.pending_ms = 0.0, 0.0
        monkeypatch.setattr(stages.time, 'perf_counter', lambda: self.now_s)
        monkeypatch.setattr(stages.time, 'monotonic', lambda: self.now_s)
        monkeypatch.setattr(pipeline_module, 'synchronizer', lambda name: self.wait)

    def wait(self):
        self.now_s += self.pending_ms / 1e3
        self.pending_ms = 0.0


class Lying(Counting):
    """Says at once that everything is done; the device has yet to do it, ``ms`` of work in each stage."""

    def __init__(self, backend, device, ms):
        super().__init__(backend)
        self._device = device
        self._ms = ms

    def encode(self, images):
        self._device.pending_ms += self._ms['encode']
        return super().encode(images)

    def prefill(self, *given):
        self._device.pending_ms += self._ms['prefill']
        return self._backend.prefill(*given)

    def score(self, *given):
        self._device.pending_ms += self._ms['hint']
        return self._backend.score(*given)

    def begin(self, *given):
        self._device.pending_ms += self._ms['describe']
        return self._backend.begin(*given)


def test_what_a_device_has_yet_to_do_counts_in_the_stage_that_asked_for_it(loaded, rig, monkeypatch):
    device, ms = Device(monkeypatch), {'encode': 50.0, 'prefill': 30.0, 'hint': 20.0, 'describe': 100.0}
    backend, prompt = loaded
    values = {'inference.max_new_tokens': 2, 'latency.target_ms': 60_000.0, 'output.valid_for_ms': 60_000.0}
    pipeline, costs = Pipeline(Settings.from_values(values), Lying(backend, device, ms), rig, prompt, decode), []
    monkeypatch.setattr(pipeline._governor, 'observe', costs.append)
    answer = pipeline.run(window(frame_set(1000), frame_set(1500)), wait_ms=5.0)
    assert answer.timing.stage_ms == pytest.approx(dict.fromkeys(STAGES, 0.0) | ms)
    assert answer.timing.source_to_hint_ms == pytest.approx(105)
    assert 1e3 * device.now_s == pytest.approx(answer.timing.tick_ms)
    [cost] = costs
    assert (cost.spent_ms, cost.rest_ms, cost.prefill_ms) == pytest.approx((55, 50, 30))


def test_only_a_gpu_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, 'synchronize', waited.append)
    assert synchronizer('cpu') is None
    synchronizer('cuda:1')()
    assert waited == [torch.device('cuda:1')]


def test_a_stage_that_fails_is_not_waited_for():
    """A device that is broken would raise again, and hide what happened."""
    clock = StageClock(lambda: pytest.fail('waited'))
    with pytest.raises(ValueError), clock.stage('encode'):
        raise ValueError
    assert 'encode' in clock.stage_ms


def test_a_stage_that_runs_twice_adds_up():
    clock = StageClock()
    for _ in range(2):
        with clock.stage('decode'):
            time.sleep(0.02)
    assert clock.stage_ms['decode'] >= 40
