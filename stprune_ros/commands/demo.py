"""The command `stprune demo`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from stprune_ros.arguments import demo_values, positive, require_rclpy, seed
from stprune_ros.commands.world import DEMO_SEED
from stprune_ros.preflight import require_folder
from stprune_ros.results import Show

HELP = 'make a small world, run node and replay on it, leave a report'


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument('--output', type=Path, default=Path('demo_output'), metavar='DIR', help='default: %(default)s')
    command.add_argument('--seed', type=seed, default=DEMO_SEED, help='which world; default: %(default)s')
    command.add_argument('--seconds', type=positive, default=12.0, help='how long a drive; default: %(default)s')
    command.add_argument('--params', type=Path, metavar='FILE', help='parameter file for node and replay')


def run(options: argparse.Namespace, show: Show) -> int:
    """Run the demo; returns 0. Raises StpruneError where a half of it did not work."""
    values = demo_values(options.params)
    require_rclpy('demo')
    require_folder(options.output)
    # The bundled model is too small for two threads to help it, and node and replay shall compute alike.
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    from stprune_ros.demo import demo

    return demo(options.output, seed=options.seed, seconds=options.seconds, values=values, show=show)
