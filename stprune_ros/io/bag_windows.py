"""The one way from a bag to windows of frame sets: replay, evaluation and benchmarks read bags through it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.rig_builder import RigBuilder, rectified_cameras
from stprune_ros.core.stream import CameraRoles, SensorStream
from stprune_ros.core.transforms import StaticTransforms
from stprune_ros.core.types import Window
from stprune_ros.errors import BagError
from stprune_ros.io.bag_reader import Bag, Record, readable
from stprune_ros.io.bag_topics import LISTED, TRANSFORMS, CameraTopics, components, find_static_transforms, passed_over
from stprune_ros.io.odometry_topic import StaticFrames, find_odometry
from stprune_ros.io.topic_templates import cameras_of
from stprune_ros.settings.settings import Settings

MOVING_LOOKED_AT = 2000  # messages on /tf that are searched for what is missing on /tf_static


@dataclass(frozen=True)
class BagTopics:
    """The topics of a bag that are used: per camera image and camera_info, odometry ('' without), static transforms.

    ``notes`` say what was chosen among several, ``no_odometry`` what the bag has instead of odometry.
    """

    cameras: dict[str, CameraTopics]
    odometry: str
    transforms: list[str]
    notes: tuple[str, ...] = ()
    no_odometry: str = ''

    @classmethod
    def from_bag(cls, bag: Bag, settings: Settings) -> BagTopics:
        """Look the topics up; raises StpruneError where a camera is missing or doubtful, or named odometry is."""
        names = list(settings.cameras.names)
        if settings.cameras.rig_file and not names:
            names = list(CameraRig.from_file(settings.cameras.rig_file).ring)
        cameras = cameras_of(bag.topics, names, settings)
        images = [found.image for found in cameras.values()]
        odometry = find_odometry(bag, settings, StaticFrames(bag, settings.cameras.base_frame, images), images)
        transforms = find_static_transforms(bag.topics, images)
        return cls(cameras, odometry.name, transforms, odometry.notes, odometry.absent)

    def only(self, cameras: Collection[str]) -> BagTopics:
        """The same without the topics of other cameras."""
        return replace(self, cameras={name: topics for name, topics in self.cameras.items() if name in cameras})

    @property
    def infos(self) -> dict[str, str]:
        """Camera by camera_info topic, where there is one."""
        return {topics.info: camera for camera, topics in self.cameras.items() if topics.info}

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
    read; whoever iterates may take them out between two windows. ``transforms`` are the static ones of the bag.
    Raises StpruneError where the topics, the geometry of the ring or the roles of the cameras cannot be found, or no
    tick could have a hint for want of a critical camera's calibration.
    """

    def __init__(self, bag: Bag, settings: Settings) -> None:
        self.bag = bag
        self.settings = settings
        topics = BagTopics.from_bag(bag, settings)
        doubts: list[str] = []
        self._builder = read_calibration(bag, topics, settings, doubts)
        self.transforms = self._builder.transforms
        self.rig = find_rig(bag, topics, settings, self._builder)
        self.topics = topics.only(self.rig.ring)
        self.roles = CameraRoles.from_settings(settings, self.rig)
        self._refuse_lost_cameras()
        self.stream = SensorStream(settings, self.rig, self._builder.to_base, topics.no_odometry)
        left_out = (camera.reason for camera in self.rig.unusable)
        self.notes: list[str] = [*self.rig.notes, *left_out, *self.topics.notes, *doubts, *self._no_cameras()]
        self._infos = {} if settings.cameras.rig_file else self.topics.infos
        self._changed: set[str] = set()  # cameras whose camera_info changed while reading
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
        return [*self.topics.images, *self._infos, *filter(None, [self.topics.odometry])]

    def _take(self, record: Record) -> list[Window]:
        try:
            message = record.message()
        except BagError as error:
            self.errors.append(str(error))
            return []
        if record.topic == self.topics.odometry:
            return self.stream.add_odometry(message)
        if record.topic in self._infos:
            self._compare(self._infos[record.topic], message)
            return []
        return self.stream.add_image(self.topics.images[record.topic], message, record.receive_ns)

    def _compare(self, camera: str, info: Any) -> None:
        if camera not in self._changed and self._builder.differs(camera, info):
            self._changed.add(camera)
            self.notes.append(
                f"camera_info of camera '{camera}' changes within the bag; the first one that can be used counts"
            )

    def _refuse_lost_cameras(self) -> None:
        """The node would say so at every tick, and go on in case that calibration comes; here none will."""
        for camera in self.rig.unusable:
            if camera.name in self.roles.critical:
                raise BagError(f"critical camera '{camera.name}' is missing in every tick of this bag: {camera.reason}")

    def _no_cameras(self) -> list[str]:
        names = [name for name in passed_over(self.bag.topics) if name not in self.topics.images]
        if not names or self.settings.cameras.names or self.settings.cameras.rig_file:
            return []
        return [f"taken for no cameras: {', '.join(names)}; a camera among them must be named in 'cameras.names'"]


def read_calibration(bag: Bag, topics: BagTopics, settings: Settings, doubts: list[str] | None = None) -> RigBuilder:
    """All static transforms of a bag, so that the last one counts, and of each camera the first usable camera_info.

    ``doubts`` grows by sentences about what was left out.
    """
    doubts = [] if doubts is None else doubts
    images = {camera: found.image for camera, found in topics.cameras.items()}
    builder = RigBuilder(settings.cameras, rectified_cameras(settings.cameras, images))
    for topic in topics.transforms:
        messages = list(readable(bag.messages([topic]), doubts))
        doubts += _contradictions(builder.transforms, topic, messages)
        for message in messages:
            builder.add_transforms(message)
    wanted = set() if settings.cameras.rig_file else set(topics.infos.values())
    if wanted:
        for record in bag.messages(topics.infos):
            camera = topics.infos[record.topic]
            if camera in wanted:
                for message in readable([record], doubts):
                    builder.add_camera_info(camera, message)
                wanted -= {camera} if builder.has_optics(camera) else set()
            if not wanted:
                break
    return builder


def _contradictions(known: StaticTransforms, topic: str, messages: Sequence[Any]) -> list[str]:
    """A sentence where the transforms of one topic put frames elsewhere than those of the topics before."""
    found = StaticTransforms()
    for message in messages:
        found.add(message)
    frames = known.contradicted_by(found)
    if not frames:
        return []
    listed = ', '.join(f"'{frame}'" for frame in frames[:LISTED]) + (', ...' if len(frames) > LISTED else '')
    return [
        f"'{topic}' puts {listed} elsewhere than another tf_static of the bag does: '{topic}' counts; record one robot"
        ' only, or give its frames a prefix'
    ]


def find_rig(bag: Bag, topics: BagTopics, settings: Settings, builder: RigBuilder | None = None) -> CameraRig:
    """The ring of the bag's cameras from the rig file or from the bag, as the node has it once it has waited.

    Cameras without usable calibration stand beside the ring. Raises StpruneError with what is missing where no camera
    is left, or where cameras.calibration_wait_ms says to wait for all of them.
    """
    if settings.cameras.rig_file:
        named = {*settings.cameras.names, *settings.cameras.critical, settings.cameras.anchor}
        rig = CameraRig.from_file(settings.cameras.rig_file, named)
        known = rig.cameras
        unknown = [camera for camera in topics.cameras if camera not in known]
        if unknown:
            raise BagError(
                f"rig file '{settings.cameras.rig_file}' has no camera '{unknown[0]}'; it has {', '.join(known)}"
            )
        return CameraRig((known[camera] for camera in topics.cameras), rig.notes)
    builder = builder or read_calibration(bag, topics, settings)
    if builder.missing(list(topics.cameras)):
        moving = [t.name for t in bag.topics.values() if t.msgtype == TRANSFORMS and components(t.name)[-1] == 'tf']
        for record in islice(bag.messages(moving), MOVING_LOOKED_AT) if moving else ():
            builder.transforms.add_moving(record.message())
    return builder.usable(list(topics.cameras), waited=bool(settings.cameras.calibration_wait_ms))
