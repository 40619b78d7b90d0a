"""First stage of training: the vision tower learns to predict the renderer's dense truth, image by image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from stprune_ros.ringworld.renderer import CLASSES
from stprune_ros.ringworld.scenes import GRID, PATCH
from stprune_ros.ringworld.training.scene_cache import read_shards

TOKENS = GRID[0] * GRID[1]
TARGETS = ('share', 'kind', 'colour', 'position', 'heading', 'anchor')
KIND_WEIGHTS = (0.3, 1.0, 2.0, 2.0, 2.0)  # nothing, vehicle, pedestrian, red, green; most tokens show no actor


class VisionHeads(nn.Module):  # type: ignore[misc]
    """Linear probes on single visual tokens; used in training only and not exported."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.share = nn.Linear(width, len(CLASSES))
        self.kind = nn.Linear(width, len(KIND_WEIGHTS))
        self.colour = nn.Linear(width, 6)
        self.position = nn.Linear(width, 5)
        self.heading = nn.Linear(width, 2)
        self.anchor = nn.Linear(width, 2)


def to_patches(images: np.ndarray) -> torch.Tensor:
    """Pixels as the image processor returns them: (n, 96, 160, 3) uint8 to (n * 60, 3 * 16 * 16) in [-1, 1]."""
    n, (rows, columns) = len(images), GRID
    x = torch.from_numpy(np.ascontiguousarray(images)).view(n, rows, PATCH, columns, PATCH, 3)
    return x.permute(0, 1, 3, 5, 2, 4).reshape(n * TOKENS, -1).float() / 127.5 - 1.0


def visual_tokens(model: Any, images: np.ndarray) -> torch.Tensor:
    """Visual tokens (n, 60, D) of uint8 images (n, 96, 160, 3)."""
    grid = torch.tensor([[1, *GRID]] * len(images))
    tokens: torch.Tensor = model.model.visual(to_patches(images), grid_thw=grid).pooler_output
    return tokens.view(len(images), TOKENS, -1)


def vision_loss(
    heads: VisionHeads, tokens: torch.Tensor, truth: dict[str, np.ndarray]
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of tokens (n, 60, D) against dense truth (n, 60, ...), and metrics.

    The metrics are the accuracies of kind, colour and anchor, and the median error of the log depth.
    """
    x = tokens.reshape(-1, tokens.shape[-1])
    flat = {name: torch.from_numpy(value.reshape(len(x), -1)) for name, value in truth.items()}
    share = flat['share'].float()
    share = share / share.sum(1, keepdim=True).clamp(min=1.0)
    kind = flat['kind'][:, 0].long() + 1
    kind_logits = heads.kind(x)
    is_actor, is_car = kind > 0, kind == 1
    loss = functional.cross_entropy(heads.share(x), share) + functional.cross_entropy(
        kind_logits, kind, torch.tensor(KIND_WEIGHTS)
    )
    loss = loss + functional.smooth_l1_loss(heads.position(x)[is_actor], flat['position'][is_actor].float(), beta=0.2)
    colour_logits, colours = heads.colour(x)[is_car], flat['colour'][:, 0].long()[is_car]
    loss = loss + 0.7 * functional.cross_entropy(colour_logits, colours)
    loss = loss + 0.5 * functional.smooth_l1_loss(heads.heading(x)[is_car], flat['heading'][is_car].float())
    anchor_logits, is_anchor = heads.anchor(x), flat['anchor'][:, 0].long()
    loss = loss + 0.5 * functional.cross_entropy(anchor_logits, is_anchor, torch.tensor((1.0, 4.0)))
    with torch.no_grad():
        kind_accuracy = (kind_logits.argmax(1) == kind)[is_actor].float().mean().item()
        colour_accuracy = (colour_logits.argmax(1) == colours).float().mean().item()
        depth_error = (heads.position(x)[is_actor, 4] - flat['position'][is_actor, 4].float()).abs().median().item()
        anchor_accuracy = (anchor_logits.argmax(1) == is_anchor)[is_anchor == 1].float().mean().item()
    return loss, {'kind': kind_accuracy, 'colour': colour_accuracy, 'depth': depth_error, 'anchor': anchor_accuracy}


def train_vision(model: Any, data: Path, out: Path, steps: int, batch: int, seed: int) -> None:
    """Train ``model.model.visual`` on the scenes in ``data``; continues from the checkpoint ``out`` where it exists."""
    torch.manual_seed(seed)
    heads = VisionHeads(model.config.text_config.hidden_size)
    tower = model.model.visual
    weights = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.05)
    first = 0
    if out.exists():
        state = torch.load(out, weights_only=True)
        tower.load_state_dict(state['tower'])
        heads.load_state_dict(state['heads'])
        optimizer.load_state_dict(state['optimizer'])
        first = state['step']
    if first >= steps:
        return
    pool = [scene for shard in read_shards(data) for scene in shard]
    bar = tqdm(range(first, steps), desc='vision', mininterval=10)
    for step in bar:
        rng = np.random.default_rng([seed, 4, step])
        picks = [
            (scene, int(rng.integers(len(scene.images))), int(rng.integers(6)))
            for scene in (pool[int(n)] for n in rng.integers(len(pool), size=batch))
        ]
        images = np.stack([scene.images[frame, view] for scene, frame, view in picks])
        truth = {name: np.stack([scene.tokens[name][frame, view] for scene, frame, view in picks]) for name in TARGETS}
        loss, metrics = vision_loss(heads, visual_tokens(model, images), truth)
        rate = 1.5e-3 * min(1.0, (step + 1) / 40) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group['lr'] = rate
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        bar.set_postfix(
            loss=f'{loss.item():.3f}', **{name: f'{value:.2f}' for name, value in metrics.items()}, refresh=False
        )
        if (step + 1) % 100 == 0 or step + 1 == steps:
            state = {
                'tower': tower.state_dict(),
                'heads': heads.state_dict(),
                'optimizer': optimizer.state_dict(),
                'step': step + 1,
            }
            torch.save(state, out.with_suffix('.part'))
            out.with_suffix('.part').rename(out)
            tqdm.write(f'step {step + 1} {bar.postfix}')


def encode_images(model: Any, images: np.ndarray) -> torch.Tensor:
    """Visual tokens (F, V, 60, D), half precision, of a scene's images (F, V, 96, 160, 3)."""
    frames, views = images.shape[:2]
    with torch.no_grad():
        tokens = visual_tokens(model, images.reshape(-1, *images.shape[2:]))
    return tokens.view(frames, views, TOKENS, -1).half()
