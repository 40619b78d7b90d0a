"""Weights of 4 or 8 bits, packed while loading: what to ask for, which tensors are packed, and what they then take.

'4bit' and '8bit' are packed by bitsandbytes, 'int4' by torchao, whose kernels for it are PyTorch's own.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import huggingface_hub.constants
import torch

from stprune_ros.errors import ModelError, one_line
from stprune_ros.vlm.device import dtype_name
from stprune_ros.vlm.hf.family import Family
from stprune_ros.vlm.hf.folder_faults import BITSANDBYTES_NEEDS

LIBRARIES = {'4bit': BITSANDBYTES_NEEDS, '8bit': BITSANDBYTES_NEEDS, 'int4': ('torchao', 'accelerate')}
# Bytes per weight: NF4 with a float32 scale for each block of 64; int8 with a scale for each row, next to nothing.
BITSANDBYTES_BYTES = {'4bit': 0.5 + 4 / 64, '8bit': 1.0}
GROUP = 64  # numbers of a row that share a scale and a zero in int4; rows that it does not divide stay as they are
GPU_BLOCK = (8, 1024)  # of rows and columns: an int4 matrix is filled up to multiples of them on a GPU


def require_packable(name: str, device: torch.device, dtype: torch.dtype | None) -> None:
    """Raise ModelError where weights cannot be packed as '4bit', '8bit' or 'int4' and computed with in ``dtype``.

    That is where a library is not installed or would download something, and for another dtype than int4 allows.
    """
    needed = LIBRARIES[name]
    for library in needed:
        if find_spec(library) is None:
            raise ModelError(
                f"parameter 'model.quantization' is '{name}', which needs {library};"
                f" pip install {' '.join(needed)}, or set it to 'none'"
            )
    if name == 'int4':
        if device.type == 'cuda' and dtype != torch.bfloat16:
            raise ModelError(
                "parameter 'model.quantization' is 'int4', which computes in bfloat16 on a GPU, but 'model.dtype' is"
                f" '{dtype_name(dtype) or 'auto'}': set it to 'bfloat16'"
            )
        return
    # On some CPUs bitsandbytes fetches code from the hub while it is imported, through this package.
    if find_spec('kernels') is not None and not huggingface_hub.constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"parameter 'model.quantization' is '{name}', but bitsandbytes would download code through the package"
            ' kernels; uninstall kernels or set HF_HUB_OFFLINE=1'
        )


def bitsandbytes_options(name: str, family: Family, dtype: torch.dtype | None) -> dict[str, Any]:
    """Arguments of ``transformers.BitsAndBytesConfig`` for '4bit' or '8bit', computing in ``dtype``."""
    return {
        'load_in_4bit': name == '4bit',
        'load_in_8bit': name == '8bit',
        'bnb_4bit_quant_type': 'nf4',
        'bnb_4bit_compute_dtype': dtype or torch.bfloat16,
        'llm_int8_skip_modules': list(family.unquantized),
    }


def torchao_options(device: torch.device, family: Family) -> dict[str, Any]:
    """Arguments of ``transformers.TorchAoConfig`` for 'int4' on ``device``."""
    return {'quant_type': _int4(device), 'modules_to_not_convert': list(family.unquantized)}


def _int4(device: torch.device) -> Any:
    """How torchao lays int4 out for the kernel that PyTorch has on ``device``."""
    if device.type == 'cpu':
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig

        return PrototypeInt4WeightOnlyConfig(group_size=GROUP, set_inductor_config=False)
    from torchao.quantization import Int4WeightOnlyConfig

    return Int4WeightOnlyConfig(group_size=GROUP, set_inductor_config=False, int4_packing_format='tile_packed_to_4d')


def try_kernel(name: str, device: torch.device, dtype: torch.dtype | None = None) -> None:
    """Run one layer of '4bit', '8bit' or 'int4' weights on ``device``, int4 in ``dtype``.

    bitsandbytes is imported and loads weights where its binary has nothing for the GPU: its wheels for aarch64 are not
    made for Jetson. Raises ModelError where the layer does not run.
    """
    computing = dtype if name == 'int4' and dtype else torch.bfloat16
    try:
        with torch.inference_mode():
            layer = _packed_layer(name, device, computing)
            layer(torch.ones(1, GROUP, dtype=computing, device=device)).cpu()
    except Exception as error:  # it raises all kinds, from the loader of its library to the driver
        raise ModelError(
            f"{LIBRARIES[name][0]} cannot run {name} weights on '{device}': {one_line(error)};"
            ' install a build of it that is made for this device, or take weights that are not packed'
        ) from None


def _packed_layer(name: str, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    if name == 'int4':
        how = _int4(device)
        from torchao.quantization import quantize_

        layer = torch.nn.Linear(GROUP, GROUP, bias=False, device=device, dtype=dtype)
        quantize_(layer, how)
        return layer
    import bitsandbytes

    if name == '4bit':
        packed = bitsandbytes.nn.Linear4bit(GROUP, GROUP, bias=False, quant_type='nf4', compute_dtype=dtype)
    else:
        packed = bitsandbytes.nn.Linear8bitLt(GROUP, GROUP, bias=False, has_fp16_weights=False)
    moved: torch.nn.Module = packed.to(device)
    return moved


def packed_bytes(name: str, shape: tuple[int, ...], quantization: str, width: int, on_gpu: bool) -> float | None:
    """Bytes that the tensor ``name`` of a safetensors file takes once it is packed; None where it stays as it is.

    Packed are the matrices in the language model's layers; ``width`` are the bytes of a number that is not packed.
    """
    if quantization not in LIBRARIES or len(shape) != 2 or '.layers.' not in name or 'vis' in name:
        return None
    rows, columns = shape
    if quantization != 'int4':
        return rows * columns * BITSANDBYTES_BYTES[quantization]
    if columns % GROUP:
        return None
    if on_gpu:
        rows, columns = (-(-size // block) * block for size, block in zip(shape, GPU_BLOCK))
    return rows * columns * (0.5 + 2 * width / GROUP)
