"""The bundled model on llama.cpp through the commands that users call: its hints, a latency target, its memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.engines import needs_llama
from helpers.question_sets import make_nuinstruct, needs_packages
from helpers.reports import report_in

from stprune_ros import cli
from stprune_ros.commands.world import DEMO_SEED
from stprune_ros.demo import read_hints
from stprune_ros.evaluation.hits import Hits
from stprune_ros.ringworld.recording import record_world

pytestmark = needs_llama


@pytest.fixture(scope='module')
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('gguf') / 'ringworld.gguf'
    command = [sys.executable, '-m', 'stprune_ros.cli', 'export-gguf', '--output', str(path), '--json']
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert report_in(done.stdout, 'export-gguf')['result']['files'] == [str(path)]
    return path


@pytest.fixture(scope='module')
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('world') / 'world'
    record_world(path, DEMO_SEED, 3.0, 5.0)
    return path


def params(path: Path, gguf: Path, **values: Any) -> str:
    groups: dict[str, dict[str, Any]] = {'model': {'engine': 'llama.cpp', 'gguf': str(gguf)}}
    for name, value in values.items():
        group, _, leaf = name.partition('__')
        groups.setdefault(group, {})[leaf] = value
    path.write_text(yaml.safe_dump({'/**': {'ros__parameters': groups}}))
    return str(path)


def replayed(world: Path, output: Path, *options: str) -> dict[str, Any]:
    assert cli.main(['replay', str(world), '--output', str(output), *options]) == 0
    found: dict[str, Any] = json.loads((output / 'summary.json').read_text())
    return found


def test_hints_of_the_exported_model_on_llama_cpp_are_those_of_the_folder(
    world: Path, gguf: Path, tmp_path: Path
) -> None:
    replayed(world, tmp_path / 'a')
    summary = replayed(world, tmp_path / 'b', '--params', params(tmp_path / 'p.yaml', gguf))
    one, other = (dict(read_hints(tmp_path / name / 'results.mcap')) for name in ('a', 'b'))
    assert one == other
    assert len(one) >= 14
    assert summary['model_trained'] is True
    assert not summary['errors']


def test_the_governor_holds_a_target_with_llama_cpp(world: Path, gguf: Path, tmp_path: Path) -> None:
    """Towards both ends of its range, whatever the speed of the machine."""
    kept = {}
    for target, valid in ((0.01, 1000.0), (60000.0, 60000.0)):
        values = {'latency__target_ms': target, 'latency__keep_min': 0.05, 'latency__keep_max': 0.5}
        values['output__valid_for_ms'] = valid
        file = params(tmp_path / 'p.yaml', gguf, inference__describe=False, **values)
        summary = replayed(world, tmp_path / str(target), '--params', file)
        kept[target] = summary['latency']['keep_ratio']
        assert not summary['errors']
    assert kept[0.01]['min'] == 0.05
    assert kept[0.01]['max'] == 0.1 == kept[60000.0]['min'], 'where both begin'
    assert 0.3 < kept[60000.0]['max'] <= 0.5, 'it rises step by step'


def test_check_counts_the_memory_of_llama_cpp(gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['check', params(tmp_path / 'p.yaml', gguf), '--model']) == 0
    said = capsys.readouterr().out
    size = 2 * 8192 * 4 * 4 * 32 * 4 / 2**20  # keys and values: tokens, layers, heads, numbers of a head, bytes
    assert f'{size:.2f} MiB' in said
    assert 'tokens of 8192' in said
    assert 'float32, F16' in said
    small = params(tmp_path / 'p.yaml', gguf, model__context_tokens=512)
    assert cli.main(['check', small, '--model']) == 1
    assert 'a prompt has up to' in capsys.readouterr().err


def test_check_names_what_is_wrong_with_a_gguf_for_llama_cpp(
    gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / 'other.gguf'
    other.write_bytes(gguf.read_bytes()[:-100])
    assert cli.main(['check', params(tmp_path / 'p.yaml', other), '--model']) == 1
    assert 'is cut short: it has' in capsys.readouterr().err
    file = params(tmp_path / 'p.yaml', gguf, model__engine='llama.cpp', model__gguf='')
    assert cli.main(['check', file, '--model']) == 1
    assert capsys.readouterr().err.count("'model.gguf' names no file") == 1


def test_an_evaluation_on_llama_cpp_finds_what_the_folder_answers(gguf: Path, tmp_path: Path) -> None:
    plan = ('--methods', 'mtp', '--keep', '0.1', '--scenes', '1', '--workers', '1', '--first-seed', '1021000')
    params(tmp_path / 'p.yaml', gguf)
    found = {}
    for name, options in (('a', ()), ('b', ('--params', str(tmp_path / 'p.yaml')))):
        assert cli.main(['eval', '--output', str(tmp_path / f'{name}.json'), *plan, *options]) == 0
        [file] = tmp_path.glob(f'{name}.*.hits.npz')
        found[name] = Hits.load(file).results
    assert found['a'] == found['b']
    [results] = found['a'].values()
    assert any(False in answered for result in results for answered in result.correct.values()), 'not all are right'


@needs_packages
def test_a_data_set_on_llama_cpp_gets_the_answers_of_the_folder(gguf: Path, tmp_path: Path) -> None:
    make_nuinstruct(tmp_path / 'set')
    params(tmp_path / 'p.yaml', gguf, model__engine='transformers', model__gguf='')
    params(tmp_path / 'q.yaml', gguf)
    plan = ('--dataset', 'nuinstruct', '--data', str(tmp_path / 'set'), '--method', 'mtp', '--limit', '3')
    found = {}
    for name, options in (('p', ()), ('q', ('--engine', 'llama.cpp'))):
        file = ('--params', str(tmp_path / f'{name}.yaml'), '--output', str(tmp_path / f'{name}.json'))
        assert cli.main(['eval', *plan, *file, *options]) == 0
        [path] = tmp_path.glob(f'{name}.*.answers.jsonl')
        rows = [json.loads(line) for line in path.read_text().splitlines()[1:]]
        found[name] = {(row['id'], row['method']): row['text'] for row in rows}
    assert found['p'] == found['q']
    assert len(found['p']) == 9 and len(set(found['p'].values())) > 2


@pytest.mark.slow
def test_a_calibration_on_llama_cpp_is_for_its_weights(world: Path, gguf: Path, tmp_path: Path) -> None:
    drives = {'fit': cli.DEMO_SEED, 'held_out': 77}  # both slow down before they stop
    for name, seed in drives.items():
        record_world(tmp_path / name, seed, 6.0, 5.0)
    file, output = params(tmp_path / 'p.yaml', gguf), tmp_path / 'calibration.yaml'
    bags = (str(tmp_path / 'fit'), '--held-out', str(tmp_path / 'held_out'), '--content-free')
    assert cli.main(['calibrate', *bags, '--params', file, '--output', str(output)]) == 0
    calibrated = params(tmp_path / 'q.yaml', gguf, prompt__calibration=str(output))
    assert cli.main(['check', calibrated, '--model']) == 0
    summary = replayed(world, tmp_path / 'out', '--params', calibrated)
    assert not summary['errors']
    # The same folder without the GGUF file has other weights.
    (tmp_path / 'r.yaml').write_text(f'/**: {{ros__parameters: {{prompt: {{calibration: {output}}}}}}}')
    assert cli.main(['check', str(tmp_path / 'r.yaml'), '--model']) == 1
