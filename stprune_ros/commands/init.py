"""The command `stprune init`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stprune_ros.arguments import positive, require_rclpy
from stprune_ros.results import Show

HELP = 'write a parameter file for the rig that a bag or a running vehicle shows'


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument('bag', type=Path, nargs='?', metavar='BAG', help='a rosbag2 folder, or one .mcap or .db3 file')
    source.add_argument('--live', action='store_true', help='listen to the running vehicle instead')
    command.add_argument(
        '--output', type=Path, default=Path('my.param.yaml'), metavar='FILE', help='default: %(default)s'
    )
    command.add_argument(
        '--seconds', type=positive, default=5.0, help='how long to listen with --live; default: %(default)s'
    )


def run(options: argparse.Namespace, show: Show) -> int:
    """Write the file; returns 0. Raises StpruneError where no rig can be told, or a file would be replaced."""
    from stprune_ros.init.command import init_from_bag, init_live

    if options.live:
        require_rclpy('init --live')
        return init_live(options.seconds, options.output, show)
    return init_from_bag(options.bag, options.output, show)
