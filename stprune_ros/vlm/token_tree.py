"""Many continuations of one prompt in a single pass: where each token stands, and which others it may see."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class TokenTree:
    """Token paths behind one prefix, in which what they begin with alike stands once.

    ``ids`` by row, ``depths`` behind the prefix, and who sees whom.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.depths: list[int] = []
        self._sees: list[list[int]] = []
        self._rows: dict[tuple[int | None, int], int] = {}  # by the row before, None behind the prefix, and the token

    def grow(self, path: Sequence[int]) -> int:
        """Add what is new of a path that begins behind the prefix; returns the row of its last token."""
        row: int | None = None
        for token in path:
            before = row
            row = self._rows.setdefault((before, token), len(self.ids))
            if row == len(self.ids):
                seen = [] if before is None else self._sees[before]
                self.ids.append(token)
                self.depths.append(len(seen))
                self._sees.append([*seen, row])
        if row is None:
            raise ValueError('a path has at least one token')
        return row

    def leaves(self) -> list[list[int]]:
        """For each row the numbers of the leaves that it leads to, which count from 0 in the order of their rows."""
        inner = {before for before, _ in self._rows}
        ends = [row for row in range(len(self.ids)) if row not in inner]
        found: list[list[int]] = [[] for _ in self.ids]
        for number, end in enumerate(ends):
            for row in self._sees[end]:
                found[row].append(number)
        return found

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
