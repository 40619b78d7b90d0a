"""The load script counts what it says: small pictures from a real publisher to the real node."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('rclpy')

from helpers.harness import TIMEOUT_S

from stprune_ros.resources import dds_profile

SCRIPT = Path(__file__).resolve().parents[2] / 'benchmark' / 'load.py'


def test_a_profile_is_given_to_its_own_runs_only(monkeypatch: pytest.MonkeyPatch):
    if not SCRIPT.is_file():
        pytest.skip('the sources are not here')
    script = runpy.run_path(str(SCRIPT))
    variable, file = dds_profile()
    monkeypatch.setenv(variable, '/of/whoever/started/this.xml')
    monkeypatch.setenv('CYCLONEDDS_URI', 'file:///another.xml')
    environment = script['environment']
    assert environment('fastdds', 7)[variable] == file
    for profile in ('none', 'cyclonedds'):
        assert variable not in environment(profile, 7)
    assert 'CYCLONEDDS_URI' not in environment('none', 7) and 'RMW_IMPLEMENTATION' not in environment('none', 7)
    assert environment('none', 7)['ROS_DOMAIN_ID'] == '7'


def load(tmp_path: Path, domain_id: int, payload: str, profile: str, *more: str) -> tuple[str, list[dict]]:
    """What the script prints and writes about one short run at 10 Hz."""
    if not SCRIPT.is_file():
        pytest.skip('the sources are not here')
    output = tmp_path / 'load.json'
    command = [sys.executable, str(SCRIPT), '--output', str(output), '--domain', str(domain_id)]
    command += ['--payload', payload, '--profile', profile, '--hz', '10', '--seconds', '4', '--warm-up', '1', *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(output.read_text())['runs']


@pytest.mark.parametrize(('payload', 'profile'), [('rgb8', 'none'), ('jpeg', 'fastdds')])
def test_small_pictures_are_counted_on_both_sides(tmp_path: Path, domain_id: int, payload: str, profile: str):
    printed, [run] = load(tmp_path, domain_id, payload, profile, '--size', '160', '90')
    assert (run['payload']['name'], run['profile'], run['payload']['width']) == (payload, profile, 160)
    assert run['bytes'] == 160 * 90 * 3 if payload == 'rgb8' else run['bytes'] < 160 * 90 * 3
    assert len(run['cameras']) == 6
    for camera, counts in run['cameras'].items():
        # A busy machine may send fewer than 40, and lose some.
        assert 0 < counts['received'] <= counts['published'] <= 40
        assert 0 < counts['used'] <= 2 * counts['received']
        assert counts['lost'] <= counts['published']
        rates = [f'{counts[what] / run["seconds"]:.1f}' for what in ('published', 'received', 'used')]
        missing = counts['published'] - counts['received']
        assert f'| {camera} | {" | ".join(rates)} | {missing} | {counts["lost"]} |' in printed
    assert run['published_hz'] == pytest.approx(run['cameras'][camera]['published'] / run['seconds'], abs=0.1)
    assert run['hints'] > 0
    assert run['cpu_percent']['node'] > 0
    for who in ('node', 'publisher'):
        assert 0 <= run['cpu_percent'][who] < 800  # small pictures may take less than the kernel counts
        assert 50 < run['rss_mib'][who] < 4000
    assert f'node {run["cpu_percent"]["node"]:g} % of a core' in printed
