"""The pages of README and docs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / 'README.md'
PAGES = [README, ROOT / 'SECURITY.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md'))]
RESULTS = ROOT / 'benchmark' / 'results'


def text_of(page: Path) -> str:
    return page.read_text(encoding='utf-8')


def words_of(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r'^```.*?^```', '', text_of(page), flags=re.MULTILINE | re.DOTALL)
