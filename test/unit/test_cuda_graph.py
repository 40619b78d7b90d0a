"""Captures on a CUDA that only pretends: the order of calls, what is undone after a failure, and what stays alive."""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager

import pytest
import torch

from stprune_ros import cuda_graph
from stprune_ros.cuda_graph import WARM_UP_RUNS, capture, capture_graph


class Stream:
    device_index = 0

    def wait_stream(self, other):
        pass


class Generator:
    """Of random numbers: a capture makes it another, which only the end of the capture makes good again."""

    def __init__(self, capturing=False):
        self.capturing = capturing

    def clone_state(self):
        return Generator()

    def graphsafe_set_state(self, state):
        self.capturing = state.capturing


class Cuda:
    """What `capture` uses of torch.cuda, as torch before pull request 180395 does it, or ``mended`` after that."""

    def __init__(self, monkeypatch, mended):
        self.stream = self.default = Stream()
        self.generator = Generator()
        self.captures = []  # pools that the allocator believes to be captured into
        self.mended = mended
        self.replays = self.streams = 0
        for name in ('device', 'current_stream', 'graph', 'graph_pool_handle', 'set_stream'):
            monkeypatch.setattr(torch.cuda, name, getattr(self, f'_{name}'))
        monkeypatch.setattr(torch.cuda, 'Stream', self._make_stream)
        monkeypatch.setattr(cuda_graph, '_warm_up_streams', {})
        monkeypatch.setattr(torch.cuda, 'stream', self._use)
        monkeypatch.setattr(torch.cuda, 'CUDAGraph', lambda: self)
        monkeypatch.setattr(torch.cuda, 'default_generators', (self.generator,))
        monkeypatch.setattr(torch._C, '_cuda_endAllocateToPool', self._end, raising=False)

    def replay(self):
        self.replays += 1

    def _make_stream(self):
        self.streams += 1
        return Stream()

    @contextmanager
    def _device(self, device):
        yield

    @contextmanager
    def _use(self, stream):
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    @contextmanager
    def _graph(self, graph, pool, capture_error_mode):
        assert capture_error_mode == 'thread_local'
        before, self.stream, self.generator.capturing = self.stream, Stream(), True
        self.captures.append(pool)
        try:
            yield
        except RuntimeError:  # what the failed end of a capture leaves
            if self.mended:
                self.captures.remove(pool)
            raise
        self.captures.remove(pool)
        self.stream, self.generator.capturing = before, False

    def _current_stream(self):
        return self.stream

    def _set_stream(self, stream):
        self.stream = stream

    def _graph_pool_handle(self):
        return (0, 7)

    def _end(self, device, pool):
        assert device == 0
        if pool not in self.captures:
            raise RuntimeError('endAllocatePool: not currently recording to mempool_id')
        self.captures.remove(pool)


@pytest.fixture(params=[False, True], ids=['torch as it was', 'torch as it is'])
def cuda(request, monkeypatch):
    return Cuda(monkeypatch, request.param)


def test_work_is_warmed_up_captured_once_and_replayed(cuda):
    runs = []

    def work():
        runs.append(cuda.captures[:])
        return torch.tensor(len(runs))

    replay = capture(work, torch.device('cuda:0'))
    assert runs == [[]] * WARM_UP_RUNS + [[(0, 7)]]
    assert [int(replay()) for _ in range(2)] == [WARM_UP_RUNS + 1] * 2, 'the tensor of the capture'
    assert cuda.replays == 2


def test_values_go_into_the_tensors_that_the_work_reads(cuda):
    held = [torch.zeros(2), torch.zeros(1, dtype=torch.int64)]
    replay = capture_graph(lambda: held[0], held)
    assert replay([torch.tensor([1.0, 2.0]), torch.tensor([3])]).tolist() == [1, 2]
    assert held[1].tolist() == [3]
    with pytest.raises(ValueError):
        replay([torch.zeros(2)])


def test_what_the_work_reads_lives_as_long_as_its_graph(cuda):
    """The graph itself knows addresses only: memory that is given back would be read with whatever is there by then."""

    def make():
        tensor = torch.ones(3)
        return capture(lambda: tensor + 1, torch.device('cuda:0')), weakref.ref(tensor)

    replay, tensor = make()
    gc.collect()
    assert tensor() is not None
    del replay
    gc.collect()
    assert tensor() is None


@pytest.mark.parametrize(
    'error', [RuntimeError('operation not permitted when stream is capturing'), KeyboardInterrupt()]
)
def test_a_failed_capture_leaves_nothing_behind(cuda, error):
    def work():
        if cuda.captures:
            raise error
        return torch.zeros(1)

    with pytest.raises(type(error)) as caught:
        capture(work, torch.device('cuda:0'))
    assert caught.value is error, 'what went wrong first is what is told'
    assert cuda.stream is cuda.default
    assert cuda.captures == []
    assert not cuda.generator.capturing
    assert int(capture(lambda: torch.ones(1), torch.device('cuda:0'))()) == 1


def test_captures_share_a_stream_to_warm_up_on(cuda):
    """A library keeps memory for every stream that it has worked on, and captures come and go."""
    used = []
    for _ in range(3):
        capture(lambda: used.append(cuda.stream) or torch.zeros(1), torch.device('cuda:0'))
    assert cuda.streams == 1
    assert len({id(stream) for stream in used[:WARM_UP_RUNS] + used[-3:-1]}) == 1
    assert used[0] is not cuda.default


def test_work_that_fails_before_the_capture_is_not_captured(cuda):
    def work():
        raise RuntimeError('no such kernel')

    with pytest.raises(RuntimeError, match='no such kernel'):
        capture(work, torch.device('cuda:0'))
    assert cuda.captures == []
    assert cuda.stream is cuda.default
