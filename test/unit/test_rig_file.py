"""Rig files: what they say, and what is wrong with them."""

import math
import random

import numpy as np
import pytest

from stprune_ros.core.rig import CameraRig
from stprune_ros.errors import StpruneError

NAMES = {'F': 0, 'R': -90, 'B': 180, 'L': 90}


def write(tmp_path, text):
    path = tmp_path / 'rig.yaml'
    path.write_text(text)
    return path


def test_rig_file(tmp_path):
    entries = [f'  {n}: {{azimuth_deg: {a}, hfov_deg: 70, width: 1600, height: 900}}' for n, a in NAMES.items()]
    random.Random(1).shuffle(entries)
    assert CameraRig.from_file(write(tmp_path, 'cameras:\n' + '\n'.join(entries))).ring == tuple(NAMES)


def test_a_field_of_view_is_that_of_the_lens(tmp_path):
    common = 'hfov_deg: {}, width: 401, height: 301, distortion_model: {}, d: {}'
    path = write(
        tmp_path,
        'cameras:\n'
        f'  W: {{azimuth_deg: 0, {common.format(200, "equidistant", [0, 0, 0, 0])}}}\n'
        f'  N: {{azimuth_deg: 90, {common.format(80, "plumb_bob", [-0.2, 0.02, 0, 0])}}}\n'
        f'  P: {{azimuth_deg: 200, pitch_deg: 10, hfov_deg: 60, width: 401, height: 301}}\n',
    )
    cameras = CameraRig.from_file(path).cameras
    assert cameras['W'].k[0, 0] == pytest.approx(200.5 / math.radians(100))
    for name, fov in (('W', 200), ('N', 80)):
        left, right = cameras[name].azimuth_span()
        assert math.degrees(left - right) == pytest.approx(fov, abs=0.6)
    np.testing.assert_allclose(cameras['P'].rotation[2, 2], -math.sin(math.radians(10)))
    assert math.degrees(cameras['P'].azimuth) == pytest.approx(-160)


GOOD = 'hfov_deg: 90, width: 10, height: 5, azimuth_deg: 0'
K = '[10, 0, 5, 0, 10, 2, 0, 0, 1]'


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('cameras: {}', "no 'cameras'"),
        ('[1', 'cannot be read'),
        ('cameras: {A: 3}', "camera 'A': it must be a mapping"),
        ('cameras: {A: {azimuth_deg: 0, hfov_deg: 70, width: 10}}', "camera 'A': 'height' is missing"),
        ('cameras: {A: {hfov_deg: 70, width: 10, height: 5}}', "'azimuth_deg' is missing"),
        ('cameras: {A: {azimuth_deg: 0, width: 10, height: 5}}', "'hfov_deg' is missing"),
        ('cameras: {A: {azimuth_deg: 0, hfov_deg: 190, width: 10, height: 5}}', 'hfov_deg 190 must lie between 0 and'),
        ('cameras: {A: {azimuth_deg: 0, hfov_deg: -10, width: 10, height: 5}}', 'hfov_deg -10 must lie'),
        (f'cameras: {{A: {{{GOOD}, pitch: 3}}}}', "'pitch' is not known here; known are width,"),
        (f'cameras: {{A: {{{GOOD}, k: {K}}}}}', "'k' and 'hfov_deg' say the same thing"),
        (f'cameras: {{A: {{{GOOD}, rotation: [0, 0, 0, 1]}}}}', "'rotation' and 'azimuth_deg' say the same"),
        (f'cameras: {{A: {{{GOOD}, position: [0, 0]}}}}', "'position' has 2 numbers, not 3"),
        (f'cameras: {{A: {{{GOOD}, position: [0, 0, .nan]}}}}', 'must be finite'),
        (f'cameras: {{A: {{{GOOD}, d: high}}}}', "'d' is 'high', not a list of numbers"),
        (
            f'cameras: {{A: {{{GOOD}, distortion_model: plumb_bob, d: [.nan, 0, 0, 0]}}}}',
            'd has values that are not fin',
        ),
        (f'cameras: {{A: {{{GOOD}, d: [0.1, 0, 0, 0]}}}}', 'name the model'),
        (f'cameras: {{A: {{{GOOD}, distortion_model: fov, d: [0.1]}}}}', "'fov' is unknown"),
        (f'cameras: {{A: {{{GOOD}, distortion_model: fisheye, d: [0.1]}}}}', 'it takes 4'),
        ('cameras: {A: {hfov_deg: 90, width: .nan, height: 5, azimuth_deg: 0}}', "'width' is nan, not a finite number"),
        ('cameras: {A: {hfov_deg: 90, width: 9.5, height: 5, azimuth_deg: 0}}', "'width' is 9.5, not an integer"),
        ('cameras: {A: {hfov_deg: 90, width: 0, height: 5, azimuth_deg: 0}}', 'width 0 and height 5 must be positive'),
        ('cameras: {A: {hfov_deg: 90, width: 9, height: 5, azimuth_deg: north}}', "'azimuth_deg' is 'north', not"),
        (f'cameras: {{A: {{k: [{", ".join("0" * 9)}], width: 9, height: 5, azimuth_deg: 0}}}}', 'fx is 0; fy is 0'),
        ('cameras: {A: {k: [1, 2, 3], width: 9, height: 5, azimuth_deg: 0}}', "'k' has 3 numbers, not 9"),
        (
            'cameras: {A: {rotation: [0, 0, 0, 0], hfov_deg: 90, width: 10, height: 5}}',
            r'quaternion.*\(0, 0, 0, 0\) is zero',
        ),
        ('cameras: {A: {rotation: [0, 0, 1, 1], hfov_deg: 90, width: 10, height: 5}}', 'has length 1.41, not 1'),
        ('cameras: {A: {rotation: [0, 0, 0, 1], hfov_deg: 90, width: 10, height: 5}}', r'every camera looks up \(A\)'),
        (f'cameras: {{A: {{{GOOD}}}, B: {{{GOOD}}}}}', "the cameras 'A', 'B' have the same position"),
    ],
)
def test_bad_rig_files_name_the_file_and_the_camera(tmp_path, text, sentence):
    path = write(tmp_path, text)
    with pytest.raises(StpruneError, match=sentence) as caught:
        CameraRig.from_file(path)
    assert str(path) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_every_bad_camera_of_a_rig_file_is_named(tmp_path):
    path = tmp_path / 'rig.yaml'
    entry = '{width: 64, height: 48, hfov_deg: 200, azimuth_deg: 0}'
    path.write_text(f'cameras: {{A: {entry}, B: {entry.replace("200", "70")}, C: {entry.replace("64", "six")}}}')
    with pytest.raises(StpruneError) as caught:
        CameraRig.from_file(path)
    assert "camera 'A': hfov_deg 200" in str(caught.value)
    assert "camera 'C': " in str(caught.value)
    assert "camera 'B'" not in str(caught.value)


def test_a_missing_rig_file_is_named_once(tmp_path):
    path = tmp_path / 'missing.yaml'
    with pytest.raises(StpruneError) as caught:
        CameraRig.from_file(path)
    assert str(caught.value) == f"rig file '{path}' cannot be read: No such file or directory"


def test_a_camera_that_looks_down_in_a_rig_file(tmp_path):
    entries = '\n'.join(f'  {n}: {{azimuth_deg: {a}, hfov_deg: 70, width: 16, height: 9}}' for n, a in NAMES.items())
    path = write(
        tmp_path, f'cameras:\n{entries}\n  D: {{azimuth_deg: 0, pitch_deg: 85, hfov_deg: 70, width: 16, height: 9}}'
    )
    rig = CameraRig.from_file(path)
    assert rig.ring == tuple(NAMES) and "'D' looks down" in rig.notes[0]
    with pytest.raises(StpruneError, match="rig.yaml': camera 'D' looks down"):
        CameraRig.from_file(path, named=('D',))


@pytest.mark.parametrize(
    ('names', 'sentence'),
    [
        (['n' * 101 + 'A', 'n' * 101 + 'B'], 'its name has 102 characters; a name has at most 100'),
        (['"A\\t"', '"A\\r"'], r'names a camera twice: A\?, A\?'),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(tmp_path, names, sentence):
    entries = [f'  {n}: {{azimuth_deg: {90 * i}, hfov_deg: 90, width: 64, height: 48}}' for i, n in enumerate(names)]
    with pytest.raises(StpruneError, match=sentence):
        CameraRig.from_file(write(tmp_path, '\n'.join(['cameras:', *entries])))


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('cameras:\n  F: {FRONT}\n  R: {SIDE}\n  F: {SIDE}', "line 4: 'F' is given a second time; remove one"),
        (
            'cameras:\n  F: {azimuth_deg: 0, hfov_deg: 90,\n    width: 64, height: 48, azimuth_deg: 90}',
            "line 3: 'azimuth",
        ),
    ],
)
def test_nothing_is_given_twice(tmp_path, text, sentence):
    entry = '{{azimuth_deg: {}, hfov_deg: 90, width: 64, height: 48}}'
    text = text.replace('{FRONT}', entry.format(0)).replace('{SIDE}', entry.format(-90))
    with pytest.raises(StpruneError, match=sentence):
        CameraRig.from_file(write(tmp_path, text))
