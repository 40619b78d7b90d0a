"""First stage of training: the vision tower learns the renderer's dense truth, image by image."""

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
from stprune_ros.ringworld.scenes import GRID, PATCH, read_shards

TOKENS = GRID[0] * GRID[1]
SEEN = ('share', 'kind', 'colour', 'place', 'heading', 'anchor')
KIND_WEIGHTS = (0.3, 1.0, 2.0, 2.0, 2.0)  # nothing, vehicle, pedestrian, red, green: most tokens hold nothing


class Heads(nn.Module):
    """Linear read-outs of one visual token; they serve training only and are not exported."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.share = nn.Linear(width, len(CLASSES))
        self.kind = nn.Linear(width, len(KIND_WEIGHTS))
        self.colour = nn.Linear(width, 6)
        self.place = nn.Linear(width, 5)
        self.heading = nn.Linear(width, 2)
        self.anchor = nn.Linear(width, 2)


def patches(images: np.ndarray) -> torch.Tensor:
    """Pixels as the image processor gives them: (n, 96, 160, 3) uint8 to (n * 60, 3 * 16 * 16) in [-1, 1]."""
    n, (rows, columns) = len(images), GRID
    x = torch.from_numpy(np.ascontiguousarray(images)).view(n, rows, PATCH, columns, PATCH, 3)
    return x.permute(0, 1, 3, 5, 2, 4).reshape(n * TOKENS, -1).float() / 127.5 - 1.0


def encode(model: Any, images: np.ndarray) -> torch.Tensor:
    """Visual tokens (n, 60, D) of uint8 images (n, 96, 160, 3)."""
    grid = torch.tensor([[1, *GRID]] * len(images))
    tokens: torch.Tensor = model.model.visual(patches(images), grid_thw=grid).pooler_output
    return tokens.view(len(images), TOKENS, -1)


def loss_of(heads: Heads, tokens: torch.Tensor, truth: dict[str, np.ndarray]) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of tokens (n, 60, D) against dense truth (n, 60, ...), and how often kind and colour are right."""
    x = tokens.reshape(-1, tokens.shape[-1])
    flat = {name: torch.from_numpy(value.reshape(len(x), -1)) for name, value in truth.items()}
    share = flat['share'].float()
    share = share / share.sum(1, keepdim=True).clamp(min=1.0)
    kind = flat['kind'][:, 0].long() + 1
    said = heads.kind(x)
    some, car = kind > 0, kind == 1
    loss = functional.cross_entropy(heads.share(x), share) + functional.cross_entropy(
        said, kind, torch.tensor(KIND_WEIGHTS)
    )
    loss = loss + functional.smooth_l1_loss(heads.place(x)[some], flat['place'][some].float(), beta=0.2)
    hue, colours = heads.colour(x)[car], flat['colour'][:, 0].long()[car]
    loss = loss + 0.7 * functional.cross_entropy(hue, colours)
    loss = loss + 0.5 * functional.smooth_l1_loss(heads.heading(x)[car], flat['heading'][car].float())
    anchor, anchored = heads.anchor(x), flat['anchor'][:, 0].long()
    loss = loss + 0.5 * functional.cross_entropy(anchor, anchored, torch.tensor((1.0, 4.0)))
    with torch.no_grad():
        hit = (said.argmax(1) == kind)[some].float().mean().item()
        tone = (hue.argmax(1) == colours).float().mean().item()
        depth = (heads.place(x)[some, 4] - flat['place'][some, 4].float()).abs().median().item()
        middle = (anchor.argmax(1) == anchored)[anchored == 1].float().mean().item()
    return loss, {'kind': hit, 'colour': tone, 'depth': depth, 'anchor': middle}


def train_vision(model: Any, data: Path, out: Path, steps: int, batch: int, seed: int) -> None:
    """Train ``model.model.visual``; goes on from ``out`` where it exists."""
    torch.manual_seed(seed)
    heads = Heads(model.config.text_config.hidden_size)
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
        truth = {name: np.stack([scene.tokens[name][frame, view] for scene, frame, view in picks]) for name in SEEN}
        loss, right = loss_of(heads, encode(model, images), truth)
        rate = 1.5e-3 * min(1.0, (step + 1) / 40) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group['lr'] = rate
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        bar.set_postfix(
            loss=f'{loss.item():.3f}', **{name: f'{value:.2f}' for name, value in right.items()}, refresh=False
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


@torch.no_grad()
def features(model: Any, images: np.ndarray) -> torch.Tensor:
    """Tokens (T, V, 60, D), half precision, of a scene's images (T, V, 96, 160, 3)."""
    frames, views = images.shape[:2]
    return encode(model, images.reshape(-1, *images.shape[2:])).view(frames, views, TOKENS, -1).half()
