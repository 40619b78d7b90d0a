"""Finds the cameras, the odometry and the static transforms of a bag from topic names and types alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stprune_ros.errors import StpruneError
from stprune_ros.io.bag_reader import Topic

RAW, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO, ODOMETRY, TRANSFORMS = 'sensor_msgs/msg/CameraInfo', 'nav_msgs/msg/Odometry', 'tf2_msgs/msg/TFMessage'
# Path components that say what a topic carries, not which camera it comes from.
GENERIC = {
    'camera',
    'cameras',
    'sensing',
    'sensors',
    'image',
    'image_raw',
    'image_rect',
    'image_color',
    'image_rect_color',
    'compressed',
    'raw',
}


@dataclass(frozen=True)
class CameraTopics:
    """Where one camera is recorded; ``info`` is '' where the bag has no CameraInfo for it."""

    image: str
    info: str = ''


def find_cameras(
    topics: Mapping[str, Topic], names: Sequence[str] = (), transport: str = 'compressed'
) -> dict[str, CameraTopics]:
    """Image and CameraInfo topic of each camera, by camera name, sorted by name (or in the order of ``names``).

    A given name is looked for as a component of the topic's path. Without names every image topic is a camera, named by
    the components that tell it from the others. Where a camera was recorded twice, ``transport`` ('compressed' or
    'raw') is preferred. Raises StpruneError where there is no camera, a name fits no topic, or fits several.
    """
    images = [
        topic.name
        for topic in topics.values()
        if topic.msgtype in (RAW, COMPRESSED) and 'compressedDepth' not in topic.name and topic.count
    ]
    if not images:
        others = ', '.join(f'{topic.name} ({topic.msgtype})' for topic in topics.values()) or 'nothing'
        raise StpruneError(f'the bag has no camera: no topic carries {RAW} or {COMPRESSED}, only {others}')
    chosen = _one_per_source(images, topics, transport)
    named = {name: _of_name(name, chosen) for name in names} if names else _distinguish(chosen)
    infos = [topic.name for topic in topics.values() if topic.msgtype == CAMERA_INFO]
    return {name: CameraTopics(image, _info_of(name, image, infos)) for name, image in named.items()}


def find_odometry(topics: Mapping[str, Topic]) -> str:
    """The first Odometry topic by name, '' if there is none."""
    return min((topic.name for topic in topics.values() if topic.msgtype == ODOMETRY), default='')


def find_static_transforms(topics: Mapping[str, Topic]) -> list[str]:
    """Topics with transforms that never change: ``tf_static`` in any namespace."""
    return sorted(
        topic.name for topic in topics.values() if topic.msgtype == TRANSFORMS and parts(topic.name)[-1] == 'tf_static'
    )


def parts(name: str) -> list[str]:
    """Components of a topic name."""
    return [part for part in name.split('/') if part]


def base(name: str) -> str:
    """The image topic to which a transport's topic belongs: image_transport appends '/compressed'."""
    return name.removesuffix('/compressed')


def own_parts(name: str) -> tuple[str, ...]:
    """The components of an image topic that say which camera it is."""
    return tuple(part for part in parts(name) if part not in GENERIC) or tuple(parts(base(name))[:1])


def _one_per_source(images: list[str], topics: Mapping[str, Topic], transport: str) -> list[str]:
    """Keep one topic of each camera where it was recorded raw and compressed, or raw and rectified."""
    preferred = COMPRESSED if transport == 'compressed' else RAW
    chosen: dict[tuple[str, ...], str] = {}
    for name in sorted(images, key=lambda name: (topics[name].msgtype != preferred, name)):
        chosen.setdefault(own_parts(name), name)
    return sorted(chosen.values())


def _of_name(name: str, images: list[str]) -> str:
    found = [image for image in images if name in parts(image)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise StpruneError(f"camera '{name}' is not in the bag; its image topics are {', '.join(images)}")
    raise StpruneError(
        f"camera '{name}' fits {len(found)} image topics of the bag ({', '.join(found)}); give a name that only one has"
    )


def _distinguish(images: list[str]) -> dict[str, str]:
    common = set.intersection(*(set(own_parts(image)) for image in images)) if len(images) > 1 else set()
    names: dict[str, str] = {}
    for image in images:
        name = '_'.join(part for part in own_parts(image) if part not in common)
        if name in names:
            raise StpruneError(
                f"the image topics '{names[name]}' and '{image}' both look like camera '{name}'; give 'cameras.names'"
            )
        names[name] = image
    return names


def _info_of(camera: str, image: str, infos: list[str]) -> str:
    sibling = f'{base(image).rpartition("/")[0]}/camera_info'
    if sibling in infos:
        return sibling
    named = [info for info in infos if camera in parts(info)]
    return named[0] if len(named) == 1 else ''
