"""Guided choice against whole answers, on what the bundled model sees: the demo's drive and three others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stprune_ros.commands.world import DEMO_SEED
from stprune_ros.demo import HZ
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.replay.replay import replay
from stprune_ros.ringworld.recording import record_world
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Context
from stprune_ros.vlm.hf.library import transformers
from stprune_ros.vlm.loading import load_model

SECONDS = 12.0


class BothWays:
    """A backend that also scores each candidate as a whole answer: the sum over its tokens and the end."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.guided: list[np.ndarray] = []
        self.whole: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def score(self, context: Context, question: str, candidates: Sequence[str]) -> list[float]:
        found = self._backend.score(context, question, candidates)
        sums = np.array([self._sum(context, question, text) for text in candidates])
        self.guided.append(np.exp(found))
        self.whole.append(np.exp(sums) / np.exp(sums).sum())
        return found

    def _sum(self, context: Context, question: str, text: str) -> float:
        """Log-probability over the whole vocabulary, by a pass of its own."""
        prefix, chat = context.state, self._backend._chat
        asked = chat.ids(question + prefix.question_suffix)
        answer = [*chat.ids(chat.answer_prefix + text), chat.end_id]
        ids = torch.tensor([*asked, *answer[:-1]])
        logits = self._backend._forward(
            ids,
            torch.arange(len(ids))[None] + prefix.next_position,
            transformers.DynamicCache(prefix.layers),
            prefix.positions,
            needed=torch.arange(len(asked) - 1, len(ids)),
        )
        return float(logits.double().log_softmax(-1)[range(len(answer)), answer].sum())


@pytest.mark.slow
@pytest.mark.parametrize('seed', [DEMO_SEED, 1_000_001, 1_000_007, 1_000_012])
def test_the_hints_are_those_of_whole_answers(seed: int, tmp_path: Path) -> None:
    record_world(tmp_path / 'world', seed, SECONDS, HZ)
    settings = Settings()
    backend, prompt = load_model(settings)
    both = BothWays(backend)
    with Bag(tmp_path / 'world') as bag:
        summary = replay(BagWindows(bag, settings), both, prompt, tmp_path / 'out')
    guided, whole = np.array(both.guided), np.array(both.whole)
    assert summary['ticks'] == len(guided) == SECONDS * HZ
    assert len({*whole.argmax(axis=1)}) == 3, 'every behavior is there'
    assert np.array_equal(guided.argmax(axis=1), whole.argmax(axis=1))
    assert guided == pytest.approx(whole, abs=1e-4)
