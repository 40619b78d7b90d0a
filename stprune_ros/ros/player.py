"""Plays a bag over DDS in real time, where `ros2 bag play` is not installed.

Messages go out as the bytes that were recorded: nothing is converted, so six camera streams cost next to nothing.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from tqdm import tqdm

from stprune_ros.errors import StpruneError
from stprune_ros.io.bag_reader import Bag, Topic
from stprune_ros.io.bag_windows import BagTopics
from stprune_ros.ros import topic_graph
from stprune_ros.settings.settings import Settings
from stprune_ros.settings.topic_names import (
    absolute,
    camera_info_template,
    expand,
    image_template,
    odometry_topic,
)

CLOCK_PERIOD_S = 0.025
SETTLED_S = 0.5
WAITING_S = 2.0  # after so long it is said whose subscribers are waited for
LONELY_S = 5.0  # an image topic to which nobody has subscribed after so long is named
IMAGES = tuple(topic_graph.TRANSPORTS)


def message_class(msgtype: str) -> Any:
    """The rclpy class of 'pkg/msg/Name', None where it is not installed."""
    package, _, name = msgtype.replace('/msg/', '/').partition('/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError):
        return None


def inputs_of_node(bag: Bag, settings: Settings) -> dict[str, str]:
    """Where a node with these settings listens, by the topic of the bag that belongs there.

    Raises StpruneError where a camera is not in the bag, or recorded otherwise than ``cameras.transport`` says.
    """
    found, topics, transport = BagTopics.from_bag(bag, settings), settings.topics, settings.cameras.transport
    targets = {}
    for camera, recorded in found.cameras.items():
        kind = bag.topics[recorded.image].msgtype
        if topic_graph.TRANSPORTS.get(kind, transport) != transport:
            raise StpruneError(
                f"parameter 'cameras.transport' is '{transport}', but '{recorded.image}' of the bag carries {kind}: set"
                f' it to {topic_graph.TRANSPORTS[kind]}'
            )
        targets[recorded.image] = expand(absolute(image_template(topics, transport)), camera)
        if recorded.info:
            targets[recorded.info] = expand(absolute(camera_info_template(topics)), camera)
    if found.odometry:
        targets[found.odometry] = absolute(odometry_topic(topics))
    return targets


class BagPlayer:
    """Publishers for the topics of a bag; what goes wrong is named once, in ``notes`` and to ``say``.

    ``remaps`` takes topic names of the bag to those to publish on. ``clock`` publishes the recording times on /clock.
    ``awaited`` are topics of the bag that somebody should listen to; without, all with images.
    """

    def __init__(
        self,
        node: Node,
        bag: Bag,
        remaps: Mapping[str, str],
        clock: bool = False,
        say: Callable[[str], object] = lambda note: None,
        awaited: Collection[str] = (),
    ) -> None:
        """Create the publishers; raises StpruneError where a remapped topic is not in the bag or none can be played."""
        unknown = [name for name in remaps if name not in bag.topics]
        if unknown:
            names = ', '.join(bag.topics)
            raise StpruneError(f"topic '{unknown[0]}' to remap is not in the bag; it holds {names}")
        self.bag = bag
        self.notes: list[str] = []
        self._say = say
        self._chosen = tuple(awaited)
        self._node = node
        self._clock = node.create_publisher(Clock, '/clock', 10) if clock else None
        self._publishers: dict[str, Publisher[Any]] = {}
        self._create(remaps, [topic for topic in bag.topics.values() if not (clock and topic.name == '/clock')])

    def wait_for_subscribers(self, limit_s: float) -> bool:
        """Wait until every image topic (in a bag without images: every topic) is subscribed to; False at the limit.

        Then until nobody has joined any topic for half a second: a node subscribes to one after the other.
        """
        awaited = self._awaited()
        start = time.monotonic()
        end, said = start + limit_s, False
        counts, since = self._subscriptions(), time.monotonic()
        while not (all(counts[name] for name in awaited) and time.monotonic() > since + SETTLED_S):
            if time.monotonic() > end:
                return not self._name_the_lonely(limit_s)
            if not said and time.monotonic() > start + WAITING_S:
                said = True
                self._say_who_is_waited_for(limit_s)
            time.sleep(0.05)
            now = self._subscriptions()
            if now != counts:
                counts, since = now, time.monotonic()
        return True

    def play(self, rate: float = 1.0) -> int:
        """Publish every message once, as far apart as they were recorded divided by ``rate``; returns how many."""
        started, first, count = time.monotonic(), None, 0
        looked = any(note.startswith('nobody subscribed') for note in self.notes)
        total = sum(self.bag.topics[name].count for name in self._publishers)
        latest = 0.0
        with tqdm(total=total, unit='msg', disable=not sys.stderr.isatty(), leave=False) as bar:
            for record in self.bag.messages(list(self._publishers)):
                first = record.receive_ns if first is None else first
                due = started + (record.receive_ns - first) / 1e9 / rate
                latest = max(latest, time.monotonic() - due)
                self._sleep_until(due, record.receive_ns, rate)
                self._publishers[record.topic].publish(record.data)
                count += 1
                bar.update()
                if not looked and time.monotonic() > started + LONELY_S:
                    looked = True
                    self._name_the_lonely(LONELY_S)
        if not looked:
            self._name_the_lonely(round(time.monotonic() - started, 1))
        if latest > 0.1:
            self._note(f'this machine could not keep up: some messages went out {latest:.1f} s late')
        self._drain()
        return count

    def _say_who_is_waited_for(self, limit_s: float) -> None:
        lonely = [name for name in self._awaited() if not self._publishers[name].get_subscription_count()]
        if lonely:
            self._say(f'waiting up to {limit_s:g} s for a subscriber to {", ".join(lonely)}')

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
            self._say(note)

    def _awaited(self) -> list[str]:
        """Topics of the bag that somebody should listen to; where none were chosen nor hold images: all."""
        chosen = [name for name in self._chosen if name in self._publishers]
        images = chosen or [name for name in self._publishers if self.bag.topics[name].msgtype in IMAGES]
        return images or list(self._publishers)

    def _name_the_lonely(self, after_s: float) -> bool:
        """Say which topics nobody subscribed to, and what is subscribed to instead; whether there are any."""
        lonely = [
            self._publishers[name] for name in self._awaited() if not self._publishers[name].get_subscription_count()
        ]
        if not lonely:
            return False
        listed = ', '.join(publisher.topic_name for publisher in lonely)
        ours = {publisher.topic_name for publisher in self._publishers.values()}
        kinds = {topic_graph.type_name(publisher.msg_type) for publisher in lonely}
        graph = topic_graph.subscribed(self._node)
        near = topic_graph.nearest(
            lonely[0].topic_name, (name for name, types in graph.items() if kinds & types and name not in ours)
        )
        instead = f' (subscribed to are {", ".join(near)}: --params or --remap lead there)' if near else ''
        self._note(f'nobody subscribed to {listed} within {after_s:g} s{instead}')
        return True

    def _create(self, remaps: Mapping[str, str], topics: Iterable[Topic]) -> None:
        missing, different = [], []
        for topic in topics:
            kind = message_class(topic.msgtype)
            if kind is None:
                missing.append(f'{topic.name} ({topic.msgtype})')
                continue
            publisher = self._node.create_publisher(kind, remaps.get(topic.name, topic.name), _qos(topic))
            if topic.digest and self._digest(publisher) not in ('', topic.digest):
                different.append(f'{topic.name} ({topic.msgtype})')
                self._node.destroy_publisher(publisher)
                continue
            self._publishers[topic.name] = publisher
        if missing:
            self._note(f'not played, because their types are not installed: {", ".join(missing)}')
        if different:
            self._note(f'not played, because their types differ from those installed: {", ".join(different)}')
        if not self._publishers:
            raise StpruneError(f"nothing in bag '{self.bag.path}' can be played: {'; '.join(self.notes)}")

    def _digest(self, publisher: Publisher[Any]) -> str:
        """Type hash of our own publisher as the graph shows it, '' where the middleware has none."""
        for info in self._node.get_publishers_info_by_topic(publisher.topic_name):
            if info.node_name == self._node.get_name() and info.node_namespace == self._node.get_namespace():
                return str(info.topic_type_hash)
        return ''

    def _sleep_until(self, due: float, stamp_ns: int, rate: float) -> None:
        """Sleep in short steps, so that /clock goes on between messages."""
        while True:
            left = due - time.monotonic()
            if self._clock is not None:
                self._publish_clock(stamp_ns - max(0, round(left * rate * 1e9)))
            if left <= 0:
                return
            time.sleep(min(left, CLOCK_PERIOD_S))

    def _publish_clock(self, now_ns: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(now_ns, 10**9)
        assert self._clock is not None
        self._clock.publish(message)

    def _subscriptions(self) -> dict[str, int]:
        return {name: publisher.get_subscription_count() for name, publisher in self._publishers.items()}

    def _drain(self) -> None:
        """Give reliable readers a second for what is still on its way: leaving at once would lose it."""
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=1))


@dataclass(frozen=True, slots=True)
class Played:
    """What was played: messages, how long that took, and what was said on the way."""

    messages: int
    seconds: float
    notes: tuple[str, ...]


def play(
    path: Path,
    *,
    rate: float = 1.0,
    clock: bool = False,
    remaps: Mapping[str, str] | None = None,
    loops: int = 1,
    wait_s: float = 0.0,
    settings: Settings | None = None,
) -> Played:
    """Play the bag at ``path`` ``loops`` times; notes go to stderr.

    With ``settings`` cameras and odometry go where a node with these settings listens, unless ``remaps`` say otherwise.
    Raises StpruneError for a bad bag or where nothing in it can be played.
    """
    with Bag(path) as bag:
        inputs = inputs_of_node(bag, settings) if settings is not None else {}
        awaited = [name for name in inputs if bag.topics[name].msgtype in IMAGES]
        # Signals stay with Python: rclpy's handlers would tear the context down under a publisher.
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        node = rclpy.create_node('stprune_player', enable_rosout=False, start_parameter_services=False)
        count = 0
        try:
            player = BagPlayer(node, bag, {**inputs, **(remaps or {})}, clock, _tell, awaited)
            if wait_s > 0:
                player.wait_for_subscribers(wait_s)
            started = time.monotonic()
            for _ in range(loops):
                count += player.play(rate)
            for note in bag.notes:
                _tell(note)
        finally:
            node.destroy_node()
            rclpy.shutdown()
    return Played(count, time.monotonic() - started, (*player.notes, *bag.notes))


def _tell(note: str) -> None:
    print(f'stprune: {note}', file=sys.stderr)


def _qos(topic: Topic) -> QoSProfile:
    """Reliable, so that any subscriber can match; latched as recorded; shallow for images, which are large."""
    latched = topic.latched or topic.name.endswith('/tf_static')
    depth = 10 if topic.msgtype in IMAGES else 100
    return QoSProfile(
        depth=depth, durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
    )
