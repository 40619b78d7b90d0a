"""How results are written: JSON for programs, Markdown tables for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
    """Write ``content`` in one step."""
    with replaced_at_once(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table with one line for ``head`` and one for each row."""
    lines = ['| ' + ' | '.join(str(cell) for cell in line) + ' |' for line in (head, *rows)]
    lines.insert(1, '|---' * len(head) + '|')
    return '\n'.join(lines)
