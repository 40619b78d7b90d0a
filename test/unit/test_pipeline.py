"""One tick end to end on a tiny real model: what is encoded, kept, said, and what is said when something is missing."""

import math
import time
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch
from helpers.texts import with_changed_texts
from helpers.tiny_models import make_tiny_model

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import (
    Behavior,
    CameraFrame,
    CameraState,
    EgoState,
    FrameSet,
    Provenance,
    Status,
    Window,
)
from stprune_ros.errors import StpruneError
from stprune_ros.inference import pipeline as pipeline_module
from stprune_ros.inference import stages
from stprune_ros.inference.features import view_tokens
from stprune_ros.inference.governor import Cost
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.inference.stages import STAGES, StageClock
from stprune_ros.io.images import DecodeLimits
from stprune_ros.pruning import greedy_graph
from stprune_ros.pruning.config import METHOD_NAMES
from stprune_ros.pruning.pruner import SpatioTemporalPruner
from stprune_ros.pruning.reason import DROPPED_REASONS, KEPT_REASONS
from stprune_ros.pruning.similarity import STRIPS
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import ImageFeatures, VisualFrame
from stprune_ros.vlm.device import synchronizer
from stprune_ros.vlm.loading import load_model
from stprune_ros.vlm.prompt import View

MS = 1_000_000
NAMES = ('FRONT', 'RIGHT', 'LEFT')
EGO = EgoState(0, None, None, (5.0, 0.0, 0.0), (0.0, 0.0, 0.1))


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')


@pytest.fixture(scope='module')
def loaded(model):
    return load_model(Settings.from_values({'model.path': str(model), 'model.device': 'cpu'}))


class Counting:
    """The real backend, counting the images it encodes; ``trained`` as one says, so that answers count."""

    def __init__(self, backend, trained=True):
        self._backend = backend
        self.info = replace(backend.info, trained=trained)
        self.encoded = 0

    def encode(self, images):
        self.encoded += len(images)
        return self._backend.encode(images)

    def __getattr__(self, name):
        return getattr(self._backend, name)


@pytest.fixture
def rig(tmp_path):
    path = tmp_path / 'rig.yaml'
    entries = [f'{n}: {{azimuth_deg: {a}, hfov_deg: 90, width: 96, height: 64}}' for n, a in zip(NAMES, (0, -120, 120))]
    path.write_text('cameras:\n  ' + '\n  '.join(entries))
    return CameraRig.from_file(path)


def decode(frame, _limits):
    """Pixels that depend on camera and stamp; the payload 'broken' stands for a file that cannot be decoded."""
    if frame.payload == 'broken':
        raise StpruneError('3 bytes are no image')
    seed = abs(hash((NAMES.index(frame.camera), frame.stamp_ns))) % 2**32
    return np.random.default_rng(seed).integers(0, 255, (64, 96, 3), np.uint8), 1


def frame_set(ms, without=(), broken=(), ego=EGO):
    frames = {n: CameraFrame(n, ms * MS, payload='broken' if n in broken else '') for n in NAMES if n not in without}
    return FrameSet(ms, ms * MS, NAMES, frames, ego=ego)


def window(*sets):
    return Window(tuple(sets), 4)


@pytest.fixture
def make(loaded, rig):
    def build(values=None, trained=True, rig=rig):
        backend, prompt = loaded
        values = {'inference.max_new_tokens': 6, 'pruning.keep_ratio': 0.25, **(values or {})}
        return Pipeline(Settings.from_values(values), Counting(backend, trained), rig, prompt, decode)

    return build


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


def test_a_missing_side_camera_degrades(make):
    answer = make().run(window(frame_set(1000), frame_set(1500, without=('LEFT',))))
    assert answer.hint.status == Status.DEGRADED
    left = answer.views[2]
    assert (left.state, left.frames, left.tokens_full, left.tokens_kept) == (CameraState.MISSING, 0, 0, 0)
    assert any("camera 'LEFT' has no frame" in note for note in answer.notes)


def test_a_stale_side_camera_is_called_stale(make):
    current = replace(frame_set(1500, without=('LEFT',)), stale=frozenset({'LEFT'}))
    answer = make().run(window(current))
    assert answer.views[2].state == CameraState.STALE
    assert answer.notes == ("camera 'LEFT' has no frame in this set",)


def test_a_frame_missing_in_the_history_is_a_shorter_history(make):
    answer = make().run(window(frame_set(1000, without=('LEFT',)), frame_set(1500)))
    assert [view.frames for view in answer.views] == [2, 2, 1]
    assert answer.hint.status == Status.OK


@pytest.mark.parametrize('how', ['without', 'broken'])
def test_without_the_critical_camera_nothing_is_inferred(make, how):
    pipeline = make()
    answer = pipeline.run(window(frame_set(1000, **{how: ('FRONT',)})))
    assert answer.hint.status == answer.description.status == Status.NO_HINT
    assert answer.hint.behavior == Behavior.UNKNOWN
    assert any("critical camera 'FRONT'" in note for note in answer.notes)
    assert 'prefill' not in answer.timing.stage_ms


def test_a_broken_image_is_left_out_and_named_but_decoded_only_once(make):
    pipeline = make()
    first = frame_set(1000, broken=('LEFT',))
    answer = pipeline.run(window(first))
    assert answer.hint.status == Status.DEGRADED
    assert answer.views[2].state == CameraState.INVALID
    assert "image of camera 'LEFT' is left out: 3 bytes are no image" in answer.notes
    answer = pipeline.run(window(first, frame_set(1500)))
    assert [view.frames for view in answer.views] == [2, 2, 1]
    assert answer.hint.status == Status.OK


def test_missing_odometry_degrades(make):
    assert make().run(window(frame_set(1000, ego=None))).hint.status == Status.DEGRADED


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


def test_describing_can_be_switched_off(make):
    answer = make({'inference.describe': False}).run(window(frame_set(1000)))
    assert answer.hint.status == Status.OK
    assert answer.description.status == Status.NO_HINT
    assert 'describe' not in answer.timing.stage_ms


def test_a_camera_info_for_other_images_degrades_every_tick_that_it_lasts(make, tmp_path):
    path = tmp_path / 'rig.yaml'
    path.write_text('cameras: {FRONT: {azimuth_deg: 0, hfov_deg: 90, width: 64, height: 64}}')
    pipeline = make(rig=CameraRig.from_file(path))
    sets = [FrameSet(ms, ms * MS, ('FRONT',), {'FRONT': CameraFrame('FRONT', ms * MS)}, ego=EGO) for ms in (10, 20, 30)]
    for count in (1, 2, 3):
        answer = pipeline.run(window(*sets[:count]))
        assert any('is for 64x64, its images are 96x64' in note for note in answer.notes)
        assert [view.state for view in answer.views] == [CameraState.MISCALIBRATED]
        assert answer.hint.status == answer.description.status == Status.DEGRADED
        assert answer.views[0].frames == count


def test_a_camera_info_that_fits_again_ends_the_degradation(make):
    pipeline = make()
    sizes = iter([2, 1])
    pipeline._features._decode = lambda frame, _: (decode(frame, 0)[0][:, :: next(sizes)], 1)
    states = []
    for ms in (10, 20):
        frames = {name: CameraFrame(name, ms * MS) for name in ('FRONT',)}
        answer = pipeline.run(window(FrameSet(ms, ms * MS, ('FRONT',), frames, ego=EGO)))
        states.append((answer.views[0].state, answer.hint.status))
    assert states == [(CameraState.MISCALIBRATED, Status.DEGRADED), (CameraState.OK, Status.OK)]


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
    gauge = {'pruning.gauge_commonness': False}  # nothing but the lattice would count on pictures this plain
    pipeline = make({'pruning.method': method, **dict.fromkeys(switches, True), **gauge})
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


def test_camera_info_is_compared_with_the_picture_as_it_was_sent(make):
    pipeline = make()
    pipeline._features._decode = lambda frame, _: (decode(frame, 0)[0][:, ::2], 2)
    answer = pipeline.run(window(frame_set(1000)))
    assert any('is for 96x64, its images are 96x128' in note for note in answer.notes)
    pipeline = make()
    pipeline._features._decode = lambda frame, _: (np.ascontiguousarray(decode(frame, 0)[0][::2, ::2]), 2)
    assert not pipeline.run(window(frame_set(1000))).notes


def test_decoding_is_told_how_much_the_model_looks_at(make):
    pipeline, told = make(), set()
    pipeline._features._decode = lambda frame, limits: told.add(limits) or decode(frame, limits)
    pipeline.run(window(frame_set(1000)))
    assert told == {DecodeLimits(pipeline.backend.model_pixels, 16 * 96 * 64, ('jpeg', 'png'))}
    assert pipeline.backend.model_pixels > 0


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


def test_free_drops_the_cache(make):
    pipeline = make()
    pipeline.run(window(frame_set(1000)))
    pipeline.free()
    pipeline.run(window(frame_set(1000)))
    assert pipeline.backend.encoded == 6


def test_only_a_critical_camera_stops_the_inference(make):
    pipeline = make({'cameras.critical': ['LEFT']})
    assert pipeline.run(window(frame_set(1000, without=('FRONT',)))).hint.status == Status.DEGRADED
    answer = pipeline.run(window(frame_set(1500, without=('LEFT',))), wait_ms=30.0)
    assert answer.hint.status == Status.NO_HINT
    assert [view.state for view in answer.views] == [CameraState.OK, CameraState.OK, CameraState.MISSING]
    assert [view.stamp_ns for view in answer.views] == [1500 * MS, 1500 * MS, 0]
    assert answer.timing.wait_ms == 30.0


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


def test_a_tick_cancelled_after_its_hint_is_not_described(make):
    cancel = Event()
    answer = make().run(window(frame_set(1000)), cancel=cancel, on_hint=lambda _: cancel.set())
    assert answer.hint.status == Status.OK
    assert answer.description.status == Status.NO_HINT
    assert 'describe' not in answer.timing.stage_ms


def test_every_answer_says_where_it_comes_from(make):
    pipeline = make({'pruning.method': 'mtp'})
    pipeline.backend.info = replace(pipeline.backend.info, model_id='toy', revision='abc', trained=True)
    expected = Provenance('toy', 'abc', True, pipeline.prompt.id, 'mtp', 0.25)
    answers = [pipeline.run(window(frame_set(1000, without=without))) for without in (('FRONT',), ())]
    assert [replace(answer.provenance, tokens_text=0) for answer in answers] == [expected, expected]


def test_what_a_hint_takes_is_learnt_on_top_of_the_age_of_the_set(make):
    pipeline = make({'latency.target_ms': 60_000.0, 'output.valid_for_ms': 60000.0})
    answers = [pipeline.run(window(frame_set(ms)), wait_ms=5000.0) for ms in (1000, 1500, 2000)]
    assert answers[-1].timing.choice.expected_ms > 5000.0


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


def test_history_of_another_size_is_left_out(make):
    pipeline = make()
    pipeline._features._decode = lambda frame, _: (
        decode(frame, 0)[0][:: 2 if frame.stamp_ns == 1000 * MS else 1, :: 2 if frame.stamp_ns == 1000 * MS else 1],
        1,
    )
    answer = pipeline.run(window(frame_set(1000), frame_set(1500)))
    assert [view.frames for view in answer.views] == [1, 1, 1]


@pytest.mark.parametrize(('columns', 'state'), [(95, CameraState.OK), (90, CameraState.MISCALIBRATED)])
def test_rounding_is_no_other_aspect(make, columns, state):
    pipeline = make()
    pipeline._features._decode = lambda frame, _: (np.ascontiguousarray(decode(frame, 0)[0][:, :columns]), 1)
    assert {view.state for view in pipeline.run(window(frame_set(1000))).views} == {state}


def test_the_stamp_of_a_broken_image_is_told(make):
    answer = make().run(window(frame_set(1000, broken=('LEFT',))))
    assert (answer.views[2].state, answer.views[2].stamp_ns) == (CameraState.INVALID, 1000 * MS)


def test_free_reaches_the_backend_and_what_was_recorded(make, monkeypatch):
    pipeline, freed = make(), []
    monkeypatch.setattr(pipeline.backend._backend, 'free', lambda: freed.append('backend'))
    monkeypatch.setattr(greedy_graph, '_recordings', {(0, 6, 784): 'a graph and its memory'})
    pipeline.free()
    assert freed == ['backend']
    assert not greedy_graph._recordings


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
