"""The launch files, run by the real launch system where it is installed (it is not on PyPI)."""

from __future__ import annotations

import runpy
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

pytest.importorskip('launch_ros')  # `launch` alone would find this repository's folder of that name

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

from stprune_ros.resources import resource_path

LAUNCH_FILES = ('stprune.launch.py', 'replay.launch.py')


def description(name: str) -> LaunchDescription:
    return runpy.run_path(str(resource_path(f'launch/{name}')))['generate_launch_description']()


@pytest.mark.parametrize('name', LAUNCH_FILES)
def test_arguments_have_descriptions(name):
    arguments = [entity for entity in description(name).entities if isinstance(entity, DeclareLaunchArgument)]
    names = {'params_file', 'image_topic', 'camera_info_topic', 'odometry_topic', 'rviz'}
    assert names <= {item.name for item in arguments}
    assert all(argument.description for argument in arguments)


def parameters_with(folder: Path, topics: str = '', argv: Sequence[str] = (), **given: str) -> dict[str, object]:
    """Parameters about topics and states that the node gets for launch arguments and a file with ``topics``."""
    file = folder / 'params.yaml'
    file.write_text(f'/**: {{ros__parameters: {{cameras: {{names: [front]}}, topics: {{{topics}}}}}}}')
    context = LaunchContext(argv=argv)
    context.launch_configurations.update(given, params_file=str(file))
    entities = description('stprune.launch.py').entities
    for entity in entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.visit(context)
    [action] = [entity for entity in entities if isinstance(entity, OpaqueFunction)]
    [node] = action.visit(context)
    assert isinstance(node, Node)
    node._perform_substitutions(context)
    assert not node.expanded_remapping_rules
    found: dict[str, object] = {}
    for path, is_file in node._Node__expanded_parameter_arguments:
        assert is_file
        [tree] = yaml.safe_load(Path(path).read_text()).values()
        found.update(_flat(tree['ros__parameters']))
    return {name: value for name, value in found.items() if name.startswith(('topics.', 'lifecycle.'))}


def _flat(tree: dict[str, object], prefix: str = '') -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {f'{prefix}{key}': value})
    return flat


def test_arguments_stand_above_the_parameter_file(tmp_path: Path):
    file = 'image: "/file/{camera}/jpg", odometry: /file/odom'
    given = {'image_topic': '~/cam/{camera}/jpg', 'camera_info_topic': '/cam/{camera}/info'}
    assert parameters_with(tmp_path, file, **given) == {
        'topics.image': '~/cam/{camera}/jpg',
        'topics.camera_info': '/cam/{camera}/info',
        'topics.odometry': '/file/odom',
    }


def test_without_arguments_the_parameter_file_decides(tmp_path: Path):
    assert parameters_with(tmp_path, 'image: "/file/{camera}/jpg"') == {'topics.image': '/file/{camera}/jpg'}
    assert parameters_with(tmp_path) == {}


@pytest.mark.parametrize('given', ['true', 'false'])
def test_autostart_stands_above_the_parameter_file(tmp_path: Path, given: str):
    assert parameters_with(tmp_path, autostart=given) == {'lifecycle.autostart': given == 'true'}


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        ({'use_respawn': 'yes'}, 'use_respawn'),
        ({'use_sim_time': '1'}, 'use_sim_time'),
        ({'autostart': 'on'}, 'autostart'),
        ({'rviz': 'yes'}, 'rviz'),
        ({'log_level': 'loud'}, 'log_level'),
    ],
)
def test_a_value_that_is_none_is_refused(tmp_path: Path, given: dict[str, str], words: str):
    with pytest.raises(RuntimeError, match=f'\'{words}\'|"{words}"'):
        parameters_with(tmp_path, **given)


def test_a_misspelt_argument_is_refused(tmp_path: Path):
    with pytest.raises(RuntimeError, match="^there is no launch argument 'image_topics': write image_topic:=...$"):
        parameters_with(tmp_path, argv=['image_topics:=/camera'])
    assert parameters_with(tmp_path, argv=['bag:=x', 'rate:=2']) == {}  # arguments of a file that includes ours
    given = {'image_topic': '/cam/{camera}'}
    assert parameters_with(tmp_path, argv=['image_topics:=/a'], **given) == {'topics.image': '/cam/{camera}'}
