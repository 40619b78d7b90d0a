"""CUDA graphs on a real GPU: what a replay gives, and what is left of a capture that failed."""

from __future__ import annotations

import pytest
import torch

from stprune_ros.cuda_graph import capture, capture_graph

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')
CUDA = torch.device('cuda')


def test_a_replay_computes_with_new_values_from_the_host_and_the_device():
    held = torch.zeros(1000, device=CUDA)
    replay = capture_graph(lambda: 2 * held + 1, [held])
    for values in (torch.arange(1000.0), torch.arange(1000.0, device=CUDA) * 3):
        assert torch.equal(replay([values]).cpu(), 2 * values.cpu() + 1)


@pytest.mark.parametrize('fault', ['it waits for the host', 'it raises'])
def test_after_a_capture_that_failed_everything_else_works(fault):
    held = torch.ones(1000, device=CUDA)
    runs = []

    def work():
        runs.append(1)
        big = torch.ones(64 * 2**20, dtype=torch.uint8, device=CUDA)
        if len(runs) > 2:  # only while it is captured
            if fault == 'it raises':
                raise ValueError('not now')
            held.sum().item()
        return held + big[0]

    stream, before = torch.cuda.current_stream(), torch.cuda.memory_allocated()
    with pytest.raises((RuntimeError, ValueError)):
        capture(work, CUDA)
    assert torch.cuda.current_stream() == stream
    assert not torch.cuda.is_current_stream_capturing()
    assert float((held + 1).sum()) == 2000
    assert torch.rand(8, device=CUDA).shape == (8,)
    scratch = torch.ones(256 * 2**20, dtype=torch.uint8, device=CUDA)
    reserved = torch.cuda.memory_reserved()
    del scratch
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= reserved - 256 * 2**20, 'memory that is free goes back'
    assert torch.cuda.memory_allocated() <= before + 2**20
    assert torch.equal(
        capture_graph(lambda: held * 3, [held])([torch.full((1000,), 2.0)]).cpu(), torch.full((1000,), 6.0)
    )
