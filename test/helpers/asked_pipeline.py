"""Questions to a pipeline with a tiny real model, on each engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.engines import make_tiny, needs_llama
from helpers.tiny_gguf import make_tiny_gguf

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import CameraFrame, EgoState, FrameSet, Window
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.inference.question import Question
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.loading import load_model
from stprune_ros.vlm.prompt import Prompt

MS = 1_000_000
NAMES = ('FRONT', 'RIGHT', 'LEFT')
EGO = EgoState(0, None, None, (5.0, 0.0, 0.0), (0.0, 0.0, 0.1))
TOKENS = 6
QUIET = {'inference.describe': False}
PACED = {'inference.describe_period_ms': 5000.0, 'output.valid_for_ms': 60000.0, 'inference.watchdog_ms': 0.0}
TEXT = Question('what is left of me?', deadline_s=60.0)
CANDIDATES = ('a car', 'a wall', 'nothing')
ENGINES = ['transformers', pytest.param('llama.cpp', marks=needs_llama)]


def loaded_engine(engine: str, folder: Path) -> tuple[Backend, Prompt]:
    """A tiny model that passes for a trained one, and its prompt."""
    path = make_tiny(engine, folder / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    values = {'model.path': str(path), 'model.device': 'cpu', 'model.engine': engine}
    if engine == 'llama.cpp':
        values['model.gguf'] = str(make_tiny_gguf(path, path.with_suffix('.gguf')))
    return load_model(Settings.from_values(values))


def asked_pipeline(loaded: tuple[Backend, Prompt], folder: Path, values: Mapping[str, Any] = QUIET) -> Pipeline:
    """A pipeline of three cameras."""
    path = folder / 'rig.yaml'
    entries = [f'{n}: {{azimuth_deg: {a}, hfov_deg: 90, width: 96, height: 64}}' for n, a in zip(NAMES, (0, -120, 120))]
    path.write_text('cameras:\n  ' + '\n  '.join(entries))
    settings = Settings.from_values({'inference.max_new_tokens': TOKENS, 'pruning.keep_ratio': 0.25, **values})
    return Pipeline(settings, loaded[0], CameraRig.from_file(path), loaded[1], decode)


def decode(frame: CameraFrame, _limits: Any) -> tuple[np.ndarray, int]:
    """A picture that follows from the frame."""
    seed = [NAMES.index(frame.camera), frame.stamp_ns % 2**32]
    return np.random.default_rng(seed).integers(0, 255, (64, 96, 3), np.uint8), 1


def frame_set(ms: int, without: Sequence[str] = ()) -> FrameSet:
    """A set of all cameras but some."""
    frames = {n: CameraFrame(n, ms * MS) for n in NAMES if n not in without}
    return FrameSet(ms, ms * MS, NAMES, frames, ego=EGO)


def window(*times: int, without: Sequence[str] = ()) -> Window:
    """The sets of these times."""
    return Window(tuple(frame_set(ms, without) for ms in times), len(times))


def counted_prefills(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each prompt had that is prefilled from here on."""
    seen: list[int] = []
    prefill = backend.prefill

    def count(system: str, content: Any) -> Any:
        seen.append(sum(not isinstance(part, str) for part in content))
        return prefill(system, content)

    monkeypatch.setattr(backend, 'prefill', count)
    return seen
