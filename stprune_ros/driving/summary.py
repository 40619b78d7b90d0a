"""From drives to figures: means over the same worlds, and paired differences with 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stprune_ros.driving.measures import MEASURES
from stprune_ros.driving.plan import ALL_TOKENS, BASELINES, RANDOM, DrivePlan, Source
from stprune_ros.driving.runs import Found
from stprune_ros.evaluation.bootstrap import Interval, SceneCounts, accuracy, difference
from stprune_ros.results import table

# What the first table shows; drive.json has all measures.
SHOWN = ('collisions', 'red_lights', 'min_ttc_s', 'progress_m', 'needless_stops', 'flips_per_min', 'stale_share')
DIGITS = {'progress_m': 1, 'flips_per_min': 1}


def summarize(plan: DrivePlan, ran: Mapping[str, Any], found: Found) -> dict[str, Any]:
    """The content of drive.json: a row for each source, and one for each drive."""
    return {
        **ran,
        'drives': len(plan.seeds),
        'first_seed': min(plan.seeds),
        'sources': [_row(plan, source, found) for source in plan.sources],
        'rows': [
            {'seed': seed, 'source': source.name, **found[seed, source.name]['measures']}
            for seed in plan.seeds
            for source in plan.sources
        ],
    }


def _row(plan: DrivePlan, source: Source, found: Found) -> dict[str, Any]:
    """Mean of each measure with its interval, and the differences against all tokens and random ones."""
    others = {'minus_all': Source(ALL_TOKENS), 'minus_random': Source(RANDOM, source.keep)}
    if source.method == ALL_TOKENS:
        others.pop('minus_all')
    if source.method in (*BASELINES, RANDOM):
        others.pop('minus_random')
    measures: dict[str, dict[str, Any] | None] = {}
    for name in MEASURES:
        counts = _counts(plan, source, found, name)
        if counts is None:
            measures[name] = None
            continue
        figures: dict[str, Any] = {'mean': _rounded(accuracy(counts))}
        for key, other in others.items():
            other_counts = _counts(plan, other, found, name)
            figures[key] = None if other_counts is None else _rounded(difference(counts, other_counts))
        measures[name] = figures
    return {'name': source.name, 'method': source.method, 'keep': source.keep, 'measures': measures}


def _counts(plan: DrivePlan, source: Source, found: Found, measure: str) -> SceneCounts | None:
    """A measure by world, as the paired bootstrap takes it; None where a drive has none."""
    values = [found[seed, source.name]['measures'][measure] for seed in plan.seeds]
    if None in values:
        return None
    return SceneCounts(np.array(values, float), np.ones(len(values)))


def _rounded(values: Interval) -> list[float | None]:
    """Value, low, high."""
    return [None if value is None else round(value, 4) for value in values]


def to_markdown(result: Mapping[str, Any]) -> str:
    """Two tables: means, and differences against all tokens."""
    head = ('hints from', *(MEASURES[name] for name in SHOWN))
    means = [(row['name'], *(cell(row, name, 'mean') for name in SHOWN)) for row in result['sources']]
    minus = [
        (row['name'], *(cell(row, name, 'minus_all') for name in SHOWN))
        for row in result['sources']
        if row['name'] != ALL_TOKENS
    ]
    worlds = '1 world of' if result['drives'] == 1 else f'{result["drives"]} worlds of'
    title = f'{worlds} {result["seconds"]:g} s each, {result["world"]}, profile {result["profile"]}'
    paired = 'paired, with 95 % interval' if result['drives'] > 1 else 'which one world gives no interval for'
    return '\n\n'.join((title, table(head, means), f'minus all tokens, {paired}:', table(head, minus)))


def cell(row: Mapping[str, Any], measure: str, key: str) -> str:
    """A figure as tables show it: a mean, or a difference, with its interval where there is one."""
    figures = row['measures'][measure]
    if figures is None or figures.get(key) is None:
        return 'n/a'
    value, low, high = figures[key]
    digits = DIGITS.get(measure, 2)
    if key == 'mean':
        return f'{value:.{digits}f}'
    if low is None:
        return f'{value:+.{digits}f}'
    return f'{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]'
