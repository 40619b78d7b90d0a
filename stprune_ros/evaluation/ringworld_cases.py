"""Cases from held-out scenes of ringworld: those of ``stprune eval``, and those of the bundled model's card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stprune_ros.core.camera_model import CameraModel
from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import EgoState
from stprune_ros.evaluation.case import Case, CaseScene
from stprune_ros.ringworld.questions import DESCRIBE_QUESTION, Question, describe, hint_question, questions_about
from stprune_ros.ringworld.renderer import HEIGHT, RING, VIEW_NAMES, WIDTH
from stprune_ros.ringworld.scenes import GRID, HELD_OUT, Scene, make_scene
from stprune_ros.ringworld.traffic import COLOURS

QUESTIONS_PER_SCENE = 10
CARD_QUESTIONS_PER_SCENE = 8
DESCRIPTION = 'description'  # kind of the case whose answer is a text
WORLDS = RINGWORLD, HARD = 'ringworld', 'hard'


@dataclass(frozen=True)
class RingworldCases:
    """Ten questions about each of ``count`` scenes, and ten that need no history with frozen cameras.

    ``world`` is one of `WORLDS`.
    """

    count: int
    first: int
    world: str = RINGWORLD

    @property
    def scene_ids(self) -> Sequence[int]:
        """Seeds of the scenes."""
        return range(self.first, self.first + self.count)

    def cases(self, scene_id: int) -> list[Case]:
        """Render a scene and draw its questions."""
        scene = make_scene(scene_id, hard=self.world == HARD)
        truth, rng = scene.truths[-1], np.random.default_rng([scene_id, 5])
        shown = case_scene(scene)
        cases = [_case(shown, question) for question in questions_about(truth, rng, QUESTIONS_PER_SCENE)]
        frozen = shown.with_frozen_cameras()
        still = questions_about(truth, rng, QUESTIONS_PER_SCENE, motion=False)
        return cases + [_case(frozen, question) for question in still]


class IntactCases(RingworldCases):
    """The same without those of frozen cameras."""

    def cases(self, scene_id: int) -> list[Case]:
        """Render a scene and draw its questions."""
        return [case for case in super().cases(scene_id) if not case.scene.condition]


@dataclass(frozen=True)
class ModelCardCases:
    """The hint, eight questions and the description for each of ``count`` scenes."""

    count: int
    first: int = HELD_OUT

    @property
    def world(self) -> str:
        """The world that the bundled model is for."""
        return RINGWORLD

    @property
    def scene_ids(self) -> Sequence[int]:
        """Seeds of the scenes."""
        return range(self.first, self.first + self.count)

    def cases(self, scene_id: int) -> list[Case]:
        """Render a scene and draw its questions."""
        scene = make_scene(scene_id)
        truth, rng = scene.truths[-1], np.random.default_rng([scene_id, 6])
        shown = case_scene(scene)
        questions = [hint_question(truth), *questions_about(truth, rng, CARD_QUESTIONS_PER_SCENE)]
        text = Case(shown, DESCRIBE_QUESTION, (), describe(truth), DESCRIPTION, DESCRIBE_QUESTION)
        return [*(_case(shown, question) for question in questions), text]


def ringworld_rig() -> CameraRig:
    """The camera ring that ringworld is rendered with."""
    return CameraRig(CameraModel(c.name, WIDTH, HEIGHT, c.k, c.rotation, np.array(c.position)) for c in RING)


def case_scene(scene: Scene) -> CaseScene:
    """The four frames of a scene with one window."""
    images = {camera.name: list(scene.images[:, view]) for view, camera in enumerate(RING)}
    egos = [
        EgoState(round(truth.t * 1e9), None, None, (truth.speed, 0.0, 0.0), (0.0, 0.0, truth.yaw_rate))
        for truth in scene.truths
    ]
    return CaseScene(scene.seed, ringworld_rig(), images, egos, things=_things(scene))


def _things(scene: Scene) -> dict[str, np.ndarray]:
    """Where the current frame shows an actor that is seen there, and where one that is not."""
    found = {}
    for camera, actors, visible in zip(RING, scene.tokens['actor'][-1], scene.truths[-1].views, strict=True):
        seen = np.isin(actors, [actor.id for actor in visible])
        found[camera.name] = np.where(seen, 1, np.where(actors < 0, 0, -1)).astype(np.int8).reshape(GRID)
    return found


def question_form(text: str) -> str:
    """A question without the view or the colour that it names."""
    text = text.split(' between ')[0]
    for name in sorted(VIEW_NAMES, key=len, reverse=True):
        text = text.replace(f' in {name}', '')
    for word in text.split():
        if word in COLOURS:
            text = text.replace(f' {word}', '')
    return text.replace(' a car', ' the car')


def _case(scene: CaseScene, question: Question) -> Case:
    return Case(scene, question.text, question.candidates, question.answer, question.kind, question_form(question.text))
