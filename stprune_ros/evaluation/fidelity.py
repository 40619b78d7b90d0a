"""Answers kept against tokens kept: every pruning method on questions about held-out scenes whose truth is known.

The model always sees the same features and the same questions; only the keep masks differ.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.bootstrap import Counts, interval, ratio_of
from stprune_ros.evaluation.exam import BLANK, FROZEN, PICTURES, Exam, ringworld_rig
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.pruner import SpatioTemporalPruner
from stprune_ros.results import table
from stprune_ros.ringworld.questions import Question, questions_about
from stprune_ros.ringworld.scenes import HELD_OUT, Scene, scene
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load

QUESTIONS_PER_SCENE = 10
COLOURS = 10  # that matplotlib tells apart; lines beyond are dashed
FULL = 'none'
BLIND = 'blind'  # everything kept of grey pictures: what guessing gives
EXAM = HELD_OUT + 10_000  # the held-out scenes before these were looked at while weights and methods were tuned
FROZEN_KEEP = 0.1  # where cameras that repeat themselves are examined, as a kind of its own
FROZEN_KIND = 'frozen cameras'
SEEDED = ('random',)  # methods that draw lots: run once per seed
SWITCHES = ('compensate_motion', 'calibrated_overlap', 'keep_one_copy', 'skip_frozen', 'multiplicative_bonus')
JOINT_SWITCHES = ('compensate_motion', 'skip_frozen', 'multiplicative_bonus')  # the others are about two stages
RENAMED_SWITCHES = {'one_pays': 'keep_one_copy', 'scaled_terms': 'multiplicative_bonus'}  # old names are understood
VARIANTS = (
    *(f'st_prune+{switch}' for switch in SWITCHES),
    'st_prune+all',
    *(f'st_prune_joint+{switch}' for switch in JOINT_SWITCHES),
    'st_prune_joint+all',
)


Cell = tuple[str, float, int]  # method, keep ratio, seed
AllCounts = dict[tuple[str, float], dict[str, Counts]]  # by method and keep ratio, then by kind


@dataclass(frozen=True)
class Plan:
    """What to run: methods and keep ratios, number of scenes, seeds for the methods that draw lots."""

    methods: tuple[str, ...]
    keeps: tuple[float, ...]
    scenes: int
    seeds: int

    def cells(self) -> Iterator[Cell]:
        """What runs; everything kept is the same for every method and runs once."""
        yield FULL, 1.0, 0
        for method in self.methods:
            for keep in self.keeps:
                if keep < 1:
                    for seed in range(self.seeds if method in SEEDED else 1):
                        yield method, keep, seed


def config_of(name: str, keep: float, seed: int, settings: Settings) -> PruningConfig:
    """A method with switches, such as 'st_prune+keep_one_copy'; '+all' sets every switch.

    Raises StpruneError if a switch does not exist.
    """
    method, *switches = name.split('+')
    on = SWITCHES if switches == ['all'] else tuple(RENAMED_SWITCHES.get(switch, switch) for switch in switches)
    for switch in on:
        if switch not in SWITCHES:
            raise StpruneError(f"there is no switch '{switch}' in '{name}'; choose from {', '.join(SWITCHES)}, all")
    changes: dict[str, Any] = {switch: switch in on for switch in SWITCHES}
    return replace(settings.pruning, method=method, keep_ratio=keep, seed=seed, **changes)


def name_of(config: PruningConfig) -> str:
    """The name of a method with its switches, as `config_of` reads it."""
    return '+'.join([config.method, *(switch for switch in SWITCHES if getattr(config, switch))])


@dataclass(frozen=True)
class Graded:
    """Questions on one scene: the kinds of each, and per cell which were answered rightly."""

    number: int
    kinds: list[tuple[str, ...]]
    hits: dict[Cell, list[bool]]


class Examiner:
    """Renders, encodes and examines one scene after another; ``prepare`` and ``grade`` run in worker processes."""

    ready: Examiner | None = None

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self.plan, self.settings = plan, settings
        self.backend, self.prompt = load(settings)
        self.rig = ringworld_rig()

    @classmethod
    def prepare(cls, plan: Plan, settings: Settings) -> None:
        """Load the model once per process, on one thread: scenes are the parallel part."""
        torch.set_num_threads(1)
        cls.ready = cls(plan, settings)

    @classmethod
    def grade(cls, seed: int) -> list[Graded]:
        """Grade a scene with the examiner of this process."""
        assert cls.ready is not None
        return cls.ready.examine(scene(seed))

    def examine(self, found: Scene) -> list[Graded]:
        """Every cell of the plan on one scene, the same questions without pictures, and some with frozen cameras."""
        cells = list(self.plan.cells())
        rng = np.random.default_rng([found.seed, 5])
        questions = questions_about(found.truths[-1], rng, QUESTIONS_PER_SCENE)
        graded = self._grade(found, PICTURES, questions, cells)
        blank = self._grade(found, BLANK, questions, [(FULL, 1.0, 0)])
        graded.hits[BLIND, 1.0, 0] = blank.hits[FULL, 1.0, 0]
        frozen = [cell for cell in cells if cell[0] == FULL or cell[1] == FROZEN_KEEP]
        still = questions_about(found.truths[-1], rng, QUESTIONS_PER_SCENE, motion=False)
        return [graded, self._grade(found, FROZEN, still, frozen)]

    def _grade(self, found: Scene, shows: str, questions: Sequence[Question], cells: Sequence[Cell]) -> Graded:
        exam = Exam.of(found, self.backend, self.rig, shows)
        kinds = [(FROZEN_KIND,) if shows == FROZEN else ('all', q.kind, exam.motion) for q in questions]
        hits = {}
        for method, keep, seed in cells:
            config = config_of(method, keep, seed * 1_000_003 + found.seed, self.settings)
            hits[method, keep, seed] = self._answer(exam, config, questions)
        return Graded(found.seed, kinds, hits)

    def _answer(self, exam: Exam, config: PruningConfig, questions: Sequence[Question]) -> list[bool]:
        """Which questions are answered rightly when the model sees only the kept tokens."""
        context = exam.prefill(config, self.backend, self.prompt)
        scores = self.backend.score_all(context, [(question.text, question.candidates) for question in questions])
        return [q.candidates[int(np.argmax(score))] == q.answer for q, score in zip(questions, scores)]


def evaluate(plan: Plan, settings: Settings, workers: int) -> dict[str, Any]:
    """The table of README as a dictionary: one row per method, keep ratio and kind, with 95 % bootstrap intervals.

    Raises StpruneError for a model that cannot be loaded or a method that does not exist.
    """
    backend, _ = load(settings)  # first here, so that a mistake is one sentence and not one per process
    for method, keep, seed in plan.cells():
        SpatioTemporalPruner(config_of(method, keep, seed, settings))
    counts: AllCounts = defaultdict(lambda: defaultdict(Counts))
    seeds = range(EXAM, EXAM + plan.scenes)
    with get_context('spawn').Pool(workers, Examiner.prepare, (plan, settings)) as pool:
        scenes = pool.imap(Examiner.grade, seeds)
        for graded in tqdm(scenes, total=plan.scenes, unit='scene', disable=not sys.stderr.isatty()):
            for found in graded:
                _add(counts, found)
    info = backend.info
    return {
        'default': name_of(settings.pruning),
        'model': {'id': info.model_id, 'revision': info.revision},
        'scenes': plan.scenes,
        'seeds': plan.seeds,
        'rows': [row for method in (*plan.methods, BLIND) for row in _rows(method, plan, counts)],
    }


def _add(counts: AllCounts, found: Graded) -> None:
    for (method, keep, _), hits in found.hits.items():
        for kinds, hit in zip(found.kinds, hits):
            for kind in kinds:
                counts[method, keep][kind].add(found.number, hit)


def _rows(method: str, plan: Plan, counts: AllCounts) -> Iterator[dict[str, Any]]:
    full = counts[FULL, 1.0]
    for keep in (1.0,) if method == BLIND else plan.keeps:
        cell = counts[method, keep] if keep < 1 or method == BLIND else full
        for kind, found in sorted(cell.items()):
            low, high = interval(found)
            relative, relative_low, relative_high = ratio_of(found, full[kind])
            yield {
                'method': method,
                'keep': keep,
                'kind': kind,
                'questions': found.total,
                'accuracy': round(found.accuracy, 4),
                'lo': round(low, 4),
                'hi': round(high, 4),
                'relative': round(relative, 4),
                'relative_lo': round(relative_low, 4),
                'relative_hi': round(relative_high, 4),
            }


def as_text(result: dict[str, Any], kind: str = 'all') -> str:
    """The rows of one kind as a table in Markdown: methods down, keep ratios across, accuracy and share of full."""
    rows = [row for row in result['rows'] if row['kind'] == kind and row['method'] != BLIND]
    keeps = sorted({row['keep'] for row in rows}, reverse=True)
    lines = []
    for method in dict.fromkeys(row['method'] for row in rows):
        cells = {row['keep']: row for row in rows if row['method'] == method}
        said = [f'{100 * cells[k]["accuracy"]:.1f} ({100 * cells[k]["relative"]:.0f} %)' for k in keeps]
        lines.append((method, *said))
    return table(('method', *(f'{keep:.0%}' for keep in keeps)), lines)


def write_plot(result: dict[str, Any], path: Path) -> None:
    """Accuracy over keep ratio, one line per method without switches, the default's interval as a band."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    rows = [row for row in result['rows'] if row['kind'] == 'all' and row['method'] != BLIND]
    rows = [row for row in rows if '+' not in row['method'] or row['method'] == result['default']]
    for index, method in enumerate(dict.fromkeys(row['method'] for row in rows)):
        mine = sorted((row for row in rows if row['method'] == method), key=lambda row: row['keep'])
        keeps = [row['keep'] for row in mine]
        strong = method == result['default']
        look = {'lw': 3 if strong else 1.2, 'ls': '-' if index < COLOURS else '--'}
        [line] = axes.plot(keeps, [row['accuracy'] for row in mine], marker='o', label=method, **look)
        if strong:
            axes.fill_between(
                keeps, [r['lo'] for r in mine], [r['hi'] for r in mine], alpha=0.2, color=line.get_color()
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
