"""Angles of pixels and columns, computed by hand."""

import math

import numpy as np
import pytest
from helpers.calibrations import camera

from stprune_ros.core.camera_model import intrinsics_faults


def azimuths(rays):
    return np.degrees(np.arctan2(rays[:, 1], rays[:, 0]))


def elevations(rays):
    return np.degrees(np.arcsin(rays[:, 2]))


@pytest.mark.parametrize('pitch', [0.0, 20.0, -15.0])
@pytest.mark.parametrize('azimuth', [0.0, 130.0, -90.0])
def test_columns_of_a_pinhole_meet_the_horizon(azimuth, pitch):
    model = camera('C', azimuth, pitch, hfov_deg=90.0, size=(200, 160))
    rays = model.horizon_rays()
    columns = (np.arange(200) - 99.5) / 100
    # On the horizon a pinhole pitched by p shows tan(angle) = x cos(p).
    expected = azimuth - np.degrees(np.arctan(columns * math.cos(math.radians(pitch))))
    np.testing.assert_allclose((azimuths(rays) - expected + 180) % 360 - 180, 0, atol=1e-5)
    np.testing.assert_allclose(elevations(rays), 0, atol=1e-5)


def test_a_horizon_above_the_image_gives_its_upper_edge():
    rays = camera('C', pitch_deg=50.0, hfov_deg=60.0, size=(120, 80)).horizon_rays()
    half = math.degrees(math.atan(39.5 / (60 / math.tan(math.radians(30)))))
    assert elevations(rays)[60] == pytest.approx(half - 50, abs=0.1)


@pytest.mark.parametrize('roll', [0, 180])
def test_an_image_upside_down_runs_the_other_way(roll):
    model = camera('C', 30.0, roll_deg=roll, hfov_deg=80.0)
    left, right = model.azimuth_span()
    assert math.degrees(left) == pytest.approx(70, abs=0.3) and math.degrees(right) == pytest.approx(-10, abs=0.3)
    ends = azimuths(model.horizon_rays()[[0, -1]])
    assert (ends[0] > ends[1]) == (roll == 0)
    assert model.upside_down == (roll == 180)


@pytest.mark.parametrize('roll', [90, -90])
def test_the_rows_of_a_camera_on_its_side_run_along_the_horizon(roll):
    model = camera('C', 0.0, roll_deg=roll, focal=100.0, size=(192, 320))
    assert model.on_its_side and not model.upside_down
    left, right = model.azimuth_span()
    assert math.degrees(left) == pytest.approx(math.degrees(math.atan(1.595)), abs=1e-4) == -math.degrees(right)
    assert len(model.horizon_rays()) == 320
    np.testing.assert_allclose(elevations(model.horizon_rays()), 0, atol=1e-6)


def test_a_fisheye_looks_farther_than_to_its_side():
    # 300 pixels at 60 pixels a radian: 142.4 degrees to each side.
    model = camera('C', 10.0, focal=60.0, size=(299, 201), model='equidistant', d=(0.0,) * 4)
    rays = model.horizon_rays()
    angles = np.unwrap(np.radians(azimuths(rays)))
    expected = np.radians(10.0) - (np.arange(299) - 149) / 60
    np.testing.assert_allclose((angles - angles[149]) - (expected - expected[149]), 0, atol=1e-6)
    assert np.degrees(model.azimuth_span()) == pytest.approx([10 + 142.29, 10 - 142.29], abs=0.01)
    u, v = model.project(model.translation + 5 * rays)
    np.testing.assert_allclose(u, np.arange(299), atol=1e-6)
    np.testing.assert_allclose(v, 100, atol=1e-5)


def test_a_pitched_fisheye_still_meets_the_horizon_beyond_90_degrees():
    model = camera('C', 0.0, 40.0, focal=100.0, size=(340, 300), model='equidistant', d=(0.0,) * 4)
    rays = model.horizon_rays()
    level = np.abs(elevations(rays)) < 1e-4
    assert level[20:320].all()
    assert np.abs(azimuths(rays)).max() > 85
    u, _ = model.project(model.translation + rays)
    np.testing.assert_allclose(u, np.arange(340), atol=1e-5)


def test_columns_beyond_the_fold_are_unknown():
    model = camera('C', focal=100.0, size=(201, 101), model='plumb_bob', d=(-1 / 3, 0.0, 0.0, 0.0))
    known = np.isfinite(model.horizon_rays()).all(axis=1)
    # The image reaches 100 pixels, the lens 2/3 of that.
    assert abs(known.sum() - 2 * 66.7) < 3 and known[100] and not known[[0, 30, 170, 200]].any()
    u, _ = model.project(model.translation + np.array([[1.0, 0.5, 0.0], [1.0, 1.2, 0.0]]))
    assert u[0] == pytest.approx(100 - 100 * (0.5 - 0.125 / 3)) and math.isnan(u[1])


@pytest.mark.parametrize(
    ('pitch', 'vertical', 'word'),
    [
        (90, True, 'down'),
        (61, True, 'down'),
        (59, False, 'down'),
        (-90, True, 'up'),
        (-70, True, 'up'),
        (0, False, 'down'),
    ],
)
def test_which_cameras_look_up_or_down(pitch, vertical, word):
    model = camera('C', 20.0, pitch)
    assert model.is_vertical is vertical
    assert pitch == 0 or model.vertical_word == word
    assert model.from_vertical_deg == pytest.approx(90 - abs(pitch))


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'width': 0}, 'width 0 and height 192 must be positive'),
        ({'fx': 0.0}, 'fx is 0'),
        ({'fy': -160.0}, 'fy is -160'),
        ({'fx': 0.7}, 'fx is 0.7 for a width of 320 pixels'),
        ({'cx': 5000.0}, 'cx is 5000 for a width of 320 pixels'),
        ({'cy': -300.0}, 'cy is -300'),
        ({'fx': math.nan}, 'k has values that are not finite (nan, 0,'),
        ({'cy': math.inf}, 'not finite'),
        ({'d': (0.0, math.nan, 0, 0, 0)}, 'd has values that are not finite (0, nan, 0, 0, 0)'),
        ({'skew': 30.0}, 'is expected'),
        ({'last': 0.0}, 'is expected'),
    ],
)
def test_numbers_that_are_no_calibration(change, words):
    v = {'width': 320, 'fx': 160.0, 'fy': 160.0, 'cx': 159.5, 'cy': 95.5, 'd': (), 'skew': 0.0, 'last': 1.0, **change}
    k = np.array([[v['fx'], v['skew'], v['cx']], [0, v['fy'], v['cy']], [0, 0, v['last']]])
    assert words in '; '.join(intrinsics_faults(v['width'], 192, k, v['d']))
    assert intrinsics_faults(320, 192, np.array([[160.0, 0, 159.5], [0, 160, 95.5], [0, 0, 1]]), (0.1,)) == []
