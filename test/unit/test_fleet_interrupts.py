"""Signals to stop: the first one is an interruption, and no other one disturbs what follows from it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from stprune_ros.fleet.interrupts import STOPPING, own_handlers, stopped_once, unstoppable


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in STOPPING]


@pytest.mark.parametrize('first', STOPPING)
@pytest.mark.parametrize('second', STOPPING)
def test_the_first_one_interrupts_and_others_change_nothing(first: signal.Signals, second: signal.Signals):
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(first)
        finally:
            signal.raise_signal(second)
            cleaned.append(True)

    with pytest.raises(KeyboardInterrupt), stopped_once():
        work()
    signal.raise_signal(second)
    assert cleaned, 'and nothing stops what is said at the end'


def test_without_one_all_is_as_before():
    before = handlers()
    with stopped_once():
        assert handlers() != before
        with unstoppable():
            for number in STOPPING:
                signal.raise_signal(number)
        with own_handlers():
            signal.signal(signal.SIGTERM, lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert handlers() == [signal.SIG_IGN] * 2
    for number in STOPPING:
        signal.signal(number, before[0])
    with stopped_once():
        pass
    assert handlers() == before


def test_how_ray_answers_is_an_interruption():
    """While it starts SIGTERM ends the process."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(number)

    def start() -> None:
        signal.signal(signal.SIGTERM, end)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt), stopped_once(), own_handlers():
        start()
    assert handlers() == [signal.SIG_IGN] * 2
