"""The transformers engine on a real GPU, against the same tiny models on the CPU."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from helpers.engines import CANDIDATES, OTHER, QUESTION, SYSTEM, content_of, frames_of, images
from helpers.tiny_models import FAMILIES, make_tiny_model

from stprune_ros.vlm.backend import VisualFrame
from stprune_ros.vlm.hf.backend import TransformersBackend

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')
TOKENS = 24


@pytest.fixture(scope='module', params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp('models') / request.param, request.param)


@pytest.fixture(scope='module')
def cpu(folder: Path) -> TransformersBackend:
    return TransformersBackend.load(folder, device='cpu')


@pytest.fixture(scope='module')
def gpu(folder: Path) -> TransformersBackend:
    return TransformersBackend.load(folder, device='cuda', dtype='float32')


def moved(frames: list[VisualFrame], gpu: TransformersBackend) -> list[VisualFrame]:
    """The same masks on what the GPU encoded."""
    return [VisualFrame(item, frame.keep.cuda()) for item, frame in zip(gpu.encode(images()), frames, strict=True)]


def test_features_are_those_of_the_cpu(cpu: TransformersBackend, gpu: TransformersBackend) -> None:
    for found, expected in zip(gpu.encode(images()), cpu.encode(images()), strict=True):
        assert found.tokens.device.type == 'cuda'
        assert found.grid == expected.grid
        for one, other in zip((found.tokens, *found.deep), (expected.tokens, *expected.deep), strict=True):
            torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


@pytest.mark.parametrize('ratio', [1.0, 0.3])
def test_scores_and_text_are_those_of_the_cpu(
    cpu: TransformersBackend, gpu: TransformersBackend, caplog: pytest.LogCaptureFixture, ratio: float
) -> None:
    frames = frames_of(cpu, ratio)
    here, there = cpu.prefill(SYSTEM, content_of(frames)), gpu.prefill(SYSTEM, content_of(moved(frames, gpu)))
    asked = [(QUESTION, CANDIDATES), (OTHER, CANDIDATES[:2])]
    for found, expected in zip(gpu.score_all(there, asked), cpu.score_all(here, asked), strict=True):
        assert found == pytest.approx(expected, rel=2e-3, abs=2e-2)
    with caplog.at_level(logging.WARNING):
        for question in (QUESTION, OTHER):
            assert gpu.generate(there, question, TOKENS).text == cpu.generate(here, question, TOKENS).text
    assert gpu._kv_cache is not None
    assert gpu._kv_cache._recorded is not None, 'as a graph'
    assert not caplog.records


def test_a_graph_writes_what_plain_steps_do(folder: Path) -> None:
    """In bfloat16, too, and with prompts that grow and shrink."""
    graphed, stepwise = (TransformersBackend.load(folder, device='cuda', dtype='bfloat16') for _ in range(2))
    stepwise._recorder = None
    for ratio in (0.5, 0.2, 1.0):
        for question in (QUESTION, OTHER):
            texts = []
            for backend in (graphed, stepwise):
                context = backend.prefill(SYSTEM, content_of(moved(frames_of(backend, ratio), backend)))
                texts.append(backend.generate(context, question, TOKENS))
            assert texts[0] == texts[1]
    assert graphed._kv_cache is not None and graphed._kv_cache._recorded is not None


def test_after_a_failed_recording_it_writes_plainly_and_frees_its_memory(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = TransformersBackend.load(folder, device='cuda', dtype='float32')
    context = backend.prefill(SYSTEM, content_of(moved(frames_of(backend), backend)))
    expected = backend.generate(context, QUESTION, TOKENS)
    backend.free()
    run, calls = backend._run, []

    def waiting(cache, inputs, *more, **hook):
        logits = run(cache, inputs, *more, **hook)
        calls.append(float(logits.sum()))  # waits for the host
        return logits

    backend._run = waiting  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        assert backend.generate(context, QUESTION, TOKENS) == expected
        backend.free()
        assert backend.generate(context, QUESTION, TOKENS) == expected
    assert [record.getMessage().partition(':')[0] for record in caplog.records] == [
        'Descriptions are written without a CUDA graph, more slowly'
    ]
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    held = torch.cuda.memory_allocated()
    backend.free()
    assert torch.cuda.memory_allocated() < held


def test_a_text_goes_on_between_other_prompts(folder: Path) -> None:
    """As a node writes it between its ticks: two tokens, then another prompt is prefilled and scored, and so on."""
    backend = TransformersBackend.load(folder, device='cuda', dtype='bfloat16')
    first, second = (
        backend.prefill(SYSTEM, content_of(moved(frames_of(backend, ratio), backend))) for ratio in (0.5, 0.2)
    )
    whole, scores = backend.generate(first, OTHER, TOKENS), backend.score(second, QUESTION, CANDIDATES)
    text, written, times = backend.begin(first, OTHER, TOKENS), None, 0
    while written is None:
        written = text.write(pause=lambda count, limit=2 * (times + 1): count >= limit)
        assert backend.score(second, QUESTION, CANDIDATES) == pytest.approx(scores, abs=1e-3)
        times += 1
    assert written == whole
    assert times >= whole.tokens // 2


def test_int4_answers_as_the_weights_before_do() -> None:
    pytest.importorskip('torchao')
    pytest.importorskip('accelerate')
    bundled = Path(__file__).parents[2] / 'models' / 'ringworld'
    found = []
    for quantization in ('int4', 'none'):
        backend = TransformersBackend.load(bundled, device='cuda', dtype='bfloat16', quantization=quantization)
        context = backend.prefill('six views around the ego vehicle.', ['ego speed 08.0, turn +0.00.\n'])
        question = 'what should the ego vehicle do?'
        found.append(backend.score(context, question, ['none', 'slow down', 'stop']))
    packed, exact = torch.tensor(found)
    assert not torch.equal(packed, exact), 'weights were packed'
    torch.testing.assert_close(packed.exp(), exact.exp(), rtol=0.0, atol=0.15)
