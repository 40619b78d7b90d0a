"""How many tokens a tick runs: counted in the passes of a model's language half, for model folders and prompt files.

    make test-real        # leaves published tokenizers and templates with small random models in out/real
    python benchmark/prompt_tokens.py out/real/qwen3_vl models/ringworld --prompt config/prompts/driving.yaml

Six views of four grey images each, a share of their tokens kept at even distances. The second of two ticks counts: what
is kept from the first is then not run again.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stprune_ros.arguments import size
from stprune_ros.core.types import EgoState
from stprune_ros.results import table
from stprune_ros.vlm.backend import ImageFeatures, VisualFrame
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.loading import prompt_file
from stprune_ros.vlm.prompt import Prompt, View

DIRECTIONS = ('front', 'front right', 'back right', 'back', 'back left', 'front left')
FRAMES = 4
EGO = EgoState(0, None, None, (8.3, 0.0, 0.0), (0.0, 0.0, 0.0))
COLUMNS = ('model', 'prompt', 'visual', 'text', 'kept', 'prefill', 'hint', 'describe', 'run in a tick')


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('models', nargs='+', type=Path, metavar='MODEL', help='model folders')
    parser.add_argument('--prompt', nargs='+', type=Path, help='prompt files; default: what the model would be asked')
    parser.add_argument('--image', type=size, default=(1920, 1080), metavar='WxH', help='default: 1920x1080')
    parser.add_argument('--keep', type=float, default=0.1, metavar='R', help='default: %(default)s')
    parser.add_argument('--pixels', type=int, default=0, help='model.max_image_pixels, where the family reads it')
    options = parser.parse_args()
    width, height = options.image
    rows = []
    for folder in options.models:
        backend = TransformersBackend.load(folder, device='cpu', max_image_pixels=options.pixels)
        (features,) = backend.encode([np.full((height, width, 3), 127, np.uint8)])
        for file in options.prompt or [prompt_file(str(folder), '')]:
            tick = count_tokens(backend, Prompt.load(file), features, options.keep)
            rows.append((folder.name, file.stem, *tick))
    print(table(COLUMNS, rows))


def count_tokens(backend: TransformersBackend, prompt: Prompt, features: ImageFeatures, keep: float) -> Sequence[int]:
    """Visual tokens and text tokens in the prompt, text that is kept from tick to tick, and what is run, by stage."""
    patches = len(features.tokens)
    mask = torch.zeros(patches, dtype=torch.bool)
    mask[torch.linspace(0, patches - 1, max(1, round(keep * patches))).round().long()] = True
    frames = [VisualFrame(features, mask)] * FRAMES
    content = prompt.content([View(direction, direction, frames) for direction in DIRECTIONS], EGO)
    backend.prefill(prompt.system, content)
    with passes(backend) as run:
        context = backend.prefill(prompt.system, content)
    prefill = sum(run)
    with passes(backend) as run:
        backend.score(context, prompt.hint_question, [text for _, text in prompt.candidates])
    hint = sum(run)
    with passes(backend) as run:
        backend.generate(context, prompt.describe_question, 1)
    kept = context.tokens_text + context.tokens_visual - prefill
    return context.tokens_visual, context.tokens_text, kept, prefill, hint, sum(run), prefill + hint + sum(run)


@contextmanager
def passes(backend: TransformersBackend) -> Iterator[list[int]]:
    """Tokens of every pass of the language model."""
    lengths: list[int] = []

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        lengths.append(kwargs['input_ids'].shape[1])

    handle = backend._model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield lengths
    finally:
        handle.remove()


if __name__ == '__main__':
    main()
