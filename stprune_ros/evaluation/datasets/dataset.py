"""A set of questions as its reader found it: moments of a ring with their pictures, and what cannot be asked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path

import numpy as np

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import EgoState
from stprune_ros.errors import StpruneError, plain
from stprune_ros.evaluation.case import Case, CaseScene
from stprune_ros.evaluation.datasets.files import MAX_PATH, Faults, read_picture

IDENTITY_DIGITS = 12
DECIMALS = 6  # of calibration and motion: two machines differ in the last bits
MAX_QUESTION = 2000  # characters; those of the sets have hundreds, and sixteen are asked in one pass


@dataclass(frozen=True, slots=True)
class SetQuestion:
    """A question as its set has it, at ``place`` in the order of its file.

    ``answers`` are the true ones, none where nobody knows. ``measures`` say how answers to it are judged, the first is
    the one that counts in tables, see `measures`. ``candidates``, ``kind`` and ``form`` are as in `Case`. ``fields``
    are what else the answers file of the set says of it.
    """

    id: str
    place: int
    text: str
    kind: str
    measures: tuple[str, ...]
    answers: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    form: str = ''
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """What a few questions are about: for every camera one picture per instant, oldest first, None where there is none.

    ``id`` is its place in the set. ``drive`` numbers what it was cut from: moments of one drive are not independent.
    """

    id: int
    drive: int
    rig: CameraRig
    pictures: Mapping[str, tuple[Path | None, ...]]
    egos: tuple[EgoState | None, ...]
    questions: tuple[SetQuestion, ...]

    @property
    def identity(self) -> str:
        """What tells it from one with other pictures, by their sizes and times of change, calibration or motion."""
        files = {camera: [path and _file_identity(path) for path in row] for camera, row in self.pictures.items()}
        content = [files, [_rounded(model) for model in self.rig.cameras.values()], _rounded(self.egos)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:IDENTITY_DIGITS]


@dataclass(frozen=True)
class Dataset:
    """Implements `CaseSource`. ``revision`` tells versions of the file ``path`` apart.

    ``single_camera`` says that there is no ring, only one view. ``instructions`` say how the set writes places, for the
    model; ``notes`` are sentences about what it lacks, ``faults`` what is wrong with it. ``left_out`` are questions
    that cannot be asked.
    """

    world: str
    path: Path
    revision: str
    moments: tuple[Moment, ...]
    faults: Faults
    left_out: tuple[SetQuestion, ...] = ()
    notes: tuple[str, ...] = ()
    single_camera: bool = False
    instructions: str = ''

    @property
    def scene_ids(self) -> Sequence[int]:
        """The places of the moments."""
        return range(len(self.moments))

    @property
    def questions(self) -> list[SetQuestion]:
        """All questions, moment after moment."""
        return [question for moment in self.moments for question in moment.questions]

    @property
    def identities(self) -> dict[str, str]:
        """The identity of the moment that a question is about, by the question's id."""
        by_moment = [(moment.identity, moment.questions) for moment in self.moments if moment.questions]
        return {question.id: identity for identity, questions in by_moment for question in questions}

    @property
    def in_file_order(self) -> list[SetQuestion]:
        """All questions, those that cannot be asked as well, as the file has them."""
        return sorted((*self.questions, *self.left_out), key=lambda question: question.place)

    def cases(self, scene_id: int) -> list[Case]:
        """As `cases_about`; what is wrong with earlier pictures is counted among the faults of the set."""
        return self.cases_about(self.moments[scene_id], self.faults)

    def cases_about(self, moment: Moment, faults: Faults) -> list[Case]:
        """Load the pictures of a moment. Raises StpruneError where a current one cannot be used.

        An earlier one that cannot be used is left out, and counted among ``faults``.
        """
        images = {camera: _row(row, faults) for camera, row in moment.pictures.items()}
        scene = CaseScene(moment.id, moment.rig, images, moment.egos)
        return [
            Case(scene, q.text, q.candidates, next(iter(q.answers), ''), q.kind, q.form, q.id) for q in moment.questions
        ]

    def first(self, limit: int | None) -> Dataset:
        """The set up to the last of the first ``limit`` questions of its file that can be asked.

        Moments keep their places, where they have no question left as well.
        """
        places = sorted(question.place for question in self.questions)
        if limit is None or limit >= len(places):
            return self
        last = places[limit - 1]
        moments = (replace(m, questions=_up_to(last, m.questions)) for m in self.moments)
        return replace(self, moments=tuple(moments), left_out=_up_to(last, self.left_out))


def require_questions(dataset: Dataset) -> Dataset:
    """The set without questions whose id another has; those that are too long are left out as if without pictures.

    Raises StpruneError where it has none that can be asked.
    """
    known: set[str] = set()

    def distinct(questions: Iterable[SetQuestion]) -> Iterator[SetQuestion]:
        for question in questions:
            if question.id in known:
                dataset.faults.add('questions left out, with an id that another has', question.id)
            else:
                known.add(question.id)
                yield question

    long: list[SetQuestion] = []

    def short(questions: Iterable[SetQuestion]) -> Iterator[SetQuestion]:
        for question in questions:
            if len(question.text) <= MAX_QUESTION:
                yield question
                continue
            long.append(question)
            example = f'{question.id}, which has {len(question.text)}'
            dataset.faults.add(f'questions left out, of more than {MAX_QUESTION} characters', example)

    moments = tuple(replace(moment, questions=tuple(short(distinct(moment.questions)))) for moment in dataset.moments)
    if len(long) == len(known):
        why = ': ' + '; '.join(dataset.faults.sentences) if dataset.faults.sentences else ''
        raise StpruneError(f"'{dataset.path}' has no question that can be asked{why}")
    return replace(dataset, moments=moments, left_out=(*distinct(dataset.left_out), *long))


def _up_to(last: int, questions: Iterable[SetQuestion]) -> tuple[SetQuestion, ...]:
    return tuple(question for question in questions if question.place <= last)


def _file_identity(path: Path) -> tuple[str, int, int]:
    """Name, size in bytes and time of change in ns; -1 each for a file that is gone."""
    try:
        found = path.stat()
    except OSError:
        return path.name, -1, -1
    return path.name, found.st_size, found.st_mtime_ns


def _rounded(value: object) -> object:
    """Figures in nested lists, for JSON."""
    if isinstance(value, float):
        return round(value, DECIMALS) + 0.0  # never -0.0
    if isinstance(value, np.ndarray):
        return _rounded(value.tolist())
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    if is_dataclass(value):
        return [_rounded(getattr(value, part.name)) for part in fields(value)]
    return value


def _row(row: Sequence[Path | None], faults: Faults) -> list[np.ndarray | None]:
    *earlier, last = row
    current = None if last is None else read_picture(last)
    return [*(_earlier(path, current, faults) for path in earlier), current]


def _earlier(path: Path | None, current: np.ndarray | None, faults: Faults) -> np.ndarray | None:
    """An earlier picture, None where it cannot be used; of another size it has another grid of tokens."""
    if path is None:
        return None
    try:
        image = read_picture(path)
        if current is not None and image.shape != current.shape:
            raise StpruneError(f"picture '{plain(str(path), MAX_PATH)}' has another size than the present one")
    except StpruneError as error:
        faults.add('earlier pictures left out', str(error))
        return None
    return image
