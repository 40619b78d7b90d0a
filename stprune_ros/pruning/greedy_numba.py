"""Greedy max-min selection compiled with numba, where it is installed: bit-exact with `greedy.greedy_plain`.

The loop makes a few million comparisons; as tensor operations each of its steps would cost several dispatches.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stprune_ros.private_folder import is_private

# Where colorama is installed numba would otherwise write to the terminal when the program ends.
os.environ.setdefault('NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING', '1')
try:
    from numba import njit
except ImportError:  # `selection` then takes the plain loop
    njit = None

Float = NDArray[np.float32]


def greedy_loop(similarity: Float, bonus: Float, steps: NDArray[np.int64]) -> Float:
    """Scores (B, N) for similarity (B, N, N), bonus (B, N) and steps (B,); see `selection.greedy_max_min`."""
    sets, tokens = bonus.shape
    nothing = np.float32(-np.inf)
    scores = np.full((sets, tokens), nothing, np.float32)
    for b in range(sets):
        nearest = np.full(tokens, np.inf, np.float32)
        best, top = int(np.argmax(bonus[b])) if tokens else 0, np.float32(np.inf)
        for _ in range(steps[b]):
            scores[b, best] = top
            row = similarity[b, best]
            top = nothing
            for i in range(tokens):
                nearest[i] = min(nearest[i], np.float32(1) - row[i])
                score = nearest[i] + bonus[b, i]
                if score > top and scores[b, i] == nothing:
                    top = score
                    best = i
    return scores


def _compiled() -> Any:
    """The loop for numba, cached on disk where only this user can write: the cache is pickles, which are code."""
    cached = njit(cache=True, nogil=True)(greedy_loop)
    return cached if is_private(Path(cached._cache.cache_path).resolve()) else njit(nogil=True)(greedy_loop)


greedy_numba: Any = _compiled() if njit is not None else None
