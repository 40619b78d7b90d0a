"""A ring from the calibration in a bag: all of it is read, the last transform counts, faults come before a model."""

import json
import math
import sqlite3
from contextlib import closing
from dataclasses import replace

import cv2
import numpy as np
import pytest
from helpers.small_bags import (
    AZIMUTH_DEG,
    START_NS,
    STORAGES,
    STORE,
    Item,
    camera_info,
    drive,
    make,
    transforms,
    write_bag,
)

from stprune_ros.cli import main
from stprune_ros.errors import StpruneError
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.settings.settings import Settings

OPTICAL = (-0.5, 0.5, -0.5, 0.5)
DOWN = (math.sqrt(0.5), -math.sqrt(0.5), 0.0, 0.0)


def stamped(parent, child, q, t=(0.0, 0.0, 1.0)):
    vector = STORE.types['geometry_msgs/msg/Vector3'](*t)
    pose = make('geometry_msgs/Transform', vector, make('geometry_msgs/Quaternion', *map(float, q)))
    return make('geometry_msgs/TransformStamped', transforms().transforms[0].header, child, pose), parent


def tf_item(*edges, topic='/tf_static', stamp_ns=START_NS):
    found = []
    for edge in edges:
        message, parent = stamped(*edge)
        found.append(replace(message, header=replace(message.header, frame_id=parent)))
    return Item(topic, stamp_ns, make('tf2_msgs/TFMessage', found))


def windows(path, **values):
    with Bag(path) as bag:
        found = BagWindows(
            bag, Settings.from_values({name.replace('__', '.'): value for name, value in values.items()})
        )
        ticks = list(found.read())
    return found, ticks


def with_infos(change, ticks=5):
    """A drive whose camera_info is changed: ``change`` takes the message, its camera and its tick."""

    def changed(item):
        if not item.topic.endswith('camera_info'):
            return item
        camera, tick = item.topic.split('/')[2], (item.stamp_ns - START_NS) // 100_000_000
        return replace(item, message=change(item.message, camera, tick))

    return drive(ticks, changed)


def test_the_last_static_transform_counts_however_late_it_comes(tmp_path):
    late = tf_item(
        ('base_link', 'front_optical', (0.5, 0.5, -0.5, -0.5)), stamp_ns=START_NS + 450_000_000
    )  # looks back
    found, ticks = windows(write_bag(tmp_path / 'bag', [*drive(), late]))
    assert math.degrees(abs(found.rig.azimuth('front'))) == pytest.approx(180)
    assert found.rig.direction('front') == 'back' and ticks
    assert found.transforms.lookup('base_link', 'front_optical').rotation[0, 2] == pytest.approx(-1)


@pytest.mark.parametrize('own', ['', '/r2'])
def test_the_transforms_of_the_cameras_own_robot_count(tmp_path, own):
    """Two robots whose frames have the same names: the other one's front camera looks to the left."""
    other = '' if own else '/r2'
    turned = tf_item(('base_link', 'front_optical', (0.0, 0.7071, -0.7071, 0.0)), topic=f'{other}/tf_static')
    items = drive(change=lambda item: replace(item, topic=own + item.topic))
    found, _ = windows(write_bag(tmp_path / 'bag', [*items, replace(turned, stamp_ns=START_NS + 1)]))
    assert math.degrees(found.rig.cameras['front'].azimuth) == pytest.approx(0.0, abs=0.01)
    sentence = f"'{own}/tf_static' puts 'front_optical' elsewhere than another tf_static of the bag does"
    assert any(note.startswith(sentence) for note in found.notes)


def test_static_transforms_may_be_split_over_namespaces(tmp_path):
    def change(item):
        return replace(item, topic='/driver/tf_static') if item.topic == '/tf_static' else item

    mount = tf_item(('vehicle', 'base_link', (0.0, 0.0, 0.0, 1.0)))
    found, ticks = windows(write_bag(tmp_path / 'bag', [mount, *drive(change=change)]), cameras__base_frame='vehicle')
    assert len(found.rig.ring) == 3 and len(ticks) == 5
    assert found.rig.cameras['front'].translation[2] == pytest.approx(2.5)
    assert not any('elsewhere' in note for note in found.notes)


@pytest.mark.parametrize('topic', ['/camera/front/camera_info', '/tf_static'])
def test_a_broken_calibration_message_does_not_hide_the_good_ones(tmp_path, topic):
    path = write_bag(tmp_path / 'bag', [*tf_twice(), *drive()], STORAGES[1])
    [file] = path.glob('*.db3')
    with closing(sqlite3.connect(file)) as database:
        numbers = 'SELECT min(m.id) FROM messages m JOIN topics t ON t.id = m.topic_id WHERE t.name = ?'
        database.execute(f'UPDATE messages SET data = substr(data, 1, 20) WHERE id = ({numbers})', [topic])
        database.commit()
    found, _ = windows(path)
    assert len(found.rig.ring) == 3
    [note] = [note for note in found.notes if note.endswith('it is left out')]
    assert note.startswith(f"the message on '{topic}' recorded at {START_NS} ns is not a readable")


def tf_twice():
    return [item for item in drive(1) if item.topic == '/tf_static']


def test_a_first_camera_info_that_is_empty_is_waited_out(tmp_path):
    def change(message, camera, tick):
        return replace(message, k=np.zeros(9)) if tick == 0 and camera == 'left' else message

    found, _ = windows(write_bag(tmp_path / 'bag', with_infos(change)))
    assert found.rig.cameras['left'].k[0, 0] == 32
    assert [note for note in found.notes if 'changes' in note] == [
        "camera_info of camera 'left' changes within the bag; the first one that can be used counts"
    ]


def test_a_camera_info_that_changes_is_named_once(tmp_path):
    def change(message, camera, tick):
        return replace(message, k=message.k * 1.5) if tick > 1 and camera == 'right' else message

    found, ticks = windows(write_bag(tmp_path / 'bag', with_infos(change)))
    assert len(ticks) == 5 and found.rig.cameras['right'].k[0, 0] == 32
    assert sum("'right' changes" in note for note in found.notes) == 1


def uncalibrated(camera):
    """A change that takes the calibration out of every camera_info of one camera."""
    return lambda message, name, _: replace(message, k=np.zeros(9)) if name == camera else message


def test_a_camera_without_usable_calibration_stands_beside_the_ring(tmp_path):
    path = write_bag(tmp_path / 'bag', with_infos(uncalibrated('left')))
    found, ticks = windows(path)
    assert found.rig.ring == ('front', 'right')
    assert [camera.name for camera in found.rig.unusable] == ['left']
    assert len(ticks) == 5 and all(set(tick.current.frames) == {'front', 'right'} for tick in ticks)
    [note] = [note for note in found.notes if 'is not calibrated' in note]
    assert note.startswith("camera_info of camera 'left' is not calibrated: ")


def test_a_critical_camera_without_calibration_is_refused_before_a_model_is_loaded(tmp_path):
    path = write_bag(tmp_path / 'bag', with_infos(uncalibrated('left')))
    sentence = "^critical camera 'left' is missing in every tick of this bag: camera_info of camera 'left' is not calib"
    with pytest.raises(StpruneError, match=sentence):
        windows(path, cameras__critical=['front', 'left'])
    front = write_bag(tmp_path / 'front', with_infos(uncalibrated('front')))
    with pytest.raises(StpruneError, match="^critical camera 'front' is missing in every tick of this bag: "):
        windows(front)
    found, _ = windows(front, cameras__anchor='right')
    assert set(found.rig.ring) == {'right', 'left'} and found.roles.anchor == 'right'


def test_where_all_calibration_is_waited_for_a_camera_without_it_is_refused(tmp_path):
    def change(item):
        return None if item.topic == '/camera/left/camera_info' else item

    path = write_bag(tmp_path / 'bag', drive(change=change))
    with pytest.raises(StpruneError, match="^no camera_info for camera 'left' yet"):
        windows(path, cameras__anchor='front', cameras__calibration_wait_ms=0.0)
    assert windows(path, cameras__anchor='front')[0].rig.ring == ('front', 'right')


def test_a_region_of_interest_narrows_the_ring(tmp_path):
    full, _ = windows(write_bag(tmp_path / 'full', drive()))

    def change(message, camera, tick):
        return replace(message, roi=make('sensor_msgs/RegionOfInterest', 16, 12, 24, 32, False))

    part, _ = windows(write_bag(tmp_path / 'part', with_infos(change)))
    # 90 degrees 70 degrees apart share 20; half the image spans atan(1/2) to each side and shares nothing.
    assert full.rig.overlap_deg('front', 'right') == pytest.approx(20, abs=1)
    assert part.rig.overlap_deg('front', 'right') == 0.0


def test_rectified_topics_follow_p(tmp_path):
    def change(item):
        if item.topic.endswith('camera_info'):
            p = item.message.p.copy()
            p[[0, 5]] = 64.0
            return replace(item, message=replace(item.message, p=p, d=np.array([-0.4, 0.1, 0, 0, 0])))
        return replace(item, topic=item.topic.replace('image_raw', 'image_rect_color'))

    path = write_bag(tmp_path / 'bag', drive(5, change))
    for mode, focal in (('auto', 64), ('always', 64), ('never', 32)):
        assert windows(path, cameras__rectified=mode)[0].rig.cameras['front'].k[0, 0] == focal


def test_a_camera_that_looks_down_takes_no_part(tmp_path):
    items = [tf_item(('base_link', 'a_down_optical', DOWN))]
    for item in drive():
        items.append(item)
        if '/front/' in item.topic:
            message = camera_info(item.stamp_ns, 'a_down') if item.topic.endswith('info') else item.message
            items.append(Item(item.topic.replace('/front/', '/a_down/'), item.stamp_ns, message))
    path = write_bag(tmp_path / 'bag', items)
    found, ticks = windows(path)
    assert found.rig.ring == ('front', 'right', 'left') and found.roles.anchor == 'front'
    assert 'a_down' not in found.topics.cameras and ticks[0].current.full and len(ticks) == 5
    assert sum("camera 'a_down' looks down" in note for note in found.notes) == 1
    with pytest.raises(StpruneError, match="^critical camera 'a_down' is missing in every tick of this bag: camera"):
        windows(path, cameras__anchor='a_down')
    assert windows(path, cameras__names=list(AZIMUTH_DEG))[0].rig.notes == ()


def test_base_link_may_be_a_child_and_frames_may_have_slashes(tmp_path):
    def change(item):
        if item.topic != '/tf_static':
            return item
        found = [replace(t, header=replace(t.header, frame_id='/lidar')) for t in item.message.transforms]
        base = tf_item(('lidar', '/base_link', (0, 0, 1, 0), (0.0, 0.0, 0.0))).message.transforms  # turned around
        return replace(item, message=make('tf2_msgs/TFMessage', [*found, *base]))

    found, _ = windows(write_bag(tmp_path / 'bag', drive(5, change)))
    assert found.rig.direction('front') == 'back'
    assert windows(tmp_path / 'bag', cameras__base_frame='/lidar')[0].rig.direction('front') == 'front'


def without_static(item):
    return None if item.topic == '/tf_static' else item


@pytest.mark.parametrize(
    ('extra', 'sentence'),
    [
        ([], "no static transform leads from 'front_optical' to 'base_link'; publish it on /tf_static"),
        (
            [tf_item(*(('base_link', f'{name}_optical', OPTICAL) for name in AZIMUTH_DEG), topic='/tf')],
            "from 'base_link' to 'front_optical', .* comes on /tf only; publish it on /tf_static",
        ),
        ([tf_item(*(('ego', f'{name}_optical', OPTICAL) for name in AZIMUTH_DEG))], "ends in 'ego', and 'base_link'"),
        (
            [tf_item(*(('base_link', f'{name}_optical', (0, 0, 0, 0)) for name in AZIMUTH_DEG))],
            r"to 'front_optical' cannot be used: its quaternion \(0, 0, 0, 0\) is zero",
        ),
        (
            [tf_item(*(('base_link', f'{name}_optical', OPTICAL) for name in AZIMUTH_DEG))],
            "the cameras 'front', 'left', 'right' have the same position and attitude",
        ),
        (
            [tf_item(*(('base_link', f'{n}_optical', (0, 0, 0, 1), (0.0, i, 1.0)) for i, n in enumerate(AZIMUTH_DEG)))],
            'every camera looks up .*frame_convention: body',
        ),
    ],
)
def test_faults_of_the_tree(tmp_path, extra, sentence):
    path = write_bag(tmp_path / 'bag', [*extra, *drive(3, without_static)])
    with pytest.raises(StpruneError, match=sentence):
        windows(path)


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        (
            {'d': np.full(5, np.nan)},
            "camera_info of camera 'front' is not calibrated: d has values that are not finite",
        ),
        (
            {'distortion_model': 'fov', 'd': np.ones(1)},
            "camera_info of camera 'front': distortion model 'fov' is unknown",
        ),
        ({'height': 0}, "camera_info of camera 'front' is not calibrated: width 64 and height 0"),
    ],
)
def test_a_fault_is_named_before_a_model_is_loaded(tmp_path, capsys, monkeypatch, change, sentence):
    monkeypatch.setattr('stprune_ros.replay.command.load_model', lambda settings: pytest.fail('loaded'))
    path = write_bag(tmp_path / 'bag', with_infos(lambda message, camera, tick: replace(message, **change), 3))
    assert main(['replay', str(path), '--output', str(tmp_path / 'out')]) == 1
    assert sentence in capsys.readouterr().err


def test_a_rig_file_with_a_camera_that_looks_down(tmp_path):
    entries = [f'  {n}: {{azimuth_deg: {a}, hfov_deg: 90, width: 64, height: 48}}' for n, a in AZIMUTH_DEG.items()]
    entries.append('  below: {azimuth_deg: 0, pitch_deg: 90, hfov_deg: 90, width: 64, height: 48}')
    rig = tmp_path / 'rig.yaml'
    rig.write_text('cameras:\n' + '\n'.join(entries))
    found, ticks = windows(write_bag(tmp_path / 'bag', drive()), cameras__rig_file=str(rig))
    assert found.rig.ring == ('front', 'right', 'left') and len(ticks) == 5
    assert any("'below' looks down" in note for note in found.notes)
    assert found.transforms.lookup('base_link', 'left_optical') is not None


@pytest.mark.parametrize(('cut', 'told'), [(False, 3), (True, 0)])
def test_images_that_were_not_cut_to_the_region_of_interest_are_told(tmp_path, cut, told):
    """The region has the shape of the whole image, so that only the size tells."""
    roi = make('sensor_msgs/RegionOfInterest', 16, 12, 24, 32, True)

    def change(item):
        message = item.message
        if item.topic.endswith('camera_info'):
            return replace(item, message=replace(message, roi=roi))
        if cut and item.topic.endswith('compressed'):
            pixels = cv2.imdecode(message.data, cv2.IMREAD_COLOR)[12:36, 16:48]
            return replace(item, message=replace(message, data=cv2.imencode('.jpg', pixels)[1].ravel()))
        return item

    path = write_bag(tmp_path / 'bag', drive(2, change))
    assert main(['replay', str(path), '--output', str(tmp_path / 'out')]) == 0
    notes = json.loads((tmp_path / 'out' / 'summary.json').read_text())['notes']
    assert sum('is for 32x24, its images are 64x48: its overlaps cannot be trusted' in note for note in notes) == told
