"""How much PyTorch allocates on the CPU during a call, from its profiler."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

from torch.profiler import ProfilerActivity, profile

T = TypeVar('T')


def peak_bytes(call: Callable[[], T]) -> tuple[int, T]:
    """Most bytes held at one time beyond what was held before, and what the call returns; NumPy's are not counted."""
    gc.collect()  # what is collected meanwhile would count as given back
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            result = call()
    finally:
        gc.enable()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == '[memory]']
    assert events
    held = most = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most, result
