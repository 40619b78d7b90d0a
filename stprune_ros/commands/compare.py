"""The command `stprune compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stprune_ros.errors import SettingsError
from stprune_ros.preflight import require_folder
from stprune_ros.results import Show

HELP = 'set replays of one bag side by side: where hints differ, and what each kept there'


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument('folders', type=Path, nargs='+', metavar='DIR', help='output folders of `stprune replay`')
    command.add_argument('--output', type=Path, required=True, metavar='DIR', help='for compare.html and compare.json')


def run(options: argparse.Namespace, show: Show) -> int:
    """Compare; returns 0. Raises StpruneError where these are not replays of one bag."""
    if len(options.folders) < 2:
        raise SettingsError(f"there is only '{options.folders[0]}': name at least two replays of one bag")
    require_folder(options.output)
    from stprune_ros.replay.compare import compare, to_text

    found = compare(options.folders, options.output)
    files = [options.output / name for name in ('compare.html', 'compare.json')]
    show(to_text(found, options.output), {'files': files, **found})
    return 0
