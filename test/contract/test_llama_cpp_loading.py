"""Whatever is wrong with a GGUF file, a library of llama.cpp or a pairing ends in one sentence, before weights load."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.engines import needs_llama
from helpers.tiny_gguf import changed_gguf, make_tiny_gguf
from helpers.tiny_models import make_tiny_model

from stprune_ros import cli
from stprune_ros.errors import ModelError, SettingsError
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm import loading
from stprune_ros.vlm.device import Memory
from stprune_ros.vlm.hf.model_folder import locate_model
from stprune_ros.vlm.hf.pretrained import read_parts
from stprune_ros.vlm.llama_cpp import backend as engine
from stprune_ros.vlm.llama_cpp import layouts, library, memory
from stprune_ros.vlm.llama_cpp.backend import LlamaCppBackend
from stprune_ros.vlm.llama_cpp.gguf_file import TOKENS, EmbeddingTable, GgufFile
from stprune_ros.vlm.llama_cpp.language_model import LanguageModel, RunOptions

pytestmark = needs_llama
ARCH = 'qwen3vl'


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp('models') / 'tiny', 'qwen3_vl')


@pytest.fixture(scope='module')
def gguf(folder: Path) -> Path:
    return make_tiny_gguf(folder, folder.with_suffix('.gguf'))


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading any fails the test."""

    def refuse(*args: Any, **_: Any) -> None:
        raise AssertionError('weights were loaded')

    monkeypatch.setattr(engine, 'load_tower', refuse)
    monkeypatch.setattr(engine, 'LanguageModel', refuse)


def refusal(folder: Path, gguf: Path | str, **options: Any) -> str:
    """The sentence that refuses them."""
    with pytest.raises(ModelError) as caught:
        LlamaCppBackend.load(folder, gguf, device='cpu', **options)
    assert '\n' not in str(caught.value)
    return str(caught.value)


@pytest.mark.usefixtures('no_weights')
@pytest.mark.parametrize(
    ('entries', 'words'),
    [
        ({f'{ARCH}.embedding_length': 64}, 'has embedding_length 64, its model folder 32'),
        ({f'{ARCH}.block_count': 4}, 'has block_count 4, its model folder 3'),
        ({f'{ARCH}.feed_forward_length': 65}, 'has feed_forward_length 65, its model folder 64'),
        ({f'{ARCH}.attention.head_count': 8}, 'has attention.head_count 8, its model folder 4'),
        ({f'{ARCH}.attention.head_count_kv': 4}, 'has attention.head_count_kv 4, its model folder 2'),
        ({f'{ARCH}.n_deepstack_layers': 1}, 'has n_deepstack_layers 1, its model folder 2'),
        ({f'{ARCH}.n_deepstack_layers': None}, 'has n_deepstack_layers 0, its model folder 2'),
        ({f'{ARCH}.block_count': None}, f"has no number '{ARCH}.block_count'"),
        ({TOKENS: None}, 'holds no vocabulary, so whether it belongs to the model folder is not known'),
        ({'split.count': 3}, 'is one of 3 parts; merge them with `llama-gguf-split --merge`'),
    ],
)
def test_another_model_for_llama_cpp_is_refused(
    folder: Path, gguf: Path, tmp_path: Path, entries: dict[str, Any], words: str
) -> None:
    changed = changed_gguf(gguf, tmp_path / 'changed.gguf', entries)
    assert words in refusal(folder, changed)
    if TOKENS not in entries:  # for which the tokenizer is needed
        values = {'model.engine': 'llama.cpp', 'model.path': str(folder), 'model.gguf': str(changed)}
        faults, _ = loading.inspect_model(Settings.from_values(values))
        assert len(faults) == 1 and words in faults[0]


@pytest.mark.usefixtures('no_weights')
def test_another_vocabulary_or_architecture_for_llama_cpp_is_refused(folder: Path, gguf: Path, tmp_path: Path) -> None:
    tokens = list(GgufFile.read(gguf).tokens)
    tokens[7], tokens[8] = tokens[8], tokens[7]
    swapped = changed_gguf(gguf, tmp_path / 'swapped.gguf', {TOKENS: tokens})
    assert f"has token 7 '{tokens[7]}', its model folder '{tokens[8]}'" in refusal(folder, swapped)
    other = changed_gguf(gguf, tmp_path / 'other.gguf', {}, architecture='qwen2vl')
    assert "is of architecture 'qwen2vl', its model folder 'qwen3vl' for qwen3_vl" in refusal(folder, other)
    fewer = make_tiny_model(tmp_path / 'fewer', 'ringworld')
    assert 'has n_deepstack_layers 0, its model folder 2' in refusal(folder, make_tiny_gguf(fewer, tmp_path / 'f.gguf'))


@pytest.mark.usefixtures('no_weights')
def test_as_many_deepstack_layers_as_blocks_would_end_the_process_of_llama_cpp(
    folder: Path, gguf: Path, tmp_path: Path
) -> None:
    shallow = Path(make_tiny_model(tmp_path / 'shallow', 'qwen3_vl'))
    config = json.loads((shallow / 'config.json').read_text())
    config['vision_config']['deepstack_visual_indexes'] = [0, 1, 1]
    (shallow / 'config.json').write_text(json.dumps(config))
    changed = changed_gguf(gguf, tmp_path / 'deep.gguf', {f'{ARCH}.n_deepstack_layers': 3})
    assert 'has 3 deepstack layers and 3 blocks, and llama.cpp runs only fewer' in refusal(shallow, changed)


@pytest.mark.usefixtures('no_weights')
@pytest.mark.parametrize('family', ['llava_onevision', 'gemma3'])
def test_other_families_are_refused_for_llama_cpp(gguf: Path, tmp_path: Path, family: str) -> None:
    other = make_tiny_model(tmp_path / 'other', family)
    assert refusal(other, gguf).startswith(
        f"model.engine 'llama.cpp' runs qwen2_vl, qwen2_5_vl, qwen3_vl, not {family}"
    )
    assert cli.main(['export-gguf', str(other), '--output', str(tmp_path / 'x.gguf')]) == 1
    assert not list(tmp_path.glob('x.gguf*'))


@pytest.mark.usefixtures('no_weights')
@pytest.mark.parametrize(
    ('damage', 'words'),
    [
        (lambda data: b'', "is no GGUF: it does not begin with 'GGUF'"),
        (lambda data: b'PK' + data[2:], "is no GGUF: it does not begin with 'GGUF'"),
        (lambda data: b'version https://git-lfs.github.com/spec/v1\n', 'is only a Git LFS pointer'),
        (lambda data: data[:4] + b'\x09' + data[5:], 'has version 9; read are 2, 3'),
        (lambda data: data[:100], 'is cut short: it ends within its header; fetch it again'),
        (lambda data: data[:-1000], 'is cut short: it has'),
        (lambda data: data[:8] + b'\xff' * 16 + data[24:], 'is damaged: a length is 18446744073709551615, more than'),
        (lambda data: data[:24] + b'\xff' * 8 + data[32:], 'is damaged: a length is 18446744073709551615, more than'),
    ],
)
def test_a_damaged_gguf_is_refused(
    folder: Path, gguf: Path, tmp_path: Path, damage: Callable[[bytes], bytes], words: str
) -> None:
    damaged = tmp_path / 'damaged.gguf'
    damaged.write_bytes(damage(gguf.read_bytes()))
    assert words in refusal(folder, damaged)
    assert words in refusal(folder, damaged)


@pytest.mark.usefixtures('no_weights')
def test_every_cut_of_a_gguf_header_is_refused(gguf: Path, tmp_path: Path) -> None:
    data, cut = gguf.read_bytes(), tmp_path / 'cut.gguf'
    for length in [*range(4, 600, 37), *range(600, len(data), len(data) // 50)]:
        cut.write_bytes(data[:length])
        with pytest.raises(ModelError, match="GGUF file '.*' is cut short"):
            GgufFile.read(cut)


@pytest.mark.usefixtures('no_weights')
def test_a_missing_gguf_is_named(folder: Path, tmp_path: Path) -> None:
    assert 'cannot be read: No such file or directory' in refusal(folder, tmp_path / 'none.gguf')


@pytest.mark.usefixtures('no_weights')
def test_weights_for_llama_cpp_that_do_not_fit_are_refused(
    folder: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, 'free_memory', lambda device: Memory(1000, 'MemAvailable'))
    assert 'F32 with the vision tower of the folder, 0.00 MiB are free (MemAvailable)' in refusal(folder, gguf)


def build(path: Path, source: str) -> Path:
    """A shared library of a few lines of C."""
    code = path.with_suffix('.c')
    code.write_text(source)
    subprocess.run(['cc', '-shared', '-fPIC', '-o', str(path), str(code)], check=True, capture_output=True, timeout=60)
    return path


@pytest.mark.usefixtures('no_weights')
def test_a_wrong_library_of_llama_cpp_is_refused(folder: Path, gguf: Path, tmp_path: Path) -> None:
    missing = tmp_path / 'libllama.so'
    assert "is '" in (said := refusal(folder, gguf, library=str(missing))) and 'there is no such file' in said
    missing.write_bytes(b'no library')
    assert f"llama.cpp library '{missing}' cannot be loaded" in refusal(folder, gguf, library=str(missing))
    other = build(tmp_path / 'other.so', 'int answer(void) { return 42; }')
    assert "functions, such as 'llama_model_default_params'" in refusal(folder, gguf, library=str(other))


def test_structs_of_another_release_of_llama_cpp_are_refused(
    folder: Path, gguf: Path, tmp_path: Path, no_weights: None
) -> None:
    """A library with every function, whose context parameters have one field more, before those that are set."""
    names = [name for name in library._FUNCTIONS if name not in ('llama_batch_init',)]
    bodies = '\n'.join(f'int {name}(void) {{ return 0; }}' for name in [*names, *library._OF_LAYOUT[2:]])
    known = layouts.CONTEXT_LAYOUTS[0].struct
    raw = library.load_library(library.find_library('')).calls.llama_context_default_params()
    shifted = b'\0' * 4 + ctypes.string_at(ctypes.byref(raw), ctypes.sizeof(known))
    model = library.load_library(library.find_library('')).calls.llama_model_default_params()
    right = ctypes.string_at(ctypes.byref(model), ctypes.sizeof(layouts.MODEL_LAYOUTS[0].struct))

    def returned(name: str, data: bytes) -> str:
        return (
            f'struct {name}_s {{ unsigned char b[{len(data)}]; }};'
            f' struct {name}_s {name}(void) {{ struct {name}_s s = {{{{{",".join(map(str, data))}}}}}; return s; }}'
        )

    source = '\n'.join(
        [
            bodies,
            'struct big { void * p[7]; }; struct big llama_batch_init(void) { struct big b = {{0}}; return b; }',
            returned('llama_model_default_params', right),
            returned('llama_context_default_params', shifted),
        ]
    )
    said = refusal(folder, gguf, library=str(build(tmp_path / 'libllama.so', source)))
    assert 'is of a release whose llama_context parameters are laid out in a way that is not known' in said


def test_llama_cpp_layouts_do_not_pass_for_one_another() -> None:
    one, other = layouts.CONTEXT_LAYOUTS
    found = library.load_library(library.find_library('')).calls.llama_context_default_params()
    raw = ctypes.string_at(ctypes.byref(found), ctypes.sizeof(one.struct)) + bytes(64)
    assert [layout.matches(raw) for layout in (one, other)] == [True, False]
    moved = raw[:112] + raw[120:]  # the field that the second one does not have
    assert [layout.matches(moved) for layout in (one, other)] == [False, True]


def test_libraries_of_llama_cpp_are_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, file in (('llama_cpp', 'lib/libllama.so'), ('xllamacpp', 'xllamacpp.abi3.so')):
        path = tmp_path / 'site' / name / file
        path.parent.mkdir(parents=True)
        path.touch()
        (tmp_path / 'site' / name / '__init__.py').write_text('raise AssertionError("imported")')
    monkeypatch.setattr('sys.path', [str(tmp_path / 'site')])
    given = tmp_path / 'mine.so'
    given.touch()
    assert library.find_library(str(given)) == given
    assert library.find_library('') == tmp_path / 'site/llama_cpp/lib/libllama.so'
    (tmp_path / 'site/llama_cpp/lib/libllama.so').unlink()
    assert library.find_library('') == tmp_path / 'site/xllamacpp/xllamacpp.abi3.so'
    (tmp_path / 'site/xllamacpp/xllamacpp.abi3.so').unlink()
    with pytest.raises(ModelError, match="model.engine 'llama.cpp' needs its library: pip install"):
        library.find_library('')


@pytest.mark.usefixtures('no_weights')
def test_a_gpu_needs_a_library_of_llama_cpp_with_one(folder: Path, gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, 'find_device', lambda name: torch.device('cuda:1'))
    said = refusal(folder, gguf)
    assert "was built without a GPU, and the device is 'cuda:1': name a build with CUDA in model.engine_library" in said


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'engine': 'llama.cpp'}, "'model.gguf' names no file"),
        ({'gguf': 'x.gguf'}, "'model.engine' is 'transformers', which does not use it"),
        ({'engine_library': 'x.so'}, "'model.engine' is 'transformers', which does not use it"),
        ({'engine': 'llama.cpp', 'gguf': 'x.gguf', 'quantization': '4bit'}, "set it to 'none'"),
    ],
)
def test_settings_of_llama_cpp_that_contradict_each_other(values: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Settings.from_values({f'model.{name}': value for name, value in values.items()})


def test_the_revision_with_llama_cpp_is_of_both_files(folder: Path, gguf: Path, tmp_path: Path) -> None:
    first = LlamaCppBackend.load(folder, gguf, device='cpu').info.revision
    half = make_tiny_gguf(folder, tmp_path / 'half.gguf', 'F16')
    assert LlamaCppBackend.load(folder, half, device='cpu').info.revision != first
    assert LlamaCppBackend.load(folder, gguf, device='cpu').info.revision == first


def test_what_the_folder_asks_of_pruning_holds_with_llama_cpp_too(folder: Path, gguf: Path, tmp_path: Path) -> None:
    assert LlamaCppBackend.load(folder, gguf, device='cpu').info.joint_common is None
    asking = Path(shutil.copytree(folder, tmp_path / 'tiny'))
    (asking / 'stprune.json').write_text('{"trained": true, "pruning.joint_common": 1.5}')
    assert LlamaCppBackend.load(asking, gguf, device='cpu').info.joint_common == 1.5


@pytest.mark.parametrize('kind', ['F32', 'F16', 'Q8_0', 'Q4_0'])
def test_embedding_rows_of_llama_cpp_are_those_of_the_folder(folder: Path, tmp_path: Path, kind: str) -> None:
    table = EmbeddingTable(GgufFile.read(make_tiny_gguf(folder, tmp_path / 'x.gguf', kind)), 'token_embd.weight')
    from safetensors.torch import load_file

    own = load_file(folder / 'model.safetensors')['model.language_model.embed_tokens.weight'].numpy()
    ids = torch.tensor([5, 3, 5, len(own) - 1]).numpy()
    tolerance = {'F32': 0.0, 'F16': 1e-3}.get(kind, 0.01)
    assert table[ids] == pytest.approx(own[ids], rel=0, abs=tolerance)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_memory_of_llama_cpp_is_what_it_takes(folder: Path, gguf: Path, dtype: str) -> None:
    values = {'model.engine': 'llama.cpp', 'model.path': str(folder), 'model.gguf': str(gguf), 'model.dtype': dtype}
    settings = Settings.from_values({**values, 'model.context_tokens': 2000})
    found, parts = locate_model(folder), read_parts(locate_model(folder))
    ring = memory.Ring(2, 3, (90, 160))
    config = parts.config.to_dict()
    sizes = (found, config, parts.processor.to_dict(), GgufFile.read(gguf))
    estimate = memory.engine_memory(*sizes, settings, ring, dtype)
    loaded = library.load_library(library.find_library(''))
    model = LanguageModel(loaded, str(gguf), RunOptions(2000, 1, None, dtype == 'float32'))
    model.close()
    loaded.log.lines = []
    model.open()
    said = {
        part: sum(float(line.split('=')[1].split()[0]) for line in loaded.log.lines if f'{part} buffer size' in line)
        for part in ('KV', 'compute', 'output')
    }
    loaded.log.lines = None
    assert estimate.kept_kv / 2**20 == pytest.approx(said['KV'], abs=0.01)
    row = model.row_width
    computing = estimate.kept_prefill - 12 * row * estimate.kept_tokens
    assert said['compute'] + said['output'] <= computing / 2**20 <= 1.2 * (said['compute'] + said['output'])
    backend = LlamaCppBackend.load(folder, gguf, device='cpu', dtype=dtype)
    tower = sum(part.numel() * part.element_size() for part in backend._model.model.visual.parameters())
    assert estimate.weights == GgufFile.read(gguf).size + tower
    assert estimate.dtype == f'{dtype}, F32'
    with pytest.raises(ModelError, match='a prompt has up to .* tokens, and model.context_tokens is 256: raise it'):
        memory.engine_memory(*sizes, settings.changed({'model.context_tokens': 256}), ring, dtype)
    own = memory.engine_memory(*sizes, settings, ring, '').weights
    assert own == GgufFile.read(gguf).size + memory.tower_bytes(found, 0)
