"""A vehicle with three cameras in this process, node and player in others, over real DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from helpers import faulty_node
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from stprune_ros.msg import PlanningHint, SceneDescription
from stprune_ros.ros import qos

TEST = Path(__file__).resolve().parents[1]  # where a program of ours finds `helpers`
WIDTH, HEIGHT = 64, 48
AZIMUTH_DEG = {'front': 0.0, 'right': -70.0, 'left': 70.0}
PERIOD_NS = 100_000_000
PUBLISHERS_ARE_TOLD = int(version('rclpy').partition('.')[0]) >= 9  # whose a message is: from Kilted on
TIMEOUT_S = 180.0  # generous: it only bounds how long a failure takes
LAST_WORDS_S = 1.0  # what an ended node has sent may still be on its way


def jpeg(seed: int = 0, scale: int = 1) -> bytes:
    """A small JPEG of random blocks, ``scale`` times WIDTH x HEIGHT."""
    blocks = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    image = cv2.resize(blocks, (WIDTH * scale, HEIGHT * scale), interpolation=cv2.INTER_NEAREST)
    return cv2.imencode('.jpg', image)[1].tobytes()


def compressed_image(data: bytes, image_format: str = 'jpeg') -> CompressedImage:
    """A CompressedImage without a stamp."""
    return CompressedImage(format=image_format, data=array('B', data))


def raw_image(encoding: str = 'rgb8', step: int = WIDTH * 3, height: int = HEIGHT) -> Image:
    """An Image without a stamp."""
    return Image(height=height, width=WIDTH, encoding=encoding, step=step, data=array('B', bytes(step * height)))


def with_noise(message: Any, number: int) -> Any:
    """The same picture in other bytes: ``number`` in a comment of a JPEG, behind a PNG, or in the first raw pixels.

    Whatever is no image has another last byte each time: a broken camera is not to pass for a frozen one.
    """
    data = message.data.tobytes()
    if isinstance(message, Image):
        spread = [index for index in range(min(8, len(data))) if number >> index & 1]
        message.data = array('B', bytes(value ^ (index in spread) for index, value in enumerate(data[:8])) + data[8:])
    elif data.startswith(b'\xff\xd8'):
        message.data = array('B', data[:2] + b'\xff\xfe\0\x06' + number.to_bytes(4, 'big') + data[2:])
    elif data.startswith(b'\x89PNG'):
        message.data = array('B', data + number.to_bytes(4, 'big'))
    elif data:
        message.data = array('B', data[:-1] + bytes([data[-1] ^ number & 0xFF]))
    return message


def odometry(speed: float = 5.0) -> Odometry:
    """Straight ahead at ``speed`` m/s."""
    message = Odometry(child_frame_id='base_link')
    message.pose.pose.position.x = 1.0
    message.pose.pose.orientation.w = 1.0
    message.twist.twist.linear.x = speed
    message.twist.covariance[0] = 0.1
    return message


class Listener:
    """Hears what the node says; in a DDS domain and namespace of its own."""

    def __init__(self, domain_id: int, namespace: str) -> None:
        self.domain_id, self.node_name = domain_id, f'{namespace}/stprune_node'
        self.hints: list[PlanningHint] = []
        self.texts: list[SceneDescription] = []
        self.diagnostics: list[DiagnosticArray] = []
        self._clients: dict[str, Any] = {}
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self.node = Node('test', namespace=namespace, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        output = f'{self.node_name}/output'
        self.node.create_subscription(PlanningHint, f'{output}/planning_hint', self.hints.append, 50)
        self.node.create_subscription(SceneDescription, f'{output}/scene_description', self.texts.append, 50)
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnosed, 50)

    def wait_until(self, condition: Callable[[], bool], what: str, node: NodeProcess) -> None:
        """Listen until ``condition`` holds; fails with ``what`` after a generous while."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if node.process.poll() is not None:
                raise AssertionError(f'the node ended while waiting for {what}:\n{node.output()}')
            if time.monotonic() > deadline:
                raise AssertionError(f'no {what} within {TIMEOUT_S} s\n{node.output()}')
            self.act()
            self._executor.spin_once(timeout_sec=0.02)

    def listen_until(self, condition: Callable[[], bool], limit_s: float) -> None:
        """Listen, and act, until ``condition`` holds, at most ``limit_s``."""
        deadline = time.monotonic() + limit_s
        while not condition() and time.monotonic() < deadline:
            self.act()
            self._executor.spin_once(timeout_sec=0.02)

    def act(self) -> None:
        """What is to be done meanwhile."""

    def _diagnosed(self, array: DiagnosticArray) -> None:
        if all(one.hardware_id == self.node_name for one in array.status):  # the topic is everyone's
            self.diagnostics.append(array)

    def diagnostic(self, name: str) -> DiagnosticStatus | None:
        """The newest status of that name."""
        found = [one for array in self.diagnostics[-1:] for one in array.status if one.name.endswith(f': {name}')]
        return found[0] if found else None

    def wait_for_diagnostic(self, name: str, message: str, node: NodeProcess) -> dict[str, str]:
        """The values of the status ``name`` once it says ``message``."""

        def says() -> bool:
            found = self.diagnostic(name)
            return found is not None and found.message == message

        self.wait_until(says, f"'{message}' of {name}", node)
        found = self.diagnostic(name)
        assert found is not None
        return {pair.key: pair.value for pair in found.values}

    def wait_for_end(self, node: NodeProcess) -> int:
        """Listen until the node has ended, and to what it sent last; its exit code."""
        self.listen_until(lambda: node.process.poll() is not None, TIMEOUT_S)
        self.listen_until(lambda: False, LAST_WORDS_S)
        return node.wait()

    def call(self, kind: Any, service: str, request: Any, node: NodeProcess) -> Any:
        """The response of a service of the node."""
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, f'{self.node_name}/{service}')
        client = self._clients[service]
        self.wait_until(client.service_is_ready, f'service {service}', node)
        future = client.call_async(request)
        self.wait_until(future.done, f'answer of {service}', node)
        return future.result()

    def close(self) -> None:
        """Leave DDS."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


class Vehicle(Listener):
    """Also publishes what a vehicle would, a frame set each ``period_s`` while it waits.

    ``images`` makes the next image of each camera; a camera that it lacks is silent. No two of them are alike, as with
    every sensor, but those of ``frozen`` cameras. ``odometry`` may be None.
    ``stamp_of`` changes the stamp in ns of a camera's images, or of the 'odometry'. ``image_topic`` and ``info_topic``
    are topics with ``{}`` for the camera, which ``called`` may name otherwise; ``latched`` camera_info is sent once and
    kept.
    """

    def __init__(
        self,
        domain_id: int,
        namespace: str,
        transport: type = CompressedImage,
        *,
        image_topic: str = '',
        info_topic: str = '',
        odometry_topic: str = '',
        odometry_qos: QoSProfile = qos.ODOMETRY,
        called: Mapping[str, str] | None = None,
        latched: bool = False,
    ) -> None:
        super().__init__(domain_id, namespace)
        called = called or {name: name for name in AZIMUTH_DEG}
        self.stamp_of: dict[str, Callable[[int], int]] = {}
        self.images: dict[str, Callable[[], Any]] = {}
        self.frozen: set[str] = set()
        for number, camera in enumerate(AZIMUTH_DEG):
            data = jpeg(number)
            good = raw_image if transport is Image else lambda data=data: compressed_image(data)
            self.images[camera] = good
        self.odometry: Odometry | None = odometry()
        self.stamps: set[int] = set()
        self.stamp_ns = 0  # of the last set
        self.behind_ns = 0  # how far the vehicle's clock is behind
        self.period_s = PERIOD_NS / 1e9
        self._next = 0.0
        node, prefix = self.node, f'{self.node_name}/input'
        suffix = 'image' if transport is Image else 'image/compressed'
        sensor = qos_profile_sensor_data
        image_topic = image_topic or f'{prefix}/{{}}/{suffix}'
        info_topic = info_topic or f'{prefix}/{{}}/camera_info'
        self._image_publishers = {
            name: node.create_publisher(transport, image_topic.format(called[name]), sensor) for name in AZIMUTH_DEG
        }
        self._infos = {
            name: node.create_publisher(
                CameraInfo, info_topic.format(called[name]), qos.TF_STATIC if latched else sensor
            )
            for name in AZIMUTH_DEG
        }
        odometry_topic = odometry_topic or f'{prefix}/kinematic_state'
        self._odometry = node.create_publisher(Odometry, odometry_topic, odometry_qos)
        self._tf = node.create_publisher(TFMessage, '/tf_static', qos.TF_STATIC)
        self._tf.publish(TFMessage(transforms=[_transform(camera) for camera in AZIMUTH_DEG]))
        self._kept_infos = self._infos if latched else {}
        if latched:
            self._infos = {}
            for camera, publisher in self._kept_infos.items():
                publisher.publish(_camera_info(camera))

    def silence_camera_info(self, camera: str) -> None:
        """Stop the CameraInfo of one camera."""
        del self._infos[camera]

    def act(self) -> None:
        """Publish the next frame set when it is due."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self.period_s
        self.stamp_ns = time.time_ns() - self.behind_ns
        self.stamps.add(self.stamp_ns)
        for camera, publisher in self._infos.items():
            publisher.publish(self._stamped(self.camera_info(camera)))
        if self.odometry is not None:
            at = self.stamp_of.get('odometry', int)(self.stamp_ns)
            self.send_odometry(self._stamped(self.odometry, at))
        for camera, make in self.images.items():
            stamp_ns = self.stamp_of.get(camera, int)(self.stamp_ns)
            image = make() if camera in self.frozen else with_noise(make(), len(self.stamps))
            self.send(camera, self._stamped(image, stamp_ns))

    def send_odometry(self, message: Odometry) -> None:
        """Publish odometry."""
        self._odometry.publish(message)

    def send(self, camera: str, image: Any) -> None:
        """Publish an image of a camera."""
        self._image_publishers[camera].publish(image)

    def camera_info(self, camera: str) -> CameraInfo:
        """The calibration of a camera, without a stamp."""
        return _camera_info(camera)

    def turn(self, camera: str, degrees: float) -> None:
        """Send another static transform: the camera is turned by so much to the left."""
        self._tf.publish(TFMessage(transforms=[_transform(camera, degrees)]))

    def _stamped(self, message: Any, stamp_ns: int | None = None) -> Any:
        stamp_ns = self.stamp_ns if stamp_ns is None else stamp_ns
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        return message


class NodeProcess:
    """The node in a process of its own, with parameters in a file; ``program`` is what Python runs."""

    def __init__(
        self,
        folder: Path,
        listener: Listener,
        values: Mapping[str, Any],
        remaps: Mapping[str, str] | None = None,
        program: Sequence[str] = ('-m', 'stprune_ros.ros.node'),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        namespace = listener.node_name.rpartition('/')[0]
        params = folder / 'params.yaml'
        params.write_text(yaml.safe_dump({'/**': {'ros__parameters': dict(values)}}), encoding='utf-8')
        self._log = folder / 'node.log'
        ros = ['--ros-args', '-r', f'__ns:={namespace}', '--params-file', str(params)]
        ros += [word for source, target in (remaps or {}).items() for word in ('-r', f'{source}:={target}')]
        env = {**os.environ, 'ROS_DOMAIN_ID': str(listener.domain_id), 'ROS_LOG_DIR': str(folder)}
        env['PYTHONPATH'] = os.pathsep.join([str(TEST), *filter(None, [os.environ.get('PYTHONPATH')])])
        env.update(environment or {})
        with self._log.open('wb') as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, *ros],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
            )

    def output(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(encoding='utf-8', errors='replace')

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f'{line}\n'.encode())
        self.process.stdin.flush()

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal, if it still runs, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """The exit code, once it has ended."""
        try:
            return self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


class FaultyNode(NodeProcess):
    """The real node with a backend that fails as it is told, see helpers/faulty_node.py."""

    def __init__(self, folder: Path, listener: Listener, values: Mapping[str, Any], **faults: str) -> None:
        self._faults = folder / 'faults.json'
        self.fail(**faults)
        program, environment = ('-m', 'helpers.faulty_node'), {faulty_node.ENVIRONMENT: str(self._faults)}
        super().__init__(folder, listener, values, program=program, environment=environment)

    def fail(self, **faults: str) -> None:
        """From now on these methods of the backend fail in these ways, and no others."""
        faulty_node.write_faults(self._faults, **faults)


@contextmanager
def playing(bag: Path, listener: Listener, *options: str) -> Iterator[None]:
    """`stprune play` in a process of its own, ended with the block."""
    program = 'import sys; from stprune_ros.cli import main; sys.exit(main(sys.argv[1:]))'
    env = {**os.environ, 'ROS_DOMAIN_ID': str(listener.domain_id)}
    player = subprocess.Popen([sys.executable, '-c', program, 'play', str(bag), *options], env=env)
    try:
        yield
    finally:
        player.terminate()
        player.wait(TIMEOUT_S)


def stamp_ns(message: Any) -> int:
    """The stamp of a message with a header."""
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def base_values(model: Path) -> dict[str, Any]:
    """Parameters for a quick node with the three cameras."""
    return {
        'cameras.names': ['left', 'front', 'right'],
        'model.path': str(model),
        'history.frames': 2,
        'history.stride_ms': 200.0,
        'pruning.keep_ratio': 0.5,
        'inference.max_new_tokens': 4,
        'output.valid_for_ms': 60000.0,
    }


def _camera_info(camera: str) -> CameraInfo:
    message = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model='plumb_bob', d=[0.0] * 5)
    message.header.frame_id = f'{camera}_optical'
    focal = WIDTH / 2 / np.tan(np.radians(45))
    message.k = [focal, 0.0, WIDTH / 2, 0.0, focal, HEIGHT / 2, 0.0, 0.0, 1.0]
    return message


def _transform(camera: str, degrees: float = 0.0) -> TransformStamped:
    """base_link to the optical frame: turned by the azimuth and ``degrees``, then z forward, x right, y down."""
    half = np.radians(AZIMUTH_DEG[camera] + degrees) / 2
    turn = np.array([0.0, 0.0, np.sin(half), np.cos(half)])
    optical = np.array([-0.5, 0.5, -0.5, 0.5])
    message = TransformStamped(child_frame_id=f'{camera}_optical')
    message.header.frame_id = 'base_link'
    rotation = message.transform.rotation
    rotation.x, rotation.y, rotation.z, rotation.w = (float(value) for value in _product(turn, optical))
    return message


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton product of two quaternions x, y, z, w."""
    vector = a[3] * b[:3] + b[3] * a[:3] + np.cross(a[:3], b[:3])
    return np.array([*vector, a[3] * b[3] - a[:3] @ b[:3]])
