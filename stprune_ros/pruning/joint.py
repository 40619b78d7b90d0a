"""Joint pruning, which is not in the paper: both ideas of ST-Prune in one selection, with similarity to any other view.

Two things differ from the paper's two stages. A token is common where any other view shows something similar at the
same time, not only a neighbour: road, sky and walls repeat all around the ring, and what stands out from them matters.
And everything enters one selection with the whole budget, so that no stage drops what the next one would keep.

That what stands out matters holds for features that tell things from background. Whether they do shows without labels:
the commonness of the tokens then falls in two groups, or has outliers. Where it does neither, its weight goes to an
even lattice on the newest frame (`trust_in`). A model may also need some of what is around things to read them: that is
what an even share of the budget is for, a lattice over all frames that is selected first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from stprune_ros.pruning.baselines.uninformed import uniform_mask
from stprune_ros.pruning.commonness import separability, skewness
from stprune_ros.pruning.selection import select
from stprune_ros.pruning.temporal import REPEATED_BONUS, recency
from stprune_ros.pruning.tensors import equal_groups, stacked
from stprune_ros.pruning.view_tokens import ViewSimilarity

NO_GROUPS, TWO_GROUPS = 0.72, 0.78  # separability; 3/4 is that of a uniform distribution, which has no groups
NO_OUTLIERS, OUTLIERS = 1.5, 2.0  # skewness towards low values
Weights = tuple[float, float, float]  # of volatility, recency and commonness


def prune_joint(
    views: Sequence[ViewSimilarity],
    commonness: Sequence[Tensor],
    volatility: Sequence[Tensor],
    slots: Sequence[tuple[int, ...]],
    history: int,
    budgets: Sequence[int],
    weights: Weights,
    frozen: Sequence[Tensor] | None = None,
    trust: Tensor | None = None,
    extra: Sequence[Tensor] | None = None,
    survivors: Sequence[Tensor] | None = None,
    multiplicative_bonus: bool = False,
    ring_budget: bool = False,
) -> list[Tensor]:
    """One greedy max-min selection per view with the bonus w0 * volatility + w1 * recency - w2 * trust * commonness.

    views: per view unit rows and similarities, T = 0 for a view without frames; commonness: per view (T * P,);
    volatility: per view (P,) or (T, P); slots, history: see `temporal.recency`; budgets: per view; frozen: per view the
    frames to select from last, bool (T,); trust: see `trust_in`, default 1; extra: per view what is added to the bonus,
    (T * P,); survivors: per view the indices of the tokens to select from, (n,), default all; multiplicative_bonus,
    ring_budget: see `select`. Returns per view a bool (T * P,) keep mask with exactly its budget, or with
    ``ring_budget`` masks of the summed budgets.
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
        if extra is not None:
            bonus = bonus + stacked([extra[i] for i in these]).view(bonus.shape)
        common = stacked([commonness[i] for i in these])
        bonuses += (bonus.flatten(1) - weights[2] * (common if trust is None else trust * common)).unbind()
    similarities = [views[i].similarity for i in active]
    if survivors is not None:
        bonuses = [bonus[survivors[i]] for i, bonus in zip(active, bonuses)]
        similarities = [x[survivors[i]][:, survivors[i]] for i, x in zip(active, similarities)]
    kept = select(similarities, bonuses, [budgets[i] for i in active], multiplicative_bonus, ring_budget)
    for i, mask in zip(active, kept):
        masks[i] = mask
        if survivors is not None:
            everything = mask.new_zeros(len(commonness[i]))
            masks[i] = everything.scatter_(0, survivors[i], mask)
    return masks


def trust_in(commonness: Sequence[Tensor]) -> Tensor:
    """How far commonness tells things from background: from 0 to 1, for the newest frame of each view (P,).

    Many things make two groups of all values together: 0 up to a separability of `NO_GROUPS`, 1 from `TWO_GROUPS` on.
    Few things make no group, but outliers: 0 up to a skewness of -`NO_OUTLIERS`, 1 from -`OUTLIERS` on. The larger of
    both counts. It is 1 for fewer than two views: then nothing is compared, and there is nothing to trust or not.
    """
    if len(commonness) < 2:
        return torch.ones(())
    values = torch.cat(list(commonness))
    groups = (separability(values) - NO_GROUPS) / (TWO_GROUPS - NO_GROUPS)
    outliers = (-skewness(values) - NO_OUTLIERS) / (OUTLIERS - NO_OUTLIERS)
    return torch.maximum(groups, outliers).clamp(0, 1)


@lru_cache(maxsize=256)
def lattice(frames: int, rows: int, columns: int, keep: int, device: torch.device) -> Tensor:
    """At most ``keep`` tokens, evenly over images of one grid: bool (frames * rows * columns,)."""
    grid = (frames, rows, columns)
    return uniform_mask(grid, min(keep, frames * rows * columns)).to(device, non_blocking=True)
