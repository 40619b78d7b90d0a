"""Which tokens compete with each other: those of one image, of one view, of the whole ring, or of the newest frames.

A formula chooses among images; a scope says among which, and how many stay. Whatever the scope, the whole ring keeps as
many tokens as with the default method. Ties go to the lowest index: views in order, then frames from the oldest, then
rows, then columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.tensors import split_evenly
from stprune_ros.pruning.view_tokens import ViewTokens, view_budget

Choose = Callable[..., Tensor]  # images (rows, columns, D), number to keep, its options -> bool over all tokens
Scope = Callable[[Sequence[ViewTokens], PruningConfig, Choose], list[Tensor]]
Baseline = Callable[..., list[Tensor]]  # views, history, config, options of the formula -> per view bool (count,)


def scoped(scope: Scope, choose: Choose) -> Baseline:
    """A method as `pruner.METHODS` lists it; its options are those of ``choose``."""

    def method(views: Sequence[ViewTokens], history: int, config: PruningConfig, **options: Any) -> list[Tensor]:
        return scope(views, config, partial(choose, **options))

    return method


def per_image(views: Sequence[ViewTokens], config: PruningConfig, choose: Choose) -> list[Tensor]:
    """Every image alone: each view's budget is split evenly over its frames."""
    masks = []
    for view in views:
        budgets = split_evenly(view_budget(view, config), max(len(view.tokens), 1)).tolist()
        chosen = [choose([image], keep) for image, keep in zip(view.tokens, budgets)]
        masks.append(torch.cat(chosen) if chosen else _nothing(view))
    return masks


def per_view(views: Sequence[ViewTokens], config: PruningConfig, choose: Choose) -> list[Tensor]:
    """Every view alone, with all its frames."""
    return [choose(list(view.tokens), view_budget(view, config)) if view.count else _nothing(view) for view in views]


def over_ring(views: Sequence[ViewTokens], config: PruningConfig, choose: Choose) -> list[Tensor]:
    """All images of the ring together, so that a view may keep none."""
    images = [image for view in views if view.count for image in view.tokens]
    keep = sum(view_budget(view, config) for view in views)
    mask = choose(images, keep) if images else torch.zeros(0, dtype=torch.bool)
    return list(mask.split([view.count for view in views]))


def views_over_ring(views: Sequence[ViewTokens], config: PruningConfig, choose: Choose) -> list[Tensor]:
    """As `over_ring`, with all frames of a view as one tall image."""
    return over_ring([replace(view, tokens=view.tokens.flatten(0, 1)[None]) for view in views], config, choose)


def newest_per_view(views: Sequence[ViewTokens], config: PruningConfig, choose: Choose) -> list[Tensor]:
    """The newest frame of every view alone, with the view's whole budget.

    A budget of more than one frame keeps the newest frames whole, and chooses in the one before them.
    """
    masks = []
    for view, (mask, image, rest) in zip(views, map(_newest_first, views, _budgets(views, config))):
        if rest:
            mask[image] = choose([view.tokens[image]], rest)
        masks.append(mask.flatten())
    return masks


def newest_over_ring(views: Sequence[ViewTokens], config: PruningConfig, choose: Choose) -> list[Tensor]:
    """As `newest_per_view`, but the newest frames of all views compete for one budget."""
    started = [_newest_first(view, budget) for view, budget in zip(views, _budgets(views, config))]
    open_frames = [(view.tokens[image], mask[image]) for view, (mask, image, rest) in zip(views, started) if rest]
    if open_frames:
        chosen = choose([tokens for tokens, _ in open_frames], sum(rest for _, _, rest in started))
        for (_, target), part in zip(open_frames, chosen.split([len(target) for _, target in open_frames])):
            target.copy_(part)
    return [mask.flatten() for mask, _, _ in started]


def _budgets(views: Sequence[ViewTokens], config: PruningConfig) -> list[int]:
    return [view_budget(view, config) for view in views]


def _newest_first(view: ViewTokens, budget: int) -> tuple[Tensor, int, int]:
    """A mask (T, P) with as many of the newest frames as the budget holds, the index of the next one, and the rest."""
    frames, tokens = len(view.tokens), view.count // max(len(view.tokens), 1)
    mask = torch.zeros(frames, tokens, dtype=torch.bool, device=view.tokens.device)
    if not budget:
        return mask, 0, 0
    whole, rest = divmod(budget, tokens)
    mask[frames - whole :] = True
    return mask, frames - whole - 1, rest


def _nothing(view: ViewTokens) -> Tensor:
    return torch.zeros(0, dtype=torch.bool, device=view.tokens.device)
