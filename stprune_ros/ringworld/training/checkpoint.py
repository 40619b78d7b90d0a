"""Checkpoints of training stages: any modules and optimizers, the step, the seconds spent, and whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stprune_ros.errors import StpruneError, shown
from stprune_ros.ringworld.training.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The file of a stage; ``arguments``, plain values by their names, are what its weights follow from.

    Each method raises StpruneError where the file is that of a training with other ones.
    """

    path: Path
    arguments: Mapping[str, Any]

    def require_own(self) -> None:
        """Do nothing where the file may be gone on with, or is not there."""
        self._read()

    def restore(self, schedule: Schedule, **parts: Any) -> int:
        """Restore ``parts`` (modules, optimizers) by name. Returns the step to resume at, 0 without a checkpoint."""
        state = self._read()
        if state is None:
            return 0
        for name, part in parts.items():
            part.load_state_dict(state[name])
        schedule.spent = state['spent']
        return int(state['step'])

    def save(self, step: int, schedule: Schedule, **parts: Any) -> None:
        """Write the file; an interrupted write leaves the previous one in place."""
        state = {name: part.state_dict() for name, part in parts.items()}
        written = {**state, 'step': step, 'spent': schedule.elapsed(), 'arguments': dict(self.arguments)}
        torch.save(written, self.path.with_suffix('.part'))
        self.path.with_suffix('.part').rename(self.path)

    def _read(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location='cpu')
        then = state.get('arguments', {})
        for name, value in self.arguments.items():
            if then.get(name) != value:
                raise StpruneError(
                    f"'{self.path}' is of another training: there {name} is {shown(then.get(name))}, here it is"
                    f' {shown(value)}; give the same, or name another --work'
                )
        return state
