"""Data sets that are asked by workers of a fleet: the files of one process, byte by byte."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
from helpers.fleets import Script
from helpers.question_runs import tiny_params
from helpers.question_sets import GREY, grey_set, make_drivelm, make_nuinstruct, needs_packages, picture_name, qa

from stprune_ros import cli
from stprune_ros.evaluation.asked_model import AskedModel
from stprune_ros.evaluation.datasets.asking import instructed
from stprune_ros.evaluation.datasets.files import Faults
from stprune_ros.fleet import moments
from stprune_ros.fleet.tasks import Answered, AskMoment, Died, Outcome, Task
from stprune_ros.fleet.worker import Worker
from stprune_ros.settings.settings import Settings

pytestmark = needs_packages
ADDRESS = ('--address', 'nowhere:1')


@pytest.fixture(scope='module')
def worker() -> Worker:
    return Worker('.', 1)


@pytest.fixture
def cluster(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Task], Any]], Script]:
    """Has two workers of this process do what would go to a cluster; ``first`` may do a task in their place."""

    def install(first: Callable[[Task], Outcome | Died | None]) -> Script:
        workers = Script(2, lambda task: first(task) or worker.do(task, lambda pace: None))

        @contextmanager
        def pool(address: str, count: int | None, settings: Settings) -> Iterator[Script]:
            assert (address, count, settings.model.path != '') == ('nowhere:1', 2, True)
            yield workers

        monkeypatch.setattr(moments, 'pool_on_ray', pool)
        monkeypatch.setattr('stprune_ros.fleet.cluster.require_ray', lambda: None)
        return workers

    return install


def evaluate(output: Path, name: str, data: Path, *options: str) -> int:
    output.mkdir(exist_ok=True)
    given = ('--data', str(data), '--output', str(output / 'r.json'), '--keep', '0.1,0.5')
    return cli.main(['eval', '--dataset', name, *given, *options])


def files_of(folder: Path) -> dict[str, bytes | list[bytes]]:
    """The bytes of each file; lines of answers sorted, for they stand in the order in which moments were done."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {name: sorted(data.splitlines()) if name.endswith('.jsonl') else data for name, data in found.items()}


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What stands on stderr, but for what is said because a machine is slow."""
    return [line for line in capsys.readouterr().err.splitlines() if not line.endswith(' so far')]


def spoil(folder: Path) -> None:
    """A current picture of the first moment and an earlier one of the second cannot be used."""
    for number, instant in ((0, 3), (1, 2)):
        name = picture_name(number, instant, 'CAM_BACK')
        (folder / 'nuscenes' / 'samples' / 'CAM_BACK' / name).write_bytes(cv2.imencode('.png', GREY)[1].tobytes()[:40])


@pytest.mark.parametrize('form', ['drivelm', 'nuinstruct'])
def test_workers_give_the_files_of_one_process(tmp_path: Path, cluster, capsys, form: str):
    if form == 'drivelm':
        data = make_drivelm(tmp_path / 'set')
        spoil(tmp_path / 'set')
    else:
        data = make_nuinstruct(tmp_path / 'set')
    options = ('--model', 'ringworld', '--method', 'uniform,random', '--seeds', '2')
    workers = cluster(lambda task: None)
    assert evaluate(tmp_path / 'here', form, data, *options) == 0
    told = said(capsys)
    assert evaluate(tmp_path / 'there', form, data, *options, *ADDRESS, '--workers', '2') == 0
    assert files_of(tmp_path / 'there') == files_of(tmp_path / 'here')
    assert said(capsys) == told
    assert len(workers.given) == 2
    if form == 'drivelm':
        assert 'questions left out, a picture cannot be used: 8; the first is' in ''.join(told)
        assert 'earlier pictures left out: 1; the first is' in ''.join(told)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_params(tmp_path_factory.mktemp('params'))


def questions(count: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Frames of a question with options, one that nobody takes, and two texts."""
    asked = [qa('Is it?', 'No.', 0), qa('what is <|image_pad|> there?', 'a car', 2), qa('what?', 'that', 2)]
    return {f'f{n}': {'perception': [*asked, qa(f'what at {n}?', 'this', 2)]} for n in range(count)}


def test_what_the_file_has_is_not_asked_again(tmp_path: Path, cluster, capsys, tiny: Path):
    """A worker dies, then the command is interrupted: what was said until then is in the file, and stays."""
    data = grey_set(tmp_path / 'set', questions(6))
    options = ('--params', str(tiny), '--method', 'uniform', '--keep', '0.1')
    assert evaluate(tmp_path / 'here', 'drivelm', data, *options) == 0
    seen: list[Task] = []

    def killed(task: Task) -> Outcome | Died | None:
        seen.append(task)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return Died('killed') if len(seen) == 2 else None

    cluster(killed)
    remote, file = (*options, *ADDRESS, '--workers', '2'), tmp_path / 'there' / 'r.tiny.drivelm.answers.jsonl'
    capsys.readouterr()
    assert evaluate(tmp_path / 'there', 'drivelm', data, *remote) == 130
    part = file.read_bytes()
    assert f"interrupted after 27 answers: they are in '{file}'" in capsys.readouterr().err, 'of three moments'
    workers = cluster(lambda task: None)
    assert evaluate(tmp_path / 'there', 'drivelm', data, *remote, '--resume') == 0
    assert '27 answers were asked for, 27 were in the file already' in capsys.readouterr().err
    assert file.read_bytes().startswith(part) and part.count(b'\n') == 1 + 27
    asked = [task.asked for task in workers.given if isinstance(task, AskMoment)]
    assert sorted(one.count for one in asked) == [3] * 3 + [12] * 3, 'one question of each nobody takes'
    assert files_of(tmp_path / 'there') == files_of(tmp_path / 'here')


def test_before_the_first_answer_none_is_said_to_be_there(tmp_path: Path, cluster, capsys, tiny: Path):
    data = grey_set(tmp_path / 'set', questions(2))

    def interrupted(task: Task) -> Outcome:
        assert signal.getsignal(signal.SIGTERM) is not signal.default_int_handler, 'which would raise again and again'
        raise KeyboardInterrupt

    cluster(interrupted)
    options = ('--params', str(tiny), '--method', 'uniform', *ADDRESS, '--workers', '2')
    assert evaluate(tmp_path / 'out', 'drivelm', data, *options) == 130
    assert capsys.readouterr().err.endswith('stprune: interrupted before the first answer was given\n')


def test_a_moment_knows_of_no_other(tmp_path: Path, cluster, tiny: Path):
    data = grey_set(tmp_path / 'set', questions(3))
    workers = cluster(lambda task: None)
    options = ('--params', str(tiny), '--method', 'uniform', *ADDRESS, '--workers', '2')
    assert evaluate(tmp_path / 'out', 'drivelm', data, *options) == 0
    for task in workers.given:
        assert isinstance(task, AskMoment)
        assert task.dataset.moments == task.dataset.left_out == ()
        assert not task.dataset.faults.sentences


@pytest.mark.parametrize('place', range(5))
def test_answers_of_another_model_are_refused(tmp_path: Path, cluster, worker: Worker, capsys, tiny: Path, place: int):
    data = grey_set(tmp_path / 'set', questions(1))

    def elsewhere(task: Task) -> Outcome:
        assert isinstance(task, AskMoment)
        other = AskedModel(*('other' if n == place else value for n, value in enumerate(task.model)))
        return worker.do(replace(task, model=other), lambda pace: None)

    cluster(elsewhere)
    options = ('--params', str(tiny), '--method', 'uniform', *ADDRESS, '--workers', '2')
    assert evaluate(tmp_path / 'out', 'drivelm', data, *options) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("stprune: the moment of question 's_f0_0' cannot be evaluated: a worker has ")
    assert f'a worker has {AskedModel._fields[place]} ' in told and "and this command 'other': use one model" in told


def test_workers_are_for_a_cluster(tmp_path: Path, capsys):
    assert cli.main(['eval', '--dataset', 'drivelm', '--data', str(tmp_path), '--workers', '2']) == 1
    expected = 'stprune: --workers 2 needs --address: without a Ray cluster one process asks a set\n'
    assert capsys.readouterr().err == expected


def test_a_worker_says_what_the_set_says_of_its_notation(tmp_path: Path, cluster, worker: Worker, tiny: Path):
    """Without the instructions of the set the answers would be others."""
    data = grey_set(tmp_path / 'set', questions(1))
    tasks: list[AskMoment] = []
    cluster(tasks.append)
    options = ('--params', str(tiny), '--method', 'uniform', *ADDRESS, '--workers', '2')
    assert evaluate(tmp_path / 'out', 'drivelm', data, *options) == 0
    backend, prompt = worker._model(tasks[0].settings)
    assert tasks[0].dataset.instructions in instructed(prompt, tasks[0].dataset, backend.info).system != prompt.system
    found = worker.do(replace(tasks[0], dataset=replace(tasks[0].dataset, instructions='', faults=Faults())), print)
    again = worker.do(replace(tasks[0], dataset=replace(tasks[0].dataset, faults=Faults())), print)
    assert isinstance(found, Answered) and isinstance(again, Answered) and found.said != again.said
