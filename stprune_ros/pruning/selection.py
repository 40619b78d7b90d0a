"""Token budgets and greedy max-min selection: the core that every stage shares (our reading of the paper)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stprune_ros.pruning import greedy_graph
from stprune_ros.pruning.greedy import greedy_plain
from stprune_ros.pruning.greedy_cuda import greedy_cuda
from stprune_ros.pruning.greedy_numba import greedy_numba
from stprune_ros.pruning.tensors import on_device, one_hot_argmax, pad_rows, stacked


def token_budget(ratio: float, count: int) -> int:
    """How many of ``count`` tokens a ratio in (0, 1] keeps: rounded half up, at least one where there is one."""
    return min(count, max(1, math.floor(ratio * count + 0.5)))


def greedy_max_min(similarity: Tensor, bonus: Tensor, budgets: Sequence[int]) -> Tensor:
    """Select tokens one at a time, each the one farthest from those selected, plus its bonus.

    next = argmax_{i not in S} [ min_{j in S} (1 - similarity_ij) + bonus_i ]; the first is the one of highest bonus;
    ties go to the lowest index, so the selection is deterministic.

    similarity: (B, N, N) cosine similarities, float32; bonus: (B, N), -inf where there is no token; budgets: B numbers,
    at most the number of tokens. Returns the keep mask, bool (B, N), with exactly ``budgets`` tokens in each row. On a
    GPU this is one launch, and the host does not wait for it.
    """
    if similarity.device.type == 'cuda':
        return greedy_cuda(similarity, bonus, budgets)
    if greedy_numba is not None and similarity.device.type == 'cpu':
        return torch.from_numpy(greedy_numba(similarity.numpy(), bonus.numpy(), np.array(budgets, np.int64)))
    return greedy_plain(similarity, bonus, on_device(budgets, similarity), max(budgets, default=0))


def select(
    similarities: Sequence[Tensor],
    bonuses: Sequence[Tensor],
    budgets: Sequence[int],
    multiplicative_bonus: bool = False,
) -> list[Tensor]:
    """`greedy_max_min` for several independent sets of tokens; see `multiply_by_bonus` for ``multiplicative_bonus``.

    similarities: per set (n_b, n_b); bonuses: per set (n_b,); budgets: per set. Returns per set a bool (n_b,) mask.
    """
    if not similarities:
        return []
    if multiplicative_bonus:
        similarities, bonuses = zip(*(multiply_by_bonus(s, b) for s, b in zip(similarities, bonuses)))
    if greedy_numba is not None and all(x.device.type == 'cpu' for x in similarities):
        # One after another: padding would copy more than the loop reads.
        return [greedy_max_min(s[None], b[None], [k])[0] for s, b, k in zip(similarities, bonuses, budgets)]
    if len({len(similarity) for similarity in similarities}) == 1:
        return list(greedy_max_min(stacked(similarities), stacked(bonuses), budgets).unbind())
    size = max(map(len, similarities))
    padded = similarities[0].new_zeros(len(similarities), size, size)
    for target, similarity in zip(padded, similarities):
        target[: len(similarity), : len(similarity)] = similarity
    keep = greedy_max_min(padded, pad_rows(bonuses, -math.inf), budgets)
    return [keep[i, : len(similarity)] for i, similarity in enumerate(similarities)]


def multiply_by_bonus(similarity: Tensor, bonus: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the additive bonus of `greedy_max_min` into a factor on the distance, by changing its inputs.

    next = argmax_{i not in S} [ min_{j in S} (1 - similarity_ij) * exp(bonus_i) ]; the first is still the one of
    highest bonus. A copy of a selected token stays worthless, however recent or volatile it is. Returns the similarity
    (n, n) and the bonus (n,), which then decides the first token and nothing after it.
    """
    return 1 - (1 - similarity) * bonus.exp(), one_hot_argmax(bonus)


def warm_up(device: torch.device | str = 'cpu') -> None:
    """Compile the greedy loop for ``device`` now, so that the first tick need not."""
    greedy_max_min(torch.ones(1, 1, 1, device=device), torch.ones(1, 1, device=device), [1])


def free_recordings() -> None:
    """Give back the memory of what was recorded for a GPU; the next selections record anew."""
    greedy_graph.free()
