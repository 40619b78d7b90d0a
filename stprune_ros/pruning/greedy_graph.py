"""Greedy max-min selection on a GPU without Triton: some steps of the plain loop recorded as one CUDA graph."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stprune_ros.cuda_graph import capture
from stprune_ros.pruning.greedy import GreedyState, greedy_step

CHUNK = 32  # steps of one graph: how many are made changes with the keep ratio, so they are no part of a recording
MAX_GRAPHS = 4  # shapes whose graph is kept; each holds a copy of its similarities

Shape = tuple[int, int, int]  # device, views, tokens


@dataclass(frozen=True, slots=True)
class _Recording:
    """`CHUNK` steps on tensors of their own, which a selection is copied into."""

    similarity: Tensor
    bonus: Tensor
    steps: Tensor
    state: GreedyState
    replay: Callable[[], Tensor]


_recordings: OrderedDict[Shape, _Recording] = OrderedDict()


def greedy_graph(similarity: Tensor, bonus: Tensor, steps: Tensor, most: int) -> Tensor:
    """See `greedy.greedy_plain`; recorded the first time a shape occurs, replayed after that, whatever ``most`` is.

    Raises RuntimeError where it cannot be recorded.
    """
    shape = bonus.get_device(), *bonus.shape
    if shape not in _recordings:
        while len(_recordings) >= MAX_GRAPHS:
            _recordings.popitem(last=False)
        _recordings[shape] = _record(similarity, bonus, steps)
    _recordings.move_to_end(shape)
    recording = _recordings[shape]
    state = recording.state
    for target, value in (
        (recording.similarity, similarity),
        (recording.bonus, bonus),
        (recording.steps, steps),
        (state.score, bonus),
    ):
        target.copy_(value)
    state.nearest.fill_(math.inf)
    state.scores.fill_(-math.inf)
    state.step.zero_()
    for _ in range(-(-most // CHUNK)):
        recording.replay()
    return state.scores.clone()


def free() -> None:
    """Drop all recordings and the memory that they hold."""
    _recordings.clear()


def _record(similarity: Tensor, bonus: Tensor, steps: Tensor) -> _Recording:
    with torch.inference_mode(False):  # what is made in that mode could not be written to outside of it
        held = similarity.clone(), bonus.clone(), steps.clone()
        rows = torch.arange(len(bonus), device=bonus.device)
        state = GreedyState.beginning(held[1])

        def chunk() -> Tensor:
            for _ in range(CHUNK):
                greedy_step(state, *held, rows)
            return state.scores

        return _Recording(*held, state, capture(chunk, bonus.device))
