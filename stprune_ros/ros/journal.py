"""The node's log: each sentence once, and faults that repeat with their number."""

from __future__ import annotations

import re
from typing import Any

# Numbers, but not those in something quoted, which is a name, nor in a word.
NUMBER = re.compile(r"'[^']*'|(?<!\w)\d+")
MAX_KNOWN = 1000


class Journal:
    """Writes to an rclpy logger; for any thread."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._known: set[str] = set()

    def warn_once(self, text: str) -> None:
        """Log a warning unless the same was logged before; other numbers do not make another sentence."""
        if self._is_new(text):
            self._logger.warning(text)

    def forget(self) -> None:
        """What still holds will be said again."""
        self._known.clear()

    def _is_new(self, text: str) -> bool:
        kind = kind_of(text)
        if kind in self._known:
            return False
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known.add(kind)
        return True


class Episode:
    """A fault that comes again and again until it is over: said the first, tenth, hundredth ... time, and at its end.

    Another kind of fault is said at once, too. For one thread.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._kind = ''
        self.count = 0

    def again(self, sentence: str) -> None:
        """It happened (again)."""
        self.count += 1
        if kind_of(sentence) != self._kind or self.count in (10, 100, 1000) or self.count % 10000 == 0:
            self._kind = kind_of(sentence)
            times = '' if self.count == 1 else f' ({self.count} times in a row)'
            self._logger.error(f'{sentence}{times}')

    def over(self, what: str) -> None:
        """``what`` works again; says so where it did not."""
        if self.count:
            self._logger.info(f'{what} works again after {self.count} failures')
        self.count, self._kind = 0, ''


def kind_of(text: str) -> str:
    """The sentence without its numbers: they do not make another trouble of it, as another name does."""
    return NUMBER.sub(lambda found: found[0] if found[0].startswith("'") else '#', text)
