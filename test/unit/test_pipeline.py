"""One tick from a window of frame sets to an answer, with a tiny model."""

import math
from dataclasses import replace
from functools import partial
from threading import Event

import numpy as np
import pytest
import torch
from helpers.pipelines import EGO, MS, NAMES, build_pipeline, decode, frame_set, load_tiny, make_rig, window
from helpers.texts import with_changed_texts

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import (
    Behavior,
    CameraState,
    EgoState,
    Provenance,
    Status,
)
from stprune_ros.inference.features import view_tokens
from stprune_ros.inference.stages import STAGES, StageClock
from stprune_ros.pruning import greedy_graph
from stprune_ros.pruning.config import METHOD_NAMES
from stprune_ros.pruning.pruner import SpatioTemporalPruner
from stprune_ros.pruning.reason import DROPPED_REASONS, KEPT_REASONS
from stprune_ros.pruning.similarity import STRIPS
from stprune_ros.vlm.backend import ImageFeatures, VisualFrame
from stprune_ros.vlm.prompt import View


@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp('model'))


@pytest.fixture
def rig(tmp_path):
    return make_rig(tmp_path / 'rig.yaml')


@pytest.fixture
def make(loaded, rig):
    return partial(build_pipeline, loaded, rig=rig)


def test_a_tick_says_everything(make):
    pipeline = make()
    hints = []
    answer = pipeline.run(window(frame_set(1000), frame_set(1500)), on_hint=hints.append)
    assert answer.hint.status == Status.OK
    assert answer.description.status in (Status.OK, Status.INVALID)
    assert answer.hint.behavior != Behavior.UNKNOWN
    assert math.fsum(p for _, p in answer.hint.distribution) == pytest.approx(1)
    assert answer.hint.confidence == max(p for _, p in answer.hint.distribution)
    assert [view.camera for view in answer.views] == list(NAMES)
    for view in answer.views:
        assert view.state == CameraState.OK
        assert view.frames == 2
        assert view.keep.shape[0] == 2
        assert abs(view.tokens_kept - 0.25 * view.tokens_full) <= 1
    assert tuple(answer.timing.stage_ms) == STAGES
    assert answer.stamp_ns == 1500 * MS
    [hint] = hints
    assert hint.hint.behavior == answer.hint.behavior
    assert 'describe' not in hint.timing.stage_ms


def test_a_tick_encodes_only_its_new_frames(make):
    pipeline = make()
    sets = [frame_set(ms) for ms in (1000, 1500, 2000, 2500, 3000)]
    pipeline.run(window(*sets[:1]))
    assert pipeline.backend.encoded == 3
    pipeline.run(window(*sets[:4]))
    assert pipeline.backend.encoded == 12
    pipeline.run(window(*sets[1:]))
    assert pipeline.backend.encoded == 15
    assert len(pipeline._features._frames) == 12  # bounded by the window


def test_a_camera_that_comes_back_is_not_encoded_again(make):
    pipeline = make()
    sets = [frame_set(1000), frame_set(1500), frame_set(2000, without=('LEFT',)), frame_set(2500)]
    for count, encoded in ((2, 6), (3, 8), (4, 11)):
        answer = pipeline.run(window(*sets[:count]))
        assert pipeline.backend.encoded == encoded
    assert [view.frames for view in answer.views] == [4, 4, 3]


def test_cached_features_give_the_same_answer(make):
    warm, cold = make(), make()
    sets = [frame_set(ms) for ms in (1000, 1500, 2000)]
    warm.run(window(*sets[:2]))
    first, second = warm.run(window(*sets)), cold.run(window(*sets))
    assert first.hint.distribution == second.hint.distribution
    assert first.description == second.description
    assert all((a.keep == b.keep).all() for a, b in zip(first.views, second.views))


def test_similarities_of_frames_that_stay_are_not_computed_again(make, monkeypatch):
    pairs = []
    multiply = torch.mm
    monkeypatch.setattr(torch, 'mm', lambda a, b, out: pairs.append(1) or multiply(a, b, out=out))
    pipeline = make()
    sets = [frame_set(ms) for ms in (1000, 1500, 2000, 2500)]
    pipeline.run(window(*sets[:3]))
    assert len(pairs) == 3 * (3 + 3 * STRIPS)  # views times pairs of frames, and each frame with itself in strips
    pipeline.run(window(*sets[1:]))
    assert len(pairs) == 3 * (3 + 3 * STRIPS + 2 + STRIPS)
    assert pipeline._similarities.bytes > 0
    pipeline.free()
    assert pipeline._similarities.bytes == 0


def test_untrained_weights_are_never_an_answer(make):
    answer = make(trained=False).run(window(frame_set(1000)))
    assert answer.hint.status == answer.description.status == Status.INVALID
    assert answer.hint.behavior == Behavior.UNKNOWN
    assert answer.hint.distribution
    assert any('random weights' in note for note in answer.notes)


def test_a_model_of_one_world_says_so(make):
    pipeline = make()
    pipeline.backend.info = replace(pipeline.backend.info, domain='a toy town')
    answer = pipeline.run(window(frame_set(1000)))
    assert answer.hint.status == Status.OK
    assert any('knows only a toy town' in note for note in answer.notes)


def test_describing_can_be_switched_off(make):
    answer = make({'inference.describe': False}).run(window(frame_set(1000)))
    assert answer.hint.status == Status.OK
    assert answer.description.status == Status.NO_HINT
    assert 'describe' not in answer.timing.stage_ms


def test_a_note_alone_degrades_nothing(make):
    pipeline = make({'latency.target_ms': 0.01})
    pipeline.backend.info = replace(pipeline.backend.info, domain='a toy town')
    answers = [pipeline.run(window(frame_set(ms))) for ms in (1000, 1500, 2000)]
    assert len(answers[-1].notes) == 2
    assert answers[-1].hint.status == Status.OK


def test_reasons_come_on_demand_after_the_tick_and_once(make):
    sets = [frame_set(ms) for ms in (1000, 1500, 2000)]
    pipeline, plain = make(), make()
    for end in (2, 3):
        answer, expected = pipeline.run(window(*sets[:end]), with_images=True), plain.run(window(*sets[:end]))
        assert all(view.reasons is None for view in answer.views)
        found = pipeline.explained(answer)
        for view, other in zip(found.views, expected.views):
            assert np.array_equal(view.keep, other.keep), 'explaining changes no later mask'
            assert view.reasons.shape == view.keep.shape and view.reasons.dtype == np.uint8
            assert set(view.reasons[view.keep].tolist()) <= set(KEPT_REASONS)
            assert set(view.reasons[~view.keep].tolist()) <= set(DROPPED_REASONS)
        assert replace(found, views=answer.views) == answer
        assert pipeline.explained(answer) is answer, 'what it takes is not kept any longer'
        assert plain.explained(expected) is expected
    pipeline.run(window(*sets), with_images=True)
    without = pipeline.run(window(*sets, frame_set(2500, without=('FRONT',))), with_images=True)
    assert pipeline.explained(without) is without, 'not the tokens of the tick before'


def test_pictures_are_in_the_answer_where_somebody_asks(make):
    pipeline = make()
    sets = [frame_set(1000), frame_set(1500, without=('LEFT',))]
    assert all(view.image is None for view in pipeline.run(window(sets[0])).views)
    answer = pipeline.run(window(*sets), with_images=True)
    for view in answer.views[:2]:
        assert (view.image == decode(sets[1].frames[view.camera], 0)[0]).all()
    assert answer.views[2].image is None
    assert all(view.image is None for view in answer.without_images().views)


def test_slots_count_from_the_end_of_the_history(make):
    """At a cold start the frames that are there take the newest slots: recency must not call an old frame new."""
    pipeline = make()
    views, _ = pipeline._features.update(window(frame_set(1000), frame_set(1500, without=('LEFT',))), StageClock())
    assert [view.slots for view in views] == [(2, 3), (2, 3), ()]
    egos = [replace(EGO, stamp_ns=ms * MS) for ms in (1000, 1500, 2000, 2500)]
    sets = [frame_set(ms, ego=ego) for ms, ego in zip((1000, 1500, 2000, 2500), egos)]
    views, _ = pipeline._features.update(window(*sets), StageClock())
    assert [view.slots for view in views] == [(0, 1, 2, 3)] * 3
    assert [view.egos for view in views] == [tuple(egos)] * 3


def test_view_tokens_hold_what_calibration_and_odometry_know(tmp_path):
    path = tmp_path / 'rig.yaml'
    path.write_text(
        'cameras:\n  F: {azimuth_deg: 0, hfov_deg: 90, width: 80, height: 40}\n'
        '  R: {azimuth_deg: -80, hfov_deg: 90, width: 80, height: 40}\n'
        '  L: {azimuth_deg: 60, hfov_deg: 90, width: 80, height: 40}\n'
        '  B: {azimuth_deg: 180, hfov_deg: 60, width: 80, height: 40}\n'
    )
    rig = CameraRig.from_file(path)
    features = [ImageFeatures(torch.full((32, 4), float(index)), (4, 8)) for index in range(3)]
    # Standing still at first, then turning left at 0.5 rad/s.
    egos = [EgoState(0, None, None, (0.0, 0.0, 0.0), (0.0, 0.0, rate)) for rate in (0.0, 0.0, 0.5)]
    egos = [replace(ego, stamp_ns=index * 500 * MS) for index, ego in enumerate(egos)]
    view = view_tokens('F', features, (1, 2, 3), rig, egos, overlap=True, motion=True)
    left, right = view.shared
    assert left.tolist() == rig.shared('F', 'L', 8).tolist()
    assert right.tolist() == rig.shared('F', 'R', 8).tolist()
    assert left.tolist() != right.tolist()
    assert left[0] and not left[-1] and right[-1] and not right[0]
    assert view.tokens.shape == (3, 4, 8, 4)
    assert [float(frame.mean()) for frame in view.tokens] == [0.0, 1.0, 2.0]
    # The newest frame is where it is; 0.5 s before, the vehicle had turned less, so its patches were farther left.
    columns = view.flow.reshape(3, 4, 8, 2)[..., 1]
    assert columns[2, 2].tolist() == pytest.approx(range(8), abs=1e-3)
    assert torch.nanmean(columns[1, 2] - columns[2, 2]) < -0.3
    assert torch.nanmean(columns[0, 2] - columns[1, 2]) < -0.1


@pytest.mark.parametrize('method', ['st_prune', 'st_prune_staged', 'st_prune_joint'])
def test_pruning_gets_the_frames_their_slots_and_their_ego_states(make, rig, method):
    """The masks are those of the selection called directly, with everything in its right order."""
    switches = ('pruning.compensate_motion', 'pruning.calibrated_overlap')
    # Motion counts with a weight only, and with the gauge nothing but the lattice would on pictures this plain.
    weights = {'pruning.joint_common': 2.4, 'pruning.gauge_commonness': False}
    pipeline = make({'pruning.method': method, **dict.fromkeys(switches, True), **weights})
    sets = []
    for ms, rate in ((1000, 0.0), (1500, 0.1), (2000, 0.9)):
        ego = EgoState(ms * MS, None, None, (8.0 * rate, 0.0, 0.0), (0.0, 0.0, rate))
        sets.append(frame_set(ms, ego=ego))
    answer = pipeline.run(window(*sets))
    expected, reverse = [], []
    for order, masks in ((1, expected), (-1, reverse)):
        views = []
        for camera in rig.ring:
            images = [decode(one.frames[camera], 0)[0] for one in sets]
            features = pipeline.backend.encode(images)
            egos = [one.ego for one in sets][::order]
            views.append(view_tokens(camera, features, (1, 2, 3), rig, egos, overlap=True, motion=True))
        masks += SpatioTemporalPruner(pipeline.settings.pruning)(views, 4)
    assert all((view.keep == mask.numpy()).all() for view, mask in zip(answer.views, expected))
    assert not all((view.keep == mask.numpy()).all() for view, mask in zip(answer.views, reverse))


@pytest.mark.parametrize('method', METHOD_NAMES)
def test_every_method_runs(make, method):
    answer = make({'pruning.method': method}).run(window(frame_set(1000), frame_set(1500)))
    assert answer.provenance.method == method
    assert answer.hint.status == Status.OK
    if method == 'none':
        assert answer.tokens_kept == answer.tokens_full


@pytest.mark.parametrize('switch', ['compensate_motion', 'calibrated_overlap', 'keep_one_copy', 'multiplicative_bonus'])
def test_every_switch_changes_what_is_kept_but_not_how_much(make, switch):
    sets = [frame_set(ms, ego=replace(EGO, stamp_ns=ms * MS)) for ms in (1000, 1500, 2000)]
    plain = make({'pruning.method': 'st_prune'}).run(window(*sets))
    switched = make({'pruning.method': 'st_prune', f'pruning.{switch}': True}).run(window(*sets))
    assert switched.tokens_kept == plain.tokens_kept
    assert not all((a.keep == b.keep).all() for a, b in zip(switched.views, plain.views))
    assert switched.hint.status == Status.OK


def test_free_drops_the_cache(make):
    pipeline = make()
    pipeline.run(window(frame_set(1000)))
    pipeline.free()
    pipeline.run(window(frame_set(1000)))
    assert pipeline.backend.encoded == 6


def test_the_model_reads_each_view_with_its_own_frames_and_the_motion_of_now(make, rig, monkeypatch):
    pipeline = make()
    prefill, seen = pipeline.backend._backend.prefill, []

    def spy(system, content):
        seen.extend([system, content, prefill(system, content)])
        return seen[-1]

    monkeypatch.setattr(pipeline.backend._backend, 'prefill', spy)
    sets = [frame_set(1000, ego=replace(EGO, linear=(1.0, 0.0, 0.0))), frame_set(1500)]
    answer = pipeline.run(window(*sets))
    system, content, context = seen
    frames = iter([part for part in content if isinstance(part, VisualFrame)])
    views = []
    for view in answer.views:
        features = pipeline.backend.encode([decode(one.frames[view.camera], 0)[0] for one in sets])
        views.append(View(rig.direction(view.camera), view.camera, [next(frames) for _ in sets]))
        for frame, feature, keep in zip(views[-1].frames, features, view.keep):
            assert torch.allclose(frame.features.tokens, feature.tokens, atol=1e-5)
            assert (frame.keep.numpy() == keep.ravel()).all()
    assert content == pipeline.prompt.content(views, EGO)
    assert system == pipeline.prompt.system
    assert answer.provenance.tokens_text == context.tokens_text > 0


def test_hint_and_description_are_asked_with_their_own_questions_and_limits(make, monkeypatch):
    pipeline, cancel, asked = make({'inference.max_new_tokens': 3}), Event(), []
    backend = pipeline.backend._backend
    score, begin = (
        backend.score,
        with_changed_texts(backend, lambda write, *given: asked.append(given) or write(*given)),
    )
    monkeypatch.setattr(backend, 'score', lambda context, *rest: asked.append(rest) or score(context, *rest))
    monkeypatch.setattr(backend, 'begin', lambda context, *rest: asked.append(rest) or begin(context, *rest))
    pipeline.run(window(frame_set(1000)), cancel=cancel, leave=lambda: True)
    texts = [text for _, text in pipeline.prompt.candidates]
    question = pipeline.prompt.describe_question
    assert asked == [(pipeline.prompt.hint_question, texts), (question, 3), (None, cancel, None)], 'nor is it left'


@pytest.mark.parametrize(
    ('changes', 'status', 'truncated'),
    [
        ({'finished': True}, Status.OK, False),
        ({'finished': False}, Status.OK, True),
        ({'finished': False, 'timed_out': True}, Status.TIMEOUT, True),
        ({'finished': False, 'timed_out': True, 'text': ''}, Status.TIMEOUT, True),
        ({'finished': False, 'text': ''}, Status.INVALID, True),
    ],
)
def test_a_description_cut_short_says_so(make, monkeypatch, changes, status, truncated):
    pipeline = make()
    backend = pipeline.backend._backend
    changed = {'text': 'A quiet road.', **changes}
    monkeypatch.setattr(
        backend, 'begin', with_changed_texts(backend, lambda write, *given: replace(write(*given), **changed))
    )
    description = pipeline.run(window(frame_set(1000))).description
    assert (description.status, description.truncated) == (status, truncated)


def test_every_answer_says_where_it_comes_from(make):
    pipeline = make({'pruning.method': 'mtp'})
    toy = {'model_id': 'toy', 'revision': 'abc', 'trained': True, 'joint_common': 2.4}
    pipeline.backend.info = replace(pipeline.backend.info, **toy)
    expected = Provenance('toy', 'abc', True, pipeline.prompt.id, 'mtp', 0.25, joint_common=2.4)
    answers = [pipeline.run(window(frame_set(1000, without=without))) for without in (('FRONT',), ())]
    assert [replace(answer.provenance, tokens_text=0) for answer in answers] == [expected, expected]


def test_a_failure_while_encoding_leaves_nothing_behind(make, monkeypatch):
    pipeline = make()

    def out_of_memory(images):
        raise RuntimeError('out of memory')

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.backend, 'encode', out_of_memory, raising=False)
        with pytest.raises(RuntimeError):
            pipeline.run(window(frame_set(1000)))
    answer = pipeline.run(window(frame_set(1000)))
    assert answer.hint.status == Status.OK
    assert [view.frames for view in answer.views] == [1, 1, 1]


def test_free_reaches_the_backend_and_what_was_recorded(make, monkeypatch):
    pipeline, freed = make(), []
    monkeypatch.setattr(pipeline.backend._backend, 'free', lambda: freed.append('backend'))
    monkeypatch.setattr(greedy_graph, '_recordings', {(0, 6, 784): 'a graph and its memory'})
    pipeline.free()
    assert freed == ['backend']
    assert not greedy_graph._recordings
