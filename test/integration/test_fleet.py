"""Fleets on a real local Ray: the results of plain replays, whatever dies or is interrupted on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

pytest.importorskip('ray', reason="Ray is not installed: pip install '.[fleet]'")
pytest.importorskip('pyarrow', reason="pyarrow is not installed: pip install '.[fleet]'")

from helpers.browser import FAINT, NAMELESS, OpenPage, chromium
from helpers.fleets import Command, cluster, descendants, messages_of, summary_of
from helpers.question_sets import grey_set, needs_packages, qa
from helpers.reports import report_in
from helpers.small_bags import drive, write_bag
from helpers.tiny_models import make_tiny_model
from pyarrow import parquet

from stprune_ros.cli import main
from stprune_ros.commands.evaluate import UNTOUCHED
from stprune_ros.evaluation.fidelity import EvaluationPlan, SceneEvaluator, evaluate_methods
from stprune_ros.evaluation.ringworld_cases import RingworldCases
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.replay.replay import replay
from stprune_ros.settings.parameter_file import load_settings
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

RATIOS = ('0.1', '0.3')
SETTINGS = [f'pruning.keep_ratio={ratio}' for ratio in RATIOS]
SWEEP = f'pruning.keep_ratio={",".join(RATIOS)}'
TICKS = {'long': 60, 'short': 8, 'middle': 20}


@pytest.fixture(scope='module')
def garage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three bags and a broken one, parameters for a tiny model, and plain replays of all that can be replayed."""
    folder = tmp_path_factory.mktemp('garage')
    model = make_tiny_model(folder / 'tiny', 'ringworld')
    (model / 'stprune.json').write_text(json.dumps({'trained': True}))
    values = {'model.path': str(model), 'history.stride_ms': 200.0, 'history.frames': 3, 'inference.max_new_tokens': 3}
    (folder / 'params.yaml').write_text(json.dumps({'/**': {'ros__parameters': values}}))
    for name, ticks in TICKS.items():
        write_bag(folder / 'bags' / name, drive(ticks))
    (folder / 'bags' / 'broken').mkdir()
    (folder / 'bags' / 'broken' / 'broken.mcap').write_bytes(b'no bag at all')
    base = load_settings(folder / 'params.yaml')
    backend, prompt = load_model(base)
    for name in TICKS:
        for ratio, setting in zip(RATIOS, SETTINGS):
            with Bag(folder / 'bags' / name) as bag:
                windows = BagWindows(bag, base.changed({'pruning.keep_ratio': float(ratio)}))
                replay(windows, backend, prompt, folder / 'plain' / name / setting)
    return folder


def fleet(garage: Path, output: Path, *more: str | Path, **environment: str) -> Command:
    given = ('--output', output, '--params', garage / 'params.yaml', '--sweep', SWEEP, '--workers', '2')
    return Command('fleet', garage / 'bags', *given, *more, **environment)


def results(output: Path) -> dict[str, dict[str, Any]]:
    """The runs of fleet.json by their bag and setting."""
    found = json.loads((output / 'fleet.json').read_text())
    return {f'{run["bag"]}/{run["setting"]}': run for bag in found['bags'] for run in bag['runs']}


def assert_like_plain(garage: Path, output: Path, names: list[str]) -> None:
    for name in names:
        for setting in SETTINGS:
            ours, plain = output / name / setting, garage / 'plain' / name / setting
            assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in plain.iterdir())
            assert summary_of(ours) == summary_of(plain)
            assert messages_of(ours) == messages_of(plain)


@pytest.fixture(scope='module')
def killed(garage: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[int, str, str]]:
    """A fleet with a long bag in parts, of which a worker is killed while it works."""
    output = tmp_path_factory.mktemp('killed')
    command = fleet(garage, output, '--window', '2')
    command.wait_until(lambda: list(output.glob('.fleet/parts/*/*/*/*.jsonl')), 'first part')
    os.kill(command.wait_until(command.busy_workers, 'busy worker')[0], signal.SIGKILL)
    return output, command.end()


def test_a_fleet_leaves_what_plain_replays_leave_although_a_worker_is_killed(garage: Path, killed):
    output, (code, out, errors) = killed
    assert code == 1, errors
    assert '(raylet)' not in out + errors
    assert_like_plain(garage, output, list(TICKS))
    found = results(output)
    assert {name: run['state'] for name, run in found.items() if run['state'] != 'done'} == {
        f'broken/{setting}': 'failed' for setting in SETTINGS
    }
    assert sum(run['deaths'] for run in found.values()) >= 1
    assert {run['parts'] for name, run in found.items() if name.startswith('long')} == {3}
    assert 'is not a readable bag' in found[f'broken/{SETTINGS[0]}']['sentence']
    assert "2 of 8 replays failed, first that of 'broken/" in errors
    assert not list(output.glob('.fleet/work/*')) and not list(output.glob('.fleet/parts/*'))


def test_rows_are_those_of_every_tick(garage: Path, killed):
    rows = parquet.read_table(killed[0] / 'fleet.parquet').to_pylist()
    counted = {(row['bag'], row['setting']) for row in rows}
    assert counted == {(name, setting) for name in TICKS for setting in SETTINGS}
    for name in TICKS:
        for setting in SETTINGS:
            own = [row for row in rows if (row['bag'], row['setting']) == (name, setting)]
            summary = summary_of(garage / 'plain' / name / setting)
            assert len(own) == summary['ticks'] == TICKS[name]
            assert {hint: [row['hint'] for row in own].count(hint) for hint in summary['hints']} == summary['hints']
            assert sum(row['tokens_kept'] for row in own) / len(own) == pytest.approx(summary['tokens_kept'], abs=0.01)
            assert [row['stamp_ns'] for row in own] == sorted(row['stamp_ns'] for row in own)
            assert all(dict(row['cameras']) == dict.fromkeys(summary['cameras'], 'OK') for row in own)


def test_flips_are_counted_against_the_first_setting(garage: Path, killed):
    found = results(killed[0])
    for name in TICKS:
        hints = []
        for setting in SETTINGS:
            table = parquet.read_table(killed[0] / 'fleet.parquet').to_pylist()
            hints.append({r['stamp_ns']: r['hint'] for r in table if (r['bag'], r['setting']) == (name, setting)})
        differing = sum(hints[0][stamp] != hints[1][stamp] for stamp in hints[0])
        assert found[f'{name}/{SETTINGS[0]}']['flips'] is None
        assert found[f'{name}/{SETTINGS[1]}']['flips'] == {'ticks': differing, 'common': TICKS[name]}


def test_the_page_opens_and_leads_to_the_reports(killed):
    output = killed[0]
    with chromium() as browser:
        for width in (1280, 390):
            opened = OpenPage(browser, output / 'fleet.html', width)
            page = opened.page
            assert opened.complaints == [] and page.evaluate(FAINT) == [] and page.evaluate(NAMELESS) == []
            content, window = opened.widths()
            assert content <= window
            assert opened.text('h1') == '4 bags, 2 settings'
            assert page.locator('section.bag').first.get_attribute('aria-label') == 'broken'
            links = page.eval_on_selector_all('section.bag a', 'all => all.map((one) => one.getAttribute("href"))')
            assert len(links) == 2 * len(TICKS) and all((output / unquote(link)).is_file() for link in links)
        page.click('section.bag a')
        assert page.title().endswith(f'/bags/{links[0].partition("/")[0]}')


def alive(pid: int) -> bool:
    """Whether a process runs, and is not only not yet waited for."""
    try:
        return Path('/proc', str(pid), 'stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


@pytest.fixture(scope='module')
def ray_cluster() -> Iterator[tuple[str, dict[str, str]]]:
    folder = tempfile.mkdtemp(prefix='stprune-', dir='/tmp')  # paths of sockets must be short
    try:
        with cluster(Path(folder)) as found:
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ray_folders(below: dict[int, str]) -> set[Path]:
    """The folders below /tmp in which processes of Ray work."""
    return {Path(found) for title in below.values() for found in re.findall(r'/tmp/stprune-[^/ ]+', title)}


def insist(command: Command) -> tuple[int, str, str]:
    """SIGTERM again and again until the command ends."""
    while command.process.poll() is None:
        command.process.terminate()
        time.sleep(0.05)
    return command.end()


def test_whoever_insists_while_ray_starts_leaves_nothing_behind(garage: Path, tmp_path: Path):
    command = fleet(garage, tmp_path / 'out')
    below = command.wait_until(lambda: ray_folders(descendants(command.process.pid)), 'process of Ray')
    code, _, errors = insist(command)
    assert code == 130 and errors.endswith('with --resume begins again\n'), errors
    assert len(below) == 1 and not any(folder.exists() for folder in below)


def test_an_interrupted_fleet_goes_on_where_it_was_on_a_cluster(garage: Path, ray_cluster, tmp_path: Path):
    output = tmp_path / 'out'
    command = fleet(garage, output)
    command.wait_until(lambda: list(output.glob('*/*/summary.json')), 'first result')
    below = descendants(command.process.pid)
    [private] = ray_folders(below)
    assert private.stat().st_mode & 0o777 == 0o700, 'what Ray keeps there is for nobody else'
    command.interrupt()
    code, _, errors = insist(command)
    assert not private.exists()
    assert code == 130 and 'the same command with --resume goes on' in errors, errors
    finished = {path: path.stat().st_mtime_ns for path in output.glob('*/*/summary.json')}
    found = results(output)
    assert 1 <= len(finished) == sum(run['state'] == 'done' for run in found.values()) < 6
    assert parquet.read_table(output / 'fleet.parquet').num_rows == sum(run['ticks'] for run in found.values())
    assert not list(output.glob('.fleet/work/*'))
    end = time.monotonic() + 30
    while any(Path('/proc', str(pid), 'cmdline').is_file() and alive(pid) for pid in below):
        assert time.monotonic() < end, 'processes of Ray are left'
        time.sleep(0.1)

    assert main(['fleet', str(garage / 'bags'), '--output', str(output)]) == 1  # without --resume nothing is touched
    address, environment = ray_cluster
    code, out, errors = fleet(garage, output, '--resume', '--address', address, '--json', **environment).end()
    assert code == 1 and '2 of 8 replays failed' in errors
    index = report_in(out, 'fleet')['result']['fleet']
    assert [index[key] for key in ('done', 'failed', 'missing', 'ticks')] == [6, 2, 0, 2 * sum(TICKS.values())]
    assert_like_plain(garage, output, list(TICKS))
    assert all(path.stat().st_mtime_ns == changed for path, changed in finished.items())


def test_an_evaluation_on_a_cluster_gives_the_answers_of_one_process(ray_cluster, tmp_path: Path):
    address, environment = ray_cluster
    given = ('--methods', 'uniform,random', '--keep', '0.1', '--scenes', '3', '--seeds', '2', '--workers', '2')
    for name in ('here', 'there'):
        (tmp_path / name).mkdir()
    there, here = tmp_path / 'there' / 'found.json', tmp_path / 'here' / 'found.json'
    code, _, errors = Command('eval', '--output', there, *given, '--address', address, **environment).end()
    assert code == 0, errors

    @contextmanager
    def one_by_one(source: Any, plan: Any, settings: Settings, scenes: Any) -> Iterator[Any]:
        yield map(SceneEvaluator(source, plan, settings).evaluate, scenes)

    plan, source = EvaluationPlan(('uniform', 'random'), (0.1,), 2), RingworldCases(3, UNTOUCHED)
    found = evaluate_methods(source, plan, Settings(), 1, here, evaluating=one_by_one)
    assert json.loads(there.read_text())['tables'] == [json.loads(json.dumps(found))]
    hits = [next((tmp_path / name).glob('*.hits.npz')).read_bytes() for name in ('here', 'there')]
    assert hits[0] == hits[1]


@needs_packages
def test_a_data_set_on_a_cluster_goes_on_after_sigkill_and_gives_the_answers_of_one_process(
    ray_cluster, tmp_path: Path
):
    address, environment = ray_cluster
    asked = [qa('Is it?', 'No.', 0), qa('what is there?', 'a car', 2)]
    data = grey_set(tmp_path / 'set', {f'f{n}': {'perception': asked} for n in range(30)})
    given = ('--dataset', 'drivelm', '--data', data, '--model', 'ringworld', '--methods', 'uniform,random')
    here, there = tmp_path / 'here', tmp_path / 'there'
    for folder in (here, there):
        folder.mkdir()
    assert main(['eval', *map(str, given), '--output', str(here / 'r.json')]) == 0
    remote = (*given, '--output', there / 'r.json', '--address', address, '--workers', '2')
    command, file = Command('eval', *remote, **environment), there / 'r.ringworld.drivelm.answers.jsonl'
    command.wait_until(lambda: file.exists() and file.read_bytes().count(b'\n') > 8, 'first answers')
    command.process.kill()
    assert command.end()[0] == -signal.SIGKILL
    before = file.read_bytes()
    whole = before[: before.rfind(b'\n') + 1]
    kept = whole.count(b'\n') - 1
    assert 8 <= kept < 240
    code, _, errors = Command('eval', *remote, '--resume', **environment).end()
    assert code == 0 and f'{240 - kept} answers were asked for, {kept} were in the file already' in errors, errors
    assert file.read_bytes().startswith(whole)
    assert sorted(file.read_bytes().splitlines()) == sorted((here / file.name).read_bytes().splitlines())
    others = {path.name for path in here.iterdir()} - {file.name}
    assert others == {path.name for path in there.iterdir()} - {file.name}
    assert all((here / name).read_bytes() == (there / name).read_bytes() for name in others)


@pytest.mark.parametrize('kind', ['nobody', 'silent'])
def test_an_address_that_does_not_answer_is_refused_within_ten_seconds(garage: Path, tmp_path: Path, kind: str):
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
        if kind == 'nobody':
            server.close()
        command = fleet(garage, tmp_path / 'out', '--address', f'127.0.0.1:{port}')
        command.wait_until(lambda: (tmp_path / 'out' / '.fleet' / 'lock').is_file(), 'lock')
        begun = time.monotonic()
        code, _, errors = command.end()
    assert code == 1
    assert f"no Ray cluster answers at '127.0.0.1:{port}'" in errors and errors.count('\n') <= 2
    assert time.monotonic() - begun < 20
    assert not (tmp_path / 'out').exists()
