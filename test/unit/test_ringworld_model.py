"""The bundled model: complete, small enough, and right more often than a guess on scenes that it has not seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stprune_ros import cli
from stprune_ros.arguments import with_host
from stprune_ros.errors import ModelError
from stprune_ros.evaluation.model_card import evaluate_model
from stprune_ros.evaluation.ringworld_cases import ModelCardCases
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.ringworld.training.tokenizer import make_tokenizer
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.loading import load_model
from stprune_ros.vlm.prompt import Prompt

FOLDER = Path(__file__).resolve().parents[2] / 'models' / 'ringworld'
HOSTS_BESIDE = {'ringworld_internvl': 'internvl', 'ringworld_neutral': 'qwen3_vl'}


@pytest.fixture(scope='module')
def backend() -> Backend:
    return TransformersBackend.load(FOLDER, device='cpu')


def test_the_folder_is_complete_and_small(backend: Backend) -> None:
    assert backend.info.trained
    assert backend.info.family == 'qwen3_vl'
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 25e6
    facts = json.loads((FOLDER / 'stprune.json').read_text(encoding='utf-8'))
    assert facts['held_out']['keep 1']['hint']['accuracy'] > facts['held_out']['blind']['hint']['accuracy'] + 0.2


def test_the_tokenizer_in_the_folder_is_the_one_that_the_code_makes() -> None:
    saved = json.loads((FOLDER / 'tokenizer.json').read_text(encoding='utf-8'))
    assert saved['model']['vocab'] == json.loads(make_tokenizer().backend_tokenizer.to_str())['model']['vocab']


def test_a_candidate_without_tokens_is_named(backend: Backend) -> None:
    context = backend.prefill('', ['front: no data.'])
    assert len(backend.score(context, 'what should the ego vehicle do?', ['none', 'slow down'])) == 2
    with pytest.raises(ModelError, match="model 'ringworld' has no token for a word of candidate 'increase gap'"):
        backend.score(context, 'what should the ego vehicle do?', ['none', 'increase gap'])


def test_a_prompt_without_words_for_the_model_is_not_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (FOLDER / 'prompt.yaml').read_text(encoding='utf-8')
    assert 'text: slow down' in text
    prompt, params = tmp_path / 'prompt.yaml', tmp_path / 'p.yaml'
    prompt.write_text(text.replace('text: slow down', 'text: brake'), encoding='utf-8')
    told = "model 'ringworld' has no token for a word of candidate 'brake'; rename it"
    with pytest.raises(ModelError, match=told):
        load_model(Settings.from_values({'prompt.file': str(prompt)}))
    params.write_text(f'/**:\n  ros__parameters:\n    prompt: {{file: {prompt}}}\n', encoding='utf-8')
    assert cli.main(['check', str(params)]) == 0, 'that needs the tokenizer'
    capsys.readouterr()
    assert cli.main(['check', str(params), '--model']) == 1
    assert capsys.readouterr().err == f'stprune: {told}\n'


def test_answers_beat_a_guess(backend: Backend) -> None:
    prompt = Prompt.load(FOLDER / 'prompt.yaml')
    configs = {'all': PruningConfig('none', 1.0), 'tenth': PruningConfig('st_prune_joint', 0.1)}
    table = evaluate_model(backend, prompt, ModelCardCases(5), configs, blind=True)
    for name, expected in (('all', 0.8), ('tenth', 0.75)):
        assert table[name]['perception']['accuracy'] >= expected
        assert table[name]['description']['precision'] >= expected
    assert table['blind']['perception']['accuracy'] < 0.7
    assert 'description' not in table['blind']


def test_hosts_that_ship_are_small_together() -> None:
    shipped = {path.parent.name: path.stat().st_size for path in FOLDER.parent.glob('*/model.safetensors')}
    assert shipped.keys() == {'ringworld', *HOSTS_BESIDE}
    assert sum(shipped.values()) < 25e6


@pytest.mark.parametrize(('name', 'family'), HOSTS_BESIDE.items())
def test_a_host_beside_is_found_by_name_and_answers(name: str, family: str) -> None:
    folder = FOLDER.parent / name
    assert with_host(Settings(), name).model.path == str(folder)
    backend = TransformersBackend.load(folder, device='cpu')
    assert (backend.info.trained, backend.info.family) == (True, family)
    facts = json.loads((folder / 'stprune.json').read_text(encoding='utf-8'))
    assert facts['recipe']['background_weight'] == 0.0
    assert facts['hard_drives'] == 750
    prompt = Prompt.load(folder / 'prompt.yaml')
    scores = evaluate_model(backend, prompt, ModelCardCases(6), {'all': PruningConfig('none', 1.0)}, 0)
    found = [scores['all'][kind] for kind in ('perception', 'planning')]
    assert sum(kind['accuracy'] * kind['n'] for kind in found) > 0.5 * sum(kind['n'] for kind in found)
