"""What takes long is said, once in a while; what is quick is not."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from helpers.tiny_models import make_tiny_model

from stprune_ros import progress
from stprune_ros.errors import StpruneError
from stprune_ros.progress import said_while_slow
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm import loading
from stprune_ros.vlm.hf import backend, weight_digest

WAIT_S = 60.0


class Lines(list):
    """Sentences; ``wait`` returns once there are so many."""

    def __init__(self) -> None:
        super().__init__()
        self._said = Event()

    def say(self, sentence: str) -> None:
        self.append(sentence)
        self._said.set()

    def wait(self, count: int) -> None:
        end = time.monotonic() + WAIT_S
        while len(self) < count and time.monotonic() < end:
            self._said.wait(0.01)
        assert len(self) >= count


def test_what_is_quick_is_not_said():
    lines = Lines()
    with said_while_slow(lines.say, lambda: 'slow'):
        pass
    assert lines == []


def test_what_is_slow_is_said_now_and_then_with_its_state(monkeypatch):
    monkeypatch.setattr(progress, 'FIRST_S', 0.01)
    monkeypatch.setattr(progress, 'NEXT_S', 0.02)
    lines = Lines()
    with said_while_slow(lines.say, lambda: f'line {len(lines)}'):
        lines.wait(3)
    said = list(lines)
    time.sleep(0.1)
    assert lines == said == [f'line {number}' for number in range(len(said))], 'nothing after the end'


def test_one_line_is_enough_for_seconds(monkeypatch):
    assert progress.FIRST_S == 1.0
    assert progress.NEXT_S >= 5.0
    monkeypatch.setattr(progress, 'FIRST_S', 0.01)
    lines = Lines()
    with said_while_slow(lines.say, lambda: 'slow'):
        lines.wait(1)
        time.sleep(0.2)
    assert lines == ['slow']


def test_a_failure_ends_the_lines_and_goes_on(monkeypatch):
    with pytest.raises(ValueError, match='broken'), said_while_slow(Lines().say, lambda: 'slow'):
        raise ValueError('broken')


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')


def test_hashing_and_loading_are_said(model, monkeypatch):
    """Both steps are held up until their line is out."""
    monkeypatch.setattr(progress, 'FIRST_S', 0.01)
    lines = Lines()
    original = backend.load_pretrained

    def held_up(*arguments):
        lines.wait(2)
        return original(*arguments)

    class SlowHash:
        def __init__(self, hasher):
            self._hasher = hasher

        def update(self, block):
            lines.wait(1)
            self._hasher.update(block)

        def hexdigest(self):
            return self._hasher.hexdigest()

    sha256 = weight_digest.hashlib.sha256
    monkeypatch.setattr(weight_digest, 'hashlib', SimpleNamespace(sha256=lambda *data: SlowHash(sha256(*data))))
    monkeypatch.setattr(backend, 'load_pretrained', held_up)
    loading.load_model(Settings.from_values({'model.path': str(model), 'model.device': 'cpu'}), lines.say)
    size = f'{(model / "model.safetensors").stat().st_size / 2**20:.2f} MiB'
    assert lines[0] == f"hashing the weights of '{model}': 0.00 MiB of {size}"
    assert lines[1] == f"loading the weights of '{model}', {size}: 0 s so far"


def test_the_node_says_it_in_its_log(monkeypatch):
    """What loads on the worker's thread is told so by the node."""
    pytest.importorskip('rclpy')
    from stprune_ros.ros.loading import Loading

    said: list[str] = []

    def load_model(settings, say):
        say('loading for long')
        raise StpruneError('that is enough')

    monkeypatch.setattr(loading, 'load_model', load_model)
    attempt = Loading(Settings(), said.append)
    attempt.run()
    assert (said, attempt.fault) == (['loading for long'], 'that is enough')


def test_what_nobody_wants_any_more_is_not_loaded(monkeypatch):
    """Transitions may come faster than models load."""
    pytest.importorskip('rclpy')
    from stprune_ros.ros.loading import Loading

    monkeypatch.setattr(loading, 'load_model', lambda settings, say: pytest.fail('it was loaded'))
    attempt = Loading(Settings())
    attempt.abandoned = True
    attempt.run()
    assert attempt.done.is_set() and attempt.model is None and not attempt.fault
