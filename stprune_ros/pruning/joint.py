"""Joint pruning, which is not in the paper: both ideas of ST-Prune in one selection, with similarity to any other view.

Two things differ from the paper's two stages. A token is common where any other view shows something similar at the
same time, not only a neighbour: road, sky and walls repeat all around the ring, and what stands out from them matters.
And everything enters one selection with the whole budget, so that no stage drops what the next one would keep.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.pruning.selection import select
from stprune_ros.pruning.temporal import REPEATED_BONUS, recency
from stprune_ros.pruning.tensors import equal_groups, stacked
from stprune_ros.pruning.view_tokens import ViewSimilarity


def prune_joint(
    views: Sequence[ViewSimilarity],
    commonness: Sequence[Tensor],
    volatility: Sequence[Tensor],
    slots: Sequence[tuple[int, ...]],
    history: int,
    budgets: Sequence[int],
    weights: tuple[float, float, float],
    frozen: Sequence[Tensor] | None = None,
    multiplicative_bonus: bool = False,
) -> list[Tensor]:
    """One greedy max-min selection per view with the bonus w0 * volatility + w1 * recency - w2 * commonness.

    views: per view unit rows and similarities, T = 0 for a view without frames; commonness: per view (T * P,);
    volatility: per view (P,) or (T, P); slots, history: see `temporal.recency`; budgets: per view; weights: of
    volatility, recency and commonness; frozen: per view the frames to select from last, bool (T,);
    multiplicative_bonus: see `select`. Returns per view a bool (T * P,) keep mask with exactly its budget.
    """
    units = [x.units for x in views]
    masks = [torch.ones(0, dtype=torch.bool)] * len(units)  # of views without frames
    active = [i for i, x in enumerate(units) if len(x)]
    bonuses: list[Tensor] = []
    for group in equal_groups([units[i] for i in active], [slots[i] for i in active]):
        these = [active[index] for index in group]
        first = these[0]
        shape, newness = units[first].shape[:2], recency(units[first], slots[first], history)[:, None]  # [T, 1]
        volatile = stacked([volatility[i].expand(shape) for i in these])  # [V, T, P]
        bonus = weights[0] * volatile + weights[1] * newness
        if frozen is not None:
            bonus = bonus + REPEATED_BONUS * stacked([frozen[i] for i in these])[..., None]
        bonuses += (bonus.flatten(1) - weights[2] * stacked([commonness[i] for i in these])).unbind()
    similarities = [views[i].similarity for i in active]
    kept = select(similarities, bonuses, [budgets[i] for i in active], multiplicative_bonus)
    for i, mask in zip(active, kept):
        masks[i] = mask
    return masks
