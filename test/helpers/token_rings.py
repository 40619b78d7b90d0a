"""Rings of random tokens for tests of token selection."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.pruner import SpatioTemporalPruner
from stprune_ros.pruning.view_tokens import ViewTokens


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


def ring(views=4, frames=3, rows=3, columns=4, dim=16, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [
        ViewTokens(
            f'V{i}', torch.randn(frames, rows, columns, dim, generator=generator).to(dtype), tuple(range(frames))
        )
        for i in range(views)
    ]


@st.composite
def rings(draw, history=4):
    """One to six views of any grid, with 0 (a missing view) to ``history`` frames in any of the slots."""
    shapes = st.lists(st.tuples(st.integers(0, history), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=6)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 3)))
    views = []
    for i, (frames, rows, columns) in enumerate(draw(shapes)):
        slots = sorted(draw(st.permutations(range(history)))[:frames])
        views.append(ViewTokens(str(i), torch.randn(frames, rows, columns, 8, generator=generator), tuple(slots)))
    return views


def prune(views, history, method='st_prune', ratio=0.25, **more):
    return SpatioTemporalPruner(PruningConfig(method, ratio, **more))(views, history)
