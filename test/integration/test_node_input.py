"""What the node refuses at its start, and broken raw images while it runs."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

pytest.importorskip('rclpy')

from helpers.harness import HEIGHT, WIDTH, NodeProcess, Vehicle, base_values, raw_image
from helpers.tiny_models import make_tiny_model
from sensor_msgs.msg import Image

from stprune_ros.msg import CameraStatus, PlanningHint


@pytest.mark.parametrize(
    ('values', 'sentence'),
    [
        ({'pruning.keep_ratio': 2.0}, "parameter 'pruning.keep_ratio' is 2.0; allowed is a number in [0.001, 1]"),
        ({'pruning.keep_ration': 0.1}, "no parameter 'pruning.keep_ration'; did you mean 'pruning.keep_ratio'?"),
        ({'cameras.names': []}, "parameter 'cameras.names' is empty"),
        ({'cameras.names': ['front-left']}, "camera 'front-left' in 'cameras.names' cannot be part of a topic"),
        ({'cameras.rig_file': '/nowhere.yaml'}, "rig file '/nowhere.yaml' cannot be read"),
        ({'model.path': '/nowhere'}, "model folder '/nowhere' does not exist"),
        ({'prompt.file': '/nowhere.yaml'}, '/nowhere.yaml'),
    ],
    ids=['range', 'name', 'no cameras', 'camera name', 'rig file', 'model', 'prompt'],
)
def test_wrong_start_ends_in_a_sentence(values, sentence, tiny, domain_id, tmp_path):
    vehicle = Vehicle(domain_id, '/wrong')
    try:
        node = NodeProcess(tmp_path, vehicle, {**base_values(tiny), **values})
        assert node.wait() == 1
    finally:
        vehicle.close()
    assert sentence in node.output()
    assert 'Traceback' not in node.output()


def test_params_file_that_rcl_cannot_read_ends_in_a_sentence(tiny, domain_id, tmp_path):
    vehicle = Vehicle(domain_id, '/wrong')
    try:
        node = NodeProcess(tmp_path, vehicle, {**base_values(tiny), 'cameras.offsets_ms': [0, 1.5, 2.5]})
        assert node.wait() == 1
    finally:
        vehicle.close()
    assert "stprune_node: failed to initialize rcl: Couldn't parse params file" in node.output()
    assert 'Traceback' not in node.output()


def test_broken_raw_images_cost_one_view_each(tiny, domain_id, tmp_path):
    vehicle = Vehicle(domain_id, '/raw', Image)
    values = {**base_values(tiny), 'cameras.transport': 'raw', 'inference.describe': False}
    node = NodeProcess(tmp_path, vehicle, values)
    good = vehicle.images['right']
    try:
        for broken, sentence in BROKEN.items():
            vehicle.images['right'] = good
            vehicle.wait_until(lambda: vehicle.hints[-1:] and vehicle.hints[-1].status == PlanningHint.OK, 'OK', node)
            vehicle.images['right'] = broken
            vehicle.wait_until(lambda said=sentence: any_note(vehicle.hints[-1], said), sentence, node)
            view = next(camera for camera in vehicle.hints[-1].info.cameras if camera.name == 'right')
            assert (view.state, view.tokens_kept) == (CameraStatus.INVALID, 0)
    finally:
        code = node.stop()
        vehicle.close()
    assert code == 0
    assert vehicle.texts == []


def any_note(hint: PlanningHint, sentence: str) -> bool:
    return hint.status == PlanningHint.DEGRADED and any(sentence in note for note in hint.info.notes)


def short_image() -> Image:
    return Image(height=HEIGHT, width=WIDTH, encoding='rgb8', step=WIDTH * 3, data=array('B', bytes(100)))


BROKEN = {
    lambda: raw_image('8UC3'): "encoding '8UC3' does not say what its channels are",
    lambda: raw_image(step=WIDTH): f'step is {WIDTH} bytes, but a row of {WIDTH} rgb8 pixels takes {WIDTH * 3}',
    lambda: raw_image(height=0): f'the image is empty: {WIDTH}x0 pixels',
    short_image: 'the image has 100 bytes',
}


@pytest.fixture(scope='module')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path
