"""The command `stprune drive`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from stprune_ros.arguments import count, load_settings, names, positive, ratios, say, seed, with_host
from stprune_ros.errors import listed
from stprune_ros.preflight import require_folder
from stprune_ros.results import Show

HELP = 'drive through ringworld by the hints, and see what becomes of it'
UNTOUCHED = 1_040_000  # worlds from this one on were never driven while the planner and the measures were made


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument(
        '--output', type=Path, required=True, metavar='DIR', help='for drive.json, drive.html and every single drive'
    )
    command.add_argument('--method', type=names, metavar='M,M', help='beside random tokens; default: that of the node')
    command.add_argument(
        '--keep',
        type=ratios,
        default=(0.25, 0.1, 0.05, 0.02),
        metavar='R,R',
        help='beside all tokens; default: 0.25,0.1,0.05,0.02',
    )
    command.add_argument('--scenes', type=count, default=10, metavar='N', help='worlds; default: %(default)s')
    command.add_argument(
        '--first-seed', type=seed, default=UNTOUCHED, metavar='N', help='the first of them; default: %(default)s'
    )
    command.add_argument(
        '--world', choices=('ringworld', 'hard'), default='ringworld', help='see `stprune world`; default: %(default)s'
    )
    command.add_argument('--params', type=Path, metavar='FILE', help='parameter file, for pruning, history and model')
    command.add_argument('--host', metavar='NAME', help='a model folder, or a bundled model by its name')
    command.add_argument(
        '--profile',
        choices=('none', 'orin_agx', 'orin_nx'),
        default='none',
        help='whose computed times delay the hints; default: %(default)s, they are out at once',
    )
    command.add_argument('--seconds', type=positive, default=20.0, help='of each drive; default: %(default)s')
    command.add_argument('--hz', type=positive, default=2.0, help='images per second and camera; default: %(default)s')
    command.add_argument(
        '--show', type=seed, metavar='SEED', help='the world of the film and the bag; default: the first one'
    )
    command.add_argument('--resume', action='store_true', help='keep the drives that an earlier run has finished')
    command.add_argument('--workers', type=count, default=os.cpu_count(), metavar='N', help='default: %(default)s')


def run(options: argparse.Namespace, show: Show) -> int:
    """Drive, and write what came of it; returns 0. Raises StpruneError where the plan cannot be run."""
    given = with_host(load_settings(options.params), options.host)
    require_folder(options.output)
    from stprune_ros.driving.command import DriveRun
    from stprune_ros.driving.command import run as drive
    from stprune_ros.driving.plan import DrivePlan, require_plan, settings_of_ringworld, sources_of
    from stprune_ros.vlm.loading import loading_text, require_model

    settings, unused = settings_of_ringworld(given)
    sources = sources_of(options.method or (settings.pruning.method,), options.keep)
    seeds = range(options.first_seed, options.first_seed + options.scenes)
    plan = DrivePlan(sources, seeds, options.world, options.seconds, options.hz)
    shown = seeds[0] if options.show is None else options.show
    require_plan(plan, shown)
    require_model(settings)
    if unused:
        say(
            f'a drive has cameras of its own, fixed ratios and no texts: of --params {listed(unused)} count for nothing'
        )
    say(loading_text(settings))
    ordered = DriveRun(plan, options.profile, options.output, options.workers, options.resume, shown)
    return drive(ordered, settings, say, show)
