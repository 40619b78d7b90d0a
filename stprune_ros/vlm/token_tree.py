"""Many continuations of one prompt in a single pass: where each token stands, and which others it may see."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class TokenTree:
    """Token branches that share one prefix: ``ids`` by row, ``depths`` behind the prefix, and who sees whom."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.depths: list[int] = []
        self._sees: list[list[int]] = []

    def grow(self, ids: Sequence[int], stem: Sequence[int] | None) -> list[int]:
        """Add a branch behind ``stem`` (rows of an earlier branch; None: behind the prefix); returns its rows."""
        seen = list(stem or ())
        rows = []
        for token in ids:
            row = len(self.ids)
            self.ids.append(token)
            self.depths.append(len(seen))
            seen = [*seen, row]
            self._sees.append(seen)
            rows.append(row)
        return rows

    def visible(self, prefix: int) -> torch.Tensor:
        """Who sees whom, bool (n, prefix + n): everybody sees the whole prefix."""
        visible = torch.zeros(len(self.ids), prefix + len(self.ids), dtype=torch.bool)
        visible[:, :prefix] = True
        for row, seen in enumerate(self._sees):
            visible[row, [prefix + other for other in seen]] = True
        return visible


def additive_mask(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The attention mask (1, 1, n, k) that adds nothing where ``visible`` (n, k) is True and a huge minus elsewhere."""
    return torch.zeros(visible.shape, dtype=dtype).masked_fill_(~visible, torch.finfo(dtype).min)[None, None]
