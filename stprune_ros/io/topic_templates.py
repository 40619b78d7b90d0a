"""The topics of a bag that the parameters ``topics.*`` name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from stprune_ros.errors import BagError
from stprune_ros.io.bag_reader import Topic
from stprune_ros.io.bag_topics import (
    CAMERA_INFO,
    COMPRESSED,
    RAW,
    CameraTopics,
    base_topic,
    components,
    find_cameras,
)
from stprune_ros.settings.settings import Settings
from stprune_ros.settings.topic_names import absolute, camera_of, expand

NEAR = 3  # topics that a sentence offers instead


def cameras_of(topics: Mapping[str, Topic], names: Sequence[str], settings: Settings) -> dict[str, CameraTopics]:
    """Image and camera_info topic of each camera: as the templates say, and found in the bag where they are empty.

    Without names every image topic that fits ``topics.image`` is a camera. Raises BagError as `find_cameras` does, and
    where the bag lacks a topic that a template names.
    """
    image, info = settings.topics.image, settings.topics.camera_info
    if image:
        images = _images_of(absolute(image), topics, names)
        found = {name: CameraTopics(topic, _info_beside(name, topic, topics)) for name, topic in images.items()}
    else:
        found = find_cameras(topics, names, settings.cameras.transport)
    if not info:
        return found
    wanted = {name: expand(absolute(info), name) for name in found}
    for name, topic in wanted.items():
        if not settings.cameras.rig_file:  # which has no need of them
            _require(topic, (CAMERA_INFO,), topics, 'topics.camera_info', f"camera '{name}'")
    return {
        name: replace(camera, info=wanted[name] if wanted[name] in topics else '') for name, camera in found.items()
    }


def _images_of(template: str, topics: Mapping[str, Topic], names: Sequence[str]) -> dict[str, str]:
    if names:
        images = {name: expand(template, name) for name in names}
        for name, topic in images.items():
            _require(topic, (COMPRESSED, RAW), topics, 'topics.image', f"camera '{name}'")
        return images
    fits = {topic.name: camera_of(template, topic.name) for topic in topics.values() if _is_image(topic)}
    images = {camera: name for name, camera in sorted(fits.items()) if camera is not None}
    if not images:
        listed = ', '.join(sorted(fits)) or 'none'
        raise BagError(f"no image topic of the bag fits 'topics.image', '{template}'; its image topics are {listed}")
    return images


def _is_image(topic: Topic) -> bool:
    return topic.msgtype in (RAW, COMPRESSED) and topic.count > 0


def _info_beside(camera: str, image: str, topics: Mapping[str, Topic]) -> str:
    """The camera_info beside the image's topic, else the only one that names the camera, else ''."""
    infos = [topic.name for topic in topics.values() if topic.msgtype == CAMERA_INFO]
    sibling = f'{base_topic(image).rpartition("/")[0]}/camera_info'
    named = [info for info in infos if camera in components(info)]
    if sibling in infos:
        return sibling
    return named[0] if len(named) == 1 else ''


def _require(topic: str, kinds: Sequence[str], topics: Mapping[str, Topic], name: str, what: str) -> None:
    """Raise BagError where the bag has no such topic, or one of another type or without messages."""
    known = topics.get(topic)
    if known is not None and known.msgtype in kinds and known.count:
        return
    if known is None:
        problem = 'which is not in the bag'
    elif known.msgtype not in kinds:
        problem = f'which carries {known.msgtype} in the bag'
    else:
        problem = 'which holds no message in the bag'
    others = [other.name for other in topics.values() if other.msgtype in kinds and other.count and other != known]
    near = difflib.get_close_matches(topic, others, n=NEAR, cutoff=0.0)
    offer = f'; it has {", ".join(near)}' if near else f'; it has no topic of type {" or ".join(kinds)}'
    raise BagError(f"parameter '{name}' names '{topic}' for {what}, {problem}{offer}")
