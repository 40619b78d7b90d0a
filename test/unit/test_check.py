"""`stprune check` says everything at once, and commands refuse before torch is imported."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.checked import check, write
from helpers.small_bags import drive, write_bag

from stprune_ros.cli import main
from stprune_ros.errors import StpruneError
from stprune_ros.preflight import require_file, require_folder

RIG = """cameras:
  front: {width: 320, height: 192, hfov_deg: 90.0, azimuth_deg: 0.0}
  back: {width: 320, height: 192, hfov_deg: 90.0, azimuth_deg: 180.0}
"""
# CPU seconds, user and system: 0.7 is the aim, 0.2 to 0.4 are usual; three times the aim leaves slow machines alone.
MOST_CPU_S = 3 * 0.7


def test_everything_is_named_in_one_run(tmp_path, capsys):
    problems = check(
        tmp_path,
        capsys,
        'cameras: {names: [a, b, b], anchor: c, critical: [d], offsets_ms: [1.0], rig_file: /nowhere/rig.yaml},'
        ' prompt: {file: /nowhere/prompt.yaml}, model: {path: /nowhere/model}, pruning: {methud: mtp,'
        ' keep_ratio: "0.1", one_pays: true, keep_one_copy: true}, latency: {keep_min: 0.5, keep_max: 0.2,'
        ' target_ms: 2000.0}, sync: {min_views: 7, max_wait_ms: 20.0}, history: {frames: [3]}',
    )
    words = [
        "'cameras.names' names a camera twice: a, b, b",
        "camera 'c' in 'cameras.anchor'",
        "camera 'd' in 'cameras.anchor' or 'cameras.critical'",
        "'cameras.offsets_ms' has 1 entries for 3 cameras",
        "rig file '/nowhere/rig.yaml' cannot be read",
        "prompt file '/nowhere/prompt.yaml' cannot be read",
        "model folder '/nowhere/model' does not exist",
        "there is no parameter 'pruning.methud'; did you mean 'pruning.method'?",
        "'pruning.keep_ratio' is '0.1'; allowed is a number in [0.001, 1]: remove the quotes",
        "'pruning.one_pays' is now called 'pruning.keep_one_copy', and both are given",
        "'latency.keep_min' is 0.5, more than 'latency.keep_max', 0.2",
        "'latency.target_ms' is 2000, more than 'output.valid_for_ms', 1000",
        "'sync.min_views' is 7, but 'cameras.names' has only 3",
        "'sync.max_wait_ms' is 20, less than 'sync.tolerance_ms' plus the largest of 'cameras.offsets_ms', 50 + 1",
        "'history.frames' is [3]; allowed is an integer in [1, 16]: give one value, without brackets",
    ]
    for word in words:
        assert sum(word in problem for problem in problems) == 1, word
    assert len(problems) == len(words)


def test_a_wrong_value_makes_no_contradiction_with_its_default(tmp_path, capsys):
    [problem] = check(tmp_path, capsys, 'latency: {keep_min: 0.9, keep_max: none}')
    assert "'latency.keep_max' is 'none'" in problem
    [problem] = check(tmp_path, capsys, 'cameras: {names: [1, 2], offsets_ms: [0.0, 3.0]}')
    assert problem == "parameter 'cameras.names' is [1, 2]; allowed is a list of strings: put it in quotes"


def test_the_form_of_the_file_is_named_beside_its_values(tmp_path, capsys):
    problems = check(tmp_path, capsys, 'history: {frames: 2, frames: 3}, pruning: , sync: {min_views: 0}')
    assert len(problems) == 3
    assert "'history.frames' is given a second time" in problems[0]
    assert "'pruning' has no value" in problems[1]
    assert "'sync.min_views' is 0" in problems[2]


def test_names_are_compared_with_the_rig_file(tmp_path, capsys):
    rig = write(tmp_path / 'rig.yaml', RIG)
    assert check(tmp_path, capsys, f'cameras: {{rig_file: {rig}, anchor: front, critical: [back]}}') == []
    assert check(tmp_path, capsys, f'cameras: {{rig_file: {rig}, anchor: top, critical: [left, back]}}') == [
        "camera 'top' in 'cameras.anchor' or 'cameras.critical' is not in the ring: front, back",
        "camera 'left' in 'cameras.anchor' or 'cameras.critical' is not in the ring: front, back",
    ]
    assert check(tmp_path, capsys, f'cameras: {{rig_file: {rig}, names: [front, top, low]}}') == [
        "camera 'top' in 'cameras.names' is not in the rig file: front, back",
        "camera 'low' in 'cameras.names' is not in the rig file: front, back",
    ]


def test_a_wrong_role_is_named_once(tmp_path, capsys):
    rig = write(tmp_path / 'rig.yaml', RIG)
    [problem] = check(tmp_path, capsys, f'cameras: {{rig_file: {rig}, names: [front, back], anchor: top}}')
    assert "is not in 'cameras.names': front, back" in problem


def test_files_that_are_named_are_parsed(tmp_path, capsys):
    rig = write(tmp_path / 'rig.yaml', RIG.replace('width: 320', 'width: 0', 1))
    prompt = write(tmp_path / 'prompt.yaml', 'name: x\n')
    problems = check(tmp_path, capsys, f'cameras: {{rig_file: {rig}}}, prompt: {{file: {prompt}}}')
    assert len(problems) == 2
    assert f"rig file '{rig}', camera 'front'" in problems[0]
    assert problems[1] == f"prompt file '{prompt}': 'system' is missing"


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('cameras: {names: ["0", "1"]}', "the node does not start: camera '0' in 'cameras.names' makes the topic"),
        (
            'cameras: {names: [a], transport: raw}, topics: {image: "/{camera}/image/compressed"}',
            "the node hears no image: 'topics.image' is '/{camera}/image/compressed'",
        ),
        ('cameras: {names: [a], transport: compressed}, topics: {image: "/{camera}/image/compressed"}', ''),
        ('cameras: {names: [a], transport: raw}, topics: {image: "/{camera}/image"}', ''),
    ],
)
def test_what_only_replay_can_use_is_said(tmp_path, capsys, text, sentence):
    path = write(tmp_path / 'my.param.yaml', f'/**: {{ros__parameters: {{{text}}}}}\n')
    assert main(['check', str(path)]) == 0
    said = capsys.readouterr().out
    assert ('only for replay' in said) == bool(sentence)
    assert sentence in said


def test_old_names_are_said_and_no_problem(tmp_path, capsys):
    path = write(tmp_path / 'p.yaml', '/**: {ros__parameters: {pruning: {one_pays: true}}}')
    assert main(['check', str(path)]) == 0
    assert "is now called 'pruning.keep_one_copy'" in capsys.readouterr().err


def test_outputs_that_cannot_be_written(tmp_path):
    taken = write(tmp_path / 'taken', '')
    for path, sentence in ((taken, 'is a file, where a folder'), (Path('/proc/out'), 'cannot be written to')):
        with pytest.raises(StpruneError, match=sentence):
            require_folder(path)
    with pytest.raises(StpruneError, match=r"taken/out' cannot be written to: Not a directory; name another"):
        require_folder(taken / 'out')
    for path, sentence in (
        (tmp_path, 'is a folder'),
        (tmp_path / 'a.png', 'plot'),
        (tmp_path / 'x' / 'a', 'no folder'),
    ):
        with pytest.raises(StpruneError, match=sentence):
            require_file(path)
    require_folder(tmp_path / 'new' / 'folder')
    require_file(tmp_path / 'new.json')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['taken']


def test_the_output_is_not_the_bag(tmp_path):
    bag = write_bag(tmp_path / 'bag', drive(1))
    for output, source in ((bag, bag), (tmp_path / 'bag' / '..' / 'bag', bag)):
        with pytest.raises(StpruneError, match='is where the bag itself lies'):
            require_folder(output, source)
    results = write(tmp_path / 'results.mcap', '')
    with pytest.raises(StpruneError, match='is where the bag itself lies'):
        require_folder(tmp_path, results)
    require_folder(tmp_path, bag)


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    return write_bag(tmp_path_factory.mktemp('bags') / 'bag', drive(1))


@pytest.mark.parametrize(
    ('arguments', 'code', 'words'),
    [
        ('replay /nowhere --output {out}', 1, "bag '/nowhere' does not exist"),
        ('replay {file} --output {out}', 1, 'is not a rosbag2 bag'),
        ('replay {bag} --output {file}', 1, 'is a file, where a folder'),
        ('replay {bag} --output {bag}', 1, 'is where the bag itself lies'),
        ('replay {bag} --output {out} --keep 7', 2, 'a number in [0.001, 1]'),
        ('replay {bag} --output {out} --params {file}', 1, "has no 'ros__parameters'"),
        ('replay {bag} --output {out} --params {model}', 1, 'is no model folder'),
        ('replay {bag} --output {out} --params {prompt}', 1, "prompt file '/nowhere.yaml' cannot be read"),
        ('calibrate {bag} --output {tmp}/c.yaml', 1, 'give another one to hold out'),
        ('calibrate {bag} /nowhere --output {tmp}/c.yaml', 1, 'has no truth.json beside it: give --truth FILE'),
        ('calibrate {bag} /nowhere --truth {file} --output {tmp}/c.yaml', 1, 'they must be stamp_ns, behavior'),
        ('calibrate {bag} --tolerance 0 --output {tmp}/c.yaml', 2, 'is not a number above 0'),
        ('replay {bag} --output {out} --params {calibration}', 1, "calibration file '/nowhere.yaml' cannot be read"),
        ('play /nowhere', 1, "bag '/nowhere' does not exist"),
        ('play {bag} --rate 0', 2, 'is not a number above 0'),
        ('world {file}', 1, 'exists already'),
        ('world {out} --seed -1', 2, 'is not an integer of at least 0'),
        ('eval --output {out}/x/e.json', 1, 'there is no folder'),
        ('eval --output {tmp}', 1, 'is a folder; name a file'),
        ('eval --output {tmp}/e.json --methods magic', 1, "there is no pruning method 'magic'"),
        ('eval --output {tmp}/e.json --methods mtp+magic', 1, "there is no switch 'magic'"),
        ('bench --output {tmp}/b.png', 1, 'would be overwritten by the plot'),
        ('bench --output /proc/b.json', 1, "'/proc' cannot be written to"),
        ('demo --output {file}', 1, 'is a file, where a folder'),
        ('demo --output {out} --params {prompt}', 1, "prompt file '/nowhere.yaml' cannot be read"),
        ('check {model} --model', 1, 'is no model folder'),
        ('check {tmp}/none.yaml', 1, 'cannot be read'),
    ],
)
def test_commands_refuse_before_torch_is_imported(tmp_path, bag, arguments, code, words):
    """Torch is blocked, so that a slow machine cannot make this fail; the time is that of the child alone."""
    if arguments.startswith(('play', 'demo')):
        pytest.importorskip('rclpy')
    head = '/**: {{ros__parameters: {{{}}}}}'
    places = {
        'tmp': tmp_path,
        'bag': bag,
        'out': tmp_path / 'out',
        'file': write(tmp_path / 'file', 'a: 1'),
        'model': write(tmp_path / 'm.yaml', head.format(f'model: {{path: {tmp_path}}}')),
        'prompt': write(tmp_path / 'p.yaml', head.format('prompt: {file: /nowhere.yaml}')),
        'calibration': write(tmp_path / 'q.yaml', head.format('prompt: {calibration: /nowhere.yaml}')),
    }
    words_given = [word.format(**places) for word in arguments.split()]
    program = "import sys; sys.modules['torch'] = None; from stprune_ros.cli import main; sys.exit(main(sys.argv[1:]))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, '-c', program, *words_given], capture_output=True, text=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert 'Traceback' not in done.stderr
    assert not (tmp_path / 'out').exists()
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert spent < MOST_CPU_S


def test_the_files_of_llama_cpp_are_looked_for(tmp_path, capsys):
    given = {
        'model.engine': 'llama.cpp',
        'model.gguf': f'{tmp_path}/no.gguf',
        'model.engine_library': f'{tmp_path}/no.so',
    }
    file = tmp_path / 'p.yaml'
    file.write_text(json.dumps({'/**': {'ros__parameters': given}}))
    assert main(['check', str(file)]) == 1
    gguf, library = capsys.readouterr().err.splitlines()
    assert f'{tmp_path}/no.gguf' in gguf and library.endswith("no.so', and there is no such file")
