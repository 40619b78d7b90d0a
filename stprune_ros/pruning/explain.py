"""Why each token stayed or went: told afterwards, from the keep masks and the terms of the score. Never changes a mask.

Not in the paper. A token's score is a sum (with ``multiplicative_bonus`` a product, whose logarithm is one) of four
terms: motion, recency, distance to what else was kept, unlikeness to other views. What carried a kept token is the term
that lies farthest above its mean over all tokens that competed; a term that is the same for all of them, as one without
a weight is, carries none. The distance is that to the final selection, not to what had been selected when the token's
turn came; likeness to neighbours is that before anything was dropped.

Shapes: T frames of a view, P tokens of a frame, N = T * P, D values of a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.pruner import (
    CACHED_METHODS,
    COMMON_METHODS,
    even_masks,
    lattice_bonus,
    overlap_masks,
    trusted_commonness,
    volatilities,
    weighs_commonness,
)
from stprune_ros.pruning.reason import DROPPED_REASONS, TERM_REASONS, Reason
from stprune_ros.pruning.similarity import SimilarityCache, view_similarities
from stprune_ros.pruning.temporal import recency, repeated_frames
from stprune_ros.pruning.view_tokens import ViewSimilarity, ViewTokens, view_budget

COPY_COSINE = 0.9  # of two tokens of which one can stand in for the other
SMALLEST_DISTANCE = 1e-6  # of two tokens that are the same but for rounding; its logarithm is finite


def explain(
    views: Sequence[ViewTokens],
    masks: Sequence[Tensor],
    config: PruningConfig,
    history: int,
    cache: SimilarityCache | None = None,
) -> list[Tensor]:
    """Per view uint8 (T, rows, columns): the `Reason` of every token, for the masks that `SpatioTemporalPruner` gave.

    A kept token has one of `KEPT_REASONS`: `EVEN` where it lies on the lattice of ``even_share``, else the term that
    carried it; ties go to the first. A dropped one is a copy, of what is kept in another
    frame or at the same time in another view, from a cosine of `COPY_COSINE` on where that is the most similar of all
    kept tokens; else it is like what is kept. `Reason.NONE` where nothing was weighed: a method that is not ours, or
    the keep ratio 1. ``views`` and ``history`` as the pruner had them; a ``cache`` makes it faster.
    """
    if config.method not in CACHED_METHODS or config.keep_ratio == 1:
        return [torch.full(mask.shape, Reason.NONE, dtype=torch.uint8) for mask in masks]
    with torch.inference_mode():
        if cache is not None:
            views = cache.attach(views, with_commonness=weighs_commonness(config))
        similarities = view_similarities(views)
        kept = [mask.flatten().to(x.units.device) for mask, x in zip(masks, similarities)]
        frozen = [repeated_frames(x.units) for x in similarities] if config.skip_frozen else None
        terms = _terms(views, similarities, kept, config, history, frozen)
        carried = _carried_by(terms, config.ring_budget)
        if config.even_share and config.method in COMMON_METHODS:
            even = even_masks(views, [view_budget(view, config) for view in views], config.even_share, frozen)
            carried = [reasons.masked_fill(mask, Reason.EVEN) for reasons, mask in zip(carried, even)]
        stands_in = _stands_in(views, similarities, kept, config.method in COMMON_METHODS)
        found = [torch.where(keep, one, other) for keep, one, other in zip(kept, carried, stands_in)]
    return [reasons.to(torch.uint8).cpu().reshape(mask.shape) for reasons, mask in zip(found, masks)]


def _terms(
    views: Sequence[ViewTokens],
    similarities: Sequence[ViewSimilarity],
    kept: Sequence[Tensor],
    config: PruningConfig,
    history: int,
    frozen: Sequence[Tensor] | None,
) -> list[Tensor]:
    """Per view (4, N), one row for each of `TERM_REASONS`; the distance of a view's only kept token is NaN."""
    volatile = volatilities(views, [x.units for x in similarities], config, frozen)
    extra = [x.units.new_zeros(x.units.shape[:2]) for x in similarities]  # recency of an even lattice, [T, P]
    if config.method in COMMON_METHODS:
        likeness, trust = trusted_commonness(similarities, [view.slots for view in views], config)
        if trust is not None:
            budgets = [view_budget(view, config) for view in views]
            for added, bonus in zip(extra, lattice_bonus(views, budgets, config.lattice_weight * (1 - trust))):
                added += bonus.view(added.shape)
        motion, newness, other = config.joint_weights
        other_views = [-other * (1.0 if trust is None else trust) * found for found in likeness]
    else:
        motion = newness = 0.0 if config.method == 'rsp' else config.lambda_temporal / 2
        weight = 0.0 if config.method == 'mtp' else config.lambda_spatial
        other_views = [-weight * found for found in _neighbour_likeness(views, similarities, config)]
    terms = []
    for i, x in enumerate(similarities):
        shape = x.units.shape[:2]
        moving = (motion * volatile[i].expand(shape)).flatten() if len(x.units) else x.units.new_zeros(0)
        new = (newness * recency(x.units, views[i].slots, history)[:, None].expand(shape) + extra[i]).flatten()
        apart = _distance(x.similarity, kept[i])
        if config.multiplicative_bonus:
            apart = apart.clamp(min=SMALLEST_DISTANCE).log()
        terms.append(torch.stack([moving, new, apart, other_views[i]]))
    return terms


def _distance(similarity: Tensor, kept: Tensor) -> Tensor:
    """Of each token to the nearest other one that was kept: (N,), NaN where there is none."""
    others = similarity.masked_fill(~kept, -math.inf).fill_diagonal_(-math.inf)  # [N, N]
    best = others.amax(dim=1) if len(kept) else similarity.new_zeros(0)
    return torch.where(best.isinf(), math.nan, 1 - best)


def _neighbour_likeness(
    views: Sequence[ViewTokens], similarities: Sequence[ViewSimilarity], config: PruningConfig
) -> list[Tensor]:
    """Best similarity of each token in either neighbour of the ring, averaged over the two: per view (N,)."""
    rows = [x.units.flatten(0, 1) for x in similarities]
    if sum(len(row) > 0 for row in rows) < 2:
        return [row.new_zeros(len(row)) for row in rows]
    indices = [torch.arange(len(row), device=row.device) for row in rows]
    seen = [overlap_masks(view, at) for view, at in zip(views, indices)]
    found = []
    for i, row in enumerate(rows):
        total = row.new_zeros(len(row))
        for side, j in enumerate(((i - 1) % len(rows), (i + 1) % len(rows))):
            if not (len(row) and len(rows[j])):
                continue
            cosines = row @ rows[j].T
            if config.calibrated_overlap:
                cosines = cosines * seen[i][side][:, None] * seen[j][1 - side]
            total += cosines.amax(dim=1)
        found.append(total / 2)
    return found


def _carried_by(terms: Sequence[Tensor], over_ring: bool) -> list[Tensor]:
    """Per view int64 (N,): the reason whose term lies farthest above its mean over the view, or ``over_ring``.

    A term that is the same for all tokens lies at its mean, which is above those below theirs, and speaks for none; the
    distance remains in any case.
    """
    ring = torch.cat(list(terms), dim=1) if over_ring else None  # [4, n]
    reasons = torch.tensor(TERM_REASONS, device=terms[0].device) if terms else torch.zeros(0)
    found = []
    for term in terms:
        pool = term if ring is None else ring
        above = (term - pool.nanmean(dim=1, keepdim=True)).nan_to_num(0.0)  # had it no other to be far from: nothing
        alike = (pool == pool[:, :1]).all(dim=1)
        alike[TERM_REASONS.index(Reason.DIVERSITY)] = False
        above = above.masked_fill(alike[:, None], -math.inf)
        found.append(reasons[above.argmax(dim=0)] if term.shape[1] else term.new_zeros(0, dtype=torch.int64))
    return found


def _stands_in(
    views: Sequence[ViewTokens], similarities: Sequence[ViewSimilarity], kept: Sequence[Tensor], over_ring: bool
) -> list[Tensor]:
    """Per view int64 (N,): where the kept token lies that is most similar to each, as one of `DROPPED_REASONS`.

    Of the other views all count ``over_ring``, else the two neighbours.
    """
    found = []
    for i, x in enumerate(similarities):
        frames, tokens = x.units.shape[:2]
        if not frames * tokens:
            found.append(x.units.new_zeros(0, dtype=torch.int64))
            continue
        frame = torch.arange(frames * tokens, device=x.units.device) // tokens
        same_frame = frame[:, None] == frame  # [N, N]
        similar = x.similarity.masked_fill(~kept[i], -math.inf)
        here = similar.masked_fill(~same_frame, -math.inf).amax(dim=1)
        in_time = similar.masked_fill(same_frame, -math.inf).amax(dim=1)
        in_view = torch.full_like(here, -math.inf).unflatten(0, (frames, tokens))  # [T, P]
        others = range(len(views)) if over_ring else ((i - 1) % len(views), (i + 1) % len(views))
        for j in {j for j in others if j != i}:
            staying = kept[j].unflatten(0, (-1, similarities[j].units.shape[1])) if len(kept[j]) else kept[j]
            for t, slot in enumerate(views[i].slots):
                if slot in views[j].slots:
                    other = views[j].slots.index(slot)
                    cosines = (x.units[t] @ similarities[j].units[other].T).masked_fill(~staying[other], -math.inf)
                    in_view[t] = torch.maximum(in_view[t], cosines.amax(dim=1))
        copies = torch.stack([in_time, in_view.flatten()])  # [2, N]
        copies = torch.where(copies >= COPY_COSINE, copies, -math.inf)
        nearest = torch.cat([copies, here.clamp(min=-2)[None]]).argmax(dim=0)
        found.append(torch.tensor(DROPPED_REASONS, device=x.units.device)[nearest])
    return found
