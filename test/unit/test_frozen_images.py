"""A camera that sends the very same image again is frozen; a world that stands still is not, for sensors have noise."""

from __future__ import annotations

from array import array
from types import SimpleNamespace as Box

import numpy as np
import pytest

from stprune_ros.core.frozen_images import FrozenImages, same_image
from stprune_ros.core.rig import CameraRig
from stprune_ros.core.stream import SensorStream
from stprune_ros.settings.settings import Settings

MS = 1_000_000
RING = ('FRONT', 'RIGHT', 'LEFT')
STILL = np.random.default_rng(0).integers(0, 255, (600, 800, 3), np.uint8)


def raw(pixels: np.ndarray, ms: int = 0) -> Box:
    header = Box(stamp=Box(sec=1000 + ms // 1000, nanosec=ms % 1000 * MS), frame_id='f')
    height, width = pixels.shape[:2]
    data = array('B', pixels.tobytes())
    return Box(header=header, height=height, width=width, encoding='rgb8', step=3 * width, data=data)


def test_the_same_bytes_are_the_same_image_whatever_holds_them():
    assert same_image(raw(STILL), raw(STILL))
    assert same_image(raw(STILL), Box(**{**vars(raw(STILL)), 'data': STILL.ravel()}))  # as rosbags gives them
    assert not same_image(raw(STILL), raw(STILL[:-1]))
    assert not same_image(raw(STILL[:0]), raw(STILL[:0]))  # nothing is no image


@pytest.mark.parametrize('place', [(0, 0, 0), (599, 799, 2), (300, 123, 1)])
def test_one_bit_of_noise_anywhere_makes_another_image(place):
    noisy = STILL.copy()
    noisy[place] ^= 1
    assert not same_image(raw(STILL), raw(noisy))


def test_the_same_bytes_in_another_shape_are_another_image():
    assert not same_image(raw(STILL), raw(STILL.reshape(800, 600, 3)))


def test_a_camera_is_frozen_after_the_limit_and_not_at_it():
    frozen = FrozenImages(1000 * MS)
    found = {ms: frozen.is_frozen('A', raw(STILL), ms * MS) for ms in range(5000, 6500, 100)}
    assert [ms for ms, one in found.items() if one] == [6100, 6200, 6300, 6400]
    assert not frozen.is_frozen('A', raw(STILL // 2), 6500 * MS)
    assert not frozen.is_frozen('A', raw(STILL // 2), 7500 * MS)
    assert frozen.is_frozen('A', raw(STILL // 2), 7501 * MS)


def test_cameras_are_judged_apart_and_a_looped_bag_starts_anew():
    frozen = FrozenImages(1000 * MS)
    for ms in range(0, 3000, 100):
        frozen.is_frozen('A', raw(STILL), ms * MS)
        assert not frozen.is_frozen('B', raw(STILL + np.uint8(ms // 100)), ms * MS)
    assert not frozen.is_frozen('A', raw(STILL), -5000 * MS)
    assert frozen.is_frozen('A', raw(STILL), -3999 * MS)  # in the new time, too
    frozen.reset()
    assert not frozen.is_frozen('A', raw(STILL), 9000 * MS)


def test_zero_switches_it_off():
    frozen = FrozenImages(0)
    assert not any(frozen.is_frozen('A', raw(STILL), ms * MS) for ms in range(0, 100_000, 1000))


@pytest.fixture
def rig(tmp_path) -> CameraRig:
    path = tmp_path / 'rig.yaml'
    entries = [f'{n}: {{azimuth_deg: {a}, hfov_deg: 90, width: 8, height: 6}}' for n, a in zip(RING, (0, -120, 120))]
    path.write_text('cameras:\n  ' + '\n  '.join(entries))
    return CameraRig.from_file(path)


def frozen_views(rig: CameraRig, still: set[str], noise: int, values: dict[str, object]) -> list[list[str]]:
    """The cameras that are frozen in each set of three seconds; ``still`` ones see a world at rest with that noise."""
    stream, random = SensorStream(Settings.from_values(values), rig), np.random.default_rng(1)
    found = []
    for ms in range(0, 3000, 100):
        for camera in RING:
            pixels = STILL[:6, :8].copy()
            if camera not in still or noise:
                pixels = pixels + random.integers(0, 2 if camera in still else 99, pixels.shape, np.uint8)
            for window in stream.add_image(camera, raw(pixels, ms)):
                frames = window.current.frames
                found.append([name for name in RING if name in frames and frames[name].frozen])
    return found


def test_sets_say_which_cameras_are_frozen(rig):
    found = frozen_views(rig, {'LEFT'}, noise=0, values={'cameras.frozen_after_ms': 500.0})
    assert found[:6] == [[]] * 6
    assert found[6:] == [['LEFT']] * len(found[6:]) and len(found) > 25
    assert frozen_views(rig, set(RING), noise=0, values={})[-1] == list(RING)


def test_a_world_that_stands_still_is_not_frozen(rig):
    assert not any(frozen_views(rig, set(RING), noise=1, values={'cameras.frozen_after_ms': 200.0}))


def test_a_simulator_without_noise_is_not_frozen_where_the_limit_is_zero(rig):
    assert not any(frozen_views(rig, set(RING), noise=0, values={'cameras.frozen_after_ms': 0.0}))
