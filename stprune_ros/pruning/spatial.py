"""Ring-view Spatial Pruning (RSP): a view gives up what its neighbours also show (paper; its form here is ours)."""

from __future__ import annotations

import math
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
    similarities: Sequence[Tensor],
    budgets: Sequence[int],
    weight: float,
    sides: Sequence[Sides] | None = None,
    one_pays: bool = False,
    scale: bool = False,
) -> list[Tensor]:
    """RSP over the whole ring; in its plain form every view pays for similarity to all that both neighbours show.

    views: per view in ring order (n, D), unit rows, n = 0 for a view without tokens; similarities: per view (n, n), the
    cosines within it, which MTP has computed already; budgets: per view.
    sides (ours): only tokens that both views of a pair can see in their overlap count, from calibration.
    one_pays (ours): a view pays only for what a neighbour pruned before it kept, so that no pair gives up both copies.
    scale (ours): the penalty scales the distance instead of being taken off it.
    A neighbour without tokens adds nothing: there is no copy over there that could stand in (ours).
    Returns per view a bool (n,) keep mask with exactly its budget.
    """
    masks = [torch.ones(len(x), dtype=torch.bool, device=x.device) for x in views]
    across: dict[tuple[int, int], Tensor] = {}  # cosines between two views, computed once for both
    done: set[int] = set()

    def best(i: int, j: int, side: int) -> Tensor:
        """What each token of view i finds of itself in view j, which is its left (side 0) or right (1) neighbour."""
        if not len(views[j]):
            return views[i].new_zeros(len(views[i]))
        if (i, j) not in across:
            across[i, j] = views[i] @ views[j].T
            across[j, i] = across[i, j].T
        if sides is None and not one_pays:
            return across[i, j].amax(dim=1)
        theirs = masks[j] if sides is None else masks[j] & sides[j][1 - side]
        found = across[i, j].masked_fill(~theirs, -math.inf).amax(dim=1)
        found = torch.where(found.isinf(), 0.0, found)
        return found if sides is None else found * sides[i][side]

    def penalty(i: int) -> Tensor:
        total = views[i].new_zeros(len(views[i]))
        for side, j in enumerate(((i - 1) % len(views), (i + 1) % len(views))):
            if j in done or not one_pays:
                total += best(i, j, side)
        return total / 2

    for phase in phases_of(len(views), one_pays):
        active = [i for i in phase if len(views[i])]
        bonuses = [-weight * penalty(i) for i in active]
        kept = select([similarities[i] for i in active], bonuses, [budgets[i] for i in active], scale)
        for i, mask in zip(active, kept):
            masks[i] = mask
        done.update(phase)
    return masks
