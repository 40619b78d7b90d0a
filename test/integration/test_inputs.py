"""Where the node listens, what it says where nothing comes, and stamps that are wrong: over real DDS."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip('rclpy')

from diagnostic_msgs.msg import DiagnosticStatus
from helpers.harness import PUBLISHERS_ARE_TOLD, TIMEOUT_S, Listener, NodeProcess, Vehicle, base_values
from helpers.tiny_models import make_tiny_model
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image

from stprune_ros.msg import PlanningHint
from stprune_ros.ros import diagnostics, topic_graph


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path


def status(vehicle: Vehicle, name: str) -> DiagnosticStatus | None:
    """The newest status of that name."""
    found = [one for one in vehicle.diagnostics[-1].status if one.name.endswith(f': {name}')]
    return found[0] if found else None


def values(vehicle: Vehicle, name: str) -> dict[str, str]:
    found = status(vehicle, name)
    return {pair.key: pair.value for pair in found.values} if found else {}


def wait_for_value(vehicle: Vehicle, node: NodeProcess, name: str, key: str) -> DiagnosticStatus:
    """The status ``name`` once it carries ``key``."""
    vehicle.wait_until(lambda: bool(vehicle.diagnostics and key in values(vehicle, name)), f'{key} of {name}', node)
    found = status(vehicle, name)
    assert found is not None
    return found


def wait_for_hint(vehicle: Vehicle, node: NodeProcess) -> PlanningHint:
    vehicle.wait_until(lambda: any(hint.status == PlanningHint.OK for hint in vehicle.hints), 'OK', node)
    return next(hint for hint in vehicle.hints if hint.status == PlanningHint.OK)


def test_camera_info_that_was_sent_once_before_the_node_came(model, domain_id, tmp_path):
    vehicle = Vehicle(domain_id, '/latched', latched=True)
    node = NodeProcess(tmp_path, vehicle, base_values(model))
    try:
        wait_for_hint(vehicle, node)
    finally:
        code = node.stop()
        vehicle.close()
    assert code == 0
    assert 'incompatible' not in node.output().lower()


def test_topics_by_template_with_numbers_for_names(model, domain_id, tmp_path):
    called = {'left': '0', 'front': '1', 'right': '2'}
    vehicle = Vehicle(
        domain_id,
        '/numbers',
        image_topic='/camera{}/image',
        info_topic='/camera{}/info',
        odometry_topic='/ego/odom',
        called=called,
    )
    topics = {'image': '/camera{camera}/image', 'camera_info': '/camera{camera}/info', 'odometry': '/ego/odom'}
    given = {f'topics.{name}': topic for name, topic in topics.items()}
    # In quotes, as YAML needs it for names that look like numbers.
    node = NodeProcess(tmp_path, vehicle, {**base_values(model), 'cameras.names': ['0', '1', '2'], **given})
    try:
        hint = wait_for_hint(vehicle, node)
    finally:
        code = node.stop()
        vehicle.close()
    assert code == 0
    assert [camera.name for camera in hint.info.cameras] == ['1', '2', '0']


def test_topics_that_nobody_publishes_are_named_with_those_that_are(model, domain_id, tmp_path):
    vehicle = Vehicle(domain_id, '/elsewhere', image_topic='/cam/{}/jpg', odometry_qos=qos_profile_sensor_data)
    node = NodeProcess(tmp_path, vehicle, base_values(model))
    try:
        left = wait_for_value(vehicle, node, 'camera left', 'topic')
        odometry = wait_for_value(vehicle, node, 'odometry', 'topic')
        assert (left.level, left.message) == (DiagnosticStatus.ERROR, diagnostics.NO_IMAGES)
        wanted = '/elsewhere/stprune_node/input'
        sentence = values(vehicle, 'camera left')['topic']
        assert sentence.startswith(
            f"nobody publishes '{wanted}/left/image/compressed' as sensor_msgs/msg/CompressedImage; of that type there"
            ' are /cam/'
        )
        assert '/cam/left/jpg' in sentence and sentence.endswith(': set topics.image, or remap')
        assert odometry.level == DiagnosticStatus.WARN
        policy = f"'{wanted}/kinematic_state' is published with reliability best_effort, which does not suffice"
        remedy = f'set qos_overrides.{wanted}/kinematic_state.subscription.reliability to best_effort'
        assert values(vehicle, 'odometry')['topic'].startswith(policy)
        assert policy in node.output() and remedy in node.output()
        assert node.output().count(f"nobody publishes '{wanted}/left/image/compressed'") == 1
        said = next(line for line in node.output().splitlines() if f"'{wanted}/left/image/compressed'" in line)
        assert said.endswith(": set topics.image, or remap (the same of 'front', 'right')")
    finally:
        code = node.stop()
        vehicle.close()
    assert code == 0


def test_a_second_publisher_is_named_where_its_messages_could_not_be_told(model, domain_id, tmp_path):
    vehicle = Vehicle(domain_id, '/second')
    node = NodeProcess(tmp_path, vehicle, base_values(model))
    try:
        wait_for_hint(vehicle, node)
        topic = f'{vehicle.node_name}/input/front/image/compressed'
        silent = vehicle.node.create_publisher(CompressedImage, topic, qos_profile_sensor_data)
        if PUBLISHERS_ARE_TOLD:  # whoever sends nothing does no harm, and is not warned of
            vehicle.listen_until(lambda: False, 3.0)
            assert 'publishers' not in values(vehicle, 'camera front') and '2 publishers' not in node.output()
        else:
            said = wait_for_value(vehicle, node, 'camera front', 'publishers')
            assert (said.level, said.message) == (DiagnosticStatus.WARN, diagnostics.UNTOLD)
            vehicle.wait_until(lambda: f"'{topic}' has 2 publishers (" in node.output(), 'the log', node)
            vehicle.node.destroy_publisher(silent)
            vehicle.wait_until(lambda: 'publishers' not in values(vehicle, 'camera front'), 'the end of it', node)
    finally:
        code = node.stop()
        vehicle.close()
    assert code == 0 and 'Traceback' not in node.output()


def test_who_publish_a_topic_is_told_by_name(domain_id):
    listener = Listener(domain_id, '/graph')
    topic, kind = '/graph/front', 'sensor_msgs/msg/Image'
    others = [Node(name, namespace=space, context=listener.node.context) for name, space in (('b', '/x'), ('a', '/'))]
    try:
        others[0].create_publisher(Image, topic, 1)
        listener.listen_until(lambda: len(listener.node.get_publishers_info_by_topic(topic)) == 1, TIMEOUT_S)
        assert topic_graph.several_publish(topic, listener.node, kind) is None
        others[1].create_publisher(Image, topic, 1)
        listener.listen_until(lambda: len(listener.node.get_publishers_info_by_topic(topic)) == 2, TIMEOUT_S)
        assert topic_graph.several_publish(topic, listener.node, 'sensor_msgs/msg/CompressedImage') is None
        assert topic_graph.several_publish(topic, listener.node, kind) == (
            "'/graph/front' has 2 publishers ('/a', '/x/b'), and this rclpy does not tell whose a message is: stop all"
            ' but one, or remap'
        )
    finally:
        for node in others:
            node.destroy_node()
        listener.close()


@pytest.mark.parametrize(('topic', 'ending'), [('', "/input/left/image' is"), ('{}/image/compressed', 'it is')])
def test_images_of_another_type_name_the_transport(model, domain_id, tmp_path, topic, ending):
    topic = topic and f'/typed/stprune_node/input/{topic}'
    vehicle = Vehicle(domain_id, '/typed', Image, image_topic=topic)
    node = NodeProcess(tmp_path, vehicle, base_values(model))
    try:
        wait_for_value(vehicle, node, 'camera left', 'topic')
        sentence = values(vehicle, 'camera left')['topic']
    finally:
        node.stop()
        vehicle.close()
    assert f'{ending} published as sensor_msgs/msg/Image: set cameras.transport to raw' in sentence


def test_wrong_stamps_are_named_as_long_as_they_last(model, domain_id, tmp_path):
    vehicle = Vehicle(domain_id, '/stamps')
    node = NodeProcess(tmp_path, vehicle, {**base_values(model), 'sync.tolerance_ms': 10.0})
    try:
        wait_for_hint(vehicle, node)
        vehicle.wait_until(lambda: bool(vehicle.diagnostics), 'diagnostics', node)
        assert 'timing' not in values(vehicle, 'camera right')
        vehicle.stamp_of['right'] = lambda stamp_ns, fixed=vehicle.stamp_ns: fixed
        vehicle.stamp_of['left'] = lambda stamp_ns: stamp_ns + 30_000_000
        right = wait_for_value(vehicle, node, 'camera right', 'timing')
        assert (right.level, right.message) == (DiagnosticStatus.WARN, diagnostics.CAMERA_TIMING)
        assert "images of camera 'right' repeat their stamp" in values(vehicle, 'camera right')['timing']
        left = wait_for_value(vehicle, node, 'camera left', 'timing')
        assert left.level == DiagnosticStatus.WARN
        named = (
            "camera 'left' comes 30 ms after the anchor, tolerance is 10 ms: set cameras.offsets_ms to [30, 0, 0] or"
        )
        # The first report may still hold images from before.
        vehicle.wait_until(lambda: values(vehicle, 'camera left')['timing'].startswith(named), named, node)
        assert re.search(r"WARN.*camera 'left' comes \d+ ms after the anchor, tolerance is 10 ms", node.output())
        assert node.output().count("images of camera 'right' repeat their stamp") == 1
        vehicle.stamp_of.clear()
        vehicle.wait_until(
            lambda: not any('timing' in values(vehicle, f'camera {name}') for name in ('left', 'right')),
            'recovery',
            node,
        )
        vehicle.wait_for_diagnostic('camera left', diagnostics.ALL_WELL, node)
    finally:
        code = node.stop()
        vehicle.close()
    assert code == 0
