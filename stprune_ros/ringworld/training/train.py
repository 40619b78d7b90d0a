"""Train the bundled model from nothing: ``python -m stprune_ros.ringworld.training.train``.

Stages: scenes, vision tower, language model, export. Each leaves its state in the work folder and goes on from there
when it is started again. The model sees full tokens only; no token is ever dropped in training.
On a shared machine set OMP_WAIT_POLICY=PASSIVE: waiting threads that spin make it several times slower there.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from stprune_ros.ringworld.scenes import FRAMES, HELD_OUT, Scene, drive, scene, write_shards
from stprune_ros.ringworld.training import model as parts
from stprune_ros.ringworld.training.language_stage import (
    ALL_VIEWS,
    DenseHeads,
    Layout,
    Lesson,
    Reader,
    answer,
    exact,
    make_batch,
    read_lessons,
)
from stprune_ros.ringworld.training.vision_stage import train_vision
from stprune_ros.vlm.prompt import Prompt

SHARD = 25
STRAY_WEIGHT = 1.5
KNOWS = 'ringworld, a synthetic driving world'
AVERAGE = 0.99  # of the weights, per step: what is looked at and exported is smoother than what is trained
QUESTIONS = 16  # drawn per scene
CLIPS, RINGS = 16, 3  # scenes per step with one view, with all
FRONT = 0.3  # how often a clip shows the front view
WHOLE = 0.85  # how often the history is complete
LOST_VIEW, LOST_EGO = 0.12, 0.08


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
    parser.add_argument('--begin-with', type=Path, help='language.pt of an earlier run: its weights are where to begin')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--export-every', type=int, default=200, help='language steps between exports')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    make_scenes(args.work, args.scenes, args.held_out, args.threads)
    torch.manual_seed(args.seed)
    tokenizer = parts.make_tokenizer()
    model = parts.make_model(tokenizer)
    train_vision(model, args.work / 'train', args.work / 'vision.pt', args.vision_steps, 48, args.seed)
    train_language(model, tokenizer, args)


def make_scenes(work: Path, scenes: int, held_out: int, workers: int) -> None:
    """Render what is still missing, a shard per task."""
    tasks = [(work / 'train', [range(n, n + SHARD)], drive) for n in range(0, scenes, SHARD)]
    tasks += [
        (work / 'held_out', [range(HELD_OUT + n, HELD_OUT + n + SHARD)], scene) for n in range(0, held_out, SHARD)
    ]
    missing = [task for task in tasks if not (task[0] / f'scenes_{task[1][0].start:07d}.pkl').exists()]
    if not missing:
        return
    with get_context('spawn').Pool(workers) as pool:
        for _ in tqdm(pool.imap_unordered(_shard, missing), total=len(missing), desc='scenes'):
            pass


def _shard(task: tuple[Path, list[range], Callable[[int], Scene]]) -> None:
    write_shards(*task)


def train_language(model: Any, tokenizer: Any, args: argparse.Namespace) -> None:
    """Train everything but the vision tower, export now and then and at the end."""
    parts.write_prompt(args.work / 'prompt.yaml')
    reader = Reader(tokenizer, Prompt.load(args.work / 'prompt.yaml'))
    for weight in model.model.visual.parameters():
        weight.requires_grad_(False)
    lessons, held_out = read_lessons(model, args.work / 'train'), read_lessons(model, args.work / 'held_out')
    torch.manual_seed(args.seed + 1)
    dense = DenseHeads(model.config.text_config.hidden_size)
    nn.init.normal_(model.model.language_model.embed_tokens.weight, std=0.2)
    weights = [*model.model.language_model.parameters(), *model.lm_head.parameters(), *dense.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=args.rate, betas=(0.9, 0.95), weight_decay=0.05)
    out = args.work / 'language.pt'
    if args.begin_with:
        model.load_state_dict(torch.load(args.begin_with, weights_only=True)['model'])
    first = load(out, model, dense, optimizer)
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))
    bar = tqdm(range(first, args.steps), desc='language', mininterval=20)
    seen: dict[str, float] = {}
    for step in bar:
        rng = np.random.default_rng([args.seed, 5, step])
        layout = draw_layout(rng, step < args.clip_steps)
        batch = make_batch(lessons, reader, rng, CLIPS if len(layout.views) == 1 else RINGS, QUESTIONS, layout)
        said = answer(model, batch, reader.image)
        guide, right = dense.loss(said.middle, said.late, batch.dense, layout)
        seen = {name: 0.95 * seen.get(name, value) + 0.05 * value for name, value in {**seen, **right}.items()}
        total = said.loss + guide + STRAY_WEIGHT * said.stray
        rate = args.rate * min(1.0, (step + 1) / 60) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group['lr'] = rate
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        mean.update_parameters(model)
        bar.set_postfix(loss=f'{said.loss.item():.3f}', stray=f'{said.stray.item():.2f}', refresh=False)
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            save(out, model, dense, optimizer, step + 1)
            dense_right = {name: round(value, 2) for name, value in seen.items()}
            tqdm.write(f'step {step + 1} {bar.postfix} dense {dense_right}')
            tqdm.write(f'   held out {look(mean.module, held_out, reader, step < args.clip_steps)}')
        if (step + 1) % args.export_every == 0 or step + 1 == args.steps:
            parts.export(
                args.output,
                mean.module,
                tokenizer,
                {'trained': True, 'domain': KNOWS, 'steps': step + 1, 'seed': args.seed},
            )


def load(path: Path, model: Any, dense: DenseHeads, optimizer: torch.optim.Optimizer) -> int:
    """Restore a checkpoint; the step to go on with, 0 without one."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state['model'])
    dense.load_state_dict(state['dense'])
    optimizer.load_state_dict(state['optimizer'])
    return int(state['step'])


def save(path: Path, model: Any, dense: DenseHeads, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write a checkpoint so that an interruption leaves the one before."""
    state = {
        'model': model.state_dict(),
        'dense': dense.state_dict(),
        'optimizer': optimizer.state_dict(),
        'step': step,
    }
    torch.save(state, path.with_suffix('.part'))
    path.with_suffix('.part').rename(path)


def draw_layout(rng: np.random.Generator, clip: bool) -> Layout:
    """One view with its history, or the ring; now and then with less history, without a view or the odometry."""
    frames = FRAMES if rng.random() < WHOLE else int(rng.integers(1, FRAMES))
    ego = bool(rng.random() > LOST_EGO)
    if clip:
        view = 0 if rng.random() < FRONT else int(rng.integers(1, len(ALL_VIEWS)))
        return Layout((view,), frames, ego)
    gone = int(rng.integers(len(ALL_VIEWS))) if rng.random() < LOST_VIEW else -1
    return Layout(tuple(view for view in ALL_VIEWS if view != gone), frames, ego)


@torch.no_grad()
def look(model: Any, held_out: list[Lesson], reader: Reader, clip: bool) -> dict[str, float]:
    """Exact answers by kind on the same held-out scenes each time."""
    layouts = [Layout((view,)) for view in ALL_VIEWS] if clip else [Layout()] * 12
    results = []
    for part, layout in enumerate(layouts):
        rng = np.random.default_rng([9, part])
        batch = make_batch(held_out, reader, rng, 24 if clip else 4, 12, layout, noise=0.0)
        results += answer(model, batch, reader.image).results
    return exact(results)


if __name__ == '__main__':
    main()
