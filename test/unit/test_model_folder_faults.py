"""What `stprune check` finds in a model folder: the bundled one, changed."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from helpers.checked import check

from stprune_ros.resources import resource_path
from stprune_ros.vlm.hf import folder_faults
from stprune_ros.vlm.hf.model_folder import inspect_folder


@pytest.fixture
def model(tmp_path) -> Path:
    """A small folder with every kind of file that is looked at; its one tensor is 16 bytes long."""
    folder = tmp_path / 'vlm'
    folder.mkdir()
    bundled = resource_path('models/ringworld')
    for name in ('tokenizer.json', 'tokenizer_config.json', 'preprocessor_config.json'):
        (folder / name).write_bytes((bundled / name).read_bytes())
    (folder / 'chat_template.jinja').write_text('{{ messages }}')
    change(folder / 'config.json', model_type='qwen2_5_vl', vision_config={}, text_config={})
    weights(folder / 'model.safetensors', {'a.weight': 16})
    return folder


def change(file: Path, **values: object) -> None:
    tree = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({key: value for key, value in {**tree, **values}.items() if value is not None}))


def weights(file: Path, sizes: dict[str, int], dtype: str = 'F32') -> Path:
    header, at = {}, 0
    for name, size in sizes.items():
        header[name] = {'dtype': dtype, 'shape': [size // 4], 'data_offsets': [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack('<Q', len(text)) + text + bytes(at))
    return file


def faults(folder: Path) -> list[str]:
    return inspect_folder(folder)[0]


def test_a_whole_folder_has_no_fault(model):
    assert inspect_folder(model) == ([], [])


def test_all_faults_of_a_folder_at_once(model, tmp_path, capsys):
    change(
        model / 'config.json', quantization_config={'quant_method': 'awq', 'bits': 4}, architectures=['Qwen2_5_VLModel']
    )
    data = (model / 'model.safetensors').read_bytes()
    (model / 'model.safetensors').write_bytes(data[:-5])
    (model / 'tokenizer_config.json').unlink()
    (model / 'tokenizer.json').write_bytes(b'')
    change(model / 'preprocessor_config.json', size={'height': 448, 'width': 448})
    found = check(tmp_path, capsys, f'model: {{path: {model}}}, history: {{frames: 0}}', '--model')
    assert len(found) == 7
    for word, problem in zip(
        (
            "'history.frames' is 0",
            "says architecture Qwen2_5_VLModel, but family 'qwen2_5_vl' needs Qwen2_5_VLForConditionalGeneration",
            'quantised with awq, which is not supported: take the unquantised checkpoint',
            f'is cut short or damaged: it has {len(data) - 5} bytes, its header says {len(data)}',
            "tokenizer.json' is empty; fetch it again",
            'has no tokenizer_config.json',
            "has no shortest_edge and longest_edge in its size, which family 'qwen2_5_vl' reads",
        ),
        found,
        strict=True,
    ):
        assert word in problem


@pytest.mark.parametrize(
    ('config', 'kind'),
    [
        ({'quantization_config': {'quant_method': 'gptq'}}, 'gptq'),
        ({'quantization_config': {'quant_method': 'torchao'}}, 'torchao'),
        ({'text_config': {'quantization_config': {'quant_method': 'mxfp4'}}}, 'mxfp4'),
        ({'compression_config': {'quant_method': 'compressed-tensors'}}, 'compressed-tensors'),
        ({'quantization': {'group_size': 64, 'bits': 4}}, 'mlx'),
    ],
)
def test_quantised_checkpoints_name_their_kind(model, config, kind):
    change(model / 'config.json', **config)
    [fault] = faults(model)
    assert fault == (
        f"weights of '{model}' are quantised with {kind}, which is not supported: take the unquantised checkpoint and"
        " set model.quantization to '4bit' or '8bit'"
    )


def test_eight_bit_floats_and_other_tools_are_seen_without_a_word_in_the_config(model):
    weights(model / 'model.safetensors', {'a.weight': 16}, 'F8_E4M3')
    assert ['quantised with F8_E4M3' in fault for fault in faults(model)] == [True]
    weights(model / 'model.safetensors', {'a.weight': 16})
    change(model / 'hf_quant_config.json', quantization={})
    assert ['quantised with modelopt' in fault for fault in faults(model)] == [True]


def test_bitsandbytes_names_what_to_install(model, monkeypatch):
    change(model / 'config.json', quantization_config={'load_in_4bit': True, 'load_in_8bit': False})
    monkeypatch.setattr(folder_faults, 'find_spec', lambda name: None if name == 'accelerate' else object())
    [fault] = faults(model)
    assert 'packed with bitsandbytes, which needs accelerate; pip install bitsandbytes accelerate' in fault
    monkeypatch.setattr(folder_faults, 'find_spec', lambda name: None if name == 'peft' else object())
    assert faults(model) == []
    assert folder_faults.packed_bits(model) == '4bit'


def test_adapters(model, monkeypatch):
    change(model / 'adapter_config.json', base_model_name_or_path='maker/base')
    weights(model / 'adapter_model.safetensors', {'lora': 16})
    monkeypatch.setattr(folder_faults, 'find_spec', lambda name: None)
    assert inspect_folder(model) == (
        [],
        [f"the adapter in model folder '{model}' is not applied: merge it into the model to use it"],
    )
    monkeypatch.setattr(folder_faults, 'find_spec', lambda name: object())
    assert 'which transformers would apply through peft' in faults(model)[0]
    only = (
        f"model folder '{model}' holds an adapter only: merge it into its base model, 'maker/base', and set model.path"
        ' to the result'
    )
    (model / 'model.safetensors').unlink()
    assert faults(model) == [only]
    (model / 'config.json').unlink()
    assert faults(model) == [only]


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('q4.gguf', "holds GGUF ('q4.gguf'), and GGUF is not read"),
        ('model.onnx', "holds ONNX ('model.onnx'), and ONNX is not read"),
        ('weights.npz', "holds MLX ('weights.npz'), and MLX is not read"),
        ('consolidated.00.pth', 'has weights as .pth only; convert them to safetensors'),
        ('pytorch_model.bin', 'has weights as .bin only; convert them to safetensors'),
        ('model-00002-of-00003.safetensors', "has 1 of 3 shards, 'model-00002-of-00003.safetensors' among them, but"),
        ('consolidated.safetensors', "no weights file 'model.safetensors'; it has 'consolidated.safetensors', which"),
    ],
)
def test_weights_of_another_kind(model, name, words):
    (model / 'model.safetensors').rename(model / name)
    [fault] = faults(model)
    assert words in fault


def test_a_folder_above_the_model(model):
    [fault] = faults(model.parent)
    assert fault == f"'{model.parent}' is no model folder: it has no config.json; perhaps '{model}' is meant"


def shard(model: Path, places: dict[str, str]) -> None:
    (model / 'model.safetensors').unlink()
    (model / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': places}))


def test_shards(model):
    shard(model, {'a': 's1.safetensors', 'b': 's2.safetensors', 'c': 's3.safetensors'})
    weights(model / 's1.safetensors', {'a': 8})
    assert [
        "lacks 2 of the 3 weights files that its index names, such as 's2.safetensors'" in fault
        for fault in faults(model)
    ] == [True]
    weights(model / 's2.safetensors', {'x': 8})
    (model / 's3.safetensors').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n')
    assert faults(model) == [
        f"weights file '{model / 's2.safetensors'}' lacks 1 tensors that the index places there, such as 'b'; index and"
        ' shards do not belong together',
        f"weights file '{model / 's3.safetensors'}' is only a Git LFS pointer; fetch it with git lfs pull",
    ]
    weights(model / 's2.safetensors', {'b': 8})
    weights(model / 's3.safetensors', {'c': 8})
    assert faults(model) == []


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        (b'', 'is empty; fetch it again'),
        (struct.pack('<Q', 2**60) + b'{}', f'has no readable header: it would take {2**60} bytes, the file has 10'),
        (struct.pack('<Q', 2) + b'{}', 'holds no tensor'),
        (struct.pack('<Q', 2) + b'{]', 'has no readable header'),
        (struct.pack('<Q', 2) + b'{}more', 'it has 14 bytes, its header says 10'),
    ],
)
def test_damaged_weights(model, data, words):
    (model / 'model.safetensors').write_bytes(data)
    [fault] = faults(model)
    assert words in fault


@pytest.mark.parametrize(
    ('config', 'words'),
    [
        ({'model_type': 'qwen3_vl_moe'}, "; the nearest is 'qwen3_vl'"),
        ({'model_type': 'llama', 'vision_config': None, 'architectures': ['LlamaForCausalLM']}, 'reads text only'),
        ({'model_type': None}, "model family 'None'"),
    ],
)
def test_families(model, config, words):
    change(model / 'config.json', **config)
    [fault] = faults(model)
    assert words in fault


@pytest.mark.parametrize(
    ('family', 'size', 'words'),
    [
        (
            'qwen2_5_vl',
            {'shortest_edge': 1, 'longest_edge': 2, 'min_pixels': 1, 'max_pixels': 2},
            'has min_pixels and max_pixels in its size beside shortest_edge and longest_edge, which are what family'
            " 'qwen2_5_vl' reads: delete min_pixels and max_pixels there",
        ),
        ('qwen2_vl', {'min_pixels': 1, 'max_pixels': 2}, ''),
        ('qwen2_vl', None, ''),
        ('qwen3_vl', {'shortest_edge': 1}, 'has no longest_edge in its size'),
        ('internvl', {'height': 448, 'width': 448}, ''),
        ('gemma3', {'shortest_edge': 448}, 'has no height and width in its size'),
        ('smolvlm', {'longest_edge': 512}, ''),
        ('qwen2_vl', {'shortest_edge': 1, 'longest_edge': 2**28}, ''),
        (
            'qwen2_vl',
            {'shortest_edge': 0, 'longest_edge': 2**28},
            'has shortest_edge 0 in its size; it must be a whole number between 1 and 268435456',
        ),
        ('qwen2_vl', {'min_pixels': 1, 'max_pixels': 2**28 + 1}, 'has max_pixels 268435457 in its size'),
        ('internvl', {'height': 448, 'width': 44.5}, 'has width 44.5 in its size'),
        ('internvl', {'height': True, 'width': 448}, 'has height True in its size'),
        ('gemma3', {'height': 2**14 + 1, 'width': 2**14}, 'has height 16385 in its size; it must be a whole number'),
        ('smolvlm', {'longest_edge': -512}, 'has longest_edge -512 in its size'),
    ],
)
def test_sizes_of_image_processors(model, family, size, words):
    change(model / 'config.json', model_type=family)
    change(model / 'preprocessor_config.json', size=size)
    found = faults(model)
    assert len(found) == (1 if words else 0)
    assert not words or (words in found[0] and str(model / 'preprocessor_config.json') in found[0])


@pytest.mark.parametrize('step', ['do_resize', 'do_rescale', 'do_normalize'])
def test_an_image_processor_that_leaves_out_what_the_model_was_trained_with(model, step):
    change(model / 'preprocessor_config.json', **{step: False})
    [fault] = faults(model)
    assert fault == (
        f"'{model / 'preprocessor_config.json'}' has {step} false, but the model was trained on images after that step:"
        ' set it to true there'
    )


def test_broken_json_is_named_with_its_file(model):
    for name in ('config.json', 'preprocessor_config.json', 'tokenizer.json'):
        (model / name).write_text('{"a": ')
    assert [
        f"'{model / name}' cannot be read as JSON" in fault
        for name, fault in zip(
            ('config.json', 'tokenizer.json', 'preprocessor_config.json'), faults(model), strict=True
        )
    ] == [True] * 3
