"""The bundled model before training: a small Qwen3-VL and a tokenizer of a hundred words.

transformers and tokenizers are imported inside the functions: only training needs this file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from stprune_ros.ringworld.questions import DESCRIBE_QUESTION, HINT_QUESTION, HINT_TEXT, NUMBERS
from stprune_ros.ringworld.renderer import VIEW_NAMES
from stprune_ros.ringworld.world import COLOURS

HIDDEN_SIZE = 128  # of the language model and of the visual tokens
TURN_START, TURN_END = '<|im_start|>', '<|im_end|>'
VISION_START, VISION_END, IMAGE = '<|vision_start|>', '<|vision_end|>', '<|image_pad|>'
SPECIAL_TOKENS = ('<|pad|>', '<|unk|>', TURN_START, TURN_END, VISION_START, VISION_END, IMAGE, '<|video_pad|>')
SYSTEM = 'six views around the ego vehicle.'
PROMPT = {
    'name': 'ringworld',
    'system': SYSTEM,
    'view': '{direction} {frames}:',
    'missing_view': '{direction}: no data.',
    'ego': 'ego speed {speed:04.1f}, turn {yaw_rate:+.2f}.',
    'missing_ego': '',
    'hint': {
        'question': HINT_QUESTION,
        'candidates': [{'behavior': behavior.name, 'text': text} for behavior, text in HINT_TEXT.items()],
    },
    'describe': {'question': DESCRIBE_QUESTION},
}
VOCABULARY_TEXTS = (  # every question and description is made of these words
    'what colour is the nearest car in? how many cars are in? is a pedestrian in? which view shows a car?',
    'what does the traffic light ahead show? does the nearest car in move? is it one car between and?',
    'which way does the nearest pedestrian in walk? left right nowhere how many pedestrians are around?',
    'what is the reason to slow down or stop? which view shows the reason?',
    'red green yes no nothing red light car pedestrian clear ahead. stop for. slow down for. moving walking: ,',
    'back right back left user system assistant ego speed turn + - 0123456789',
)
CHAT_TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }} "
    "{% if turn['content'] is string %}{{ turn['content'] }}{% else %}{% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    '{% endfor %}{% endif %}<|im_end|>{% endfor %}'
    '{% if add_generation_prompt %}<|im_start|>assistant {% endif %}'
)


def vocabulary_words() -> list[str]:
    """Every word, digit and punctuation mark that the model can read and write, sorted."""
    texts = [
        *VOCABULARY_TEXTS,
        SYSTEM,
        HINT_QUESTION,
        DESCRIBE_QUESTION,
        *HINT_TEXT.values(),
        *NUMBERS,
        *COLOURS,
        *VIEW_NAMES,
    ]
    texts += [text for text in PROMPT.values() if isinstance(text, str)]
    plain = re.sub(r'\{[^}]*\}', ' ', ' '.join(texts))
    return sorted(set(re.findall(r'[a-z_]+|\d|[^\w\s]', plain.lower())))


def make_tokenizer() -> Any:
    """A word-level PreTrainedTokenizerFast with a chat template; each digit and punctuation mark is a word."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    token_ids = {word: index for index, word in enumerate([*SPECIAL_TOKENS, *vocabulary_words()])}
    core = Tokenizer(models.WordLevel(token_ids, unk_token='<|unk|>'))
    core.normalizer = normalizers.Lowercase()
    splits = [
        pre_tokenizers.WhitespaceSplit(),
        pre_tokenizers.Punctuation(),
        pre_tokenizers.Digits(individual_digits=True),
    ]
    core.pre_tokenizer = pre_tokenizers.Sequence(splits)
    core.decoder = decoders.Sequence([decoders.WordPiece(prefix='##', cleanup=True), decoders.Replace(' :', ':')])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token='<|pad|>',
        unk_token='<|unk|>',
        eos_token=TURN_END,
        additional_special_tokens=[TURN_START, VISION_START, VISION_END, IMAGE, '<|video_pad|>'],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(tokenizer: Any) -> Any:
    """A Qwen3VLForConditionalGeneration with random weights."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    vision = {
        'depth': 4,
        'hidden_size': 192,
        'intermediate_size': 512,
        'num_heads': 6,
        'patch_size': 16,
        'temporal_patch_size': 1,
        'spatial_merge_size': 1,
        'out_hidden_size': HIDDEN_SIZE,
        'num_position_embeddings': 256,
        'deepstack_visual_indexes': [],
    }
    text = {
        'vocab_size': len(tokenizer),
        'hidden_size': HIDDEN_SIZE,
        'intermediate_size': 384,
        'num_hidden_layers': 4,
        'num_attention_heads': 4,
        'num_key_value_heads': 4,
        'head_dim': 32,
        'max_position_embeddings': 4096,
        'pad_token_id': ids['<|pad|>'],
        'rope_parameters': {
            'rope_type': 'default',
            'rope_theta': 10000.0,
            'mrope_section': [6, 5, 5],
            'mrope_interleaved': True,
        },
    }
    config = Qwen3VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=ids[IMAGE],
        video_token_id=ids['<|video_pad|>'],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        eos_token_id=ids[TURN_END],
        pad_token_id=ids['<|pad|>'],
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids[TURN_END]
    model.generation_config.pad_token_id = ids['<|pad|>']
    return model


def make_processor() -> Any:
    """The image processor: any image to about 60 patches of 16 x 16 pixels, values to [-1, 1]."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(
        size={'shortest_edge': 60 * 256, 'longest_edge': 60 * 256},
        patch_size=16,
        merge_size=1,
        temporal_patch_size=1,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def write_prompt(path: Path) -> None:
    """Write the prompt file that the model is trained with."""
    path.write_text(yaml.safe_dump(PROMPT, sort_keys=False, width=120), encoding='utf-8')


def export_model(folder: Path, model: Any, tokenizer: Any, facts: dict[str, Any]) -> None:
    """Write a model folder that loads offline: weights, configs, tokenizer, prompt and ``facts``.

    A model card (README.md) that is there already is left alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / 'model.safetensors').chmod(0o644)  # written for the owner only
    tokenizer.save_pretrained(folder)
    make_processor().save_pretrained(folder)
    write_prompt(folder / 'prompt.yaml')
    (folder / 'stprune.json').write_text(json.dumps(facts, indent=2) + '\n', encoding='utf-8')
