"""A line about what takes longer than a second, and another now and then while it lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

FIRST_S, NEXT_S = 1.0, 10.0

Say = Callable[[str], object]  # takes a sentence for the log or the terminal, from any thread


def say_nothing(sentence: str) -> None:
    """A `Say` for whoever wants no lines."""


@contextmanager
def said_while_slow(say: Say, text: Callable[[], str]) -> Iterator[None]:
    """Call ``say(text())`` once FIRST_S seconds have passed inside, then every NEXT_S seconds, on a thread of its own.

    Nothing is said about what is done sooner, and nothing after the block.
    """
    done = Event()

    def speak() -> None:
        wait_s = FIRST_S
        while not done.wait(wait_s):
            say(text())
            wait_s = NEXT_S

    speaker = Thread(target=speak, name='progress', daemon=True)
    speaker.start()
    try:
        yield
    finally:
        done.set()
        speaker.join()
