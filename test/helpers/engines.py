"""Every engine with every family that it runs, on the tiny models; and what the tests show them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.plain_models import STYLES, Plain, PlainModel
from helpers.tiny_gguf import make_tiny_gguf
from helpers.tiny_models import FAMILIES, make_tiny_model

from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend, VisualFrame
from stprune_ros.vlm.llama_cpp.library import PACKAGES
from stprune_ros.vlm.loading import ENGINES, load_engine

# A further engine names its families here, and the contract tests run on it.
RUNS = {'transformers': FAMILIES, 'llama.cpp': ('qwen2_vl', 'qwen2_5_vl', 'qwen3_vl', 'thinking', 'ringworld')}
ONE_CONTEXT = ('llama.cpp',)  # engines in which a prefill uses the contexts before it up
EPS_UNREAD = ('qwen2_vl', 'qwen2_5_vl')  # llama.cpp takes 0 for their rms_norm_eps
HAS_LLAMA = find_spec('gguf') is not None and any(find_spec(name) for name in PACKAGES)
needs_llama = pytest.mark.skipif(not HAS_LLAMA, reason="llama.cpp: pip install 'stprune_ros[llama]'")
CASES = [
    pytest.param((engine, family), marks=needs_llama if engine == 'llama.cpp' else (), id=f'{engine}-{family}')
    for engine in ENGINES
    for family in RUNS[engine]
]

SYSTEM = 'You look through the cameras of a car.'
QUESTION = 'What should the driver do?'
OTHER = 'Describe the road.'
CANDIDATES = ['stop', 'stop now', 'slow down', 'none', 'increase the gap']  # of one to three tokens
SIZES = [(90, 160), (90, 160), (60, 200), (100, 100)]


def make_tiny(engine: str, path: Path, family: str) -> Path:
    """A tiny model of ``family`` at ``path`` that ``engine`` can run to the last digit."""
    make_tiny_model(path, family)
    if engine == 'llama.cpp' and family in EPS_UNREAD:
        config = path / 'config.json'
        tree = json.loads(config.read_text())
        tree['text_config']['rms_norm_eps'] = 0.0
        config.write_text(json.dumps(tree))
    return path


def load_tiny(engine: str, folder: Path, **model: Any) -> Backend:
    """The model of ``folder`` on the CPU; ``model`` holds further parameters below 'model.'."""
    values = {'path': str(folder), 'device': 'cpu', **model}
    if engine == 'llama.cpp' and 'gguf' not in model:
        values['gguf'] = str(make_tiny_gguf(folder, folder.with_suffix('.gguf')))
    values['engine'] = engine
    return load_engine(engine, Settings.from_values({f'model.{name}': value for name, value in values.items()}))


def images(count: int = len(SIZES)) -> list[np.ndarray]:
    """Noise in different sizes."""
    random = np.random.default_rng(3)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES[:count]]


def frames_of(backend: Backend, ratio: float = 1.0, empty: tuple[int, ...] = ()) -> list[VisualFrame]:
    """Every test image with a random mask; those in ``empty`` keep nothing."""
    generator = torch.Generator().manual_seed(5)
    features = backend.encode(images())
    keeps = [torch.rand(len(item.tokens), generator=generator) < ratio for item in features]
    return [
        VisualFrame(item, keep & (index not in empty))
        for index, (item, keep) in enumerate(zip(features, keeps, strict=True))
    ]


def content_of(frames: list[VisualFrame]) -> list[str | VisualFrame]:
    """A prompt of two views with two images each."""
    first, second, third, fourth = frames
    return ['The front view:\n', first, second, '\nThe left view:\n', third, fourth, '\nThe car drives at 5.0 m/s.\n']


def plain_prompt(
    plain: PlainModel, question: str, answer: str | None = None, system: str = SYSTEM, apart: bool = False
) -> Plain:
    """The same prompt for the plain model, images and all."""
    first, second, third, fourth = images()
    content = ['The front view:\n', first, second, '\nThe left view:\n', third, fourth]
    return Plain(plain, system, [*content, '\nThe car drives at 5.0 m/s.\n', question], answer, apart)


def plain_scores(
    plain: PlainModel, question: str, candidates: Sequence[str], keeps: list[torch.Tensor], blank: str | None = None
) -> list[float]:
    """Log-probability of each candidate among them: a plain pass for every form of each, the pruned tokens masked.

    Forms are as written and with the first letter in the other case; where the template puts a ``blank`` before
    answers, which the family's style tells, also without that, tokenised apart from the prompt that is written already.
    """
    blank = STYLES[plain.family].answer[0] if blank is None else blank
    texts = {name: [name, name[0].swapcase() + name[1:]] for name in candidates}
    forms = [
        (name, before + text, before != blank) for name in candidates for before in {blank, ''} for text in texts[name]
    ]
    passes = [plain_prompt(plain, question, text, apart=apart) for _, text, apart in forms]
    answers = [(whole.ids[0].tolist(), whole.logits(keeps).double()) for whole in passes]
    # Not where the prompt ends without an answer: its last token may merge with what follows.
    alike = next(place for place, tokens in enumerate(zip(*(ids for ids, _ in answers))) if len({*tokens}) > 1)
    shares = dict.fromkeys(candidates, 0.0)
    for (name, *_), (ids, logits) in zip(forms, answers, strict=True):
        share = 1.0
        for place in range(alike, len(ids)):
            followers = {other[place] for other, _ in answers if other[:place] == ids[:place]}
            weights = {follower: float(logits[place - 1, follower].exp()) for follower in followers}
            share *= weights[ids[place]] / sum(weights.values())
        shares[name] += share
    return [math.log(share) for share in shares.values()]


def keeps_of(frames: list[VisualFrame]) -> list[torch.Tensor]:
    """The masks alone."""
    return [frame.keep for frame in frames]
