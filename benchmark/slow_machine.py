"""A latency target on a machine that slows down half-way: with the governor, and with all tokens for comparison.

    stprune world w --seed 1000004 --seconds 40 --hz 5
    python benchmark/slow_machine.py w --output slow_machine.json

Ticks run one after another as in replay, so times count from the start of a tick to its hint. After half of the ticks
twice as many busy processes as there are cores start and stay to the end: a machine that got about three times slower.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.io.images import decode_for_model
from stprune_ros.results import table, write_json
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

WARM_UP = 5  # ticks that do not count: the first compile, in the next ones the governor learns
TARGET_MARGIN = 1.3  # default target over the median of quiet ticks with all tokens
HALVES = ('quiet', 'loaded')


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('bag', type=Path)
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument(
        '--target', type=float, help=f'ms; default: {TARGET_MARGIN} times the median with all tokens, quiet'
    )
    parser.add_argument('--load', type=int, default=2 * (os.cpu_count() or 1), help='busy processes; default: 2 a core')
    options = parser.parse_args()
    fixed = run_ticks(
        options.bag, Settings.from_values({'pruning.keep_ratio': 1.0, 'inference.describe': False}), options.load
    )
    target = options.target or round(TARGET_MARGIN * float(np.median([ms for ms, _ in fixed['quiet']])), 1)
    governed = Settings.from_values(
        {'pruning.keep_ratio': 1.0, 'inference.describe': False, 'latency.target_ms': target}
    )
    passes = {'all tokens': fixed, 'governed': run_ticks(options.bag, governed, options.load)}
    rows = [_row(name, half, ticks[half], target) for name, ticks in passes.items() for half in HALVES]
    machine = f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {date.today()}'
    write_json(options.output, {'machine': machine, 'target_ms': target, 'load': options.load, 'rows': rows})
    print(f'{machine}; target {target:g} ms; {options.load} busy processes in the second half\n')
    print(to_markdown(rows))


def run_ticks(path: Path, settings: Settings, load_processes: int) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds up to the hint and keep ratio of every tick of a bag, by half."""
    ticks: dict[str, list[tuple[float, float]]] = {half: [] for half in HALVES}
    with Bag(path) as bag:
        bag_windows = BagWindows(bag, settings)
        shown = list(bag_windows.read())
        backend, prompt = load_model(settings)
        pipeline = Pipeline(settings, backend, bag_windows.rig, prompt, decode_for_model)
        half = len(shown) // 2
        for name, part, load_now in (('quiet', shown[:half], 0), ('loaded', shown[half:], load_processes)):
            with busy_processes(load_now):
                for window in tqdm(part, desc=name, disable=None):
                    answer = pipeline.run(window)
                    ticks[name].append((answer.timing.hint_ms, answer.provenance.keep_ratio))
    ticks['quiet'] = ticks['quiet'][WARM_UP:]
    return ticks


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """``count`` processes that compete for the cores."""
    context = get_context('spawn')
    started = [context.Process(target=_burn, daemon=True) for _ in range(count)]
    for process in started:
        process.start()
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.join()


def _burn() -> None:
    while True:
        pass


def _row(name: str, half: str, ticks: list[tuple[float, float]], target: float) -> dict[str, Any]:
    ms, ratios = (np.array(column) for column in zip(*ticks))
    return {
        'pass': name,
        'half': half,
        'ticks': len(ticks),
        'hint_ms_median': round(float(np.median(ms)), 1),
        'hint_ms_p95': round(float(np.percentile(ms, 95)), 1),
        'late_share': round(float((ms > target).mean()), 3),
        'keep_ratio_median': round(float(np.median(ratios)), 3),
    }


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    head = ('pass', 'half', 'ticks', 'ms to the hint, median', '95 %', 'over the target', 'tokens kept')
    lines = [
        (
            *(row[key] for key in ('pass', 'half', 'ticks')),
            *(f'{row[key]:.0f}' for key in ('hint_ms_median', 'hint_ms_p95')),
            *(f'{row[key]:.0%}' for key in ('late_share', 'keep_ratio_median')),
        )
        for row in rows
    ]
    return table(head, lines)


if __name__ == '__main__':
    main()
