"""Greedy max-min selection on a GPU: by a Triton kernel, else a CUDA graph, else the plain loop.

What cannot run here (a Jetson has no Triton, or no compiler for it) is found out once for each device, by `warm_up` or
by the first selection, and said once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stprune_ros.errors import one_line
from stprune_ros.pruning import greedy_graph
from stprune_ros.pruning.greedy import greedy_plain
from stprune_ros.pruning.tensors import on_device

MAX_KERNEL_TOKENS = 16384  # per view; larger ones take the graph

Greedy = Callable[[Tensor, Tensor, Sequence[int]], Tensor]

logger = logging.getLogger(__name__)

_kernels: dict[torch.device, Greedy | None] = {}  # None: there is no kernel for this device
_plain: set[torch.device] = set()  # devices on which nothing can be recorded


def greedy_cuda(similarity: Tensor, bonus: Tensor, steps: Sequence[int]) -> Tensor:
    """See `selection.greedy_max_min`; all tensors on one CUDA device."""
    if not bonus.numel() or not max(steps, default=0):
        return torch.full_like(bonus, -math.inf)
    kernel = find_kernel(bonus.device)
    if kernel is not None and bonus.shape[1] <= MAX_KERNEL_TOKENS:
        return kernel(similarity, bonus, steps)
    on_gpu, most = on_device(steps, bonus), max(steps)
    if bonus.device not in _plain:
        try:
            return greedy_graph.greedy_graph(similarity, bonus, on_gpu, most)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _plain.add(bonus.device)
            logger.warning('Tokens are selected without a CUDA graph, more slowly: %s', one_line(error))
    return greedy_plain(similarity, bonus, on_gpu, most)


def find_kernel(device: torch.device) -> Greedy | None:
    """The compiled kernel for ``device``, None where Triton is missing or cannot compile, which a warning says."""
    if device not in _kernels:
        _kernels[device] = None
        try:
            from stprune_ros.pruning import greedy_triton  # imports Triton, which takes seconds

            greedy_triton.compile_all(device)
            _kernels[device] = greedy_triton.greedy_triton
        except ImportError:
            pass  # wheels for Jetson come without it
        except torch.OutOfMemoryError:
            del _kernels[device]
            raise
        except Exception as error:  # Triton raises what its compiler, gcc or the driver raise
            logger.warning('Tokens are selected without Triton, as a CUDA graph: %s', one_line(error))
    return _kernels[device]
