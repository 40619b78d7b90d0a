"""Greedy max-min selection as one Triton kernel: one program per view, and the host waits for nothing.

Raises ImportError where there is no Triton.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from stprune_ros.pruning.tensors import on_device

# Tokens of a view, padded, that a kernel holds in registers, and its warps. Each size is compiled once: few, so that
# `compile_all` is quick; in a smaller view the spare lanes cost next to nothing.
WARPS = {1024: 8, 4096: 16, 16384: 16}


def greedy_triton(similarity: Tensor, bonus: Tensor, steps: Sequence[int]) -> Tensor:
    """See `selection.greedy_max_min`, for at most 16384 tokens a view.

    Every step reads one row of similarities; all else stays in registers.
    """
    block = next(size for size in WARPS if size >= bonus.shape[1])
    return _launch(similarity.contiguous(), bonus.contiguous(), on_device(steps, bonus), block)


def compile_all(device: torch.device) -> None:
    """Compile every size now and run it once; raises what Triton raises where that is impossible here."""
    for block in WARPS:
        one = torch.zeros(1, 1, device=device)
        _launch(one[None], one, on_device([1], one), block)
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _launch(similarity: Tensor, bonus: Tensor, steps: Tensor, block: int) -> Tensor:
    views, tokens = bonus.shape
    scores = torch.empty(views, tokens, dtype=torch.float32, device=bonus.device)
    # A launch goes to the current device, which need not be that of the tensors.
    with torch.cuda.device_of(scores):
        _kernel[(views,)](similarity, bonus, steps, scores, tokens, block, num_warps=WARPS[block])
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


# One binary for any number of tokens: else 1, multiples of 16 and the rest would each be compiled in the tick they
# first occur in.
_kernel: Any = triton.jit(_greedy, do_not_specialize=['tokens'])
