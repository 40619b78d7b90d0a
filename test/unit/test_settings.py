"""The settings table, parameter files, and what is generated from the table."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from stprune_ros.errors import StpruneError
from stprune_ros.resources import resource_path
from stprune_ros.settings.generate_files import EXAMPLES, param_file, schema
from stprune_ros.settings.parameter_file import load, problems_in, read_file
from stprune_ros.settings.parameters import PARAMETERS
from stprune_ros.settings.settings import Settings, nanoseconds

GOOD = {
    'cameras.names': ['front', 'left'],
    'cameras.offsets_ms': [0, 12.5],
    'pruning.keep_ratio': 1,
    'pruning.method': 'mtp',
    'inference.describe': False,
}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding='utf-8')
    return path


def test_defaults_are_allowed_by_their_own_table():
    settings = Settings()
    for parameter in PARAMETERS:
        assert parameter.parse(parameter.default) == settings[parameter.name]


def test_values_are_brought_to_the_type_of_the_table():
    settings = Settings(GOOD)
    assert settings.cameras.offsets_ms == [0.0, 12.5]
    assert isinstance(settings.pruning.keep_ratio, float)
    assert nanoseconds(settings.history.stride_ms) == 500_000_000
    assert settings.changed({'pruning.keep_ratio': 0.5}).pruning.method == 'mtp'


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [
        ('pruning.keep_ratio', 0.0, ['pruning.keep_ratio', '0.0', '[0.001, 1]']),
        ('pruning.keep_ratio', float('nan'), ['nan']),
        ('pruning.keep_ratio', 'a tenth', ["'a tenth'", 'a number']),
        ('pruning.keep_ratio', True, ['True']),
        ('pruning.seed', -1, ['[0, 2147483647]']),
        ('history.frames', 2.0, ['an integer in [1, 16]']),
        ('pruning.method', 'fast', ["'fast'", 'st_prune, st_prune_joint']),
        ('inference.describe', 1, ['true or false']),
        ('cameras.names', 'front', ["'front'", 'a list of strings']),
        ('cameras.names', ['front', ''], ['a list of strings']),
        ('cameras.offsets_ms', [0.0, 2000.0], ['[-1000, 1000]']),
        ('pruning.keep_ration', 0.1, ["'pruning.keep_ration'", "did you mean 'pruning.keep_ratio'"]),
        ('quantum', 1, ["there is no parameter 'quantum'"]),
    ],
)
def test_wrong_values_are_named_with_what_is_allowed(name, value, words):
    [problem] = problems_in({name: value})
    for word in words:
        assert word in problem


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'cameras.names': ['a', 'a']}, ['twice']),
        ({'cameras.names': ['a', 'b'], 'cameras.offsets_ms': [1.0]}, ['1 entries', '2 cameras']),
        ({'cameras.names': ['a'], 'cameras.anchor': 'b'}, ["'b'"]),
        ({'cameras.names': ['a'], 'cameras.critical': ['b']}, ["'b'"]),
        ({'sync.max_wait_ms': 40.0}, ['40', '50']),
        ({'latency.keep_min': 0.5, 'latency.keep_max': 0.2}, ['0.5', '0.2']),
        ({'latency.target_ms': 80.0, 'pruning.method': 'none'}, ['80', "'none'"]),
    ],
)
def test_values_that_contradict_each_other_are_refused(values, words):
    with pytest.raises(StpruneError) as caught:
        Settings.from_values(values)
    for word in words:
        assert word in str(caught.value)


def test_parameter_file_nested_or_dotted(tmp_path):
    nested = write(tmp_path / 'a.yaml', '/**: {ros__parameters: {use_sim_time: true, pruning: {keep_ratio: 0.2}}}')
    dotted = write(tmp_path / 'b.yaml', 'stprune_node: {ros__parameters: {pruning.keep_ratio: 0.2}}')
    assert load(nested).pruning.keep_ratio == load(dotted).pruning.keep_ratio == 0.2


def test_every_problem_of_a_file_is_named(tmp_path):
    text = '/**: {ros__parameters: {pruning: {keep_ratio: 2.0, methud: mtp}, history: {frames: 0}}}'
    with pytest.raises(StpruneError) as caught:
        load(write(tmp_path / 'p.yaml', text))
    assert len(str(caught.value).splitlines()) == 3
    assert "did you mean 'pruning.method'" in str(caught.value)


@pytest.mark.parametrize(
    ('text', 'word'),
    [('a: [1', 'not YAML'), ('just words', 'ros__parameters'), ('', 'ros__parameters'), ('/**: {}', 'ros__parameters')],
)
def test_files_that_are_none(tmp_path, text, word):
    with pytest.raises(StpruneError, match=word):
        read_file(write(tmp_path / 'p.yaml', text))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(StpruneError, match=r"nowhere\.yaml' cannot be read"):
        load(tmp_path / 'nowhere.yaml')


def test_shipped_files_are_those_of_the_table():
    # Where this fails: python -m stprune_ros.settings.generate_files
    assert resource_path('config/stprune.param.yaml').read_text(encoding='utf-8') == param_file()
    assert json.loads(resource_path('config/schema/stprune.schema.json').read_text(encoding='utf-8')) == schema()


def test_shipped_file_holds_every_default():
    settings = load(resource_path('config/stprune.param.yaml'))
    assert dict(settings) == {**Settings(), **EXAMPLES}


def test_schema_accepts_the_shipped_file():
    tree = yaml.safe_load(resource_path('config/stprune.param.yaml').read_text(encoding='utf-8'))
    jsonschema.validate(tree, schema())


@pytest.mark.parametrize(
    'parameters',
    [
        {'pruning': {'keep_ratio': 2.0}},
        {'pruning': {'method': 'fast'}},
        {'pruning': {'keep': 0.1}},
        {'history': {'frames': 2.5}},
        {'cameras': {'names': [1]}},
        {'quantum': {}},
    ],
)
def test_schema_refuses_what_the_table_refuses(parameters):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({'/**': {'ros__parameters': parameters}}, schema())
