"""The command `stprune eval`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from stprune_ros.arguments import count, load_settings, names, ratios, say, with_host
from stprune_ros.preflight import require_file
from stprune_ros.pruning.config import METHOD_NAMES
from stprune_ros.results import Show

HELP = 'answers kept against tokens kept, for every pruning method'
UNTOUCHED = 1_021_000  # scenes of ringworld from this one on were never looked at while methods were made or chosen


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument(
        '--output',
        type=Path,
        required=True,
        metavar='FILE',
        help='the result as JSON, with tables of other hosts and worlds that it has; a plot and answers go beside it',
    )
    command.add_argument(
        '--methods',
        type=names,
        metavar='A,B',
        help='methods, with switches (st_prune+keep_one_copy, st_prune+all), a knob (dart+pivots=8), the question '
        '(dart+text), or fewer images and pixels, as --params gives them (uniform+refresh, uniform+side); default: '
        'every method, every switch alone and all together, all questions, all that was tuned',
    )
    command.add_argument(
        '--keep',
        type=ratios,
        default=(0.5, 0.25, 0.1, 0.05, 0.02),
        metavar='R,R',
        help='beside all tokens; default: 0.5,0.25,0.1,0.05,0.02',
    )
    command.add_argument('--scenes', type=count, default=500, metavar='N', help='held-out scenes; default: %(default)s')
    command.add_argument(
        '--first-seed', type=count, default=UNTOUCHED, metavar='N', help='of scenes nobody used; default: %(default)s'
    )
    command.add_argument(
        '--world', choices=('ringworld', 'hard'), default='ringworld', help='see `stprune world`; default: %(default)s'
    )
    command.add_argument(
        '--host', metavar='NAME', help='a model folder, or a bundled model by its name; default: that of --params'
    )
    command.add_argument(
        '--resume', action='store_true', help='go on where an interrupted run with the same plan ended'
    )
    command.add_argument(
        '--seeds', type=count, default=3, metavar='N', help='runs of what draws lots; default: %(default)s'
    )
    command.add_argument('--params', type=Path, metavar='FILE', help='parameter file, for model and weights')
    command.add_argument('--workers', type=count, default=os.cpu_count(), metavar='N', help='default: %(default)s')


def run(options: argparse.Namespace, show: Show) -> int:
    """Evaluate and add the table to the file; returns 0. Raises StpruneError where the plan cannot be run."""
    from stprune_ros.evaluation.variants import VARIANTS, config_of, name_of
    from stprune_ros.vlm.loading import loading_text, require_model

    values = with_host(load_settings(options.params), options.host)
    require_file(options.output)
    if values.prompt.calibration:
        say("'prompt.calibration' is not used: it is for the hint at one keep ratio, and more is asked here")
        values = values.changed({'prompt.calibration': ''})
    methods = options.methods or (*(method for method in METHOD_NAMES if method != 'none'), *VARIANTS)
    for method in methods:
        config_of(method, 1.0, 0, values)
    require_model(values)
    say(loading_text(values))
    from stprune_ros.evaluation import fidelity
    from stprune_ros.evaluation.ringworld_cases import RingworldCases
    from stprune_ros.evaluation.tables import to_markdown
    from stprune_ros.results import write_json

    plan, default = fidelity.EvaluationPlan(methods, options.keep, options.seeds), name_of(values.pruning)
    source = RingworldCases(options.scenes, options.first_seed, options.world)
    found = fidelity.evaluate_methods(source, plan, values, options.workers, options.output, options.resume, say)
    write_json(options.output, fidelity.add_table(options.output, default, found))
    plot = fidelity.beside(options.output, found['host'], options.world, '.png')
    fidelity.write_plot(found, default, plot)
    answers = fidelity.beside(options.output, found['host'], options.world, '.hits.npz')
    show(to_markdown(found, default), {'files': [options.output, plot, answers], 'default': default, 'table': found})
    return 0
