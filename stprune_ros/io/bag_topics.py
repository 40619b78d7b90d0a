"""Find the cameras, the odometry and the static transforms of a bag by topic names and types."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stprune_ros.errors import BagError
from stprune_ros.io.bag_reader import Topic
from stprune_ros.io.foreign_files import unreadable_camera

RAW, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO, ODOMETRY, TRANSFORMS = 'sensor_msgs/msg/CameraInfo', 'nav_msgs/msg/Odometry', 'tf2_msgs/msg/TFMessage'
OWN_OUTPUT = 'debug/kept_tokens/image'  # of a node of ours, in any namespace
# Path components that say what a topic carries, not which camera it comes from; image_raw and the like do so, too.
GENERIC_COMPONENTS = {
    *('camera', 'cameras', 'sensing', 'sensor', 'sensors', 'driver', 'video', 'stream'),
    *('compressed', 'raw', 'rect', 'rectified', 'undistorted'),
}
IMAGE_WORDS = {'image', 'images', 'img'}
KIND_WORDS = {
    *('raw', 'rect', 'rectified', 'undistorted', 'resized', 'compressed'),
    *('color', 'colour', 'rgb', 'bgr', 'mono', 'gray', 'grey'),
}
# Words in the path of an image topic that is made from a camera, or from something else, but is no camera.
NO_CAMERA_WORDS = {
    **dict.fromkeys(('debug', 'dbg', 'viz', 'visualization', 'visualisation', 'annotated'), 'a debug picture'),
    **dict.fromkeys(('overlay', 'overlays', 'rois', 'roi', 'mosaic', 'thumbnail', 'bev'), 'a debug picture'),
    **dict.fromkeys(('depth', 'compresseddepth', 'disparity', 'confidence'), 'depth'),
    **dict.fromkeys(('mask', 'masks', 'segmentation', 'semantic', 'instance', 'label', 'labels'), 'a mask'),
    **dict.fromkeys(('heatmap', 'costmap', 'dvs', 'flow'), 'no picture'),
    # RealSense and OpenNI publish their infrared cameras beside the colour one of the same housing.
    **dict.fromkeys(('infra', 'infra1', 'infra2', 'infrared', 'ir', 'thermal'), 'infrared'),
    # Ouster's driver publishes what the lidar measures as images, too.
    **dict.fromkeys(('range_image', 'signal_image', 'reflec_image', 'nearir_image'), 'a picture of a lidar'),
}
LISTED = 8  # topics in an error


@dataclass(frozen=True)
class CameraTopics:
    """Image and CameraInfo topic of one camera; ``info`` is '' where the bag has no CameraInfo for it."""

    image: str
    info: str = ''


def find_cameras(
    topics: Mapping[str, Topic], names: Sequence[str] = (), transport: str = 'compressed'
) -> dict[str, CameraTopics]:
    """Image and CameraInfo topic of each camera, by camera name, sorted by name (or in the order of ``names``).

    A given name must be a component of the topic's path, or what the camera would be called without names. Without
    names every image topic is a camera but those of `passed_over`, named by the components that tell it from the
    others. Where a camera was recorded twice, ``transport`` ('compressed' or 'raw') is preferred. Raises BagError if
    there is no camera, or a name fits no topic or several.
    """
    images = [topic.name for topic in topics.values() if _is_image(topic) and topic.count]
    others = passed_over(topics)
    cameras = [name for name in images if name not in others]
    if not cameras and not (images and names):
        raise _no_camera(topics, others)
    chosen = _one_topic_per_camera(cameras, topics, transport)
    if names:
        rest = _one_topic_per_camera([name for name in images if name in others], topics, transport)
        named = {name: _topic_of_camera(name, chosen, rest) for name in names}
    else:
        named = _name_cameras(chosen)
    infos = [topic.name for topic in topics.values() if topic.msgtype == CAMERA_INFO]
    return {name: CameraTopics(image, _camera_info_of(name, image, infos)) for name, image in named.items()}


def passed_over(topics: Mapping[str, Topic]) -> dict[str, str]:
    """Image topics that are taken for no camera unless a name is given that fits them, with what they are."""
    reasons = {
        topic.name: _no_camera_reason(topic.name) for topic in topics.values() if _is_image(topic) and topic.count
    }
    return {name: reason for name, reason in sorted(reasons.items()) if reason}


def find_static_transforms(topics: Mapping[str, Topic], images: Iterable[str] = ()) -> list[str]:
    """Topics with static transforms: ``tf_static`` in any namespace, sorted by name.

    Those in a namespace of ``images`` come last, the innermost at the very end: where several robots were recorded
    whose frames have the same names, the transforms of the cameras' own robot must win.
    """
    transforms = [topic.name for topic in topics.values() if topic.msgtype == TRANSFORMS]
    found = [topic for topic in transforms if components(topic)[-1] == 'tf_static']
    paths = [components(image) for image in images]

    def nearness(topic: str) -> int:
        namespace = components(topic)[:-1]
        return len(namespace) if any(path[: len(namespace)] == namespace for path in paths) else -1

    return sorted(found, key=lambda topic: (nearness(topic), topic))


def shared_depth(topic: str, images: Iterable[str]) -> int:
    """How many leading components a topic has in common with all image topics; 'camera' and the like do not count."""
    depth = 0
    for parts in zip(*map(components, [topic, *images])):
        if len(set(parts)) > 1 or parts[0] in GENERIC_COMPONENTS:
            break
        depth += 1
    return depth


def components(topic: str) -> list[str]:
    """Components of a topic name."""
    return [component for component in topic.split('/') if component]


def base_topic(topic: str) -> str:
    """The image topic that a transport's topic belongs to: image_transport appends '/compressed'."""
    return topic.removesuffix('/compressed')


def identifying_components(topic: str) -> tuple[str, ...]:
    """The components of an image topic that say which camera it is; none for '/image_raw'."""
    own = tuple(component for component in components(topic) if not _is_generic(component))
    beside = tuple(component for component in own if not component.endswith('_node'))  # zed_node, usb_cam_node
    return beside or own or tuple(part for part in components(base_topic(topic))[:-1] if part in GENERIC_COMPONENTS)[:1]


def _is_image(topic: Topic) -> bool:
    return topic.msgtype in (RAW, COMPRESSED)


def _words(component: str) -> list[str]:
    """Lower-case words of a component: 'imageRaw_2' is image, raw, 2."""
    return re.findall(r'[a-z]+|\d+', re.sub(r'([a-z])([A-Z])', r'\1_\2', component).lower())


def _is_generic(component: str) -> bool:
    words = set(_words(component))
    is_kind = not IMAGE_WORDS.isdisjoint(words) and words <= IMAGE_WORDS | KIND_WORDS
    return is_kind or component.lower() in GENERIC_COMPONENTS


def _no_camera_reason(topic: str) -> str:
    if topic.removesuffix('/compressed').endswith(OWN_OUTPUT):
        return 'our own output'
    words = [word for component in components(topic) for word in (component.lower(), *_words(component))]
    return next((NO_CAMERA_WORDS[word] for word in words if word in NO_CAMERA_WORDS), '')


def _no_camera(topics: Mapping[str, Topic], others: Mapping[str, str]) -> BagError:
    """The error for a bag in which no camera can be used: what comes closest to one, and the remedy."""
    unreadable = [unreadable_camera(topic.name, topic.msgtype, topic.form) for topic in topics.values()]
    sentence = next(filter(None, unreadable), '')
    if sentence:
        return BagError(f'the bag has no camera that can be read: {sentence}')
    silent = [topic.name for topic in topics.values() if _is_image(topic) and not topic.count]
    looked_at = {**dict.fromkeys(silent, 'no message'), **others}
    if looked_at:
        listed = _listed([f'{name} ({reason})' for name, reason in looked_at.items()])
        return BagError(
            f"the bag has no camera; passed over are {listed}; if one of them is a camera, name it in 'cameras.names'"
        )
    found = _listed([f'{topic.name} ({topic.msgtype})' for topic in topics.values()]) or 'nothing'
    return BagError(f'the bag has no camera: no topic carries {RAW} or {COMPRESSED}, only {found}')


def _listed(items: list[str]) -> str:
    more = [f'{len(items) - LISTED} more'] if len(items) > LISTED else []
    return ', '.join([*items[:LISTED], *more])


def _one_topic_per_camera(images: list[str], topics: Mapping[str, Topic], transport: str) -> list[str]:
    """Keep one topic of each camera where it was recorded raw and compressed, or raw and rectified."""
    preferred = COMPRESSED if transport == 'compressed' else RAW
    chosen: dict[tuple[str, ...], str] = {}
    for name in sorted(images, key=lambda name: (topics[name].msgtype != preferred, name)):
        key = tuple(re.sub('_(raw|rect|rectified)$', '', part) for part in identifying_components(name))
        chosen.setdefault(key, name)
    return sorted(chosen.values())


def _topic_of_camera(name: str, images: list[str], others: list[str]) -> str:
    """The topic of a named camera: among ``images``, else among ``others``, which look like no camera."""
    proposed = {camera: image for image, camera in _proposed_names(images).items()}
    for candidates in (images, others):
        found = [image for image in candidates if name in components(image)]
        if len(found) != 1 and candidates is images and name in proposed:
            return proposed[name]
        if len(found) == 1:
            return found[0]
        if found:
            raise BagError(
                f"camera '{name}' fits {len(found)} image topics of the bag ({', '.join(found)}); give a name that only"
                ' one has'
            )
    known = {*proposed, *(part for image in images for part in components(image))}
    similar = next((other for other in sorted(known) if other.lower() == name.lower()), '')
    if similar:
        raise BagError(f"camera '{name}' is not in the bag, but '{similar}' is; names differ by case")
    raise BagError(f"camera '{name}' is not in the bag; its image topics are {', '.join([*images, *others])}")


def _proposed_names(images: list[str]) -> dict[str, str]:
    """Image topic to the name of its camera: the components that the others lack, 'camera' where there is none."""
    shared = set.intersection(*(set(identifying_components(image)) for image in images)) if len(images) > 1 else set()
    names = {}
    for image in images:
        own = identifying_components(image)
        names[image] = '_'.join([part for part in own if part not in shared] or own) or 'camera'
    return names


def _name_cameras(images: list[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for image, name in _proposed_names(images).items():
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
