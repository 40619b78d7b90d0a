"""Accuracy against tokens kept: every pruning method on questions whose true answers are known.

The model always sees the same features and the same questions; only the keep masks differ.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from stprune_ros.evaluation.bootstrap import SceneCounts, accuracy_interval, relative_accuracy
from stprune_ros.evaluation.case import Case, CaseScene, CaseSource, by_scene
from stprune_ros.evaluation.exam import EncodedScene, choose_answers
from stprune_ros.evaluation.variants import SWITCHES as SWITCHES
from stprune_ros.evaluation.variants import VARIANTS as VARIANTS
from stprune_ros.evaluation.variants import config_of as config_of
from stprune_ros.evaluation.variants import name_of as name_of
from stprune_ros.progress import Say, say_nothing
from stprune_ros.pruning.pruner import SpatioTemporalPruner
from stprune_ros.results import table
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

DISTINCT_COLOURS = 10  # of matplotlib's cycle; further lines are dashed
FULL = 'none'
BLIND = 'blind'  # all tokens of grey images: how far guessing gets
IMPAIRED_KEEP = 0.1  # the keep ratio at which scenes with impaired cameras are evaluated
SEEDED = ('random',)  # methods that draw lots: run once per seed
SEED_STRIDE = 1_000_003  # between the seeds of two runs on the same scene


class Trial(NamedTuple):
    """One way to prune: method with its switches, keep ratio, and the number of the run for methods that draw lots."""

    method: str
    keep: float
    seed: int


FULL_TRIAL = Trial(FULL, 1.0, 0)
BLIND_TRIAL = Trial(BLIND, 1.0, 0)


@dataclass(frozen=True)
class EvaluationPlan:
    """What to run: methods, keep ratios, and the number of runs of methods that draw lots."""

    methods: tuple[str, ...]
    keeps: tuple[float, ...]
    seeds: int

    def trials(self) -> Iterator[Trial]:
        """What runs on every scene. Keeping everything is the same for all methods and runs once."""
        yield FULL_TRIAL
        for method in self.methods:
            for keep in self.keeps:
                if keep < 1:
                    for seed in range(self.seeds if method in SEEDED else 1):
                        yield Trial(method, keep, seed)


@dataclass(frozen=True)
class SceneResult:
    """Results of one scene: the labels that each question counts under, and per trial which were answered correctly."""

    scene_id: int
    labels: list[tuple[str, ...]]
    correct: dict[Trial, list[bool]]


class SceneEvaluator:
    """Evaluates one scene after another; ``prepare`` and ``run`` are what worker processes call."""

    ready: SceneEvaluator | None = None

    def __init__(self, source: CaseSource, plan: EvaluationPlan, settings: Settings) -> None:
        self.source, self.plan, self.settings = source, plan, settings
        self.backend, self.prompt = load_model(settings)

    @classmethod
    def prepare(cls, source: CaseSource, plan: EvaluationPlan, settings: Settings) -> None:
        """Load the model once per process, on one thread: scenes run in parallel."""
        torch.set_num_threads(1)
        cls.ready = cls(source, plan, settings)

    @classmethod
    def run(cls, scene_id: int) -> list[SceneResult]:
        """Evaluate a scene with the evaluator of this process."""
        assert cls.ready is not None
        return cls.ready.evaluate(scene_id)

    def evaluate(self, scene_id: int) -> list[SceneResult]:
        """Every trial of the plan on one scene, and grey images; fewer trials where cameras are impaired.

        Cases without candidates are left out: a text is not right or wrong.
        """
        trials, results = list(self.plan.trials()), []
        closed = [case for case in self.source.cases(scene_id) if case.candidates]
        for scene, cases in by_scene(closed):
            labels: list[tuple[str, ...]]
            if scene.condition:
                labels = [(scene.condition,) for _ in cases]
                few = [trial for trial in trials if trial == FULL_TRIAL or trial.keep == IMPAIRED_KEEP]
                correct = self._correct(scene, cases, few)
            else:
                labels = [('all', case.kind, scene.ego_motion) for case in cases]
                correct = self._correct(scene, cases, trials)
                correct[BLIND_TRIAL] = self._correct(scene.with_grey_images(), cases, [FULL_TRIAL])[FULL_TRIAL]
            results.append(SceneResult(scene.id, labels, correct))
        return results

    def _correct(self, scene: CaseScene, cases: Sequence[Case], trials: Sequence[Trial]) -> dict[Trial, list[bool]]:
        """Which cases are answered correctly in each trial."""
        encoded, correct = EncodedScene.encode(scene, self.backend), {}
        for trial in trials:
            config = config_of(trial.method, trial.keep, trial.seed * SEED_STRIDE + scene.id, self.settings)
            context = encoded.prefill(config, self.backend, self.prompt)
            answers = choose_answers(self.backend, context, cases)
            correct[trial] = [answer == case.answer for answer, case in zip(answers, cases)]
        return correct


CountsByTrial = dict[tuple[str, float], dict[str, SceneCounts]]  # by method and keep ratio, then by label


def evaluate_methods(
    source: CaseSource, plan: EvaluationPlan, settings: Settings, workers: int, say: Say = say_nothing
) -> dict[str, Any]:
    """Rows of accuracy per method, keep ratio and kind of question, with 95 % bootstrap intervals; JSON data.

    ``say`` gets a line where loading takes long.
    Raises StpruneError if the model cannot be loaded or a method does not exist.
    """
    backend, _ = load_model(settings, say)  # in this process first: a mistake is reported once, not by every worker
    for trial in plan.trials():
        SpatioTemporalPruner(config_of(trial.method, trial.keep, trial.seed, settings))
    counts: CountsByTrial = defaultdict(lambda: defaultdict(SceneCounts))
    total = len(source.scene_ids)
    with get_context('spawn').Pool(workers, SceneEvaluator.prepare, (source, plan, settings)) as pool:
        scenes = pool.imap(SceneEvaluator.run, source.scene_ids)
        for results in tqdm(scenes, total=total, unit='scene', disable=not sys.stderr.isatty()):
            for result in results:
                _count(counts, result)
    info = backend.info
    return {
        'default': name_of(settings.pruning),
        'model': {'id': info.model_id, 'revision': info.revision},
        'scenes': total,
        'seeds': plan.seeds,
        'rows': [row for method in (*plan.methods, BLIND) for row in _rows(method, plan, counts)],
    }


def _count(counts: CountsByTrial, result: SceneResult) -> None:
    for trial, correct in result.correct.items():
        for labels, right in zip(result.labels, correct, strict=True):
            for label in labels:
                counts[trial.method, trial.keep][label].add(result.scene_id, right)


def _rows(method: str, plan: EvaluationPlan, counts: CountsByTrial) -> Iterator[dict[str, Any]]:
    full = counts[FULL, 1.0]
    for keep in (1.0,) if method == BLIND else plan.keeps:
        by_label = counts[method, keep] if keep < 1 or method == BLIND else full
        for label, found in sorted(by_label.items()):
            low, high = accuracy_interval(found)
            relative, relative_low, relative_high = relative_accuracy(found, full[label])
            yield {
                'method': method,
                'keep': keep,
                'kind': label,
                'questions': found.questions,
                'accuracy': round(found.accuracy, 4),
                'lo': round(low, 4),
                'hi': round(high, 4),
                'relative': round(relative, 4),
                'relative_lo': round(relative_low, 4),
                'relative_hi': round(relative_high, 4),
            }


def to_markdown(result: dict[str, Any], kind: str = 'all') -> str:
    """The rows of one kind as a Markdown table: methods down, keep ratios across; accuracy and its share of full."""
    rows = [row for row in result['rows'] if row['kind'] == kind and row['method'] != BLIND]
    keeps = sorted({row['keep'] for row in rows}, reverse=True)
    lines = []
    for method in dict.fromkeys(row['method'] for row in rows):
        by_keep = {row['keep']: row for row in rows if row['method'] == method}
        cells = [f'{100 * by_keep[k]["accuracy"]:.1f} ({100 * by_keep[k]["relative"]:.0f} %)' for k in keeps]
        lines.append((method, *cells))
    return table(('method', *(f'{keep:.0%}' for keep in keeps)), lines)


def write_plot(result: dict[str, Any], path: Path) -> None:
    """Plot accuracy over keep ratio: one line per method without switches, the default's interval as a band."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    rows = [row for row in result['rows'] if row['kind'] == 'all' and row['method'] != BLIND]
    rows = [row for row in rows if '+' not in row['method'] or row['method'] == result['default']]
    for index, method in enumerate(dict.fromkeys(row['method'] for row in rows)):
        points = sorted((row for row in rows if row['method'] == method), key=lambda row: row['keep'])
        keeps = [row['keep'] for row in points]
        is_default = method == result['default']
        style: dict[str, Any] = {'lw': 3 if is_default else 1.2, 'ls': '-' if index < DISTINCT_COLOURS else '--'}
        [line] = axes.plot(keeps, [row['accuracy'] for row in points], marker='o', label=method, **style)
        if is_default:
            axes.fill_between(
                keeps, [r['lo'] for r in points], [r['hi'] for r in points], alpha=0.2, color=line.get_color()
            )
    blind = next(row for row in result['rows'] if row['method'] == BLIND and row['kind'] == 'all')
    axes.axhline(blind['accuracy'], color='grey', ls=':', label='no images')
    axes.set(xscale='log', xlabel='share of visual tokens kept', ylabel='answers right', xticks=keeps)
    axes.set_xticklabels([f'{keep:.0%}' for keep in keeps])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
