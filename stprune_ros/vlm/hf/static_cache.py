"""Writing behind a prompt, token by token, in a KV cache of fixed size: on a GPU one recorded step, replayed.

No transformers import: the cache and the model's forward pass are handed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stprune_ros.vlm.device import to_device

# Capacities are multiples of a step and may be so much larger than needed, so that a recorded step serves many ticks,
# also while the keep ratio goes up and down.
CAPACITY_STEP = 256
MOST_SPARE = 2 * CAPACITY_STEP
# Least share of a prompt for which its static part is kept: behind a cache, attention needs a mask and cannot
# take its fastest kernel, which long unpruned prompts need most.
STATIC_SHARE = 0.1

Inputs = dict[str, Any]  # arguments of a forward pass: tensors, and masks by kind of layer
# (ids (n,), positions (n,), cached tokens, who sees whom (n, k), positions of the k keys) to the arguments.
Prepare = Callable[[Tensor, Tensor, int, Tensor, Tensor], Inputs]
# See `cuda_graph.capture_graph`.
Recorder = Callable[[Callable[[], Tensor], Sequence[Tensor]], Callable[[Iterable[Tensor]], Tensor]]

logger = logging.getLogger(__name__)


def capacity_for(tokens: int) -> int:
    """The capacity that ``tokens`` tokens are given anew."""
    return -(-tokens // CAPACITY_STEP) * CAPACITY_STEP


@dataclass(frozen=True, slots=True)
class Prefix:
    """State of a Context. The KV tensors are never written to: every question works on a cache of its own.

    ``layers`` holds (keys, values) per layer, ``ids`` and ``positions`` (n,) the kept tokens and where they stand (the
    first row where a position has several), ``next_position`` where a question begins, ``question_suffix`` what the
    template writes after it.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    ids: tuple[int, ...]
    positions: Tensor
    next_position: int
    question_suffix: str


class StaticKVCache:
    """A static KV cache of ``capacity`` tokens, reused from tick to tick, and the one-token step that works on it.

    ``cache`` has static layers, one per decoder layer: what is free there is masked. ``run`` makes the logits (1,
    vocabulary) of the last token from prepared inputs, which it moves to the model's device, and writes into the cache.
    With a ``recorder`` its one-token form is recorded when the cache is first filled; where that fails it is run
    plainly, a warning says so, and ``recording_failed`` is True.
    """

    def __init__(
        self,
        cache: Any,
        capacity: int,
        prepare: Prepare,
        run: Callable[[Any, Inputs], Tensor],
        recorder: Recorder | None,
    ) -> None:
        self.capacity = capacity
        self.filled = 0
        self.recording_failed = False
        self._cache = cache
        self._positions = torch.zeros(capacity, dtype=torch.int64)
        self._prepare = prepare
        self._run = run
        self._recorder = recorder
        self._recorded: Callable[[Iterable[Tensor]], Tensor] | None = None

    def fits(self, tokens: int) -> bool:
        """Whether ``tokens`` tokens have room here and do not leave too much of it empty."""
        return tokens <= self.capacity <= tokens + MOST_SPARE

    def fill(self, prefix: Prefix) -> None:
        """Start behind a prefix, whose keys and values are copied."""
        if self._recorder is not None:
            self._write(prefix)  # a layer takes its memory with its first tokens
            self._record(self._recorder, prefix.layers[0][0].device)
            self._recorder = None
        self._write(prefix)
        self.filled = len(prefix.positions)
        self._positions[: self.filled] = prefix.positions

    def step(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Logits (1, vocabulary) behind ``ids`` (n,) at ``positions`` (n,), which go into the cache.

        A recorded step overwrites the logits of the one before.
        """
        inputs = self._inputs(ids, positions)
        self.filled += len(ids)
        if self._recorded is None or len(ids) > 1:
            return self._run(self._cache, inputs)
        return self._recorded(_tensors(inputs))

    def _inputs(self, ids: Tensor, positions: Tensor) -> Inputs:
        self._positions[self.filled : self.filled + len(ids)] = positions
        visible = torch.ones(len(ids), self.capacity, dtype=torch.bool).tril(self.filled)
        return self._prepare(ids, positions, self.filled, visible, self._positions)

    def _write(self, prefix: Prefix) -> None:
        self._cache.reset()
        for index, (keys, values) in enumerate(prefix.layers):
            self._cache.update(keys, values, index)

    def _record(self, recorder: Recorder, device: torch.device) -> None:
        """Record a step in an empty cache; what it leaves there is overwritten."""
        self._cache.reset()
        self.filled = 0
        # Two tensors: what is held must not share memory. On the device, where later inputs are written into it.
        inputs = self._inputs(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        held = to_device(inputs, device)
        try:
            self._recorded = recorder(lambda: self._run(self._cache, held), list(_tensors(held)))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.recording_failed = True
            reason = str(error).splitlines()[0]
            logger.warning('Descriptions are written without a CUDA graph, more slowly: %s', reason)


def _tensors(inputs: Inputs) -> Iterator[Tensor]:
    for value in inputs.values():
        if isinstance(value, dict):
            yield from _tensors(value)
        elif value is not None:
            yield value
