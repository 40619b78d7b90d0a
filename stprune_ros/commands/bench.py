"""The command `stprune bench`."""

from __future__ import annotations

import argparse
from pathlib import Path

from stprune_ros.errors import Interrupted
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
    extent.add_argument('--engines', action='store_true', help='minutes: a 0.6B model on every engine; no plot')


def run(options: argparse.Namespace, show: Show) -> int:
    """Measure and write the result; returns 0. Raises StpruneError where what is asked for cannot be measured here."""
    require_file(options.output)
    from stprune_ros.bench import bench, engines, gpu, report
    from stprune_ros.results import write_json

    plot = options.output.with_suffix('.png')
    files = [options.output]
    if options.gpu:
        gpu.require_gpu()
        result, to_markdown = gpu.bench_gpu(), gpu.to_markdown
    elif options.engines:
        result, to_markdown = engines.bench_engines(), engines.to_markdown
    else:
        result, to_markdown = bench.bench(options.quick, options.whole), report.to_markdown
        report.write_plot(result, plot)
        files.append(plot)
    write_json(options.output, result)
    found = {'files': files, 'bench': result}
    show(to_markdown(result), found)
    if result.get('interrupted'):
        cells = len(result['selection']) + len(result['ticks'])
        raise Interrupted(f"interrupted after {cells} cells: what was measured is in '{options.output}'", found)
    return 0
