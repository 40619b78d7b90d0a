"""What commands show on a terminal and to programs: versions, JSON, completion, progress, and what Ctrl-C leaves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from helpers.answers import make_answer
from helpers.reports import SCHEMA, report_in
from helpers.small_bags import drive, write_bag
from helpers.terminal import Terminal
from helpers.tiny_models import make_tiny_model

from stprune_ros.bench import selection
from stprune_ros.cli import COMMANDS, main, parser
from stprune_ros.core.types import Behavior, CameraState, Status, ViewReport
from stprune_ros.evaluation.hits import Hits
from stprune_ros.replay.command import answer_text
from stprune_ros.resources import resource_path, version
from stprune_ros.results import as_json
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import loading_text

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parameters with a tiny model that says two words and passes for a trained one: its hints count."""
    folder = tmp_path_factory.mktemp('params')
    model = make_tiny_model(folder / 'tiny', 'ringworld')
    (model / 'stprune.json').write_text(json.dumps({'trained': True}))
    path = folder / 'params.yaml'
    values = {'model.path': str(model), 'model.device': 'cpu', 'inference.max_new_tokens': 2}
    path.write_text(json.dumps({'/**': {'ros__parameters': values}}))
    return path


def report_of(capsys: pytest.CaptureFixture[str], command: str) -> dict[str, Any]:
    """The one object on stdout, which must fit the schema, with what was on stderr under 'stderr'."""
    told = capsys.readouterr()
    report = report_in(told.out, command)
    assert report['version'] == version()
    return {**report, 'stderr': told.err}


def test_the_schema_knows_every_command_that_reports():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    listed = SCHEMA['properties']['command']['enum']
    assert set(listed) == set(COMMANDS) - {'completion'}
    of_results = [part['if']['properties']['command']['const'] for part in SCHEMA['allOf'] if 'command' in
                  part['if']['properties']]  # fmt: skip
    assert sorted(of_results) == sorted(listed)


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_that_reports_takes_json(command: str, capsys):
    with pytest.raises(SystemExit) as caught:
        parser().parse_args([command, '--help'])
    assert caught.value.code == 0
    assert ('--json' in capsys.readouterr().out) == (command != 'completion')


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as caught:
        main(['--version'])
    assert caught.value.code == 0
    found = re.search('<version>(.*)</version>', (ROOT / 'package.xml').read_text())
    assert found is not None
    assert capsys.readouterr().out == f'stprune {found[1]}\n'


def test_json_of_a_good_parameter_file(tmp_path: Path, params: Path, capsys):
    assert main(['check', str(params), '--json', '--model']) == 0
    report = report_of(capsys, 'check')
    assert (report['exit_code'], report['errors']) == (0, [])
    assert report['result']['problems'] == []
    memory = report['result']['memory']
    weights = resource_path('models/ringworld') / 'model.safetensors'
    assert memory['fits'] is True and 0 < memory['weights'] < weights.stat().st_size
    assert memory['kept'] < memory['full']
    assert 'all parameters are known and in range' in report['stderr']


def test_json_of_a_bad_parameter_file(tmp_path: Path, capsys):
    path = tmp_path / 'p.yaml'
    path.write_text('/**: {ros__parameters: {pruning: {kep_ratio: 0.1, keep_ratio: 3.0}}}')
    assert main(['check', str(path), '--json']) == 1
    report = report_of(capsys, 'check')
    assert (report['exit_code'], report['errors']) == (1, [])
    assert len(report['result']['problems']) == 2
    assert "'pruning.keep_ratio' is 3.0" in report['result']['problems'][1]


def test_json_of_a_refusal_holds_its_sentence(tmp_path: Path, capsys):
    assert main(['replay', str(tmp_path / 'none'), '--output', str(tmp_path / 'out'), '--json']) == 1
    report = report_of(capsys, 'replay')
    assert (report['exit_code'], report['result']) == (1, {})
    assert report['errors'] == [f"bag '{tmp_path / 'none'}' does not exist"]
    assert report['stderr'] == f'stprune: {report["errors"][0]}\n'


def test_json_of_a_world_and_of_what_init_finds_in_it(tmp_path: Path, capsys):
    bag, output = tmp_path / 'world', tmp_path / 'my.param.yaml'
    assert main(['world', str(bag), '--seconds', '0.4', '--hz', '5', '--json']) == 0
    assert report_of(capsys, 'world')['result'] == {'files': [str(bag)], 'seed': 1_000_004, 'seconds': 0.4, 'hz': 5.0}
    assert main(['init', str(bag), '--output', str(output), '--json']) == 0
    result = report_of(capsys, 'init')['result']
    written = yaml.safe_load(output.read_text())['/**']['ros__parameters']
    assert (result['files'], result['to_be_filled_in']) == ([str(output)], False)
    assert result['parameters']['cameras.names'] == written['cameras']['names']


def test_json_of_a_replay_is_its_summary(tmp_path: Path, params: Path, capsys):
    output = tmp_path / 'out'
    bag = write_bag(tmp_path / 'bag', drive(2))
    assert main(['replay', str(bag), '--output', str(output), '--params', str(params), '--json']) == 0
    report = report_of(capsys, 'replay')
    assert report['result']['summary'] == json.loads((output / 'summary.json').read_text())
    assert report['result']['summary']['ticks'] == 2
    assert [Path(file).name for file in report['result']['files']] == [
        'report.html',
        'summary.json',
        'results.mcap',
        'replay.param.yaml',
    ]
    assert all(Path(file).is_file() for file in report['result']['files'])
    assert 'ticks   2 (' in report['stderr']
    assert '\r' not in report['stderr'], 'no line of progress in a log'


def test_json_is_strict():
    assert as_json({'a': float('nan'), 'b': [np.float64('inf'), 1], 'c': Path('/x'), 'd': ({1: 0.5},)}) == (
        '{"a": null, "b": [null, 1], "c": "/x", "d": [{"1": 0.5}]}'
    )


def test_text_stays_text_without_json(tmp_path: Path, params: Path, capsys):
    assert main(['check', str(params)]) == 0
    assert capsys.readouterr().out == f'{params}: all parameters are known and in range\n'


def test_the_model_is_named_with_its_size_before_it_is_loaded(tmp_path: Path, params: Path, capsys):
    model = yaml.safe_load(params.read_text())['/**']['ros__parameters']['model.path']
    gguf = tmp_path / 'model.gguf'
    gguf.write_bytes(bytes(2**20))
    size = (Path(model) / 'model.safetensors').stat().st_size
    settings = Settings.from_values({'model.path': model})
    assert loading_text(settings) == f"loading the model '{model}', {size / 2**20:.2f} MiB ..."
    both = Settings.from_values({'model.path': model, 'model.engine': 'llama.cpp', 'model.gguf': str(gguf)})
    assert loading_text(both) == f"loading the model '{model}', {size / 2**20 + 1:.2f} MiB ..."
    bag = write_bag(tmp_path / 'bag', drive(1))
    assert main(['replay', str(bag), '--output', str(tmp_path / 'out'), '--params', str(params)]) == 0
    assert capsys.readouterr().err.startswith(f'stprune: {loading_text(settings)}\n')


def test_the_live_line_says_hint_share_and_time():
    views = (
        ViewReport('front', CameraState.OK, frames=1, tokens_full=60, tokens_kept=9),
        ViewReport('back', CameraState.OK, frames=1, tokens_full=40, tokens_kept=3),
    )
    answer = make_answer(behavior=Behavior.STOP, confidence=0.934, views=views, hint_ms=61.4)
    assert answer_text(answer) == 'STOP 0.93, 12.0% kept, hint in 61 ms'
    assert answer_text(make_answer(Status.ERROR, confidence=0.5, views=())) == 'ERROR, n/a kept, hint in n/a'


def test_a_replay_on_a_terminal_has_a_live_line_and_says_where_its_part_lies(tmp_path: Path, params: Path):
    output = tmp_path / 'out'
    bag = write_bag(tmp_path / 'bag', drive(400))
    terminal = Terminal('replay', str(bag), '--output', str(output), '--params', str(params))
    count, time = r'[1-9]\d*/\d+', r'\d\d:\d\d'
    answer = r'[A-Z_]+ [01]\.\d\d, \d+\.\d% kept, hint in \d+ ms'
    terminal.wait_for(rf'{count} \[{time}<{time}, .*msg.*, {answer}\]')
    terminal.press_ctrl_c()
    assert terminal.wait_for_end() == 130
    summary = json.loads((output / 'summary.json').read_text())
    assert summary['interrupted'] is True and 0 < summary['ticks'] < 400
    ticks = summary['ticks']
    last = terminal.shown.splitlines()[-1]
    assert last == f"stprune: interrupted after {ticks} ticks: what was finished is in '{output / 'report.html'}'"
    assert f'ticks   {ticks} (' in terminal.shown
    assert 'Traceback' not in terminal.shown


def test_an_evaluation_that_is_interrupted_keeps_its_answers(tmp_path: Path, params: Path):
    """Ctrl-C reaches the workers, too."""
    output = tmp_path / 'e.json'
    chosen = ['--methods', 'uniform', '--keep', '0.1', '--scenes', '500', '--workers', '1', '--first-seed', '1010000']
    terminal = Terminal('eval', '--output', str(output), *chosen)
    terminal.wait_for(r'\D1/500 \[')
    terminal.press_ctrl_c()
    assert terminal.wait_for_end() == 130
    [kept] = tmp_path.glob('*.hits.npz')
    scenes = len(Hits.load(kept).results)
    assert 0 < scenes < 500
    assert terminal.shown.splitlines()[-1] == (
        f"stprune: interrupted after {scenes} of 500 scenes: their answers are in '{kept}', where --resume goes on"
    )
    assert 'Traceback' not in terminal.shown
    assert not output.exists()


def test_a_calibration_that_is_interrupted_keeps_the_scores(tmp_path: Path, params: Path, monkeypatch, capsys):
    from stprune_ros.calibrate.drives import DriveScorer

    bags = [write_bag(tmp_path / f'drive_{number}', drive(3)) for number in range(3)]
    stamps = [stamp for stamp, _ in _ticks(bags[0])]
    truth = tmp_path / 'truth.csv'
    truth.write_text('\n'.join(['stamp_ns,behavior,bag', *(
        f'{stamp},{said},{bag.name}' for bag in bags for stamp, said in zip(stamps, ('STOP', 'NONE', 'STOP'))
    )]))  # fmt: skip
    whole, calls = DriveScorer.score, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == limit:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    monkeypatch.setattr(DriveScorer, 'score', interrupted)
    output = tmp_path / 'c.yaml'
    command = ['calibrate', *map(str, bags), '--truth', str(truth), '--params', str(params), '--output', str(output)]
    limit = 3
    assert main([*command, '--json']) == 130
    report, partial = report_of(capsys, 'calibrate'), tmp_path / 'c.partial.json'
    assert report['errors'] == [
        f"interrupted after 2 of 3 bags: their scores are in '{partial}', and no calibration is written"
    ]
    assert report['result'] == {'files': [str(partial)]}
    found = json.loads(partial.read_text())
    assert [Path(one['bag']).name for one in found['drives']] == ['drive_0', 'drive_1']
    for one in found['drives']:
        assert (one['stamp_ns'], one['truth']) == (stamps, ['STOP', 'NONE', 'STOP'])
        assert np.exp(one['log_probabilities']).sum(1) == pytest.approx([1, 1, 1], abs=1e-4)
        assert len(one['log_probabilities'][0]) == len(found['candidates'])
    assert not output.exists()
    partial.unlink()
    calls, limit = [], 1
    assert main([*command, '--json']) == 130
    assert report_of(capsys, 'calibrate')['errors'] == [
        'interrupted before the first of 3 bags was finished: nothing is written'
    ]
    assert not partial.exists()


def _ticks(bag: Path) -> list[tuple[int, str]]:
    from helpers.small_bags import PERIOD_NS, START_NS

    return [(START_NS + tick * PERIOD_NS, bag.name) for tick in range(3)]


def test_a_bench_that_is_interrupted_keeps_its_rows(tmp_path: Path, monkeypatch, capsys):
    whole = selection.measure_selections
    small = selection.RingSize(views=2, frames=2, rows=4, columns=4, dim=32)

    def interrupted(sizes, limits):
        yield from whole((small,), selection.TimeLimits(0.01, 0.02))
        raise KeyboardInterrupt

    monkeypatch.setattr(selection, 'measure_selections', interrupted)
    output = tmp_path / 'b.json'
    assert main(['bench', '--output', str(output), '--quick', '--json']) == 130
    report, written = report_of(capsys, 'bench'), json.loads(output.read_text())
    cells = len(written['selection'])
    assert written['interrupted'] is True and cells > 5 and written['ticks'] == []
    assert report['errors'] == [f"interrupted after {cells} cells: what was measured is in '{output}'"]
    assert report['result']['bench'] == written
    assert '| 64 (2 x 2) |' in report['stderr']


def test_completion_for_bash_completes_commands_options_and_files(tmp_path: Path, capsys):
    pytest.importorskip('shtab')
    assert main(['completion', 'bash']) == 0
    script = tmp_path / 'stprune.bash'
    script.write_text(capsys.readouterr().out)
    (tmp_path / 'my.param.yaml').touch()

    def completed(*words: str) -> list[str]:
        typed = ' '.join(f"'{word}'" for word in words)
        program = (
            f'source {script}; COMP_WORDS=(stprune {typed}); COMP_CWORD={len(words)}; _shtab_stprune;'
            ' printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(['bash', '-c', program], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed('re') == ['replay']
    assert set(completed('')) == set(COMMANDS)
    assert completed('replay', '--out') == ['--output']
    assert completed('check', 'my') == ['my.param.yaml']
    assert completed('replay', '--params', 'my') == ['my.param.yaml']


@pytest.mark.parametrize('shell', ['zsh', 'tcsh'])
def test_completion_for_other_shells_names_every_command(shell: str, capsys):
    pytest.importorskip('shtab')
    assert main(['completion', shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in COMMANDS)


def test_completion_without_shtab_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'shtab', None)
    assert main(['completion', 'bash']) == 1
    assert capsys.readouterr().err == 'stprune: `stprune completion` needs shtab: pip install shtab\n'
