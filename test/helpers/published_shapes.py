"""Model folders and GGUF files in the shape of published checkpoints: headers of full size, and holes for weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from helpers.tiny_models import tiny_tokenizer
from real.build_models import families, merged, write_shapes

from stprune_ros.vlm.hf.files import tensors, value
from stprune_ros.vlm.hf.model_folder import locate_model
from stprune_ros.vlm.hf.pretrained import read_parts
from stprune_ros.vlm.llama_cpp import export
from stprune_ros.vlm.llama_cpp.pairing import ARCHITECTURES, EMBEDDINGS

ALIGNMENT = 32  # of tensors in a GGUF file


def write_published(path: Path, hub_id: str) -> Path:
    """A folder with the published configuration of ``hub_id``, a tiny tokenizer, and weights that take no disk."""
    family = next(entry for entry in families().values() if hub_id in entry['checkpoints'])
    config = merged(family['config'], family['checkpoints'][hub_id].get('config', {}))
    path.mkdir(parents=True)
    tokenizer = tiny_tokenizer(config['model_type'])
    tokenizer.save_pretrained(path)
    marks = {
        'image_token_id': '<|image_pad|>',
        'video_token_id': '<|video_pad|>',
        'vision_start_token_id': '<|vision_start|>',
        'vision_end_token_id': '<|vision_end|>',
    }
    config |= {key: tokenizer.convert_tokens_to_ids(mark) for key, mark in marks.items()}
    (path / 'config.json').write_text(json.dumps(config))
    (path / 'preprocessor_config.json').write_text(json.dumps(family['processor']))
    (path / 'stprune.json').write_text(json.dumps({'trained': False}))
    write_shapes(path)
    return path


def write_published_gguf(folder: Path, path: Path) -> Path:
    """The language model of such a folder as Q4_K_M, as llama.cpp mixes it; its weights are a hole, too."""
    import gguf

    found = locate_model(folder)
    parts = read_parts(found)
    config = parts.config.to_dict()
    writer: Any = gguf.GGUFWriter(path, ARCHITECTURES[found.family.model_type])
    export._write_entries(writer, found, config)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    tokens = parts.tokenizer.convert_ids_to_tokens(range(len(parts.tokenizer)))
    writer.add_token_list(tokens)
    layers, size = value(config, 'text_config', 'num_hidden_layers'), 0
    for tensor in (one for file in found.weights for one in tensors(file)):
        name = export._name(tensor, found)
        if not name:
            continue
        if len(tensor.shape) < 2:
            kind, shape, dtype = None, tensor.shape, np.dtype(np.float32)
        else:
            kind = gguf.GGMLQuantizationType[_kind(name, layers)]
            shape, dtype = gguf.quant_shape_to_byte_shape(tensor.shape, kind), np.dtype(np.uint8)
        held = math.prod(shape) * dtype.itemsize
        writer.add_tensor_info(name, shape, dtype, held, kind)
        size += -(-held // ALIGNMENT) * ALIGNMENT
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open('r+b') as file:
        file.truncate(path.stat().st_size + ALIGNMENT + size)
    return path


def _kind(name: str, layers: int) -> str:
    """Q6_K for the vocabulary, and for values and down projections of the outer layers and every third between."""
    if name in (EMBEDDINGS, export.HEAD):
        return 'Q6_K'
    layer, eighth = int(name.split('.')[1]), layers // 8
    finer = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    return 'Q6_K' if finer and ('attn_v' in name or 'ffn_down' in name) else 'Q4_K'
