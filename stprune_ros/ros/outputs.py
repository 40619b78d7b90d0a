"""What the node publishes: each answer as a hint and a description, checked for its age on the way out.

On a topic stamps and sequence numbers never go back, but where the stamps of the images do.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from threading import Event, Lock
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Answer, Provenance, Status
from stprune_ros.errors import StpruneError, one_line
from stprune_ros.io import drawing, messages
from stprune_ros.ros import qos
from stprune_ros.ros.journal import Journal
from stprune_ros.ros.ros_time import RosTime
from stprune_ros.settings.settings import Settings

AGE = 'age'  # a source of the journal: why answers are STALE


@dataclass(slots=True)
class _Topic:
    """One output, and what was said there last."""

    publisher: Any
    convert: Callable[..., Any]
    count: int = 0  # messages so far
    stamp_ns: int = 0  # of the last set that was answered, as is the sequence number
    sequence: int = 0
    published: float = field(default_factory=time.monotonic)


class Outputs:
    """The node's publishers, for any thread.

    ``latency_s`` is the age of the last answer when it went out, by the node's clock; NaN where that did not run.
    """

    def __init__(self, node: Node, ros_time: RosTime, journal: Journal) -> None:
        self.latency_s = math.nan
        self._types = messages.ros_types()
        self._time = ros_time
        self._journal = journal
        self._lock = Lock()
        self._first_sequence = 0  # of the stream whose answers come
        hints = node.create_publisher(self._types.planning_hint, '~/output/planning_hint', qos.OUTPUT)
        texts = node.create_publisher(self._types.scene_description, '~/output/scene_description', qos.OUTPUT)
        self._hints = _Topic(hints, messages.planning_hint)
        self._texts = _Topic(texts, messages.scene_description)
        self._pictures = node.create_publisher(Image, '~/debug/kept_tokens/image', qos.DEBUG)
        self._jpegs = node.create_publisher(CompressedImage, '~/debug/kept_tokens/image/compressed', qos.DEBUG)

    def new_stream(self) -> None:
        """Answers of a stream that numbers its sets from 0 anew will come: they go on where the last one ended."""
        with self._lock:
            self._first_sequence = max(self._hints.sequence, self._texts.sequence) + bool(self._hints.stamp_ns)

    def hint(self, answer: Answer, settings: Settings, unless: Event | None = None) -> Answer | None:
        """Publish the hint of an answer; returns the answer as it went out, None where ``unless`` was set before."""
        return self._answer(self._hints, answer, settings, unless)

    def description(self, answer: Answer, settings: Settings, unless: Event | None = None) -> Answer | None:
        """`hint` for the description of an answer; nothing goes out where descriptions are switched off."""
        return self._answer(self._texts, answer, settings, unless) if settings.inference.describe else None

    def numbered(self, answer: Answer) -> Answer:
        """The answer with its sequence number as topics have it."""
        return replace(answer, sequence=self._first_sequence + answer.sequence)

    def heartbeat(
        self,
        settings: Settings,
        provenance: Provenance,
        notes: Sequence[str],
        hint: Status = Status.NO_HINT,
        description: Status = Status.NO_HINT,
        *,
        at_once: bool = False,
    ) -> None:
        """Say these statuses where nothing went out for ``output.heartbeat_ms``, or ``at_once``.

        A heartbeat has the stamp and the sequence number of the last set that was answered on its topic (0 before the
        first), so that whoever drops what is older than the newest drops no answer.
        """
        limit_s = 0.0 if at_once else settings.output.heartbeat_ms / 1e3
        topics = [(self._hints, hint)] + [(self._texts, description)] * settings.inference.describe
        with self._lock:
            for topic, status in topics:
                if time.monotonic() - topic.published >= limit_s:
                    answer = Answer.without_result(status, None, provenance, notes=notes)
                    answer = replace(answer, stamp_ns=topic.stamp_ns, sequence=topic.sequence)
                    self._send(topic, answer, settings, math.nan)

    def flush(self, timeout_s: float) -> None:
        """Wait until readers have what was said last, at most ``timeout_s`` per topic."""
        for topic in (self._hints, self._texts):
            topic.publisher.wait_for_all_acked(Duration(seconds=timeout_s))

    @property
    def picture_wanted(self) -> bool:
        """Whether anyone looks at the picture of the ring."""
        return bool(self._pictures.get_subscription_count() or self._jpegs.get_subscription_count())

    def picture(self, answer: Answer, rig: CameraRig, settings: Settings) -> None:
        """Publish what the model saw, on those topics where somebody looks; the images are in the answer's views."""
        picture = drawing.ring_picture(answer, drawing.overlap_columns(rig, answer.views))
        header, (height, width) = messages.header(answer, settings, self._types), picture.shape[:2]
        if self._jpegs.get_subscription_count():
            data = array('B', drawing.encode_jpeg(picture))
            self._jpegs.publish(CompressedImage(header=header, format='jpeg', data=data))
        if self._pictures.get_subscription_count():
            data = array('B', picture.tobytes())
            image = Image(header=header, height=height, width=width, encoding='rgb8', step=3 * width, data=data)
            self._pictures.publish(image)

    def _answer(self, topic: _Topic, answer: Answer, settings: Settings, unless: Event | None) -> Answer | None:
        with self._lock:  # also for the event: what was cancelled must not go out behind what is said of it
            if unless is not None and unless.is_set():
                return None
            now_ns, fault = self._time.now_ns(), self._time.fault
            latency_s = (now_ns - answer.stamp_ns) / 1e9 if now_ns and answer.stamp_ns else math.nan
            current = self.numbered(answer)
            if fault or not messages.is_fresh(answer.stamp_ns, now_ns, settings):
                current = messages.expired(current)
            self._journal.holds(AGE, _stale_because(fault, latency_s) if _is_stale(current) else ())
            topic.stamp_ns, topic.sequence = current.stamp_ns, current.sequence
            self._send(topic, current, settings, latency_s)
            self.latency_s = latency_s
        return current

    def _send(self, topic: _Topic, answer: Answer, settings: Settings, latency_s: float) -> None:
        topic.publisher.publish(topic.convert(answer, settings, self._types, latency_s, topic.count + 1))
        topic.count, topic.published = topic.count + 1, time.monotonic()


def _is_stale(answer: Answer) -> bool:
    return Status.STALE in (answer.hint.status, answer.description.status)


def _stale_because(fault: str, latency_s: float) -> list[str]:
    """What to say about it: one sentence."""
    if fault:
        return [f'{fault}; answers go out as STALE']
    if latency_s < 0:
        return [
            f'the stamps of the images are {-latency_s:.1f} s ahead of the clock, and answers go out as STALE; check'
            ' the clocks of cameras and node (use_sim_time with a bag), or raise output.max_ahead_ms'
        ]
    return [
        f'answers come {latency_s:.1f} s after their images and go out as STALE;'
        ' check the clocks (use_sim_time with a bag), lower pruning.keep_ratio where the machine is too slow, or raise'
        ' output.valid_for_ms'
    ]


def failure_sentence(error: BaseException) -> str:
    """What to say about an exception from inference."""
    return (
        str(error)
        if isinstance(error, StpruneError)
        else f'inference failed with {type(error).__name__}: {one_line(error)}'
    )
