"""The settings table, parameter files, and what is generated from the table."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.errors import SettingsError, StpruneError
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.resources import resource_path
from stprune_ros.settings.generate_files import EXAMPLES, page, param_file, schema
from stprune_ros.settings.parameter_file import current_names, load_settings, problems_in, read_file
from stprune_ros.settings.parameters import BY_NAME, PARAMETERS, RENAMED, HistorySettings, SyncSettings
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
    values = Settings().values()
    assert list(values) == [parameter.name for parameter in PARAMETERS]
    for parameter in PARAMETERS:
        assert parameter.parse(parameter.default) == values[parameter.name] == parameter.default


def test_groups_are_typed():
    settings = Settings.from_values({'pruning.keep_ratio': 0.25, 'sync.min_views': 3})
    assert settings.pruning == PruningConfig(keep_ratio=0.25)
    assert settings.sync.min_views == 3
    assert settings.history == HistorySettings()
    with pytest.raises(FrozenInstanceError):
        settings.sync.min_views = 2


def test_no_settings_can_exist_that_the_table_refuses():
    with pytest.raises(SettingsError, match=r"'history.frames' is 0; allowed is an integer in \[1, 16\]"):
        Settings(history=HistorySettings(frames=0))
    with pytest.raises(SettingsError, match="'sync.max_wait_ms' is 10"):
        replace(Settings(), sync=SyncSettings(max_wait_ms=10.0))


@given(st.dictionaries(st.sampled_from([parameter.name for parameter in PARAMETERS]), st.none() | st.integers(-9, 9)))
def test_problems_and_settings_agree(values):
    """What `problems_in` finds nothing wrong with makes settings with these values, and nothing else does."""
    problems = problems_in(values)
    try:
        settings = Settings.from_values(values)
    except SettingsError:
        assert problems
    else:
        assert problems == []
        assert all(settings.values()[name] == value for name, value in values.items())
        assert all(type(settings.values()[name]) is BY_NAME[name].kind for name in values)


def test_names_of_the_last_release_still_work():
    values, notes = current_names({'pruning.one_pays': True, 'pruning.keep_ratio': 0.2})
    assert values == {'pruning.keep_one_copy': True, 'pruning.keep_ratio': 0.2}
    assert notes == [
        "parameter 'pruning.one_pays' is now called 'pruning.keep_one_copy'; the old name is read for one more release"
    ]
    with pytest.raises(SettingsError, match="'pruning.one_pays' is now called 'pruning.keep_one_copy', and both"):
        current_names({'pruning.one_pays': True, 'pruning.keep_one_copy': False})
    assert not set(RENAMED) & set(BY_NAME)
    assert set(RENAMED.values()) <= set(BY_NAME)


def test_old_names_in_a_file(tmp_path):
    path = write(tmp_path / 'p.yaml', '/**: {ros__parameters: {pruning: {scaled_terms: true}}}')
    assert load_settings(path).pruning.multiplicative_bonus


def test_what_rclpy_dumps_beside_ours_is_left_alone(tmp_path):
    text = '/here/stprune_node: {ros__parameters: {use_sim_time: false, start_type_description_service: true,'
    text += ' history: {frames: 2}, qos_overrides: {/tf: {subscription: {depth: 3}}}}}'
    assert load_settings(write(tmp_path / 'p.yaml', text)).history.frames == 2


def test_values_are_brought_to_the_type_of_the_table():
    settings = Settings.from_values(GOOD)
    assert settings.cameras.offsets_ms == (0.0, 12.5)
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
        ('pruning.method', 'fast', ["'fast'", 'st_prune, st_prune_staged']),
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
        ({'cameras.names': ['a'], 'cameras.offsets_ms': [70.0]}, ['100', '50 + 70']),
        ({'cameras.names': ['a'], 'cameras.offsets_ms': [-70.0]}, ['100', '50 + 70']),
        ({'latency.keep_min': 0.5, 'latency.keep_max': 0.2}, ['0.5', '0.2']),
        ({'latency.target_ms': 80.0, 'pruning.method': 'none'}, ['80', "'none'"]),
        ({'cameras.refresh_ms': 1001.0}, ["'cameras.refresh_ms' is 1001", "'cameras.stale_after_ms', 1000"]),
        ({'model.side_image_pixels': 9, 'model.max_image_pixels': 8}, ["'model.side_image_pixels' is 9", '8']),
        ({'cameras.names': ['a'], 'cameras.anchor': 'a', 'cameras.refresh_ms': 9.0}, ["'cameras.refresh_ms' is 9"]),
        (
            {'cameras.names': ['a', 'b'], 'cameras.critical': ['b', 'a'], 'model.side_image_pixels': 9},
            ["'model.side_image_pixels' is 9, but every camera"],
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(values, words):
    with pytest.raises(StpruneError) as caught:
        Settings.from_values(values)
    for word in words:
        assert word in str(caught.value)


def test_side_cameras_may_be_all_but_one():
    values = {'cameras.names': ['a', 'b'], 'cameras.anchor': 'a', 'cameras.refresh_ms': 1000.0}
    values |= {'model.side_image_pixels': 9, 'model.max_image_pixels': 9}
    assert Settings.from_values(values).cameras.refresh_ms == Settings.from_values(values).cameras.stale_after_ms


def test_parameter_file_nested_or_dotted(tmp_path):
    nested = write(tmp_path / 'a.yaml', '/**: {ros__parameters: {use_sim_time: true, pruning: {keep_ratio: 0.2}}}')
    dotted = write(tmp_path / 'b.yaml', 'stprune_node: {ros__parameters: {pruning.keep_ratio: 0.2}}')
    assert load_settings(nested).pruning.keep_ratio == load_settings(dotted).pruning.keep_ratio == 0.2


def test_a_file_for_several_nodes_is_read_whole(tmp_path):
    text = '/**: {ros__parameters: {history: {frames: 2}}}\n/stprune_node: {ros__parameters: {pruning.seed: 3}}\n'
    settings = load_settings(write(tmp_path / 'p.yaml', text))
    assert (settings.history.frames, settings.pruning.seed) == (2, 3)
    with pytest.raises(SettingsError, match="line 1: 'ros__parameters' has no parameters below it"):
        load_settings(write(tmp_path / 'empty.yaml', '/**: {ros__parameters: }'))


def test_only_names_of_rclpy_are_left_alone(tmp_path):
    with pytest.raises(SettingsError, match="there is no parameter 'qos_depth'"):
        load_settings(write(tmp_path / 'p.yaml', '/**: {ros__parameters: {qos_depth: 3}}'))


def test_every_contradiction_is_named():
    values = {'cameras.names': ['a', 'a'], 'latency.keep_min': 0.5, 'latency.keep_max': 0.2}
    assert len(problems_in(values)) == 2


def test_every_problem_of_a_file_is_named(tmp_path):
    text = '/**: {ros__parameters: {pruning: {keep_ratio: 2.0, methud: mtp}, history: {frames: 0}}}'
    with pytest.raises(StpruneError) as caught:
        load_settings(write(tmp_path / 'p.yaml', text))
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
        load_settings(tmp_path / 'nowhere.yaml')


def test_shipped_files_are_those_of_the_table():
    # Where this fails: python -m stprune_ros.settings.generate_files
    assert resource_path('config/stprune.param.yaml').read_text(encoding='utf-8') == param_file()
    docs = Path(__file__).resolve().parents[2] / 'docs'  # not installed by colcon
    assert (docs / 'parameters.md').read_text(encoding='utf-8') == page()
    assert json.loads(resource_path('config/schema/stprune.schema.json').read_text(encoding='utf-8')) == schema()


def test_shipped_file_holds_every_default():
    settings = load_settings(resource_path('config/stprune.param.yaml'))
    assert settings == Settings.from_values(EXAMPLES)


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
