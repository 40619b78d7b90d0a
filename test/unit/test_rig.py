"""The ring and its overlaps follow from calibration alone."""

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.core.distortion import distort, undistort
from stprune_ros.core.rig import (
    OPTICAL_FROM_LINK,
    CameraModel,
    CameraRig,
    RigBuilder,
    longest_run,
    matrix_from_quaternion,
)
from stprune_ros.errors import StpruneError

NUSCENES = {
    'CAM_FRONT': 0,
    'CAM_FRONT_RIGHT': -55,
    'CAM_BACK_RIGHT': -110,
    'CAM_BACK': 180,
    'CAM_BACK_LEFT': 110,
    'CAM_FRONT_LEFT': 55,
}


def camera(name, azimuth_deg, hfov_deg=70.0, width=320, height=192, position=(0.0, 0.0, 1.5), **more):
    yaw = math.radians(azimuth_deg)
    turn = matrix_from_quaternion((0, 0, math.sin(yaw / 2), math.cos(yaw / 2)))
    focal = width / 2 / math.tan(math.radians(hfov_deg) / 2)
    k = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return CameraModel(name, width, height, k, turn @ OPTICAL_FROM_LINK, np.array(position), **more)


@given(st.randoms(use_true_random=False))
def test_ring_order_does_not_depend_on_list_order(rng):
    cameras = [camera(name, azimuth) for name, azimuth in NUSCENES.items()]
    rng.shuffle(cameras)
    rig = CameraRig(cameras)
    assert rig.ring == tuple(NUSCENES)
    assert rig.left('CAM_FRONT') == 'CAM_FRONT_LEFT'
    assert rig.right('CAM_FRONT') == 'CAM_FRONT_RIGHT'
    assert rig.right('CAM_FRONT_LEFT') == 'CAM_FRONT'


def test_directions_in_words():
    rig = CameraRig(camera(name, azimuth) for name, azimuth in NUSCENES.items())
    assert [rig.direction(name) for name in rig.ring] == ['front', 'front right', 'right', 'back', 'left', 'front left']


def test_overlap_of_two_pinholes_is_the_shared_angle():
    rig = CameraRig([camera('A', 0), camera('B', -55)])
    assert rig.overlap_deg('A', 'B') == pytest.approx(15, abs=0.5)
    start, stop = rig.overlap('A', 'B')
    assert stop == 320 and start > 160  # the right edge of A
    assert rig.overlap('B', 'A')[0] == 0  # the left edge of B


def test_cameras_back_to_back_share_nothing():
    rig = CameraRig([camera('A', 0), camera('B', 180)])
    assert rig.overlap('A', 'B') == (0, 0)
    assert rig.overlap_deg('A', 'B') == 0.0


def test_parallax_moves_the_overlap_at_short_range():
    rig = CameraRig([camera('A', 0, position=(0, 0.5, 1)), camera('B', -55, position=(0, -0.5, 1))])
    far, near = rig.columns_seen('A', 'B').sum(), rig.columns_seen('A', 'B', range_m=3.0).sum()
    assert near != far
    assert rig.columns_seen('A', 'B', range_m=1e6).sum() == pytest.approx(far, abs=1)


@pytest.mark.parametrize(
    ('model', 'd'),
    [
        ('plumb_bob', (-0.3, 0.1, 0.001, -0.001, 0.0)),
        ('rational_polynomial', (0.1, -0.05, 0.0, 0.0, 0.01, 0.2, 0.0, 0.0)),
        ('equidistant', (0.02, -0.01, 0.0, 0.0)),
    ],
)
def test_undistort_inverts_distort(model, d):
    x, y = np.meshgrid(np.linspace(-0.7, 0.7, 15), np.linspace(-0.4, 0.4, 9))
    back = undistort(*distort(x, y, model, d), model, d)
    np.testing.assert_allclose(back, (x, y), atol=1e-4)


def test_unknown_distortion_names_the_known_ones():
    with pytest.raises(StpruneError, match="'fov'.*plumb_bob, rational_polynomial, equidistant"):
        distort(np.zeros(1), np.zeros(1), 'fov', (0.1,))


def test_a_barrel_lens_sees_farther_to_the_side():
    barrel = {'distortion_model': 'plumb_bob', 'd': (-0.2, 0.02, 0.0, 0.0, 0.0)}
    plain = CameraRig([camera('A', 0), camera('B', -55)])
    bent = CameraRig([camera('A', 0, **barrel), camera('B', -55, **barrel)])
    assert bent.overlap_deg('A', 'B') > plain.overlap_deg('A', 'B')


@given(st.lists(st.booleans(), max_size=40))
def test_longest_run(mask):
    start, stop = longest_run(np.array(mask, dtype=bool))
    assert all(mask[start:stop])
    text = ''.join('x' if value else ' ' for value in mask)
    assert stop - start == max(map(len, text.split()), default=0)


def info(frame_id, width=320, height=192, fx=228.0):
    return SimpleNamespace(
        header=SimpleNamespace(frame_id=frame_id), width=width, height=height, distortion_model='plumb_bob',
        d=[0.0] * 5,
        k=[fx, 0, width / 2, 0, fx, height / 2, 0, 0, 1],
    )  # fmt: skip


def transform(parent, child, q=(0.0, 0.0, 0.0, 1.0), t=(0.0, 0.0, 0.0)):
    return SimpleNamespace(
        header=SimpleNamespace(frame_id=parent),
        child_frame_id=child,
        transform=SimpleNamespace(
            rotation=SimpleNamespace(x=q[0], y=q[1], z=q[2], w=q[3]),
            translation=SimpleNamespace(x=t[0], y=t[1], z=t[2]),
        ),
    )


def test_builder_walks_a_chain_of_transforms():
    builder = RigBuilder()
    assert builder.add_camera_info('LEFT', info('left_optical')) is True
    assert builder.add_camera_info('LEFT', info('left_optical')) is False
    assert 'no static transform' in builder.missing(['LEFT'])[0]
    half = math.sqrt(0.5)
    builder.add_transforms(
        SimpleNamespace(
            transforms=[
                transform('/base_link', 'left', (0, 0, half, half), (0.5, 0.8, 1.5)),
                transform('left', '/left_optical', (-0.5, 0.5, -0.5, 0.5)),
            ]
        )
    )
    assert builder.missing(['LEFT']) == []
    model = builder.build(['LEFT']).cameras['LEFT']
    assert math.degrees(model.azimuth) == pytest.approx(90)
    np.testing.assert_allclose(model.translation, (0.5, 0.8, 1.5))


@pytest.mark.parametrize(
    ('message', 'sentence'),
    [
        (None, "no camera_info for camera 'C'"),
        (info('f', fx=0.0), 'not calibrated'),
        (info('f', width=0), 'not calibrated'),
    ],
)
def test_builder_says_what_is_missing(message, sentence):
    builder = RigBuilder()
    if message is not None:
        builder.add_camera_info('C', message)
    with pytest.raises(StpruneError, match=sentence):
        builder.build(['C'])


def test_a_loop_of_transforms_ends():
    builder = RigBuilder()
    builder.add_camera_info('C', info('a'))
    builder.add_transforms(SimpleNamespace(transforms=[transform('b', 'a'), transform('a', 'b')]))
    assert "no static transform leads from 'a'" in builder.missing(['C'])[0]


def test_rig_file(tmp_path):
    path = tmp_path / 'rig.yaml'
    entries = [f'  {n}: {{azimuth_deg: {a}, hfov_deg: 70, width: 1600, height: 900}}' for n, a in NUSCENES.items()]
    random.Random(1).shuffle(entries)
    path.write_text('cameras:\n' + '\n'.join(entries))
    assert CameraRig.from_file(path).ring == tuple(NUSCENES)


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('cameras: {}', "no 'cameras'"),
        ('[1', 'cannot be read'),
        ('cameras: {A: {azimuth_deg: 0, hfov_deg: 70, width: 10}}', "camera 'A': 'height' is missing"),
        ('cameras: {A: {azimuth_deg: 0, hfov_deg: 190, width: 10, height: 5}}', 'between 0 and 180'),
        ('cameras: {A: {rotation: [0, 0, 0, 0], hfov_deg: 90, width: 10, height: 5}}', 'quaternion'),
    ],
)
def test_bad_rig_files_name_the_file_and_the_camera(tmp_path, text, sentence):
    path = tmp_path / 'rig.yaml'
    path.write_text(text)
    with pytest.raises(StpruneError, match=sentence) as caught:
        CameraRig.from_file(path)
    assert str(path) in str(caught.value)
