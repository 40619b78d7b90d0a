"""How camera names and topics belong together: the one place that node, replay, player and launch files ask.

A template is a ROS topic name with ``{camera}`` where the camera's name stands. It names the topic as it is subscribed
to: nothing is added to it, neither for raw nor for compressed images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import Formatter

from stprune_ros.settings.parameters import CameraSettings, TopicSettings

NODE = '/stprune_node'  # what ~ stands for where no node runs
CAMERA = '{camera}'
CAMERA_NAME = re.compile(r'[A-Za-z0-9_]+')  # what may stand for {camera}
ROS_NAME = re.compile(r'(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*')


def image_template(topics: TopicSettings, transport: str) -> str:
    """The template of the image topics, as the node subscribes to them."""
    return topics.image or f'~/input/{CAMERA}/image{"" if transport == "raw" else "/compressed"}'


def camera_info_template(topics: TopicSettings) -> str:
    """The template of the camera_info topics, as the node subscribes to them."""
    return topics.camera_info or f'~/input/{CAMERA}/camera_info'


def odometry_topic(topics: TopicSettings) -> str:
    """The odometry topic, as the node subscribes to it."""
    return topics.odometry or '~/input/kinematic_state'


def expand(template: str, camera: str) -> str:
    """The topic of one camera."""
    return template.replace(CAMERA, camera)


def absolute(topic: str, node: str = NODE) -> str:
    """A topic name from the root, as ROS resolves it for a node (given with its namespace)."""
    if topic.startswith('~/'):
        return f'{node}{topic[1:]}'
    return topic if topic.startswith('/') else f'{node.rpartition("/")[0]}/{topic}'


def camera_of(template: str, topic: str) -> str | None:
    """The camera that a template (from the root) takes to ``topic``; None where it leads there from no name."""
    before, *after = (re.escape(part) for part in template.split(CAMERA))
    if not after:
        return None
    pattern = f'{before}(?P<camera>{CAMERA_NAME.pattern})' + '(?P=camera)'.join(after)
    found = re.fullmatch(pattern, topic)
    return found['camera'] if found else None


def wrong_topics(cameras: CameraSettings, topics: TopicSettings) -> list[str]:
    """What is wrong with the parameters of ``topics``, one sentence each."""
    problems = _wrong_template('topics.image', topics.image, cameras.names)
    problems += _wrong_template('topics.camera_info', topics.camera_info, cameras.names)
    if topics.image and topics.image == topics.camera_info:
        problems.append(f"parameters 'topics.image' and 'topics.camera_info' both name '{topics.image}'")
    if topics.odometry and not ROS_NAME.fullmatch(topics.odometry):
        problems.append(_no_topic('topics.odometry', topics.odometry))
    return problems


def replay_only(cameras: CameraSettings, topics: TopicSettings) -> list[str]:
    """Why a node could not work with topics with which replay can, as it finds cameras by name; allowed values only."""
    templates = image_template(topics, cameras.transport), camera_info_template(topics)
    unfit = filter(None, (unfit_name(camera, templates) for camera in cameras.names))
    sentences = [f'only for replay, the node does not start: {sentence}' for sentence in unfit][:1]
    if cameras.transport == 'raw' and topics.image.endswith('/compressed'):
        sentences.append(
            f"only for replay, the node hears no image: 'topics.image' is '{topics.image}', where image_transport"
            " sends CompressedImage, and 'cameras.transport' is 'raw': change one of them"
        )
    return sentences


def unfit_name(camera: str, templates: Sequence[str]) -> str | None:
    """Why a camera's name cannot stand in these templates, None where it can."""
    if not CAMERA_NAME.fullmatch(camera):
        return f"camera '{camera}' in 'cameras.names' cannot be part of a topic; use letters, digits, _"
    topics = (expand(template, camera) for template in templates)
    wrong = next((topic for topic in topics if not ROS_NAME.fullmatch(topic)), None)
    if wrong is None:
        return None
    return (
        f"camera '{camera}' in 'cameras.names' makes the topic '{wrong}', but no part of a ROS topic starts with a"
        " digit: put letters before {camera} in 'topics.image' and 'topics.camera_info', as in /camera{camera}/image,"
        ' or name the camera otherwise'
    )


def _wrong_template(name: str, template: str, cameras: Sequence[str]) -> list[str]:
    if not template:
        return []
    try:
        fields = [field for field in Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        return [f"parameter '{name}' is '{template}': its braces do not match ({error}); allowed is only {{camera}}"]
    for _, word, form, conversion in fields:
        if word != 'camera' or form or conversion:
            given = f'{{{word}{f"!{conversion}" if conversion else ""}{f":{form}" if form else ""}}}'
            return [f"parameter '{name}' is '{template}': {given} is unknown; allowed is only {{camera}}"]
    if not ROS_NAME.fullmatch(expand(template, 'x')):
        return [_no_topic(name, template)]
    if not fields and len(cameras) != 1:
        return [
            f"parameter '{name}' is '{template}', without {{camera}}: every camera would have the same topic;"
            f' put {{camera}} where the name of the camera stands'
        ]
    unfit = (unfit_name(camera, [template]) for camera in cameras)
    return [sentence for sentence in unfit if sentence is not None][:1] if fields else []


def _no_topic(name: str, topic: str) -> str:
    return (
        f"parameter '{name}' is '{topic}', which is no ROS topic name: parts of letters, digits and _ between single"
        ' slashes, none starting with a digit, none empty'
    )
