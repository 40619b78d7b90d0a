"""Writing token by token in memory of fixed size: recorded or not, it must be the plain model's text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_models import FAMILIES, make_tiny_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stprune_ros.vlm.backend import Context, VisualFrame
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.hf.static_cache import CAPACITY_STEP, MOST_SPARE, StaticKVCache, capacity_for

TOKENS = 24
QUESTION, OTHER = 'Describe the road.', 'What should the driver do, and why should he do so?'


@pytest.fixture(scope='module', params=FAMILIES)
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TransformersBackend:
    folder = make_tiny_model(tmp_path_factory.mktemp('models') / request.param, request.param)
    return TransformersBackend.load(folder, device='cpu')


def context_of(backend: TransformersBackend, ratio: float = 0.5, seed: int = 3) -> Context:
    random = np.random.default_rng(seed)
    features = backend.encode([random.integers(0, 256, (90, 160, 3), dtype=np.uint8) for _ in range(2)])
    keeps = [torch.from_numpy(random.random(len(item.tokens)) < ratio) for item in features]
    frames = [VisualFrame(item, keep) for item, keep in zip(features, keeps, strict=True)]
    return backend.prefill('You look through the cameras of a car.', ['The front view:\n', *frames, '\n'])


def again(backend: TransformersBackend) -> TransformersBackend:
    """The same model without memory of its own yet."""
    parts = (backend._model, backend._chat._tokenizer, backend._tower._processor, backend._family, backend.info)
    return TransformersBackend(*parts)


class HostTensors(TorchDispatchMode):
    """Notes operators that make a tensor on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(part, Tensor) and part.device.type == 'cpu' for part in tree_leaves(result)):
            self.found.append(func.name())
        return result


class Recorder:
    """Stands for a CUDA graph where there is none: runs the step to warm up, and from then on only repeats it."""

    def __init__(self) -> None:
        self.replays = self.recordings = 0

    def __call__(self, work: Callable[[], Tensor], held: Sequence[Tensor]) -> Callable[[Iterable[Tensor]], Tensor]:
        self.recordings += 1
        work(), work()
        logits: list[Tensor] = []

        def replay(values: Iterable[Tensor]) -> Tensor:
            self.replays += 1
            for place, value in zip(held, values, strict=True):
                place.copy_(value)
            result = work()
            logits[:] = logits or [result.clone()]
            return logits[0].copy_(result)  # in the same memory every time

        return replay


def test_a_step_takes_nothing_from_the_host(backend: TransformersBackend) -> None:
    """On a device that knows shapes only, whatever needs a value fails; nor may anything be copied to it on the way."""
    prefix = context_of(backend).state
    layers = tuple((keys.to('meta'), values.to('meta')) for keys, values in prefix.layers)
    parts = (backend._chat._tokenizer, backend._tower._processor, backend._family, replace(backend.info, device='meta'))
    writer = TransformersBackend(deepcopy(backend._model).to('meta'), *parts)
    host = HostTensors()
    held: list[Tensor] = []
    given: list[Tensor] = []

    def replay(values: Iterable[Tensor]) -> Tensor:
        given[:] = values
        return torch.zeros(1, 1)

    def recorder(work: Callable[[], Tensor], inputs: Sequence[Tensor]) -> Callable[[Iterable[Tensor]], Tensor]:
        held[:] = inputs
        with host:
            assert work().shape == (1, backend._model.config.text_config.vocab_size)
            assert host.found == []
            torch.arange(2).to('meta')
            assert host.found == ['aten::arange'], 'such a copy is seen'
        return replay

    writer._recorder = recorder
    cache = writer._kv_cache_behind(replace(prefix, layers=layers), 8)
    assert host.found
    assert {tensor.device.type for tensor in held} == {'meta'}
    cache.step(torch.tensor([1]), torch.tensor([prefix.next_position]))
    assert {tensor.device.type for tensor in given} == {'cpu'}, 'straight into what is held, without a tensor between'
    assert [tensor.shape for tensor in given] == [tensor.shape for tensor in held]


def test_a_recorded_step_writes_what_a_plain_one_does(backend: TransformersBackend) -> None:
    """The step must find everything in the memory that it was recorded with: positions, masks, keys and values."""
    writer, recorder = again(backend), Recorder()
    writer._recorder = recorder
    for ratio, seed in ((0.5, 3), (0.2, 4), (0.9, 5)):
        context = context_of(writer, ratio, seed)
        for question in (QUESTION, OTHER):
            assert writer.generate(context, question, TOKENS) == backend.generate(context, question, TOKENS)
    assert recorder.recordings == 1, 'prompts of one size share the recording'
    assert recorder.replays > 3 * TOKENS


def test_a_step_is_recorded_in_an_empty_cache(backend: TransformersBackend) -> None:
    """Behind a prompt that fills the cache there would be no room for it."""
    writer, lengths = again(backend), []

    def recorder(work: Callable[[], Tensor], held: Sequence[Tensor]) -> Callable[[Iterable[Tensor]], Tensor]:
        assert writer._kv_cache is not None
        lengths.append(int(writer._kv_cache._cache.get_seq_length()))
        return lambda values: work()

    writer._recorder = recorder
    prefix = context_of(backend).state
    cache = writer._kv_cache_behind(prefix, 8)
    assert lengths == [0]
    assert int(cache._cache.get_seq_length()) == cache.filled == len(prefix.ids)


def test_memory_grows_and_shrinks_with_what_is_written(backend: TransformersBackend) -> None:
    writer, recorder = again(backend), Recorder()
    writer._recorder = recorder
    context = context_of(writer)
    before = writer.generate(context, QUESTION, TOKENS)
    capacities = []
    for words in (TOKENS, CAPACITY_STEP, TOKENS, MOST_SPARE + CAPACITY_STEP, MOST_SPARE, TOKENS):
        assert writer.generate(context, QUESTION, words).text.startswith(before.text.rstrip('\ufffd'))
        assert writer._kv_cache is not None
        capacities.append(writer._kv_cache.capacity // CAPACITY_STEP)
    assert capacities == [1, 2, 2, 4, 4, 1]
    assert recorder.recordings == 4
    writer.free()
    assert writer._kv_cache is None
    assert writer.generate(context, QUESTION, TOKENS) == before


def test_a_step_that_cannot_be_recorded_is_run_plainly(
    backend: TransformersBackend, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def recorder(work: Callable[[], Tensor], held: Sequence[Tensor]) -> Callable[[Iterable[Tensor]], Tensor]:
        tries.append(work())
        raise RuntimeError('operation not permitted when stream is capturing\nand more')

    writer = again(backend)
    writer._recorder = recorder
    context = context_of(writer)
    with caplog.at_level(logging.WARNING):
        assert writer.generate(context, QUESTION, TOKENS) == backend.generate(context, QUESTION, TOKENS)
        writer.generate(context, QUESTION, TOKENS)
        writer.free()
        writer.generate(context, QUESTION, TOKENS)
        writer.generate(context, QUESTION, MOST_SPARE + CAPACITY_STEP)
    assert len(tries) == 1, 'nor would it in another cache'
    assert [record.getMessage() for record in caplog.records] == [
        'Descriptions are written without a CUDA graph, more slowly: operation not permitted when stream is capturing'
    ]


def test_too_little_memory_is_no_reason_to_write_plainly(backend: TransformersBackend) -> None:
    def recorder(work: Callable[[], Tensor], held: Sequence[Tensor]) -> Callable[[Iterable[Tensor]], Tensor]:
        raise torch.OutOfMemoryError('CUDA out of memory')

    writer = again(backend)
    writer._recorder = recorder
    with pytest.raises(torch.OutOfMemoryError):
        writer.generate(context_of(writer), QUESTION, TOKENS)
    writer._recorder = Recorder()
    writer.free()
    assert writer.generate(context_of(writer), QUESTION, TOKENS).tokens
    assert writer._recorder.recordings == 1


def test_capacities_leave_neither_too_little_room_nor_too_much() -> None:
    assert [capacity_for(n) for n in (1, CAPACITY_STEP)] == [CAPACITY_STEP] * 2
    assert capacity_for(CAPACITY_STEP + 1) == 2 * CAPACITY_STEP
    cache = StaticKVCache(None, 4 * CAPACITY_STEP, lambda *_: {}, lambda *_: torch.zeros(1, 1), None)
    suited = [n for n in range(1, 6 * CAPACITY_STEP) if cache.fits(n)]
    assert suited == list(range(4 * CAPACITY_STEP - MOST_SPARE, 4 * CAPACITY_STEP + 1))
    assert all(capacity_for(n) <= n + MOST_SPARE for n in range(1, 600))
