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
    """Values scaled to [0, 1] over all of them; all zero where they differ by less than ``min_range``."""
    low, high = values.min(), values.max()
    return torch.where(high - low < min_range, 0.0, (values - low) / (high - low))


def one_hot_argmax(scores: Tensor) -> Tensor:
    """1.0 at the first maximum of ``scores`` (n,), 0.0 elsewhere: float (n,).

    As the bonus of a greedy selection it decides the first token and nothing after it, for a selected token is not
    scored again.
    """
    return torch.nn.functional.one_hot(scores.argmax(), len(scores)).to(scores.dtype)
