"""What a model said to each question of a set, a line each in a file that grows: a run that was killed loses one line.

The first line says what was asked of whom; with another beginning a run never goes on in the file. Each answer says
about which moment it is: where pictures or calibration were replaced since, it counts for nothing and is asked anew.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.hits import Trial


class AnswerKey(NamedTuple):
    """Which question, by the id that its set has for it, under which trial."""

    id: str
    trial: Trial


@dataclass(frozen=True, slots=True)
class SetAnswer:
    """What was said: ``text`` in one line; ``cut`` where the token limit ended it, ``chosen`` from candidates.

    ``tokens`` are the visual tokens of the scene, before any was left out.
    """

    text: str
    cut: bool
    chosen: bool
    tokens: int


class AnswerFile:
    """The answers of one run, and what a judge said of them; a context manager.

    ``moments`` has the identity of the moment that each question is about, by the question's id.
    Raises StpruneError where the file at ``path`` is no such file, is of another ``run``, is there and shall not be
    gone on with, or is being written to by another run.
    """

    def __init__(self, path: Path, run: Mapping[str, Any], resume: bool, moments: Mapping[str, str]) -> None:
        self.path, self._moments = path, moments
        self.answers: dict[AnswerKey, SetAnswer] = {}
        self.outdated: set[AnswerKey] = set()  # what was answered when its moment was another one, and not since
        self.faults: dict[str, list[tuple[str, str, int]]] = {}  # `Faults.rows` by the first question of a moment
        self.scores: dict[tuple[AnswerKey, str], float] = {}  # the second part of a key is a judge's name
        head = json.loads(json.dumps({'run': run}))
        self._file = path.open('a', encoding='utf-8')
        try:
            self._begin(head, resume)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> AnswerFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, key: AnswerKey, answer: SetAnswer) -> None:
        """Keep an answer; it is in the hands of the system before this returns."""
        self.answers[key] = answer
        self.outdated.discard(key)
        self._write({**self._named(key), **asdict(answer)})

    def add_score(self, key: AnswerKey, judge: str, score: float) -> None:
        """Keep what a judge said of an answer."""
        self.scores[key, judge] = score
        self._write({**self._named(key), 'judge': judge, 'score': score})

    def add_faults(self, first_id: str, rows: list[tuple[str, str, int]]) -> None:
        """Keep what is wrong with the pictures of a moment, in place of what was wrong with them before."""
        if rows != self.faults.get(first_id, []):
            self.faults[first_id] = rows
            self._write({'id': first_id, 'faults': rows})

    def _begin(self, head: Mapping[str, Any], resume: bool) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed, or the process ends
        except BlockingIOError:
            raise StpruneError(
                f"another run is writing to '{self.path}': wait for its end, or name another --output"
            ) from None
        self._load(head)
        if not resume and (count := len(self.answers) + len(self.outdated)):
            raise StpruneError(
                f"'{self.path}' holds {count} answers of an earlier run: add --resume to go on with them, or remove it"
            )
        if not self.path.stat().st_size:
            self._write(head)

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, ensure_ascii=False) + '\n')
        self._file.flush()

    def _load(self, head: Mapping[str, Any]) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b'\n') + 1]
        try:
            first, *rows = (json.loads(line) for line in whole.decode('utf-8').split('\n')[:-1]) if whole else (head,)
            for row in rows:
                if 'faults' in row:
                    self.faults[row['id']] = [(str(reason), str(first), int(n)) for reason, first, n in row['faults']]
                    continue
                key = AnswerKey(row['id'], Trial(row['method'], row['keep'], row['seed']))
                if row['moment'] != self._moments.get(key.id, row['moment']):
                    self.outdated.add(key)
                elif 'judge' in row:
                    self.scores.setdefault((key, row['judge']), row['score'])
                else:
                    answer = SetAnswer(row['text'], row['cut'], row['chosen'], row['tokens'])
                    self.answers.setdefault(key, answer)
        except (ValueError, KeyError, TypeError):
            raise StpruneError(f"'{self.path}' holds no answers of stprune eval: name another --output") from None
        if first != head:
            raise StpruneError(
                f"'{self.path}' holds answers to another set, model or prompt, or with other settings: remove it, or"
                ' name another --output'
            )
        if len(whole) < len(content):  # the line that was being written when the run was killed
            with self.path.open('r+b') as file:
                file.truncate(len(whole))
        self.outdated -= self.answers.keys()

    def _named(self, key: AnswerKey) -> dict[str, Any]:
        return {'id': key.id, **key.trial._asdict(), 'moment': self._moments.get(key.id, '')}
