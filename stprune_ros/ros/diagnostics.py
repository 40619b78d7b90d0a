"""One status per failure mode, published on a timer so that they keep reporting when the inputs stop.

Monitors match on names and messages: both are constants; what varies goes into the values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from stprune_ros.core.types import Answer, CameraState
from stprune_ros.settings.settings import Settings

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

NOT_AVAILABLE = 'n/a'
ALL_WELL = 'ok'
WAITING = 'waiting for calibration'
OUTDATED = 'calibration changed, the ring did not'
INCOMPLETE = 'cameras without usable calibration are left out'
UNTRAINED = 'random weights: answers mean nothing'
NO_IMAGES = 'no images'
CAMERA_STALE = 'stale'
CAMERA_INVALID = 'images cannot be used'
CAMERA_FROZEN = 'the same image again and again'
CAMERA_MISCALIBRATED = 'camera_info is for other images'
CAMERA_MIXED = 'images of several publishers'
CAMERA_TIMING = 'time stamps are wrong or out of step'
NO_ODOMETRY = 'no odometry'
ODOMETRY_NOT_USED = 'odometry is not used'
SKIPPING = 'slower than the cameras: frame sets are skipped'
FAILED = 'inference failed'
NOTHING_YET = 'no answer yet'
NOT_VALID = 'the last answer was not valid'
TOO_SLOW = 'the latency target is out of reach at the lowest keep ratio'
HANGS = 'inference hangs'
DESCRIPTION_FAILED = 'the description failed'
LOADING = 'loading'
LOADING_FAILED = 'loading failed'
NOT_ACTIVE = 'not active: nothing is inferred'
TRANSITION_FAILED = 'the last transition failed'
NO_TIME = 'the age of answers cannot be told'
AHEAD = 'images are ahead of the clock'

ACTIVE = 'active'  # the state of a managed node in which it works


@dataclass
class Health:
    """What the node has seen, written by its callbacks and its worker; times are time.monotonic() seconds."""

    cameras: dict[str, float | None]  # last image
    odometry: float | None = None  # last message
    odometry_fault: str = ''  # why it is not used
    waiting: tuple[str, ...] = ()  # what is missing before the ring is known
    outdated: str = ''  # in what way the ring is not that of the newest calibration
    unusable: tuple[str, ...] = ()  # why cameras are left out of the ring
    unheard: Mapping[tuple[str, str], str] = field(default_factory=dict)  # why nothing can come: by input and camera
    timing: Mapping[str, str] = field(default_factory=dict)  # what is wrong with the stamps of a camera
    mixed: frozenset[str] = frozenset()  # cameras whose images come from several publishers in turn
    answer: Answer | None = None  # as it was published
    latency_s: float = float('nan')
    skipped: int = 0  # windows that a newer one replaced
    skipped_before: int = 0  # at the last report
    failures: int = 0  # since the last answer
    description_failures: int = 0  # since the last description
    hint_is_out: bool = False  # of the tick in work
    hang_s: float = 0.0  # for how long the tick in work has taken, where that is too long
    ticks: Mapping[str, int] = field(default_factory=dict)  # what became of the windows, see Worker.counts
    state: str = ACTIVE  # of the managed node
    transition_fault: str = ''  # why its last transition failed
    loading_s: float | None = None  # for how long the model has been loading, where it is
    loading_fault: str = ''  # why it could not be loaded
    clock_fault: str = ''  # why no age can be told
    counters: Counter[str] = field(default_factory=Counter)  # of the sensor streams since the node began
    spread_ms: float = math.nan  # span of the stamps in the newest set, offsets taken off

    def silent_cameras(self, settings: Settings, now: float) -> list[str]:
        """A sentence for each camera that sent nothing yet, or nothing for longer than the stale limit."""
        limit = settings.cameras.stale_after_ms / 1e3
        never = [f"camera '{camera}' has sent no image yet" for camera, seen in self.cameras.items() if seen is None]
        ages = {camera: now - seen for camera, seen in self.cameras.items() if seen is not None}
        return never + [f"camera '{camera}' is silent for {age:.0f} s" for camera, age in ages.items() if age > limit]


@dataclass(frozen=True)
class Report:
    """One status: ``name`` without the node's, ``level`` of DiagnosticStatus."""

    name: str
    level: bytes
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


def reports(health: Health, settings: Settings, now: float) -> list[Report]:
    """Every status at ``now`` (time.monotonic() seconds)."""
    cameras = [_camera(camera, seen, health, settings, now) for camera, seen in health.cameras.items()]
    return [
        _lifecycle(health),
        _rig(health),
        _model(health),
        *cameras,
        _odometry(health, now),
        _inference(health),
        _latency(health.answer),
        _clock(health),
        _ros_time(health, settings),
    ]


def to_array(node_name: str, found: list[Report], stamp: object) -> DiagnosticArray:
    """The message for /diagnostics."""
    message = DiagnosticArray()
    message.header.stamp = stamp
    message.status = [
        DiagnosticStatus(
            name=f'{node_name}: {report.name}',
            hardware_id=node_name,
            level=report.level,
            message=report.message,
            values=[KeyValue(key=key, value=value) for key, value in report.values.items()],
        )
        for report in found
    ]
    return message


def _rig(health: Health) -> Report:
    unheard = [sentence for (what, _), sentence in health.unheard.items() if what == 'camera_info']
    values = {str(number): sentence for number, sentence in enumerate([*health.waiting, *unheard])}
    if health.waiting:
        return Report('rig', WARN, WAITING, values)
    if health.unusable:
        return Report('rig', WARN, INCOMPLETE, {str(number): why for number, why in enumerate(health.unusable)})
    return Report('rig', WARN, OUTDATED, {'0': health.outdated}) if health.outdated else Report('rig', OK, ALL_WELL)


def _lifecycle(health: Health) -> Report:
    values = {'state': health.state}
    if health.transition_fault:
        return Report('lifecycle', ERROR, TRANSITION_FAILED, {**values, 'reason': health.transition_fault})
    if health.state != ACTIVE:
        return Report('lifecycle', WARN, NOT_ACTIVE, values)
    return Report('lifecycle', OK, ALL_WELL, values)


def _ros_time(health: Health, settings: Settings) -> Report:
    if health.clock_fault:
        return Report('clock', WARN, NO_TIME, {'reason': health.clock_fault})
    ahead_s = -health.latency_s
    if ahead_s > settings.output.max_ahead_ms / 1e3:
        return Report('clock', WARN, AHEAD, {'ahead_s': f'{ahead_s:.3f}'})
    return Report('clock', OK, ALL_WELL)


def _model(health: Health) -> Report:
    if health.loading_fault:
        return Report('model', ERROR, LOADING_FAILED, {'reason': health.loading_fault})
    if health.loading_s is not None:
        return Report('model', WARN, LOADING, {'loading_s': f'{health.loading_s:.1f}'})
    answer = health.answer
    if answer is None:
        return Report('model', OK, NOTHING_YET)
    found = answer.provenance
    values = {'id': found.model_id, 'revision': found.model_revision, 'prompt': found.prompt_id}
    if found.hint_calibration_id:
        values['hint_calibration'] = found.hint_calibration_id
    return Report('model', OK, ALL_WELL, values) if found.model_trained else Report('model', WARN, UNTRAINED, values)


def _camera(camera: str, seen: float | None, health: Health, settings: Settings, now: float) -> Report:
    name = f'camera {camera}'
    said = {'topic': health.unheard.get(('image', camera)), 'timing': health.timing.get(camera)}
    values = {key: sentence for key, sentence in said.items() if sentence is not None}
    if seen is None:
        return Report(name, ERROR, NO_IMAGES, {'age_s': NOT_AVAILABLE, **values})
    values = {'age_s': f'{now - seen:.3f}', **values}
    if now - seen > settings.cameras.stale_after_ms / 1e3:
        return Report(name, ERROR, CAMERA_STALE, values)
    if camera in health.mixed:
        return Report(name, ERROR, CAMERA_MIXED, values)
    views = health.answer.views if health.answer is not None else ()
    states = [view.state for view in views if view.camera == camera]
    if CameraState.INVALID in states:
        return Report(name, ERROR, CAMERA_INVALID, values)
    if CameraState.FROZEN in states:
        return Report(name, ERROR, CAMERA_FROZEN, values)
    if CameraState.MISCALIBRATED in states:
        return Report(name, WARN, CAMERA_MISCALIBRATED, values)
    return Report(name, WARN, CAMERA_TIMING, values) if 'timing' in values else Report(name, OK, ALL_WELL, values)


def _odometry(health: Health, now: float) -> Report:
    if health.odometry is None or now - health.odometry > 1.0:
        age = NOT_AVAILABLE if health.odometry is None else f'{now - health.odometry:.3f}'
        unheard = health.unheard.get(('odometry', ''))
        return Report('odometry', WARN, NO_ODOMETRY, {'age_s': age, **({'topic': unheard} if unheard else {})})
    values = {'age_s': f'{now - health.odometry:.3f}'}
    if health.odometry_fault:
        return Report('odometry', WARN, ODOMETRY_NOT_USED, {**values, 'reason': health.odometry_fault})
    return Report('odometry', OK, ALL_WELL, values)


def _inference(health: Health) -> Report:
    skipping, health.skipped_before = health.skipped > health.skipped_before, health.skipped
    answer = health.answer
    values = {
        'skipped': str(health.skipped),
        'failures': str(health.failures),
        **{key: str(health.ticks.get(key, 0)) for key in ('done', 'failed', 'dropped', 'cancelled')},
        'output_latency_s': f'{health.latency_s:.3f}' if answer is not None else NOT_AVAILABLE,
        'status': answer.hint.status.name if answer is not None else NOT_AVAILABLE,
        'tokens': f'{answer.tokens_kept}/{answer.tokens_full}' if answer is not None else NOT_AVAILABLE,
    }
    if answer is not None:
        timing = answer.timing
        values.update({f'{stage}_ms': f'{spent:.1f}' for stage, spent in timing.stage_ms.items()})
        values.update(wait_ms=f'{timing.wait_ms:.1f}', up_to_hint_ms=_ms(timing.hint_ms), tick_ms=_ms(timing.tick_ms))
    if health.hang_s:
        return Report('inference', ERROR, HANGS, {**values, 'hang_s': f'{health.hang_s:.1f}'})
    if health.failures:
        return Report('inference', ERROR, FAILED, values)
    if answer is None:
        return Report('inference', OK, NOTHING_YET, values)
    if not answer.hint.status.is_valid:
        return Report('inference', WARN, NOT_VALID, values)
    if health.description_failures:
        return Report('inference', WARN, DESCRIPTION_FAILED, values)
    return Report('inference', WARN, SKIPPING, values) if skipping else Report('inference', OK, ALL_WELL, values)


def _latency(answer: Answer | None) -> Report:
    if answer is None or answer.timing.choice is None:
        return Report('latency', OK, ALL_WELL, {'target_ms': NOT_AVAILABLE})
    choice = answer.timing.choice
    values = {
        'target_ms': f'{choice.target_ms:g}',
        'expected_ms': _ms(choice.expected_ms),
        'source_to_hint_ms': _ms(answer.timing.source_to_hint_ms),
        'keep_ratio': f'{choice.ratio:.4g}',
    }
    return Report('latency', WARN, TOO_SLOW, values) if choice.misses else Report('latency', OK, ALL_WELL, values)


def _ms(time_ms: float) -> str:
    return NOT_AVAILABLE if math.isnan(time_ms) else f'{time_ms:.1f}'


def _clock(health: Health) -> Report:
    values = {key: str(count) for key, count in sorted(health.counters.items())}
    return Report('synchronisation', OK, ALL_WELL, {**values, 'spread_ms': _ms(health.spread_ms)})
