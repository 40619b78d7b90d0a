"""A calibration file: what it does to a hint, where it holds, and that it is refused everywhere else."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.tiny_models import make_tiny_model
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.cli import main
from stprune_ros.core.types import Behavior, ConfidenceSource, Hint, Status
from stprune_ros.errors import ModelError, SettingsError, StpruneError
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.hint_calibration import HintCalibration, bound_parameters
from stprune_ros.vlm.loading import load_calibration, load_model, require_calibration, require_model
from stprune_ros.vlm.parsing import read_hint

THREE = (Behavior.NONE, Behavior.STOP, Behavior.YIELD)


def tree_for(settings: Settings, **values: Any) -> dict[str, Any]:
    """The content of a calibration file for THREE."""
    entries = [{'behavior': one.name, 'bias': 0.0, 'content_free': 0.0} for one in THREE]
    tree = {
        'model': {'id': 'tiny', 'revision': 'abc'},
        'prompt': 'driving-1',
        'parameters': dict(bound_parameters(settings)),
        'temperature': 1.0,
        'candidates': entries,
        'report': {},
    }
    return copy.deepcopy({**tree, **values})


def write(path: Path, tree: Any) -> Path:
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    return lambda **values: write(tmp_path / 'c.yaml', tree_for(Settings(), **values))


def candidates(biases: tuple[float, ...], free: tuple[float, ...] = (0.0, 0.0, 0.0)) -> list[dict[str, Any]]:
    rows = zip(THREE, biases, free, strict=True)
    return [{'behavior': one.name, 'bias': bias, 'content_free': least} for one, bias, least in rows]


def test_scores_go_through_the_stated_formula(file):
    free, biases = (-1.0, -2.0, -0.5), (0.5, 0.0, -0.5)
    found = HintCalibration.load(file(temperature=2, candidates=candidates(biases, free)))
    scores = [-0.3, -1.5, -4.0]
    hint = read_hint(THREE, scores, found)
    weights = [math.exp((s - c) / 2 + b) for s, c, b in zip(scores, free, biases)]
    assert [share for _, share in hint.distribution] == pytest.approx([weight / sum(weights) for weight in weights])
    assert hint.confidence == pytest.approx(max(weights) / sum(weights))
    assert hint.behavior == THREE[weights.index(max(weights))] == Behavior.NONE
    assert hint.confidence_source == ConfidenceSource.CALIBRATED
    assert read_hint(THREE, scores).confidence_source == ConfidenceSource.TOKEN_PROBABILITY


def test_a_bias_may_change_the_hint_also_to_none(file):
    """By design: what is published is the corrected distribution and its mode."""
    scores = [-1.0, -0.5, -3.0]
    assert read_hint(THREE, scores).behavior == Behavior.STOP
    freed = HintCalibration.load(file(candidates=candidates((1.0, 0.0, 0.0))))
    assert read_hint(THREE, scores, freed).behavior == Behavior.NONE


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), st.floats(-100, 100))
def test_an_empty_correction_and_a_constant_change_nothing(scores: list[float], shift: float):
    plain = HintCalibration(Path(), '', '', '', '', {}, THREE, 1.0, (0.0,) * 3, (shift,) * 3)
    expected = [share for _, share in read_hint(THREE, scores).distribution]
    assert [share for _, share in read_hint(THREE, scores, plain).distribution] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize('scores', [[-1.0, math.nan, -1.0], [-1.0, -2.0], [], [-1e308, 0.0, -1.0]])
def test_what_cannot_be_corrected_is_invalid(file, scores: list[float]):
    found = HintCalibration.load(file(temperature=1e-3))
    assert read_hint(THREE, scores, found) == Hint(Status.INVALID)
    assert read_hint(THREE[::-1], [-1.0, -2.0, -3.0], found) == Hint(Status.INVALID), 'for other candidates'


def drop(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda tree: tree.pop(key)


def put(value: Any, *keys: Any) -> Callable[[dict[str, Any]], Any]:
    def change(tree: Any) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (drop('prompt'), "'prompt' is missing"),
        (drop('report'), "'report' is missing"),
        (put(1, 'extra'), "'extra' is not known; known are model, prompt, parameters, temperature, candidates, report"),
        (put(0, 'temperature'), "'temperature' is 0; it must be at least 0.001"),
        (put(1e-320, 'temperature'), "'temperature' is 9.99989e-321; it must be at least 0.001"),
        (put(-1.5, 'temperature'), "'temperature' is -1.5; it must be at least 0.001"),
        (put(math.inf, 'temperature'), "'temperature' is inf; it must be a finite number"),
        (put('1', 'temperature'), "'temperature' is '1'; it must be a finite number"),
        (put(True, 'temperature'), "'temperature' is True; it must be a finite number"),
        (put(math.nan, 'candidates', 1, 'bias'), "'bias' is nan; it must be a finite number"),
        (put(None, 'candidates', 1, 'content_free'), "'content_free' is None; it must be a finite number"),
        (put('FLY', 'candidates', 1, 'behavior'), "'behavior' is 'FLY', which is no behavior"),
        (put('NONE', 'candidates', 1, 'behavior'), "'candidates' have 'NONE' a second time"),
        (put('UNKNOWN', 'candidates', 1, 'behavior'), "'behavior' is 'UNKNOWN', which is no behavior"),
        (put(2, 'candidates', 1, 'behavior'), "'behavior' is 2; it must be a text"),
        (put([1, 2], 'candidates'), "'candidates[0]' must be a mapping with behavior, bias, content_free"),
        (put([], 'candidates'), "'candidates' must be a list of at least two"),
        (put('tiny', 'model'), "'model' must be a mapping with id, revision"),
        (put(123456, 'model', 'revision'), "'revision' is 123456; it must be a text"),
        (put([], 'parameters'), "'parameters' must be a mapping of parameter names to values"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, change: Callable[[Any], Any], words: str):
    tree = tree_for(Settings())
    change(tree)
    file = write(tmp_path / 'c.yaml', tree)
    with pytest.raises(ModelError) as caught:
        HintCalibration.load(file)
    assert str(caught.value).startswith(f"calibration file '{file}': ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('[', 'is not YAML'),
        ('', 'its content must be a mapping'),
        ('[' * 10_000, 'is not YAML'),
        ('\x00', 'is not YAML'),
    ],
)
def test_what_is_no_file_of_ours_is_one_sentence(tmp_path: Path, text: str, words: str):
    (tmp_path / 'c.yaml').write_text(text)
    with pytest.raises(ModelError, match=words) as caught:
        HintCalibration.load(tmp_path / 'c.yaml')
    assert '\n' not in str(caught.value)
    with pytest.raises(ModelError, match='cannot be read: No such file'):
        HintCalibration.load(tmp_path / 'none.yaml')


def test_revisions_of_digits_stay_texts(tmp_path: Path):
    """A digest such as 123456789012 or 12e456789012 must not become a number on its way through YAML."""
    for revision in ('123456789012', '12e456789012', '0x1234567890'):
        tree = tree_for(Settings(), model={'id': '7', 'revision': revision}, prompt='0.5')
        found = HintCalibration.load(write(tmp_path / 'c.yaml', tree))
        assert (found.model_id, found.model_revision, found.prompt_id) == ('7', revision, '0.5')


@pytest.mark.parametrize(
    ('name', 'value', 'fitted'),
    [
        ('pruning.keep_ratio', 0.2, '0.1'),
        ('pruning.method', 'mtp', 'st_prune_joint'),
        ('pruning.joint_common', 2.0, '-1.0'),
        ('pruning.skip_frozen', True, 'False'),
        ('history.frames', 2, '4'),
        ('history.stride_ms', 250.0, '500.0'),
        ('model.max_image_pixels', 5000, '0'),
        ('model.quantization', '4bit', 'none'),
    ],
)
def test_other_parameters_are_refused_with_both_values(file, name: str, value: Any, fitted: str):
    path = file()
    HintCalibration.load(path).require_settings(Settings())
    with pytest.raises(ModelError) as caught:
        load_calibration(Settings.from_values({'prompt.calibration': str(path), name: value}))
    assert str(caught.value) == (
        f"calibration file '{path}' was fitted with {name} {fitted}, here it is {value}: fit one for this with `stprune"
        ' calibrate`, or leave prompt.calibration empty'
    )


@pytest.mark.parametrize(
    'name', ['model.device', 'inference.describe', 'cameras.anchor', 'output.valid_for_ms', 'sync.tolerance_ms']
)
def test_parameters_that_change_no_score_are_not_bound(name: str):
    assert name not in bound_parameters(Settings())


def test_without_pruning_its_other_parameters_do_not_matter(tmp_path: Path):
    none = Settings.from_values({'pruning.method': 'none'})
    found = HintCalibration.load(write(tmp_path / 'c.yaml', tree_for(none)))
    found.require_settings(none.changed({'pruning.keep_ratio': 0.5, 'pruning.seed': 3}))
    with pytest.raises(ModelError, match=r'pruning.method none, here it is st_prune_joint'):
        found.require_settings(Settings())


def test_a_parameter_that_the_file_lacks_or_has_beside_is_refused(tmp_path: Path):
    tree = tree_for(Settings())
    del tree['parameters']['history.frames']
    with pytest.raises(ModelError, match='history.frames not said, here it is 4'):
        HintCalibration.load(write(tmp_path / 'c.yaml', tree)).require_settings(Settings())
    tree = tree_for(Settings())
    tree['parameters']['pruning.magic'] = 3
    with pytest.raises(ModelError, match='pruning.magic 3, here it is not used'):
        HintCalibration.load(write(tmp_path / 'c.yaml', tree)).require_settings(Settings())


def test_other_prompts_candidates_and_models_are_refused_with_both_values(file):
    found = HintCalibration.load(file())
    found.require_prompt('driving-1', THREE)
    found.require_model('tiny', 'abc')
    for attempt, words in (
        (lambda: found.require_prompt('driving-2', THREE), 'with prompt driving-1, here it is driving-2: '),
        (
            lambda: found.require_prompt('driving-1', THREE[::-1]),
            'with the candidates NONE, STOP, YIELD, here it is YIELD, STOP, NONE: ',
        ),
        (
            lambda: found.require_model('tiny', 'abd'),
            "with model 'tiny' at revision 'abc', here it is 'tiny' at revision 'abd': ",
        ),
        (lambda: found.require_model('other', 'abc'), "here it is 'other' at revision 'abc': "),
    ):
        with pytest.raises(ModelError) as caught:
            attempt()
        assert words in str(caught.value)


def test_the_id_follows_the_content(file):
    first = HintCalibration.load(file()).id
    assert HintCalibration.load(file()).id == first
    assert HintCalibration.load(file(temperature=1.1)).id != first
    assert len(first) == 12


def test_a_ratio_that_follows_a_latency_target_is_refused():
    with pytest.raises(SettingsError) as caught:
        Settings.from_values({'prompt.calibration': 'c.yaml', 'latency.target_ms': 100.0})
    assert str(caught.value) == (
        "parameter 'prompt.calibration' is 'c.yaml', which holds for one keep ratio, but 'latency.target_ms', 100, lets"
        " it follow the machine: set one of them to '' or 0"
    )
    Settings.from_values({'prompt.calibration': 'c.yaml'})
    Settings.from_values({'latency.target_ms': 100.0})


# -- with a model


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')


@pytest.fixture
def fitting(model: Path, tmp_path: Path) -> dict[str, Any]:
    """The content of a calibration file for the tiny model, and its settings below 'settings'."""
    settings = Settings.from_values(
        {'model.path': str(model), 'model.device': 'cpu', 'prompt.calibration': str(tmp_path / 'c.yaml')}
    )
    backend, prompt = load_model(settings.changed({'prompt.calibration': ''}))
    entries = [{'behavior': one.name, 'bias': 0.0, 'content_free': 0.0} for one in prompt.behaviors]
    tree = tree_for(settings, prompt=prompt.id, candidates=entries)
    tree['model'] = {'id': backend.info.model_id, 'revision': backend.info.revision}
    return {'settings': settings, 'tree': tree}


def test_a_model_comes_with_the_calibration_that_its_settings_name(fitting, tmp_path: Path):
    file = write(tmp_path / 'c.yaml', fitting['tree'])
    require_model(fitting['settings'])
    require_calibration(fitting['settings'])
    assert load_model(fitting['settings'])[1].calibration == HintCalibration.load(file)
    assert load_model(fitting['settings'].changed({'prompt.calibration': ''}))[1].calibration is None


@pytest.mark.parametrize(
    ('change', 'early'),
    [
        (put('other', 'model', 'id'), False),
        (put('000000000000', 'model', 'revision'), False),
        (put('driving-00000000', 'prompt'), False),
        (put(0.3, 'parameters', 'pruning.keep_ratio'), True),
        (lambda tree: tree['candidates'].reverse(), False),
        (put(0, 'temperature'), True),
    ],
)
def test_a_calibration_for_another_model_is_refused_by_everybody(
    fitting, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Any], Any], early: bool
):
    change(fitting['tree'])
    write(tmp_path / 'c.yaml', fitting['tree'])
    settings = fitting['settings']
    with pytest.raises(ModelError) as caught:
        load_model(settings)
    sentence = str(caught.value)
    assert sentence.startswith(f"calibration file '{tmp_path / 'c.yaml'}'")
    with pytest.raises(ModelError) as again:
        require_calibration(settings)
    assert str(again.value) == sentence
    params = tmp_path / 'p.yaml'
    values = {name: settings.values()[name] for name in ('model.path', 'model.device', 'prompt.calibration')}
    params.write_text(json.dumps({'/**': {'ros__parameters': values}}))
    assert main(['check', str(params), '--model', '--image', '320x192']) == 1
    assert sentence in capsys.readouterr().err
    assert main(['check', str(params)]) == (1 if early else 0), 'without a model only what needs none'
    if early:
        assert capsys.readouterr().err == f'{params}: {sentence}\n'
        with pytest.raises(StpruneError):
            require_model(settings)


def test_a_prompt_file_of_ones_own_is_compared_before_the_model_is_loaded(fitting, tmp_path: Path):
    write(tmp_path / 'c.yaml', fitting['tree'])
    own = tmp_path / 'own.yaml'
    from stprune_ros.resources import resource_path

    own.write_text(resource_path('config/prompts/driving.yaml').read_text().replace('name: driving', 'name: own'))
    with pytest.raises(ModelError, match='was fitted with prompt driving-.*, here it is own-'):
        require_model(fitting['settings'].changed({'prompt.file': str(own)}))
