"""GPU work recorded once and replayed as one launch. Has not run on a GPU yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

WARM_UPS = 2  # what kernels set up on their first run cannot be recorded


def record(work: Callable[[], Tensor], held: Sequence[Tensor]) -> Callable[[Iterable[Tensor]], Tensor]:
    """``work`` without its launches, as a function of new values for ``held``, the tensors that it takes.

    Runs ``work`` a few times; a replay reads and writes the same memory, and overwrites the result of the one before.
    Raises RuntimeError where ``work`` waits for the host or does something else that cannot be recorded.
    """
    with torch.cuda.device(held[0].device):
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                work()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode='thread_local'):  # other threads may use the GPU meanwhile
            result = work()

    def replay(values: Iterable[Tensor]) -> Tensor:
        for place, value in zip(held, values, strict=True):
            place.copy_(value)
        graph.replay()
        return result

    return replay
