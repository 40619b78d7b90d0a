"""The command line: exit codes, and one sentence for everything that can be wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.reports import report_in
from helpers.small_bags import START_NS, Item, drive, odometry, write_bag

from stprune_ros.cli import main
from stprune_ros.commands.world import DEMO_SEED
from stprune_ros.io.ground_truth import GroundTruth
from stprune_ros.ringworld.scenes import HELD_OUT

GOOD = '/**:\n  ros__parameters:\n    pruning: {keep_ratio: 0.2}\n'


def params(folder: Path, text: str) -> Path:
    path = folder / 'params.yaml'
    path.write_text(text)
    return path


def one_sentence(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith('stprune: ')
    return lines[0]


@pytest.mark.parametrize(
    'arguments',
    [
        [],
        ['fly'],
        ['replay', 'bag'],
        ['replay', 'bag', '--output', 'out', '--keep', '0'],
        ['replay', 'bag', '--output', 'out', '--keep', 'nan'],
        ['replay', 'bag', '--output', 'out', '--method', 'magic'],
        ['play', 'bag', '--rate', '0'],
        ['play', 'bag', '--rate', 'inf'],
        ['play', 'bag', '--loop', '0'],
        ['play', 'bag', '--remap', '/a=/b'],
        ['world', 'out', '--hz', '-1'],
        ['check'],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert 'usage:' in capsys.readouterr().err


def test_keep_names_its_range(capsys):
    with pytest.raises(SystemExit):
        main(['replay', 'bag', '--output', 'out', '--keep', '1.5'])
    assert 'a number in [0.001, 1]' in capsys.readouterr().err


def test_check_of_a_good_file(tmp_path: Path, capsys):
    path = params(tmp_path, GOOD)
    assert main(['check', str(path)]) == 0
    assert capsys.readouterr().out == f'{path}: all parameters are known and in range\n'


def test_check_names_every_problem(tmp_path: Path, capsys):
    path = params(
        tmp_path, '/**: {ros__parameters: {pruning: {kep_ratio: 0.1, keep_ratio: 3.0}, sync: {min_views: two}}}'
    )
    assert main(['check', str(path)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f'{path}: ') for line in lines)
    assert "there is no parameter 'pruning.kep_ratio'; did you mean 'pruning.keep_ratio'?" in lines[0]
    assert "'pruning.keep_ratio' is 3.0; allowed is a number in [0.001, 1]" in lines[1]
    assert "'sync.min_views' is 'two'" in lines[2]


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (None, 'cannot be read'),
        ('a: [', 'is not YAML'),
        ('a: 1', "has no 'ros__parameters'"),
        ('\xff\xfe', 'ros__parameters'),
    ],
)
def test_check_of_what_is_no_parameter_file(tmp_path: Path, capsys, text: str | None, words: str):
    path = tmp_path / 'params.yaml'
    if text is not None:
        path.write_text(text)
    assert main(['check', str(path)]) == 1
    assert words in one_sentence(capsys)


@pytest.mark.parametrize('words', [['check'], ['check', '--json'], ['completion', 'zsh']])
def test_a_reader_that_is_gone_ends_a_command_quietly(tmp_path: Path, words: list[str]):
    """As it does cat or seq; and whoever looks at the exit code learns that not all of it was read."""
    if words[0] == 'completion':
        pytest.importorskip('shtab', reason="shtab is not installed: the extra 'completion'")
    more = [str(params(tmp_path, GOOD))] if words[0] == 'check' else []
    command = [sys.executable, '-m', 'stprune_ros.cli', *words, *more]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(writer)
    for_people = f'{more[0]}: all parameters are known and in range\n' if '--json' in words else ''
    assert (done.returncode, done.stderr) == (141, for_people)


def test_a_text_that_nobody_reads_takes_nothing_from_the_object(tmp_path: Path):
    command = [sys.executable, '-m', 'stprune_ros.cli', 'check', str(params(tmp_path, GOOD)), '--json']
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writer, text=True, timeout=60)
    finally:
        os.close(writer)
    assert done.returncode == report_in(done.stdout, 'check')['exit_code'] == 0


def test_a_full_disk_is_said(tmp_path: Path):
    for more in ([], ['--json']):
        command = [sys.executable, '-m', 'stprune_ros.cli', 'check', str(params(tmp_path, GOOD)), *more]
        with Path('/dev/full').open('w') as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (1, 'stprune: No space left on device')


def test_check_answers_without_what_it_does_not_need():
    code = "import sys; from stprune_ros.cli import main; main(['check', '/dev/null']); print(*sys.modules)"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60, check=True)
    assert not {'torch', 'transformers', 'rclpy', 'rosbags', 'cv2'} & set(done.stdout.split())


def make_bag_without_cameras(folder: Path) -> Path:
    return write_bag(folder / 'bag', [Item('/odom', START_NS, odometry(START_NS))])


def make_bag_without_camera_info(folder: Path) -> Path:
    return write_bag(folder / 'bag', drive(1, lambda item: None if 'left/camera_info' in item.topic else item))


def make_bag_without_transforms(folder: Path) -> Path:
    return write_bag(folder / 'bag', drive(1, lambda item: None if item.topic == '/tf_static' else item))


def make_empty_bag(folder: Path) -> Path:
    return write_bag(folder / 'bag', [])


def make_text_file(folder: Path) -> Path:
    (folder / 'bag').write_text('no bag')
    return folder / 'bag'


BAD_BAGS = {
    make_bag_without_cameras: 'has no camera: no topic carries sensor_msgs/msg/Image',
    make_bag_without_camera_info: "no camera_info for camera 'left'",
    make_bag_without_transforms: "no static transform leads from 'front_optical'",
    make_empty_bag: 'holds no message',
    make_text_file: 'is not a rosbag2 bag',
    lambda folder: folder / 'nowhere': 'does not exist',
}


@pytest.mark.parametrize(('maker', 'words'), BAD_BAGS.items())
def test_replay_of_a_bad_bag_exits_1(tmp_path: Path, capsys, maker, words: str):
    output = tmp_path / 'out'
    assert main(['replay', str(maker(tmp_path)), '--output', str(output)]) == 1
    assert words in one_sentence(capsys)
    assert not output.exists()


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ('cameras: {names: [front, top]}', "camera 'top' is not in the bag"),
        ('cameras: {rig_file: /nowhere.yaml}', "rig file '/nowhere.yaml' cannot be read"),
        ('cameras: {anchor: top}', "camera 'top' in 'cameras.anchor' or 'cameras.critical' is not in the ring"),
        ('model: {path: /nowhere}', "model folder '/nowhere' does not exist"),
        ('prompt: {file: /nowhere.yaml}', "prompt file '/nowhere.yaml' cannot be read"),
        ('pruning: {kep_ratio: 0.1}', "there is no parameter 'pruning.kep_ratio'"),
        ('pruning: {keep_ratio: 0.0}', "parameter 'pruning.keep_ratio' is 0.0"),
    ],
)
def test_replay_with_bad_parameters_exits_1(tmp_path: Path, capsys, values: str, words: str):
    bag = write_bag(tmp_path / 'bag', drive(1))
    path = params(tmp_path, f'/**: {{ros__parameters: {{{values}}}}}')
    assert main(['replay', str(bag), '--output', str(tmp_path / 'out'), '--params', str(path)]) == 1
    assert words in one_sentence(capsys)


LATIN1 = os.fsdecode(b'stra\xdfe')


@pytest.mark.parametrize(
    'arguments',
    [
        ['replay', LATIN1, '--output', 'out'],
        ['replay', 'bag', '--output', f'out/{LATIN1}'],
        ['fleet', 'bag', LATIN1, '--output', 'out'],
        ['compare', 'one', LATIN1, '--output', 'out'],
        ['check', LATIN1],
    ],
)
def test_names_that_are_no_utf8_are_refused(tmp_path: Path, capsys, monkeypatch, arguments: list[str]):
    monkeypatch.chdir(tmp_path)
    write_bag(tmp_path / 'bag', drive(1))
    write_bag(tmp_path / LATIN1, drive(1))
    before = sorted(tmp_path.rglob('*'))
    assert main(arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("stra?e' is not UTF-8, in which results would name it: rename it")
    assert sorted(tmp_path.rglob('*')) == before


def test_output_that_cannot_be_a_folder_exits_1(tmp_path: Path, capsys):
    taken = tmp_path / 'taken'
    taken.touch()
    assert main(['world', str(taken)]) == 1
    assert f"'{taken}' exists already" in one_sentence(capsys)


@pytest.mark.parametrize('command', [['play', '/nowhere'], ['play', '/nowhere', '--clock', '--rate', '2']])
def test_play_of_a_missing_bag_exits_1(capsys, command: list[str]):
    assert main(command) == 1
    assert "bag '/nowhere' does not exist" in one_sentence(capsys)


def test_world_is_written_with_its_truth(tmp_path: Path, capsys):
    path = tmp_path / 'new' / 'world'
    assert main(['world', str(path), '--seconds', '0.4', '--hz', '5', '--rolling']) == 0
    assert f"wrote '{path}', 0.4 s at 5 Hz" in capsys.readouterr().out
    truth = GroundTruth.beside(path)
    assert truth is not None
    assert truth.at(1_700_000_000 * 10**9).behavior
    assert truth.at(1_700_000_009 * 10**9).behavior == ''


def test_demo_shows_a_world_that_the_model_has_not_seen():
    assert DEMO_SEED >= HELD_OUT
