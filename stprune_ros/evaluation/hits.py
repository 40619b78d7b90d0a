"""Which question was answered correctly under which trial: one bit each, kept in a file beside the tables made of them.

With the single answers two rows of a table can be compared question by question, by whoever has the file.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stprune_ros.errors import StpruneError

ALL = 'all'


class Trial(NamedTuple):
    """One way to prune: method with its switches, keep ratio, and the number of the run for methods that draw lots."""

    method: str
    keep: float
    seed: int


class Asked(NamedTuple):
    """One question: its scene, kind and form, what the ego vehicle did, and what was wrong with the cameras."""

    scene: int
    kind: str
    form: str
    ego: str
    condition: str = ''

    @property
    def labels(self) -> tuple[str, ...]:
        """The rows that the question belongs to: 'all', its kind and the state of the ego vehicle, or the condition."""
        return (self.condition,) if self.condition else (ALL, self.kind, self.ego)


@dataclass(frozen=True)
class SceneResult:
    """Results of one scene: its questions, and per trial which of them were answered correctly, or how well (0 to 1).

    ``tokens`` is the number of visual tokens of the whole scene.
    """

    scene_id: int
    questions: list[Asked]
    correct: Mapping[Trial, Sequence[float]]
    tokens: int = 0


@dataclass
class Hits:
    """Results of scene after scene; ``plan`` says what was run, so that results of different plans are never mixed."""

    plan: dict[str, Any]
    results: dict[int, list[SceneResult]] = field(default_factory=dict)  # by scene

    def add(self, scene_id: int, results: Sequence[SceneResult]) -> None:
        """Add the results of a scene."""
        self.results[scene_id] = list(results)

    @property
    def questions(self) -> list[Asked]:
        """All questions, scene after scene."""
        return [question for result in self._all() for question in result.questions]

    @property
    def tokens(self) -> int:
        """Visual tokens of a scene, of the largest one."""
        return max((result.tokens for result in self._all()), default=0)

    def right(self, trial: Trial) -> np.ndarray:
        """Whether each of `questions` was answered correctly: float (Q,), NaN where the trial did not run."""
        found = [result.correct.get(trial, [np.nan] * len(result.questions)) for result in self._all()]
        return np.array([value for part in found for value in part], float)

    def trials(self) -> list[Trial]:
        """Every trial that ran, in the order in which they first did."""
        return list(dict.fromkeys(trial for result in self._all() for trial in result.correct))

    def save(self, path: Path) -> None:
        """Write everything in one step: a NumPy archive without pickled objects."""
        trials, questions = self.trials(), self.questions
        right = np.array([self.right(trial) for trial in trials]).reshape(len(trials), len(questions))
        scenes = [[result.scene_id, len(result.questions), result.tokens] for result in self._all()]
        header = {'plan': self.plan, 'trials': trials, 'scenes': scenes}
        part = path.with_name(f'{path.name}.part')
        with part.open('wb') as file:
            np.savez_compressed(
                file,
                header=np.array(json.dumps(header)),
                scene=np.array([question.scene for question in questions], np.int64),
                kind=np.array([question.kind for question in questions], np.str_),
                form=np.array([question.form for question in questions], np.str_),
                ego=np.array([question.ego for question in questions], np.str_),
                condition=np.array([question.condition for question in questions], np.str_),
                right=np.packbits(right == 1, axis=1),
                asked=np.packbits(~np.isnan(right), axis=1),
            )
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Hits:
        """Read what `save` wrote; raises StpruneError for another file."""
        try:
            with np.load(path, allow_pickle=False) as content:
                header = json.loads(str(content['header']))
                names = zip(*(content[name].tolist() for name in Asked._fields))
                questions = [Asked(*values) for values in names]
                bits = [np.unpackbits(content[name], axis=1, count=len(questions)) for name in ('right', 'asked')]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise StpruneError(f"'{path}' holds no answers of stprune eval: {error}") from None
        right, asked = (part.astype(bool) for part in bits)
        hits, start = cls(header['plan']), 0
        for scene_id, count, tokens in header['scenes']:
            part = slice(start, start + count)
            ran = [(n, Trial(*trial)) for n, trial in enumerate(header['trials']) if asked[n, part].all()]
            correct = {trial: right[n, part].tolist() for n, trial in ran}
            hits.results.setdefault(scene_id, []).append(SceneResult(scene_id, questions[part], correct, tokens))
            start += count
        return hits

    def _all(self) -> Iterable[SceneResult]:
        return (result for results in self.results.values() for result in results)
