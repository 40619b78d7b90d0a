"""Whose a checkpoint of training is, which scenes a training reads, and a tower that goes on where it was stopped."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from stprune_ros.errors import StpruneError
from stprune_ros.ringworld.scenes import HELD_OUT, make_scene
from stprune_ros.ringworld.training import train, vision_stage
from stprune_ros.ringworld.training.checkpoint import Checkpoint
from stprune_ros.ringworld.training.hosts import Host
from stprune_ros.ringworld.training.scene_cache import (
    HARD,
    HELD_OUT_FOLDER,
    TRAIN,
    held_out_seeds,
    shard_path,
    shard_paths,
    training_seeds,
    write_shard,
)
from stprune_ros.ringworld.training.schedule import Schedule
from stprune_ros.ringworld.training.vision_stage import train_tower

CPU = torch.device('cpu')


class _ReachedError(Exception):
    """The training went on to what a test stops it at."""


@pytest.fixture(autouse=True)
def _nothing_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object) -> None:
        raise _ReachedError

    monkeypatch.setattr(train, 'render_missing', reached)


def begun(work: Path, stage: str, *given: str) -> None:
    """Leave the checkpoint of a training with these arguments."""
    args = train.parse_arguments([*given, '--work', str(work)])
    work.mkdir(exist_ok=True)
    Checkpoint(work / f'{stage}.pt', train.arguments_of(args, train.STAGES[stage])).save(1, Schedule(2))


def model_folder(folder: Path, weights: bytes) -> str:
    folder.mkdir(parents=True)
    (folder / 'model.safetensors').write_bytes(weights)
    return str(folder)


def go_on(work: Path, *given: str) -> None:
    train.train(train.parse_arguments([*given, '--work', str(work)]))


@pytest.mark.parametrize('stage', ['vision', 'language'])
@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (('--host', 'internvl'), "there host is 'qwen3_vl', here it is 'internvl'"),
        (('--hard-scenes', '50'), 'there hard-scenes is 0, here it is 50'),
        (('--scenes', '50'), 'there scenes is 1000, here it is 50'),
        (('--seed', '3'), 'there seed is 0, here it is 3'),
        (('--vision-batch', '3'), 'there vision-batch is 48, here it is 3'),
        (('--vision-rate', '0.5'), 'there vision-rate is 0.0015, here it is 0.5'),
        (('--vision-steps', '5'), 'there vision-steps is 2500, here it is 5'),
    ],
)
def test_the_checkpoint_of_another_training_is_refused_before_anything_is_rendered(
    tmp_path: Path, stage: str, given: tuple[str, ...], words: str
) -> None:
    begun(tmp_path, stage)
    with pytest.raises(_ReachedError):
        go_on(tmp_path)
    with pytest.raises(StpruneError) as error:
        go_on(tmp_path, *given)
    path = tmp_path / f'{stage}.pt'
    assert str(error.value) == f"'{path}' is of another training: {words}; give the same, or name another --work"


@pytest.mark.parametrize(
    ('given', 'words'),
    [
        (('--drop-share', '0', '--background-weight', '1.5'), 'background-weight is 0.0, here it is 1.5'),
        (('--drop-share', '0.1'), 'drop-share is 0.0, here it is 0.1'),
        (('--no-probes',), 'probes is True, here it is False'),
        (('--steps', '7'), 'steps is 5000, here it is 7'),
        (('--rate', '0.5'), 'rate is 0.0015, here it is 0.5'),
        (('--ring-batch', '4'), 'ring-batch is 3, here it is 4'),
    ],
)
def test_another_recipe_is_refused_for_the_language_only(tmp_path: Path, given: tuple[str, ...], words: str) -> None:
    begun(tmp_path / 'vision', 'vision', '--drop-share', '0')
    with pytest.raises(_ReachedError):
        go_on(tmp_path / 'vision', '--drop-share', '0', *given)
    begun(tmp_path / 'language', 'language', '--drop-share', '0')
    with pytest.raises(StpruneError, match=f'there {words}; give the same'):
        go_on(tmp_path / 'language', '--drop-share', '0', *given)


def test_what_changes_no_weights_may_be_another(tmp_path: Path) -> None:
    for stage in train.STAGES:
        begun(tmp_path, stage)
    others = ['--seconds', '9', '--vision-seconds', '9', '--device', 'cpu', '--threads', '1', '--workers', '1']
    more = ['--loaders', '0', '--report-every', '7', '--held-out', '25', '--output', str(tmp_path), '--growing', '0']
    with pytest.raises(_ReachedError):
        go_on(tmp_path, *others, *more, '--scenes-folder', str(tmp_path / 'scenes'))


@pytest.mark.parametrize('option', ['--tower', '--begin-with'])
def test_a_model_to_begin_with_is_known_by_its_weights(tmp_path: Path, option: str) -> None:
    one, other = (model_folder(tmp_path / name / 'model', name.encode()) for name in ('one', 'other'))
    begun(tmp_path / 'work', 'language', option, one)
    with pytest.raises(_ReachedError):
        go_on(tmp_path / 'work', option, one)
    same = model_folder(tmp_path / 'copied' / 'model', b'one')
    with pytest.raises(_ReachedError):
        go_on(tmp_path / 'work', option, same)
    for given, here in (((option, other), "'model \\([0-9a-f]{12}\\)'"), (('--vision-steps', '0'), 'None')):
        name = option.removeprefix('--')
        with pytest.raises(
            StpruneError, match=f"there {name} is 'model \\([0-9a-f]{{12}}\\)', here it is {here}; give"
        ):
            go_on(tmp_path / 'work', *given)


def test_the_command_says_so_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(tmp_path, 'language')
    args = train.parse_arguments(['--host', 'internvl', '--work', str(tmp_path)])
    monkeypatch.setattr(train, 'parse_arguments', lambda: args)
    with pytest.raises(SystemExit) as ended:
        train.main()
    assert str(ended.value.code).startswith(
        f"train: '{tmp_path / 'language.pt'}' is of another training: there host is"
    )


def test_a_checkpoint_that_does_not_say_whose_it_is_is_refused(tmp_path: Path) -> None:
    torch.save({'step': 1, 'spent': 0.0}, tmp_path / 'a.pt')
    with pytest.raises(StpruneError, match='there host is None, here it is 7'):
        Checkpoint(tmp_path / 'a.pt', {'host': 7}).restore(Schedule(2))


def test_of_a_shared_folder_only_the_scenes_of_the_plan_are_read(tmp_path: Path) -> None:
    for first in (0, 25, 50, HARD, HARD + 25, HELD_OUT, HELD_OUT + 25):
        shard_path(tmp_path, range(first, first + 25)).touch()

    def firsts(seeds: Any) -> list[int]:
        return [int(path.stem.removeprefix('scenes_')) for path in shard_paths(tmp_path, seeds)]

    assert firsts(training_seeds(30, 25)) == [0, 25, HARD]
    assert firsts(training_seeds(25, 26)) == [0, HARD, HARD + 25]
    assert firsts(training_seeds(75, 0)) == [0, 25, 50]
    assert firsts(training_seeds(0, 25)) == [HARD]
    assert firsts(held_out_seeds(25)) == [HELD_OUT]


def test_both_stages_are_given_the_scenes_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, first in ((TRAIN, 0), (TRAIN, 25), (TRAIN, HARD), (HELD_OUT_FOLDER, HELD_OUT)):
        (tmp_path / folder).mkdir(exist_ok=True)
        shard_path(tmp_path / folder, range(first, first + 25)).touch()
    given: list[list[str]] = []

    def stage(*values: Any) -> None:
        given.append([path.name for value in values if isinstance(value, partial) for path in value()])

    monkeypatch.setattr(train, 'render_missing', lambda *_: None)
    monkeypatch.setattr(train, 'train_tower', stage)
    monkeypatch.setattr(train, 'train_language', stage)
    go_on(tmp_path, '--scenes', '20', '--hard-scenes', '5', '--device', 'cpu', '--threads', '1')
    assert given == [['scenes_0000000.pkl', f'scenes_{HARD:07d}.pkl']] * 2
    with pytest.raises(TimeoutError, match='holds 1 of 2 shards of scenes'):  # the hard one is of another plan
        train.wait_for_shards(tmp_path, 50, training_seeds(20, 0), 25, seconds=0.0)


@dataclass(frozen=True, slots=True)
class TinyHost(Host):
    """One linear layer over the pixels of a patch."""

    name: str = 'tiny'
    grid: tuple[int, int] = (6, 10)
    token_truth: ClassVar[bool] = True
    image_markup: ClassVar[str] = ''

    def make_model(self, tokenizer: Any = None) -> Any:
        torch.manual_seed(5)
        tower = nn.ModuleList([nn.Linear(16 * 16 * 3, 8)])
        return SimpleNamespace(layers=tower, config=SimpleNamespace(text_config=SimpleNamespace(hidden_size=8)))

    def tower(self, model: Any) -> nn.ModuleList:
        layers: nn.ModuleList = model.layers
        return layers

    def visual_tokens(self, model: Any, images: torch.Tensor) -> torch.Tensor:
        patches = images.float().div(255).unflatten(1, (6, 16)).unflatten(3, (10, 16)).transpose(2, 3)
        tokens: torch.Tensor = model.layers[0](patches.flatten(3).flatten(1, 2))
        return tokens


class Stopped(Checkpoint):
    """Ends the training behind the checkpoint of its second step."""

    def save(self, step: int, schedule: Schedule, **parts: Any) -> None:
        super().save(step, schedule, **parts)
        if step == 2:
            raise _ReachedError


@pytest.fixture(scope='module')
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('scenes')
    for seed in range(2):
        write_shard(folder, range(seed, seed + 1), make_scene)
    return folder


def tower_after(scenes: Path, out: Checkpoint, steps: int = 4, seeds: int = 2) -> torch.Tensor:
    host = TinyHost()
    model = host.make_model()
    shards = partial(shard_paths, scenes, training_seeds(seeds, 0))
    train_tower(host, model, shards, out, Schedule(steps), 8, 0.01, 3, CPU, report_every=1)
    weight: torch.Tensor = model.layers[0].weight.detach().clone()
    return weight


def test_a_tower_that_was_stopped_goes_on_as_if_it_had_not_been(scenes: Path, tmp_path: Path) -> None:
    whole = tower_after(scenes, Checkpoint(tmp_path / 'whole.pt', {}))
    with pytest.raises(_ReachedError):
        tower_after(scenes, Stopped(tmp_path / 'parts.pt', {}))
    assert torch.load(tmp_path / 'parts.pt', weights_only=True)['step'] == 2
    assert torch.equal(tower_after(scenes, Checkpoint(tmp_path / 'parts.pt', {})), whole)
    assert torch.load(tmp_path / 'parts.pt', weights_only=True)['step'] == 4
    assert torch.equal(tower_after(scenes, Checkpoint(tmp_path / 'parts.pt', {})), whole), 'it is at its end'
    assert not torch.equal(tower_after(scenes, Checkpoint(tmp_path / 'less.pt', {}), seeds=1), whole)


def test_a_tower_looks_for_new_scenes_from_where_it_goes_on(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second step here, counted from the first one of this run."""
    monkeypatch.setattr(vision_stage, 'REFRESH', 2)
    looked: list[int] = []
    read_new = vision_stage.ImagePool.read_new

    def counted(pool: vision_stage.ImagePool, shards: Any) -> None:
        looked.append(len(shards))
        read_new(pool, shards)

    monkeypatch.setattr(vision_stage.ImagePool, 'read_new', counted)
    with pytest.raises(_ReachedError):
        tower_after(scenes, Stopped(tmp_path / 'a.pt', {}), steps=5, seeds=1)
    assert looked == [1]
    tower_after(scenes, Checkpoint(tmp_path / 'a.pt', {}), steps=5)
    assert looked == [1, 2, 2]


def test_arguments_are_plain_values(tmp_path: Path) -> None:
    """So that a checkpoint is read without running anything that is in it."""
    args: argparse.Namespace = train.parse_arguments(['--tower', model_folder(tmp_path / 'm', b'x')])
    for names in train.STAGES.values():
        found = train.arguments_of(args, names)
        assert {type(value) for value in found.values()} <= {str, int, float, bool, type(None)}
