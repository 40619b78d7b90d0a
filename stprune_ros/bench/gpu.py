"""`stprune bench --gpu`: selection and ticks of whole models in bfloat16 on a GPU, in percentiles, and the aims there.

Two prefill ratios are reported: by the clock, and by the time that kernels ran. A fast GPU finishes a short prompt
before the host has launched it, so that the first is the host's ratio and only the second the card's.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from stprune_ros.bench.bench import device_description, package_versions
from stprune_ros.bench.report import aims_table
from stprune_ros.bench.selection import (
    FLOOR,
    JOINT,
    JOINT_REUSE,
    LOOPS,
    MAIN_SIZE,
    REUSE,
    RingSize,
    prepare_method,
    random_ring,
)
from stprune_ros.bench.ticks import GPU_MODELS, NEW_TOKENS, TickCell, TickModel, TickRunner
from stprune_ros.errors import StpruneError
from stprune_ros.inference.stages import STAGES
from stprune_ros.results import table

METHODS = (FLOOR, JOINT, JOINT_REUSE, 'st_prune', REUSE, LOOPS, 'divprune')
CELLS = (TickCell(1.0, True), TickCell(0.25, True), TickCell(0.1, True))
SELECTION_RUNS, TICKS = 50, 20  # of each method, of each cell
WARM_UP = 3  # runs of each that are not counted
SELECTION_MS, PREFILL_RATIO, HINT_MS = 1.0, 6.4, 150.0  # the aims
HINT_MODEL = 'Qwen2.5-VL-3B'  # for which the last one is meant

Row = dict[str, Any]


def require_gpu() -> None:
    """Raise StpruneError where torch has no GPU."""
    if not torch.cuda.is_available():
        raise StpruneError(
            'stprune bench --gpu needs a GPU that torch can use, and it finds none;'
            ' install a torch build with CUDA, or leave --gpu out to measure the CPU'
        )


def bench_gpu(
    models: Sequence[TickModel] = GPU_MODELS,
    size: RingSize = MAIN_SIZE,
    dtype: str = 'bfloat16',
    ticks: int = TICKS,
    selection_runs: int = SELECTION_RUNS,
) -> dict[str, Any]:
    """Measure every method on a ring of ``size`` and every cell of every model; returns the content of the JSON file.

    Runs on a GPU where there is one, and on the CPU where a test asks for it.
    """
    started = time.monotonic()
    selections = measure_methods(size, getattr(torch, dtype), selection_runs)
    rows: list[Row] = []
    for model in models:
        rows += measure_cells(model, dtype, ticks)
        gc.collect()  # the model, before the next one needs its memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return {
        'device': device_description(),
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'versions': {**package_versions(), **_versions('triton')},
        'seconds': round(time.monotonic() - started, 1),
        'dtype': dtype,
        'describe_tokens': NEW_TOKENS,
        'selection': selections,
        'ticks': rows,
        'aims': judge_aims(selections, rows),
    }


def _versions(name: str) -> dict[str, str]:
    try:
        return {name: version(name)}
    except PackageNotFoundError:
        return {}


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and maximum."""
    p50, p95, top = np.percentile(values, [50, 95, 100])
    return {'p50': round(float(p50), 3), 'p95': round(float(p95), 3), 'max': round(float(top), 3)}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_methods(size: RingSize, dtype: torch.dtype, runs: int) -> list[Row]:
    """Percentiles of the time of each of `METHODS`, each run waited for, and how long the kernels of one ran."""
    views = random_ring(size, dtype=dtype)
    rows = []
    for name in METHODS:
        run = prepare_method(name, views, size)
        times = []
        for number in range(WARM_UP + runs):
            _synchronize()
            started = time.perf_counter()
            run()
            _synchronize()
            if number >= WARM_UP:
                times.append(1e3 * (time.perf_counter() - started))
        head = {'method': name, 'tokens': size.tokens, 'keep': size.keep, 'runs': runs}
        rows.append({**head, 'ms': percentiles(times), 'kernel_ms': kernel_ms(run)})
    return rows


def measure_cells(model: TickModel, dtype: str, ticks: int) -> list[Row]:
    """One row per cell of `CELLS`: percentiles of stages, hint and tick, memory, and FLOPs of the prefill."""
    runner = TickRunner(model, dtype)
    rows = []
    for cell in CELLS:
        runs = [runner.run(cell) for _ in range(WARM_UP + ticks)][WARM_UP:]
        last = runs[-1]
        tokens = last['tokens_visual'] + last['tokens_text']
        stages = {stage: percentiles([run['stage_ms'].get(stage, 0.0) for run in runs]) for stage in STAGES}
        rows.append(
            {
                'model': model.label,
                'dtype': dtype,
                'keep': cell.keep,
                'runs': ticks,
                **{key: last[key] for key in ('tokens_full', 'tokens_visual', 'tokens_text', 'kv_bytes')},
                'stage_ms': stages,
                'hint_ms': percentiles([run['hint_ms'] for run in runs]),
                'tick_ms': percentiles([sum(run['stage_ms'].values()) for run in runs]),
                'token_ms': round(stages['describe']['p50'] / NEW_TOKENS, 3),
                'prefill_flops': model.shape.prefill_flops(tokens),
                'prefill_kernel_ms': kernel_ms(lambda: runner.probe.prefill(*runner.probe.prefilled)),
                'peak_bytes': max((run['peak_bytes'] for run in runs if run['peak_bytes'] is not None), default=None),
            }
        )
    return rows


def kernel_ms(work: Callable[[], object]) -> float | None:
    """Time in ms that a GPU's kernels run for ``work``, without the gaps between them; None without a GPU."""
    if not torch.cuda.is_available():
        return None
    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    return round(sum(float(event.self_device_time_total) for event in profile.key_averages()) / 1e3, 3)


def judge_aims(selections: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Each aim with the figure found and whether it holds."""
    judged = []
    ms = {row['method']: row['ms'] for row in selections}
    for name in (JOINT, JOINT_REUSE):
        aim, found = f'{name} at {MAIN_SIZE.tokens:,} tokens: median in ms, below 1', ms[name]['p50']
        judged.append(_aim(aim, found, found < SELECTION_MS))
    for model in dict.fromkeys(row['model'] for row in rows):
        full, pruned = (_cell(rows, model, keep) for keep in (1.0, 0.1))
        found = full['stage_ms']['prefill']['p50'] / pruned['stage_ms']['prefill']['p50']
        judged.append(_aim(f'{model}: prefill at 10 %, times faster, at least 6.4', found, found >= PREFILL_RATIO))
        if full['prefill_kernel_ms'] and pruned['prefill_kernel_ms']:
            found = full['prefill_kernel_ms'] / pruned['prefill_kernel_ms']
            judged.append(_aim(f'{model}: the same by kernel time, at least 6.4', found, found >= PREFILL_RATIO))
        if model == HINT_MODEL:
            found = pruned['hint_ms']['p95']
            judged.append(_aim(f'{model}: hint at 10 %, p95 in ms, below 150', found, found < HINT_MS))
    return judged


def _aim(aim: str, found: float, holds: bool) -> Row:
    return {'aim': aim, 'found': round(found, 3), 'holds': bool(holds)}


def _cell(rows: Sequence[Row], model: str, keep: float) -> Row:
    return next(row for row in rows if (row['model'], row['keep']) == (model, keep))


def to_markdown(result: dict[str, Any]) -> str:
    """Everything measured as tables, and whether the aims hold."""
    device = result['device']
    versions = ', '.join(f'{name} {number}' for name, number in result['versions'].items())
    head = (
        f'Device: {device["name"]}, {result["date"]}, {versions}, {result["dtype"]}; {result["seconds"]:.0f} s in all.'
    )
    return '\n\n'.join([head, *blocks(result).values()])


def blocks(result: dict[str, Any]) -> dict[str, str]:
    """The parts of a page, by name."""
    size = f'Selection of {MAIN_SIZE.keep:.0%} of {result["selection"][0]["tokens"]:,} tokens, ms'
    return {
        'gpu selection': f'{size}\n\n{_selection(result["selection"])}',
        'gpu ticks': f'Ticks, ms: p50 (p95)\n\n{_ticks(result["ticks"])}',
        'gpu prefill': f'Prefill and memory\n\n{_prefill(result["ticks"])}',
        'gpu aims': aims_table([{'computed': None, **row} for row in result['aims']]),
    }


def _selection(rows: Sequence[Row]) -> str:
    keys = ('p50', 'p95', 'max')
    lines = [(row['method'], *(f'{row["ms"][key]:.3g}' for key in keys), row.get('kernel_ms') or 'n/a') for row in rows]
    return table(('method', *keys, 'kernels'), lines)


def _ticks(rows: Sequence[Row]) -> str:
    def cell(values: dict[str, float]) -> str:
        return f'{values["p50"]:.3g} ({values["p95"]:.3g})'

    lines = [
        (
            row['model'],
            f'{row["keep"]:.0%}',
            *(cell(row['stage_ms'][stage]) for stage in STAGES),
            cell(row['hint_ms']),
            cell(row['tick_ms']),
        )
        for row in rows
    ]
    return table(('model', 'kept', *STAGES, 'up to the hint', 'tick'), lines)


def _prefill(rows: Sequence[Row]) -> str:
    lines = []
    for row in rows:
        full = _cell(rows, row['model'], 1.0)
        flops = row['prefill_flops'] / full['prefill_flops']
        clock = row['stage_ms']['prefill']['p50'] / full['stage_ms']['prefill']['p50']
        kernels = row['prefill_kernel_ms']
        by_kernels = 'n/a' if kernels is None else f'{kernels / full["prefill_kernel_ms"]:.1%}'
        rate = 'n/a' if kernels is None else f'{row["prefill_flops"] / kernels / 1e9:.0f}'
        peak = 'n/a' if row['peak_bytes'] is None else f'{row["peak_bytes"] / 2**30:.2f}'
        tokens = f'{row["tokens_visual"]:,} + {row["tokens_text"]:,}'
        ratios = f'{flops:.1%}', f'{clock:.1%}', by_kernels
        memory = f'{row["kv_bytes"] / 2**20:.0f}', peak, f'{row["token_ms"]:.2f}'
        lines.append((row['model'], f'{row["keep"]:.0%}', tokens, *ratios, kernels, rate, *memory))
    ratios_head = ('of full by FLOPs', 'by the clock', 'by kernels')
    head = ('model', 'kept', 'visual + text tokens', *ratios_head, 'kernel ms', 'TFLOP/s in kernels')
    return table((*head, 'KV MiB', 'peak GiB', 'ms per written token'), lines)
