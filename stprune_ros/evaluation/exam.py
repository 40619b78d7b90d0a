"""A held-out scene as the model gets it: encoded once, then pruned and prefilled as often as one likes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from stprune_ros.core.rig import CameraModel, CameraRig
from stprune_ros.core.types import EgoState
from stprune_ros.inference.pipeline import view_tokens
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.pruner import SpatioTemporalPruner
from stprune_ros.pruning.view_tokens import ViewTokens
from stprune_ros.ringworld.renderer import HEIGHT, RING, WIDTH
from stprune_ros.ringworld.scenes import Scene
from stprune_ros.vlm.backend import Backend, Context, ImageFeatures, VisualFrame
from stprune_ros.vlm.prompt import Prompt, View

TURNING_RAD_S = 0.05
STANDING_M_S = 0.3
GREY = 128
PICTURES, BLANK = 'pictures', 'blank'  # what was rendered; grey pictures, to see what guessing gives
FROZEN = 'frozen'  # the cameras repeat the oldest picture and wake up for the current one


def ringworld_rig() -> CameraRig:
    """The ring that ringworld is rendered with."""
    return CameraRig(CameraModel(c.name, WIDTH, HEIGHT, c.k, c.rotation, np.array(c.place)) for c in RING)


def delivered(images: np.ndarray, shows: str) -> np.ndarray:
    """Images (T, V, height, width, 3) as the cameras deliver them, see `PICTURES`, `BLANK` and `FROZEN`."""
    if shows == BLANK:
        return np.full_like(images, GREY)
    if shows == FROZEN:
        return images[[0] * (len(images) - 1) + [-1]]
    return images


@dataclass(frozen=True)
class Exam:
    """One scene: ``views`` in ring order for pruning, ``features`` per view and frame, ``ego`` at the current frame."""

    rig: CameraRig
    views: list[ViewTokens]
    features: list[list[ImageFeatures]]
    ego: EgoState

    @classmethod
    def of(cls, scene: Scene, backend: Backend, rig: CameraRig, shows: str = PICTURES) -> Exam:
        """Encode a scene; ``shows`` is what the cameras deliver, see `delivered`."""
        frames, views = scene.images.shape[:2]
        images = delivered(scene.images, shows)
        flat = backend.encode(list(images.reshape(-1, *images.shape[2:])))
        features = [[flat[t * views + v] for t in range(frames)] for v in range(views)]
        egos = [
            EgoState(round(truth.t * 1e9), None, None, (truth.speed, 0.0, 0.0), (0.0, 0.0, truth.yaw_rate))
            for truth in scene.truths
        ]
        slots = tuple(range(frames))
        tokens = [
            view_tokens(camera, row, slots, rig, egos, overlap=True, motion=True)
            for camera, row in zip(rig.ring, features)
        ]
        return cls(rig, tokens, features, egos[-1])

    @property
    def motion(self) -> str:
        """What the ego vehicle does."""
        if abs(self.ego.angular[2]) > TURNING_RAD_S:
            return 'ego turning'
        return 'ego standing' if self.ego.speed < STANDING_M_S else 'ego driving'

    def masks(self, config: PruningConfig) -> list[torch.Tensor]:
        """Keep masks per view, bool (T, rows, columns)."""
        return SpatioTemporalPruner(config)(self.views, len(self.views[0].slots))

    def prefill(self, config: PruningConfig, backend: Backend, prompt: Prompt) -> Context:
        """The scene in the runtime's prompt, pruned as ``config`` says."""
        shown = [
            View(self.rig.direction(camera), camera, [VisualFrame(f, keep.flatten()) for f, keep in zip(row, mask)])
            for camera, row, mask in zip(self.rig.ring, self.features, self.masks(config))
        ]
        return backend.prefill(prompt.system, prompt.content(shown, self.ego))
