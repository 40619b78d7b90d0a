"""What `stprune bench --engines` found as tables, and its aims, each beside what a formula gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stprune_ros.bench.bounds import KINDS, token_bytes
from stprune_ros.bench.costs import QWEN3_VL_2B, QWEN3_VL_4B, QWEN25_VL_3B
from stprune_ros.bench.report import aims_table
from stprune_ros.results import table

TICKS_PER_TEXT = 10  # where descriptions are paced: one in 5 s at two hints a second
FASTER, CHEAPER = 8.0, 4.0  # the aims
PUBLISHED = (QWEN3_VL_2B, QWEN25_VL_3B, QWEN3_VL_4B)
WEIGHT_KINDS = ('F16', 'Q8_0', *KINDS[1:])
COLUMNS = ('encode', 'prune', 'prefill', 'hint', 'write', 'token')

Row = dict[str, Any]


def up_to_hint(row: Row) -> float:
    """CPU milliseconds of a tick without its text."""
    return float(row['cpu_ms']['tick'] - row['cpu_ms']['write'])


def paced(row: Row) -> float:
    """CPU milliseconds of a tick, with its share of a text that is written once in `TICKS_PER_TEXT` ticks."""
    return up_to_hint(row) + float(row['cpu_ms']['write']) / TICKS_PER_TEXT


def judge_aims(rows: Sequence[Row]) -> list[Row]:
    """Each aim with the figure found, what a formula gives, and whether it holds.

    Of ticks: the tick with all tokens over what it would take if its encoding fell to the images that are new and its
    prefill to its share of the FLOPs, and hint and text took what they take. Six images at a time may cost less than a
    quarter of 24, and the static start of a prompt is not prefilled again. Of writing: the bytes that a token reads.
    """
    found = {(row['engine'], row['weights'], row['keep']): row for row in rows}
    judged = []
    for (engine, kind, keep), full in found.items():
        if keep != 1:
            continue
        pruned = found[engine, kind, 0.1]
        encode, prefill = (
            full['cpu_ms'][stage] * pruned['flops'][stage] / full['flops'][stage] for stage in ('encode', 'prefill')
        )
        least = encode + prefill + pruned['cpu_ms']['hint']
        text = pruned['cpu_ms']['write'] / TICKS_PER_TEXT
        name = f'{engine}, {kind}'
        aim = f'{name}: up to the hint at 10 % against all tokens without feature cache, at least {FASTER:g} times'
        judged.append(_aim(aim, up_to_hint(full) / up_to_hint(pruned), FASTER, up_to_hint(full) / least))
        aim = f'{name}: the tick, texts every {TICKS_PER_TEXT} ticks against every tick, at least {FASTER:g} times'
        whole = full['cpu_ms']['tick']
        judged.append(_aim(aim, whole / paced(pruned), FASTER, whole / (least + text)))
    plain, packed = (found[key] for key in (('transformers', 'float32', 0.1), ('llama.cpp', 'Q4_0', 0.1)))
    aim = f'writing with Q4_0 against float32, at least {CHEAPER:g} times cheaper per token'
    computed = plain['token_bytes'] / packed['token_bytes']
    judged.append(_aim(aim, plain['cpu_ms']['token'] / packed['cpu_ms']['token'], CHEAPER, computed))
    return judged


def _aim(aim: str, found: float, least: float, computed: float) -> Row:
    return {'aim': aim, 'found': round(found, 2), 'computed': round(computed, 2), 'holds': found >= least}


def to_markdown(result: dict[str, Any]) -> str:
    """All of it, for people."""
    device = result['device']
    versions = ', '.join(f'{name} {number}' for name, number in result['versions'].items())
    return '\n\n'.join(
        [
            f'Device: {device["name"]} ({device["kind"]}, {device["threads"]} threads), {result["date"]}, {versions};'
            f' {result["seconds"]:.0f} s in all.',
            *blocks(result).values(),
        ]
    )


def blocks(result: dict[str, Any]) -> dict[str, str]:
    """The parts of a page, by name."""
    return {'engines': _engines(result), 'engine aims': aims_table(judge_aims(result['engines'])), 'bytes': _bytes()}


def _engines(result: dict[str, Any]) -> str:
    rows, roofs, device = result['engines'], result['roofs'], result['device']
    whole = next(row for row in rows if row['keep'] == 1)
    rates = ', '.join(f'{roofs[name] / 1e9:.0f} GFLOP/s in a {name} product' for name in ('float32', 'bfloat16'))
    text = (
        f'{result["model"]}, {whole["tokens_full"]:,} visual tokens, {whole["tokens_text"]} text tokens'
        f' ({result["date"][:10]}, {device["name"]}, {device["threads"]} thread, load average {device["load"]:.0f}).'
        ' CPU milliseconds, in brackets what a formula gives: FLOPs (of causal attention) or bytes over what the'
        f' machine reached in the same run, {rates} (taken for all types but float32), {roofs["read"] / 1e9:.1f} GB/s'
        ' of reading. A token reads the weights and the KV cache. The MiB are the weights that it reads, computed.'
    )
    lines = [
        (
            f'{row["engine"]}, {row["weights"]}',
            f'{row["keep"]:.0%}' + ('' if row['feature_cache'] else ', no feature cache'),
            *(_cell(row, column) for column in COLUMNS),
            f'{up_to_hint(row):.0f}',
            f'{row["cpu_ms"]["tick"]:.0f}',
            f'{paced(row):.0f}',
            f'{row["token_bytes"] / 2**20:.0f}',
        )
        for row in rows
    ]
    head = ('engine, weights', 'kept', *COLUMNS[:-1], 'per token', 'up to the hint', 'tick')
    return f'{text}\n\n' + table((*head, f'tick, text every {TICKS_PER_TEXT}', 'MiB'), lines)


def _cell(row: Row, column: str) -> str:
    computed = row['computed_ms'].get(column)
    return f'{row["cpu_ms"][column]:.0f}' + ('' if computed is None else f' ({computed:.0f})')


def _bytes() -> str:
    lines = [(shape.name, *(f'{token_bytes(shape, kind) / 2**30:.2f}' for kind in WEIGHT_KINDS)) for shape in PUBLISHED]
    return table(('model', *WEIGHT_KINDS), lines)
