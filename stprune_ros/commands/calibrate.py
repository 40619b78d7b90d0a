"""The command `stprune calibrate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stprune_ros.arguments import add_pruning, changed_settings, positive
from stprune_ros.preflight import require_file, require_other
from stprune_ros.results import Show

HELP = 'fit the probabilities of hints to drives whose truth is known'


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument('bags', type=Path, nargs='+', metavar='BAG', help='rosbag2 folders, .mcap or .db3 files')
    command.add_argument(
        '--held-out',
        type=Path,
        nargs='+',
        default=[],
        metavar='BAG',
        help='bags to judge on; default: the last third of those above',
    )
    command.add_argument(
        '--truth',
        type=Path,
        metavar='FILE',
        help='CSV with stamp_ns, behavior and bag, or truth.json; default: the truth.json beside each bag',
    )
    command.add_argument(
        '--tolerance',
        type=positive,
        default=20.0,
        metavar='MS',
        help='how far a stamp of the truth may be from a tick; default: %(default)s',
    )
    command.add_argument(
        '--content-free', action='store_true', help='first take off what the model says of grey pictures'
    )
    command.add_argument(
        '--output',
        type=Path,
        required=True,
        metavar='FILE',
        help='for prompt.calibration; a plot goes beside it as PNG',
    )
    add_pruning(command)


def run(options: argparse.Namespace, show: Show) -> int:
    """Calibrate and write the file; returns 0. Raises StpruneError where nothing can be fitted."""
    values = changed_settings(options)
    require_file(options.output, '.yaml')
    require_other(options.output, {'truth': options.truth, 'parameter file': options.params})
    from stprune_ros.calibrate.command import CalibrationPlan
    from stprune_ros.calibrate.command import run as calibrate

    plan = CalibrationPlan(
        tuple(options.bags),
        tuple(options.held_out),
        options.truth,
        options.tolerance,
        options.content_free,
        options.output,
    )
    return calibrate(plan, values, show)
