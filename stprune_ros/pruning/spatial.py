"""Ring-view Spatial Pruning (RSP): a view gives up what its neighbours also show.

The stage is the paper's; the form of the penalty and the options of `prune_spatial` are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.pruning.selection import select

LEFT, RIGHT = 0, 1
OverlapMasks = tuple[Tensor, Tensor]  # per token of a view, bool (n,): may the left, the right neighbour see it, too?


def pruning_phases(views: int, keep_one_copy: bool) -> list[list[int]]:
    """Which views are pruned at the same time: all; with ``keep_one_copy`` never two neighbours of the ring.

    Then every second view comes first, the others after it, and the last one of an odd ring, which has a neighbour in
    either group, at the end.
    """
    if not keep_one_copy:
        return [list(range(views))]
    even = list(range(0, views - views % 2, 2))
    last = [views - 1] if views % 2 else []
    return [even, list(range(1, views, 2)), last]


def prune_spatial(
    views: Sequence[Tensor],
    similarities: Sequence[Tensor],
    budgets: Sequence[int],
    weight: float,
    overlaps: Sequence[OverlapMasks] | None = None,
    keep_one_copy: bool = False,
    multiplicative_bonus: bool = False,
    ring_budget: bool = False,
) -> list[Tensor]:
    """RSP over the whole ring: a token's penalty is its best similarity in each neighbour, averaged over the two.

    views: per view in ring order unit rows (n, D), n = 0 for a view without tokens; similarities: per view (n, n), the
    cosines within it, which MTP has computed already; budgets: per view; weight: of the penalty.
    overlaps: per view; only tokens that both views of a pair may see count, from calibration.
    keep_one_copy: only similarity to what a neighbour pruned earlier kept counts, so that no pair drops both copies.
    multiplicative_bonus: see `select`; ring_budget, too: with keep_one_copy those views compete that are pruned at the
    same time.
    A neighbour without tokens adds no penalty: it shows no copy that could stand in.
    Returns per view a bool (n,) keep mask with exactly its budget, or with ``ring_budget`` masks of the summed budgets.
    """
    masks = [torch.ones(len(x), dtype=torch.bool, device=x.device) for x in views]
    cosines: dict[tuple[int, int], Tensor] = {}  # between two views, computed once for both
    pruned: set[int] = set()

    def best_similarity(i: int, j: int, side: int) -> Tensor:
        """Best similarity of each token of view i in its neighbour j, which is on its ``side``: (n_i,)."""
        if not len(views[j]):
            return views[i].new_zeros(len(views[i]))
        if (i, j) not in cosines:
            cosines[i, j] = views[i] @ views[j].T  # [n_i, n_j]
            cosines[j, i] = cosines[i, j].T
        if overlaps is None and not keep_one_copy:
            return cosines[i, j].amax(dim=1)
        # The neighbour on my left has me on its right.
        candidates = masks[j] if overlaps is None else masks[j] & overlaps[j][1 - side]
        best = cosines[i, j].masked_fill(~candidates, -math.inf).amax(dim=1)
        best = torch.where(best.isinf(), 0.0, best)
        return best if overlaps is None else best * overlaps[i][side]

    def penalty(i: int) -> Tensor:
        total = views[i].new_zeros(len(views[i]))
        for side, j in ((LEFT, (i - 1) % len(views)), (RIGHT, (i + 1) % len(views))):
            if j in pruned or not keep_one_copy:
                total += best_similarity(i, j, side)
        return total / 2

    for phase in pruning_phases(len(views), keep_one_copy):
        active = [i for i in phase if len(views[i])]
        bonuses = [-weight * penalty(i) for i in active]
        kept = select(
            [similarities[i] for i in active], bonuses, [budgets[i] for i in active], multiplicative_bonus, ring_budget
        )
        for i, mask in zip(active, kept):
            masks[i] = mask
        pruned.update(phase)
    return masks
