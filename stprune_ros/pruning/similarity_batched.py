"""The similarity cache for GPUs, where launches count: the views of a ring go through as one batch.

Shapes: V views, T frames of a view, P tokens of a frame, D values of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stprune_ros.pruning.commonness import commonness_batched
from stprune_ros.pruning.tensors import on_device
from stprune_ros.pruning.view_tokens import ViewSimilarity, ViewTokens, empty_similarity, previous_indices

Frames = tuple[tuple[Tensor, ...], ...]  # per view, its frames' tensors


@dataclass(frozen=True)
class _Batch:
    """What is kept of V views of T frames of P tokens, and the frames that it was computed from.

    ``units`` (V, T, P, D), ``similarity`` (V, T, P, T, P), ``commonness`` (V, T, P), None where nobody asked for it.
    """

    frames: Frames
    units: Tensor
    similarity: Tensor
    commonness: Tensor | None

    @property
    def bytes(self) -> int:
        held = (self.units, self.similarity, self.commonness)
        return sum(4 * tensor.numel() for tensor in held if tensor is not None)


class BatchedSimilarityCache:
    """`SimilarityCache` for views of one shape with the same slots; others, and views without ``frames``, pass through.

    A tick multiplies only the rows of its new frames if they are new in all views, else everything. Sums may differ in
    their last bits from those without the cache.
    """

    def __init__(self) -> None:
        self._batch: _Batch | None = None

    @property
    def bytes(self) -> int:
        """Memory held, without the frames' own tensors."""
        return self._batch.bytes if self._batch is not None else 0

    def attach(self, views: Sequence[ViewTokens], with_commonness: bool, max_bytes: int) -> list[ViewTokens]:
        """See `SimilarityCache.attach`; nothing is kept that would take more than ``max_bytes``."""
        previous, self._batch = self._batch, None
        active = [view for view in views if view.count]
        frames = tuple(view.frames for view in active if view.frames is not None)
        if len(frames) < len(active) or len({(view.tokens.shape, view.slots) for view in active}) != 1:
            return list(views)
        batch = _updated(active, frames, previous, with_commonness)
        if batch.bytes <= max_bytes:
            self._batch = batch
        similarity = batch.similarity.flatten(3, 4).flatten(1, 2)  # [V, T * P, T * P]
        common = [None] * len(active) if batch.commonness is None else batch.commonness.flatten(1, 2).unbind()
        cached = map(ViewSimilarity, batch.units.unbind(), similarity.unbind(), common)
        return [replace(view, cached=next(cached) if view.count else empty_similarity(view)) for view in views]

    def clear(self) -> None:
        """Drop everything."""
        self._batch = None


def _updated(views: Sequence[ViewTokens], frames: Frames, previous: _Batch | None, with_commonness: bool) -> _Batch:
    """The batch of these views, reusing what ``previous`` holds of frames that are new in no view."""
    features = views[0].tokens
    count, tokens, dim = features.shape[0], features.shape[1] * features.shape[2], features.shape[-1]
    if previous is not None and (len(previous.frames) != len(views) or previous.units.shape[2:] != (tokens, dim)):
        previous = None
    if previous is not None and with_commonness and previous.commonness is None:
        previous = None
    before = _previous_indices(frames, previous)
    in_place = all(index in (i, None) for i, index in enumerate(before))  # no frame has moved to another index
    if previous is not None and len(previous.frames[0]) == count and in_place:
        batch = replace(previous, frames=frames)  # the same memory
    else:
        units = features.new_empty(len(views), count, tokens, dim, dtype=torch.float32)
        similarity = units.new_empty(len(views), count, tokens, count, tokens)
        common = units.new_empty(len(views), count, tokens) if with_commonness else None
        batch = _Batch(frames, units, similarity, common)
        if previous is not None:
            _copy_reused(previous, before, batch)
    new = [i for i, index in enumerate(before) if index is None]
    if new:
        rows = torch.stack([view.tokens[i] for view in views for i in new])  # [V * n, rows, columns, D]
        unit = torch.nn.functional.normalize(rows.flatten(1, 2).float(), dim=-1)
        _compute_new(unit.unflatten(0, (len(views), len(new))), new, batch)
    return batch


def _copy_reused(previous: _Batch, before: Sequence[int | None], batch: _Batch) -> None:
    """Copy what is kept of reused frames to where they are now; ``before``: each frame's index in ``previous``."""
    reused = [(i, index) for i, index in enumerate(before) if index is not None]
    if not reused:
        return
    now, then = (on_device(list(indices), batch.units) for indices in zip(*reused))
    batch.units.index_copy_(1, now, previous.units.index_select(1, then))
    kept = previous.similarity.index_select(1, then).index_select(3, then)  # [V, n, P, n, P]
    views, _, tokens, count, _ = batch.similarity.shape
    rows = kept.new_empty(views, len(reused), tokens, count, tokens).index_copy_(3, now, kept)  # [V, n, P, T, P]
    batch.similarity.index_copy_(1, now, rows)
    if batch.commonness is not None and previous.commonness is not None:
        batch.commonness.index_copy_(1, now, previous.commonness.index_select(1, then))


def _compute_new(units: Tensor, new: Sequence[int], batch: _Batch) -> None:
    """Fill in the frames of indices ``new`` from their unit rows (V, n, P, D); all others must be there already."""
    indices = on_device(list(new), units)
    batch.units.index_copy_(1, indices, units)
    views, _, tokens, count, _ = batch.similarity.shape
    product = units.flatten(1, 2) @ batch.units.flatten(1, 2).transpose(1, 2)  # [V, n * P, T * P]
    rows = product.view(views, len(new), tokens, count, tokens)  # [V, n, P, T, P]
    batch.similarity.index_copy_(1, indices, rows)
    batch.similarity.index_copy_(3, indices, rows.permute(0, 3, 4, 1, 2))  # [V, T, P, n, P]
    if batch.commonness is not None:
        common = torch.stack(commonness_batched(units.unbind()))  # [V, n * P]
        batch.commonness.index_copy_(1, indices, common.view(views, len(new), tokens))


def _previous_indices(frames: Frames, previous: _Batch | None) -> list[int | None]:
    """The index of each frame in ``previous``, None where it is new in any view."""
    new: list[int | None] = [None] * len(frames[0])
    if previous is None:
        return new
    indices = [previous_indices(now, then) for now, then in zip(frames, previous.frames)]
    return indices[0] if all(found == indices[0] for found in indices) else new
