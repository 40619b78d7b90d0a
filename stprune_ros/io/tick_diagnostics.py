"""What diagnostics say of a single tick: the names and messages that node and replay share, and a replay's statuses.

Levels are those of diagnostic_msgs/DiagnosticStatus as numbers: 0 OK, 1 WARN, 2 ERROR.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from stprune_ros.core.types import Answer, CameraState, Provenance, Status, ViewReport

OK, WARN, ERROR = 0, 1, 2

# Names of statuses; of a camera: `camera_status`.
MODEL, INFERENCE = 'model', 'inference'

# Messages.
ALL_WELL = 'ok'
UNTRAINED = 'random weights: answers mean nothing'
CAMERA_MISSING = 'no frame in this frame set'  # only in a replay: the node waits until the camera is stale
CAMERA_STALE = 'stale'
CAMERA_INVALID = 'images cannot be used'
CAMERA_FROZEN = 'the same image again and again'
CAMERA_MISCALIBRATED = 'camera_info is for other images'
CAMERA_UNKNOWN = 'nothing is known of this tick'  # where inference failed
FAILED = 'inference failed'
NOT_VALID = 'the last answer was not valid'
DESCRIPTION_NOT_VALID = 'the last description was not valid'

NOT_AVAILABLE = 'n/a'  # a value that does not exist yet

CAMERA_REPORTS = {
    CameraState.UNKNOWN: (WARN, CAMERA_UNKNOWN),
    CameraState.OK: (OK, ALL_WELL),
    CameraState.MISSING: (WARN, CAMERA_MISSING),
    CameraState.STALE: (ERROR, CAMERA_STALE),
    CameraState.FROZEN: (ERROR, CAMERA_FROZEN),
    CameraState.INVALID: (ERROR, CAMERA_INVALID),
    CameraState.MISCALIBRATED: (WARN, CAMERA_MISCALIBRATED),
}


@dataclass(frozen=True, slots=True)
class TickStatus:
    """One status of one tick: ``name`` without the node's, ``level`` a number."""

    name: str
    level: int
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


def camera_status(camera: str) -> str:
    """The name of a camera's status."""
    return f'camera {camera}'


def tick_statuses(answer: Answer, views: tuple[ViewReport, ...]) -> list[TickStatus]:
    """What an answer says of model, cameras (``views``, in ring order) and inference."""
    return [_model(answer.provenance), *map(_camera, views), _inference(answer)]


def model_values(model: Provenance) -> dict[str, str]:
    """Which model answers which prompt."""
    values = {'id': model.model_id, 'revision': model.model_revision, 'prompt': model.prompt_id}
    return {**values, 'hint_calibration': model.hint_calibration_id} if model.hint_calibration_id else values


def timing_values(answer: Answer) -> dict[str, str]:
    """Times of an answer in ms, by stage and in all."""
    timing = answer.timing
    return {
        **{f'{stage}_ms': f'{spent:.1f}' for stage, spent in timing.stage_ms.items()},
        'wait_ms': f'{timing.wait_ms:.1f}',
        'up_to_hint_ms': time_text(timing.hint_ms),
        'tick_ms': time_text(timing.tick_ms),
    }


def tokens_text(kept: int, full: int) -> str:
    """Tokens after and before pruning."""
    return f'{kept}/{full}'


def time_text(time_ms: float) -> str:
    """A time in ms, 'n/a' where it is NaN."""
    return NOT_AVAILABLE if math.isnan(time_ms) else f'{time_ms:.1f}'


def _model(model: Provenance) -> TickStatus:
    level, message = (OK, ALL_WELL) if model.model_trained else (WARN, UNTRAINED)
    return TickStatus(MODEL, level, message, model_values(model))


def _camera(view: ViewReport) -> TickStatus:
    level, message = CAMERA_REPORTS[view.state]
    values = {'frames': str(view.frames), 'tokens': tokens_text(view.tokens_kept, view.tokens_full)}
    return TickStatus(camera_status(view.camera), level, message, values)


def _inference(answer: Answer) -> TickStatus:
    hint, description = answer.hint.status, answer.description.status
    values = {
        'status': hint.name,
        'tokens': tokens_text(answer.tokens_kept, answer.tokens_full),
        **timing_values(answer),
        **{str(number): note for number, note in enumerate(answer.notes)},
    }
    if hint == Status.ERROR:
        return TickStatus(INFERENCE, ERROR, FAILED, values)
    if not hint.is_valid:
        return TickStatus(INFERENCE, WARN, NOT_VALID, values)
    if description in (Status.STALE, Status.INVALID):
        return TickStatus(INFERENCE, WARN, DESCRIPTION_NOT_VALID, values)
    return TickStatus(INFERENCE, OK, ALL_WELL, values)
