"""The tables of nuScenes beside a set: calibration, motion, and the pictures between."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.question_sets import (
    CAMERAS,
    FIRST_US,
    SCENE_US,
    STRIDE_US,
    key_frame,
    make_drivelm,
    make_nuinstruct,
    needs_packages,
    picture_name,
    qa,
    write_pictures,
    write_tables,
)

from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.datasets import drivelm, nuinstruct
from stprune_ros.evaluation.datasets.nuscenes import NO_TABLES, Picture, Shot, Tables, earlier_shots, moments_of

pytestmark = needs_packages


def test_tables_of_nuscenes_bring_calibration_motion_and_the_pictures_between(tmp_path: Path) -> None:
    """Only the last instant is a key frame here; the car drives a known arc, and two cameras have swapped places."""
    write_pictures(tmp_path / 'nuscenes')
    groups = {'perception': [qa('what is there?', 'a car', 2)]}
    tree = {f's{n}': {'key_frames': {f'sample{n}3': key_frame(n, 3, groups)}} for n in range(2)}
    (tmp_path / 'set.json').write_text(json.dumps(tree))
    samples = {(scene, n): f'sample{scene}{n}' for scene in range(2) for n in range(4)}
    swapped = {'CAM_FRONT_LEFT': 'CAM_FRONT_RIGHT', 'CAM_FRONT_RIGHT': 'CAM_FRONT_LEFT'}
    write_tables(tmp_path / 'nuscenes', samples, swapped, speed=6.0, yaw_rate=0.2)
    found = drivelm.read(tmp_path)
    assert found.notes == () and found.faults.sentences == []
    for scene, moment in enumerate(found.moments):
        assert moment.rig.ring == (
            *('CAM_FRONT', 'CAM_FRONT_LEFT', 'CAM_BACK_RIGHT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_FRONT_RIGHT'),
        )  # fmt: skip
        names = [path.name if path else None for path in moment.pictures['CAM_BACK_LEFT']]
        assert names == [picture_name(scene, n, 'CAM_BACK_LEFT') for n in range(4)]
        for n, ego in enumerate(moment.egos):
            assert ego is not None
            assert ego.stamp_ns == 1000 * (FIRST_US + scene * SCENE_US + n * STRIDE_US)
            assert ego.linear == pytest.approx((6.0, 0.0, 0.0), abs=0.02)
            assert ego.angular == pytest.approx((0.0, 0.0, 0.2), abs=1e-6)
    scene_shown = found.cases(0)[0].scene
    assert scene_shown.ego_motion == 'ego turning'


def test_a_sample_that_the_tables_do_not_know_is_counted(tmp_path: Path) -> None:
    make_drivelm(tmp_path)
    write_tables(tmp_path / 'nuscenes', {(0, n): f'f0{n}' for n in range(4)})
    found = drivelm.read(tmp_path)
    assert [moment.egos[-1] is None for moment in found.moments] == [False, True]
    sentence = 'key frames that the tables do not know, with the nominal mounting: 1; the first is f13'
    assert found.faults.sentences == [sentence]


def test_broken_tables_are_named(tmp_path: Path) -> None:
    make_drivelm(tmp_path)
    tables = write_tables(tmp_path / 'nuscenes', {(0, n): f'f0{n}' for n in range(4)})
    content = (tables / 'calibrated_sensor.json').read_text()
    (tables / 'calibrated_sensor.json').write_text(content.replace('"rotation"', '"turned"', 1))
    with pytest.raises(StpruneError, match="has a calibration of CAM_FRONT that is none, cal-CAM_FRONT: 'rotation'"):
        drivelm.read(tmp_path)
    rows = json.loads(content)
    for row in rows:
        row['camera_intrinsic'] = [[10**400, 0, 1], [0, 1, 1], [0, 0, 1]]  # more than a float holds
    (tables / 'calibrated_sensor.json').write_text(json.dumps(rows))
    with pytest.raises(StpruneError, match='has a calibration of CAM_FRONT that is none'):
        drivelm.read(tmp_path)
    (tables / 'calibrated_sensor.json').write_text(content)
    data = (tables / 'sample_data.json').read_text()
    for width in ('"abc"', 'NaN', '[1]', 'Infinity', 'true', '{}'):
        (tables / 'sample_data.json').write_text(re.sub(r'"width": \d+', f'"width": {width}', data))
        with pytest.raises(StpruneError, match='has a calibration of CAM_FRONT that is none'):
            drivelm.read(tmp_path)
    (tables / 'sample_data.json').write_text(data)
    (tables / 'calibrated_sensor.json').write_text(content[:-40])
    with pytest.raises(StpruneError, match=r"calibrated_sensor.json' is no list of JSON objects that is whole"):
        drivelm.read(tmp_path)


def test_clips_of_nuinstruct_have_calibration_and_motion_from_the_tables(tmp_path: Path) -> None:
    path = make_nuinstruct(tmp_path)
    write_tables(tmp_path, {(scene, n): f'sample{scene}{n}' for scene in range(2) for n in range(4)}, yaw_rate=0.01)
    found = nuinstruct.read(path)
    assert found.notes == ()
    for moment in found.moments:
        assert [ego and round(ego.speed, 2) for ego in moment.egos] == [6.0] * 3
        assert moment.rig.cameras['CAM_BACK'].k[0, 0] < moment.rig.cameras['CAM_FRONT'].k[0, 0]


def test_clips_that_the_tables_do_not_know_whole_are_counted(tmp_path: Path) -> None:
    """Of the second clip they have no sample, of the first one no picture of one camera."""
    path = make_nuinstruct(tmp_path)
    tables = write_tables(tmp_path, {(0, n): f'sample0{n}' for n in range(4)})
    found = nuinstruct.read(path)
    sentence = 'clips that the tables do not know, with the nominal mounting'
    assert found.faults.sentences == [f'{sentence}: 1; the first is perception-status/1-0']
    assert [moment.egos[-1] is None for moment in found.moments] == [False, True]
    rows = json.loads((tables / 'sample_data.json').read_text())
    (tables / 'sample_data.json').write_text(
        json.dumps([row for row in rows if 'CAM_BACK_LEFT' not in row['filename']])
    )
    found = nuinstruct.read(path)
    assert found.faults.sentences == [f'{sentence}: 2; the first is perception-status/0-0']
    assert [(moment.rig.ring, moment.egos) for moment in found.moments] == [(CAMERAS, (None,) * 3)] * 2


@pytest.mark.parametrize(
    ('missing', 'notes', 'motion', 'calibrated'),
    [
        (['ego_pose.json'], ["'v1.0-made-up' lacks 'ego_pose.json': the motion of the car is not known"], False, True),
        (
            ['sample.json', 'ego_pose.json'],
            ["'v1.0-made-up' lacks 'sample.json', 'ego_pose.json': the tables in it are not used", NO_TABLES],
            False,
            False,
        ),
        (
            ['calibrated_sensor.json'],
            ["'v1.0-made-up' lacks 'calibrated_sensor.json': the tables in it are not used", NO_TABLES],
            False,
            False,
        ),
        (['sample.json', 'sample_data.json', 'calibrated_sensor.json', 'ego_pose.json'], [NO_TABLES], False, False),
        ([], [], True, True),
    ],
    ids=lambda value: ' '.join(value).replace('.json', '') if isinstance(value, list) else None,
)
def test_tables_are_used_as_far_as_they_are_there(
    tmp_path: Path, missing: list[str], notes: list[str], motion: bool, calibrated: bool
) -> None:
    path = make_drivelm(tmp_path)
    swapped = {'CAM_FRONT_LEFT': 'CAM_FRONT_RIGHT', 'CAM_FRONT_RIGHT': 'CAM_FRONT_LEFT'}
    samples = {(scene, n): f'f{scene}{n}' for scene in range(2) for n in range(4)}
    tables = write_tables(tmp_path / 'nuscenes', samples, swapped)
    for name in missing:
        (tables / name).unlink()
    found = drivelm.read(path)
    assert list(found.notes) == notes and found.faults.sentences == []
    for moment in found.moments:
        assert (moment.rig.ring[1] == 'CAM_FRONT_LEFT') == calibrated, 'as the tables have swapped them'
        assert all((ego is not None) == motion for ego in moment.egos)


def test_speed_is_that_since_the_picture_before() -> None:
    """Of a car that gains speed; of the first picture that up to the next one."""
    stamps = [FIRST_US + n * STRIDE_US for n in range(3)]
    shots = [Shot(Picture('log', 'CAM_FRONT', stamp, 'name'), str(n), 'sensor') for n, stamp in enumerate(stamps)]
    poses = {str(n): (np.eye(3), np.array([x, 7.0, 0.0])) for n, x in enumerate((0.0, 1.0, 4.0))}
    tables = Tables(poses=poses)
    speeds = [
        ego.linear[0] for stamp in stamps if (ego := tables.ego(shots, stamp + 100_000)) is not None and ego.linear
    ]
    assert speeds == [2.0, 2.0, 6.0]
    egos = [tables.ego(shots, stamp) for stamp in stamps]
    assert [ego.position for ego in egos if ego] == [(x, 7.0, 0.0) for x in (0.0, 1.0, 4.0)], 'where each was taken'
    assert tables.ego(shots, stamps[2] + 200_000) is None, 'too far from any picture'
    assert tables.ego(shots[:1], stamps[0]) is None, 'one place is no motion'
    assert Tables().ego(shots, stamps[0]) is None


def test_pictures_of_one_instant_are_nearer_than_150_ms() -> None:
    """The nearest of each camera, on either side; the instants are those of the front."""

    def shot(camera: str, ms: float) -> Picture:
        return Picture('log', camera, FIRST_US + round(ms * 1000), f'{camera} at {ms:g}')

    pictures = [shot('CAM_BACK', ms) for ms in (-150.0, 120.0, 350.0, 850.001)]
    pictures += [shot('CAM_FRONT', ms) for ms in (1000.0, 0.0, 500.0)]
    rows = moments_of(pictures)
    assert [[row.get(camera, shot('', 0.0)).name for camera in ('CAM_FRONT', 'CAM_BACK')] for row in rows] == [
        ['CAM_FRONT at 0', 'CAM_BACK at 120'],
        ['CAM_FRONT at 500', 'CAM_BACK at 350'],
        ['CAM_FRONT at 1000', 'CAM_BACK at 850.001'],
    ]
    assert ['CAM_BACK' in row for row in moments_of([shot('CAM_FRONT', 0.0), shot('CAM_BACK', -150.001)])] == [False]
    shots = {picture.camera: [] for picture in pictures}
    for picture in sorted(pictures, key=lambda one: one.stamp_us):
        shots[picture.camera].append(Shot(picture, '', ''))
    before = earlier_shots(shots, FIRST_US + 1_000_000, 2)
    assert [{camera: one.name for camera, one in row.items()} for row in before] == [
        {'CAM_BACK': 'CAM_BACK at 120', 'CAM_FRONT': 'CAM_FRONT at 0'},
        {'CAM_BACK': 'CAM_BACK at 350', 'CAM_FRONT': 'CAM_FRONT at 500'},
    ]


def test_tables_of_other_samples_are_no_tables_of_the_set(tmp_path: Path) -> None:
    path = make_drivelm(tmp_path)
    write_tables(tmp_path / 'nuscenes', {(5, 0): 'another'})
    (tmp_path / 'v1.0-round').symlink_to(tmp_path / 'v1.0-round')
    (tmp_path / 'v1.0-trainval').write_text('an archive that was not unpacked')
    (tmp_path / 'v1.0-mini').mkdir()
    assert drivelm.read(path).notes == (NO_TABLES,)
