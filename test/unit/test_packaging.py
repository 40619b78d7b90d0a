"""What the two build systems must agree on, and what an install must bring along."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from stprune_ros.resources import resource_path

ROOT = Path(__file__).resolve().parents[2]
# REP-2011 hash of tf2_msgs/msg/TFMessage: only with the same hash do middlewares take the types for equal.
TF_MESSAGE = 'RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087'


def pyproject(key: str) -> str:
    text = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    found = re.search(rf'^{key} = "(.*)"$', text, re.MULTILINE)
    assert found is not None
    return found.group(1)


def test_package_xml_and_pyproject_agree():
    tree = ElementTree.parse(ROOT / 'package.xml').getroot()
    for key in ('name', 'version', 'description', 'license'):
        assert tree.findtext(key) == pyproject(key)


def test_makefile_knows_every_file_that_is_compiled():
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    for pattern in ('msg/*.msg', 'cmake/*.cmake', 'compat/*/msg/*'):
        assert list(ROOT.glob(pattern)), pattern
        assert pattern in makefile


SHIPPED = (
    'config/prompts/driving.yaml',
    'config/dds/fastdds_shm.xml',
    'models/ringworld/config.json',
    'msg/PlanningHint.msg',
)


@pytest.mark.parametrize('relative', SHIPPED)
def test_share_finds_what_ships(relative):
    assert resource_path(relative).is_file()


def test_commands_are_installed():
    pytest.importorskip('rclpy')
    found = {point.name: point for point in entry_points(group='console_scripts')}
    assert callable(found['stprune'].load())
    assert callable(found['stprune_node'].load())


def test_own_tf2_msgs_has_the_type_hash_of_the_real_one(domain_id):
    rclpy = pytest.importorskip('rclpy')
    from rclpy.context import Context
    from rclpy.node import Node
    from tf2_msgs.msg import TFMessage

    context = Context()
    rclpy.init(context=context, domain_id=domain_id)
    node = Node('hash', context=context)
    try:
        publisher = node.create_publisher(TFMessage, 'tf', 1)
        [info] = node.get_publishers_info_by_topic(publisher.topic_name)
        assert str(info.topic_type_hash) == TF_MESSAGE
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)
