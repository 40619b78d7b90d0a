"""The bundled model: complete, small enough, and right more often than a guess on scenes that it has not seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stprune_ros.evaluation.model_card import evaluate
from stprune_ros.pruning.view_tokens import PruningConfig
from stprune_ros.ringworld.scenes import HELD_OUT, Scene, make_scene
from stprune_ros.ringworld.training.model import make_tokenizer
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.prompt import Prompt

FOLDER = Path(__file__).resolve().parents[2] / 'models' / 'ringworld'


@pytest.fixture(scope='module')
def backend() -> Backend:
    return TransformersBackend.load(FOLDER, device='cpu')


@pytest.fixture(scope='module')
def scenes() -> list[Scene]:
    return [make_scene(HELD_OUT + number) for number in range(5)]


def test_the_folder_is_complete_and_small(backend: Backend) -> None:
    assert backend.info.trained
    assert backend.info.family == 'qwen3_vl'
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 25e6
    facts = json.loads((FOLDER / 'stprune.json').read_text(encoding='utf-8'))
    assert facts['held_out']['keep 1']['hint']['accuracy'] > facts['held_out']['blind']['hint']['accuracy'] + 0.2


def test_the_tokenizer_in_the_folder_is_the_one_that_the_code_makes() -> None:
    saved = json.loads((FOLDER / 'tokenizer.json').read_text(encoding='utf-8'))
    assert saved['model']['vocab'] == json.loads(make_tokenizer().backend_tokenizer.to_str())['model']['vocab']


@pytest.mark.parametrize(('keep', 'perception', 'precision'), [(1.0, 0.8, 0.8), (0.1, 0.75, 0.75)])
def test_answers_beat_a_guess(
    backend: Backend, scenes: list[Scene], keep: float, perception: float, precision: float
) -> None:
    prompt = Prompt.load(FOLDER / 'prompt.yaml')
    table = evaluate(backend, prompt, scenes, PruningConfig('st_prune_joint', keep), questions=8)
    assert table['perception']['accuracy'] >= perception
    assert table['description']['precision'] >= precision
