"""Whole ticks on a real GPU: their stage times add up, and the pipeline gives its memory back."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from stprune_ros.bench.architectures import QWEN3_2B, QWEN25_3B
from stprune_ros.bench.ticks import TickCell, TickModel, TickRunner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')


@pytest.mark.parametrize('architecture', [QWEN3_2B, QWEN25_3B], ids=lambda item: item.family)
def test_stage_times_add_up_to_the_tick(architecture):
    runner = TickRunner(TickModel(architecture, 4, 4), 'bfloat16')
    for keep in (1.0, 0.1, 0.1):
        runner.run(TickCell(keep, True))
    window = runner.window(4)
    torch.cuda.synchronize()
    started = time.perf_counter()
    answer = runner.pipeline.run(window)
    torch.cuda.synchronize()
    whole = 1e3 * (time.perf_counter() - started)
    assert answer.timing.tick_ms == pytest.approx(whole, rel=0.1, abs=3)
    assert answer.tokens_kept == pytest.approx(0.1 * answer.tokens_full, rel=0.03)


def test_a_pipeline_gives_its_memory_back():
    runner = TickRunner(replace(TickModel(QWEN3_2B, 2, 2), frames=2), 'bfloat16')
    runner.run(TickCell(0.5, True), frames=2)  # libraries take memory of their own in their first tick
    runner.pipeline.free()
    runner.probe.prefilled = ()
    weights = torch.cuda.memory_allocated()
    runner.run(TickCell(0.5, True), frames=2)
    assert torch.cuda.memory_allocated() > weights + 10 * 2**20
    runner.pipeline.free()
    runner.probe.prefilled = ()
    assert torch.cuda.memory_allocated() < weights + 2**20
