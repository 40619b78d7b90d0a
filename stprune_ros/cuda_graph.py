"""CUDA graphs: GPU work captured once and replayed as one launch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

WARM_UP_RUNS = 2  # before the capture: what kernels allocate or compile on their first run cannot be captured


def capture_graph(work: Callable[[], Tensor], inputs: Sequence[Tensor]) -> Callable[[Iterable[Tensor]], Tensor]:
    """Capture ``work``, which reads ``inputs``, as a CUDA graph; returns a function of new values for ``inputs``.

    Runs ``work`` `WARM_UP_RUNS` times before the capture. A replay copies the new values into ``inputs`` and runs the
    graph in the same memory, so that it overwrites the result of the replay before it: clone what must last.
    Raises RuntimeError where ``work`` waits for the host or does something else that cannot be captured.
    """
    with torch.cuda.device(inputs[0].device):
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_RUNS):
                work()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode='thread_local'):  # other threads may use the GPU meanwhile
            result = work()

    def replay(values: Iterable[Tensor]) -> Tensor:
        for target, value in zip(inputs, values, strict=True):
            target.copy_(value)
        graph.replay()
        return result

    return replay
