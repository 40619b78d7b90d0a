"""One status per failure mode, published on a timer so that they keep reporting when the inputs stop.

What was used and published is judged, not what came in. Monitors match on names and messages: both are constants; what
varies goes into the values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from stprune_ros.core.types import Answer, CameraState, Status
from stprune_ros.errors import plain
from stprune_ros.inference import describer
from stprune_ros.io.tick_diagnostics import (
    ALL_WELL,
    CAMERA_FROZEN,
    CAMERA_INVALID,
    CAMERA_MISCALIBRATED,
    CAMERA_STALE,
    DESCRIPTION_NOT_VALID,
    FAILED,
    INFERENCE,
    MODEL,
    NOT_AVAILABLE,
    NOT_VALID,
    UNTRAINED,
    camera_status,
    model_values,
    time_text,
    timing_values,
    tokens_text,
)
from stprune_ros.ros import health as counted
from stprune_ros.ros import inputs
from stprune_ros.ros.health import ACTIVE, Health
from stprune_ros.settings.settings import Settings

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

# Names of statuses; of a camera: `camera_status`.
LIFECYCLE, RIG, ODOMETRY = 'lifecycle', 'rig', inputs.ODOMETRY
LATENCY, CLOCK, SYNCHRONISATION = 'latency', 'clock', 'synchronisation'

# Messages.
WAITING = 'waiting for calibration'
OUTDATED = 'calibration changed, the ring did not'
INCOMPLETE = 'cameras without usable calibration are left out'
NOT_LOADED = 'no model is loaded'
NO_IMAGES = 'no images'
CAMERA_MIXED = 'images of several publishers'
UNTOLD = 'several publishers, and nothing tells their messages apart'
CAMERA_TIMING = 'time stamps are wrong or out of step'
CAMERA_UNUSED = 'images come, but none is used'
CAMERA_SLOW = 'far fewer images than expected'
NO_ODOMETRY = 'no odometry'
ODOMETRY_NOT_USED = 'odometry is not used'
SKIPPING = 'slower than the cameras: frame sets are skipped'
FEW_ANSWERS = 'few frame sets are answered'
NOTHING_YET = 'no answer yet'
NO_ANSWER = 'no answer for too long'
TOO_SLOW = 'the latency target is out of reach at the lowest keep ratio'
TARGET_MISSED = 'the latency target was missed'
HANGS = 'inference hangs'
DESCRIPTION_FAILED = 'the description failed'
NO_DESCRIPTION = 'no description for too long'
LOADING = 'loading'
LOADING_FAILED = 'loading failed'
NOT_ACTIVE = 'not active: nothing is inferred'
TRANSITION_FAILED = 'the last transition failed'
TWIN = 'another node has the same name'
NO_TIME = 'the age of answers cannot be told'
AHEAD = 'images are ahead of the clock'
JUMPING = 'time goes back again and again'
NO_SETS = 'no frame sets'
FEW_VIEWS = 'most frame sets have too few views'
NOT_FULL = 'most frame sets lack cameras'
CROWDED = 'more images than can be held'

MAX_VALUE = 1000  # characters of a value

ODOMETRY_SILENT_S = 1.0
PATIENCE_S = 5.0  # without an answer, a set or an image that is used
ROUNDS = 3  # ticks or periods that answers may take besides
HEARTBEATS = 2  # without an answer between them
FEW = 1 / 3  # of the images or answers that are expected
AGAIN = 2  # jumps within the ten seconds of the rates; a bag that is played in a loop makes one now and then
ENOUGH = 5  # frame sets or messages to judge by


@dataclass(frozen=True)
class Report:
    """One status: ``name`` without the node's, ``level`` of DiagnosticStatus."""

    name: str
    level: bytes
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


def reports(health: Health, settings: Settings, now: float) -> list[Report]:
    """Every status at ``now`` (time.monotonic() seconds)."""
    return [
        _lifecycle(health),
        _rig(health),
        _model(health),
        *(_camera(camera, health, settings, now) for camera in health.cameras),
        _odometry(health, now),
        _inference(health, settings, now),
        _latency(health, settings),
        _ros_time(health, settings),
        _synchronisation(health, now),
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
            values=[KeyValue(key=key, value=plain(value, MAX_VALUE)) for key, value in report.values.items()],
        )
        for report in found
    ]
    return message


def _rig(health: Health) -> Report:
    unheard = [sentence for (what, _), sentence in health.unheard.items() if what == inputs.CAMERA_INFO]
    values = {str(number): sentence for number, sentence in enumerate([*health.waiting, *unheard])}
    if health.waiting:
        return Report(RIG, WARN, WAITING, values)
    if health.listening_since is None:
        return Report(RIG, WARN, NOT_ACTIVE)
    if health.unusable:
        return Report(RIG, WARN, INCOMPLETE, {str(number): why for number, why in enumerate(health.unusable)})
    return Report(RIG, WARN, OUTDATED, {'0': health.outdated}) if health.outdated else Report(RIG, OK, ALL_WELL)


def _lifecycle(health: Health) -> Report:
    values = {'state': health.state}
    if health.transition_refused:
        values['refused'] = health.transition_refused
    if health.transition_fault:
        return Report(LIFECYCLE, ERROR, TRANSITION_FAILED, {**values, 'reason': health.transition_fault})
    if health.twin:
        return Report(LIFECYCLE, WARN, TWIN, values)
    if health.state != ACTIVE:
        return Report(LIFECYCLE, WARN, NOT_ACTIVE, values)
    return Report(LIFECYCLE, OK, ALL_WELL, values)


def _ros_time(health: Health, settings: Settings) -> Report:
    if health.clock_fault:
        return Report(CLOCK, WARN, NO_TIME, {'reason': health.clock_fault})
    ahead_s = -health.latency_s
    if ahead_s > settings.output.max_ahead_ms / 1e3:
        return Report(CLOCK, WARN, AHEAD, {'ahead_s': f'{ahead_s:.3f}'})
    jumps = health.rates.grown(counted.CLOCK_JUMPS)
    if jumps >= AGAIN:
        return Report(CLOCK, WARN, JUMPING, {'jumps': str(jumps)})
    return Report(CLOCK, OK, ALL_WELL)


def _model(health: Health) -> Report:
    if health.loading_fault:
        return Report(MODEL, ERROR, LOADING_FAILED, {'reason': health.loading_fault})
    if health.loading_s is not None:
        return Report(MODEL, WARN, LOADING, {'loading_s': f'{health.loading_s:.1f}'})
    found = health.model
    if found is None:
        return Report(MODEL, OK, NOT_LOADED)
    values = model_values(found)
    return Report(MODEL, OK, ALL_WELL, values) if found.model_trained else Report(MODEL, WARN, UNTRAINED, values)


def _camera(camera: str, health: Health, settings: Settings, now: float) -> Report:
    name, seen = camera_status(camera), health.cameras[camera]
    said = {'topic': health.unheard.get((inputs.IMAGE, camera)), 'timing': health.timing.get(camera)}
    values = {
        'age_s': NOT_AVAILABLE if seen is None else f'{now - seen:.3f}',
        'view_age_s': _view_age(camera, health.answer),
        **_camera_counts(camera, health),
        **{key: sentence for key, sentence in said.items() if sentence is not None},
    }
    if health.listening_since is None:
        return Report(name, WARN, NOT_ACTIVE, values)
    if seen is None:
        return Report(name, ERROR, NO_IMAGES, values)
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
    if 'timing' in values:
        return Report(name, WARN, CAMERA_TIMING, values)
    if (inputs.IMAGE, camera) in health.untold:
        return Report(name, WARN, UNTOLD, {**values, 'publishers': health.untold[inputs.IMAGE, camera]})
    rates = health.rates
    received = rates.grown(counted.RECEIVED, camera)
    if rates.span_s >= PATIENCE_S and received >= ENOUGH and not rates.grown(counted.USED, camera):
        return Report(name, WARN, CAMERA_UNUSED, values)
    expected = _expected_hz(camera, health)
    if rates.is_full and rates.hz(counted.RECEIVED, camera) < FEW * expected:
        return Report(name, WARN, CAMERA_SLOW, {**values, 'expected_hz': _hz(expected)})
    return Report(name, OK, ALL_WELL, values)


def _view_age(camera: str, answer: Answer | None) -> str:
    """How much older than the anchor's stamp the frame is that the last answer shows of a camera."""
    if answer is None:
        return NOT_AVAILABLE
    stamps = [view.stamp_ns for view in answer.views if view.camera == camera and view.state.has_frame]
    return f'{(answer.stamp_ns - stamps[0]) / 1e9:.3f}' if stamps else NOT_AVAILABLE


def _camera_counts(camera: str, health: Health) -> dict[str, str]:
    received, used = health.received[camera], health.used.get(camera, 0)
    hz = {what: health.rates.hz(what, camera) for what in (counted.RECEIVED, counted.USED, counted.LOST)}
    knows_lost = health.lost is not None
    return {
        counted.RECEIVED: str(received),
        counted.USED: str(used),
        counted.SKIPPED: str(max(received - used, 0)),
        counted.LOST: str((health.lost or {}).get(camera, 0)) if knows_lost else NOT_AVAILABLE,
        'received_hz': _hz(hz[counted.RECEIVED]),
        'used_hz': _hz(hz[counted.USED]),
        'lost_hz': _hz(hz[counted.LOST]) if knows_lost else NOT_AVAILABLE,
    }


def _expected_hz(camera: str, health: Health) -> float:
    """What a camera sends by what DDS lost of it, by what came at best, and by what the others of the ring send."""
    rates = health.rates
    others = [rates.hz(counted.RECEIVED, other) for other in health.cameras if other != camera]
    sent = rates.hz(counted.RECEIVED, camera) + rates.hz(counted.LOST, camera)
    return max(sent, rates.best_hz(counted.RECEIVED, camera), median(others) if others else 0.0)


def _odometry(health: Health, now: float) -> Report:
    rates = health.rates
    received, refused = rates.grown(counted.ODOMETRY_RECEIVED), rates.grown(counted.ODOMETRY_REFUSED)
    values = {
        'age_s': NOT_AVAILABLE if health.odometry is None else f'{now - health.odometry:.3f}',
        counted.RECEIVED: str(health.odometry_received),
        counted.REFUSED: str(health.odometry_refused),
        'received_hz': _hz(rates.hz(counted.ODOMETRY_RECEIVED)),
    }
    if health.odometry is None or now - health.odometry > ODOMETRY_SILENT_S:
        unheard = health.unheard.get((inputs.ODOMETRY, ''))
        return Report(ODOMETRY, WARN, NO_ODOMETRY, {**values, **({'topic': unheard} if unheard else {})})
    reason = health.odometry_fault or (WAITING if health.waiting else '')
    if reason:
        return Report(ODOMETRY, WARN, ODOMETRY_NOT_USED, {**values, 'reason': reason})
    if received >= ENOUGH and 2 * refused > received:
        return Report(ODOMETRY, WARN, ODOMETRY_NOT_USED, values)
    if (inputs.ODOMETRY, '') in health.untold:
        return Report(ODOMETRY, WARN, UNTOLD, {**values, 'publishers': health.untold[inputs.ODOMETRY, '']})
    return Report(ODOMETRY, OK, ALL_WELL, values)


def _inference(health: Health, settings: Settings, now: float) -> Report:
    values = _inference_values(health)
    if health.hang_s:
        return Report(INFERENCE, ERROR, HANGS, {**values, 'hang_s': f'{health.hang_s:.1f}'})
    if health.failures:
        return Report(INFERENCE, ERROR, FAILED, values)
    if _is_overdue(health, settings, now):
        return Report(INFERENCE, WARN, NO_ANSWER, values)
    answer, rates = health.answer, health.rates
    if answer is None:
        return Report(INFERENCE, OK, NOTHING_YET, values)
    if not answer.hint.status.is_valid:
        return Report(INFERENCE, WARN, NOT_VALID, values)
    if health.description_failures:
        return Report(INFERENCE, WARN, DESCRIPTION_FAILED, values)
    if _is_text_overdue(answer, health, settings, now):
        return Report(INFERENCE, WARN, NO_DESCRIPTION, values)
    if settings.inference.describe and health.description in (Status.STALE, Status.INVALID):
        return Report(INFERENCE, WARN, DESCRIPTION_NOT_VALID, values)
    if rates.grown_last(counted.SKIPPED):
        return Report(INFERENCE, WARN, SKIPPING, values)
    begun = sum(rates.grown(fate) for fate in counted.FATES if fate != counted.SKIPPED)
    if begun >= ENOUGH and rates.grown(counted.VALID) < FEW * begun:
        return Report(INFERENCE, WARN, FEW_ANSWERS, values)
    return Report(INFERENCE, OK, ALL_WELL, values)


def _inference_values(health: Health) -> dict[str, str]:
    answer = health.answer
    values = {
        'failures': str(health.failures),
        **{fate: str(health.ticks.get(fate, 0)) for fate in counted.FATES},
        **{what: str(health.hints[what]) for what in (counted.VALID, counted.NOT_VALID)},
        **{f'{what}_hz': _hz(health.rates.hz(what)) for what in (*counted.FATES, counted.VALID)},
        **{f'texts_{fate}': str(health.texts[fate]) for fate in describer.FATES},
        'description': health.description.name if health.description is not None else NOT_AVAILABLE,
        'output_latency_s': f'{health.latency_s:.3f}' if answer is not None else NOT_AVAILABLE,
        'status': answer.hint.status.name if answer is not None else NOT_AVAILABLE,
        'tokens': tokens_text(answer.tokens_kept, answer.tokens_full) if answer is not None else NOT_AVAILABLE,
    }
    return {**values, **timing_values(answer)} if answer is not None else values


def _is_overdue(health: Health, settings: Settings, now: float) -> bool:
    """Whether there should have been an answer by now, if the node listens at all."""
    if health.listening_since is None:
        return False
    answer = health.answer
    if answer is None:
        patience_s = max(PATIENCE_S, ROUNDS * settings.inference.period_ms / 1e3)
    else:  # then heartbeats go out, and say that there is no hint
        patience_s = max(HEARTBEATS * settings.output.heartbeat_ms / 1e3, ROUNDS * _usual_s(answer, health, settings))
    return now - max(health.answered or 0.0, health.listening_since) > patience_s


def _is_text_overdue(answer: Answer, health: Health, settings: Settings, now: float) -> bool:
    """Whether there should have been a description by now, at its own pace, where there are hints."""
    if health.listening_since is None or not settings.inference.describe:
        return False
    period_s = max(_usual_s(answer, health, settings), settings.inference.describe_period_ms / 1e3)
    return now - max(health.described or 0.0, health.listening_since) > max(PATIENCE_S, ROUNDS * period_s)


def _usual_s(answer: Answer, health: Health, settings: Settings) -> float:
    """Time between two answers."""
    period_s = settings.inference.period_ms / 1e3
    return max(answer.timing.tick_ms / 1e3, period_s, min(health.gap_s, PATIENCE_S / ROUNDS))


def _latency(health: Health, settings: Settings) -> Report:
    target_ms, answer = settings.latency.target_ms, health.answer
    if not target_ms:
        return Report(LATENCY, OK, ALL_WELL, {'target_ms': NOT_AVAILABLE})
    timing = answer.timing if answer is not None else None
    choice = timing.choice if timing is not None else None
    values = {
        'target_ms': f'{target_ms:g}',
        'expected_ms': time_text(choice.expected_ms if choice is not None else math.nan),
        'source_to_hint_ms': time_text(timing.source_to_hint_ms if timing is not None else math.nan),
        'keep_ratio': f'{choice.ratio:.4g}' if choice is not None else NOT_AVAILABLE,
    }
    if timing is None:
        return Report(LATENCY, OK, NOTHING_YET, values)
    if choice is not None and choice.misses:
        return Report(LATENCY, WARN, TOO_SLOW, values)
    if not timing.source_to_hint_ms <= target_ms:  # nor where there was no hint
        return Report(LATENCY, WARN, TARGET_MISSED, values)
    return Report(LATENCY, OK, ALL_WELL, values)


def _synchronisation(health: Health, now: float) -> Report:
    rates, begun = health.rates, health.listening_since
    full, partial, skipped = (
        rates.grown(what) for what in (counted.SETS_FULL, counted.SETS_PARTIAL, counted.SETS_SKIPPED)
    )
    values = {
        **{key: str(total) for key, total in sorted(health.counters.items())},
        **{f'{what}_hz': _hz(rates.hz(what)) for what in (counted.SETS_FULL, counted.SETS_PARTIAL)},
        'spread_ms': time_text(health.spread_ms),
    }
    if begun is None or now - begun <= PATIENCE_S:
        return Report(SYNCHRONISATION, OK, NOTHING_YET if not full + partial else ALL_WELL, values)
    if rates.grown(counted.CROWDED):
        return Report(SYNCHRONISATION, WARN, CROWDED, values)
    if skipped > full + partial:
        return Report(SYNCHRONISATION, WARN, FEW_VIEWS, values)
    if now - max(health.set_closed or 0.0, begun) > PATIENCE_S:
        return Report(SYNCHRONISATION, WARN, NO_SETS, values)
    if partial > full:
        return Report(SYNCHRONISATION, WARN, NOT_FULL, values)
    return Report(SYNCHRONISATION, OK, ALL_WELL, values)


def _hz(rate: float) -> str:
    return NOT_AVAILABLE if math.isnan(rate) else f'{rate:.1f}'
