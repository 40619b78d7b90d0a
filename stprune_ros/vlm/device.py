"""The torch device and dtype that the settings ask for, and how much memory is free there."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stprune_ros.errors import ModelError, one_line

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


@dataclass(frozen=True, slots=True)
class Memory:
    """Free memory of a device in bytes (None where the system does not say), and what said so."""

    free: int | None
    source: str


def find_device(name: str, here: bool = True) -> torch.device:
    """The device called ``name``; 'auto' is CUDA where there is one, else the CPU. Not ``here``, it need not be there.

    Raises ModelError where the device cannot be used.
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        if here:
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"parameter 'model.device' is '{name}', unusable here: {one_line(error)}") from None
    return device


def synchronizer(name: str) -> Callable[[], object] | None:
    """A function that waits until the device called ``name`` has done all its work; None where it works at once."""
    device = torch.device(name)
    return partial(torch.cuda.synchronize, device) if device.type == 'cuda' else None


def find_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """The dtype called ``name``; 'auto' is float32 on the CPU and None, that of the weights, elsewhere."""
    if name == 'auto':
        return torch.float32 if device.type == 'cpu' else None
    return DTYPES[name]


def dtype_name(dtype: torch.dtype | None) -> str:
    """A dtype without its 'torch.', '' for None."""
    return str(dtype).removeprefix('torch.') if dtype else ''


def to_device(inputs: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A model's inputs with their tensors, those of dicts among them too, on ``device``; the rest as it is.

    The host does not wait for copies to a GPU: what it reads from pageable memory is staged before the call returns.
    """

    def moved(value: Any) -> Any:
        if isinstance(value, Mapping):
            return to_device(value, device)
        return value.to(device, non_blocking=device.type == 'cuda') if isinstance(value, torch.Tensor) else value

    return {name: moved(value) for name, value in inputs.items()}


def free_memory(device: torch.device) -> Memory:
    """What can still be allocated on ``device``.

    Integrated GPUs share the system's memory: there MemAvailable counts, because CUDA takes the page cache for used.
    """
    if device.type == 'cuda' and not torch.cuda.get_device_properties(device).is_integrated:
        return Memory(torch.cuda.mem_get_info(device)[0], 'free memory of the GPU')
    if device.type in ('cpu', 'cuda'):
        return Memory(proc_bytes('/proc/meminfo', 'MemAvailable'), 'MemAvailable')
    return Memory(None, f"no figure for device '{device}'")


def proc_bytes(path: str, key: str) -> int | None:
    """The entry ``key`` of a file below /proc, in bytes; None where there is none."""
    try:
        found = re.search(rf'^{key}:\s+(\d+) kB', Path(path).read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def use_one_thread() -> None:
    """Let torch work on one thread, unless OMP_NUM_THREADS says how many."""
    if 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(1)


def release_memory() -> None:
    """Give back what nobody refers to any more, on accelerators too."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
