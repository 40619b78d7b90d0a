"""Tune the one main parameter of every pruning method that has one, on training drives, the same for all.

    python benchmark/tune.py --output benchmark/results/knobs.json

Tried are the values of `knobs.KNOBS`. The one with the most right answers, summed over the keep ratios, is chosen;
the authors' wins ties. Every single answer goes beside the result, and with --resume an interrupted run goes on. What
was chosen is then written into ``knobs.TUNED`` by hand, so that no evaluation depends on a file: a test compares them.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from stprune_ros.arguments import count, names, ratios
from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.bootstrap import SceneCounts, accuracy, difference
from stprune_ros.evaluation.fidelity import EvaluationPlan, ask_all
from stprune_ros.evaluation.hits import Hits, Trial
from stprune_ros.evaluation.knobs import KNOBS, with_value
from stprune_ros.evaluation.ringworld_cases import IntactCases
from stprune_ros.evaluation.tables import by_knob
from stprune_ros.results import write_json
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

TRAINING = 900_000  # seed of the first training drive; reported scenes are from 1,010,000 on


def choose(hits: Hits, method: str, keeps: Sequence[float]) -> dict[str, Any]:
    """The values of a method's knob with their accuracy at each ratio, and the one that was best: JSON data."""
    scenes = np.unique([question.scene for question in hits.questions], return_inverse=True)[1]
    knob = KNOBS[method]

    def counts(value: float, keep: float) -> SceneCounts:
        return SceneCounts.of(scenes, hits.right(Trial(with_value(method, value), keep, 0)))

    totals = {value: sum(counts(value, keep).correct.sum() for keep in keeps) for value in knob.values}
    tried = []
    for value in knob.values:
        row: dict[str, Any] = {'value': value}
        for keep in keeps:
            found, published = counts(value, keep), counts(knob.authors, keep)
            figures = dict(zip(('accuracy', 'lo', 'hi'), accuracy(found)))
            figures.update(zip(('minus_authors', 'minus_lo', 'minus_hi'), difference(found, published)))
            row[f'{keep:g}'] = {name: figure and round(figure, 4) for name, figure in figures.items()}
        tried.append(row)
    # The first of equal ones is chosen, and the authors' is the first.
    return {'parameter': knob.parameter, 'authors': knob.authors, 'chosen': max(totals, key=totals.get), 'tried': tried}


def main() -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', type=Path, required=True, metavar='FILE')
    parser.add_argument('--methods', type=names, default=tuple(KNOBS), metavar='A,B', help='default: all with a knob')
    parser.add_argument('--keep', type=ratios, default=(0.1, 0.05), metavar='R,R', help='default: 0.1,0.05')
    parser.add_argument('--scenes', type=count, default=100, metavar='N', help='training drives; default: %(default)s')
    parser.add_argument('--resume', action='store_true', help='go on where an interrupted run ended')
    parser.add_argument('--workers', type=count, default=os.cpu_count(), metavar='N', help='default: %(default)s')
    options = parser.parse_args()
    try:
        for method in options.methods:
            if method not in KNOBS:
                raise StpruneError(f"method '{method}' has no knob; choose from {', '.join(KNOBS)}")
        variants = [with_value(method, value) for method in options.methods for value in KNOBS[method].values]
        plan, source = EvaluationPlan(tuple(variants), options.keep, 1), IntactCases(options.scenes, TRAINING)
        settings = Settings()
        backend, prompt = load_model(settings)
        hits = ask_all(source, plan, settings, backend, prompt, options.workers, options.output, options.resume)
    except StpruneError as error:
        print(f'tune: {error}', file=sys.stderr)
        return 1
    found = {
        'date': date.today().isoformat(),
        'machine': platform.processor() or platform.machine(),
        'model': hits.plan['model'],
        'first_scene': TRAINING,
        'scenes': len(hits.results),
        'questions': len(hits.questions),
        'keeps': list(options.keep),
        'knobs': {method: choose(hits, method, options.keep) for method in options.methods},
    }
    write_json(options.output, found)
    print(by_knob(found))
    return 0


if __name__ == '__main__':
    sys.exit(main())
