"""The command `stprune eval`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from stprune_ros.arguments import count, load_settings, names, ratios, say, with_host
from stprune_ros.errors import StpruneError
from stprune_ros.preflight import require_file
from stprune_ros.pruning.config import METHOD_NAMES
from stprune_ros.resources import resource_path
from stprune_ros.results import Show
from stprune_ros.settings.parameters import ENGINE_NAMES
from stprune_ros.settings.settings import Settings

HELP = 'answers kept against tokens kept, for every pruning method'
UNTOUCHED = 1_021_000  # scenes of ringworld from this one on were never looked at while methods were made or chosen
KEEPS, DATASET_KEEPS = (0.5, 0.25, 0.1, 0.05, 0.02), (0.1,)
DATASETS = ('drivelm', 'lingoqa', 'nuinstruct')
DATASET_PROMPT = 'config/prompts/questions.yaml'
# Options of one of the two.
OF_RINGWORLD = ('scenes', 'first_seed', 'world')
OF_DATASETS = ('data', 'limit', 'frames', 'judge')


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument(
        '--output',
        type=Path,
        metavar='FILE',
        help='the result as JSON, with tables of other hosts and worlds that it has; a plot and answers go beside it; '
        'default with --dataset: NAME.json',
    )
    command.add_argument(
        '--methods',
        '--method',
        type=names,
        metavar='A,B',
        help='methods, with switches (the default of the node is st_prune_joint+ring+gauge; st_prune+keep_one_copy,'
        ' st_prune+all), a knob (dart+pivots=8), the question '
        '(dart+text), or fewer images and pixels, as --params gives them (uniform+refresh, uniform+side); default: '
        'every method, every switch alone and all together, all questions, all that was tuned; with --dataset that of '
        '--params',
    )
    command.add_argument(
        '--keep',
        type=ratios,
        metavar='R,R',
        help='beside all tokens; default: 0.5,0.25,0.1,0.05,0.02; with --dataset 0.1',
    )
    command.add_argument('--scenes', type=count, metavar='N', help='held-out scenes; default: 500')
    command.add_argument('--first-seed', type=count, metavar='N', help=f'of scenes nobody used; default: {UNTOUCHED}')
    command.add_argument('--world', choices=('ringworld', 'hard'), help='see `stprune world`; default: ringworld')
    command.add_argument('--dataset', choices=DATASETS, help='questions of a public set in place of ringworld')
    command.add_argument('--data', type=Path, metavar='FOLDER', help='where that set lies, or its file of questions')
    command.add_argument(
        '--limit', type=count, metavar='N', help='only the first N questions of the file that can be asked'
    )
    command.add_argument(
        '--frames', type=count, metavar='N', help='instants shown at most; default: 4 of drivelm, all of other sets'
    )
    command.add_argument(
        '--judge', metavar='WHAT', help='a folder with a text classifier such as Lingo-Judge, or MODULE:FUNCTION'
    )
    command.add_argument(
        '--host',
        '--model',
        metavar='NAME',
        help='a model folder, or a bundled model by its name; default: that of --params',
    )
    command.add_argument('--engine', choices=ENGINE_NAMES, help='what runs the model; default: that of --params')
    command.add_argument(
        '--resume',
        action='store_true',
        help='ask only what the answers beside --output lack: scenes, methods, keep ratios',
    )
    command.add_argument(
        '--seeds', type=count, metavar='N', help='runs of what draws lots; default: 3; with --dataset 1'
    )
    command.add_argument('--params', type=Path, metavar='FILE', help='parameter file, for model and weights')
    command.add_argument(
        '--workers', type=count, metavar='N', help='default: one for each core; with --dataset only beside --address'
    )
    command.add_argument('--address', metavar='A', help='evaluate on a running Ray cluster, see `stprune fleet`')


def run(options: argparse.Namespace, show: Show) -> int:
    """Evaluate and add the table to the file; returns 0. Raises StpruneError where the plan cannot be run."""
    _refuse_foreign(options)
    values = with_host(load_settings(options.params), options.host)
    if options.engine is not None:
        values = values.changed({'model.engine': options.engine})
    if options.address is not None:
        from stprune_ros.fleet.cluster import require_ray

        require_ray()
    if values.prompt.calibration:
        say("'prompt.calibration' is not used: it is for the hint at one keep ratio, and more is asked here")
        values = values.changed({'prompt.calibration': ''})
    run_it = _run_dataset if options.dataset else _run_ringworld
    if options.address is None:
        return run_it(options, values, show)
    from stprune_ros.fleet.interrupts import stopped_once

    with stopped_once():
        return run_it(options, values, show)


def _run_ringworld(options: argparse.Namespace, values: Settings, show: Show) -> int:
    from stprune_ros.evaluation.variants import VARIANTS, config_of, name_of
    from stprune_ros.vlm.loading import loading_text, require_model

    require_file(options.output)
    methods = options.methods or (*(method for method in METHOD_NAMES if method != 'none'), *VARIANTS)
    for method in methods:
        config_of(method, 1.0, 0, values)
    require_model(values)
    say(loading_text(values))
    from stprune_ros.evaluation.fidelity import EvaluationPlan, evaluate_methods
    from stprune_ros.evaluation.result_file import add_table, beside, write_plot
    from stprune_ros.evaluation.ringworld_cases import RingworldCases
    from stprune_ros.evaluation.tables import to_markdown
    from stprune_ros.results import write_json

    plan = EvaluationPlan(methods, options.keep or KEEPS, options.seeds or 3)
    default, world = name_of(values.pruning), options.world or 'ringworld'
    source = RingworldCases(options.scenes or 500, options.first_seed or UNTOUCHED, world)
    evaluating = None
    if options.address is not None:
        from stprune_ros.fleet.scenes import on_ray

        evaluating = on_ray(options.address, options.workers)
    workers = options.workers or os.cpu_count() or 1
    found = evaluate_methods(source, plan, values, workers, options.output, options.resume, say, evaluating)
    write_json(options.output, add_table(options.output, default, found))
    plot = beside(options.output, found['host'], world, '.png')
    write_plot(found, default, plot)
    answers = beside(options.output, found['host'], world, '.hits.npz')
    show(to_markdown(found, default), {'files': [options.output, plot, answers], 'default': default, 'table': found})
    return 0


def _run_dataset(options: argparse.Namespace, values: Settings, show: Show) -> int:
    from stprune_ros.evaluation.variants import config_of, name_of
    from stprune_ros.vlm.loading import DEFAULT_PROMPT, loading_text, model_path, prompt_file, require_model

    output = options.output or Path(f'{options.dataset}.json')
    require_file(output)
    methods = options.methods or (name_of(values.pruning),)
    for method in methods:
        config_of(method, 1.0, 0, values)
    require_model(values)
    own = values.prompt.file or prompt_file(model_path(values), values.model.revision)
    if own == resource_path(DEFAULT_PROMPT):
        values = values.changed({'prompt.file': str(resource_path(DATASET_PROMPT))})
    from stprune_ros.evaluation.datasets.command import DatasetPlan
    from stprune_ros.evaluation.datasets.command import run as run_dataset

    plan = DatasetPlan(
        name=options.dataset,
        data=options.data,
        output=output,
        methods=methods,
        keeps=options.keep or DATASET_KEEPS,
        seeds=options.seeds or 1,
        limit=options.limit,
        frames=options.frames,
        judge=options.judge,
        resume=options.resume,
    )
    say(loading_text(values))
    if options.address is None:
        return run_dataset(plan, values, show, say)
    from stprune_ros.fleet.moments import on_ray

    return run_dataset(plan, values, show, say, on_ray(options.address, options.workers))


def _refuse_foreign(options: argparse.Namespace) -> None:
    """Raise StpruneError for an option that would be of no effect, and where one is missing."""
    foreign = OF_RINGWORLD if options.dataset else OF_DATASETS
    given = [f'--{name.replace("_", "-")}' for name in foreign if getattr(options, name) is not None]
    if given and options.dataset:
        raise StpruneError(f'{given[0]} is of ringworld; omit it, or --dataset')
    if given:
        raise StpruneError(f'{given[0]} is of data sets; name one with --dataset')
    if options.dataset and options.workers is not None and options.address is None:
        raise StpruneError(f'--workers {options.workers} needs --address: without a Ray cluster one process asks a set')
    if options.dataset and options.data is None:
        raise StpruneError(f'--dataset {options.dataset} needs --data FOLDER: where the set lies on this computer')
    if not options.dataset and options.output is None:
        raise StpruneError('`stprune eval` needs --output FILE, for the result as JSON')
