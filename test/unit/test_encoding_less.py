"""Side cameras in turn and with fewer pixels, through a whole tick on a tiny real model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.pipelines import NAMES, make_rig
from helpers.tiny_models import make_tiny_model

from stprune_ros.core.types import CameraFrame, CameraState, EgoState, FrameSet, HeldFrame, Status, Window
from stprune_ros.errors import StpruneError
from stprune_ros.inference.features import FeatureCache, view_tokens
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.inference.stages import StageClock
from stprune_ros.pruning.config import METHOD_NAMES
from stprune_ros.pruning.pruner import SpatioTemporalPruner
from stprune_ros.pruning.similarity import SimilarityCache
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

MS = 1_000_000
SIDE_PIXELS = 4096  # the images have 6144


class Counting:
    """The real backend, with the cameras' names of what it prepared, by whether they were side cameras."""

    def __init__(self, backend):
        self._backend = backend
        self.info = replace(backend.info, trained=True)  # so that answers count
        self.prepared = []

    def prepare(self, images, side=False):
        self.prepared += [(NAMES[int(image[0, 0, 0])], side) for image in images]
        return self._backend.prepare(images, side)

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def take(self):
        prepared, self.prepared = self.prepared, []
        return prepared


@pytest.fixture(scope='module')
def loaded(tmp_path_factory):
    folder = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    values = {'model.path': str(folder), 'model.device': 'cpu', 'model.side_image_pixels': SIDE_PIXELS}
    return load_model(Settings.from_values(values))


@pytest.fixture
def rig(tmp_path):
    return make_rig(tmp_path / 'rig.yaml')


def decode(frame, _limits):
    """Pixels that depend on camera and stamp; the first one names the camera."""
    if frame.payload == 'broken':
        raise StpruneError('3 bytes are no image')
    index = NAMES.index(frame.camera)
    image = np.random.default_rng([index, frame.stamp_ns]).integers(0, 255, (64, 96, 3), np.uint8)
    image[0, 0, 0] = index
    return image, 1


def ego(ms):
    return EgoState(ms * MS, None, None, (5.0, 0.0, 0.0), (0.0, 0.0, 0.1))


def frame(camera, ms, payload=''):
    return CameraFrame(camera, ms * MS, payload=payload)


def frame_set(ms, held=None, without=(), broken=()):
    """A set at a time in ms; ``held`` gives the time of what a camera shows instead of its own frame."""
    frames = {n: frame(n, ms, 'broken' if n in broken else '') for n in NAMES if n not in without}
    earlier = {
        name: HeldFrame(frame(name, then, 'broken' if name in broken else ''), ego(then))
        for name, then in (held or {}).items()
    }
    return FrameSet(ms, ms * MS, NAMES, frames, ego=ego(ms), held=earlier)


def window(*sets):
    return Window(tuple(sets), 4)


@pytest.fixture
def make(loaded, rig):
    def build(values=None):
        backend, prompt = loaded
        values = {'inference.describe': False, 'pruning.keep_ratio': 0.25, **(values or {})}
        return Pipeline(Settings.from_values(values), Counting(backend), rig, prompt, decode)

    return build


@pytest.fixture
def cache(loaded, rig):
    return FeatureCache(Counting(loaded[0]), rig, decode, Settings().cameras)


def names(prepared):
    return [name for name, _ in prepared]


def test_a_view_whose_turn_it_is_not_costs_nothing_and_keeps_its_stamp(make):
    pipeline = make()
    pipeline.run(window(frame_set(1000)))
    assert names(pipeline.backend.take()) == list(NAMES)
    answer = pipeline.run(window(frame_set(1000), frame_set(1200, held={'RIGHT': 1000, 'LEFT': 1000})))
    assert names(pipeline.backend.take()) == ['FRONT']
    assert [view.stamp_ns // MS for view in answer.views] == [1200, 1000, 1000]
    assert [view.frames for view in answer.views] == [2, 1, 1]
    assert [view.state for view in answer.views] == [CameraState.OK] * 3
    assert answer.hint.status == Status.OK


def test_a_view_out_of_turn_stands_in_its_own_slot_with_its_own_ego_state(cache):
    sets = [frame_set(500), frame_set(1000, held={'RIGHT': 700}), frame_set(1200, held={'RIGHT': 700, 'LEFT': 1000})]
    views, notes = cache.update(window(*sets), StageClock())
    assert notes == []
    front, right, left = views
    assert front.slots == (1, 2, 3)
    assert right.slots == (1, 2)  # that of 700 came first with the set of 1000, and is not shown twice
    assert [state.stamp_ns // MS for state in right.egos] == [500, 700]
    assert right.stamp_ns == 700 * MS
    assert left.slots == (1, 2)
    assert [state.stamp_ns // MS for state in left.egos] == [500, 1000]
    # One that no earlier set shows stands in the newest slot.
    right = cache.update(window(frame_set(500), frame_set(1200, held={'RIGHT': 700})), StageClock())[0][1]
    assert right.slots == (2, 3)
    assert [state.stamp_ns // MS for state in right.egos] == [500, 700]


def test_a_silent_camera_is_missing_whatever_it_showed_before(make):
    pipeline = make()
    pipeline.run(window(frame_set(1000)))
    held = {'RIGHT': 1000}
    answer = pipeline.run(window(frame_set(1000), frame_set(1200, held=held, without=('LEFT',))))
    assert [view.state for view in answer.views] == [CameraState.OK, CameraState.OK, CameraState.MISSING]
    assert "camera 'LEFT' has no frame in this set" in answer.notes


def test_a_broken_frame_is_not_held(cache):
    broken = frame_set(1000, broken=('RIGHT',))
    views, notes = cache.update(window(broken), StageClock())
    assert views[1].state == CameraState.INVALID and len(notes) == 1
    for ms in (1200, 1400):
        later = frame_set(ms)
        held = HeldFrame(broken.frames['RIGHT'], broken.ego)
        later = FrameSet(ms, ms * MS, NAMES, later.frames, ego=later.ego, held={'RIGHT': held})
        views, notes = cache.update(window(later), StageClock())
        assert notes == []  # it is not decoded again
        assert views[1].state == CameraState.OK
        assert (views[1].stamp_ns // MS, views[1].slots) == (ms, (3,))


def test_the_report_shows_views_that_were_encoded_earlier(make):
    pipeline = make()
    pipeline.run(window(frame_set(1000)))
    pipeline.backend.take()
    later = window(frame_set(1000), frame_set(1200, held={'RIGHT': 1000, 'LEFT': 1000}))
    answer = pipeline.run(later, with_images=True)
    assert [NAMES[int(view.image[0, 0, 0])] for view in answer.views] == list(NAMES)
    assert np.array_equal(answer.views[1].image, decode(frame('RIGHT', 1000), None)[0])
    assert names(pipeline.backend.take()) == ['FRONT']
    assert all(view.image is None for view in pipeline.run(window(*later.sets[:1], frame_set(1400))).views)


def test_the_report_shows_no_broken_view(make):
    answer = make().run(window(frame_set(1000, broken=('RIGHT',))), with_images=True)
    assert [view.state for view in answer.views] == [CameraState.OK, CameraState.INVALID, CameraState.OK]
    assert [view.image is None for view in answer.views] == [False, True, False]


def test_side_cameras_have_fewer_pixels(make):
    answer = make({'model.side_image_pixels': SIDE_PIXELS}).run(window(frame_set(1000)))
    front, right, left = (view.tokens_full for view in answer.views)
    assert right == left < front
    pipeline = make({'model.side_image_pixels': SIDE_PIXELS})
    pipeline.run(window(frame_set(1000)))
    assert sorted(pipeline.backend.take()) == [('FRONT', False), ('LEFT', True), ('RIGHT', True)]
    pipeline = make({'model.side_image_pixels': SIDE_PIXELS, 'cameras.critical': ['FRONT', 'LEFT']})
    pipeline.run(window(frame_set(1000)))
    assert sorted(pipeline.backend.take()) == [('FRONT', False), ('LEFT', False), ('RIGHT', True)]
    pipeline = make()
    assert len({view.tokens_full for view in pipeline.run(window(frame_set(1000))).views}) == 1
    assert {side for _, side in pipeline.backend.take()} == {False}


def test_decoding_is_told_how_much_the_model_looks_at_of_each_camera(make):
    pipeline, told = make({'model.side_image_pixels': SIDE_PIXELS}), []
    pipeline._features._decode = lambda frame, limits: (
        told.append((frame.camera, limits.model_pixels)) or decode(frame, limits)
    )
    pipeline.run(window(frame_set(1000)))
    front, side = pipeline.backend.model_pixels, pipeline.backend.side_pixels
    assert side < front and told == [('FRONT', front), ('RIGHT', side), ('LEFT', side)]
    told.clear()
    later = window(frame_set(1000), frame_set(1200, held={'RIGHT': 1000, 'LEFT': 1000}))
    pipeline.run(later, with_images=True)
    assert told == [('FRONT', front), ('RIGHT', side), ('LEFT', side)], 'for pictures, too'


def test_a_side_image_that_the_model_refuses_costs_its_view_only(make):
    pipeline = make({'model.side_image_pixels': SIDE_PIXELS})
    prepare = pipeline.backend._backend.prepare

    def refusing(images, side=False):
        assert side or all(int(image[0, 0, 0]) == 0 for image in images)
        if any(int(image[0, 0, 0]) == 1 for image in images):
            raise StpruneError('too oblong')
        return prepare(images, side)

    pipeline.backend.prepare = refusing
    answer = pipeline.run(window(frame_set(1000)))
    assert [view.state for view in answer.views] == [CameraState.OK, CameraState.INVALID, CameraState.OK]
    assert answer.views[2].tokens_full < answer.views[0].tokens_full


@pytest.mark.parametrize('method', [name for name in METHOD_NAMES if name not in ('evs', 'dtd')])
def test_every_method_takes_views_of_different_grids_and_lengths(loaded, rig, method):
    cache = FeatureCache(loaded[0], rig, decode, Settings().cameras, ('RIGHT', 'LEFT'))
    similarities = SimilarityCache()
    config = Settings.from_values({'pruning.method': method, 'pruning.keep_ratio': 0.3}).pruning
    sets = [frame_set(500), frame_set(1000, held={'RIGHT': 500}), frame_set(1500, held={'LEFT': 1000})]
    for count in (1, 2, 3):
        views = cache.update(window(*sets[:count]), StageClock())[0]
        tokens = [
            view_tokens(view.camera, view.features, view.slots, rig, view.egos, overlap=True, motion=True)
            for view in views
        ]
        masks = SpatioTemporalPruner(config, similarities)(tokens, 4)
        plain = SpatioTemporalPruner(config)(tokens, 4)
        assert all(torch.equal(mask, other) for mask, other in zip(masks, plain, strict=True))
        assert [mask.shape for mask in masks] == [view.tokens.shape[:3] for view in tokens]
        assert masks[0].shape[1:] != masks[1].shape[1:]
        assert all(mask.any() for mask in masks)
    assert [len(mask) for mask in masks] == [3, 2, 2]
