"""HTML pages from the templates in pages/: each one file that reaches for nothing outside, whatever is written in it.

Everything that comes from bags, models and parameters is escaped; a policy in the page itself lets only its own script
run and only its own pictures show.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stprune_ros.replay.records import stamp_text, words

PAGES = Path(__file__).with_name('pages')


def render(template: str, script: str, folder: Path = PAGES, **context: Any) -> str:
    """A page from a template in ``folder`` and the name of a script beside it, '' for none.

    What all scripts need comes before it.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, PAGES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies['json.dumps_kwargs'] = {'sort_keys': False}  # cameras stay in ring order
    environment.filters |= {'words': words, 'stamp': stamp_text, 'short': short, 'counted': counted}
    scripts = (PAGES / 'elements.js', folder / script) if script else ()
    code = '\n'.join(file.read_text(encoding='utf-8') for file in scripts)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return environment.get_template(template).render(
        style=(PAGES / 'style.css').read_text(encoding='utf-8'),
        script=code,
        script_policy=f"'sha256-{digest}'" if code else "'none'",
        **context,
    )


def picture_data(jpeg: bytes) -> str:
    """A JPEG as it may stand in a page."""
    return f'data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}'


def short(value: float | None, digits: int = 1) -> str:
    """A number as tables show it, 'n/a' where there is none."""
    return 'n/a' if value is None else f'{value:.{digits}f}'


def counted(number: int, noun: str) -> str:
    """A number of things, whose plural takes an s."""
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def runs(values: Sequence[str]) -> list[tuple[str, int, int]]:
    """Stretches of equal values: value, first index and the index behind the last one."""
    found = []
    for value, indices in groupby(range(len(values)), key=values.__getitem__):
        stretch = list(indices)
        found.append((value, stretch[0], stretch[-1] + 1))
    return found
