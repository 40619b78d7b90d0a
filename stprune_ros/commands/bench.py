"""The command `stprune bench`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stprune_ros.preflight import require_file
from stprune_ros.results import Show

HELP = 'time and memory of selection and ticks, side by side in one run'


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument(
        '--output', type=Path, required=True, metavar='FILE', help='the result as JSON; a plot goes beside it as PNG'
    )
    extent = command.add_mutually_exclusive_group()
    extent.add_argument('--quick', action='store_true', help='under a minute: fewer sizes, a single layer of a model')
    extent.add_argument(
        '--whole', action='store_true', help='an hour: also models with all their layers, 16 GiB of memory'
    )
    extent.add_argument('--gpu', action='store_true', help='minutes: percentiles of whole models on a GPU; no plot')
    extent.add_argument('--engines', action='store_true', help='minutes: ticks of one model on every engine; no plot')
    extent.add_argument(
        '--selection', action='store_true', help='a minute: selections in turn, against DivPrune; no plot'
    )
    extent.add_argument(
        '--memory', action='store_true', help='minutes: what is counted for a 3B model, and what it takes; no plot'
    )
    command.add_argument(
        '--page', type=Path, nargs='+', default=[], metavar='FILE', help='pages whose marked tables are written anew'
    )


def run(options: argparse.Namespace, show: Show) -> int:
    """Measure and write the result; returns 0. Raises StpruneError where what is asked for cannot be measured here."""
    require_file(options.output)
    from stprune_ros.bench.command import run_bench

    return run_bench(options, show)
