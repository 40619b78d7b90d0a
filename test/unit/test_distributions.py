"""Containers, the workflow and the pins of other distributions: what can be checked of them without running them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / 'docker').is_dir(), reason='an installed package brings no containers')
DOCKERFILES = [ROOT / 'docker' / name for name in ('Dockerfile', 'jetson.Dockerfile')]
SCRIPTS = sorted((ROOT / 'docker').glob('*.sh'))
WORKFLOW = ROOT / '.github' / 'workflows' / 'test.yml'
INSTRUCTIONS = {'ARG', 'FROM', 'SHELL', 'ENV', 'COPY', 'RUN', 'WORKDIR', 'ENTRYPOINT', 'CMD'}
WORKSPACE = '/root/ros2_ws/src/stprune_ros'
COMMANDS = ('stprune', 'stprune_node')


def instructions(file: Path) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile with what they are given, on one line."""
    lines = [line for line in file.read_text(encoding='utf-8').splitlines() if not line.startswith('#')]
    found = [line.split(maxsplit=1) for line in '\n'.join(lines).replace('\\\n', ' ').splitlines() if line.strip()]
    return [(name, rest) for name, rest in found]


@pytest.mark.parametrize('file', DOCKERFILES, ids=lambda file: file.name)
def test_containers_are_built_from_what_is_there(file: Path):
    found = instructions(file)
    assert {name for name, _ in found} <= INSTRUCTIONS
    defaults = dict(rest.split('=', 1) for name, rest in found if name == 'ARG')
    [base] = [rest for name, rest in found if name == 'FROM']
    for variable in re.findall(r'\$\{(\w+)\}', base):
        base = base.replace(f'${{{variable}}}', defaults[variable])
    assert re.fullmatch(r'[\w./-]+:[\w.-]+', base) and not base.endswith(':latest'), 'a base with a version'
    for source, target in (rest.split() for name, rest in found if name == 'COPY'):
        assert (ROOT / source).exists() and target == WORKSPACE
    runs = [rest for name, rest in found if name == 'RUN']
    assert any(f'{WORKSPACE}/docker/install.sh' in run for run in runs)
    for run in runs:
        assert ' ; ' not in run and '||' not in run, 'a step that fails ends the build'
        assert 'apt-get update' in run and 'rm -rf /var/lib/apt/lists/*' in run
        assert run.count('apt-get install -y --no-install-recommends') == run.count('apt-get install') == 1
    last = {name: json.loads(rest) for name, rest in found if name in ('ENTRYPOINT', 'CMD', 'SHELL')}
    assert last['ENTRYPOINT'] == [f'{WORKSPACE}/docker/entrypoint.sh']
    assert last['CMD'][0] in COMMANDS
    assert last['SHELL'] == ['/bin/bash', '-o', 'pipefail', '-c']


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda script: script.name)
def test_scripts_of_containers_are_bash_that_stops_at_an_error(script: Path):
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding='utf-8')
    assert text.startswith('#!/usr/bin/env bash\n') and '\nset -eo pipefail' in text
    subprocess.run(['bash', '-n', str(script)], check=True)


def test_containers_install_as_readme_says():
    """Word by word but for the clone, the sourcing of what is already there, and options of pip."""
    [block] = re.findall(r'^```\n(python3 -m venv.*?)^```', (ROOT / 'README.md').read_text(), re.MULTILINE | re.DOTALL)
    recipe = [line for line in block.splitlines() if not line.startswith(('source install', 'cd ~/ros2_ws/src'))]
    script = (ROOT / 'docker' / 'install.sh').read_text(encoding='utf-8')
    script = script.replace(
        '--no-cache-dir ${PIP_OPTIONS:--c stprune_ros/constraints.txt}', '-c stprune_ros/constraints.txt'
    )
    script = script.replace('rosdep update && ', '')
    assert len(recipe) == 3
    places = [script.index(line) for line in recipe]
    assert places == sorted(places)


def test_both_commands_are_in_the_containers():
    script = (ROOT / 'docker' / 'install.sh').read_text(encoding='utf-8')
    [names] = re.findall(r'for name in ([\w ]+); do', script)
    assert tuple(names.split()) == COMMANDS
    installed = (ROOT / 'CMakeLists.txt').read_text(encoding='utf-8')
    assert 'install(PROGRAMS scripts/stprune scripts/stprune_node DESTINATION lib/${PROJECT_NAME})' in installed


def test_workflow_runs_what_there_is():
    tree = yaml.load(WORKFLOW.read_text(encoding='utf-8'), yaml.BaseLoader)
    assert set(tree['on']) == {'push', 'pull_request'} and tree['permissions'] == {'contents': 'read'}
    wheels, workspace = tree['jobs']['wheels'], tree['jobs']['workspace']
    known = {'kilted', *(file.stem for file in (ROOT / 'distributions').glob('*.txt'))}
    assert set(wheels['strategy']['matrix']['distribution']) == known
    assert wheels['strategy']['matrix']['python'] == ['3.10', '3.11', '3.12', '3.13']
    assert workspace['strategy']['matrix']['distribution'] == ['humble', 'jazzy']
    for job in (wheels, workspace):
        assert job['strategy']['fail-fast'] == 'false' and int(job['timeout-minutes']) <= 120
        variables = set(re.findall(r'matrix\.(\w+)', json.dumps(job)))
        assert variables == set(job['strategy']['matrix'])
        for step in job['steps']:
            assert set(step) <= {'uses', 'run', 'with'}
            assert re.fullmatch(r'[\w-]+/[\w-]+@v\d+', step.get('uses', 'a/b@v1')), 'an action with a version'
    runs = [step['run'] for job in (wheels, workspace) for step in job['steps'] if 'run' in step]
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    for words in map(shlex.split, (run.replace('${{ ', '').replace(' }}', '') for run in runs)):
        if words[0] == 'make':
            assert re.search(rf'^{words[1]}:', makefile, re.MULTILINE)
            assert all(re.search(rf'^{word.partition("=")[0]} \?=', makefile, re.MULTILINE) for word in words[2:])
        elif words[:2] == ['docker', 'build']:
            assert (ROOT / words[words.index('-f') + 1]).is_file()
        else:
            assert words[:3] == ['docker', 'run', '--rm']


def copied(folder: Path, distribution: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / 'distributions' / 'copy_tree.py'), distribution, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def requirements(pyproject: Path) -> list[str]:
    return re.findall(r'^  "(ros-[^"]+)",', pyproject.read_text(encoding='utf-8'), re.MULTILINE)


def test_a_copy_has_the_wheels_of_its_distribution_and_nothing_else_changes(tmp_path: Path):
    if not (ROOT / '.git').exists():
        pytest.skip('git lists the sources; this is no checkout')
    (tmp_path / 'built').touch()
    assert copied(tmp_path, 'jazzy').returncode == 0
    pins = [line for line in (ROOT / 'distributions/jazzy.txt').read_text().splitlines() if line.startswith('ros-')]
    assert requirements(tmp_path / 'pyproject.toml') == pins
    assert all('==' in pin and 'kilted' not in pin for pin in pins)
    ours, theirs = ((folder / 'pyproject.toml').read_text().splitlines() for folder in (ROOT, tmp_path))
    assert [line for line in ours if '"ros-' not in line] == [line for line in theirs if '"ros-' not in line]
    assert (tmp_path / 'msg/PlanningHint.msg').read_bytes() == (ROOT / 'msg/PlanningHint.msg').read_bytes()
    assert (tmp_path / 'built').exists()
    # Again: what is the same keeps its time, so that nothing is built anew; what is gone from the sources goes.
    times = {name: (tmp_path / name).stat().st_mtime_ns for name in ('pyproject.toml', 'msg/PlanningHint.msg')}
    with (tmp_path / '.copied').open('a') as file:
        file.write('\nold.py')
    (tmp_path / 'old.py').touch()
    assert copied(tmp_path, 'jazzy').returncode == 0
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in times} == times
    assert not (tmp_path / 'old.py').exists()


def test_a_distribution_that_is_unknown_is_named(tmp_path: Path):
    found = copied(tmp_path, 'foxy')
    assert found.returncode == 1
    assert 'no wheels are known for DISTRO=foxy: write one of kilted, jazzy' in found.stderr


def test_every_wheel_of_kilted_has_its_twin_of_jazzy():
    """By name, but for what only one of the two build with."""
    if 'ros-kilted-' not in (ROOT / 'pyproject.toml').read_text(encoding='utf-8'):
        pytest.skip('this copy has the wheels of another distribution')
    kilted = {name.partition('==')[0].replace('kilted', 'jazzy') for name in requirements(ROOT / 'pyproject.toml')}
    text = (ROOT / 'distributions' / 'jazzy.txt').read_text(encoding='utf-8')
    jazzy = {line.partition('==')[0] for line in text.splitlines() if line.startswith('ros-')}
    assert kilted - jazzy == {'ros-ament-cmake-ros-core'}
    assert jazzy - kilted == {
        'ros-ament-cmake-ros',
        *(f'ros-jazzy-ament-cmake-{name}' for name in ('gmock', 'gtest', 'pytest')),
    }
