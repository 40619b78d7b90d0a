"""Greedy max-min selection in plain torch: the reference that the compiled loops must match bit for bit."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def greedy_plain(similarity: Tensor, bonus: Tensor, steps: Tensor, most: int) -> Tensor:
    """See `selection.greedy_max_min`; ``steps`` is an int64 tensor (B,) and ``most`` its largest value."""
    rows = torch.arange(len(similarity), device=similarity.device)
    score = bonus.clone()  # (B, N); nothing is selected yet, so that the bonus alone decides
    nearest = torch.full_like(bonus, math.inf)  # (B, N), distance to the nearest selected token
    scores = torch.full_like(bonus, -math.inf)
    for step in range(most):
        chosen = score.argmax(dim=1)  # (B,), the first of equal scores
        found = score[rows, chosen] if step else nearest[rows, chosen]
        scores[rows, chosen] = torch.where(step < steps, found, scores[rows, chosen])
        nearest = torch.minimum(nearest, 1 - similarity[rows, chosen])
        score = (nearest + bonus).masked_fill_(scores > -math.inf, -math.inf)
    return scores
