"""Train a host of ringworld from scratch: ``python -m stprune_ros.ringworld.training.train``.

Stages: scenes, vision tower, language model, export. Each keeps its state on disk and resumes from there, with the
arguments that it began with; hosts share the scenes of ``--scenes-folder``, and with ``--tower`` the tower of an
exported one. By default random visual tokens are dropped in half of the batches, and nothing says where attention
should go. The model shipped as models/ringworld had ``--background-weight 1.5 --drop-share 0 --varied-share 0``.
On a shared machine set OMP_WAIT_POLICY=PASSIVE: spinning OpenMP threads make training several times slower there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from stprune_ros.errors import StpruneError
from stprune_ros.ringworld.training.batches import Batch, ScenePool, gather_batch
from stprune_ros.ringworld.training.checkpoint import Checkpoint
from stprune_ros.ringworld.training.export import export_model, write_prompt
from stprune_ros.ringworld.training.hosts import HOSTS, Host
from stprune_ros.ringworld.training.language_stage import LanguageStage, questions_right
from stprune_ros.ringworld.training.plans import Recipe, held_out_plans, load_plans
from stprune_ros.ringworld.training.probes import DenseHeads
from stprune_ros.ringworld.training.prompt_encoder import PromptEncoder
from stprune_ros.ringworld.training.scene_cache import (
    HELD_OUT_FOLDER,
    SCENES_PER_SHARD,
    TRAIN,
    held_out_seeds,
    is_hard,
    render_missing,
    shard_paths,
    training_seeds,
    wait_for_shards,
)
from stprune_ros.ringworld.training.schedule import Schedule
from stprune_ros.ringworld.training.tokenizer import make_tokenizer
from stprune_ros.ringworld.training.vision_stage import encode_images, train_tower
from stprune_ros.vlm.hf.weight_digest import weights_digest
from stprune_ros.vlm.prompt import Prompt

EMA_DECAY = 0.99  # of the weights, per step; the averaged weights are evaluated and exported
VISION_STEPS = 2500
WARM_UP = 60  # steps
STEP_SEEDS = 1_000_000  # more than a run has steps
SMOOTHED_EVERY = 10  # steps between those whose figures go into a report
# What the weights of a stage follow from; how long it may take, and who renders and reads, is not among it.
VISION = ('host', 'seed', 'scenes', 'hard_scenes', 'tower', 'begin_with', 'vision_steps', 'vision_batch', 'vision_rate')
LANGUAGE = tuple(dict.fromkeys((*VISION, 'steps', 'rate', *Recipe.__slots__)))
STAGES = {'vision': VISION, 'language': LANGUAGE}


def main() -> None:
    """Command line of the training."""
    try:
        train(parse_arguments())
    except StpruneError as error:
        sys.exit(f'train: {error}')


def train(args: argparse.Namespace) -> None:
    """Render, train and export. Raises StpruneError where the work folder is that of another training."""
    out = {name: Checkpoint(args.work / f'{name}.pt', arguments_of(args, names)) for name, names in STAGES.items()}
    for checkpoint in out.values():
        checkpoint.require_own()  # before anything is rendered
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision('high')
    seeds = training_seeds(args.scenes, args.hard_scenes)
    if args.growing:
        wait_for_shards(args.scenes_folder, args.growing, seeds, args.held_out)
    else:
        render_missing(args.scenes_folder, args.scenes, args.hard_scenes, args.held_out, args.workers)
    host, device = HOSTS[args.host], find_device(args.device)
    torch.manual_seed(args.seed)
    tokenizer = make_tokenizer(host.image_markup)
    model = host.make_model(tokenizer).to(device)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.begin_with:
        model.load_state_dict(read_model(args.begin_with).state_dict())
    elif args.tower:
        host.tower(model).load_state_dict(host.tower(read_model(args.tower)).state_dict())
    shards = partial(shard_paths, args.scenes_folder / TRAIN, seeds)
    if args.vision_steps:
        schedule = Schedule(args.vision_steps, args.vision_seconds)
        drawn = (args.vision_batch, args.vision_rate, args.seed)
        train_tower(host, model, shards, out['vision'], schedule, *drawn, device, args.report_every)
    train_language(host, model, tokenizer, args, out['language'], shards)


def arguments_of(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Arguments by their names; of a model folder the name and the digest of its weights."""

    def plain(value: Any) -> Any:
        if not isinstance(value, Path):
            return value
        return f'{value.resolve().name} ({weights_digest(sorted(value.glob("*.safetensors")))})'

    return {name.replace('_', '-'): plain(getattr(args, name)) for name in names}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; ``scenes_folder`` is the work folder where it is not given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('--host', choices=sorted(HOSTS), default='qwen3_vl', help='architecture')
    parser.add_argument('--work', type=Path, default=Path('out/ringworld'), help='checkpoints')
    parser.add_argument('--scenes-folder', type=Path, help='scenes, shared between hosts; default: the work folder')
    parser.add_argument('--output', type=Path, default=Path('out/ringworld/model'), help='exported model folder')
    parser.add_argument('--scenes', type=int, default=1000, help='training drives')
    parser.add_argument('--hard-scenes', type=int, default=0, help='training drives of the hard world')
    parser.add_argument('--held-out', type=int, default=200, help='held-out scenes')
    parser.add_argument('--growing', type=int, default=0, metavar='N', help='begin when another process has rendered N')
    parser.add_argument('--tower', type=Path, help='exported model whose vision tower is taken')
    parser.add_argument('--vision-steps', type=int, help='default: 2500, and 0 with --tower or --begin-with')
    parser.add_argument('--vision-seconds', type=float, default=0.0, help='end that stage after so long; 0: never')
    parser.add_argument('--vision-batch', type=int, default=48, help='images per step')
    parser.add_argument('--vision-rate', type=float, default=1.5e-3, help='highest learning rate of that stage')
    parser.add_argument('--clip-steps', type=int, default=2000, help='language steps with one view')
    parser.add_argument('--steps', type=int, default=5000, help='all language steps')
    parser.add_argument('--seconds', type=float, default=0.0, help='end that stage after so long; 0: never')
    parser.add_argument('--clip-batch', type=int, default=16, help='most scenes per step, and those with one view')
    parser.add_argument('--ring-batch', type=int, default=3, help='scenes per step with all views and frames')
    parser.add_argument('--questions', type=int, default=16, help='drawn questions per scene')
    parser.add_argument('--rate', type=float, default=1.5e-3, help='highest learning rate of the language steps')
    parser.add_argument('--background-weight', type=float, default=0.0, help='of attention to background in the loss')
    parser.add_argument('--varied-share', type=float, default=0.4, help='of the batches: any views, any history')
    parser.add_argument('--drop-share', type=float, default=0.5, help='of the batches: random visual tokens dropped')
    parser.add_argument(
        '--no-probes', dest='probes', action='store_false', help="without the language half's read-outs of truth"
    )
    parser.add_argument('--begin-with', type=Path, help='exported model to begin with, its tower included')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--workers', type=int, default=os.cpu_count() or 1, help='processes that render')
    parser.add_argument('--loaders', type=int, default=1, help='processes that draw batches')
    parser.add_argument('--report-every', type=int, default=100, help='steps between reports, checkpoints and exports')
    args = parser.parse_args(arguments)
    args.scenes_folder = args.scenes_folder or args.work
    if args.vision_steps is None:
        args.vision_steps = 0 if args.tower or args.begin_with else VISION_STEPS
    if args.background_weight and (not HOSTS[args.host].token_truth or args.drop_share):
        parser.error('--background-weight needs a host with truth per token and --drop-share 0')
    return args


def find_device(name: str) -> torch.device:
    """The device of a name; 'auto' is CUDA where there is one."""
    return torch.device(('cuda' if torch.cuda.is_available() else 'cpu') if name == 'auto' else name)


def read_model(folder: Path) -> Any:
    """An exported model in single precision."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


def train_language(
    host: Host,
    model: Any,
    tokenizer: Any,
    args: argparse.Namespace,
    out: Checkpoint,
    shards: Callable[[], Sequence[Path]],
) -> None:
    """Train everything but the vision tower; reports, saves and exports every ``--report-every`` steps."""
    write_prompt(args.work / 'prompt.yaml')
    encoder = PromptEncoder(tokenizer, Prompt.load(args.work / 'prompt.yaml'), host)
    device = next(model.parameters()).device
    tower = host.tower(model).requires_grad_(False)
    pool, held_out = (
        ScenePool(partial(encode_images, host, model, device=device), tower_id(tower), host.token_truth, device)
        for _ in range(2)
    )
    held_out.read_new(shard_paths(args.scenes_folder / HELD_OUT_FOLDER, held_out_seeds(args.held_out)))
    examined = held_out_plans(held_out, encoder)
    torch.manual_seed(args.seed + 1)
    probes = DenseHeads(model.config.text_config.hidden_size).to(device)
    weights = [*model.model.language_model.parameters(), *model.lm_head.parameters(), *probes.parameters()]
    on_gpu = device.type == 'cuda'
    optimizer = torch.optim.AdamW(weights, lr=args.rate, betas=(0.9, 0.95), weight_decay=0.05, fused=on_gpu)
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    schedule = Schedule(args.steps, args.seconds)
    parts = {'model': model, 'probes': probes, 'optimizer': optimizer, 'mean': mean}
    first = out.restore(schedule, **parts)
    stage, examiner = LanguageStage(host, model), LanguageStage(host, mean.module)
    recipe = Recipe.from_arguments(args)

    def export(steps: int) -> None:
        hard = SCENES_PER_SHARD * sum(map(is_hard, pool.shards))
        facts = {'steps': steps, 'seed': args.seed, 'drives': len(pool.truths), 'hard_drives': hard}
        export_model(args.output, host, mean.module, tokenizer, {**facts, **recipe.facts()})

    if schedule.progress(first) >= 1.0:  # an earlier run came to the end, and perhaps not to its export
        pool.read_new(shards())
        export(first)
        return
    schedule.start()
    smoothed: dict[str, torch.Tensor] = {}
    bar = tqdm(total=args.steps, initial=first, desc='language', mininterval=20)
    for step, plan in load_plans(pool, shards, encoder, recipe, first, args):
        torch.manual_seed(STEP_SEEDS * args.seed + step)  # a resumed run draws the same noise
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            total, metrics = training_loss(stage, probes, gather_batch(pool, plan), recipe)
        schedule.apply(optimizer, step, args.rate, WARM_UP)
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        mean.update_parameters(model)
        if step % SMOOTHED_EVERY == 0:
            smoothed |= {name: smoothed.get(name, value) * 0.9 + value * 0.1 for name, value in metrics.items()}
        bar.update()
        last = schedule.progress(step + 1) >= 1.0
        if (step + 1) % args.report_every == 0 or last:
            out.save(step + 1, schedule, **parts)
            figures = ' '.join(f'{name} {value.item():.3f}' for name, value in smoothed.items())
            tqdm.write(f'language step {step + 1} {schedule.elapsed():.0f} s {len(pool.truths)} drives {figures}')
            tqdm.write(f'   held out {examine(examiner, held_out, examined[step < args.clip_steps])}')
            export(step + 1)
        if last:
            break


def training_loss(
    stage: LanguageStage, probes: DenseHeads, batch: Batch, recipe: Recipe
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss of the answers and of what the recipe adds to it; and figures for the report."""
    whole = bool(batch.dense) and batch.kept is None  # every visual token is there, and what it shows is known
    answered = stage.answer(batch, whole and recipe.background_weight > 0)
    total, metrics = answered.loss, {'loss': answered.loss.detach()}
    if whole and recipe.probes:
        probe_loss, found = probes.loss(answered.middle, answered.late, batch.dense, batch.plan.subset)
        total, metrics = total + probe_loss, {**metrics, **found}
    if whole and recipe.background_weight > 0:
        total = total + recipe.background_weight * answered.background_attention
        metrics['background'] = answered.background_attention.detach()
    return total, metrics


def tower_id(tower: nn.Module) -> str:
    """A name for the weights of a tower."""
    digest = hashlib.sha256()
    for weight in tower.state_dict().values():
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def examine(stage: LanguageStage, pool: ScenePool, plans: list[Any]) -> dict[str, float]:
    """Share of exact answers by kind, on the same plans every time."""
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for plan in plans:
        with torch.no_grad(), torch.autocast(pool.device.type, torch.bfloat16, enabled=pool.device.type == 'cuda'):
            right = stage.answer(gather_batch(pool, plan, noise=0.0)).right
        for kind, found in questions_right(plan.spans, right).items():
            by_kind[kind] += found
    return {kind: round(sum(found) / len(found), 3) for kind, found in sorted(by_kind.items())}


if __name__ == '__main__':
    main()
