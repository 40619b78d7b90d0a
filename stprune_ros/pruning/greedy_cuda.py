"""Greedy max-min selection on a GPU: one launch for all views, and the host waits for nothing.

A Triton kernel where Triton is importable, else `greedy.greedy_plain` replayed as one CUDA graph.
"""

from __future__ import annotations

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

Shape = tuple[int, int, int, int]  # device, views, tokens, steps


def greedy_cuda(similarity: Tensor, bonus: Tensor, budgets: Sequence[int]) -> Tensor:
    """See `selection.greedy_max_min`; all tensors on one CUDA device."""
    if not bonus.numel() or not max(budgets, default=0):
        return torch.zeros_like(bonus, dtype=torch.bool)
    if triton is not None and bonus.shape[1] <= MAX_TOKENS:
        return greedy_triton(similarity, bonus, budgets)
    return greedy_graph(similarity, bonus, on_device(budgets, bonus), max(budgets))


def greedy_triton(similarity: Tensor, bonus: Tensor, budgets: Sequence[int]) -> Tensor:
    """One program per view; every step reads one row of similarities, all else stays in registers."""
    views, tokens = bonus.shape
    keep = torch.empty(views, tokens, dtype=torch.uint8, device=bonus.device)
    block = max(16, 1 << (tokens - 1).bit_length())
    warps = min(16, max(1, block // 256))
    _kernel[(views,)](
        similarity.contiguous(), bonus.contiguous(), on_device(budgets, bonus), keep, tokens, block, num_warps=warps
    )
    return keep.bool()


def _greedy(similarity, bonus, budgets, keep, tokens, block: tl.constexpr):  # type: ignore[no-untyped-def]
    view = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, block)
    valid = offsets < tokens
    bonuses = tl.load(bonus + view * tokens + offsets, mask=valid, other=float('-inf'))
    nearest = tl.full([block], float('inf'), tl.float32)
    kept = tl.zeros([block], tl.int32)
    best = tl.argmax(bonuses, axis=0, tie_break_left=True)
    for _ in range(tl.load(budgets + view)):
        kept = tl.where(offsets == best, 1, kept)
        row = tl.load(similarity + (view * tokens + best) * tokens + offsets, mask=valid, other=0.0)
        nearest = tl.minimum(nearest, 1.0 - row)
        score = tl.where(kept == 1, float('-inf'), nearest + bonuses)
        best = tl.argmax(score, axis=0, tie_break_left=True)
    tl.store(keep + view * tokens + offsets, kept.to(tl.uint8), mask=valid)


_kernel: Any = triton.jit(_greedy) if triton is not None else None

_graphs: OrderedDict[Shape, Callable[[Iterable[Tensor]], Tensor]] = OrderedDict()


def greedy_graph(similarity: Tensor, bonus: Tensor, budgets: Tensor, steps: int) -> Tensor:
    """See `greedy.greedy_plain`; captured as a CUDA graph the first time a shape occurs, replayed after that."""
    shape, values = (bonus.get_device(), *bonus.shape, steps), (similarity, bonus, budgets)
    if shape not in _graphs:
        inputs = similarity.clone(), bonus.clone(), budgets.clone()
        _graphs[shape] = capture_graph(lambda: greedy_plain(*inputs, steps), inputs)
        if len(_graphs) > MAX_GRAPHS:
            _graphs.popitem(last=False)
    _graphs.move_to_end(shape)
    return _graphs[shape](values).clone()
