"""Selections that know nothing about the scene: the bar that any method has to clear."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stprune_ros.pruning.baselines.scope import Choose
from stprune_ros.pruning.tensors import split_evenly


def random_mask(count: int, keep: int, generator: torch.Generator) -> Tensor:
    """``keep`` of ``count`` tokens at random: bool (count,), on CPU."""
    mask = torch.zeros(count, dtype=torch.bool)
    mask[torch.randperm(count, generator=generator)[:keep]] = True
    return mask


def even_lattice(images: Sequence[Tensor], keep: int) -> Tensor:
    """`uniform_mask` over images (rows, columns, D) of one grid."""
    rows, columns, _ = images[0].shape
    return uniform_mask((len(images), rows, columns), keep).to(images[0].device)


def random_choice(seed: int) -> Choose:
    """`random_mask` of any images; one after another they draw from the same generator."""
    generator = torch.Generator().manual_seed(seed)

    def choose(images: Sequence[Tensor], keep: int) -> Tensor:
        count = sum(image.shape[0] * image.shape[1] for image in images)
        return random_mask(count, keep, generator).to(images[0].device)

    return choose


def uniform_mask(grid: Sequence[int], keep: int) -> Tensor:
    """``keep`` tokens of a (frames, rows, columns) grid, evenly over each: bool (frames * rows * columns,), on CPU.

    Every second row starts half a step later, so that few tokens still spread over the width.
    """
    frames, rows, columns = grid
    mask = torch.zeros(frames, rows, columns, dtype=torch.bool)
    for frame, in_frame in enumerate(split_evenly(keep, frames).tolist()):
        for row, in_row in enumerate(split_evenly(in_frame, rows).tolist()):
            start = 0.5 if row % 2 == 0 else 0.0
            mask[frame, row, ((torch.arange(in_row) + start) * columns / max(in_row, 1)).long()] = True
    return mask.reshape(-1)
