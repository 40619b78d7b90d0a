"""Files that anybody may have written: one sentence within a second and 100 MB, never a traceback."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.tiny_models import make_tiny_model
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stprune_ros import bounded_yaml
from stprune_ros.core.rig import CameraRig
from stprune_ros.errors import StpruneError, one_line, plain, shown
from stprune_ros.private_folder import is_private
from stprune_ros.settings.parameter_file import load_settings
from stprune_ros.vlm.hf.template_trial import template_fault
from stprune_ros.vlm.prompt import Prompt

ROOT = Path(__file__).resolve().parents[2]
# A command in a process of its own: how much it grows, how long it computes, then what it says.
MEASURE = """
import resource, sys, time
import stprune_ros.check, stprune_ros.vlm.loading
from stprune_ros.cli import main
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
code = main(sys.argv[1:])
print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - started)
"""
LAUGHS = 'a0: &a0 [x, x]\n' + ''.join(f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 10)}]\n' for i in range(1, 10))
MERGES = 'a0: &a0 {x: 1}\n' + ''.join(f'a{i}: &a{i} {{<<: [{", ".join([f"*a{i - 1}"] * 10)}]}}\n' for i in range(1, 9))
BAD_YAML = {
    'laughs': (LAUGHS, 'is an alias'),
    'merges': (MERGES, 'is an alias'),
    'deep': ('[' * 100_000, 'more than 32 levels'),
    'deep maps': ('{a: ' * 50_000, 'more than 32 levels'),
    'wide': (f'a: [{"1, " * 60_000}1]', 'more than 20000 keys and values'),
    'long': ('a: ' + 'x' * 200_000, 'a text of 200000 characters'),
    'long key': ('"' + 'k' * 20_000 + '": 1', 'a text of 20000 characters'),
    'megabyte': ('x' * 2**20, 'more than 262144 bytes'),
    'digits': ('a: ' + '1' * 5000, ''),
    'object': ('a: !!python/object/apply:os.system ["true"]', ''),
    'control': ('a: "\x1b[31m"', ''),
    'date': ('a: 2025-02-30', ''),
}


def run(*arguments: str | Path) -> list[str]:
    """What `stprune` says on stderr; fails where it takes too much, or ends otherwise than with exit code 1."""
    done = subprocess.run(
        [sys.executable, '-c', MEASURE, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    code, kilobytes, seconds = done.stdout.split()[-3:]
    assert code == '1', done.stdout + done.stderr
    assert 'Traceback' not in done.stderr
    assert int(kilobytes) < 100_000 and float(seconds) < 1.0, done.stdout
    lines = done.stderr.strip().splitlines()
    assert lines and all(len(line) < 2000 for line in lines)
    assert done.stderr.replace('\n', '').isprintable()
    return lines


@pytest.mark.parametrize('name', BAD_YAML)
def test_hostile_parameter_files_end_in_a_sentence(tmp_path, name):
    text, words = BAD_YAML[name]
    path = tmp_path / 'p.yaml'
    path.write_text(text)
    lines = run('check', path)
    assert words in lines[0] or "has no 'ros__parameters'" in lines[0]


@pytest.mark.parametrize('text', [LAUGHS, MERGES])
def test_aliases_among_parameters_are_named_and_not_followed(tmp_path, text):
    path = tmp_path / 'p.yaml'
    below = ''.join(f'    {line}\n' for line in text.splitlines())
    path.write_text(f'/**:\n  ros__parameters:\n{below}')
    lines = run('check', path)
    assert "line 4: '*a0' is an alias, which ROS refuses" in lines[0]


@pytest.mark.parametrize('name', BAD_YAML)
@pytest.mark.parametrize('what', ['cameras: {rig_file: ', 'prompt: {file: '])
def test_hostile_rig_files_and_prompts_end_in_a_sentence(tmp_path, what, name):
    text, words = BAD_YAML[name]
    (tmp_path / 'other.yaml').write_text(text)
    path = tmp_path / 'p.yaml'
    path.write_text(f'/**:\n  ros__parameters:\n    {what}{tmp_path}/other.yaml}}\n')
    [line] = run('check', path)
    assert words in line


@pytest.mark.parametrize(
    ('key', 'words'),
    [
        ('x' * 1000, 'there is no parameter'),
        ('pruning:\n      method: ' + 'x' * 9000, "'pruning.method' is a text of more than 4096 characters"),
        ('cameras:\n      names: [' + 'a, ' * 500 + 'a]', "'cameras.names' has 501 entries; at most 64"),
        ('history:\n      frames: ' + '9' * 5000, "'history.frames' is a text of more than 4096"),
        ('history:\n      frames: ' + '9' * 400, "'history.frames' is"),
        ('history:\n      frames: 0x' + 'f' * 3000, "'history.frames' is"),
    ],
    ids=['name', 'text', 'list', 'digits', 'number', 'hexadecimal'],
)
def test_long_names_and_values_of_parameters_are_cut(tmp_path, key, words):
    path = tmp_path / 'p.yaml'
    path.write_text(f'/**:\n  ros__parameters:\n    {key}{"" if ":" in key else ": 1"}\n')
    assert words in run('check', path)[0]


@pytest.mark.parametrize(
    ('entry', 'words'),
    [
        ('width: 1000000000, height: 10', 'must be at most 65535'),
        ('width: 10, height: 1e300', 'must be at most 65535'),
        ('width: 1' + '0' * 400 + ', height: 5', "'width' is"),
        ('width: [[[[1]]]], height: 5', "'width' is"),
        ('width: 10, height: 5, d: [1' + '0' * 400 + ']', "'d' is"),
        ('width: 10, height: 5, distortion_model: ' + 'z' * 5000, 'is unknown'),
        ('width: 10, height: 5, d: [' + '.nan, ' * 5000 + '1]', 'and 4989 more'),
    ],
)
def test_hostile_cameras_of_a_rig_file_end_in_a_sentence(tmp_path, entry, words):
    path, rig = tmp_path / 'p.yaml', tmp_path / 'rig.yaml'
    path.write_text(f'/**:\n  ros__parameters:\n    cameras: {{rig_file: {rig}}}\n')
    rig.write_text(f'cameras: {{A: {{hfov_deg: 90, azimuth_deg: 0, {entry}}}}}\n')
    [line] = run('check', path)
    assert words in line


@pytest.fixture(scope='module')
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')


@pytest.fixture
def model(tiny: Path, tmp_path: Path) -> Path:
    """A folder that may be spoilt."""
    return Path(shutil.copytree(tiny, tmp_path / 'model'))


def faults(folder: Path, model: Path) -> list[str]:
    path = folder / 'p.yaml'
    path.write_text(f'/**:\n  ros__parameters:\n    model: {{path: {model}}}\n')
    return run('check', path, '--model')


@pytest.mark.parametrize('name', ['config.json', 'tokenizer_config.json', 'preprocessor_config.json', 'tokenizer.json'])
@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('[' * 200_000, ''),
        ('{"a":' * 200_000, ''),
        ('{"a": ' + '1' * 10_000 + '}', ''),
        ('{"model_type": ' + '[' * 400 + ']' * 400 + ', "architectures": 7, "size": {"a": 1}}', ''),
        ('{"model_type": "' + 'm' * 10**6 + '"}', ''),
        ('"\\ud800"', ''),
    ],
    ids=['deep', 'deep maps', 'digits', 'nested', 'long', 'surrogate'],
)
def test_hostile_json_of_a_model_ends_in_sentences(model, tmp_path, name, text, words):
    if name in ('tokenizer.json', 'tokenizer_config.json', 'preprocessor_config.json') and text.startswith(
        '{"model_type'
    ):
        pytest.skip('says nothing that these files are read for')
    (model / name).write_text(text)
    assert faults(tmp_path, model)


def test_a_file_of_json_that_is_too_long_is_not_read(model, tmp_path):
    (model / 'config.json').write_text('{"a": [' + '[],' * 2_000_000 + '[]]}')
    assert any('more than 4194304 bytes' in line for line in faults(tmp_path, model))


@pytest.mark.parametrize(
    'name',
    [
        '../other.safetensors',
        '/etc/passwd',
        'a/b.safetensors',
        '..',
        '',
        'pytorch_model.bin',
        'x' * 300 + '.safetensors',
    ],
)
def test_an_index_names_safetensors_of_its_own_folder_only(model, tmp_path, name):
    (model / 'model.safetensors').unlink()
    (model / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': {'a': name}}))
    [line] = faults(tmp_path, model)
    assert 'which is no safetensors file of its own folder' in line


@pytest.mark.parametrize(
    ('header', 'words'),
    [
        (b'[' * 200_000, 'has no readable header'),
        (
            b'{"' + b'n' * 10**6 + b'": {"dtype": "F32", "shape": [1], "data_offsets": [0, 9]}}',
            'is cut short or damaged',
        ),
        (b'{"a": {"dtype": [[]], "shape": [[1]], "data_offsets": [0, 4]}}', 'has no readable header'),
        (b'{"a": {"dtype": "F32", "shape": "x", "data_offsets": ["a", "b"]}}', 'has no readable header'),
        (b' ' * (2**23 + 1), 'has a header of 8388609 bytes, more than 8388608'),
    ],
    ids=['deep', 'long name', 'kinds', 'offsets', 'huge'],
)
def test_hostile_headers_of_weights_end_in_a_sentence(model, tmp_path, header, words):
    (model / 'model.safetensors').write_bytes(struct.pack('<Q', len(header)) + header)
    assert any(words in line for line in faults(tmp_path, model))


LOOP = '{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}'
TEMPLATES = {
    'loop': (LOOP, 'does not end within 0.5 s of computing'),
    'loop in a turn': ('{% for message in messages %}' + LOOP + '{% endfor %}', 'does not end within'),
    'loop behind an image': ("{% if messages[-1].content[1].type == 'image' %}" + LOOP + '{% endif %}', 'does not end'),
    'loop when asked': ('{% if add_generation_prompt %}' + LOOP + '{% endif %}', 'does not end within'),
    'loop in a generation': ('{% generation %}' + LOOP + '{% endgeneration %}', 'does not end within'),
    'swells': ("{{ 'a' * 10**10 }}", 'takes more than 64 MB of memory'),
    'swells at run time': ('{% set n = 10**10 %}{{ messages[0].role * n }}', 'takes more than 64 MB of memory'),
    'format': ('{{ "%999999999d"|format(1) }}', 'takes more than 64 MB of memory'),
    'range': ('{% for a in range(10**9) %}{% endfor %}', ''),
    'fails': ("{{ raise_exception('no') }}", ''),
    'recursion': ('{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}', ''),
    'no template': ('{% for %}', ''),
    'fine': ('{% for message in messages %}{{ message.role }}{% endfor %}', ''),
}


@pytest.mark.parametrize('name', TEMPLATES)
def test_chat_templates_are_tried_in_a_process_of_their_own(name):
    template, words = TEMPLATES[name]
    found = template_fault(template, {'eos_token': '</s>'})
    assert words in found and bool(found) == bool(words)
    assert template_fault({'default': 'x', 'other': template}, {}) == found


@pytest.mark.parametrize('name', ['loop', 'swells', 'range', 'fails', 'recursion', 'no template'])
def test_a_model_with_a_hostile_chat_template_is_refused_in_one_sentence(model, name):
    from stprune_ros.vlm.hf.backend import TransformersBackend

    (model / 'chat_template.jinja').write_text(TEMPLATES[name][0])
    with pytest.raises(StpruneError, match='chat template') as caught:
        TransformersBackend.load(model, device='cpu')
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_numbas_pickles_are_read_from_a_private_folder_only(tmp_path):
    folder = tmp_path / 'cache'
    folder.mkdir(mode=0o700)
    assert is_private(folder) and is_private(folder / 'not' / 'there')
    folder.chmod(0o702)
    assert not is_private(folder) and not is_private(folder / 'not' / 'there')
    folder.chmod(0o1777)  # as /tmp: what others put there first would be read
    assert not is_private(folder)
    inner = folder / 'mine'
    inner.mkdir(mode=0o700)
    assert is_private(inner)  # nobody else can replace it there


def test_rendered_scenes_are_read_from_a_private_folder_only(tmp_path):
    from stprune_ros.ringworld.training.scene_cache import read_shard, write_shard

    folder = tmp_path / 'scenes'
    write_shard(folder, range(2), lambda seed: seed)
    [path] = folder.iterdir()
    assert read_shard(path) == [0, 1]
    folder.chmod(0o777)
    with pytest.raises(StpruneError, match=f"^'{path}' is not read: others can write to its folder"):
        read_shard(path)


def test_a_cache_that_others_can_write_is_not_used(tmp_path):
    folder = tmp_path / 'shared'
    folder.mkdir()
    folder.chmod(0o777)
    program = 'from stprune_ros.pruning.greedy_numba import greedy_numba as g; print(type(g._cache).__name__)'
    for mode, kind in ((0o777, 'NullCache'), (0o700, 'FunctionCache')):
        folder.chmod(mode)
        environment = {
            'NUMBA_CACHE_DIR': str(folder),
            'PYTHONPATH': str(ROOT),
            'PATH': '/usr/bin:/bin',
            'HOME': str(tmp_path),
        }
        done = subprocess.run(
            [sys.executable, '-c', program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == kind


yaml_like = st.text(st.sampled_from('abc:-[]{}&*!|>"\'#%@ \n\t0159.,?~<='), max_size=200)


def refuses_or_reads(read: Callable[[Path], object], path: Path) -> None:
    """Whatever is in the file: a value, or one StpruneError whose lines print."""
    try:
        read(path)
    except StpruneError as error:
        lines = str(error).splitlines()
    else:
        lines = []
    assert all(line.isprintable() for line in lines)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.one_of(yaml_like, st.text(max_size=100), st.binary(max_size=100)))
@example('/**: {ros__parameters: {a: &x [1], b: *x, <<: *x}}')
@example('a: 1' + '0' * 5000)
def test_any_text_is_parameters_a_rig_a_prompt_or_a_sentence(tmp_path, content):
    path = tmp_path / 'any.yaml'
    path.write_bytes(content if isinstance(content, bytes) else content.encode('utf-8', 'surrogatepass'))
    refuses_or_reads(load_settings, path)
    refuses_or_reads(CameraRig.from_file, path)
    refuses_or_reads(Prompt.load, path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_parameter_files_with_changed_letters_are_settings_or_a_sentence(tmp_path, data):
    text = list((ROOT / 'config' / 'stprune.param.yaml').read_text(encoding='utf-8'))
    for _ in range(data.draw(st.integers(1, 5))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.sampled_from(':-[]{}&*!"\'# \n\t09x'))
    path = tmp_path / 'changed.yaml'
    path.write_text(''.join(text), encoding='utf-8')
    refuses_or_reads(load_settings, path)


@settings(max_examples=100)
@given(
    st.recursive(
        st.one_of(st.integers(), st.text(), st.binary(), st.none()),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_what_is_shown_prints_and_is_short(value):
    assert shown(value).isprintable() and len(shown(value)) <= 200


@given(st.text(max_size=500))
def test_plain_text_prints_and_plain_text_stays(text):
    found = plain(text)
    assert found.isprintable() and len(found) <= 100
    assert found == text or not text.isprintable() or len(text) > 100
    assert one_line(ValueError(text)).isprintable()


def test_shown_survives_what_has_no_repr():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert len(shown(deep)) < 50
    assert shown(10**5000) == 'an int that is too long to be written'


def test_bounded_yaml_reads_what_pyyaml_reads():
    import yaml

    for path in (ROOT / 'config').rglob('*.yaml'):
        text = path.read_text(encoding='utf-8')
        assert bounded_yaml.load(text) == yaml.safe_load(text)
