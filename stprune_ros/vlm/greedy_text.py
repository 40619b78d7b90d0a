"""Greedy text, token by token, whatever the engine is: its penalty, where it ends, and what cuts it short."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from threading import Event


@dataclass(frozen=True, slots=True)
class Written:
    """Tokens without the one that ended them; ``finished`` and ``timed_out`` as in `backend.Generated`."""

    tokens: list[int]
    finished: bool
    timed_out: bool


def write(
    next_token: Callable[[Sequence[int]], int | None],
    asked: Sequence[int],
    ends: Collection[int],
    limit: int,
    deadline: float | None,
    cancel: Event | None,
) -> Written:
    """At most ``limit`` tokens behind ``asked``, up to one of ``ends``; stops as `Backend.generate` does.

    ``next_token`` appends the tokens it is given and returns the most probable next one, or None where it was cut short
    by the same deadline or event.
    """
    tokens: list[int] = []
    step: Sequence[int] = asked
    while len(tokens) < limit:
        timed_out = deadline is not None and time.monotonic() >= deadline
        if timed_out or (cancel is not None and cancel.is_set()):
            return Written(tokens, False, timed_out)
        token = next_token(step)
        if token is None:
            return Written(tokens, False, deadline is not None and time.monotonic() >= deadline)
        if token in ends:
            return Written(tokens, True, False)
        tokens.append(token)
        step = [token]
    return Written(tokens, False, False)
