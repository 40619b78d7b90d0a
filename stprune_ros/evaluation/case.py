"""What an evaluation asks: scenes of a camera ring, and questions about them whose true answers are known.

A data set is a `CaseSource`. To add one, write one file with such a class; exam, tables and intervals work on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import numpy as np

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import EgoState
from stprune_ros.errors import StpruneError

TURNING_RAD_S = 0.05
STANDING_M_S = 0.3
GREY = 128
FROZEN_CAMERAS = 'frozen cameras'


@dataclass(frozen=True, eq=False)
class CaseScene:
    """What the model is shown: a few instants of a camera ring, the last one current.

    ``images`` holds, for every camera of ``rig``, one RGB image uint8 (height, width, 3) per instant, oldest first,
    None where the camera delivered none. ``egos`` is the ego state at each instant, None where it is unknown.
    ``condition`` names what is wrong with the cameras, '' for nothing. ``id`` pairs results of the same scene and seeds
    methods that draw lots. ``things``, where known, holds for every camera int8 (rows, columns), an even grid over the
    newest image: 1 where a road user or a light is seen, -1 where one is that nobody can see, 0 elsewhere.

    Raises StpruneError if a camera of the rig is missing or has not one entry per instant.
    """

    id: int
    rig: CameraRig
    images: Mapping[str, Sequence[np.ndarray | None]]
    egos: Sequence[EgoState | None]
    condition: str = ''
    things: Mapping[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        if set(self.images) != set(self.rig.ring):
            raise StpruneError(
                f'scene {self.id}: images of {", ".join(sorted(self.images))}; the rig has {", ".join(self.rig.ring)}'
            )
        for camera, row in self.images.items():
            if len(row) != len(self.egos):
                raise StpruneError(f"scene {self.id}: camera '{camera}' has {len(row)} images, ego {len(self.egos)}")

    @property
    def ego_motion(self) -> str:
        """What the ego vehicle does at the current instant, in words."""
        ego = self.egos[-1]
        if ego is None:
            return 'ego unknown'
        if abs(ego.angular[2]) > TURNING_RAD_S:
            return 'ego turning'
        return 'ego standing' if ego.speed < STANDING_M_S else 'ego driving'

    def with_grey_images(self) -> CaseScene:
        """The same scene with nothing to see, which tells how far guessing gets."""
        grey = {
            camera: [None if image is None else np.full_like(image, GREY) for image in row]
            for camera, row in self.images.items()
        }
        return replace(self, images=grey)

    def with_frozen_cameras(self) -> CaseScene:
        """The same scene with cameras that repeat their oldest image and wake up for the current one."""
        frozen = {camera: [*[row[0]] * (len(row) - 1), row[-1]] for camera, row in self.images.items()}
        return replace(self, images=frozen, condition=FROZEN_CAMERAS)


@dataclass(frozen=True, eq=False)
class Case:
    """One question about a scene with its true answer.

    ``candidates`` is the closed set of answers; it is empty where the model writes a text. ``answer`` is '' where
    nobody knows it. ``kind`` is what results are grouped by, ``form`` the question without the words that vary within a
    kind, ``id`` the name that its data set has for it.

    Raises StpruneError if ``candidates`` does not hold ``answer``.
    """

    scene: CaseScene
    question: str
    candidates: tuple[str, ...]
    answer: str
    kind: str
    form: str = ''
    id: str = ''

    def __post_init__(self) -> None:
        if self.answer and self.candidates and self.answer not in self.candidates:
            raise StpruneError(f"the answer '{self.answer}' to '{self.question}' is not one of its candidates")


class CaseSource(Protocol):
    """A data set. It is sent to worker processes, so it must be picklable and should load a scene only when asked."""

    @property
    def world(self) -> str:
        """What the scenes are of, as results name it."""
        ...

    @property
    def scene_ids(self) -> Sequence[int]:
        """The scenes, in the order in which they are evaluated."""
        ...

    def cases(self, scene_id: int) -> Sequence[Case]:
        """All questions about a scene; cases that share a `CaseScene` object stand next to each other."""
        ...


def by_scene(cases: Iterable[Case]) -> Iterator[tuple[CaseScene, list[Case]]]:
    """Cases grouped by the scene object that they share, so that it is encoded once."""
    for _, group in groupby(cases, key=lambda case: id(case.scene)):
        together = list(group)
        yield together[0].scene, together
