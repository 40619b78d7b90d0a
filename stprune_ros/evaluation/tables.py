"""The tables that ``stprune eval`` and ``tune.py`` print and docs/evaluation.md shows, from their results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stprune_ros.evaluation.hits import ALL, BLIND, FULL
from stprune_ros.results import table

KINDS_AT = 0.1  # keep ratio of the table by kind of question, or the nearest one
Row = Mapping[str, Any]


def to_markdown(found: Row, default: str) -> str:
    """All tables, each behind the comment that pages of docs/ find it by."""
    return '\n\n'.join(
        f'<!-- fidelity {found["host"]}, {found["world"]}: {name} -->\n{text}'
        for name, text in (
            ('all', by_ratio(found, accuracy_cell)),
            ('minus default', by_ratio(found, difference_cell, leave_out=default)),
            ('flips', by_ratio(found, flips_cell)),
            ('kinds', by_kind(found)),
            ('things', by_detection(found['things']) if 'things' in found else ''),
        )
        if text
    )


def by_ratio(found: Row, cell: Callable[[Row], str], kind: str = ALL, leave_out: str = '') -> str:
    """Methods down, keep ratios across; 'n/a' where a method is not defined. '' without methods."""
    rows = [row for row in found['rows'] if row['kind'] == kind and row['method'] not in (FULL, BLIND)]
    keeps = sorted({row['keep'] for row in rows}, reverse=True)
    cells = {(row['method'], row['keep']): cell(row) for row in rows if row['method'] != leave_out}
    methods = dict.fromkeys(method for method, _ in cells)
    lines = [(method, *(cells.get((method, keep), 'n/a') for keep in keeps)) for method in methods]
    return table(('method', *map(percent, keeps)), lines) if lines else ''


def percent(keep: float) -> str:
    """A keep ratio as tables name it: two that differ are named differently."""
    return f'{100 * keep:.10g}%'


def by_kind(found: Row) -> str:
    """Per cent right at the keep ratio nearest to 10 %: methods down, kinds of question and states of the scene across.

    Above them the number of questions. Where nothing is pruned there are all tokens and no pictures.
    """
    keeps = {row['keep'] for row in found['rows'] if row['keep'] < 1}
    keep = min(keeps, key=lambda ratio: abs(ratio - KINDS_AT), default=1.0)
    rows = {(row['method'], row['kind']): row for row in found['rows'] if row['keep'] in (keep, 1.0)}
    kinds = list(dict.fromkeys(kind for _, kind in rows))
    asked: dict[str, int] = {}
    for (_, kind), row in rows.items():
        asked.setdefault(kind, row['questions'])
    lines = [('questions', *(str(asked[kind]) for kind in kinds))]
    lines += [
        (
            method,
            *(f'{100 * rows[method, kind]["accuracy"]:.1f}' if (method, kind) in rows else 'n/a' for kind in kinds),
        )
        for method in dict.fromkeys(method for method, _ in rows)
    ]
    return table((f'at {percent(keep)}', *kinds), lines)


def by_knob(found: Row) -> str:
    """What ``benchmark/tune.py`` found: methods down; the values tried with their accuracies, and the one chosen."""
    lines = []
    for method, knob in found['knobs'].items():
        cells = [
            f'{row["value"]:g}: ' + ', '.join(f'{100 * row[f"{keep:g}"]["accuracy"]:.1f}' for keep in found['keeps'])
            for row in knob['tried']
        ]
        lines.append((method, knob['parameter'], '; '.join(cells), f'{knob["chosen"]:g}'))
    head = ' and '.join(f'{keep:.0%}' for keep in found['keeps'])
    return table(('method', 'knob', f"values, the authors' first: per cent right at {head}", 'chosen'), lines)


def by_detection(things: Row) -> str:
    """Areas under the curve for things: of commonness alone first, then of what each method keeps."""
    areas = [(name, 'n/a' if area is None else f'{area:.2f}') for name, area in things['auc'].items()]
    return table((f'{things["scenes"]} scenes', 'AUC for things'), areas)


def accuracy_cell(row: Row) -> str:
    """Per cent right, and the share recovered of what pictures add to guessing, where they do."""
    share = '' if row['recovered'] is None else f' ({100 * row["recovered"]:.0f} %)'
    return f'{100 * row["accuracy"]:.1f}{share}'


def difference_cell(row: Row) -> str:
    """Points against the default at the same ratio, with the paired interval; one scene gives none."""
    if row['minus_default'] is None:
        return 'n/a'
    value = f'{100 * row["minus_default"]:+.1f}'
    if row['minus_lo'] is None:
        return value
    return f'{value} [{100 * row["minus_lo"]:+.1f}, {100 * row["minus_hi"]:+.1f}]'


def flips_cell(row: Row) -> str:
    """Per cent of the questions that turned wrong and that turned right against all tokens."""
    return f'{100 * row["right_to_wrong"]:.1f} / {100 * row["wrong_to_right"]:.1f}'
