"""Names of methods with their switches, such as 'st_prune+keep_one_copy'; needs no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stprune_ros.errors import StpruneError
from stprune_ros.pruning.config import METHOD_NAMES, PruningConfig
from stprune_ros.settings.parameters import RENAMED
from stprune_ros.settings.settings import Settings

WHOLE_FIRST_FRAME = ('evs', 'dtd')  # methods that always keep the first frame: undefined below one frame
FLAGS = ('compensate_motion', 'calibrated_overlap', 'keep_one_copy', 'skip_frozen', 'multiplicative_bonus')
SWITCHES = ('ring', 'gauge', *FLAGS)  # pruning.budget and pruning.gauge_commonness, and those of the same name
JOINT_SWITCHES = ('compensate_motion', 'skip_frozen', 'multiplicative_bonus')  # the others are about two stages
RENAMED_SWITCHES = {old.partition('.')[2]: new.partition('.')[2] for old, new in RENAMED.items()}
VARIANTS = (
    'st_prune+ring',
    *(f'st_prune+{flag}' for flag in FLAGS),
    'st_prune+all',
    'st_prune_staged+ring',
    'st_prune_staged+gauge',
    'st_prune_staged+ring+gauge',
    'st_prune_joint+ring',
    'st_prune_joint+gauge',
    'st_prune_joint+ring+gauge',
    *(f'st_prune_joint+{switch}' for switch in JOINT_SWITCHES),
    'st_prune_joint+all',
)


def config_of(name: str, keep: float, seed: int, settings: Settings) -> PruningConfig:
    """A method with switches, such as 'st_prune_joint+ring'; '+all' sets every one of `FLAGS`.

    Raises StpruneError if the method or a switch does not exist.
    """
    method, *switches = name.split('+')
    if method not in METHOD_NAMES:
        raise StpruneError(f"there is no pruning method '{method}'; choose one of {', '.join(METHOD_NAMES)}")
    on = FLAGS if switches == ['all'] else tuple(RENAMED_SWITCHES.get(switch, switch) for switch in switches)
    for switch in on:
        if switch not in SWITCHES:
            raise StpruneError(f"there is no switch '{switch}' in '{name}'; choose from {', '.join(SWITCHES)}, all")
    changes: dict[str, Any] = {flag: flag in on for flag in FLAGS}
    changes.update(budget='ring' if 'ring' in on else 'view', gauge_commonness='gauge' in on)
    return replace(settings.pruning, method=method, keep_ratio=keep, seed=seed, **changes)


def name_of(config: PruningConfig) -> str:
    """The name of a method with its switches, as `config_of` reads it."""
    on = {flag: getattr(config, flag) for flag in FLAGS}
    on.update(ring=config.ring_budget, gauge=config.gauge_commonness)
    return '+'.join([config.method, *(switch for switch in SWITCHES if on[switch])])
