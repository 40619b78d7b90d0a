"""First stage of training: the vision tower learns image by image, from truth per token or from whole images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from stprune_ros.ringworld.training.checkpoint import restore, save
from stprune_ros.ringworld.training.hosts import Host
from stprune_ros.ringworld.training.image_questions import ImageQuestions
from stprune_ros.ringworld.training.scene_cache import read_shards
from stprune_ros.ringworld.training.schedule import Schedule
from stprune_ros.ringworld.training.token_truth import TokenTruth

RATE = 1.5e-3  # highest learning rate
WARM_UP = 40  # steps


def train_tower(
    host: Host,
    model: Any,
    data: Path,
    out: Path,
    schedule: Schedule,
    batch: int,
    seed: int,
    device: torch.device,
    report_every: int = 100,
) -> None:
    """Train the tower of ``model`` on the scenes in ``data``; continues from the checkpoint ``out`` where it exists.

    What it learns from are the tokens' truth where the host's grid is the renderer's, else questions about images.
    """
    torch.manual_seed(seed)
    width = model.config.text_config.hidden_size
    heads = (TokenTruth(width) if host.token_truth else ImageQuestions(width)).to(device)
    learned = nn.ModuleDict({'tower': host.tower(model), 'heads': heads})
    optimizer = torch.optim.AdamW(learned.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.05)
    first = restore(out, schedule, learned=learned, optimizer=optimizer)
    if schedule.progress(first) >= 1.0:
        return
    images, truth = _images(heads, data, device)
    schedule.start()
    for step in tqdm(range(first, schedule.steps), desc='vision', mininterval=10):
        rng = np.random.default_rng([seed, 4, step])
        chosen = torch.from_numpy(rng.integers(len(images), size=batch)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == 'cuda'):
            tokens = host.visual_tokens(model, images[chosen])
            loss, metrics = heads.loss(tokens, {name: value[chosen] for name, value in truth.items()})
        schedule.apply(optimizer, step, RATE, WARM_UP)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned.parameters(), 1.0)
        optimizer.step()
        last = schedule.progress(step + 1) >= 1.0
        if (step + 1) % report_every == 0 or last:
            save(out, step + 1, schedule, learned=learned, optimizer=optimizer)
            figures = ' '.join(f'{name} {value.item():.3f}' for name, value in metrics.items())
            tqdm.write(f'vision step {step + 1} loss {loss.item():.3f} {figures}')
        if last:
            break


def _images(
    heads: TokenTruth | ImageQuestions, data: Path, device: torch.device
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """All images of a folder (N, 96, 160, 3) and what is to be learnt about them, on the device."""
    images, truth = [], []
    for shard in read_shards(data):
        for scene in shard:
            images.append(torch.from_numpy(scene.images).flatten(0, 1).to(device))
            truth.append({name: value.to(device) for name, value in heads.targets(scene).items()})
    return torch.cat(images), {name: torch.cat([part[name] for part in truth]) for name in heads.names}


def encode_images(host: Host, model: Any, images: np.ndarray, device: torch.device) -> torch.Tensor:
    """Visual tokens (F, V, n, D), half precision on the device, of a scene's images (F, V, 96, 160, 3)."""
    frames, views = images.shape[:2]
    with torch.no_grad():
        tokens = host.visual_tokens(model, torch.from_numpy(images).flatten(0, 1).to(device))
    return tokens.view(frames, views, host.tokens, -1).half()
