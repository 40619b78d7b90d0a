"""Who says how much commonness counts: the parameter, else the model folder, else a number for all other models."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.pipelines import NAMES, make_rig
from helpers.tiny_models import make_tiny_model
from helpers.token_rings import AskedCache, ring

from stprune_ros import cli
from stprune_ros.core.types import CameraFrame, FrameSet, Window
from stprune_ros.errors import ModelError, SettingsError
from stprune_ros.evaluation.exam import EncodedScene
from stprune_ros.evaluation.fidelity import EvaluationPlan, ask_all
from stprune_ros.evaluation.ringworld_cases import RingworldCases
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.inference.provenance import provenance_of
from stprune_ros.pruning import pruner
from stprune_ros.pruning.config import LEFT_TO_MODEL, SILENT_WEIGHT, PruningConfig
from stprune_ros.pruning.pruner import SpatioTemporalPruner
from stprune_ros.resources import resource_path
from stprune_ros.ringworld.training.plans import Recipe
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.hf.model_folder import locate_model
from stprune_ros.vlm.hint_calibration import bound_parameters
from stprune_ros.vlm.loading import BUNDLED_MODEL, load_calibration, load_model, model_identity


def test_a_number_that_is_set_holds_for_every_model():
    assert PruningConfig(joint_common=0.0).for_model(2.4).joint_weights == (0.0, 1.0, 0.0)
    assert PruningConfig(joint_common=3.0).for_model(None).joint_weights == (0.375, 1.0, 3.0)


def test_what_is_left_to_the_model_is_what_its_folder_says_or_a_number_for_all_others():
    left = PruningConfig()
    assert left.joint_common == LEFT_TO_MODEL
    assert left.for_model(2.4) == replace(left, joint_common=2.4)
    assert left.for_model(2.4).joint_weights == (0.3, 1.0, 2.4)
    assert left.for_model(0.0).joint_weights == (0.0, 1.0, 0.0)
    assert left.for_model(None) == replace(left, joint_common=SILENT_WEIGHT)
    assert left.joint_weights == (0.0, 1.0, SILENT_WEIGHT) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize('method', ['st_prune_joint', 'st_prune_staged'])
@pytest.mark.parametrize(('weight', 'expected'), [(0.0, False), (LEFT_TO_MODEL, False), (0.01, True)])
def test_without_a_weight_views_are_not_compared(monkeypatch, method, weight, expected):
    compared, cache = [], AskedCache()

    given = pruner.commonness
    monkeypatch.setattr(pruner, 'commonness', lambda *views: compared.append(True) or given(*views))
    SpatioTemporalPruner(PruningConfig(method, 0.25, joint_common=weight), cache)(ring(views=3, frames=2), 2)
    assert (bool(compared), cache.asked) == (expected, [expected])


@pytest.mark.parametrize('value', [-0.99, -0.5, -1e-9])
def test_between_no_number_and_none_at_all_nothing_is_allowed(value):
    with pytest.raises(SettingsError, match=f"'pruning.joint_common' is {value}; allowed are 0 to 10, and -1 to leave"):
        Settings.from_values({'pruning.joint_common': value})


def test_checking_names_no_number_at_all_beside_what_else_is_wrong(tmp_path, capsys):
    file = tmp_path / 'my.param.yaml'
    values = {'pruning': {'joint_common': -0.5, 'seed': -4}, 'prompt': {'calibration': '/nowhere.yaml'}}
    file.write_text(yaml.safe_dump({'/**': {'ros__parameters': values}}))
    assert cli.main(['check', str(file), '--model']) == 1
    seed, weight, *others = capsys.readouterr().err.splitlines()
    assert seed.startswith(f"{file}: parameter 'pruning.seed' is -4; allowed is")
    assert weight.startswith(f"{file}: parameter 'pruning.joint_common' is -0.5; allowed are 0 to 10, and -1")
    assert not any('joint_common' in line for line in others)


def test_the_bundled_model_asks_for_the_weight_that_it_was_measured_with():
    assert locate_model(resource_path(BUNDLED_MODEL)).joint_common == 2.4


@pytest.mark.parametrize('name', ['ringworld_neutral', 'ringworld_internvl'])
def test_hosts_that_were_trained_without_a_penalty_ask_for_nothing(name):
    assert locate_model(resource_path('models') / name).joint_common is None


@pytest.mark.parametrize('value', ['2.4', True, -0.1, 10.1, float('nan')])
def test_a_folder_that_says_no_weight_is_refused(tmp_path, value):
    folder = make_tiny_model(tmp_path / 'tiny', 'ringworld')
    (folder / 'stprune.json').write_text(json.dumps({'trained': True, 'pruning.joint_common': value}))
    with pytest.raises(ModelError, match=r"'pruning.joint_common' in '.*' is .*; it must be a number from 0 to 10"):
        locate_model(folder)


@pytest.mark.parametrize(
    ('name', 'value'), [('pruning', {'joint_common': 2.4}), ('joint_common', 2.4), ('pruning.keep_ratio', 0.2)]
)
def test_a_folder_that_says_something_else_of_pruning_is_refused(tmp_path, name, value):
    folder = make_tiny_model(tmp_path / 'tiny', 'ringworld')
    (folder / 'stprune.json').write_text(json.dumps({'trained': True, name: value}))
    with pytest.raises(ModelError) as error:
        locate_model(folder)
    rest = "is not read; of pruning only 'pruning.joint_common' may stand there"
    assert str(error.value) == f"'{name}' in '{folder / 'stprune.json'}' {rest}"


@pytest.mark.parametrize('value', [0, 10, 1.5])
def test_a_folder_may_say_any_weight_that_the_parameter_may_have(tmp_path, value):
    folder = make_tiny_model(tmp_path / 'tiny', 'ringworld')
    (folder / 'stprune.json').write_text(json.dumps({'trained': False, 'pruning.joint_common': value}))
    backend, _ = load_model(Settings.from_values({'model.path': str(folder), 'model.device': 'cpu'}))
    assert backend.info.joint_common == value


@pytest.mark.parametrize(
    ('name', 'sentence'),
    [
        ('ringworld', '2.4, stprune.json asks for that'),
        ('ringworld_neutral', '0, stprune.json says nothing of it'),
    ],
)
def test_checking_says_which_weight_holds(tmp_path, capsys, name, sentence):
    file = tmp_path / 'my.param.yaml'
    values = {'model': {'path': str(resource_path('models') / name)}, 'pruning': {'joint_common': -1.0}}
    file.write_text(yaml.safe_dump({'/**': {'ros__parameters': values}}))
    assert cli.main(['check', str(file), '--model']) == 0
    assert f"{file}: 'pruning.joint_common' is left to the model: {sentence}\n" in capsys.readouterr().out
    values['pruning']['joint_common'] = 1.0
    file.write_text(yaml.safe_dump({'/**': {'ros__parameters': values}}))
    assert cli.main(['check', str(file), '--model']) == 0
    assert 'joint_common' not in capsys.readouterr().out


def test_results_of_a_fleet_say_which_weight_held(tmp_path):
    """What a folder says may change while its weights stay."""
    folder = make_tiny_model(tmp_path / 'tiny', 'ringworld')
    settings = Settings.from_values({'model.path': str(folder), 'model.device': 'cpu'})
    identities = [model_identity(settings)]
    (folder / 'stprune.json').write_text(json.dumps({'trained': True, 'pruning.joint_common': 1.5}))
    identities += [model_identity(settings), model_identity(settings.changed({'pruning.joint_common': 3.0}))]
    assert [found.joint_common for found in identities] == [0.0, 1.5, 3.0]
    assert len({found._replace(joint_common=0.0) for found in identities}) == 1
    backend, prompt = load_model(settings)
    assert provenance_of(settings, backend.info, prompt).joint_common == 1.5


def test_a_calibration_holds_for_a_weight_whoever_said_it(tmp_path):
    """Files fitted while 2.4 was the default still hold for the bundled model, and no longer where it asks for less."""
    left, said = Settings(), Settings.from_values({'pruning.joint_common': 2.4})
    parameters = dict(bound_parameters(said))
    tree = {'model': {'id': 'ringworld', 'revision': 'x'}, 'prompt': 'p', 'parameters': parameters, 'temperature': 1.0}
    candidates = [{'behavior': name, 'bias': 0.0, 'content_free': 0.0} for name in ('NONE', 'STOP')]
    file = tmp_path / 'c.yaml'
    file.write_text(yaml.safe_dump({**tree, 'candidates': candidates, 'report': {}}))
    named = {'prompt.calibration': str(file)}
    for settings in (left, said):
        assert load_calibration(settings.changed(named)).parameters['pruning.joint_common'] == 2.4
    folder = make_tiny_model(tmp_path / 'tiny', 'ringworld')
    elsewhere = left.changed({**named, 'model.path': str(folder)})
    with pytest.raises(ModelError, match='fitted with pruning.joint_common 2.4, here it is 0.0'):
        load_calibration(elsewhere)
    (folder / 'stprune.json').write_text(json.dumps({'trained': True, 'pruning.joint_common': 2.4}))
    assert load_calibration(elsewhere) is not None
    with pytest.raises(ModelError, match='fitted with pruning.joint_common 2.4, here it is 3.0'):
        load_calibration(left.changed({**named, 'pruning.joint_common': 3.0}))


class Asking:
    """The real backend, of which one says what it asks for."""

    def __init__(self, backend, joint_common):
        self._backend = backend
        self.info = replace(backend.info, joint_common=joint_common)

    def __getattr__(self, name):
        return getattr(self._backend, name)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    folder = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    return load_model(Settings.from_values({'model.path': str(folder), 'model.device': 'cpu'}))


def kept_by_the_pipeline(tiny, tmp_path: Path, joint_common, values):
    """What a tick with three cameras and two frames keeps of each view."""
    backend, prompt = tiny
    rig = make_rig(tmp_path / 'rig.yaml')

    def decode(frame, _limits):
        rng = np.random.default_rng([NAMES.index(frame.camera), frame.stamp_ns])
        return rng.integers(0, 255, (64, 96, 3), np.uint8), 1

    def frame_set(n):
        return FrameSet(n, n * 10**8, NAMES, {name: CameraFrame(name, n * 10**8) for name in NAMES})

    fixed = {'pruning.keep_ratio': 0.25, 'pruning.gauge_commonness': False, 'inference.describe': False}
    settings = Settings.from_values({**fixed, **values})
    pipeline = Pipeline(settings, Asking(backend, joint_common), rig, prompt, decode)
    return [view.keep.tolist() for view in pipeline.run(Window((frame_set(1), frame_set(2)), 2)).views]


def test_the_pipeline_prunes_as_its_model_asks(tiny, tmp_path):
    left = {value: kept_by_the_pipeline(tiny, tmp_path, value, {}) for value in (None, 10.0)}
    said = {value: kept_by_the_pipeline(tiny, tmp_path, 3.0, {'pruning.joint_common': value}) for value in (0.0, 10.0)}
    assert left[None] == said[0.0] != left[10.0] == said[10.0]


def test_the_examination_prunes_as_the_model_asks():
    backend, _ = load_model(Settings())
    scene = RingworldCases(1, 900_000).cases(900_000)[0].scene
    config = PruningConfig('st_prune_joint', 0.05)
    for joint_common, weight in ((2.4, 2.4), (None, SILENT_WEIGHT), (0.0, 0.0)):
        encoded = EncodedScene.encode(scene, Asking(backend, joint_common))
        expected = SpatioTemporalPruner(replace(config, joint_common=weight))(encoded.views, encoded.history)
        assert all(map(torch.equal, encoded.keep_masks(config), expected))


@pytest.mark.parametrize(('asked', 'weight'), [(2.4, 2.4), (None, 0.0)])
def test_answers_say_with_which_weights_they_were_given(tmp_path, asked, weight):
    backend, prompt = load_model(Settings())
    plan, asking = EvaluationPlan(('uniform',), (0.1,), 1), Asking(backend, asked)
    hits = ask_all(RingworldCases(0, 900_000), plan, Settings(), asking, prompt, 1, tmp_path / 'f.json')
    assert hits.plan['weights'] == {
        'lambda_temporal': 0.6, 'lambda_spatial': 0.8,
        'joint_recency': 1.0, 'joint_common': weight, 'joint_volatility_share': 0.125, 'joint_lattice': 0.7,
    }  # fmt: skip


@pytest.mark.parametrize(('penalty', 'asked'), [(0.5, {'pruning.joint_common': 2.4}), (0.0, {})])
def test_a_host_trained_to_look_past_background_says_so(penalty, asked):
    recipe = Recipe(1, 0, 1, 1, 1, penalty, 0.0, 0.0, False)
    facts = recipe.facts()
    assert facts.pop('recipe')['background_weight'] == penalty
    assert facts == asked
