"""Fleets from plan to index with workers of this process: what happens where something goes wrong on the way."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('pyarrow', reason="pyarrow is not installed: pip install '.[fleet]'")

from helpers.fleets import STUCK, Script, messages_of
from helpers.small_bags import PERIOD_NS, START_NS, Item, drive, jpeg, write_bag
from helpers.tiny_models import make_tiny_model
from pyarrow import parquet

from stprune_ros.cli import main
from stprune_ros.errors import StpruneError
from stprune_ros.fleet import command
from stprune_ros.fleet.cluster import Resources
from stprune_ros.fleet.ledger import Ledger
from stprune_ros.fleet.tasks import Died, JoinParts, Outcome, Task
from stprune_ros.fleet.worker import Worker

Act = Callable[[Task], Outcome | Died | None]
SETTING = 'pruning.keep_ratio=0.1'


@pytest.fixture(scope='module')
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('params')
    model = make_tiny_model(folder / 'tiny', 'ringworld')
    values = {'model.path': str(model), 'history.frames': 2, 'inference.max_new_tokens': 2}
    (folder / 'params.yaml').write_text(json.dumps({'/**': {'ros__parameters': values}}))
    return folder / 'params.yaml'


@pytest.fixture(scope='module')
def worker() -> Worker:
    return Worker('.', 1)


def unreadable(item: Item) -> Item:
    """Pictures that end after a few bytes."""
    is_picture = item.topic.endswith('compressed')
    return Item(item.topic, item.stamp_ns, jpeg(item.stamp_ns, cut=40)) if is_picture else item


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    """Two bags, and one in which nothing can be inferred: its pictures cannot be read."""
    for name in ('a', 'c'):
        write_bag(tmp_path / 'bags' / name, drive(3))
    write_bag(tmp_path / 'bags' / 'b', drive(3, unreadable))
    return tmp_path / 'bags'


@pytest.fixture
def fleet(bags: Path, params: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs `stprune fleet` on the bags, with one worker of this process; ``first`` may do a task in its place."""

    @contextmanager
    def nowhere(*_: object) -> Iterator[str]:
        yield ''

    def run(output: Path, *more: str, first: Act = lambda task: None) -> tuple[int, list[str]]:
        workers = Script(1, lambda task: first(task) or worker.do(task, lambda pace: None))
        monkeypatch.setattr('stprune_ros.fleet.cluster.require_ray', lambda: None)
        monkeypatch.setattr(command, 'require_ray', lambda: None)
        monkeypatch.setattr(command, 'connected', nowhere)
        monkeypatch.setattr(command, 'resources', lambda *_: Resources(1))
        monkeypatch.setattr(command, 'Pool', lambda given: workers)
        given = ('--output', str(output), '--params', str(params), '--sweep', SETTING)
        code = main(['fleet', str(bags), *given, *more])
        return code, [task.run.drive.name for task in workers.given]  # type: ignore[union-attr]

    return run


def index(output: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((output / 'fleet.json').read_text())
    return {run['bag']: run for bag in found['bags'] for run in bag['runs']}


def states(output: Path) -> dict[str, str]:
    return {name: run['state'] for name, run in sorted(index(output).items())}


def test_a_bag_that_failed_is_tried_again_and_counts_once_it_is_repaired(fleet, bags: Path, tmp_path: Path, capsys):
    output = tmp_path / 'out'
    code, ran = fleet(output)
    assert code == 1 and sorted(ran) == ['a', 'b', 'c']
    assert states(output) == {'a': 'done', 'b': 'failed', 'c': 'done'}
    assert (output / 'b' / SETTING / 'report.html').is_file(), 'what came of it can be looked at'
    kept = (output / 'a' / SETTING / 'summary.json').stat()

    assert fleet(output, '--resume') == (1, ['b'])
    assert states(output)['b'] == 'failed' and 'nothing could be inferred' in index(output)['b']['sentence']

    shutil.rmtree(bags / 'b')
    write_bag(bags / 'b', drive(4))
    assert fleet(output, '--resume') == (0, ['b'])
    assert states(output) == {'a': 'done', 'b': 'done', 'c': 'done'}
    assert json.loads((output / 'b' / SETTING / 'summary.json').read_text())['ticks'] == 4
    assert parquet.read_table(output / 'fleet.parquet').num_rows == 3 + 4 + 3
    assert (output / 'a' / SETTING / 'summary.json').stat() == kept
    assert sorted(path.name for path in (output / '.fleet').iterdir()) == ['inputs', 'rows']

    shutil.rmtree(bags / 'b')
    write_bag(bags / 'b', drive(5))
    capsys.readouterr()
    assert fleet(output, '--resume') == (1, [])
    assert f"'{output / 'b' / SETTING}' holds the results of another run: there bag_id is" in capsys.readouterr().err


def test_a_bag_that_failed_under_other_parameters_is_refused(fleet, tmp_path: Path, capsys):
    output = tmp_path / 'out'
    fleet(output)
    file = output / 'b' / SETTING / 'summary.json'
    summary = json.loads(file.read_text())
    summary['parameters']['history.frames'] = 7
    file.write_text(json.dumps(summary))
    capsys.readouterr()
    assert fleet(output, '--resume') == (1, [])
    assert "there 'history.frames' is 7, here it is 2" in capsys.readouterr().err
    file.write_text('{}')
    assert fleet(output, '--resume') == (1, [])
    assert 'holds the results of another run: there ' in capsys.readouterr().err


def test_results_of_a_replay_that_failed_stay_until_there_are_others(fleet, tmp_path: Path):
    output = tmp_path / 'out'
    fleet(output)

    def interrupted(task: Task) -> Outcome:
        raise KeyboardInterrupt

    assert fleet(output, '--resume', first=interrupted) == (130, ['b'])
    assert states(output) == {'a': 'done', 'b': 'missing', 'c': 'done'}
    assert (output / 'b' / SETTING / 'report.html').is_file()
    assert fleet(output, '--resume') == (1, ['b'])


@pytest.mark.parametrize('when', ['place', 'publish'])
def test_a_full_disk_leaves_an_index_of_what_was_done(fleet, tmp_path: Path, capsys, monkeypatch, when: str):
    """Where a worker would write there is no room: nothing more can be done. Where one result is moved to: the rest."""
    output, real = tmp_path / 'out', Ledger.new_place if when == 'place' else Ledger.publish
    calls: list[object] = []

    def full(self: Ledger, *given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, 'No space left on device', str(output / 'x'))
        return real(self, *given)

    monkeypatch.setattr(Ledger, 'new_place' if when == 'place' else 'publish', full)
    code, ran = fleet(output)
    last = capsys.readouterr().err.splitlines()[-1]
    sentence = f"'{output / 'x'}': No space left on device"
    found = index(output)
    done = [name for name in ran if found[name]['state'] == 'done']
    assert code == 1
    if when == 'place':
        assert len(ran) == 1 and last == f'stprune: {sentence}'
        assert sorted(states(output).values()) == ['done', 'missing', 'missing']
    else:
        assert len(ran) == 3 and found[ran[1]]['sentence'] == sentence and not (output / ran[1]).exists()
    assert parquet.read_table(output / 'fleet.parquet').num_rows == sum(found[name]['ticks'] for name in ran)
    assert done and not (output / '.fleet' / 'work').exists() and not (output / '.fleet' / 'lock').exists()


def test_a_full_disk_at_once_leaves_nothing(fleet, tmp_path: Path, capsys, monkeypatch):
    def full(self: Ledger) -> Path:
        raise OSError(errno.ENOSPC, 'No space left on device', 'x')

    monkeypatch.setattr(Ledger, 'new_place', full)
    assert fleet(tmp_path / 'new' / 'out') == (1, [])
    assert capsys.readouterr().err.splitlines()[-1] == "stprune: 'x': No space left on device"
    assert not (tmp_path / 'new').exists()


def test_an_interruption_before_the_first_result_says_so(fleet, tmp_path: Path, capsys):
    def interrupted(task: Task) -> Outcome:
        assert signal.getsignal(signal.SIGTERM) is not signal.default_int_handler, 'which would raise again and again'
        raise KeyboardInterrupt

    assert fleet(tmp_path / 'out', first=interrupted)[0] == 130
    expected = (
        'stprune: interrupted before the first of 3 replays was finished: the same command with --resume begins again'
    )
    assert capsys.readouterr().err.splitlines()[-1] == expected
    assert set(states(tmp_path / 'out').values()) == {'missing'}
    seen: list[Task] = []

    def later(task: Task) -> Outcome | None:
        seen.append(task)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return None

    shutil.rmtree(tmp_path / 'bags' / 'b')
    assert fleet(tmp_path / 'out', '--resume', first=later)[0] == 130
    page = tmp_path / 'out' / 'fleet.html'
    expected = (
        f"stprune: interrupted after 1 of 2 replays: they are in '{page}', and the same command with --resume goes on"
    )
    assert capsys.readouterr().err.splitlines()[-1] == expected


def test_a_bag_that_grows_while_it_is_replayed_is_a_sentence(fleet, bags: Path, tmp_path: Path, capsys):
    def growing(task: Task) -> None:
        if task.run.drive.name == 'c':  # type: ignore[union-attr]
            shutil.rmtree(bags / 'c')
            write_bag(bags / 'c', drive(4))

    shutil.rmtree(bags / 'b')
    assert fleet(tmp_path / 'out', first=growing)[0] == 1
    assert states(tmp_path / 'out') == {'a': 'done', 'c': 'failed'}
    sentence = "'c.mcap' changed meanwhile: once nobody writes to it, --resume replays it"
    assert index(tmp_path / 'out')['c']['sentence'] == sentence and not (tmp_path / 'out' / 'c').exists()
    assert parquet.read_table(tmp_path / 'out' / 'fleet.parquet')['bag'].to_pylist() == ['a'] * 3
    assert fleet(tmp_path / 'out', '--resume') == (0, ['c'])
    assert index(tmp_path / 'out')['c']['ticks'] == 4


def test_parts_of_a_bag_that_has_changed_since_are_not_put_together(fleet, bags: Path, tmp_path: Path):
    """Its topics, counts and first image are those that it had: only the pictures behind are other ones."""

    def others(item: Item) -> Item:
        is_later = item.topic.endswith('compressed') and item.stamp_ns > START_NS + PERIOD_NS
        return Item(item.topic, item.stamp_ns, jpeg(item.stamp_ns, seed=99)) if is_later else item

    def interrupted(task: Task) -> None:
        if isinstance(task, JoinParts):
            raise KeyboardInterrupt

    for name in ('a', 'b'):
        shutil.rmtree(bags / name)
    shutil.rmtree(bags / 'c')
    write_bag(bags / 'c', drive(12))
    assert fleet(tmp_path / 'out', '--window', '0.4', first=interrupted)[0] == 130
    assert len(list((tmp_path / 'out' / '.fleet' / 'parts').rglob('*.jsonl'))) == 3
    shutil.rmtree(bags / 'c')
    write_bag(bags / 'c', drive(12, others))
    assert fleet(tmp_path / 'out', '--window', '0.4', '--resume') == (0, ['c'] * 5)
    assert not list((tmp_path / 'out' / '.fleet' / 'parts').rglob('*.jsonl')), 'parts of the replaced bag are left'
    assert fleet(tmp_path / 'plain')[0] == 0
    assert messages_of(tmp_path / 'out' / 'c' / SETTING) == messages_of(tmp_path / 'plain' / 'c' / SETTING)


def test_patience_reaches_the_workers(fleet, tmp_path: Path):
    code, ran = fleet(tmp_path / 'out', '--patience', '0.2', first=lambda task: STUCK)
    assert code == 1 and len(ran) == 9
    assert all('nothing came of it for 0.2 s' in run['sentence'] for run in index(tmp_path / 'out').values())


def test_files_of_a_bag_may_have_any_names(fleet, bags: Path, tmp_path: Path):
    shutil.rmtree(bags / 'b')
    shutil.rmtree(bags / 'c')
    (bags / 'a' / 'a.mcap').rename(bags / 'a' / os.fsdecode(b'caf\xe9.mcap'))
    (bags / 'a' / 'metadata.yaml').unlink()
    assert fleet(tmp_path / 'out') == (0, ['a'])
    assert fleet(tmp_path / 'out', '--resume') == (0, [])


@pytest.mark.parametrize('there', [False, True])
def test_a_refusal_leaves_no_trace(fleet, tmp_path: Path, monkeypatch, there: bool):
    def refused(*_: object) -> None:
        raise StpruneError('no Ray')

    output = tmp_path / 'new' / 'out'
    if there:
        output.mkdir(parents=True)
    monkeypatch.setattr(Ledger, 'take_over', refused)
    assert fleet(output) == (1, [])
    assert output.exists() == there and (tmp_path / 'new').exists() == there
    assert not there or not list(output.iterdir())
