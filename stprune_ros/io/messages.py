"""Convert answers to messages. The same functions fill rclpy's classes and those of a rosbags typestore.

The only module that imports the compiled messages, and only in `ros_types`: replay works without ROS.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stprune_ros.core.types import Answer, Hint, Status, ViewReport
from stprune_ros.errors import plain
from stprune_ros.settings.settings import Settings, nanoseconds

NAN = float('nan')
MAX_NOTE = 1000  # characters


@dataclass(frozen=True)
class MessageTypes:
    """Message classes, constructed with keyword arguments, and the constructors of uint8[] and float32[] fields."""

    scene_description: Any
    planning_hint: Any
    inference_info: Any
    camera_status: Any
    header: Any
    time: Any
    duration: Any
    uint8s: Callable[[Sequence[int]], Any]
    float32s: Callable[[Sequence[float]], Any]


def ros_types() -> MessageTypes:
    """The compiled message classes, for publishing."""
    from builtin_interfaces.msg import Duration, Time
    from std_msgs.msg import Header

    from stprune_ros.msg import CameraStatus, InferenceInfo, PlanningHint, SceneDescription

    return MessageTypes(
        SceneDescription,
        PlanningHint,
        InferenceInfo,
        CameraStatus,
        Header,
        Time,
        Duration,
        uint8s=lambda values: array.array('B', values),
        float32s=lambda values: array.array('f', values),
    )


def store_types(typestore: Any) -> MessageTypes:
    """The classes of a rosbags typestore that has the messages of this package, for writing bags."""
    types = typestore.types
    return MessageTypes(
        types['stprune_ros/msg/SceneDescription'],
        types['stprune_ros/msg/PlanningHint'],
        types['stprune_ros/msg/InferenceInfo'],
        types['stprune_ros/msg/CameraStatus'],
        types['std_msgs/msg/Header'],
        types['builtin_interfaces/msg/Time'],
        types['builtin_interfaces/msg/Duration'],
        uint8s=lambda values: np.array(values, np.uint8),
        float32s=lambda values: np.array(values, np.float32),
    )


def planning_hint(
    answer: Answer, settings: Settings, types: MessageTypes, output_latency: float = NAN, alive_counter: int = 0
) -> Any:
    """The PlanningHint of an answer: with UNKNOWN and no values unless its status is OK or DEGRADED.

    ``output_latency`` is in seconds from the anchor's stamp to publishing, NaN in a replay; ``alive_counter`` counts
    the messages of the topic, 0 in a replay.
    """
    hint = answer.hint if answer.hint.status.is_valid else Hint(answer.hint.status)
    return types.planning_hint(
        header=header(answer, settings, types),
        valid_for=valid_for(hint.status.is_valid, settings, types),
        alive_counter=alive_counter,
        status=int(hint.status),
        behavior=int(hint.behavior),
        confidence=float(hint.confidence),
        confidence_source=int(hint.confidence_source),
        candidates=types.uint8s([int(behavior) for behavior, _ in hint.distribution]),
        probabilities=types.float32s([probability for _, probability in hint.distribution]),
        info=inference_info(answer, types, output_latency),
    )


def scene_description(
    answer: Answer, settings: Settings, types: MessageTypes, output_latency: float = NAN, alive_counter: int = 0
) -> Any:
    """The SceneDescription of an answer: without text unless its status is OK, DEGRADED or TIMEOUT (cut short)."""
    description = answer.description
    has_text = description.has_text
    return types.scene_description(
        header=header(answer, settings, types),
        valid_for=valid_for(has_text, settings, types),
        alive_counter=alive_counter,
        status=int(description.status),
        description=description.text if has_text else '',
        truncated=description.truncated and has_text,
        info=inference_info(answer, types, output_latency),
    )


def inference_info(answer: Answer, types: MessageTypes, output_latency: float = NAN) -> Any:
    """The InferenceInfo of an answer: its provenance, tokens and times."""
    return types.inference_info(
        sequence=answer.sequence,
        cameras=[_camera_status(view, types) for view in answer.views],
        model_id=answer.provenance.model_id,
        model_revision=answer.provenance.model_revision,
        model_trained=answer.provenance.model_trained,
        prompt_id=answer.provenance.prompt_id,
        hint_calibration_id=answer.provenance.hint_calibration_id,
        method=answer.provenance.method,
        keep_ratio=float(answer.provenance.keep_ratio),
        tokens_full=answer.tokens_full,
        tokens_kept=answer.tokens_kept,
        tokens_text=answer.provenance.tokens_text,
        stage_names=list(answer.timing.stage_ms),
        stage_ms=types.float32s(list(answer.timing.stage_ms.values())),
        output_latency=float(output_latency),
        notes=[plain(note, MAX_NOTE) for note in answer.notes],
    )


def is_fresh(stamp_ns: int, now_ns: int, settings: Settings) -> bool:
    """Whether what was seen at ``stamp_ns`` may be used at ``now_ns``: neither expired nor from the future.

    ``output.valid_for_ms`` and ``output.max_ahead_ms`` bound its age. At ``now_ns`` 0, where simulated time has not
    begun, no age can be told.
    """
    age_ns = now_ns - stamp_ns
    return now_ns != 0 and -nanoseconds(settings.output.max_ahead_ms) <= age_ns <= nanoseconds(
        settings.output.valid_for_ms
    )


def expired(answer: Answer) -> Answer:
    """The answer once it may not be used any more: STALE, where it was valid."""
    hint, description = answer.hint, answer.description
    return replace(
        answer,
        hint=replace(hint, status=Status.STALE) if hint.status.is_valid else hint,
        description=replace(description, status=Status.STALE) if description.has_text else description,
    )


def header(answer: Answer, settings: Settings, types: MessageTypes) -> Any:
    """The Header of every output: the acquisition time of the anchor frame and the vehicle's base frame."""
    return types.header(stamp=_time(answer.stamp_ns, types), frame_id=settings.cameras.base_frame)


def _camera_status(view: ViewReport, types: MessageTypes) -> Any:
    return types.camera_status(
        name=view.camera,
        state=int(view.state),
        stamp=_time(view.stamp_ns, types),
        frames=view.frames,
        tokens_full=view.tokens_full,
        tokens_kept=view.tokens_kept,
    )


def _time(stamp_ns: int, types: MessageTypes) -> Any:
    return types.time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


def valid_for(valid: bool, settings: Settings, types: MessageTypes) -> Any:
    """The Duration for which an output may be used from its stamp on; zero where it is not ``valid``."""
    sec, nanosec = divmod(nanoseconds(settings.output.valid_for_ms) if valid else 0, 10**9)
    return types.duration(sec=sec, nanosec=nanosec)
