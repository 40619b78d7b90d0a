"""Checkpoints of training stages: any modules and optimizers, the step, and the seconds spent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stprune_ros.ringworld.training.schedule import Schedule


def restore(path: Path, schedule: Schedule, **parts: Any) -> int:
    """Restore ``parts`` (modules, optimizers) by name. Returns the step to resume at, 0 without a checkpoint."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location='cpu')
    for name, part in parts.items():
        part.load_state_dict(state[name])
    schedule.spent = state['spent']
    return int(state['step'])


def save(path: Path, step: int, schedule: Schedule, **parts: Any) -> None:
    """Write a checkpoint; an interrupted write leaves the previous one in place."""
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**state, 'step': step, 'spent': schedule.elapsed()}, path.with_suffix('.part'))
    path.with_suffix('.part').rename(path)
