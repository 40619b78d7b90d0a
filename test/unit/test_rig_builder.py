"""CameraInfo and transforms as their owners mean them."""

import math

import cv2
import numpy as np
import pytest
from helpers.calibrations import OPTICAL, RING, info, tf, transform, turn, yaw

from stprune_ros.core.rig_builder import RigBuilder, rectified_cameras
from stprune_ros.errors import StpruneError
from stprune_ros.settings.parameters import CameraSettings


def builder(message=None, rectified=(), q=OPTICAL, **settings):
    made = RigBuilder(CameraSettings(**settings), rectified)
    made.add_transforms(tf(transform('base_link', 'optical', q, (1.0, 0.2, 1.5))))
    if message is not None:
        made.add_camera_info('C', message)
    return made


def build(message, **more):
    return builder(message, **more).build(['C']).cameras['C']


def angles(model, columns):
    """Degrees to the left of the optical axis at which columns look, on the row of the optical axis."""
    rays = model.rays(np.array(columns, dtype=float), np.full(len(columns), model.k[1, 2]))
    return np.degrees(np.arctan2(rays[:, 1], rays[:, 0]))


def test_builder_walks_a_chain_of_transforms():
    made = RigBuilder()
    assert made.add_camera_info('LEFT', info('left_optical')) is True
    assert made.add_camera_info('LEFT', info('left_optical')) is False
    assert 'no static transform' in made.missing(['LEFT'])[0]
    left = transform('/base_link', 'left', yaw(90), (0.5, 0.8, 1.5))
    assert made.add_transforms(tf(left, transform('left', '/left_optical', OPTICAL))) is True
    assert made.missing(['LEFT']) == []
    model = made.build(['LEFT']).cameras['LEFT']
    assert math.degrees(model.azimuth) == pytest.approx(90)
    np.testing.assert_allclose(model.translation, (0.5, 0.8, 1.5))
    assert made.transforms.lookup('base_link', 'left').translation[0] == 0.5


@pytest.mark.parametrize(
    ('roi', 'binning', 'size', 'columns', 'expected'),
    [
        ((0, 0, 0, 0), (0, 0), (320, 192), [0, 159.5, 319], [44.91, 0, -44.91]),  # atan(159.5 / 160)
        ((0, 0, 320, 192), (1, 1), (320, 192), [0, 319], [44.91, -44.91]),
        ((80, 48, 160, 96), (0, 0), (160, 96), [0, 159], [26.42, -26.42]),  # atan(79.5 / 160)
        ((160, 0, 160, 192), (0, 0), (160, 192), [0, 159], [-0.18, -44.91]),  # atan(-0.5 / 160)
        # Pixel 0 of 2x2 combines columns 0 and 1, whose middle is 0.5.
        ((0, 0, 0, 0), (2, 2), (160, 96), [0, 159], [44.82, -44.82]),  # atan(159 / 160)
        ((160, 96, 160, 96), (4, 2), (40, 48), [0, 39], [-0.72, -44.64]),  # atan(-2 / 160), atan(-158 / 160)
    ],
)
def test_region_and_binning(roi, binning, size, columns, expected):
    model = build(info(roi=roi, binning=binning))
    assert (model.width, model.height) == size
    np.testing.assert_allclose(angles(model, columns), expected, atol=0.006)
    # The full view is from edge to edge, whatever the binning.
    if roi[2] in (0, 320):
        np.testing.assert_allclose(angles(model, [-0.5, size[0] - 0.5]), [45, -45], atol=1e-9)


def test_rows_of_a_region():
    model = build(info(roi=(0, 96, 320, 96), binning=(1, 3), fy=100.0))
    rays = model.rays(np.array([159.5] * 2), np.array([0.0, 31.0]))
    np.testing.assert_allclose(-rays[:, 2] / rays[:, 0], [1.5 / 100, 94.5 / 100], atol=1e-9)


def test_distortion_belongs_to_the_full_sensor():
    d = (-0.3, 0.1, 0.001, -0.002, 0.01)
    full, part = build(info(d=d)), build(info(d=d, roi=(100, 50, 200, 100), binning=(2, 2)))
    u, v = full.project(np.array([[11.0, 2.2, 2.5], [6.0, -1.8, 0.5]]))
    np.testing.assert_allclose(
        part.project(np.array([[11.0, 2.2, 2.5], [6.0, -1.8, 0.5]])), [(u - 99.5) / 2 - 0.5, (v - 49.5) / 2 - 0.5]
    )


@pytest.mark.parametrize(
    ('model', 'd'),
    [
        ('rational_polynomial', (0.61, -2.6, 0.0004, -0.0005, 1.5, 0.49, -2.45, 1.44)),
        ('rational_polynomial', (0.2, 0.1, 0, 0, 0.01, 0.3, 0.1, 0, 0.02, 0.001, -0.02, 0, 0.03, -0.02)),
        ('radtan', (-0.3, 0.1, 0.001, -0.002)),
    ],
)
def test_points_fall_where_opencv_projects_them(model, d):
    found = build(info(model=model, d=d))
    points = np.array([[11.0, 2.2, 2.5], [6.0, -1.8, 0.5], [4.0, 0.9, 1.9]])
    optical = (points - (1.0, 0.2, 1.5)) @ np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])
    k = np.array([[160.0, 0, 159.5], [0, 160, 95.5], [0, 0, 1]])
    expected = cv2.projectPoints(optical, np.zeros(3), np.zeros(3), k, np.array(d, dtype=float))[0][:, 0]
    np.testing.assert_allclose(np.stack(found.project(points), axis=1), expected, atol=1e-9)


def test_rectified_images_follow_p_and_r():
    tilt = turn(1, 5.0)  # about the optical y axis, down: to the right
    p = [200.0, 0, 170, 0, 0, 210, 90, 0, 0, 0, 1, 0]
    message = info(d=(-0.3, 0.1, 0, 0, 0), r=tilt.ravel(), p=p)
    model = build(message, rectified=('C',))
    assert model.distortion_model == '' and model.d == ()
    # A point seen by the unrectified camera along its axis: in rectified axes R (0, 0, 1).
    axis = np.array([[1.0, 0.2, 1.5]]) + 10 * np.array([[1.0, 0, 0]])
    expected = tilt @ (0, 0, 1)
    u, v = model.project(axis)
    assert u[0] == pytest.approx(170 + 200 * expected[0] / expected[2]) and v[0] == pytest.approx(90)
    raw = build(message)
    assert raw.d and raw.project(axis)[0][0] == pytest.approx(159.5)


def test_rectified_images_with_a_region():
    p = [200.0, 0, 159.5, 0, 0, 200, 95.5, 0, 0, 0, 1, 0]
    model = build(info(p=p, roi=(80, 48, 160, 96)), rectified=('C',))
    np.testing.assert_allclose(angles(model, [0]), [math.degrees(math.atan(79.5 / 200))], atol=1e-9)


def test_rectified_images_without_p_and_r_follow_k_and_that_is_said():
    made = builder(info(d=(-0.3, 0.1, 0, 0, 0), p=[0.0] * 12, r=[0.0] * 9), rectified=('C',))
    rig = made.build(['C'])
    assert rig.cameras['C'].k[0, 0] == 160 and rig.cameras['C'].d == ()
    assert rig.notes[0].startswith("camera_info of camera 'C' has no P: its rectified images are read with K")


@pytest.mark.parametrize(
    ('mode', 'expected'),
    [('auto', set('abcdhi')), ('always', set('abcdefghi')), ('never', set())],
)
def test_which_topics_are_rectified(mode, expected):
    topics = {
        'a': '/cam/image_rect',
        'b': '/cam/image_rect_color/compressed',
        'c': '/cam/infra1/image_rect_raw',
        'd': '/cam/rectified/image',
        'e': '/cam/image_raw/compressed',
        'f': '/rectangle/image_color',
        'g': '/direct/image',
        'h': '/cam/image_undistorted',
        'i': '/cam/imageRect',
    }
    assert rectified_cameras(CameraSettings(rectified=mode), topics) == expected


@pytest.mark.parametrize(
    ('message', 'sentence'),
    [
        (None, "no camera_info for camera 'C' yet"),
        (
            info(fx=0.0),
            "camera_info of camera 'C' is not calibrated: fx is 0; fy is 0; calibrate it, or give cameras.rig",
        ),
        (info(fy=0.0), 'not calibrated: fy is 0;'),
        (info(k=[160.0, 0, 0, 0, 160, 0, 0, 0, 1]), 'not calibrated: cx and cy are 0, which is a corner of the image;'),
        (info(width=0), 'width 0 and height 192'),
        (info(d=(math.nan,) * 5), r'd has values that are not finite \(nan, nan'),
        (info(''), "camera_info of camera 'C' has no frame_id; its driver must set it"),
        (info('/'), 'has no frame_id'),
        (info(model='fov', d=(0.9,)), "camera_info of camera 'C': distortion model 'fov' is unknown.*rig_file"),
        (info(model='', d=(0.1,)), "camera_info of camera 'C': distortion model '' comes with coefficients"),
        (info(model='equidistant', d=(0.1,) * 3), 'comes with 3 coefficients; it takes 4'),
        (info(roi=(200, 0, 160, 192)), 'roi of 160x192 at 200, 0, which does not lie in 320x192'),
        (info(roi=(10, 0, 0, 0)), 'roi of 0x0 at 10, 0'),
        (info(binning=(400, 1)), 'binning 400x1, more than its 320x192 pixels'),
        (
            info('elsewhere'),
            "camera 'C': no static transform leads from 'elsewhere' to 'base_link'.*or give cameras.rig",
        ),
    ],
)
def test_what_is_missing_or_wrong_is_said_with_the_camera(message, sentence):
    made = builder(message)
    assert len(made.missing(['C'])) == 1
    with pytest.raises(StpruneError, match=sentence):
        made.build(['C'])


def test_rectified_images_are_judged_by_p():
    p = [math.nan, 0, 170, 0, 0, 210, 90, 0, 0, 0, 1, 0]
    with pytest.raises(StpruneError, match='k has values that are not finite'):
        build(info(p=p), rectified=('C',))
    assert build(info(p=p, model='plumb_bob')).k[0, 0] == 160
    with pytest.raises(StpruneError, match='r is no rotation'):
        build(info(r=[2, 0, 0, 0, 1, 0, 0, 0, 1]), rectified=('C',))
    assert build(info(model='fov', d=(0.9,)), rectified=('C',)).d == ()


def ring(frame_of_body, **settings):
    """Six cameras whose camera_info names a frame that stands on the body frame by the quaternion ``frame_of_body``."""
    made = RigBuilder(CameraSettings(**settings))
    for name, azimuth in RING.items():
        made.add_transforms(
            tf(transform('base_link', f'{name}_body', yaw(azimuth)), transform(f'{name}_body', name, frame_of_body))
        )
        made.add_camera_info(name, info(name))
    return made


BODY, FRD = (0.0, 0.0, 0.0, 1.0), (1.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(('convention', 'frame'), [('optical', OPTICAL), ('body', BODY), ('body_frd', FRD)])
def test_frame_conventions_give_the_same_ring(convention, frame):
    rig = ring(frame, frame_convention=convention).build(list(RING))
    assert rig.ring == tuple(RING) and rig.notes == ()
    start, stop = rig.overlap('F', 'FR')
    assert stop == 320 and start > 160
    assert rig.overlap_deg('F', 'FR') == pytest.approx(30, abs=0.5)


@pytest.mark.parametrize(
    ('convention', 'frame', 'sentence'),
    [
        ('optical', BODY, r"every camera looks up in 'base_link'.*\('F'\) seems to be a body.*frame_convention: body,"),
        ('optical', FRD, 'every camera looks down .*frame_convention: body_frd,'),
        ('body', OPTICAL, 'every camera lies on its side .*set it to optical'),
        ('body_frd', OPTICAL, 'every camera lies on its side'),
    ],
)
def test_frames_that_are_not_what_the_convention_says(convention, frame, sentence):
    made = ring(frame, frame_convention=convention)
    with pytest.raises(StpruneError, match=sentence):
        made.build(list(RING))
    assert len(made.missing(list(RING))) == 1


@pytest.mark.parametrize(('convention', 'frame'), [('body', FRD), ('body_frd', BODY)])
def test_a_ring_that_hangs_upside_down_is_doubted(convention, frame):
    assert 'every camera hangs upside down' in ring(frame, frame_convention=convention).build(list(RING)).notes[0]


def test_a_named_camera_that_looks_down_is_refused_and_another_left_out():
    def made(**settings):
        found = ring(OPTICAL, **settings)
        found.add_transforms(tf(transform('base_link', 'down', (1, 0, 0, 0), (0, 0, 2))))
        found.add_camera_info('AA', info('down'))
        return found

    rig = made().build(['AA', *RING])
    assert rig.ring == tuple(RING) and "'AA' looks down" in rig.notes[0]
    for settings in ({'names': ('AA', *RING)}, {'anchor': 'AA'}, {'critical': ('AA',)}):
        assert "'AA' looks down" in made(**settings).missing(['AA', *RING])[0]


def test_a_stereo_pair_in_one_frame_stands_as_far_apart_as_p_says():
    made = builder(info())
    made.add_camera_info('R', info(p=[160, 0, 159.5, -19.2, 0, 160, 95.5, 0, 0, 0, 1, 0]))
    rig = made.build(['C', 'R'])
    assert rig.ring == ('C', 'R')
    np.testing.assert_allclose(rig.cameras['R'].translation - rig.cameras['C'].translation, (0, -0.12, 0), atol=1e-12)
    made.add_camera_info('R', info())
    with pytest.raises(StpruneError, match="the cameras 'C', 'R' have the same position"):
        made.build(['C', 'R'])


@pytest.mark.parametrize(
    'change',
    [
        {'fx': 161.0},
        {'roi': (0, 0, 160, 96)},
        {'binning': (2, 2)},
        {'p': [0.0] * 12},
        {'r': [0.0] * 9},
        {'model': 'radtan'},
    ],
)
def test_a_change_of_calibration_is_noticed(change):
    made = builder(info())
    assert made.differs('C', info()) is False and made.differs('X', info()) is False
    assert made.differs('C', info(**change)) is True
    assert made.add_camera_info('C', info(**change)) is True
