"""Greedy max-min selection in plain torch: the reference that the compiled loops must match bit for bit."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def greedy_plain(similarity: Tensor, bonus: Tensor, budgets: Tensor, steps: int) -> Tensor:
    """See `selection.greedy_max_min`; ``budgets`` is an int64 tensor (B,) and ``steps`` its largest value."""
    rows = torch.arange(len(similarity), device=similarity.device)
    score = bonus.clone()  # (B, N); nothing is selected yet, so that the bonus alone decides
    nearest = torch.full_like(bonus, math.inf)  # (B, N), distance to the nearest selected token
    keep = torch.zeros_like(bonus, dtype=torch.bool)
    for step in range(steps):
        chosen = score.argmax(dim=1)  # (B,), the first of equal scores
        keep[rows, chosen] |= step < budgets
        nearest = torch.minimum(nearest, 1 - similarity[rows, chosen])
        score = (nearest + bonus).masked_fill_(keep, -math.inf)
    return keep
