"""Greedy max-min selection and exact budgets: the core that MTP and RSP share (our reading of the paper)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stprune_ros.pruning.greedy_numba import compiled


def budget(ratio: float, count: int) -> int:
    """How many of ``count`` tokens a ratio in (0, 1] keeps: rounded half up, at least one where there is one."""
    return min(count, max(1, math.floor(ratio * count + 0.5)))


def greedy_max_min(similarity: Tensor, bonus: Tensor, budgets: Sequence[int]) -> Tensor:
    """Select tokens one at a time, each the one farthest from those selected, plus its bonus.

    next = argmax_{i not in S} [ min_{j in S} (1 - similarity_ij) + bonus_i ]; the first is the one of highest bonus;
    ties go to the lowest index, so the selection is deterministic.

    similarity: (B, N, N) cosine similarities, float32; bonus: (B, N), -inf where there is none; budgets: B numbers, at
    most the number of tokens. Returns the keep mask, bool (B, N), with exactly ``budgets`` tokens in each row. On a GPU
    this is one launch, and nothing waits for it (not run on a GPU yet).
    """
    if similarity.device.type == 'cuda':
        from stprune_ros.pruning.greedy_cuda import greedy_cuda

        return greedy_cuda(similarity, bonus, budgets)
    if compiled is not None and similarity.device.type == 'cpu':
        return torch.from_numpy(compiled(similarity.numpy(), bonus.numpy(), np.array(budgets, np.int64)))
    return greedy_plain(similarity, bonus, on_device(budgets, similarity), max(budgets, default=0))


def greedy_plain(similarity: Tensor, bonus: Tensor, budgets: Tensor, steps: int) -> Tensor:
    """`greedy_max_min` step by step in torch: the reference for the compiled loops; ``steps`` is the largest budget."""
    rows = torch.arange(len(similarity), device=similarity.device)
    score = bonus.clone()
    nearest = torch.full_like(bonus, math.inf)
    keep = torch.zeros_like(bonus, dtype=torch.bool)
    for step in range(steps):
        chosen = score.argmax(dim=1)
        keep[rows, chosen] |= step < budgets
        nearest = torch.minimum(nearest, 1 - similarity[rows, chosen])
        score = (nearest + bonus).masked_fill_(keep, -math.inf)
    return keep


def on_device(values: Sequence[int], like: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    """Numbers as a tensor where ``like`` is; the host does not wait for the copy."""
    return torch.tensor(values, dtype=dtype).to(like.device, non_blocking=True)


def pad_rows(rows: Sequence[Tensor], value: float = 0.0) -> Tensor:
    """Stack (n_b, ...) tensors of different n_b into (B, max n_b, ...), padded with ``value``."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def products(tokens: Sequence[Tensor]) -> list[Tensor]:
    """Cosine similarities within each of several sets: per set (n_b, n_b) for unit rows (n_b, D)."""
    if all(x.device.type == 'cpu' for x in tokens):
        return [x @ x.T for x in tokens]
    padded = pad_rows(tokens)
    return [product[: len(x), : len(x)] for product, x in zip(padded @ padded.transpose(1, 2), tokens)]


def select(
    similarities: Sequence[Tensor], bonuses: Sequence[Tensor], budgets: Sequence[int], scale: bool = False
) -> list[Tensor]:
    """`greedy_max_min` for several independent sets at once; with ``scale`` in the form of `scaled`.

    similarities: per set (n_b, n_b); bonuses: per set (n_b,); budgets: per set. Returns per set a bool (n_b,) mask.
    """
    if not similarities:
        return []
    if scale:
        similarities, bonuses = zip(*(scaled(s, b) for s, b in zip(similarities, bonuses)))
    if compiled is not None and all(x.device.type == 'cpu' for x in similarities):
        # One after another: padding would copy more than the loop reads.
        return [greedy_max_min(s[None], b[None], [k])[0] for s, b, k in zip(similarities, bonuses, budgets)]
    size = max(map(len, similarities))
    padded = similarities[0].new_zeros(len(similarities), size, size)
    for place, similarity in zip(padded, similarities):
        place[: len(similarity), : len(similarity)] = similarity
    keep = greedy_max_min(padded, pad_rows(bonuses, -math.inf), budgets)
    return [keep[i, : len(similarity)] for i, similarity in enumerate(similarities)]


def scaled(similarity: Tensor, bonus: Tensor) -> tuple[Tensor, Tensor]:
    """The selection in which soft terms scale the distance, in terms of the one in which they are added (ours).

    next = argmax_{i not in S} [ min_{j in S} (1 - similarity_ij) * exp(bonus_i) ]; the first is still the one of
    highest bonus. A copy of a kept token stays worthless, however new or moving it is. Returns the similarity (n, n)
    and the bonus (n,), which then decides the start and nothing after it.
    """
    start = torch.nn.functional.one_hot(bonus.argmax(), len(bonus)).to(bonus.dtype)
    return 1 - (1 - similarity) * bonus.exp(), start


def kept_places(mask: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` tokens that a mask (n,) keeps, rising: the host need not know them to go on."""
    return mask.to(torch.uint8).argsort(descending=True, stable=True)[:count]


def warm_up() -> None:
    """Compile the loop now, so that the first tick need not."""
    greedy_max_min(torch.ones(1, 1, 1), torch.ones(1, 1), [1])
