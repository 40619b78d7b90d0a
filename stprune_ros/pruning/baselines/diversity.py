"""Baselines that select by diversity: DivPrune, T-FPS, DART, CDPruner, MVPruner and a coreset, from their formulas.

Each chooses among images (rows, columns, D) given as one set, see `scope.Choose`; `pruner.METHODS` says the scope.
Those with a text half take a ``question``: the embeddings (n, D) of its tokens in the space of the visual ones.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.pruning.baselines.video import frame_quotas
from stprune_ros.pruning.tensors import split_evenly

PIVOTS = 4  # visual and textual pivots of DART, the numbers its authors use
RIDGE = 1e-3  # added to the diagonal of CDPruner's kernel
LEAST_RELEVANT = 1e-6  # relevance of the least relevant token in CDPruner, over the range of all
SPREAD = 1e-5  # added to the range of view diversities in MVPruner
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


def around_pivots(images: Sequence[Tensor], keep: int, pivots: int = PIVOTS, question: Tensor | None = None) -> Tensor:
    """DART (arXiv 2502.11494): a few pivots, and for each the tokens least like it.

    Pivots are the ``pivots`` visual tokens of largest L1 norm, which stay, and after them as many of the ``question``
    where there is one; the rest of the budget is shared evenly among them, and each in turn takes the tokens of lowest
    cosine to it that are still free. The authors rank by the norm of attention keys inside the language model; in front
    of the model there are none, so that the norm is that of the features.
    """
    x, norms = unit_tokens(images), torch.cat([image.float().abs().sum(dim=-1).flatten() for image in images])
    mask = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    visual = norms.argsort(descending=True, stable=True)[: min(pivots, keep)]
    mask[visual] = True
    rows = x[visual]
    if question is not None:
        text = question.float()
        asked = text.abs().sum(dim=-1).argsort(descending=True, stable=True)[:pivots]
        rows = torch.cat([rows, torch.nn.functional.normalize(text[asked], dim=-1)])
    for row, count in zip(rows, split_evenly(keep - len(visual), max(len(rows), 1)).tolist()):
        similarity = (x @ row).masked_fill(mask, math.inf)
        mask[similarity.argsort(stable=True)[:count]] = True
    return mask


def largest_volume(images: Sequence[Tensor], keep: int, ridge: float = RIDGE, question: Tensor | None = None) -> Tensor:
    """CDPruner (arXiv 2506.10967): a greedy MAP set of a DPP with cosine kernel, weighted by relevance.

    next = argmax_i det L_{S + i}, L_ij = r_i cos_ij r_j + ``ridge`` * (i = j). Relevance r is minus the mean cosine to
    the tokens of the ``question``, scaled to [0, 1] within the set; the minus is the authors', whose embeddings are
    those of CLIP. Without a question r is 1: at the start all are equal, and token 0 is the first. The ridge is ours: a
    cosine kernel has at most rank D, so that past D tokens every determinant would be zero and rounding would choose.
    The authors prune each image alone.
    """
    x, relevance = unit_tokens(images), None
    if question is not None:
        value = -(x @ torch.nn.functional.normalize(question.float(), dim=-1).T).mean(dim=1)
        relevance = (value - value.min() + LEAST_RELEVANT) / (value.max() - value.min()).clamp(min=LEAST_RELEVANT)
    return greedy_dpp(x, keep, ridge, relevance)


def diverse_views(
    images: Sequence[Tensor], keep: int, temperature: float = 1.0, question: Tensor | None = None
) -> Tensor:
    """The first stage of MVPruner (arXiv 2606.27660), with the whole budget: more tokens for views that are diverse.

    Diversity d of an image is the mean distance 1 - cos of its tokens to the nearest other, 0 of a single one. Its
    quota is in proportion to its size and to exp(s / ``temperature``), s = (d - max d) / (max d - min d); at least one
    token where the budget allows. The first token is the most relevant, next = argmax_i r_i min_{j in S} D_ij, where
    relevance r is the mean inner product with the tokens of the ``question``; without one it is `farthest_points`.

    The paper's text was not at hand: this follows a public port of the authors' program (``compressors/mvpruner.py``
    in github.com/fanyunfeng-bit/EGO3D-BENCH), which has no temperature, that is 1. The stage stands before the first
    layer of the language model, so that these features are its own. The second one reads attention at the 16th layer
    and is not here. Exact whole numbers are ours, see `video.frame_quotas`.
    """
    units = [unit_tokens([image]) for image in images]
    sizes = [len(x) for x in units]
    diversity = torch.stack([nearest_distance(x).mean() if len(x) > 1 else x.new_zeros(()) for x in units])
    spread = (diversity - diversity.max()) / (diversity.max() - diversity.min() + SPREAD)
    capacity = torch.tensor(sizes, device=diversity.device)
    parts = capacity * (spread / temperature).exp()
    masks = []
    for image, x, quota in zip(images, units, frame_quotas(keep * parts / parts.sum(), keep, capacity).tolist()):
        if question is None:
            masks.append(farthest_points(x, quota))
        else:
            relevance = (image.flatten(0, 1).float() @ question.float().T).mean(dim=1)
            masks.append(farthest_relevant(x, relevance, quota))
    return torch.cat(masks)


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


def farthest_relevant(x: Tensor, relevance: Tensor, keep: int) -> Tensor:
    """As `farthest_points`, with distances times ``relevance`` (n,), and the most relevant token as the first."""
    mask = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    nearest = torch.ones_like(relevance)
    for step in range(keep):
        chosen = (nearest * relevance).masked_fill(mask, -math.inf).argmax()
        mask[chosen] = True
        distance = 1 - x @ x[chosen]
        nearest = torch.minimum(nearest, distance) if step else distance
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


def greedy_dpp(x: Tensor, keep: int, ridge: float = RIDGE, relevance: Tensor | None = None) -> Tensor:
    """Greedy MAP of a DPP with kernel x x^T + ridge by incremental Cholesky (arXiv 1709.05135): bool (n,) for (n, D).

    With a ``relevance`` (n,) rows are scaled by it. ``gain`` is the factor by which the determinant would grow with
    each token; a step costs O(n (D + keep)).
    """
    mask = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    # Squared lengths are 1, or 0 of a token that is all zero: without rounding, so that a tie is a tie.
    gain = x.square().sum(dim=1).round()
    if relevance is not None:
        x, gain = x * relevance[:, None], gain * relevance.square()
    gain = gain + ridge
    factor = x.new_zeros(keep, len(x))
    for step in range(keep):
        chosen = gain.masked_fill(mask, -math.inf).argmax()
        mask[chosen] = True
        # The ridge is on the diagonal, which only the chosen token would see, and that one is done.
        row = (x @ x[chosen] - factor[:step, chosen] @ factor[:step]) / gain[chosen].sqrt()
        factor[step] = row
        gain = gain - row.square()
    return mask
