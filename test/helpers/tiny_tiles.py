"""What the families that see one square tile per image need beyond tiny_models.py: tokens, templates, configurations.

The templates have the layout of the families' own: where images go, what is trimmed, how turns begin and end.
"""

from __future__ import annotations

from typing import Any

TURNS = '{% for turn in messages %}'
ASK = '{% if add_generation_prompt %}'
PARTS = "{% for part in turn['content'] %}"
TEXT = "{{ part['text'] }}"
CHATML = '<|im_start|>', '<|im_end|>', '<|endoftext|>'

# LLaVA-OneVision shows all images of a turn before all of its text.
LLAVA = (
    TURNS + "{{ '<|im_start|>' + turn['role'] + ' ' }}"
    "{% for part in turn['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in turn['content'] if part['type'] == 'text' %}{{ '\\n' + part['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}" + ASK + "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
INTERNVL = (
    TURNS + "{{ '<|im_start|>' + turn['role'] + '\\n' }}" + PARTS + "{% if part['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\\n' }}{% else %}"
    + TEXT
    + "{% endif %}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    + ASK
    + "{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# A blank follows 'Assistant:' before answers, but not in the invitation to answer.
SMOLVLM = (
    '<|im_start|>' + TURNS + "{{ turn['role'] | capitalize }}"
    "{% if turn['content'][0]['type'] == 'image' %}:{% else %}{{ ': ' }}{% endif %}"
    + PARTS
    + "{% if part['type'] == 'image' %}<image>{% else %}"
    + TEXT
    + "{% endif %}{% endfor %}{{ '<end_of_utterance>\\n' }}{% endfor %}"
    + ASK
    + 'Assistant:{% endif %}'
)
# Gemma3 trims every text part, puts the system text into the first user turn and ends turns with a token of its own.
GEMMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set first = messages[0]['content'][0]['text'] + '\\n\\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for turn in rest %}{{ '<start_of_turn>' + ('model' if turn['role'] == 'assistant' else 'user') + '\\n' }}"
    '{{ first if loop.first }}'
    + PARTS
    + "{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}"
    "{{ '<end_of_turn>\\n' }}{% endfor %}" + ASK + "{{ '<start_of_turn>model\\n' }}{% endif %}"
)

# Special tokens (image token first, end of a turn, pad), further token names of the tokenizer, template.
TOKENIZERS: dict[str, tuple[tuple[str, ...], str, str, dict[str, str], str]] = {
    'llava_onevision': (('<image>', '<video>', *CHATML), '<|im_end|>', '<|endoftext|>', {}, LLAVA),
    'internvl': (
        ('<IMG_CONTEXT>', '<img>', '</img>', *CHATML, '<video>'),
        '<|im_end|>',
        '<|endoftext|>',
        {
            'start_image_token': '<img>',
            'end_image_token': '</img>',
            'context_image_token': '<IMG_CONTEXT>',
            'video_token': '<video>',
        },
        INTERNVL,
    ),
    'smolvlm': (
        ('<image>', '<fake_token_around_image>', '<global-img>', '<end_of_utterance>', '<|im_start|>', '<|im_end|>'),
        '<end_of_utterance>',
        '<|im_end|>',
        {},
        SMOLVLM,
    ),
    'gemma3': (
        (
            *('<image_soft_token>', '<start_of_image>', '<end_of_image>', '<start_of_turn>', '<end_of_turn>'),
            *('<bos>', '<eos>', '<pad>'),
        ),
        '<eos>',
        '<pad>',
        {'image_token': '<image_soft_token>', 'boi_token': '<start_of_image>', 'eoi_token': '<end_of_image>'},
        GEMMA3,
    ),
}
# Idefics3 knows no token for a whole image: its mark is a text.
TOKENIZERS['idefics3'] = (
    tuple(token for token in TOKENIZERS['smolvlm'][0] if token != '<global-img>'),
    *TOKENIZERS['smolvlm'][1:],
)
BEYOND = {'internvl': 1}  # so many tokens of the tokenizer are more than its model has: <video>, as published
STOPS = {'gemma3': ('<eos>', '<end_of_turn>')}

SIDES = {'llava_onevision': 56, 'internvl': 112, 'smolvlm': 128, 'idefics3': 128, 'gemma3': 112}

NORMAL = {'image_mean': [0.5, 0.5, 0.5], 'image_std': [0.5, 0.5, 0.5]}
PROCESSORS: dict[str, dict[str, Any]] = {
    # What the processor would do without being told otherwise is to cut images into tiles.
    'llava_onevision': {
        'image_processor_type': 'LlavaOnevisionImageProcessor',
        'size': {'height': 56, 'width': 56},
        'image_grid_pinpoints': [[56, 56], [56, 112], [112, 56], [112, 112]],
    },
    'internvl': {
        'image_processor_type': 'GotOcr2ImageProcessor',
        'size': {'height': 112, 'width': 112},
        'crop_to_patches': True,
    },
    'smolvlm': {
        'image_processor_type': 'SmolVLMImageProcessor',
        'size': {'longest_edge': 512},
        'max_image_size': {'longest_edge': 128},
    },
    'idefics3': {
        'image_processor_type': 'Idefics3ImageProcessor',
        'size': {'longest_edge': 512},
        'max_image_size': {'longest_edge': 128},
    },
    'gemma3': {
        'image_processor_type': 'Gemma3ImageProcessor',
        'size': {'height': 112, 'width': 112},
        'do_pan_and_scan': True,
        'pan_and_scan_min_crop_size': 32,
        'pan_and_scan_max_num_crops': 4,
        'pan_and_scan_min_ratio_to_activate': 1.2,
    },
}


def config_of(family: str, text: dict[str, Any], token_id: Any) -> dict[str, Any]:
    """Arguments of the family's configuration; ``token_id`` gives the id of a token, ``text`` the language model."""
    vision: dict[str, Any] = {
        'hidden_size': 32,
        'intermediate_size': 48,
        'num_hidden_layers': 2,
        'num_attention_heads': 2,
        'patch_size': 14,
        'image_size': SIDES[family],
        'initializer_range': 0.25,
    }
    text = {name: value for name, value in text.items() if name != 'rope_parameters'}
    if family == 'llava_onevision':
        vision |= {'model_type': 'siglip_vision_model', 'vision_use_head': False}
        text |= {'model_type': 'qwen2', 'rope_parameters': {'rope_type': 'default', 'rope_theta': 10000.0}}
        ids = {'image_token_index': token_id('<image>'), 'video_token_index': token_id('<video>')}
        return {'text_config': text, 'vision_config': vision, 'image_grid_pinpoints': [[56, 56], [112, 112]], **ids}
    if family == 'internvl':
        vision |= {'image_size': [112, 112], 'patch_size': [14, 14], 'layer_scale_init_value': 1.0}
        text |= {'model_type': 'qwen2', 'rope_parameters': {'rope_type': 'default', 'rope_theta': 10000.0}}
        return {
            'text_config': text,
            'vision_config': vision,
            'image_token_id': token_id('<IMG_CONTEXT>'),
            'image_seq_length': 16,
            'tie_word_embeddings': False,
        }
    if family in ('smolvlm', 'idefics3'):
        vision |= {'patch_size': 16}
        text |= {'model_type': 'llama', 'rope_parameters': {'rope_type': 'default', 'rope_theta': 10000.0}}
        ids = {'image_token_id': token_id('<image>'), 'pad_token_id': text['pad_token_id']}
        return {'text_config': text, 'vision_config': vision, 'scale_factor': 2, **ids}
    vision |= {'model_type': 'siglip_vision_model', 'vision_use_head': False}
    # The window is longer than one image and much shorter than the prompts of the tests.
    layers = ['sliding_attention', 'full_attention', 'sliding_attention']
    text |= {'head_dim': 8, 'query_pre_attn_scalar': 8, 'sliding_window': 24, 'layer_types': layers}
    return {
        'text_config': text,
        'vision_config': vision,
        'mm_tokens_per_image': 16,
        'image_token_index': token_id('<image_soft_token>'),
        'boi_token_index': token_id('<start_of_image>'),
        'eoi_token_index': token_id('<end_of_image>'),
        'tie_word_embeddings': False,
    }
