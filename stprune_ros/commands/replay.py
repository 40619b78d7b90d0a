"""The command `stprune replay`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stprune_ros.arguments import add_pruning, changed_settings, stamp
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
    command.add_argument(
        '--from', type=stamp, dest='from_ns', metavar='T', help='first stamp to infer, in seconds; default: the first'
    )
    command.add_argument(
        '--until', type=stamp, dest='until_ns', metavar='T', help='last stamp to infer, in seconds; default: the last'
    )


def run(options: argparse.Namespace, show: Show) -> int:
    """Replay a bag; returns 0. Raises StpruneError where nothing could be inferred."""
    values = changed_settings(options)
    require_folder(options.output, options.bag)
    from stprune_ros.replay import command as replay_command
    from stprune_ros.replay.moment import LATEST_NS, Span

    span = Span(options.from_ns or 0, LATEST_NS if options.until_ns is None else options.until_ns)
    return replay_command.run(options.bag, options.output, values, show, span)
