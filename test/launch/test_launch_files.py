"""The launch files, run by the real launch system where it is installed (it is not on PyPI)."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
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
    assert {'params_file', 'image_topic', 'camera_info_topic', 'odometry_topic'} <= {item.name for item in arguments}
    assert all(argument.description for argument in arguments)


def parameters_with(folder: Path, topics: str = '', **given: str) -> dict[str, object]:
    """The parameters about topics that the node gets for launch arguments and a parameter file with ``topics``."""
    file = folder / 'params.yaml'
    file.write_text(f'/**: {{ros__parameters: {{cameras: {{names: [front]}}, topics: {{{topics}}}}}}}')
    context = LaunchContext()
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
    return {name: value for name, value in found.items() if name.startswith('topics.')}


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


def test_launch_starts_the_node_and_passes_its_exit_on(tmp_path: Path, domain_id: int):
    params = tmp_path / 'params.yaml'
    params.write_text('/**: {ros__parameters: {cameras: {names: [front]}, model: {path: /nowhere}}}')
    program = f"""
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch import LaunchDescription
source = PythonLaunchDescriptionSource({str(resource_path('launch/stprune.launch.py'))!r})
arguments = {{'params_file': {str(params)!r}, 'namespace': 'car'}}.items()
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""
    paths = [sys.prefix, os.environ.get('AMENT_PREFIX_PATH', '')]
    env = {**os.environ, 'ROS_DOMAIN_ID': str(domain_id), 'AMENT_PREFIX_PATH': os.pathsep.join(filter(None, paths))}
    env['PATH'] = f'{sys.prefix}/bin{os.pathsep}{env["PATH"]}'
    done = subprocess.run([sys.executable, '-c', program], env=env, capture_output=True, text=True, timeout=180)
    said = done.stdout + done.stderr
    assert "model folder '/nowhere' does not exist" in said
    assert '/car/stprune_node' in said or 'car.stprune_node' in said
    assert 'exit code 1' in said
