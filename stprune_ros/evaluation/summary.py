"""From single answers to one table: accuracy, what is recovered, and paired differences, each with its interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from stprune_ros.evaluation.bootstrap import SceneCounts, accuracy, difference, flips, recovered
from stprune_ros.evaluation.hits import ALL, BLIND, FULL, Hits, Trial


def summarize(hits: Hits) -> dict[str, Any]:
    """One table of the result: a row per method, keep ratio and label, with paired 95 % intervals; JSON data."""
    questions, default = hits.questions, hits.plan['default']
    of_scene = np.unique([question.scene for question in questions], return_inverse=True)[1]
    runs: dict[tuple[str, float], list[Trial]] = defaultdict(list)
    for trial in hits.trials():
        runs[trial.method, trial.keep].append(trial)
    right = {cell: np.array([hits.right(trial) for trial in trials]) for cell, trials in runs.items()}
    labels = dict.fromkeys(label for question in questions for label in question.labels)
    rows: list[dict[str, Any]] = []
    for label in labels:
        within = np.array([label in question.labels for question in questions])
        scenes = np.unique(of_scene[within], return_inverse=True)[1]
        part = {cell: values[:, within] for cell, values in right.items() if not np.isnan(values[:, within]).all()}
        rows += _rows(label, scenes, part, default)
    full, blind = (_find(rows, method, 1.0, ALL) for method in (FULL, BLIND))
    return {
        'host': hits.plan['model'][0],
        'revision': hits.plan['model'][1],
        'world': hits.plan['world'],
        'scenes': len(hits.results),
        'first_scene': min(hits.results),
        'tokens': hits.tokens,
        'seeds': hits.plan['seeds'],
        'full': full['accuracy'],
        'blind': blind['accuracy'],
        'rows': rows,
    }


def _rows(
    label: str, scenes: np.ndarray, right: Mapping[tuple[str, float], np.ndarray], default: str
) -> Iterator[dict[str, Any]]:
    counts = {cell: SceneCounts.of(scenes, values) for cell, values in right.items()}
    full, blind = counts[FULL, 1.0], counts.get((BLIND, 1.0))
    if blind is not None and (difference(full, blind)[1] or 0) <= 0:
        blind = None  # pictures add nothing that can be told apart, so there is nothing to recover
    for (method, keep), found in counts.items():
        figures: dict[str, float | None] = dict(zip(('accuracy', 'lo', 'hi'), accuracy(found)))
        shares = recovered(found, full, blind) if blind is not None else (None,) * 3
        figures.update(zip(('recovered', 'recovered_lo', 'recovered_hi'), shares))
        other = counts.get((default, keep)) if keep < 1 else full
        minus = difference(found, other) if other is not None else (None,) * 3
        figures.update(zip(('minus_default', 'minus_lo', 'minus_hi'), minus))
        figures.update(zip(('right_to_wrong', 'wrong_to_right'), flips(right[method, keep], right[FULL, 1.0][0])))
        rounded = {name: None if value is None else round(value, 4) for name, value in figures.items()}
        yield {'method': method, 'keep': keep, 'kind': label, 'questions': found.questions, **rounded}


def _find(rows: Sequence[dict[str, Any]], method: str, keep: float, kind: str) -> dict[str, Any]:
    return next(row for row in rows if (row['method'], row['keep'], row['kind']) == (method, keep, kind))
