"""What `stprune bench` is held against: growth of selections with the number of tokens, and the aims of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from stprune_ros.bench.selection import FLOOR, JOINT, JOINT_REUSE, MAIN_SIZE, REUSE, TIMED_METHODS, WHOLE_DIVPRUNE

EXPONENT_TOLERANCE = 0.05  # growth exponents are fitted to a few points
OWN_METHODS = (JOINT, JOINT_REUSE, 'st_prune', REUSE)
# At most so many times the bare product, at least so many times faster than DivPrune: with nothing cached, and later.
FIRST, LATER = (2.0, 10.0), (0.7, 20.0)
TICK_SPEEDUP = 8.0

Row = dict[str, Any]
Judge = Callable[..., None]  # aim, figure found, whether such a figure holds, computed=


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
    judged, judge = _judge()
    for name, (most, least) in ((JOINT, FIRST), (JOINT_REUSE, LATER)):
        times = _ratio(ms.get(name), ms.get(FLOOR))
        judge(f'{name}: times the similarity product, at most {most:g}', times, lambda x, most=most: x <= most)
        for other in WHOLE_DIVPRUNE:
            faster = _ratio(ms.get(other), ms.get(name))
            judge(f'{name}: times faster than {other}, at least {least:g}', faster, lambda x, n=least: x >= n)
    return [*judged, *judge_growth(growth_exponents(selections)), *judge_ticks(whole_ticks)]


def judge_growth(exponents: Sequence[Row]) -> list[Row]:
    """Whether our selections grow no faster than the bare product, from what `growth_exponents` returns."""
    judged, judge = _judge()
    found = {(row['method'], row['along']): row['exponent'] for row in exponents}
    for name in OWN_METHODS:
        for along in ('frames', 'views'):
            own, floor = found.get((name, along)), found.get((FLOOR, along))
            more = None if own is None or floor is None else own - floor
            aim = f'{name}: growth exponent by {along} minus that of the product, at most {EXPONENT_TOLERANCE:g}'
            judge(aim, more, lambda x: x <= EXPONENT_TOLERANCE)
    return judged


def judge_ticks(whole_ticks: Sequence[Row]) -> list[Row]:
    """The aims of ticks, model by model."""
    judged, judge = _judge()
    for model in dict.fromkeys(row['model'] for row in whole_ticks):
        cells = {(row['keep'], row['feature_cache']): row for row in whole_ticks if row['model'] == model}
        _judge_model(model, cells, judge)
    return judged


def _judge() -> tuple[list[Row], Judge]:
    """A list of verdicts, and a function that appends to it."""
    judged: list[Row] = []

    def judge(aim: str, figure: float | None, holds: Callable[[float], bool], computed: float | None = None) -> None:
        found, verdict = (None, None) if figure is None else (round(figure, 3), holds(figure))
        formula = None if computed is None else round(computed, 3)
        judged.append({'aim': aim, 'found': found, 'computed': formula, 'holds': verdict})

    return judged, judge


def _judge_model(model: str, cells: dict[tuple[float, bool], Row], judge: Judge) -> None:
    """By formula encoding falls to the frames that are new, and prefill to its share of the FLOPs."""
    full, pruned, uncached = cells.get((1.0, True)), cells.get((0.1, True)), cells.get((1.0, False))
    cost = deviation = None
    if full and pruned:
        before, after = (row['stage_ms']['prefill']['median'] for row in (full, pruned))
        cost = 100 * pruned['stage_ms']['prune']['median'] / (before - after)
        deviation = 100 * ((after / before) / (pruned['prefill_flops'] / full['prefill_flops']) - 1)
    judge(f'{model}: selection in per cent of the prefill that it saves, below 1', cost, lambda x: 0 <= x < 1)
    for part, skipped in (('tick', ()), ('tick up to the hint', ('describe',))):
        speedup = computed = None
        if uncached and pruned:
            slow, fast = (
                row['tick_ms']['median'] - sum(row['stage_ms'][stage]['median'] for stage in skipped)
                for row in (uncached, pruned)
            )
            speedup, computed = slow / fast, slow / _least(uncached, pruned, skipped)
        aim = f'{model}: {part} at 10 % against all tokens without feature cache, at least {TICK_SPEEDUP:g} times'
        judge(aim, speedup, lambda x: x >= TICK_SPEEDUP, computed)
    aim = f'{model}: prefill ratio at 10 % off what FLOPs predict, in per cent, within 15'
    judge(aim, deviation, lambda x: abs(x) <= 15)


def _least(uncached: Row, pruned: Row, skipped: Sequence[str]) -> float:
    """What the tick without cache would take if pruning and caching took exactly what they can."""
    shares = {'prefill': pruned['prefill_flops'] / uncached['prefill_flops']}
    shares |= dict.fromkeys(('prepare', 'encode'), 1 / uncached['frames'])
    ms = {stage: values['median'] for stage, values in pruned['stage_ms'].items() if stage not in skipped}
    ms |= {stage: share * uncached['stage_ms'][stage]['median'] for stage, share in shares.items() if stage in ms}
    return float(sum(ms.values()))


def size_of(row: Row) -> tuple[Any, ...]:
    """What makes two cells of a selection comparable."""
    return tuple(row[key] for key in ('views', 'frames', 'tokens', 'dim', 'keep'))


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None
