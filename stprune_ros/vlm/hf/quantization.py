"""Weights of 4 or 8 bits through bitsandbytes: what to ask for, which tensors it packs, and what they then take."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import huggingface_hub.constants
import torch

from stprune_ros.errors import ModelError
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


def is_packed(name: str, shape: tuple[int, ...]) -> bool:
    """Whether the tensor ``name`` of a safetensors file is packed: a matrix in the language model's layers."""
    return len(shape) == 2 and '.layers.' in name and 'vis' not in name
