"""How results are written: JSON for programs, Markdown tables for people."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Takes what a command found: a text for people, and the same as JSON data, whose keys are added to those before.
Show = Callable[[str, Mapping[str, Any]], None]


@contextmanager
def replaced_at_once(path: Path) -> Iterator[Path]:
    """Yield a file to write beside ``path``, which takes its place at the end: a reader never sees half a file.

    Where writing fails ``path`` stays as it was.
    """
    part = path.with_name(f'{path.name}.part')
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` in one step.

    What is no Unicode, such as the name of a file on an old disk, comes back as it was: it stands there escaped.
    """
    with replaced_at_once(path) as part:
        text = json.dumps(content, indent=2, ensure_ascii=False) + '\n'
        part.write_text(text, encoding='utf-8', errors='backslashreplace')


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table with one line for ``head`` and one for each row."""
    lines = ['| ' + ' | '.join(str(cell) for cell in line) + ' |' for line in (head, *rows)]
    lines.insert(1, '|---' * len(head) + '|')
    return '\n'.join(lines)


def as_json(content: Mapping[str, Any]) -> str:
    """``content`` as one line of strict JSON: what is not finite becomes null, a path its text."""
    return json.dumps(_strict(content), ensure_ascii=False, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value
