"""`stprune bench`: selection, whole ticks and memory, side by side in one run, and whether the aims hold."""

from __future__ import annotations

import math
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

from stprune_ros.bench import selection
from stprune_ros.bench import ticks as tick_runs
from stprune_ros.bench.costs import DEVICES, LLAMA_8B, QWEN3_VL_2B, QWEN3_VL_4B, QWEN25_VL_3B, computed
from stprune_ros.bench.selection import (
    FLOOR,
    GROWING,
    GROWING_LOOP,
    JOINT,
    JOINT_REUSE,
    LOOPS,
    MAIN,
    REUSE,
    VARIANTS,
    Limits,
)

FULL_S, QUICK_S = 700.0, 55.0  # of a run on two idle cores
WHOLE_S = 3000.0  # for whole models after it
PAPER_SHAPES = (QWEN3_VL_2B, QWEN25_VL_3B, QWEN3_VL_4B, LLAMA_8B)
TOLERANCE = 0.05  # in growth exponents, which are fitted to a few points
CHECKED = (JOINT, JOINT_REUSE, 'st_prune', REUSE)

Row = dict[str, Any]


def bench(quick: bool = False, whole: bool = False) -> dict[str, Any]:
    """Everything of `stprune bench` as a dictionary: its rows, what was not measured and why, and the aims.

    ``whole`` adds models with all their layers, one tick per cell.
    """
    started = time.monotonic()
    gpu = torch.cuda.is_available()
    sizes = selection.QUICK if quick else selection.FULL
    limits = Limits(0.3, 2.0) if quick else Limits(2.0, 8.0)
    rows: list[Row] = []
    ticks: list[Row] = []
    keeps = tick_runs.QUICK_KEEPS if quick else tick_runs.KEEPS
    # Models that share the time until a deadline, and how often each cell is run.
    parts = [
        (tick_runs.QUICK, started + QUICK_S, tick_runs.QUICK_RUNS)
        if quick
        else (tick_runs.ON_GPU if gpu else tick_runs.FULL, started + FULL_S, tick_runs.RUNS)
    ]
    if whole and not gpu:
        parts.append((tick_runs.WHOLE, started + FULL_S + WHOLE_S, 1))
    cells = len(tick_runs.cells(keeps)) * sum(len(models) for models, _, _ in parts)
    with tqdm(total=len(sizes) * (1 + len(VARIANTS)) + cells, unit='cell', disable=not sys.stderr.isatty()) as bar:
        for found in selection.measure(sizes, limits):
            rows += found
            bar.update(len(found))
        for models, deadline, most in parts:
            for number, model in enumerate(models):
                # What is left of the time is shared: the last model gets all that remains.
                until = time.monotonic() + (deadline - time.monotonic()) / (len(models) - number)
                ticks += tick_runs.measure(model, until, keeps, most, bar.update)
    done_rows, done_ticks = ([row for row in part if 'reason' not in row] for part in (rows, ticks))
    run = {row['model'] for row in ticks}
    shapes = [{'model': shape.name, 'reason': _too_deep(shape)} for shape in PAPER_SHAPES if shape.name not in run]
    views, per_view = MAIN.views, MAIN.tokens // MAIN.views
    return {
        'device': device(),
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'versions': versions(),
        'quick': quick,
        'seconds': round(time.monotonic() - started, 1),
        'selection': done_rows,
        'growth': growth(done_rows),
        'ticks': done_ticks,
        'not_measured': [row for row in (*rows, *ticks) if 'reason' in row] + shapes,
        'computed': computed(PAPER_SHAPES, DEVICES, views, per_view, tick_runs.KEEPS),
        'aims': aims(done_rows, [] if quick else done_ticks),
    }


def _too_deep(shape: Any) -> str:
    gib = shape.weight_bytes(tick_runs.FP32) / 2**30
    return f'whole depth: {gib:.0f} GiB of float32 weights, not run; see computed'


def device() -> dict[str, Any]:
    """What this ran on."""
    if torch.cuda.is_available():
        return {'kind': 'cuda', 'name': torch.cuda.get_device_name(), 'threads': torch.get_num_threads()}
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        name = next(line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return {'kind': 'cpu', 'name': name, 'threads': torch.get_num_threads()}


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return {'python': platform.python_version(), **{name: version(name) for name in ('torch', 'transformers', 'numba')}}


def growth(rows: Sequence[Row]) -> list[Row]:
    """Growth exponents in tokens, the slope of log time over log tokens: by frames (more per view) and by views.

    A single view or frame is left out: there one of the two stages of ours has nothing to do.
    """
    found = []
    for along, fixed in (('frames', 'views'), ('views', 'frames')):
        for method in (FLOOR, *VARIANTS):
            points = [
                (row['tokens'], row['ms_median'])
                for row in rows
                if row['method'] == method
                and row[fixed] == getattr(MAIN, fixed)
                and row[along] > 1
                and (row['dim'], row['keep']) == (MAIN.dim, MAIN.keep)
            ]
            if len(points) > 1:
                exponent = round(slope(points), 3)
                found.append({'method': method, 'along': along, 'points': len(points), 'exponent': exponent})
    return found


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of log y over log x."""
    xs, ys = zip(*((math.log(x), math.log(y)) for x, y in points))
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys)) / sum((a - x) ** 2 for a in xs)


def aims(rows: Sequence[Row], ticks: Sequence[Row]) -> list[Row]:
    """Each aim of issue 4 with the number found, and whether it holds: None where it could not be measured."""
    main = (MAIN.views, MAIN.frames, MAIN.tokens, MAIN.dim, MAIN.keep)
    ms = {row['method']: row['ms_median'] for row in rows if size_of(row) == main}
    found = []

    def aim(sentence: str, number: float | None, holds: Callable[[float], bool]) -> None:
        said = None if number is None else round(number, 3)
        found.append({'aim': sentence, 'found': said, 'holds': None if number is None else holds(number)})

    for name in CHECKED:
        for other in (GROWING, GROWING_LOOP):
            aim(
                f'{name}: at least 50 times faster than {other}', _ratio(ms.get(other), ms.get(name)), lambda x: x >= 50
            )
        aim(f'{name}: at most 2 times the similarity product', _ratio(ms.get(name), ms.get(FLOOR)), lambda x: x <= 2)
    times = _ratio(ms.get(GROWING_LOOP), ms.get(LOOPS))
    aim(f'{LOOPS}: at least 50 times faster than {GROWING_LOOP}', times, lambda x: x >= 50)
    exponents = {(row['method'], row['along']): row['exponent'] for row in growth(rows)}
    for name in CHECKED:
        for along in ('frames', 'views'):
            mine, floor = exponents.get((name, along)), exponents.get((FLOOR, along))
            more = None if mine is None or floor is None else mine - floor
            aim(f'{name}: growth exponent by {along} minus that of the product', more, lambda x: x <= TOLERANCE)
    for model in dict.fromkeys(row['model'] for row in ticks):  # none of a quick run, whose model is no model's size
        cells = {(row['keep'], row['feature_cache']): row for row in ticks if row['model'] == model}
        _tick_aims(model, cells, aim)
    return found


def _tick_aims(
    model: str, cells: dict[tuple[float, bool], Row], aim: Callable[[str, float | None, Callable[[float], bool]], None]
) -> None:
    full, pruned, naive = cells.get((1.0, True)), cells.get((0.1, True)), cells.get((1.0, False))
    share = off = None
    if full and pruned:
        before, after = (row['stage_ms']['prefill']['median'] for row in (full, pruned))
        share = 100 * pruned['stage_ms']['prune']['median'] / (before - after)
        off = 100 * ((after / before) / (pruned['prefill_flops'] / full['prefill_flops']) - 1)
    aim(f'{model}: selection in per cent of the prefill that it saves, below 1', share, lambda x: 0 <= x < 1)
    for part, left_out in (('tick', 0), ('tick up to the hint', 1)):
        times = None
        if naive and pruned:
            above, below = (
                row['tick_ms']['median'] - left_out * row['stage_ms']['describe']['median'] for row in (naive, pruned)
            )
            times = above / below
        sentence = f'{model}: {part} at 10 % against all tokens without feature cache, at least 6 times'
        aim(sentence, times, lambda x: x >= 6)
    aim(f'{model}: prefill ratio at 10 % off what FLOPs predict, in per cent, within 15', off, lambda x: abs(x) <= 15)


def size_of(row: Row) -> tuple[Any, ...]:
    """What makes two cells of a selection comparable."""
    return tuple(row[key] for key in ('views', 'frames', 'tokens', 'dim', 'keep'))


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None
