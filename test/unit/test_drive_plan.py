"""What drives have in common: their sources, settings, seeds, times, and all that their identity names."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stprune_ros.core.types import Behavior
from stprune_ros.driving import events, measures, plan, planner, runs
from stprune_ros.driving.command import filmed_source
from stprune_ros.driving.drive import run_drive
from stprune_ros.driving.guides import NoHints, TrueHints
from stprune_ros.driving.latency import Latency, latency_of
from stprune_ros.driving.measures import measure
from stprune_ros.driving.plan import (
    ALL_TOKENS,
    NO_HINTS,
    OF_SWITCHES,
    TRUE_HINTS,
    VERSION,
    DrivePlan,
    Source,
    constants,
    identity,
    require_plan,
    settings_for,
    settings_of_ringworld,
    sources_of,
)
from stprune_ros.driving.planner import Planner
from stprune_ros.errors import SettingsError, StpruneError
from stprune_ros.evaluation.variants import FEW_PIXELS, SWITCHES, TURNS
from stprune_ros.ringworld import truth, world
from stprune_ros.settings.parameters import BY_NAME
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import ModelInfo

PLAN = DrivePlan(sources_of(('st_prune_joint',), (0.1,)), range(5), 'ringworld', 20.0, 2.0)
# What these drives were in each version: raise `plan.VERSION` where one differs, and no constant says so.
DRIVEN: dict[int, dict[str, list[float | None]]] = {
    1: {
        'no hints': [0, 0, 0, 0, 0, 0, 1, 1, 4.1, 126.9, 0, None, None, None],
        'true hints': [0, 0, 0, 0, 0, 0, 0, 0, 5.0, 95.42, 0, 7.5, 0.0031, 1.0],
        'hard': [0, 0, 0, 0, 0, 0, 0, 0, 2.2, 5.95, 0, 15.0, 0.0125, 1.0],
    }
}


MODEL = ModelInfo('model', '1', '', True, 'cpu', 'float32')


def named(
    plan: DrivePlan = PLAN, settings: Settings | None = None, profile: str = 'none', model: ModelInfo = MODEL
) -> dict[str, Any]:
    return identity(plan, latency_of(profile, 1000.0), model, settings or Settings())


@pytest.mark.parametrize(
    ('module', 'name', 'value'),
    [
        (planner, 'CAUTION', 5.0),
        (planner, 'MAX_AHEAD_NS', 0),
        (events, 'HARD_BRAKING', 4.0),
        (events, 'LOOK_S', 0.2),
        (measures, 'GOING', 2.0),
        (truth, 'STOP_WITHIN', 11.0),
        (world, 'STOP_LINE', 9.0),
        (plan, 'VERSION', 0),
    ],
)
def test_a_constant_that_decides_a_drive_is_part_of_what_it_is(
    module: ModuleType, name: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = named()
    assert json.loads(json.dumps(before)) == before
    monkeypatch.setattr(module, name, value)
    assert named() != before


def test_everything_else_that_decides_a_drive_is_part_of_it_too() -> None:
    before = named()
    given = (
        Settings.from_values({'history.frames': 2}),
        Settings.from_values({'pruning.lambda_spatial': 0.5}),
        Settings.from_values({'prompt.calibration': 'other', 'model.path': '/elsewhere'}),
    )
    assert [named(settings=one) == before for one in given] == [False, False, True]  # what is fixed does not matter
    plans = [replace(PLAN, world='hard'), replace(PLAN, seconds=10.0), replace(PLAN, hz=4.0)]
    assert [named(one) == before for one in [*plans, replace(PLAN, seeds=range(9))]] == [False] * 3 + [True]
    assert named(profile='orin_nx') != before
    asking = replace(MODEL, joint_common=2.4)  # the weights are the same, what stprune.json says is not
    assert (named()['pruning']['joint_common'], named(model=asking)['pruning']['joint_common']) == (0.0, 2.4)
    assert named(model=asking)['settings'] != before['settings']
    assert named(model=asking) == named(settings=Settings.from_values({'pruning.joint_common': 2.4}))
    assert named()['limits'] == {'SLOW_DOWN': 3.5, 'STOP': 0.0, 'YIELD': 0.0, 'INCREASE_GAP': 6.0}
    assert named(settings=Settings.from_values({'output.valid_for_ms': 700.0}))['valid_for_ms'] == 1000.0, (
        "the latency's"
    )
    assert named(profile='orin_nx')['up_to_hint_ms'] == {'1.0': 1110.4, '0.1': 366.9}


def test_constants_are_numbers_and_rows_of_numbers() -> None:
    module = ModuleType('rules')
    vars(module).update(A=1.5, ROW=(1, 2.5), WORDS=('a', 'b'), NAME='x', lower=3, TABLE={1: 2})
    assert constants(module) == {'a': 1.5, 'row': [1, 2.5]}


def test_drives_are_those_of_their_version() -> None:
    known = DrivePlan((), (930_015, 930_016), 'ringworld', 16.0, 2.0)
    hard = replace(known, world='hard', seconds=4.0)
    drives = {
        'no hints': run_drive(known.new_world(930_015), Planner(False), NoHints(), 2.0),
        'true hints': run_drive(known.new_world(930_016), Planner(), TrueHints(1000.0), 2.0),
        'hard': run_drive(hard.new_world(930_016), Planner(), TrueHints(1000.0), 2.0),
    }
    assert {name: [*measure(drive).values()] for name, drive in drives.items()} == DRIVEN[VERSION]


def test_drives_go_on_with_more_ratios_but_no_other_plan(tmp_path: Path) -> None:
    file, late = tmp_path / 'plan.json', named(profile='orin_nx')
    file.write_text(json.dumps(late))
    runs._refuse_another(file, late)
    more = named(replace(PLAN, sources=sources_of(('uniform',), (0.1, 0.05))), profile='orin_nx')
    runs._refuse_another(file, more)
    faster = {**late, 'up_to_hint_ms': {**late['up_to_hint_ms'], '0.1': 1.0}}
    for wrong in (faster, {**late, 'hz': 3.0}, named(), {**late, 'new': 1}):
        with pytest.raises(StpruneError, match='is of drives under another plan: name another --output'):
            runs._refuse_another(file, wrong)


def test_each_drive_has_the_parameters_and_times_of_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []

    class Caught(NoHints):
        def __init__(self, settings: Settings, *_: Any) -> None:
            seen.append(settings)

    monkeypatch.setattr(runs, 'PipelineHints', Caught)
    short = replace(PLAN, seconds=2.0, hz=1.0)
    driver = runs.Driver(short, Latency('slow', 300.0), Settings(), tmp_path)
    driver.drive(930_016, Source('random', 0.1))
    driver.drive(930_015, Source(ALL_TOKENS))
    found = [(one.pruning.method, one.pruning.keep_ratio, one.pruning.seed) for one in seen]
    assert found == [('random', 0.1, 930_016), ('st_prune_joint', 1.0, 930_015)]
    true, _ = driver.drive(930_016, Source(TRUE_HINTS))
    none = [step.t for step in true.steps if step.behavior == Behavior.UNKNOWN and step.t < 1.0]
    assert none[:2] == pytest.approx([0.0, 0.3])  # before the first hint, and after its end
    assert {step.limit for step in driver.drive(930_016, Source(NO_HINTS))[0].steps} == {8.0}
    assert len(seen) == 2


def test_ratios_that_differ_have_names_that_differ() -> None:
    sources = sources_of(('uniform',), (0.1, 0.1000001, 1e-5))
    names = [source.name for source in sources]
    assert names[3:6] == ['uniform 0.1', 'uniform 0.1000001', 'uniform 1e-05']
    assert len(set(names)) == len(names)
    assert len(named(replace(PLAN, sources=sources), profile='orin_nx')['up_to_hint_ms']) == 4
    assert sources_of(('none',), (0.5,)) == sources_of(('random',), (0.5,))  # which keeps all at any ratio
    assert [source.has_model for source in sources] == [False, False, *[True] * 7]


def test_sources_and_their_settings() -> None:
    sources = sources_of(('uniform', 'random', 'uniform'), (1.0, 0.25, 0.1))
    assert [source.name for source in sources] == [
        'no hints', 'true hints', 'all tokens', 'uniform 0.25', 'uniform 0.1', 'random 0.25', 'random 0.1'
    ]  # fmt: skip
    given = Settings.from_values({'latency.target_ms': 300.0})
    found = settings_for(sources[-1], 7, given)
    assert (found.pruning.method, found.pruning.keep_ratio, found.pruning.seed) == ('random', 0.1, 7)
    assert (found.latency.target_ms, found.inference.describe) == (0.0, False)
    assert settings_for(Source(ALL_TOKENS), 7, given).pruning.keep_ratio == 1.0
    assert filmed_source(sources) == Source('uniform', 0.1)
    assert filmed_source(sources_of(('uniform',), (0.05, 0.25))) == Source('uniform', 0.25)
    assert filmed_source(sources_of(('uniform',), (0.02, 0.05))) == Source('uniform', 0.05)
    assert filmed_source(sources_of(('uniform',), (1.0,))) is None


@pytest.mark.parametrize(
    ('method', 'how'),
    [
        ('st_prune+ring+gauge', ", and set 'pruning.budget', 'pruning.gauge_commonness' in --params"),
        ('a+keep_one_copy', ", and set 'pruning.keep_one_copy' in --params"),
        ('a+refresh', ", and set 'cameras.refresh_ms' in --params"),
        ('st_prune+lambda_spatial=3.2', ", and set 'pruning.lambda_spatial' in --params"),
        ('dart+text', ''),
        ('dart+pivots=8', ''),
    ],
)
def test_switches_are_refused_with_the_parameters_that_set_them(method: str, how: str) -> None:
    with pytest.raises(SettingsError) as error:
        sources_of((method,), (0.1,))
    base = method.partition('+')[0]
    assert str(error.value) == f"stprune drive takes no switches, as in '{method}': name --method '{base}'{how}"


def test_every_switch_of_an_evaluation_is_known_with_parameters_that_exist() -> None:
    assert OF_SWITCHES.keys() == {*SWITCHES, 'all', TURNS, FEW_PIXELS}
    assert all(name in BY_NAME for names in OF_SWITCHES.values() for name in names)


def test_the_shortest_drive_has_two_sets_of_images() -> None:
    for seconds, hz in ((1.0, 2.0), (0.2, 10.0), (2.0, 1.0)):
        require_plan(replace(PLAN, seconds=seconds, hz=hz), PLAN.seeds[0])
        with pytest.raises(SettingsError, match=f'choose --seconds {seconds:g} or more'):
            require_plan(replace(PLAN, seconds=seconds * 0.999, hz=hz), PLAN.seeds[0])


def test_parameters_of_another_ring_count_for_nothing_in_a_drive() -> None:
    pruning = {'pruning.even_share': 0.5, 'cameras.refresh_ms': 500.0}
    assert settings_of_ringworld(Settings.from_values(pruning)) == (Settings.from_values(pruning), [])
    others = {'pruning.keep_ratio': 0.3, 'cameras.names': ['one', 'two'], 'cameras.base_frame': 'car'}
    settings, unused = settings_of_ringworld(Settings.from_values({**pruning, **others}))
    assert unused == ['pruning.keep_ratio', 'cameras.names', 'cameras.base_frame']
    assert settings.cameras == Settings.from_values(pruning).cameras
    assert settings_for(Source(ALL_TOKENS), 7, settings).pruning.even_share == 0.5


@pytest.mark.parametrize('profile', ['orin_agx', 'orin_nx'])
def test_computed_times_are_those_of_the_docs(profile: str) -> None:
    lines = (Path(__file__).parents[2] / 'docs' / 'profiles.md').read_text().splitlines()
    rows = {cells[0]: cells for cells in ([c.strip() for c in line.split('|')[1:-1]] for line in lines if '|' in line)}
    column = rows['profile'].index(profile)
    latency = latency_of(profile, 1000.0)
    assert f'{latency.encode_ms:.0f}' == rows['encode at best, ms'][column]
    assert f'{latency.prefill_ms(0.1):.0f}' == rows['prefill of 10 % at best, ms'][column]
    assert f'{latency.hint_ms:.1f}' == rows['written token at best, ms'][column]
    assert f'{latency.valid_for_ms:g}' == rows['hints valid for, ms'][column]
    assert latency.up_to_hint_ms(0.1) == latency.encode_ms + latency.prefill_ms(0.1) + latency.hint_ms
    assert latency.up_to_hint_ms(1.0) > 2 * latency.up_to_hint_ms(0.1)
    slow = replace(latency, hint_ms=5000.0)  # whose weights take longer to read than to compute with
    assert slow.up_to_hint_ms(0.02) == slow.encode_ms + 2 * 5000.0
    assert (latency_of('none', 700.0).valid_for_ms, latency_of('none', 700.0).up_to_hint_ms(1.0)) == (700.0, 0.0)
    with pytest.raises(SettingsError, match='computed times of a profile'):
        latency_of('workstation', 1000.0)
