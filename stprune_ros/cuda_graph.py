"""CUDA graphs: GPU work captured once and replayed as one launch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

WARM_UP_RUNS = 2  # before the capture: what kernels allocate or compile on their first run cannot be captured

# One stream a device for all warm-ups: cuBLAS keeps memory of its own for every stream that it has worked on.
_warm_up_streams: dict[int, torch.cuda.Stream] = {}


def capture_graph(work: Callable[[], Tensor], inputs: Sequence[Tensor]) -> Callable[[Iterable[Tensor]], Tensor]:
    """`capture` of ``work``, which reads ``inputs``, as a function of new values for them.

    A replay copies the values into ``inputs``, without waiting for those that come from the host.
    """
    graph = capture(work, inputs[0].device)

    def replay(values: Iterable[Tensor]) -> Tensor:
        for target, value in zip(inputs, values, strict=True):
            target.copy_(value, non_blocking=True)
        return graph()

    return replay


def capture(work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Capture ``work`` on a CUDA ``device`` as a graph; returns a function that replays it.

    Runs ``work`` `WARM_UP_RUNS` times before the capture. A replay runs in the same memory, so that it overwrites the
    result of the replay before it: clone what must last.
    Raises RuntimeError where ``work`` waits for the host or does something else that cannot be captured; the device
    is then as usable as before.
    """
    with torch.cuda.device(device):
        current = torch.cuda.current_stream()
        if current.device_index not in _warm_up_streams:
            _warm_up_streams[current.device_index] = torch.cuda.Stream()
        side = _warm_up_streams[current.device_index]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_RUNS):
                work()
        current.wait_stream(side)
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        try:
            # Other threads may use the GPU meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode='thread_local'):
                result = work()
        except BaseException:
            _abandon_capture(current, pool)
            raise

    kept = graph, work  # what the work reads must live as long as the graph, which knows only addresses

    def replay() -> Tensor:
        kept[0].replay()
        return result

    return replay


def _abandon_capture(stream: torch.cuda.Stream, pool: tuple[int, int]) -> None:
    """Undo what a failed capture leaves behind, so that everything else on the device goes on.

    Its stream stays the current one; the generator of random numbers believes in the capture, and raises; and in torch
    without pull request 180395 so does the allocator, which then keeps all memory that is freed, and fails later where
    it is asked for it. The public interface has nothing to end that with.
    """
    torch.cuda.set_stream(stream)
    generator = torch.cuda.default_generators[stream.device_index]
    generator.graphsafe_set_state(generator.clone_state())
    end_allocation = getattr(torch._C, '_cuda_endAllocateToPool', None)
    if end_allocation is not None:
        with suppress(RuntimeError):  # torch has ended it already
            end_allocation(stream.device_index, pool)
