"""Accuracy against tokens kept: every pruning method on questions whose true answers are known.

The model always sees the same features and the same questions; only the keep masks differ.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from stprune_ros.errors import Interrupted, StpruneError, listed
from stprune_ros.evaluation.asked_model import AskedModel
from stprune_ros.evaluation.case import Case, CaseScene, CaseSource, by_scene
from stprune_ros.evaluation.exam import EncodedScene, choose_answers
from stprune_ros.evaluation.hits import BLIND_TRIAL, FULL_TRIAL, Asked, Hits, SceneResult, Trial
from stprune_ros.evaluation.result_file import add_table, beside
from stprune_ros.evaluation.summary import summarize
from stprune_ros.evaluation.things import measure_things
from stprune_ros.evaluation.variants import WHOLE, WHOLE_FIRST_FRAME, Variant, name_of, variant_of
from stprune_ros.progress import Say, say_nothing
from stprune_ros.pruning.pruner import SpatioTemporalPruner
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend, TextEmbedder
from stprune_ros.vlm.loading import load_model
from stprune_ros.vlm.prompt import Prompt

IMPAIRED_KEEP = 0.1  # the keep ratio at which scenes with impaired cameras are evaluated
SEEDED = ('random', 'newest_random')  # methods that draw lots: run once per seed
SAVE_SECONDS = 60.0  # between two writes of the answers
GAUGED_SCENES = 40  # the first ones, on which it is measured how well methods tell things from background
SEED_STRIDE = 1_000_003  # between the seeds of two runs on the same scene


@dataclass(frozen=True)
class EvaluationPlan:
    """What to run: methods, keep ratios, and the number of runs of methods that draw lots; not what ran before.

    ``model`` is the one that is to answer, wherever it is loaded; None: whichever the settings name.
    """

    methods: tuple[str, ...]
    keeps: tuple[float, ...]
    seeds: int
    ran: frozenset[Trial] = frozenset()
    model: AskedModel | None = None

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
        if plan.model is not None:
            plan.model.require(AskedModel.of(self.backend.info, self.prompt))

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
    backend, prompt = load_model(settings, say)  # here first: a mistake is reported once, not by every worker
    add_table(output, name_of(settings.pruning), {'host': backend.info.model_id, 'world': source.world})  # refused now
    answers = ask_all(source, plan, settings, backend, prompt, workers, output, resume, evaluating)
    hits, partial = answers.complete()
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
    prompt: Prompt,
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
    model = AskedModel.of(backend.info, prompt)
    ran = _plan_of(source, plan, settings, model)
    hits, hits_file = Hits(json.loads(json.dumps(ran))), beside(output, model.model_id, source.world, '.hits.npz')
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
            rest = replace(plan, ran=ran_before, model=model)
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


def _plan_of(source: CaseSource, plan: EvaluationPlan, settings: Settings, model: AskedModel) -> dict[str, Any]:
    """What a file of answers says about itself: all that they depend on."""
    numbers = asdict(settings.pruning.for_model(model.joint_common))
    ran = {
        'default': name_of(settings.pruning),
        'world': source.world,
        'model': [model.model_id, model.revision],
        'weights': {name: number for name, number in numbers.items() if name.startswith(('lambda_', 'joint_'))},
        'loaded': {
            'dtype': model.dtype,
            'prompt': model.prompt_id,
            'model.engine': settings.model.engine,
            'model.max_image_pixels': settings.model.max_image_pixels,
        },
        'methods': plan.methods,
        'keeps': plan.keeps,
        'seeds': plan.seeds,
    }
    variants = [variant_of(method, 1.0, 0, settings) for method in plan.methods]
    if {variant.encoding for variant in variants} - {WHOLE}:
        ran |= {'refresh_ms': settings.cameras.refresh_ms, 'side_image_pixels': settings.model.side_image_pixels}
    if shares := [variant.config.even_share for variant in variants if variant.config.even_share]:
        ran['even_share'] = shares[0]
    return ran


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
