"""Joint pruning (ours): both ideas of ST-Prune in one selection, and common is whatever any other view shows as well.

Two things differ from the paper's two stages. A token is common where any other view shows something like it at the
same time, not only a neighbour: road, sky and walls repeat all around the ring, and what stands out from them matters.
And everything enters one selection with the whole budget, so that no stage throws away what the next one would keep.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.pruning.selection import on_device, select
from stprune_ros.pruning.temporal import REPEATED
from stprune_ros.pruning.view_tokens import Known


def prune_joint(
    known: Sequence[Known],
    common: Sequence[Tensor],
    moves: Sequence[Tensor],
    slots: Sequence[tuple[int, ...]],
    history: int,
    budgets: Sequence[int],
    weights: tuple[float, float, float],
    frozen: Sequence[Tensor] | None = None,
    scale: bool = False,
) -> list[Tensor]:
    """One greedy max-min selection per view with the bonus w0 * volatility + w1 * recency - w2 * commonness.

    known: per view unit rows and similarities; common: per view its `commonness`; moves: per view its volatility, (P,)
    or (T, P); slots: each frame's place in the history, 0 oldest; budgets: per view; frozen and scale: see
    `prune_temporal`. Returns per view a bool (T * P,) keep mask with exactly its budget.
    """
    views = [x.units for x in known]
    masks = [torch.ones(x.shape[0] * x.shape[1], dtype=torch.bool, device=x.device) for x in views]
    active = [i for i, x in enumerate(views) if len(x)]
    bonuses = []
    for i in active:
        recency = (on_device(slots[i], views[i], views[i].dtype) + 1) / history
        soft = weights[0] * moves[i].expand(views[i].shape[:2]) + weights[1] * recency[:, None]
        if frozen is not None:
            soft = soft + REPEATED * frozen[i][:, None]
        bonuses.append(soft.reshape(-1) - weights[2] * common[i])
    kept = select([known[i].similarity for i in active], bonuses, [budgets[i] for i in active], scale)
    for i, mask in zip(active, kept):
        masks[i] = mask
    return masks
