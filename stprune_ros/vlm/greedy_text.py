"""Greedy text, token by token, whatever the engine is: its penalty, where it ends, and what cuts it short."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Event

from stprune_ros.errors import ModelError
from stprune_ros.vlm.backend import Generated, Pause

NextToken = Callable[[Sequence[int]], int | None]


@dataclass(frozen=True, slots=True)
class Written:
    """Tokens without the one that ended them; ``finished`` and ``timed_out`` as in `backend.Generated`."""

    tokens: list[int]
    finished: bool
    timed_out: bool


class GreedyText:
    """Implements `backend.Text`: at most ``limit`` tokens behind ``asked``, up to one of ``ends``.

    ``next_token`` appends the tokens it is given and returns the most probable next one, or None where it was cut short
    by deadline or event, or has lost its place. It and what it holds are let go at the end, after ``closing`` was
    called. ``read`` turns tokens into text, ``interruptible`` surrounds what may be cut short.
    """

    def __init__(
        self,
        next_token: NextToken,
        asked: Sequence[int],
        ends: Collection[int],
        limit: int,
        read: Callable[[Written], Generated],
        closing: Callable[[], object] = lambda: None,
        interruptible: Callable[[float | None, Event | None], AbstractContextManager[None]] = lambda *_: nullcontext(),
    ) -> None:
        self._next_token, self._step = next_token, asked
        self._ends, self._limit = ends, limit
        self._read, self._closing, self._interruptible = read, closing, interruptible
        self._tokens: list[int] = []
        self._closed = False

    def write(
        self, deadline: float | None = None, cancel: Event | None = None, pause: Pause | None = None
    ) -> Generated | None:
        """See `Text.write`."""
        try:
            with self._interruptible(deadline, cancel):
                written = self._write(deadline, cancel, pause)
        except BaseException:
            self.close()
            raise
        if written is None:
            return None
        self.close()
        return self._read(written)

    def so_far(self) -> str:
        """See `Text.so_far`."""
        return self._read(Written(self._tokens, False, False)).text

    def close(self) -> None:
        """See `Text.close`."""
        if not self._closed:
            self._closed = True
            self._next_token = _is_over
            self._closing()

    def _write(self, deadline: float | None, cancel: Event | None, pause: Pause | None) -> Written | None:
        tokens = self._tokens
        while len(tokens) < self._limit:
            timed_out = deadline is not None and time.monotonic() >= deadline
            if timed_out or (cancel is not None and cancel.is_set()):
                return Written(tokens, False, timed_out)
            if pause is not None and pause(len(tokens)):
                return None
            token = self._next_token(self._step)
            if token is None:
                return Written(tokens, False, deadline is not None and time.monotonic() >= deadline)
            if token in self._ends:
                return Written(tokens, True, False)
            tokens.append(token)
            self._step = [token]
        return Written(tokens, False, False)


def _is_over(_: Sequence[int]) -> int | None:
    raise ModelError('a text was to go on that had ended: another one was begun, or caches were freed')
