"""Commonness (ours): how much a token looks like something that the other views show at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

Place = tuple[int, int]  # a view, and the index of one of its frames


def at_one_time(views: Sequence[Tensor]) -> list[Tensor]:
    """Mean over the other views of the best similarity there: per view (P,), for unit rows (P, D) of one instant.

    Each pair of views is multiplied once. Zero where there is no other view.
    """
    total = [x.new_zeros(len(x)) for x in views]
    for i, j in combinations(range(len(views)), 2):
        product = views[i] @ views[j].T
        total[i] += product.amax(dim=1)
        total[j] += product.amax(dim=0)
    return [found / max(1, len(views) - 1) for found in total]


def all_at_once(units: Sequence[Tensor]) -> list[Tensor]:
    """`at_one_time` for every instant in one batched product: per view (T * P,), for unit rows (T, P, D) of one shape.

    Twice the multiplications in a few launches: for devices on which launches count.
    """
    views, places = len(units), units[0].shape[1]
    x = torch.stack(list(units), dim=1).flatten(1, 2)
    best = (x @ x.transpose(1, 2)).unflatten(2, (views, places)).amax(dim=-1).unflatten(1, (views, places))
    itself = torch.eye(views, dtype=torch.bool, device=x.device)[:, None]
    mean = best.masked_fill(itself, 0.0).sum(dim=-1) / max(1, views - 1)
    return [found.flatten() for found in mean.unbind(dim=1)]


def commonness(
    units: Sequence[Tensor],
    slots: Sequence[tuple[int, ...]],
    at: Callable[[Sequence[Place]], Sequence[Tensor]] | None = None,
) -> list[Tensor]:
    """Commonness of every token: per view (T * P,), for unit rows (T, P, D), T = 0 for a view without frames.

    ``slots`` gives each frame's place in the history: frames of one slot were taken at the same time. ``at`` may know
    the result for the frames of one slot already.
    """
    found = [x.new_zeros(x.shape[:2]) for x in units]
    there = [i for i, view in enumerate(slots) if view]
    alike = len({(units[i].shape, slots[i]) for i in there}) == 1
    if at is None and alike and units[there[0]].device.type != 'cpu':
        for i, value in zip(there, all_at_once([units[i] for i in there])):
            found[i] = value
        return [x.flatten() for x in found]
    for slot in sorted({slot for view in slots for slot in view}):
        places = [(i, view.index(slot)) for i, view in enumerate(slots) if slot in view]
        common = at(places) if at is not None else at_one_time([units[i][t] for i, t in places])
        for (i, t), value in zip(places, common):
            found[i][t] = value
    return [x.flatten() for x in found]


class CommonCache:
    """Keeps the commonness of instants that stay in the window, known by the identity of their frames' tensors."""

    def __init__(self) -> None:
        self._instants: list[tuple[tuple[Tensor, ...], list[Tensor]]] = []

    def __call__(
        self, frames: Sequence[tuple[Tensor, ...]], units: Sequence[Tensor], slots: Sequence[tuple[int, ...]]
    ) -> list[Tensor]:
        """`commonness`; ``frames`` are per view the tensors that its rows were made of. Drops what is not asked for."""
        old, self._instants = self._instants, []

        def at(places: Sequence[Place]) -> list[Tensor]:
            now = tuple(frames[i][t] for i, t in places)
            known = (common for before, common in old if _same(before, now))
            common = next(known, None) or at_one_time([units[i][t] for i, t in places])
            self._instants.append((now, common))
            return common

        return commonness(units, slots, at)

    def clear(self) -> None:
        """Forget everything."""
        self._instants.clear()


def _same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other))
