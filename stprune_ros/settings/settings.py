"""Every parameter once: name, default, range, description; node, replay, `stprune check` and the schema read this.

No ROS here, so that a parameter file can be checked on any machine.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stprune_ros.errors import StpruneError

Value = bool | int | float | str | list[str] | list[float]

METHODS = (
    'st_prune',
    'st_prune_joint',
    'mtp',
    'rsp',
    'random',
    'uniform',
    'divprune',
    'tfps',
    'evs',
    'vidcom2',
    'dtd',
    'dart',
    'cdpruner',
    'none',
)


@dataclass(frozen=True)
class Parameter:
    """One parameter: its type is that of ``default``; numbers lie in [low, high]; strings may be a closed choice.

    ``dynamic`` parameters may change while the node runs; the others are read once at start.
    """

    name: str
    default: Value
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    dynamic: bool = False

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        kind = {bool: 'true or false', int: 'an integer', float: 'a number', str: 'a string'}.get(type(self.default))
        if kind is None:
            kind = 'a list of ' + ('strings' if self.name.endswith(('names', 'critical')) else 'numbers')
        if self.choices:
            return 'one of ' + ', '.join(self.choices)
        if self.low is not None:
            return f'{kind} in [{self.low:.12g}, {self.high:.12g}]'
        return kind

    def parse(self, value: Any) -> Value:
        """Check ``value`` and return it in the parameter's type.

        Raises StpruneError naming the parameter, the value and what is allowed.
        """
        default = self.default
        good: bool
        if isinstance(default, bool):
            good = isinstance(value, bool)
        elif isinstance(default, int):
            good = isinstance(value, int) and not isinstance(value, bool)
        elif isinstance(default, float):
            good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            value = float(value) if good else value
        elif isinstance(default, str):
            good = isinstance(value, str) and (not self.choices or value in self.choices)
        else:
            value, good = self._parse_list(value)
        if good and self.low is not None and self.high is not None:
            numbers = value if isinstance(value, list) else [value]
            good = all(self.low <= number <= self.high for number in numbers)
        if not good:
            raise StpruneError(f"parameter '{self.name}' is {value!r}; allowed is {self.allowed}")
        return value  # type: ignore[no-any-return]

    def _parse_list(self, value: Any) -> tuple[Any, bool]:
        if isinstance(value, tuple):
            value = list(value)
        if not isinstance(value, list):
            return value, False
        if self.name.endswith(('names', 'critical')):
            return value, all(isinstance(item, str) and item for item in value)
        if all(isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item) for item in value):
            return [float(item) for item in value], True
        return value, False


PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        'cameras.names',
        [],
        'camera names; the node subscribes to ~/input/<name>/image; empty in replay: found in the bag',
    ),
    Parameter('cameras.transport', 'compressed', 'which image topics to subscribe to', choices=('raw', 'compressed')),
    Parameter('cameras.anchor', '', 'camera whose stamps define the ticks; empty: the first in ring order'),
    Parameter('cameras.critical', [], 'cameras without which nothing is inferred; empty: the anchor'),
    Parameter(
        'cameras.offsets_ms',
        [],
        'known trigger offset of each camera in ms, in the order of cameras.names; empty: all 0',
        -1000.0,
        1000.0,
    ),
    Parameter(
        'cameras.rig_file',
        '',
        'rig file with the geometry of the ring, for rigs without tf; empty: camera_info and /tf_static',
    ),
    Parameter('cameras.base_frame', 'base_link', 'vehicle frame in which the ring order is found'),
    Parameter('cameras.stale_after_ms', 1000.0, 'a camera silent for longer than this is stale', 10.0, 60000.0),
    Parameter(
        'sync.tolerance_ms', 50.0, 'largest distance of a frame from the anchor stamp, offsets corrected', 0.0, 1000.0
    ),
    Parameter('sync.max_wait_ms', 100.0, 'event time after which a set closes without its missing frames', 1.0, 5000.0),
    Parameter('sync.max_spread_ms', 100.0, 'largest span of the corrected stamps in one set', 0.0, 2000.0),
    Parameter('sync.min_views', 1, 'sets with fewer views are skipped', 1, 64),
    Parameter('history.frames', 4, 'frames per view in one tick, the current one included', 1, 16),
    Parameter('history.stride_ms', 500.0, 'event time between history frames', 1.0, 60000.0),
    Parameter('history.max_gap_ms', 2000.0, 'a longer pause between sets flushes the history', 1.0, 600000.0),
    Parameter('ego.max_age_ms', 200.0, 'odometry farther than this from the anchor stamp is not used', 1.0, 10000.0),
    Parameter('pruning.method', 'st_prune_joint', 'how tokens are selected', choices=METHODS, dynamic=True),
    Parameter('pruning.keep_ratio', 0.1, 'share of visual tokens that the model sees', 0.001, 1.0, dynamic=True),
    Parameter(
        'pruning.lambda_temporal', 0.6, 'weight of volatility and recency in temporal pruning', 0.0, 10.0, dynamic=True
    ),
    Parameter(
        'pruning.lambda_spatial', 0.8, 'weight of neighbour similarity in ring-view pruning', 0.0, 10.0, dynamic=True
    ),
    Parameter('pruning.joint_volatility', 0.3, 'weight of volatility in st_prune_joint', 0.0, 10.0, dynamic=True),
    Parameter('pruning.joint_recency', 0.7, 'weight of recency in st_prune_joint', 0.0, 10.0, dynamic=True),
    Parameter(
        'pruning.joint_common', 2.4, 'weight of likeness to other views in st_prune_joint', 0.0, 10.0, dynamic=True
    ),
    Parameter(
        'pruning.compensate_motion',
        False,
        'measure volatility along the motion that odometry and calibration explain, so that turning is not motion',
        dynamic=True,
    ),
    Parameter(
        'pruning.calibrated_overlap',
        False,
        'let only tokens within the overlap of two views, as calibrated, count as copies of one another',
        dynamic=True,
    ),
    Parameter(
        'pruning.one_pays',
        False,
        'let only one view of a pair pay for a copy, so that an object in the overlap cannot vanish from both',
        dynamic=True,
    ),
    Parameter(
        'pruning.skip_frozen',
        False,
        'take frames that a frozen camera repeats for what they are, not for a scene that stands still',
        dynamic=True,
    ),
    Parameter(
        'pruning.scaled_terms',
        False,
        'let volatility, recency and likeness scale the distance to kept tokens instead of being added to it',
        dynamic=True,
    ),
    Parameter('pruning.seed', 0, 'seed of the method random', 0, 2**31 - 1, dynamic=True),
    Parameter(
        'latency.target_ms',
        0.0,
        'the keep ratio is chosen so that hints come this long after the anchor stamp; 0: pruning.keep_ratio stays',
        0.0,
        60000.0,
        dynamic=True,
    ),
    Parameter(
        'latency.keep_min', 0.05, 'lowest keep ratio that a latency target may lead to', 0.001, 1.0, dynamic=True
    ),
    Parameter(
        'latency.keep_max', 1.0, 'highest keep ratio that a latency target may lead to', 0.001, 1.0, dynamic=True
    ),
    Parameter('model.path', '', 'model folder, or a hub id; empty: the bundled ringworld model'),
    Parameter('model.revision', '', 'hub revision; empty: the default one'),
    Parameter('model.allow_download', False, 'let a hub id be downloaded; off: local files only'),
    Parameter('model.device', 'auto', 'torch device: auto, cpu, cuda, cuda:0 ...'),
    Parameter('model.dtype', 'auto', 'weights and activations', choices=('auto', 'float32', 'bfloat16', 'float16')),
    Parameter(
        'model.quantization',
        'none',
        "packs the language model's weights while loading; needs bitsandbytes and accelerate",
        choices=('none', '4bit', '8bit'),
    ),
    Parameter(
        'model.max_image_pixels',
        0,
        'images are reduced to at most this many pixels; 0: as the model folder says',
        0,
        2**24,
    ),
    Parameter(
        'prompt.file', '', "prompt file; empty: the model folder's own prompt.yaml, else config/prompts/driving.yaml"
    ),
    Parameter('inference.period_ms', 0.0, 'event time between ticks; 0: every frame set', 0.0, 60000.0),
    Parameter(
        'inference.deadline_ms',
        0.0,
        'processing time after which the text is cut and an unfinished hint dropped; 0: none',
        0.0,
        60000.0,
        dynamic=True,
    ),
    Parameter('inference.describe', True, 'write a scene description after the hint', dynamic=True),
    Parameter('inference.max_new_tokens', 64, 'longest description in tokens', 1, 1024, dynamic=True),
    Parameter(
        'output.valid_for_ms',
        1000.0,
        'hints and descriptions expire this long after the anchor stamp',
        1.0,
        60000.0,
        dynamic=True,
    ),
    Parameter(
        'output.heartbeat_ms', 1000.0, 'a NO_HINT heartbeat goes out when nothing else did for this long', 10.0, 60000.0
    ),
)

BY_NAME: Mapping[str, Parameter] = {parameter.name: parameter for parameter in PARAMETERS}


class Settings(Mapping[str, Value]):
    """Checked values of every parameter, by dotted name; those not given have their default.

    Raises StpruneError for an unknown name (with the nearest known one) or a value out of range.
    """

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        self._values: dict[str, Value] = {parameter.name: parameter.default for parameter in PARAMETERS}
        for name, value in (values or {}).items():
            self._values[name] = lookup(name).parse(value)
        check_together(self)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def ns(self, name: str) -> int:
        """A parameter given in ms, as integer nanoseconds."""
        milliseconds: float = self[name]
        return round(milliseconds * 1e6)

    def replace(self, **values: Any) -> Settings:
        """A copy with some values changed; names with ``__`` for the dot."""
        return Settings({**self._values, **{name.replace('__', '.'): value for name, value in values.items()}})


def lookup(name: str) -> Parameter:
    """The parameter called ``name``; StpruneError naming the nearest known one if there is none."""
    if name in BY_NAME:
        return BY_NAME[name]
    near = difflib.get_close_matches(name, BY_NAME, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ''
    raise StpruneError(f"there is no parameter '{name}'{hint}")


def check_together(settings: Settings) -> None:
    """Rules that concern two parameters; raises StpruneError naming both numbers."""
    names, offsets = settings['cameras.names'], settings['cameras.offsets_ms']
    if len(set(names)) != len(names):
        raise StpruneError(f"parameter 'cameras.names' names a camera twice: {', '.join(names)}")
    if offsets and len(offsets) != len(names):
        raise StpruneError(
            f"parameter 'cameras.offsets_ms' has {len(offsets)} entries for {len(names)} cameras in 'cameras.names'"
        )
    for known in [settings['cameras.anchor'], *settings['cameras.critical']]:
        if names and known and known not in names:
            raise StpruneError(
                f"camera '{known}' in 'cameras.anchor' or 'cameras.critical' is not in 'cameras.names':"
                f' {", ".join(names)}'
            )
    if settings['latency.keep_min'] > settings['latency.keep_max']:
        raise StpruneError(
            f"parameter 'latency.keep_min' is {settings['latency.keep_min']:g}, more than 'latency.keep_max',"
            f' {settings["latency.keep_max"]:g}'
        )
    if settings['latency.target_ms'] and settings['pruning.method'] == 'none':
        raise StpruneError(
            f"parameter 'latency.target_ms' is {settings['latency.target_ms']:g}, but the method 'none' keeps every"
            " token: choose another 'pruning.method', or 0"
        )
    reach = settings['sync.tolerance_ms'] + max((abs(offset) for offset in offsets), default=0.0)
    if settings['sync.max_wait_ms'] < reach:
        raise StpruneError(
            f"parameter 'sync.max_wait_ms' is {settings['sync.max_wait_ms']:g}, less than tolerance plus offset,"
            f' {reach:g}: frames would be given up before they can arrive'
        )


def flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Nested YAML mappings as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f'{prefix}{key}'
        if isinstance(value, Mapping):
            flat.update(flatten(value, f'{name}.'))
        else:
            flat[name] = value
    return flat


def read_file(path: str | Path) -> dict[str, Any]:
    """Parameters of a ROS 2 parameter file (``<node>: ros__parameters: ...``), dotted and unchecked.

    Raises StpruneError where the file is missing, is no YAML, or holds no ``ros__parameters``.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text(encoding='utf-8'))
    except OSError as error:
        raise StpruneError(f"parameter file '{path}' cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StpruneError(f"parameter file '{path}' is not YAML: {' '.join(str(error).split())}") from None
    nodes = tree if isinstance(tree, dict) else {}
    found = [
        value['ros__parameters'] for value in nodes.values() if isinstance(value, dict) and 'ros__parameters' in value
    ]
    if not found:
        raise StpruneError(f"parameter file '{path}' has no 'ros__parameters' under a node name such as '/**'")
    flat: dict[str, Any] = {}
    for parameters in found:
        flat.update(flatten(parameters or {}))
    flat.pop('use_sim_time', None)  # rclpy's own
    return {name: value for name, value in flat.items() if not name.startswith('qos_overrides.')}


def load(path: str | Path) -> Settings:
    """Settings from a parameter file; every wrong key and value is named in one StpruneError, one a line."""
    problems = problems_in(read_file(path))
    if problems:
        raise StpruneError('\n'.join(f'{path}: {problem}' for problem in problems))
    return Settings(read_file(path))


def problems_in(values: Mapping[str, Any]) -> list[str]:
    """Each wrong key or value as one sentence; empty where all is well."""
    problems = []
    for name, value in values.items():
        try:
            lookup(name).parse(value)
        except StpruneError as error:
            problems.append(str(error))
    if not problems:
        try:
            Settings(values)
        except StpruneError as error:
            problems.append(str(error))
    return problems
