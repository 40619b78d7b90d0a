"""Tiny random models with a real architecture, tokenizer, chat template and image processor, built on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers import tiny_tiles
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from stprune_ros.vlm.hf.model_checks import FIXED_BLOCKS

TILES = ('llava_onevision', 'internvl', 'smolvlm', 'idefics3', 'gemma3')
FAMILIES = ('qwen2_vl', 'qwen2_5_vl', 'qwen3_vl', 'thinking', 'ringworld', *TILES)

PATCH = {'qwen2_vl': 14, 'qwen2_5_vl': 14, 'qwen3_vl': 16, 'thinking': 16, 'ringworld': 16}
MERGE = {'qwen2_vl': 2, 'qwen2_5_vl': 2, 'qwen3_vl': 2, 'thinking': 2, 'ringworld': 1}
CLASSES = {
    'qwen2_vl': 'Qwen2VL',
    'qwen2_5_vl': 'Qwen2_5_VL',
    'qwen3_vl': 'Qwen3VL',
    'thinking': 'Qwen3VL',
    'ringworld': 'Qwen3VL',
    'llava_onevision': 'LlavaOnevision',
    'internvl': 'InternVL',
    'smolvlm': 'SmolVLM',
    'idefics3': 'Idefics3',
    'gemma3': 'Gemma3',
}

SPECIAL = (
    '<|endoftext|>',
    '<|im_start|>',
    '<|im_end|>',
    '<|vision_start|>',
    '<|vision_end|>',
    '<|image_pad|>',
    '<|video_pad|>',
)

# 'stop' becomes one token, 'slow down' two, 'increase the gap' three; line breaks merge with one another and with dots.
WORDS = (
    'You look through the cameras of a car. The front view, the left view and the right view, oldest first, now.\n'
    'The camera has no data. The car drives at 5.0 m/s. What should the driver do? Answer with one word.\n\n'
    'none\nstop\nslow down\nyield\nincrease the gap\nshift left\nshift right\n\n'
    'Now none, stop, slow, yield, increase, shift, down, gap, left, right.\n\n\n\n'
    'Describe the road, vehicles, people and lights around the car. A red light ahead, a van on the left.\n\n'
)
# First words of answers are one token too, with and without a capital or a blank before them.
FIRST_WORDS = ('none', 'stop', 'yield', 'slow', 'increase', 'shift')
FORMS = '\n'.join(f'{word}\n{word.capitalize()}\n {word} {word.capitalize()}\n' for word in FIRST_WORDS) + ':stop'
PIECES = Regex(r'[^\w\n]?\w+| ?[^\w\s]+\n*|\s*\n+|\s+')  # what merges stay within

TURNS = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}OPENING"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\nINVITED' }}{% endif %}"
)
# The layout of the Qwen templates: turns between <|im_start|> and <|im_end|>, each image between its two vision tokens.
TEMPLATE = TURNS.replace('OPENING', '').replace('INVITED', '')
# That of the Thinking ones: an answer comes behind a thought, which the invitation opens.
THINKING = TURNS.replace(
    'OPENING', "{% if message['role'] == 'assistant' %}{{ '<think>\\n' + '\\n</think>\\n\\n' }}{% endif %}"
).replace('INVITED', '<think>\\n')


def make_tiny_model(path: Path, family: str, seed: int = 1, width: int = 32) -> Path:
    """Save a random model of ``family`` (one of FAMILIES) to the folder ``path``; the same seed gives the same weights.

    'ringworld' is Qwen3-VL with patch size 16, no merging and no deepstack, 'thinking' Qwen3-VL with the template of a
    Thinking checkpoint; ``width`` is that of the language model.
    """
    skip_refused(family)
    path = Path(path)
    tokenizer = tiny_tokenizer(family)
    tokenizer.save_pretrained(path)
    config = _config(family, tokenizer, width)
    torch.manual_seed(seed + (family == 'thinking'))  # the first one repeats itself
    model = getattr(transformers, f'{CLASSES[family]}ForConditionalGeneration')(config)
    if family == 'gemma3':  # would start as zeros
        torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.25)
    stops = tiny_tiles.STOPS.get(family, (tokenizer.eos_token, tokenizer.pad_token))
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(list(stops))
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(path)
    (path / 'preprocessor_config.json').write_text(json.dumps(_processor(family)))
    (path / 'stprune.json').write_text(json.dumps({'trained': False}))
    return path


def skip_refused(family: str) -> None:
    """Skip the test where the installed transformers is a release that ``family`` is refused with."""
    if transformers.__version__ in FIXED_BLOCKS.get(family, ()):
        pytest.skip(f'{family} is refused with transformers {transformers.__version__}')


def _processor(family: str) -> dict[str, Any]:
    if family in TILES:
        return {**tiny_tiles.NORMAL, **tiny_tiles.PROCESSORS[family]}
    side = PATCH[family] * MERGE[family]
    return {
        'image_processor_type': 'Qwen2VLImageProcessor',
        'patch_size': PATCH[family],
        'merge_size': MERGE[family],
        'temporal_patch_size': 2,
        'size': {'shortest_edge': side * side, 'longest_edge': side * side * 24},
    }


def tiny_tokenizer(family: str) -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE: any text can be written, common words are short; special tokens come last, as in real ones."""
    qwen: Any = (SPECIAL, '<|im_end|>', '<|endoftext|>', {}, THINKING if family == 'thinking' else TEMPLATE)
    special, end, pad, named, template = tiny_tiles.TOKENIZERS.get(family, qwen)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECES, 'isolated'),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([WORDS, FORMS, FORMS], trainer)
    backend.add_special_tokens(list(special))
    if family == 'thinking':
        backend.add_tokens([AddedToken(mark, normalized=False) for mark in ('<think>', '</think>')])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=end,
        pad_token=pad,
        bos_token='<bos>' if '<bos>' in special else None,
        additional_special_tokens=list(special),
        extra_special_tokens=named,
        chat_template=template,
    )


def _config(family: str, tokenizer: transformers.PreTrainedTokenizerFast, width: int) -> transformers.PreTrainedConfig:
    tokens = (
        {}
        if family in TILES
        else {
            'image_token_id': tokenizer.convert_tokens_to_ids('<|image_pad|>'),
            'video_token_id': tokenizer.convert_tokens_to_ids('<|video_pad|>'),
            'vision_start_token_id': tokenizer.convert_tokens_to_ids('<|vision_start|>'),
            'vision_end_token_id': tokenizer.convert_tokens_to_ids('<|vision_end|>'),
        }
    )
    # A large spread of the weights: otherwise random models answer the same to everything and tests cannot fail.
    text: dict[str, Any] = {
        'vocab_size': len(tokenizer) - tiny_tiles.BEYOND.get(family, 0),
        'hidden_size': width,
        'intermediate_size': 2 * width,
        'num_hidden_layers': 3,
        'num_attention_heads': width // 8,
        'num_key_value_heads': width // 16,
        'max_position_embeddings': 4096,
        'initializer_range': 0.25,
        'bos_token_id': None,
        'eos_token_id': tokenizer.eos_token_id,
        'pad_token_id': tokenizer.pad_token_id,
        'rope_parameters': {'rope_type': 'default', 'rope_theta': 10000.0, 'mrope_section': [2, 1, 1]},
    }
    config_class = getattr(transformers, f'{CLASSES[family]}Config')
    if family in TILES:
        return config_class(**tiny_tiles.config_of(family, text, tokenizer.convert_tokens_to_ids))
    vision: dict[str, Any] = {
        'depth': 2,
        'hidden_size': 32,
        'intermediate_size': 48,
        'num_heads': 2,
        'in_channels': 3,
        'patch_size': PATCH[family],
        'spatial_merge_size': MERGE[family],
        'out_hidden_size': width,
        'initializer_range': 0.25,
    }
    if family == 'qwen2_5_vl':
        side = 2 * PATCH[family] * MERGE[family]
        vision |= {'window_size': side, 'fullatt_block_indexes': [1]}
    elif family == 'qwen2_vl':
        vision |= {'embed_dim': 32, 'hidden_size': width, 'mlp_ratio': 2}
    else:
        text |= {'head_dim': 8}
        vision |= {'num_position_embeddings': 64, 'deepstack_visual_indexes': [0, 1] if family == 'qwen3_vl' else []}
    return config_class(text_config=text, vision_config=vision, **tokens)
