"""`stprune init --live` beside a vehicle whose drivers run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('rclpy')

from helpers.harness import Vehicle

from stprune_ros.settings.parameter_file import load_settings

PROGRAM = 'import sys; from stprune_ros.cli import main; sys.exit(main(sys.argv[1:]))'
TIMEOUT_S = 120.0


def test_a_running_vehicle_gets_a_parameter_file(tmp_path: Path, domain_id: int):
    vehicle = Vehicle(domain_id, '/live')
    params = tmp_path / 'my.param.yaml'
    env = {**os.environ, 'ROS_DOMAIN_ID': str(domain_id)}
    command = [sys.executable, '-c', PROGRAM, 'init', '--live', '--seconds', '6', '--output', str(params)]
    init = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        vehicle.listen_until(lambda: init.poll() is not None, TIMEOUT_S)
        said, complaint = init.communicate(timeout=TIMEOUT_S)
    finally:
        init.kill()
        vehicle.close()
    assert (init.returncode, complaint) == (0, '')
    settings = load_settings(params)
    assert settings.cameras.names == ('front', 'right', 'left')
    assert settings.topics.image == f'{vehicle.node_name}/input/{{camera}}/image/compressed'
    assert settings.topics.camera_info == f'{vehicle.node_name}/input/{{camera}}/camera_info'
    assert settings.topics.odometry == f'{vehicle.node_name}/input/kinematic_state'
    assert settings.cameras.offsets_ms == ()  # they fire together
    assert 'ros2 launch stprune_ros stprune.launch.py' in said


def test_nothing_on_the_network_is_said(tmp_path: Path, domain_id: int):
    env = {**os.environ, 'ROS_DOMAIN_ID': str(domain_id)}
    command = [
        sys.executable,
        '-c',
        PROGRAM,
        'init',
        '--live',
        '--seconds',
        '0.5',
        '--output',
        str(tmp_path / 'p.yaml'),
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    assert 'was seen within 2.5 s; start the drivers, and look at ROS_DOMAIN_ID' in done.stderr
    assert not (tmp_path / 'p.yaml').exists()
