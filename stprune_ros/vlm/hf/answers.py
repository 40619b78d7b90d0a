"""How a model of a folder answers, whatever runs it: what it can choose among, which tokens end a text, its penalty.

No transformers import: tokenizer and generation settings are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from stprune_ros.errors import ModelError
from stprune_ros.vlm.backend import Generated, ModelInfo
from stprune_ros.vlm.greedy_text import Written
from stprune_ros.vlm.guided_choice import GuidedChoice, guided_choice
from stprune_ros.vlm.hf.chat import Chat
from stprune_ros.vlm.hf.family import Family

KNOWN_CHOICES = 64  # questions whose candidates need not be tokenised again


class Answers:
    """Chat template, tokenizer and generation settings of one model together; ``info`` with the notes about them.

    ``ends`` are the tokens that end a text; ``penalty`` divides positive logits of tokens that are there already.
    """

    def __init__(self, model: Any, tokenizer: Any, family: Family, info: ModelInfo) -> None:
        self._tokenizer = tokenizer
        self.chat = Chat(tokenizer, family, model.config.image_token_id, model.config.text_config.vocab_size)
        self.info = replace(info, notes=(*info.notes, *self.chat.notes(info.model_id)))
        stops = model.generation_config.eos_token_id
        # What the template writes after an answer ends one, also where no file says so.
        self.ends = {tokenizer.eos_token_id, self.chat.end_id, *(stops if isinstance(stops, list) else [stops])}
        # Part of what `generate` does for this model: Qwen2.5-VL ships 1.05.
        self.penalty = float(model.generation_config.repetition_penalty or 1.0)
        self._unknown = unknown_token(tokenizer, info.trained)
        self._choice = lru_cache(KNOWN_CHOICES)(self._new_choice)

    def choices(self, asked: Sequence[tuple[str, Sequence[str]]], suffix: str) -> list[GuidedChoice]:
        """The choice among the candidates of each question; ``suffix`` is what the template writes after one.

        Raises ModelError for candidates that a trained model cannot tell apart, or has no tokens for.
        """
        return [self._choice(question, suffix, tuple(candidates)) for question, candidates in asked]

    def check(self, question: str, candidates: Sequence[str]) -> None:
        """See `Backend.check_candidates`."""
        self._new_choice(question, '', tuple(candidates))

    def generated(self, written: Written) -> Generated:
        """Tokens that were written, as text."""
        text = self._tokenizer.decode(written.tokens, skip_special_tokens=True)
        return Generated(text, len(written.tokens), written.finished, written.timed_out)

    def _new_choice(self, question: str, suffix: str, candidates: tuple[str, ...]) -> GuidedChoice:
        return choice_among(candidates, question, suffix, self.chat, self._unknown, self.info.model_id)


def unknown_token(tokenizer: Any, trained: bool) -> int | None:
    """The token of a word that the tokenizer lacks; None where it lacks none, or the model has random weights."""
    return tokenizer.unk_token_id if trained else None


def choice_among(
    candidates: Sequence[str], question: str, suffix: str, chat: Chat, unknown: int | None, model_id: str
) -> GuidedChoice:
    """The choice among the candidates of a question; ``suffix`` is what the template writes after that.

    Raises ModelError for candidates that the model cannot tell apart, or has no tokens for.
    """
    for text in (question, *candidates):
        chat.require_words(text)
    for text in candidates if unknown is not None else ():
        if unknown in chat.ids(text):
            raise ModelError(f"model '{model_id}' has no token for a word of candidate '{text}'; rename it")
    return guided_choice(candidates, question + suffix, chat.answer_prefix, chat.ids, chat.end_id)
