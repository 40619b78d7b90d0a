"""What six cameras cost: pictures from one process over DDS to the node in another, counted on both sides.

    python benchmark/load.py --output load.json
    python benchmark/load.py --payload jpeg --profile fastdds --seconds 60

A publisher in Python sends as a camera driver would, best effort, all cameras at one time; where it cannot keep up the
table says how many it sent. Received, used and lost are what the node's diagnostics say; one picture may be used in two
sets. A profile is given to both processes, and each run has a node and a DDS domain of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image

from stprune_ros.core.rig import CameraRig
from stprune_ros.msg import PlanningHint
from stprune_ros.resources import dds_profile, resource_path
from stprune_ros.results import table, write_json

NODE = '/stprune_node'
SETTLE_S = 2.5  # until what was sent has arrived and stands in the diagnostics, which come once a second
START_S = 180.0  # for the node to load its model and to subscribe
COUNTED = ('received', 'used', 'lost')


@dataclass(frozen=True)
class Payload:
    """What every camera sends."""

    name: str
    width: int
    height: int
    hz: float
    quality: int = 95  # of JPEGs

    @property
    def is_raw(self) -> bool:
        """Whether images go out as sensor_msgs/Image."""
        return self.name == 'rgb8'

    def topic(self, camera: str) -> str:
        """Where a camera sends."""
        return f'{NODE}/input/{camera}/image' + ('' if self.is_raw else '/compressed')


PAYLOADS = {found.name: found for found in (Payload('rgb8', 1600, 900, 10.0), Payload('jpeg', 1920, 1080, 30.0))}
# Environment variables of node and publisher, by the profile's name.
PROFILES: Mapping[str, Mapping[str, str]] = {
    'none': {},
    'fastdds': dict([dds_profile()]),
    'cyclonedds': {
        'RMW_IMPLEMENTATION': 'rmw_cyclonedds_cpp',
        'CYCLONEDDS_URI': f'file://{resource_path("config/dds/cyclonedds.xml")}',
    },
}


@dataclass(frozen=True)
class Usage:
    """Processor time of a process in seconds so far, and its resident memory in MiB, shared memory included."""

    cpu_s: float
    rss_mib: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        """Of a running process."""
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
        ticks = int(fields[11]) + int(fields[12])
        pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
        return cls(ticks / os.sysconf('SC_CLK_TCK'), pages * os.sysconf('SC_PAGE_SIZE') / 2**20)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('--output', type=Path, help='JSON file')
    parser.add_argument('--payload', nargs='+', choices=PAYLOADS, default=list(PAYLOADS))
    parser.add_argument('--profile', nargs='+', choices=PROFILES, default=['none', 'fastdds'])
    parser.add_argument('--seconds', type=float, default=20.0, help='that are counted, per payload and profile')
    parser.add_argument('--warm-up', type=float, default=5.0, help='seconds before them')
    parser.add_argument('--size', type=int, nargs=2, metavar=('WIDTH', 'HEIGHT'), help='other than the usual one')
    parser.add_argument('--hz', type=float, help='other than the usual one')
    parser.add_argument(
        '--quality', type=int, default=Payload.quality, help='of JPEGs: 95 gives 0.75 MB, 92 gives 0.5 MB'
    )
    parser.add_argument('--domain', type=int, default=os.getpid() % 90 + 1, help='DDS domain of the first run')
    parser.add_argument('--publish', help=argparse.SUPPRESS)  # what the other process is started with
    options = parser.parse_args(arguments)
    if options.publish:
        publish(Payload(**json.loads(options.publish)))
        return
    conditions = [(PAYLOADS[payload], profile) for payload in options.payload for profile in options.profile]
    machine = f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {date.today()}'
    found = []
    for number, (payload, profile) in enumerate(conditions):
        width, height = options.size or (payload.width, payload.height)
        sent = Payload(payload.name, width, height, options.hz or payload.hz, options.quality)
        found.append(measure(sent, profile, options.seconds, options.warm_up, options.domain + number))
        print(to_markdown(found[-1]) + '\n', flush=True)
        if options.output:
            write_json(options.output, {'machine': machine, 'runs': found})


def measure(payload: Payload, profile: str, seconds: float, warm_up: float, domain: int) -> dict[str, Any]:
    """Run node and publisher once; what the JSON file holds of it."""
    load_average = os.getloadavg()[0]
    env = environment(profile, domain)
    cameras = ring()
    with tempfile.TemporaryDirectory() as folder, node_process(Path(folder), payload, env) as node:
        with listening(domain) as observer, publisher_process(payload, env) as sender:
            observer.wait(lambda: observer.subscribed(payload, cameras), 'subscriptions of the node', node)
            sender.publish(warm_up)
            observer.settle(node)
            before, hints = observer.counts(cameras), observer.hints
            used = Usage.of(node.pid), Usage.of(sender.pid)
            sent = sender.publish(seconds)
            after_use = Usage.of(node.pid), Usage.of(sender.pid)
            observer.settle(node)
            after, hints = observer.counts(cameras), observer.hints - hints
        node.send_signal(signal.SIGINT)
        code = node.wait(30)
    if code:
        raise SystemExit(f'the node ended with exit code {code}')
    if not any(counts['received'] for counts in after.values()):
        raise SystemExit("nothing arrived, or the node's diagnostics do not count what was received")
    rows = {
        camera: {
            'published': sent['published'],
            **{what: after[camera][what] - before[camera][what] for what in COUNTED},
        }
        for camera in cameras
    }
    took = sent['seconds']
    return {
        'payload': asdict(payload),
        'bytes': sent['bytes'],
        'profile': profile,
        'rmw': sent['rmw'],
        'seconds': round(took, 2),
        'published_hz': round(sent['published'] / took, 2),
        'cameras': rows,
        'hints': hints,
        'cpu_percent': {
            who: round(100 * (later.cpu_s - sooner.cpu_s) / took, 1)
            for who, sooner, later in zip(('node', 'publisher'), used, after_use)
        },
        'rss_mib': {who: round(later.rss_mib, 1) for who, later in zip(('node', 'publisher'), after_use)},
        'load_average_before': round(load_average, 2),
    }


def environment(profile: str, domain: int) -> dict[str, str]:
    """Of node and publisher: this process's own without any profile but the one that is named."""
    others = {name for variables in PROFILES.values() for name in variables}
    kept = {name: value for name, value in os.environ.items() if name not in others}
    return {
        **kept,
        **PROFILES[profile],
        'ROS_DOMAIN_ID': str(domain),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
    }


def ring() -> list[str]:
    """The cameras of the rig that is used."""
    return list(CameraRig.from_file(resource_path('config/rigs/nuscenes.yaml')).ring)


def to_markdown(run: Mapping[str, Any]) -> str:
    """One run as a table, with a line above it and one below."""
    payload, took = run['payload'], run['seconds']
    head = (
        f'{payload["name"]} {payload["width"]}x{payload["height"]} ({run["bytes"] / 1e6:.2f} MB) at'
        f' {payload["hz"]:g} Hz, profile {run["profile"]}, {run["rmw"]}, {took:g} s, load average before'
        f' {run["load_average_before"]:g}'
    )
    rows = [
        (
            camera,
            f'{counts["published"] / took:.1f}',
            f'{counts["received"] / took:.1f}',
            f'{counts["used"] / took:.1f}',
            counts['published'] - counts['received'],
            counts['lost'],
        )
        for camera, counts in run['cameras'].items()
    ]
    columns = ('camera', 'published, Hz', 'received, Hz', 'used, Hz', 'not received', 'lost, says DDS')
    cpu, rss = run['cpu_percent'], run['rss_mib']
    foot = (
        f'node {cpu["node"]:g} % of a core, {rss["node"]:g} MiB; publisher {cpu["publisher"]:g} % of a core,'
        f' {rss["publisher"]:g} MiB; {run["hints"]} valid hints'
    )
    return f'{head}\n\n{table(columns, rows)}\n\n{foot}'


@contextmanager
def node_process(folder: Path, payload: Payload, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The node with the bundled model, its output in a file that is shown where it ends too early."""
    values = {
        'cameras.rig_file': str(resource_path('config/rigs/nuscenes.yaml')),
        'cameras.transport': 'raw' if payload.is_raw else 'compressed',
        'output.valid_for_ms': 10000.0,
    }
    params = folder / 'params.yaml'
    params.write_text(yaml.safe_dump({'/**': {'ros__parameters': values}}), encoding='utf-8')
    command = [sys.executable, '-m', 'stprune_ros.ros.node', '--ros-args', '--params-file', str(params)]
    with (folder / 'node.log').open('wb') as log:
        node = subprocess.Popen(command, env={**env, 'ROS_LOG_DIR': str(folder)}, stdout=log, stderr=log)
    try:
        yield node
    except NodeEndedError:
        raise SystemExit(f'the node ended:\n{(folder / "node.log").read_text()}') from None
    finally:
        if node.poll() is None:
            node.kill()
        node.wait()


class NodeEndedError(Exception):
    """The node is gone while something was expected of it."""


class Sender:
    """The other process; one line of JSON on its output answers one number of seconds on its input."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def publish(self, seconds: float) -> dict[str, Any]:
        """Let it send for so long; how many images per camera went out in how many seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f'{seconds}\n')
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit('the publisher ended')
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def publisher_process(payload: Payload, env: Mapping[str, str]) -> Iterator[Sender]:
    """The process that sends."""
    command = [sys.executable, __file__, '--publish', json.dumps(asdict(payload))]
    process = subprocess.Popen(command, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Sender(process)
    finally:
        process.kill()
        process.wait()


class Observer:
    """Reads the node's diagnostics and hints."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._values: dict[str, dict[str, str]] = {}
        self._arrays = self.hints = 0
        node.create_subscription(DiagnosticArray, '/diagnostics', self._take, 10)
        node.create_subscription(PlanningHint, f'{NODE}/output/planning_hint', self._count, 10)

    def wait(self, condition: Callable[[], bool], what: str, node: subprocess.Popen[bytes]) -> None:
        """Listen until ``condition`` holds."""
        deadline = time.monotonic() + START_S
        while not condition():
            if node.poll() is not None:
                raise NodeEndedError
            if time.monotonic() > deadline:
                raise SystemExit(f'no {what} within {START_S:g} s')
            rclpy.spin_once(self._node, timeout_sec=0.1)

    def settle(self, node: subprocess.Popen[bytes]) -> None:
        """Listen until the diagnostics hold all that was sent so far."""
        end = time.monotonic() + SETTLE_S
        self.wait(lambda: time.monotonic() > end, 'end', node)
        arrays = self._arrays
        self.wait(lambda: self._arrays > arrays, 'diagnostics', node)

    def subscribed(self, payload: Payload, cameras: list[str]) -> bool:
        """Whether the node listens to every camera."""
        return all(self._node.count_subscribers(payload.topic(camera)) for camera in cameras)

    def counts(self, cameras: list[str]) -> dict[str, dict[str, int]]:
        """What the node says of each camera."""
        said = {camera: self._values.get(f'camera {camera}', {}) for camera in cameras}
        # A DDS that tells of no loss has 'n/a' there.
        return {
            camera: {what: int(value) if (value := values.get(what, '')).isdigit() else 0 for what in COUNTED}
            for camera, values in said.items()
        }

    def _take(self, message: DiagnosticArray) -> None:
        self._arrays += 1
        for status in message.status:
            name = status.name.partition(': ')[2]
            self._values[name] = {pair.key: pair.value for pair in status.values}

    def _count(self, hint: PlanningHint) -> None:
        self.hints += hint.status in (PlanningHint.OK, PlanningHint.DEGRADED)


@contextmanager
def listening(domain: int) -> Iterator[Observer]:
    """An observer in a DDS domain."""
    rclpy.init(domain_id=domain)
    node = rclpy.create_node('load_observer', enable_rosout=False, start_parameter_services=False)
    try:
        yield Observer(node)
    finally:
        node.destroy_node()
        rclpy.shutdown()


def publish(payload: Payload) -> None:
    """The other process: send for as many seconds as each line of standard input says."""
    rclpy.init()
    node = rclpy.create_node('load_publisher', enable_rosout=False, start_parameter_services=False)
    kind = Image if payload.is_raw else CompressedImage
    publishers = [node.create_publisher(kind, payload.topic(camera), qos_profile_sensor_data) for camera in ring()]
    messages = [_message(payload, number) for number in range(len(publishers))]
    count = 0
    for line in sys.stdin:
        start, sets = time.monotonic(), 0
        while time.monotonic() < start + float(line):
            stamp = divmod(time.time_ns(), 10**9)
            for publisher, message in zip(publishers, messages):
                message.header.stamp.sec, message.header.stamp.nanosec = stamp
                # No two pictures of a sensor are alike; in a JPEG this is a comment, see _message.
                message.data[6:10] = array('B', (count & 0x7F7F7F7F).to_bytes(4, 'big'))
                publisher.publish(message)
            count, sets = count + 1, sets + 1
            time.sleep(max(0.0, start + sets / payload.hz - time.monotonic()))
        answer = {'published': sets, 'seconds': time.monotonic() - start, 'bytes': len(messages[0].data)}
        answer['rmw'] = rclpy.get_rmw_implementation_identifier()
        print(json.dumps(answer), flush=True)


def _message(payload: Payload, seed: int) -> Any:
    """An image of coloured blocks under noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(40, 216, (9, 16, 3), np.uint8)
    size = (payload.width, payload.height)
    picture = cv2.resize(blocks, size, interpolation=cv2.INTER_CUBIC)
    noise = rng.integers(-9, 10, picture.shape, np.int16)
    picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
    if payload.is_raw:
        return Image(
            width=size[0], height=size[1], encoding='rgb8', step=3 * size[0], data=array('B', picture.tobytes())
        )
    data = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, payload.quality])[1].tobytes()
    return CompressedImage(format='jpeg', data=array('B', data[:2] + b'\xff\xfe\0\x06\0\0\0\0' + data[2:]))


if __name__ == '__main__':
    main()
