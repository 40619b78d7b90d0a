"""Tables of a documentation page that `stprune bench --page` writes: each between two comments, the first of which
names it: ``<!-- bench: NAME -->`` and ``<!-- /bench -->``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from stprune_ros.errors import StpruneError
from stprune_ros.results import replaced_at_once

BLOCK = re.compile(r'<!-- bench: (?P<name>[^\n]*?) -->\n.*?<!-- /bench -->', re.DOTALL)


def names(text: str) -> list[str]:
    """The names of a page's tables in order."""
    return [match['name'] for match in BLOCK.finditer(text)]


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """The page with what ``blocks`` hold between their marks; other tables stay as they are."""

    def replace(match: re.Match[str]) -> str:
        name = match['name']
        return f'<!-- bench: {name} -->\n{blocks[name]}\n<!-- /bench -->' if name in blocks else match[0]

    return BLOCK.sub(replace, text)


def require_page(path: Path) -> None:
    """Raise StpruneError where a page is not there or has no marks for a table."""
    if not path.is_file():
        raise StpruneError(f"there is no page '{path}'")
    if not names(path.read_text(encoding='utf-8')):
        raise StpruneError(f"page '{path}' has no mark for a table of stprune bench")


def write_page(path: Path, blocks: Mapping[str, str]) -> None:
    """Fill a page in one step."""
    text = filled(path.read_text(encoding='utf-8'), blocks)
    with replaced_at_once(path) as part:
        part.write_text(text, encoding='utf-8')
