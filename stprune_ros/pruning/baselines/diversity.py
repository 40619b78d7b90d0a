"""Baselines that select by diversity: DivPrune, T-FPS, DART and CDPruner, written from their published formulas.

For a fair comparison all keep the same number of tokens: T-FPS and CDPruner the ratio of each view, DivPrune and DART,
which know no views, the sum of that over the ring, so that a view may keep none. Ties go to the
lowest index: views in order, then frames from the oldest, then rows, then columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.selection import select
from stprune_ros.pruning.similarity import cosine_similarities
from stprune_ros.pruning.tensors import one_hot_argmax, split_evenly
from stprune_ros.pruning.view_tokens import ViewTokens, unit_rows, view_budget

PIVOTS = 4  # visual pivots of DART, the number its authors use
RIDGE = 1e-3  # added to the diagonal of CDPruner's kernel
CHUNK = 1024  # rows of the similarity matrix that exist at one time


def divprune(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    """DivPrune (arXiv 2503.02175): greedy max-min diversity over the tokens of all views together.

    D = 1 - cos; the first token is argmax_i of the second smallest entry of D[:, i], where the smallest is the zero of
    the diagonal; every further one is argmax_i min_{j in S} D_ij. The authors prune one image; taking the whole ring
    as one set is our reading. Returns per view a bool (count,) mask.
    """
    return select_over_ring(views, config, farthest_points)


def tfps(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    """T-FPS of Prune2Drive (arXiv 2508.13305): farthest point sampling within each view.

    The start is argmax_i min_{j != i} D_ij, then as in `divprune`: the two differ in scope alone. Prune2Drive
    also learns a ratio for each camera from labelled data; here all have the same. That a view's frames form one set
    is our reading. Returns per view a bool (count,) mask.
    """
    tokens = [unit_rows(view).flatten(0, 1) for view in views]
    masks = [torch.zeros(len(x), dtype=torch.bool, device=x.device) for x in tokens]
    active = [i for i, x in enumerate(tokens) if len(x)]
    starts = [one_hot_argmax(nearest_distance(tokens[i])) for i in active]
    similarities = cosine_similarities([tokens[i] for i in active])
    for i, mask in zip(active, select(similarities, starts, [view_budget(views[i], config) for i in active])):
        masks[i] = mask
    return masks


def dart(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    """DART (arXiv 2502.11494): a few pivots, and for each the tokens least like it, over all views together.

    Pivots are the `PIVOTS` tokens of largest L1 norm and stay; the rest of the budget is shared evenly among them, and
    each in turn takes the tokens of lowest cosine to it that are still free. The authors rank by the norm of attention
    keys inside the language model and add pivots from the question; in front of the model there are neither, so that
    the norm is that of the features and the pivots are visual only. Returns per view a bool (count,) mask.
    """
    norms = torch.cat([view.tokens.float().abs().sum(dim=-1).flatten() for view in views])
    return select_over_ring(views, config, lambda x, keep: _around_pivots(x, norms, keep))


def cdpruner(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    """CDPruner (arXiv 2506.10967) without its text half: per view a greedy MAP set of a DPP with cosine kernel.

    next = argmax_i det L_{S + i}, L = cos + `RIDGE` * identity; at the start all are equal, so that token 0 is the
    first. The full method weights L by each token's relevance to the question, which is not known in front of the
    model. The ridge is ours: a cosine kernel has at most rank D, so that past D tokens every determinant would be zero
    and rounding would choose. That a view's frames form one set is our reading. Returns per view a bool (count,) mask.
    """
    return [greedy_dpp(unit_rows(view).flatten(0, 1), view_budget(view, config)) for view in views]


def select_over_ring(
    views: Sequence[ViewTokens], config: PruningConfig, choose: Callable[[Tensor, int], Tensor]
) -> list[Tensor]:
    """Apply ``choose(tokens, keep) -> mask`` to the unit rows of all views as one set; masks per view."""
    tokens = [unit_rows(view).flatten(0, 1) for view in views if view.count]
    keep = sum(view_budget(view, config) for view in views)
    mask = choose(torch.cat(tokens), keep) if tokens else torch.zeros(0, dtype=torch.bool)
    return list(mask.split([view.count for view in views]))


def nearest_distance(x: Tensor) -> Tensor:
    """Distance 1 - cos of each token to the nearest other: (n,) for unit rows (n, D); infinite for a single token."""
    nearest = x.new_empty(len(x))
    for start in range(0, len(x), CHUNK):
        similarity = x[start : start + CHUNK] @ x.T
        similarity.diagonal(offset=start).fill_(-math.inf)
        nearest[start : start + CHUNK] = 1 - similarity.amax(dim=1)
    return nearest


def farthest_points(x: Tensor, keep: int) -> Tensor:
    """Greedy max-min over one set, as in `selection.greedy_max_min`, but in O(n) memory: bool (n,) for (n, D)."""
    mask = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    score = nearest_distance(x)
    nearest = torch.full_like(score, math.inf)
    for _ in range(keep):
        chosen = score.argmax()
        mask[chosen] = True
        nearest = torch.minimum(nearest, 1 - x @ x[chosen])
        score = nearest.masked_fill(mask, -math.inf)
    return mask


def divprune_growing(x: Tensor, keep: int) -> Tensor:
    """DivPrune's selection the way its authors' program does it: bool (n,) for unit rows (n, D).

    It selects what `farthest_points` does, from the whole matrix of distances, and is here for timing alone.
    """
    return grow(1 - x @ x.T, keep)


def grow(distance: Tensor, keep: int) -> Tensor:
    """The loop of `divprune_growing` on distances (n, n), whose diagonal is zero up to rounding.

    Every step takes the minimum over all rows selected so far anew: O(keep^2 n). That what is selected cannot be
    selected again is our addition: among copies the authors' program may.
    """
    chosen = torch.empty(keep, dtype=torch.int64, device=distance.device)
    mask = torch.zeros(len(distance), dtype=torch.bool, device=distance.device)
    for step in range(keep):
        if step == 0:
            score = distance.topk(min(2, len(distance)), dim=0, largest=False).values[-1]
        else:
            score = distance.index_select(0, chosen[:step]).min(dim=0).values.masked_fill(mask, -math.inf)
        chosen[step] = score.argmax()
        mask[chosen[step]] = True
    return mask


def greedy_dpp(x: Tensor, keep: int) -> Tensor:
    """Greedy MAP of a DPP with kernel x x^T + ridge by incremental Cholesky (arXiv 1709.05135): bool (n,) for (n, D).

    ``gain`` is the factor by which the determinant would grow with each token; a step costs O(n (D + keep)).
    """
    mask = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    # Squared lengths are 1, or 0 of a token that is all zero: without rounding, so that a tie is a tie.
    gain = x.square().sum(dim=1).round() + RIDGE
    factor = x.new_zeros(keep, len(x))
    for step in range(keep):
        chosen = gain.masked_fill(mask, -math.inf).argmax()
        mask[chosen] = True
        # The ridge is on the diagonal, which only the chosen token would see, and that one is done.
        row = (x @ x[chosen] - factor[:step, chosen] @ factor[:step]) / gain[chosen].sqrt()
        factor[step] = row
        gain = gain - row.square()
    return mask


def _around_pivots(x: Tensor, norms: Tensor, keep: int) -> Tensor:
    mask = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    pivots = norms.argsort(descending=True, stable=True)[: min(PIVOTS, keep)]
    mask[pivots] = True
    for pivot, count in zip(pivots, split_evenly(keep - len(pivots), max(len(pivots), 1)).tolist()):
        similarity = (x @ x[pivot]).masked_fill(mask, math.inf)
        mask[similarity.argsort(stable=True)[:count]] = True
    return mask
