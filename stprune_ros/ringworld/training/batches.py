"""Training scenes as visual tokens on the device, and the batches that are drawn from them.

A batch is planned without the device, by worker processes: which scenes, what is asked, which tokens go in. The
device then gathers the tokens. The plan of a step follows from its number and the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from stprune_ros.ringworld.scenes import Scene
from stprune_ros.ringworld.training.probes import PROBE_CLASSES, actor_centres
from stprune_ros.ringworld.training.prompt_encoder import EncodedQuestion, PromptEncoder, ViewSubset
from stprune_ros.ringworld.training.scene_cache import read_shard
from stprune_ros.ringworld.truth import SceneTruth

FEATURE_NOISE = 0.1  # times the standard deviation of the features
IGNORED = -100  # label of tokens that are no answers
LOWEST_RATE = 0.05  # of the tokens of an image, where tokens are dropped

Truths = tuple[SceneTruth, ...]
Windows = tuple[tuple[int, ...], ...]
Span = tuple[str, int, int, int]  # kind of a question; row, start and stop of its answer


@dataclass
class ScenePool:
    """Scenes ready for the language model: visual ``tokens`` half (S, F, V, n, D) on the device; the rest per scene.

    ``dense`` holds, per token, the classes of `PROBE_CLASSES`, the id of the ``actor`` and its ``centre`` (see
    `actor_centres`); it is empty for hosts whose tokens lie on another grid. Truths and windows are as in `Scene`.
    ``encode`` makes tokens (F, V, n, D) of images; on a CPU, where that takes minutes, they are kept beside the shards
    under ``tower``, a name for the tower's weights.
    """

    encode: Callable[[np.ndarray], torch.Tensor]
    tower: str
    token_truth: bool
    device: torch.device
    tokens: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    dense: dict[str, torch.Tensor] = field(default_factory=dict)
    truths: list[Truths] = field(default_factory=list)
    windows: list[Windows] = field(default_factory=list)
    shards: set[Path] = field(default_factory=set)

    def read_new(self, shards: Sequence[Path]) -> bool:
        """Take in those of the shards that are not here yet. Returns whether there were any."""
        tokens, dense = [self.tokens] if len(self.truths) else [], {name: [value] for name, value in self.dense.items()}
        new = [path for path in shards if path not in self.shards]
        for path in new:
            scenes = read_shard(path)
            tokens.append(self._encode_shard(path, scenes))
            for scene in scenes:
                self.truths.append(scene.truths)
                self.windows.append(scene.windows)
                for name, value in _dense_truth(scene.tokens).items() if self.token_truth else ():
                    dense.setdefault(name, []).append(value[None].to(self.device))
        self.shards |= {*new}
        if new:
            self.tokens = torch.cat(tokens)
            self.dense = {name: torch.cat(values) for name, values in dense.items()}
        return bool(new)

    def _encode_shard(self, path: Path, scenes: list[Scene]) -> torch.Tensor:
        kept = path.with_suffix(f'.{self.tower}.features')
        if kept.exists():
            tokens: torch.Tensor = torch.load(kept, weights_only=True, map_location=self.device)
            return tokens
        together = self.encode(np.concatenate([scene.images for scene in scenes]))
        tokens = together.unflatten(0, (len(scenes), -1))
        if self.device.type == 'cpu':
            torch.save(tokens, kept.with_suffix('.part'))
            kept.with_suffix('.part').rename(kept)
        return tokens


def _dense_truth(tokens: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    dense = {name: torch.from_numpy(tokens[name]) for name in (*PROBE_CLASSES, 'actor')}
    return {**dense, 'centre': actor_centres(torch.from_numpy(tokens['position']))}


@dataclass(frozen=True)
class BatchPlan:
    """What a batch consists of; arrays of indices, without any visual token.

    ``scenes`` (B,) and ``frames`` (B, T) point into the pool, ``ids`` (B, N) are the prefixes. The questions of a scene
    follow one another in rows of width W: ``asked`` ids, ``labels`` (`IGNORED` where there is no answer), ``weights``
    in the loss, ``owner`` the number of the question (-1: padding) and ``offsets`` within it. ``spans`` holds, for each
    question, its kind and where its answer lies: row, start, stop. ``kept`` (B, K) are the sorted indices of the
    prefix's tokens that stay where visual tokens are dropped, else None.
    """

    subset: ViewSubset
    scenes: np.ndarray
    frames: np.ndarray
    ids: np.ndarray
    asked: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    owner: np.ndarray
    offsets: np.ndarray
    spans: list[Span]
    kept: np.ndarray | None


@dataclass(frozen=True)
class Batch:
    """A plan on the device with its visual ``tokens`` (B, n, D) and ``dense`` truth (B, V, T, 60, ...)."""

    plan: BatchPlan
    tokens: torch.Tensor
    dense: dict[str, torch.Tensor]
    ids: torch.Tensor
    asked: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    owner: torch.Tensor
    offsets: torch.Tensor
    kept: torch.Tensor | None


def plan_batch(
    truths: Sequence[Truths],
    windows: Sequence[Windows],
    encoder: PromptEncoder,
    rng: np.random.Generator,
    size: int,
    count: int,
    subset: ViewSubset,
    keep: float = 1.0,
) -> BatchPlan:
    """Draw ``size`` scenes, their behaviors about equally frequent, with ``count`` questions each.

    Below 1, ``keep`` is the share of visual tokens that stays, the same number in every scene of the batch. They are
    drawn without a look at them, at a rate that differs from image to image.
    """
    scenes = rng.choice(len(truths), size, replace=False)
    frames, ids, questions = [], [], []
    for number in scenes:
        window = draw_window(truths[number], windows[number], rng)[-subset.frames :]
        truth = truths[number][window[-1]]
        frames.append(window)
        ids.append(encoder.prefix(subset, truth))
        questions.append(encoder.encode_questions(truth, rng, count, subset))
    prefixes = np.array(ids)
    kept = draw_kept(prefixes == encoder.image, encoder.host.tokens, keep, rng) if keep < 1.0 else None
    rows, spans = _rows(questions)
    return BatchPlan(subset, scenes, np.array(frames), prefixes, spans=spans, kept=kept, **rows)


def _rows(questions: list[list[EncodedQuestion]]) -> tuple[dict[str, np.ndarray], list[Span]]:
    """The rows of `BatchPlan` by name, and its spans."""
    size = len(questions)
    width = max(sum(len(q.question) + len(q.answer) - 1 for q in row) for row in questions)
    asked, labels = np.zeros((size, width), np.int64), np.full((size, width), IGNORED)
    weights, owner = np.zeros((size, width), np.float32), np.full((size, width), -1)
    offsets = np.zeros((size, width), np.int64)
    spans = []
    for row, encoded in enumerate(questions):
        start = 0
        for number, question in enumerate(encoded):
            tokens = question.question + question.answer[:-1]
            stop, first = start + len(tokens), start + len(question.question) - 1
            asked[row, start:stop], labels[row, first:stop] = tokens, question.answer
            weights[row, first:stop], owner[row, start:stop] = question.weight, number
            offsets[row, start:stop] = np.arange(len(tokens))
            spans.append((question.kind, row, first, stop))
            start = stop
    rows = {'asked': asked, 'labels': labels, 'weights': weights, 'owner': owner, 'offsets': offsets}
    return rows, spans


def draw_kept(visual: np.ndarray, per_image: int, keep: float, rng: np.random.Generator) -> np.ndarray:
    """Sorted indices (B, K) of the prefix tokens that stay; ``visual`` (B, N) marks the visual ones.

    Every image has a rate of its own, and of all its tokens each is as likely to stay as the others.
    """
    rows = []
    for mask in visual:
        where = np.flatnonzero(mask)
        rates = np.repeat(rng.uniform(LOWEST_RATE, 1.0, len(where) // per_image), per_image)
        order = np.argsort(-np.log(rng.random(len(where))) / rates)  # weighted sampling without replacement
        stay = ~mask
        stay[where[order[: max(1, round(keep * len(where)))]]] = True
        rows.append(np.flatnonzero(stay))
    return np.array(rows)


def gather_batch(pool: ScenePool, plan: BatchPlan, noise: float = FEATURE_NOISE) -> Batch:
    """The batch of a plan on the pool's device, with noise on the features.

    Scenes are few and their features frozen: noise keeps the model from memorising them.
    """

    def put(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(pool.device, non_blocking=True)

    scenes, frames = put(plan.scenes)[:, None, None], put(plan.frames)[:, None]
    views = torch.tensor(plan.subset.views, device=pool.device)[None, :, None]
    tokens = pool.tokens[scenes, frames, views].flatten(1, 3).float()  # [B, V * T * n, D]
    if noise:
        tokens = tokens + noise * tokens.std() * torch.randn_like(tokens)
    return Batch(
        plan,
        tokens,
        dense={name: value[scenes, frames, views] for name, value in pool.dense.items()},
        ids=put(plan.ids),
        asked=put(plan.asked),
        labels=put(plan.labels),
        weights=put(plan.weights),
        owner=put(plan.owner),
        offsets=put(plan.offsets),
        kept=None if plan.kept is None else put(plan.kept),
    )


def draw_window(truths: Truths, windows: Windows, rng: np.random.Generator) -> tuple[int, ...]:
    """A behavior that the scene has, then a window that ends with it."""
    behaviors = [truths[window[-1]].behavior for window in windows]
    wanted = sorted(set(behaviors))[int(rng.integers(len(set(behaviors))))]
    fitting = [window for window, behavior in zip(windows, behaviors) if behavior == wanted]
    return fitting[int(rng.integers(len(fitting)))]
