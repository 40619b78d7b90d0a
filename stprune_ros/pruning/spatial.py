"""Ring-view Spatial Pruning (RSP): a view gives up what its neighbours also show (paper; its form here is ours)."""

from __future__ import annotations

import torch
from torch import Tensor

from stprune_ros.pruning.selection import select


def neighbour_similarity(x: Tensor, neighbours: list[Tensor]) -> Tensor:
    """Mean over the two ring neighbours of the best cosine similarity: (n,), for x (n, D) and [left, right] of (m, D).

    A neighbour without tokens adds nothing: there is no copy over there that could stand in (ours).
    """
    best = [(x @ other.T).amax(dim=1) for other in neighbours if len(other)]
    return torch.stack(best).sum(dim=0) / 2 if best else x.new_zeros(len(x))


def prune_spatial(views: list[Tensor], budgets: list[int], weight: float) -> list[Tensor]:
    """RSP over the whole ring, in its plain form: every view pays for similarity to both neighbours.

    views: per view in ring order (n, D), unit rows, n = 0 for a view without tokens; budgets: per view.
    Returns per view a bool (n,) keep mask with exactly its budget.
    """
    masks = [torch.ones(len(x), dtype=torch.bool, device=x.device) for x in views]
    active = [i for i, x in enumerate(views) if len(x)]
    bonuses = [-weight * neighbour_similarity(views[i], [views[i - 1], views[(i + 1) % len(views)]]) for i in active]
    kept = select([views[i] for i in active], bonuses, [budgets[i] for i in active])
    for i, mask in zip(active, kept):
        masks[i] = mask
    return masks
