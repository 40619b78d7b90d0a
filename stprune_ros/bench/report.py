"""The result of `stprune bench` as Markdown tables and one plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stprune_ros.bench.aims import judge_ticks
from stprune_ros.bench.bounds import published_bounds, to_table
from stprune_ros.bench.selection import FLOOR, MAIN_SIZE, ST_PRUNE, TIMED_METHODS
from stprune_ros.results import table

Row = dict[str, Any]
ALONG = ('frames', 'views')
# One per method of the plot, in the order of TIMED_METHODS.
COLOURS = (
    *('tab:blue', 'deepskyblue', 'tab:orange', 'gold', 'tab:green', 'tab:red', 'lightcoral', 'maroon'),
    *('tab:purple', 'tab:brown', 'tab:pink', 'tab:grey', 'tab:olive'),
)


def to_markdown(result: dict[str, Any]) -> str:
    """What was measured, what was not and why, lower bounds that are only computed, and whether the aims hold."""
    device = result['device']
    parts = [
        f'Device: {device["name"]} ({device["kind"]}, {device["threads"]} threads), {result["date"]},'
        f' {", ".join(f"{k} {v}" for k, v in result["versions"].items())}; {result["seconds"]:.0f} s in all.',
        'Selection, ms: median (min to max), times the similarity product in brackets\n',
        _selection(result['selection'], result['not_measured']),
        'Growth exponents in tokens (log-log slope)\n',
        growth_table(result['growth']),
        'Ticks, ms: median (min to max)\n',
        _ticks(result['ticks']),
        'Prefill and memory\n',
        _prefill(result['ticks']),
    ]
    if result['not_measured']:
        parts += [
            'Not measured\n',
            '\n'.join(f'- {_cell_name(row)}: {row["reason"]}' for row in result['not_measured']),
        ]
    parts += [
        'Computed, not measured: lower bounds at full use of the assumed peak rates\n',
        to_table(result['computed']),
    ]
    parts += ['Aims\n', aims_table(result['aims'])]
    return '\n\n'.join(part.rstrip('\n') for part in parts if part)


def blocks(result: dict[str, Any]) -> dict[str, str]:
    """The parts of a page, by name."""
    return {
        'ticks': _tick_seconds(result['ticks']),
        'tick aims': aims_table(judge_ticks(result['ticks'])),
        'orin': to_table(published_bounds()),
    }


def _tick_seconds(rows: Sequence[Row]) -> str:
    """The cells that the aims compare, in seconds; preparing counts as encoding."""
    lines = []
    for row in sorted(rows, key=lambda row: (row['feature_cache'], -row['keep'])):
        if row['keep'] not in (1.0, 0.1) or (row['keep'] < 1 and not row['feature_cache']):
            continue
        ms = {stage: values['median'] for stage, values in row['stage_ms'].items()}
        encode = ms['encode'] + ms.get('prepare', 0.0)
        cells = (encode, ms['prune'], ms['prefill'], ms['hint'], ms['describe'], row['tick_ms']['median'])
        share = f'{row["keep"]:.0%}' + ('' if row['feature_cache'] else ', no feature cache')
        peak = 'n/a' if row['peak_bytes'] is None else f'{row["peak_bytes"] / 2**30:.1f}'
        lines.append((row['model'], share, *(f'{cell / 1e3:.{2 if cell < 1e3 else 1}f}' for cell in cells), peak))
    lines.sort(key=lambda line: list(dict.fromkeys(row['model'] for row in rows)).index(line[0]))
    head = ('model', 'kept', 'encode', 'prune', 'prefill', 'hint', 'describe', 'tick', 'peak GiB')
    return table(head, lines)


def format_range(values: dict[str, float]) -> str:
    """Median (min to max) with three significant digits."""
    return f'{values["median"]:.3g} ({values["min"]:.3g} to {values["max"]:.3g})'


def _selection(rows: Sequence[Row], missing: Sequence[Row]) -> str:
    methods = (FLOOR, *TIMED_METHODS)
    found = {(_size(row), row['method']): row for row in rows}
    sizes = dict.fromkeys(_size(row) for row in (*rows, *missing) if 'method' in row)
    lines = []
    for size in sorted(sizes, key=lambda size: (size[0], *size[1:])):
        tokens, views, frames, dim, keep = size
        line = [f'{tokens:,} ({views} x {frames})', dim, f'{keep:.0%}']
        for method in methods:
            row = found.get((size, method))
            if row is None:
                line.append('not measured')
                continue
            cell = format_range({key: row[f'ms_{key}'] for key in ('median', 'min', 'max')})
            has_ratio = method != FLOOR and row['over_floor'] is not None
            line.append(f'{cell} [{row["over_floor"]:.3g}]' if has_ratio else cell)
        lines.append(line)
    return table(('tokens (views x frames)', 'D', 'kept', *methods), lines)


def growth_table(rows: Sequence[Row]) -> str:
    """Growth exponents: methods down, what grows across."""
    found = {(row['method'], row['along']): row for row in rows}
    lines = [
        (method, *(f'{found[method, along]["exponent"]:.2f}' if (method, along) in found else '' for along in ALONG))
        for method in dict.fromkeys(row['method'] for row in rows)
    ]
    return table(('method', *(f'more {along}' for along in ALONG)), lines)


def _ticks(rows: Sequence[Row]) -> str:
    if not rows:
        return 'none'
    stages = list(rows[0]['stage_ms'])
    lines = [
        (
            row['model'],
            row['dtype'],
            f'{row["keep"]:.0%}',
            'yes' if row['feature_cache'] else 'no',
            *(format_range(row['stage_ms'][stage]) for stage in stages),
            format_range(row['tick_ms']),
        )
        for row in rows
    ]
    return table(('model', 'dtype', 'kept', 'feature cache', *stages, 'tick'), lines)


def _prefill(rows: Sequence[Row]) -> str:
    full_by_model = {row['model']: row for row in rows if row['keep'] == 1 and row['feature_cache']}
    lines = []
    for row in rows:
        full = full_by_model.get(row['model'])
        found = predicted = 'not measured'
        if full is not None:
            ratio = row['stage_ms']['prefill']['median'] / full['stage_ms']['prefill']['median']
            found, predicted = f'{ratio:.1%}', f'{row["prefill_flops"] / full["prefill_flops"]:.1%}'
        peak = 'n/a' if row['peak_bytes'] is None else f'{row["peak_bytes"] / 2**30:.2f}'
        flops, kv = f'{row["prefill_flops"] / 1e12:.3g}', f'{row["kv_bytes"] / 2**20:.1f}'
        tokens = f'{row["tokens_visual"]:,} + {row["tokens_text"]:,}'
        lines.append((row['model'], f'{row["keep"]:.0%}', tokens, flops, found, predicted, kv, peak))
    head = ('model', 'kept', 'visual + text tokens', 'TFLOP', 'prefill of full', 'by FLOPs', 'KV MiB', 'peak GiB')
    return table(head, lines)


def aims_table(rows: Sequence[Row]) -> str:
    """Aims with what was found, what a formula gives where there is one, and the verdict."""
    verdicts = {True: 'holds', False: '**does not hold**', None: 'not measured'}
    lines = [(row['aim'], _number(row['found']), _number(row['computed']), verdicts[row['holds']]) for row in rows]
    return table(('aim', 'found', 'by formula', ''), lines)


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.3g}'


def _cell_name(row: Row) -> str:
    if 'method' in row:
        size = f'{row["tokens"]:,} tokens ({row["views"]} x {row["frames"]})'
        return f'{row["method"]} on {size}, D = {row["dim"]}, {row["keep"]:.0%} kept'
    if 'keep' not in row:
        return str(row['model'])
    return f'{row["model"]} at {row["keep"]:.0%}, {"with" if row["feature_cache"] else "without"} feature cache'


def _size(row: Row) -> tuple[Any, ...]:
    return tuple(row[key] for key in ('tokens', 'views', 'frames', 'dim', 'keep'))


def write_plot(result: dict[str, Any], path: Path) -> None:
    """Plot selection time over tokens, one line per method, and the stages of a tick as bars, for every model."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    models = list(dict.fromkeys(row['model'] for row in result['ticks']))
    rows = max(1, len(models))
    figure = pyplot.figure(figsize=(15, max(7, 2.2 * rows)))
    grid = figure.add_gridspec(rows, 2)
    _plot_selection(figure.add_subplot(grid[:, 0]), result['selection'])
    for number, model in enumerate(models):
        axes = figure.add_subplot(grid[number, 1])
        _plot_ticks(axes, [row for row in result['ticks'] if row['model'] == model])
        axes.set_title(model, fontsize=10)
    if models:
        axes.set_xlabel(f's per tick, {result["device"]["name"]}')
        axes.legend(fontsize=8, ncols=6, loc='upper center', bbox_to_anchor=(0.5, -0.45))
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _plot_selection(axes: Any, found: Sequence[Row]) -> None:
    main = (MAIN_SIZE.views, MAIN_SIZE.dim, MAIN_SIZE.keep)
    colours = iter(COLOURS)
    for method in (FLOOR, *TIMED_METHODS):
        rows = [row for row in found if row['method'] == method and (row['views'], row['dim'], row['keep']) == main]
        if not rows:
            continue
        rows.sort(key=lambda row: row['tokens'])
        low, middle, high = ([row[f'ms_{key}'] for row in rows] for key in ('min', 'median', 'max'))
        tokens = [row['tokens'] for row in rows]
        style = {'ls': ':', 'color': 'black'} if method == FLOOR else {'color': next(colours)}
        [line] = axes.plot(tokens, middle, marker='o', label=method, lw=3 if method in ST_PRUNE else 1.2, **style)
        axes.fill_between(tokens, low, high, alpha=0.2, color=line.get_color())
    axes.set(xlabel=f'visual tokens, {MAIN_SIZE.views} views, D = {MAIN_SIZE.dim}', ylabel='ms')
    axes.set_title(f'selection at {MAIN_SIZE.keep:.0%}')
    axes.grid(alpha=0.3)
    if axes.lines:  # an empty plot has no logarithms
        sizes = sorted({tokens for line in axes.lines for tokens in line.get_xdata()})
        axes.set(xscale='log', yscale='log', xticks=sizes)
        axes.xaxis.set_major_formatter('{x:,.0f}')
        axes.minorticks_off()
        axes.legend(fontsize=8, ncols=4, loc='upper center', bbox_to_anchor=(0.5, -0.08))


def _plot_ticks(axes: Any, found: Sequence[Row]) -> None:
    rows = sorted(found, key=lambda row: (row['feature_cache'], -row['keep']))
    bars = [f'{row["keep"]:.0%}{"" if row["feature_cache"] else ", no feature cache"}' for row in rows]
    starts = [0.0] * len(bars)
    for stage in rows[0]['stage_ms']:
        seconds = [row['stage_ms'][stage]['median'] / 1e3 for row in rows]
        axes.barh(bars, seconds, left=starts, label=stage)
        starts = [a + b for a, b in zip(starts, seconds)]
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)
