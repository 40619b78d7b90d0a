"""One camera never takes the ring down: what it costs when an image, a calibration or a camera cannot be used."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace as Box
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.tiny_models import make_tiny_model

from stprune_ros.core.rig import CameraRig, UnusableCamera
from stprune_ros.core.stream import CameraRoles
from stprune_ros.core.types import Answer, CameraFrame, CameraState, EgoState, FrameSet, Status, Window
from stprune_ros.errors import StpruneError
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.io.images import DecodeLimits, decode_for_model
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

MS = 1_000_000
NAMES = ('FRONT', 'RIGHT', 'LEFT')
WIDTH, HEIGHT = 96, 64
EGO = EgoState(0, None, None, (5.0, 0.0, 0.0), (0.0, 0.0, 0.1))
NOTHING_INFERRED = "nothing was inferred: critical camera '{}' has no usable frame"


@pytest.fixture(scope='module')
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'qwen3_vl')
    (path / 'stprune.json').unlink(missing_ok=True)
    return load_model(Settings.from_values({'model.path': str(path), 'model.device': 'cpu'}))


@pytest.fixture
def rig(tmp_path: Path) -> CameraRig:
    entries = [
        f'{n}: {{azimuth_deg: {a}, hfov_deg: 90, width: {WIDTH}, height: {HEIGHT}}}'
        for n, a in zip(NAMES, (0, -120, 120))
    ]
    (tmp_path / 'rig.yaml').write_text('cameras:\n  ' + '\n  '.join(entries))
    return CameraRig.from_file(tmp_path / 'rig.yaml')


def picture(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Box:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return Box(format='jpeg', data=array('B', cv2.imencode('.jpg', pixels)[1].tobytes()))


def frames(ms: int, changes: dict[str, Any] | None = None, frozen: tuple[str, ...] = ()) -> FrameSet:
    payloads = {name: picture(seed=ms + index) for index, name in enumerate(NAMES)} | (changes or {})
    found = {n: CameraFrame(n, ms * MS, 'jpeg', payload=p, frozen=n in frozen) for n, p in payloads.items()}
    return FrameSet(ms, ms * MS, NAMES, found, ego=EGO)


@pytest.fixture
def make(loaded: Any, rig: CameraRig) -> Callable[..., Pipeline]:
    def build(
        values: dict[str, object] | None = None, rig: CameraRig = rig, decode: Any = decode_for_model
    ) -> Pipeline:
        backend, prompt = loaded
        settings = Settings.from_values({'inference.describe': False, **(values or {})})
        return Pipeline(settings, backend, rig, prompt, decode)

    return build


def states(answer: Answer) -> dict[str, CameraState]:
    return {view.camera: view.state for view in answer.views}


OK, INVALID, FROZEN = CameraState.OK, CameraState.INVALID, CameraState.FROZEN


def test_a_picture_that_the_processor_refuses_is_invalid_and_the_rest_is_answered(make):
    pipeline = make({'cameras.max_pixels': 10_000})
    answer = pipeline.run(Window((frames(1000, {'LEFT': picture(1, 3000)}),), 4))
    assert answer.hint.status == Status.DEGRADED
    assert states(answer) == {'FRONT': OK, 'RIGHT': OK, 'LEFT': INVALID}
    [note] = [note for note in answer.notes if 'LEFT' in note]
    assert note.startswith("image of camera 'LEFT' is left out: images cannot be prepared for the model: ")
    again = pipeline.run(Window((frames(1000, {'LEFT': picture(1, 3000)}), frames(1500)), 4))
    assert [view.frames for view in again.views] == [2, 2, 1]
    assert again.hint.status == Status.OK


@pytest.mark.parametrize('size', [(1, 1), (2, 190), (190, 2), (7, 5), (3000, 20)])
def test_pictures_of_any_shape_are_answered(make, size):
    pipeline = make({'cameras.max_pixels': 10**6})
    answer = pipeline.run(Window((frames(1000, {'LEFT': picture(*size)}), frames(1500)), 4))
    assert answer.hint.status == Status.OK
    answer = pipeline.run(Window((frames(2000, {'LEFT': picture(*size)}),), 4))
    assert answer.hint.status == Status.DEGRADED
    assert states(answer)['FRONT'] == states(answer)['RIGHT'] == OK


def test_a_picture_far_larger_than_camera_info_says_is_refused_by_its_header(make):
    within, beyond = picture(4 * WIDTH, 4 * HEIGHT), picture(4 * WIDTH + 1, 4 * HEIGHT)
    assert states(make().run(Window((frames(1000, {'LEFT': within}),), 4)))['LEFT'] == OK
    answer = make().run(Window((frames(1000, {'LEFT': beyond}),), 4))
    assert states(answer)['LEFT'] == INVALID
    assert any(
        f'the image has {4 * WIDTH + 1}x{4 * HEIGHT} pixels, more than {16 * WIDTH * HEIGHT} in all' in note
        for note in answer.notes
    )
    assert states(make({'cameras.max_pixels': 10**6}).run(Window((frames(1000, {'LEFT': beyond}),), 4)))['LEFT'] == OK


def test_what_one_tick_decodes_is_bounded_and_history_comes_later(make):
    decoded: list[tuple[int, str]] = []

    def decode(frame: CameraFrame, limits: DecodeLimits) -> tuple[np.ndarray, int]:
        decoded.append((frame.stamp_ns // MS, frame.camera))
        return decode_for_model(frame, limits)

    large = {name: picture(4 * WIDTH, 4 * HEIGHT) for name in NAMES}  # as large as they may be
    sets = tuple(frames(1000 + 500 * index, large) for index in range(4))
    pipeline = make(decode=decode)
    answer = pipeline.run(Window(sets, 4))
    assert decoded == [(2500, name) for name in NAMES]  # one set, the newest
    assert [view.frames for view in answer.views] == [1, 1, 1]
    answer = pipeline.run(Window((*sets[1:], frames(3000)), 4))
    assert decoded[3:6] == [(3000, name) for name in NAMES]
    assert decoded[6:] == [(2000, 'FRONT'), (2000, 'RIGHT')]  # as the small pictures left room for
    assert answer.hint.status == Status.OK


def test_a_frozen_side_camera_is_left_out(make):
    pipeline = make()
    answer = pipeline.run(Window((frames(1000), frames(1500, frozen=('LEFT',))), 4))
    assert answer.hint.status == Status.DEGRADED
    assert states(answer) == {'FRONT': OK, 'RIGHT': OK, 'LEFT': FROZEN}
    assert [view.frames for view in answer.views] == [2, 2, 0]
    assert [note for note in answer.notes if "camera 'LEFT' sends the same image again and again" in note]
    answer = pipeline.run(Window((frames(1000), frames(1500, frozen=('LEFT',)), frames(2000)), 4))
    assert answer.hint.status == Status.OK
    assert [view.frames for view in answer.views] == [3, 3, 2]  # what was frozen is no history


def test_a_camera_of_several_publishers_is_invalid_and_named(make):
    whole = frames(1500)
    seen = {name: frame for name, frame in whole.frames.items() if name != 'LEFT'}
    mixed = replace(whole, frames=seen, mixed=frozenset({'LEFT'}), stale=frozenset({'LEFT'}))
    answer = make().run(Window((frames(1000), mixed), 4))
    assert answer.hint.status == Status.DEGRADED
    assert states(answer) == {'FRONT': OK, 'RIGHT': OK, 'LEFT': INVALID}
    [note] = [note for note in answer.notes if 'LEFT' in note]
    assert note.startswith("images of camera 'LEFT' come from several publishers in turn")


@pytest.mark.parametrize('frozen', [('FRONT',), NAMES])
def test_a_frozen_critical_camera_and_a_frozen_ring_give_no_hint(make, frozen):
    answer = make().run(Window((frames(1000, frozen=frozen),), 4))
    assert answer.hint.status == answer.description.status == Status.NO_HINT
    assert states(answer) == {name: FROZEN if name in frozen else OK for name in NAMES}
    assert NOTHING_INFERRED.format('FRONT') in answer.notes
    assert sum('sends the same image' in note for note in answer.notes) == len(frozen)


def partial(rig: CameraRig, *names: str, azimuth: float | None = 1.0) -> CameraRig:
    found = CameraRig(model for name, model in rig.cameras.items() if name not in names)
    found.unusable = tuple(UnusableCamera(name, f"camera_info of camera '{name}' is bad", azimuth) for name in names)
    return found


def without(frame_set: FrameSet, rig: CameraRig) -> FrameSet:
    kept = {camera: frame for camera, frame in frame_set.frames.items() if camera in rig.ring}
    return replace(frame_set, cameras=rig.ring, frames=kept)


def test_a_camera_without_usable_calibration_is_invalid_and_the_rest_is_answered(make, rig):
    ring = partial(rig, 'LEFT')
    answer = make(rig=ring).run(Window((without(frames(1000), ring),), 4))
    assert answer.hint.status == Status.DEGRADED
    assert states(answer) == {'FRONT': OK, 'RIGHT': OK, 'LEFT': INVALID}
    assert "camera_info of camera 'LEFT' is bad" in answer.notes


@pytest.mark.parametrize(
    ('name', 'azimuth', 'values', 'status'),
    [
        ('LEFT', 2.0, {}, Status.DEGRADED),
        ('LEFT', None, {}, Status.NO_HINT),  # it may be the one that looks ahead
        ('LEFT', None, {'cameras.anchor': 'FRONT'}, Status.DEGRADED),
        ('LEFT', None, {'cameras.critical': ['FRONT']}, Status.DEGRADED),
        ('FRONT', 0.0, {}, Status.NO_HINT),
        ('FRONT', 0.0, {'cameras.critical': ['RIGHT']}, Status.DEGRADED),
        ('FRONT', None, {'cameras.anchor': 'FRONT'}, Status.NO_HINT),
    ],
)
def test_who_is_critical_among_cameras_without_usable_calibration(make, rig, name, azimuth, values, status):
    ring = partial(rig, name, azimuth=azimuth)
    answer = make(values, rig=ring).run(Window((without(frames(1000), ring),), 4))
    assert answer.hint.status == status
    assert (NOTHING_INFERRED.format(name) in answer.notes) == (status == Status.NO_HINT)


def test_the_anchor_is_one_of_the_ring(rig):
    roles = CameraRoles.from_settings(
        Settings.from_values({'cameras.critical': ['LEFT']}), partial(rig, 'FRONT', azimuth=0.0)
    )
    assert roles == CameraRoles('LEFT', ('LEFT',), ('RIGHT',))  # the next one: both look 120 degrees away
    with pytest.raises(StpruneError, match="camera 'REAR'"):
        CameraRoles.from_settings(Settings.from_values({'cameras.anchor': 'REAR'}), partial(rig, 'FRONT'))
