"""What the layouts for Foxglove and RViz show of a running node, over real DDS."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip('rclpy')

from helpers.harness import Listener, NodeProcess
from helpers.viewers import foxglove_paths, rviz_topics

from stprune_ros.replay.results import PROBABILITY
from stprune_ros.resources import resource_path

NAMESPACE = '/car'  # the layouts are of a node without one
TYPES = {
    '/diagnostics': 'diagnostic_msgs/msg/DiagnosticArray',
    '/rosout': 'rcl_interfaces/msg/Log',
    '/stprune_node/debug/kept_tokens/image/compressed': 'sensor_msgs/msg/CompressedImage',
    '/stprune_node/output/planning_hint': 'stprune_ros/msg/PlanningHint',
    '/stprune_node/output/scene_description': 'stprune_ros/msg/SceneDescription',
}


def test_every_topic_of_the_layouts_comes_from_the_node_or_only_from_replays(tmp_path: Path, domain_id: int):
    layout = resource_path('config/foxglove/stprune.json')
    asked = {shown.topic for shown in foxglove_paths(layout) if not shown.topic.startswith(PROBABILITY)}
    asked |= {f'/{topic}' for _, topic, _ in rviz_topics(resource_path('config/rviz/stprune.rviz'))}
    assert asked == TYPES.keys()
    values = {'cameras.names': ['left', 'front', 'right'], 'lifecycle.autostart': False}
    listener = Listener(domain_id, NAMESPACE)
    node = NodeProcess(tmp_path, listener, values)
    try:

        def offered() -> dict[str, list[str]]:
            # Not those of this process, which has a /rosout of its own.
            found = listener.node.get_publisher_names_and_types_by_node('stprune_node', NAMESPACE)
            return {topic.removeprefix(NAMESPACE): kinds for topic, kinds in found}

        def is_there() -> bool:
            known = listener.node.get_node_names_and_namespaces()
            return ('stprune_node', NAMESPACE) in known and offered().keys() >= asked

        listener.wait_until(is_there, 'every topic', node)
        assert {topic: kinds for topic, kinds in offered().items() if topic in asked} == {
            topic: [kind] for topic, kind in TYPES.items()
        }
    finally:
        node.stop()
        listener.close()
