"""Which question was answered correctly under which trial: one bit each, kept in a file beside the tables made of them.

With the single answers two rows of a table can be compared question by question, by whoever has the file.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stprune_ros.errors import StpruneError, shown

ALL = 'all'
GROWING = 'methods', 'keeps'  # of a plan: more of them may be asked later
DEFAULT = 'default'  # of a plan: the method that others are compared with, whatever it was when they were asked
NAMED = 'weights', 'loaded'  # of a plan: the hyper-parameters of pruning; how the model was loaded
OF_SOME = 'refresh_ms', 'side_image_pixels', 'even_share'  # of a plan: said where one of its methods follows them


class Trial(NamedTuple):
    """One way to prune: method with its switches, keep ratio, and the number of the run for methods that draw lots."""

    method: str
    keep: float
    seed: int


FULL = 'none'  # the method that keeps all tokens
BLIND = 'blind'  # all tokens of grey images: how far guessing gets
FULL_TRIAL = Trial(FULL, 1.0, 0)
BLIND_TRIAL = Trial(BLIND, 1.0, 0)


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

    NaN where a trial is not defined. ``tokens`` is the number of visual tokens of the whole scene.
    """

    scene_id: int
    questions: list[Asked]
    correct: Mapping[Trial, Sequence[float]]
    tokens: int = 0


@dataclass
class Hits:
    """Results of scene after scene; ``plan`` says what was run, so that what does not belong together is never mixed.

    Its ``methods`` and ``keeps`` may grow: a method's answers do not depend on which others were asked.
    """

    plan: dict[str, Any]
    results: dict[int, list[SceneResult]] = field(default_factory=dict)  # by scene

    def add(self, scene_id: int, results: Sequence[SceneResult]) -> None:
        """Add the results of a scene, to those of other trials where it has some.

        Raises StpruneError where those are answers to other questions.
        """
        before = self.results.get(scene_id, [])
        if before and [result.questions for result in before] != [result.questions for result in results]:
            raise StpruneError(
                f'scene {scene_id} has other questions than when its first answers were given, by another version of'
                ' stprune_ros: name another --output'
            )
        self.results[scene_id] = [
            replace(new, correct={**old.correct, **new.correct}) for old, new in zip(before, results)
        ] or list(results)

    def after(self, found: Hits, path: Path, scenes: Sequence[int]) -> Hits:
        """These plans and answers together with those that were ``found`` in a file, about ``scenes``.

        Raises StpruneError where more differs between the plans than methods, keep ratios, and which of them is ours,
        or the file is about other scenes, too: the table of all of them would be replaced by one of these.
        """
        here, there = _by_name(self.plan), _by_name(found.plan)
        for name in dict.fromkeys((*here, *there)):
            both_say = name in here and name in there
            if name in (*GROWING, DEFAULT) or (name in OF_SOME and not both_say) or here.get(name) == there.get(name):
                continue
            then, now = (shown(plan[name]) if name in plan else 'not said' for plan in (there, here))
            raise StpruneError(
                f"'{path}' holds answers to another plan, there {name} is {then}, here it is {now}: name another"
                ' --output, or remove it'
            )
        if not found.results.keys() <= {*scenes}:
            raise StpruneError(
                f"'{path}' holds answers about {len(found.results)} scenes, {min(found.results)} to"
                f' {max(found.results)}, of which this run asks {len(found.results.keys() & {*scenes})}: ask all of'
                ' them with --first-seed and --scenes, or name another --output'
            )
        both = {name: list(dict.fromkeys([*found.plan.get(name, ()), *self.plan[name]])) for name in GROWING}
        return Hits({**found.plan, **self.plan, **both}, found.results)

    def complete(self) -> tuple[Hits, list[Trial]]:
        """The results of trials that ran on every scene, and the trials that did not: rows compare the same scenes."""
        ran = [{trial for result in results for trial in result.correct} for results in self.results.values()]
        everywhere = set.intersection(*ran) if ran else set()
        results = {
            scene: [replace(r, correct={t: v for t, v in r.correct.items() if t in everywhere}) for r in found]
            for scene, found in self.results.items()
        }
        return Hits(self.plan, results), [trial for trial in self.trials() if trial not in everywhere]

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
                _require_plan(header['plan'])
                names = zip(*(content[name].tolist() for name in Asked._fields))
                questions = [Asked(*values) for values in names]
                bits = [np.unpackbits(content[name], axis=1, count=len(questions)) for name in ('right', 'asked')]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise StpruneError(f"'{path}' holds no answers of stprune eval: {error}") from None
        right, asked = (part.astype(bool) for part in bits)
        defined = [bool(row.any()) for row in asked]  # tried all the same: undefined
        hits, start = cls(header['plan']), 0
        for scene_id, count, tokens in header['scenes']:
            part = slice(start, start + count)
            correct = {
                Trial(*trial): right[n, part].tolist() if defined[n] else [math.nan] * count
                for n, trial in enumerate(header['trials'])
                if asked[n, part].all() or not defined[n]
            }
            hits.results.setdefault(scene_id, []).append(SceneResult(scene_id, questions[part], correct, tokens))
            start += count
        return hits

    def _all(self) -> Iterable[SceneResult]:
        return (result for results in self.results.values() for result in results)


def _require_plan(plan: object) -> None:
    """Raise ValueError where a file's plan is none, or what may grow is no list of names and numbers."""
    if not isinstance(plan, dict):
        raise ValueError('its plan is no mapping')
    for name in GROWING:
        values = plan.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str | float | int) for value in values):
            raise ValueError(f'its {name} are no list')


def _by_name(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan says, each weight by itself, and each thing that is said about the loaded model."""
    parts = {name: plan[name] for name in NAMED if isinstance(plan.get(name), Mapping)}
    flat = {name: value for part in parts.values() for name, value in part.items()}
    return {**plan, **flat} | dict.fromkeys(parts)
