"""Replays of bags that are damaged, incomplete or of another kind, and of a model that fails."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_bags import PERIOD_NS, START_NS, Item, drive, jpeg, write_bag
from helpers.small_replays import (
    FILES,
    as_video,
    damaged,
    run,
    tiny_parameters,
    trained_model,
)

from stprune_ros.cli import main
from stprune_ros.core.types import CameraState, Status
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.io.bag_reader import Bag
from stprune_ros.replay.results import HINT_TOPIC, SCENE_TOPIC


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_model(tmp_path_factory.mktemp('models'))


@pytest.fixture
def params(tmp_path: Path, model: Path) -> Path:
    return tiny_parameters(tmp_path, model)


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('truncated', 'is truncated'),
        ('no bytes', 'has no bytes'),
        ('wrong encoding', "encoding 'klingon8' is not supported"),
        ('wrong step', 'step is 10 bytes'),
        ('zero size', 'the image is empty: 0x48'),
    ],
)
def test_broken_image_is_counted_and_the_run_goes_on(tmp_path: Path, params: Path, capsys, name: str, words: str):
    summary = run(write_bag(tmp_path / 'bag', drive(4, damaged(name))), tmp_path / 'out', params)
    assert summary['ticks'] == 4
    assert summary['errors'] == 1
    [sentence] = summary['error_sentences']
    assert words in sentence
    assert "camera 'front'" in sentence
    assert summary['status']['NO_HINT'] == 1  # front is the critical camera
    assert capsys.readouterr().err.count(sentence) == 1


def test_poisoned_odometry_is_refused_with_a_note(tmp_path: Path, params: Path):
    def poison(item: Item) -> Item:
        if item.topic == '/odom':
            item.message.twist.twist.linear.x = float('nan')
        return item

    summary = run(write_bag(tmp_path / 'bag', drive(3, poison)), tmp_path / 'out', params)
    assert summary['ticks'] == 3
    assert summary['status'] == {'DEGRADED': 3}
    assert any('odometry' in note for note in summary['notes'])


def test_recorded_odometry_of_another_time_is_refused_once(tmp_path: Path, params: Path, test_data: Path):
    with Bag(test_data / 'vehicle_odometry' / 'bag') as recorded:
        moved = [record.message() for record, _ in zip(recorded.messages(['/odometry']), range(40))]
    items = drive(4, lambda item: None if item.topic == '/odom' else item)
    items += [Item('/odometry', START_NS + tick * 10_000_000, message) for tick, message in enumerate(moved)]
    summary = run(write_bag(tmp_path / 'bag', sorted(items, key=lambda item: item.stamp_ns)), tmp_path / 'out', params)
    assert summary['topics']['odometry'] == '/odometry'
    assert summary['status'] == {'DEGRADED': 4}
    [late] = [note for note in summary['notes'] if 'the images, more than' in note]
    assert late.startswith('odometry is ')
    assert len(summary['notes']) == len(set(summary['notes']))


def test_camera_info_of_another_size_is_noted(tmp_path: Path, params: Path):
    def other_size(item: Item) -> Item:
        if item.topic.endswith('right/camera_info'):
            item.message.height = 20
        return item

    summary = run(write_bag(tmp_path / 'bag', drive(2, other_size)), tmp_path / 'out', params)
    assert any("camera_info of camera 'right' is for 64x20, its images are 64x48" in note for note in summary['notes'])


def test_silent_camera_is_named(tmp_path: Path, params: Path):
    def silence(item: Item) -> Item | None:
        late = item.stamp_ns > START_NS
        return None if late and 'left/image_raw' in item.topic else item

    summary = run(write_bag(tmp_path / 'bag', drive(4, silence)), tmp_path / 'out', params)
    assert (summary['sets_full'], summary['sets_partial']) == (1, 3)
    assert summary['views']['left']['ticks_without'] == 3
    assert summary['cameras_missing'] == []


def test_a_camera_without_usable_calibration_costs_its_view_only(tmp_path: Path, params: Path):
    def uncalibrated(item: Item) -> Item:
        if item.topic.endswith('left/camera_info'):
            item.message.k = np.zeros(9)
        return item

    bag, output = write_bag(tmp_path / 'bag', drive(3, uncalibrated)), tmp_path / 'out'
    summary = run(bag, output, params)
    assert summary['ticks'] == 3 and summary['cameras'] == ['front', 'right']
    assert summary['cameras_missing'] == ['left']
    assert set(summary['status']) == {'DEGRADED'}
    assert any(note.startswith("camera_info of camera 'left' is not calibrated") for note in summary['notes'])
    with Bag(output / 'results.mcap') as results:
        written = [record.message() for record in results.messages([HINT_TOPIC, SCENE_TOPIC])]
    assert len(written) == 6
    for message in written:
        states = {view.name: view.state for view in message.info.cameras}
        assert states == {'front': CameraState.OK, 'right': CameraState.OK, 'left': CameraState.INVALID}
    assert "camera 'left' is not calibrated" in unescape((output / 'report.html').read_text())


def test_bag_without_a_frame_of_the_anchor_fails_with_its_summary_written(tmp_path: Path, params: Path, capsys):
    def unstamped(item: Item) -> Item:
        if 'image_raw' in item.topic:
            item.message.header.stamp.sec = item.message.header.stamp.nanosec = 0
        return item

    bag, output = write_bag(tmp_path / 'bag', drive(2, unstamped)), tmp_path / 'out'
    assert main(['replay', str(bag), '--output', str(output), '--params', str(params)]) == 1
    assert "gave no frame set to run on: the anchor camera 'front' brought no usable frame" in capsys.readouterr().err
    assert json.loads((output / 'summary.json').read_text())['ticks'] == 0
    assert 'no tick' in (output / 'report.html').read_text()


def test_damaged_bag_is_replayed_up_to_the_damage(tmp_path: Path, params: Path):
    folder = write_bag(tmp_path / 'bag', drive(400))
    [file] = folder.glob('*.mcap')
    data = file.read_bytes()
    assert len(data) > 1.5 * 2**20  # more than one chunk
    file.write_bytes(data[: int(len(data) * 0.95)])
    values = json.loads(params.read_text())
    values['/**']['ros__parameters'].update({'inference.period_ms': 5000.0, 'inference.describe': False})
    params.write_text(json.dumps(values))
    summary = run(folder, tmp_path / 'out', params)
    assert summary['sets_full'] > 100
    assert summary['ticks'] > 2
    assert any('before the damage are read' in note for note in summary['notes'])


def test_interrupted_run_keeps_what_it_has(tmp_path: Path, params: Path, monkeypatch):
    whole, calls = Pipeline.run, []

    def interrupted(self, window, **arguments):
        calls.append(window)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(self, window, **arguments)

    monkeypatch.setattr(Pipeline, 'run', interrupted)
    bag, output = write_bag(tmp_path / 'bag', drive(6)), tmp_path / 'out'
    assert main(['replay', str(bag), '--output', str(output), '--params', str(params)]) == 130
    summary = json.loads((output / 'summary.json').read_text())
    assert (summary['interrupted'], summary['ticks']) == (True, 3)
    assert '<b>Interrupted.</b>' in (output / 'report.html').read_text()
    with Bag(output / 'results.mcap') as results:
        assert len(list(results.messages([HINT_TOPIC]))) == 3


def test_failed_tick_is_an_error_and_the_run_goes_on(tmp_path: Path, params: Path, monkeypatch):
    whole, calls = Pipeline.run, []

    def failing(self, window, **arguments):
        calls.append(window)
        if len(calls) == 2:
            raise RuntimeError('out of\nmemory')
        return whole(self, window, **arguments)

    monkeypatch.setattr(Pipeline, 'run', failing)
    output = tmp_path / 'out'
    summary = run(write_bag(tmp_path / 'bag', drive(3)), output, params)
    assert summary['status'][Status.ERROR.name] == 1
    assert summary['error_sentences'] == {'inference failed: out of memory': 1}
    with Bag(output / 'results.mcap') as results:
        statuses = [record.message().status for record in results.messages([HINT_TOPIC])]
    assert statuses[1] == Status.ERROR


@pytest.mark.parametrize(('good', 'code'), [(1, 1), (2, 0)])
def test_ticks_that_fail_count_in_no_mean_and_most_of_them_fail_the_replay(
    tmp_path: Path, params: Path, monkeypatch, capsys, good: int, code: int
):
    whole, calls = Pipeline.run, []

    def failing(self, window, **arguments):
        calls.append(window)
        if len(calls) > good:
            raise RuntimeError('out of memory')
        return whole(self, window, **arguments)

    monkeypatch.setattr(Pipeline, 'run', failing)
    bag, output = write_bag(tmp_path / 'bag', drive(3)), tmp_path / 'out'
    assert main(['replay', str(bag), '--output', str(output), '--params', str(params)]) == code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    said = f"inference failed in {3 - good} of the 3 ticks of bag '{bag}': inference failed: out of memory"
    assert (said in last) == bool(code)
    summary = json.loads((output / 'summary.json').read_text())
    assert (summary['ticks'], summary['status']['ERROR']) == (3, 3 - good)
    front = summary['views'][summary['cameras'][0]]
    assert front['frames'] == pytest.approx(sum(range(1, good + 1)) / good)
    assert front['ticks_without'] == 0
    assert summary['tick_ms']['p50'] > 0


def test_a_replay_that_inferred_nothing_fails_with_the_reason_and_everything_written(
    tmp_path: Path, params: Path, capsys
):
    bag, output = write_bag(tmp_path / 'bag', drive(3, as_video)), tmp_path / 'out'
    assert main(['replay', str(bag), '--output', str(output), '--params', str(params)]) == 1
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert f"nothing could be inferred in any of the 3 ticks of bag '{bag}': image of camera 'front'" in last
    assert 'video stream' in last and 'let the driver send jpeg' in last
    summary = json.loads((output / 'summary.json').read_text())
    assert (summary['ticks'], summary['status'], summary['errors']) == (3, {'NO_HINT': 3}, 9)
    assert sorted(path.name for path in output.iterdir()) == FILES


def test_inference_that_fails_every_time_fails_the_replay(tmp_path: Path, params: Path, capsys, monkeypatch):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError('out of memory')

    monkeypatch.setattr(Pipeline, 'run', fail)
    bag = write_bag(tmp_path / 'bag', drive(2))
    assert main(['replay', str(bag), '--output', str(tmp_path / 'out'), '--params', str(params)]) == 1
    assert "2 ticks of bag '" in (last := capsys.readouterr().err.strip().splitlines()[-1])
    assert last.endswith('inference failed: out of memory')


def test_one_tick_that_could_be_inferred_is_enough(tmp_path: Path, params: Path):
    end = START_NS + 2 * PERIOD_NS
    bag = write_bag(tmp_path / 'bag', drive(3, lambda item: item if item.stamp_ns == end else as_video(item)))
    assert run(bag, tmp_path / 'out', params)['status']['NO_HINT'] == 2


def test_topics_that_are_no_cameras_are_noted(tmp_path: Path, params: Path):
    items = drive(2)
    own = '/stprune_node/debug/kept_tokens/image/compressed'
    items += [Item(own, START_NS, jpeg(START_NS)), Item('/camera/front/depth/image', START_NS, jpeg(START_NS))]
    summary = run(write_bag(tmp_path / 'bag', items), tmp_path / 'out', params)
    assert sorted(summary['cameras']) == ['front', 'left', 'right']
    [note] = [note for note in summary['notes'] if note.startswith('taken for no cameras')]
    assert own in note and '/camera/front/depth/image' in note


def test_broken_truth_file_is_named(tmp_path: Path, params: Path, capsys):
    bag = write_bag(tmp_path / 'bag', drive(1))
    (bag / 'truth.json').write_text('{"ticks": [{"stamp_ns": 1, "behavior": "FLY"}]}')
    assert main(['replay', str(bag), '--output', str(tmp_path / 'out'), '--params', str(params)]) == 1
    assert f"truth file '{bag / 'truth.json'}', stamp 1: 'FLY' is no behavior" in capsys.readouterr().err


def test_a_failure_frees_the_caches(tmp_path: Path, params: Path, monkeypatch):
    whole, freed = Pipeline.run, []

    def failing(self, window, **arguments):
        if not freed:
            raise RuntimeError('out of memory')
        return whole(self, window, **arguments)

    monkeypatch.setattr(Pipeline, 'run', failing)
    monkeypatch.setattr(Pipeline, 'free', lambda self: freed.append(True))
    summary = run(write_bag(tmp_path / 'bag', drive(2)), tmp_path / 'out', params)
    assert freed == [True]
    assert summary['status'] == {'ERROR': 1, 'OK': 1}
