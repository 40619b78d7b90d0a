"""The table of every parameter: one field of one group each, with default, range and meaning.

Node, replay, `stprune check`, the JSON schema and the documentation all read this table.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from stprune_ros.errors import SettingsError
from stprune_ros.parameter import Parameter, parameter, parameters_of
from stprune_ros.pruning.config import PruningConfig

ENGINE_NAMES = ('transformers', 'llama.cpp')  # loaders of that name are in vlm/loading


@dataclass(frozen=True)
class LifecycleSettings:
    """``lifecycle``: the states of a managed node."""

    autostart: bool = parameter(
        True, 'load the model and begin to work at start; off: wait for the transitions configure and activate'
    )


@dataclass(frozen=True)
class CameraSettings:
    """``cameras``: the ring."""

    names: tuple[str, ...] = parameter(
        (), 'camera names; the node subscribes to `~/input/<name>/image`; empty in replay: found in the bag'
    )
    transport: str = parameter('compressed', 'which image topics to subscribe to', choices=('raw', 'compressed'))
    anchor: str = parameter('', 'camera whose stamps define the ticks; empty: the first in ring order')
    critical: tuple[str, ...] = parameter((), 'cameras without which nothing is inferred; empty: the anchor')
    offsets_ms: tuple[float, ...] = parameter(
        (),
        'known trigger offset of each camera in ms, in the order of cameras.names; empty: all 0',
        -1000.0,
        1000.0,
    )
    rig_file: str = parameter(
        '', 'rig file with the geometry of the ring, for rigs without tf; empty: camera_info and /tf_static'
    )
    base_frame: str = parameter('base_link', 'vehicle frame in which the ring order is found')
    frame_convention: str = parameter(
        'optical',
        'axes of the frames that camera_info names: optical (z forward, x right), body (x forward, y left) or'
        ' body_frd (x forward, y right)',
        choices=('optical', 'body', 'body_frd'),
    )
    rectified: str = parameter(
        'auto',
        'whether images are rectified, so that P and R of camera_info count instead of K and D; auto: where the image'
        ' topic says so, as image_rect, image_rect_color or image_undistorted',
        choices=('auto', 'always', 'never'),
    )
    stale_after_ms: float = parameter(1000.0, 'a camera silent for longer than this is stale', 10.0, 60000.0)
    calibration_wait_ms: float = parameter(
        10000.0,
        'a camera whose camera_info or transform has not come for so long after the start is left out, until it comes;'
        ' 0: nothing is inferred before all have come',
        0.0,
        600000.0,
    )
    refresh_ms: float = parameter(
        0.0,
        'event time in which each camera that is neither the anchor nor critical is encoded once, one after another; in'
        ' between its view shows the earlier frame, whose stamp is in CameraStatus; 0: every camera in every tick',
        0.0,
        60000.0,
    )
    frozen_after_ms: float = parameter(
        1000.0,
        'a camera that sends the very same image under new stamps for longer than this is frozen; 0: never, as for'
        ' simulators whose images have no noise',
        0.0,
        600000.0,
    )
    max_pixels: int = parameter(
        0, 'images with more pixels are not decoded; 0: 16 times as many as camera_info says', 0, 2**30
    )
    formats: tuple[str, ...] = parameter(
        ('jpeg', 'png'), 'formats of compressed images that are decoded', choices=('jpeg', 'png', 'bmp', 'tiff')
    )


@dataclass(frozen=True)
class TopicSettings:
    """``topics``: where node, replay, player and launch files look; ``{camera}`` stands for a camera's name."""

    image: str = parameter(
        '',
        'image topic of each camera, with {camera}; empty: ~/input/{camera}/image, with /compressed by'
        ' cameras.transport, in the node, and found in the bag in replay',
    )
    camera_info: str = parameter(
        '',
        'camera_info topic of each camera, with {camera}; empty: ~/input/{camera}/camera_info in the node, and found'
        ' in the bag in replay',
    )
    odometry: str = parameter(
        '', 'odometry topic; empty: ~/input/kinematic_state in the node, and found in the bag in replay'
    )


@dataclass(frozen=True)
class SyncSettings:
    """``sync``: which frames make a set."""

    tolerance_ms: float = parameter(
        50.0, 'largest distance of a frame from the anchor stamp, offsets corrected', 0.0, 1000.0
    )
    max_wait_ms: float = parameter(100.0, 'event time after which a set closes without its missing frames', 1.0, 5000.0)
    max_spread_ms: float = parameter(100.0, 'largest span of the corrected stamps in one set', 0.0, 2000.0)
    min_views: int = parameter(1, 'sets with fewer views are skipped', 1, 64)


@dataclass(frozen=True)
class HistorySettings:
    """``history``: which earlier sets the model sees."""

    frames: int = parameter(4, 'frames per view in one tick, the current one included', 1, 16)
    stride_ms: float = parameter(500.0, 'event time between history frames', 1.0, 60000.0)
    max_gap_ms: float = parameter(2000.0, 'a longer pause between sets flushes the history', 1.0, 600000.0)


@dataclass(frozen=True)
class EgoSettings:
    """``ego``: odometry."""

    max_age_ms: float = parameter(200.0, 'odometry farther than this from the anchor stamp is not used', 1.0, 10000.0)


@dataclass(frozen=True)
class LatencySettings:
    """``latency``: a keep ratio that follows a target."""

    target_ms: float = parameter(
        0.0,
        'the keep ratio is chosen so that hints come this long after the anchor stamp; 0: pruning.keep_ratio stays',
        0.0,
        60000.0,
        dynamic=True,
    )
    keep_min: float = parameter(0.05, 'lowest keep ratio that a latency target may lead to', 0.001, 1.0, dynamic=True)
    keep_max: float = parameter(1.0, 'highest keep ratio that a latency target may lead to', 0.001, 1.0, dynamic=True)


@dataclass(frozen=True)
class ModelSettings:
    """``model``: what is loaded, and where."""

    engine: str = parameter('transformers', 'what runs the model', choices=ENGINE_NAMES)
    path: str = parameter('', 'model folder, or a hub id; empty: the bundled ringworld model')
    gguf: str = parameter('', 'GGUF file with the language model of that folder; with engine llama.cpp only')
    engine_library: str = parameter(
        '', 'libllama.so, such as a build with CUDA; empty: that of llama-cpp-python or xllamacpp, as installed'
    )
    context_tokens: int = parameter(
        8192, 'tokens that the KV cache of engine llama.cpp holds: prompt, questions and text together', 256, 2**20
    )
    revision: str = parameter('', 'hub revision; empty: the default one')
    allow_download: bool = parameter(False, 'let a hub id be downloaded; off: local files only')
    device: str = parameter('auto', 'torch device: auto, cpu, cuda, cuda:0 ...')
    dtype: str = parameter('auto', 'weights and activations', choices=('auto', 'float32', 'bfloat16', 'float16'))
    quantization: str = parameter(
        'none',
        "packs the language model's weights while loading: 4bit and 8bit with bitsandbytes, int4 with torchao; each"
        ' needs accelerate, too',
        choices=('none', '4bit', '8bit', 'int4'),
    )
    max_image_pixels: int = parameter(
        0, 'images are reduced to at most this many pixels; 0: as the model folder says', 0, 2**24
    )
    side_image_pixels: int = parameter(
        0,
        'the same for images of cameras that are neither the anchor nor critical; 0: as model.max_image_pixels says',
        0,
        2**24,
    )
    load_timeout_ms: float = parameter(
        600000.0, 'loading that takes longer ends the process; 0: it may take for ever', 0.0, 86400000.0
    )


@dataclass(frozen=True)
class PromptSettings:
    """``prompt``: what the model is asked."""

    file: str = parameter(
        '', "prompt file; empty: the model folder's own prompt.yaml, else config/prompts/driving.yaml"
    )
    calibration: str = parameter(
        '',
        'calibration file that `stprune calibrate` wrote for this model, prompt, pruning and history; empty: hints'
        " carry the model's probabilities as they come",
    )


@dataclass(frozen=True)
class InferenceSettings:
    """``inference``: when and how long."""

    period_ms: float = parameter(0.0, 'event time between ticks; 0: every frame set', 0.0, 60000.0)
    deadline_ms: float = parameter(
        0.0,
        'processing time of a set after which its text is cut and an unfinished hint dropped; 0: none',
        0.0,
        60000.0,
        dynamic=True,
    )
    describe: bool = parameter(True, 'write a scene description after the hint', dynamic=True)
    describe_period_ms: float = parameter(
        0.0,
        'event time between frame sets that are described; their texts go on between ticks; 0: every set is, and the'
        ' next one waits for the text',
        0.0,
        600000.0,
        dynamic=True,
    )
    max_new_tokens: int = parameter(64, 'longest description in tokens', 1, 1024, dynamic=True)
    max_failures: int = parameter(
        20, 'inference that fails this many times in a row ends the process; 0: it never does', 0, 1000000, dynamic=True
    )
    watchdog_ms: float = parameter(
        10000.0,
        'a tick that takes longer hangs: that is an error, and its answer is dropped; 0: no tick ever hangs',
        0.0,
        3600000.0,
        dynamic=True,
    )
    abort_ms: float = parameter(
        60000.0,
        'a tick that takes longer ends the process, as does a process that stands still for so long; 0: neither does',
        0.0,
        86400000.0,
        dynamic=True,
    )


@dataclass(frozen=True)
class OutputSettings:
    """``output``: what is published."""

    valid_for_ms: float = parameter(
        1000.0, 'hints and descriptions expire this long after the anchor stamp', 1.0, 60000.0, dynamic=True
    )
    heartbeat_ms: float = parameter(
        1000.0, 'a NO_HINT heartbeat goes out when nothing else did for this long', 10.0, 60000.0
    )
    max_ahead_ms: float = parameter(
        100.0,
        "an answer whose anchor stamp is farther than this ahead of the node's clock goes out as STALE",
        0.0,
        60000.0,
        dynamic=True,
    )


GROUPS: Mapping[str, type] = {
    'lifecycle': LifecycleSettings,
    'cameras': CameraSettings,
    'topics': TopicSettings,
    'sync': SyncSettings,
    'history': HistorySettings,
    'ego': EgoSettings,
    'pruning': PruningConfig,
    'latency': LatencySettings,
    'model': ModelSettings,
    'prompt': PromptSettings,
    'inference': InferenceSettings,
    'output': OutputSettings,
}
PARAMETERS: tuple[Parameter, ...] = tuple(
    found for group, settings_class in GROUPS.items() for found in parameters_of(group, settings_class)
)
BY_NAME: Mapping[str, Parameter] = {found.name: found for found in PARAMETERS}
# Names of the last release, still read from files and launch arguments; the new one is named when they are met.
RENAMED: Mapping[str, str] = {
    'pruning.one_pays': 'pruning.keep_one_copy',
    'pruning.scaled_terms': 'pruning.multiplicative_bonus',
}


def lookup(name: str) -> Parameter:
    """The parameter called ``name``; SettingsError naming the nearest known one if there is none."""
    if name in BY_NAME:
        return BY_NAME[name]
    if name in GROUPS:
        raise SettingsError(f"'{name}' is a group of parameters, no parameter: give parameters below it, or remove it")
    near = difflib.get_close_matches(name, BY_NAME, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ''
    raise SettingsError(f"there is no parameter '{name}'{hint}")
