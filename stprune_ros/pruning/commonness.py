"""Commonness, which is not in the paper: how similar a token is to what the other views show at the same time.

Shapes: V views, T frames of a view, P tokens of a frame, D values of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

ROUNDING = 1e-12  # variance of cosines that differ by rounding alone
FrameIndex = tuple[int, int]  # index of a view, index of one of its frames


def commonness_at_instant(views: Sequence[Tensor]) -> list[Tensor]:
    """Mean over the other views of the best cosine similarity there: per view (P,), for unit rows (P, D) per view.

    Views may differ in P. Each pair of views is multiplied once. Zero where there is no other view.
    """
    total = [x.new_zeros(len(x)) for x in views]
    for i, j in combinations(range(len(views)), 2):
        product = views[i] @ views[j].T  # [P_i, P_j]
        total[i] += product.amax(dim=1)
        total[j] += product.amax(dim=0)
    return [best / max(1, len(views) - 1) for best in total]


def commonness_batched(units: Sequence[Tensor]) -> list[Tensor]:
    """`commonness_at_instant` for every instant in one batched product: per view (T * P,), for unit rows (T, P, D).

    All views must have the same shape. Twice the multiplications in a few launches: for GPUs, where launches count.
    """
    views, tokens = len(units), units[0].shape[1]
    x = torch.stack(list(units), dim=1).flatten(1, 2)  # [T, V * P, D]
    product = (x @ x.transpose(1, 2)).unflatten(2, (views, tokens))  # [T, V * P, V, P]
    best = product.amax(dim=-1).unflatten(1, (views, tokens))  # [T, V, P, V]
    same_view = torch.eye(views, dtype=torch.bool, device=x.device)[:, None]  # [V, 1, V]
    mean = best.masked_fill(same_view, 0.0).sum(dim=-1) / max(1, views - 1)  # [T, V, P]
    return [common.flatten() for common in mean.unbind(dim=1)]


def commonness(
    units: Sequence[Tensor],
    slots: Sequence[tuple[int, ...]],
    at_instant: Callable[[Sequence[FrameIndex]], Sequence[Tensor]] | None = None,
) -> list[Tensor]:
    """Commonness of every token: per view (T * P,), for unit rows (T, P, D), T = 0 for a view without frames.

    ``slots``: per view the history slot of each frame; frames of one slot were taken at the same time. ``at_instant``
    computes the commonness of the frames of one slot, per frame (P,); the default is `commonness_at_instant`.
    """
    result = [x.new_zeros(x.shape[:2]) for x in units]  # per view [T, P]
    active = [i for i, view in enumerate(slots) if view]
    same_shape = len({(units[i].shape, slots[i]) for i in active}) == 1
    if at_instant is None and same_shape and units[active[0]].device.type != 'cpu':
        for i, value in zip(active, commonness_batched([units[i] for i in active])):
            result[i] = value
        return [x.flatten() for x in result]
    for slot in sorted({slot for view in slots for slot in view}):
        frames = [(i, view.index(slot)) for i, view in enumerate(slots) if slot in view]
        values = at_instant(frames) if at_instant else commonness_at_instant([units[i][t] for i, t in frames])
        for (i, t), value in zip(frames, values):
            result[i][t] = value
    return [x.flatten() for x in result]


def separability(values: Tensor) -> Tensor:
    """How well one threshold splits values (n,) in two groups, from 0 to 1: Otsu's eta, a tensor without dimensions.

    The variance between the groups over that of all values, at the threshold where it is largest. Two narrow peaks
    come near 1, a uniform distribution has 3/4, a normal one 2/pi; values that are all the same have 0.
    """
    if len(values) < 2:
        return values.new_zeros(())
    x = values.sort().values.double()
    low = torch.arange(1, len(x), device=x.device, dtype=x.dtype)  # in the lower group, for every threshold
    total, below = x.sum(), x.cumsum(dim=0)[:-1]
    high = len(x) - low
    between = low * high * (below / low - (total - below) / high).square() / len(x) ** 2
    variance = x.var(correction=0)
    return torch.where(variance > ROUNDING, between.amax() / variance.clamp(min=ROUNDING), 0.0).to(values.dtype)


def skewness(values: Tensor) -> Tensor:
    """The third standardized moment of values (n,): below zero where a few are far below the rest. No dimensions."""
    x = values.double() - values.double().mean()
    variance = x.square().mean()
    return torch.where(variance > ROUNDING, x.pow(3).mean() / variance.clamp(min=ROUNDING) ** 1.5, 0.0).to(values.dtype)


class CommonnessCache:
    """Keeps the commonness of instants that stay in the history, recognized by the identity of their frames."""

    def __init__(self) -> None:
        self._instants: list[tuple[tuple[Tensor, ...], list[Tensor]]] = []

    def __call__(
        self, frames: Sequence[tuple[Tensor, ...]], units: Sequence[Tensor], slots: Sequence[tuple[int, ...]]
    ) -> list[Tensor]:
        """`commonness`; ``frames``: per view the tensors behind its rows. Drops instants that do not occur any more."""
        previous, self._instants = self._instants, []

        def at_instant(indices: Sequence[FrameIndex]) -> list[Tensor]:
            key = tuple(frames[i][t] for i, t in indices)
            cached = (common for old_key, common in previous if _same_tensors(old_key, key))
            common = next(cached, None) or commonness_at_instant([units[i][t] for i, t in indices])
            self._instants.append((key, common))
            return common

        return commonness(units, slots, at_instant)

    def clear(self) -> None:
        """Drop everything."""
        self._instants.clear()


def _same_tensors(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other))
