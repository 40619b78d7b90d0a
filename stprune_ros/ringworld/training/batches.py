"""Training scenes as visual tokens, and the batches that are drawn from them."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stprune_ros.ringworld.training.probes import PROBE_CLASSES, actor_centres
from stprune_ros.ringworld.training.prompt_encoder import EncodedQuestion, PromptEncoder, ViewSubset
from stprune_ros.ringworld.training.scene_cache import read_shards
from stprune_ros.ringworld.training.vision_stage import encode_images
from stprune_ros.ringworld.truth import SceneTruth

FEATURE_NOISE = 0.1  # times the standard deviation of the features


@dataclass(frozen=True)
class TrainingScene:
    """A drive ready for the language model: ``tokens`` half (F, V, 60, D); truths and windows as in `Scene`.

    ``dense`` holds, per token, the classes of `PROBE_CLASSES`, the id of the ``actor`` and its ``centre``, see
    `actor_centres`.
    """

    tokens: torch.Tensor
    dense: dict[str, torch.Tensor]
    truths: tuple[SceneTruth, ...]
    windows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Batch:
    """``ids`` (B, N) of the prefixes, ``tokens`` (B, n, D), ``dense`` truth (B, V, T, 60, ...), questions per scene."""

    ids: torch.Tensor
    tokens: torch.Tensor
    dense: dict[str, torch.Tensor]
    subset: ViewSubset
    questions: list[list[EncodedQuestion]]


def load_training_scenes(model: Any, folder: Path) -> list[TrainingScene]:
    """All scenes of a folder with their images encoded; the result is cached beside the folder for the next start."""
    cache = folder.with_suffix('.features')
    if cache.exists():
        return pickle.loads(cache.read_bytes())  # type: ignore[no-any-return]
    scenes = []
    for shard in read_shards(folder):
        for scene in shard:
            dense = {name: torch.from_numpy(scene.tokens[name]) for name in (*PROBE_CLASSES, 'actor')}
            dense['centre'] = actor_centres(torch.from_numpy(scene.tokens['position']))
            scenes.append(TrainingScene(encode_images(model, scene.images), dense, scene.truths, scene.windows))
    cache.write_bytes(pickle.dumps(scenes, protocol=5))
    return scenes


def make_batch(
    scenes: Sequence[TrainingScene],
    encoder: PromptEncoder,
    rng: np.random.Generator,
    size: int,
    count: int,
    subset: ViewSubset,
    noise: float = FEATURE_NOISE,
) -> Batch:
    """Draw ``size`` scenes, their behaviors about equally frequent, with ``count`` questions each."""
    ids, tokens, questions, dense = [], [], [], defaultdict(list)
    views = list(subset.views)
    for number in rng.choice(len(scenes), size, replace=False):
        scene = scenes[int(number)]
        window = list(_draw_window(scene, rng)[-subset.frames :])
        truth = scene.truths[window[-1]]
        ids.append(encoder.prefix(subset, truth))
        tokens.append(scene.tokens[window][:, views].transpose(0, 1).flatten(0, 2))  # [V * T * 60, D]
        for name in scene.dense:
            dense[name].append(scene.dense[name][window][:, views].transpose(0, 1))
        questions.append(encoder.encode_questions(truth, rng, count, subset))
    stacked = torch.stack(tokens).float()
    # Scenes are few and their features frozen: noise keeps the model from memorising them.
    stacked = stacked + noise * stacked.std() * torch.from_numpy(rng.standard_normal(stacked.shape, np.float32))
    return Batch(torch.tensor(ids), stacked, {n: torch.stack(v) for n, v in dense.items()}, subset, questions)


def _draw_window(scene: TrainingScene, rng: np.random.Generator) -> tuple[int, ...]:
    """A behavior that the scene has, then a window that ends with it."""
    behaviors = [scene.truths[window[-1]].behavior for window in scene.windows]
    wanted = sorted(set(behaviors))[int(rng.integers(len(set(behaviors))))]
    fitting = [window for window, behavior in zip(scene.windows, behaviors) if behavior == wanted]
    return fitting[int(rng.integers(len(fitting)))]
