"""The report of a fleet: one page, from which the reports of the replays are a click away."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stprune_ros.replay.page import render

PAGES = Path(__file__).with_name('pages')


def fleet_page(found: Mapping[str, Any]) -> str:
    """The page; ``found`` is the content of fleet.json."""
    folders = [run['folder'] for bag in found['bags'] for run in bag['runs']]
    links = {folder: f'{quote(folder, safe="/=,")}/report.html' for folder in folders if folder}
    hints = sorted({hint for setting in found['settings'] for hint in setting['hints']})
    return render('fleet.html.jinja', '', PAGES, found=found, links=links, hints=hints)
