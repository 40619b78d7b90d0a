"""How results are written: JSON for programs, Markdown tables for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` in one step, so that a reader never sees half a file."""
    part = path.with_name(f'{path.name}.part')
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
    part.replace(path)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table with one line for ``head`` and one for each row."""
    lines = ['| ' + ' | '.join(str(cell) for cell in line) + ' |' for line in (head, *rows)]
    lines.insert(1, '|---' * len(head) + '|')
    return '\n'.join(lines)
