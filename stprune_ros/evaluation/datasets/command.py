"""``stprune eval --dataset``: read a set, ask, judge, and write tables, plot and answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.datasets import drivelm, lingoqa, nuinstruct
from stprune_ros.evaluation.datasets.answers import AnswerFile, AnswerKey
from stprune_ros.evaluation.datasets.asking import Answering, Asking, ask_all, instructed, one_by_one
from stprune_ros.evaluation.datasets.dataset import Dataset, require_questions
from stprune_ros.evaluation.datasets.files import OUTPUT, PREDICTIONS
from stprune_ros.evaluation.datasets.judge import Judge, load_judge
from stprune_ros.evaluation.datasets.measures import JUDGE, MATCH
from stprune_ros.evaluation.datasets.table import Figures, measures_table
from stprune_ros.evaluation.datasets.text_metrics import require_packages
from stprune_ros.evaluation.fidelity import EvaluationPlan, check_variant
from stprune_ros.evaluation.hits import BLIND_TRIAL, Trial
from stprune_ros.evaluation.result_file import add_table, beside, write_plot
from stprune_ros.evaluation.tables import to_markdown
from stprune_ros.evaluation.variants import name_of, variant_of
from stprune_ros.progress import Say
from stprune_ros.results import Show, write_json
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import ModelInfo
from stprune_ros.vlm.loading import load_model
from stprune_ros.vlm.prompt import Prompt

WriteAnswers = Callable[[Path, Dataset, Mapping[str, str]], None]
Challenge = Callable[[Dataset, Mapping[str, str], Mapping[str, float]], Mapping[str, Any]]

JUDGED = {JUDGE, MATCH}  # the challenge of DriveLM has the judge look at both
NEED_RING = ('rsp', 'keep_one_copy', 'calibrated_overlap')


@dataclass(frozen=True)
class SetFormat:
    """A set by its three functions: how it is read, how answers are written for its own tools, what those would say.

    ``ending`` is of the answers file; ``challenge`` is None where the set has no tool that needs no judge.
    """

    read: Callable[[Path, int | None], Dataset]
    write: WriteAnswers
    ending: str
    challenge: Challenge | None = None


FORMATS: Mapping[str, SetFormat] = {
    'drivelm': SetFormat(drivelm.read, drivelm.write_answers, OUTPUT, drivelm.challenge),
    'lingoqa': SetFormat(lingoqa.read, lingoqa.write_answers, '.predictions.csv'),
    'nuinstruct': SetFormat(nuinstruct.read, nuinstruct.write_answers, PREDICTIONS),
}


@dataclass(frozen=True)
class DatasetPlan:
    """What to run on which set; ``limit`` questions from the first, ``frames`` instants at most, None for all."""

    name: str
    data: Path
    output: Path
    methods: tuple[str, ...]
    keeps: tuple[float, ...]
    seeds: int
    limit: int | None
    frames: int | None
    judge: str | None
    resume: bool


def run(plan: DatasetPlan, settings: Settings, show: Show, say: Say, answering: Answering = one_by_one) -> int:
    """Ask and write; returns 0. ``answering`` says where, see `Answering`.

    Raises StpruneError where the set cannot be read, or nothing of it be asked.
    """
    require_packages()
    form = FORMATS[plan.name]
    dataset = require_questions(form.read(plan.data, plan.frames)).first(plan.limit)
    told = [*dataset.notes, *dataset.faults.sentences]
    for sentence in told:
        say(sentence)
    _require_possible(dataset, plan.methods, settings)
    judge = load_judge(plan.judge) if plan.judge else None
    if judge and not any(JUDGED & {*question.measures} for question in dataset.questions):
        raise StpruneError(f'no question of {dataset.world} is for a judge: omit --judge')
    backend, prompt = load_model(settings, say)
    trials = [*EvaluationPlan(plan.methods, plan.keeps, plan.seeds).trials(), BLIND_TRIAL]
    for trial in trials[:-1]:
        check_variant(variant_of(trial.method, trial.keep, trial.seed, settings), backend)
    info, default = backend.info, name_of(settings.pruning)
    head = _run_head(dataset, settings, prompt, info, plan.frames)
    add_table(plan.output, default, {'host': info.model_id, 'world': plan.name})  # refused now, if at all
    path = beside(plan.output, info.model_id, plan.name, '.answers.jsonl')
    with AnswerFile(path, head, plan.resume, dataset.identities) as file:
        before = len(file.answers)
        if file.outdated:
            say(
                f"{len(file.outdated)} answers in '{path}' are about pictures or a calibration that were replaced"
                ' since: they are asked anew'
            )
        asking = Asking(dataset, settings, backend, instructed(prompt, dataset, info))
        added = ask_all(asking, trials, file, answering)
        say(f'{added} answers were asked for, {before} were in the file already')
        judged = _judge(dataset, file, judge, trials) if judge else {}
    figures = Figures(dataset, trials, file.answers, judged)
    if not figures.trials:
        raise StpruneError(f"no question of '{dataset.path}' could be asked: {'; '.join(dataset.faults.sentences)}")
    files = [file.path, *_write_answers(form, plan, figures, info.model_id)]
    notes = _notes(dataset, figures, judge, info, settings)
    for sentence in notes:
        if sentence not in told:
            say(sentence)
    ran = {'default': default, 'world': plan.name, 'model': [info.model_id, info.revision], 'seeds': plan.seeds}
    found = {**figures.table(ran), 'measures': figures.measures(), 'notes': notes}
    if form.challenge is not None:
        found['challenge'] = _challenge(form.challenge, figures)
    write_json(plan.output, add_table(plan.output, default, found))
    files = [plan.output, *files]
    if found['rows']:
        files.append(beside(plan.output, info.model_id, plan.name, '.png'))
        write_plot(found, default, files[-1])
    text = f'{to_markdown(found, default)}\n\n{measures_table(found["measures"])}' if found['measures'] else ''
    show(text, {'files': files, 'default': default, 'table': found})
    return 0


def _run_head(
    dataset: Dataset, settings: Settings, prompt: Prompt, model: ModelInfo, frames: int | None
) -> dict[str, Any]:
    """What must be the same where a run goes on with answers."""
    numbers = asdict(settings.pruning.for_model(model.joint_common))
    pruning = {name: value for name, value in numbers.items() if name not in ('method', 'keep_ratio')}
    return {
        'set': [dataset.world, dataset.revision],
        'frames': frames,
        'lacks': dataset.notes,
        'model': [model.model_id, model.revision, model.dtype],
        'prompt': prompt.id,
        'max_new_tokens': settings.inference.max_new_tokens,
        'pixels': [settings.model.max_image_pixels, settings.model.side_image_pixels, settings.cameras.refresh_ms],
        'pruning': pruning,
    }


def _require_possible(dataset: Dataset, methods: Sequence[str], settings: Settings) -> None:
    """Raise StpruneError for turns of views, and where there is one camera for what compares it with its neighbours."""
    for method in methods:
        if variant_of(method, 1.0, 0, settings).encoding.refresh_ns:
            raise StpruneError(f"views take no turns in a data set, whose instants are too far apart: omit '{method}'")
    for method in methods if dataset.single_camera else ():
        found = [part for part in method.split('+') if part in NEED_RING]
        if found:
            raise StpruneError(
                f"'{found[0]}' compares a view with its neighbours, and {dataset.world} has one camera: omit '{method}'"
            )


def _judge(dataset: Dataset, file: AnswerFile, judge: Judge, trials: list[Trial]) -> dict[AnswerKey, float]:
    """What a judge says of each answer to a question for judges; what the file has is not judged again."""
    found = {}
    for question in dataset.questions:
        if question.answers and JUDGED & {*question.measures}:
            for key in (AnswerKey(question.id, trial) for trial in trials):
                if key not in file.answers:
                    continue
                if (key, judge.name) not in file.scores:
                    score = judge.score(question.text, question.answers, file.answers[key].text)
                    file.add_score(key, judge.name, score)
                found[key] = file.scores[key, judge.name]
    return found


def _write_answers(form: SetFormat, plan: DatasetPlan, figures: Figures, host: str) -> list[Path]:
    """A file for the set's own tools for each method and ratio: of the first run where lots are drawn."""
    files = []
    for trial in figures.trials:
        if trial.seed == 0:
            name = f'{plan.name}.{trial.method}.{str(trial.keep).removesuffix(".0")}'
            files.append(beside(plan.output, host, name, form.ending))
            form.write(files[-1], figures.dataset, figures.texts(trial))
    return files


def _challenge(challenge: Challenge, figures: Figures) -> list[dict[str, Any]]:
    rows = []
    for trial in figures.trials:
        judged = {key.id: score for key, score in figures.judged.items() if key.trial == trial}
        found = challenge(figures.dataset, figures.texts(trial), judged)
        rows.append({**trial._asdict(), **found})
    return rows


def _notes(dataset: Dataset, figures: Figures, judge: Judge | None, info: ModelInfo, settings: Settings) -> list[str]:
    """What a reader of the figures has to know, a sentence each with its count."""
    notes = [*dataset.notes, *dataset.faults.sentences]
    if info.domain:
        notes.append(f"model '{info.model_id}' knows only {info.domain}: its figures say nothing about other sets")
    questions = dataset.questions
    if figures.unasked:
        notes.append(f'{figures.unasked} of {len(questions)} questions were not asked under every method and ratio')
    unanswered = sum(not question.answers for question in questions)
    if unanswered:
        notes.append(
            f"{unanswered} of {len(questions)} questions of '{dataset.path}' have no true answer: they are asked and"
            ' not scored; hold some out of a file that has answers'
        )
    unjudged = sum(JUDGE in question.measures and bool(question.answers) for question in questions)
    if unjudged and judge is None:
        notes.append(f'{unjudged} of {len(questions)} questions are for a judge and not scored: name one with --judge')
    cut = sum(answer.cut for answer in figures.answers.values())
    if cut:
        notes.append(
            f'{cut} of {len(figures.answers)} answers were cut at {settings.inference.max_new_tokens} tokens'
            ' (inference.max_new_tokens)'
        )
    return notes
