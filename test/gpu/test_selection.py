"""Selection on a real GPU: the same tokens from kernel, graph and plain loop, and what happens where one is missing."""

from __future__ import annotations

import logging

import pytest
import torch
from helpers.token_rings import ring, unit

from stprune_ros.pruning import greedy_cuda, greedy_graph, selection
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.greedy import greedy_plain
from stprune_ros.pruning.pruner import METHODS, SpatioTemporalPruner
from stprune_ros.pruning.similarity import SimilarityCache

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')
# Views, tokens, steps: what a ring of six brings, odd numbers, and more than one block of the kernel.
SHAPES = [(6, 784, 78), (1, 1, 1), (5, 197, 197), (2, 1025, 300), (3, 4097, 50)]


@pytest.fixture(autouse=True)
def nothing_found_out(monkeypatch):
    """Every test finds out anew what this machine can do."""
    monkeypatch.setattr(greedy_cuda, '_kernels', {})
    monkeypatch.setattr(greedy_cuda, '_plain', set())
    greedy_graph.free()


def problem(views, tokens, seed=0, ties=False):
    generator = torch.Generator().manual_seed(seed)
    x = unit(torch.randn(views, tokens, 8, generator=generator))
    bonus = torch.rand(views, tokens, generator=generator)
    if ties:
        x, bonus = x.round(), bonus.round()
    return (x @ x.transpose(1, 2)).cuda(), bonus.cuda()


def plain(similarity, bonus, budgets):
    return greedy_plain(similarity, bonus, torch.tensor(budgets, device='cuda'), max(budgets))


@pytest.mark.parametrize(('views', 'tokens', 'steps'), SHAPES)
@pytest.mark.parametrize('ties', [False, True])
def test_the_kernel_picks_what_the_plain_loop_picks(views, tokens, steps, ties):
    pytest.importorskip('triton')
    similarity, bonus = problem(views, tokens, ties=ties)
    budgets = [max(1, steps - i) for i in range(views)]
    kernel = greedy_cuda.find_kernel(bonus.device)
    assert kernel is not None
    assert torch.equal(kernel(similarity, bonus, budgets), plain(similarity, bonus, budgets))


def test_nothing_is_compiled_after_the_warm_up(monkeypatch):
    triton = pytest.importorskip('triton')
    selection.warm_up('cuda')
    found = []
    monkeypatch.setattr(triton.knobs.runtime, 'jit_post_compile_hook', lambda **more: found.append(more))
    for views, tokens, steps in SHAPES:
        greedy_cuda.greedy_cuda(*problem(views, tokens), [steps] * views)
    assert found == []


def test_one_recording_serves_every_keep_ratio_and_goes_when_it_is_freed():
    similarity, bonus = problem(6, 784)
    greedy_graph.greedy_graph(similarity, bonus, torch.tensor([3] * 6, device='cuda'), 3)
    held = torch.cuda.memory_allocated()
    for steps in (1, 31, 32, 33, 78, 200, 784):
        budgets = [max(1, steps - i) for i in range(6)]
        found = greedy_graph.greedy_graph(similarity, bonus, torch.tensor(budgets, device='cuda'), steps)
        assert torch.equal(found, plain(similarity, bonus, budgets))
    assert len(greedy_graph._recordings) == 1
    assert torch.cuda.memory_allocated() - held < 2**20
    del found
    selection.free_recordings()
    assert torch.cuda.memory_allocated() < held - similarity.numel() * 4


def test_the_graph_takes_over_where_triton_cannot_compile(monkeypatch, caplog):
    greedy_triton = pytest.importorskip('stprune_ros.pruning.greedy_triton')

    def compile_all(device):
        raise RuntimeError('Failed to find C compiler. Please specify via CC environment variable.')

    monkeypatch.setattr(greedy_triton, 'compile_all', compile_all)
    similarity, bonus = problem(3, 100)
    with caplog.at_level(logging.WARNING):
        for budgets in ([9, 9, 9], [20, 4, 1]):
            assert torch.equal(greedy_cuda.greedy_cuda(similarity, bonus, budgets), plain(similarity, bonus, budgets))
    assert len(greedy_graph._recordings) == 1
    assert [record.getMessage() for record in caplog.records] == [
        'Tokens are selected without Triton, as a CUDA graph: Failed to find C compiler. Please specify via CC'
        ' environment variable'
    ]


@pytest.mark.parametrize('method', ['st_prune', 'st_prune_staged', 'st_prune_joint'])
def test_the_host_waits_for_nothing(method):
    config, cache = PruningConfig(method, 0.25), SimilarityCache()
    views = on_gpu(ring())

    def tick():
        return METHODS[method](views, 3, config), METHODS[method](cache.attach(views, True), 3, config)

    tick()
    torch.cuda.set_sync_debug_mode('error')
    try:
        tick()
    finally:
        torch.cuda.set_sync_debug_mode('default')


def on_gpu(views, dtype=torch.float32):
    moved = []
    for view in views:
        frames = tuple(view.tokens.to('cuda', dtype).unbind())
        moved.append(type(view)(view.name, torch.stack(frames), view.slots, frames=frames))
    return moved


@pytest.mark.parametrize('method', ['st_prune', 'st_prune_joint', 'divprune', 'cdpruner', 'evs'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_the_gpu_selects_what_the_cpu_selects(method, dtype):
    """Products may differ in their last bits, and one token chosen otherwise moves those after it."""
    views = ring(views=6, frames=4, rows=7, columns=7, dim=256)
    views = [type(view)(view.name, view.tokens.to(dtype), view.slots) for view in views]
    prune, cache = SpatioTemporalPruner(PruningConfig(method, 0.25)), SimilarityCache()
    cached = SpatioTemporalPruner(PruningConfig(method, 0.25), cache)
    expected = torch.stack(prune(views, 4))
    for found in (prune(on_gpu(views, dtype), 4), cached(on_gpu(views, dtype), 4)):
        masks = torch.stack(found).cpu()
        assert masks.sum() == expected.sum()  # of the ring: one token chosen otherwise may be one of another view
        same = (masks & expected).sum() / expected.sum()
        assert same > 0.98
