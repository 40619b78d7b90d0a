"""Greedy max-min selection and exact budgets: the core that MTP and RSP share (our reading of the paper)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.pruning.kernel import compiled


def budget(ratio: float, count: int) -> int:
    """How many of ``count`` tokens a ratio in (0, 1] keeps: rounded half up, at least one where there is one."""
    return min(count, max(1, math.floor(ratio * count + 0.5)))


def greedy_max_min(similarity: Tensor, bonus: Tensor, budgets: Tensor) -> Tensor:
    """Select tokens one at a time, each the one farthest from those selected, plus its bonus.

    next = argmax_{i not in S} [ min_{j in S} (1 - similarity_ij) + bonus_i ]; the first is the one of highest bonus;
    ties go to the lowest index, so the selection is deterministic.

    similarity: (B, N, N) cosine similarities, float32; bonus: (B, N), -inf where there is none; budgets: (B,) int64,
    at most the number of tokens. Returns the keep mask, bool (B, N), with exactly ``budgets`` tokens in each row.
    """
    if compiled is not None and similarity.device.type == 'cpu':
        return torch.from_numpy(compiled(similarity.numpy(), bonus.numpy(), budgets.numpy()))
    return greedy_plain(similarity, bonus, budgets)


def greedy_plain(similarity: Tensor, bonus: Tensor, budgets: Tensor) -> Tensor:
    """`greedy_max_min` step by step in torch: the reference for the compiled loop, and what runs on other devices."""
    rows = torch.arange(len(similarity), device=similarity.device)
    score = bonus.clone()
    nearest = torch.full_like(bonus, math.inf)
    keep = torch.zeros_like(bonus, dtype=torch.bool)
    for step in range(int(budgets.max()) if len(budgets) else 0):
        chosen = score.argmax(dim=1)
        keep[rows, chosen] |= step < budgets
        nearest = torch.minimum(nearest, 1 - similarity[rows, chosen])
        score = (nearest + bonus).masked_fill_(keep, -math.inf)
    return keep


def pad_rows(rows: Sequence[Tensor], value: float = 0.0) -> Tensor:
    """Stack (n_b, ...) tensors of different n_b into (B, max n_b, ...), padded with ``value``."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def select(tokens: Sequence[Tensor], bonuses: Sequence[Tensor], budgets: Sequence[int]) -> list[Tensor]:
    """`greedy_max_min` for several independent sets at once.

    tokens: per set (n_b, D), unit rows; bonuses: per set (n_b,); budgets: per set. Returns per set a bool (n_b,) mask.
    """
    if not tokens:
        return []
    x = pad_rows(tokens)
    bonus = pad_rows(bonuses, -math.inf)
    keep = greedy_max_min(x @ x.transpose(1, 2), bonus, torch.tensor(budgets, device=x.device))
    return [keep[i, : len(rows)] for i, rows in enumerate(tokens)]


def warm_up() -> None:
    """Compile the loop now, so that the first tick need not."""
    greedy_max_min(torch.ones(1, 1, 1), torch.ones(1, 1), torch.ones(1, dtype=torch.int64))
