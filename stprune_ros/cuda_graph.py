"""GPU work recorded once and replayed as one launch. Has not run on a GPU yet."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UPS = 2  # what kernels set up on their first run cannot be recorded


def record(work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """``work`` without its launches: every replay reads and writes the memory that it read and wrote here.

    Runs ``work`` a few times. The result of a replay is overwritten by the next one.
    Raises RuntimeError where ``work`` waits for the host or does something else that cannot be recorded.
    """
    with torch.cuda.device(device):
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                work()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode='thread_local'):  # other threads may use the GPU meanwhile
            result = work()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
