"""The launch files, run by the real launch system where it is installed (it is not on PyPI)."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

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


def remaps_with(**given: str) -> dict[str, str]:
    """The remaps of the node for launch arguments."""
    context = LaunchContext()
    context.launch_configurations.update(given)
    entities = description('stprune.launch.py').entities
    for entity in entities:
        if isinstance(entity, DeclareLaunchArgument):
            entity.visit(context)
    [action] = [entity for entity in entities if isinstance(entity, OpaqueFunction)]
    [node] = action.visit(context)
    assert isinstance(node, Node)
    node._perform_substitutions(context)
    return dict(node.expanded_remapping_rules or ())


def test_topics_follow_the_templates():
    templates = {'image_topic': '/cam/{camera}/jpg', 'camera_info_topic': '/cam/{camera}/info'}
    remaps = remaps_with(**templates, odometry_topic='/odom')
    assert remaps['~/input/CAM_BACK/image/compressed'] == '/cam/CAM_BACK/jpg'
    assert remaps['~/input/CAM_FRONT_LEFT/camera_info'] == '/cam/CAM_FRONT_LEFT/info'
    assert remaps['~/input/kinematic_state'] == '/odom'
    assert len(remaps) == 13


def test_without_templates_nothing_is_remapped():
    assert remaps_with() == {}


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
