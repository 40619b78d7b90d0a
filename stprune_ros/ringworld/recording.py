"""Writes a drive through ringworld as a rosbag2 MCAP bag with its truth; the same arguments give the same bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from tqdm import tqdm

from stprune_ros.errors import StpruneError
from stprune_ros.ringworld.questions import describe
from stprune_ros.ringworld.renderer import HEIGHT, RING, WIDTH, Camera, render
from stprune_ros.ringworld.scenes import JPEG_QUALITY
from stprune_ros.ringworld.truth import DIRECTIONS, Truth, truth_of
from stprune_ros.ringworld.world import Ego, World

START_NS = 1_700_000_000 * 10**9
ODOMETRY_HZ = 50
ROLLING_S = 0.013  # between neighbouring cameras that fire one after another
HZ = (0.2, 50.0)
STORE = get_typestore(Stores.ROS2_JAZZY)


def record(out: Path, seed: int, seconds: float, hz: float, rolling: bool = False) -> None:
    """Record ``seconds`` of the world ``seed`` at ``hz`` images per second and camera into the new folder ``out``.

    With ``rolling`` the cameras fire clockwise one after another, each seeing the world at its own stamp; else all at
    once. ``out/truth.json`` says per tick (front camera stamp) what is right and what is visible.
    Raises StpruneError where ``out`` exists or cannot be written, or where seconds or hz are out of range.
    """
    out = Path(out)
    if out.exists():
        raise StpruneError(f"'{out}' exists already; name a new folder for the recording")
    if not HZ[0] <= hz <= HZ[1]:
        raise StpruneError(f'a recording at {hz:g} Hz cannot be made; choose {HZ[0]:g} to {HZ[1]:g} Hz')
    world = World(seed, seconds + ROLLING_S * len(RING))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with Writer(out, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            ticks = _Recorder(writer).run(world, seconds, hz, rolling)
        text = json.dumps({'seed': seed, 'seconds': seconds, 'hz': hz, 'rolling': rolling, 'ticks': ticks}, indent=1)
        (out / 'truth.json').write_text(text + '\n', encoding='utf-8')
    except OSError as error:
        raise StpruneError(f"'{out}' cannot be written: {error.strerror}") from None


class _Recorder:
    """One bag being written."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.images = {
            c.name: self._topic(f'/camera/{c.name}/image_raw/compressed', 'sensor_msgs/msg/CompressedImage')
            for c in RING
        }
        self.infos = {c.name: self._topic(f'/camera/{c.name}/camera_info', 'sensor_msgs/msg/CameraInfo') for c in RING}
        self.odometry = self._topic('/odom', 'nav_msgs/msg/Odometry')
        self.transforms = self._topic('/tf_static', 'tf2_msgs/msg/TFMessage', latched=True)

    def run(self, world: World, seconds: float, hz: float, rolling: bool) -> list[dict[str, Any]]:
        """Write everything in time order; returns the truth of each tick."""
        self._write(self.transforms, START_NS, static_transforms())
        ticks = []
        number = max(1, math.floor(seconds * hz + 1e-6))
        odometry = iter(range(math.floor(seconds * ODOMETRY_HZ) + 1))
        waiting = next(odometry)
        for tick in tqdm(range(number), desc='world', disable=None):
            shots, truth = shoot(world, tick / hz, rolling)
            for camera, t, rgb in shots:
                while waiting is not None and waiting / ODOMETRY_HZ <= t + 1e-9:
                    self._odometry(world, waiting)
                    waiting = next(odometry, None)  # type: ignore[assignment]
                self._image(camera, stamp_ns(t), rgb)
            ticks.append(tick_truth(truth))
        for rest in [] if waiting is None else [waiting, *odometry]:
            self._odometry(world, rest)
        return ticks

    def _topic(self, name: str, kind: str, latched: bool = False) -> Any:
        durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
        time = QosTime(0, 0)
        qos = Qos(
            QosHistory.KEEP_LAST,
            10,
            QosReliability.RELIABLE,
            durability,
            time,
            time,
            QosLiveliness.AUTOMATIC,
            time,
            False,
        )
        return self.writer.add_connection(name, kind, typestore=STORE, offered_qos_profiles=[qos])

    def _write(self, topic: Any, t_ns: int, message: Any) -> None:
        self.writer.write(topic, t_ns, STORE.serialize_cdr(message, topic.msgtype))

    def _odometry(self, world: World, index: int) -> None:
        t = index / ODOMETRY_HZ
        self._write(self.odometry, stamp_ns(t), odometry(world.snapshot(t).ego, stamp_ns(t)))

    def _image(self, camera: Camera, t_ns: int, rgb: np.ndarray) -> None:
        types = STORE.types
        header = _header(t_ns, f'{camera.name}_optical')
        data = cv2.imencode('.jpg', rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        self._write(self.infos[camera.name], t_ns, camera_info(camera, header))
        self._write(
            self.images[camera.name], t_ns, types['sensor_msgs/msg/CompressedImage'](header, 'jpeg', data.ravel())
        )


def shoot(world: World, t: float, rolling: bool) -> tuple[list[tuple[Camera, float, np.ndarray]], Truth]:
    """(camera, time, RGB picture) of every camera in the tick at ``t`` seconds, and the truth at ``t``."""
    times = [t + ROLLING_S * index * rolling for index in range(len(RING))]
    pictures = [render(world.snapshot(time), camera) for time, camera in zip(times, RING, strict=True)]
    truth = truth_of(world, world.snapshot(t), RING, pictures)
    shots = [(camera, time, picture.rgb) for camera, time, picture in zip(RING, times, pictures, strict=True)]
    return shots, truth


def tick_truth(truth: Truth) -> dict[str, Any]:
    """Truth of a tick as plain data; gap in m, None without a reason."""
    views = {
        camera.name: [
            {
                'id': sight.id,
                'kind': sight.kind,
                **({'colour': sight.colour} if sight.kind == 'vehicle' else {}),
                **({'state': sight.state} if sight.state else {}),
                'pixels': sight.pixels,
                'distance': round(sight.distance, 2),
                'moving': sight.moving,
            }
            for sight in view
        ]
        for camera, view in zip(RING, truth.views, strict=True)
    }
    return {
        'stamp_ns': stamp_ns(truth.t),
        'behavior': truth.behavior.name,
        'reason': truth.reason,
        'reason_id': truth.reason_id,
        'reason_views': [DIRECTIONS[index] for index in truth.reason_views()],
        'gap': None if math.isinf(truth.gap) else round(truth.gap, 2),
        'speed': round(truth.speed, 3),
        'yaw_rate': round(truth.yaw_rate, 4),
        'description': describe(truth),
        'views': views,
    }


def stamp_ns(t: float) -> int:
    """Stamp of ``t`` seconds after the start of a recording."""
    return START_NS + round(t * 1e9)


def _header(t_ns: int, frame: str) -> Any:
    stamp = STORE.types['builtin_interfaces/msg/Time'](t_ns // 10**9, t_ns % 10**9)
    return STORE.types['std_msgs/msg/Header'](stamp, frame)


def camera_info(camera: Camera, header: Any) -> Any:
    """CameraInfo of an undistorted pinhole camera."""
    types = STORE.types
    p = np.column_stack([camera.k, np.zeros(3)])
    roi = types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
    matrices = {'k': camera.k.ravel(), 'r': np.eye(3).ravel(), 'p': p.ravel(), 'd': np.zeros(5)}
    return types['sensor_msgs/msg/CameraInfo'](
        header=header,
        height=HEIGHT,
        width=WIDTH,
        distortion_model='plumb_bob',
        binning_x=0,
        binning_y=0,
        roi=roi,
        **matrices,
    )


def odometry(ego: Ego, t_ns: int) -> Any:
    """Odometry of base_link in odom; exact, so the covariances are tiny."""
    types = STORE.types
    vector, tiny = types['geometry_msgs/msg/Vector3'], (np.eye(6) * 1e-6).ravel()
    place = types['geometry_msgs/msg/Point'](ego.x, ego.y, 0.0)
    pose = types['geometry_msgs/msg/Pose'](
        place, _quaternion(np.array([0.0, 0.0, math.sin(ego.yaw / 2), math.cos(ego.yaw / 2)]))
    )
    twist = types['geometry_msgs/msg/Twist'](vector(ego.speed, 0.0, 0.0), vector(0.0, 0.0, ego.yaw_rate))
    return types['nav_msgs/msg/Odometry'](
        _header(t_ns, 'odom'),
        'base_link',
        types['geometry_msgs/msg/PoseWithCovariance'](pose, tiny),
        types['geometry_msgs/msg/TwistWithCovariance'](twist, tiny),
    )


def static_transforms() -> Any:
    """base_link to every optical frame."""
    types = STORE.types
    transforms = []
    for camera in RING:
        shift = types['geometry_msgs/msg/Vector3'](*camera.place)
        transform = types['geometry_msgs/msg/Transform'](shift, _quaternion(quaternion_of(camera.rotation)))
        stamped = types['geometry_msgs/msg/TransformStamped'](
            _header(START_NS, 'base_link'), f'{camera.name}_optical', transform
        )
        transforms.append(stamped)
    return types['tf2_msgs/msg/TFMessage'](transforms)


def quaternion_of(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion (x, y, z, w) of a rotation matrix, from the eigenvector that it leaves alone (Bar-Itzhack)."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    upper = [[a - e - i, d + b, g + c, h - f], [d + b, e - a - i, h + f, c - g]]
    k = np.array([*upper, [g + c, h + f, i - a - e, d - b], [h - f, c - g, d - b, a + e + i]])
    values, vectors = np.linalg.eigh(k / 3.0)
    q = vectors[:, int(values.argmax())]
    return q if q[3] >= 0 else -q


def _quaternion(q: np.ndarray) -> Any:
    return STORE.types['geometry_msgs/msg/Quaternion'](*(float(value) for value in q))
