"""Which batches a host is trained on: the share of views, history and tokens that it sees from step to step."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from stprune_ros.ringworld.questions import ALL_VIEWS
from stprune_ros.ringworld.scenes import FRAMES
from stprune_ros.ringworld.training.batches import BatchPlan, ScenePool, Truths, Windows, plan_batch
from stprune_ros.ringworld.training.prompt_encoder import PromptEncoder, ViewSubset

FRONT_SHARE = 0.3  # of the clips, showing the front view
FULL_HISTORY_SHARE = 0.85  # of the batches
LOST_VIEW_SHARE, LOST_EGO_SHARE = 0.12, 0.08  # of the batches
LOWEST_KEEP = 0.1  # of the visual tokens, where tokens are dropped
REFRESH = 250  # steps between looks for new scenes
READ_AHEAD = 4  # batches per loading process
LOOKS_PAST_BACKGROUND = 2.4  # pruning.joint_common that suits a model whose attention to background was penalised


@dataclass(frozen=True, slots=True)
class Recipe:
    """What varies between hosts of one architecture; see the command line of `train`."""

    seed: int
    clip_steps: int
    clip_batch: int
    ring_batch: int
    questions: int
    background_weight: float
    varied_share: float
    drop_share: float
    probes: bool

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Recipe:
        """The recipe that a command line asks for."""
        return cls(**{name: getattr(args, name) for name in cls.__slots__})

    def facts(self) -> dict[str, Any]:
        """The recipe for the model's note, and how a model that learned to look past background asks to be pruned."""
        asked = {'pruning.joint_common': LOOKS_PAST_BACKGROUND} if self.background_weight else {}
        return {**asked, 'recipe': asdict(self)}

    def subset(self, rng: np.random.Generator, clip: bool) -> ViewSubset:
        """One view with its history (``clip``), or the ring; at times with less history, a view less or no odometry.

        Varied batches of the ring show any number of views and frames.
        """
        frames = FRAMES if rng.random() < FULL_HISTORY_SHARE else int(rng.integers(1, FRAMES))
        ego = bool(rng.random() > LOST_EGO_SHARE)
        if clip:
            view = 0 if rng.random() < FRONT_SHARE else int(rng.integers(1, len(ALL_VIEWS)))
            return ViewSubset((view,), frames, ego)
        if rng.random() < self.varied_share:
            count = int(rng.integers(1, len(ALL_VIEWS) + 1))
            views = sorted(rng.choice(len(ALL_VIEWS), count, replace=False).tolist())
            return ViewSubset(tuple(views), int(rng.integers(1, FRAMES + 1)), ego)
        lost = int(rng.integers(len(ALL_VIEWS))) if rng.random() < LOST_VIEW_SHARE else -1
        return ViewSubset(tuple(view for view in ALL_VIEWS if view != lost), frames, ego)

    def plan(
        self, truths: Sequence[Truths], windows: Sequence[Windows], encoder: PromptEncoder, step: int
    ) -> BatchPlan:
        """The batch of a step: as many scenes as make about the same number of tokens every time."""
        rng = np.random.default_rng([self.seed, 5, step])
        subset = self.subset(rng, step < self.clip_steps)
        keep = float(rng.uniform(LOWEST_KEEP, 1.0)) if rng.random() < self.drop_share else 1.0
        shown = len(subset.views) * subset.frames
        size = min(self.clip_batch, max(1, round(self.ring_batch * len(ALL_VIEWS) * FRAMES / shown)), len(truths))
        return plan_batch(truths, windows, encoder, rng, size, self.questions, subset, keep)


class Plans(Dataset):  # type: ignore[misc]
    """The plans of a recipe by step, for a loader's processes, which never touch the device."""

    def __init__(self, pool: ScenePool, encoder: PromptEncoder, recipe: Recipe) -> None:
        self._truths, self._windows = pool.truths, pool.windows
        self._encoder, self._recipe = encoder, recipe

    def __getitem__(self, step: int) -> BatchPlan:
        return self._recipe.plan(self._truths, self._windows, self._encoder, step)


def load_plans(
    pool: ScenePool,
    shards: Callable[[], Sequence[Path]],
    encoder: PromptEncoder,
    recipe: Recipe,
    first: int,
    args: argparse.Namespace,
) -> Iterator[tuple[int, BatchPlan]]:
    """Steps and their plans from ``first`` on, made by ``args.loaders`` processes while the device is at work.

    ``shards`` lists those that are there: where scenes are being rendered meanwhile (``args.growing``), new ones are
    taken in every `REFRESH` steps.
    """
    start = first
    while start < args.steps:
        pool.read_new(shards())
        grows = args.growing and len(pool.truths) < args.scenes + args.hard_scenes
        steps = range(start, min(start + REFRESH, args.steps) if grows else args.steps)
        loader: Any = DataLoader(
            Plans(pool, encoder, recipe),
            sampler=steps,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=args.loaders,
            prefetch_factor=READ_AHEAD if args.loaders else None,
        )
        yield from zip(steps, loader)
        start = steps.stop


def _as_it_is(plan: BatchPlan) -> BatchPlan:
    return plan


def held_out_plans(pool: ScenePool, encoder: PromptEncoder) -> dict[bool, list[BatchPlan]]:
    """What is asked about held-out scenes between steps: of single views (True), of the ring (False)."""
    single = [ViewSubset((view,)) for view in ALL_VIEWS]
    ring = [ViewSubset()] * min(12, -(-len(pool.truths) // 4))
    return {
        True: [_held_out_plan(pool, encoder, part, subset, 24) for part, subset in enumerate(single)],
        False: [_held_out_plan(pool, encoder, part, subset, 4) for part, subset in enumerate(ring)],
    }


def _held_out_plan(pool: ScenePool, encoder: PromptEncoder, part: int, subset: ViewSubset, size: int) -> BatchPlan:
    rng = np.random.default_rng([9, part])
    return plan_batch(pool.truths, pool.windows, encoder, rng, min(size, len(pool.truths)), 12, subset)
