"""`stprune bench`: time and memory of selections and whole ticks, measured in one run, and whether the aims hold."""

from __future__ import annotations

import os
import platform
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from stprune_ros.bench import selection, ticks
from stprune_ros.bench.aims import growth_exponents, judge_aims
from stprune_ros.bench.bounds import PUBLISHED, published_bounds
from stprune_ros.bench.costs import LanguageShape
from stprune_ros.bench.selection import TIMED_METHODS, TimeLimits

DEFAULT_S, QUICK_S = 700.0, 55.0  # of a run on two idle cores
FULL_DEPTH_S = 3000.0  # for models of full depth after it

Row = dict[str, Any]


def bench(quick: bool = False, whole: bool = False) -> dict[str, Any]:
    """Run `stprune bench`; returns the content of its JSON file: measured rows, what was not measured and why, aims.

    ``quick`` runs fewer sizes and one small model; ``whole`` adds models of full depth, one tick per cell. Where it is
    interrupted the result has the rows so far, and says ``interrupted``.
    """
    started = time.monotonic()
    gpu = torch.cuda.is_available()
    sizes = selection.QUICK_SIZES if quick else selection.DEFAULT_SIZES
    limits = TimeLimits(0.3, 2.0) if quick else TimeLimits(2.0, 8.0)
    keep_ratios = ticks.QUICK_KEEP_RATIOS if quick else ticks.KEEP_RATIOS
    # Models that share the time until a deadline, and how often each cell is run.
    groups = [
        (ticks.QUICK_MODELS, started + QUICK_S, ticks.QUICK_ROUNDS)
        if quick
        else (ticks.GPU_MODELS if gpu else ticks.DEFAULT_MODELS, started + DEFAULT_S, ticks.ROUNDS)
    ]
    if whole and not gpu:
        groups.append((ticks.FULL_DEPTH_MODELS, started + DEFAULT_S + FULL_DEPTH_S, 1))
    cells = len(sizes) * (1 + len(TIMED_METHODS))
    cells += len(ticks.tick_cells(keep_ratios)) * sum(len(models) for models, _, _ in groups)
    selection_rows: list[Row] = []
    tick_rows: list[Row] = []
    interrupted = False
    try:
        with tqdm(total=cells, unit='cell', disable=not sys.stderr.isatty()) as bar:
            for found in selection.measure_selections(sizes, limits):
                selection_rows += found
                bar.update(len(found))
            for models, deadline, rounds in groups:
                for number, model in enumerate(models):
                    # What is left of the time is shared: the last model gets all that remains.
                    until = time.monotonic() + (deadline - time.monotonic()) / (len(models) - number)
                    tick_rows += ticks.measure_ticks(model, until, keep_ratios, rounds, bar.update)
    except KeyboardInterrupt:
        interrupted = True
    selections, whole_ticks = ([row for row in rows if 'reason' not in row] for rows in (selection_rows, tick_rows))
    not_measured = [row for row in (*selection_rows, *tick_rows) if 'reason' in row]
    run = {row['model'] for row in tick_rows}
    not_measured += [
        {'model': each.language.name, 'reason': _full_depth_reason(each.language)}
        for each in PUBLISHED
        if each.language.name not in run
    ]
    return {
        'device': device_description(),
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'versions': package_versions(),
        'quick': quick,
        'interrupted': interrupted,
        'seconds': round(time.monotonic() - started, 1),
        'selection': selections,
        'growth': growth_exponents(selections),
        'ticks': whole_ticks,
        'not_measured': not_measured,
        'computed': published_bounds(),
        'aims': judge_aims(selections, [] if quick else whole_ticks),  # a quick run's model has no model's size
    }


def _full_depth_reason(shape: LanguageShape) -> str:
    gib = shape.weight_bytes(ticks.FLOAT32_BYTES) / 2**30
    return f'whole depth: {gib:.0f} GiB of float32 weights, not run; see computed'


def device_description() -> dict[str, Any]:
    """Kind and name of the device that torch runs on, the number of CPU threads, and the load average of a minute."""
    load = round(os.getloadavg()[0], 1)
    if torch.cuda.is_available():
        return {'kind': 'cuda', 'name': torch.cuda.get_device_name(), 'threads': torch.get_num_threads(), 'load': load}
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        name = next(line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return {'kind': 'cpu', 'name': name, 'threads': torch.get_num_threads(), 'load': load}


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that the times depend on."""
    return {'python': platform.python_version(), **{name: version(name) for name in ('torch', 'transformers', 'numba')}}
