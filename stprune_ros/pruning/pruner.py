"""SpatioTemporalPruner: from the features of a ring to the tokens that stay. Never touches a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.core.types import StpruneError
from stprune_ros.pruning.baselines import random_mask, uniform_mask
from stprune_ros.pruning.joint import prune_joint
from stprune_ros.pruning.peers import cdpruner, dart, divprune, tfps
from stprune_ros.pruning.peers_video import dtd, evs, vidcom2
from stprune_ros.pruning.selection import budget
from stprune_ros.pruning.spatial import Sides, prune_spatial
from stprune_ros.pruning.temporal import prune_temporal, volatility, volatility_along
from stprune_ros.pruning.tokens import PruningConfig, ViewTokens, check, unit_rows, view_budget


class SpatioTemporalPruner:
    """MTP, then RSP on what it leaves, each keeping the square root of the ratio; or another ``config.method``."""

    def __init__(self, config: PruningConfig) -> None:
        if config.method not in METHODS:
            raise StpruneError(f"there is no pruning method '{config.method}'; choose one of {', '.join(METHODS)}")
        self.config = config

    def __call__(self, views: Sequence[ViewTokens], history: int) -> list[Tensor]:
        """Keep masks, per view bool (T, rows, columns), for views in ring order; ``history`` is the number of slots.

        Every view keeps round(sqrt(ratio) * round(sqrt(ratio) * n)) of its n tokens, at least one; with a single frame
        or a single view the whole ratio falls to the other stage. Selection is in float32 whatever the features are.
        Raises StpruneError for features that are not finite or slots that do not match.
        """
        for view in views:
            check(view, history)
        if self.config.method == 'none' or self.config.keep_ratio == 1:
            masks = [torch.ones(view.count, dtype=torch.bool, device=view.tokens.device) for view in views]
        else:
            with torch.inference_mode():
                masks = METHODS[self.config.method](views, history, self.config)
        return [mask.reshape(view.tokens.shape[:3]) for mask, view in zip(masks, views)]


def stage_budgets(view: ViewTokens, ratio: float, temporal: bool, spatial: bool) -> tuple[int, int]:
    """Tokens left after MTP and after RSP (paper: shared by square root); a stage that is off keeps all."""
    if not view.count:
        return 0, 0
    if not (temporal and spatial):
        last = budget(ratio, view.count)
        return (last if temporal else view.count), last
    first = budget(math.sqrt(ratio), view.count)
    return first, budget(math.sqrt(ratio), first)


def _st_prune(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    several = sum(view.count > 0 for view in views) > 1
    return _two_stages(views, history, config, [len(view.slots) > 1 for view in views], several)


def _mtp(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    return _two_stages(views, history, config, [True] * len(views), False)


def _rsp(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    return _two_stages(views, history, config, [False] * len(views), True)


def _two_stages(
    views: Sequence[ViewTokens], history: int, config: PruningConfig, temporal: list[bool], spatial: bool
) -> list[Tensor]:
    # With neither stage of use (one view, one frame) MTP decides: its bonus is flat, what remains is diversity.
    temporal = [on or not spatial for on in temporal]
    budgets = [stage_budgets(view, config.keep_ratio, on, spatial) for view, on in zip(views, temporal)]
    units = [unit_rows(view) for view in views]
    masks = [torch.ones(view.count, dtype=torch.bool, device=view.tokens.device) for view in views]

    active = [i for i, view in enumerate(views) if view.count and temporal[i]]
    kept = prune_temporal(
        [units[i] for i in active],
        [_moves(views[i], units[i], config) for i in active],
        [views[i].slots for i in active],
        history,
        [budgets[i][0] for i in active],
        config.lambda_temporal,
    )
    for i, mask in zip(active, kept):
        masks[i] = mask
    if not spatial:
        return masks

    survivors = [unit.flatten(0, 1)[mask] for unit, mask in zip(units, masks)]
    sides = [_sides(view, mask) for view, mask in zip(views, masks)] if config.calibrated_overlap else None
    final = [last for _, last in budgets]
    for mask, stays in zip(masks, prune_spatial(survivors, final, config.lambda_spatial, sides, config.one_pays)):
        mask[mask.clone()] = stays
    return masks


def _joint(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    units = [unit_rows(view) for view in views]
    moves = [_moves(view, unit, config) if view.count else unit for view, unit in zip(views, units)]
    budgets = [view_budget(view, config) for view in views]
    return prune_joint(units, moves, [view.slots for view in views], history, budgets, config.joint_weights)


def _moves(view: ViewTokens, unit: Tensor, config: PruningConfig) -> Tensor:
    if config.compensate_motion and view.flow is not None:
        return volatility_along(unit, (view.tokens.shape[1], view.tokens.shape[2]), view.flow)
    return volatility(unit)


def _sides(view: ViewTokens, survivors: Tensor) -> Sides:
    """For the tokens that survived MTP, whether they lie in a column that the left, the right neighbour sees too."""
    if view.shared is None or not view.count:
        everywhere = torch.ones(int(survivors.sum()), dtype=torch.bool, device=survivors.device)
        return everywhere, everywhere
    columns = survivors.nonzero().squeeze(1) % view.tokens.shape[2]
    left, right = view.shared
    return left[columns], right[columns]


def _random(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    generator = torch.Generator().manual_seed(config.seed)
    masks = [random_mask(view.count, view_budget(view, config), generator) for view in views]
    return [mask.to(view.tokens.device) for mask, view in zip(masks, views)]


def _uniform(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    masks = [
        uniform_mask(view.tokens.shape[:3], view_budget(view, config)) if view.count else _nothing() for view in views
    ]
    return [mask.to(view.tokens.device) for mask, view in zip(masks, views)]


def _nothing() -> Tensor:
    return torch.zeros(0, dtype=torch.bool)


METHODS = {
    'st_prune': _st_prune,
    'st_prune_joint': _joint,
    'mtp': _mtp,
    'rsp': _rsp,
    'random': _random,
    'uniform': _uniform,
    'divprune': divprune,
    'tfps': tfps,
    'evs': evs,
    'vidcom2': vidcom2,
    'dtd': dtd,
    'dart': dart,
    'cdpruner': cdpruner,
    'none': _uniform,
}
