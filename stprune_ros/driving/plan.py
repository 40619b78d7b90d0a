"""What is driven: the worlds, and where the planner's hints come from in each of their drives."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

from stprune_ros.driving import events, measures, planner
from stprune_ros.driving.latency import Latency
from stprune_ros.errors import SettingsError, listed, plain
from stprune_ros.evaluation.variants import FLAGS
from stprune_ros.pruning.config import METHOD_NAMES
from stprune_ros.ringworld import recording, route, traffic, truth, world
from stprune_ros.ringworld.recording import require_rate
from stprune_ros.ringworld.world import SteppedWorld
from stprune_ros.settings.parameters import BY_NAME, lookup
from stprune_ros.settings.settings import Settings

# Of what a drive is and what is measured: raise it where a seed does not give the same drive, or a drive not the same
# measures, as before, and no constant in `RULES` says so.
VERSION = 1
RULES = planner, events, measures, recording, route, traffic, truth, world  # modules whose numbers decide a drive
RINGWORLD, HARD = 'ringworld', 'hard'
WORLDS = RINGWORLD, HARD
NO_HINTS, TRUE_HINTS, ALL_TOKENS, RANDOM = 'no hints', 'true hints', 'all tokens', 'random'
BASELINES = NO_HINTS, TRUE_HINTS, ALL_TOKENS
LEAST_SETS = 2  # of images in a drive: with fewer no hint follows another
# What sets the switches of `stprune eval`, of which a drive takes none.
OF_SWITCHES = {
    'ring': ('pruning.budget',),
    'gauge': ('pruning.gauge_commonness',),
    'even': ('pruning.even_share',),
    **{flag: (f'pruning.{flag}',) for flag in FLAGS},
    'all': tuple(f'pruning.{flag}' for flag in FLAGS),
    'refresh': ('cameras.refresh_ms',),
    'side': ('model.side_image_pixels',),
}
# The ring of ringworld is its own, and what differs between the sources of hints a drive decides.
OF_RING = (
    *('cameras.names', 'cameras.transport', 'cameras.anchor', 'cameras.critical', 'cameras.offsets_ms'),
    *('cameras.rig_file', 'cameras.base_frame', 'cameras.frame_convention', 'cameras.rectified'),
)
OF_DRIVE = (
    *('pruning.keep_ratio', 'pruning.seed', 'latency.target_ms', 'inference.describe', 'prompt.calibration'),
    *OF_RING,
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where hints come from: one of `BASELINES`, or the model behind a pruning method at a keep ratio."""

    method: str
    keep: float = 1.0

    @property
    def name(self) -> str:
        """As tables and files have it."""
        return self.method if self.method in BASELINES else f'{self.method} {self.keep}'

    @property
    def has_model(self) -> bool:
        """Whether the pipeline answers."""
        return self.method not in (NO_HINTS, TRUE_HINTS)


@dataclass(frozen=True, slots=True)
class DrivePlan:
    """``seconds`` of each world in ``seeds``, its cameras at ``hz``, once for each of ``sources``."""

    sources: tuple[Source, ...]
    seeds: Sequence[int]
    world: str
    seconds: float
    hz: float

    def new_world(self, seed: int) -> SteppedWorld:
        """The world of a seed at its beginning."""
        return SteppedWorld(seed, self.seconds, self.world == HARD, apart=True)


def sources_of(methods: Sequence[str], keeps: Sequence[float]) -> tuple[Source, ...]:
    """The baselines, and each method at each ratio below 1; random tokens are always among them.

    Raises SettingsError for a method that does not exist.
    """
    for method in methods:
        if '+' in method:
            raise SettingsError(_no_switches(method))
        if method not in METHOD_NAMES:
            raise SettingsError(f"there is no pruning method '{method}'; choose one of {', '.join(METHOD_NAMES)}")
    pruned = [
        Source(method, keep)
        for method in dict.fromkeys((*methods, RANDOM))
        for keep in dict.fromkeys(keeps)
        if keep < 1 and method != 'none'
    ]
    return (*(Source(name) for name in BASELINES), *pruned)


def _no_switches(method: str) -> str:
    base, *switches = method.split('+')
    found = [OF_SWITCHES.get(name, (f'pruning.{name}',)) for name in (part.partition('=')[0] for part in switches)]
    names = [name for group in found for name in group if name in BY_NAME]
    how = f', and set {listed(names)} in --params' if names else ''
    return f"stprune drive takes no switches, as in '{plain(method)}': name --method '{plain(base)}'{how}"


def settings_of_ringworld(settings: Settings) -> tuple[Settings, list[str]]:
    """The settings with which ringworld is driven, and the parameters of which those given count for nothing."""
    values = settings.values()
    unused = [name for name in OF_DRIVE if values[name] != BY_NAME[name].default]
    return settings.changed({name: BY_NAME[name].default for name in OF_RING if name in unused}), unused


def require_plan(plan: DrivePlan, shown: int) -> None:
    """Raise SettingsError for a duration, a rate or seeds that cannot be, or a world to show that is not driven."""
    highest = lookup('pruning.seed').high
    if highest is not None and plan.seeds[-1] > highest:
        raise SettingsError(
            f'worlds {plan.seeds[0]} to {plan.seeds[-1]} go beyond {highest}, the highest seed that there is:'
            ' choose a lower --first-seed or fewer --scenes'
        )
    plan.new_world(plan.seeds[0])
    require_rate(plan.hz)
    sets = math.floor(plan.seconds * plan.hz + 1e-6)
    if sets < LEAST_SETS:
        raise SettingsError(
            f'a drive of {plan.seconds:g} s at {plan.hz:g} Hz is too short for {LEAST_SETS} sets of images, so that a'
            f' hint follows another; choose --seconds {LEAST_SETS / plan.hz:g} or more'
        )
    if shown not in plan.seeds:
        raise SettingsError(
            f'world {shown} is not driven through, only {plan.seeds[0]} to {plan.seeds[-1]}: change --show'
        )


def settings_for(source: Source, seed: int, settings: Settings) -> Settings:
    """The node's parameters for a drive: a fixed ratio, and no text, which would only keep the next hint waiting."""
    pruning = {} if source.method in BASELINES else {'pruning.method': source.method}
    fixed = {'inference.describe': False, 'latency.target_ms': 0.0, 'prompt.calibration': ''}
    return settings.changed({**fixed, **pruning, 'pruning.keep_ratio': source.keep, 'pruning.seed': seed})


def identity(plan: DrivePlan, latency: Latency, model: Sequence[str], settings: Settings) -> dict[str, Any]:
    """What two drives must have in common to stand in one table: JSON data."""
    pruning = {name: value for name, value in asdict(settings.pruning).items() if name not in ('method', 'keep_ratio')}
    node = settings_for(Source(ALL_TOKENS), 0, settings).values()
    node.pop('model.path')  # the same model may lie anywhere
    keeps = sorted({source.keep for source in plan.sources if source.has_model}, reverse=True)
    return {
        'world': plan.world,
        'seconds': plan.seconds,
        'hz': plan.hz,
        'profile': latency.profile,
        'valid_for_ms': latency.valid_for_ms,
        'up_to_hint_ms': {str(keep): round(latency.up_to_hint_ms(keep), 1) for keep in keeps},
        'model': list(model),
        'pruning': pruning,
        'settings': hashlib.sha256(json.dumps(node, sort_keys=True).encode()).hexdigest()[:16],
        'version': VERSION,
        'rules': {module.__name__.rpartition('.')[2]: constants(module) for module in RULES},
        'limits': {behavior.name: limit for behavior, limit in planner.LIMITS.items()},
    }


def constants(module: ModuleType) -> dict[str, float | list[float]]:
    """The numbers, and the rows of numbers, that a module names in capitals."""
    found: dict[str, float | list[float]] = {}
    for name, value in vars(module).items():
        row = value if isinstance(value, tuple) else (value,)
        if name.isupper() and all(isinstance(one, int | float) for one in row):
            found[name.lower()] = list(row) if isinstance(value, tuple) else value
    return found
