"""Words of ringworld: the prompt, and a tokenizer of a hundred words with its chat template.

transformers and tokenizers are imported inside the functions: only training needs this file.
"""

from __future__ import annotations

import re
from typing import Any

from stprune_ros.ringworld.questions import DESCRIBE_QUESTION, HINT_QUESTION, HINT_TEXT, NUMBERS
from stprune_ros.ringworld.renderer import VIEW_NAMES
from stprune_ros.ringworld.traffic import COLOURS

TURN_START, TURN_END = '<|im_start|>', '<|im_end|>'
VISION_START, VISION_END, IMAGE = '<|vision_start|>', '<|vision_end|>', '<|image_pad|>'
IMAGE_WITH_ENDS = VISION_START + IMAGE + VISION_END
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
    "{% if part['type'] == 'image' %}[[image]]{% else %}{{ part['text'] }}{% endif %}"
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


def make_tokenizer(image_markup: str = IMAGE_WITH_ENDS) -> Any:
    """A word-level PreTrainedTokenizerFast with a chat template; each digit and punctuation mark is a word.

    ``image_markup`` is what the template writes for an image. Where that is the image token alone, the tokenizer names
    the tokens that the runtime puts around it.
    """
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
    ends = {'start_image_token': VISION_START, 'end_image_token': VISION_END, 'context_image_token': IMAGE}
    named = {'extra_special_tokens': ends} if image_markup == IMAGE else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token='<|pad|>',
        unk_token='<|unk|>',
        eos_token=TURN_END,
        additional_special_tokens=[TURN_START, VISION_START, VISION_END, IMAGE, '<|video_pad|>'],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
        **named,
    )
    tokenizer.chat_template = CHAT_TEMPLATE.replace('[[image]]', image_markup)
    return tokenizer
