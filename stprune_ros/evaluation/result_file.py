"""The JSON file of an evaluation, one table per host and world, and what lies beside it: answers and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.hits import ALL, BLIND, FULL
from stprune_ros.evaluation.tables import percent

DISTINCT_COLOURS = 10  # of matplotlib's cycle; further lines are dashed


def beside(output: Path, host: str, world: str, ending: str) -> Path:
    """The file beside a result that belongs to its table of one host and world."""
    return output.with_name(f'{output.stem}.{host.replace("/", "_")}.{world}{ending}')


def add_table(path: Path, default: str, table: dict[str, Any]) -> dict[str, Any]:
    """The content of the result file with ``table`` in it, in place of an older one of the same host and world.

    Raises StpruneError if the file at ``path`` is no result, or has another default method.
    """
    tables = []
    if path.exists():
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            tables, before = content['tables'], content['default']
        except (ValueError, KeyError, TypeError):
            raise StpruneError(f"'{path}' is no result of stprune eval: name another --output") from None
        if before != default:
            raise StpruneError(f"'{path}' has the default method {before}, this run {default}: name another --output")
    key = (table['host'], table['world'])
    return {'default': default, 'tables': [*(t for t in tables if (t['host'], t['world']) != key), table]}


def write_plot(found: Mapping[str, Any], default: str, path: Path) -> None:
    """Plot accuracy over keep ratio: one line per method without switches, the default's interval as a band."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 5))
    rows = [row for row in found['rows'] if row['kind'] == ALL and row['method'] not in (FULL, BLIND)]
    rows = [row for row in rows if '+' not in row['method'] or row['method'] == default]
    for index, method in enumerate(dict.fromkeys(row['method'] for row in rows)):
        points = sorted((row for row in rows if row['method'] == method), key=lambda row: row['keep'])
        keeps = [row['keep'] for row in points]
        style: dict[str, Any] = {'lw': 3 if method == default else 1.2}
        style['ls'] = ('-', '--', ':')[index // DISTINCT_COLOURS % 3]
        [line] = axes.plot(keeps, [row['accuracy'] for row in points], marker='o', label=method, **style)
        if method == default:
            low, high = (np.array([row[side] for row in points], float) for side in ('lo', 'hi'))  # NaN: no interval
            axes.fill_between(keeps, low, high, alpha=0.2, color=line.get_color())
    axes.axhline(found['full'], color='black', ls=':', label='all tokens')
    axes.axhline(found['blind'], color='grey', ls=':', label='no images')
    ticks = sorted({row['keep'] for row in rows})
    label = 'mean score' if 'measures' in found else 'answers right'
    axes.set(xscale='log', xlabel='share of visual tokens kept', ylabel=label, xticks=ticks)
    axes.set_xticklabels([percent(keep) for keep in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc='upper left', bbox_to_anchor=(1.01, 1.0))  # beside the lines: over them it hides some
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
