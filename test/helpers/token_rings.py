"""Rings of random tokens for tests of token selection."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.pruner import PUBLISHED, SpatioTemporalPruner
from stprune_ros.pruning.similarity import SimilarityCache
from stprune_ros.pruning.view_tokens import ViewTokens


def unit(x):
    return torch.nn.functional.normalize(x, dim=-1)


class AskedCache(SimilarityCache):
    """Notes whether views are to be compared with one another."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def attach(self, views, with_commonness, *more):
        self.asked.append(with_commonness)
        return super().attach(views, with_commonness, *more)


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


def prune(views, history, method='st_prune', ratio=0.25, options=PUBLISHED, **more):
    """Masks of a method with the paper's budgets, unless ``more`` says otherwise."""
    config = PruningConfig(method, ratio, **{'budget': 'view', 'gauge_commonness': False, **more})
    return SpatioTemporalPruner(config, options=options)(views, history)


def kept_of(masks):
    """Indices of the kept tokens, per view."""
    return [mask.flatten().nonzero().flatten().tolist() for mask in masks]


def uneven_ring(views, seed, history=4):
    """A ring with all that a drive brings: missing frames and views, frozen cameras, other grids, shared columns."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(views):
        frames = 0 if views > 2 and i == seed % views else (history, 1, 3, 2, history)[(i + seed) % 5]
        rows, columns = ((3, 4), (2, 5))[i % 2] if frames else (0, 0)
        slots = sorted(torch.randperm(history, generator=generator)[:frames].tolist())
        tokens = torch.randn(frames, rows, columns, 12 if frames else 0, generator=generator)
        if frames > 2 and i % 2 == 0:
            tokens[1] = tokens[0]  # the camera was frozen
        shared = [torch.rand(columns, generator=generator) < 0.6 for _ in range(2)]
        found.append(ViewTokens(f'V{i}', tokens, tuple(slots), tuple(shared)))
    return found
