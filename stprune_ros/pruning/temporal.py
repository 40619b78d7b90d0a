"""Motion-aware Temporal Pruning (MTP): moving and new wins over static history (paper; its form here is ours)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.pruning.selection import on_device, select
from stprune_ros.pruning.view_tokens import Known

REPEATED = -4.0  # bonus of tokens that a frozen camera repeats: they come after all others (ours)
UNKNOWN = 0.5  # volatility in a view whose picture never changed: neither static nor moving (ours)
STATIC_RANGE = 1e-6  # smaller differences in volatility are rounding, not motion (ours)


def volatility(x: Tensor, fresh: Tensor | None = None) -> Tensor:
    """Variance of unit features over time at each grid position, scaled to [0, 1] within the view.

    x: (T, P, D), unit rows, the frames that are there; fresh (ours): the frames that count, bool (T,). Returns (P,):
    1 - || mean_t x ||^2, min-max scaled over P; all zero for one frame or where nothing changed.
    """
    mean = x.mean(dim=0) if fresh is None else (x * (fresh / fresh.sum())[:, None, None]).sum(dim=0)
    raw = 1 - mean.square().sum(dim=-1)
    low, high = raw.min(), raw.max()
    if len(x) < 2:
        return torch.zeros_like(raw)
    return torch.where(high - low < STATIC_RANGE, 0.0, (raw - low) / (high - low))


def repeats(x: Tensor) -> Tensor:
    """Frames that show to the bit what the frame after them shows, as a frozen camera does: bool (T,) for (T, P, D)."""
    same = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    same[:-1] = (x[1:] == x[:-1]).flatten(1).all(dim=1)
    return same


def volatility_along(x: Tensor, grid: tuple[int, int], flow: Tensor) -> Tensor:
    """Volatility of every token along the motion that the ego vehicle causes: what is left is motion of its own (ours).

    x: (T, P, D), unit rows; grid: rows and columns, P together; flow: (T, P, 2), see `ViewTokens`. Returns (T, P) in
    [0, 1]: mean of 1 - cos over pairs of frames, features interpolated between patches; tokens that cannot be followed
    get the mean of the others.
    """
    frames, places, width = x.shape
    rows, columns = grid
    seen = flow.isfinite().all(dim=-1)
    where = flow.nan_to_num(0.0)
    size = torch.tensor([columns, rows], device=x.device)
    points = (2 * where.flip(-1) + 1) / size - 1  # grid_sample counts from -1 to 1, x first
    maps = x.transpose(1, 2).reshape(frames, width, rows, columns)
    found = torch.nn.functional.grid_sample(
        maps, points[:, None].to(x.dtype), padding_mode='border', align_corners=False
    )[:, :, 0].transpose(1, 2)
    found = torch.nn.functional.normalize(found, dim=-1) * seen[..., None]
    count = seen.sum(dim=0)
    pairs = (count * count - found.sum(dim=0).square().sum(dim=-1)) / (count * (count - 1)).clamp(min=1)
    known = count > 1
    if not known.any():
        return x.new_zeros(frames, places)
    pairs = torch.where(known, pairs, pairs[known].mean())
    low, high = pairs.min(), pairs.max()
    scaled = (pairs - low) / (high - low) if high - low >= STATIC_RANGE else torch.zeros_like(pairs)
    spread = scaled.mean().repeat(frames, places)
    cells = (where.round().clamp(min=0) * torch.tensor([columns, 1], device=x.device)).sum(dim=-1).long()
    for t in range(frames - 1):
        spread[t, cells[t, seen[t]]] = scaled[seen[t]]
    spread[-1] = scaled
    return spread


def temporal_bonus(x: Tensor, moves: Tensor, slots: tuple[int, ...], history: int, weight: float) -> Tensor:
    """Soft term of MTP: ``weight`` times the mean of volatility and recency (ours).

    x: (T, P, D); moves: volatility (P,) or (T, P); slots: for each frame its place in the history, 0 oldest to
    ``history - 1`` newest. Returns (T * P,).
    """
    recency = (on_device(slots, x, x.dtype) + 1) / history
    return (weight * (moves.expand(x.shape[:2]) + recency[:, None]) / 2).reshape(-1)


def prune_temporal(
    views: Sequence[Known],
    moves: Sequence[Tensor],
    slots: Sequence[tuple[int, ...]],
    history: int,
    budgets: Sequence[int],
    weight: float,
    frozen: Sequence[Tensor] | None = None,
    scale: bool = False,
) -> list[Tensor]:
    """MTP over every view at once.

    views: per view unit rows and similarities, T >= 1; moves: per view its volatility, see `temporal_bonus`; slots: per
    view and frame; budgets: per view; frozen (ours): per view the frames to look at last, bool (T,); scale (ours): soft
    terms scale the distance. Returns per view a bool (T * P,) keep mask with exactly its budget.
    """
    bonuses = [temporal_bonus(x.units, m, places, history, weight) for x, m, places in zip(views, moves, slots)]
    if frozen is not None:
        bonuses = [b + REPEATED * f.repeat_interleave(len(b) // len(f)) for b, f in zip(bonuses, frozen)]
    return select([x.similarity for x in views], bonuses, budgets, scale)
