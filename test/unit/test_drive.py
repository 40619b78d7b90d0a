"""Short drives through ringworld: repeatable, late by what is modelled, resumable, and the same again in a replay."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from multiprocessing import active_children
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from stprune_ros.cli import main
from stprune_ros.core.types import Behavior, Status
from stprune_ros.driving import runs
from stprune_ros.driving.drive import run_drive
from stprune_ros.driving.files import drive_as_json, hints_of
from stprune_ros.driving.guides import NoHints, RecordedHints, TrueHints
from stprune_ros.driving.latency import Latency, latency_of
from stprune_ros.driving.measures import measure
from stprune_ros.driving.page import MAX_WORLDS, worlds_to_show
from stprune_ros.driving.plan import ALL_TOKENS, NO_HINTS, TRUE_HINTS, DrivePlan, Source
from stprune_ros.driving.planner import CAUTION, Planner
from stprune_ros.driving.runs import Driver
from stprune_ros.folder_lock import locked
from stprune_ros.io.bag_reader import Bag
from stprune_ros.replay.results import HINT_TOPIC
from stprune_ros.resources import resource_path
from stprune_ros.ringworld.recording import START_NS
from stprune_ros.ringworld.world import STEP, SteppedWorld
from stprune_ros.settings.settings import Settings

SEED = 930_016  # a vehicle stands ahead, which is hit after 2.2 s by whoever drives on
SECONDS, HZ = 3.0, 2.0
PRUNED = Source('st_prune_joint', 0.1)
PLAN = DrivePlan(
    (*(Source(name) for name in (NO_HINTS, TRUE_HINTS, ALL_TOKENS)), PRUNED), (SEED,), 'ringworld', SECONDS, HZ
)


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of the command for two worlds and one ratio."""
    output = tmp_path_factory.mktemp('drive')
    said = StringIO()
    with redirect_stdout(said):
        assert main(command(output)) == 0
    assert said.getvalue().endswith(f'\n\npage     {output / "drive.html"}\n')
    return output


def command(output: Path, *more: str) -> list[str]:
    plan = ['--first-seed', str(SEED), '--scenes', '2', '--keep', '0.1', '--seconds', str(SECONDS), '--workers', '1']
    return ['drive', '--output', str(output), *plan, *more]


def driver(latency: Latency, folder: Path, plan: DrivePlan = PLAN) -> Driver:
    return Driver(plan, latency, Settings(), folder)


def read(output: Path, source: str, seed: int = SEED) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / 'drives' / source / f'{seed}.json').read_text())
    return found


def test_a_drive_repeats_bit_for_bit_and_follows_from_its_hints(run: Path, tmp_path: Path) -> None:
    plan = replace(PLAN, sources=(*PLAN.sources, Source('random', 0.1)))
    again = driver(latency_of('none', 1000.0), tmp_path, plan)
    for source in plan.sources:
        found, _ = again.drive(SEED, source)
        written = read(run, source.name.replace(' ', '_'))
        assert json.loads(json.dumps(drive_as_json(found))) == written
        guide = RecordedHints(hints_of(written), 1000.0)
        recorded = run_drive(plan.new_world(SEED), Planner(source.method != NO_HINTS), guide, HZ)
        assert (recorded.steps, recorded.events) == (found.steps, found.events)


def test_hints_matter(run: Path) -> None:
    """Without any the vehicle ahead is hit; true ones, and the model's, keep it from that."""
    measures = {source: read(run, source)['measures'] for source in ('no_hints', 'true_hints', 'all_tokens')}
    assert measures['no_hints']['vehicle_ahead'] == 1
    assert measures['true_hints']['collisions'] == measures['all_tokens']['collisions'] == 0
    assert measures['no_hints']['progress_m'] > measures['true_hints']['progress_m'] > 1.0
    assert measures['true_hints']['hints_right'] == 1.0


def test_the_bag_of_a_drive_replays_to_the_same_hints(run: Path, tmp_path: Path) -> None:
    assert (
        main(['replay', str(run / 'world'), '--params', str(run / 'replay.param.yaml'), '--output', str(tmp_path)]) == 0
    )
    with Bag(tmp_path / 'results.mcap') as bag:
        messages = [record.message() for record in bag.messages([HINT_TOPIC])]
    replayed = [
        (
            round((m.header.stamp.sec * 10**9 + m.header.stamp.nanosec - START_NS) / 1e9, 6),
            Behavior(m.behavior).name,
            round(m.confidence, 4),
        )
        for m in messages
    ]
    driven = [(one['t'], one['hint'], one['confidence']) for one in read(run, 'st_prune_joint_0.1')['hints']]
    assert len(driven) == SECONDS * HZ
    assert replayed == driven
    truth = json.loads((run / 'world' / 'truth.json').read_text())['ticks']
    assert [tick['behavior'] for tick in truth] == [t['truth'] for t in read(run, 'st_prune_joint_0.1')['ticks']]


def test_what_is_written_fits_together(run: Path) -> None:
    result = json.loads((run / 'drive.json').read_text())
    assert [row['name'] for row in result['sources']] == [
        'no hints', 'true hints', 'all tokens', 'st_prune_joint 0.1', 'random 0.1'
    ]  # fmt: skip
    assert len(result['rows']) == 2 * 5
    for row in result['sources']:
        mine = [one for one in result['rows'] if one['source'] == row['name']]
        mean = row['measures']['progress_m']['mean'][0]
        assert mean == pytest.approx(np.mean([one['progress_m'] for one in mine]), abs=1e-3)
    page = (run / 'drive.html').read_text()
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page, re.DOTALL)[0])
    assert sorted(data['drives']) == sorted(f'{s} {row["name"]}' for s in (SEED, SEED + 1) for row in result['sources'])
    shown = data['drives'][f'{SEED} no hints']
    assert len(shown['t']) == SECONDS / (5 * STEP) == len(shown['actors'])
    assert shown['events'] == read(run, 'no_hints')['events'] != []
    with Image.open(run / 'film.webp') as film:
        assert film.n_frames == SECONDS * HZ
        for frame in range(film.n_frames):
            film.seek(frame)
            film.load()
            assert film.info['duration'] == 1000 / HZ  # ms


def test_a_run_goes_on_where_it_ended_and_refuses_another_plan(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'copy'
    shutil.copytree(run, output)
    kept, lost = output / 'drives' / 'all_tokens' / f'{SEED}.json', output / 'drives' / 'random_0.1' / f'{SEED}.json'
    before, stamp = lost.read_text(), kept.stat().st_mtime_ns
    lost.unlink()
    assert main(command(output, '--resume', '--json')) == 0
    report = json.loads(capsys.readouterr().out)
    Draft202012Validator(json.loads(resource_path('config/schema/command.schema.json').read_text())).validate(report)
    assert [row['name'] for row in report['result']['drive']['sources']][-1] == 'random 0.1'
    assert all(Path(file).exists() for file in report['result']['files'])
    assert lost.read_text() == before
    assert kept.stat().st_mtime_ns == stamp
    assert (output / 'drive.json').read_text() == (run / 'drive.json').read_text()
    capsys.readouterr()
    assert main(command(output, '--resume', '--hz', '4')) == 1
    assert 'is of drives under another plan: name another --output' in capsys.readouterr().err
    assert main(command(output)) == 1  # nothing is driven over, and so no table mixes two plans
    assert 'holds drives of an earlier run: add --resume to go on with them' in capsys.readouterr().err
    plan = json.loads((output / 'plan.json').read_text())
    (output / 'plan.json').unlink()
    assert main(command(output, '--resume')) == 1
    assert 'is of drives under another plan' in capsys.readouterr().err
    (output / 'plan.json').write_text(json.dumps(plan))
    whole = json.loads(kept.read_text())
    for wrong in ({'seed': 7}, {'seconds': 1.0}, {'measures': {'collisions': 0}}, {'hints': [{'hint': 'FLY'}]}):
        kept.write_text(json.dumps({**whole, **wrong}))
        assert main(command(output, '--resume')) == 1
        assert f"'{kept}' is no drive that can be read" in capsys.readouterr().err
    kept.write_text('{}')
    assert main(command(output, '--resume')) == 1
    assert f"'{kept}' is no drive that can be read" in capsys.readouterr().err


@pytest.mark.parametrize('seconds', [0.01, 0.5, 1.01, 1.03, 1.06])
def test_a_drive_may_end_within_a_step(seconds: float) -> None:
    drive = run_drive(SteppedWorld(SEED, seconds), Planner(True), TrueHints(1000.0), 2.0)
    assert len(drive.steps) == math.ceil(seconds / STEP) and len(drive.ticks) == max(1, math.floor(2 * seconds))


@pytest.mark.parametrize('file', ['mine.txt', 'truth.json'])  # of `stprune world world`, say
def test_a_folder_of_somebody_else_stays(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'world').mkdir()
    (tmp_path / 'world' / file).write_text('x')
    assert main(command(tmp_path)) == 1
    assert f"'{tmp_path / 'world'}' is in the way of the bag of a drive" in capsys.readouterr().err
    assert (tmp_path / 'world' / file).read_text() == 'x'


@pytest.mark.parametrize('there', [True, False])
def test_a_bag_that_was_begun_is_in_nobodys_way(
    there: bool, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / 'copy'
    shutil.copytree(run, output)
    if not there:
        shutil.rmtree(output / 'world')

    def begun(out: Path, *_: object) -> None:
        out.mkdir(parents=True)
        (out / 'world.mcap').write_bytes(b'half')
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr('stprune_ros.driving.command.write_world', begun)
        assert main(command(output, '--resume')) == 130
    assert {path.name for path in output.iterdir()} == {path.name for path in run.iterdir()} - {'world'} | (
        {'world'} if there else set()
    )
    if there:
        assert (output / 'world' / 'world.mcap').read_bytes() == (run / 'world' / 'world.mcap').read_bytes()
    assert main(command(output, '--resume')) == 0, capsys.readouterr().err
    assert {path.name for path in output.iterdir()} == {path.name for path in run.iterdir()}
    assert (output / 'world' / 'truth.json').read_text() == (run / 'world' / 'truth.json').read_text()


def test_two_commands_do_not_drive_into_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path, tmp_path / '.lock', 'drive'):
        assert main(command(tmp_path)) == 1
    said = capsys.readouterr().err
    assert f"another drive is writing to '{tmp_path}': wait for its end, or name another --output" in said
    assert [*tmp_path.iterdir()] == []


def test_an_interrupted_run_says_where_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, '_run_all', stopped)
    assert main(command(tmp_path)) == 130
    said = capsys.readouterr().err
    assert 'interrupted before the first of 10 drives was finished: --resume begins again' in said
    assert [path.name for path in tmp_path.iterdir()] == ['plan.json']


def kill_one() -> None:
    os.kill(active_children()[0].pid or 0, signal.SIGKILL)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ('ending', 'code', 'sentence'),
    [
        (kill_one, 1, 'one of 2 processes that drive was ended from outside after'),
        (interrupt, 130, 'interrupted after'),
    ],
)
def test_what_was_driven_stays_when_a_process_is_ended(
    ending: Callable[[], None], code: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing hangs, no process is left, and the run goes on."""
    asked = ['drive', '--output', str(tmp_path), '--first-seed', str(SEED), '--scenes', '3', '--keep', '1']
    asked += ['--seconds', '2', '--workers', '2']
    drives = tmp_path / 'drives'

    def end_soon() -> None:
        while not [*drives.glob('*/*.json')]:
            time.sleep(0.01)
        ending()

    thread = Thread(target=end_soon, daemon=True)
    thread.start()
    assert main(asked) == code
    thread.join()
    done = {file: file.stat().st_mtime_ns for file in drives.glob('*/*.json')}
    said = capsys.readouterr().err
    assert f"{sentence} {len(done)} of 9 drives: they are in '{drives}', where --resume goes on" in said
    assert 0 < len(done) < 9
    soon = time.monotonic() + 60.0
    while active_children():
        assert time.monotonic() < soon, 'a process was left behind'
        time.sleep(0.05)
    if ending is interrupt:
        return
    assert main([*asked, '--resume']) == 0
    assert len([*drives.glob('*/*.json')]) == 9
    assert {file: file.stat().st_mtime_ns for file in done} == done


@pytest.mark.parametrize(
    ('more', 'sentence'),
    [
        (['--first-seed', str(2**31 - 1)], 'worlds 2147483647 to 2147483648 go beyond 2147483647, the highest seed'),
        (['--scenes', str(10**12)], f'worlds {SEED} to {SEED + 10**12 - 1} go beyond 2147483647'),
        (['--method', 'best'], "there is no pruning method 'best'"),
        (['--hz', '100'], 'a recording at 100 Hz cannot be made'),
        (['--seconds', '1000'], 'a ringworld of 1000 s cannot be made'),
        (
            ['--method', 'dart,st_prune_joint+even'],
            "stprune drive takes no switches, as in 'st_prune_joint+even': name --method 'st_prune_joint', and set"
            " 'pruning.even_share' in --params\n",
        ),
        (
            ['--seconds', '1e-9'],
            'a drive of 1e-09 s at 2 Hz is too short for 2 sets of images, so that a hint follows'
            ' another; choose --seconds 1 or more\n',
        ),
        (['--seconds', '0.999'], 'choose --seconds 1 or more'),
        (['--host', 'nosuch'], "--host 'nosuch' is neither a folder nor a bundled model; choose one of ringworld, "),
        (['--show', '5'], f'world 5 is not driven through, only {SEED} to {SEED + 1}: change --show'),
    ],
)
def test_what_cannot_be_driven_is_refused(
    more: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path / 'new', *more)) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / 'new').exists()


def test_a_slow_pipeline_takes_the_newest_images_and_its_hints_come_late(tmp_path: Path) -> None:
    """1.11 s to a hint: of the sets at 0.5 s the first is begun once odometry is trusted, then always the newest."""
    slow = driver(Latency('slow', 2000.0, hint_ms=1110.0), tmp_path)
    drive, _ = slow.drive(SEED, PRUNED)
    assert [(said.stamp_s, said.out_s) for said in drive.said] == [(0.0, 1.21), (1.0, 2.32)]
    first = next(step for step in drive.steps if step.behavior != Behavior.UNKNOWN)
    assert first.t == pytest.approx(1.25)
    assert {step.limit for step in drive.steps if step.t < 1.25} == {CAUTION}
    ended = [step for step in drive.steps if 2.0 <= step.t < 2.35]  # the first hint is over, the next not out
    assert {step.behavior for step in ended} == {Behavior.UNKNOWN}


def test_a_hint_that_comes_after_its_end_is_stale(tmp_path: Path) -> None:
    drive, _ = driver(Latency('slow', 1000.0, hint_ms=1110.0), tmp_path).drive(SEED, PRUNED)
    assert {said.status for said in drive.said} == {Status.STALE}
    assert {step.behavior for step in drive.steps} == {Behavior.UNKNOWN}
    assert measure(drive)['stale_share'] == 1.0
    assert measure(drive)['flips_per_min'] == 0.0


def test_true_hints_count_from_the_step_after_their_images() -> None:
    drive = run_drive(SteppedWorld(SEED, 2.0), Planner(), TrueHints(1000.0), HZ)
    truth = [tick.truth for tick in drive.ticks]
    assert [said.behavior for said in drive.said] == truth
    assert drive.steps[0].behavior == Behavior.UNKNOWN
    for step in drive.steps[1:]:
        assert step.behavior == truth[int((step.t - STEP / 2) * HZ)]


def test_nothing_is_rendered_for_whoever_looks_at_nothing() -> None:
    drive = run_drive(SteppedWorld(SEED, 2.0), Planner(heeds=False), NoHints(), HZ)
    assert (drive.ticks, drive.said) == ([], [])
    assert len(drive.steps) == 2.0 / STEP


def test_the_page_has_what_was_asked_for_and_the_worst_worlds() -> None:
    plan = replace(PLAN, seeds=tuple(range(40)))
    found = {
        (seed, source.name): {'measures': {'collisions': int(seed in (8, 39) and source == PRUNED)}}
        for seed in plan.seeds
        for source in plan.sources
    }
    shown = worlds_to_show(plan, found, [20])
    assert len(shown) == MAX_WORLDS
    assert {8, 20, 39} <= set(shown)
    assert shown == sorted(shown)
