"""Convert answers to messages. The same functions fill rclpy's classes and those of a rosbags typestore.

The only module that imports the compiled messages, and only in `ros_types`: replay works without ROS.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stprune_ros.core.types import Answer, Behavior, ConfidenceSource, Status, ViewReport
from stprune_ros.settings.settings import Settings

NAN = float('nan')
HINT_STATUSES = (Status.OK, Status.DEGRADED)
TEXT_STATUSES = (Status.OK, Status.DEGRADED, Status.TIMEOUT)


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


def planning_hint(answer: Answer, settings: Settings, types: MessageTypes, output_latency: float = NAN) -> Any:
    """The PlanningHint of an answer: with UNKNOWN and no values unless its status is OK or DEGRADED.

    ``output_latency`` is in seconds from the anchor's stamp to publishing, NaN in a replay.
    """
    if answer.status not in HINT_STATUSES:
        answer = replace(
            answer,
            behavior=Behavior.UNKNOWN,
            distribution=(),
            confidence=0.0,
            confidence_source=ConfidenceSource.NONE,
            max_speed=NAN,
            distance=NAN,
        )
    return types.planning_hint(
        header=header(answer, settings, types),
        valid_for=_valid_for(answer.status in HINT_STATUSES, settings, types),
        status=int(answer.status),
        behavior=int(answer.behavior),
        confidence=float(answer.confidence),
        confidence_source=int(answer.confidence_source),
        candidates=types.uint8s([int(behavior) for behavior, _ in answer.distribution]),
        probabilities=types.float32s([probability for _, probability in answer.distribution]),
        max_speed=float(answer.max_speed),
        distance=float(answer.distance),
        info=inference_info(answer, types, output_latency),
    )


def scene_description(answer: Answer, settings: Settings, types: MessageTypes, output_latency: float = NAN) -> Any:
    """The SceneDescription of an answer: without text unless its status is OK, DEGRADED or TIMEOUT (cut short)."""
    valid = answer.description_status in TEXT_STATUSES
    return types.scene_description(
        header=header(answer, settings, types),
        valid_for=_valid_for(valid, settings, types),
        status=int(answer.description_status),
        description=answer.description if valid else '',
        truncated=answer.truncated and valid,
        info=inference_info(answer, types, output_latency),
    )


def inference_info(answer: Answer, types: MessageTypes, output_latency: float = NAN) -> Any:
    """The InferenceInfo of an answer: its provenance, tokens and times."""
    return types.inference_info(
        sequence=answer.sequence,
        cameras=[_camera_status(view, types) for view in answer.views],
        model_id=answer.model_id,
        model_revision=answer.model_revision,
        model_trained=answer.model_trained,
        prompt_id=answer.prompt_id,
        method=answer.method,
        keep_ratio=float(answer.keep_ratio),
        tokens_full=answer.tokens_full,
        tokens_kept=answer.tokens_kept,
        tokens_text=answer.tokens_text,
        stage_names=list(answer.stage_ms),
        stage_ms=types.float32s(list(answer.stage_ms.values())),
        output_latency=float(output_latency),
        notes=list(answer.notes),
    )


def expire(answer: Answer, now_ns: int, settings: Settings) -> Answer:
    """The answer as it is at ``now_ns``: STALE once it is older than ``output.valid_for_ms``, counted from its stamp.

    Nothing expires at ``now_ns`` 0, where simulated time has not begun.
    """
    if now_ns == 0 or now_ns - answer.stamp_ns <= settings.ns('output.valid_for_ms'):
        return answer
    return replace(
        answer,
        status=Status.STALE if answer.status in HINT_STATUSES else answer.status,
        description_status=Status.STALE if answer.description_status in TEXT_STATUSES else answer.description_status,
    )


def header(answer: Answer, settings: Settings, types: MessageTypes) -> Any:
    """The Header of every output: the acquisition time of the anchor frame and the vehicle's base frame."""
    return types.header(stamp=_time(answer.stamp_ns, types), frame_id=settings['cameras.base_frame'])


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


def _valid_for(valid: bool, settings: Settings, types: MessageTypes) -> Any:
    sec, nanosec = divmod(settings.ns('output.valid_for_ms') if valid else 0, 10**9)
    return types.duration(sec=sec, nanosec=nanosec)
