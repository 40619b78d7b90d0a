"""The greedy loop of `selection.greedy_max_min`, compiled with numba where it is installed: the same picks, to the bit.

The loop makes a few million comparisons; in a framework each of its steps costs several dispatches instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from numba import njit
except ImportError:  # the plain loop does the same, slower
    njit = None

Float = NDArray[np.float32]


def greedy(similarity: Float, bonus: Float, budgets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Keep masks (B, N) for similarity (B, N, N), bonus (B, N) and budgets (B,)."""
    sets, tokens = bonus.shape
    keep = np.zeros((sets, tokens), np.bool_)
    for b in range(sets):
        nearest = np.full(tokens, np.inf, np.float32)
        best = int(np.argmax(bonus[b])) if tokens else 0
        for _ in range(budgets[b]):
            keep[b, best] = True
            row = similarity[b, best]
            top = np.float32(-np.inf)
            for i in range(tokens):
                nearest[i] = min(nearest[i], np.float32(1) - row[i])
                score = nearest[i] + bonus[b, i]
                if score > top and not keep[b, i]:
                    top = score
                    best = i
    return keep


compiled: Any = njit(cache=True, nogil=True)(greedy) if njit is not None else None
