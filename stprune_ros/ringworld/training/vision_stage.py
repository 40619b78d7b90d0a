"""First stage of training: the vision tower learns image by image, from truth per token or from whole images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from stprune_ros.ringworld.training.checkpoint import Checkpoint
from stprune_ros.ringworld.training.hosts import Host
from stprune_ros.ringworld.training.image_questions import ImageQuestions
from stprune_ros.ringworld.training.scene_cache import read_shard
from stprune_ros.ringworld.training.schedule import Schedule
from stprune_ros.ringworld.training.token_truth import TokenTruth

WARM_UP = 40  # steps
REFRESH = 250  # steps between looks for new scenes


def train_tower(
    host: Host,
    model: Any,
    shards: Callable[[], Sequence[Path]],
    out: Checkpoint,
    schedule: Schedule,
    batch: int,
    rate: float,
    seed: int,
    device: torch.device,
    report_every: int = 100,
) -> None:
    """Train the tower of ``model`` on the ``shards`` that are there; goes on from the checkpoint ``out`` if it exists.

    What it learns from are the tokens' truth where the host's grid is the renderer's, else questions about images.
    """
    torch.manual_seed(seed)
    width = model.config.text_config.hidden_size
    heads = (TokenTruth(width) if host.token_truth else ImageQuestions(width)).to(device)
    learned = nn.ModuleDict({'tower': host.tower(model), 'heads': heads})
    optimizer = torch.optim.AdamW(learned.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.05)
    first = out.restore(schedule, learned=learned, optimizer=optimizer)
    if schedule.progress(first) >= 1.0:
        return
    pool = ImagePool(heads, device)
    schedule.start()
    for step in tqdm(range(first, schedule.steps), desc='vision', mininterval=10):
        if (step - first) % REFRESH == 0:
            pool.read_new(shards())
        rng = np.random.default_rng([seed, 4, step])
        chosen = torch.from_numpy(rng.integers(len(pool.images), size=batch)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == 'cuda'):
            tokens = host.visual_tokens(model, pool.images[chosen])
            loss, metrics = heads.loss(tokens, {name: value[chosen] for name, value in pool.truth.items()})
        schedule.apply(optimizer, step, rate, WARM_UP)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned.parameters(), 1.0)
        optimizer.step()
        last = schedule.progress(step + 1) >= 1.0
        if (step + 1) % report_every == 0 or last:
            out.save(step + 1, schedule, learned=learned, optimizer=optimizer)
            figures = ' '.join(f'{name} {value.item():.3f}' for name, value in metrics.items())
            tqdm.write(f'vision step {step + 1} loss {loss.item():.3f} {figures}')
        if last:
            break


class ImagePool:
    """All ``images`` (N, 96, 160, 3) of some shards and the ``truth`` to be learnt about them, on the device."""

    def __init__(self, heads: TokenTruth | ImageQuestions, device: torch.device) -> None:
        self.images = torch.empty(0)
        self.truth: dict[str, torch.Tensor] = {}
        self._heads, self._device = heads, device
        self._shards: set[Path] = set()

    def read_new(self, shards: Sequence[Path]) -> None:
        """Take in those of the shards that are not here yet."""
        new = [path for path in shards if path not in self._shards]
        images = [self.images] if self._shards else []
        truth = [self.truth] if self._shards else []
        for scene in chain.from_iterable(map(read_shard, new)):
            images.append(torch.from_numpy(scene.images).flatten(0, 1).to(self._device))
            truth.append({name: value.to(self._device) for name, value in self._heads.targets(scene).items()})
        self._shards |= {*new}
        if new:
            self.images = torch.cat(images)
            self.truth = {name: torch.cat([part[name] for part in truth]) for name in self._heads.names}


def encode_images(host: Host, model: Any, images: np.ndarray, device: torch.device) -> torch.Tensor:
    """Visual tokens (F, V, n, D), half precision on the device, of a scene's images (F, V, 96, 160, 3)."""
    frames, views = images.shape[:2]
    with torch.no_grad():
        tokens = host.visual_tokens(model, torch.from_numpy(images).flatten(0, 1).to(device))
    return tokens.view(frames, views, host.tokens, -1).half()
