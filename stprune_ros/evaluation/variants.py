"""Names of methods with their switches, such as 'st_prune+keep_one_copy'; needs no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stprune_ros.errors import StpruneError
from stprune_ros.pruning.config import METHOD_NAMES, PruningConfig
from stprune_ros.settings.parameters import RENAMED
from stprune_ros.settings.settings import Settings

SWITCHES = ('compensate_motion', 'calibrated_overlap', 'keep_one_copy', 'skip_frozen', 'multiplicative_bonus')
JOINT_SWITCHES = ('compensate_motion', 'skip_frozen', 'multiplicative_bonus')  # the others are about two stages
RENAMED_SWITCHES = {old.partition('.')[2]: new.partition('.')[2] for old, new in RENAMED.items()}
VARIANTS = (
    *(f'st_prune+{switch}' for switch in SWITCHES),
    'st_prune+all',
    *(f'st_prune_joint+{switch}' for switch in JOINT_SWITCHES),
    'st_prune_joint+all',
)


def config_of(name: str, keep: float, seed: int, settings: Settings) -> PruningConfig:
    """A method with switches, such as 'st_prune+keep_one_copy'; '+all' sets every switch.

    Raises StpruneError if the method or a switch does not exist.
    """
    method, *switches = name.split('+')
    if method not in METHOD_NAMES:
        raise StpruneError(f"there is no pruning method '{method}'; choose one of {', '.join(METHOD_NAMES)}")
    on = SWITCHES if switches == ['all'] else tuple(RENAMED_SWITCHES.get(switch, switch) for switch in switches)
    for switch in on:
        if switch not in SWITCHES:
            raise StpruneError(f"there is no switch '{switch}' in '{name}'; choose from {', '.join(SWITCHES)}, all")
    changes: dict[str, Any] = {switch: switch in on for switch in SWITCHES}
    return replace(settings.pruning, method=method, keep_ratio=keep, seed=seed, **changes)


def name_of(config: PruningConfig) -> str:
    """The name of a method with its switches, as `config_of` reads it."""
    return '+'.join([config.method, *(switch for switch in SWITCHES if getattr(config, switch))])
