"""The ring and its overlaps follow from calibration alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers.calibrations import RING, camera
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.core.rig import CameraRig, longest_run
from stprune_ros.errors import StpruneError

NUSCENES = {
    'CAM_FRONT': 0,
    'CAM_FRONT_RIGHT': -55,
    'CAM_BACK_RIGHT': -110,
    'CAM_BACK': 180,
    'CAM_BACK_LEFT': 110,
    'CAM_FRONT_LEFT': 55,
}


@given(st.randoms(use_true_random=False))
def test_ring_order_does_not_depend_on_list_order(rng):
    cameras = [camera(name, azimuth) for name, azimuth in NUSCENES.items()]
    rng.shuffle(cameras)
    rig = CameraRig(cameras)
    assert rig.ring == tuple(NUSCENES)
    assert rig.left('CAM_FRONT') == 'CAM_FRONT_LEFT'
    assert rig.right('CAM_FRONT') == 'CAM_FRONT_RIGHT'
    assert rig.right('CAM_FRONT_LEFT') == 'CAM_FRONT'


@given(st.randoms(use_true_random=False), st.lists(st.floats(-1e-9, 1e-9), min_size=8, max_size=8))
def test_ring_and_words_do_not_depend_on_rounding(rng, noise):
    """A stereo pair ahead, a pair at one place behind, and cameras on the borders of sectors."""
    places = {
        'right_eye': (0.0, (1, -0.1, 1)),
        'left_eye': (0.0, (1, 0.1, 1)),
        'L': (67.5, (0, 1, 1)),
        'R': (-67.5, (0, -1, 1)),
        'BL': (157.5, (0, 1, 1)),
        'BR': (-157.5, (0, -1, 1)),
        'b2': (180.0, (-1, 0, 1.2)),
        'b1': (180.0, (-1, 0, 1)),
    }
    cameras = [
        camera(name, azimuth + math.degrees(off), position=place)
        for (name, (azimuth, place)), off in zip(places.items(), noise)
    ]
    rng.shuffle(cameras)
    rig = CameraRig(cameras)
    assert rig.ring == ('left_eye', 'right_eye', 'R', 'BR', 'b1', 'b2', 'BL', 'L')
    words = ['front', 'front', 'front right', 'back right', 'back', 'back', 'back left', 'front left']
    assert [rig.direction(name) for name in rig.ring] == words


@given(st.floats(-1e-9, 1e-9), st.floats(-1e-9, 1e-9))
def test_of_two_cameras_as_near_to_straight_ahead_the_first_by_name_begins(a, b):
    rig = CameraRig([camera('B', 30 + a), camera('A', -30 + b), camera('C', 180)])
    assert rig.ring == ('A', 'C', 'B')


def test_directions_in_words():
    rig = CameraRig(camera(name, azimuth) for name, azimuth in NUSCENES.items())
    assert [rig.direction(name) for name in rig.ring] == ['front', 'front right', 'right', 'back', 'left', 'front left']


def test_overlap_of_two_pinholes_is_the_shared_angle():
    rig = CameraRig([camera('A', 0), camera('B', -55)])
    assert rig.overlap_deg('A', 'B') == pytest.approx(15, abs=0.5)
    start, stop = rig.overlap('A', 'B')
    assert stop == 320 and start > 160  # the right edge of A
    assert rig.overlap('B', 'A')[0] == 0  # the left edge of B


@pytest.mark.parametrize('rolls', [(180, 0), (0, 180), (180, 180)])
def test_overlap_of_cameras_mounted_upside_down(rolls):
    rig = CameraRig([camera('A', 0, roll_deg=rolls[0]), camera('B', -55, roll_deg=rolls[1])])
    assert rig.overlap_deg('A', 'B') == pytest.approx(15, abs=0.5)
    assert rig.overlap('A', 'B')[1 if rolls[0] == 0 else 0] == (320 if rolls[0] == 0 else 0)
    assert bool(rig.notes) == (rolls == (180, 180))


@pytest.mark.parametrize('roll', [90, -90])
def test_overlap_of_cameras_on_their_sides(roll):
    portrait = {'roll_deg': roll, 'size': (192, 320), 'focal': 160 / math.tan(math.radians(35))}
    rig = CameraRig([camera('A', 0, **portrait), camera('B', -55, **portrait), camera('C', 55)])
    assert rig.overlap_deg('A', 'B') == pytest.approx(15, abs=0.5)
    assert rig.overlap_deg('A', 'C') == pytest.approx(15, abs=0.5)
    assert rig.overlap_deg('C', 'A') == pytest.approx(15, abs=0.5)
    assert rig.overlap('A', 'B') == (0, 192) and rig.shared('A', 'B', 4).all()


def test_overlap_of_fisheyes_reaches_behind_their_sides():
    fisheye = {'model': 'equidistant', 'd': (0.0,) * 4, 'focal': 90.0, 'size': (321, 201)}  # 204.4 degrees wide
    rig = CameraRig([camera('F', 0, **fisheye), camera('L', 90, **fisheye), camera('B', 180, **fisheye)])
    width = math.degrees(321 / 90)
    assert rig.overlap_deg('F', 'L') == pytest.approx(width - 90, abs=0.7)
    assert rig.columns_seen('F', 'B').sum() == pytest.approx(2 * (width - 180) / width * 321, abs=2)
    assert rig.overlap('F', 'L')[0] == 0


def test_cameras_back_to_back_share_nothing():
    rig = CameraRig([camera('A', 0), camera('B', 180)])
    assert rig.overlap('A', 'B') == (0, 0)
    assert rig.overlap_deg('A', 'B') == 0.0


def test_parallax_moves_the_overlap_at_short_range():
    rig = CameraRig([camera('A', 0, position=(0, 0.5, 1)), camera('B', -55, position=(0, -0.5, 1))])
    far, near = rig.columns_seen('A', 'B').sum(), rig.columns_seen('A', 'B', range_m=3.0).sum()
    assert near != far
    assert rig.columns_seen('A', 'B', range_m=1e6).sum() == pytest.approx(far, abs=1)


def test_a_barrel_lens_sees_farther_to_the_side():
    barrel = {'model': 'plumb_bob', 'd': (-0.2, 0.02, 0.0, 0.0, 0.0)}
    plain = CameraRig([camera('A', 0), camera('B', -55)])
    bent = CameraRig([camera('A', 0, **barrel), camera('B', -55, **barrel)])
    assert bent.overlap_deg('A', 'B') > plain.overlap_deg('A', 'B')


def test_columns_beyond_the_fold_share_nothing_and_that_is_said():
    folding = {'model': 'plumb_bob', 'd': (-1 / 3, 0.0, 0.0, 0.0), 'focal': 150.0}
    rig = CameraRig([camera('A', 0, **folding), camera('B', -20, **folding)])
    assert not rig.columns_seen('A', 'B')[[0, 30, 300, 319]].any() and rig.columns_seen('A', 'B')[160]
    assert len(rig.notes) == 2 and "lens of camera 'A'" in rig.notes[0] and 'of 320 columns' in rig.notes[0]


def test_shared_is_computed_once_and_handed_out_as_a_copy():
    rig = CameraRig(camera(name, azimuth) for name, azimuth in NUSCENES.items())
    first = rig.shared('CAM_FRONT', 'CAM_FRONT_RIGHT', 8)
    assert first.tolist() == [False] * 6 + [True] * 2
    rig.columns_seen = None  # not asked again
    first[:] = True
    assert rig.shared('CAM_FRONT', 'CAM_FRONT_RIGHT', 8).tolist() == [False] * 6 + [True] * 2


def around(*more):
    return [*(camera(name, azimuth, hfov_deg=80) for name, azimuth in RING.items()), *more]


@pytest.mark.parametrize(('pitch', 'word'), [(88.0, 'down'), (-75.0, 'up')])
def test_a_camera_that_looks_up_or_down_is_left_out_and_that_is_said(pitch, word):
    rig = CameraRig.of(around(camera('A_ROOF', 0.0, pitch)))
    assert rig.ring == tuple(RING)
    angle = 90 - abs(pitch)
    assert len(rig.notes) == 1
    assert f"camera 'A_ROOF' looks {word} (its axis is {angle:.0f} degrees from the vertical)" in rig.notes[0]
    assert ('cameras.frame_convention' in rig.notes[0]) == (word == 'up')


def test_a_camera_that_the_user_named_is_refused_instead():
    with pytest.raises(
        StpruneError, match=r"'TOP' looks down .*cannot be part of the ring; take it out of cameras.nam"
    ):
        CameraRig.of(around(camera('TOP', 0.0, 90.0)), named={'TOP', 'F'})
    with pytest.raises(StpruneError, match="'TOP' looks down"):
        CameraRig(around(camera('TOP', 0.0, 90.0)))


def test_a_camera_pitched_by_less_belongs_to_the_ring():
    rig = CameraRig.of([camera(name, azimuth, 55.0) for name, azimuth in RING.items()])
    assert rig.ring == tuple(RING) and rig.notes == ()


def test_all_cameras_up_are_refused():
    with pytest.raises(StpruneError, match=r'every camera looks up \(A, B\)'):
        CameraRig.of([camera('A', 0, -90, position=(1, 0, 0)), camera('B', 0, -90)])


def test_identical_extrinsics_are_refused():
    with pytest.raises(StpruneError, match="the cameras 'F', 'F2', 'F3' have the same position and attitude"):
        CameraRig.of(around(camera('F2', 1e-7), camera('F3', 0, position=(1e-5, 0, 1.5))))
    assert len(CameraRig.of(around(camera('F2', 0, position=(0, -0.1, 1.5)))).ring) == 7
    with pytest.raises(StpruneError, match='names a camera twice'):
        CameraRig(around(camera('F', 5)))
    with pytest.raises(StpruneError, match='at least one camera'):
        CameraRig([])


def test_rigs_are_compared_by_their_calibration():
    rig = CameraRig(around())
    assert rig.same_as(CameraRig(around()[::-1]))
    for change in ({'width': 321}, {'k': np.eye(3)}, {'translation': np.ones(3)}, {'distortion_model': 'fisheye'}):
        change.setdefault('d', (0.0,) * 4) if 'distortion_model' in change else None
        other = [replace(model, **change) if model.name == 'B' else model for model in around()]
        assert not rig.same_as(CameraRig(other))
    assert not rig.same_as(CameraRig(around()[1:]))


@given(st.lists(st.booleans(), max_size=40))
def test_longest_run(mask):
    start, stop = longest_run(np.array(mask, dtype=bool))
    assert all(mask[start:stop])
    text = ''.join('x' if value else ' ' for value in mask)
    assert stop - start == max(map(len, text.split()), default=0)
