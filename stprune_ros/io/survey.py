"""What a recording or a running vehicle shows of its rig: topics, calibration, transforms, stamps."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from stprune_ros.core.stamps import stamp_of
from stprune_ros.errors import BagError
from stprune_ros.io.bag_reader import Bag, Topic
from stprune_ros.io.bag_topics import (
    CAMERA_INFO,
    COMPRESSED,
    ODOMETRY,
    RAW,
    TRANSFORMS,
    components,
    find_static_transforms,
    passed_over,
)

MAX_STAMPS = 200  # per image topic: enough to measure trigger offsets
MAX_ODOMETRY = 50  # per odometry topic
MAX_MOVING = 500  # on /tf: only to say of a missing transform that it comes there


@dataclass
class RigSurvey:
    """Messages and stamps by topic; messages are duck-typed, rclpy's or a bag's.

    ``stamps`` holds the first acquisition stamps of each image topic in ns, ``odometry`` the first messages of each
    odometry topic, ``transforms`` all TFMessages with static transforms in the order in which they count,
    ``moving`` the first of /tf.
    """

    topics: dict[str, Topic] = field(default_factory=dict)
    camera_infos: dict[str, Any] = field(default_factory=dict)
    transforms: list[Any] = field(default_factory=list)
    moving: list[Any] = field(default_factory=list)
    stamps: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    odometry: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def add(self, topic: str, msgtype: str, message: Any) -> None:
        """Take one message; those of other types are left alone."""
        if msgtype in (RAW, COMPRESSED) and len(self.stamps[topic]) < MAX_STAMPS:
            self.stamps[topic].append(stamp_of(message.header))
        elif msgtype == CAMERA_INFO:
            self.camera_infos[topic] = message
        elif msgtype == ODOMETRY and len(self.odometry[topic]) < MAX_ODOMETRY:
            self.odometry[topic].append(message)
        elif msgtype == TRANSFORMS and components(topic)[-1] == 'tf' and len(self.moving) < MAX_MOVING:
            self.moving.append(message)

    @property
    def complete(self) -> bool:
        """Whether every image topic has as many stamps as are ever looked at."""
        images = [topic.name for topic in self.topics.values() if topic.msgtype in (RAW, COMPRESSED) and topic.count]
        return bool(images) and all(len(self.stamps.get(topic, ())) >= MAX_STAMPS for topic in images)


def survey_bag(bag: Bag) -> RigSurvey:
    """Read what a bag shows of its rig: its beginning, and every static transform."""
    survey = RigSurvey(dict(bag.topics))
    images = [topic.name for topic in bag.topics.values() if topic.msgtype in (RAW, COMPRESSED) and topic.count]
    others = passed_over(bag.topics)
    # Topic by topic, as replay does: of several robots that of the cameras comes last, and counts.
    for name in find_static_transforms(bag.topics, [image for image in images if image not in others]):
        for record in bag.messages([name]):
            with suppress(BagError):  # replay names it
                survey.transforms.append(record.message())
    types = (RAW, COMPRESSED, CAMERA_INFO, ODOMETRY)
    moving = [t.name for t in bag.topics.values() if t.msgtype == TRANSFORMS and components(t.name)[-1] == 'tf']
    wanted = [*(topic.name for topic in bag.topics.values() if topic.msgtype in types), *moving]
    for record in bag.messages(wanted or ['']):
        try:
            survey.add(record.topic, record.msgtype, record.message())
        except BagError:
            continue  # a broken message says nothing about the rig; replay counts it
        if survey.complete:
            break
    return survey
