"""Odometry of whole bags: which topic is read, and what the model is told about the motion."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.small_bags import PERIOD_NS, START_NS, Item, drive, make, mounted, odometry, write_bag

from stprune_ros.core.types import EgoState
from stprune_ros.errors import BagError
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.prompt import motion

TICKS = 6
MISSING = [-1.0] + [0.0] * 35
RIG = """cameras:
  front: {azimuth_deg: 0, hfov_deg: 90, width: 64, height: 48}
  left: {azimuth_deg: 70, hfov_deg: 90, width: 64, height: 48}
  right: {azimuth_deg: -70, hfov_deg: 90, width: 64, height: 48}
"""


def topic(name: str, ticks: int = TICKS, **values: Any) -> list[Item]:
    """Odometry at 50 Hz on a topic."""
    stamps = range(START_NS, START_NS + ticks * PERIOD_NS, PERIOD_NS // 5)
    return [Item(name, stamp, odometry(stamp, **values)) for stamp in stamps]


def bag(path: Path, *items: Item) -> Path:
    """A drive with these messages as its odometry."""
    rest = drive(TICKS, lambda item: None if item.topic == '/odom' else item)
    return write_bag(path / 'bag', sorted([*rest, *items], key=lambda item: item.stamp_ns))


def read(path: Path, **values: Any) -> tuple[BagWindows, list[EgoState | None]]:
    """The windows of a bag and the ego state of each tick."""
    with Bag(path) as opened:
        windows = BagWindows(opened, Settings.from_values(values))
        return windows, [window.current.ego for window in windows.read()]


def told(egos: list[EgoState | None]) -> set[tuple[str, float] | None]:
    return {ego and (motion(ego), round(ego.speed, 3)) for ego in egos}


@pytest.mark.parametrize('speed', [7.0, -2.5])
def test_zero_twist(tmp_path: Path, speed: float):
    items = topic('/odom', speed=speed, linear=(0, 0, 0), covariance=[0.0] * 36)
    windows, egos = read(bag(tmp_path, *items))
    assert told(egos) == {('driving straight' if speed > 0 else 'reversing', abs(speed))}
    assert len(egos) == TICKS  # from the first one on
    assert 'odometry velocity is zero while the pose moves: it is taken from the pose' in windows.notes


def test_twist_that_is_not_provided(tmp_path: Path):
    windows, egos = read(bag(tmp_path, *topic('/odom', speed=4.0, linear=(9, 0, 0), covariance=MISSING)))
    assert told(egos) == {('driving straight', 4.0)}
    assert 'odometry velocity is not provided, says its covariance: it is taken from the pose' in windows.notes


def test_zero_twist_at_ten_hertz_is_known_from_the_first_tick(tmp_path: Path):
    path = write_bag(
        tmp_path / 'bag',
        drive(
            TICKS,
            lambda item: (
                Item('/odom', item.stamp_ns, odometry(item.stamp_ns, linear=(0, 0, 0)))
                if item.topic == '/odom'
                else item
            ),
        ),
    )
    assert told(read(path)[1]) == {('driving straight', 5.0)}


HALF = math.sqrt(0.5)
FRD, BACKWARD, LEFTWARD = (1, 0, 0, 0), (0, 0, 1, 0), (0, 0, -HALF, HALF)


@pytest.mark.parametrize(
    ('quaternion', 'linear', 'angular'),
    [
        (FRD, (5, 0, 0), (0, 0, -0.3)),
        (BACKWARD, (-5, 0.6, 0), (0, 0, 0.3)),
        (LEFTWARD, (-0.6, 5, 0), (0, 0, 0.3)),  # its y looks forward
    ],
)
def test_twist_of_a_mounted_sensor(tmp_path: Path, quaternion: Any, linear: Any, angular: Any):
    """Two metres ahead of base_link a turn to the left moves the sensor to the left by 0.6 m/s."""
    forward, left = {FRD: (5, 0.0), BACKWARD: (5, -0.6), LEFTWARD: (5, 0.6)}[quaternion]
    sensor = Item('/tf_static', START_NS, mounted('sensor', quaternion, (2.0, 0.0, 1.0)))
    windows, egos = read(bag(tmp_path, sensor, *topic('/odom', linear=linear, angular=angular, child='sensor')))
    assert len(egos) == TICKS
    for ego in egos:
        assert ego is not None
        assert motion(ego) == 'turning left'
        assert ego.angular[2] == pytest.approx(0.3)
        assert ego.linear[:2] == pytest.approx((forward, left - 0.6))
    assert any("'sensor': it is turned into 'base_link'" in note for note in windows.notes)


@pytest.mark.parametrize(('child', 'words'), [('map', 'a frame of the world'), ('lidar', 'no static transform leads')])
def test_frame_without_a_way_to_the_vehicle(tmp_path: Path, child: str, words: str):
    windows, egos = read(bag(tmp_path, *topic('/odom', child=child)))
    assert told(egos) == {None}
    assert len([note for note in windows.notes if words in note]) == 1


@pytest.mark.parametrize('child', ['base_link', 'imu'])
def test_with_a_rig_file_the_transforms_count_for_odometry(tmp_path: Path, child: str):
    (tmp_path / 'rig.yaml').write_text(RIG)
    imu = Item('/tf_static', START_NS, mounted('imu', BACKWARD, (0, 0, 0)))
    linear = (5, 0, 0) if child == 'base_link' else (-5, 0, 0)
    path = bag(tmp_path, imu, *topic('/odom', linear=linear, child=child))
    assert told(read(path, **{'cameras.rig_file': str(tmp_path / 'rig.yaml')})[1]) == {('driving straight', 5.0)}


def test_contradiction(tmp_path: Path):
    windows, egos = read(bag(tmp_path, *topic('/odom', speed=5.0, linear=(18, 0, 0))))
    assert told(egos) == {None}
    [sentence] = [note for note in windows.notes if 'contradicts' in note]
    assert '5.0 m/s forward by its pose but 18.0 m/s forward by its twist' in sentence
    assert '18.0 m/s' in windows.stream.odometry_fault


def test_reversing(tmp_path: Path):
    windows, egos = read(bag(tmp_path, *topic('/odom', speed=-3.0)))
    assert told(egos) == {('reversing', 3.0)}
    assert windows.stream.odometry_fault == ''


def chosen(tmp_path: Path, *items: Item, **values: Any) -> tuple[str, list[str]]:
    with Bag(bag(tmp_path, *items)) as opened:
        windows = BagWindows(opened, Settings.from_values(values))
        return windows.topics.odometry, windows.notes


def test_the_topic_of_the_vehicle_frame_is_read(tmp_path: Path):
    name, notes = chosen(tmp_path, *topic('/a/odom', child='camera_link'), *topic('/z/odom'))
    assert name == '/z/odom'
    assert notes == [
        "odometry is read from '/z/odom', with the child frame 'base_link', not from /a/odom: set 'topics.odometry' to"
        ' choose'
    ]


@pytest.mark.parametrize(
    'name', ['/a/ground_truth/odom', '/a/groundtruth', '/a/gt_odom', '/GT/odom', '/base_pose_ground_truth', '/a/truth']
)
def test_ground_truth_comes_last(tmp_path: Path, name: str):
    assert chosen(tmp_path, *topic(name), *topic('/z/odom', child=''))[0] == '/z/odom'


def test_a_name_that_only_looks_like_ground_truth(tmp_path: Path):
    assert chosen(tmp_path, *topic('/length/odom'), *topic('/z/odom'))[0] == '/length/odom'


def test_a_frame_that_leads_to_the_vehicle_comes_before_one_that_does_not(tmp_path: Path):
    imu = Item('/tf_static', START_NS, mounted('imu', BACKWARD, (0, 0, 0)))
    items = [*topic('/a', child='map'), *topic('/b', child='lidar'), *topic('/c', child=''), *topic('/d', child='imu')]
    assert chosen(tmp_path, imu, *items)[0] == '/d'


def test_a_filled_twist_comes_before_an_empty_one(tmp_path: Path):
    assert chosen(tmp_path, *topic('/a', linear=(0, 0, 0)), *topic('/b'))[0] == '/b'


def test_the_first_by_name_only_where_nothing_else_tells(tmp_path: Path):
    name, notes = chosen(tmp_path, *topic('/b'), *topic('/a'), *topic('/c'))
    assert name == '/a'
    assert notes == ["odometry is read from '/a', the first by name, not from /b, /c: set 'topics.odometry' to choose"]


@pytest.mark.parametrize('wanted', ['/a/odom', 'a/odom'])
def test_the_parameter_decides(tmp_path: Path, wanted: str):
    name, notes = chosen(
        tmp_path, *topic('/a/odom', child='camera_link'), *topic('/z/odom'), **{'topics.odometry': wanted}
    )
    assert (name, notes) == ('/a/odom', [])


@pytest.mark.parametrize(
    ('wanted', 'sentence'),
    [
        ('/b', "topic '/b' in 'topics.odometry' is not in the bag; its odometry topics are /a, /c"),
        (
            '/tf_static',
            "topic '/tf_static' in 'topics.odometry' carries tf2_msgs/msg/TFMessage, not nav_msgs/msg/Odometry",
        ),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused(tmp_path: Path, wanted: str, sentence: str):
    with pytest.raises(BagError) as caught:
        chosen(tmp_path, *topic('/a'), *topic('/c'), **{'topics.odometry': wanted})
    assert str(caught.value) == sentence


def test_a_bag_without_odometry(tmp_path: Path):
    assert chosen(tmp_path) == ('', [])
    with pytest.raises(BagError, match='it has no odometry topic'):
        chosen(tmp_path / 'other', **{'topics.odometry': '/odom'})


def half(kind: str, stamp_ns: int) -> Any:
    """A stamped pose or twist, with or without covariance."""
    both = odometry(stamp_ns)
    part = both.pose if 'Pose' in kind else both.twist
    bare = part.pose if 'Pose' in kind else part.twist
    return make(f'geometry_msgs/{kind}', both.header, part if 'Covariance' in kind else bare)


@pytest.mark.parametrize(
    'kind', ['TwistStamped', 'TwistWithCovarianceStamped', 'PoseStamped', 'PoseWithCovarianceStamped']
)
def test_motion_of_another_type_is_named_where_there_is_no_odometry(tmp_path: Path, kind: str):
    items = [Item(name, START_NS, half(kind, START_NS)) for name in ('/motion', '/a/motion', '/cmd_vel', '/goal_pose')]
    windows, egos = read(bag(tmp_path, *items))
    assert told(egos) == {None}
    assert [note for note in windows.notes if 'no odometry' in note] == [
        f'no odometry: hints come without ego motion, for /a/motion ({kind}), /motion ({kind}) cannot be read;'
        ' publish it as nav_msgs/Odometry, as robot_localization does'
    ]


def test_commands_are_not_named_and_odometry_is_enough(tmp_path: Path):
    wishes = [Item(name, START_NS, half('TwistStamped', START_NS)) for name in ('/cmd_vel', '/teleop')]
    assert 'no odometry: hints come without ego motion' in read_all(bag(tmp_path / 'a', *wishes))
    twist = Item('/twist', START_NS, half('TwistStamped', START_NS))
    assert not any('no odometry' in note for note in read_all(bag(tmp_path / 'b', *topic('/odom'), twist)))


def read_all(path: Path) -> list[str]:
    return read(path)[0].notes


def test_of_two_robots_the_cameras_own_odometry_is_read(tmp_path: Path):
    ours = [replace(item, topic=f'/robot{item.topic}') for item in drive(TICKS)]
    path = write_bag(tmp_path / 'bag', [*topic('/a/odom', speed=2.0), *ours])
    windows, egos = read(path)
    assert told(egos) == {('driving straight', 5.0)}
    assert windows.notes[0].startswith("odometry is read from '/robot/odom', in the namespace of the cameras")


def test_odometry_in_the_namespace_of_a_driver_is_not_preferred(tmp_path: Path):
    windows, _ = read(bag(tmp_path, *topic('/a/odom', speed=2.0), *topic('/camera/odom', speed=2.0)))
    assert windows.topics.odometry == '/a/odom'
