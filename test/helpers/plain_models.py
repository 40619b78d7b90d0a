"""The full prompt the ordinary way: what transformers' own processors and models make of images and text at once.

Nothing of stprune_ros is used: every engine is held against this.

The processors of some families need torchvision or num2words to be imported at all, so what they write in place of an
image is written down here, for the tiny models, from processing_<family>.py of transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers


@dataclass(frozen=True)
class Style:
    """How one family's processor shows an image: ``placeholder`` becomes ``before``, ``count`` tokens, ``after``.

    ``written``: placeholders are put into the text, not given as parts; ``extra`` tokens of each image are no patches;
    ``answer`` is what stands between invitation and answer, and what ends an answer.
    """

    placeholder: str
    token: str
    before: str = ''
    after: str = ''
    count: int = 0  # 0: by the size of the image
    extra: int = 0
    written: bool = False
    nested: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    answer: tuple[str, str] = ('', '<|im_end|>')


QWEN = Style('<|image_pad|>', '<|image_pad|>')
FENCE = '<fake_token_around_image>'
SMOLVLM = Style(
    '<image>',
    '<image>',
    FENCE + '<global-img>',
    FENCE,
    count=16,
    nested=True,
    options={'do_image_splitting': False, 'size': {'longest_edge': 128}},
    answer=(' ', '<end_of_utterance>'),
)
STYLES = {
    'qwen2_vl': QWEN,
    'qwen2_5_vl': QWEN,
    'qwen3_vl': QWEN,
    'llava_onevision': Style('<image>', '<image>', count=17, extra=1, written=True, nested=True),
    'internvl': Style(
        '<IMG_CONTEXT>', '<IMG_CONTEXT>', '<img>', '</img>', count=16, options={'crop_to_patches': False}
    ),
    'smolvlm': SMOLVLM,
    'idefics3': SMOLVLM,
    'gemma3': Style(
        '<start_of_image>',
        '<image_soft_token>',
        '\n\n<start_of_image>',
        '<end_of_image>\n\n',
        count=16,
        options={'do_pan_and_scan': False},
        answer=('', '<end_of_turn>'),
    ),
}


UNUSED = ('num_patches', 'num_crops')  # counts for the processor, nothing for the model


class PlainModel:
    """A model folder as transformers itself loads it."""

    def __init__(self, folder: Path) -> None:
        self.model = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.processor = transformers.AutoImageProcessor.from_pretrained(folder, backend='pil')
        self.family: str = self.model.config.model_type
        # What an invitation to think needs before an answer.
        self.thought = '\n</think>\n\n' if '<think>' in self.tokenizer.chat_template else ''
        stops = self.model.generation_config.eos_token_id
        self.ends = {*stops} if isinstance(stops, list) else {stops}

    def text(self, ids: Sequence[int]) -> str:
        """Tokens as text."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)


class Plain:
    """A prompt of texts and images (uint8, in order) with a question, for a plain model.

    The last text of ``content`` is the question; ``length`` counts tokens, ``asked`` those from the question on.
    ``answer`` is a whole answer, with the blank that the template may put before it, unless it is tokenised ``apart``.
    """

    def __init__(
        self,
        plain: PlainModel,
        system: str,
        content: Sequence[str | np.ndarray],
        answer: str | None = None,
        apart: bool = False,
    ) -> None:
        self.model, tokenizer, self.family = plain.model, plain.tokenizer, plain.family
        self.style = style = STYLES[self.family]
        images = [part for part in content if not isinstance(part, str)]
        given = [images] if style.nested else images
        self.batch = plain.processor(images=given, return_tensors='pt', **style.options)
        counts = [style.count] * len(images)
        if not style.count:
            merge = self.model.config.vision_config.spatial_merge_size
            counts = (self.batch['image_grid_thw'].prod(-1) // merge**2).tolist()
        parts = []
        for part in content:
            if isinstance(part, str) and parts and parts[-1]['type'] == 'text':
                parts[-1]['text'] += part  # a template may trim each text
            else:
                parts.append({'type': 'text', 'text': part} if isinstance(part, str) else {'type': 'image'})
        if style.written:
            parts = [{'type': 'text', 'text': ''.join(part.get('text', style.placeholder) for part in parts)}]
        turns = [{'role': 'system', 'content': [{'type': 'text', 'text': system}]}] if system else []
        turns.append({'role': 'user', 'content': parts})
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) + plain.thought
        text, *pieces = rendered.split(style.placeholder)
        for count, piece in zip(counts, pieces, strict=True):
            text += style.before + style.token * count + style.after + piece
        question = text[text.rindex(str(content[-1])) :]
        self.asked = len(tokenizer(question, add_special_tokens=False).input_ids)
        written = '' if answer is None else answer + style.answer[1]
        self.vision = {name: item for name, item in self.batch.items() if name not in UNUSED}
        if self.family == 'llava_onevision':
            self.vision['batch_num_images'] = torch.tensor([len(images)])
        self.ends = plain.ends
        pieces = [text, written] if apart else [text + written]
        ids = torch.tensor(
            [[token for piece in pieces for token in tokenizer(piece, add_special_tokens=False).input_ids]]
        )
        self._set(ids, ids[0] == self.model.config.image_token_id)

    def _set(self, ids: torch.Tensor, image: torch.Tensor) -> None:
        self.ids, self.length, self.image = ids, ids.shape[1], image
        self.kinds = {}
        if self.style is QWEN:
            self.kinds = {'mm_token_type_ids': self.image.int()[None]}
        elif self.family == 'gemma3':
            self.kinds = {'token_type_ids': self.image.int()[None]}

    def features(self) -> torch.Tensor:
        """What the vision tower makes of all images at once: (tokens, D), tokens that are no patches included."""
        with torch.inference_mode():
            found = self.model.get_image_features(**self.vision, return_dict=True).pooler_output
        return torch.cat([tokens.flatten(0, -2) for tokens in found])

    def generate(self, count: int) -> list[int]:
        """Greedy tokens of the model's own ``generate``, its own masks and positions."""
        mask = torch.ones_like(self.ids)
        out = self.model.generate(
            input_ids=self.ids,
            attention_mask=mask,
            **self.vision,
            **self.kinds,
            do_sample=False,
            max_new_tokens=count,
        )
        return out[0, self.length :].tolist()

    def kept(self, keeps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Which tokens stay, bool (S,), given a mask for the patches of each image."""
        kept = torch.ones(self.length, dtype=torch.bool)
        kept[self.image] = torch.cat([torch.cat([keep, torch.ones(self.style.extra).bool()]) for keep in keeps])
        return kept

    def positions(self) -> torch.Tensor:
        """Positions (rows, S) in the full prompt."""
        if self.style is not QWEN:
            return torch.arange(self.length)[None]
        grid = self.batch['image_grid_thw']
        return self.model.base_model.get_rope_index(self.ids, image_grid_thw=grid, **self.kinds)[0][:, 0]

    def generate_masked(self, count: int, keeps: Sequence[torch.Tensor]) -> list[int]:
        """Greedy tokens where nobody looks at visual tokens that do not stay: a whole pass for every token.

        At most ``count``; ends early with an image token, which a whole pass would take for another image.
        """
        before, image, written = self.ids, self.image, []
        last = {*self.ends, self.model.config.image_token_id}
        try:
            while len(written) < count and not {*written[-1:]} & last:
                written.append(int(self.logits(keeps)[-1].argmax()))
                ids = torch.cat([before, torch.tensor([written])], 1)
                self._set(ids, torch.cat([image, torch.zeros(len(written)).bool()]))
        finally:
            self._set(before, image)
        return written

    @torch.inference_mode()
    def logits(self, keeps: Sequence[torch.Tensor] | None = None, last: int = 0) -> torch.Tensor:
        """Logits (S, vocabulary) of one pass without cache, or the ``last`` of them; without ``keeps`` the model's own
        mask.

        With them, every visual token is there but nobody may look at those that do not stay.
        """
        inputs = {'input_ids': self.ids, **self.vision, 'use_cache': False, 'logits_to_keep': last}
        if keeps is None:
            return self.model(**inputs, **self.kinds).logits[0]
        rows = self.positions()
        positions = rows[:, None] if len(rows) > 1 else rows
        return self.model(**inputs, attention_mask=self._mask(keeps), position_ids=positions).logits[0]

    def _mask(self, keeps: Sequence[torch.Tensor]) -> Any:
        place = torch.arange(self.length)
        causal = place[None] <= place[:, None]
        shown = self.kept(keeps)[None] | torch.eye(self.length, dtype=torch.bool)
        if self.family != 'gemma3':
            return additive(causal & shown)
        # Tokens of one image see one another; sliding layers see so many positions back, pruned ones counted.
        number = (self.image.int().diff(prepend=torch.zeros(1, dtype=torch.int)) == 1).cumsum(0)
        together = (number[None] == number[:, None]) & self.image[None] & self.image[:, None]
        near = place[:, None] - place[None] < self.model.config.text_config.sliding_window
        visible = (causal | together) & shown
        return {'full_attention': additive(visible), 'sliding_attention': additive(visible & (near | together))}


def additive(visible: torch.Tensor) -> torch.Tensor:
    """A 4-D mask from bool (n, k)."""
    return torch.zeros(visible.shape).masked_fill_(~visible, torch.finfo(torch.float32).min)[None, None]
