"""The launch files, run by the real launch system where it is installed (it is not on PyPI)."""

from __future__ import annotations

import os
import runpy
import signal
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
    """Parameters about topics and states that the node gets for launch arguments and a file with ``topics``."""
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


def start_launch(folder: Path, domain_id: int, params: str, **arguments: str) -> subprocess.Popen[str]:
    """`ros2 launch` of the node with these parameters, as a process of its own that prints into one pipe."""
    file = folder / 'params.yaml'
    file.write_text(f'/**: {{ros__parameters: {params}}}')
    given = {'params_file': str(file), 'namespace': 'car', **arguments}
    program = f"""
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch import LaunchDescription
source = PythonLaunchDescriptionSource({str(resource_path('launch/stprune.launch.py'))!r})
service = LaunchService()
arguments = {given!r}.items()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=arguments)]))
sys.exit(service.run())
"""
    paths = [sys.prefix, os.environ.get('AMENT_PREFIX_PATH', '')]
    env = {**os.environ, 'ROS_DOMAIN_ID': str(domain_id), 'AMENT_PREFIX_PATH': os.pathsep.join(filter(None, paths))}
    env['PATH'] = f'{sys.prefix}/bin{os.pathsep}{env["PATH"]}'
    env['PYTHONUNBUFFERED'] = '1'
    output = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
    return subprocess.Popen([sys.executable, '-c', program], env=env, start_new_session=True, **output)


def interrupt(launch: subprocess.Popen[str]) -> None:
    """As Ctrl-C does it: launch, node and who watches over it all get the signal."""
    os.killpg(launch.pid, signal.SIGINT)


def read_until(launch: subprocess.Popen[str], words: str, times: int = 1) -> str:
    """What launch and node print until ``words`` came so often."""
    said = ''
    assert launch.stdout is not None
    while said.count(words) < times:
        line = launch.stdout.readline()
        assert line, said
        said += line
    return said


def test_launch_starts_the_node_and_passes_its_exit_on(tmp_path: Path, domain_id: int):
    launch = start_launch(tmp_path, domain_id, '{cameras: {names: [front]}, model: {path: /nowhere}}')
    said, _ = launch.communicate(timeout=180)
    assert "model folder '/nowhere' does not exist" in said
    assert '/car/stprune_node' in said or 'car.stprune_node' in said
    assert 'exit code 1' in said


def test_launch_starts_a_node_that_ended_again(tmp_path: Path, domain_id: int):
    params = '{cameras: {names: [front]}, model: {path: /nowhere}}'
    launch = start_launch(tmp_path, domain_id, params, use_respawn='true')
    try:
        read_until(launch, "stprune_node: model folder '/nowhere' does not exist", times=3)
        interrupt(launch)
        launch.communicate(timeout=60)
    finally:
        launch.kill()


def test_launch_ends_the_node_without_escalation(tmp_path: Path, domain_id: int):
    launch = start_launch(tmp_path, domain_id, '{cameras: {names: [front]}}')
    try:
        read_until(launch, "model 'ringworld'")
        interrupt(launch)
        said, _ = launch.communicate(timeout=60)
    finally:
        launch.kill()
    assert 'process has finished cleanly' in said
    assert 'failed to terminate' not in said and 'Traceback' not in said


def test_launch_leaves_a_node_to_its_transitions(tmp_path: Path, domain_id: int):
    launch = start_launch(tmp_path, domain_id, '{cameras: {names: [front]}}', autostart='false')
    try:
        said = read_until(launch, 'the node is not active: activate it')
        interrupt(launch)
        said += launch.communicate(timeout=60)[0]
    finally:
        launch.kill()
    assert 'loading the model' not in said
    assert 'process has finished cleanly' in said
