"""What the node publishes: each answer as a hint and a description, checked for its age on the way out."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable
from threading import Lock
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage

from stprune_ros.core.types import Answer, Status
from stprune_ros.errors import StpruneError, one_line
from stprune_ros.io import drawing, messages
from stprune_ros.ros import qos
from stprune_ros.settings.settings import Settings


class Outputs:
    """The node's publishers, for any thread; ``warn`` gets sentences to log, ``latency_s`` is the last message's."""

    def __init__(self, node: Node, warn: Callable[[str], None]) -> None:
        self.latency_s = math.nan
        self._types = messages.ros_types()
        self._clock = node.get_clock()
        self._warn = warn
        self._lock = Lock()
        self._last = time.monotonic()
        self._hints = node.create_publisher(self._types.planning_hint, '~/output/planning_hint', qos.OUTPUT)
        self._texts = node.create_publisher(self._types.scene_description, '~/output/scene_description', qos.OUTPUT)
        self._mosaics = node.create_publisher(CompressedImage, '~/debug/kept_tokens/image/compressed', qos.DEBUG)

    @property
    def seconds_since_publish(self) -> float:
        """Seconds since the last message."""
        return time.monotonic() - self._last

    def hint(self, answer: Answer, settings: Settings) -> None:
        """Publish the hint of an answer."""
        self._publish(self._hints, messages.planning_hint, answer, settings)

    def description(self, answer: Answer, settings: Settings) -> None:
        """Publish the description of an answer, unless descriptions are switched off."""
        if settings.inference.describe:
            self._publish(self._texts, messages.scene_description, answer, settings)

    @property
    def mosaic_wanted(self) -> bool:
        """Whether anyone looks at the mosaic."""
        return bool(self._mosaics.get_subscription_count())

    def mosaic(self, answer: Answer, settings: Settings) -> None:
        """Publish what the model saw; the pictures are those in the answer's views."""
        images = {view.camera: view.image for view in answer.views if view.tokens_full and view.image is not None}
        picture = drawing.encode_jpeg(drawing.mosaic(answer.views, images), drawing.MOSAIC_QUALITY)
        message = CompressedImage(format='jpeg', data=array('B', picture))
        message.header = messages.header(answer, settings, self._types)
        self._mosaics.publish(message)

    def _publish(self, publisher: Any, convert: Callable[..., Any], answer: Answer, settings: Settings) -> None:
        now_ns = self._clock.now().nanoseconds
        latency_s = (now_ns - answer.stamp_ns) / 1e9 if now_ns and answer.stamp_ns else math.nan
        current = messages.expire(answer, now_ns, settings)
        if Status.STALE in (current.hint.status, current.description.status):
            self._warn(
                f'answers come {latency_s:.1f} s after their images and go out as STALE;'
                ' check the clocks (use_sim_time with a bag), or raise output.valid_for_ms'
            )
        message = convert(current, settings, self._types, latency_s)
        with self._lock:
            publisher.publish(message)
            self.latency_s, self._last = latency_s, time.monotonic()


def failure_sentence(error: Exception) -> str:
    """What to say about an exception from inference."""
    return (
        str(error)
        if isinstance(error, StpruneError)
        else f'inference failed with {type(error).__name__}: {one_line(error)}'
    )
