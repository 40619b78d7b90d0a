"""Checked settings in typed groups: ``settings.pruning.keep_ratio``.

No ROS here, so that a parameter file can be checked on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stprune_ros.errors import SettingsError
from stprune_ros.parameter import Value
from stprune_ros.pruning.config import LEFT_TO_MODEL, PruningConfig
from stprune_ros.settings.parameters import (
    GROUPS,
    PARAMETERS,
    CameraSettings,
    EgoSettings,
    HistorySettings,
    InferenceSettings,
    LatencySettings,
    LifecycleSettings,
    ModelSettings,
    OutputSettings,
    PromptSettings,
    SyncSettings,
    TopicSettings,
    lookup,
)
from stprune_ros.settings.topic_names import wrong_topics


@dataclass(frozen=True)
class Settings:
    """Every parameter, by group; those not given have their default.

    Raises SettingsError for a value out of range or two values that contradict each other.
    """

    lifecycle: LifecycleSettings = field(default_factory=LifecycleSettings)
    cameras: CameraSettings = field(default_factory=CameraSettings)
    topics: TopicSettings = field(default_factory=TopicSettings)
    sync: SyncSettings = field(default_factory=SyncSettings)
    history: HistorySettings = field(default_factory=HistorySettings)
    ego: EgoSettings = field(default_factory=EgoSettings)
    pruning: PruningConfig = field(default_factory=PruningConfig)
    latency: LatencySettings = field(default_factory=LatencySettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    output: OutputSettings = field(default_factory=OutputSettings)

    def __post_init__(self) -> None:
        for name, value in self.values().items():
            lookup(name).parse(value)
        problems = contradictions({group: getattr(self, group) for group in GROUPS})
        if problems:
            raise SettingsError('\n'.join(problems))

    @classmethod
    def from_values(cls, values: Mapping[str, object]) -> Settings:
        """Settings with some parameters given by their dotted names; SettingsError for an unknown or wrong one."""
        return cls(**groups_of(values))

    def changed(self, values: Mapping[str, object]) -> Settings:
        """A copy with some parameters changed, by their dotted names. Raises as `from_values` does."""
        return Settings.from_values({**self.values(), **values})

    def for_model(self, joint_common: float | None) -> Settings:
        """With the weight of commonness that holds for a model, see `PruningConfig.for_model`."""
        return replace(self, pruning=self.pruning.for_model(joint_common))

    def values(self) -> dict[str, Value]:
        """Every parameter by its dotted name."""
        return {found.name: getattr(getattr(self, found.group), found.leaf) for found in PARAMETERS}


def nanoseconds(milliseconds: float) -> int:
    """A time given in ms, as integer nanoseconds."""
    return round(milliseconds * 1e6)


def groups_of(values: Mapping[str, object]) -> dict[str, Any]:
    """The groups, by name, with some parameters given by their dotted names; SettingsError as in `Settings`."""
    given: dict[str, dict[str, object]] = {group: {} for group in GROUPS}
    for name, value in values.items():
        found = lookup(name)
        given[found.group][found.leaf] = found.parse(value)
    return {group: GROUPS[group](**fields) for group, fields in given.items()}


def contradictions(groups: Mapping[str, Any]) -> list[str]:
    """What is wrong in or between parameters of the groups, one sentence each that names parameters and values."""
    return [
        *_camera_contradictions(groups['cameras'], groups['sync']),
        *_weight_contradictions(groups['pruning']),
        *_latency_contradictions(groups['latency'], groups['pruning'], groups['output']),
        *_calibration_contradictions(groups['latency'], groups['prompt']),
        *_watchdog_contradictions(groups['inference']),
        *_engine_contradictions(groups['model']),
        *_side_contradictions(groups['cameras'], groups['model']),
        *wrong_topics(groups['cameras'], groups['topics']),
    ]


def _camera_contradictions(cameras: CameraSettings, sync: SyncSettings) -> list[str]:
    problems = []
    listed = ', '.join(cameras.names)
    if len(set(cameras.names)) != len(cameras.names):
        problems.append(f"parameter 'cameras.names' names a camera twice: {listed}")
    if len(set(cameras.critical)) != len(cameras.critical):
        problems.append(f"parameter 'cameras.critical' names a camera twice: {', '.join(cameras.critical)}")
    if cameras.offsets_ms and len(cameras.offsets_ms) != len(cameras.names):
        problems.append(
            f"parameter 'cameras.offsets_ms' has {len(cameras.offsets_ms)} entries for {len(cameras.names)} cameras"
            " in 'cameras.names'"
        )
    for known in dict.fromkeys(filter(None, [cameras.anchor, *cameras.critical])):
        if cameras.names and known not in cameras.names:
            problems.append(
                f"camera '{known}' in 'cameras.anchor' or 'cameras.critical' is not in 'cameras.names': {listed}"
            )
    if cameras.names and sync.min_views > len(cameras.names):
        problems.append(
            f"parameter 'sync.min_views' is {sync.min_views}, but 'cameras.names' has only {len(cameras.names)}:"
            ' every set would be skipped'
        )
    offset = max(map(abs, cameras.offsets_ms), default=0.0)
    if sync.max_wait_ms < sync.tolerance_ms + offset:
        problems.append(
            f"parameter 'sync.max_wait_ms' is {sync.max_wait_ms:g}, less than 'sync.tolerance_ms' plus the largest of"
            f" 'cameras.offsets_ms', {sync.tolerance_ms:g} + {offset:g}: frames would be given up before they can"
            ' arrive'
        )
    return problems


def _calibration_contradictions(latency: LatencySettings, prompt: PromptSettings) -> list[str]:
    if not (prompt.calibration and latency.target_ms):
        return []
    return [
        f"parameter 'prompt.calibration' is '{prompt.calibration}', which holds for one keep ratio, but"
        f" 'latency.target_ms', {latency.target_ms:g}, lets it follow the machine: set one of them to '' or 0"
    ]


def _engine_contradictions(model: ModelSettings) -> list[str]:
    if model.engine != 'llama.cpp':
        return [
            f"parameter 'model.{name}' is '{given}', but 'model.engine' is '{model.engine}', which does not use it: set"
            " the engine to 'llama.cpp', or remove it"
            for name, given in (('gguf', model.gguf), ('engine_library', model.engine_library))
            if given
        ]
    problems = []
    if not model.gguf:
        problems.append("parameter 'model.engine' is 'llama.cpp', but 'model.gguf' names no file: give it a GGUF file")
    if model.quantization != 'none':
        problems.append(
            f"parameter 'model.quantization' is '{model.quantization}', but with 'model.engine' 'llama.cpp' weights are"
            " as 'model.gguf' has them: set it to 'none'"
        )
    return problems


def _side_contradictions(cameras: CameraSettings, model: ModelSettings) -> list[str]:
    problems = []
    if cameras.refresh_ms > cameras.stale_after_ms:
        problems.append(
            f"parameter 'cameras.refresh_ms' is {cameras.refresh_ms:g}, more than 'cameras.stale_after_ms',"
            f' {cameras.stale_after_ms:g}: views would be shown that are older than what counts as stale'
        )
    if 0 < model.max_image_pixels < model.side_image_pixels:
        problems.append(
            f"parameter 'model.side_image_pixels' is {model.side_image_pixels}, more than 'model.max_image_pixels',"
            f' {model.max_image_pixels}: side cameras would have more pixels than the critical ones; lower it or set it'
            ' to 0'
        )
    if cameras.names and not set(cameras.names) - {cameras.anchor, *cameras.critical}:
        problems += [
            f"parameter '{name}' is {given:g}, but every camera in 'cameras.names' is the anchor or critical: it is for"
            ' the others; set it to 0'
            for name, given in (
                ('cameras.refresh_ms', cameras.refresh_ms),
                ('model.side_image_pixels', model.side_image_pixels),
            )
            if given
        ]
    return problems


def _weight_contradictions(pruning: PruningConfig) -> list[str]:
    """Not of two parameters, but of a range with a gap."""
    if not LEFT_TO_MODEL < pruning.joint_common < 0:
        return []
    return [
        f"parameter 'pruning.joint_common' is {pruning.joint_common}; allowed are 0 to 10, and -1 to leave it to the"
        ' model'
    ]


def _latency_contradictions(latency: LatencySettings, pruning: PruningConfig, output: OutputSettings) -> list[str]:
    problems = []
    if latency.keep_min > latency.keep_max:
        problems.append(
            f"parameter 'latency.keep_min' is {latency.keep_min:g}, more than 'latency.keep_max', {latency.keep_max:g}"
        )
    if latency.target_ms and pruning.method == 'none':
        problems.append(
            f"parameter 'latency.target_ms' is {latency.target_ms:g}, but the method 'none' keeps every"
            " token: choose another 'pruning.method', or 0"
        )
    if latency.target_ms > output.valid_for_ms:
        problems.append(
            f"parameter 'latency.target_ms' is {latency.target_ms:g}, more than 'output.valid_for_ms',"
            f' {output.valid_for_ms:g}: hints would have expired when they come'
        )
    return problems


def _watchdog_contradictions(inference: InferenceSettings) -> list[str]:
    problems = []
    if inference.watchdog_ms and inference.deadline_ms > inference.watchdog_ms:
        problems.append(
            f"parameter 'inference.deadline_ms' is {inference.deadline_ms:g}, more than 'inference.watchdog_ms',"
            f' {inference.watchdog_ms:g}: answers in time would be dropped as those of a hang'
        )
    if inference.abort_ms and inference.abort_ms < inference.watchdog_ms:
        problems.append(
            f"parameter 'inference.abort_ms' is {inference.abort_ms:g}, less than 'inference.watchdog_ms',"
            f' {inference.watchdog_ms:g}: the process would end before a hang is said'
        )
    return problems
