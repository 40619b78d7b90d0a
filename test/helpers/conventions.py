"""Bags in the conventions of eight worlds: the same ring of six cameras under the names that people really use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from helpers.small_bags import HEIGHT, PERIOD_NS, START_NS, WIDTH, Item, header, make, write_bag

TICKS = 12
SPEED = 8.0  # m/s, straight ahead
DIRECTIONS = {'front': 0.0, 'front_right': -60.0, 'back_right': -120.0, 'back': 180.0, 'back_left': 120.0}
DIRECTIONS['front_left'] = 60.0
# Quaternions x, y, z, w: an optical frame (z forward, x right) in a frame with x forward.
OPTICAL = (-0.5, 0.5, -0.5, 0.5)


@dataclass(frozen=True)
class Camera:
    """One camera: where it looks, its topics, its frames up to the vehicle, when it fires after the front one."""

    direction: str
    image: str
    info: str
    frame: str
    offset_ms: float = 0.0


@dataclass(frozen=True)
class Convention:
    """A world's names; ``ring`` is what must come out, clockwise from the front.

    ``extra`` are further image topics by encoding, which are no views; ``odometry`` child frames by topic, the right
    one first; ``chain`` frames between the vehicle's and the cameras', ``root`` one above the vehicle's;
    ``body_frames``: camera_info names x-forward frames.
    """

    name: str
    cameras: tuple[Camera, ...]
    ring: tuple[str, ...]
    base_frame: str = 'base_link'
    encoding: str = 'jpeg'
    odometry: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    chain: tuple[str, ...] = ()
    root: str = ''
    body_frames: bool = False
    vertical: tuple[Camera, ...] = ()


def ring_of(
    image: str, info: str, frame: str, names: Iterable[str], offsets: Iterable[float] = ()
) -> tuple[Camera, ...]:
    """Six cameras called ``names``, clockwise from the front, in topics and frames with {name}."""
    waits = list(offsets) or [0.0] * 6
    return tuple(
        Camera(direction, image.format(name=name), info.format(name=name), frame.format(name=name), wait)
        for direction, name, wait in zip(DIRECTIONS, names, waits)
    )


COMPASS = tuple(DIRECTIONS)
CAMERAS = tuple(f'CAM_{name.upper()}' for name in COMPASS)
NUMBERED = ('camera0', 'camera4', 'camera2', 'camera1', 'camera3', 'camera5')
ROLLING_MS = (0.0, 16.0, 33.0, 50.0, 66.0, 83.0)

CONVENTIONS = (
    Convention(
        'autoware',
        ring_of(
            '/sensing/camera/{name}/image_rect_color/compressed',
            '/sensing/camera/{name}/camera_info',
            '{name}/camera_optical_link',
            NUMBERED,
            ROLLING_MS,
        ),
        NUMBERED,
        odometry={'/localization/kinematic_state': 'base_link', '/sensing/gnss/ground_truth_odom': 'gnss_link'},
        extra={
            '/perception/object_recognition/detection/rois0/debug/image': 'rgb8',
            '/stprune_node/debug/kept_tokens/image/compressed': 'jpeg',
        },
        chain=('sensor_kit_base_link',),
        vertical=(
            Camera(
                'up',
                '/sensing/camera/traffic_light/image_raw/compressed',
                '/sensing/camera/traffic_light/camera_info',
                'traffic_light/camera_optical_link',
            ),
        ),
    ),
    Convention(
        'nuscenes2bag',
        ring_of('/{name}/raw', '/{name}/camera_info', '{name}', [name.lower() for name in CAMERAS]),
        tuple(name.lower() for name in CAMERAS),
        encoding='bgr8',
        odometry={'/odom': 'base_link'},
        root='odom',
    ),
    Convention(
        'realsense',
        ring_of(
            '/camera/{name}/color/image_raw/compressed',
            '/camera/{name}/color/camera_info',
            '{name}_color_optical_frame',
            COMPASS,
        ),
        COMPASS,
        odometry={'/odometry/filtered': 'base_link', '/camera/odom/sample': 'front_pose_frame'},
        extra={
            '/camera/front/depth/image_rect_raw': '16UC1',
            '/camera/front/aligned_depth_to_color/image_raw': '16UC1',
            '/camera/back/depth/image_rect_raw': '16UC1',
        },
        chain=('{name}_link',),
    ),
    Convention(
        'zed',
        ring_of(
            '/zed_{name}/zed_node/rgb/image_rect_color/compressed',
            '/zed_{name}/zed_node/rgb/camera_info',
            'zed_{name}_left_camera_optical_frame',
            COMPASS,
        ),
        tuple(f'zed_{name}' for name in COMPASS),
        odometry={'/zed_front/zed_node/odom': 'base_link'},
        extra={
            '/zed_front/zed_node/depth/depth_registered': '32FC1',
            '/zed_front/zed_node/confidence/confidence_map': '32FC1',
        },
    ),
    Convention(
        'gazebo',
        ring_of('/{name}_camera/image_raw', '/{name}_camera/camera_info', '{name}_camera_link', COMPASS),
        tuple(f'{name}_camera' for name in COMPASS),
        encoding='rgb8',
        odometry={'/odom': 'base_footprint'},
        chain=('chassis_link',),
        root='base_footprint',
        body_frames=True,
    ),
    Convention(
        'carla',
        ring_of(
            '/carla/ego_vehicle/rgb_{name}/image',
            '/carla/ego_vehicle/rgb_{name}/camera_info',
            'ego_vehicle/rgb_{name}',
            COMPASS,
        ),
        tuple(f'rgb_{name}' for name in COMPASS),
        base_frame='ego_vehicle',
        encoding='bgra8',
        odometry={'/carla/ego_vehicle/odometry': 'ego_vehicle'},
        extra={
            '/carla/ego_vehicle/depth_front/image': '32FC1',
            '/carla/ego_vehicle/semantic_segmentation_front/image': 'bgra8',
        },
    ),
    Convention(
        'basler',
        ring_of('/pylon_{name}/image_raw', '/pylon_{name}/camera_info', 'pylon_{name}_optical', COMPASS),
        tuple(f'pylon_{name}' for name in COMPASS),
        encoding='bayer_rggb8',
        odometry={'/vehicle/odometry': 'base_link', '/fast_lio/odometry': 'lidar_top'},
    ),
    Convention(
        'numeric',
        ring_of(
            '/cameras/{name}/image_raw/compressed',
            '/cameras/{name}/camera_info',
            'camera_{name}_optical',
            ('0', '1', '2', '3', '4', '5'),
            (0.0, 0.0, 20.0, 40.0, 20.0, 0.0),
        ),
        ('0', '1', '2', '3', '4', '5'),
        odometry={'/odom': 'base_link'},
    ),
)


def write_convention(path: Path, convention: Convention) -> Path:
    """The bag of a convention: TICKS sets at 10 Hz, tf and calibration first."""
    cameras = (*convention.cameras, *convention.vertical)
    items = [Item('/tf_static', START_NS, _transforms(convention, cameras))]
    items += [Item(camera.info, START_NS, _camera_info(camera)) for camera in cameras]
    timed = []
    for tick in range(TICKS):
        stamp = START_NS + tick * PERIOD_NS
        for number, camera in enumerate(cameras):
            at = stamp + round(camera.offset_ms * 1e6)
            timed.append(Item(camera.image, at, _image(camera.image, at, convention.encoding, tick * 10 + number)))
        for topic, encoding in convention.extra.items():
            timed.append(Item(topic, stamp, _image(topic, stamp, encoding, tick)))
        for half in range(2):
            at = stamp + half * PERIOD_NS // 2
            for topic, child in convention.odometry.items():
                timed.append(Item(topic, at, _odometry(at, child, child == convention.base_frame)))
    return write_bag(path, [*items, *sorted(timed, key=lambda item: item.stamp_ns)])


def _image(topic: str, stamp_ns: int, encoding: str, seed: int) -> Any:
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    picture = cv2.resize(blocks, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
    if topic.endswith('compressed'):
        data = cv2.imencode('.jpg', picture)[1].ravel()
        return make('sensor_msgs/CompressedImage', header(stamp_ns), 'rgb8; jpeg compressed bgr8', data)
    channels = {'rgb8': 3, 'bgr8': 3, 'bgra8': 4, 'bayer_rggb8': 1, '16UC1': 2, '32FC1': 4}[encoding]
    pixels = np.resize(picture.ravel(), HEIGHT * WIDTH * channels)
    return make('sensor_msgs/Image', header(stamp_ns), HEIGHT, WIDTH, encoding, 0, WIDTH * channels, pixels)


def _camera_info(camera: Camera) -> Any:
    focal = WIDTH / 2 / math.tan(math.radians(40))
    k = np.array([focal, 0, WIDTH / 2, 0, focal, HEIGHT / 2, 0, 0, 1])
    p = np.array([focal, 0, WIDTH / 2, 0, 0, focal, HEIGHT / 2, 0, 0, 0, 1, 0])
    roi = make('sensor_msgs/RegionOfInterest', 0, 0, 0, 0, False)
    return make(
        'sensor_msgs/CameraInfo',
        header=header(START_NS, camera.frame),
        height=HEIGHT,
        width=WIDTH,
        distortion_model='plumb_bob',
        d=np.zeros(5),
        k=k,
        r=np.eye(3).ravel(),
        p=p,
        binning_x=0,
        binning_y=0,
        roi=roi,
    )


def _odometry(stamp_ns: int, child: str, with_twist: bool) -> Any:
    vector, covariance = _vector, np.full(36, 0.01)
    place = make('geometry_msgs/Point', 1.0 + SPEED * (stamp_ns - START_NS) / 1e9, 0.0, 0.0)
    pose = make('geometry_msgs/Pose', place, make('geometry_msgs/Quaternion', 0.0, 0.0, 0.0, 1.0))
    twist = make('geometry_msgs/Twist', vector(SPEED if with_twist else 0.0, 0.0, 0.0), vector(0.0, 0.0, 0.0))
    return make(
        'nav_msgs/Odometry',
        header(stamp_ns, 'odom'),
        child,
        make('geometry_msgs/PoseWithCovariance', pose, covariance),
        make('geometry_msgs/TwistWithCovariance', twist, covariance),
    )


def _vector(x: float, y: float, z: float) -> Any:
    return make('geometry_msgs/Vector3', x, y, z)


def _transforms(convention: Convention, cameras: tuple[Camera, ...]) -> Any:
    """The vehicle's frame, the frames of the chain, and each camera's frame, turned by where it looks."""
    stamped = []
    if convention.root:
        stamped.append(_transform(convention.root, convention.base_frame, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)))
    known = set()
    for camera in cameras:
        parent = convention.base_frame
        name = camera.frame.removesuffix('_color_optical_frame')
        for frame in (link.format(name=name) for link in convention.chain):
            if frame not in known:
                stamped.append(_transform(parent, frame, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)))
            known.add(frame)
            parent = frame
        angle = math.radians(DIRECTIONS.get(camera.direction, 0.0))
        turn = (0.0, 0.0, math.sin(angle / 2), math.cos(angle / 2))
        if camera.direction == 'up':
            turn = (0.0, -math.sin(math.pi / 4), 0.0, math.cos(math.pi / 4))
        place = (1.5 * math.cos(angle), 0.8 * math.sin(angle), 1.6)
        stamped.append(
            _transform(parent, camera.frame, place, turn if convention.body_frames else _product(turn, OPTICAL))
        )
    return make('tf2_msgs/TFMessage', stamped)


def _transform(parent: str, child: str, place: tuple[float, ...], rotation: tuple[float, ...]) -> Any:
    transform = make('geometry_msgs/Transform', _vector(*place), make('geometry_msgs/Quaternion', *rotation))
    return make('geometry_msgs/TransformStamped', header(START_NS, parent), child, transform)


def _product(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, ...]:
    """Hamilton product of two quaternions x, y, z, w."""
    va, vb = np.array(a[:3]), np.array(b[:3])
    vector = a[3] * vb + b[3] * va + np.cross(va, vb)
    return (*(float(value) for value in vector), float(a[3] * b[3] - va @ vb))
