"""The library's own way with a published checkpoint: its processor's prompt, its model's answer.

Nothing of stprune_ros is used.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from helpers.plain_models import QWEN, STYLES, UNUSED, Plain

FIRST_RELEASE = {'Qwen2_5_VLImageProcessor': 'Qwen2VLImageProcessor'}
Content = Sequence[str | np.ndarray]


def processor_of(folder: Path, family: Mapping[str, Any]) -> Any:
    """The processor of a model folder, without its part for videos, for which torchvision would have to be there."""
    named = family['processor']
    name = named['image_processor_type'].removesuffix('Fast')
    options: dict[str, Any] = {}
    if 'do_image_splitting' in named:
        options = {'do_image_splitting': False, 'size': named['max_image_size']}
    images = getattr(transformers, f'{FIRST_RELEASE.get(name, name)}Pil').from_pretrained(folder, **options)
    library = getattr(transformers, named['processor_class'])
    whole = type(library.__name__, (library,), {'check_argument_for_proper_class': lambda self, name, part: type(part)})
    parts = {
        'image_processor': images,
        'tokenizer': transformers.AutoTokenizer.from_pretrained(folder),
        'chat_template': json.loads((folder / 'chat_template.json').read_text())['chat_template'],
        **family.get('expanded', {}),
    }
    if 'video_processor' in inspect.signature(library.__init__).parameters:
        parts['video_processor'] = SimpleNamespace(num_frames=1, fps=1)  # SmolVLM asks it, videos or not
    return whole(**parts)


class Published:
    """A model folder as transformers itself loads it; ``model`` only where it is asked for."""

    def __init__(self, folder: Path, family: Mapping[str, Any]) -> None:
        self.folder = folder
        self.processor = processor_of(folder, family)
        self.tokenizer = self.processor.tokenizer
        self.model_type: str = family['config']['model_type']
        # Its template shows all images first; in order they can only be written into the text.
        self.written = '<image>' if self.model_type == 'llava_onevision' else ''
        template = self.processor.chat_template
        self.one_tile = {'crop_to_patches': False} if self.model_type == 'internvl' else {}
        self.thought = '\n</think>\n\n' if '<think>' in template and 'tool_call' not in template else ''

    def load(self) -> Any:
        """The model."""
        return transformers.AutoModelForImageTextToText.from_pretrained(self.folder, dtype=torch.float32).eval()

    def batch(self, system: str, content: Content, question: str, answer: str | None = None) -> Any:
        """What the processor makes of a prompt that ends with ``question``, or of one with its ``answer``, too."""
        turns = [{'role': 'system', 'content': [_text(system)]}] if system else []
        parts: list[dict[str, Any]] = []
        for part in [*content, question]:
            text = part if isinstance(part, str) else self.written
            if not text:
                parts.append({'type': 'image', 'image': part})
            elif parts and parts[-1]['type'] == 'text':
                parts[-1]['text'] += text
            else:
                parts.append(_text(text))
        turns.append({'role': 'user', 'content': parts})
        shown = [part for part in content if not isinstance(part, str)]
        if answer is None and not self.written:
            return self.processor.apply_chat_template(
                turns,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors='pt',
                processor_kwargs={**self.one_tile},
            )
        if answer is None:
            text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        elif self.written:  # its given answers begin otherwise than its invitation lets one answer
            text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            text += f'{answer}<|im_end|>'
        else:
            turns.append({'role': 'assistant', 'content': [_text(answer)]})
            text = self.processor.apply_chat_template(turns, tokenize=False)
        return self.processor(
            text=[text], images=[shown], add_special_tokens=False, return_tensors='pt', **self.one_tile
        )

    def ids(self, system: str, content: Content, question: str, answer: str | None = None) -> list[int]:
        """Tokens of `batch`."""
        return self.batch(system, content, question, answer)['input_ids'][0].tolist()


class PublishedPrompt(Plain):
    """A prompt for the model itself; a thought that the invitation opens is ended, as a given answer has it."""

    def __init__(self, published: Published, model: Any, system: str, content: Content, question: str) -> None:
        self.model, self.family, self.style = model, published.model_type, STYLES[published.model_type]
        self.batch = published.batch(system, content, question)
        ids = self.batch['input_ids']
        if published.thought:
            text = published.tokenizer.decode(ids[0]) + published.thought
            ids = published.tokenizer(text, add_special_tokens=False, return_tensors='pt').input_ids
        words = (*UNUSED, 'input_ids', 'attention_mask', 'mm_token_type_ids', 'token_type_ids')
        self.vision = {name: item for name, item in self.batch.items() if name not in words}
        if self.family == 'llava_onevision':
            self.vision['batch_num_images'] = torch.tensor([len(self.batch['image_sizes'])])
        stops = model.generation_config.eos_token_id
        self.ends = {*stops} if isinstance(stops, list) else {stops}
        self._set(ids, ids[0] == model.config.image_token_id)


def _text(text: str) -> dict[str, str]:
    return {'type': 'text', 'text': text}


__all__ = ['QWEN', 'Published', 'PublishedPrompt', 'processor_of']
