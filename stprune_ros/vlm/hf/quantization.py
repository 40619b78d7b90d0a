"""Weights of 4 or 8 bits through bitsandbytes: what to ask for, which tensors it packs, and what they then take."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import huggingface_hub.constants
import torch

from stprune_ros.errors import ModelError, one_line
from stprune_ros.vlm.hf.family import Family
from stprune_ros.vlm.hf.folder_faults import BITSANDBYTES_NEEDS

LIBRARIES = BITSANDBYTES_NEEDS
# Bytes per weight: NF4 with a float32 scale for each block of 64; int8 with a scale for each row, next to nothing.
BYTES_PER_WEIGHT = {'4bit': 0.5 + 4 / 64, '8bit': 1.0}


def bitsandbytes_options(name: str, family: Family, dtype: torch.dtype | None) -> dict[str, Any]:
    """Arguments of ``transformers.BitsAndBytesConfig`` for '4bit' or '8bit', computing in ``dtype``.

    Raises ModelError where a library is not installed, or would download something.
    """
    for library in LIBRARIES:
        if find_spec(library) is None:
            raise ModelError(
                f"parameter 'model.quantization' is '{name}', which needs {library};"
                f" pip install {' '.join(LIBRARIES)}, or set it to 'none'"
            )
    # On some CPUs bitsandbytes fetches code from the hub while it is imported, through this package.
    if find_spec('kernels') is not None and not huggingface_hub.constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"parameter 'model.quantization' is '{name}', but bitsandbytes would download code through the package"
            ' kernels; uninstall kernels or set HF_HUB_OFFLINE=1'
        )
    return {
        'load_in_4bit': name == '4bit',
        'load_in_8bit': name == '8bit',
        'bnb_4bit_quant_type': 'nf4',
        'bnb_4bit_compute_dtype': dtype or torch.bfloat16,
        'llm_int8_skip_modules': list(family.unquantized),
    }


def try_kernel(name: str, device: torch.device) -> None:
    """Run one layer of '4bit' or '8bit' weights on ``device``.

    bitsandbytes is imported and loads weights where its binary has nothing for the GPU: its wheels for aarch64 are not
    made for Jetson. Raises ModelError where the layer does not run.
    """
    try:
        import bitsandbytes

        if name == '4bit':
            layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, quant_type='nf4', compute_dtype=torch.bfloat16)
        else:
            layer = bitsandbytes.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False)
        with torch.inference_mode():
            layer.to(device)(torch.ones(1, 64, dtype=torch.bfloat16, device=device)).cpu()
    except Exception as error:  # it raises all kinds, from the loader of its library to the driver
        raise ModelError(
            f"bitsandbytes cannot run {name} weights on '{device}': {one_line(error)};"
            ' install a build of it that is made for this device, or take weights that are not packed'
        ) from None


def is_packed(name: str, shape: tuple[int, ...]) -> bool:
    """Whether the tensor ``name`` of a safetensors file is packed: a matrix in the language model's layers."""
    return len(shape) == 2 and '.layers.' in name and 'vis' not in name
