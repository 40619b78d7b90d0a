"""Memory of weights and caches from the files alone, free memory of a device, and what `stprune check --model` says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from stprune_ros.cli import main
from stprune_ros.errors import StpruneError
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm import device, loading
from stprune_ros.vlm.device import Memory, find_device, find_dtype, free_memory, proc_bytes
from stprune_ros.vlm.hf.families import FAMILIES
from stprune_ros.vlm.hf.files import gib
from stprune_ros.vlm.hf.memory import (
    MemoryEstimate,
    check_room,
    kv_bytes,
    kv_shape,
    largest_ratio,
    summary_text,
    tight,
    weight_bytes,
)
from stprune_ros.vlm.hf.model_folder import ModelFolder

MATRIX, LIST = 'model.language_model.layers.0.mlp.up_proj.weight', 'model.language_model.layers.0.norm.weight'
EYES, WORDS = 'model.visual.layers.0.mlp.up_proj.weight', 'model.language_model.embed_tokens.weight'


def folder_of(path: Path, tensors: dict[str, torch.Tensor]) -> ModelFolder:
    save_file(tensors, path / 'model.safetensors')
    return ModelFolder(path, 'tiny', '', FAMILIES['qwen3_vl'], True, '', None, (path / 'model.safetensors',))


@pytest.fixture
def weights(tmp_path: Path) -> ModelFolder:
    half = torch.zeros(64, 128, dtype=torch.bfloat16)
    return folder_of(tmp_path, {MATRIX: half, LIST: half[0].clone(), EYES: half.clone(), WORDS: half.clone()})


@pytest.mark.parametrize(
    ('dtype', 'quantization', 'matrix', 'other', 'kind'),
    [
        ('', 'none', 2, 2, 'bfloat16'),
        ('float32', 'none', 4, 4, 'float32'),
        ('float16', 'none', 2, 2, 'float16'),
        ('', '8bit', 1, 2, 'bfloat16'),
        ('float32', '4bit', 0.5625, 4, 'float32'),
        ('float32', 'int4', 0.625, 4, 'float32'),
        ('', 'int4', 0.5625, 2, 'bfloat16'),
    ],
)
def test_weights_by_number_type(
    weights: ModelFolder, dtype: str, quantization: str, matrix: float, other: int, kind: str
) -> None:
    assert weight_bytes(weights, dtype, quantization) == (64 * 128 * matrix + (2 * 64 * 128 + 128) * other, kind)


def test_int4_is_filled_up_on_a_gpu_and_leaves_odd_rows(tmp_path: Path) -> None:
    """On a GPU to 64 x 1024; rows of 96 have no groups of 64."""
    half = torch.zeros(60, 128, dtype=torch.bfloat16)
    folder = folder_of(tmp_path, {MATRIX: half, MATRIX.replace('0', '1'): half[:, :96].clone()})
    assert weight_bytes(folder, 'bfloat16', 'int4') == (60 * 128 * 0.5625 + 60 * 96 * 2, 'bfloat16')
    assert weight_bytes(folder, 'bfloat16', 'int4', on_gpu=True)[0] == 64 * 1024 * 0.5625 + 60 * 96 * 2
    assert weight_bytes(folder, 'bfloat16', '4bit', on_gpu=True)[0] == 60 * (128 + 96) * 0.5625
    need = 64 * 1024 * 0.5625 + 60 * 96 * 2
    check_room(folder, 'bfloat16', 'int4', Memory(round(need), 'free memory of the GPU'), on_gpu=True)
    with pytest.raises(StpruneError, match='as bfloat16'):
        check_room(folder, 'bfloat16', 'int4', Memory(round(need) - 1, 'free memory of the GPU'), on_gpu=True)


def test_memory_must_be_enough_for_the_highest_ratio_that_a_target_may_lead_to() -> None:
    values = {'pruning.keep_ratio': 0.1, 'latency.keep_max': 0.4}
    assert largest_ratio(Settings.from_values(values)) == 0.1
    assert largest_ratio(Settings.from_values({**values, 'latency.target_ms': 500.0})) == 0.4
    assert largest_ratio(Settings.from_values({**values, 'pruning.method': 'none'})) == 1.0


def test_numbers_that_are_not_converted_count_as_they_are(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {'a': torch.zeros(10, dtype=torch.int8), 'b': torch.zeros(3, dtype=torch.float16)})
    assert weight_bytes(folder, 'float32', 'none') == (10 + 12, 'float32')


@pytest.mark.parametrize('data', [b'', b'\x08\x00', b'\xff' * 16, b'\x02\x00\x00\x00\x00\x00\x00\x00[]'])
def test_broken_header_is_named(weights: ModelFolder, data: bytes) -> None:
    weights.weights[0].write_bytes(data)
    with pytest.raises(StpruneError, match=r"weights file '.*model.safetensors' has no readable header"):
        weight_bytes(weights, '', 'none')


def test_weights_without_room_are_refused_before_loading(weights: ModelFolder) -> None:
    need = weight_bytes(weights, 'float32', 'none')[0]
    check_room(weights, 'float32', 'none', Memory(need, 'MemAvailable'))
    check_room(weights, 'float32', 'none', Memory(None, 'no figure'))
    with pytest.raises(StpruneError, match=r'take 0.09 MiB as float32, 0.09 MiB are free \(MemAvailable\)'):
        check_room(weights, 'float32', 'none', Memory(need - 1, 'MemAvailable'))


def test_kv_of_published_configurations() -> None:
    """Qwen2.5-VL-3B: 2 (K, V) x 36 layers x 2 heads x 128 x 2 bytes; Gemma3 4B names its head_dim: not 2560 / 8."""
    qwen = {'num_hidden_layers': 36, 'num_attention_heads': 16, 'num_key_value_heads': 2, 'hidden_size': 2048}
    assert kv_bytes(*kv_shape({'text_config': qwen}), 1000, 2) == 36_864_000
    gemma = {'num_hidden_layers': 34, 'num_attention_heads': 8, 'num_key_value_heads': 4, 'hidden_size': 2560}
    assert kv_bytes(*kv_shape({'text_config': gemma | {'head_dim': 256}}), 1, 2) == 139_264
    with pytest.raises(StpruneError, match="has no 'num_hidden_layers'"):
        kv_shape({'text_config': {'num_attention_heads': 8, 'hidden_size': 8}})


def test_free_memory_of_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / 'meminfo').write_text('MemTotal:  10 kB\nMemAvailable:    7 kB\n')
    assert proc_bytes(str(tmp_path / 'meminfo'), 'MemAvailable') == 7 * 1024
    assert proc_bytes(str(tmp_path / 'meminfo'), 'SwapFree') is None
    assert proc_bytes(str(tmp_path / 'nothing'), 'MemAvailable') is None
    monkeypatch.setattr(device, 'proc_bytes', lambda path, key: {('/proc/meminfo', 'MemAvailable'): 123}[path, key])
    assert free_memory(torch.device('cpu')) == Memory(123, 'MemAvailable')
    assert free_memory(torch.device('meta')) == Memory(None, "no figure for device 'meta'")


@pytest.mark.parametrize(('integrated', 'free'), [(False, 5), (True, 123)])
def test_integrated_gpus_share_the_system_s_memory(
    monkeypatch: pytest.MonkeyPatch, integrated: bool, free: int
) -> None:
    monkeypatch.setattr(device, 'proc_bytes', lambda path, key: 123)
    properties = SimpleNamespace(is_integrated=integrated)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda place: properties)
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda place: (5, 10))
    assert free_memory(torch.device('cuda:0')).free == free


def test_number_type_of_a_device() -> None:
    assert find_dtype('auto', find_device('cpu')) == torch.float32
    assert find_dtype('auto', torch.device('cuda')) is None
    assert find_dtype('float16', torch.device('cpu')) == torch.float16


def estimate(encode: int) -> MemoryEstimate:
    caches = 2**20, 2**19, 864, 2016, 3 * 2**20, 8 * 2**20
    return MemoryEstimate('bfloat16', 2**31, 24, 60, *caches, encode, 4 * 2**20, 7 * 2**20)


def test_too_little_room_beside_what_is_counted_is_said() -> None:
    found = estimate(encode=2**20)
    margin = round(found.kept / 9)  # a tenth of the sum of both
    for spare, warned in ((-1, False), (0, True), (margin - 9, True), (margin + 9, False)):
        said = tight(found, Memory(found.kept + spare, 'MemAvailable'))
        assert bool(said) == warned, spare
    assert tight(found, Memory(None, 'no figure')) == ''
    said = tight(found, Memory(found.kept + 2**20, 'MemAvailable'))
    assert said.startswith('only 1.00 MiB of 2.01 GiB are left') and 'where 10% should be' in said


def test_table() -> None:
    found = estimate(encode=5 * 2**20)
    text = summary_text(found, Memory(2**33, 'MemAvailable'), 0.1)
    assert 'weights' in text and '2.00 GiB  bfloat16' in text
    assert '24 images of 60 tokens' in text
    assert 'side cameras' not in text
    side = summary_text(replace(found, side_tokens=28), Memory(2**33, 'MemAvailable'), 0.1)
    assert '24 images of 60 tokens, side cameras 28' in side and 'the larger of two groups of images' in side
    lines = {line[:22].strip(): line[22:].split()[:2] for line in text.splitlines()}
    assert lines['KV cache, 0.1 kept'] == ['3.00', 'MiB']
    assert lines['KV cache, all kept'] == ['8.00', 'MiB']
    assert lines['similarities'] == ['0.50', 'MiB']
    assert lines['encoding'] == ['5.00', 'MiB']
    assert lines['prefill, 0.1 kept'] == ['4.00', 'MiB']
    assert lines['prefill, all kept'] == ['7.00', 'MiB']
    assert lines['free'] == ['8.00', 'GiB']
    assert found.kept == 2**31 + 2**20 + 2**19 + 3 * 2**20 + 5 * 2**20, 'the larger of encoding and prefill'
    assert found.full == 2**31 + 2**20 + 8 * 2**20 + 7 * 2**20
    assert estimate(encode=3 * 2**20).kept == found.kept - 2**20
    left = 2**33 - found.kept
    assert lines['left'] == [f'{left / 2**30:.2f}', 'GiB']
    assert 'left' not in summary_text(found, Memory(found.kept - 1, 'MemAvailable'), 0.1)
    unknown = summary_text(found, Memory(None, 'no figure'), 0.1)
    assert 'not known' in unknown and 'left' not in unknown
    assert (gib(2**29 - 1), gib(2**29)) == ('512.00 MiB', '0.50 GiB')


def params(path: Path, **values: object) -> str:
    path.write_text(json.dumps({'/**': {'ros__parameters': values}}))
    return str(path)


def test_check_of_the_bundled_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = params(tmp_path / 'p.yaml', **{'cameras.names': ['a', 'b'], 'history.frames': 3, 'model.device': 'cpu'})
    assert main(['check', file, '--model', '--image', '320x192']) == 0
    out = capsys.readouterr().out
    assert 'ringworld (qwen3_vl) on cpu: 2 views of 3 frames, images of 320x192 (--image)\n' in out
    assert '6 images of 60 tokens' in out
    size = sum(path.stat().st_size for path in Path(loading.resource_path(loading.BUNDLED_MODEL)).glob('*.safetensors'))
    held = float(out.split('weights')[1].split()[0])
    assert held == pytest.approx(size / 2**20, rel=0.02)


def test_a_model_that_does_not_fit_fails_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, 'proc_bytes', lambda path, key: 2**20)
    assert main(['check', params(tmp_path / 'p.yaml', **{'model.device': 'cpu'}), '--model']) == 1
    streams = capsys.readouterr()
    assert '1.00 MiB  MemAvailable' in streams.out
    assert streams.err.startswith('stprune: the model does not fit: ')


def test_a_model_that_barely_fits_is_said_and_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = params(tmp_path / 'p.yaml', **{'model.device': 'cpu'})
    assert main(['check', file, '--model', '--image', '320x192']) == 0
    streams = capsys.readouterr()
    assert streams.err == ''
    [kept] = [float(line.split()[3]) for line in streams.out.splitlines() if line.startswith('together, 0.1')]
    monkeypatch.setattr(device, 'proc_bytes', lambda path, key: int((kept + 1.01) * 2**20))
    assert main(['check', file, '--model', '--image', '320x192']) == 0
    said = capsys.readouterr().err
    assert said.startswith(f'{file}: only 1.0')
    assert said.count('\n') == 1


def test_what_is_kept_must_fit_not_what_could_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two sums of the table, a model fits; its numbers are those of the parameters."""
    settings = Settings.from_values({'model.device': 'cpu', 'pruning.keep_ratio': 0.5, 'pruning.method': 'random'})
    text, fits, *_ = loading.check_memory(settings, (192, 320))
    assert fits
    assert '6 views of 4 frames' in text
    together = {line.split()[1]: float(line.split()[3]) for line in text.splitlines() if line.startswith('together')}
    assert [*together] == ['0.5', 'all'], 'the keep ratio of the parameters'
    kept, full = together.values()
    assert kept != full
    monkeypatch.setattr(device, 'proc_bytes', lambda path, key: int((kept + full) / 2 * 2**20))
    assert loading.check_memory(settings, (192, 320))[1] == (kept < full)
    capped = Settings.from_values({'model.device': 'cpu', 'model.max_image_pixels': 5_000})
    assert '24 images of 60 tokens' in text
    assert '24 images of 60 tokens' not in loading.check_memory(capped, (192, 320))[0]


def test_a_model_is_checked_for_another_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its memory counts, at the highest ratio that the target may lead to, and its device need not be here."""
    file = params(
        tmp_path / 'p.yaml', **{'model.device': 'cuda:7', 'latency.target_ms': 500.0, 'latency.keep_max': 0.4}
    )
    assert main(['check', file, '--memory', '1.5GiB', '--image', '320x192']) == 0
    said = capsys.readouterr().out
    assert 'on cuda:7: 6 views of 4 frames' in said
    assert 'together, 0.4 kept' in said
    assert re.search(r'^free +1.50 GiB  --memory$', said, re.MULTILINE)
    assert main(['check', file, '--model', '--image', '320x192', '--memory', '1MiB']) == 1
    assert 'the model does not fit' in capsys.readouterr().err
    assert main(['check', file, '--model']) == 1
    assert "'model.device' is 'cuda:7', unusable here" in capsys.readouterr().err
    for arguments, sentence in (
        (('--memory', '15'), "'15' is not a size of the form 15GiB or 512MiB"),
        (('--memory', 'xGiB'), "'xGiB' is not a size of the form 15GiB or 512MiB"),
        (('--memory', '0GiB'), '0 is not a number above 0'),
    ):
        with pytest.raises(SystemExit) as caught:
            main(['check', file, *arguments])
        assert caught.value.code == 2
        assert sentence in capsys.readouterr().err


def test_a_wrong_model_fails_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'llava').mkdir()
    (tmp_path / 'llava' / 'config.json').write_text('{"model_type": "llava"}')
    assert main(['check', params(tmp_path / 'p.yaml', **{'model.path': str(tmp_path / 'llava')}), '--model']) == 1
    assert "model family 'llava' of" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['check', 'p.yaml', '--model', '--image', '1920'])
    assert "'1920' is not of the form 1920x1080" in capsys.readouterr().err
