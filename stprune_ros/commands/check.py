"""The command `stprune check`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stprune_ros.arguments import memory, size
from stprune_ros.results import Show

HELP = 'check a parameter file'


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument('file', type=Path, metavar='FILE', help='a ROS 2 parameter file')
    command.add_argument(
        '--model',
        action='store_true',
        help="check the model folder too, and print what it takes of the device's memory",
    )
    command.add_argument(
        '--image', type=size, default=(1920, 1080), metavar='WxH', help='camera images for --model; default: 1920x1080'
    )
    command.add_argument(
        '--memory', type=memory, metavar='SIZE', help='as --model, but for another machine with so much free, as 15GiB'
    )


def run(options: argparse.Namespace, show: Show) -> int:
    """Check the file; returns 0 without a problem, else 1. Raises StpruneError where it cannot be read."""
    from stprune_ros.check import check

    width, height = options.image
    return check(options.file, options.model or options.memory is not None, (height, width), options.memory, show)
