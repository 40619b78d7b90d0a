"""The policies for SROS2 name what node and player really have, and a secured start without libraries fails closed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip('rclpy')

from helpers.harness import Listener, NodeProcess, base_values, playing
from helpers.small_bags import drive, write_bag
from helpers.tiny_models import make_tiny_model
from rclpy.action import get_action_server_names_and_types_by_node

from stprune_ros.core.rig import CameraRig
from stprune_ros.resources import resource_path

RIG = str(resource_path('config/rigs/nuscenes.yaml'))
RING = CameraRig.from_file(RIG).ring
# What the graph of rclpy tells of a node, by the place of a name in the policy.
GRAPH = {
    'topics publish': 'get_publisher_names_and_types_by_node',
    'topics subscribe': 'get_subscriber_names_and_types_by_node',
    'services reply': 'get_service_names_and_types_by_node',
    'services request': 'get_client_names_and_types_by_node',
}
ACTIONS = 'actions execute'
Names = dict[str, set[str]]


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')


def allowed(node_name: str, namespace: str = '') -> Names:
    """The names that the policy allows a node, written out as in ``namespace``; none of them is there twice."""
    policy = ElementTree.parse(resource_path('config/sros2/stprune.policy.xml')).getroot()
    [profile] = [found for found in policy.iter('profile') if found.get('node') == node_name]
    names: dict[str, list[str]] = {place: [] for place in (*GRAPH, ACTIONS)}
    for block in profile:
        [(verb, rule)] = block.attrib.items()
        assert rule == 'ALLOW'
        names[f'{block.tag} {verb}'] += [str(item.text).replace('~', f'{namespace}/{node_name}') for item in block]
    assert all(len(found) == len(set(found)) for found in names.values())
    return {place: set(found) for place, found in names.items()}


def in_graph(listener: Listener, node_name: str, namespace: str = '/') -> Names:
    """The names that a running node has, as far as they have been discovered; those that make an action are one."""
    methods = {place: getattr(listener.node, method) for place, method in GRAPH.items()}
    methods[ACTIONS] = partial(get_action_server_names_and_types_by_node, listener.node)
    found: Names = {}
    for place, method in methods.items():
        try:
            found[place] = {name for name, _ in method(node_name, namespace) if '/_action/' not in name}
        except RuntimeError:  # the node has not been discovered
            found[place] = set()
    return found


def of_cameras(names: Mapping[str, set[str]], cameras: set[str]) -> Names:
    """``names`` without those of the other cameras of the ring."""
    others = set(RING) - cameras
    return {place: {name for name in found if not others & set(name.split('/'))} for place, found in names.items()}


def test_the_policy_names_what_the_node_has(tmp_path: Path, domain_id: int, model: Path):
    listener = Listener(domain_id, '/policy')
    values = {**base_values(model), 'cameras.names': list(RING), 'use_sim_time': True}
    node = NodeProcess(tmp_path, listener, values)
    expected = allowed('stprune_node', '/policy')
    try:
        listener.wait_until(
            lambda: in_graph(listener, 'stprune_node', '/policy') == expected, f'graph {expected}', node
        )
    finally:
        node.stop()
        listener.close()


def test_the_policy_names_what_the_player_has(tmp_path: Path, domain_id: int):
    cameras = dict(zip(('front', 'left', 'right'), ('CAM_FRONT', 'CAM_FRONT_LEFT', 'CAM_FRONT_RIGHT')))
    items = [
        replace(item, topic=re.sub('front|left|right', lambda word: cameras[word[0]], item.topic)) for item in drive(20)
    ]
    bag = write_bag(tmp_path / 'bag', items)
    params = tmp_path / 'player.yaml'
    params.write_text(f'/**: {{ros__parameters: {{cameras: {{names: [{", ".join(cameras.values())}]}}}}}}')
    listener = Listener(domain_id, '')
    expected = of_cameras(allowed('stprune_player'), set(cameras.values()))
    try:
        with playing(bag, listener, '--params', str(params), '--clock', '--wait', '60'):
            listener.listen_until(lambda: in_graph(listener, 'stprune_player') == expected, 60.0)
            assert in_graph(listener, 'stprune_player') == expected
    finally:
        listener.close()


@pytest.mark.parametrize('keystore', [False, True])
def test_a_secured_start_fails_closed(tmp_path: Path, domain_id: int, keystore: bool):
    """With wheels for want of security libraries, elsewhere for want of keys."""
    params = tmp_path / 'params.yaml'
    params.write_text('/**: {ros__parameters: {cameras: {names: [front]}}}')
    env = {**os.environ, 'ROS_DOMAIN_ID': str(domain_id), 'ROS_SECURITY_ENABLE': 'true'}
    env['ROS_SECURITY_STRATEGY'] = 'Enforce'
    if keystore:
        enclave = tmp_path / 'keystore' / 'enclaves'
        enclave.mkdir(parents=True)
        for name in ('identity_ca.cert.pem', 'cert.pem', 'key.pem', 'permissions_ca.cert.pem', 'governance.p7s'):
            (enclave / name).write_text('none')
        (enclave / 'permissions.p7s').write_text('none')
        env['ROS_SECURITY_KEYSTORE'] = str(tmp_path / 'keystore')
    command = [sys.executable, '-m', 'stprune_ros.ros.node', '--ros-args', '--params-file', str(params)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith('ROS_SECURITY_ENABLE is true, which needs security libraries and a keystore: see SECURITY.md')
