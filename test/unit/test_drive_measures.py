"""What a drive is judged by: measures of drives made by hand, and what tables make of many."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stprune_ros.core.types import Behavior, Status
from stprune_ros.driving.drive import run_drive
from stprune_ros.driving.events import HORIZON_S, RED_LIGHT_RUN, STOP_LINE_RUN
from stprune_ros.driving.guides import NoHints, TrueHints
from stprune_ros.driving.measures import MEASURES, measure
from stprune_ros.driving.plan import ALL_TOKENS, NO_HINTS, DrivePlan, Source, sources_of
from stprune_ros.driving.planner import Planner
from stprune_ros.driving.record import Drive, Event, Said, Step, Tick
from stprune_ros.driving.summary import cell, summarize, to_markdown
from stprune_ros.ringworld.world import STEP, SteppedWorld


def step(t: float, speed: float, behavior: Behavior = Behavior.NONE, ttc: float = 5.0) -> Step:
    return Step(t, 0.0, 0.0, 0.0, speed, 3.0 * t, 8.0, behavior, ttc)


def test_measures_of_a_drive_made_by_hand() -> None:
    drive = Drive(1, 20.0)
    speeds = [8.0, 0.5, 0.1, 0.0, 2.0, 0.2, 3.0, 0.1]  # stands at 2, 5 and 7 s
    drive.steps = [step(float(t), speed, ttc=4.0 - 0.5 * t) for t, speed in enumerate(speeds)]
    drive.steps[0] = replace(drive.steps[0], behavior=Behavior.UNKNOWN)
    stops = {0, 3}  # s at which STOP is true: the stops at 2 and at 5 s are excused, that at 7 s is not
    drive.ticks = [
        Tick(float(t), Behavior.STOP if t in stops else Behavior.NONE, 'car', 1.0) for t in range(len(speeds))
    ]
    told = [Behavior.STOP, Behavior.NONE, Behavior.STOP, Behavior.NONE]
    drive.said = [Said(float(t), t + 0.5, Status.OK, behavior) for t, behavior in enumerate(told)]
    drive.said[2] = replace(drive.said[2], status=Status.STALE)
    found = measure(drive)
    assert set(found) == set(MEASURES)
    assert found['needless_stops'] == 1
    assert found['flips_per_min'] == 3.0  # once in 20 s: what is stale is not heard
    assert found['stale_share'] == 1 / 8
    assert found['hints_right'] == 0.5
    assert found['min_ttc_s'] == 0.5
    assert found['progress_m'] == 21.0
    drive.events = [Event(1.0, 'pedestrian', 3), Event(2.0, 'stop line'), Event(2.5, 'red light')]
    hit = measure(drive)
    assert (hit['collisions'], hit['pedestrian'], hit['stop_lines'], hit['red_lights']) == (1, 1, 1, 1)
    assert hit['min_ttc_s'] == 0.0


@pytest.mark.parametrize(
    ('speeds', 'stops', 'needless'),
    [
        ([2.0, 0.0], {}, 1),
        ([1.0, 0.0], {}, 1),  # from 1 m/s on it goes
        ([0.99, 0.0], {}, 0),
        ([2.0, 0.3, 0.3], {}, 0),  # at 0.3 m/s it does not stand yet
        ([2.0, 0.29, 0.3, 0.0], {}, 1),  # nor does it go again
        ([2.0, 2.0, 2.0, 0.0], {1}, 0),  # STOP was true two seconds before
        ([2.0, 2.0, 2.0, 0.0], {0}, 1),
        ([2.0, 0.0, 0.0], {2}, 1),  # what becomes true later excuses nothing
        ([2.0, 0.0, 2.0, 0.0], {1}, 0),
    ],
)
def test_a_stop_is_needless_where_nothing_said_so(speeds: list[float], stops: set[int], needless: int) -> None:
    drive = Drive(1, 10.0, steps=[step(float(t), speed) for t, speed in enumerate(speeds)])
    drive.ticks = [Tick(float(t), Behavior.STOP if t in stops else Behavior.NONE, '', 0.0) for t in range(len(speeds))]
    assert measure(drive)['needless_stops'] == needless


def test_shares_are_of_what_was_said_and_driven() -> None:
    """Four sets of images of which two gave a hint; 12 s of 20 s are driven so far."""
    drive = Drive(1, 20.0, steps=[step(float(t), 3.0) for t in range(12)])
    drive.ticks = [Tick(float(t), Behavior.STOP, '', 0.0) for t in range(4)]
    drive.said = [
        Said(float(t), t + 0.5, Status.OK, behavior) for t, behavior in ((0, Behavior.STOP), (2, Behavior.NONE))
    ]
    drive.events = [Event(1.0, STOP_LINE_RUN), Event(2.0, STOP_LINE_RUN), Event(2.5, RED_LIGHT_RUN)]
    found = measure(drive)
    assert (found['hints_right'], found['flips_per_min'], found['stale_share']) == (0.5, 3.0, 0.0)
    assert (found['stop_lines'], found['red_lights'], found['collisions']) == (2, 1, 0)
    assert found['min_ttc_s'] == 5.0


def test_differences_are_paired() -> None:
    sources = sources_of(('st_prune_joint',), (0.1, 0.05))
    plan = DrivePlan(sources, tuple(range(40)), 'ringworld', 20.0, 2.0)
    rng = np.random.default_rng(0)
    hard = rng.integers(0, 5, 40)  # what a world costs whoever drives through it

    def row(seed: int, source: Source) -> dict[str, Any]:
        extra = {ALL_TOKENS: 0, 'st_prune_joint': 1, 'random': 3}.get(source.method, 2) + (
            source == Source('random', 0.05)
        )
        values = dict.fromkeys(MEASURES, 0.0) | {'collisions': int(hard[seed]) + extra}
        return {'measures': values | ({'stale_share': None} if source.method == NO_HINTS else {})}

    found = {(seed, source.name): row(seed, source) for seed in plan.seeds for source in sources}
    result = summarize(plan, {'seconds': 20.0, 'world': 'ringworld', 'profile': 'none'}, found)
    rows = {one['name']: one['measures'] for one in result['sources']}
    pruned = rows['st_prune_joint 0.1']['collisions']
    assert pruned['mean'][0] == pytest.approx(hard.mean() + 1)
    assert pruned['minus_all'] == [1.0, 1.0, 1.0]  # the same in every world: nothing is left to doubt
    assert pruned['minus_random'] == [-2.0, -2.0, -2.0]
    assert rows['st_prune_joint 0.05']['collisions']['minus_random'] == [-3.0, -3.0, -3.0]  # of the same ratio
    assert pruned['mean'][1] < pruned['mean'][0] < pruned['mean'][2]
    assert 'minus_all' not in rows[ALL_TOKENS]['collisions']
    assert rows['no hints']['stale_share'] is None
    text = to_markdown(result)
    assert '| st_prune_joint 0.1 | +1.00 [+1.00, +1.00] |' in text
    assert text.startswith('40 worlds of 20 s each, ringworld, profile none\n')
    one = to_markdown(
        summarize(replace(plan, seeds=(3,)), {'seconds': 20.0, 'world': 'ringworld', 'profile': 'none'}, found)
    )
    assert one.startswith('1 world of 20 s each, ringworld, profile none\n')
    assert 'minus all tokens, which one world gives no interval for:' in one and ' [' not in one
    assert (text.count('| all tokens |'), text.count('| no hints |')) == (1, 2)  # nothing differs from itself
    named = {'measures': {'progress_m': {'mean': [1.26, 1.0, 2.0], 'minus_all': [-1.26, -2.0, 0.04]}}}
    assert [cell(named, 'progress_m', key) for key in ('mean', 'minus_all')] == ['1.3', '-1.3 [-2.0, +0.0]']
    alone = {'measures': {'progress_m': {'minus_all': [-1.25, None, None]}}}
    assert cell(alone, 'progress_m', 'minus_all') == '-1.2'
    assert re.search(r'\| no hints \|.* n/a \|', text)


def test_a_measure_that_one_world_lacks_is_no_measure_of_the_source() -> None:
    """Worlds are never left out, which would compare one set of them with another."""
    sources = sources_of(('uniform',), (0.1,))
    plan = DrivePlan(sources, range(6), 'ringworld', 20.0, 2.0)
    found = {
        (seed, source.name): {'measures': dict.fromkeys(MEASURES, float(seed))}
        for seed in plan.seeds
        for source in sources
    }
    found[3, 'uniform 0.1']['measures']['flips_per_min'] = None  # type: ignore[assignment]
    found[3, ALL_TOKENS]['measures']['stale_share'] = None  # type: ignore[assignment]
    result = summarize(plan, {'seconds': 20.0}, found)
    rows = {row['name']: row for row in result['sources']}
    pruned = rows['uniform 0.1']['measures']
    assert pruned['flips_per_min'] is None
    assert pruned['stale_share']['mean'][0] == 2.5
    assert pruned['stale_share']['minus_all'] is None
    assert pruned['stale_share']['minus_random'] == [0.0, 0.0, 0.0]
    assert rows[ALL_TOKENS]['measures']['stale_share'] is None
    assert rows['random 0.1']['measures']['flips_per_min']['minus_all'] == [0.0, 0.0, 0.0]
    shown = [cell(rows['uniform 0.1'], *of) for of in (('flips_per_min', 'mean'), ('stale_share', 'minus_all'))]
    assert shown == ['n/a', 'n/a']
    assert cell(rows['uniform 0.1'], 'stale_share', 'minus_random') == '+0.00 [+0.00, +0.00]'
    assert len(result['rows']) == 6 * len(sources)
    assert (result['first_seed'], result['drives']) == (0, 6)


@pytest.mark.parametrize('hz', [1.152, 3.0, 0.7])
def test_a_hint_finds_the_truth_of_its_images_at_any_rate(hz: float) -> None:
    found = run_drive(SteppedWorld(930_016, 6.0), Planner(), TrueHints(1000.0), hz)
    assert len(found.ticks) == int(6.0 * hz)
    assert measure(found)['hints_right'] == 1.0


@pytest.mark.parametrize(
    ('seed', 'run'),
    [
        (930_002, [(15.6, STOP_LINE_RUN), (16.05, RED_LIGHT_RUN)]),  # after one at green
        (930_003, [(14.75, STOP_LINE_RUN), (15.2, RED_LIGHT_RUN)]),  # round a corner, where the first road has green
        (930_010, []),  # green twice, while the other road has red
        (930_029, [(13.9, STOP_LINE_RUN)]),  # green before the crossing is entered
    ],
)
def test_the_light_of_the_road_that_is_driven_counts(seed: int, run: list[tuple[float, str]]) -> None:
    found = run_drive(SteppedWorld(seed, 18.0), Planner(heeds=False), NoHints(), 2.0)
    lines = [(round(event.t, 2), event.kind) for event in found.events if event.actor == -1]
    assert lines == run


def test_whoever_was_hit_is_met_no_more() -> None:
    """A vehicle that stands ahead is driven through: one collision, and then the road is free."""
    found = run_drive(SteppedWorld(930_016, 3.0), Planner(heeds=False), NoHints(), 2.0)
    assert [event.kind for event in found.events] == ['vehicle ahead']
    hit = found.events[0].t
    assert [step.ttc > 0.0 for step in found.steps if step.t < hit] == [True] * round(hit / STEP)
    assert {step.ttc for step in found.steps if step.t >= hit} == {HORIZON_S}
