"""Baselines made for video: EVS, VidCom2 and DTD, written from their published formulas.

For a fair comparison all keep the same number of tokens: EVS the ratio of each view, DTD the sum of that over the ring,
so that a view may keep none. Both are undefined for budgets below one frame: what they do then is ours, and no
evaluation counts it. "The frame before" is the last one received before. Ties go to the lowest index: views in order,
then frames from the oldest, then rows, then columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.view_tokens import ViewTokens, unit_rows, view_budget

BANDWIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0)  # of VidCom2's Gaussians; squared, as its authors use them
TEMPERATURE = 0.01  # of VidCom2's softmax over frames
SAME_SHARE = 1e-4  # tokens; smaller differences between the shares of frames are rounding
MANY = 2**62


def evs(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    """Efficient Video Sampling (arXiv 2510.14624): per view, the whole first frame and the tokens that changed most.

    Change is 1 - cos(x[t, p], x[t-1, p]); one stable sort over all frames of the view. The paper compares pixels; the
    feature form is that of its public implementations. A budget below one frame is outside the method, which always
    keeps the first: here the budget wins, and the first frame gives way to the tokens that changed (a literal
    sort would leave the top rows of the oldest frame). Returns per view a bool (count,) mask.
    """
    return [_most_changed(change(unit_rows(view)), view_budget(view, config)) for view in views]


def dtd(views: Sequence[ViewTokens], history: int, config: PruningConfig) -> list[Tensor]:
    """Differential Token Dropping of TimeChat-Online (arXiv 2504.17343): drop what is like the frame before.

    A token goes when cos(x[t, p], x[t-1, p]) > tau; first frames stay. The method has a tau and no budget: here tau is
    the one at which the whole ring meets the budget, so that a view in motion keeps more than a still one. Of tokens
    exactly at tau, all of which the method would keep, those of lowest index stay. Within one view this is `evs`: at a
    fixed budget the two differ only in that DTD's threshold holds for all views together. First frames that together
    exceed the budget give way as in `evs`. Returns per view a bool (count,) mask.
    """
    changes = torch.cat([change(unit_rows(view)) for view in views])
    mask = _most_changed(changes, sum(view_budget(view, config) for view in views))
    return list(mask.split([view.count for view in views]))


def least_typical(images: Sequence[Tensor], keep: int, temperature: float = TEMPERATURE) -> Tensor:
    """VidCom2 (arXiv 2505.14454): more tokens for frames unlike the rest, in each the least typical tokens.

    s(x, c) = sum over b in `BANDWIDTHS` of exp(-||x - c||^2 / 2b), on unit tokens. Uniqueness of a frame is minus the
    mean of s to the video's mean token; its quota is K / T * (1 + softmax(uniqueness / ``temperature``) - 1 / T). A
    frame keeps its quota of lowest s to the video mean plus s to the frame mean. As in the authors' program, similarity
    uses the half of the channels with the lowest variance and no frame is left empty where the budget allows. The exact
    whole numbers are ours, see `frame_quotas`, and so is that frames of other sizes get a quota in proportion. The
    authors prune one video: that is a view, or all images of the ring. See `scope.Choose`.
    """
    sizes = [image.shape[0] * image.shape[1] for image in images]
    tokens = torch.cat([image.flatten(0, 1) for image in images]).float()
    variance = tokens.var(dim=0, correction=0)
    steady = variance.argsort(stable=True)[: max(1, len(variance) // 2)]
    x = torch.nn.functional.normalize(tokens[:, steady], dim=-1)

    to_video = typicality(x, x.mean(dim=0))
    frames = list(zip(x.split(sizes), to_video.split(sizes)))
    typical = [video + typicality(frame, frame.mean(dim=0)) for frame, video in frames]
    weights = (torch.stack([-video.mean() for _, video in frames]) / temperature).softmax(dim=0)
    capacity = torch.tensor(sizes, device=x.device)
    parts = capacity * (1 + weights - 1 / len(frames))
    quotas = frame_quotas(keep * parts / parts.sum(), keep, capacity)

    ranks = [values.argsort(stable=True).argsort() for values in typical]
    return torch.cat([rank < quota for rank, quota in zip(ranks, quotas)])


def change(x: Tensor) -> Tensor:
    """1 - cos to the same grid position in the frame before: (T * P,) for unit rows (T, P, D).

    Infinite in the first frame.
    """
    difference = x.new_full(x.shape[:2], math.inf)
    # The same as 1 minus the dot product, but exactly zero where nothing changed.
    difference[1:] = (x[1:] - x[:-1]).square().sum(dim=-1) / 2
    return difference.flatten()


def frame_quotas(shares: Tensor, keep: int, capacity: Tensor) -> Tensor:
    """Whole numbers near ``shares`` (T,) that sum to ``keep``, each at most its ``capacity`` (T,): int64 (T,).

    Shares are rounded down, to one at least if there is one for every frame; what remains goes, token by token, to
    the frame farthest below its share that has room.
    """
    least = int(keep >= len(shares))
    quotas = torch.minimum(shares.floor().long().clamp(min=least), capacity)
    while int(quotas.sum()) > keep:  # rounded up to one: frames of other sizes can have a share far below
        quotas[_missing(shares, quotas).masked_fill(quotas <= least, MANY).argmin()] -= 1
    for _ in range(keep - int(quotas.sum())):
        quotas[_missing(shares, quotas).masked_fill(quotas >= capacity, -MANY).argmax()] += 1
    return quotas


def _missing(shares: Tensor, quotas: Tensor) -> Tensor:
    """By how many `SAME_SHARE` each quota is below its share: int64 (T,), so that equal frames are a tie."""
    return (shares - quotas).div(SAME_SHARE).round().long()


def typicality(x: Tensor, centre: Tensor) -> Tensor:
    """VidCom2's s(x, centre), see `least_typical`: (n,) for unit rows (n, D) and a centre (D,)."""
    distance = (x - centre).square().sum(dim=-1)
    return torch.stack([torch.exp(-distance / (2 * width)) for width in BANDWIDTHS]).sum(dim=0)


def _most_changed(changes: Tensor, keep: int) -> Tensor:
    first = changes.isinf()
    if int(first.sum()) > keep:
        changes = changes.masked_fill(first, -math.inf)
    mask = torch.zeros_like(first)
    mask[changes.argsort(descending=True, stable=True)[:keep]] = True
    return mask
