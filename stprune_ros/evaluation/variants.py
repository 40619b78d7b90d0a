"""Names of methods with switches and knobs, such as 'st_prune+keep_one_copy' or 'dart+pivots=8'; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.knobs import KNOBS, TUNED, with_value
from stprune_ros.pruning.config import METHOD_NAMES, PruningConfig
from stprune_ros.settings.parameters import RENAMED
from stprune_ros.settings.settings import Settings, nanoseconds

WHOLE_FIRST_FRAME = ('evs', 'dtd')  # methods that always keep the first frame: undefined below one frame
FLAGS = ('compensate_motion', 'calibrated_overlap', 'keep_one_copy', 'skip_frozen', 'multiplicative_bonus')
EVEN_SHARE = 0.5  # of '+even', where the settings have none
# pruning.budget, pruning.gauge_commonness and pruning.even_share, and those of the same name
SWITCHES = ('ring', 'gauge', 'even', *FLAGS)
JOINT_SWITCHES = ('compensate_motion', 'skip_frozen', 'multiplicative_bonus')  # the others are about two stages
RENAMED_SWITCHES = {old.partition('.')[2]: new.partition('.')[2] for old, new in RENAMED.items()}
TURNS, FEW_PIXELS = 'refresh', 'side'  # switches of what is encoded: see `Encoding`
TEXT = 'text'  # the switch of baselines that read the question, too
TEXT_METHODS = ('dart', 'cdpruner', 'mvpruner')
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
    'st_prune_joint+ring+gauge+even',
    *(f'st_prune_joint+{switch}' for switch in JOINT_SWITCHES),
    'st_prune_joint+all',
    *(f'{method}+{TEXT}' for method in TEXT_METHODS),
    *(with_value(method, value) for method, value in TUNED.items()),
)


@dataclass(frozen=True, slots=True)
class Encoding:
    """Which images are encoded, and how finely; the default is every image with all pixels.

    Side cameras take turns within ``refresh_ns`` (0: no turns), and have fewer pixels with ``few_pixels``.
    """

    refresh_ns: int = 0
    few_pixels: bool = False


WHOLE = Encoding()


@dataclass(frozen=True)
class Variant:
    """How a named row of a table prunes: ``options`` are those of a baseline's formula.

    With ``reads_question`` it prunes for each question anew. ``encoding`` is what it prunes.
    """

    config: PruningConfig
    options: dict[str, Any]
    reads_question: bool
    encoding: Encoding = WHOLE


def variant_of(name: str, keep: float, seed: int, settings: Settings) -> Variant:
    """A method with switches, such as 'st_prune_joint+ring', and its knob, such as 'dart+text+pivots=8'.

    '+all' sets every one of `FLAGS`. With '+refresh' views take turns as cameras.refresh_ms says, with '+side' they
    have the pixels of model.side_image_pixels. Raises StpruneError if the method, a switch or a knob does not exist, or
    such a parameter is 0.
    """
    parts = [part for part in name.split('+') if part not in (TURNS, FEW_PIXELS)]
    encoding = _encoding_of(name, settings)
    base = '+'.join(part for part in parts if '=' not in part)
    values = [_knob_value(base, part) for part in parts if '=' in part]
    reads = TEXT in parts
    if reads and parts[0] not in TEXT_METHODS:
        raise StpruneError(f"'{parts[0]}' reads no question; '+{TEXT}' is for {', '.join(TEXT_METHODS)}")
    config = _config_of('+'.join(part for part in base.split('+') if part != TEXT), keep, seed, settings)
    names = {field.name for field in fields(config)}
    ours: dict[str, Any] = {knob: value for knob, value in values if knob in names}
    options = {knob: value for knob, value in values if knob not in names}
    return Variant(replace(config, **ours), options, reads, encoding)


def config_of(name: str, keep: float, seed: int, settings: Settings) -> PruningConfig:
    """The pruning group of `variant_of`."""
    return variant_of(name, keep, seed, settings).config


def _encoding_of(name: str, settings: Settings) -> Encoding:
    given = {TURNS: settings.cameras.refresh_ms, FEW_PIXELS: settings.model.side_image_pixels}
    on = {switch: switch in name.split('+')[1:] for switch in given}
    for switch, parameter in ((TURNS, 'cameras.refresh_ms'), (FEW_PIXELS, 'model.side_image_pixels')):
        if on[switch] and not given[switch]:
            raise StpruneError(f"'+{switch}' in '{name}' follows {parameter}, which is 0: set it in --params")
    return Encoding(nanoseconds(settings.cameras.refresh_ms) if on[TURNS] else 0, on[FEW_PIXELS])


def _knob_value(method: str, part: str) -> tuple[str, float]:
    parameter, _, text = part.partition('=')
    knob = KNOBS.get(method)
    if knob is None or knob.parameter != parameter:
        known = f'it has {knob.parameter}' if knob else 'it has none'
        raise StpruneError(f"method '{method}' has no knob '{parameter}'; {known}")
    for value in knob.values:
        if f'{value:g}' == text:
            return parameter, value
    values = ', '.join(f'{value:g}' for value in knob.values)
    raise StpruneError(f"'{text}' was never tried for {parameter} of '{method}'; choose from {values}")


def _config_of(name: str, keep: float, seed: int, settings: Settings) -> PruningConfig:
    method, *switches = name.split('+')
    if method not in METHOD_NAMES:
        raise StpruneError(f"there is no pruning method '{method}'; choose one of {', '.join(METHOD_NAMES)}")
    on = FLAGS if switches == ['all'] else tuple(RENAMED_SWITCHES.get(switch, switch) for switch in switches)
    for switch in on:
        if switch not in SWITCHES:
            raise StpruneError(f"there is no switch '{switch}' in '{name}'; choose from {', '.join(SWITCHES)}, all")
    changes: dict[str, Any] = {flag: flag in on for flag in FLAGS}
    changes.update(budget='ring' if 'ring' in on else 'view', gauge_commonness='gauge' in on)
    changes.update(even_share=(settings.pruning.even_share or EVEN_SHARE) if 'even' in on else 0.0)
    return replace(settings.pruning, method=method, keep_ratio=keep, seed=seed, **changes)


def name_of(config: PruningConfig) -> str:
    """The name of a method with its switches, as `config_of` reads it."""
    on = {flag: getattr(config, flag) for flag in FLAGS}
    on.update(ring=config.ring_budget, gauge=config.gauge_commonness, even=config.even_share > 0)
    return '+'.join([config.method, *(switch for switch in SWITCHES if on[switch])])
