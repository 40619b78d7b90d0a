"""Ctrl-C and SIGTERM where there is something to clean up: the first one counts, whoever is impatient."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopped_once() -> Iterator[None]:
    """Within the block the first signal to stop raises KeyboardInterrupt, and those after it change nothing any more.

    Raised while Ray ends or the index is written, another one would leave half of that.
    """

    before = _handlers()

    def stop(*_: object) -> None:
        _ignore()
        raise KeyboardInterrupt

    _handle(dict.fromkeys(STOPPING, stop))
    try:
        yield
    finally:
        is_stopped = signal.SIG_IGN in _handlers().values()
        _handle({} if is_stopped else before)


@contextmanager
def unstoppable() -> Iterator[None]:
    """Signals to stop change nothing within the block, which is short."""
    before = _handlers()
    _ignore()
    try:
        yield
    finally:
        _handle(before)


@contextmanager
def own_handlers() -> Iterator[None]:
    """What the block, which starts Ray, puts in the places of our handlers is gone behind it."""
    before = _handlers()
    try:
        yield
    except SystemExit:  # how Ray answers SIGTERM from then on
        _ignore()
        raise KeyboardInterrupt from None
    _handle(before)


def _handlers() -> dict[signal.Signals, Any]:
    return {number: signal.getsignal(number) for number in STOPPING}


def _ignore() -> None:
    _handle(dict.fromkeys(STOPPING, signal.SIG_IGN))


def _handle(by_number: Mapping[signal.Signals, Any]) -> None:
    for number, handler in by_number.items():
        signal.signal(number, handler)
