"""A hook of mkdocs: what pages link to outside docs/ is in the site, under repository/, and links lead there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS, SHELF = 'docs', 'repository'  # as they are called in the repository, and in the site
LINK = re.compile(r'\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)')


def on_files(files: Any, config: Any) -> Any:
    """Add what pages link to, and what those files link to in turn."""
    from mkdocs.structure.files import File, InclusionLevel

    for path in sorted(linked(f'{DOCS}/{file.src_uri}' for file in files.documentation_pages())):
        place, source = f'{SHELF}/{path}', str(ROOT / path)
        files.append(File.generated(config, place, abs_src_path=source, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links that lead to where files are in the site; a folder has no page, and its name stays."""
    place = page.file.src_uri
    source = place.removeprefix(f'{SHELF}/') if place.startswith(f'{SHELF}/') else f'{DOCS}/{place}'

    def moved(found: re.Match[str]) -> str:
        path = target(source, found[1])
        if (ROOT / path).is_dir():
            return f'] (`{path}`)'
        shelf = path.removeprefix(f'{DOCS}/') if path.startswith(f'{DOCS}/') else f'{SHELF}/{path}'
        return f']({os.path.relpath(shelf, PurePosixPath(place).parent)}{found[2] or ""})'

    return LINK.sub(moved, markdown)


def linked(pages: Iterable[str]) -> set[str]:
    """Files outside docs/ that are reached from ``pages``, all by their paths in the repository."""
    found: set[str] = set()
    waiting = list(pages)
    while waiting:
        page = waiting.pop()
        targets = {target(page, link) for link, _ in LINK.findall((ROOT / page).read_text(encoding='utf-8'))}
        new = {path for path in targets if not path.startswith(f'{DOCS}/') and (ROOT / path).is_file()} - found
        found |= new
        waiting += [path for path in new if path.endswith('.md')]
    return found


def target(page: str, link: str) -> str:
    """What a relative link of a page leads to, by its path in the repository."""
    return os.path.normpath(f'{PurePosixPath(page).parent}/{link}')
