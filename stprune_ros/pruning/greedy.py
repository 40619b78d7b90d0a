"""Greedy max-min selection in plain torch: the reference that the compiled loops must match bit for bit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class GreedyState:
    """Where a selection stands: what each `greedy_step` reads and writes, in place, for B sets of N tokens.

    ``score`` (B, N) decides the next token, ``nearest`` (B, N) is each token's distance to the nearest selected one,
    ``scores`` (B, N) at which score each was selected, -inf for all that are not, ``step`` int64 (1,) how many steps
    were made.
    """

    score: Tensor
    nearest: Tensor
    scores: Tensor
    step: Tensor

    @classmethod
    def beginning(cls, bonus: Tensor) -> GreedyState:
        """Nothing is selected yet, so that ``bonus`` (B, N) alone decides."""
        return cls(
            bonus.clone(),
            torch.full_like(bonus, math.inf),
            torch.full_like(bonus, -math.inf),
            torch.zeros(1, dtype=torch.int64, device=bonus.device),
        )


def greedy_step(state: GreedyState, similarity: Tensor, bonus: Tensor, steps: Tensor, rows: Tensor) -> None:
    """Select one more token in each set of whose ``steps``, int64 (B,), not all are made; ``rows`` is 0 to B-1."""
    chosen = state.score.argmax(dim=1)  # (B,), the first of equal scores
    found = torch.where(state.step == 0, state.nearest[rows, chosen], state.score[rows, chosen])
    state.scores[rows, chosen] = torch.where(state.step < steps, found, state.scores[rows, chosen])
    torch.minimum(state.nearest, 1 - similarity[rows, chosen], out=state.nearest)
    torch.add(state.nearest, bonus, out=state.score)
    state.score.masked_fill_(state.scores > -math.inf, -math.inf)
    state.step.add_(1)


def greedy_plain(similarity: Tensor, bonus: Tensor, steps: Tensor, most: int) -> Tensor:
    """See `selection.greedy_max_min`; ``steps`` is an int64 tensor (B,) and ``most`` at least its largest value."""
    rows = torch.arange(len(similarity), device=similarity.device)
    state = GreedyState.beginning(bonus)
    for _ in range(most):
        greedy_step(state, similarity, bonus, steps, rows)
    return state.scores
