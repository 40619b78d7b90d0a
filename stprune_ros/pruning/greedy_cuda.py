"""Greedy max-min selection on a GPU: one launch for all views, and the host waits for nothing.

A Triton kernel where Triton is importable, else `greedy.greedy_plain` replayed as one CUDA graph.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from stprune_ros.cuda_graph import capture_graph
from stprune_ros.pruning.greedy import greedy_plain
from stprune_ros.pruning.tensors import on_device

try:
    import triton
    import triton.language as tl
except ImportError:  # wheels for Jetson come without it
    triton = None

MAX_TOKENS = 16384  # per view; the kernel holds them in registers, a few per thread
MAX_GRAPHS = 8  # shapes whose graph is kept; each holds a copy of its similarities

Shape = tuple[int, int, int, int]  # device, views, tokens, most steps


def greedy_cuda(similarity: Tensor, bonus: Tensor, steps: Sequence[int]) -> Tensor:
    """See `selection.greedy_max_min`; all tensors on one CUDA device."""
    if not bonus.numel() or not max(steps, default=0):
        return torch.full_like(bonus, -math.inf)
    if triton is not None and bonus.shape[1] <= MAX_TOKENS:
        return greedy_triton(similarity, bonus, steps)
    return greedy_graph(similarity, bonus, on_device(steps, bonus), max(steps))


def greedy_triton(similarity: Tensor, bonus: Tensor, steps: Sequence[int]) -> Tensor:
    """One program per view; every step reads one row of similarities, all else stays in registers."""
    views, tokens = bonus.shape
    scores = torch.empty(views, tokens, dtype=torch.float32, device=bonus.device)
    block = max(16, 1 << (tokens - 1).bit_length())
    warps = min(16, max(1, block // 256))
    _kernel[(views,)](
        similarity.contiguous(), bonus.contiguous(), on_device(steps, bonus), scores, tokens, block, num_warps=warps
    )
    return scores


def _greedy(similarity, bonus, steps, found, tokens, block: tl.constexpr):  # type: ignore[no-untyped-def]
    view = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, block)
    valid = offsets < tokens
    bonuses = tl.load(bonus + view * tokens + offsets, mask=valid, other=float('-inf'))
    nearest = tl.full([block], float('inf'), tl.float32)
    scores = tl.full([block], float('-inf'), tl.float32)
    top = float('inf')
    best = tl.argmax(bonuses, axis=0, tie_break_left=True)
    for _ in range(tl.load(steps + view)):
        scores = tl.where(offsets == best, top, scores)
        row = tl.load(similarity + (view * tokens + best) * tokens + offsets, mask=valid, other=0.0)
        nearest = tl.minimum(nearest, 1.0 - row)
        score = tl.where(scores > float('-inf'), float('-inf'), nearest + bonuses)
        top, best = tl.max(score, axis=0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(found + view * tokens + offsets, scores, mask=valid)


_kernel: Any = triton.jit(_greedy) if triton is not None else None

_graphs: OrderedDict[Shape, Callable[[Iterable[Tensor]], Tensor]] = OrderedDict()


def greedy_graph(similarity: Tensor, bonus: Tensor, steps: Tensor, most: int) -> Tensor:
    """See `greedy.greedy_plain`; captured as a CUDA graph the first time a shape occurs, replayed after that."""
    shape, values = (bonus.get_device(), *bonus.shape, most), (similarity, bonus, steps)
    if shape not in _graphs:
        inputs = similarity.clone(), bonus.clone(), steps.clone()
        _graphs[shape] = capture_graph(lambda: greedy_plain(*inputs, most), inputs)
        if len(_graphs) > MAX_GRAPHS:
            _graphs.popitem(last=False)
    _graphs.move_to_end(shape)
    return _graphs[shape](values).clone()
