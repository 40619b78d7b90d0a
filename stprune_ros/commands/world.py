"""The command `stprune world`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stprune_ros.arguments import positive, seed
from stprune_ros.results import Show

HELP = 'write a bag of the small synthetic world, with its truth'
DEMO_SEED = 1_000_004  # slows down, stops and drives on, and is not among those that the bundled model was trained on


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument('output', type=Path, metavar='OUT', help='folder of the new bag')
    command.add_argument('--seed', type=seed, default=DEMO_SEED, help='which world; default: %(default)s')
    command.add_argument('--seconds', type=positive, default=20.0, help='how long a drive; default: %(default)s')
    command.add_argument('--hz', type=positive, default=10.0, help='images per second and camera; default: %(default)s')
    command.add_argument('--rolling', action='store_true', help='fire the cameras one after another instead of at once')
    command.add_argument('--hard', action='store_true', help='night, rain, fog, look-alikes, three times the traffic')


def run(options: argparse.Namespace, show: Show) -> int:
    """Write the bag; returns 0. Raises StpruneError where the folder is taken."""
    from stprune_ros.ringworld.recording import record_world

    record_world(options.output, options.seed, options.seconds, options.hz, options.rolling, options.hard)
    show(
        f"wrote '{options.output}', {options.seconds:g} s at {options.hz:g} Hz, with truth.json in it",
        {'files': [options.output], 'seed': options.seed, 'seconds': options.seconds, 'hz': options.hz},
    )
    return 0
