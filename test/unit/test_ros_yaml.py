"""Parameter files are understood as rcl understands them; what it refuses, or would lose, is named with its line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from stprune_ros.errors import SettingsError
from stprune_ros.settings.parameter_file import ParameterFile, load_settings
from stprune_ros.settings.ros_yaml import scalar

HEAD = '/**:\n  ros__parameters:\n'


def read(folder: Path, text: str) -> ParameterFile:
    path = folder / 'p.yaml'
    path.write_text(text, encoding='utf-8')
    return ParameterFile.read(path)


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('1e-3', 0.001),
        ('1.', 1.0),
        ('.5', 0.5),
        ('-7', -7),
        ('+7', 7),
        ('0', 0),
        ('010', 8),
        ('-0x10', -16),
        ('09', 9.0),
        ('99999999999999999999', 1e20),
        ('1e400', '1e400'),
        ('1_000', '1_000'),
        ('12:30', '12:30'),
        ('2020-01-01', '2020-01-01'),
        ('0b1', '0b1'),
        ('y', True),
        ('NO', False),
        ('yEs', 'yEs'),
        ('.inf', math.inf),
        ('-inf', -math.inf),
        ('infinite', 'infinite'),
        ('CAM', 'CAM'),
    ],
)
def test_unquoted_values_have_the_type_that_rcl_gives_them(text, value):
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_rclpy_gives_the_same_values(tmp_path):
    """The installed rcl is asked itself."""
    rclpy = pytest.importorskip('rclpy')
    given = {f'a{index}': text for index, text in enumerate(['1e-3', '09', '1_000', 'y', '0x1F', '[a, "1"]', '"2"'])}
    text = HEAD + ''.join(f'    {name}: {value}\n' for name, value in given.items())
    ours = read(tmp_path, text).values
    context = rclpy.Context()
    rclpy.init(args=['x', '--ros-args', '--params-file', str(tmp_path / 'p.yaml')], context=context)
    try:
        node = rclpy.create_node('stprune_node', context=context)
        theirs = {name: parameter.value for name, parameter in node._parameter_overrides.items()}
        node.destroy_node()
    finally:
        context.try_shutdown()
    assert ours == theirs


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('    a: 1\n    a: 2\n', "line 4: 'a' is given a second time, first in line 3: remove one"),
        ('    p: {a: 1}\n    q: 2\n    p: {b: 2}\n', "line 5: 'p' is given a second time, first in line 3: put"),
        ('    p.a: 1\n    p:\n      a: 2\n', "line 5: 'p.a' is given a second time, first in line 3"),
        ('    a: &x 1\n    b: *x\n', "line 4: '*x' is an alias, which ROS refuses"),
        ('    p:\n    a: 1\n', "line 3: 'p' has no value; give one, or indent what belongs below it"),
        ('    a: null\n', "line 3: 'a' is null, which ROS reads as a text; remove the line, or write '' or []"),
        ('    a: [0, 1.5]\n', "line 3: 'a' mixes whole numbers and numbers with a point in one list"),
        ('    a: [F, N]\n', "line 3: 'a' mixes true or false and texts in one list, which ROS refuses: put texts in"),
        ('  p: {a: 1}\n', "line 3: 'p' stands beside 'ros__parameters', which ROS refuses: indent it to stand below"),
        ('    a: 1\nother: 3\n', "line 4: 'other' is no node name with 'ros__parameters' below it"),
        ('    a: 1\n/**:\n  ros__parameters: {b: 1}\n', "line 5: node '/**' is given a second time"),
        ('    - 1\n', "line 2: 'ros__parameters' has no parameters below it; indent them"),
    ],
)
def test_what_rcl_refuses_or_would_lose_is_named_with_its_line(tmp_path, text, sentence):
    assert any(problem.startswith(sentence) for problem in read(tmp_path, HEAD + text).problems)
    with pytest.raises(SettingsError):
        load_settings(tmp_path / 'p.yaml')


def test_parameters_without_a_node_name(tmp_path):
    [problem] = read(tmp_path, 'ros__parameters: {history: {frames: 2}}\n').problems
    assert problem == "line 1: 'ros__parameters' has no node name above it; write '/**:' above and indent"


def test_a_tab_is_named_with_its_line(tmp_path):
    with pytest.raises(SettingsError, match='has a tab in line 3: indent with spaces'):
        read(tmp_path, HEAD + '\thistory: {frames: 2}\n')


@pytest.mark.parametrize(
    'name', ['/**', '**', '/*', 'stprune_node', '/stprune_node', '/ns/stprune_node', '/**/stprune_node', '/ns/**']
)
def test_sections_that_reach_the_node(tmp_path, name):
    found = read(tmp_path, f'"{name}": {{ros__parameters: {{history: {{frames: 2}}}}}}\n')
    assert (found.values, found.problems) == ({'history.frames': 2}, ())


def test_a_namespace_may_be_a_key_of_its_own(tmp_path):
    found = read(tmp_path, 'ns:\n  stprune_node: {ros__parameters: {history.frames: 2}}\n')
    assert (found.values, found.problems) == ({'history.frames': 2}, ())


def test_sections_of_other_nodes_are_not_ours(tmp_path):
    driver = 'camera_driver: {ros__parameters: {exposure: 3, pruning: 5}}\n'
    found = read(tmp_path, driver + 'stprune_node: {ros__parameters: {history: {frames: 2}}}\n')
    assert (found.values, found.problems) == ({'history.frames': 2}, ())
    [problem] = read(tmp_path, driver).problems
    assert problem == (
        "no section is for the node 'stprune_node', only for 'camera_driver': name it '/**' or 'stprune_node'"
    )


@pytest.mark.parametrize('order', [1, -1])
def test_the_node_name_wins_over_the_wildcard_in_any_order(tmp_path, order):
    sections = ['/**: {ros__parameters: {history: {frames: 2}, sync: {min_views: 3}}}\n']
    sections += ['/stprune_node: {ros__parameters: {history: {frames: 5}}}\n']
    assert read(tmp_path, ''.join(sections[::order])).values == {'history.frames': 5, 'sync.min_views': 3}


def test_parameters_for_two_nodes(tmp_path):
    text = ''.join(f'/{ns}/stprune_node: {{ros__parameters: {{history: {{frames: 2}}}}}}\n' for ns in 'ab')
    [problem] = read(tmp_path, text).problems
    assert problem.startswith("it holds parameters for several nodes, '/a/stprune_node', '/b/stprune_node'")


def test_what_ros2_param_dump_writes(tmp_path):
    text = """/vehicle/stprune_node:
  ros__parameters:
    cameras:
      anchor: ''
      critical:
      - ''
      names: []
      offsets_ms: []
      stale_after_ms: 1.0e+3
    inference:
      describe: true
    qos_overrides:
      /tf_static:
        subscription:
          depth: 100
    start_type_description_service: true
    use_sim_time: false
"""
    settings = (read(tmp_path, text), load_settings(tmp_path / 'p.yaml'))[1]
    assert settings.cameras.critical == settings.cameras.names == settings.cameras.offsets_ms == ()
    assert settings.cameras.stale_after_ms == 1000.0


def test_an_empty_group_is_no_parameter(tmp_path):
    read(tmp_path, HEAD + '    pruning: {}\n')
    with pytest.raises(SettingsError, match="'pruning' is a group of parameters, no parameter"):
        load_settings(tmp_path / 'p.yaml')
