"""`stprune bench --selection`: the default selection beside the bare product and the whole of DivPrune, in pairs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from statistics import median
from typing import Any

from stprune_ros.bench.aims import FIRST, LATER, OWN_METHODS, growth_exponents, judge_growth
from stprune_ros.bench.bench import device_description, package_versions
from stprune_ros.bench.report import aims_table, growth_table
from stprune_ros.bench.selection import (
    FLOOR,
    GROWING_LOOP,
    JOINT,
    JOINT_REUSE,
    LOOPS,
    MAIN_SIZE,
    REUSE,
    WHOLE_DIVPRUNE,
    RingSize,
    measure_pairs,
)
from stprune_ros.results import table

ROUNDS, GROWTH_ROUNDS = 15, 5
GROWTH_SIZES = (
    *(replace(MAIN_SIZE, frames=frames) for frames in (2, 8)),
    *(replace(MAIN_SIZE, views=views) for views in (3, 12)),
)
TITLES = {
    FLOOR: 'similarity product within each view, the floor',
    JOINT: '**st_prune_joint+ring+gauge**, the default, whole',
    JOINT_REUSE: '**the same, from the second tick on**',
    'st_prune': 'st_prune+ring, whole',
    REUSE: 'the same, from the second tick on',
    WHOLE_DIVPRUNE[0]: "divprune, whole, as its authors' program steps",
    WHOLE_DIVPRUNE[1]: 'divprune, whole, as here',
    GROWING_LOOP: "the authors' loop alone",
    LOOPS: 'greedy loops of st_prune alone',
}

Row = dict[str, Any]


def bench_selection(
    size: RingSize = MAIN_SIZE, rounds: int = ROUNDS, others: Sequence[RingSize] = GROWTH_SIZES
) -> dict[str, Any]:
    """Run `stprune bench --selection`; returns the content of its JSON file."""
    started = time.monotonic()
    rows = measure_pairs(size, rounds)
    grown = [row for other in others for row in measure_pairs(other, GROWTH_ROUNDS, (FLOOR, *OWN_METHODS))]
    return {
        'device': device_description(),
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'versions': package_versions(),
        'seconds': round(time.monotonic() - started, 1),
        'selection': rows,
        'other_sizes': grown,
        'growth': growth_exponents([*rows, *grown]),
    }


def product_share(views: int, frames: int, new: int) -> float:
    """Products of st_prune_joint over those of the floor, where ``new`` of ``frames`` frames are new in every view.

    In units of a frame times a frame. Within a view each new frame is multiplied with itself, five eighths of a product
    as the rest mirrors, and with every other frame once; across views it meets the frame of the same time of each other
    view, and every pair of views once.
    """
    within = views * (new * 5 / 8 + sum(range(frames - new, frames)))
    across = new * views * (views - 1) / 2
    return (within + across) / (views * frames**2)


def paired_ratio(rows: Sequence[Row], above: str, below: str) -> float:
    """Median over the rounds of what ``above`` took over what ``below`` took."""
    ms = {row['method']: row['ms'] for row in rows}
    return float(median(a / b for a, b in zip(ms[above], ms[below])))


def judge_aims(rows: Sequence[Row]) -> list[Row]:
    """Each aim with the figure found, what a formula gives, and whether it holds.

    The formula is for a selection that takes no more than its products, see `product_share`: those over the floor's,
    and the time of DivPrune over theirs.
    """
    views, frames = rows[0]['views'], rows[0]['frames']
    judged = []
    shares = {JOINT: product_share(views, frames, frames), JOINT_REUSE: product_share(views, frames, 1)}
    for name, most in ((JOINT, FIRST[0]), (JOINT_REUSE, LATER[0])):
        found = paired_ratio(rows, name, FLOOR)
        judged.append(_aim(f'{name}: times the bare product, at most {most:g}', found, shares[name], found <= most))
    for name, least in ((JOINT, FIRST[1]), (JOINT_REUSE, LATER[1])):
        for other in WHOLE_DIVPRUNE:
            found = paired_ratio(rows, other, name)
            computed = paired_ratio(rows, other, FLOOR) / shares[name]
            judged.append(
                _aim(f'{name}: times faster than {other}, at least {least:g}', found, computed, found >= least)
            )
    return judged


def _aim(aim: str, found: float, computed: float, holds: bool) -> Row:
    return {'aim': aim, 'found': round(found, 3), 'computed': round(computed, 3), 'holds': holds}


def to_markdown(result: dict[str, Any]) -> str:
    """All of it, for people."""
    return '\n\n'.join(blocks(result).values())


def blocks(result: dict[str, Any]) -> dict[str, str]:
    """The parts of a page, by name."""
    rows, device = result['selection'], result['device']
    first = rows[0]
    text = (
        f'{first["keep"]:.0%} of {first["tokens"]:,} tokens, {first["views"]} views of {first["frames"]} frames,'
        f' D = {first["dim"]}; median (least to most) of {first["rounds"]} rounds in which all take turns, CPU'
        f' milliseconds ({result["date"][:10]}, {device["name"]}, {device["threads"]} thread, load average'
        f' {device["load"]:.0f}).'
    )
    lines = [
        (
            TITLES[row['method']],
            '{} ({} to {})'.format(*(_figure(row[f'ms_{key}']) for key in ('median', 'min', 'max'))),
            f'{paired_ratio(rows, row["method"], FLOOR):.2f}',
        )
        for row in rows
    ]
    measured = table(('selection', 'ms', 'times the product'), lines)
    return {
        'selection': f'{text}\n\n{measured}',
        'growth': growth_table(result['growth']),
        'selection aims': aims_table([*judge_aims(rows), *judge_growth(result['growth'])]),
    }


def _figure(ms: float) -> str:
    return f'{ms:,.0f}' if ms >= 100 else f'{ms:.3g}'
