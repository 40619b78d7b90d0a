"""Cosine similarities within each view, and a cache that keeps those of frames that stay in the history.

Shapes: T frames of a view, P tokens of a frame, D values of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from stprune_ros.pruning.commonness import CommonnessCache
from stprune_ros.pruning.similarity_batched import BatchedSimilarityCache
from stprune_ros.pruning.tensors import pad_rows, stacked
from stprune_ros.pruning.view_tokens import (
    ViewSimilarity,
    ViewTokens,
    empty_similarity,
    previous_indices,
    unit_frame,
    unit_rows,
)

CACHE_BYTES = 512 * 2**20  # six views of four frames of 196 tokens at D = 2048 take 50 MiB
STRIPS = 4  # of the product of a frame with itself, whose upper half mirrors the lower: five eighths of the work


def view_similarities(views: Sequence[ViewTokens]) -> list[ViewSimilarity]:
    """Unit rows and similarities of every view, computed where a view does not bring them from a cache.

    On the CPU each pair of frames is multiplied once and mirrored; elsewhere the views go through one batched product.
    """
    # A view without frames may lie on another device than the rest: it has no part in a batch.
    units = [unit_rows(view) for view in views if view.cached is None and view.count]
    if all(x.device.type == 'cpu' for x in units):
        similarities = [self_similarity(x) for x in units]
    else:
        similarities = cosine_similarities([x.flatten(0, 1) for x in units])
    computed = map(ViewSimilarity, units, similarities)
    return [view.cached or (next(computed) if view.count else empty_similarity(view)) for view in views]


def cosine_similarities(tokens: Sequence[Tensor]) -> list[Tensor]:
    """Cosine similarities within each of several sets of tokens: per set (n_b, n_b) for unit rows (n_b, D)."""
    if all(x.device.type == 'cpu' for x in tokens):
        return [x @ x.T for x in tokens]
    padded = stacked(tokens) if len({len(x) for x in tokens}) == 1 else pad_rows(tokens)  # [B, N, D]
    return [product[: len(x), : len(x)] for product, x in zip(padded @ padded.transpose(1, 2), tokens)]


def self_similarity(units: Tensor) -> Tensor:
    """Cosine similarities of all tokens of one view, frame pair by frame pair: (T * P, T * P) for unit rows (T, P, D).

    As in `SimilarityCache` every pair of frames is one product of the same shape, so that both agree to the bit.
    """
    size = units.shape[0] * units.shape[1]
    similarity = units.new_empty(size, size)
    for newer in range(len(units)):
        for older in range(newer + 1):
            _multiply(units, similarity, newer, older)
    return similarity


@dataclass(frozen=True)
class _Entry:
    """What is kept of a view, and the frames that it was computed from."""

    frames: tuple[Tensor, ...]
    similarity: ViewSimilarity


class SimilarityCache:
    """Keeps similarities of frames that stay in the history: a tick multiplies only the rows of new frames.

    A frame is recognized by the identity of its tensor in ``ViewTokens.frames``, which must not be written to; a view
    without ``frames`` passes through uncached. On the CPU the keep masks are bit-exact with those without a cache;
    elsewhere see `BatchedSimilarityCache`. At most ``max_bytes`` are kept, and views that exceed them are computed anew
    each time; views that are not in the ring any more are dropped. Not thread-safe.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self._entries: dict[str, _Entry] = {}  # by name of the view
        self._commonness = CommonnessCache()
        self._batched = BatchedSimilarityCache()

    @property
    def bytes(self) -> int:
        """Memory held, without the frames' own tensors."""
        return self._batched.bytes + sum(_bytes(entry.similarity) for entry in self._entries.values())

    def holds(self, view: ViewTokens, index: int) -> bool:
        """Whether the view's frame ``index`` was there in the tick before, on the CPU."""
        entry = self._entries.get(view.name)
        return entry is not None and view.frames is not None and _is_among(view.frames[index], entry.frames)

    def attach(self, views: Sequence[ViewTokens], with_commonness: bool = False) -> list[ViewTokens]:
        """The same views with ``cached`` filled in; valid until the next call, which writes into the same memory.

        ``with_commonness`` adds commonness, unless a view passes through uncached.
        """
        if any(view.count and view.tokens.device.type != 'cpu' for view in views):
            self._entries.clear()
            return self._batched.attach(views, with_commonness, self.max_bytes)
        previous, self._entries = self._entries, {}
        attached = [self._attach(view, previous.pop(view.name, None)) for view in views]
        cached = [view.cached for view in attached if view.cached is not None]
        if not with_commonness or len(cached) < len(attached):
            self._commonness.clear()  # or it would hold frames that have long left the history
            return attached
        frames, slots = [view.frames or () for view in attached], [view.slots for view in attached]
        common = self._commonness(frames, [x.units for x in cached], slots)
        return [replace(view, cached=replace(x, commonness=c)) for view, x, c in zip(attached, cached, common)]

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self._commonness.clear()
        self._batched.clear()

    def _attach(self, view: ViewTokens, previous: _Entry | None) -> ViewTokens:
        if not view.count:
            return replace(view, cached=empty_similarity(view))
        if view.frames is None:
            return view
        similarity = _updated(view, view.frames, previous)
        if self.bytes + _bytes(similarity) <= self.max_bytes:
            self._entries[view.name] = _Entry(view.frames, similarity)
        return replace(view, cached=similarity)


def _updated(view: ViewTokens, frames: tuple[Tensor, ...], previous: _Entry | None) -> ViewSimilarity:
    """Unit rows and similarities of a view, reusing those of every frame that ``previous`` holds."""
    count, tokens, dim = len(frames), view.count // len(frames), view.tokens.shape[-1]
    if previous is not None and previous.similarity.units.shape[1:] != (tokens, dim):
        previous = None
    before = previous_indices(frames, previous.frames if previous is not None else ())
    reused = [index for index in before if index is not None]
    in_place = all(index in (i, None) for i, index in enumerate(before))  # no frame has moved to another index
    if previous is not None and len(previous.frames) == count and in_place:
        units, similarity = previous.similarity.units, previous.similarity.similarity
    else:
        units = view.tokens.new_empty(count, tokens, dim, dtype=torch.float32)
        similarity = units.new_empty(count * tokens, count * tokens)
        if previous is not None and reused:
            now = [i for i, index in enumerate(before) if index is not None]
            units[now] = previous.similarity.units[reused]
            blocks = previous.similarity.similarity.unflatten(0, (-1, tokens)).unflatten(2, (-1, tokens))
            target = similarity.view(count, tokens, count, tokens)  # [T, P, T, P], as blocks
            for i, a in zip(now, reused):
                for j, b in zip(now, reused):
                    target[i, :, j] = blocks[a, :, b]
    for i, index in enumerate(before):
        if index is None:
            units[i] = unit_frame(view.tokens[i])
    for newer in range(count):
        for older in range(newer + 1):
            if before[newer] is None or before[older] is None:
                _multiply(units, similarity, newer, older)
    return ViewSimilarity(units, similarity)


def _multiply(units: Tensor, similarity: Tensor, newer: int, older: int) -> None:
    """Fill in the block of a pair of frames and its mirror image."""
    tokens = units.shape[1]
    a, b = slice(newer * tokens, (newer + 1) * tokens), slice(older * tokens, (older + 1) * tokens)
    if older == newer:
        _multiply_by_itself(units[newer], similarity[a, a])
        return
    torch.mm(units[newer], units[older].T, out=similarity[a, b])
    similarity[b, a] = similarity[a, b].T


def _multiply_by_itself(x: Tensor, similarity: Tensor) -> None:
    """Fill in the similarities (P, P) of unit rows x (P, D), strip by strip up to the diagonal."""
    edges = [len(x) * i // STRIPS for i in range(STRIPS + 1)]
    for begin, end in pairwise(edges):
        torch.mm(x[begin:end], x[:end].T, out=similarity[begin:end, :end])
        similarity[:begin, begin:end] = similarity[begin:end, :begin].T


def _is_among(frame: Tensor, frames: tuple[Tensor, ...]) -> bool:
    return any(frame is other for other in frames)


def _bytes(similarity: ViewSimilarity) -> int:
    return 4 * int(similarity.units.numel() + similarity.similarity.numel())
