"""Prompts and questions of training scenes as token ids, built with the runtime's own prompt and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stprune_ros.core.types import EgoState
from stprune_ros.ringworld.questions import (
    ALL_VIEWS,
    DESCRIBE_QUESTION,
    car_count,
    car_view,
    describe,
    hint,
    pedestrian_count,
    pedestrian_walks,
    questions_about,
    same_car,
    unambiguous,
)
from stprune_ros.ringworld.renderer import VIEW_NAMES
from stprune_ros.ringworld.scenes import FRAMES
from stprune_ros.ringworld.training.hosts import Host
from stprune_ros.ringworld.training.tokenizer import IMAGE, IMAGE_WITH_ENDS, TURN_END
from stprune_ros.ringworld.truth import SceneTruth
from stprune_ros.vlm.backend import ImageFeatures, VisualFrame
from stprune_ros.vlm.prompt import Prompt, View

# Drawn more often than the others, once more for each time they are listed.
HARD_FORMS = (car_count, car_view, pedestrian_count, pedestrian_walks, pedestrian_walks, same_car, same_car)
HINT_WEIGHT, DESCRIBE_WEIGHT = 2.0, 0.4  # in the loss, per answer token; 1 for drawn questions
QUESTION_MARK = '[[question]]'  # where the chat template is cut


@dataclass(frozen=True)
class ViewSubset:
    """What all scenes of a batch show: views (indices in ring order), frames per view, with or without odometry."""

    views: tuple[int, ...] = ALL_VIEWS
    frames: int = FRAMES
    ego: bool = True


@dataclass(frozen=True)
class EncodedQuestion:
    """A question and its answer as token ids; ``kind`` for the statistics, ``weight`` in the loss per answer token."""

    kind: str
    question: list[int]
    answer: list[int]
    weight: float


class PromptEncoder:
    """Turns scenes and questions into token ids."""

    def __init__(self, tokenizer: Any, prompt: Prompt, host: Host) -> None:
        self.tokenizer, self.prompt, self.host = tokenizer, prompt, host
        self.image = tokenizer.convert_tokens_to_ids(IMAGE)
        self.end = tokenizer.convert_tokens_to_ids(TURN_END)
        self._cache: dict[str, list[int]] = {}
        self._question_suffix = self.ids(self._render([])[1])

    def ids(self, text: str) -> list[int]:
        """Token ids of a text."""
        if text not in self._cache:
            self._cache[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self._cache[text]

    def prefix(self, subset: ViewSubset, truth: SceneTruth) -> list[int]:
        """Ids of the prompt up to the question, one image token for each visual token."""
        frames = [VisualFrame(ImageFeatures(torch.empty(0), (0, 0)), torch.empty(0))] * subset.frames
        views = [View(name, name, frames if index in subset.views else []) for index, name in enumerate(VIEW_NAMES)]
        ego = EgoState(0, None, None, (truth.speed, 0.0, 0.0), (0.0, 0.0, truth.yaw_rate)) if subset.ego else None
        first, *others = self._render(self.prompt.content(views, ego))[0].split(IMAGE)
        ids = list(self.ids(first))
        for text in others:
            ids += [self.image] * self.host.tokens + self.ids(text)
        return ids

    def encode_questions(
        self, truth: SceneTruth, rng: np.random.Generator, count: int, subset: ViewSubset
    ) -> list[EncodedQuestion]:
        """The hint where it is unambiguous, the description, and ``count`` drawn questions."""
        views, encoded = subset.views, []
        if 0 in views:
            encoded = [self._encode('hint', q.text, q.answer, HINT_WEIGHT) for q in unambiguous(hint, truth, views)]
            encoded.append(self._encode('describe', DESCRIBE_QUESTION, describe(truth, views), DESCRIBE_WEIGHT))
        for question in questions_about(truth, rng, count, views, subset.frames > 1, HARD_FORMS):
            encoded.append(self._encode(question.kind, question.text, question.answer, 1.0))
        return encoded

    def _encode(self, kind: str, question: str, answer: str, weight: float) -> EncodedQuestion:
        return EncodedQuestion(kind, self.ids(question) + self._question_suffix, [*self.ids(answer), self.end], weight)

    def _render(self, content: Sequence[Any]) -> tuple[str, str]:
        """The chat up to the question, and what follows it."""
        parts = [{'type': 'text', 'text': part} if isinstance(part, str) else {'type': 'image'} for part in content]
        parts.append({'type': 'text', 'text': QUESTION_MARK})
        turns = [
            {'role': 'system', 'content': [{'type': 'text', 'text': self.prompt.system}]},
            {'role': 'user', 'content': parts},
        ]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        before, _, after = text.replace(self.host.image_markup, IMAGE_WITH_ENDS).partition(QUESTION_MARK)
        return before, after
