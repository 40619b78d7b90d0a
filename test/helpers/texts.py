"""Texts that do something else while they are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stprune_ros.vlm.backend import Backend, Generated, Text

Write = Callable[..., Generated | None]


class ChangedText:
    """Another text, written by ``write``, which gets the text's own ``write`` and what that would."""

    def __init__(self, text: Text, write: Write) -> None:
        self._text, self._write = text, write

    def write(self, *arguments: Any, **named: Any) -> Generated | None:
        return self._write(self._text.write, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._text, name)


def with_changed_texts(backend: Backend, write: Write) -> Callable[..., ChangedText]:
    """In place of the backend's `begin`."""
    begin = backend.begin
    return lambda *arguments: ChangedText(begin(*arguments), write)
