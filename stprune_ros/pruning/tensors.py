"""Small tensor helpers that every selection shares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def on_device(values: Sequence[int], like: Tensor, dtype: torch.dtype = torch.int64) -> Tensor:
    """Numbers as a tensor (n,) on the device of ``like``; the host does not wait for the copy."""
    return torch.tensor(values, dtype=dtype).to(like.device, non_blocking=True)


def pad_rows(rows: Sequence[Tensor], value: float = 0.0) -> Tensor:
    """Stack (n_b, ...) tensors of different n_b into (B, max n_b, ...), padded at the end with ``value``."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def equal_groups(tensors: Sequence[Tensor], *also: Sequence[object]) -> list[list[int]]:
    """Indices of ``tensors`` that go through one operation together: on the CPU each alone, elsewhere all if they can.

    That is where their shapes are equal, and what ``also`` holds for each of them is, too. On a GPU launches count.
    """
    same = len({(x.shape, *(each[i] for each in also)) for i, x in enumerate(tensors)}) == 1
    together = same and all(x.device.type != 'cpu' for x in tensors)
    return [list(range(len(tensors)))] if together else [[i] for i in range(len(tensors))]


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape with a leading axis; a single one is not copied."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def kept_indices(mask: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` tokens that a mask (n,) keeps, ascending: int64 (count,).

    Unlike `torch.nonzero` it takes the count from the caller, so that the host does not wait for the device.
    """
    return mask.to(torch.uint8).argsort(descending=True, stable=True)[:count]


def split_evenly(total: int, parts: int) -> Tensor:
    """``total`` items in ``parts`` whole numbers that differ by at most one: int64 (parts,)."""
    edges = torch.arange(parts + 1) * total // parts
    return edges.diff()


def min_max_scaled(values: Tensor, min_range: float) -> Tensor:
    """Values (..., n) scaled to [0, 1] over the last axis; all zero where they differ by less than ``min_range``."""
    low, high = values.amin(dim=-1, keepdim=True), values.amax(dim=-1, keepdim=True)
    return torch.where(high - low < min_range, 0.0, (values - low) / (high - low))


def one_hot_argmax(scores: Tensor) -> Tensor:
    """1.0 at the first maximum of ``scores`` (n,), 0.0 elsewhere: float (n,).

    As the bonus of a greedy selection it decides the first token and nothing after it, for a selected token is not
    scored again.
    """
    return torch.nn.functional.one_hot(scores.argmax(), len(scores)).to(scores.dtype)
