"""A hook of mkdocs: links that leave docs/ lead to the file in the repository."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r'\]\(\.\./([^)\s]+)\)')


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """The page with every ``](../path)`` turned into a link to the repository of ``repo_url``."""
    return OUTSIDE.sub(lambda found: f']({config.repo_url}/blob/main/{found[1]})', markdown)
