"""FlashVID (arXiv 2602.08024), as far as a selection of tokens can have it: written from its published program."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.pruning.baselines.video import frame_quotas
from stprune_ros.pruning.tensors import split_evenly

SELECTED_SHARE = 0.7  # of the budget, for tokens selected within each frame; the rest is for trees
SAME_SCENE = 0.9  # cosine of the mean tokens of two frames below which a new segment begins
SAME_THING = 0.8  # cosine above which a token hangs on its nearest one in the frame before
NEIGHBOURS = 7  # of a token, for its density


def selection_and_trees(images: Sequence[Tensor], keep: int, alpha: float = SELECTED_SHARE) -> Tensor:
    """In every frame a diverse selection; of the rest one token for each tree through time, thinned out by density.

    ``images`` are the frames (rows, columns, D) of one video, oldest first, of one grid. A share ``alpha`` of each
    frame's budget goes to `calibrated_selection`, the rest to `tree_tokens`.

    What differs from the authors, who put averages in place of tokens: a tree and a cluster is represented by the token
    at whose place they put its average. They weight distances by the attention that a token gets in the encoder, which
    features do not tell: here all get the same. They prune once more inside the language model, here nobody does. And
    they cut a video of 32 frames into 8 segments at least, which of a few frames would leave no two together.
    """
    frames = torch.stack([image.flatten(0, 1).float() for image in images])  # [T, P, D]
    budgets = split_evenly(keep, len(frames)).tolist()
    direct = [math.ceil(alpha * budget) for budget in budgets]
    mask = torch.zeros(frames.shape[:2], dtype=torch.bool, device=frames.device)
    for start, end in segments(frames.mean(dim=1)):
        middle = frames[start:end].mean(dim=1)
        for t in range(start, end):
            mask[t] = calibrated_selection(frames[t], middle, direct[t])
        left = sum(budgets[start:end]) - sum(direct[start:end])
        if left:
            mask[start:end] |= tree_tokens(frames[start:end], ~mask[start:end], left)
    return mask.flatten()


def segments(means: Tensor) -> list[tuple[int, int]]:
    """Begin and end of each run of frames whose mean tokens (T, D) are like the one before."""
    units = torch.nn.functional.normalize(means, dim=-1)
    cuts = ((units[1:] * units[:-1]).sum(dim=-1) < SAME_SCENE).nonzero().flatten().add(1).tolist()
    return list(zip([0, *cuts], [*cuts, len(means)]))


def calibrated_selection(x: Tensor, means: Tensor, keep: int) -> Tensor:
    """Greedy max-min over one frame (P, D) with distances to a token times its relevance to the segment: bool (P,).

    E_ij = (1 - cos_ij) e_j, e_j the mean inner product of token j with the mean tokens (T, D) of the segment's frames.
    First = argmax_j of the second smallest entry of E[:, j]; next = argmax_j min_{i in S} E_ij.
    """
    units = torch.nn.functional.normalize(x, dim=-1)
    distance = 1 - units @ units.T
    distance.fill_diagonal_(0)
    calibrated = distance * (x @ means.T).mean(dim=1)
    mask = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    nearest = calibrated.topk(min(2, len(x)), dim=0, largest=False).values[-1]
    for step in range(keep):
        chosen = nearest.masked_fill(mask, -math.inf).argmax()
        mask[chosen] = True
        nearest = torch.minimum(nearest, calibrated[chosen]) if step else calibrated[chosen]
    return mask


def tree_tokens(x: Tensor, free: Tensor, keep: int) -> Tensor:
    """Of the ``free`` tokens, bool (T, P), of a segment (T, P, D) those that stand for all: bool (T, P), ``keep`` set.

    Each hangs on the one of the frame before that is most like it if their cosine is above `SAME_THING`, or above as
    much as leaves ``keep`` trees. In every frame the trees that end there are clustered by their averages, and the
    centres stay: in proportion to the number of trees.
    """
    units = torch.nn.functional.normalize(x, dim=-1)
    likeness = x.new_full(x.shape[:2], -1.0)
    parent = torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device)
    for t in range(1, len(x)):
        cosine = (units[t] @ units[t - 1].T).masked_fill(~free[t - 1], -1.0)
        best = cosine.max(dim=1)
        likeness[t], parent[t] = best.values.masked_fill(~free[t], -1.0), best.indices
    hanging = likeness > SAME_THING
    most = int(free.sum()) - keep
    if int(hanging.sum()) > most:
        hanging &= likeness > likeness.flatten().sort(descending=True).values[most]

    total, members = x * free[..., None], free.to(x.dtype)
    for t in range(len(x) - 1, 0, -1):
        child = hanging[t].nonzero().flatten()
        total[t - 1].index_add_(0, parent[t, child], total[t, child])
        members[t - 1].index_add_(0, parent[t, child], members[t, child])
    root = free & ~hanging
    counts = root.sum(dim=1)
    quotas = frame_quotas(keep * counts / counts.sum(), keep, counts)
    mask = torch.zeros_like(free)
    for t, quota in enumerate(quotas.tolist()):
        places = root[t].nonzero().flatten()
        averages = total[t, places] / members[t, places, None]
        mask[t, places[density_peaks(averages, quota)]] = True
    return mask


def density_peaks(x: Tensor, count: int) -> Tensor:
    """Indices of ``count`` cluster centres of points (n, D) by density peaks with nearest neighbours (DPC-kNN).

    Density is exp(-mean d^2) over the nearest min(count, `NEIGHBOURS`) points, the point itself among them; centres
    have the largest product of density and distance to the nearest denser point, of all distances the largest where
    there is none. d is Euclidean, over sqrt(D). Of equally dense points the first is denser; the authors add noise.
    """
    if not count:
        return torch.zeros(0, dtype=torch.int64, device=x.device)
    distance = torch.cdist(x, x, compute_mode='donot_use_mm_for_euclid_dist') / math.sqrt(x.shape[1])
    nearest = distance.topk(min(count, NEIGHBOURS), dim=1, largest=False).values
    density = (-nearest.square().mean(dim=1)).exp()
    rank = density.argsort(descending=True, stable=True).argsort()
    denser = rank[None] < rank[:, None]
    separation = torch.where(denser, distance, distance.max()).amin(dim=1)
    return (separation * density).argsort(descending=True, stable=True)[:count]
