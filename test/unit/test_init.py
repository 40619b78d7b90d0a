"""`stprune init`: on eight conventions its file works as it is, and a rig that says too little gets one to fill in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.conventions import CONVENTIONS, Convention, write_convention
from helpers.small_bags import AZIMUTH_DEG, HEIGHT, START_NS, WIDTH, Item, drive, header, image, mounted, write_bag
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.cli import main
from stprune_ros.core.camera_model import OPTICAL_FROM_LINK
from stprune_ros.core.rig_builder import RigBuilder
from stprune_ros.core.rig_file import _rotation, attitude_entry, read_rig_file
from stprune_ros.core.transforms import matrix_from_quaternion
from stprune_ros.init.naming import find_template, template_for
from stprune_ros.init.offsets import measure_offsets
from stprune_ros.init.rig_text import guess_azimuth, rig_text
from stprune_ros.settings.parameter_file import load_settings
from stprune_ros.settings.parameters import CameraSettings

MS = 1_000_000


@pytest.mark.parametrize('convention', CONVENTIONS, ids=lambda one: one.name)
def test_init_check_and_replay_without_an_edit(convention: Convention, tmp_path: Path, capsys):
    bag = write_convention(tmp_path / 'bag', convention)
    params, output = tmp_path / 'my.param.yaml', tmp_path / 'out'
    assert main(['init', str(bag), '--output', str(params)]) == 0
    settings = load_settings(params)
    assert settings.cameras.names == convention.ring
    assert settings.cameras.anchor == convention.ring[0]
    assert settings.cameras.base_frame == convention.base_frame
    assert settings.topics.odometry == next(iter(convention.odometry))
    drives = convention.name != 'numeric'  # no node can subscribe to /cameras/0
    assert (f'params_file:={params}' in capsys.readouterr().out) == drives
    wanted = {camera.image: camera.offset_ms for camera in convention.cameras}
    if settings.topics.image:
        topics = [settings.topics.image.replace('{camera}', name) for name in convention.ring]
        assert set(topics) == set(wanted)
        for topic, offset in zip(topics, settings.cameras.offsets_ms or [0.0] * 6):
            assert (offset - wanted[topic] + 50.0) % 100.0 == pytest.approx(50.0, abs=0.1)  # a period is 100 ms
    assert main(['check', str(params)]) == 0
    assert main(['replay', str(bag), '--output', str(output), '--params', str(params)]) == 0
    summary = json.loads((output / 'summary.json').read_text())
    assert summary['cameras'] == list(convention.ring)
    assert [summary['views'][name]['direction'] for name in convention.ring] == [
        *('front', 'front right', 'back right', 'back', 'back left', 'front left')
    ]
    overlaps = [summary['views'][name]['overlap_right_deg'] for name in convention.ring]
    assert overlaps == pytest.approx([20.0] * 6, abs=0.5)  # 80 degrees each, 60 apart
    assert summary['sets_full'] >= summary['ticks'] - 2 > 0
    assert summary['topics']['odometry'] == next(iter(convention.odometry))
    assert set(summary['status']) <= {'OK', 'DEGRADED'}
    assert 'OK' in summary['status']


def test_a_rig_without_tf_gets_a_rig_file_to_fill_in(tmp_path: Path, capsys):
    def without_tf(item: Item) -> Item | None:
        return None if item.topic == '/tf_static' else item

    bag = write_bag(tmp_path / 'bag', drive(change=without_tf))
    params = tmp_path / 'my.param.yaml'
    assert main(['init', str(bag), '--output', str(params)]) == 0
    said = capsys.readouterr().out
    assert 'unsure   where the cameras front, left, right look is guessed from their names' in said
    assert said.startswith('cameras  ')
    assert f"'{tmp_path / 'my.rig.yaml'}', to be filled in" in said
    assert main(['check', str(params)]) == 0
    assert main(['replay', str(bag), '--output', str(tmp_path / 'out'), '--params', str(params)]) == 0
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['cameras'] == ['front', 'right', 'left']  # guessed from their names
    assert set(summary['cameras']) == set(AZIMUTH_DEG)


ROLLED = (-0.42, 0.55, -0.53, 0.4898979)  # looks ahead, pitched and rolled


def partly(fault: str) -> Callable[[Item], Item | None]:
    """A rig whose left camera lacks something, whose front one is rolled, below a frame that is no base_link."""

    def change(item: Item) -> Item | None:
        if item.topic == '/tf_static':
            stamped = [
                *mounted('front_optical', ROLLED, (1.5, -0.25, 1.4), parent='base_footprint').transforms,
                *(replace(one, header=replace(one.header, frame_id='base_footprint'))
                  for one in item.message.transforms[1 if fault == 'tf' else 0:] if 'front' not in one.child_frame_id),
            ]  # fmt: skip
            return replace(item, message=replace(item.message, transforms=stamped))
        if item.topic == '/camera/left/camera_info':
            if fault == 'k':
                return replace(item, message=replace(item.message, k=np.zeros(9)))
            if fault == 'same':
                return replace(item, message=replace(item.message, header=header(item.stamp_ns, 'right_optical')))
            return None if fault == 'camera_info' else item
        return item

    return change


@pytest.mark.parametrize(
    ('fault', 'guessed'), [('tf', {'left'}), ('camera_info', {'left'}), ('same', {'left', 'right'}), ('k', set())]
)
def test_what_tf_knows_of_single_cameras_stands_in_the_rig_file(fault: str, guessed: set[str], tmp_path: Path, capsys):
    bag, params, rig = (
        write_bag(tmp_path / 'bag', drive(change=partly(fault))),
        tmp_path / 'a.yaml',
        tmp_path / 'a.rig.yaml',
    )
    assert main(['init', str(bag), '--output', str(params)]) == 0
    said, text = capsys.readouterr().out, rig.read_text()
    doubt = f'where the cameras {", ".join(sorted(guessed))} look is guessed from their names'
    assert (doubt in said) == bool(guessed) and said.count('guessed from their names') == bool(guessed)
    assert load_settings(params).cameras.base_frame == 'base_footprint'
    assert text.count('# guessed') == len(guessed)
    builder = RigBuilder(CameraSettings(base_frame='base_footprint'))
    for item in drive(1, partly(fault)):
        if item.topic == '/tf_static':
            builder.add_transforms(item.message)
    for key, value in {'width': WIDTH, 'height': HEIGHT, 'hfov_deg': 90}.items():
        text = text.replace(f'# {key}: ...  FILL IN', f'{key}: {value}')
    rig.write_text(text)
    for model in read_rig_file(rig):
        if model.name not in guessed:
            rotation, translation = builder.to_base(f'{model.name}_optical')
            assert np.allclose(model.rotation, rotation, atol=1e-7), model.name
            assert np.allclose(model.translation, translation, atol=1e-7)
    front = yaml.safe_load(text)['cameras']['front']
    assert 'rotation' in front and 'azimuth_deg' not in front


@given(st.floats(-180, 180), st.floats(-90, 90), st.one_of(st.just(0.0), st.floats(-180, 180)))
def test_any_attitude_survives_a_rig_file(azimuth, pitch, roll):
    def turn(axis: int, degrees: float) -> np.ndarray:
        quaternion = np.zeros(4)
        quaternion[[axis, 3]] = np.sin(np.radians(degrees) / 2), np.cos(np.radians(degrees) / 2)
        return matrix_from_quaternion(quaternion)

    rotation = turn(2, azimuth) @ turn(1, pitch) @ turn(0, roll) @ OPTICAL_FROM_LINK
    assert np.allclose(_rotation(attitude_entry(rotation)), rotation, atol=2e-7)


def test_a_rig_file_to_fill_in_can_be_filled_in(tmp_path: Path):
    path, values = tmp_path / 'rig.yaml', {'width': '640', 'height': '480', 'hfov_deg': '80', 'azimuth_deg': '30'}
    lines = rig_text(['cam0', 'front_left'], {}).splitlines()
    keys = [line.strip(' #').partition(':')[0] for line in lines]
    filled = [
        f'    {key}: {values[key]}' if line.lstrip().startswith('# ') and key in values else line
        for key, line in zip(keys, lines)
    ]
    path.write_text('\n'.join(filled))
    one, other = read_rig_file(path)
    assert (one.width, one.height, other.width) == (640, 480, 640)
    assert np.degrees(one.azimuth) == pytest.approx(30.0)
    assert np.degrees(other.azimuth) == pytest.approx(60.0)


def test_offsets_are_measured_where_each_image_comes_twice():
    anchor = [tick * 100_000_000 for tick in range(8)]
    others = [stamp + 16_000_000 for stamp in anchor]
    stamps = {'a': sorted(anchor * 2), 'b': sorted(others * 2)}
    assert measure_offsets(stamps, 'a') == {'a': 0.0, 'b': 16.0}


def test_what_shows_no_view_is_no_doubt_and_the_order_of_offsets_is_named(tmp_path: Path, capsys):
    def change(item: Item) -> Item:
        if item.topic != '/camera/left/image_raw/compressed':
            return item
        header = item.message.header
        stamp_ns = header.stamp.sec * 10**9 + header.stamp.nanosec + 20_000_000
        stamp = replace(header.stamp, sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
        return replace(item, message=replace(item.message, header=replace(header, stamp=stamp)))

    items = drive(6, change)
    depth = [
        replace(item, topic='/camera/depth/image_raw/compressed')
        for item in items
        if item.topic == '/camera/front/image_raw/compressed'
    ]
    params = tmp_path / 'my.param.yaml'
    assert main(['init', str(write_bag(tmp_path / 'bag', [*items, *depth])), '--output', str(params)]) == 0
    said = capsys.readouterr().out
    assert "no view  '/camera/depth/image_raw/compressed' is taken for no camera" in said
    assert 'unsure' not in said
    assert '# measured from stamps: front 0, right 0, left 20' in params.read_text()


def test_transforms_in_a_namespace_need_a_remapping(tmp_path: Path, capsys):
    bag = write_bag(tmp_path / 'bag', [replace(item, topic=f'/robot{item.topic}') for item in drive(4)])
    assert main(['init', str(bag), '--output', str(tmp_path / 'my.param.yaml')]) == 0
    assert 'start the node with the remapping /tf_static:=/robot/tf_static' in capsys.readouterr().out


def test_a_camera_of_another_transport_can_be_republished(tmp_path: Path, capsys):
    def change(item: Item) -> Item:
        if item.topic != '/camera/left/image_raw/compressed':
            return item
        return Item('/camera/left/image_raw', item.stamp_ns, image(item.stamp_ns))

    bag = write_bag(tmp_path / 'bag', drive(4, change))
    assert main(['init', str(bag), '--output', str(tmp_path / 'my.param.yaml')]) == 0
    said = capsys.readouterr().out
    assert "unsure   '/camera/left/image_raw' is left out: it is not compressed as most cameras are" in said
    assert 'republish it with image_transport (ros2 run image_transport republish)' in said


def test_transforms_on_tf_only_are_named(tmp_path: Path, capsys):
    def change(item: Item) -> Item:
        return replace(item, topic='/tf') if item.topic == '/tf_static' else item

    bag = write_bag(tmp_path / 'bag', drive(4, change))
    assert main(['init', str(bag), '--output', str(tmp_path / 'my.param.yaml')]) == 0
    assert 'comes on /tf only; publish it on /tf_static' in capsys.readouterr().out


def test_of_two_robots_the_transforms_of_the_cameras_count(tmp_path: Path):
    other = mounted('front_optical', ROLLED, (9.0, 9.0, 9.0))
    late = [Item('/a/tf_static', START_NS + 1, other), Item('/z/tf_static', START_NS + 1, other)]
    items = [*(replace(item, topic=f'/robot{item.topic}') for item in drive(4, partly('tf'))), *late]
    params = tmp_path / 'my.param.yaml'
    for item in late:
        item.message.transforms[0].header.frame_id = 'base_footprint'
    assert main(['init', str(write_bag(tmp_path / 'bag', items)), '--output', str(params)]) == 0
    cameras = yaml.safe_load((tmp_path / 'my.rig.yaml').read_text())['cameras']
    assert cameras['front']['position'] == [1.5, -0.25, 1.4]


def test_a_vehicle_frame_of_any_name_is_found_above_the_cameras(tmp_path: Path):
    def change(item: Item) -> Item:
        if item.topic != '/tf_static':
            return item
        moved = [replace(one, header=replace(one.header, frame_id='truck_7')) for one in item.message.transforms]
        return replace(item, message=replace(item.message, transforms=moved))

    bag, params = write_bag(tmp_path / 'bag', drive(4, change)), tmp_path / 'my.param.yaml'
    assert main(['init', str(bag), '--output', str(params)]) == 0
    settings = load_settings(params)
    assert settings.cameras.base_frame == 'truck_7'
    assert not settings.cameras.rig_file


def test_nothing_is_written_over(tmp_path: Path, capsys):
    bag = write_bag(tmp_path / 'bag', drive())
    (tmp_path / 'my.param.yaml').write_text('mine')
    assert main(['init', str(bag), '--output', str(tmp_path / 'my.param.yaml')]) == 1
    assert 'exists already; name another --output' in capsys.readouterr().err
    assert (tmp_path / 'my.param.yaml').read_text() == 'mine'
    assert main(['init', str(bag), '--output', str(tmp_path / 'none' / 'my.param.yaml')]) == 1
    assert 'there is no folder' in capsys.readouterr().err


def test_the_real_recording(test_data: Path, tmp_path: Path):
    params = tmp_path / 'my.param.yaml'
    assert main(['init', str(test_data / 'pandaset_002' / 'bag'), '--output', str(params)]) == 0
    cameras = load_settings(params).cameras
    ring = ('CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_RIGHT', 'CAM_BACK', 'CAM_LEFT', 'CAM_FRONT_LEFT')
    assert cameras.names == ring
    # The lidar sweeps the ring in 100 ms, and a camera fires when it passes: 81 ms from the first to the last.
    assert cameras.offsets_ms == pytest.approx((0.0, 10.8, 31.3, 50.0, -31.4, -10.8), abs=3.0)
    assert max(cameras.offsets_ms) - min(cameras.offsets_ms) == pytest.approx(81.0, abs=3.0)


@pytest.mark.parametrize(
    ('topics', 'template', 'names'),
    [
        (['/a/front/image', '/a/back/image'], '/a/{camera}/image', ['front', 'back']),
        (['/front/front/image', '/back/back/image'], '/{camera}/{camera}/image', ['front', 'back']),
        (['/cam0/image', '/cam1/image', '/other/deep/image'], '/{camera}/image', ['cam0', 'cam1']),
        (['/one/image'], '', []),
        (['/one/image', '/two/picture'], '', []),
    ],
)
def test_templates_hold_what_varies(topics, template, names):
    found, named = find_template(topics)
    assert (found, list(named.values())) == (template, names)


def test_a_template_must_give_every_topic():
    assert template_for({'a': '/a/info', 'b': '/b/info'}) == '/{camera}/info'
    assert template_for({'a': '/a/info', 'b': '/c/info'}) == ''


@given(st.lists(st.integers(-45, 45), min_size=1, max_size=5), st.lists(st.integers(-4, 4), min_size=12, max_size=12))
def test_offsets_are_measured_against_the_anchor(offsets_ms, jitter_ms):
    anchor = [k * 100 * MS for k in range(12)]
    stamps = {f'c{n}': [at + (offset + jitter) * MS for at, jitter in zip(anchor, jitter_ms)]
              for n, offset in enumerate(offsets_ms)}  # fmt: skip
    measured = measure_offsets({'anchor': anchor, **stamps}, 'anchor')
    assert measured['anchor'] == 0.0
    for n, offset in enumerate(offsets_ms):
        assert measured[f'c{n}'] == pytest.approx(offset, abs=4.0)


def test_too_few_frames_measure_nothing():
    assert measure_offsets({'a': [0, 100 * MS, 200 * MS], 'b': [0, 100 * MS]}, 'a') == {'a': 0.0}


@pytest.mark.parametrize(
    ('name', 'azimuth'),
    [
        ('CAM_FRONT_LEFT', 60.0),
        ('rear', 180.0),
        ('left', 90.0),
        ('fr', -60.0),
        ('zed_back_right', -120.0),
        ('cam3', None),
    ],
)
def test_azimuths_are_guessed_from_names(name, azimuth):
    assert guess_azimuth(name) == azimuth
