"""Motion-aware Temporal Pruning (MTP): moving and new wins over static history (paper; its form here is ours)."""

from __future__ import annotations

import torch
from torch import Tensor

from stprune_ros.pruning.selection import select

STATIC_RANGE = 1e-6  # smaller differences in volatility are rounding, not motion (ours)


def volatility(x: Tensor) -> Tensor:
    """Variance of unit features over time at each grid position, scaled to [0, 1] within the view.

    x: (T, P, D), unit rows, the frames that are there. Returns (P,): 1 - || mean_t x ||^2, min-max scaled over P; all
    zero for one frame or where nothing changed.
    """
    raw = 1 - x.mean(dim=0).square().sum(dim=-1)
    low, high = raw.min(), raw.max()
    if len(x) < 2 or high - low < STATIC_RANGE:
        return torch.zeros_like(raw)
    return (raw - low) / (high - low)


def temporal_bonus(x: Tensor, slots: tuple[int, ...], history: int, weight: float) -> Tensor:
    """Soft term of MTP: ``weight`` times the mean of volatility and recency (ours).

    x: (T, P, D); slots: for each frame its place in the history, 0 oldest to ``history - 1`` newest. Returns (T * P,).
    """
    recency = (torch.tensor(slots, dtype=x.dtype, device=x.device) + 1) / history
    return (weight * (volatility(x)[None, :] + recency[:, None]) / 2).reshape(-1)


def prune_temporal(
    views: list[Tensor], slots: list[tuple[int, ...]], history: int, budgets: list[int], weight: float
) -> list[Tensor]:
    """MTP over every view at once.

    views: per view (T, P, D), unit rows, T >= 1; slots: per view and frame as in `temporal_bonus`; budgets: per view.
    Returns per view a bool (T * P,) keep mask with exactly its budget.
    """
    bonuses = [temporal_bonus(x, places, history, weight) for x, places in zip(views, slots)]
    return select([x.flatten(0, 1) for x in views], bonuses, budgets)
