"""SpatioTemporalPruner: from the features of a ring to the tokens that stay. Never touches a model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.errors import StpruneError
from stprune_ros.pruning.baselines.diversity import cdpruner, dart, divprune, tfps
from stprune_ros.pruning.baselines.uninformed import random_mask, uniform_mask
from stprune_ros.pruning.baselines.video import dtd, evs, vidcom2
from stprune_ros.pruning.commonness import commonness
from stprune_ros.pruning.joint import prune_joint
from stprune_ros.pruning.selection import budget, kept_places
from stprune_ros.pruning.similarity import SimilarityCache, known
from stprune_ros.pruning.spatial import Sides, prune_spatial
from stprune_ros.pruning.temporal import UNKNOWN, prune_temporal, repeats, volatility, volatility_along
from stprune_ros.pruning.view_tokens import PruningConfig, ViewTokens, check, view_budget


class SpatioTemporalPruner:
    """MTP, then RSP on what it leaves, each keeping the square root of the ratio; or another ``config.method``."""

    def __init__(self, config: PruningConfig, cache: SimilarityCache | None = None) -> None:
        """With a ``cache`` the masks are the same; views that name their ``frames`` are selected from faster."""
        if config.method not in METHODS:
            raise StpruneError(f"there is no pruning method '{config.method}'; choose one of {', '.join(METHODS)}")
        self.config = config
        self._cache = cache if config.method in FROM_SIMILARITIES else None

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
                if self._cache is not None:
                    views = self._cache.attach(views, self.config.method == 'st_prune_joint')
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
    return first, final_budget(ratio, view.count)


def final_budget(ratio: float, count: int) -> int:
    """What both stages together leave of a view's ``count`` tokens."""
    return budget(math.sqrt(ratio), budget(math.sqrt(ratio), count))


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
    inside = known(views)
    masks = [torch.ones(view.count, dtype=torch.bool, device=view.tokens.device) for view in views]

    active = [i for i, view in enumerate(views) if view.count and temporal[i]]
    frozen = [repeats(inside[i].units) for i in active] if config.skip_frozen else None
    kept = prune_temporal(
        [inside[i] for i in active],
        [_moves(views[i], inside[i].units, config, frozen and frozen[at]) for at, i in enumerate(active)],
        [views[i].slots for i in active],
        history,
        [budgets[i][0] for i in active],
        config.lambda_temporal,
        frozen,
        config.scaled_terms,
    )
    for i, mask in zip(active, kept):
        masks[i] = mask
    if not spatial:
        return masks

    places = [kept_places(mask, first) for mask, (first, _) in zip(masks, budgets)]
    rows = [x.units.flatten(0, 1) for x in inside]
    survivors = [row[at] if on else row for row, at, on in zip(rows, places, temporal)]
    among = [x.similarity[at][:, at] if on else x.similarity for x, at, on in zip(inside, places, temporal)]
    sides = [_sides(view, at) for view, at in zip(views, places)] if config.calibrated_overlap else None
    final = [last for _, last in budgets]
    stays = prune_spatial(survivors, among, final, config.lambda_spatial, sides, config.one_pays, config.scaled_terms)
    return [torch.zeros_like(mask).scatter_(0, at, chosen) for mask, at, chosen in zip(masks, places, stays)]


def _joint(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    inside = known(views)
    frozen = [repeats(x.units) for x in inside] if config.skip_frozen else None
    moves = [
        _moves(view, x.units, config, frozen and frozen[i]) if view.count else x.units
        for i, (view, x) in enumerate(zip(views, inside))
    ]
    budgets = [view_budget(view, config) for view in views]
    slots = [view.slots for view in views]
    given = [x.common for x in inside if x.common is not None]
    common = given if len(given) == len(inside) else commonness([x.units for x in inside], slots)
    return prune_joint(
        inside, common, moves, slots, history, budgets, config.joint_weights, frozen, config.scaled_terms
    )


def _moves(view: ViewTokens, unit: Tensor, config: PruningConfig, frozen: Tensor | None) -> Tensor:
    fresh = None if frozen is None else ~frozen
    if config.compensate_motion and view.flow is not None:
        flow = view.flow if fresh is None else view.flow.masked_fill(~fresh[:, None, None], math.nan)
        moves = volatility_along(unit, (view.tokens.shape[1], view.tokens.shape[2]), flow)
    else:
        moves = volatility(unit, fresh)
    if fresh is None or len(unit) < 2:
        return moves
    return torch.where(fresh.sum() > 1, moves, UNKNOWN)


def _sides(view: ViewTokens, places: Tensor) -> Sides:
    """For the tokens that survived MTP, whether they lie in a column that the left, the right neighbour sees too."""
    if view.shared is None or not view.count:
        everywhere = torch.ones_like(places, dtype=torch.bool)
        return everywhere, everywhere
    columns = places % view.tokens.shape[2]
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


FROM_SIMILARITIES = ('st_prune', 'st_prune_joint', 'mtp', 'rsp')  # methods that a cache of similarities can help

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
