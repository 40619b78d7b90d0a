"""Who does what in which order, what is tried again and what is given up; and whose results lie where."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.fleets import STUCK, Script
from helpers.small_bags import drive, write_bag

from stprune_ros.errors import BagError, SettingsError, StpruneError
from stprune_ros.fleet.asked import as_they_come, in_order
from stprune_ros.fleet.dispatch import ATTEMPTS, Dispatcher, Progress
from stprune_ros.fleet.index import DONE, FAILED, Entry
from stprune_ros.fleet.ledger import LOCK, Ledger, rows_beside
from stprune_ros.fleet.plan import Drive, Run, runs_of, settings_of
from stprune_ros.fleet.split import Cut
from stprune_ros.fleet.tasks import (
    Asked,
    AskScene,
    Broken,
    Died,
    Done,
    JoinParts,
    Outcome,
    Pace,
    ReplayPart,
    ReplayRun,
    Split,
    Task,
)
from stprune_ros.folder_lock import locked
from stprune_ros.io.bag_identity import bag_identity
from stprune_ros.io.bag_reader import Bag
from stprune_ros.replay.moment import plain_values
from stprune_ros.resources import version
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import ModelIdentity

MODEL = ModelIdentity('tiny', 'weights', 'prompt', '')
CUTS = (Cut(0, 1, 5, 5), Cut(2, 6, 9, 4))


@pytest.fixture
def runs(tmp_path: Path) -> list[Run]:
    """A large and a small bag under two settings."""
    drives = [
        Drive(write_bag(tmp_path / name, drive(ticks)), name, size)
        for name, ticks, size in (('small', 1, 10), ('large', 2, 100))
    ]
    return runs_of(drives, settings_of(Settings(), ['pruning.keep_ratio=0.1,0.2']))


@pytest.fixture
def ledger(tmp_path: Path, runs: list[Run]) -> Ledger:
    (tmp_path / 'out').mkdir()
    return Ledger(tmp_path / 'out', runs, {run.setting.name: MODEL for run in runs})


def summary(run: Run, **more: Any) -> dict[str, Any]:
    with Bag(run.drive.path) as bag:
        identity = bag_identity(bag, [name for name in bag.topics if 'image_raw' in name])
    return {
        'parameters': plain_values(run.setting.settings),
        'bag_id': identity,
        'interrupted': False,
        'span': None,
        'versions': {'stprune_ros': version()},
        **MODEL._asdict(),
        'ticks': 3,
        'status': {'OK': 3},
        **more,
    }


def write(task: Task, **more: Any) -> Done:
    """What a worker leaves of a task."""
    if isinstance(task, ReplayPart):
        task.into.write_text('ticks')
    elif isinstance(task, ReplayRun | JoinParts):
        task.into.mkdir()
        (task.into / 'summary.json').write_text(json.dumps(summary(task.run, **more)))
        rows_beside(task.into).write_text('rows')
    return Done()


def dispatch(
    ledger: Ledger, runs: list[Run], workers: Script, patience_s: float = 0.0
) -> tuple[list[Entry], list[Progress]]:
    entries, seen = [Entry(run) for run in runs], []
    Dispatcher(entries, ledger, workers, 60.0, patience_s).run(seen.append)
    return entries, seen


def test_every_run_is_done_and_moved_in(ledger: Ledger, runs: list[Run]):
    workers = Script(2, write)
    entries, seen = dispatch(ledger, runs, workers)
    assert [entry.state for entry in entries] == [DONE] * 4
    assert [task.run for task in workers.given if isinstance(task, ReplayRun)] == runs
    assert all(task.window_s == 60.0 and task.home == ledger.home(task.run) for task in workers.given)  # type: ignore[union-attr]
    assert len({task.into for task in workers.given}) == 4  # type: ignore[union-attr]
    assert all(ledger.is_done(run) and ledger.rows(run).read_text() == 'rows' for run in runs)
    assert [(one.runs, one.of) for one in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert seen[-1] == Progress(4, 4, 220, 12)
    assert [one.bytes for one in seen] == sorted(one.bytes for one in seen)


def test_what_is_there_is_not_run_again(ledger: Ledger, runs: list[Run]):
    dispatch(ledger, runs[:2], Script(1, write))
    workers = Script(1, write)
    dispatch(ledger, runs, workers)
    assert [task.run for task in workers.given] == runs[2:]  # type: ignore[union-attr]


def test_a_broken_bag_is_a_sentence_and_the_rest_goes_on(ledger: Ledger, runs: list[Run]):
    def act(task: Task) -> Outcome:
        write(task)
        return Broken('it is no bag') if task.run == runs[1] else Done()  # type: ignore[union-attr]

    entries, _ = dispatch(ledger, runs, Script(2, act))
    assert [entry.state for entry in entries] == [DONE, FAILED, DONE, DONE]
    assert entries[1].sentence == 'it is no bag' and not ledger.is_done(runs[1])
    assert list(ledger.output.glob('.fleet/work/*')) == []


@pytest.mark.parametrize(('deaths', 'state'), [(ATTEMPTS - 1, DONE), (ATTEMPTS, FAILED)])
def test_a_task_whose_worker_dies_is_tried_again_but_not_for_ever(
    ledger: Ledger, runs: list[Run], deaths: int, state: str
):
    left = [deaths]

    def act(task: Task) -> Outcome | Died:
        write(task)
        if task.run == runs[0] and left[0]:  # type: ignore[union-attr]
            left[0] -= 1
            return Died('killed by the system')
        return Done()

    entries, _ = dispatch(ledger, runs, Script(1, act))
    assert [entry.state for entry in entries] == [state, DONE, DONE, DONE]
    assert [entry.deaths for entry in entries] == [deaths, 0, 0, 0]
    expected = '' if state == DONE else '3 workers in a row died of it, the last one so: killed by the system'
    assert entries[0].sentence == expected
    assert list(ledger.output.glob('.fleet/work/*')) == []


def test_a_long_bag_is_put_together_from_its_parts(ledger: Ledger, runs: list[Run]):
    died = []

    def act(task: Task) -> Outcome | Died:
        if isinstance(task, ReplayRun) and task.run == runs[0]:
            return Split('key', CUTS)
        if isinstance(task, ReplayPart) and not died:
            died.append(task)
            return Died('killed')
        if isinstance(task, JoinParts):
            assert [path.read_text() for path in task.parts] == ['ticks'] * 2
            assert list(task.parts) == [ledger.part(runs[0], 'key', cut) for cut in CUTS]
        return write(task)

    workers = Script(1, act)
    entries, seen = dispatch(ledger, runs[:2], workers)
    assert [type(task).__name__ for task in workers.given] == [
        *('ReplayRun', 'ReplayPart', 'ReplayPart', 'ReplayPart', 'JoinParts', 'ReplayRun')
    ]
    assert [task.cut for task in workers.given if isinstance(task, ReplayPart)] == [CUTS[0], CUTS[0], CUTS[1]]
    assert [(entry.state, entry.parts, entry.deaths) for entry in entries] == [(DONE, 2, 1), (DONE, 1, 0)]
    assert not list((ledger.output / '.fleet' / 'parts').iterdir())
    assert max(one.bytes for one in seen) == 200
    assert seen[-1].ticks == 5 + 4 + 3


def test_parts_that_are_there_are_not_inferred_again(ledger: Ledger, runs: list[Run]):
    ledger.part(runs[0], 'key', CUTS[1]).parent.mkdir(parents=True)
    ledger.part(runs[0], 'key', CUTS[1]).write_text('ticks')
    workers = Script(1, lambda task: Split('key', CUTS) if isinstance(task, ReplayRun) else write(task))
    dispatch(ledger, runs[:1], workers)
    assert [task.cut for task in workers.given if isinstance(task, ReplayPart)] == [CUTS[0]]


@pytest.mark.parametrize('count', [1, 2])
def test_a_part_that_fails_takes_its_run_with_it(ledger: Ledger, runs: list[Run], count: int):
    def act(task: Task) -> Outcome:
        if isinstance(task, ReplayRun) and task.run == runs[0]:
            return Split('key', CUTS)
        return Broken('too little memory') if isinstance(task, ReplayPart) else write(task)

    workers = Script(count, act)
    entries, _ = dispatch(ledger, runs[:2], workers)
    assert [entry.state for entry in entries] == [FAILED, DONE]
    assert sum(isinstance(task, ReplayPart) for task in workers.given) == count
    assert not any(isinstance(task, JoinParts) for task in workers.given)


def test_a_replay_in_which_nothing_was_inferred_has_failed_and_stays(ledger: Ledger, runs: list[Run]):
    def act(task: Task) -> Outcome:
        return write(task, status={'ERROR': 3}, error_sentences={'out of memory': 3}, notes=[])

    entries, _ = dispatch(ledger, runs[:1], Script(1, act))
    assert entries[0].state == FAILED and 'nothing could be inferred in any of the 3 ticks' in entries[0].sentence
    assert ledger.is_done(runs[0])


def test_another_model_than_that_of_the_fleet_is_seen(ledger: Ledger, runs: list[Run]):
    entries, _ = dispatch(ledger, runs[:1], Script(1, lambda task: write(task, model_revision='others')))
    assert entries[0].state == FAILED and not ledger.is_done(runs[0])
    assert "there model_revision is 'others', here it is 'weights'" in entries[0].sentence


def test_a_worker_that_gets_no_further_is_ended(ledger: Ledger, runs: list[Run]):
    def act(task: Task) -> Outcome:
        time.sleep(0.01)
        return STUCK

    workers = Script(1, act)
    entries, _ = dispatch(ledger, runs[:1], workers, patience_s=0.2)
    assert entries[0].state == FAILED and entries[0].deaths == ATTEMPTS == len(workers.ended)
    assert entries[0].sentence.endswith('nothing came of it for 0.2 s, and its worker was ended')


def test_a_worker_that_gets_further_is_left_alone(ledger: Ledger, runs: list[Run]):
    steps = [60]

    def act(task: Task) -> Outcome:
        time.sleep(0.01)
        steps[0] -= 1
        workers.told[0] = Pace(100 - steps[0], 100, 0)
        return STUCK if steps[0] else write(task)

    workers = Script(1, act)
    entries, _ = dispatch(ledger, runs[:1], workers, patience_s=0.3)
    assert entries[0].state == DONE and workers.ended == {}


def test_results_of_these_runs_are_taken_up(ledger: Ledger, runs: list[Run]):
    dispatch(ledger, runs[:2], Script(1, write))
    ledger.take_over(resume=True)
    with pytest.raises(StpruneError, match='is not empty'):
        ledger.take_over(resume=False)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'bag_id': 'other'}, "there bag_id is 'other', here it is '"),
        ({'interrupted': True}, 'there interrupted is True, here it is False'),
        ({'span': {'from_ns': 1}}, 'there span is '),
        ({'prompt_id': 'other'}, "there prompt_id is 'other', here it is 'prompt'"),
        ({'parameters': {**plain_values(Settings()), 'pruning.keep_ratio': 0.3}},
         "there 'pruning.keep_ratio' is 0.3, here it is 0.1"),
        ({'parameters': {}}, ' is None, here it is '),
        ({'versions': {'stprune_ros': '0.0.9'}}, f"there stprune_ros is '0.0.9', here it is '{version()}'; name"),
        ({'versions': None}, f"there stprune_ros is None, here it is '{version()}'; name"),
    ],
)  # fmt: skip
def test_results_of_another_run_are_refused(ledger: Ledger, runs: list[Run], change: dict[str, Any], words: str):
    dispatch(ledger, runs[:1], Script(1, write))
    file = ledger.home(runs[0]) / 'summary.json'
    file.write_text(json.dumps(summary(runs[0], **change)))
    with pytest.raises(SettingsError) as error:
        ledger.take_over(resume=True)
    assert f"'{ledger.home(runs[0])}' holds the results of another run: " in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize('name', ['truth.json', 'metadata.yaml', 'rig.yaml'])
def test_results_of_files_that_have_changed_are_refused(tmp_path: Path, runs: list[Run], name: str):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'rig.yaml').write_text('cameras: {}')
    settings = Settings.from_values({'cameras.rig_file': str(tmp_path / 'rig.yaml')})
    [one] = runs_of([runs[0].drive], settings_of(settings, []))
    before = Ledger(tmp_path / 'out', [one], {one.setting.name: MODEL})
    dispatch(before, [one], Script(1, write))
    after = Ledger(tmp_path / 'out', [one], {one.setting.name: MODEL})
    assert after._changed(one) == ''
    file = tmp_path / 'rig.yaml' if name == 'rig.yaml' else one.drive.path / name
    file.write_text(f'{file.read_text() if file.exists() else ""} ')
    after = Ledger(tmp_path / 'out', [one], {one.setting.name: MODEL})
    assert after._changed(one) == f"'{name}' has changed since"
    shutil.rmtree(tmp_path / 'out' / '.fleet' / 'inputs')
    assert after._changed(one) == 'nothing is known of the files that it read'


def test_results_of_another_recording_of_the_same_counts_are_refused(ledger: Ledger, runs: list[Run]):
    dispatch(ledger, runs[:1], Script(1, write))
    [storage] = [file for file in runs[0].drive.path.iterdir() if file.suffix in ('.mcap', '.db3')]
    stat = storage.stat()
    os.utime(storage, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))  # written anew, with the same first image
    again = Ledger(ledger.output, runs, {run.setting.name: MODEL for run in runs})
    with pytest.raises(SettingsError, match=f"holds the results of another run: '{storage.name}' has changed since"):
        again.take_over(resume=True)


def test_what_is_no_replay_is_refused(ledger: Ledger, runs: list[Run]):
    ledger.home(runs[0]).mkdir(parents=True)
    with pytest.raises(BagError, match='is no output folder of a replay'):
        ledger.take_over(resume=True)


def test_one_fleet_holds_a_folder(tmp_path: Path):
    with locked(tmp_path / 'out', tmp_path / 'out' / LOCK, 'fleet'):
        child = os.fork()
        if not child:
            try:
                with locked(tmp_path / 'out', tmp_path / 'out' / LOCK, 'fleet'):
                    os._exit(1)
            except StpruneError as error:
                os._exit(0 if 'another fleet is writing to' in str(error) else 2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with locked(tmp_path / 'out', tmp_path / 'out' / LOCK, 'fleet'):
        pass


def test_a_lock_that_its_fleet_removes_meanwhile_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whoever comes next makes another file, and two would write."""
    real, file = fcntl.flock, tmp_path / 'out' / '.fleet' / 'lock'

    def late(lock: Any, how: int) -> None:
        file.unlink()
        real(lock, how)

    monkeypatch.setattr('fcntl.flock', late)
    with (
        pytest.raises(StpruneError, match='another fleet is writing to'),
        locked(tmp_path / 'out', tmp_path / 'out' / LOCK, 'fleet'),
    ):
        pass


def test_deaths_of_earlier_fleets_are_remembered(ledger: Ledger, runs: list[Run]):
    assert ledger.earlier() == {}
    (ledger.output / 'fleet.json').write_text('{"bags": [{"runs": [{"folder": "a/b", "deaths": 2, "parts": 3}]}]}')
    assert ledger.earlier() == {'a/b': (2, 3)}
    for broken in ('{', '[]', '{"bags": [{"runs": [{"folder": "a/b"}]}]}'):
        (ledger.output / 'fleet.json').write_text(broken)
        assert ledger.earlier() == {}


def test_what_belongs_to_no_run_is_named(ledger: Ledger, runs: list[Run]):
    dispatch(ledger, runs[:1], Script(1, write))
    (ledger.output / 'gone' / 'base').mkdir(parents=True)
    (ledger.output / 'gone' / 'base' / 'summary.json').write_text('{}')
    assert ledger.strangers() == ['gone/base']


def scenes(*numbers: int) -> list[AskScene]:
    return [AskScene(None, None, Settings(), number) for number in numbers]  # type: ignore[arg-type]


def test_scenes_come_in_their_order_whoever_is_done_first():
    workers = Script(3, lambda task: Asked([task.scene]))  # type: ignore[union-attr, list-item]
    assert list(in_order(workers, scenes(5, 3, 9, 1))) == [Asked([one]) for one in (5, 3, 9, 1)]  # type: ignore[list-item]


def test_what_is_done_comes_at_once():
    """The last one that was given is done first."""
    workers = Script(2, lambda task: Asked([task.scene]))  # type: ignore[union-attr, list-item]
    assert [place for place, _ in as_they_come(workers, scenes(*range(5)))] == [1, 2, 3, 4, 0]


def test_a_scene_whose_worker_dies_is_asked_again():
    deaths = [ATTEMPTS - 1]

    def act(task: Task) -> Outcome | Died:
        assert isinstance(task, AskScene)
        if task.scene == 3 and deaths[0]:
            deaths[0] -= 1
            return Died('killed')
        return Asked([task.scene])  # type: ignore[list-item]

    assert list(in_order(Script(2, act), scenes(5, 3))) == [Asked([5]), Asked([3])]  # type: ignore[list-item]
    deaths[0] = ATTEMPTS
    with pytest.raises(StpruneError, match='3 workers in a row died of scene 3: killed'):
        list(in_order(Script(2, act), scenes(5, 3)))


def test_a_scene_that_cannot_be_evaluated_ends_it():
    with pytest.raises(StpruneError, match='scene 5 cannot be evaluated: no colour'):
        list(in_order(Script(1, lambda task: Broken('no colour')), scenes(5)))
