"""Replay of small real bags through a tiny real model."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import Counter, defaultdict
from dataclasses import replace
from html import unescape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.small_bags import PERIOD_NS, START_NS, Item, drive, image, jpeg, write_bag
from helpers.tiny_models import make_tiny_model

from stprune_ros.cli import main
from stprune_ros.core.types import Behavior, CameraState, Status
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.io import drawing
from stprune_ros.io.bag_identity import bag_identity
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.io.drawing import FOOTER_HEIGHT, HEADER_HEIGHT, TILE_HEIGHT, TILE_WIDTH
from stprune_ros.pruning.reason import DROPPED_REASONS, KEPT_REASONS
from stprune_ros.replay.moment import parameter_text
from stprune_ros.replay.page import picture_data
from stprune_ros.replay.records import stamp_text
from stprune_ros.replay.replay import replay
from stprune_ros.replay.results import HINT_TOPIC, OVERLAY_TOPIC, SCENE_TOPIC
from stprune_ros.settings.parameter_file import load_settings
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

FILES = ['replay.param.yaml', 'report.html', 'results.mcap', 'summary.json']
CONTRACT = {
    'bag', 'model_id', 'method', 'keep_ratio', 'ticks', 'sets_full', 'sets_partial', 'sets_skipped', 'tokens_full',
    'tokens_kept', 'views', 'stage_ms', 'hints', 'errors',
}  # fmt: skip


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_tiny_model(tmp_path_factory.mktemp('models') / 'tiny', 'ringworld')
    (path / 'stprune.json').write_text(json.dumps({'trained': True}))
    return path


@pytest.fixture
def params(tmp_path: Path, model: Path) -> Path:
    path = tmp_path / 'params.yaml'
    values = {
        'model.path': str(model),
        'history.stride_ms': 100.0,
        'inference.max_new_tokens': 3,
        'pruning.keep_ratio': 0.3,
    }
    path.write_text(json.dumps({'/**': {'ros__parameters': values}}))
    return path


def run(bag: Path, output: Path, params: Path, *more: str) -> dict[str, Any]:
    assert main(['replay', str(bag), '--output', str(output), '--params', str(params), *more]) == 0
    return json.loads((output / 'summary.json').read_text())


def without_times(summary: dict[str, Any]) -> str:
    times = ('stage_ms', 'hint_ms', 'tick_ms', 'times')
    return json.dumps({key: value for key, value in summary.items() if key not in times})


def test_everything_is_left_behind(tmp_path: Path, params: Path, capsys):
    output = tmp_path / 'out'
    summary = run(write_bag(tmp_path / 'bag', drive(6)), output, params)
    assert summary.keys() >= CONTRACT
    assert sorted(path.name for path in output.iterdir()) == FILES
    assert summary['cameras'] == ['front', 'right', 'left']
    assert (summary['ticks'], summary['sets_full'], summary['sets_partial'], summary['errors']) == (6, 6, 0, 0)
    assert sum(summary['hints'].values()) == 6
    assert summary['tokens_full'] > summary['tokens_kept'] > 0
    for view in summary['views'].values():
        assert abs(view['tokens_kept'] - summary['keep_ratio'] * view['tokens_full']) <= 1
    assert summary['stage_ms'].keys() == {'decode', 'prepare', 'encode', 'prune', 'prefill', 'hint', 'describe'}
    assert summary['hint_ms']['p50'] < summary['tick_ms']['p50'], 'the description comes after the hint'
    assert summary['latency'] is None
    assert 'ticks   6 (6 full, 0 partial, 0 skipped frame sets)' in capsys.readouterr().out
    with Bag(output / 'results.mcap') as bag:
        assert bag.notes == []
        hints = [record.message() for record in bag.messages([HINT_TOPIC])]
        scenes = [record.message() for record in bag.messages([SCENE_TOPIC])]
    stamps = [START_NS + tick * PERIOD_NS for tick in range(6)]
    assert [hint.header.stamp.sec * 10**9 + hint.header.stamp.nanosec for hint in hints] == stamps
    assert [scene.header.stamp for scene in scenes] == [hint.header.stamp for hint in hints]
    assert all(math.isclose(hint.probabilities.sum(), 1, abs_tol=1e-5) for hint in hints)
    assert [camera.name for camera in hints[0].info.cameras] == ['front', 'right', 'left']
    assert all(math.isnan(hint.info.output_latency) for hint in hints)


def test_two_runs_differ_in_times_only(tmp_path: Path, params: Path):
    bag = write_bag(tmp_path / 'bag', drive(5))
    first, second = (run(bag, tmp_path / name, params) for name in ('first', 'second'))
    assert without_times(first) == without_times(second)


def test_views_take_turns_alike_in_every_run(tmp_path: Path, params: Path):
    values = json.loads(params.read_text())
    values['/**']['ros__parameters']['cameras.refresh_ms'] = 4 * PERIOD_NS / 1e6
    params.write_text(json.dumps(values))
    bag = write_bag(tmp_path / 'bag', drive(10))
    first, second = (run(bag, tmp_path / name, params) for name in ('first', 'second'))
    assert without_times(first) == without_times(second)
    with Bag(tmp_path / 'first' / 'results.mcap') as results:
        hints = [record.message() for record in results.messages([HINT_TOPIC])]
    ages = [
        [(h.header.stamp.sec - c.stamp.sec) * 10**9 + h.header.stamp.nanosec - c.stamp.nanosec for c in h.info.cameras]
        for h in hints
    ]
    assert all(age[0] == 0 for age in ages)
    cells = {
        camera: [(START_NS + n * PERIOD_NS + camera * 2 * PERIOD_NS) // (4 * PERIOD_NS) for n in range(10)]
        for camera in (0, 1)
    }
    for place, cell in cells.items():
        since = [n - cell.index(one) for n, one in enumerate(cell)]
        assert [age[1 + place] for age in ages] == [n * PERIOD_NS for n in since]
    assert max(max(age) for age in ages) == 3 * PERIOD_NS
    assert first['status'] == {'OK': 10}
    assert 'data:image' in (tmp_path / 'first' / 'report.html').read_text()


@pytest.mark.parametrize(
    ('method', 'keep', 'share'), [('none', '0.5', 1.0), ('uniform', '0.5', 0.5), ('st_prune', '1.0', 1.0)]
)
def test_method_and_keep_ratio_from_the_command_line(
    tmp_path: Path, params: Path, method: str, keep: str, share: float
):
    summary = run(write_bag(tmp_path / 'bag', drive(2)), tmp_path / 'out', params, '--method', method, '--keep', keep)
    assert summary['method'] == method
    assert (summary['joint_common'], summary['parameters']['pruning.joint_common']) == (0.6, -1.0)
    assert summary['tokens_kept'] == pytest.approx(share * summary['tokens_full'], abs=3)
    assert summary['tokens_off_budget_max'] <= len(summary['cameras']) / 2


def test_latency_target_is_summed_up(tmp_path: Path, params: Path, capsys):
    values = json.loads(params.read_text())
    values['/**']['ros__parameters'].update({'latency.target_ms': 0.001, 'latency.keep_min': 0.2})
    params.write_text(json.dumps(values))
    summary = run(write_bag(tmp_path / 'bag', drive(6)), tmp_path / 'out', params)
    latency = summary['latency']
    assert (latency['ticks'], latency['met'], latency['out_of_reach']) == (6, 0, 4)
    assert latency['keep_ratio'] == {'min': 0.2, 'median': 0.2, 'max': 0.3}
    assert any("'latency.target_ms' is 0.001, but even at keep ratio 0.2" in note for note in summary['notes'])
    assert summary['status'] == {'OK': 6}, 'a slow machine is no incomplete input'
    assert 'latency 0 of 6 hints within 0.001 ms, keep ratio 0.2 to 0.3; not repeatable' in capsys.readouterr().out
    assert 'hints within 0.001 ms; keep ratio 0.2 to 0.3' in (tmp_path / 'out' / 'report.html').read_text()


def test_untrained_model_is_marked_everywhere(tmp_path: Path, params: Path, model: Path, capsys):
    values = json.loads(params.read_text())
    untrained = make_tiny_model(tmp_path / 'untrained', 'ringworld')
    values['/**']['ros__parameters']['model.path'] = str(untrained)
    params.write_text(json.dumps(values))
    summary = run(write_bag(tmp_path / 'bag', drive(2)), tmp_path / 'out', params)
    assert summary['model_trained'] is False
    assert summary['status'] == {'INVALID': 2}
    assert 'NOT TRAINED' in capsys.readouterr().out
    assert 'This model is not trained.' in (tmp_path / 'out' / 'report.html').read_text()


def damaged(name: str) -> Any:
    """Replace the front images of the second tick by something broken."""

    def change(item: Item) -> Item | None:
        if '/front/image_raw' not in item.topic:
            return item
        raw = name in ('wrong encoding', 'wrong step', 'zero size')
        topic = item.topic.removesuffix('/compressed') if raw else item.topic
        good = image(item.stamp_ns) if raw else item.message
        broken = {
            'truncated': lambda: jpeg(item.stamp_ns, cut=200),
            'no bytes': lambda: jpeg(item.stamp_ns, cut=0),
            'wrong encoding': lambda: image(item.stamp_ns, encoding='klingon8'),
            'wrong step': lambda: image(item.stamp_ns, step=10),
            'zero size': lambda: image(item.stamp_ns, width=0),
        }[name]
        return replace(item, topic=topic, message=broken() if item.stamp_ns == START_NS + PERIOD_NS else good)

    return change


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


def as_video(item: Item) -> Item:
    if item.topic.endswith('compressed'):
        item.message.format, item.message.data = 'h264', np.frombuffer(b'\0\0\0\1\x67' + bytes(90), np.uint8)
    return item


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


def test_truth_beside_the_bag_is_compared(tmp_path: Path, params: Path):
    bag = write_bag(tmp_path / 'bag', drive(4))
    free = run(bag, tmp_path / 'free', params)
    with Bag(tmp_path / 'free' / 'results.mcap') as results:
        said = [Behavior(record.message().behavior).name for record in results.messages([HINT_TOPIC])][:3]
    true = ['STOP' if said[0] != 'STOP' else 'NONE', *said[1:]]
    ticks = [{'stamp_ns': START_NS + i * PERIOD_NS, 'behavior': name} for i, name in enumerate(true)]
    (bag / 'truth.json').write_text(json.dumps({'ticks': ticks}))
    summary = run(bag, tmp_path / 'out', params)
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for right, given in zip(true, said):
        answers[right][given] += 1
    assert free['truth'] is None
    assert summary['truth'] == {'known': 3, 'hits': 2, 'misses': 1, 'answers': answers}


def test_broken_truth_file_is_named(tmp_path: Path, params: Path, capsys):
    bag = write_bag(tmp_path / 'bag', drive(1))
    (bag / 'truth.json').write_text('{"ticks": [{"stamp_ns": 1, "behavior": "FLY"}]}')
    assert main(['replay', str(bag), '--output', str(tmp_path / 'out'), '--params', str(params)]) == 1
    assert f"truth file '{bag / 'truth.json'}', stamp 1: 'FLY' is no behavior" in capsys.readouterr().err


def test_replaying_takes_a_loaded_model_and_prints_nothing(tmp_path: Path, params: Path, capfd):
    settings = load_settings(params)
    backend, prompt = load_model(settings)
    capfd.readouterr()
    said, seen, output = [], [], tmp_path / 'out'

    def count() -> None:
        seen.append((output / 'results.mcap').stat().st_size)

    with Bag(write_bag(tmp_path / 'bag', drive(4, damaged('truncated')))) as bag:
        windows = BagWindows(bag, settings)
        summary = replay(windows, backend, prompt, output, say=said.append, on_message=count)
        assert len(seen) == windows.message_count == 4 * 7  # per tick three images, three camera_infos, odometry
    assert capfd.readouterr() == ('', '')
    assert len(set(seen)) >= 4, 'the results are on disk after each tick'
    assert len(said) == len(set(said))
    assert set(said) == {*summary['error_sentences'], *summary['notes']}
    assert summary == json.loads((output / 'summary.json').read_text())
    assert (summary['model_id'], summary['prompt_id']) == (backend.info.model_id, prompt.id)


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


def test_results_hold_the_hint_as_it_went_out_and_descriptions_only_where_wanted(tmp_path: Path, params: Path):
    values = json.loads(params.read_text())
    bag = write_bag(tmp_path / 'bag', drive(2))
    for describe, scenes in ((True, 2), (False, 0)):
        values['/**']['ros__parameters']['inference.describe'] = describe
        params.write_text(json.dumps(values))
        output = tmp_path / f'describe_{describe}'
        run(bag, output, params)
        with Bag(output / 'results.mcap') as results:
            hints = list(results.messages([HINT_TOPIC]))
            assert len(list(results.messages([SCENE_TOPIC]))) == scenes
        assert [hint.receive_ns for hint in hints] == [START_NS, START_NS + PERIOD_NS]
        assert all('describe' not in hint.message().info.stage_names for hint in hints)


def test_descriptions_come_at_the_pace_of_the_bag_s_stamps(tmp_path: Path, params: Path):
    """However fast it is replayed, the same ones each time; and each says what it says where every set is described."""
    values = json.loads(params.read_text())
    bag, texts, summaries = write_bag(tmp_path / 'bag', drive(7)), [], []
    for number, periods in enumerate((0.0, 2.5, 2.5)):
        values['/**']['ros__parameters']['inference.describe_period_ms'] = periods * PERIOD_NS / 1e6
        params.write_text(json.dumps(values))
        summaries.append(run(bag, tmp_path / str(number), params))
        with Bag(tmp_path / str(number) / 'results.mcap') as results:
            found = [(one.receive_ns, one.message()) for one in results.messages([SCENE_TOPIC])]
        texts.append({(at_ns - START_NS) // PERIOD_NS: message.description for at_ns, message in found})
    assert list(texts[0]) == list(range(7)) and any(texts[0].values())
    assert texts[1] == {number: texts[0][number] for number in (0, 3, 6)}
    assert texts[2] == texts[1]
    assert [sum(summary['descriptions'].values()) for summary in summaries] == [7, 3, 3]
    for summary in summaries:
        assert summary['ticks'] == 7 and summary['tick_ms']['p50'] > 0
        assert 0 < summary['times']['ticks_per_s'] < 1e4


def page_data(output: Path) -> dict[str, Any]:
    html = (output / 'report.html').read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def test_report_shows_every_tick_with_the_picture_that_the_results_have(tmp_path: Path, params: Path):
    output = tmp_path / 'out'
    run(write_bag(tmp_path / 'bag', drive(3)), output, params)
    data = page_data(output)
    assert data['speed'] == [5.0] * 3 and data['seconds'] == [0, 0.1, 0.2]
    assert data['stamp'] == [stamp_text(START_NS + tick * PERIOD_NS) for tick in range(3)]
    assert all(len(values) == 3 for values in (*data['kept'].values(), *data['stages'].values()))
    with Bag(output / 'results.mcap') as results:
        overlays = [record.message().data.tobytes() for record in results.messages([OVERLAY_TOPIC])]
    assert [picture_data(jpeg) for jpeg in overlays] == list(data['pictures'].values())
    decoded = cv2.imdecode(np.frombuffer(overlays[0], np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (HEADER_HEIGHT + 2 * (TILE_HEIGHT + FOOTER_HEIGHT), 2 * TILE_WIDTH, 3)


def test_pictures_of_a_replay_have_reasons(tmp_path: Path, params: Path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        drawing, 'ring_picture', lambda answer, overlaps: seen.append(answer) or np.zeros((8, 8, 3), np.uint8)
    )
    run(write_bag(tmp_path / 'bag', drive(2)), tmp_path / 'out', params)
    for answer in seen:
        for view in answer.views:
            assert view.reasons.shape == view.keep.shape
            assert set(view.reasons[view.keep].tolist()) <= set(KEPT_REASONS)
            assert set(view.reasons[~view.keep].tolist()) <= set(DROPPED_REASONS)
    assert len(seen) == 2


def hints_of(output: Path) -> list[tuple[int, int, list[float], int]]:
    with Bag(output / 'results.mcap') as results:
        messages = [record.message() for record in results.messages([HINT_TOPIC])]
    return [
        (m.header.stamp.sec * 10**9 + m.header.stamp.nanosec, m.behavior, m.probabilities.tolist(), m.info.tokens_full)
        for m in messages
    ]


def test_a_span_gives_the_same_hints_as_the_whole(tmp_path: Path, params: Path):
    bag = write_bag(tmp_path / 'bag', drive(6))
    whole = run(bag, tmp_path / 'whole', params)
    first, last = (stamp_text(START_NS + tick * PERIOD_NS) for tick in (3, 4))
    part = run(bag, tmp_path / 'part', params, '--from', first, '--until', last)
    everything, found = hints_of(tmp_path / 'whole'), hints_of(tmp_path / 'part')
    assert [one[:2] + one[3:] for one in found] == [one[:2] + one[3:] for one in everything[3:5]], 'history included'
    assert np.allclose([one[2] for one in found], [one[2] for one in everything[3:5]], atol=1e-4)
    assert whole['span'] is None and whole['bag_id'] == part['bag_id']
    assert (part['ticks'], part['span']['from_ns']) == (2, START_NS + 3 * PERIOD_NS)
    assert 'only the ticks from' in (tmp_path / 'part' / 'report.html').read_text()


def test_the_command_of_the_report_replays_its_moment(tmp_path: Path, params: Path):
    bag, output = write_bag(tmp_path / 'bag', drive(4)), tmp_path / 'out'
    run(bag, output, params)
    data = page_data(output)
    command = data['command'].replace(data['stamp_word'], data['stamp'][2])
    folder, _, arguments = command.partition(' && stprune ')
    assert folder == f'cd {Path.cwd()}'
    assert main(shlex.split(arguments)) == 0
    [moment] = hints_of(output / f'at_{data["stamp"][2]}')
    assert moment[:2] == hints_of(output)[2][:2]
    assert moment[3] == hints_of(output)[2][3], 'the same parameters and the same history'


@pytest.mark.parametrize(('stamp_ns', 'nearest'), [(START_NS - 10**9, 0), (START_NS + 10**9, 3)])
def test_a_span_without_a_tick_names_the_nearest_one(tmp_path: Path, params: Path, capsys, stamp_ns: int, nearest: int):
    bag, at = write_bag(tmp_path / 'bag', drive(4)), stamp_text(stamp_ns)
    words = [
        'replay',
        str(bag),
        '--output',
        str(tmp_path / 'out'),
        '--params',
        str(params),
        '--from',
        at,
        '--until',
        at,
    ]
    assert main(words) == 1
    found = stamp_text(START_NS + nearest * PERIOD_NS)
    expected = f"bag '{bag}' has no tick from {at} until {at}; the nearest one is at {found}: change --from or --until"
    assert capsys.readouterr().err.splitlines()[-1] == f'stprune: {expected}'


def test_spans_that_mean_nothing_are_refused(tmp_path: Path, params: Path, capsys):
    bag = str(write_bag(tmp_path / 'bag', drive(1)))
    words = ['replay', bag, '--output', str(tmp_path / 'out'), '--params', str(params)]
    assert main([*words, '--from', '2.5', '--until', '1']) == 1
    assert '--from 2.500000000 is after --until 1.000000000: exchange them' in capsys.readouterr().err
    for text in ('-1', '1e9', 'now', '1.0000000001', ''):
        with pytest.raises(SystemExit):
            main([*words, f'--from={text}'])
        assert 'is not a stamp in seconds such as' in capsys.readouterr().err


def test_parameters_of_a_run_are_left_as_a_file_that_gives_the_same(tmp_path: Path):
    settings = Settings.from_values(
        {
            'cameras.names': ['a', 'b'],
            'cameras.offsets_ms': [1.5, 0.0],
            'model.path': "it's",
            'inference.describe': False,
        }
    )
    for given in (settings, Settings()):
        file = tmp_path / 'x.param.yaml'
        file.write_text(parameter_text(given), encoding='utf-8')
        assert load_settings(file) == given


def test_what_was_warned_is_in_the_summary_with_its_time(tmp_path: Path, params: Path):
    summary = run(write_bag(tmp_path / 'bag', drive(4, damaged('truncated'))), tmp_path / 'out', params)
    [found] = [one for one in summary['warned'] if 'is truncated' in one['sentence']]
    assert (found['count'], found['first_ns'], found['last_ns']) == (1, START_NS + PERIOD_NS, START_NS + PERIOD_NS)
    assert summary['versions']['torch'] == version('torch') and summary['parameters']['pruning.keep_ratio'] == 0.3


def test_the_identity_of_a_bag_is_its_content(tmp_path: Path):
    same = [write_bag(tmp_path / name, drive(3)) for name in ('one', 'copy')]
    later = write_bag(tmp_path / 'longer', drive(4))
    other = write_bag(tmp_path / 'other', drive(3, lambda item: replace(item, stamp_ns=item.stamp_ns + 1)))

    def identity(path: Path) -> str:
        with Bag(path) as bag:
            return bag_identity(bag, ['/camera/front/image_raw/compressed'])

    found = [identity(path) for path in (*same, later, other)]
    assert found[0] == found[1] and len(set(found)) == 3


@pytest.mark.slow
def test_recorded_ring(tmp_path: Path, params: Path, test_data: Path):
    values = json.loads(params.read_text())
    values['/**']['ros__parameters'].update({'inference.period_ms': 1000.0, 'inference.describe': False})
    params.write_text(json.dumps(values))
    summary = run(test_data / 'pandaset_002' / 'bag', tmp_path / 'out', params)
    assert summary['cameras'] == ['CAM_FRONT', 'CAM_FRONT_RIGHT', 'CAM_RIGHT', 'CAM_BACK', 'CAM_LEFT', 'CAM_FRONT_LEFT']
    assert summary['sets_full'] + summary['sets_partial'] == 40
    assert summary['sets_full'] >= 38
    assert summary['sets_skipped'] == 0
    assert all(view['tokens_kept'] > 0 for view in summary['views'].values())
    overlaps = np.array([view['overlap_right_deg'] for view in summary['views'].values()])
    assert overlaps.min() == pytest.approx(0.7, abs=0.2)
    assert overlaps.max() == pytest.approx(60.7, abs=0.5)
