"""The language half of a model folder as a GGUF file, for this engine: `stprune export-gguf`.

Matrices of the types Q8_0 and Q4_0 are made block by block in numpy; where Q4_0 is asked for, embeddings and vocabulary
are Q8_0, since every token goes through them. Vectors stay float32. K-quants such as Q4_K_M are made by llama.cpp's own
tools only. The vocabulary is written for comparison: text goes through the folder's tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from stprune_ros.errors import ModelError
from stprune_ros.results import replaced_at_once
from stprune_ros.vlm.hf.files import TOWER, Tensor, tensors, value
from stprune_ros.vlm.hf.model_folder import ModelFolder, locate_model
from stprune_ros.vlm.hf.pretrained import read_parts
from stprune_ros.vlm.llama_cpp.gguf_file import number_types
from stprune_ros.vlm.llama_cpp.pairing import ARCHITECTURES, EMBEDDINGS, PADDING, family_fault

TYPES = {'F32': 'ALL_F32', 'F16': 'MOSTLY_F16', 'Q8_0': 'MOSTLY_Q8_0', 'Q4_0': 'MOSTLY_Q4_0'}  # gguf's file types
BLOCK = 32  # numbers that share a scale in Q8_0 and Q4_0
HEAD = 'output.weight'
ABOVE = {'embed_tokens': 'token_embd', 'norm': 'output_norm', 'lm_head': 'output'}
IN_LAYER = {
    'input_layernorm': 'attn_norm',
    'post_attention_layernorm': 'ffn_norm',
    'self_attn.q_proj': 'attn_q',
    'self_attn.k_proj': 'attn_k',
    'self_attn.v_proj': 'attn_v',
    'self_attn.o_proj': 'attn_output',
    'self_attn.q_norm': 'attn_q_norm',
    'self_attn.k_norm': 'attn_k_norm',
    'mlp.gate_proj': 'ffn_gate',
    'mlp.up_proj': 'ffn_up',
    'mlp.down_proj': 'ffn_down',
}
LAYER = re.compile(r'layers\.(\d+)\.(.+)')


def export_gguf(path_or_id: str, output: Path, kind: str) -> str:
    """Write the language model of a folder or hub id to ``output``, its matrices as ``kind`` of TYPES; says so.

    Raises ModelError where the family, its rotary scaling or a tensor is not supported.
    """
    number_types()
    folder = locate_model(path_or_id)
    for fault in family_fault(folder.family.model_type):
        raise ModelError(fault)
    if folder.packed:
        raise ModelError(f"weights of '{folder.path}' are packed with bitsandbytes: export the unquantised checkpoint")
    parts = read_parts(folder)
    config = parts.config.to_dict()
    vocabulary = value(config, 'text_config', 'vocab_size')
    tokens = parts.tokenizer.convert_ids_to_tokens(range(min(vocabulary, len(parts.tokenizer))))
    with replaced_at_once(output) as part:
        _write(part, folder, config, [*tokens, *[None] * (vocabulary - len(tokens))], kind)
    size = output.stat().st_size / 2**20
    return f"wrote '{output}', {size:.1f} MiB as {kind}: the language model of '{folder.model_id}'"


def _write(path: Path, folder: ModelFolder, config: Mapping[str, Any], tokens: Sequence[str | None], kind: str) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, ARCHITECTURES[folder.family.model_type])
    _write_entries(writer, folder, config)
    writer.add_file_type(gguf.LlamaFileType[TYPES[kind]])
    writer.add_tokenizer_model('none')
    writer.add_vocab_size(len(tokens))
    writer.add_token_list([f'{PADDING}{number}]' if text is None else text for number, text in enumerate(tokens)])
    found = [(file, tensor, _name(tensor, folder)) for file in folder.weights for tensor in tensors(file)]
    kept = [entry for entry in found if entry[2]]
    kinds = {name: gguf.GGMLQuantizationType[_kind(name, tensor, kind)] for _, tensor, name in kept}
    for _, tensor, name in kept:
        shape = gguf.quant_shape_to_byte_shape(tensor.shape, kinds[name]) if _is_packed(kinds[name]) else tensor.shape
        dtype = np.dtype({'F32': np.float32, 'F16': np.float16}.get(kinds[name].name, np.uint8))
        size = int(np.prod(shape)) * dtype.itemsize
        writer.add_tensor_info(name, shape, dtype, size, kinds[name] if _is_packed(kinds[name]) else None)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, numbers in _numbers(kept):
            writer.write_tensor_data(gguf.quants.quantize(numbers, kinds[name]))
    finally:
        writer.close()


def _write_entries(writer: Any, folder: ModelFolder, config: Mapping[str, Any]) -> None:
    """The sizes that llama.cpp builds its model from."""
    text = value(config, 'text_config')
    rope = value(text, 'rope_parameters')
    if rope.get('rope_type', 'default') != 'default':
        raise ModelError(
            f"model '{folder.path}' scales its rotary positions ({rope['rope_type']}), which is not exported: use"
            " llama.cpp's own converter"
        )
    heads = value(text, 'num_attention_heads')
    head_dim = text.get('head_dim') or value(text, 'hidden_size') // heads
    writer.add_name(folder.model_id)
    writer.add_block_count(value(text, 'num_hidden_layers'))
    writer.add_context_length(value(text, 'max_position_embeddings'))
    writer.add_embedding_length(value(text, 'hidden_size'))
    writer.add_feed_forward_length(value(text, 'intermediate_size'))
    writer.add_head_count(heads)
    writer.add_head_count_kv(text.get('num_key_value_heads') or heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(value(text, 'rms_norm_eps'))
    writer.add_rope_freq_base(float(value(rope, 'rope_theta')))
    sections = [*value(rope, 'mrope_section'), 0, 0, 0, 0][:4]
    writer.add_rope_dimension_sections(sections)
    if folder.family.deepstack(config) or folder.family.model_type == 'qwen3_vl':
        writer.add_num_deepstack_layers(folder.family.deepstack(config))


def _name(tensor: Tensor, folder: ModelFolder) -> str:
    """What llama.cpp calls a tensor of a folder, '' for those of the vision tower."""
    if TOWER.match(tensor.name):
        return ''
    inner = tensor.name.removeprefix('model.').removeprefix('language_model.')
    layer = LAYER.fullmatch(inner)
    module, _, leaf = (layer[2] if layer else inner).rpartition('.')
    known = (IN_LAYER if layer else ABOVE).get(module)
    if known is None:
        raise ModelError(f"weights of '{folder.path}' hold '{tensor.name}', which has no place in a GGUF file")
    return f'blk.{layer[1]}.{known}.{leaf}' if layer else f'{known}.{leaf}'


def _kind(name: str, tensor: Tensor, wanted: str) -> str:
    if len(tensor.shape) < 2:
        return 'F32'
    if wanted == 'Q4_0' and name in (EMBEDDINGS, HEAD):
        wanted = 'Q8_0'
    return 'F16' if wanted.startswith('Q') and tensor.shape[-1] % BLOCK else wanted


def _is_packed(kind: Any) -> bool:
    return kind.name not in ('F32', 'F16')


def _numbers(kept: Sequence[tuple[Path, Tensor, str]]) -> Iterator[tuple[str, np.ndarray]]:
    """Each tensor in order as float32."""
    for file, tensor, name in kept:
        with safe_open(file, 'pt') as opened:
            yield name, opened.get_tensor(tensor.name).to(torch.float32).numpy()
