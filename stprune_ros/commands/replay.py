"""The command `stprune replay`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stprune_ros.arguments import add_pruning, changed_settings
from stprune_ros.preflight import require_folder
from stprune_ros.results import Show

HELP = 'run on a recorded bag, as fast as it goes and without drops'


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument('bag', type=Path, metavar='BAG', help='a rosbag2 folder, or one .mcap or .db3 file')
    command.add_argument(
        '--output', type=Path, required=True, metavar='DIR', help='for results.mcap, summary.json, report.html'
    )
    add_pruning(command)


def run(options: argparse.Namespace, show: Show) -> int:
    """Replay a bag; returns 0. Raises StpruneError where nothing could be inferred."""
    values = changed_settings(options)
    require_folder(options.output, options.bag)
    from stprune_ros.replay import command as replay_command

    return replay_command.run(options.bag, options.output, values, show)
