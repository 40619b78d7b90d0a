"""Answers for tests, from flat keywords: each part gets the ones that are its fields."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from stprune_ros.core.types import Answer, Description, Hint, Provenance, Status, Timing

PROVENANCE = {
    'model_id': 'tiny',
    'model_revision': '',
    'model_trained': True,
    'prompt_id': 'driving-1',
    'method': 'st_prune',
    'keep_ratio': 0.1,
}
PARTS = {'hint': Hint, 'provenance': Provenance, 'timing': Timing}


def make_answer(
    status: Status = Status.OK,
    text: str = '',
    description_status: Status | None = None,
    truncated: bool = False,
    **values: Any,
) -> Answer:
    """An answer whose hint has ``status``, and its description too unless ``description_status`` says otherwise."""
    given: dict[str, Any] = {'stamp_ns': 1, 'sequence': 1, **PROVENANCE, **values, 'status': status}
    parts = {}
    for part, kind in PARTS.items():
        mine = {field.name: given.pop(field.name) for field in fields(kind) if field.name in given}
        parts[part] = kind(**mine)
    description = Description(status if description_status is None else description_status, text, truncated)
    return Answer(description=description, **parts, **given)
