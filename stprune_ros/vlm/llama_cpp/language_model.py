"""A language model on llama.cpp: its weights, and one KV cache in which prompts, questions and texts are run.

Sequence 0 holds the prompt; the paths of a token tree are sequences of their own that share its cells, and so is a
text: it keeps them when sequence 0 gets another prompt, as long as there is room for both. Positions are those of
M-RoPE, (time, row, column); a token's may jump ahead of the one before, never back.
"""

from __future__ import annotations

import ctypes as c
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import numpy as np

from stprune_ros.errors import ModelError
from stprune_ros.vlm.llama_cpp.layouts import F16, F32, NO_FLASH, NO_SPLIT, Batch
from stprune_ros.vlm.llama_cpp.library import ABORT, Library

SEQUENCES = 64  # that may be in the cache at once; the library takes 256 at most
LEAVES = SEQUENCES - 2  # of a token tree
PROMPT, TEXT = 0, SEQUENCES - 1  # two of them
STEP = 512  # tokens that are computed at once: what a longer prompt takes of memory does not grow
LOOK_S = 0.05  # of computing within one call, before clock and event are looked at, and again each time
NO_ROOM, ABORTED = 1, 2  # returned by llama_decode


class CutShortError(Exception):
    """The deadline or the cancel event came while tokens were computed; some of them may be in the cache."""


class NoRoomError(ModelError):
    """Tokens do not fit into the cache; nothing of them was run."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """``context`` tokens fit into the cache, of float32 or float16 numbers; ``gpu`` is its number, None for the CPU."""

    context: int
    threads: int
    gpu: int | None = None
    float32: bool = True


@dataclass(slots=True)
class _Limits:
    """What cuts a call short."""

    deadline: float | None = None
    cancel: Event | None = None
    next_look: float = field(default=0.0)

    def due(self, _: object) -> bool:
        """Called between two operations; so often that it must not look at clock and event each time."""
        computed = time.thread_time()
        if (self.deadline is None and self.cancel is None) or computed < self.next_look:
            return False
        self.next_look = computed + LOOK_S
        late = self.deadline is not None and time.monotonic() >= self.deadline
        return late or (self.cancel is not None and self.cancel.is_set())


class LanguageModel:
    """The weights of a GGUF file and a KV cache. One thread at a time.

    ``has_text`` tells whether a text is in the cache: it goes where a prompt or a question finds no room beside it.
    Raises ModelError where the library refuses the file, or has no memory for it.
    """

    def __init__(self, library: Library, path: str, options: RunOptions) -> None:
        self._library, self._calls, self._options = library, library.calls, options
        self._path = path
        params = self._calls.llama_model_default_params()
        params.n_gpu_layers = 0 if options.gpu is None else -1
        params.split_mode, params.main_gpu = NO_SPLIT, options.gpu or 0
        library.log.errors.clear()
        lines: list[str] = []
        library.log.lines = lines
        self._model = self._calls.llama_model_load_from_file(str(path).encode(), params)
        library.log.lines = None
        if not self._model:
            raise ModelError(f"GGUF file '{path}' cannot be loaded by llama.cpp: {library.log.reason()}")
        self._free_model = weakref.finalize(self, self._calls.llama_model_free, self._model)
        self.reads_no_eps = any('f_norm_rms_eps' in line and '= 0.0e+00' in line for line in lines)
        self.vocabulary: int = self._calls.llama_vocab_n_tokens(self._calls.llama_model_get_vocab(self._model))
        self.row_width: int = self._calls.llama_model_n_embd_inp(self._model)
        self.has_text = False
        self._limits = _Limits()
        self._abort = ABORT(self._limits.due)
        self._context: Any = None
        self._free_context: weakref.finalize[Any, Any] | None = None
        self.open()

    def open(self) -> None:
        """Make the KV cache, empty, where there is none. Raises ModelError where there is no memory for it."""
        if self._context is not None:
            return
        options, params = self._options, self._calls.llama_context_default_params()
        params.n_ctx = params.n_batch = options.context
        params.n_ubatch = min(STEP, options.context)
        params.n_seq_max, params.kv_unified = SEQUENCES, True
        params.n_outputs_max = SEQUENCES  # else logits of every token are given room
        params.n_threads = params.n_threads_batch = options.threads
        params.type_k = params.type_v = F32 if options.float32 else F16
        params.offload_kqv = params.op_offload = options.gpu is not None
        if options.float32:
            params.flash_attn_type = NO_FLASH  # it rounds queries to float16
        context = self._calls.llama_init_from_model(self._model, params)
        if not context:
            raise ModelError(
                f'llama.cpp has no memory for a context of {options.context} tokens: {self._library.log.reason()};'
                ' lower model.context_tokens'
            )
        self._context = context
        self._free_context = weakref.finalize(self, self._calls.llama_free, context)
        self._free_context.atexit = self._free_model.atexit = False
        self._memory = self._calls.llama_get_memory(context)
        self._calls.llama_set_abort_callback(context, self._abort, None)

    def close(self) -> None:
        """Give the memory of the KV cache back."""
        if self._free_context is not None:
            self._free_context()
        self._context = self._free_context = None
        self.has_text = False

    @contextmanager
    def interruptible(self, deadline: float | None, cancel: Event | None) -> Iterator[None]:
        """Let calls inside end with CutShortError at ``deadline`` or once ``cancel`` is set, on a CPU that is."""
        self._limits.deadline, self._limits.cancel = deadline, cancel
        try:
            yield
        finally:
            self._limits.deadline = self._limits.cancel = None

    def run_rows(self, rows: np.ndarray, positions: np.ndarray) -> None:
        """Append embeddings ``rows``, float32 (n, row_width), at ``positions`` (3, n) to sequence 0."""
        count = len(rows)
        rows = np.ascontiguousarray(rows, np.float32)
        assert rows.shape[1] == self.row_width
        placed = np.zeros((4, count), np.int32)
        placed[:3] = positions
        self._decode(Batch(embd=_pointer(rows, c.c_float)), placed, [(PROMPT,)] * count, ())
        self._calls.llama_synchronize(self._context)  # what is only begun would count in the stage that comes next

    def begin_text(self) -> None:
        """Let a text begin behind what is in sequence 0, in place of the one before; it shares those cells."""
        self.end_text()
        self._calls.llama_memory_seq_cp(self._memory, PROMPT, TEXT, -1, -1)
        self.has_text = True

    def end_text(self) -> None:
        """Take the text out of the cache."""
        if self.has_text:
            self._calls.llama_memory_seq_rm(self._memory, TEXT, -1, -1)
        self.has_text = False

    def run_tokens(self, ids: Sequence[int], position: int) -> np.ndarray:
        """Append tokens to the text from ``position`` on; the logits (vocabulary,) behind the last one."""
        places = np.arange(position, position + len(ids), dtype=np.int32)
        logits: np.ndarray = self._run_ids(ids, places, [(TEXT,)] * len(ids), (len(ids) - 1,))[0]
        return logits

    def run_tree(
        self, ids: Sequence[int], positions: np.ndarray, paths: Sequence[Sequence[int]], needed: Sequence[int]
    ) -> np.ndarray:
        """Logits (needed, vocabulary) behind some rows of a token tree behind sequence 0; nothing of it stays.

        ``paths`` has for each row the numbers, from 0 on and below LEAVES, of the leaves that it leads to.
        """
        leaves = 1 + max(max(path) for path in paths)
        for leaf in range(leaves):
            self._calls.llama_memory_seq_cp(self._memory, PROMPT, 1 + leaf, -1, -1)
        try:
            return self._run_ids(ids, positions, [[1 + leaf for leaf in path] for path in paths], needed)
        finally:
            for leaf in range(leaves):
                self._calls.llama_memory_seq_rm(self._memory, 1 + leaf, -1, -1)

    def cut(self, position: int) -> None:
        """Take everything from ``position`` on out of sequence 0."""
        self._calls.llama_memory_seq_rm(self._memory, PROMPT, position, -1)

    def _run_ids(
        self, ids: Sequence[int], positions: np.ndarray, sequences: Sequence[Sequence[int]], needed: Sequence[int]
    ) -> np.ndarray:
        tokens = np.array(ids, np.int32)
        self._decode(Batch(token=_pointer(tokens, c.c_int32)), positions, sequences, needed)
        found = np.empty((len(needed), self.vocabulary), np.float32)
        for number, row in enumerate(needed):
            logits = self._calls.llama_get_logits_ith(self._context, row)
            found[number] = np.ctypeslib.as_array(logits, (self.vocabulary,))
        return found

    def _decode(
        self, batch: Batch, positions: np.ndarray, sequences: Sequence[Sequence[int]], needed: Sequence[int]
    ) -> None:
        """One llama_decode; ``batch`` has ids or embeddings already, which the caller holds."""
        count = len(sequences)
        if count > self._options.context:  # the library would end the process
            raise self._no_room(count)
        lengths = np.array([len(each) for each in sequences], np.int32)
        flat = np.array([number for each in sequences for number in each], np.int32)
        starts = flat.ctypes.data + flat.itemsize * (np.cumsum(lengths) - lengths).astype(np.uint64)
        outputs = np.zeros(count, np.int8)
        outputs[list(needed)] = 1
        places = np.ascontiguousarray(positions, np.int32)
        batch.n_tokens = count
        batch.pos, batch.n_seq_id = _pointer(places, c.c_int32), _pointer(lengths, c.c_int32)
        batch.seq_id, batch.logits = _pointer(starts, c.POINTER(c.c_int32)), _pointer(outputs, c.c_int8)
        self._limits.next_look = time.thread_time() + LOOK_S
        self._library.log.errors.clear()
        code = self._calls.llama_decode(self._context, batch)
        if code == NO_ROOM and self.has_text and TEXT not in sequences[0]:
            self.end_text()  # nothing of the batch was run
            code = self._calls.llama_decode(self._context, batch)
        if code == ABORTED:
            raise CutShortError
        if code == NO_ROOM:
            raise self._no_room(count)
        if code:
            raise ModelError(f"llama.cpp cannot run {count} tokens of '{self._path}': {self._library.log.reason()}")

    def _no_room(self, tokens: int) -> NoRoomError:
        """What to say where so many tokens more find no room."""
        return NoRoomError(
            f'{tokens} tokens more do not fit into a context of {self._options.context}: raise model.context_tokens, or'
            ' lower pruning.keep_ratio, latency.keep_max or inference.max_new_tokens'
        )


def _pointer(array: np.ndarray, kind: Any) -> Any:
    return array.ctypes.data_as(c.POINTER(kind))
