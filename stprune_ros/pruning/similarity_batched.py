"""Similarities and commonness kept from tick to tick off the CPU, where launches count: the views go as one batch.

Has not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stprune_ros.pruning.commonness import all_at_once
from stprune_ros.pruning.selection import on_device
from stprune_ros.pruning.view_tokens import Known, ViewTokens, nothing_known, places_before

Frames = tuple[tuple[Tensor, ...], ...]


@dataclass(frozen=True)
class _Ring:
    """What is kept of V views of T frames of P tokens, and the frames' own tensors, which say whose it is.

    ``units`` (V, T, P, D), ``similarity`` (V, T, P, T, P), ``common`` (V, T, P), None where nobody asked for it.
    """

    frames: Frames
    units: Tensor
    similarity: Tensor
    common: Tensor | None

    @property
    def bytes(self) -> int:
        held = (self.units, self.similarity, self.common)
        return sum(4 * part.numel() for part in held if part is not None)


class RingCache:
    """`SimilarityCache` for views that are alike; others, and views without ``frames``, are not kept.

    A tick multiplies the rows of its new frames, if they are new in all views; else everything. Sums may differ in
    their last bits from those without the cache.
    """

    def __init__(self) -> None:
        self._ring: _Ring | None = None

    @property
    def bytes(self) -> int:
        """Memory held, without the frames' own tensors."""
        return self._ring.bytes if self._ring is not None else 0

    def attach(self, views: Sequence[ViewTokens], across: bool, max_bytes: int) -> list[ViewTokens]:
        """See `SimilarityCache.attach`; nothing is kept that would take more than ``max_bytes``."""
        old, self._ring = self._ring, None
        there = [view for view in views if view.count]
        frames = tuple(view.frames for view in there if view.frames is not None)
        if len(frames) < len(there) or len({(view.tokens.shape, view.slots) for view in there}) != 1:
            return list(views)
        ring = _updated(there, frames, old, across)
        if ring.bytes <= max_bytes:
            self._ring = ring
        flat = ring.similarity.flatten(3, 4).flatten(1, 2)
        common = [None] * len(there) if ring.common is None else ring.common.flatten(1, 2).unbind()
        found = map(Known, ring.units.unbind(), flat.unbind(), common)
        return [replace(view, known=next(found) if view.count else nothing_known(view)) for view in views]

    def clear(self) -> None:
        """Forget everything."""
        self._ring = None


def _updated(views: Sequence[ViewTokens], frames: Frames, old: _Ring | None, across: bool) -> _Ring:
    """The ring with what ``old`` knows of frames that are new in no view."""
    tokens = views[0].tokens
    count, places, width = tokens.shape[0], tokens.shape[1] * tokens.shape[2], tokens.shape[-1]
    if old is not None and (len(old.frames) != len(views) or old.units.shape[2:] != (places, width)):
        old = None
    if old is not None and across and old.common is None:
        old = None
    before = _before(frames, old)
    if old is not None and len(old.frames[0]) == count and all(place in (i, None) for i, place in enumerate(before)):
        ring = replace(old, frames=frames)  # nothing moves: in the same memory
    else:
        units = tokens.new_empty(len(views), count, places, width, dtype=torch.float32)
        similarity = units.new_empty(len(views), count, places, count, places)
        ring = _Ring(frames, units, similarity, units.new_empty(len(views), count, places) if across else None)
        if old is not None:
            _carry(old, before, ring)
    new = [i for i, place in enumerate(before) if place is None]
    if new:
        fresh = torch.stack([torch.stack([view.tokens[i] for i in new]) for view in views]).flatten(2, 3).float()
        _enter(torch.nn.functional.normalize(fresh, dim=-1), new, ring)
    return ring


def _carry(old: _Ring, before: Sequence[int | None], ring: _Ring) -> None:
    """Copy what is known of frames that stay to where they are now."""
    stays = [(i, place) for i, place in enumerate(before) if place is not None]
    if not stays:
        return
    here, then = (on_device(list(places), ring.units) for places in zip(*stays))
    ring.units.index_copy_(1, here, old.units.index_select(1, then))
    kept = old.similarity.index_select(1, then).index_select(3, then)
    views, _, places, count, _ = ring.similarity.shape
    rows = kept.new_empty(views, len(stays), places, count, places).index_copy_(3, here, kept)
    ring.similarity.index_copy_(1, here, rows)
    if ring.common is not None and old.common is not None:
        ring.common.index_copy_(1, here, old.common.index_select(1, then))


def _enter(fresh: Tensor, new: Sequence[int], ring: _Ring) -> None:
    """Fill in the frames ``new`` with unit rows ``fresh`` (V, n, P, D), all others being known."""
    at = on_device(list(new), fresh)
    ring.units.index_copy_(1, at, fresh)
    views, _, places, count, _ = ring.similarity.shape
    rows = (fresh.flatten(1, 2) @ ring.units.flatten(1, 2).transpose(1, 2)).view(views, len(new), places, count, places)
    ring.similarity.index_copy_(1, at, rows)
    ring.similarity.index_copy_(3, at, rows.permute(0, 3, 4, 1, 2))
    if ring.common is not None:
        ring.common.index_copy_(1, at, torch.stack(all_at_once(fresh.unbind())).view(views, len(new), places))


def _before(frames: Frames, old: _Ring | None) -> list[int | None]:
    """Where each frame of every view was in ``old``, None where it is new in any of them."""
    nowhere: list[int | None] = [None] * len(frames[0])
    if old is None:
        return nowhere
    found = [places_before(now, then) for now, then in zip(frames, old.frames)]
    return found[0] if all(places == found[0] for places in found) else nowhere
