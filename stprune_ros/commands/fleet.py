"""The command `stprune fleet`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stprune_ros.arguments import at_least_0, count, load_settings, memory
from stprune_ros.preflight import require_folder
from stprune_ros.results import Show

HELP = 'replay many bags, under many settings, on all cores of this machine or on a Ray cluster'


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument(
        'bags', nargs='+', metavar='BAG', help='bag folders or files, folders that hold some at any depth, or patterns'
    )
    command.add_argument(
        '--output',
        type=Path,
        required=True,
        metavar='DIR',
        help='for a folder per bag and setting, as of `stprune replay`, and fleet.html, fleet.json, fleet.parquet',
    )
    command.add_argument('--params', type=Path, metavar='FILE', help='parameter file, as for the node')
    command.add_argument(
        '--sweep',
        action='append',
        default=[],
        metavar='NAME=A,B',
        help='run every bag with each value of a parameter, as in pruning.keep_ratio=0.05,0.1; more than once: all'
        ' combinations',
    )
    command.add_argument('--resume', action='store_true', help='run only what is missing in --output')
    command.add_argument(
        '--window',
        type=at_least_0,
        metavar='SECONDS',
        help='bags of more than twice this length are split into parts of about this length, with the same results; 0:'
        ' never; default: 600',
    )
    command.add_argument(
        '--patience',
        type=at_least_0,
        default=1800.0,
        metavar='SECONDS',
        help='a worker that gets no further for so long is replaced; 0: never; default: %(default)g',
    )
    add_cluster(command)
    command.add_argument(
        '--num-gpus',
        type=at_least_0,
        metavar='G',
        help='GPUs of each worker, 0.5 for two workers on one; default: 1 where there are some and model.device allows',
    )
    command.add_argument(
        '--per-task-memory', type=memory, default=0, metavar='M', help='of each worker, as in 8GiB; default: not said'
    )


def add_cluster(command: argparse.ArgumentParser) -> None:
    """Declare where workers run, and how many."""
    command.add_argument(
        '--address',
        default='',
        metavar='A',
        help='of a Ray cluster that runs: host:port, or auto for the one of this machine; default: one of our own',
    )
    command.add_argument('--workers', type=count, metavar='N', help='default: as many as there are cores, or GPUs')
    command.add_argument(
        '--threads', type=count, default=1, metavar='N', help='cores of each worker; default: %(default)s'
    )


def run(options: argparse.Namespace, show: Show) -> int:
    """Run a fleet; returns 0. Raises StpruneError where it cannot be planned or begun, or a replay failed."""
    from stprune_ros.fleet.cluster import require_ray
    from stprune_ros.fleet.plan import find_drives, require_apart, settings_of

    require_ray()
    settings = settings_of(load_settings(options.params), options.sweep)
    drives = find_drives(options.bags)
    for drive in drives:
        require_folder(options.output, drive.path)
    require_apart(options.output, options.bags, drives)
    from stprune_ros.fleet import command
    from stprune_ros.fleet.command import FleetOptions
    from stprune_ros.fleet.interrupts import stopped_once

    given = FleetOptions(
        output=options.output,
        resume=options.resume,
        address=options.address,
        workers=options.workers,
        threads=options.threads,
        gpus=options.num_gpus,
        memory=options.per_task_memory,
        window_s=options.window,
        patience_s=options.patience,
    )
    with stopped_once():
        return command.run(drives, settings, given, show)
