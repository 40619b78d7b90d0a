"""Where an answer comes from, known before there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stprune_ros.core.types import Provenance
from stprune_ros.settings.settings import Settings

if TYPE_CHECKING:  # torch comes with it
    from stprune_ros.vlm.backend import ModelInfo
    from stprune_ros.vlm.prompt import Prompt


def provenance_of(settings: Settings, model: ModelInfo, prompt: Prompt) -> Provenance:
    """The provenance of what ``model`` answers to ``prompt`` with these settings, at the keep ratio they ask for."""
    return Provenance(
        model_id=model.model_id,
        model_revision=model.revision,
        model_trained=model.trained,
        prompt_id=prompt.id,
        method=settings.pruning.method,
        keep_ratio=settings.pruning.keep_ratio,
        hint_calibration_id=prompt.calibration.id if prompt.calibration is not None else '',
        joint_common=settings.pruning.for_model(model.joint_common).joint_common,
    )
