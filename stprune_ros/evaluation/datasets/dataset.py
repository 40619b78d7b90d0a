"""A set of questions as its reader found it: moments of a ring with their pictures, and what cannot be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import EgoState
from stprune_ros.errors import StpruneError, plain
from stprune_ros.evaluation.case import Case, CaseScene
from stprune_ros.evaluation.datasets.files import read_picture

MAX_EXAMPLE = 400  # characters of what a fault is shown by


@dataclass(frozen=True, slots=True)
class SetQuestion:
    """A question as its set has it.

    ``answers`` are the true ones, none where nobody knows. ``measures`` say how answers to it are judged, the first is
    the one that counts in tables, see `measures`. ``candidates``, ``kind`` and ``form`` are as in `Case`. ``fields``
    are what else the answers file of the set says of it.
    """

    id: str
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


class Faults:
    """What is wrong with a set, counted by reason, with the first example of each."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Count something; ``reason`` stands before the number, as in 'questions left out, a picture is missing: 3'."""
        before, first = self._found.get(reason, (0, example))
        self._found[reason] = (before + count, first)

    @property
    def sentences(self) -> list[str]:
        """One for each reason, with its count."""
        return [
            f'{reason}: {count}; the first is {plain(first, MAX_EXAMPLE)}'
            for reason, (count, first) in self._found.items()
        ]


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

    def cases(self, scene_id: int) -> list[Case]:
        """Load the pictures of a moment. Raises StpruneError where a current one cannot be used.

        An earlier one that cannot be used is left out, and counted among the faults.
        """
        moment = self.moments[scene_id]
        images = {camera: self._row(row) for camera, row in moment.pictures.items()}
        scene = CaseScene(moment.id, moment.rig, images, moment.egos)
        return [
            Case(scene, q.text, q.candidates, next(iter(q.answers), ''), q.kind, q.form, q.id) for q in moment.questions
        ]

    def first(self, limit: int | None) -> Dataset:
        """The set with its first ``limit`` questions only."""
        if limit is None:
            return self
        kept, left = [], limit
        for moment in self.moments:
            questions = moment.questions[:left]
            left -= len(questions)
            if questions:
                kept.append(replace(moment, questions=questions))
        return replace(self, moments=tuple(kept))

    def _row(self, row: Sequence[Path | None]) -> list[np.ndarray | None]:
        *earlier, current = row
        images: list[np.ndarray | None] = []
        for path in earlier:
            try:
                images.append(None if path is None else read_picture(path))
            except StpruneError as error:
                self.faults.add('earlier pictures left out', str(error))
                images.append(None)
        return [*images, None if current is None else read_picture(current)]


def require_questions(dataset: Dataset) -> Dataset:
    """The same set; raises StpruneError where it has no question that can be asked."""
    if not dataset.moments:
        why = ': ' + '; '.join(dataset.faults.sentences) if dataset.faults.sentences else ''
        raise StpruneError(f"'{dataset.path}' has no question that can be asked{why}")
    return dataset
