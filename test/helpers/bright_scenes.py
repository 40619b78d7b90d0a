"""A data set in miniature: scenes of three cameras whose images are one brightness each, and a model that sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from stprune_ros.core.camera_model import CameraModel
from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import EgoState
from stprune_ros.evaluation.case import Case, CaseScene
from stprune_ros.vlm.backend import Context, Generated, ImageFeatures, ModelInfo, VisualFrame


def camera(name: str, degrees: float) -> CameraModel:
    k = np.array([[40.0, 0, 31.5], [0, 40.0, 15.5], [0, 0, 1]])
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return CameraModel(name, 64, 32, k, np.array([[s, 0, c], [-c, 0, s], [0, -1, 0.0]]), np.zeros(3))


RIG = CameraRig([camera('front', 0.0), camera('right', -70.0), camera('left', 70.0)])


def ego(speed: float = 5.0, yaw_rate: float = 0.0) -> EgoState:
    return EgoState(0, None, None, (speed, 0.0, 0.0), (0.0, 0.0, yaw_rate))


def image(value: int) -> np.ndarray:
    return np.full((32, 64, 3), value, np.uint8)


def scene(**changes: Any) -> CaseScene:
    """Three instants of three cameras; every image has a brightness of its own."""
    images = {name: [image(10 * index + t) for t in range(3)] for index, name in enumerate(('front', 'right', 'left'))}
    return replace(CaseScene(7, RIG, images, [ego()] * 3), **changes)


@dataclass
class Prefilled:
    """What a prompt showed: brightness of each image, and how many of its tokens were kept."""

    images: list[int]
    kept: list[int]


class BrightnessModel:
    """A backend that answers every question with the brightness of the brightest image it sees."""

    info = ModelInfo('brightness', '', '', True, 'cpu', 'float32')
    model_pixels = 0

    def __init__(self) -> None:
        self.encoded: list[list[int]] = []

    def prepare(self, images: Sequence[np.ndarray], side: bool = False) -> Sequence[np.ndarray]:
        """Those of side cameras become half as high."""
        return [picture[::2] for picture in images] if side else images

    def encode(self, images: Sequence[np.ndarray]) -> list[ImageFeatures]:
        self.encoded.append([int(picture[0, 0, 0]) for picture in images])
        rng = np.random.default_rng(0)
        features = []
        for picture in images:
            rows = len(picture) // 16
            tokens = torch.from_numpy(rng.standard_normal((4 * rows, 4)).astype(np.float32))
            tokens[:, 0] = float(picture[0, 0, 0])
            features.append(ImageFeatures(tokens, (rows, 4)))
        return features

    def prefill(self, system: str, content: Sequence[str | VisualFrame]) -> Context:
        frames = [part for part in content if isinstance(part, VisualFrame)]
        shown = Prefilled([int(f.features.tokens[0, 0]) for f in frames], [int(f.keep.sum()) for f in frames])
        return Context(0, sum(shown.kept), shown)

    def score(self, context: Context, question: str, candidates: Sequence[str]) -> list[float]:
        return [0.0 if text == str(max(context.state.images)) else -1.0 for text in candidates]

    def score_all(self, context: Context, asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        return [self.score(context, question, candidates) for question, candidates in asked]

    def generate(self, context: Context, question: str, max_new_tokens: int, *_: Any) -> Generated:
        return Generated(f'clear ahead. front: {max(context.state.images)}.', 3, True)

    def free(self) -> None:
        pass


class BrightnessPrompt:
    """A prompt that names each view and shows its frames."""

    system = ''

    def content(self, views: Sequence[Any], state: EgoState | None) -> list[str | VisualFrame]:
        return [part for view in views for part in (f'{view.direction} {len(view.frames)}', *view.frames)]


def case(shown: CaseScene, answer: str = '22', kind: str = 'perception') -> Case:
    return Case(shown, f'how bright, {kind}?', ('22', '128', '0'), answer, kind, 'how bright?')
