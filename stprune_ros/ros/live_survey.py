"""What a running vehicle shows of its rig, for `stprune init --live`."""

from __future__ import annotations

import time
from functools import partial

import rclpy
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from stprune_ros.errors import BagError
from stprune_ros.io.bag_reader import Topic
from stprune_ros.io.bag_topics import CAMERA_INFO, COMPRESSED, ODOMETRY, RAW, TRANSFORMS
from stprune_ros.io.survey import RigSurvey
from stprune_ros.ros import qos
from stprune_ros.ros.player import message_class

DISCOVERY_S = 2.0  # until most publishers of a network have been found


def survey_live(seconds: float) -> RigSurvey:
    """Listen for ``seconds`` to every topic that says something about a rig. Raises BagError where there is none."""
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('stprune_init', enable_rosout=False, start_parameter_services=False)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    survey = RigSurvey()
    try:
        until = time.monotonic() + DISCOVERY_S + seconds
        while time.monotonic() < until and not survey.complete:
            _subscribe_to_new(node, survey)
            executor.spin_once(timeout_sec=0.1)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()
    if not survey.topics:
        raise BagError(
            f'no image, camera_info, odometry or /tf_static topic was seen within {DISCOVERY_S + seconds:g} s;'
            ' start the drivers, and look at ROS_DOMAIN_ID and ROS_AUTOMATIC_DISCOVERY_RANGE'
        )
    # A topic without a message is no camera, as in a bag.
    heard = {**survey.stamps, **survey.odometry, **survey.camera_infos}
    survey.topics = {
        name: Topic(name, topic.msgtype, int(name in heard or topic.msgtype == TRANSFORMS))
        for name, topic in survey.topics.items()
    }
    return survey


def _subscribe_to_new(node: Node, survey: RigSurvey) -> None:
    profiles = {
        RAW: (qos.SENSOR,),
        COMPRESSED: (qos.SENSOR,),
        # Latched or not: a reader of one kind alone would miss the other.
        CAMERA_INFO: (qos.SENSOR, qos.LATCHED),
        ODOMETRY: (qos.SENSOR,),
        TRANSFORMS: (qos.TF_STATIC,),
    }
    for name, types in node.get_topic_names_and_types():
        for msgtype in types:
            wanted = msgtype in profiles and (msgtype != TRANSFORMS or name.endswith('/tf_static'))
            if name in survey.topics or not wanted or not node.count_publishers(name):
                continue
            survey.topics[name] = Topic(name, msgtype, 1)
            callback = survey.transforms.append if msgtype == TRANSFORMS else partial(survey.add, name, msgtype)
            for profile in profiles[msgtype]:
                # One of two may not match the publisher, which is nothing to warn of.
                events = SubscriptionEventCallbacks(use_default_callbacks=False)
                node.create_subscription(message_class(msgtype), name, callback, profile, event_callbacks=events)
