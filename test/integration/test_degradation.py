"""Every fault of helpers/faults.py upon one node, one after the other: what it says meanwhile, and that it recovers.

docs/degradation.md has a row for each; test/unit/test_degradation_table.py knows which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

import pytest

pytest.importorskip('rclpy')

from conftest import new_domain_id
from helpers.faults import Scene, faults
from helpers.faulty_vehicle import FaultyVehicle
from helpers.harness import AZIMUTH_DEG, PUBLISHERS_ARE_TOLD, FaultyNode, base_values, stamp_ns
from helpers.tiny_models import make_tiny_model
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

from stprune_ros.core.types import CameraState, Status
from stprune_ros.msg import PlanningHint, SceneDescription
from stprune_ros.ros import diagnostics
from stprune_ros.ros.diagnostics import ERROR, WARN

OK, DEGRADED, NO_HINT, STALE, FAILED = Status.OK, Status.DEGRADED, Status.NO_HINT, Status.STALE, Status.ERROR
Level = tuple[bytes, str]
# What is judged over ten seconds outlasts a fault.
OUTLASTS = (diagnostics.SKIPPING, diagnostics.FEW_ANSWERS, diagnostics.CAMERA_SLOW)
QUICK = {
    'all cameras die',
    'left comes late',
    'left has two publishers',
    'front has two publishers',
    'odometry stops',
    'answers come late',
    *(f'score: {how}' for how in ('raise', 'oom', 'memory', 'exit')),
    *(f'{place} and free: raise' for place in ('encode', 'prefill')),
}


@dataclass(frozen=True)
class Expected:
    """What hints say while a fault lasts: their status, at least these states of cameras, a status on /diagnostics.

    ``said`` is in the log. What is not ``steady`` may have another status in between. ``text`` is that of descriptions.
    """

    status: Status
    states: Mapping[str, CameraState] = field(default_factory=dict)
    shown: Mapping[str, Level] = field(default_factory=dict)
    said: str = ''
    steady: bool = True
    text: Status | None = None


def camera(name: str, state: CameraState, level: Level, said: str, **named: bool) -> Expected:
    """A camera that is lost: a critical one costs the hint."""
    return Expected(NO_HINT if name == 'front' else DEGRADED, {name: state}, {f'camera {name}': level}, said, **named)


def expected() -> dict[str, Expected]:
    """By the name of the fault."""
    timing = (WARN, diagnostics.CAMERA_TIMING)
    found = {}
    for name in AZIMUTH_DEG:
        stale = (ERROR, diagnostics.CAMERA_STALE)
        mixed = (ERROR, diagnostics.CAMERA_MIXED)
        frozen, invalid = (ERROR, diagnostics.CAMERA_FROZEN), (ERROR, diagnostics.CAMERA_INVALID)
        left_out = f"image of camera '{name}' is left out: "
        found |= {
            f'{name} dies': camera(name, CameraState.STALE, stale, f"camera '{name}' is silent for"),
            f'{name} freezes': camera(name, CameraState.FROZEN, frozen, f"camera '{name}' sends the same image"),
            f'{name} has no stamps': camera(
                name, CameraState.STALE, timing, f"images of camera '{name}' have no stamp"
            ),
            f'{name} has two publishers': camera(
                name, CameraState.INVALID, mixed, f"images of camera '{name}' come from several publishers in turn"
            ),
            f'{name} is truncated': camera(name, CameraState.INVALID, invalid, f'{left_out}the compressed image'),
            f'{name} is empty': camera(name, CameraState.INVALID, invalid, f'{left_out}the compressed image has no'),
            f'{name} is no image': camera(name, CameraState.INVALID, invalid, f'{left_out}15 bytes of format'),
        }
    for name in ('right', 'left'):
        missing, stale = CameraState.MISSING, CameraState.STALE
        found |= {
            f'{name} repeats a stamp': camera(name, stale, timing, f"images of camera '{name}' repeat their stamp"),
            f'{name} is an hour ahead': camera(name, missing, timing, f"camera '{name}' is 3"),
            f'{name} is an hour behind': camera(name, stale, timing, f"camera '{name}' is 3"),
            f'{name} comes late': camera(name, missing, timing, f"images of camera '{name}' come "),
            f'{name} comes in wrong order': camera(
                name, missing, timing, f"stamps of camera '{name}' went back", steady=False
            ),
            f'{name} sends every third image': camera(name, missing, timing, f"camera '{name}' sends ", steady=False),
            f'{name} has another size': Expected(OK),
        }
    for name in ('front dies', 'front has no stamps', 'front has two publishers', 'all cameras die'):
        found[name] = Expected(
            NO_HINT, {}, found.get(name, found['left dies']).shown, found.get(name, found['left dies']).said
        )
    every = dict.fromkeys(AZIMUTH_DEG, CameraState.FROZEN)
    few = {'synchronisation': (WARN, diagnostics.FEW_VIEWS)}
    return {
        **found,
        'all cameras freeze': Expected(NO_HINT, every, found['left freezes'].shown, found['front freezes'].said),
        'both sides die': Expected(NO_HINT, {}, found['left dies'].shown | few),  # fewer views than sync.min_views
        'left has another shape': camera(
            'left',
            CameraState.MISCALIBRATED,
            (WARN, diagnostics.CAMERA_MISCALIBRATED),
            "camera_info of camera 'left' is for 64x48, its images are 64x96",
        ),
        'front comes late': Expected(OK),
        'front is an hour behind': Expected(NO_HINT, {}, {'camera front': timing}, "the anchor, camera 'front', is 3"),
        'front is an hour ahead': Expected(NO_HINT, {}, few),  # a view alone
        'all cameras are an hour ahead': Expected(
            STALE, {}, {'clock': (WARN, diagnostics.AHEAD)}, 'ahead of the clock, and answers go out as STALE'
        ),
        **odometry(),
        **backend(),
        **others(),
    }


def odometry() -> dict[str, Expected]:
    """Without ego motion a hint is DEGRADED."""
    refused = {'odometry': (WARN, diagnostics.ODOMETRY_NOT_USED)}
    said = {
        'is NaN': 'odometry with NaN or infinite twist is refused',
        'is too fast': 'odometry says 500.0 m/s, more than the 100',
        'is in another frame': "odometry gives its twist in 'elsewhere'",
        'is an hour behind': 'odometry is 3',
        'has no stamps': 'odometry without a stamp is refused',
        'contradicts itself': 'odometry contradicts itself',
        'has two publishers': 'odometry messages come from several publishers in turn',
    }
    return {
        'odometry stops': Expected(DEGRADED, {}, {'odometry': (WARN, diagnostics.NO_ODOMETRY)}, 'no usable odometry'),
        'odometry leaps': Expected(OK, {}, {}, 'odometry leaps from', steady=False),  # two may follow one another
        'the position jumps': Expected(OK, steady=False),  # refused for as long as its window
        **{f'odometry {what}': Expected(DEGRADED, {}, refused, sentence) for what, sentence in said.items()},
    }


def backend() -> dict[str, Expected]:
    """What raises costs the hint, or the description where the hint is out."""
    errors = {
        'raise': 'RuntimeError: CUDA error: device-side assert triggered',
        'oom': 'OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB',
        'memory': 'MemoryError: std::bad_alloc',
        'exit': 'SystemExit: 7',
    }
    failed, hangs = {'inference': (ERROR, diagnostics.FAILED)}, {'inference': (ERROR, diagnostics.HANGS)}
    skips = {'inference': (WARN, diagnostics.SKIPPING)}
    undescribed = {'inference': (WARN, diagnostics.DESCRIPTION_FAILED)}
    found = {}
    for place in ('encode', 'prefill', 'score'):
        for how, error in errors.items():
            found[f'{place}: {how}'] = Expected(FAILED, {}, failed, f'inference failed with {error}', text=FAILED)
        found[f'{place} and free: raise'] = Expected(FAILED, {}, failed, 'caches could not be freed: RuntimeError')
        found[f'{place}: hang'] = Expected(FAILED, {}, hangs, 'inference hangs: a tick has taken more than')
        found[f'{place}: slow'] = Expected(OK, {}, skips)
    found['score: raise, free: slow'] = Expected(FAILED, {}, failed, 'inference failed with RuntimeError')
    found['score: raise, free: hang'] = Expected(FAILED, {}, hangs, 'inference hangs')
    for how, error in errors.items():
        said = f'the description failed with {error}'
        # Not steady: emptying the caches holds the interpreter, and odometry is late then.
        found[f'generate: {how}'] = Expected(OK, {}, undescribed, said, steady=False, text=FAILED)
    not_valid = {'inference': (WARN, diagnostics.NOT_VALID)}
    mute = {'inference': (WARN, diagnostics.DESCRIPTION_NOT_VALID)}
    return {
        **found,
        'generate: hang': Expected(NO_HINT, {}, hangs, 'inference hangs', text=FAILED),
        'generate: slow': Expected(OK, {}, skips),
        'generate: mute': Expected(OK, {}, mute, text=Status.INVALID),
        'score: nan': Expected(Status.INVALID, {}, not_valid),
        'answers come late': Expected(STALE, {}, not_valid, 's after their images and go out as STALE'),
        'hints miss their deadline': Expected(Status.TIMEOUT, {}, not_valid, text=Status.TIMEOUT),
        'descriptions miss their deadline': Expected(OK, text=Status.TIMEOUT),
        'hints miss their target': Expected(
            OK, {}, {'latency': (WARN, diagnostics.TOO_SLOW)}, "'latency.target_ms' is 1, but even at keep ratio"
        ),
    }


def others() -> dict[str, Expected]:
    """The node itself, and time."""
    paused = {'lifecycle': (WARN, diagnostics.NOT_ACTIVE)}
    return {
        'the node pauses': Expected(NO_HINT, {}, paused),
        'the node loads anew': Expected(NO_HINT, {}, paused),
        'parameters change': Expected(OK),
        'left is mounted anew': Expected(OK, {}, {}, 'ring, clockwise: front (front), right (right), left (left)'),
        'left has another camera_info': Expected(
            DEGRADED, {}, {'rig': (WARN, diagnostics.OUTDATED)}, "camera_info of camera 'left' changed"
        ),
        'time jumps back': Expected(OK, {}, {}, 'history flushed: '),
        'a set every three seconds': Expected(OK, {}, {}, 'history flushed: gap of ', steady=False),
        **{f'{rate} sets per second': Expected(OK, steady=rate == 10) for rate in (30, 10, 5)},
        'time stands still': Expected(STALE, {}, {'clock': (WARN, diagnostics.NO_TIME)}),
    }


EXPECTED = expected()
FAULTS = {fault.name: fault for fault in faults()}


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A vehicle and a node that has answered with OK; every test leaves them so."""
    folder = tmp_path_factory.mktemp('degradation')
    model = make_tiny_model(folder / 'tiny', 'ringworld')
    (model / 'stprune.json').unlink(missing_ok=True)
    vehicle = FaultyVehicle(new_domain_id(), '/degradation', lambda camera, at_ns: None)
    values = {
        **base_values(model),
        'use_sim_time': True,
        'sync.min_views': 2,
        'cameras.stale_after_ms': 500.0,
        'cameras.frozen_after_ms': 500.0,
        'inference.max_failures': 0,
        'inference.watchdog_ms': 2500.0,
        'output.heartbeat_ms': 500.0,
        'output.max_ahead_ms': 500.0,  # /clock is coarse
    }
    node = FaultyNode(folder, vehicle, values)

    def change(name: str) -> None:
        request = ChangeState.Request(transition=Transition(id=getattr(Transition, f'TRANSITION_{name.upper()}')))
        assert vehicle.call(ChangeState, 'change_state', request, node).success

    made = Scene(vehicle, node, change, lambda whether: None, Random(1))
    try:
        recovered(made, {})
        yield made
        vehicle.wait_until(lambda: all_is_well(vehicle), 'OK of every status', node)
        assert node.stop() == 0
        assert 'Traceback' not in node.output()
    finally:
        node.stop()
        vehicle.close()


def states(hint: PlanningHint) -> dict[str, int]:
    return {one.name: one.state for one in hint.info.cameras}


def level_of(scene: Scene, name: str) -> Level | None:
    found = scene.vehicle.diagnostic(name)
    return None if found is None else (found.level, found.message)


def all_is_well(vehicle: FaultyVehicle) -> bool:
    """Whether every status is OK again, but for a machine that is slow."""
    found = vehicle.diagnostics[-1].status
    return all(status.level == diagnostics.OK or status.message == diagnostics.SKIPPING for status in found)


def recovered(scene: Scene, shown: Mapping[str, Level]) -> None:
    """An OK hint of a set that is sent from now on, with every camera; what was ``shown`` is OK again or OUTLASTS."""
    vehicle, since = scene.vehicle, len(scene.vehicle.stamps)
    heard = len(vehicle.hints)

    def is_well() -> bool:
        fresh = vehicle.hints[heard:] if len(vehicle.stamps) > since else []
        good = [hint for hint in fresh if hint.status == OK and stamp_ns(hint) in vehicle.stamps]
        levels = [level_of(scene, name) for name in shown]
        well = all(level is None or level[0] == diagnostics.OK or level[1] in OUTLASTS for level in levels)
        return bool(good) and set(states(good[-1]).values()) == {OK} and well

    vehicle.wait_until(is_well, 'recovery', scene.node)


def test_every_fault_has_its_expectation():
    assert EXPECTED.keys() == FAULTS.keys()
    assert FAULTS.keys() >= QUICK


@pytest.mark.parametrize(
    'name', [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EXPECTED]
)
def test_a_fault_is_said_and_passes(scene, name):
    if name.endswith('two publishers') and not PUBLISHERS_ARE_TOLD:
        pytest.skip('rclpy does not tell whose a message is: see test_inputs')
    wanted, vehicle, node = EXPECTED[name], scene.vehicle, scene.node
    ended = node.output().count('inference works again after ')
    undo = FAULTS[name].begin(scene)
    try:
        heard, told = len(vehicle.hints), len(vehicle.texts)

        def fits(hint: PlanningHint) -> bool:
            return hint.status == wanted.status and wanted.states.items() <= states(hint).items()

        vehicle.wait_until(
            lambda: any(map(fits, vehicle.hints[heard:])), f'{wanted.status.name}, {wanted.states}', node
        )
        since = len(vehicle.hints)
        for status, level in wanted.shown.items():
            vehicle.wait_until(lambda s=status, at=level: level_of(scene, s) == at, f'{status}: {level}', node)
        vehicle.wait_until(lambda: wanted.said in node.output(), wanted.said, node)
        if wanted.text is not None:
            vehicle.wait_until(lambda: any(text.status == wanted.text for text in vehicle.texts[told:]), 'text', node)
        if wanted.status == OK:  # nothing is to be seen: for a while
            vehicle.listen_until(lambda: False, 1.5)
            later = len(vehicle.hints)
            vehicle.wait_until(lambda: any(map(fits, vehicle.hints[later:])), 'OK still', node)
        meanwhile = {Status(hint.status) for hint in vehicle.hints[since:]}
        assert not wanted.steady or meanwhile <= {wanted.status, NO_HINT}, meanwhile
        for message in (*vehicle.hints[heard:], *vehicle.texts[told:]):
            check_validity(message)
        failed = [
            hint for hint in vehicle.hints[heard:] if hint.status == FAILED and diagnostics.HANGS not in hint.info.notes
        ]
        for hint in failed:
            assert stamp_ns(hint) in vehicle.stamps  # of the set that failed
            [note] = hint.info.notes
            assert note.startswith('inference failed with ')
    finally:
        undo()
    recovered(scene, wanted.shown)
    assert node.output().count('inference works again after ') - ended <= bool(failed)


def check_validity(message: PlanningHint | SceneDescription) -> None:
    """What is not valid says nothing and is valid for no time."""
    is_text = isinstance(message, SceneDescription)
    if not Status(message.status).is_valid and not (is_text and message.status == SceneDescription.TIMEOUT):
        assert message.valid_for.sec == message.valid_for.nanosec == 0
        assert message.description == '' if is_text else message.behavior == PlanningHint.BEHAVIOR_UNKNOWN
