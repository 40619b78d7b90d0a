"""`stprune bench`: time and memory of selections and whole ticks, measured in one run, and whether the aims hold."""

from __future__ import annotations

import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from stprune_ros.bench import selection, ticks
from stprune_ros.bench.architectures import QWEN3_2B, QWEN3_4B, QWEN25_3B
from stprune_ros.bench.bounds import DEVICES, lower_bounds
from stprune_ros.bench.costs import LanguageShape
from stprune_ros.bench.selection import (
    FLOOR,
    GROWING,
    GROWING_LOOP,
    JOINT,
    JOINT_REUSE,
    LOOPS,
    MAIN_SIZE,
    REUSE,
    TIMED_METHODS,
    TimeLimits,
)

DEFAULT_S, QUICK_S = 700.0, 55.0  # of a run on two idle cores
FULL_DEPTH_S = 3000.0  # for models of full depth after it
PUBLISHED = (QWEN3_2B, QWEN25_3B, QWEN3_4B)
EXPONENT_TOLERANCE = 0.05  # growth exponents are fitted to a few points
JUDGED_METHODS = (JOINT, JOINT_REUSE, 'st_prune', REUSE)

Row = dict[str, Any]
Judge = Callable[[str, float | None, Callable[[float], bool]], None]  # aim, figure found, whether such a figure holds


def bench(quick: bool = False, whole: bool = False) -> dict[str, Any]:
    """Run `stprune bench`; returns the content of its JSON file: measured rows, what was not measured and why, aims.

    ``quick`` runs fewer sizes and one small model; ``whole`` adds models of full depth, one tick per cell.
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
    with tqdm(total=cells, unit='cell', disable=not sys.stderr.isatty()) as bar:
        for found in selection.measure_selections(sizes, limits):
            selection_rows += found
            bar.update(len(found))
        for models, deadline, rounds in groups:
            for number, model in enumerate(models):
                # What is left of the time is shared: the last model gets all that remains.
                until = time.monotonic() + (deadline - time.monotonic()) / (len(models) - number)
                tick_rows += ticks.measure_ticks(model, until, keep_ratios, rounds, bar.update)
    selections, whole_ticks = ([row for row in rows if 'reason' not in row] for rows in (selection_rows, tick_rows))
    not_measured = [row for row in (*selection_rows, *tick_rows) if 'reason' in row]
    run = {row['model'] for row in tick_rows}
    not_measured += [
        {'model': each.language.name, 'reason': _full_depth_reason(each.language)}
        for each in PUBLISHED
        if each.language.name not in run
    ]
    image_tokens = MAIN_SIZE.rows * MAIN_SIZE.columns
    return {
        'device': device_description(),
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'versions': package_versions(),
        'quick': quick,
        'seconds': round(time.monotonic() - started, 1),
        'selection': selections,
        'growth': growth_exponents(selections),
        'ticks': whole_ticks,
        'not_measured': not_measured,
        'computed': lower_bounds(PUBLISHED, DEVICES, MAIN_SIZE.views, MAIN_SIZE.frames, image_tokens),
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


def growth_exponents(rows: Sequence[Row]) -> list[Row]:
    """Slope of log time over log tokens for each method, with more frames per view and with more views.

    Rings of a single view or frame are left out: one of the two stages of st_prune has nothing to do there.
    """
    exponents = []
    for along, fixed in (('frames', 'views'), ('views', 'frames')):
        for method in (FLOOR, *TIMED_METHODS):
            points = [
                (row['tokens'], row['ms_median'])
                for row in rows
                if row['method'] == method
                and row[fixed] == getattr(MAIN_SIZE, fixed)
                and row[along] > 1
                and (row['dim'], row['keep']) == (MAIN_SIZE.dim, MAIN_SIZE.keep)
            ]
            if len(points) > 1:
                exponent = round(log_log_slope(points), 3)
                exponents.append({'method': method, 'along': along, 'points': len(points), 'exponent': exponent})
    return exponents


def log_log_slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of log y over log x."""
    xs, ys = zip(*((math.log(x), math.log(y)) for x, y in points))
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    covariance, variance = sum((a - x) * (b - y) for a, b in zip(xs, ys)), sum((a - x) ** 2 for a in xs)
    return float(covariance / variance)


def judge_aims(selections: Sequence[Row], whole_ticks: Sequence[Row]) -> list[Row]:
    """Each aim with the figure found and whether it holds; both None where the figure was not measured."""
    main = (MAIN_SIZE.views, MAIN_SIZE.frames, MAIN_SIZE.tokens, MAIN_SIZE.dim, MAIN_SIZE.keep)
    ms = {row['method']: row['ms_median'] for row in selections if size_of(row) == main}
    judged = []

    def judge(aim: str, figure: float | None, holds: Callable[[float], bool]) -> None:
        found, verdict = (None, None) if figure is None else (round(figure, 3), holds(figure))
        judged.append({'aim': aim, 'found': found, 'holds': verdict})

    for name in JUDGED_METHODS:
        for other in (GROWING, GROWING_LOOP):
            speedup = _ratio(ms.get(other), ms.get(name))
            judge(f'{name}: at least 50 times faster than {other}', speedup, lambda x: x >= 50)
        judge(f'{name}: at most 2 times the similarity product', _ratio(ms.get(name), ms.get(FLOOR)), lambda x: x <= 2)
    speedup = _ratio(ms.get(GROWING_LOOP), ms.get(LOOPS))
    judge(f'{LOOPS}: at least 50 times faster than {GROWING_LOOP}', speedup, lambda x: x >= 50)
    exponents = {(row['method'], row['along']): row['exponent'] for row in growth_exponents(selections)}
    for name in JUDGED_METHODS:
        for along in ('frames', 'views'):
            own, floor = exponents.get((name, along)), exponents.get((FLOOR, along))
            more = None if own is None or floor is None else own - floor
            aim = f'{name}: growth exponent by {along} minus that of the product'
            judge(aim, more, lambda x: x <= EXPONENT_TOLERANCE)
    for model in dict.fromkeys(row['model'] for row in whole_ticks):
        cells = {(row['keep'], row['feature_cache']): row for row in whole_ticks if row['model'] == model}
        _judge_ticks(model, cells, judge)
    return judged


def _judge_ticks(model: str, cells: dict[tuple[float, bool], Row], judge: Judge) -> None:
    full, pruned, uncached = cells.get((1.0, True)), cells.get((0.1, True)), cells.get((1.0, False))
    cost = deviation = None
    if full and pruned:
        before, after = (row['stage_ms']['prefill']['median'] for row in (full, pruned))
        cost = 100 * pruned['stage_ms']['prune']['median'] / (before - after)
        deviation = 100 * ((after / before) / (pruned['prefill_flops'] / full['prefill_flops']) - 1)
    judge(f'{model}: selection in per cent of the prefill that it saves, below 1', cost, lambda x: 0 <= x < 1)
    for part, skipped in (('tick', ()), ('tick up to the hint', ('describe',))):
        speedup = None
        if uncached and pruned:
            slow, fast = (
                row['tick_ms']['median'] - sum(row['stage_ms'][stage]['median'] for stage in skipped)
                for row in (uncached, pruned)
            )
            speedup = slow / fast
        aim = f'{model}: {part} at 10 % against all tokens without feature cache, at least 6 times'
        judge(aim, speedup, lambda x: x >= 6)
    aim = f'{model}: prefill ratio at 10 % off what FLOPs predict, in per cent, within 15'
    judge(aim, deviation, lambda x: abs(x) <= 15)


def size_of(row: Row) -> tuple[Any, ...]:
    """What makes two cells of a selection comparable."""
    return tuple(row[key] for key in ('views', 'frames', 'tokens', 'dim', 'keep'))


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None
