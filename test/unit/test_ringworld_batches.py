"""What goes into the batches of training: recipes, dropped tokens, image truth, schedules and pools."""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stprune_ros.ringworld.scenes import make_scene
from stprune_ros.ringworld.training import train
from stprune_ros.ringworld.training.batches import IGNORED, ScenePool, draw_kept, gather_batch, plan_batch
from stprune_ros.ringworld.training.checkpoint import Checkpoint
from stprune_ros.ringworld.training.export import write_prompt
from stprune_ros.ringworld.training.hosts import HOSTS
from stprune_ros.ringworld.training.image_questions import ImageQuestions, image_truth
from stprune_ros.ringworld.training.plans import Recipe, held_out_plans, load_plans
from stprune_ros.ringworld.training.probes import masked_cross_entropy, masked_mean
from stprune_ros.ringworld.training.prompt_encoder import PromptEncoder, ViewSubset
from stprune_ros.ringworld.training.scene_cache import shard_paths, training_seeds, write_shard
from stprune_ros.ringworld.training.schedule import LOWEST_SHARE, Schedule
from stprune_ros.ringworld.training.token_truth import TokenTruth
from stprune_ros.ringworld.training.tokenizer import make_tokenizer
from stprune_ros.ringworld.truth import VisibleActor
from stprune_ros.vlm.prompt import Prompt

CPU = torch.device('cpu')
RECIPE = Recipe(0, 0, 16, 3, 16, 0.0, varied_share=0.0, drop_share=0.0, probes=True)


@pytest.fixture(scope='module')
def encoder(tmp_path_factory: pytest.TempPathFactory) -> PromptEncoder:
    path = tmp_path_factory.mktemp('prompt') / 'prompt.yaml'
    write_prompt(path)
    return PromptEncoder(make_tokenizer(), Prompt.load(path), HOSTS['qwen3_vl'])


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards with two scenes and one."""
    folder = tmp_path_factory.mktemp('scenes')
    write_shard(folder, range(2), make_scene)
    write_shard(folder, range(2, 3), make_scene)
    return folder


def shards_in(folder: Path) -> list[Path]:
    return shard_paths(folder, training_seeds(100, 0))


def make_pool(encoded: list[int] | None = None) -> ScenePool:
    """A pool whose tokens say which image they are of: its mean colour."""

    def encode(images: np.ndarray) -> torch.Tensor:
        if encoded is not None:
            encoded.append(len(images))
        means = torch.from_numpy(images.reshape(*images.shape[:2], -1).mean(-1))
        return means[..., None, None].expand(-1, -1, 60, 8).half().contiguous()

    return ScenePool(encode, 'tower', True, CPU)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(0.01, 0.99))
def test_dropping_leaves_all_text_and_as_many_tokens_in_every_scene(seed: int, keep: float) -> None:
    visual = np.zeros((3, 137), bool)
    visual[:, 5:125] = True  # two images of 60 tokens
    kept = draw_kept(visual, 60, keep, np.random.default_rng(seed))
    assert kept.shape == (3, 17 + max(1, round(120 * keep)))
    assert (np.diff(kept) > 0).all()
    for row in kept:
        assert {*range(5), *range(125, 137)} <= {*row.tolist()}


def test_dropping_looks_at_no_token_but_differs_between_images() -> None:
    visual = np.ones((800, 120), bool)
    kept = draw_kept(visual, 60, 0.5, np.random.default_rng(0))
    counts = np.bincount(kept.ravel(), minlength=120) / len(kept)
    assert abs(counts - 0.5).max() < 0.08  # every place is as likely
    first = (kept < 60).sum(1) / 60
    assert first.std() > 0.15  # some images lose much more than others


def test_batches_vary_as_the_recipe_says(encoder: PromptEncoder) -> None:
    subsets = [RECIPE.subset(np.random.default_rng(n), clip=False) for n in range(300)]
    assert {len(subset.views) for subset in subsets} == {5, 6}
    assert 0.7 < np.mean([subset.frames == 4 for subset in subsets]) < 0.95
    varied = [replace(RECIPE, varied_share=1.0).subset(np.random.default_rng(n), clip=False) for n in range(300)]
    assert {len(subset.views) for subset in varied} == {1, 2, 3, 4, 5, 6}
    assert {subset.frames for subset in varied} == {1, 2, 3, 4}
    assert all(list(subset.views) == sorted({*subset.views}) for subset in varied)
    clips = [RECIPE.subset(np.random.default_rng(n), clip=True) for n in range(300)]
    assert Counter(len(subset.views) for subset in clips) == {1: 300}
    assert 0.2 < np.mean([subset.views == (0,) for subset in clips]) < 0.4


def test_plans_follow_from_the_step(encoder: PromptEncoder) -> None:
    scenes = [make_scene(seed) for seed in range(3)]
    truths, windows = [scene.truths for scene in scenes], [scene.windows for scene in scenes]
    recipe = replace(RECIPE, varied_share=0.5, drop_share=0.5)
    plans = [recipe.plan(truths, windows, encoder, step) for step in range(12)]
    again = recipe.plan(truths, windows, encoder, 7)
    assert again.subset == plans[7].subset
    assert (again.asked == plans[7].asked).all()
    assert (again.ids == plans[7].ids).all()
    other = replace(recipe, seed=1).plan(truths, windows, encoder, 7)
    assert other.asked.shape != again.asked.shape or (other.asked != again.asked).any()
    dropped = [plan for plan in plans if plan.kept is not None]
    assert 0 < len(dropped) < 12
    for plan in dropped:
        visual = (plan.ids[0] == encoder.image).sum()
        assert 0.09 * visual < plan.kept.shape[1] - (plan.ids.shape[1] - visual) < visual
    for plan in plans:
        for kind, row, start, stop in plan.spans:
            assert plan.labels[row, stop - 1] == encoder.end
            assert (plan.labels[row, start:stop] != IGNORED).all()
            assert plan.offsets[row, start] == (plan.owner[row, :start] == plan.owner[row, start]).sum()
            assert plan.weights[row, start] == {'hint': 2.0, 'describe': 0.4}.get(kind, 1.0)
        assert (plan.labels != IGNORED).sum() == sum(stop - start for _, _, start, stop in plan.spans)


def test_pools_read_what_is_new_and_keep_features(folder: Path, tmp_path: Path) -> None:
    shards = sorted(folder.glob('*.pkl'))
    (tmp_path / shards[0].name).write_bytes(shards[0].read_bytes())
    encoded: list[int] = []
    pool = make_pool(encoded)
    assert pool.read_new(shards_in(tmp_path))
    assert not pool.read_new(shards_in(tmp_path))
    (tmp_path / shards[1].name).write_bytes(shards[1].read_bytes())
    assert pool.read_new(shards_in(tmp_path))
    assert encoded == [8, 4]  # frames of a shard go through together
    assert pool.tokens.shape == (3, 4, 6, 60, 8)
    assert pool.dense['kind'].shape == (3, 4, 6, 60)
    scene = make_scene(2)
    assert pool.truths[2] == scene.truths
    assert float(pool.tokens[2, 1, 3, 0, 0]) == pytest.approx(scene.images[1, 3].mean(), rel=1e-3)
    assert torch.equal(pool.dense['kind'][2], torch.from_numpy(scene.tokens['kind']))
    second = make_pool(encoded)
    second.read_new(shards_in(tmp_path))
    assert encoded == [8, 4]  # the features lay beside the shards
    assert torch.equal(second.tokens, pool.tokens)
    other = replace(make_pool(encoded), tower='another')
    other.read_new(shards_in(tmp_path))
    assert encoded == [8, 4, 8, 4]


def test_gathered_tokens_are_those_of_the_plan(folder: Path, encoder: PromptEncoder) -> None:
    pool = make_pool()
    pool.read_new(shards_in(folder))
    subset = ViewSubset((1, 4), 2)
    plan = plan_batch(pool.truths, pool.windows, encoder, np.random.default_rng(3), 2, 4, subset)
    batch = gather_batch(pool, plan, noise=0.0)
    expected = pool.tokens[plan.scenes[1], plan.frames[1, 1], 4].float()
    assert torch.equal(batch.tokens[1].view(2, 2, 60, 8)[1, 1], expected)
    assert torch.equal(batch.dense['kind'][1, 1, 1], pool.dense['kind'][plan.scenes[1], plan.frames[1, 1], 4])
    assert plan.frames.tolist() == [[2, 3], [2, 3]]
    noisy = gather_batch(pool, plan).tokens - batch.tokens
    assert 0.05 < float(noisy.std() / batch.tokens.std()) < 0.2


def test_held_out_scenes_are_asked_about_one_by_one_and_in_the_ring(folder: Path, encoder: PromptEncoder) -> None:
    pool = make_pool()
    pool.read_new(shards_in(folder))
    plans = held_out_plans(pool, encoder)
    assert [plan.subset.views for plan in plans[True]] == [(0,), (1,), (2,), (3,), (4,), (5,)]
    assert [(plan.subset, len(plan.scenes), plan.kept) for plan in plans[False]] == [(ViewSubset(), 3, None)]
    pool.truths, pool.windows = pool.truths * 20, pool.windows * 20
    assert [len(plan.scenes) for plan in held_out_plans(pool, encoder)[False]] == [4] * 12


@pytest.mark.parametrize('loaders', [0, 1])
def test_loaders_yield_the_plans_in_order(folder: Path, encoder: PromptEncoder, loaders: int) -> None:
    pool, args = make_pool(), argparse.Namespace(steps=5, growing=0, loaders=loaders)
    found = list(load_plans(pool, lambda: shards_in(folder), encoder, RECIPE, 2, args))
    assert [step for step, _ in found] == [2, 3, 4]
    for step, plan in found:
        assert (plan.asked == RECIPE.plan(pool.truths, pool.windows, encoder, step).asked).all()


def actor(kind: str, u: float, distance: float, colour: str = '', state: str = '') -> VisibleActor:
    left, right = int(u) - 9, int(u) + 9
    return VisibleActor(1, kind, colour, state, 500, u, 96.0, left, right, distance, False, 0.0, 0.0)


def test_image_truth_answers_about_the_whole_image() -> None:
    cars = [actor('vehicle', 160.0, 5.0, colour='red'), actor('vehicle', 40.0, 9.0, colour='blue')]
    cars.append(actor('vehicle', 280.0, 20.0, colour='red'))
    seen = image_truth([*cars[:1], actor('light', 100.0, 7.0, state='green'), *cars[1:]])
    assert seen['counts'].tolist() == [3, 0]
    assert seen['light'] == 2
    colours = [seen['colour'][0], seen['colour'][1], seen['colour'][2]]
    assert colours == [0, 1, 0]  # nearest, leftmost, rightmost of red, blue, ...
    assert seen['present'].tolist() == [1, 1, 0, 0, 0, 0]
    assert seen['place'][0].tolist() == pytest.approx([0.5, 0.5, np.log(5.0)])
    assert np.isnan(seen['place'][1]).all()  # no pedestrian
    assert seen['place'][2, 0] == pytest.approx(31 / 320)
    assert seen['place'][3, 0] == pytest.approx(289 / 320)
    assert seen['place'][4].tolist() == seen['place'][0].tolist()  # the nearest red car
    unnamed = image_truth([actor('vehicle', 160.0, 5.0), *cars[1:]])  # too dark for a colour
    assert unnamed['colour'].tolist() == [-1, 1, 0]
    assert unnamed['present'].tolist() == [1, 1, 0, 0, 0, 0]
    nothing = image_truth([])
    assert (nothing['counts'].tolist(), int(nothing['light'])) == ([0, 0], 0)
    assert np.isnan(nothing['place']).all()
    assert (nothing['colour'] == -1).all()


@pytest.mark.parametrize('kind', [TokenTruth, ImageQuestions])
def test_what_is_taught_can_be_learnt(kind: type[TokenTruth] | type[ImageQuestions]) -> None:
    """Free tokens and heads come to fit the truth of a scene's images, so every target reaches its loss."""
    torch.manual_seed(0)
    truth = {name: value[:6] for name, value in kind.targets(make_scene(1)).items()}
    heads, tokens = kind(64), torch.randn(6, 60, 64, requires_grad=True)
    optimizer = torch.optim.Adam([*heads.parameters(), tokens], lr=0.03)
    before = heads.loss(tokens, truth)[0].item()
    for _ in range(60):
        loss, metrics = heads.loss(tokens, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in heads.parameters())
    assert loss.item() < 0.3 * before
    assert metrics['colour'] > 0.9


def test_masked_losses_are_those_of_what_is_chosen() -> None:
    logits, target = torch.randn(7, 3), torch.tensor([0, 1, 2, -1, 1, 0, 2])
    mask = torch.tensor([True, True, False, False, True, True, True])
    weight = torch.tensor([1.0, 2.0, 5.0])
    for each in (None, weight):
        expected = torch.nn.functional.cross_entropy(logits[mask], target[mask], each)
        assert masked_cross_entropy(logits, target, mask, each).item() == pytest.approx(expected.item(), rel=1e-5)
    assert masked_mean(logits[:, 0], mask).item() == pytest.approx(logits[mask, 0].mean().item(), rel=1e-5)
    assert masked_cross_entropy(logits, target, mask & False).item() == 0.0


def test_a_stage_ends_with_its_steps_or_its_seconds(tmp_path: Path) -> None:
    now = [100.0]
    schedule = Schedule(steps=100, seconds=50.0, clock=lambda: now[0])
    schedule.start()
    assert schedule.progress(30) == 0.3
    now[0] = 140.0
    assert schedule.progress(30) == 0.8
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rates = []
    for step, moment in ((0, 100.0), (9, 100.0), (60, 100.0), (60, 125.0), (60, 150.0), (60, 999.0)):
        now[0] = moment
        schedule.apply(optimizer, step, 2.0, 10)
        rates.append(optimizer.param_groups[0]['lr'])
    lowest = 2.0 * LOWEST_SHARE
    at_60 = 2.0 * (LOWEST_SHARE + (1 - LOWEST_SHARE) * 0.5 * (1 + np.cos(0.6 * np.pi)))
    assert rates[0] == pytest.approx(0.2)
    assert rates[1] == pytest.approx(2.0, rel=0.05)
    assert rates[2:] == pytest.approx([at_60, at_60, lowest, lowest])
    now[0] = 120.0
    Checkpoint(tmp_path / 'stage.pt', {}).save(7, schedule, optimizer=optimizer)
    later = Schedule(100, 50.0, clock=lambda: now[0])
    assert Checkpoint(tmp_path / 'missing.pt', {}).restore(later) == 0
    assert Checkpoint(tmp_path / 'stage.pt', {}).restore(later, optimizer=optimizer) == 7
    now[0] = 500.0
    later.start()
    assert later.elapsed() == pytest.approx(20.0)
    assert not list(tmp_path.glob('*.part'))


def test_devices_by_name() -> None:
    assert train.find_device('cpu') == CPU
    assert train.find_device('auto').type == ('cuda' if torch.cuda.is_available() else 'cpu')
