"""Answers to figures: per question, then a table as of ringworld, and each measure with paired intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from stprune_ros.evaluation.bootstrap import SceneCounts, accuracy, difference
from stprune_ros.evaluation.case import CaseScene
from stprune_ros.evaluation.datasets.answers import AnswerKey, SetAnswer
from stprune_ros.evaluation.datasets.dataset import Dataset, Moment
from stprune_ros.evaluation.datasets.measures import ERROR, JUDGE, LANGUAGE, MATCH, PER_QUESTION
from stprune_ros.evaluation.datasets.text_metrics import bleu, cider, rouge_l
from stprune_ros.evaluation.hits import FULL_TRIAL, Asked, Hits, SceneResult, Trial
from stprune_ros.evaluation.summary import summarize
from stprune_ros.evaluation.tables import percent
from stprune_ros.results import table

Answers = Mapping[AnswerKey, SetAnswer]
Scores = Mapping[AnswerKey, float]
Cells = dict[str, dict[Trial, np.ndarray]]
ROUGE, CIDER = 'rouge_l', 'cider'
FULL = (FULL_TRIAL.method, FULL_TRIAL.keep)


class Figures:
    """What the answers to a set are worth; ``judged`` are a judge's scores, empty without one.

    Questions without a true answer count nowhere, nor do those that were not answered under every trial: ``unasked``.
    """

    def __init__(self, dataset: Dataset, trials: Sequence[Trial], answers: Answers, judged: Scores) -> None:
        self.dataset, self.judged = dataset, judged
        questions = dataset.questions
        self.answers = {
            key: answers[key] for q in questions for trial in trials if (key := AnswerKey(q.id, trial)) in answers
        }
        # A method that is not defined at a ratio has no answers at all there.
        self.trials = [trial for trial in trials if any(AnswerKey(q.id, trial) in answers for q in questions)]
        whole = {q.id for q in questions if all(AnswerKey(q.id, trial) in answers for trial in self.trials)}
        self.unasked = len(questions) - len(whole)
        self.asked = [(m, q) for m in dataset.moments for q in m.questions if q.answers and q.id in whole]
        self.cells = self._cells()

    def table(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """One table of the result, as `summarize` makes it: JSON data. A row's accuracy is the mean score there.

        Without a question whose score lies between 0 and 1 there are no rows.
        """
        hits = Hits(dict(run))
        first = self._first_scores()
        scored = np.flatnonzero(~np.isnan(first[FULL_TRIAL])).tolist()
        for moment_id, group in groupby(scored, key=lambda place: self.asked[place][0].id):
            places = list(group)
            moment, questions = self.asked[places[0]][0], [self.asked[place][1] for place in places]
            asked = [Asked(moment.drive, q.kind, q.form, ego_motion(moment)) for q in questions]
            correct = {trial: values[places].tolist() for trial, values in first.items()}
            tokens = self.answers[AnswerKey(questions[0].id, FULL_TRIAL)].tokens
            hits.add(moment_id, [SceneResult(moment_id, asked, correct, tokens)])
        if hits.results:
            return summarize(hits)
        host, revision = run['model']
        nothing = ('full', 'blind', 'first_scene')
        found = {'host': host, 'revision': revision, 'world': run['world'], 'seeds': run['seeds'], 'scenes': 0}
        return {**found, 'tokens': 0, **dict.fromkeys(nothing), 'rows': []}

    def measures(self) -> list[dict[str, Any]]:
        """Every measure of every cell, with its interval and what it is against all tokens; JSON data."""
        return [row for name in self.cells for row in self._measure(name)] + list(self._bleu())

    def texts(self, trial: Trial) -> dict[str, str]:
        """Answers under one trial, by the ids of their questions."""
        return {key.id: answer.text for key, answer in self.answers.items() if key.trial == trial}

    def _first_scores(self) -> dict[Trial, np.ndarray]:
        """The score of each asked question by its first measure that gives one, float (Q,), NaN without: per trial."""
        found = {trial: np.full(len(self.asked), np.nan) for trial in self.trials}
        for place, (_, question) in enumerate(self.asked):
            names = (ROUGE if measure == LANGUAGE else measure for measure in question.measures if measure != ERROR)
            name = next((name for name in names if name in self.cells), '')
            for trial in self.trials if name else ():
                found[trial][place] = self.cells[name][trial][place]
        return found

    def _cells(self) -> Cells:
        cells: Cells = defaultdict(dict)
        for trial in self.trials:
            for name, values in self._scores_of(trial).items():
                if not np.isnan(values).all():
                    cells[name][trial] = values
        return {name: found for name, found in cells.items() if len(found) == len(self.trials) or name == ERROR}

    def _scores_of(self, trial: Trial) -> dict[str, np.ndarray]:
        found = {name: np.full(len(self.asked), np.nan) for name in (*PER_QUESTION, ROUGE, CIDER, JUDGE)}
        for place, (_, question) in enumerate(self.asked):
            key = AnswerKey(question.id, trial)
            text = self.answers[key].text
            for measure in question.measures:
                if measure == LANGUAGE:
                    found[ROUGE][place] = rouge_l(text, question.answers)
                elif measure in (JUDGE, MATCH) and key in self.judged:
                    found[JUDGE][place] = self.judged[key]
                if measure in PER_QUESTION:
                    found[measure][place] = PER_QUESTION[measure](text, question.answers)
        free = [n for n, (_, question) in enumerate(self.asked) if LANGUAGE in question.measures]
        if free:
            texts, truths = self._language(free, trial)
            found[CIDER][free] = cider(texts, truths)
        return found

    def _language(self, places: Sequence[int], trial: Trial) -> tuple[list[str], list[tuple[str, ...]]]:
        questions = [self.asked[place][1] for place in places]
        return [self.answers[AnswerKey(q.id, trial)].text for q in questions], [q.answers for q in questions]

    def _measure(self, name: str) -> Iterator[dict[str, Any]]:
        drives = np.unique([moment.drive for moment, _ in self.asked], return_inverse=True)[1]
        values = self.cells[name]
        cells = {cell: np.array([values[trial] for trial in ts if trial in values]) for cell, ts in self._runs()}
        counts = {cell: SceneCounts.of(drives, runs) for cell, runs in cells.items() if len(runs)}
        full = counts.get(FULL)
        for (method, keep), found in counts.items():
            figures: dict[str, float | None] = dict(zip(('value', 'lo', 'hi'), accuracy(found)))
            sides = None if full is None else _paired(drives, cells[method, keep], cells[FULL])
            minus = difference(*sides) if sides is not None and sides[0].questions else (None,) * 3
            figures.update(zip(('minus_full', 'minus_full_lo', 'minus_full_hi'), minus))
            yield {'measure': name, 'method': method, 'keep': keep, 'questions': found.questions, **_rounded(figures)}

    def _bleu(self) -> Iterator[dict[str, Any]]:
        """BLEU is of a corpus, not a mean of questions: it comes without an interval."""
        free = [n for n, (_, question) in enumerate(self.asked) if LANGUAGE in question.measures]
        for (method, keep), trials in self._runs() if free else ():
            means = np.mean([bleu(*self._language(free, trial)) for trial in trials], axis=0)
            for order, value in enumerate(means, start=1):
                row = {'measure': f'bleu_{order}', 'method': method, 'keep': keep, 'questions': len(free)}
                yield {**row, 'value': round(float(value), 4)}

    def _runs(self) -> list[tuple[tuple[str, float], list[Trial]]]:
        runs: dict[tuple[str, float], list[Trial]] = defaultdict(list)
        for trial in self.trials:
            runs[trial.method, trial.keep].append(trial)
        return list(runs.items())


def _paired(drives: np.ndarray, runs: np.ndarray, others: np.ndarray) -> tuple[SceneCounts, SceneCounts]:
    """Both sides (runs, Q) over the questions that each has a score of: a number that is not said is no error."""
    lacking = np.isnan(runs).any(axis=0) | np.isnan(others).any(axis=0)
    return SceneCounts.of(drives, np.where(lacking, np.nan, runs)), SceneCounts.of(
        drives, np.where(lacking, np.nan, others)
    )


def measures_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Methods and ratios down, measures across; behind the value what differs from all tokens, with its interval."""
    names = list(dict.fromkeys(row['measure'] for row in rows))
    cells = {(row['method'], row['keep'], row['measure']): _cell(row) for row in rows}
    lines = [
        (method, percent(keep), *(cells.get((method, keep, name), 'n/a') for name in names))
        for method, keep in dict.fromkeys((row['method'], row['keep']) for row in rows)
    ]
    return table(('method', 'kept', *names), lines)


def ego_motion(moment: Moment) -> str:
    """What the car does, in the words of `CaseScene`."""
    nothing = {camera: [None] * len(moment.egos) for camera in moment.rig.ring}
    return CaseScene(moment.id, moment.rig, nothing, moment.egos).ego_motion


def _cell(row: Mapping[str, Any]) -> str:
    if row.get('minus_full') is None or (row['method'], row['keep']) == FULL:
        return f'{row["value"]:.3f}'
    low, high = row['minus_full_lo'], row['minus_full_hi']
    if low is None:
        return f'{row["value"]:.3f} ({row["minus_full"]:+.3f})'
    return f'{row["value"]:.3f} ({row["minus_full"]:+.3f} [{low:+.3f}, {high:+.3f}])'


def _rounded(figures: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 4) for name, value in figures.items()}
