"""Accuracy against tokens kept: every pruning method on questions whose true answers are known.

The model always sees the same features and the same questions; only the keep masks differ.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from stprune_ros.errors import Interrupted, StpruneError, listed
from stprune_ros.evaluation.bootstrap import SceneCounts, accuracy, difference, flips, recovered
from stprune_ros.evaluation.case import Case, CaseScene, CaseSource, by_scene
from stprune_ros.evaluation.exam import EncodedScene, choose_answers
from stprune_ros.evaluation.hits import ALL, Asked, Hits, SceneResult, Trial
from stprune_ros.evaluation.tables import percent
from stprune_ros.evaluation.things import measure_things
from stprune_ros.evaluation.variants import SWITCHES as SWITCHES
from stprune_ros.evaluation.variants import VARIANTS as VARIANTS
from stprune_ros.evaluation.variants import WHOLE, WHOLE_FIRST_FRAME, Variant, variant_of
from stprune_ros.evaluation.variants import config_of as config_of
from stprune_ros.evaluation.variants import name_of as name_of
from stprune_ros.progress import Say, say_nothing
from stprune_ros.pruning.pruner import SpatioTemporalPruner
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend, TextEmbedder
from stprune_ros.vlm.loading import load_model

DISTINCT_COLOURS = 10  # of matplotlib's cycle; further lines are dashed
FULL = 'none'
BLIND = 'blind'  # all tokens of grey images: how far guessing gets
IMPAIRED_KEEP = 0.1  # the keep ratio at which scenes with impaired cameras are evaluated
SEEDED = ('random', 'newest_random')  # methods that draw lots: run once per seed
SAVE_SECONDS = 60.0  # between two writes of the answers
GAUGED_SCENES = 40  # the first ones, on which it is measured how well methods tell things from background
SEED_STRIDE = 1_000_003  # between the seeds of two runs on the same scene


FULL_TRIAL = Trial(FULL, 1.0, 0)
BLIND_TRIAL = Trial(BLIND, 1.0, 0)


@dataclass(frozen=True)
class EvaluationPlan:
    """What to run: methods, keep ratios, and the number of runs of methods that draw lots; not what ran before."""

    methods: tuple[str, ...]
    keeps: tuple[float, ...]
    seeds: int
    ran: frozenset[Trial] = frozenset()

    def trials(self) -> Iterator[Trial]:
        """What runs on every scene. Keeping everything is the same for all methods and runs once."""
        return (trial for trial in self._all() if trial not in self.ran)

    def _all(self) -> Iterator[Trial]:
        yield FULL_TRIAL
        for method in dict.fromkeys(self.methods):
            for keep in dict.fromkeys(self.keeps):
                if keep < 1:
                    for seed in range(self.seeds if method in SEEDED else 1):
                        yield Trial(method, keep, seed)


# Where scenes are evaluated: the results of each of the scenes, in their order, within the context.
Evaluating = Callable[
    [CaseSource, EvaluationPlan, Settings, Sequence[int]], AbstractContextManager[Iterable[list[SceneResult]]]
]


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
            few = [trial for trial in trials if trial == FULL_TRIAL or trial.keep == IMPAIRED_KEEP]
            encoded = EncodedScene.encode(scene, self.backend)
            correct = self._correct(scene, encoded, cases, few if scene.condition else trials)
            if not scene.condition and BLIND_TRIAL not in self.plan.ran:
                grey = EncodedScene.encode(scene.with_grey_images(), self.backend)
                correct[BLIND_TRIAL] = self._correct(scene, grey, cases, [FULL_TRIAL])[FULL_TRIAL]
            asked = [Asked(scene.id, case.kind, case.form, scene.ego_motion, scene.condition) for case in cases]
            results.append(SceneResult(scene.id, asked, correct, sum(view.count for view in encoded.views)))
        return results

    def _correct(
        self, scene: CaseScene, encoded: EncodedScene, cases: Sequence[Case], trials: Sequence[Trial]
    ) -> dict[Trial, list[float]]:
        """Which cases are answered correctly in each trial; NaN where a trial is not defined.

        ``encoded`` is the scene with all its images; where a trial encodes less, that is done here.
        """
        correct: dict[Trial, list[float]] = {}
        by_encoding = {WHOLE: encoded}
        for trial in trials:
            variant = variant_of(trial.method, trial.keep, trial.seed * SEED_STRIDE + scene.id, self.settings)
            if variant.config.method in WHOLE_FIRST_FRAME and trial.keep * encoded.history < 1:
                correct[trial] = [math.nan] * len(cases)
                continue
            if variant.encoding not in by_encoding:
                by_encoding[variant.encoding] = EncodedScene.encode(scene, self.backend, variant.encoding)
            answers = self._answers(by_encoding[variant.encoding], variant, cases)
            correct[trial] = [answer == case.answer for answer, case in zip(answers, cases)]
        return correct

    def _answers(self, encoded: EncodedScene, variant: Variant, cases: Sequence[Case]) -> list[str]:
        """What the model answers; where pruning reads the question, each case has a context of its own."""
        if not variant.reads_question:
            context = encoded.prefill(variant.config, self.backend, self.prompt, variant.options)
            return choose_answers(self.backend, context, cases)
        assert isinstance(self.backend, TextEmbedder)
        answers = []
        for case in cases:
            options = {**variant.options, 'question': self.backend.embed(case.question)}
            context = encoded.prefill(variant.config, self.backend, self.prompt, options)
            answers += choose_answers(self.backend, context, [case])
        return answers


def evaluate_methods(
    source: CaseSource,
    plan: EvaluationPlan,
    settings: Settings,
    workers: int,
    output: Path,
    resume: bool = False,
    say: Say = say_nothing,
    evaluating: Evaluating | None = None,
) -> dict[str, Any]:
    """`ask_all`, and one table of the result: JSON data. ``say`` gets a line where loading takes long."""
    backend, _ = load_model(settings, say)  # in this process first: a mistake is reported once, not by every worker
    add_table(output, name_of(settings.pruning), {'host': backend.info.model_id, 'world': source.world})  # refused now
    hits, partial = ask_all(source, plan, settings, backend, workers, output, resume, evaluating).complete()
    lost = dict.fromkeys(trial.method for trial in partial)
    if lost:
        say(
            f'{listed(lost)} were not asked about all {len(hits.results)} scenes at every ratio, and the table leaves'
            ' out where they were not: name them in --methods to ask'
        )
    gauged = source.scene_ids[:GAUGED_SCENES]
    here = {trial.method for trial in hits.trials()}
    methods = [method for method in hits.plan['methods'] if method in here or method not in lost]
    return {**summarize(hits), 'things': measure_things(source, gauged, methods, backend, settings)}


def ask_all(
    source: CaseSource,
    plan: EvaluationPlan,
    settings: Settings,
    backend: Backend,
    workers: int,
    output: Path,
    resume: bool = False,
    evaluating: Evaluating | None = None,
) -> Hits:
    """Ask every question under every trial, in workers that each load the model of ``backend`` anew.

    They are processes of this machine unless ``evaluating`` says otherwise.

    The answers are beside ``output`` (see `beside`) at least every `SAVE_SECONDS`; with ``resume`` only those are asked
    for that the file lacks: scenes, methods, or keep ratios.
    Raises StpruneError if the model cannot be loaded, a method does not exist, the file holds answers to another plan,
    or it is there and shall not be gone on with.
    """
    for trial in plan.trials():
        check_variant(variant_of(trial.method, trial.keep, trial.seed, settings), backend)
    info = backend.info
    model = [info.model_id, info.revision]
    asked = {'methods': plan.methods, 'keeps': plan.keeps, 'seeds': plan.seeds}
    numbers = asdict(settings.pruning.for_model(info.joint_common))
    weights = {name: number for name, number in numbers.items() if name.startswith(('lambda_', 'joint_'))}
    ran = {'default': name_of(settings.pruning), 'world': source.world, 'model': model, 'weights': weights, **asked}
    encodings = {variant_of(method, 1.0, 0, settings).encoding for method in plan.methods} - {WHOLE}
    if encodings:
        ran |= {'refresh_ms': settings.cameras.refresh_ms, 'side_image_pixels': settings.model.side_image_pixels}
    hits, hits_file = Hits(json.loads(json.dumps(ran))), beside(output, info.model_id, source.world, '.hits.npz')
    if hits_file.exists():
        if not resume:
            raise StpruneError(
                f"'{hits_file}' holds answers of an earlier run: add --resume to go on with them, or remove it"
            )
        hits = hits.after(Hits.load(hits_file), hits_file, source.scene_ids)
    lacking = _lacking(hits, plan, source.scene_ids)
    left = sum(map(len, lacking.values()))
    saved = time.monotonic()
    try:
        for ran_before, scenes in lacking.items():
            rest = replace(plan, ran=ran_before)
            with (evaluating or in_processes(workers))(source, rest, settings, scenes) as found:
                for scene, results in zip(scenes, tqdm(found, total=len(scenes), unit='scene', disable=None)):
                    hits.add(scene, results)
                    left -= 1
                    if time.monotonic() - saved > SAVE_SECONDS:
                        hits.save(hits_file)
                        saved = time.monotonic()
    except KeyboardInterrupt:
        raise _interruption(hits, hits_file, len(source.scene_ids) - left, len(source.scene_ids)) from None
    hits.save(hits_file)
    return hits


def _lacking(hits: Hits, plan: EvaluationPlan, scenes: Sequence[int]) -> dict[frozenset[Trial], list[int]]:
    """Scenes that lack an answer, by the trials that they have."""
    wanted = {*plan.trials()}
    found: dict[frozenset[Trial], list[int]] = defaultdict(list)
    for scene in scenes:
        known = frozenset(trial for result in hits.results.get(scene, ()) for trial in result.correct)
        if not wanted <= known:
            found[known].append(scene)
    return found


def in_processes(workers: int) -> Evaluating:
    """Workers that are processes of this machine."""

    @contextmanager
    def evaluating(
        source: CaseSource, plan: EvaluationPlan, settings: Settings, scenes: Sequence[int]
    ) -> Iterator[Iterable[list[SceneResult]]]:
        with get_context('spawn').Pool(workers, _start_worker, (source, plan, settings)) as pool:
            yield pool.imap(SceneEvaluator.run, scenes)

    return evaluating


def _start_worker(source: CaseSource, plan: EvaluationPlan, settings: Settings) -> None:
    """Ctrl-C reaches every process of a terminal: workers leave it to the one that started them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    SceneEvaluator.prepare(source, plan, settings)


def _interruption(hits: Hits, file: Path, finished: int, scenes: int) -> Interrupted:
    """Save the answers so far, and say where they are."""
    if not hits.results:
        return Interrupted(f'interrupted before the first of {scenes} scenes was finished: nothing is written', {})
    hits.save(file)
    return Interrupted(
        f"interrupted after {finished} of {scenes} scenes: their answers are in '{file}', where --resume goes on",
        {'files': [file]},
    )


def check_variant(variant: Variant, backend: Backend) -> None:
    """Raise StpruneError where a method does not exist, or asks of the backend what it does not give."""
    SpatioTemporalPruner(variant.config)
    if variant.reads_question and not isinstance(backend, TextEmbedder):
        raise StpruneError(
            f"model '{backend.info.model_id}' does not give embeddings of a question: omit"
            f" '{variant.config.method}+text' from --methods"
        )


def beside(output: Path, host: str, world: str, ending: str) -> Path:
    """The file beside a result that belongs to its table of one host and world."""
    return output.with_name(f'{output.stem}.{host.replace("/", "_")}.{world}{ending}')


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
    if blind is not None and difference(full, blind)[1] <= 0:
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
            axes.fill_between(
                keeps, [r['lo'] for r in points], [r['hi'] for r in points], alpha=0.2, color=line.get_color()
            )
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
