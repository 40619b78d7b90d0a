"""Views that are missing, stale, broken or of another size than their calibration."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from helpers.pipelines import EGO, MS, build_pipeline, decode, frame_set, load_tiny, make_rig, window

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import (
    Behavior,
    CameraFrame,
    CameraState,
    FrameSet,
    Status,
)
from stprune_ros.io.images import DecodeLimits


@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
    return load_tiny(tmp_path_factory.mktemp('model'))


@pytest.fixture
def rig(tmp_path):
    return make_rig(tmp_path / 'rig.yaml')


@pytest.fixture
def make(loaded, rig):
    return partial(build_pipeline, loaded, rig=rig)


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


def test_only_a_critical_camera_stops_the_inference(make):
    pipeline = make({'cameras.critical': ['LEFT']})
    assert pipeline.run(window(frame_set(1000, without=('FRONT',)))).hint.status == Status.DEGRADED
    answer = pipeline.run(window(frame_set(1500, without=('LEFT',))), wait_ms=30.0)
    assert answer.hint.status == Status.NO_HINT
    assert [view.state for view in answer.views] == [CameraState.OK, CameraState.OK, CameraState.MISSING]
    assert [view.stamp_ns for view in answer.views] == [1500 * MS, 1500 * MS, 0]
    assert answer.timing.wait_ms == 30.0


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
