"""SpatioTemporalPruner: from the features of a ring to the tokens that stay. Never touches a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stprune_ros.core.types import StpruneError
from stprune_ros.pruning.baselines import random_mask, uniform_mask
from stprune_ros.pruning.selection import budget
from stprune_ros.pruning.spatial import prune_spatial
from stprune_ros.pruning.temporal import prune_temporal


@dataclass(frozen=True)
class ViewTokens:
    """The token grid of one view.

    ``tokens`` (T, rows, columns, D), the frames that are there, oldest first, T = 0 for a view without any; ``slots``
    gives each frame's place in the history, 0 oldest. Grids may differ between views.
    """

    name: str
    tokens: Tensor
    slots: tuple[int, ...]

    @property
    def count(self) -> int:
        """Tokens before pruning."""
        return math.prod(self.tokens.shape[:3])


@dataclass(frozen=True)
class PruningConfig:
    """The method and its hyper-parameters; the lambdas are the paper's, which belongs to which stage is our reading."""

    method: str = 'st_prune'
    keep_ratio: float = 0.1
    lambda_temporal: float = 0.6
    lambda_spatial: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise StpruneError(f'keep ratio is {self.keep_ratio}; allowed is more than 0 and at most 1')
        if self.method not in METHODS:
            raise StpruneError(f"there is no pruning method '{self.method}'; choose one of {', '.join(METHODS)}")


class SpatioTemporalPruner:
    """MTP, then RSP on what it leaves, each keeping the square root of the ratio; or another ``config.method``."""

    def __init__(self, config: PruningConfig) -> None:
        self.config = config

    def __call__(self, views: Sequence[ViewTokens], history: int) -> list[Tensor]:
        """Keep masks, per view bool (T, rows, columns), for views in ring order; ``history`` is the number of slots.

        Every view keeps round(sqrt(ratio) * round(sqrt(ratio) * n)) of its n tokens, at least one; with a single frame
        or a single view the whole ratio falls to the other stage. Selection is in float32 whatever the features are.
        Raises StpruneError for features that are not finite or slots that do not match.
        """
        for view in views:
            _check(view, history)
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
    units = [_unit_rows(view) for view in views]
    masks = [torch.ones(view.count, dtype=torch.bool, device=view.tokens.device) for view in views]

    active = [i for i, view in enumerate(views) if view.count and temporal[i]]
    kept = prune_temporal(
        [units[i] for i in active],
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
    for mask, stays in zip(masks, prune_spatial(survivors, [last for _, last in budgets], config.lambda_spatial)):
        mask[mask.clone()] = stays
    return masks


def _random(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    generator = torch.Generator().manual_seed(config.seed)
    masks = [random_mask(view.count, _single_budget(view, config), generator) for view in views]
    return [mask.to(view.tokens.device) for mask, view in zip(masks, views)]


def _uniform(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    masks = [
        uniform_mask(view.tokens.shape[:3], _single_budget(view, config)) if view.count else _nothing()
        for view in views
    ]
    return [mask.to(view.tokens.device) for mask, view in zip(masks, views)]


def _single_budget(view: ViewTokens, config: PruningConfig) -> int:
    return budget(config.keep_ratio, view.count) if view.count else 0


def _nothing() -> Tensor:
    return torch.zeros(0, dtype=torch.bool)


def _unit_rows(view: ViewTokens) -> Tensor:
    """(T, P, D) in float32 with unit rows."""
    flat = view.tokens.flatten(1, 2).float()
    return torch.nn.functional.normalize(flat, dim=-1)


def _check(view: ViewTokens, history: int) -> None:
    frames = len(view.tokens)
    if view.tokens.dim() != 4 or frames != len(view.slots):
        raise StpruneError(
            f"view '{view.name}': features of shape {tuple(view.tokens.shape)} do not match {len(view.slots)} slots;"
            ' expected (frames, rows, columns, D)'
        )
    if list(view.slots) != sorted(set(view.slots)) or any(not 0 <= slot < history for slot in view.slots):
        raise StpruneError(f"view '{view.name}': frame slots {view.slots} must rise within 0 to {history - 1}")
    finite = view.tokens.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        bad = int((~finite).nonzero()[0])
        raise StpruneError(f"view '{view.name}': features of frame {bad + 1} of {frames} hold NaN or infinite values")


METHODS = {'st_prune': _st_prune, 'mtp': _mtp, 'rsp': _rsp, 'random': _random, 'uniform': _uniform, 'none': _uniform}
