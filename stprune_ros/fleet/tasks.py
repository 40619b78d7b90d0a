"""What a worker is told to do, and what comes back: plain data that travels between machines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stprune_ros.errors import plain
from stprune_ros.fleet.plan import Run
from stprune_ros.fleet.split import Cut
from stprune_ros.settings.settings import Settings

if TYPE_CHECKING:  # they import torch
    from stprune_ros.evaluation.asked_model import AskedModel
    from stprune_ros.evaluation.case import CaseSource
    from stprune_ros.evaluation.datasets.asking import FaultRow, OpenMoment, Said
    from stprune_ros.evaluation.datasets.dataset import Dataset
    from stprune_ros.evaluation.datasets.files import Faults
    from stprune_ros.evaluation.fidelity import EvaluationPlan
    from stprune_ros.evaluation.hits import SceneResult


@dataclass(frozen=True, slots=True)
class ReplayRun:
    """Replay a run into the folder ``into``, which will be moved to ``home``; unless it is to be split.

    A bag of more than twice ``window_s`` seconds comes back as a `Split`; 0: never.
    """

    run: Run
    into: Path
    home: Path
    window_s: float


@dataclass(frozen=True, slots=True)
class ReplayPart:
    """Infer a part of a run into the file ``into``."""

    run: Run
    cut: Cut
    into: Path


@dataclass(frozen=True, slots=True)
class JoinParts:
    """Put the parts of a run together in the folder ``into``, which will be moved to ``home``."""

    run: Run
    parts: tuple[Path, ...]
    into: Path
    home: Path


@dataclass(frozen=True, slots=True)
class AskScene:
    """Evaluate one scene of a data set, as `SceneEvaluator` does."""

    source: CaseSource
    plan: EvaluationPlan
    settings: Settings
    scene: int

    @property
    def name(self) -> str:
        """What a sentence calls it."""
        return f'scene {self.scene}'


@dataclass(frozen=True, slots=True)
class AskMoment:
    """Ask the ``model`` of these settings about one moment of a set, as `Asking` does; ``dataset`` holds no moments."""

    dataset: Dataset
    settings: Settings
    model: AskedModel
    asked: OpenMoment

    @property
    def name(self) -> str:
        """What a sentence calls it."""
        return f"the moment of question '{plain(self.asked.moment.questions[0].id)}'"


RunTask = ReplayRun | ReplayPart | JoinParts
AskTask = AskScene | AskMoment
Task = RunTask | AskTask


@dataclass(frozen=True, slots=True)
class Done:
    """The task's folder or file is there."""


@dataclass(frozen=True, slots=True)
class Split:
    """The bag is long: these are its parts. ``key`` tells them from those of another bag, setting or model."""

    key: str
    cuts: tuple[Cut, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of a scene."""

    results: list[SceneResult]


@dataclass(frozen=True, slots=True)
class Answered:
    """What was said about a moment, as `MomentSaid`."""

    pictures: list[FaultRow] | None
    said: list[Said]
    faults: Faults


@dataclass(frozen=True, slots=True)
class Broken:
    """The task cannot be done, in one sentence: neither here nor elsewhere."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Died:
    """The worker died of it, in the words of whoever saw it: another one may do better."""

    reason: str


Outcome = Done | Split | Asked | Answered | Broken


@dataclass(frozen=True, slots=True)
class Pace:
    """How far a worker is with its task: ``done`` of ``of`` messages or ticks, and how many ticks it has inferred."""

    done: int = 0
    of: int = 0
    ticks: int = 0

    @property
    def share(self) -> float:
        """The part of the task that is done, 0 to 1."""
        return min(1.0, self.done / self.of) if self.of else 0.0
