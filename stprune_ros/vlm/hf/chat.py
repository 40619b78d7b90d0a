"""A tokenizer and its chat template: the prompt around a question with every visual token, and where answers begin.

No transformers import: the tokenizer is given.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stprune_ros.errors import ModelError, StpruneError, one_line
from stprune_ros.vlm.backend import VisualFrame
from stprune_ros.vlm.hf.family import Family

# Stand for a question and an answer while the chat template is rendered.
QUESTION, ANSWER = '[[stprune:question]]', '[[stprune:answer]]'


@dataclass(frozen=True, slots=True)
class FullPrompt:
    """An unpruned prompt up to its question: ``ids`` and ``keep`` (S,), and what the template writes after one.

    The first ``static`` tokens, the system turn for the most part, are the same whatever the content is.
    """

    ids: torch.Tensor
    keep: torch.Tensor
    question_suffix: str
    static: int


class Chat:
    """The chat template of one model; ``stop_ids`` are the tokens that end its answers.

    ``answer_prefix`` is what the template writes between its invitation to answer and an answer (some put a blank
    there), ``end_id`` the token that ends an answer: in some templates another one than the tokenizer's eos_token.
    """

    def __init__(self, tokenizer: Any, family: Family, image_id: int, stop_ids: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._family = family
        self._image_id = image_id
        self._image_text: str = tokenizer.convert_ids_to_tokens(image_id)
        self._markup = family.image_markup(tokenizer, self._image_text)
        self._bare: dict[str, list[int]] = {}  # by system text: the prompt without content, the same at every tick
        asked = {'role': 'user', 'content': [{'type': 'text', 'text': QUESTION}]}
        answered = [asked, {'role': 'assistant', 'content': [{'type': 'text', 'text': ANSWER}]}]
        before, _, after = self._template(answered).partition(ANSWER)
        invitation = self._template([asked], add_generation_prompt=True)
        self.answer_prefix = before.removeprefix(invitation) if before.startswith(invitation) else ''
        ends = [token for token in self.ids(after)[:1] if token in stop_ids]
        self.end_id: int = ends[0] if ends else tokenizer.eos_token_id

    def ids(self, text: str) -> list[int]:
        """Tokens of a text as it stands."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def prompt(self, system: str, content: Sequence[str | VisualFrame]) -> FullPrompt:
        """The prompt with every visual token, and which of them stay; an empty ``system`` leaves that turn out.

        Raises StpruneError where a keep mask has another length than its image, ModelError where texts hold
        placeholders.
        """
        frames = [part for part in content if not isinstance(part, str)]
        for frame in frames:
            if frame.keep.shape != frame.features.tokens.shape[:1]:
                raise StpruneError(
                    f'keep mask is {tuple(frame.keep.shape)} for {len(frame.features.tokens)} visual tokens'
                )
        head, _, question_suffix = self._render(system, content).partition(QUESTION)
        markup = self._markup
        found = self.ids(head.replace(markup.placeholder, f'{markup.before}{self._image_text}{markup.after}'))
        images = found.count(self._image_id)
        if images != len(frames):
            raise ModelError(
                f"the prompt has {images} image placeholders '{markup.placeholder}' for {len(frames)} images;"
                ' remove them from the prompt file, or use a chat template that writes one for each image'
            )
        ids: list[int] = []
        keep: list[bool] = []
        left = iter(frames)
        for token in found:
            stay = [True]
            if token == self._image_id:
                stay = [*next(left).keep.tolist(), *[True] * self._family.extra_tokens]
            ids += [token] * len(stay)
            keep += stay
        return FullPrompt(torch.tensor(ids), torch.tensor(keep), question_suffix, self._static(system, ids))

    def _static(self, system: str, ids: Sequence[int]) -> int:
        if system not in self._bare:
            self._bare = {system: self.ids(self._render(system, []).partition(QUESTION)[0])}
        bare = self._bare[system]
        most = min(len(bare), len(ids) - 1)  # something is left to run
        return next((index for index in range(most) if bare[index] != ids[index]), most)

    def _render(self, system: str, content: Sequence[str | VisualFrame]) -> str:
        written = self._family.written_placeholder
        parts = [{'type': 'text', 'text': part} if isinstance(part, str) else {'type': 'image'} for part in content]
        parts.append({'type': 'text', 'text': QUESTION})
        if written:
            parts = [{'type': 'text', 'text': ''.join(part.get('text', written) for part in parts)}]
        turns = [{'role': 'system', 'content': [{'type': 'text', 'text': system}]}] if system else []
        return self._template([*turns, {'role': 'user', 'content': parts}], add_generation_prompt=True)

    def _template(self, turns: list[dict[str, Any]], **options: Any) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(turns, tokenize=False, **options)
        except Exception as error:  # whatever a template raises, raise_exception among it
            raise ModelError(f"the model's chat template fails: {one_line(error)}") from None
        return text
