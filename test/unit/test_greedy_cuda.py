"""The greedy loop for GPUs, without one: the kernel in Triton's interpreter, and graphs that only repeat their work."""

import logging
import os
from contextlib import contextmanager

import pytest
import torch
from helpers.token_rings import ring, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from stprune_ros.pruning import greedy_cuda, greedy_graph, selection
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.greedy import greedy_plain
from stprune_ros.pruning.pruner import METHODS

if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')  # is read when the kernel's module is imported


@pytest.fixture(autouse=True)
def nothing_found_out(monkeypatch):
    """Every test finds out anew what this machine can do."""
    monkeypatch.setattr(greedy_cuda, '_kernels', {})
    monkeypatch.setattr(greedy_cuda, '_plain', set())
    greedy_graph.free()


@pytest.fixture
def captures(monkeypatch):
    """What was captured; a replay does the work again, on the same tensors."""
    found = []

    def capture(work, device):
        found.append(device)
        return work

    monkeypatch.setattr(greedy_graph, 'capture', capture)
    return found


@pytest.fixture
def no_kernel(monkeypatch):
    """A device for which there is no kernel, as where Triton is not installed."""
    monkeypatch.setattr(greedy_cuda, '_kernels', {torch.device('cpu'): None})


def problem(sets, count, seed, ties=False):
    generator = torch.Generator().manual_seed(seed)
    x = unit(torch.randn(sets, count, 4, generator=generator))
    bonus = torch.rand(sets, count, generator=generator)
    if ties:
        x, bonus = x.round(), bonus.round()
    if sets > 1:
        bonus[0, count // 2 + 1 :] = -torch.inf  # as padding leaves it
    return x @ x.transpose(1, 2), bonus


def plain(similarity, bonus, budgets):
    return greedy_plain(similarity, bonus, torch.tensor(budgets), max(budgets))


def triton_module():
    pytest.importorskip('triton', reason='triton is not installed; it is no dependency')
    from stprune_ros.pruning import greedy_triton

    return greedy_triton


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 9), st.booleans(), st.data())
def test_the_triton_kernel_picks_the_same_tokens(sets, count, seed, ties, data):
    kernel = triton_module()
    similarity, bonus = problem(sets, count, seed, ties)
    budgets = [data.draw(st.integers(0, int(row.isfinite().sum()))) for row in bonus]
    assert torch.equal(kernel.greedy_triton(similarity, bonus, budgets), plain(similarity, bonus, budgets))


def test_a_kernel_is_launched_on_the_device_of_its_tensors(monkeypatch):
    kernel = triton_module()
    assert max(kernel.WARPS) == greedy_cuda.MAX_KERNEL_TOKENS
    launched, current = [], []

    @contextmanager
    def device_of(tensor):
        current.append(tensor)
        yield
        current.clear()

    class Kernel:
        def __getitem__(self, grid):
            return lambda similarity, bonus, budgets, keep, tokens, block, num_warps: launched.append(
                (grid, tokens, block, num_warps, current[0] is keep)
            )

    monkeypatch.setattr(torch.cuda, 'device_of', device_of)
    monkeypatch.setattr(kernel, '_kernel', Kernel())
    kernel.compile_all(torch.device('cpu'))
    assert launched == [((1,), 1, 1024, 8, True), ((1,), 1, 4096, 16, True), ((1,), 1, 16384, 16, True)]
    launched.clear()
    for tokens in (1024, 1025):
        kernel.greedy_triton(torch.zeros(2, 1, tokens).expand(2, tokens, tokens), torch.zeros(2, tokens), [1, 1])
    assert [call[:3] for call in launched] == [((2,), 1024, 1024), ((2,), 1025, 4096)]


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (RuntimeError('Failed to find C compiler.'), 'Failed to find C compiler'),
        (FileNotFoundError(2, 'No such file or directory', 'ptxas'), "[Errno 2] No such file or directory: 'ptxas'"),
    ],
)
def test_the_graph_takes_over_where_triton_cannot_compile(captures, monkeypatch, caplog, error, reason):
    kernel, tries = triton_module(), []

    def compile_all(device):
        tries.append(device)
        raise error

    monkeypatch.setattr(kernel, 'compile_all', compile_all)
    similarity, bonus = problem(2, 30, 0)
    with caplog.at_level(logging.WARNING):
        for budgets in ([3, 9], [2, 5]):
            assert torch.equal(greedy_cuda.greedy_cuda(similarity, bonus, budgets), plain(similarity, bonus, budgets))
    assert len(tries) == len(captures) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f'Tokens are selected without Triton, as a CUDA graph: {reason}'
    ]


def test_the_plain_loop_takes_over_where_nothing_can_be_captured(no_kernel, monkeypatch, caplog):
    tries = []

    def capture(work, device):
        tries.append(device)
        raise RuntimeError('operation not permitted when stream is capturing')

    monkeypatch.setattr(greedy_graph, 'capture', capture)
    similarity, bonus = problem(2, 30, 1)
    with caplog.at_level(logging.WARNING):
        for budgets in ([3, 9], [2, 5]):
            assert torch.equal(greedy_cuda.greedy_cuda(similarity, bonus, budgets), plain(similarity, bonus, budgets))
    assert len(tries) == 1
    assert [record.getMessage() for record in caplog.records] == [
        'Tokens are selected without a CUDA graph, more slowly: operation not permitted when stream is capturing'
    ]


def test_too_little_memory_is_no_reason_to_do_without(monkeypatch):
    def capture(work, device):
        raise torch.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(greedy_graph, 'capture', capture)
    similarity, bonus = problem(2, 30, 1)
    monkeypatch.setattr(greedy_cuda, '_kernels', {torch.device('cpu'): None})
    with pytest.raises(torch.OutOfMemoryError):
        greedy_cuda.greedy_cuda(similarity, bonus, [3, 3])
    assert greedy_cuda._plain == set() and not greedy_graph._recordings


def test_a_view_too_large_for_the_kernel_takes_the_graph(captures, monkeypatch):
    calls = []
    monkeypatch.setattr(greedy_cuda, 'MAX_KERNEL_TOKENS', 30)
    monkeypatch.setattr(greedy_cuda, '_kernels', {torch.device('cpu'): lambda *given: calls.append(given)})
    for count in (30, 31):
        greedy_cuda.greedy_cuda(*problem(1, count, 0), [3])
    assert (len(calls), len(captures)) == (1, 1)


def test_one_recording_serves_every_keep_ratio(no_kernel, captures):
    """The governor changes the ratio all the time, so the number of steps must not be what a recording is known by."""
    for seed, steps in enumerate((1, greedy_graph.CHUNK, greedy_graph.CHUNK + 1, 70, 3, 100)):
        similarity, bonus = problem(3, 100, seed, ties=seed == 3)
        budgets = [min(steps, 51), steps, max(1, steps - 2)]
        assert torch.equal(greedy_cuda.greedy_cuda(similarity, bonus, budgets), plain(similarity, bonus, budgets))
    assert len(captures) == 1


def test_a_result_stays_when_the_next_selection_runs(no_kernel, captures):
    first, second = problem(2, 20, 1), problem(2, 20, 2)
    kept = greedy_cuda.greedy_cuda(*first, [4, 4])
    greedy_cuda.greedy_cuda(*second, [7, 7])
    assert torch.equal(kept, plain(*first, [4, 4]))


def test_recordings_made_while_inferring_serve_elsewhere(no_kernel, captures):
    given = problem(2, 20, 1)
    with torch.inference_mode():
        greedy_cuda.greedy_cuda(*given, [4, 4])
    assert torch.equal(greedy_cuda.greedy_cuda(*given, [4, 4]), plain(*given, [4, 4]))
    assert len(captures) == 1


def test_few_recordings_are_kept_and_none_after_they_are_freed(no_kernel, captures):
    for count in range(10, 20):
        greedy_cuda.greedy_cuda(*problem(1, count, 0), [3])
    assert [shape[2] for shape in greedy_graph._recordings] == list(range(20 - greedy_graph.MAX_GRAPHS, 20))
    greedy_cuda.greedy_cuda(*problem(1, 16, 0), [3])  # the oldest, used again
    greedy_cuda.greedy_cuda(*problem(1, 9, 0), [3])
    assert [shape[2] for shape in greedy_graph._recordings] == [18, 19, 16, 9]
    selection.free_recordings()
    assert not greedy_graph._recordings


def test_nothing_to_select_needs_no_device(monkeypatch):
    monkeypatch.setattr(greedy_cuda, 'find_kernel', None)
    for views, count, budgets in ((2, 0, [0, 0]), (0, 0, []), (2, 5, [0, 0])):
        found = greedy_cuda.greedy_cuda(torch.zeros(views, count, count), torch.zeros(views, count), budgets)
        assert found.shape == (views, count) and (found == -torch.inf).all()


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
