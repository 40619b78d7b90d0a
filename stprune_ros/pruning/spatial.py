"""Ring-view Spatial Pruning (RSP): a view gives up what its neighbours also show (paper; its form here is ours)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.pruning.selection import select

Sides = tuple[Tensor, Tensor]  # per token of a view, bool (n,): may the left, the right neighbour see this too?


def best_similarity(x: Tensor, other: Tensor) -> Tensor:
    """Best cosine similarity of each row of x (n, D) to any row of other (m, D): (n,), zero where there is none."""
    return (x @ other.T).amax(dim=1) if len(x) and len(other) else x.new_zeros(len(x))


def phases_of(views: int, one_pays: bool) -> list[list[int]]:
    """Which views are pruned at the same time: all of them; or every second one first, so that neighbours never are."""
    if not one_pays:
        return [list(range(views))]
    even = list(range(0, views - views % 2, 2))
    last = [views - 1] if views % 2 else []
    return [even, list(range(1, views, 2)), last]


def prune_spatial(
    views: Sequence[Tensor],
    budgets: Sequence[int],
    weight: float,
    sides: Sequence[Sides] | None = None,
    one_pays: bool = False,
) -> list[Tensor]:
    """RSP over the whole ring; in its plain form every view pays for similarity to all that both neighbours show.

    views: per view in ring order (n, D), unit rows, n = 0 for a view without tokens; budgets: per view.
    sides (ours): only tokens that both views of a pair can see in their overlap count, from calibration.
    one_pays (ours): a view pays only for what a neighbour pruned before it kept, so that no pair gives up both copies.
    A neighbour without tokens adds nothing: there is no copy over there that could stand in (ours).
    Returns per view a bool (n,) keep mask with exactly its budget.
    """
    masks = [torch.ones(len(x), dtype=torch.bool, device=x.device) for x in views]
    done: set[int] = set()

    def penalty(i: int) -> Tensor:
        total = views[i].new_zeros(len(views[i]))
        for side, j in enumerate((i - 1, (i + 1) % len(views))):
            j %= len(views)
            if one_pays and j not in done:
                continue
            mine = sides[i][side] if sides is not None else None
            theirs = masks[j] if sides is None else masks[j] & sides[j][1 - side]
            best = best_similarity(views[i], views[j][theirs])
            total += best if mine is None else best * mine
        return total / 2

    for phase in phases_of(len(views), one_pays):
        active = [i for i in phase if len(views[i])]
        bonuses = [-weight * penalty(i) for i in active]
        kept = select([views[i] for i in active], bonuses, [budgets[i] for i in active])
        for i, mask in zip(active, kept):
            masks[i] = mask
        done.update(phase)
    return masks
