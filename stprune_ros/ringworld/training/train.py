"""Train the bundled model from scratch: ``python -m stprune_ros.ringworld.training.train``.

Stages: scenes, vision tower, language model, export. Each keeps its state in the work folder and resumes from there.
The model sees full tokens only; no token is ever dropped in training.
On a shared machine set OMP_WAIT_POLICY=PASSIVE: spinning OpenMP threads make training several times slower there.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from stprune_ros.ringworld.questions import ALL_VIEWS
from stprune_ros.ringworld.scenes import FRAMES
from stprune_ros.ringworld.training.batches import TrainingScene, load_training_scenes, make_batch
from stprune_ros.ringworld.training.language_stage import accuracy_by_kind, answer_questions
from stprune_ros.ringworld.training.model import export_model, make_model, make_tokenizer, write_prompt
from stprune_ros.ringworld.training.probes import DenseHeads
from stprune_ros.ringworld.training.prompt_encoder import PromptEncoder, ViewSubset
from stprune_ros.ringworld.training.scene_cache import HELD_OUT_FOLDER, TRAIN, render_missing
from stprune_ros.ringworld.training.vision_stage import train_vision
from stprune_ros.vlm.prompt import Prompt

BACKGROUND_WEIGHT = 1.5  # of the attention to background tokens in the loss
DOMAIN = 'ringworld, a synthetic driving world'
EMA_DECAY = 0.99  # of the weights, per step; the averaged weights are evaluated and exported
QUESTIONS_PER_SCENE = 16
CLIP_BATCH, RING_BATCH = 16, 3  # scenes per step with one view, with all
FRONT_SHARE = 0.3  # of the clips, showing the front view
FULL_HISTORY_SHARE = 0.85  # of the batches
LOST_VIEW_SHARE, LOST_EGO_SHARE = 0.12, 0.08  # of the batches
VISION_BATCH = 48  # images per step


def main() -> None:
    """Command line of the training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('--work', type=Path, default=Path('out/ringworld'), help='checkpoints and scenes')
    parser.add_argument('--output', type=Path, default=Path('models/ringworld'), help='exported model folder')
    parser.add_argument('--scenes', type=int, default=1000, help='training drives')
    parser.add_argument('--held-out', type=int, default=200, help='held-out scenes')
    parser.add_argument('--vision-steps', type=int, default=2500)
    parser.add_argument('--clip-steps', type=int, default=2000, help='language steps with one view')
    parser.add_argument('--steps', type=int, default=5000, help='all language steps')
    parser.add_argument('--rate', type=float, default=1.5e-3, help='highest learning rate of the language steps')
    parser.add_argument('--begin-with', type=Path, help='language.pt of an earlier run, to begin with its weights')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--export-every', type=int, default=200, help='language steps between exports')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    render_missing(args.work, args.scenes, args.held_out, args.threads)
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    train_vision(model, args.work / TRAIN, args.work / 'vision.pt', args.vision_steps, VISION_BATCH, args.seed)
    train_language(model, tokenizer, args)


def train_language(model: Any, tokenizer: Any, args: argparse.Namespace) -> None:
    """Train everything but the vision tower; exports every ``--export-every`` steps and at the end."""
    write_prompt(args.work / 'prompt.yaml')
    encoder = PromptEncoder(tokenizer, Prompt.load(args.work / 'prompt.yaml'))
    for weight in model.model.visual.parameters():
        weight.requires_grad_(False)
    scenes = load_training_scenes(model, args.work / TRAIN)
    held_out = load_training_scenes(model, args.work / HELD_OUT_FOLDER)
    torch.manual_seed(args.seed + 1)
    dense = DenseHeads(model.config.text_config.hidden_size)
    nn.init.normal_(model.model.language_model.embed_tokens.weight, std=0.2)
    weights = [*model.model.language_model.parameters(), *model.lm_head.parameters(), *dense.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=args.rate, betas=(0.9, 0.95), weight_decay=0.05)
    out = args.work / 'language.pt'
    if args.begin_with:
        model.load_state_dict(torch.load(args.begin_with, weights_only=True)['model'])
    first = load_checkpoint(out, model, dense, optimizer)
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    bar = tqdm(range(first, args.steps), desc='language', mininterval=20)
    smoothed: dict[str, float] = {}
    for step in bar:
        rng = np.random.default_rng([args.seed, 5, step])
        subset = draw_view_subset(rng, step < args.clip_steps)
        size = CLIP_BATCH if len(subset.views) == 1 else RING_BATCH
        batch = make_batch(scenes, encoder, rng, size, QUESTIONS_PER_SCENE, subset)
        answered = answer_questions(model, batch, encoder.image)
        probe_loss, metrics = dense.loss(answered.middle, answered.late, batch.dense, subset)
        smoothed = {
            name: 0.95 * smoothed.get(name, value) + 0.05 * value for name, value in {**smoothed, **metrics}.items()
        }
        total = answered.loss + probe_loss + BACKGROUND_WEIGHT * answered.background_attention
        rate = args.rate * min(1.0, (step + 1) / 60) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group['lr'] = rate
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        mean.update_parameters(model)
        bar.set_postfix(
            loss=f'{answered.loss.item():.3f}',
            background_attention=f'{answered.background_attention.item():.2f}',
            refresh=False,
        )
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            save_checkpoint(out, model, dense, optimizer, step + 1)
            rounded = {name: round(value, 2) for name, value in smoothed.items()}
            tqdm.write(f'step {step + 1} {bar.postfix} probes {rounded}')
            tqdm.write(f'   held out {evaluate_held_out(mean.module, held_out, encoder, step < args.clip_steps)}')
        if (step + 1) % args.export_every == 0 or step + 1 == args.steps:
            export_model(
                args.output,
                mean.module,
                tokenizer,
                {'trained': True, 'domain': DOMAIN, 'steps': step + 1, 'seed': args.seed},
            )


def load_checkpoint(path: Path, model: Any, dense: DenseHeads, optimizer: torch.optim.Optimizer) -> int:
    """Restore a checkpoint. Returns the step to resume at, 0 without one."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state['model'])
    dense.load_state_dict(state['dense'])
    optimizer.load_state_dict(state['optimizer'])
    return int(state['step'])


def save_checkpoint(path: Path, model: Any, dense: DenseHeads, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write a checkpoint; an interrupted write leaves the previous one in place."""
    state = {
        'model': model.state_dict(),
        'dense': dense.state_dict(),
        'optimizer': optimizer.state_dict(),
        'step': step,
    }
    torch.save(state, path.with_suffix('.part'))
    path.with_suffix('.part').rename(path)


def draw_view_subset(rng: np.random.Generator, clip: bool) -> ViewSubset:
    """One view with its history (``clip``), or the ring; at times with less history, a view less or no odometry."""
    frames = FRAMES if rng.random() < FULL_HISTORY_SHARE else int(rng.integers(1, FRAMES))
    ego = bool(rng.random() > LOST_EGO_SHARE)
    if clip:
        view = 0 if rng.random() < FRONT_SHARE else int(rng.integers(1, len(ALL_VIEWS)))
        return ViewSubset((view,), frames, ego)
    lost = int(rng.integers(len(ALL_VIEWS))) if rng.random() < LOST_VIEW_SHARE else -1
    return ViewSubset(tuple(view for view in ALL_VIEWS if view != lost), frames, ego)


def evaluate_held_out(
    model: Any, held_out: list[TrainingScene], encoder: PromptEncoder, clip: bool
) -> dict[str, float]:
    """Share of exact answers by kind, on the same held-out scenes every time."""
    subsets = [ViewSubset((view,)) for view in ALL_VIEWS] if clip else [ViewSubset()] * 12
    results = []
    for part, subset in enumerate(subsets):
        rng = np.random.default_rng([9, part])
        batch = make_batch(held_out, encoder, rng, 24 if clip else 4, 12, subset, noise=0.0)
        with torch.no_grad():
            results += answer_questions(model, batch, encoder.image).results
    return accuracy_by_kind(results)


if __name__ == '__main__':
    main()
