"""Motion-aware Temporal Pruning (MTP): volatile and recent tokens win over static history.

The stage is the paper's; volatility, recency and their scales in this form are ours.
Shapes: T frames of a view, P = rows * columns tokens of a frame, D values of a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.pruning.selection import select
from stprune_ros.pruning.tensors import min_max_scaled, on_device
from stprune_ros.pruning.view_tokens import ViewSimilarity

REPEATED_BONUS = -4.0  # of tokens that a frozen camera repeats: they are selected after all others
UNKNOWN_VOLATILITY = 0.5  # in a view whose picture never changed: neither static nor moving
STATIC_RANGE = 1e-6  # smaller differences in volatility are rounding, not motion


def temporal_volatility(x: Tensor, fresh: Tensor | None = None) -> Tensor:
    """Variance of unit features over time at each grid position, scaled to [0, 1] within the view.

    x: unit rows (..., T, P, D), of several views at once where there are further axes; fresh: the frames that count,
    bool (T,), default all. Returns (..., P): 1 - || mean_t x ||^2, min-max scaled over P; all zero for one frame or
    where nothing changed.
    """
    mean = x.mean(dim=-3) if fresh is None else (x * (fresh / fresh.sum())[:, None, None]).sum(dim=-3)  # [..., P, D]
    variance = 1 - mean.square().sum(dim=-1)
    return torch.zeros_like(variance) if x.shape[-3] < 2 else min_max_scaled(variance, STATIC_RANGE)


def repeated_frames(x: Tensor) -> Tensor:
    """Frames that equal their successor bit for bit, as those of a frozen camera do: bool (T,) for (T, P, D)."""
    same = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    same[:-1] = (x[1:] == x[:-1]).flatten(1).all(dim=1)
    return same


def motion_compensated_volatility(x: Tensor, grid: tuple[int, int], flow: Tensor) -> Tensor:
    """Volatility of every token along the image motion that the ego vehicle causes: what is left moves by itself.

    x: unit rows (T, P, D); grid: (rows, columns); flow: (T, P, 2), see `ViewTokens`. Returns (T, P) in [0, 1]: the mean
    of 1 - cos over all pairs of frames, features interpolated bilinearly; tokens that are in fewer than two frames get
    the mean of the others.
    """
    frames, tokens, dim = x.shape
    rows, columns = grid
    visible = flow.isfinite().all(dim=-1)  # [T, P]
    positions = flow.nan_to_num(0.0)  # [T, P, 2]
    size = torch.tensor([columns, rows], device=x.device)
    points = (2 * positions.flip(-1) + 1) / size - 1  # grid_sample counts from -1 to 1, x first
    maps = x.transpose(1, 2).reshape(frames, dim, rows, columns)  # [T, D, rows, columns]
    sampled = torch.nn.functional.grid_sample(
        maps, points[:, None].to(x.dtype), padding_mode='border', align_corners=False
    )[:, :, 0].transpose(1, 2)  # [T, D, 1, P] -> [T, P, D]
    sampled = torch.nn.functional.normalize(sampled, dim=-1) * visible[..., None]
    count = visible.sum(dim=0)  # [P]
    # The sum of the cosines over all ordered pairs of n unit vectors is || their sum ||^2 - n.
    distance = (count * count - sampled.sum(dim=0).square().sum(dim=-1)) / (count * (count - 1)).clamp(min=1)
    tracked = count > 1
    if not tracked.any():
        return x.new_zeros(frames, tokens)
    distance = torch.where(tracked, distance, distance[tracked].mean())
    newest = min_max_scaled(distance, STATIC_RANGE)  # [P], for the patches of the newest frame
    volatility = newest.mean().repeat(frames, tokens)
    cells = (positions.round().clamp(min=0) * torch.tensor([columns, 1], device=x.device)).sum(dim=-1).long()  # [T, P]
    for t in range(frames - 1):
        volatility[t, cells[t, visible[t]]] = newest[visible[t]]
    volatility[-1] = newest
    return volatility


def recency(x: Tensor, slots: tuple[int, ...], history: int) -> Tensor:
    """How recent each frame is: (T,) in (0, 1], 1 for the newest slot; on the device of ``x`` (T, P, D).

    slots: each frame's slot among the ``history`` slots, 0 oldest, so that missing frames do not make others older.
    """
    return (on_device(slots, x, x.dtype) + 1) / history


def temporal_bonus(x: Tensor, volatility: Tensor, slots: tuple[int, ...], history: int, weight: float) -> Tensor:
    """Bonus of MTP: ``weight`` times the mean of volatility and recency: (T * P,).

    x: (T, P, D); volatility: (P,) or (T, P); slots, history: see `recency`.
    """
    newness = recency(x, slots, history)[:, None]  # [T, 1]
    return (weight * (volatility.expand(x.shape[:2]) + newness) / 2).reshape(-1)


def prune_temporal(
    views: Sequence[ViewSimilarity],
    volatility: Sequence[Tensor],
    slots: Sequence[tuple[int, ...]],
    history: int,
    budgets: Sequence[int],
    weight: float,
    frozen: Sequence[Tensor] | None = None,
    multiplicative_bonus: bool = False,
    ring_budget: bool = False,
    extra: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """MTP over every view at once.

    views: per view unit rows and similarities, T >= 1; volatility: per view (P,) or (T, P); slots, history: see
    `recency`; budgets: per view; frozen: per view the frames to select from last, bool (T,); multiplicative_bonus,
    ring_budget: see `select`. Returns per view a bool (T * P,) keep mask with exactly its budget, or with
    ``ring_budget`` masks of the summed budgets. extra: per view what is added to the bonus, (T * P,).
    """
    bonuses = [temporal_bonus(x.units, v, s, history, weight) for x, v, s in zip(views, volatility, slots)]
    if frozen is not None:
        bonuses = [b + REPEATED_BONUS * f.repeat_interleave(len(b) // len(f)) for b, f in zip(bonuses, frozen)]
    if extra is not None:
        bonuses = [bonus + added for bonus, added in zip(bonuses, extra)]
    return select([x.similarity for x in views], bonuses, budgets, multiplicative_bonus, ring_budget)
