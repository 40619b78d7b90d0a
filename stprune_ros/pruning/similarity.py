"""Cosine similarities within each view, each pair of frames once, and kept from tick to tick where frames stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stprune_ros.pruning.commonness import CommonCache
from stprune_ros.pruning.selection import products
from stprune_ros.pruning.similarity_batched import RingCache
from stprune_ros.pruning.view_tokens import Known, ViewTokens, nothing_known, places_before, unit_frame, unit_rows

CACHE_BYTES = 512 * 2**20  # six views of four frames of 196 tokens at D = 2048 take 50 MiB


def known(views: Sequence[ViewTokens]) -> list[Known]:
    """Unit rows and similarities of every view, computed where a view does not bring them.

    On the CPU each pair of frames is multiplied once and mirrored; elsewhere the views go through one batched product.
    """
    # A view without frames may lie on another device than the rest: it has no part in a batch.
    units = [unit_rows(view) for view in views if view.known is None and view.count]
    if all(x.device.type == 'cpu' for x in units):
        similarities = [within(x) for x in units]
    else:
        similarities = products([x.flatten(0, 1) for x in units])
    computed = map(Known, units, similarities)
    return [view.known or (next(computed) if view.count else nothing_known(view)) for view in views]


def within(units: Tensor) -> Tensor:
    """Similarities of all tokens of one view: (T * P, T * P) for unit rows (T, P, D)."""
    size = units.shape[0] * units.shape[1]
    similarity = units.new_empty(size, size)
    for newer in range(len(units)):
        for older in range(newer + 1):
            _multiply(units, similarity, newer, older)
    return similarity


@dataclass(frozen=True)
class _Entry:
    """What is kept of a view: the frames' own tensors, which say whose rows these are, and what was made of them."""

    frames: tuple[Tensor, ...]
    known: Known


class SimilarityCache:
    """Keeps similarities of frames that stay in the window (ours): a tick multiplies its new frames' rows only.

    A frame is known by the identity of its tensor in ``ViewTokens.frames``, which must not be written to; a view
    without ``frames`` goes through uncached. On the CPU every pair of frames is one product of the same shape with and
    without the cache, so that the keep masks are the same; elsewhere see `RingCache`. At most ``max_bytes`` are kept,
    views that find no room are computed anew each time; what belongs to views of an earlier ring is dropped. One thread
    at a time.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self._entries: dict[str, _Entry] = {}
        self._common = CommonCache()
        self._ring = RingCache()

    @property
    def bytes(self) -> int:
        """Memory held, without the frames' own tensors."""
        return self._ring.bytes + sum(_bytes(entry.known) for entry in self._entries.values())

    def attach(self, views: Sequence[ViewTokens], across: bool = False) -> list[ViewTokens]:
        """The same views with ``known`` filled in; good until the next call, which writes into the same memory.

        ``across`` asks for commonness, too; it is left out where a view goes through uncached.
        """
        if any(view.count and view.tokens.device.type != 'cpu' for view in views):
            self._entries.clear()
            return self._ring.attach(views, across, self.max_bytes)
        old, self._entries = self._entries, {}
        found = [self._attach(view, old.pop(view.name, None)) for view in views]
        inside = [view.known for view in found if view.known is not None]
        if not across or len(inside) < len(found):
            return found
        frames, slots = [view.frames or () for view in found], [view.slots for view in found]
        common = self._common(frames, [x.units for x in inside], slots)
        return [replace(view, known=replace(x, common=c)) for view, x, c in zip(found, inside, common)]

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._common.clear()
        self._ring.clear()

    def _attach(self, view: ViewTokens, old: _Entry | None) -> ViewTokens:
        if not view.count:
            return replace(view, known=nothing_known(view))
        if view.frames is None:
            return view
        found = _updated(view, view.frames, old)
        if self.bytes + _bytes(found) <= self.max_bytes:
            self._entries[view.name] = _Entry(view.frames, found)
        return replace(view, known=found)


def _updated(view: ViewTokens, frames: tuple[Tensor, ...], old: _Entry | None) -> Known:
    """Unit rows and similarities of a view, reusing those of every frame that ``old`` holds."""
    count, places, width = len(frames), view.count // len(frames), view.tokens.shape[-1]
    if old is not None and old.known.units.shape[1:] != (places, width):
        old = None
    before = places_before(frames, old.frames if old is not None else ())
    stays = [place for place in before if place is not None]
    if old is not None and len(old.frames) == count and all(place in (i, None) for i, place in enumerate(before)):
        units, similarity = old.known.units, old.known.similarity
    else:
        units = view.tokens.new_empty(count, places, width, dtype=torch.float32)
        similarity = units.new_empty(count * places, count * places)
        if old is not None and stays:
            here = [i for i, place in enumerate(before) if place is not None]
            units[here] = old.known.units[stays]
            blocks = old.known.similarity.view(len(old.frames), places, len(old.frames), places)
            target = similarity.view(count, places, count, places)
            for i, a in zip(here, stays):
                for j, b in zip(here, stays):
                    target[i, :, j] = blocks[a, :, b]
    for i, place in enumerate(before):
        if place is None:
            units[i] = unit_frame(view.tokens[i])
    for newer in range(count):
        for older in range(newer + 1):
            if before[newer] is None or before[older] is None:
                _multiply(units, similarity, newer, older)
    return Known(units, similarity)


def _multiply(units: Tensor, similarity: Tensor, newer: int, older: int) -> None:
    """Fill in the block of a pair of frames and its mirror image."""
    places = units.shape[1]
    a, b = slice(newer * places, (newer + 1) * places), slice(older * places, (older + 1) * places)
    torch.mm(units[newer], units[older].T, out=similarity[a, b])
    if older != newer:
        similarity[b, a] = similarity[a, b].T


def _bytes(known: Known) -> int:
    return 4 * int(known.units.numel() + known.similarity.numel())
