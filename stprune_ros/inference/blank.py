"""The answer before there is one: nothing but when, from what and how it would have come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stprune_ros.core.types import Answer, Status, Window

if TYPE_CHECKING:  # torch comes with it
    from stprune_ros.settings.settings import Settings
    from stprune_ros.vlm.backend import ModelInfo


def blank_answer(
    status: Status,
    window: Window | None,
    settings: Settings,
    model: ModelInfo,
    prompt_id: str,
    notes: Sequence[str] = (),
) -> Answer:
    """An answer that says nothing, for the current set of ``window`` (None: before the first, stamp 0)."""
    return Answer(
        sequence=window.current.sequence if window is not None else 0,
        stamp_ns=window.current.stamp_ns if window is not None else 0,
        status=status,
        description_status=status,
        model_id=model.model_id,
        model_revision=model.revision,
        model_trained=model.trained,
        prompt_id=prompt_id,
        method=settings['pruning.method'],
        keep_ratio=settings['pruning.keep_ratio'],
        notes=tuple(notes),
    )
