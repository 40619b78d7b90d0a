"""drive.html: the tables, and single drives from above, each driven again from its hints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stprune_ros.core.types import Behavior
from stprune_ros.driving.drive import run_drive
from stprune_ros.driving.events import NEAR, near_actors
from stprune_ros.driving.files import hints_of
from stprune_ros.driving.guides import RecordedHints
from stprune_ros.driving.measures import MEASURES
from stprune_ros.driving.plan import NO_HINTS, DrivePlan, Source
from stprune_ros.driving.planner import Planner
from stprune_ros.driving.runs import Found
from stprune_ros.driving.summary import SHOWN, cell
from stprune_ros.replay.page import render
from stprune_ros.ringworld.route import BLOCK
from stprune_ros.ringworld.world import LIGHT_OFFSET, ROAD, STOP_LINE

EACH = 5  # steps from one that is shown to the next
MAX_WORLDS = 16  # in the page, those first in which most collisions happen


def drive_page(plan: DrivePlan, result: Mapping[str, Any], found: Found, looked_at: Sequence[int], film: str) -> str:
    """The page; the worlds ``looked_at`` are in it in any case, and ``film`` names the moving picture beside it."""
    seeds = worlds_to_show(plan, found, looked_at)
    drives = {
        f'{seed} {source.name}': replayed(plan, seed, source, found[seed, source.name], result['valid_for_ms'])
        for seed in seeds
        for source in plan.sources
    }
    data = {
        'drives': drives,
        'roads': {'block': BLOCK, 'half': ROAD, 'stop_line': STOP_LINE, 'light': LIGHT_OFFSET, 'near': NEAR},
        'labels': dict(MEASURES),
    }
    tables = {
        key: [(row['name'], [cell(row, name, key) for name in SHOWN]) for row in result['sources']]
        for key in ('mean', 'minus_all')
    }
    return render(
        'drive.html.jinja',
        'drive.js',
        result=result,
        heads=[MEASURES[name] for name in SHOWN],
        tables=tables,
        seeds=seeds,
        sources=[source.name for source in plan.sources],
        film=film,
        data=data,
    )


def worlds_to_show(plan: DrivePlan, found: Found, looked_at: Sequence[int]) -> list[int]:
    """At most `MAX_WORLDS` seeds in order: those asked for, then those in which most collisions happen."""

    def collisions(seed: int) -> int:
        return sum(
            found[seed, source.name]['measures']['collisions'] for source in plan.sources if source.method != NO_HINTS
        )

    first = [seed for seed in plan.seeds if seed in looked_at]
    others = sorted((seed for seed in plan.seeds if seed not in looked_at), key=lambda seed: -collisions(seed))
    return sorted([*first, *others][: max(MAX_WORLDS, len(first))])


def replayed(
    plan: DrivePlan, seed: int, source: Source, read: Mapping[str, Any], valid_for_ms: float
) -> dict[str, Any]:
    """What the page shows of a drive, from the hints that its file has."""
    world = plan.new_world(seed)
    guide = RecordedHints(hints_of(read), valid_for_ms)
    steps = run_drive(world, Planner(source.method != NO_HINTS), guide, plan.hz).steps[::EACH]
    snapshots = [world.snapshot(step.t) for step in steps]
    ticks = read['ticks']
    return {
        't': [round(step.t, 2) for step in steps],
        'ego': [(round(step.x, 1), round(step.y, 1), round(step.yaw, 2)) for step in steps],
        'speed': [round(step.speed, 1) for step in steps],
        'limit': [round(step.limit, 1) for step in steps],
        'ttc': [round(step.ttc, 1) for step in steps],
        'hint': [step.behavior.name for step in steps],
        'truth': [_latest(ticks, step.t) for step in steps],
        'red': [[axis for axis in (0, 1) if world.light(axis, step.t) == 'red'] for step in steps],
        'actors': [
            [
                ('pv'.index(actor.kind[0]), round(actor.x, 1), round(actor.y, 1), round(actor.yaw, 1))
                for actor in near_actors(snapshot)
            ]
            for snapshot in snapshots
        ],
        'events': read['events'],
        'measures': read['measures'],
    }


def _latest(ticks: Sequence[Mapping[str, Any]], t: float) -> str:
    """The truth of the last tick until ``t``; UNKNOWN before the first."""
    past = [tick['truth'] for tick in ticks if tick['t'] <= t + 1e-6]
    return past[-1] if past else Behavior.UNKNOWN.name
