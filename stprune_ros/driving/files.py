"""A drive as JSON, short enough to keep thousands of them: its hints, from which the same drive follows again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stprune_ros.core.types import Behavior, Status
from stprune_ros.driving.measures import MEASURES, measure
from stprune_ros.driving.record import Drive, Said
from stprune_ros.errors import StpruneError, shown
from stprune_ros.results import replaced_at_once


def drive_as_json(drive: Drive) -> dict[str, Any]:
    """The measures of a drive, and all that its steps follow from: every tick and hint; times in s."""
    return {
        'seed': drive.seed,
        'seconds': drive.seconds,
        'measures': measure(drive),
        'events': [{'t': round(event.t, 2), 'kind': event.kind, 'actor': event.actor} for event in drive.events],
        'ticks': [{'t': round(tick.t, 9), 'truth': tick.truth.name, 'reason': tick.reason} for tick in drive.ticks],
        'hints': [
            {
                't': round(said.stamp_s, 9),  # to the nanosecond, so that a hint expires in the same step again
                'out': round(said.out_s, 9),
                'status': said.status.name,
                'hint': said.behavior.name,
                'confidence': said.confidence,
                'kept': said.tokens_kept,
                'full': said.tokens_full,
            }
            for said in drive.said
        ],
    }


def hints_of(found: Mapping[str, Any]) -> list[Said]:
    """The hints of a drive that was read."""
    return [
        Said(
            one['t'],
            one['out'],
            Status[one['status']],
            Behavior[one['hint']],
            one['confidence'],
            one['kept'],
            one['full'],
        )
        for one in found['hints']
    ]


def write_drive(path: Path, drive: Drive) -> None:
    """Write a drive in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_at_once(path) as part:
        part.write_text(json.dumps(drive_as_json(drive), separators=(',', ':')) + '\n', encoding='utf-8')


def read_drive(path: Path, seed: int, seconds: float) -> Mapping[str, Any]:
    """What `write_drive` wrote of this world; StpruneError where the file is something else."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
        if (found['seed'], found['seconds']) != (seed, seconds):
            raise ValueError(f'it is of world {found["seed"]} and {found["seconds"]} s')
        missing = [name for name in MEASURES if name not in found['measures']]
        if missing:
            raise ValueError(f'it lacks {missing[0]}')
        hints_of(found)
    except (ValueError, KeyError, TypeError) as error:
        raise StpruneError(f"'{path}' is no drive that can be read: {shown(error)}; remove it") from None
    return found
