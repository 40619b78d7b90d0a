"""The one way from a bag to windows of frame sets: replay, evaluation and benchmarks read bags through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from stprune_ros.core.rig import CameraRig, RigBuilder
from stprune_ros.core.stream import CameraRoles, SensorStream
from stprune_ros.core.types import Window
from stprune_ros.errors import BagError
from stprune_ros.io.bag_reader import Bag, Record
from stprune_ros.io.bag_topics import (
    ODOMETRY,
    CameraTopics,
    find_cameras,
    find_odometry,
    find_static_transforms,
    passed_over,
)
from stprune_ros.settings.settings import Settings


@dataclass(frozen=True)
class BagTopics:
    """The topics of a bag that are used: per camera image and camera_info, odometry ('' without), static transforms."""

    cameras: dict[str, CameraTopics]
    odometry: str
    transforms: list[str]

    @classmethod
    def from_bag(cls, bag: Bag, settings: Settings) -> BagTopics:
        """Look the topics up; raises StpruneError where a camera is missing or doubtful."""
        names = list(settings.cameras.names)
        if settings.cameras.rig_file and not names:
            names = list(CameraRig.from_file(settings.cameras.rig_file).ring)
        cameras = find_cameras(bag.topics, names, settings.cameras.transport)
        return cls(cameras, find_odometry(bag.topics), find_static_transforms(bag.topics))

    @property
    def images(self) -> dict[str, str]:
        """Camera by image topic."""
        return {topics.image: camera for camera, topics in self.cameras.items()}

    def summary(self) -> dict[str, Any]:
        """The topics as summary.json names them."""
        return {'images': {camera: topics.image for camera, topics in self.cameras.items()}, 'odometry': self.odometry}


class BagWindows:
    """What the model would see at each tick of a bag.

    ``notes`` grows while the bag is read with sentences about its content, ``errors`` with messages that could not be
    read; whoever iterates may take them out between two windows.
    Raises StpruneError where the topics, the geometry of the ring or the roles of the cameras cannot be found.
    """

    def __init__(self, bag: Bag, settings: Settings) -> None:
        self.bag = bag
        self.settings = settings
        self.topics = BagTopics.from_bag(bag, settings)
        self.rig = find_rig(bag, self.topics, settings)
        self.roles = CameraRoles.from_settings(settings, self.rig)
        self.stream = SensorStream(settings, self.rig)
        self.notes: list[str] = [*self._other_odometry(), *self._no_cameras()]
        self.errors: list[str] = []

    @property
    def message_count(self) -> int:
        """Messages that will be read."""
        return sum(self.bag.topics[topic].count for topic in self._wanted())

    def read(self, on_message: Callable[[], object] = lambda: None) -> Iterator[Window]:
        """The windows in order; ``on_message`` is called after each message. May be called once."""
        for record in self.bag.messages(self._wanted()):
            yield from self._take(record)
            self.notes += self.stream.take_notes()
            on_message()
        yield from self.stream.finish()
        self.notes += [*self.stream.take_notes(), *self.bag.notes]

    def _wanted(self) -> list[str]:
        return [*self.topics.images, *filter(None, [self.topics.odometry])]

    def _take(self, record: Record) -> list[Window]:
        try:
            message = record.message()
        except BagError as error:
            self.errors.append(str(error))
            return []
        if record.topic == self.topics.odometry:
            return self.stream.add_odometry(message)
        return self.stream.add_image(self.topics.images[record.topic], message)

    def _no_cameras(self) -> list[str]:
        names = [name for name in passed_over(self.bag.topics) if name not in self.topics.images]
        if not names or self.settings.cameras.names or self.settings.cameras.rig_file:
            return []
        return [f"taken for no cameras: {', '.join(names)}; a camera among them must be named in 'cameras.names'"]

    def _other_odometry(self) -> list[str]:
        found = [topic.name for topic in self.bag.topics.values() if topic.msgtype == ODOMETRY]
        others = [name for name in found if name != self.topics.odometry]
        return [f"odometry is read from '{self.topics.odometry}', not from {', '.join(others)}"] if others else []


def find_rig(bag: Bag, topics: BagTopics, settings: Settings) -> CameraRig:
    """The ring of the bag's cameras from the rig file or from the bag; StpruneError with what is missing."""
    if settings.cameras.rig_file:
        known = CameraRig.from_file(settings.cameras.rig_file).cameras
        unknown = [camera for camera in topics.cameras if camera not in known]
        if unknown:
            raise BagError(
                f"rig file '{settings.cameras.rig_file}' has no camera '{unknown[0]}'; it has {', '.join(known)}"
            )
        return CameraRig(known[camera] for camera in topics.cameras)
    builder = RigBuilder(settings.cameras.base_frame)
    infos = {found.info: camera for camera, found in topics.cameras.items() if found.info}
    for record in bag.messages([*infos, *topics.transforms]):
        if record.topic in infos:
            builder.add_camera_info(infos[record.topic], record.message())
        else:
            builder.add_transforms(record.message())
        if not builder.missing(list(topics.cameras)):
            break
    return builder.build(list(topics.cameras))
