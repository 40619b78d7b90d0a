"""Baselines that select by diversity: DivPrune, T-FPS, DART, CDPruner and a coreset, from their published formulas.

Each chooses among images (rows, columns, D) given as one set, see `scope.Choose`; `pruner.METHODS` says the scope.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.pruning.tensors import split_evenly

PIVOTS = 4  # visual pivots of DART, the number its authors use
RIDGE = 1e-3  # added to the diagonal of CDPruner's kernel
CHUNK = 1024  # rows of the similarity matrix that exist at one time
FARTHEST = 2.0  # the largest cosine distance
ROUNDING = 1e-5  # differences in cosine that are none
SAME_GAIN = 1e-8  # differences in the sums of a coreset that are none, in float64


def max_min(images: Sequence[Tensor], keep: int) -> Tensor:
    """Greedy max-min diversity: DivPrune (arXiv 2503.02175), and T-FPS of Prune2Drive (arXiv 2508.13305).

    D = 1 - cos; the first token is argmax_i of the second smallest entry of D[:, i], where the smallest is the zero of
    the diagonal; every further one is argmax_i min_{j in S} D_ij. T-FPS starts at argmax_i min_{j != i} D_ij, which is
    the same token: the two differ in scope alone. DivPrune's authors prune one image, and taking the whole ring as one
    set is our reading; T-FPS prunes each image with the ratio of its camera, which Prune2Drive learns from labelled
    data and which here is the same for all.
    """
    return farthest_points(unit_tokens(images), keep)


def around_pivots(images: Sequence[Tensor], keep: int) -> Tensor:
    """DART (arXiv 2502.11494) without its text half: a few pivots, and for each the tokens least like it.

    Pivots are the `PIVOTS` tokens of largest L1 norm and stay; the rest of the budget is shared evenly among them, and
    each in turn takes the tokens of lowest cosine to it that are still free. The authors rank by the norm of attention
    keys inside the language model and add pivots from the question; in front of the model there are neither, so that
    the norm is that of the features and the pivots are visual only.
    """
    x, norms = unit_tokens(images), torch.cat([image.float().abs().sum(dim=-1).flatten() for image in images])
    mask = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    pivots = norms.argsort(descending=True, stable=True)[: min(PIVOTS, keep)]
    mask[pivots] = True
    for pivot, count in zip(pivots, split_evenly(keep - len(pivots), max(len(pivots), 1)).tolist()):
        similarity = (x @ x[pivot]).masked_fill(mask, math.inf)
        mask[similarity.argsort(stable=True)[:count]] = True
    return mask


def largest_volume(images: Sequence[Tensor], keep: int) -> Tensor:
    """CDPruner (arXiv 2506.10967) without its text half: a greedy MAP set of a DPP with cosine kernel.

    next = argmax_i det L_{S + i}, L = cos + `RIDGE` * identity; at the start all are equal, so that token 0 is the
    first. The full method weights L by each token's relevance to the question, which is not known in front of the
    model. The ridge is ours: a cosine kernel has at most rank D, so that past D tokens every determinant would be zero
    and rounding would choose. The authors prune each image alone.
    """
    return greedy_dpp(unit_tokens(images), keep)


def coreset(images: Sequence[Tensor], keep: int) -> Tensor:
    """A coreset as Map2Select describes it, without weights from a map: every token has a kept one near it.

    Minimizes sum_i min_{j in S} (1 - cos(x_i, x_j)) greedily: next = argmax_j sum_i max(0, d_i - D_ij); d_i is the
    distance of token i to the nearest kept one, `FARTHEST` at the start. The gain of a token never grows, so that only
    those are computed anew that would come next (lazy greedy), with the same result. That one budget for the ring
    covers all its frames is our reading.
    """
    # Of two tokens that cover each other and nothing else either gains as much, and rounding shall not decide.
    x = unit_tokens(images, torch.float64)
    mask = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    nearest = x.new_full((len(x),), FARTHEST)
    first = (len(x) + x @ x.sum(dim=0)).div(SAME_GAIN).round()  # the sum of `FARTHEST` - D_ij over i
    queue = [(-gain, i) for i, gain in enumerate(first.tolist())]
    heapq.heapify(queue)
    while queue and keep:
        _, i = heapq.heappop(queue)
        distance = 1 - x @ x[i]
        gain = float((nearest - distance).clamp(min=0).sum().div(SAME_GAIN).round())
        if queue and (-gain, i) > queue[0]:
            heapq.heappush(queue, (-gain, i))
            continue
        mask[i] = True
        nearest = torch.minimum(nearest, distance)
        keep -= 1
    return mask


def unit_tokens(images: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    """The tokens of images (rows, columns, D) as unit vectors: (n, D)."""
    return torch.nn.functional.normalize(torch.cat([image.flatten(0, 1) for image in images]).to(dtype), dim=-1)


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
    nearest = torch.full_like(x[:, 0], math.inf)
    for step in range(keep):
        # Two tokens that are each other's nearest are equally far off, and rounding shall not decide.
        score = nearest_distance(x).div(ROUNDING).round() if step == 0 else nearest.masked_fill(mask, -math.inf)
        chosen = score.argmax()
        mask[chosen] = True
        nearest = torch.minimum(nearest, 1 - x @ x[chosen])
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
