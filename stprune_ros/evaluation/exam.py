"""A model takes an exam: a scene is encoded once, then pruned, prefilled and asked as often as one likes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.stream import CameraRoles
from stprune_ros.core.types import CameraFrame, EgoState, FrameSet, HeldFrame
from stprune_ros.core.view_turns import ViewTurns
from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.case import Case, CaseScene
from stprune_ros.evaluation.variants import WHOLE, Encoding
from stprune_ros.inference.features import view_tokens
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.pruning.pruner import PUBLISHED, SpatioTemporalPruner
from stprune_ros.pruning.view_tokens import ViewTokens
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend, Context, ImageFeatures, VisualFrame
from stprune_ros.vlm.prompt import Prompt, View


@dataclass(frozen=True)
class EncodedScene:
    """A scene as visual tokens.

    ``features`` holds the encoded images of each camera in ring order, ``views`` the same for pruning; ``history`` is
    the number of instants, ``ego`` the state at the last one; ``joint_common`` is what the model says of its pruning.
    """

    rig: CameraRig
    features: list[list[ImageFeatures]]
    views: list[ViewTokens]
    history: int
    ego: EgoState | None
    joint_common: float | None = None

    @classmethod
    def encode(cls, scene: CaseScene, backend: Backend, encoding: Encoding = WHOLE) -> EncodedScene:
        """Encode the images of a scene, oldest instant first: all of them, or those that ``encoding`` leaves.

        Raises StpruneError where views shall take turns and the scene does not say when its images were taken.
        """
        ring, history = scene.rig.ring, len(scene.egos)
        side = CameraRoles.from_settings(Settings(), scene.rig).side
        held = _views_held(scene, ViewTurns(side, encoding.refresh_ns)) if encoding.refresh_ns else [{}] * history
        images = {
            (t, camera): image
            for t in range(history)
            for camera in ring
            if (image := scene.images[camera][t]) is not None and camera not in held[t]
        }
        encoded: dict[tuple[int, str], ImageFeatures] = {}
        for few in (False, True):
            group = {at: image for at, image in images.items() if (encoding.few_pixels and at[1] in side) == few}
            prepared = backend.prepare(list(group.values()), side=True) if few else list(group.values())
            encoded.update(zip(group, backend.encode(prepared), strict=True) if group else ())
        features, views = [], []
        for camera in ring:
            slots = tuple(t for t in range(history) if (t, camera) in encoded)
            row = [encoded[t, camera] for t in slots]
            egos = [scene.egos[t] for t in slots]
            features.append(row)
            views.append(view_tokens(camera, row, slots, scene.rig, egos, overlap=True, motion=True))
        return cls(scene.rig, features, views, history, scene.egos[-1], backend.info.joint_common)

    def keep_masks(self, config: PruningConfig, options: Mapping[str, Any] = PUBLISHED) -> list[torch.Tensor]:
        """Keep mask of each view in ring order, bool (T, rows, columns); ``options`` as in `SpatioTemporalPruner`."""
        return SpatioTemporalPruner(config.for_model(self.joint_common), options=options)(self.views, self.history)

    def prefill(
        self, config: PruningConfig, backend: Backend, prompt: Prompt, options: Mapping[str, Any] = PUBLISHED
    ) -> Context:
        """Prefill the runtime's prompt with the scene, pruned as ``config`` and ``options`` say."""
        views = [
            View(self.rig.direction(camera), camera, [VisualFrame(f, keep.flatten()) for f, keep in zip(row, mask)])
            for camera, row, mask in zip(self.rig.ring, self.features, self.keep_masks(config, options))
        ]
        return backend.prefill(prompt.system, prompt.content(views, self.ego))


def _views_held(scene: CaseScene, turns: ViewTurns) -> list[Mapping[str, HeldFrame]]:
    """Per instant, the views that show an earlier frame, as in the node: the first instant shows every view."""
    held = []
    for t, ego in enumerate(scene.egos):
        if ego is None:
            raise StpruneError(f'scene {scene.id}: views cannot take turns where no time of the images is known')
        frames = {
            camera: CameraFrame(camera, ego.stamp_ns) for camera, row in scene.images.items() if row[t] is not None
        }
        held.append(turns.take(FrameSet(t, ego.stamp_ns, scene.rig.ring, frames)).held)
    return held


def choose_answers(backend: Backend, context: Context, cases: Sequence[Case]) -> list[str]:
    """The candidate that the model finds most likely, for each case (all with candidates) about a prefilled scene."""
    scores = backend.score_all(context, [(case.question, case.candidates) for case in cases])
    return [case.candidates[int(np.argmax(score))] for case, score in zip(cases, scores, strict=True)]
