"""Lenses: what OpenCV projects is found again, and what no direction reaches has no direction."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stprune_ros.core.distortion import lens_of
from stprune_ros.errors import StpruneError

LENSES = {
    'four': ('plumb_bob', (-0.31, 0.11, 0.0008, -0.0004)),
    'five': ('plumb_bob', (-0.37, 0.19, 0.001, -0.0012, -0.06)),
    'pincushion': ('plumb_bob', (0.12, 0.03, 0.0, 0.0, 0.0)),
    'eight': ('rational_polynomial', (0.61, -2.6, 0.0004, -0.0005, 1.5, 0.49, -2.45, 1.44)),
    'twelve': ('rational_polynomial', (2.1, 0.9, 1e-4, 2e-4, 0.03, 2.4, 1.5, 0.2, 0.01, -0.004, 0.008, 0.002)),
    'fourteen': ('rational_polynomial', (0.2, 0.1, 0, 0, 0.01, 0.3, 0.1, 0, 0.002, 0.001, -0.002, 0, 0.03, -0.02)),
}
FISHEYE = (-0.0125, 0.0537, -0.0504, 0.0102)


def opencv(points, d):
    return cv2.projectPoints(points[:, None], np.zeros(3), np.zeros(3), np.eye(3), np.array(d, dtype=float))[0][:, 0]


@pytest.mark.parametrize('name', LENSES)
@given(st.floats(-0.6, 0.6), st.floats(-0.4, 0.4), st.floats(0.1, 50))
@settings(max_examples=40)
def test_directions_invert_what_opencv_projects(name, x, y, distance):
    model, d = LENSES[name]
    lens, point = lens_of(model, d), np.array([[x, y, 1.0]]) * distance
    u, v = lens.image(point)
    np.testing.assert_allclose([u[0], v[0]], opencv(point, d)[0], atol=1e-12)
    np.testing.assert_allclose(lens.directions(u, v), point / np.linalg.norm(point), atol=1e-7)


@pytest.mark.parametrize('name', LENSES)
def test_a_direction_found_is_right_and_none_is_found_beyond_the_fold(name):
    model, d = LENSES[name]
    lens = lens_of(model, d)
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-1.5, 1.5, 61), np.linspace(-1, 1, 41)))
    found = lens.directions(x, y)
    known = np.isfinite(found).all(axis=1)
    assert 0.2 < known.mean() <= 1.0
    u, v = lens.image(found[known])
    np.testing.assert_allclose([u, v], [x[known], y[known]], atol=2e-8)


def test_a_polynomial_that_folds_back_shows_nothing_beyond_its_fold():
    # r (1 - r^2 / 3) rises up to r = 1 and 2/3, and falls beyond.
    lens = lens_of('plumb_bob', (-1 / 3, 0.0, 0.0, 0.0))
    u, _ = lens.image(np.array([[0.5, 0, 1], [0.95, 0, 1], [1.1, 0, 1], [1.7, 0, 1]]))
    np.testing.assert_allclose(u[:2], [0.5 - 0.125 / 3, 0.95 - 0.95**3 / 3])
    assert np.isnan(u[2:]).all()
    rays = lens.directions(np.array([-0.6, 0.6, 0.67, 5.0]), np.zeros(4))
    assert np.isnan(rays[2:]).all() and np.isfinite(rays[:2]).all()
    r = rays[1, 0] / rays[1, 2]
    assert r < 1 and r - r**3 / 3 == pytest.approx(0.6, abs=1e-8)


def test_near_the_fold_where_a_fixed_point_does_not_converge():
    lens = lens_of('plumb_bob', (-1 / 3, 0.0, 0.0, 0.0))
    wanted = 0.98 - 0.98**3 / 3
    ray = lens.directions(np.array([wanted, 0.0]), np.array([0.0, -wanted]))
    np.testing.assert_allclose(ray[:, :2] / ray[:, 2:], [[0.98, 0], [0, -0.98]], atol=1e-4)


def test_a_pinhole_sees_nothing_behind_it():
    for model, d in (('', ()), ('plumb_bob', (0.0,) * 5), *LENSES.values()):
        u, v = lens_of(model, d).image(np.array([[0.1, 0.0, -1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
        assert np.isnan(u).all() and np.isnan(v).all()
    x = np.linspace(-3, 3, 7)
    np.testing.assert_allclose(lens_of('none', ()).image(np.stack([x, 2 * x, x * 0 + 2], 1)), [x / 2, x], atol=1e-15)


@given(st.floats(0, 89), st.floats(-180, 180))
def test_a_fisheye_in_front_is_that_of_opencv(theta_deg, bearing_deg):
    theta, bearing = math.radians(theta_deg), math.radians(bearing_deg)
    point = np.array([[math.sin(theta) * math.cos(bearing), math.sin(theta) * math.sin(bearing), math.cos(theta)]])
    expected = cv2.fisheye.projectPoints(point[:, None], np.zeros(3), np.zeros(3), np.eye(3), np.array(FISHEYE))[0]
    lens = lens_of('equidistant', FISHEYE)
    found = lens.image(point)
    np.testing.assert_allclose(np.ravel(found), expected.ravel(), atol=1e-9)
    np.testing.assert_allclose(lens.directions(*found), point, atol=1e-7)


@given(st.floats(0.1, 179.0), st.floats(-180, 180))
def test_an_ideal_fisheye_is_the_angle_itself_also_behind_the_camera(theta_deg, bearing_deg):
    theta, bearing = math.radians(theta_deg), math.radians(bearing_deg)
    point = np.array([[math.sin(theta) * math.cos(bearing), math.sin(theta) * math.sin(bearing), math.cos(theta)]])
    lens = lens_of('equidistant', (0.0,) * 4)
    x, y = lens.image(point * 7)
    np.testing.assert_allclose([x[0], y[0]], [theta * math.cos(bearing), theta * math.sin(bearing)], atol=1e-9)
    np.testing.assert_allclose(lens.directions(x, y), point, atol=1e-7)


def test_a_fisheye_folds_too():
    # theta (1 - theta^2 / 12) rises up to theta = 2 and 4/3.
    lens = lens_of('fisheye', (-1 / 12, 0, 0, 0))
    theta = np.array([1.0, 1.99, 2.1, 3.0])
    u, _ = lens.image(np.stack([np.sin(theta), 0 * theta, np.cos(theta)], axis=1))
    np.testing.assert_allclose(u[:2], theta[:2] * (1 - theta[:2] ** 2 / 12))
    assert np.isnan(u[2:]).all()
    assert np.isnan(lens.directions(np.array([1.34, 9.0]), np.zeros(2))).all()
    np.testing.assert_allclose(lens.directions(np.zeros(1), np.zeros(1)), [[0, 0, 1]])


@pytest.mark.parametrize(
    ('name', 'meant', 'd'),
    [
        ('radtan', 'plumb_bob', (-0.3, 0.1, 0.01, 0.02)),
        ('Brown Conrady', 'plumb_bob', (-0.3, 0.1, 0.01, 0.02, 0.03)),
        ('plumb_bob', 'plumb_bob', (-0.3, 0.1, 0.01, 0.02, 0.03, 0, 0, 0)),
        ('kannala_brandt', 'equidistant', (0.1, -0.2, 0.05, 0.01)),
        ('Kannala Brandt4', 'equidistant', (0.1, -0.2, 0.05, 0.01)),
        ('fisheye', 'equidistant', (0.1, -0.2, 0.05, 0.01, 0.0)),
        ('', 'none', ()),
        ('plumb_bob', '', ()),
        ('inverse_brown_conrady', 'none', (0.0,) * 5),
    ],
)
def test_other_names_of_a_model(name, meant, d):
    x, y = np.linspace(-0.5, 0.5, 9), np.linspace(0.3, -0.2, 9)
    length = {'plumb_bob': 5, 'equidistant': 4}.get(meant, 0)
    np.testing.assert_array_equal(lens_of(name, d).directions(x, y), lens_of(meant, d[:length]).directions(x, y))


@pytest.mark.parametrize(
    ('model', 'd', 'sentence'),
    [
        ('fov', (0.1,), "'fov' is unknown; use plumb_bob, rational_polynomial, equidistant"),
        ('fov', (), "'fov' is unknown"),
        ('', (0.1, 0, 0, 0, 0), "'' comes with coefficients that are not 0"),
        ('modified_brown_conrady', (0.1, 0, 0, 0, 0), "'modified_brown_conrady' is unknown"),
        ('inverse_brown_conrady', (0.1, 0, 0, 0, 0), "'inverse_brown_conrady' is unknown"),
        ('plumb_bob', (0.1,), "'plumb_bob' comes with 1 coefficients; it takes 4 or 5"),
        ('plumb_bob', (0.1,) * 8, "'plumb_bob' comes with 8 coefficients; it takes 4 or 5"),
        ('rational_polynomial', (0.1,) * 5, 'comes with 5 coefficients; it takes 8 or 12 or 14'),
        ('rational_polynomial', (0.1,) * 13, 'comes with 13 coefficients'),
        ('equidistant', (), "'equidistant' comes with 0 coefficients; it takes 4"),
        ('fisheye', (0.1,) * 5, "'fisheye' comes with 5 coefficients; it takes 4"),
    ],
)
def test_models_and_counts_that_are_refused(model, d, sentence):
    with pytest.raises(StpruneError, match=sentence):
        lens_of(model, d)
