"""Cameras, odometry and static transforms are found in a bag by topic names and types."""

from __future__ import annotations

from pathlib import Path

import pytest

from stprune_ros.errors import BagError
from stprune_ros.io.bag_reader import Bag, Topic
from stprune_ros.io.bag_topics import CameraTopics, find_cameras, find_static_transforms

INFO = 'sensor_msgs/msg/CameraInfo'


def topic(name: str, msgtype: str = 'sensor_msgs/msg/CompressedImage', count: int = 1) -> Topic:
    return Topic(name, msgtype, count)


def named(*topics: Topic) -> dict[str, Topic]:
    return {item.name: item for item in topics}


def test_cameras_are_named_by_what_tells_them_apart():
    topics = named(
        topic('/sensing/camera/camera0/image_rect_color/compressed'),
        topic('/sensing/camera/camera1/image_rect_color/compressed'),
        topic('/sensing/camera/camera0/camera_info', 'sensor_msgs/msg/CameraInfo'),
    )
    assert find_cameras(topics) == {
        'camera0': CameraTopics(
            '/sensing/camera/camera0/image_rect_color/compressed', '/sensing/camera/camera0/camera_info'
        ),
        'camera1': CameraTopics('/sensing/camera/camera1/image_rect_color/compressed', ''),
    }


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (['/front/left/image_raw', '/front/right/image_raw'], ['left', 'right']),
        (['/robot/front_left/image', '/robot/rear/image'], ['front_left', 'rear']),
        (['/camera/image_raw'], ['camera']),
        (['/image_raw'], ['image_raw']),
        (['/a/x/image', '/b/x/image'], ['a', 'b']),
        (
            ['/cam/front/wide/image', '/cam/front/tele/image', '/cam/back/wide/image'],
            ['back_wide', 'front_tele', 'front_wide'],
        ),
    ],
)
def test_names_of_many_layouts(names: list[str], expected: list[str]):
    assert sorted(find_cameras(named(*(topic(name, 'sensor_msgs/msg/Image') for name in names)))) == expected


@pytest.mark.parametrize(('transport', 'suffix'), [('compressed', '/compressed'), ('raw', '')])
def test_the_preferred_transport_is_taken(transport: str, suffix: str):
    topics = named(topic('/front/image_raw', 'sensor_msgs/msg/Image'), topic('/front/image_raw/compressed'))
    assert find_cameras(topics, transport=transport)['front'].image == f'/front/image_raw{suffix}'


def test_depth_images_and_silent_topics_are_no_cameras():
    topics = named(topic('/front/image_raw'), topic('/front/depth/compressedDepth'), topic('/back/image_raw', count=0))
    assert list(find_cameras(topics)) == ['front']


def test_given_names_keep_their_order_and_must_fit():
    topics = named(topic('/a/front/image'), topic('/a/back/image'), topic('/b/back/image'))
    assert list(find_cameras(topics, ['front'])) == ['front']
    with pytest.raises(BagError, match="camera 'top' is not in the bag; its image topics are /a/back/image"):
        find_cameras(topics, ['top'])
    with pytest.raises(BagError, match="camera 'back' fits 2 image topics"):
        find_cameras(topics, ['back'])


def test_a_bag_without_cameras_says_what_it_has():
    topics = named(topic('/odom', 'nav_msgs/msg/Odometry'))
    with pytest.raises(BagError, match=r'no camera: .* only /odom \(nav_msgs/msg/Odometry\)'):
        find_cameras(topics)


def test_static_transforms_are_found():
    topics = named(
        topic('/tf', 'tf2_msgs/msg/TFMessage'),
        topic('/car/tf_static', 'tf2_msgs/msg/TFMessage'),
        topic('/bus/tf_static', 'tf2_msgs/msg/TFMessage'),
        topic('/tf_static/old', 'tf2_msgs/msg/TFMessage'),
        topic('/text/tf_static', 'std_msgs/msg/String'),
    )
    assert find_static_transforms(topics) == ['/bus/tf_static', '/car/tf_static']


def test_real_ring(test_data: Path):
    with Bag(test_data / 'pandaset_002' / 'bag') as bag:
        cameras = find_cameras(bag.topics)
    assert sorted(cameras) == ['CAM_BACK', 'CAM_FRONT', 'CAM_FRONT_LEFT', 'CAM_FRONT_RIGHT', 'CAM_LEFT', 'CAM_RIGHT']
    assert all(topics.info == f'/camera/{camera}/camera_info' for camera, topics in cameras.items())


@pytest.mark.parametrize(
    ('infos', 'expected'),
    [
        (['/left/camera_info', '/rear/left/camera_info'], '/left/camera_info'),  # beside the image
        (['/calibration/left/camera_info', '/calibration/right/camera_info'], '/calibration/left/camera_info'),
        (['/a/left/camera_info', '/b/left/camera_info'], ''),  # which of the two is not to be told
        (['/calibration/camera_info'], ''),
        ([], ''),
    ],
)
@pytest.mark.parametrize('image', ['/left/image_raw/compressed', '/left/image_raw'])
def test_camera_info_is_beside_the_image_or_named_like_the_camera(image: str, infos: list[str], expected: str):
    topics = named(topic(image), topic('/right/image_raw'), *(topic(info, INFO) for info in infos))
    assert find_cameras(topics)['left'] == CameraTopics(image, expected)


def test_two_topics_with_one_camera_name_are_not_guessed():
    topics = named(topic('/front_left/image'), topic('/front/left/image'))
    with pytest.raises(
        BagError, match="'/front/left/image' and '/front_left/image' both look like camera 'front_left'"
    ):
        find_cameras(topics)
