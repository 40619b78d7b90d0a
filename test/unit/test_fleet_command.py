"""What `stprune fleet` refuses before anything runs: one sentence, exit code 1, nothing written."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.small_bags import drive, write_bag

from stprune_ros.cli import main
from stprune_ros.errors import StpruneError
from stprune_ros.fleet import cluster, command
from stprune_ros.fleet.cluster import Resources, require_ray, resources
from stprune_ros.fleet.command import FleetOptions, summary_text
from stprune_ros.fleet.index import DONE, Entry, content
from stprune_ros.fleet.plan import Drive, Run, Setting, find_drives, require_apart, settings_of
from stprune_ros.settings.settings import Settings


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return write_bag(tmp_path / 'bags' / 'one', drive(1))


@pytest.fixture
def _ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Ray were installed: what is refused is refused before it is imported."""
    monkeypatch.setattr('stprune_ros.fleet.cluster.require_ray', lambda: None)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(['fleet', *map(str, arguments)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_without_ray_the_extra_is_named(bag: Path, tmp_path: Path, monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *rest: None if name == 'ray' else real(name, *rest))
    expected = "a fleet needs ray: pip install '.[fleet]' (extra 'fleet')"
    if real('pyarrow') is None:
        expected = expected.replace('ray:', 'ray and pyarrow:')
    assert refusal(capsys, bag, '--output', tmp_path / 'out') == f'stprune: {expected}'
    assert not (tmp_path / 'out').exists()
    with pytest.raises(StpruneError, match='extra'):
        require_ray()
    assert main(['eval', '--output', str(tmp_path / 'found.json'), '--address', 'auto']) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.usefixtures('_ray')
@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['nowhere'], "'nowhere' names nothing that is there"),
        (['--sweep', 'pruning.keep=1'], "there is no parameter 'pruning.keep'"),
        (['--sweep', 'pruning.keep_ratio=7'], "'pruning.keep_ratio' is 7"),
        (['--sweep', 'latency.target_ms=0,200', '--window', '60'], "--window is 60, but with 'latency.target_ms' 200"),
        (['--sweep', 'model.path=/no/such/model'], '/no/such/model'),
    ],
)
def test_what_cannot_be_planned_is_refused(bag: Path, tmp_path: Path, capsys, arguments: list[str], words: str):
    assert words in refusal(capsys, bag, *arguments, '--output', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.usefixtures('_ray')
def test_results_of_something_else_are_not_touched(bag: Path, tmp_path: Path, capsys):
    output = tmp_path / 'out'
    output.mkdir()
    (output / 'thesis.txt').write_text('years of work')
    assert 'is not empty' in refusal(capsys, bag, '--output', output)
    assert 'is where the bag itself lies' in refusal(capsys, bag, '--output', bag)
    assert (output / 'thesis.txt').read_text() == 'years of work'
    assert [path.name for path in output.iterdir()] == ['thesis.txt']
    [name] = [path.name for path in bag.parent.iterdir()]
    assert name == 'one' and not list(bag.rglob('.fleet'))


@pytest.mark.usefixtures('_ray')
@pytest.mark.parametrize(
    ('given', 'output', 'where'),
    [
        ('bags', 'bags', 'bags'),
        ('bags', 'bags/out', 'bags'),
        ('bags', 'link/out', 'bags'),
        ('bags/*', 'bags', 'bags/one'),  # the folder for the bag's results would be the bag's own
        ('bags/one/one.mcap', 'bags/one', 'bags/one'),
        ('two', '.', 'two'),  # holds a bag of the same name
    ],
)
def test_results_do_not_go_among_bags(bag: Path, tmp_path: Path, capsys, given: str, output: str, where: str):
    (tmp_path / 'link').symlink_to(bag.parent)
    (tmp_path / 'two').mkdir()
    shutil.copytree(bag, tmp_path / 'two' / 'two')
    there = sorted(tmp_path.rglob('*'))
    found = refusal(capsys, tmp_path / given, '--output', tmp_path / output)
    assert found == (
        f"stprune: with --output '{tmp_path / output}' results would lie among the bags in '{tmp_path / where}': name a"
        ' folder outside of it'
    )
    assert sorted(tmp_path.rglob('*')) == there


def test_results_may_lie_beside_folders_of_bags(bag: Path, tmp_path: Path):
    output = bag.parent / 'out'
    for patterns in (['*'], ['one', 'out']):  # what a shell makes of it when the output is there
        output.mkdir(exist_ok=True)
        given = [str(bag.parent / pattern) for pattern in patterns]
        require_apart(output, given, find_drives(given[:1]))
    require_apart(tmp_path / 'out', [str(bag.parent)], find_drives([str(bag.parent)]))


@pytest.mark.usefixtures('_ray')
def test_what_is_asked_for_reaches_the_fleet(bag: Path, tmp_path: Path, monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(command, 'run', lambda *given: asked.extend(given) or 0)
    arguments = [
        '--address',
        'a:1',
        '--workers',
        '3',
        '--threads',
        '2',
        '--num-gpus',
        '0.5',
        '--per-task-memory',
        '2GiB',
    ]
    more = ['--window', '9', '--patience', '5', '--resume', '--sweep', 'history.frames=1,2']
    assert main(['fleet', str(bag), '--output', str(tmp_path / 'out'), *arguments, *more]) == 0
    drives, settings, options, _ = asked
    assert [one.name for one in drives] == ['one']
    assert [one.settings.history.frames for one in settings] == [1, 2]
    assert options == FleetOptions(tmp_path / 'out', True, 'a:1', 3, 2, 0.5, 2 * 2**30, 9.0, 5.0)


def test_a_fleet_in_a_few_lines():
    def entry(name: str, setting: Setting, hints: str) -> Entry:
        summary = {
            'ticks': len(hints),
            'tokens_kept': 5.0,
            'tokens_full': 50.0,
            'hint_ms': {'p50': 12.3, 'p95': 20.0, 'max': 30.0},
            'truth': {'known': 2, 'hits': 1, 'misses': 1},
            'errors': 1,
        }
        said = {(n, 0): hint for n, hint in enumerate(hints)}
        return Entry(Run(Drive(Path(name), name, 1), setting), DONE, deaths=1, summary=summary, said=said)

    settings = settings_of(Settings(), ['history.frames=1,2'])
    found = content([entry('a', settings[0], 'SS'), entry('a', settings[1], 'SN')], {'notes': ['a note']})
    assert summary_text(json.loads(json.dumps(found)), Path('out')).splitlines()[2:] == [
        '| history.frames=1 | 1/1 | 2 | 5.0 of 50.0 | 1 of 2 | n/a | 12 | 1 |',
        '| history.frames=2 | 1/1 | 2 | 5.0 of 50.0 | 1 of 2 | 1 of 2 | 12 | 1 |',
        'a note',
        'workers that died and were replaced: 2',
        'report  out/fleet.html',
    ]


def test_nothing_but_a_fleet_needs_ray():
    assert not hasattr(cluster, 'ray')


@pytest.mark.parametrize(
    ('workers', 'threads', 'gpus', 'memory', 'uses_gpu', 'expected'),
    [
        (None, 1, None, 0, False, Resources(8, 1, 0.0, 0)),
        (None, 3, None, 0, False, Resources(2, 3, 0.0, 0)),
        (None, 1, None, 0, True, Resources(2, 1, 1.0, 0)),
        (None, 1, 0.5, 0, True, Resources(4, 1, 0.5, 0)),
        (None, 1, None, 30, False, Resources(3, 1, 0.0, 30)),
        (5, 1, None, 30, True, Resources(5, 1, 1.0, 30)),
    ],
)
def test_as_many_workers_as_what_is_scarcest_holds(
    monkeypatch, workers: int | None, threads: int, gpus: float | None, memory: int, uses_gpu: bool, expected: Resources
):
    there = {'CPU': 8.0, 'GPU': 2.0, 'memory': 100.0}
    monkeypatch.setitem(sys.modules, 'ray', SimpleNamespace(cluster_resources=lambda: there))
    assert resources(workers, threads, gpus, memory, uses_gpu, False) == expected


def test_a_worker_that_fits_nowhere_is_refused_unless_the_cluster_grows(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', SimpleNamespace(cluster_resources=lambda: {'CPU': 2.0}))
    for workers, grows in ((None, True), (3, False)):
        with pytest.raises(StpruneError, match='a worker is to have 1 GPU, and the cluster has 0 in all: ask for less'):
            resources(workers, 1, 1.0, 0, True, grows)
    assert resources(3, 1, 1.0, 0, True, True) == Resources(3, 1, 1.0, 0)
