"""A drive as JSON, short enough to keep hundreds of them: columns of numbers, rounded to what a page can show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stprune_ros.driving.measures import measure
from stprune_ros.driving.record import Drive
from stprune_ros.errors import StpruneError, shown
from stprune_ros.results import replaced_at_once

SHOWN_EACH = 5  # steps from one that is kept to the next


def drive_as_json(drive: Drive) -> dict[str, Any]:
    """The measures of a drive, and what a page shows of it: some of its steps, every tick and hint, all events."""
    steps = drive.steps[::SHOWN_EACH]
    return {
        'seed': drive.seed,
        'seconds': drive.seconds,
        'measures': measure(drive),
        'events': [{'t': round(event.t, 2), 'kind': event.kind, 'actor': event.actor} for event in drive.events],
        'steps': {
            't': [round(step.t, 2) for step in steps],
            'x': [round(step.x, 1) for step in steps],
            'y': [round(step.y, 1) for step in steps],
            'speed': [round(step.speed, 1) for step in steps],
            'limit': [round(step.limit, 1) for step in steps],
            'hint': [step.behavior.name for step in steps],
            'ttc': [round(step.ttc, 1) for step in steps],
        },
        'ticks': [{'t': round(tick.t, 3), 'truth': tick.truth.name, 'reason': tick.reason} for tick in drive.ticks],
        'hints': [
            {
                't': round(said.stamp_s, 3),
                'out': round(said.out_s, 3),
                'status': said.status.name,
                'hint': said.behavior.name,
                'confidence': said.confidence,
                'kept': said.tokens_kept,
                'full': said.tokens_full,
            }
            for said in drive.said
        ],
    }


def write_drive(path: Path, drive: Drive) -> None:
    """Write a drive in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_at_once(path) as part:
        part.write_text(json.dumps(drive_as_json(drive), separators=(',', ':')) + '\n', encoding='utf-8')


def read_drive(path: Path) -> Mapping[str, Any]:
    """What `write_drive` wrote; StpruneError where the file is something else."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding='utf-8'))
        found['measures']['collisions']
    except (ValueError, KeyError, TypeError) as error:
        raise StpruneError(f"'{path}' is no drive that can be read: {shown(error)}; remove it") from None
    return found
