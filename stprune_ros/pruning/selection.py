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


def greedy_max_min(similarity: Tensor, bonus: Tensor, steps: Sequence[int]) -> Tensor:
    """Select tokens one at a time, each the one farthest from those selected, plus its bonus.

    next = argmax_{i not in S} [ min_{j in S} (1 - similarity_ij) + bonus_i ]; the first is the one of highest bonus;
    ties go to the lowest index, so the selection is deterministic.

    similarity: (B, N, N) cosine similarities, float32; bonus: (B, N), -inf where there is no token; steps: how many to
    select of each set, B numbers, at most the number of tokens. Returns (B, N): the score at which each token was
    selected, infinite for the first, to which nothing is near; -inf for all that were not. Within a set no score
    exceeds one before it. On a GPU this is one launch, and the host does not wait for it.
    """
    if similarity.device.type == 'cuda':
        return greedy_cuda(similarity, bonus, steps)
    if greedy_numba is not None and similarity.device.type == 'cpu':
        return torch.from_numpy(greedy_numba(similarity.numpy(), bonus.numpy(), np.array(steps, np.int64)))
    return greedy_plain(similarity, bonus, on_device(steps, similarity), max(steps, default=0))


def select(
    similarities: Sequence[Tensor],
    bonuses: Sequence[Tensor],
    budgets: Sequence[int],
    multiplicative_bonus: bool = False,
    ring_budget: bool = False,
) -> list[Tensor]:
    """`greedy_max_min` for several sets of tokens; see `multiply_by_bonus` for ``multiplicative_bonus``.

    similarities: per set (n_b, n_b); bonuses: per set (n_b,); budgets: per set. ``ring_budget``: the sets compete for
    the sum of their budgets, see `share_budget`. Returns per set a bool (n_b,) mask.
    """
    if not similarities:
        return []
    if multiplicative_bonus:
        similarities, bonuses = zip(*(multiply_by_bonus(s, b) for s, b in zip(similarities, bonuses)))
    sizes = [len(bonus) for bonus in bonuses]
    steps = most_steps(budgets, sizes) if ring_budget else budgets
    scores = _scores(similarities, bonuses, steps)
    if ring_budget:
        return share_budget(scores, budgets)
    return [score > -math.inf for score in scores]


def least_kept(budget: int) -> int:
    """What a set keeps in any case when it competes: half of its own budget, rounded down, but one at least."""
    return min(budget, max(1, budget // 2))


def most_steps(budgets: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """The most that each set can keep when the sets compete: all that the others need not keep."""
    least = [least_kept(budget) for budget in budgets]
    free = sum(budgets) - sum(least)
    return [min(size, kept + free) for size, kept in zip(sizes, least)]


def share_budget(scores: Sequence[Tensor], budgets: Sequence[int]) -> list[Tensor]:
    """The tokens of one greedy selection over all sets, from the scores of a greedy selection within each.

    Every set keeps its first `least_kept`, so that none is starved; the rest of the summed budgets goes to the highest
    scores that are left, ties to the lowest set and index. As a token's score depends on its own set alone and never
    rises, this is what a loop would select that at each step takes the best token of all sets. scores: per set (n_b,),
    see `greedy_max_min`, of `most_steps` steps. Returns per set a bool (n_b,) mask, together of the summed budgets.
    """
    rows = pad_rows(scores, -math.inf)  # [B, N]
    rank = rows.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    least = on_device([least_kept(budget) for budget in budgets], rows)
    flat = rows.masked_fill(rank < least[:, None], math.inf).flatten()
    kept = flat.argsort(descending=True, stable=True)[: sum(budgets)]
    keep = torch.zeros_like(flat, dtype=torch.bool).scatter_(0, kept, True).view_as(rows)
    return [keep[i, : len(score)] for i, score in enumerate(scores)]


def _scores(similarities: Sequence[Tensor], bonuses: Sequence[Tensor], steps: Sequence[int]) -> list[Tensor]:
    """`greedy_max_min` for sets of different sizes."""
    if greedy_numba is not None and all(x.device.type == 'cpu' for x in similarities):
        # One after another: padding would copy more than the loop reads.
        return [greedy_max_min(s[None], b[None], [k])[0] for s, b, k in zip(similarities, bonuses, steps)]
    if len({len(similarity) for similarity in similarities}) == 1:
        return list(greedy_max_min(stacked(similarities), stacked(bonuses), steps).unbind())
    size = max(map(len, similarities))
    padded = similarities[0].new_zeros(len(similarities), size, size)
    for target, similarity in zip(padded, similarities):
        target[: len(similarity), : len(similarity)] = similarity
    scores = greedy_max_min(padded, pad_rows(bonuses, -math.inf), steps)
    return [scores[i, : len(similarity)] for i, similarity in enumerate(similarities)]


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
