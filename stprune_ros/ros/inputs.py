"""What the node listens to: images, camera_info, odometry and transforms, and what is wrong where nothing comes.

Which topics these are stands in settings/topic_names.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.event_handler import (
    QoSMessageLostInfo,
    QoSRequestedIncompatibleQoSInfo,
    SubscriptionEventCallbacks,
    UnsupportedEventTypeError,
)
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_policy_name_from_kind
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from stprune_ros.core.rig import CameraRig
from stprune_ros.errors import StpruneError
from stprune_ros.ros import qos, topic_graph
from stprune_ros.ros.guarded import guarded
from stprune_ros.settings.settings import Settings
from stprune_ros.settings.topic_names import (
    camera_info_template,
    expand,
    image_template,
    odometry_topic,
    unfit_name,
)

QUIET_S = 5.0  # an input without a message for so long is looked at
Publisher = bytes  # its id, b'' where rclpy does not tell (before Kilted)
IMAGE, CAMERA_INFO, ODOMETRY = 'image', 'camera_info', 'odometry'  # the parameters topics.* of the same name


@dataclass
class _Input:
    """One topic: what it carries (a parameter of ``topics``), for which camera, and when something came last."""

    what: str
    camera: str
    topic: str  # as remapped
    kind: str
    profile: QoSProfile
    callback: Callable[[Any, Publisher], None]
    heard: float  # time.monotonic() seconds; before the first message: when it was subscribed to
    ever: bool = False
    asked: bool = False  # for what the publisher keeps
    told: bool = False  # who published the last message


class Inputs:
    """The subscriptions of a node, from `calibration` and `sensors` until `close`.

    ``warn`` takes a sentence to log. ``lost`` counts the images that DDS lost by camera, None where it does not tell.
    """

    def __init__(self, node: Node, settings: Settings, cameras: Sequence[str], warn: Callable[[str], object]) -> None:
        self._node, self._settings, self._cameras, self._warn = node, settings, tuple(cameras), warn
        self.lost: dict[str, int] | None = {}
        self._subscriptions: list[Subscription[Any]] = []
        self._inputs: list[_Input] = []
        self._moving: Subscription[Any] | None = None

    def calibration(
        self, on_camera_info: Callable[[str, CameraInfo], None], on_moving: Callable[[TFMessage], None]
    ) -> None:
        """Listen to camera_info; `fetch_kept` then looks for what was sent before.

        And, until `forget_moving`, to /tf: only to say what comes there and should come on /tf_static.
        """
        template = camera_info_template(self._settings.topics)
        for camera in self._cameras:
            topic = expand(template, camera)
            self._listen(
                CAMERA_INFO, camera, CameraInfo, topic, partial(_passed_on, on_camera_info, camera), qos.SENSOR
            )
        self._moving = self._subscribe(TFMessage, '/tf', on_moving, qos.SENSOR)

    def transforms(self, on_transforms: Callable[[TFMessage], None]) -> None:
        """Listen to static transforms: where the cameras are, and the frame that odometry speaks of."""
        self._subscribe(TFMessage, '/tf_static', on_transforms, qos.TF_STATIC)

    def forget_moving(self) -> None:
        """Stop listening to /tf."""
        if self._moving is not None:
            self._subscriptions.remove(self._moving)
            self._node.destroy_subscription(self._moving)
            self._moving = None

    def sensors(
        self, on_image: Callable[[str, Any, Publisher], None], on_odometry: Callable[[Odometry, Publisher], None]
    ) -> None:
        """Listen to images and odometry, and to who sent them."""
        transport = self._settings.cameras.transport
        kind = Image if transport == 'raw' else CompressedImage
        template = image_template(self._settings.topics, transport)
        for camera in self._cameras:
            self._listen(IMAGE, camera, kind, expand(template, camera), partial(on_image, camera), qos.SENSOR)
        self._listen(ODOMETRY, '', Odometry, odometry_topic(self._settings.topics), on_odometry, qos.ODOMETRY)

    def fetch_kept(self) -> None:
        """Subscribe once more where camera_info was sent once and is kept for those who ask (latched).

        Asking everywhere would do harm: a driver that keeps nothing warns of every reader that asks.
        """
        for found in self._inputs:
            if found.what != CAMERA_INFO or found.ever or found.asked:
                continue
            offers = [info.qos_profile for info in self._node.get_publishers_info_by_topic(found.topic)]
            if any(topic_graph.unfit_policy(offer, qos.LATCHED) is None for offer in offers):
                found.asked = True
                self._subscribe(CameraInfo, found.topic, partial(self._heard, found, found.callback), qos.LATCHED)

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions, self._inputs, self._moving = [], [], None

    def unheard(self, now: float) -> dict[tuple[str, str], str]:
        """A sentence for each input that was quiet for QUIET_S although it cannot but be: by what and camera.

        ``now`` is time.monotonic(). Nobody publishes it, or not as this type, or with a QoS that does not match.
        camera_info counts as heard once and for all.
        """
        quiet = [
            found
            for found in self._inputs
            if now - found.heard > QUIET_S and not (found.ever and found.what == CAMERA_INFO)
        ]
        if not quiet:
            return {}
        graph, taken = topic_graph.published(self._node), [found.topic for found in self._inputs]
        sentences = {
            (found.what, found.camera): topic_graph.nobody_publishes(
                found.topic, found.kind, f'topics.{found.what}', graph, taken
            )
            or topic_graph.unfit_qos(found.topic, found.profile, self._node, found.kind)
            for found in quiet
        }
        return {key: sentence for key, sentence in sentences.items() if sentence is not None}

    def untold(self) -> dict[tuple[str, str], str]:
        """A sentence for each input that several publish where rclpy does not tell whose a message is.

        By what and camera, as in `unheard`; elsewhere `core.publisher_turns` judges the messages themselves.
        """
        doubtful = [one for one in self._inputs if one.ever and not one.told and one.what != CAMERA_INFO]
        found = {
            (one.what, one.camera): topic_graph.several_publish(one.topic, self._node, one.kind) for one in doubtful
        }
        return {key: sentence for key, sentence in found.items() if sentence is not None}

    def _listen(
        self,
        what: str,
        camera: str,
        kind: Any,
        topic: str,
        callback: Callable[[Any, Publisher], None],
        profile: QoSProfile,
    ) -> _Input:
        profile, resolved = qos.copy_of(profile), self._node.resolve_topic_name(topic)
        found = _Input(what, camera, resolved, topic_graph.type_name(kind), profile, callback, time.monotonic())
        safe = guarded(partial(self._heard, found, callback), f"a message on '{resolved}'", self._warn)
        unfit = partial(self._unfit, resolved)

        def subscribe(events: SubscriptionEventCallbacks) -> Subscription[Any]:
            options = {'event_callbacks': events, 'qos_overriding_options': qos.overridable()}
            return self._node.create_subscription(kind, topic, safe, profile, **options)

        events = SubscriptionEventCallbacks(incompatible_qos=unfit)
        if what == IMAGE and self.lost is not None:
            events.message_lost = partial(self._count_lost, camera)
        try:
            subscription = subscribe(events)
        except UnsupportedEventTypeError:  # not every middleware tells
            self.lost = None
            subscription = subscribe(SubscriptionEventCallbacks(incompatible_qos=unfit))
        self._subscriptions.append(subscription)
        self._inputs.append(found)
        return found

    def _subscribe(
        self, kind: Any, topic: str, callback: Callable[[Any], None], profile: QoSProfile
    ) -> Subscription[Any]:
        events = SubscriptionEventCallbacks(use_default_callbacks=False)
        safe = guarded(callback, f"a message on '{topic}'", self._warn)
        subscription = self._node.create_subscription(kind, topic, safe, profile, event_callbacks=events)
        self._subscriptions.append(subscription)
        return subscription

    @staticmethod
    def _heard(
        found: _Input, callback: Callable[[Any, Publisher], None], message: Any, info: Mapping[str, Any]
    ) -> None:
        publisher = (info.get('publisher_gid') or {}).get('data', b'')
        found.heard, found.ever, found.told = time.monotonic(), True, bool(publisher)
        callback(message, publisher)

    def _count_lost(self, camera: str, event: QoSMessageLostInfo) -> None:
        if self.lost is not None:
            self.lost[camera] = event.total_count

    def _unfit(self, topic: str, event: QoSRequestedIncompatibleQoSInfo) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        self._warn(topic_graph.unfit_sentence(topic, policy))


def _passed_on(callback: Callable[[str, Any], None], camera: str, message: Any, publisher: Publisher) -> None:
    callback(camera, message)


def camera_names(settings: Settings, rig: CameraRig | None) -> tuple[str, ...]:
    """The cameras to subscribe to: ``cameras.names``, else all of the rig file. Raises StpruneError."""
    names = tuple(settings.cameras.names) or (rig.ring if rig is not None else ())
    if not names:
        raise StpruneError("parameter 'cameras.names' is empty; name the cameras whose topics to subscribe to")
    templates = [image_template(settings.topics, settings.cameras.transport)]
    templates += [camera_info_template(settings.topics)] if rig is None else []
    for name in names:
        unfit = unfit_name(name, templates)
        if unfit is not None:
            raise StpruneError(unfit)
        if rig is not None and name not in rig.cameras:
            raise StpruneError(f"camera '{name}' in 'cameras.names' is not in the rig file: {', '.join(rig.ring)}")
    return names
