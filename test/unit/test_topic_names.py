"""Templates of topic names: what they expand to, what they find in a bag, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.small_bags import START_NS, Item, drive, image, write_bag

from stprune_ros.cli import main
from stprune_ros.errors import BagError, SettingsError
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagTopics, BagWindows
from stprune_ros.settings.settings import Settings
from stprune_ros.settings.topic_names import (
    absolute,
    camera_info_template,
    camera_of,
    expand,
    image_template,
    odometry_topic,
)

NUMBERS = {'left': '0', 'front': '1', 'right': '2'}


def test_without_parameters_the_inputs_of_the_node_are_meant():
    topics = Settings().topics
    assert expand(image_template(topics, 'raw'), 'front') == '~/input/front/image'
    assert expand(image_template(topics, 'compressed'), 'front') == '~/input/front/image/compressed'
    assert expand(camera_info_template(topics), 'front') == '~/input/front/camera_info'
    assert odometry_topic(topics) == '~/input/kinematic_state'


def test_a_template_is_taken_as_it_stands():
    topics = Settings.from_values({'topics.image': '/cam{camera}/jpg', 'cameras.names': ['0', '1']}).topics
    for transport in ('raw', 'compressed'):
        assert expand(image_template(topics, transport), '1') == '/cam1/jpg'


@pytest.mark.parametrize(
    ('template', 'topic', 'camera'),
    [
        ('/cam{camera}/jpg', '/cam0/jpg', '0'),
        ('/{camera}/a/{camera}_jpg', '/left/a/left_jpg', 'left'),
        ('/{camera}/a/{camera}_jpg', '/left/a/right_jpg', None),
        ('/{camera}/jpg', '/sensing/left/jpg', None),
        ('/cam{camera}/jpg', '/cam0/jpg/compressed', None),
        ('/cam/jpg', '/cam/jpg', None),
    ],
)
def test_camera_of_a_topic(template, topic, camera):
    assert camera_of(template, topic) == camera


def test_names_from_the_root():
    assert absolute('~/input/x', '/car/stprune_node') == '/car/stprune_node/input/x'
    assert absolute('cam/x', '/car/stprune_node') == '/car/cam/x'
    assert absolute('cam/x') == '/cam/x'
    assert absolute('/cam/x', '/car/stprune_node') == '/cam/x'


WRONG = {
    '/cam/image': "parameter 'topics.image' is '/cam/image', without {camera}: every camera would have the same topic",
    '/{cam}/image': "parameter 'topics.image' is '/{cam}/image': {cam} is unknown; allowed is only {camera}",
    '/{}/image': '{} is unknown; allowed is only {camera}',
    '/{0}/image': '{0} is unknown; allowed is only {camera}',
    '/{camera:>8}/image': '{camera:>8} is unknown',
    '/{camera!r}/image': '{camera!r} is unknown',
    '/{camera.x}/image': '{camera.x} is unknown',
    '/{camera}/{side}/image': '{side} is unknown',
    '/{camera/image': 'its braces do not match',
    '/camera}/image': 'its braces do not match',
    '/{{camera}}/image': 'is no ROS topic name',
    '/{camera}//image': 'is no ROS topic name',
    '/{camera}/the image': 'is no ROS topic name',
    '/{camera}/image/': 'is no ROS topic name',
    '/{camera}/3d': 'is no ROS topic name',
    '/{camera}/front-left': 'is no ROS topic name',
    '~{camera}/image': 'is no ROS topic name',
}


@pytest.mark.parametrize('template', WRONG)
@pytest.mark.parametrize('parameter', ['image', 'camera_info'])
def test_wrong_templates_are_refused_in_one_sentence(template, parameter, tmp_path, capsys):
    values = {'cameras.names': ['left', 'right'], f'topics.{parameter}': template}
    with pytest.raises(SettingsError) as refused:
        Settings.from_values(values)
    sentence = WRONG[template].replace('topics.image', f'topics.{parameter}')
    assert sentence in str(refused.value)
    assert '\n' not in str(refused.value)
    file = tmp_path / 'p.yaml'
    file.write_text(
        f"/**: {{ros__parameters: {{cameras: {{names: [left, right]}}, topics: {{{parameter}: '{template}'}}}}}}"
    )
    assert main(['check', str(file)]) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize('topic', ['/ego odom', '/{camera}/odom', '/1/odom', '//odom'])
def test_wrong_odometry_topics_are_refused(topic):
    with pytest.raises(SettingsError, match=r"parameter 'topics.odometry' is .*, which is no ROS topic name"):
        Settings.from_values({'topics.odometry': topic})


def test_numbers_need_letters_before_them():
    with pytest.raises(
        SettingsError, match=r"camera '0' .* makes the topic '/cam/0/image'.*as in /camera\{camera\}/im"
    ):
        Settings.from_values({'cameras.names': ['0', '1'], 'topics.image': '/cam/{camera}/image'})
    Settings.from_values({'cameras.names': ['0', '1'], 'topics.image': '/cam{camera}/image'})


def test_one_camera_may_do_without_braces_and_no_topic_is_both():
    Settings.from_values({'cameras.names': ['front'], 'topics.image': '/image_raw'})
    with pytest.raises(SettingsError, match="both name '/cam/{camera}'"):
        Settings.from_values({'topics.image': '/cam/{camera}', 'topics.camera_info': '/cam/{camera}'})


def renamed(item: Item) -> Item:
    """The drive with topics that nobody would guess."""
    names = {f'/camera/{name}/image_raw/compressed': f'/cam{number}/jpg' for name, number in NUMBERS.items()}
    names |= {f'/camera/{name}/camera_info': f'/{name}/info' for name in NUMBERS}
    return Item({**names, '/odom': '/ego'}.get(item.topic, item.topic), item.stamp_ns, item.message)


@pytest.fixture
def bag(tmp_path: Path):
    second = [Item('/a/odom', item.stamp_ns, item.message) for item in drive() if item.topic == '/odom']
    mask = Item('/mask/jpg', START_NS, image(START_NS))
    with Bag(write_bag(tmp_path / 'bag', [*drive(change=renamed), *second, mask])) as opened:
        yield opened


def test_replay_finds_cameras_by_the_template(bag):
    infos = {'topics.image': '/cam{camera}/jpg', 'topics.odometry': 'ego'}
    found = BagTopics.from_bag(bag, Settings.from_values(infos))
    assert {name: topics.image for name, topics in found.cameras.items()} == {
        number: f'/cam{number}/jpg' for number in '012'
    }
    assert found.odometry == '/ego'
    assert BagTopics.from_bag(bag, Settings()).odometry == '/a/odom'


def test_replay_with_names_and_templates(bag, tmp_path):
    values = {
        'topics.image': '/cam{camera}/jpg',
        'cameras.names': ['2', '0'],
        'topics.odometry': '/ego',
        'cameras.rig_file': str(tmp_path / 'rig.yaml'),
    }
    entries = [
        f"  '{n}': {{azimuth_deg: {a}, hfov_deg: 90, width: 64, height: 48}}" for n, a in (('0', 70), ('2', -70))
    ]
    (tmp_path / 'rig.yaml').write_text('cameras:\n' + '\n'.join(entries))
    windows = BagWindows(bag, Settings.from_values(values))
    assert windows.topics.summary() == {'images': {'2': '/cam2/jpg', '0': '/cam0/jpg'}, 'odometry': '/ego'}
    assert len(list(windows.read())) == 5
    assert not any('LEFT' in note for note in windows.notes)


def test_camera_info_by_template(tmp_path):
    def odd(item: Item) -> Item:
        return renamed(item) if item.topic.endswith('camera_info') else item

    with Bag(write_bag(tmp_path / 'bag', drive(change=odd))) as bag:
        settings = Settings.from_values({'topics.camera_info': '/{camera}/info'})
        found = BagTopics.from_bag(bag, settings).cameras
        assert {name: topics.info for name, topics in found.items()} == {name: f'/{name}/info' for name in NUMBERS}
        assert len(list(BagWindows(bag, settings).read())) == 5


@pytest.mark.parametrize(
    ('values', 'sentence'),
    [
        (
            {'topics.image': '/cam/{camera}/jpg'},
            "no image topic of the bag fits 'topics.image', '/cam/{camera}/jpg'; its image topics are /cam0/jpg, /cam1",
        ),
        (
            {'topics.image': '/cam{camera}/jpeg', 'cameras.names': ['0']},
            "parameter 'topics.image' names '/cam0/jpeg' for camera '0', which is not in the bag; it has /cam0/jpg, ",
        ),
        (
            {'topics.image': '/{camera}/info', 'cameras.names': ['left']},
            "names '/left/info' for camera 'left', which carries sensor_msgs/msg/CameraInfo in the bag; it has ",
        ),
        (
            {'topics.odometry': '/odom'},
            "topic '/odom' in 'topics.odometry' is not in the bag; its odometry topics are /a/odom, /ego",
        ),
        (
            {'topics.image': '/cam{camera}/jpg', 'topics.camera_info': '/{camera}/inf'},
            "parameter 'topics.camera_info' names '/0/inf' for camera '0', which is not in the bag; it has /",
        ),
    ],
)
def test_topics_that_the_bag_lacks_are_named_with_those_it_has(bag, values, sentence):
    with pytest.raises(BagError) as refused:
        BagTopics.from_bag(bag, Settings.from_values(values))
    assert sentence in str(refused.value)


def test_play_checks_its_templates_first(tmp_path, capsys):
    assert main(['play', str(tmp_path / 'none'), '--image-topic', '/cam/{x}']) == 1
    assert '{x} is unknown; allowed is only {camera}' in capsys.readouterr().err
