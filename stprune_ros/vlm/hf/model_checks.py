"""Refuse models and images that would be answered wrongly without a word; no transformers import."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from stprune_ros.errors import ModelError, StpruneError, one_line, plain
from stprune_ros.vlm.hf.chat import answer_borders
from stprune_ros.vlm.hf.family import Family
from stprune_ros.vlm.hf.model_folder import ModelFolder
from stprune_ros.vlm.hf.template_trial import template_fault

LAYER = re.compile(r'\b(layers|blocks)\.\d+\.')
HOOK = 'mm_encoder_outputs'  # came with transformers 5.18
# Releases that take a family's image tokens in blocks of a fixed number, which a pruned prompt does not have.
FIXED_BLOCKS = {'smolvlm': ('5.20.1', '5.20.2')}


@contextmanager
def error_context(part: str, folder: ModelFolder) -> Iterator[None]:
    """Whatever goes wrong inside, as one sentence that names the part and the folder."""
    try:
        yield
    except Exception as error:  # transformers and tokenizers raise all kinds, bare Exception among them
        raise ModelError(f"{part} of '{folder.path}' cannot be loaded: {one_line(error)}") from None


def supported_class(family: Family, library: Any) -> Any:
    """The model class of ``family`` in ``library`` (transformers).

    Raises ModelError where that is too old, or a release that cannot run pruned prompts of this family.
    """
    model_class = getattr(library, family.architecture, None)
    if model_class is None or HOOK not in inspect.signature(model_class.forward).parameters:
        raise ModelError(
            f'transformers {library.__version__} is too old for pruned prompts with {family.model_type};'
            ' install transformers>=5.18'
        )
    if library.__version__ in FIXED_BLOCKS.get(family.model_type, ()):
        raise ModelError(
            f'transformers {library.__version__} takes the image tokens of {family.model_type} in blocks of a fixed'
            ' number, which pruning does not leave; install transformers 5.20.0, or 5.21 or later'
        )
    return model_class


def check_parts(folder: ModelFolder, config: Any, tokenizer: Any) -> None:
    """Check that the configuration is supported and that the tokenizer belongs to it.

    Raises ModelError naming what does not fit.
    """
    text = config.text_config
    if tokenizer.chat_template is None:
        raise ModelError(f"tokenizer of '{folder.path}' has no chat template")
    fault = template_fault(tokenizer.chat_template, special_tokens(tokenizer))
    if fault:
        raise ModelError(
            f"the chat template of '{folder.path}' {fault}: take the one that the model was published with"
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(f"tokenizer of '{folder.path}' has no end-of-turn token (eos_token)")
    if 'sliding_attention' in (getattr(text, 'layer_types', None) or ()) and not folder.family.sliding_window:
        raise ModelError(f"model '{folder.path}' uses sliding-window attention, which is not supported")
    if not 0 <= config.image_token_id < len(tokenizer):
        raise ModelError(f"tokenizer of '{folder.path}' lacks the model's image token {config.image_token_id}")
    # A tokenizer may be longer than its model's vocabulary: what is used in every prompt must be within.
    markup = folder.family.image_markup(tokenizer, tokenizer.convert_ids_to_tokens(config.image_token_id))
    marks = tokenizer(markup.before + markup.after, add_special_tokens=False).input_ids
    largest = max(config.image_token_id, tokenizer.eos_token_id, *marks)
    if largest >= text.vocab_size:
        raise ModelError(
            f"tokenizer of '{folder.path}' has '{tokenizer.convert_ids_to_tokens(largest)}' as token {largest}, its"
            f' model {text.vocab_size} tokens: tokenizer and config.json do not belong together'
        )
    with error_context('chat template', folder):
        answer_borders(tokenizer)


def special_tokens(tokenizer: Any) -> dict[str, str]:
    """The special tokens by name, as a chat template gets them."""
    return {name: str(token) for name, token in tokenizer.special_tokens_map.items()}


def check_weights(folder: ModelFolder, report: dict[str, Any]) -> None:
    """Refuse weights that do not cover the model: transformers would fill the rest with random numbers.

    ``report`` is the loading info of `from_pretrained`. Raises ModelError naming a tensor.
    """
    missing = sorted(report['missing_keys'])
    if missing:
        raise ModelError(
            f"weights of '{folder.path}' lack {len(missing)} of the model's tensors, such as '{missing[0]}';"
            ' config.json and the safetensors files do not belong together'
        )
    # What a library version does not know any more is left over, too, but no whole layer.
    surplus = sorted(name for name in report['unexpected_keys'] if LAYER.search(name))
    if surplus:
        raise ModelError(
            f"weights of '{folder.path}' hold {len(surplus)} tensors of layers that config.json has no place for, such"
            f" as '{plain(surplus[0])}': config.json and the safetensors files do not belong together"
        )
    if report['mismatched_keys']:
        name, found, wanted = sorted(report['mismatched_keys'])[0]
        raise ModelError(
            f"weights of '{folder.path}' hold '{name}' as {tuple(found)} where config.json asks for {tuple(wanted)}"
        )


def check_images(images: Sequence[np.ndarray]) -> None:
    """Raises StpruneError for an image that is not uint8 (height, width, 3)."""
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise StpruneError(f'image is {image.dtype} {image.shape}; it must be uint8 (height, width, 3)')
