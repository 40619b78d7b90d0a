"""Who may import whom: read from the sources, and tried with the forbidden packages blocked."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / 'stprune_ros'
GENERATED = PACKAGE / 'msg'
SOURCES = sorted(path for path in PACKAGE.rglob('*.py') if GENERATED not in path.parents)
ROS = {
    'rclpy',
    'sensor_msgs',
    'nav_msgs',
    'std_msgs',
    'geometry_msgs',
    'diagnostic_msgs',
    'rcl_interfaces',
    'rosgraph_msgs',
    'builtin_interfaces',
    'tf2_msgs',
    'cv_bridge',
}


def imports(path: Path) -> Iterator[str]:
    """Full name of every module that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f'{path}: relative import'
            yield node.module
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def importers(wanted: set[str]) -> set[str]:
    """Files that import one of the packages, or a module below it."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in SOURCES
        for name in imports(path)
        if any(name == package or name.startswith(f'{package}.') for package in wanted)
    }


def test_the_rules_see_the_sources():
    assert 'ros/node.py' in importers({'rclpy'})
    assert len(SOURCES) > 20


def test_only_ros_imports_ros():
    assert {path for path in importers(ROS) if not path.startswith('ros/')} == set()


def test_only_conversions_imports_the_compiled_messages():
    assert importers({'stprune_ros.msg'}) == {'io/messages.py'}


def test_only_the_backend_imports_transformers():
    training = {path for path in importers({'transformers'}) if path.startswith('ringworld/')}
    assert importers({'transformers'}) - training == {'vlm/hf/library.py'}
    # Training builds its model itself; nothing that runs in a vehicle may reach those files.
    modules = {f'stprune_ros.{path[:-3].replace("/", ".")}' for path in training}
    assert {path for path in importers(modules) if not path.startswith('ringworld/')} == set()


def test_core_and_pruning_know_nothing_above_them():
    above = {f'stprune_ros.{name}' for name in ('ros', 'offline', 'ringworld', 'pipeline', 'cli', 'vlm')}
    assert {path for path in importers(above) if path.startswith(('core/', 'pruning/'))} == set()


def test_core_needs_numpy_only():
    assert {path for path in importers({'torch', 'cv2'}) if path.startswith('core/')} == set()


@pytest.mark.parametrize(
    ('module', 'blocked'),
    [
        ('stprune_ros.core.stream', 'rclpy,transformers,torch,cv2,stprune_ros.msg'),
        ('stprune_ros.pruning.pruner', 'rclpy,transformers,cv2,stprune_ros.msg'),
        ('stprune_ros.inference.pipeline', 'rclpy,transformers,stprune_ros.msg'),
        ('stprune_ros.settings.settings', 'rclpy,transformers,torch,cv2,stprune_ros.msg'),
        ('stprune_ros.io.images', 'rclpy,transformers,torch,sensor_msgs,stprune_ros.msg'),
        ('stprune_ros.io.messages', 'rclpy,transformers,torch,std_msgs,stprune_ros.msg'),
        ('stprune_ros.replay.replay', 'rclpy,transformers,sensor_msgs,stprune_ros.msg'),
        ('stprune_ros.cli', 'rclpy,transformers,torch,cv2,stprune_ros.msg'),
    ],
)
def test_modules_import_without(module, blocked):
    program = f"""
import sys
for name in '{blocked}'.split(','):
    sys.modules[name] = None
import {module}
"""
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
