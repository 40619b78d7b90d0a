"""Find the cameras, the odometry and the static transforms of a bag by topic names and types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stprune_ros.errors import BagError
from stprune_ros.io.bag_reader import Topic

RAW, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO, ODOMETRY, TRANSFORMS = 'sensor_msgs/msg/CameraInfo', 'nav_msgs/msg/Odometry', 'tf2_msgs/msg/TFMessage'
# Path components that say what a topic carries, not which camera it comes from.
GENERIC_COMPONENTS = {
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
    """Image and CameraInfo topic of one camera; ``info`` is '' where the bag has no CameraInfo for it."""

    image: str
    info: str = ''


def find_cameras(
    topics: Mapping[str, Topic], names: Sequence[str] = (), transport: str = 'compressed'
) -> dict[str, CameraTopics]:
    """Image and CameraInfo topic of each camera, by camera name, sorted by name (or in the order of ``names``).

    A given name must be a component of the topic's path. Without names every image topic is a camera, named by the
    components that tell it from the others. Where a camera was recorded twice, ``transport`` ('compressed' or 'raw') is
    preferred. Raises BagError if there is no camera, or a name fits no topic or several.
    """
    images = [
        topic.name
        for topic in topics.values()
        if topic.msgtype in (RAW, COMPRESSED) and 'compressedDepth' not in topic.name and topic.count
    ]
    if not images:
        others = ', '.join(f'{topic.name} ({topic.msgtype})' for topic in topics.values()) or 'nothing'
        raise BagError(f'the bag has no camera: no topic carries {RAW} or {COMPRESSED}, only {others}')
    chosen = _one_topic_per_camera(images, topics, transport)
    named = {name: _topic_of_camera(name, chosen) for name in names} if names else _name_cameras(chosen)
    infos = [topic.name for topic in topics.values() if topic.msgtype == CAMERA_INFO]
    return {name: CameraTopics(image, _camera_info_of(name, image, infos)) for name, image in named.items()}


def find_static_transforms(topics: Mapping[str, Topic]) -> list[str]:
    """Topics with static transforms, sorted by name: ``tf_static`` in any namespace."""
    transforms = [topic.name for topic in topics.values() if topic.msgtype == TRANSFORMS]
    return sorted(topic for topic in transforms if components(topic)[-1] == 'tf_static')


def components(topic: str) -> list[str]:
    """Components of a topic name."""
    return [component for component in topic.split('/') if component]


def base_topic(topic: str) -> str:
    """The image topic that a transport's topic belongs to: image_transport appends '/compressed'."""
    return topic.removesuffix('/compressed')


def identifying_components(topic: str) -> tuple[str, ...]:
    """The components of an image topic that say which camera it is."""
    own = tuple(component for component in components(topic) if component not in GENERIC_COMPONENTS)
    return own or tuple(components(base_topic(topic))[:1])


def _one_topic_per_camera(images: list[str], topics: Mapping[str, Topic], transport: str) -> list[str]:
    """Keep one topic of each camera where it was recorded raw and compressed, or raw and rectified."""
    preferred = COMPRESSED if transport == 'compressed' else RAW
    chosen: dict[tuple[str, ...], str] = {}
    for name in sorted(images, key=lambda name: (topics[name].msgtype != preferred, name)):
        chosen.setdefault(identifying_components(name), name)
    return sorted(chosen.values())


def _topic_of_camera(name: str, images: list[str]) -> str:
    found = [image for image in images if name in components(image)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise BagError(f"camera '{name}' is not in the bag; its image topics are {', '.join(images)}")
    raise BagError(
        f"camera '{name}' fits {len(found)} image topics of the bag ({', '.join(found)}); give a name that only one has"
    )


def _name_cameras(images: list[str]) -> dict[str, str]:
    shared = set.intersection(*(set(identifying_components(image)) for image in images)) if len(images) > 1 else set()
    names: dict[str, str] = {}
    for image in images:
        name = '_'.join(part for part in identifying_components(image) if part not in shared)
        if name in names:
            raise BagError(
                f"the image topics '{names[name]}' and '{image}' both look like camera '{name}'; give 'cameras.names'"
            )
        names[name] = image
    return names


def _camera_info_of(camera: str, image: str, infos: list[str]) -> str:
    sibling = f'{base_topic(image).rpartition("/")[0]}/camera_info'
    if sibling in infos:
        return sibling
    named = [info for info in infos if camera in components(info)]
    return named[0] if len(named) == 1 else ''
