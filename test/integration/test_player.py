"""`stprune play` and `stprune demo` over real DDS: the player in a process of its own, the subscribers here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy')

import rclpy
from helpers.reports import report_in
from helpers.small_bags import PERIOD_NS, START_NS, Item, drive, header, image, make, write_bag
from helpers.tiny_models import make_tiny_model
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from stprune_ros.cli import main
from stprune_ros.io.bag_reader import Bag

FRONT = '/camera/front/image_raw/compressed'
LIMIT_S = 90.0  # only bounds how long a failure takes
IN_BACKGROUND = ['sh', '-c', 'trap "" INT; exec "$@"', 'sh']  # as `command &` in a script: SIGINT is ignored


class Audience:
    """Subscribers in this process; ``heard`` holds what came, by topic."""

    def __init__(self, domain_id: int) -> None:
        self.heard: dict[str, list[Any]] = {}
        self.domain_id = domain_id
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain_id)
        self._node = Node('audience', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)

    def subscribe(self, kind: Any, topic: str, profile: QoSProfile | int = 100) -> list[Any]:
        heard = self.heard.setdefault(topic, [])
        self._node.create_subscription(kind, topic, heard.append, profile)
        return heard

    def listen_while(self, player: subprocess.Popen[str], until: Callable[[], bool] = lambda: False) -> None:
        """Take in messages until the player has ended or ``until`` holds, and for a moment after."""
        end = time.monotonic() + LIMIT_S
        while player.poll() is None and not until():
            assert time.monotonic() < end, 'the player does not end'
            self._executor.spin_once(timeout_sec=0.05)
        for _ in range(200):  # what is still in the queues
            self._executor.spin_once(timeout_sec=0)

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)


@pytest.fixture
def audience(domain_id: int) -> Iterator[Audience]:
    made = Audience(domain_id)
    yield made
    made.close()


def start(audience: Audience, bag: Path, *arguments: str, under: Sequence[str] = ()) -> subprocess.Popen[str]:
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(audience.domain_id)}
    command = [*under, sys.executable, '-m', 'stprune_ros.cli', 'play', str(bag), '--wait', '30', *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stamps(messages: list[Any]) -> list[int]:
    return [message.header.stamp.sec * 10**9 + message.header.stamp.nanosec for message in messages]


def test_everything_arrives_as_it_was_recorded(audience: Audience, tmp_path: Path):
    items = drive(8)
    bag = write_bag(tmp_path / 'bag', items)
    front = audience.subscribe(CompressedImage, FRONT, qos_profile_sensor_data)
    sides = [audience.subscribe(CompressedImage, f'/camera/{name}/image_raw/compressed') for name in ('left', 'right')]
    moved = audience.subscribe(Odometry, '/moved/odom')
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    transforms = audience.subscribe(TFMessage, '/tf_static', latched)
    clock = audience.subscribe(Clock, '/clock')
    player = start(audience, bag, '--clock', '--remap', '/odom:=/moved/odom', '--json')
    audience.listen_while(player)
    out, err = player.communicate()
    assert player.returncode == 0, err
    assert report_in(out, 'play')['result']['messages'] == len(items)
    assert f"played {len(items)} messages of '{bag}'" in err
    recorded = [START_NS + tick * PERIOD_NS for tick in range(8)]
    assert stamps(front) == recorded
    assert [stamps(side) for side in sides] == [recorded, recorded]
    assert stamps(moved) == recorded
    written = [item.message.data.tobytes() for item in items if item.topic == FRONT]
    assert [bytes(message.data) for message in front] == written
    assert len(transforms) == 1
    ticks = [message.clock.sec * 10**9 + message.clock.nanosec for message in clock]
    assert ticks == sorted(ticks)
    assert ticks[0] >= START_NS
    assert ticks[-1] == recorded[-1]


def test_messages_are_as_far_apart_as_recorded(audience: Audience, tmp_path: Path):
    bag = write_bag(tmp_path / 'bag', drive(9))
    audience.subscribe(CompressedImage, FRONT)
    for name in ('left', 'right'):
        audience.subscribe(CompressedImage, f'/camera/{name}/image_raw/compressed')
    player = start(audience, bag, '--rate', '0.5')
    audience.listen_while(player)
    took = float(player.communicate()[0].split(' in ')[1].split()[0])
    assert took >= 1.6  # 0.8 s at half speed; a busy machine takes longer, none can take less


def test_loops_repeat_the_same_stamps(audience: Audience, tmp_path: Path):
    bag = write_bag(tmp_path / 'bag', drive(3, lambda item: item if item.topic == '/odom' else None))
    heard = audience.subscribe(Odometry, '/odom')
    player = start(audience, bag, '--loop', '2')
    audience.listen_while(player)
    player.communicate()
    assert stamps(heard) == [START_NS + tick * PERIOD_NS for tick in range(3)] * 2


def test_topics_that_cannot_be_played_are_named_once(audience: Audience, tmp_path: Path):
    point = make('rcl_interfaces/Log', header(START_NS).stamp, 20, 'a', 'b', 'c', 'd', 1)
    items = [*drive(2), Item('/log', START_NS, point)]
    folder = write_bag(tmp_path / 'bag', items)
    for name in ('metadata.yaml', 'bag.mcap'):  # a type of the same size of name that nobody has
        file = folder / name
        file.write_bytes(file.read_bytes().replace(b'rcl_interfaces/msg/Log', b'rcl_interfaceX/msg/Log'))
    for name in ('front', 'left', 'right'):
        audience.subscribe(CompressedImage, f'/camera/{name}/image_raw/compressed')
    player = start(audience, folder, '--loop', '2')
    audience.listen_while(player)
    err = player.communicate()[1]
    assert player.returncode == 0, err
    assert err.count('not played, because their types are not installed: /log (rcl_interfaceX/msg/Log)') == 1
    assert len(audience.heard[FRONT]) == 4


def test_type_that_differs_from_the_installed_one_is_not_sent(audience: Audience, tmp_path: Path):
    folder = write_bag(tmp_path / 'bag', drive(2))
    metadata = folder / 'metadata.yaml'
    digest = next(line.split()[-1] for line in metadata.read_text().splitlines() if 'RIHS01_3cc97dc7' in line)
    metadata.write_text(metadata.read_text().replace(digest, digest[:-1] + '1'))
    heard = audience.subscribe(Odometry, '/odom')
    for name in ('front', 'left', 'right'):
        audience.subscribe(CompressedImage, f'/camera/{name}/image_raw/compressed')
    player = start(audience, folder)
    audience.listen_while(player)
    err = player.communicate()[1]
    assert 'not played, because their types differ from those installed: /odom (nav_msgs/msg/Odometry)' in err
    assert heard == []
    assert len(audience.heard[FRONT]) == 2


def test_nobody_listening_is_said(audience: Audience, tmp_path: Path):
    bag = write_bag(tmp_path / 'bag', drive(1))
    player = start(audience, bag, '--wait', '0.2')
    audience.listen_while(player)
    assert 'nobody subscribed to /camera/front/image_raw/compressed, ' in player.communicate()[1]
    assert player.returncode == 0


def test_nobody_listening_names_what_is_listened_to(audience: Audience, tmp_path: Path):
    audience.subscribe(CompressedImage, '/cam/front/image_raw/compressed')
    player = start(audience, write_bag(tmp_path / 'bag', drive(1)), '--wait', '10')
    audience.listen_while(player)
    err = player.communicate()[1]
    assert 'within 10 s (subscribed to are /cam/front/image_raw/compressed: --params or --remap lead there)' in err


def test_what_nobody_heard_is_said_without_waiting_too(audience: Audience, tmp_path: Path):
    bag = write_bag(tmp_path / 'bag', drive(2))
    command = [sys.executable, '-m', 'stprune_ros.cli', 'play', str(bag)]
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(audience.domain_id)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0
    assert 'nobody subscribed to /camera/front/image_raw/compressed, /camera/left' in done.stderr


def params_file(folder: Path, **values: Any) -> str:
    file = folder / 'params.yaml'
    given = {name.replace('__', '.'): value for name, value in values.items()}
    file.write_text(json.dumps({'/**': {'ros__parameters': given}}))
    return str(file)


def test_parameter_file_leads_to_the_inputs_of_the_node(audience: Audience, tmp_path: Path):
    bag = write_bag(tmp_path / 'bag', drive(3))
    inputs = '/stprune_node/input'
    front = audience.subscribe(CompressedImage, f'{inputs}/front/image/compressed')
    left = audience.subscribe(CompressedImage, f'{inputs}/left/image/compressed')
    info = audience.subscribe(CameraInfo, '/info_of_left')
    moved = audience.subscribe(Odometry, f'{inputs}/kinematic_state')
    file = params_file(tmp_path, cameras__names=['front', 'left'])
    player = start(audience, bag, '--params', file, '--remap', '/camera/left/camera_info:=/info_of_left')
    audience.listen_while(player)
    err = player.communicate()[1]
    assert player.returncode == 0, err
    assert [len(heard) for heard in (front, left, info, moved)] == [3, 3, 3, 3]
    assert 'nobody subscribed' not in err  # right is no camera of the node


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (
            ['--image-topic', '/cam/{camera}/jpg'],
            "'topics.image' names '/cam/front/jpg' for camera 'front', which is not",
        ),
        (
            ['--odometry-topic', '/ego'],
            "topic '/ego' in 'topics.odometry' is not in the bag; its odometry topics are /odom",
        ),
        (
            [],
            "'cameras.transport' is 'raw', but '/camera/front/image_raw/compressed' of the bag carries sensor_msgs/",
        ),
    ],
)
def test_topics_that_cannot_be_played_to_a_node_exit_1(audience, tmp_path, options, sentence):
    file = params_file(tmp_path, cameras__names=['front'], cameras__transport='raw')
    player = start(audience, write_bag(tmp_path / 'bag', drive(1)), '--params', file, *options)
    err = player.communicate(timeout=LIMIT_S)[1]
    assert player.returncode == 1
    assert sentence in err


@pytest.mark.parametrize('under', [[], IN_BACKGROUND], ids=['foreground', 'background'])
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_player_stops_at_once_when_told(audience: Audience, tmp_path: Path, number: int, under: list[str]):
    items = [Item('/image', START_NS + tick * 10**9, image(START_NS)) for tick in range(100)]
    heard = audience.subscribe(Image, '/image')
    player = start(audience, write_bag(tmp_path / 'bag', items), under=under)
    audience.listen_while(player, until=lambda: bool(heard))
    player.send_signal(number)
    _, err = player.communicate(timeout=20)
    assert player.returncode == 130
    assert err.splitlines()[-1] == 'stprune: interrupted'  # a busy machine may be told of waiting before


def test_remapping_what_is_not_there_exits_1(audience: Audience, tmp_path: Path):
    player = start(audience, write_bag(tmp_path / 'bag', drive(1)), '--remap', '/odometry:=/odom')
    _, err = player.communicate(timeout=LIMIT_S)
    assert player.returncode == 1
    assert err.startswith("stprune: topic '/odometry' to remap is not in the bag; it holds /camera/front/camera_info")


@pytest.mark.slow
def test_demo_shows_both_halves(tmp_path: Path, domain_id: int, monkeypatch: pytest.MonkeyPatch, capfd):
    model = make_tiny_model(tmp_path / 'model', 'ringworld')
    (model / 'stprune.json').write_text(json.dumps({'trained': True}))
    params = tmp_path / 'params.yaml'
    values = {'model.path': str(model), 'inference.max_new_tokens': 2, 'output.valid_for_ms': 60000.0}
    params.write_text(json.dumps({'/**': {'ros__parameters': values}}))
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain_id))
    output = tmp_path / 'demo'
    code = main(['demo', '--output', str(output), '--seconds', '3', '--params', str(params), '--json'])
    told = capfd.readouterr()
    assert code == 0, told.err
    found = json.loads((output / 'live.json').read_text())
    assert found['valid'] > 0
    assert found['compared'] > 0
    assert found['agreed'] >= 0.5 * found['compared']  # a busy machine may lose an image, and with it its set
    summary = json.loads((output / 'summary.json').read_text())
    assert summary['ticks'] == 15
    assert summary['truth']['known'] == 15
    assert {'results.mcap', 'report.html', 'live.mcap', 'world'} <= {path.name for path in output.iterdir()}
    with Bag(output / 'live.mcap') as bag:
        assert bag.notes == []
    result = report_in(told.out, 'demo')['result']
    assert (result['live'], result['summary']) == (found, summary)
    assert all(Path(file).is_file() for file in result['files'])
    assert 'live hints equal the replayed hint of the same stamp' in told.err


def test_demo_whose_node_cannot_start_exits_1(tmp_path: Path, domain_id: int, monkeypatch: pytest.MonkeyPatch, capfd):
    params = tmp_path / 'params.yaml'
    params.write_text(json.dumps({'/**': {'ros__parameters': {'model.device': 'cuda:99'}}}))
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain_id))
    assert main(['demo', '--output', str(tmp_path / 'demo'), '--seconds', '1', '--params', str(params)]) == 1
    assert 'the node ended with exit code 1: stprune_node: ' in (said := capfd.readouterr().err)
    assert 'cuda:99' in said
