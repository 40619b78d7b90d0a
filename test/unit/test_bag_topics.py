"""Cameras, odometry and static transforms are found in a bag by topic names and types."""

from __future__ import annotations

from pathlib import Path

import pytest

from stprune_ros.errors import BagError
from stprune_ros.io.bag_reader import Bag, Topic
from stprune_ros.io.bag_topics import CameraTopics, find_cameras, find_static_transforms, passed_over

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
        (['/image_raw'], ['camera']),
        (['/front/image', '/front/left/image'], ['front', 'left']),
        (['/left/front/image', '/front/left/image'], ['front_left', 'left_front']),
        (['/image_raw', '/rear/image_raw'], ['camera', 'rear']),
        (['/image_front', '/image_rear'], ['image_front', 'image_rear']),
        (['/cam_front/color/image_rect_raw', '/cam_left/color/image_rect_raw'], ['cam_front', 'cam_left']),
        (['/zed_front/zed_node/rgb/image_rect_color', '/rear/usb_cam_node/image_raw'], ['rear', 'zed_front_rgb']),
        (
            ['/sensing/camera/camera0/image_raw', '/sensing/camera/traffic_light/image_raw'],
            ['camera0', 'traffic_light'],
        ),
        (['/front/image_raw', '/front/image_rect_color', '/front/image_mono'], ['front']),
        (['/front/rgb/image', '/front/rgb_raw/image'], ['front_rgb']),
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


NO_CAMERAS = [
    '/car/stprune_node/debug/kept_tokens/image/compressed',
    '/perception/traffic_light/debug/rois',
    '/yolo/dbg_image',
    '/front/depth/image_rect_raw',
    '/front/aligned_depth_to_color/image_raw',
    '/zed/confidence/confidence_image',
    '/carla/semantic_segmentation_front/image',
    '/carla/InstanceSegmentation/image',
    '/sam/mask',
    '/stereo/disparity_image',
    '/planner/image_overlay',
    '/front/infra1/image_rect_raw/compressed',
    '/front/ir/image_raw',
    '/ouster/nearir_image',
    '/ouster/range_image',
]


@pytest.mark.parametrize('name', NO_CAMERAS)
def test_what_is_made_from_a_camera_is_none(name: str):
    topics = named(topic('/front/image_raw'), topic(name))
    assert [found.image for found in find_cameras(topics).values()] == ['/front/image_raw']
    assert list(passed_over(topics)) == [name]


def test_a_camera_may_be_called_after_its_range_or_an_airport():
    names = ['/long_range/image_raw', '/fir/image_raw', '/traffic_signal/image_raw']
    assert passed_over(named(*map(topic, names))) == {}


def test_a_given_name_decides_over_the_words():
    topics = named(topic('/front/image_raw'), topic('/front/depth/image'), topic('/masked/debug/image'))
    assert find_cameras(topics, ['front'])['front'].image == '/front/image_raw'
    assert find_cameras(topics, ['masked'])['masked'].image == '/masked/debug/image'
    assert find_cameras(named(topic('/depth_eye/image')), ['depth_eye'])['depth_eye'].image == '/depth_eye/image'


def test_proposed_names_can_be_given_back():
    topics = named(topic('/cam/front/wide/image'), topic('/cam/front/tele/image'), topic('/cam/back/wide/image'))
    found = find_cameras(topics)
    assert find_cameras(topics, list(found)) == found
    plain = named(topic('/image_raw'))
    assert find_cameras(plain, ['camera']) == find_cameras(plain)


def test_when_no_camera_is_left_it_is_said_why():
    topics = named(topic('/x/debug/image'), topic('/x/depth/image'), topic('/front/image', count=0))
    with pytest.raises(BagError) as caught:
        find_cameras(topics)
    for words in ('/x/debug/image (a debug picture)', '/x/depth/image (depth)', '/front/image (no message)'):
        assert words in str(caught.value)
    assert "'cameras.names'" in str(caught.value)


def test_names_that_differ_only_by_case_are_suggested():
    topics = named(topic('/camera/CAM_FRONT/image_raw'), topic('/camera/CAM_BACK/image_raw'))
    with pytest.raises(BagError, match="camera 'cam_back' is not in the bag, but 'CAM_BACK' is; names differ by case"):
        find_cameras(topics, ['cam_back'])


@pytest.mark.parametrize(
    ('msgtype', 'form', 'words'),
    [
        ('foxglove_msgs/msg/CompressedVideo', 'cdr', ['video', 'in_transport:=foxglove', 'in/foxglove:=/cam/x']),
        ('ffmpeg_image_transport_msgs/msg/FFMPEGPacket', 'cdr', ['in_transport:=ffmpeg', 'out/compressed:=/cam/x/']),
        ('theora_image_transport/msg/Packet', 'cdr', ['in_transport:=theora']),
        ('foxglove.CompressedImage', 'protobuf', ['protobuf', 'mcap-protobuf-support', 'sensor_msgs/msg/Compressed']),
        ('foxglove.RawImage', 'json', ['JSON', 'Python package mcap ']),
        ('sensor_msgs/CompressedImage', 'ros1', ['ROS 1', 'rosbags-convert --src FILE.bag --dst FOLDER']),
        ('foxglove_msgs/msg/CompressedImage', 'cdr', ['republish it as sensor_msgs/msg/CompressedImage']),
    ],
)
def test_a_form_that_cannot_be_read_is_named_with_its_conversion(msgtype: str, form: str, words: list[str]):
    topics = named(Topic('/odom', 'nav_msgs/msg/Odometry', 1), Topic('/cam/x', msgtype, 1, form=form))
    with pytest.raises(BagError) as caught:
        find_cameras(topics)
    for word in [*words, '/cam/x', msgtype]:
        assert word in str(caught.value)


def test_long_lists_of_topics_are_cut():
    topics = named(*(topic(f'/t{number}', 'std_msgs/msg/String') for number in range(30)))
    with pytest.raises(BagError, match='22 more$'):
        find_cameras(topics)
