"""Small real bags, written on the spot: three cameras, odometry and static transforms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from stprune_ros.io.bag_reader import message_store

STORE = message_store()
START_NS = 1_700_000_000 * 10**9
PERIOD_NS = 100_000_000
WIDTH, HEIGHT = 64, 48
AZIMUTH_DEG = {'left': 70.0, 'front': 0.0, 'right': -70.0}
STORAGES = (StoragePlugin.MCAP, StoragePlugin.SQLITE3)


@dataclass(frozen=True)
class Item:
    """One message to write."""

    topic: str
    stamp_ns: int
    message: Any


def write_bag(path: Path, items: Iterable[Item], storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    """A bag folder with these messages, in this order."""
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections: dict[str, Any] = {}
        for item in items:
            msgtype = item.message.__msgtype__
            if item.topic not in connections:
                connections[item.topic] = writer.add_connection(item.topic, msgtype, typestore=STORE)
            writer.write(connections[item.topic], item.stamp_ns, STORE.serialize_cdr(item.message, msgtype))
    return path


def drive(ticks: int = 5, change: Callable[[Item], Item | None] = lambda item: item) -> list[Item]:
    """The messages of a short drive; ``change`` may replace each or, with None, leave it out."""
    items = [Item('/tf_static', START_NS, transforms())]
    for tick in range(ticks):
        stamp = START_NS + tick * PERIOD_NS
        items.append(Item('/odom', stamp, odometry(stamp)))
        for camera in AZIMUTH_DEG:
            items.append(Item(f'/camera/{camera}/camera_info', stamp, camera_info(stamp, camera)))
            items.append(Item(f'/camera/{camera}/image_raw/compressed', stamp, jpeg(stamp, tick)))
    return [changed for item in items if (changed := change(item)) is not None]


def make(msgtype: str, *fields: Any, **named: Any) -> Any:
    """A message of a type such as 'sensor_msgs/Image'."""
    package, _, name = msgtype.partition('/')
    return STORE.types[f'{package}/msg/{name}'](*fields, **named)


def header(stamp_ns: int, frame: str = 'base_link') -> Any:
    """A std_msgs/Header."""
    return make('std_msgs/Header', make('builtin_interfaces/Time', stamp_ns // 10**9, stamp_ns % 10**9), frame)


def jpeg(stamp_ns: int, seed: int = 0, cut: int | None = None) -> Any:
    """A CompressedImage of random blocks; ``cut`` keeps only that many bytes."""
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    image = cv2.resize(blocks, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
    return make('sensor_msgs/CompressedImage', header(stamp_ns), 'jpeg', cv2.imencode('.jpg', image)[1].ravel()[:cut])


def image(stamp_ns: int, encoding: str = 'rgb8', step: int = WIDTH * 3, width: int = WIDTH) -> Any:
    """A raw Image."""
    data = np.zeros(step * HEIGHT, np.uint8)
    return make('sensor_msgs/Image', header(stamp_ns), HEIGHT, width, encoding, 0, step, data)


def camera_info(stamp_ns: int, camera: str) -> Any:
    """CameraInfo of a pinhole camera with 90 degrees."""
    focal = WIDTH / 2
    k = np.array([focal, 0, WIDTH / 2, 0, focal, HEIGHT / 2, 0, 0, 1])
    p = np.array([focal, 0, WIDTH / 2, 0, 0, focal, HEIGHT / 2, 0, 0, 0, 1, 0])
    roi = make('sensor_msgs/RegionOfInterest', 0, 0, 0, 0, False)
    matrices = {'d': np.zeros(5), 'k': k, 'r': np.eye(3).ravel(), 'p': p}
    return make(
        'sensor_msgs/CameraInfo',
        header=header(stamp_ns, f'{camera}_optical'),
        height=HEIGHT,
        width=WIDTH,
        distortion_model='plumb_bob',
        binning_x=0,
        binning_y=0,
        roi=roi,
        **matrices,
    )


def odometry(
    stamp_ns: int,
    speed: float = 5.0,
    linear: Sequence[float] | None = None,
    angular: Sequence[float] = (0.0, 0.0, 0.0),
    child: str = 'base_link',
    covariance: Sequence[float] | None = None,
) -> Any:
    """Straight ahead at ``speed`` m/s by the pose and, unless ``linear`` says otherwise, by the twist."""
    vector = STORE.types['geometry_msgs/msg/Vector3']
    known = np.full(36, 0.01)
    place = make('geometry_msgs/Point', 1.0 + speed * (stamp_ns - START_NS) / 1e9, 0.0, 0.0)
    pose = make('geometry_msgs/Pose', place, make('geometry_msgs/Quaternion', 0.0, 0.0, 0.0, 1.0))
    velocity = (speed, 0.0, 0.0) if linear is None else linear
    twist = make('geometry_msgs/Twist', vector(*map(float, velocity)), vector(*map(float, angular)))
    return make(
        'nav_msgs/Odometry',
        header(stamp_ns, 'odom'),
        child,
        make('geometry_msgs/PoseWithCovariance', pose, known),
        make('geometry_msgs/TwistWithCovariance', twist, known if covariance is None else np.array(covariance, float)),
    )


def mounted(frame: str, quaternion: Sequence[float], place: Sequence[float], parent: str = 'base_link') -> Any:
    """A TFMessage with the static transform of one more frame."""
    vector = make('geometry_msgs/Vector3', *map(float, place))
    transform = make('geometry_msgs/Transform', vector, make('geometry_msgs/Quaternion', *map(float, quaternion)))
    stamped = make('geometry_msgs/TransformStamped', header(START_NS, parent), frame, transform)
    return make('tf2_msgs/TFMessage', [stamped])


def transforms() -> Any:
    """base_link to each optical frame: a turn by the azimuth, then z forward, x right, y down."""
    stamped = []
    for camera, azimuth in AZIMUTH_DEG.items():
        sine, cosine = math.sin(math.radians(azimuth) / 2), math.cos(math.radians(azimuth) / 2)
        x, y = -0.5 * (cosine + sine), 0.5 * (cosine - sine)
        rotation = make('geometry_msgs/Quaternion', x, y, -0.5 * (cosine - sine), 0.5 * (cosine + sine))
        transform = make('geometry_msgs/Transform', make('geometry_msgs/Vector3', 1.0, 0.0, 1.5), rotation)
        stamped.append(make('geometry_msgs/TransformStamped', header(START_NS), f'{camera}_optical', transform))
    return make('tf2_msgs/TFMessage', stamped)
