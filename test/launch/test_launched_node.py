"""The real node under the real launch system where that is installed (it is not on PyPI), Ctrl-C included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('launch_ros')  # `launch` alone would find this repository's folder of that name

from helpers.faulty_node import ENVIRONMENT, write_faults
from helpers.harness import TEST, TIMEOUT_S, Listener, Vehicle
from helpers.small_bags import drive, write_bag
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import GetParameters

from stprune_ros.msg import PlanningHint
from stprune_ros.resources import resource_path

CAMERAS = '{cameras: {names: [left, front, right]}, output: {valid_for_ms: 60000.0}, history: {stride_ms: 200.0}}'
RING = ('CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_BACK_RIGHT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_FRONT_LEFT')
NO_MODEL = '{cameras: {names: [front]}, model: {path: /nowhere}}'
# What `ros2 launch` does with a file and words of the command line; GROUP stands before the file in a group.
# Under a terminal launch leaves it to the terminal to interrupt the node; with --noninteractive it does so itself.
PROGRAM = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import SetParameter, SetRemap
name, *words = sys.argv[1:]
arguments = [word.split(':=', 1) for word in words]
include = IncludeLaunchDescription(PythonLaunchDescriptionSource(name), launch_arguments=arguments)
service = LaunchService(argv=words, noninteractive=NONINTERACTIVE)
service.include_launch_description(LaunchDescription([GroupAction([*GROUP, include])]))
sys.exit(service.run())
"""


class Launch:
    """A launch in a process group of its own; it looks to a `Listener` like the node."""

    def __init__(
        self,
        folder: Path,
        domain_id: int,
        words: Sequence[str],
        name: str,
        group: str,
        prefix: Path | None,
        interactive: bool,
    ) -> None:
        self._interactive = interactive
        self._log = folder / 'launch.log'
        paths = [str(prefix or ''), sys.prefix, os.environ.get('AMENT_PREFIX_PATH', '')]
        env = {**os.environ, 'ROS_DOMAIN_ID': str(domain_id), 'AMENT_PREFIX_PATH': os.pathsep.join(filter(None, paths))}
        env['PATH'] = f'{sys.prefix}/bin{os.pathsep}{env["PATH"]}'
        env['PYTHONUNBUFFERED'] = '1'
        program = PROGRAM.replace('GROUP', group).replace('NONINTERACTIVE', str(not interactive))
        with self._log.open('wb') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-c', program, str(resource_path(f'launch/{name}')), *words],
                env=env,
                start_new_session=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def output(self) -> str:
        """What launch and node have printed so far."""
        return self._log.read_text(encoding='utf-8', errors='replace')

    def wait_for(self, words: str, times: int = 1) -> None:
        """Wait until ``words`` were printed so often."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.output().count(words) < times:
            assert time.monotonic() < deadline and self.process.poll() is None, self.output()
            time.sleep(0.05)

    def wait(self) -> int:
        """The exit code once launch has ended; what it printed has no traceback."""
        code = self.process.wait(TIMEOUT_S)
        assert 'Traceback' not in self.output()
        return code

    def interrupt(self) -> None:
        """As Ctrl-C does it: launch, node and who watches over it get the signal; not interactive: launch alone.

        The node ends cleanly within the 5 s after which launch would send SIGTERM.
        """
        if self._interactive:
            os.killpg(self.process.pid, signal.SIGINT)
        else:
            self.process.send_signal(signal.SIGINT)
        assert self.wait() == 0
        said = self.output()
        assert 'process has finished cleanly' in said and 'process has died' not in said, said
        assert 'failed to terminate' not in said and "'SIGTERM'" not in said, said


@contextmanager
def launched(
    folder: Path,
    domain_id: int,
    params: str = CAMERAS,
    *words: str,
    name: str = 'stprune.launch.py',
    group: str = '[]',
    prefix: Path | None = None,
    interactive: bool = True,
) -> Iterator[Launch]:
    """`ros2 launch` of a file of this package with ``params`` in a file and ``words``; whatever is left is killed."""
    file = folder / 'params.yaml'
    file.write_text(f'/**: {{ros__parameters: {params}}}')
    launch = Launch(folder, domain_id, [f'params_file:={file}', *words], name, group, prefix, interactive)
    try:
        yield launch
    finally:
        try:
            os.killpg(launch.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        launch.process.wait(TIMEOUT_S)


@pytest.fixture
def vehicle(domain_id: int) -> Iterator[Vehicle]:
    made = Vehicle(domain_id, '/car')
    yield made
    made.close()


def faulty_install(folder: Path, **faults: str) -> Path:
    """An install prefix whose node is the real one with a backend that fails, see helpers/faulty_node.py."""
    prefix = folder / 'prefix'
    index, programs = prefix / 'share/ament_index/resource_index/packages', prefix / 'lib/stprune_ros'
    for path in (index, programs):
        path.mkdir(parents=True)
    (index / 'stprune_ros').touch()
    write_faults(folder / 'faults.json', **faults)
    program = programs / 'stprune_node'
    program.write_text(
        f'#!/bin/sh\nexport {ENVIRONMENT}="{folder}/faults.json" PYTHONPATH="{TEST}:$PYTHONPATH"\n'
        f'exec "{sys.executable}" -m helpers.faulty_node "$@"\n'
    )
    program.chmod(0o755)
    return prefix


def viewer_install(folder: Path) -> Path:
    """An install prefix whose rviz2 writes down the words that it is started with, and the files that they name."""
    prefix = folder / 'viewer'
    index, programs = prefix / 'share/ament_index/resource_index/packages', prefix / 'lib/rviz2'
    for path in (index, programs):
        path.mkdir(parents=True)
    (index / 'rviz2').touch()
    program = programs / 'rviz2'
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > "{folder}/words"\n'
        f'for word; do if [ -f "$word" ]; then cat "$word"; fi; done > "{folder}/read"\n'
    )
    program.chmod(0o755)
    return prefix


def wait_for_hint(listener: Listener, launch: Launch) -> None:
    """Wait for a valid one."""
    heard = len(listener.hints)
    listener.wait_until(
        lambda: any(hint.status == PlanningHint.OK for hint in listener.hints[heard:]),
        'OK',
        launch,  # type: ignore[arg-type]
    )


def test_launch_passes_the_exit_of_the_node_on(tmp_path: Path, domain_id: int):
    with launched(tmp_path, domain_id, NO_MODEL, 'namespace:=car') as launch:
        launch.wait()
        said = launch.output()
    assert "model folder '/nowhere' does not exist" in said
    assert '/car/stprune_node' in said or 'car.stprune_node' in said
    assert 'exit code 1' in said


@pytest.mark.parametrize('asked', ['true', 'false'])
def test_rviz_shows_the_node_of_the_namespace_where_it_is_asked_for(tmp_path: Path, domain_id: int, asked: str):
    words = ('namespace:=car', f'rviz:={asked}', 'use_sim_time:=true')
    with launched(tmp_path, domain_id, NO_MODEL, *words, prefix=viewer_install(tmp_path)) as launch:
        launch.wait()
    if asked == 'false':
        assert not (tmp_path / 'words').exists()
        return
    given = (tmp_path / 'words').read_text().splitlines()
    assert given[:2] == ['-d', str(resource_path('config/rviz/stprune.rviz'))]
    assert '__ns:=/car' in given and '__node:=stprune_rviz' in given
    assert 'use_sim_time: true' in (tmp_path / 'read').read_text()


@pytest.mark.parametrize('code', [1, 4])
def test_a_node_that_ended_is_started_again(tmp_path: Path, domain_id: int, code: int):
    """1: it cannot start; 4: loading hangs."""
    prefix = faulty_install(tmp_path, **({'load': 'hang'} if code == 4 else {}))
    params = NO_MODEL if code == 1 else '{cameras: {names: [front]}, model: {load_timeout_ms: 1000.0}}'
    with launched(tmp_path, domain_id, params, 'use_respawn:=true', prefix=prefix) as launch:
        launch.wait_for(f'exit code {code}', times=3)
        os.killpg(launch.process.pid, signal.SIGINT)
        assert launch.wait() == 0


def test_a_node_whose_inference_died_is_started_again_and_hints(tmp_path: Path, domain_id: int, vehicle: Vehicle):
    prefix = faulty_install(tmp_path, encode='exit')
    params = CAMERAS.replace('}}', '}, inference: {max_failures: 2}}')
    words = ('namespace:=car', 'use_respawn:=true')
    with launched(tmp_path, domain_id, params, *words, prefix=prefix) as launch:
        vehicle.wait_until(lambda: launch.output().count('exit code 3') >= 2, 'second end', launch)  # type: ignore[arg-type]
        assert launch.output().count('inference failed 2 times in a row (inference.max_failures): the node ends') >= 2
        write_faults(tmp_path / 'faults.json')
        wait_for_hint(vehicle, launch)
        os.killpg(launch.process.pid, signal.SIGINT)
        assert launch.wait() == 0


@pytest.mark.parametrize('interactive', [True, False])
def test_sigint_ends_a_node_that_infers(tmp_path: Path, domain_id: int, vehicle: Vehicle, interactive: bool):
    with launched(tmp_path, domain_id, CAMERAS, 'namespace:=car', interactive=interactive) as launch:
        wait_for_hint(vehicle, launch)
        launch.interrupt()


@pytest.mark.parametrize('words', ['loading the model', 'ring, clockwise'])
def test_ctrl_c_ends_a_node_that_starts(tmp_path: Path, domain_id: int, vehicle: Vehicle, words: str):
    with launched(tmp_path, domain_id, CAMERAS, 'namespace:=car') as launch:
        vehicle.wait_until(lambda: words in launch.output(), words, launch)  # type: ignore[arg-type]
        launch.interrupt()


def test_transitions_are_left_to_others(tmp_path: Path, domain_id: int, vehicle: Vehicle):
    with launched(tmp_path, domain_id, CAMERAS, 'namespace:=car', 'autostart:=false') as launch:
        launch.wait_for('the node is not active: activate it')
        assert 'loading the model' not in launch.output()
        for number in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=number))
            assert vehicle.call(ChangeState, 'change_state', request, launch).success  # type: ignore[arg-type]
        wait_for_hint(vehicle, launch)
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
        assert vehicle.call(ChangeState, 'change_state', request, launch).success  # type: ignore[arg-type]
        launch.interrupt()


def test_six_cameras_with_topics_remaps_and_parameters_from_outside(tmp_path: Path, domain_id: int):
    params = f'{{cameras: {{names: [{", ".join(RING)}], rig_file: "{resource_path("config/rigs/nuscenes.yaml")}"}}}}'
    group = "[SetRemap('~/output/planning_hint', '/planning/hint'), SetParameter('sync.max_wait_ms', 77.0)]"
    words = ('namespace:=car', 'image_topic:=/sensing/{camera}/jpg', 'log_level:=warn', 'use_sim_time:=true')
    listener = Listener(domain_id, '/car')
    try:
        with launched(tmp_path, domain_id, params, *words, group=group) as launch:
            node = listener.node

            def listens() -> bool:
                return all(node.count_subscribers(f'/sensing/{camera}/jpg') for camera in RING)

            listener.wait_until(listens, 'subscriptions', launch)  # type: ignore[arg-type]
            assert node.count_publishers('/planning/hint') == 1
            assert node.count_publishers(f'{listener.node_name}/output/planning_hint') == 0
            assert node.count_subscribers('/clock') == 1
            request = GetParameters.Request(names=['sync.max_wait_ms', 'topics.image', 'use_sim_time'])
            values = listener.call(GetParameters, 'get_parameters', request, launch).values  # type: ignore[arg-type]
            assert values[0].double_value == 77.0
            assert values[1].string_value == '/sensing/{camera}/jpg'
            assert values[2].bool_value
            launch.interrupt()
            assert '[INFO] [car.stprune_node]' not in launch.output()
    finally:
        listener.close()


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['use_respawn:=maybe'], 'Argument "use_respawn" provided value "maybe" is not valid'),
        (['image_topics:=/camera'], "there is no launch argument 'image_topics': write image_topic:=..."),
        (['image_topic:=/camera'], '{camera}'),
        (['rviz:=true'], 'rviz:=true needs RViz, which is not installed: sudo apt install ros-$ROS_DISTRO-rviz2'),
        (['params_file:=/nowhere.yaml'], '/nowhere.yaml'),
    ],
)
def test_a_wrong_argument_ends_in_a_sentence(tmp_path: Path, domain_id: int, words: list[str], sentence: str):
    with launched(tmp_path, domain_id, CAMERAS, *words) as launch:
        code = launch.wait()
        said = launch.output()
    assert sentence in said
    assert code == 1 or 'exit code 1' in said


def test_a_bag_is_played_into_the_node_and_both_end(tmp_path: Path, domain_id: int):
    bag = write_bag(tmp_path / 'bag', drive(ticks=20))
    listener = Listener(domain_id, '')
    try:
        with launched(tmp_path, domain_id, CAMERAS, f'bag:={bag}', 'rate:=0.5', name='replay.launch.py') as launch:
            wait_for_hint(listener, launch)
            assert launch.wait() == 0
            assert launch.output().count('process has finished cleanly') == 2
    finally:
        listener.close()


def test_ctrl_c_ends_node_and_player(tmp_path: Path, domain_id: int):
    bag = write_bag(tmp_path / 'bag', drive(ticks=600))
    listener = Listener(domain_id, '')
    try:
        with launched(tmp_path, domain_id, CAMERAS, f'bag:={bag}', name='replay.launch.py') as launch:
            wait_for_hint(listener, launch)
            os.killpg(launch.process.pid, signal.SIGINT)
            assert launch.wait() == 0
            assert 'failed to terminate' not in launch.output()
    finally:
        listener.close()
