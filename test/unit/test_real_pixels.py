"""The measurement on recorded images: what it counts, and a small run of its command on a bag of ringworld."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.ringworld_cases import ringworld_rig
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.pruning.view_tokens import ViewTokens
from stprune_ros.ringworld.recording import record_world
from stprune_ros.settings.settings import Settings

FILE = Path(__file__).resolve().parents[2] / 'benchmark' / 'real_pixels.py'


@pytest.fixture(scope='module')
def real_pixels():
    spec = importlib.util.spec_from_file_location('real_pixels', FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules['real_pixels'] = module  # where its data classes look for their types
    spec.loader.exec_module(module)
    return module


def window(*cameras):
    return SimpleNamespace(current=SimpleNamespace(frames={camera: SimpleNamespace(stamp_ns=7) for camera in cameras}))


def test_objects_and_tokens_are_counted(real_pixels):
    """A grid of 2 x 4 in which a moving object covers the left column and a parked one the cell beside it on top."""
    rig = ringworld_rig()
    camera = rig.ring[0]
    width, height = rig.cameras[camera].width, rig.cameras[camera].height
    left = {'box': [0, 0, width / 4, height], 'range_m': 9.0, 'motion': 'Moving'}
    beside = {'box': [width / 4, 0, width / 2, height / 2], 'range_m': 9.0, 'motion': 'Parked'}
    far = {**left, 'range_m': 90.0}
    keep = np.array([[True, False, True, False], [False, False, False, False]])
    total: Counter[str] = Counter()
    real_pixels.add_tick(total, {camera: keep}, window(camera), {(camera, 7): [left, beside, far]}, rig)
    assert {key: value for key, value in total.items() if value} == {
        'Moving objects': 1, 'Moving seen': 1, 'Parked objects': 1,
        'things': 3, 'things kept': 1, 'background': 5, 'background kept': 1, 'kept': 2,
    }  # fmt: skip
    row = real_pixels._row('uniform', 0.25, total)
    assert (row['moving'], row['parked'], row['things'], row['background']) == (1.0, 0.0, 0.3333, 0.2)
    assert row['lift'] == pytest.approx(5 / 3, abs=1e-3)


def test_commonness_as_a_detector(real_pixels):
    """Three views show the same but for one token of the first: only as the object it makes the area 1."""
    rig = ringworld_rig()
    tokens = torch.eye(16)[:8].reshape(1, 2, 4, 16)
    views = [ViewTokens(camera, tokens.clone(), (0,)) for camera in rig.ring[:3]]
    views[0].tokens[0, 1, 3] = torch.eye(16)[9]
    width, height = rig.cameras[rig.ring[0]].width, rig.cameras[rig.ring[0]].height
    shown = window(*(view.name for view in views))
    odd = [{'box': [width * 3 / 4, height / 2, width, height]}]
    common = [{'box': [0, 0, width / 4, height / 2]}]
    assert real_pixels.tell_apart(views, shown, {(views[0].name, 7): odd}, rig)[1] == 1.0
    gauge, area = real_pixels.tell_apart(views, shown, {(views[1].name, 7): common}, rig)
    assert area < 0.9  # one of many that are alike
    assert 0.5 < gauge <= 1.0


def test_a_layer_must_be_named(real_pixels, monkeypatch):
    network = SimpleNamespace(getLayerNames=lambda: ['a/add', 'b/add'])
    monkeypatch.setattr(real_pixels.cv2.dnn, 'readNet', lambda path: network)
    with pytest.raises(StpruneError, match="2 layers of 'net.onnx' end in 'add'"):
        real_pixels.NetworkLayer.load(Path('net.onnx'), 'add', 300)
    assert real_pixels.NetworkLayer.load(Path('net.onnx'), 'b/add', 300).layer == 'b/add'


def test_a_small_run(real_pixels, tmp_path, monkeypatch, capsys):
    record_world(tmp_path / 'bag', 3, 2.0, 2.0)
    with Bag(tmp_path / 'bag') as bag:
        windows = BagWindows(bag, Settings())
        ticks = list(windows.read())
        boxes = [
            {
                'camera': camera,
                'stamp_ns': frame.stamp_ns,
                'box': [0, 0, 10_000, 10_000],
                'range_m': 5,
                'motion': 'Parked',
            }
            for tick in ticks
            for camera, frame in tick.current.frames.items()
            if camera == windows.rig.ring[0]
        ]
    (tmp_path / 'boxes.json').write_text(json.dumps(boxes))
    output = tmp_path / 'out.json'
    arguments = [str(FILE), str(tmp_path), '--output', str(output), '--methods', 'newest_uniform,evs', '--keep', '0.1']
    monkeypatch.setattr('sys.argv', arguments)
    measure, weights = real_pixels.measure_kept_objects, []

    def spy(*given):
        weights.append(given[-1].pruning.joint_common)
        return measure(*given)

    monkeypatch.setattr(real_pixels, 'measure_kept_objects', spy)
    real_pixels.main()
    assert weights == [2.4]  # what the bundled model asks for
    result = json.loads(output.read_text())
    [row] = result['rows']  # EVS is undefined there
    assert (row['method'], row['parked'], row['parked_objects']) == ('newest_uniform', 1.0, len(ticks))
    assert row['moving_objects'] == 0
    assert 0 < result['separability'] <= 1
    assert '| newest_uniform | 10% |' in capsys.readouterr().out
