"""The greedy loop for GPUs: in Triton's interpreter where there is no GPU, and without waiting where there is one."""

import os

import pytest
import torch
from helpers.token_rings import ring, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.greedy import greedy_plain
from stprune_ros.pruning.pruner import METHODS
from stprune_ros.pruning.similarity import SimilarityCache

CUDA = torch.cuda.is_available()
DEVICE = 'cuda' if CUDA else 'cpu'
needs_cuda = pytest.mark.skipif(not CUDA, reason='no CUDA device here')

if not CUDA:
    os.environ.setdefault('TRITON_INTERPRET', '1')  # is read when the kernel's module is imported


def problem(sets, count, seed, ties):
    generator = torch.Generator().manual_seed(seed)
    x = unit(torch.randn(sets, count, 4, generator=generator))
    bonus = torch.rand(sets, count, generator=generator)
    if ties:
        x, bonus = x.round(), bonus.round()
    if sets > 1:
        bonus[0, count // 2 + 1 :] = -torch.inf  # as padding leaves it
    return (x @ x.transpose(1, 2)).to(DEVICE), bonus.to(DEVICE)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 9), st.booleans(), st.data())
def test_the_triton_kernel_picks_the_same_tokens(sets, count, seed, ties, data):
    pytest.importorskip('triton', reason='triton is not installed; it is no dependency')
    from stprune_ros.pruning.greedy_cuda import greedy_triton

    similarity, bonus = problem(sets, count, seed, ties)
    budgets = [data.draw(st.integers(0, int(row.isfinite().sum()))) for row in bonus]
    plain = greedy_plain(similarity, bonus, torch.tensor(budgets, device=DEVICE), max(budgets))
    assert torch.equal(greedy_triton(similarity, bonus, budgets), plain)


@needs_cuda
def test_the_graph_picks_the_same_tokens_again_and_again():
    from stprune_ros.pruning import greedy_cuda

    budgets = torch.tensor([7, 20, 20], device=DEVICE)
    for seed in range(3):
        similarity, bonus = problem(3, 40, seed, ties=False)
        found = greedy_cuda.greedy_graph(similarity, bonus, budgets, 20)
        assert torch.equal(found, greedy_plain(similarity, bonus, budgets, 20))


@pytest.mark.parametrize('method', ['st_prune', 'st_prune_staged', 'st_prune_joint', 'mtp', 'rsp'])
@pytest.mark.parametrize('keep_one_copy', [False, True])
def test_the_host_reads_no_value_on_the_way(method, keep_one_copy):
    """On a device that knows shapes only, whatever needs a value fails; on a GPU it would wait."""
    views = [type(v)(v.name, v.tokens.to('meta'), v.slots) for v in ring(views=5)]
    views[2] = type(views[2])('gone', torch.zeros(0, 0, 0, 0), ())
    masks = METHODS[method](views, 3, PruningConfig(method, 0.25, keep_one_copy=keep_one_copy))
    assert [mask.numel() for mask in masks] == [36, 36, 0, 36, 36]
    del views[2]
    assert [mask.numel() for mask in METHODS[method](views, 3, PruningConfig(method, 0.25))] == [36] * 4


@needs_cuda
@pytest.mark.parametrize('method', ['st_prune', 'st_prune_staged', 'st_prune_joint'])
def test_the_host_waits_for_nothing(method):
    config, cache = PruningConfig(method, 0.25), SimilarityCache()
    views = []
    for view in ring():
        frames = tuple(view.tokens.to(DEVICE).unbind())
        views.append(type(view)(view.name, torch.stack(frames), view.slots, frames=frames))

    def tick():
        return METHODS[method](views, 3, config), METHODS[method](cache.attach(views, True), 3, config)

    tick()
    torch.cuda.set_sync_debug_mode('error')
    try:
        tick()
    finally:
        torch.cuda.set_sync_debug_mode('default')
