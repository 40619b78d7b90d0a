"""Writes a drive through ringworld as a rosbag2 MCAP bag with its truth; equal arguments give equal bytes.

The images have the noise of a sensor, without which a camera that stands still would look frozen.
"""

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

from stprune_ros.errors import BagError, SettingsError
from stprune_ros.ringworld.questions import describe
from stprune_ros.ringworld.renderer import HEIGHT, RING, VIEW_NAMES, WIDTH, Camera, render_view
from stprune_ros.ringworld.scenes import JPEG_QUALITY
from stprune_ros.ringworld.truth import SceneTruth, scene_truth
from stprune_ros.ringworld.world import Ego, SteppedWorld, World

START_NS = 1_700_000_000 * 10**9
ODOMETRY_HZ = 50
ROLLING_S = 0.013  # from one camera to the next where they fire one after another
HZ_RANGE = (0.2, 50.0)
NOISE = 1.0  # standard deviation of a pixel, of 255
TYPESTORE = get_typestore(Stores.ROS2_JAZZY)


def record_world(out: Path, seed: int, seconds: float, hz: float, rolling: bool = False, hard: bool = False) -> None:
    """Record ``seconds`` of the world ``seed`` at ``hz`` images per second and camera into the new folder ``out``.

    With ``rolling`` the cameras fire clockwise one after another, and each image shows the world at its own stamp;
    otherwise all fire at once. ``hard`` is as for `World`. ``out/truth.json`` holds the truth of every tick, by the
    stamp of the front camera.

    Raises BagError if ``out`` exists or cannot be written, SettingsError if ``seconds`` or ``hz`` is out of range.
    """
    out = Path(out)
    if out.exists():
        raise BagError(f"'{out}' exists already; name a new folder for the recording")
    require_rate(hz)
    write_world(out, World(seed, seconds + ROLLING_S * len(RING), hard), seconds, hz, rolling)


def require_rate(hz: float) -> None:
    """Raise SettingsError for a rate of images that is out of range."""
    if not HZ_RANGE[0] <= hz <= HZ_RANGE[1]:
        raise SettingsError(f'a recording at {hz:g} Hz cannot be made; choose {HZ_RANGE[0]:g} to {HZ_RANGE[1]:g} Hz')


def write_world(out: Path, world: SteppedWorld, seconds: float, hz: float, rolling: bool = False) -> None:
    """Write what happened in a world until ``seconds`` as `record_world` does, whoever drove the ego vehicle.

    Raises BagError where ``out`` cannot be written.
    """
    seed, hard = world.seed, world.hard
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with Writer(out, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            ticks = _Recorder(writer, seed).run(world, seconds, hz, rolling)
        drive = {'seed': seed, 'seconds': seconds, 'hz': hz, 'rolling': rolling, **({'hard': True} if hard else {})}
        text = json.dumps({**drive, 'ticks': ticks}, indent=1)
        (out / 'truth.json').write_text(text + '\n', encoding='utf-8')
    except OSError as error:
        raise BagError(f"'{out}' cannot be written: {error.strerror}") from None


class _Recorder:
    """The topics of one bag while it is written."""

    def __init__(self, writer: Writer, seed: int) -> None:
        self.writer = writer
        self.noise = sensor_noise(seed)
        self.images = {
            c.name: self._topic(f'/camera/{c.name}/image_raw/compressed', 'sensor_msgs/msg/CompressedImage')
            for c in RING
        }
        self.infos = {c.name: self._topic(f'/camera/{c.name}/camera_info', 'sensor_msgs/msg/CameraInfo') for c in RING}
        self.odometry = self._topic('/odom', 'nav_msgs/msg/Odometry')
        self.transforms = self._topic('/tf_static', 'tf2_msgs/msg/TFMessage', latched=True)

    def run(self, world: SteppedWorld, seconds: float, hz: float, rolling: bool) -> list[dict[str, Any]]:
        """Write everything in time order; returns the truth of each tick."""
        self._write(self.transforms, START_NS, static_transforms())
        ticks = []
        count = max(1, math.floor(seconds * hz + 1e-6))
        samples = iter(range(math.floor(seconds * ODOMETRY_HZ) + 1))
        pending: int | None = next(samples)
        for tick in tqdm(range(count), desc='world', disable=None):
            images, truth = render_tick(world, tick / hz, rolling)
            for camera, t, rgb in images:
                while pending is not None and pending / ODOMETRY_HZ <= t + 1e-9:
                    self._odometry(world, pending)
                    pending = next(samples, None)
                self._image(camera, stamp_ns(t), rgb)
            ticks.append(truth_as_json(truth))
        for rest in [] if pending is None else [pending, *samples]:
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
        return self.writer.add_connection(name, kind, typestore=TYPESTORE, offered_qos_profiles=[qos])

    def _write(self, topic: Any, t_ns: int, message: Any) -> None:
        self.writer.write(topic, t_ns, TYPESTORE.serialize_cdr(message, topic.msgtype))

    def _odometry(self, world: SteppedWorld, index: int) -> None:
        t = index / ODOMETRY_HZ
        self._write(self.odometry, stamp_ns(t), odometry(world.ego(t), stamp_ns(t)))

    def _image(self, camera: Camera, t_ns: int, rgb: np.ndarray) -> None:
        image = compressed_image(camera, t_ns, rgb, self.noise)
        self._write(self.infos[camera.name], t_ns, camera_info(camera, image.header))
        self._write(self.images[camera.name], t_ns, image)


def render_tick(
    world: SteppedWorld, t: float, rolling: bool
) -> tuple[list[tuple[Camera, float, np.ndarray]], SceneTruth]:
    """(camera, time, RGB image) of every camera in the tick at ``t`` seconds, and the truth at ``t``."""
    times = [t + ROLLING_S * index * rolling for index in range(len(RING))]
    snapshots = {time: world.snapshot(time) for time in dict.fromkeys((t, *times))}
    rendered = [render_view(snapshots[time], camera) for time, camera in zip(times, RING, strict=True)]
    truth = scene_truth(world, snapshots[t], RING, rendered)
    images = [(camera, time, view.rgb) for camera, time, view in zip(RING, times, rendered, strict=True)]
    return images, truth


def truth_as_json(truth: SceneTruth) -> dict[str, Any]:
    """Truth of a tick as truth.json holds it; ``gap`` in m, None without a reason."""
    views = {
        camera.name: [
            {
                'id': actor.id,
                'kind': actor.kind,
                **({'colour': actor.colour} if actor.kind == 'vehicle' and actor.colour else {}),
                **({'state': actor.state} if actor.state else {}),
                'pixels': actor.pixels,
                'distance': round(actor.distance, 2),
                'moving': actor.moving,
            }
            for actor in view
        ]
        for camera, view in zip(RING, truth.views, strict=True)
    }
    return {
        'stamp_ns': stamp_ns(truth.t),
        'behavior': truth.behavior.name,
        'reason': truth.reason,
        'reason_id': truth.reason_id,
        'reason_views': [VIEW_NAMES[index] for index in truth.reason_views()],
        'gap': None if math.isinf(truth.gap) else round(truth.gap, 2),
        'speed': round(truth.speed, 3),
        'yaw_rate': round(truth.yaw_rate, 4),
        'description': describe(truth),
        'views': views,
    }


def sensor_noise(seed: int) -> np.random.Generator:
    """What `compressed_image` draws from: one for all cameras of a world, in the order of their images."""
    return np.random.default_rng(seed)


def compressed_image(camera: Camera, t_ns: int, rgb: np.ndarray, noise: np.random.Generator) -> Any:
    """CompressedImage of an RGB image (H, W, 3) uint8, with the noise of a sensor."""
    noisy = noise.normal(0.0, NOISE, rgb.shape)
    noisy += rgb
    np.rint(noisy, out=noisy)
    pixels = cv2.cvtColor(noisy.clip(0, 255, out=noisy).astype(np.uint8), cv2.COLOR_RGB2BGR)
    data = cv2.imencode('.jpg', pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    frame = f'{camera.name}_optical'
    return TYPESTORE.types['sensor_msgs/msg/CompressedImage'](header(t_ns, frame), 'jpeg', data.ravel())


def stamp_ns(t: float) -> int:
    """Stamp of ``t`` seconds after the start of a recording."""
    return START_NS + round(t * 1e9)


def header(t_ns: int, frame: str) -> Any:
    """Header of a message: a stamp in ns and its frame."""
    stamp = TYPESTORE.types['builtin_interfaces/msg/Time'](t_ns // 10**9, t_ns % 10**9)
    return TYPESTORE.types['std_msgs/msg/Header'](stamp, frame)


def camera_info(camera: Camera, header: Any) -> Any:
    """CameraInfo of an undistorted pinhole camera."""
    types = TYPESTORE.types
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
    """Odometry of base_link in odom; it is exact, so the covariances are tiny."""
    types = TYPESTORE.types
    vector, tiny = types['geometry_msgs/msg/Vector3'], (np.eye(6) * 1e-6).ravel()
    position = types['geometry_msgs/msg/Point'](ego.x, ego.y, 0.0)
    pose = types['geometry_msgs/msg/Pose'](
        position, _quaternion(np.array([0.0, 0.0, math.sin(ego.yaw / 2), math.cos(ego.yaw / 2)]))
    )
    twist = types['geometry_msgs/msg/Twist'](vector(ego.speed, 0.0, 0.0), vector(0.0, 0.0, ego.yaw_rate))
    return types['nav_msgs/msg/Odometry'](
        header(t_ns, 'odom'),
        'base_link',
        types['geometry_msgs/msg/PoseWithCovariance'](pose, tiny),
        types['geometry_msgs/msg/TwistWithCovariance'](twist, tiny),
    )


def static_transforms() -> Any:
    """TFMessage from base_link to every optical frame."""
    types = TYPESTORE.types
    transforms = []
    for camera in RING:
        shift = types['geometry_msgs/msg/Vector3'](*camera.position)
        transform = types['geometry_msgs/msg/Transform'](shift, _quaternion(quaternion_from_matrix(camera.rotation)))
        stamped = types['geometry_msgs/msg/TransformStamped'](
            header(START_NS, 'base_link'), f'{camera.name}_optical', transform
        )
        transforms.append(stamped)
    return types['tf2_msgs/msg/TFMessage'](transforms)


def quaternion_from_matrix(rotation: np.ndarray) -> np.ndarray:
    """Unit quaternion (x, y, z, w) with w >= 0 of a rotation matrix (3, 3), by Bar-Itzhack's eigenvector method."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    upper = [[a - e - i, d + b, g + c, h - f], [d + b, e - a - i, h + f, c - g]]
    k = np.array([*upper, [g + c, h + f, i - a - e, d - b], [h - f, c - g, d - b, a + e + i]])
    values, vectors = np.linalg.eigh(k / 3.0)
    q = vectors[:, int(values.argmax())]
    return q if q[3] >= 0 else -q


def _quaternion(q: np.ndarray) -> Any:
    return TYPESTORE.types['geometry_msgs/msg/Quaternion'](*(float(value) for value in q))
