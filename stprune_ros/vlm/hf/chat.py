"""A tokenizer and its chat template: the prompt around a question with every visual token, and where answers begin.

No transformers import: the tokenizer is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stprune_ros.errors import ModelError, StpruneError, one_line, plain
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
    """The chat template of one model that reads ``vocabulary`` tokens.

    ``answer_prefix`` is what the template writes between its invitation to answer and an answer: nothing, a blank, or
    the end of a thought that the invitation opened. ``end_id`` is the token that it writes after an answer: in some
    templates another one than the tokenizer's eos_token.
    Raises ModelError where the template does not say where an answer begins, see `answer_borders`.
    """

    def __init__(self, tokenizer: Any, family: Family, image_id: int, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._family = family
        self._image_id = image_id
        self._vocabulary = vocabulary
        self._image_text: str = tokenizer.convert_ids_to_tokens(image_id)
        self._markup = family.image_markup(tokenizer, self._image_text)
        self._bare: dict[str, list[int]] = {}  # by system text: the prompt without content, the same at every tick
        self.answer_prefix, after = answer_borders(tokenizer)
        special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._marks = {*special, image_id, tokenizer.eos_token_id} - {tokenizer.unk_token_id}
        ends = [token for token in self.ids(after)[:1] if token in special]
        self.end_id: int = ends[0] if ends else tokenizer.eos_token_id

    def notes(self, name: str) -> list[str]:
        """What is worth knowing about the answers of the model called ``name``, one sentence each."""
        prefix = self.answer_prefix
        if not prefix.strip():
            return []
        return [f"answers of '{name}' begin behind {prefix!r}, as its chat template has them: it does not think first"]

    def ids(self, text: str) -> list[int]:
        """Tokens of a text as it stands. Raises ModelError where the model knows fewer than its tokenizer."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        largest = max(ids, default=0)
        if largest >= self._vocabulary:
            raise ModelError(
                f"the prompt holds '{self._tokenizer.convert_ids_to_tokens(largest)}', token {largest} of the"
                f' tokenizer, and the model has {self._vocabulary}: remove it from the prompt file'
            )
        return ids

    def require_words(self, text: str) -> None:
        """Raise ModelError where a question or an answer holds a token that ends turns, shows images or the like."""
        for token in self.ids(text):
            if token in self._marks:
                mark = self._tokenizer.convert_ids_to_tokens(token)
                raise ModelError(
                    f"question or candidate '{plain(text)}' holds '{mark}', which is no word to this model: remove it"
                )

    def text_ids(self, asked: str) -> list[int]:
        """Tokens behind which free text begins; ``asked`` is a question and what the template writes after it.

        An open thought is ended. A blank is not written: it belongs to the first word.
        """
        return self.ids(asked + self.answer_prefix.rstrip(' '))

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
        return min(_shared(self._bare[system], ids), len(ids) - 1)  # something is left to run

    def _render(self, system: str, content: Sequence[str | VisualFrame]) -> str:
        written = self._family.written_placeholder
        parts: list[dict[str, str]] = []
        for part in [*content, QUESTION]:
            text = part if isinstance(part, str) else written
            if not isinstance(part, str) and not written:
                parts.append({'type': 'image'})
            elif parts and parts[-1]['type'] == 'text':
                parts[-1]['text'] += text  # as one text: some templates trim each
            else:
                parts.append(_text(text))
        turns = [{'role': 'system', 'content': [_text(system)]}] if system else []
        return _rendered(self._tokenizer, [*turns, {'role': 'user', 'content': parts}], invite=True)


def answer_borders(tokenizer: Any) -> tuple[str, str]:
    """What a chat template writes between its invitation to answer and an answer, and after the answer.

    Raises ModelError where the invitation holds words that an answered turn lacks, such as the beginning of a thought:
    behind them an answer would be no answer.
    """
    asked = {'role': 'user', 'content': [_text(QUESTION)]}
    before, _, after = _rendered(
        tokenizer, [asked, {'role': 'assistant', 'content': [_text(ANSWER)]}], invite=False
    ).partition(ANSWER)
    invitation = _rendered(tokenizer, [asked], invite=True)
    lacking = invitation[_shared(invitation, before) :]
    if lacking.strip():
        raise ModelError(
            f'the chat template invites an answer with {lacking!r} and shows a given answer without it, so where an'
            ' answer begins is not known: take a checkpoint that answers at once'
        )
    return '' if lacking else before.removeprefix(invitation), after


def _shared(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items two sequences begin with alike."""
    return next(
        (index for index, (one, other) in enumerate(zip(first, second)) if one != other), min(len(first), len(second))
    )


def _text(text: str) -> dict[str, str]:
    return {'type': 'text', 'text': text}


def _rendered(tokenizer: Any, turns: list[dict[str, Any]], invite: bool) -> str:
    """The turns as the template writes them, with or without its invitation to answer."""
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=invite)
    except Exception as error:  # whatever a template raises, raise_exception among it
        raise ModelError(f"the model's chat template fails: {one_line(error)}") from None
    marks = {mark for turn in turns for part in turn['content'] for mark in (QUESTION, ANSWER) if mark in str(part)}
    if any(text.count(mark) != 1 or repr(mark) in text for mark in marks):
        raise ModelError(
            "the model's chat template changes, repeats or leaves out the texts that it is given: take the one that the"
            ' model was published with'
        )
    return text
