"""What this engine takes of memory, worked out before anything is loaded; no transformers import.

Beside the weights of the GGUF file and of the vision tower there is the KV cache, whole from the start, and what the
library holds while it computes. An upper bound of what it logs, in bytes of float32, for layers of width D and inner
width I (test/contract/test_llama_cpp_loading.py):

    activations  STEP rows of row_width + 3 I + 10 D
    outputs      SEQUENCES rows of the vocabulary, twice; scores of all heads between STEP rows and the cache in place
                 of one of them where that is more and attention runs in float32
    mask         a number of the cache's type for each of STEP rows and each token of the cache
    prompt       its rows three times: ours, and two copies
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stprune_ros.errors import ModelError
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.hf.files import NUMBERS, TOWER, tensors, value
from stprune_ros.vlm.hf.memory import BYTES, MemoryEstimate, Ring, kv_bytes, kv_shape, memory_estimate
from stprune_ros.vlm.hf.model_folder import ModelFolder
from stprune_ros.vlm.llama_cpp.gguf_file import GgufFile
from stprune_ros.vlm.llama_cpp.language_model import SEQUENCES, STEP

FLOAT32 = 4
PADDING = 256  # the library rounds the size of a cache up to a multiple


def engine_memory(
    folder: ModelFolder,
    config: Mapping[str, Any],
    processor: Mapping[str, Any],
    file: GgufFile,
    settings: Settings,
    ring: Ring,
    dtype: str,
) -> MemoryEstimate:
    """What a checked model folder and GGUF file take of memory; arguments as those of `memory_estimate`.

    Raises ModelError where a prompt at the keep ratio has more tokens than ``model.context_tokens``.
    """
    found = memory_estimate(folder, config, processor, settings, ring, dtype)
    context = settings.model.context_tokens
    if found.kept_tokens > context:
        raise ModelError(
            f'a prompt has up to {found.kept_tokens} tokens, and model.context_tokens is {context}: raise it, or lower'
            ' history.frames, pruning.keep_ratio, latency.keep_max or model.max_image_pixels'
        )
    width = FLOAT32 if found.dtype == 'float32' else BYTES['float16']
    cells = -(-context // PADDING) * PADDING
    held = kv_bytes(*kv_shape(config), cells, width)
    row = value(config, 'text_config', 'hidden_size') * (1 + folder.family.deepstack(config))
    computing = compute_bytes(value(config, 'text_config'), row, cells, width)
    return replace(
        found,
        dtype=f'{found.dtype}, {file.kind}'.removesuffix(', '),
        weights=file.size + tower_bytes(folder, BYTES.get(found.dtype, 0)),
        kept_kv=held,
        full_kv=held,
        kept_prefill=computing + 3 * FLOAT32 * row * found.kept_tokens,
        full_prefill=computing + 3 * FLOAT32 * row * found.full_tokens,
        context=context,
    )


def compute_bytes(text: Mapping[str, Any], row: int, cells: int, width: int) -> int:
    """Bytes that the library holds beside weights and cache; see the module for the formula."""
    hidden, inner, heads = (
        int(value(text, key)) for key in ('hidden_size', 'intermediate_size', 'num_attention_heads')
    )
    outputs = SEQUENCES * int(value(text, 'vocab_size'))
    scores = heads * STEP * cells if width == FLOAT32 else 0
    activations = STEP * (row + 3 * inner + 10 * hidden)
    return FLOAT32 * (activations + outputs + max(outputs, scores)) + STEP * cells * width


def tower_bytes(folder: ModelFolder, width: int) -> int:
    """Bytes of the vision tower's weights in numbers of ``width`` bytes; 0 for that of the files."""
    towers = [one for path in folder.weights for one in tensors(path) if TOWER.match(one.name)]
    return sum(one.count * width if width and one.kind in NUMBERS else one.size for one in towers)
