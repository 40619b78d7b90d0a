"""Everything that is wrong with a model folder, read from its files at once; no torch and no transformers import."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stprune_ros.errors import ModelError, shown, word
from stprune_ros.vlm.hf.files import (
    INDEX,
    LFS_POINTER,
    MAX_JSON,
    MAX_TOKENIZER,
    PROCESSOR,
    read_json,
    single_weights_file,
)
from stprune_ros.vlm.hf.weight_faults import weight_faults

# Classes of transformers by model type; `families` says what each family needs.
ARCHITECTURES: Mapping[str, str] = {
    'qwen2_vl': 'Qwen2VLForConditionalGeneration',
    'qwen2_5_vl': 'Qwen2_5_VLForConditionalGeneration',
    'qwen3_vl': 'Qwen3VLForConditionalGeneration',
    'llava_onevision': 'LlavaOnevisionForConditionalGeneration',
    'internvl': 'InternVLForConditionalGeneration',
    'smolvlm': 'SmolVLMForConditionalGeneration',
    'idefics3': 'Idefics3ForConditionalGeneration',
    'gemma3': 'Gemma3ForConditionalGeneration',
}
# How the image processor of a family gives its size; pixels of a whole image where they are edges of Qwen.
PIXEL_LIMITS, SIDES, LONGEST = ('shortest_edge', 'longest_edge'), ('height', 'width'), ('longest_edge',)
SIZE_KEYS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(('qwen2_vl', 'qwen2_5_vl', 'qwen3_vl'), PIXEL_LIMITS),
    **dict.fromkeys(('llava_onevision', 'internvl', 'gemma3'), SIDES),
    **dict.fromkeys(('smolvlm', 'idefics3'), LONGEST),
}
BITSANDBYTES = 'bitsandbytes'
BITSANDBYTES_NEEDS = (BITSANDBYTES, 'accelerate')
# Files of tools that write what they packed beside config.json.
PACKED_BY_FILE = {'hf_quant_config.json': 'modelopt', 'quantize_config.json': 'gptq', 'quant_config.json': 'awq'}
# What a model cannot do without: it would be shown pixels that it never saw in training.
NEEDED_STEPS = ('do_resize', 'do_rescale', 'do_normalize')
MAX_SIDE, MAX_PIXELS = 2**14, 2**28  # of an image, far beyond any checkpoint
ADAPTER = 'adapter_config.json'
LISTED = 8  # names of a file in a sentence


def folder_faults(path: Path) -> tuple[list[str], list[str]]:
    """Sentences about what is wrong with the model folder ``path``, and about what is worth knowing."""
    if not (path / 'config.json').is_file():
        return [_no_model(path)], []
    faults: list[str] = []
    config = _json(path / 'config.json', faults)
    if config is not None:
        faults += _family_faults(path, config)
    packed = packed_with(path, config or {})
    faults += _packing_faults(path, packed)
    adapter = _holds_adapter_only(path)
    faults += [_adapter_only(path)] if adapter else weight_faults(path, declared=bool(packed))
    faults += _tokenizer_faults(path)
    faults += _processor_faults(path, word((config or {}).get('model_type')))
    if adapter or not (path / ADAPTER).is_file():
        return faults, []
    if find_spec('peft') is not None:
        return [
            *faults,
            f"model folder '{path}' holds an adapter beside its weights, which transformers would apply through peft:"
            f' merge it into the model, or remove adapter_config.json',
        ], []
    return faults, [f"the adapter in model folder '{path}' is not applied: merge it into the model to use it"]


def _no_model(path: Path) -> str:
    """What a folder without config.json holds instead."""
    if (path / ADAPTER).is_file():
        return _adapter_only(path)
    for suffix, name in (('.gguf', 'GGUF'), ('.onnx', 'ONNX'), ('.engine', 'TensorRT'), ('.xml', 'OpenVINO')):
        found = sorted(path.glob(f'*{suffix}'))
        if found:
            return _other_format(path, name, found[0].name)
    inner = sorted(file.parent for file in [*path.glob('*/config.json'), *path.glob('snapshots/*/config.json')])
    hint = f"; perhaps '{inner[0]}' is meant" if inner else ''
    return f"'{path}' is no model folder: it has no config.json{hint}"


def _other_format(path: Path, name: str, file: str) -> str:
    return f"model folder '{path}' holds {name} ('{file}'), and {name} is not read: take the safetensors checkpoint"


def _holds_adapter_only(path: Path) -> bool:
    weights = single_weights_file(path).is_file() or (path / INDEX).is_file()
    shards = any(not file.name.startswith('adapter_') for file in path.glob('*.safetensors'))
    return (path / ADAPTER).is_file() and not weights and not shards


def _adapter_only(path: Path) -> str:
    try:
        base = read_json(path / ADAPTER).get('base_model_name_or_path')
    except ModelError:
        base = None
    named = f", '{word(base)}'," if base else ''
    return (
        f"model folder '{path}' holds an adapter only: merge it into its base model{named} and set model.path to the"
        ' result'
    )


def _family_faults(path: Path, config: Mapping[str, Any]) -> Iterator[str]:
    model_type, given = word(config.get('model_type')), config.get('architectures') or []
    classes = given if isinstance(given, list) else [given]
    named = ', '.join(map(word, classes[:LISTED]))
    supported = ', '.join(sorted(ARCHITECTURES))
    if model_type not in ARCHITECTURES:
        if named.endswith('ForCausalLM') and not any('vision' in key for key in config):
            yield (
                f"model '{path}' ('{model_type}', {named}) reads text only, it has no vision tower; supported are"
                f' {supported}'
            )
            return
        near = difflib.get_close_matches(model_type, ARCHITECTURES, n=1)
        hint = f"; the nearest is '{near[0]}'" if near else ''
        yield f"model family '{model_type}' of '{path}' is not supported; supported are {supported}{hint}"
    elif classes and ARCHITECTURES[model_type] not in classes:
        yield (
            f"'{path / 'config.json'}' says architecture {named}, but family '{model_type}' needs"
            f' {ARCHITECTURES[model_type]}: take the whole model, with its language head'
        )


def packed_with(path: Path, config: Mapping[str, Any]) -> str:
    """What the weights of the folder are quantised with, as config.json or a file beside it says; '' for nothing."""
    text = config.get('text_config')
    for place in (config, text if isinstance(text, Mapping) else {}):
        for key in ('quantization_config', 'compression_config'):
            found = place.get(key)
            if isinstance(found, Mapping):
                saved = BITSANDBYTES if found.get('load_in_4bit') or found.get('load_in_8bit') else 'an unknown method'
                return word(found.get('quant_method') or saved)
    if isinstance(config.get('quantization'), Mapping):
        return 'mlx'
    return next((kind for name, kind in PACKED_BY_FILE.items() if (path / name).is_file()), '')


def packed_bits(path: Path) -> str:
    """'4bit' or '8bit' where the folder's weights are packed with bitsandbytes, else ''."""
    config = read_json(path / 'config.json')
    if packed_with(path, config) != BITSANDBYTES:
        return ''
    return '4bit' if config['quantization_config'].get('load_in_4bit') else '8bit'


def _packing_faults(path: Path, packed: str) -> Iterator[str]:
    if packed == BITSANDBYTES:
        missing = [name for name in BITSANDBYTES_NEEDS if find_spec(name) is None]
        if missing:
            yield (
                f"weights of '{path}' are packed with bitsandbytes, which needs {' and '.join(missing)}; pip install"
                f' {" ".join(BITSANDBYTES_NEEDS)}, or take the unquantised checkpoint'
            )
    elif packed:
        yield (
            f"weights of '{path}' are quantised with {packed}, which is not supported: take the unquantised checkpoint"
            " and set model.quantization to '4bit' or '8bit'"
        )


def _tokenizer_faults(path: Path) -> list[str]:
    faults: list[str] = []
    whole = path / 'tokenizer.json'
    slow = [path / 'vocab.json', path / 'merges.txt']
    if whole.is_file():
        _json(whole, faults, MAX_TOKENIZER)
    elif not all(file.is_file() for file in slow):
        faults.append(f"model folder '{path}' has no tokenizer: tokenizer.json, or vocab.json with merges.txt")
    settings: dict[str, Any] | None = None
    if (path / 'tokenizer_config.json').is_file():
        settings = _json(path / 'tokenizer_config.json', faults)
    else:
        faults.append(f"model folder '{path}' has no tokenizer_config.json")
    template = path / 'chat_template.jinja'
    if template.is_file():
        faults += _unusable(template)
    elif (path / 'chat_template.json').is_file():
        _json(path / 'chat_template.json', faults)
    elif settings is not None and not (
        settings.get('chat_template') or (path / 'additional_chat_templates').is_dir() or _in_processor(path)
    ):
        faults.append(f"tokenizer of '{path}' has no chat template")
    return faults


def _in_processor(path: Path) -> bool:
    """Whether the chat template stands in processor_config.json; a fault of that file is told elsewhere."""
    try:
        return (path / PROCESSOR).is_file() and bool(read_json(path / PROCESSOR).get('chat_template'))
    except ModelError:
        return False


def _processor_faults(path: Path, model_type: str) -> list[str]:
    faults: list[str] = []
    file = path / 'preprocessor_config.json'
    if not file.is_file():
        file = path / PROCESSOR
    if not file.is_file():
        return [f"model folder '{path}' has no image processor: preprocessor_config.json"]
    found = _json(file, faults)
    if found is None:
        return faults
    if file.name == PROCESSOR and isinstance(found.get('image_processor'), Mapping):
        found = found['image_processor']
    faults += [
        f"'{file}' has {step} false, but the model was trained on images after that step: set it to true there"
        for step in NEEDED_STEPS
        if found.get(step) is False
    ]
    size, wanted = found.get('size'), SIZE_KEYS.get(model_type)
    if not isinstance(size, Mapping) or wanted is None:
        return faults
    limit = MAX_PIXELS if wanted == PIXEL_LIMITS else MAX_SIDE
    faults += [
        f"'{file}' has {key} {shown(size[key])} in its size; it must be a whole number between 1 and {limit}"
        for key in (*wanted, 'min_pixels', 'max_pixels')
        if size.get(key) is not None and not (type(size[key]) is int and 1 <= size[key] <= limit)
    ]
    given = [word(key) for key, value in list(size.items())[:LISTED] if value is not None]
    if set(given) == set(wanted) or (wanted == PIXEL_LIMITS and set(given) == {'min_pixels', 'max_pixels'}):
        return faults
    surplus = [key for key in given if key not in wanted]
    missing = [key for key in wanted if key not in given]
    if missing:
        remedy = f'; delete {" and ".join(surplus)}' if surplus else ''
        faults.append(
            f"'{file}' has no {' and '.join(missing)} in its size, which family '{model_type}' reads{_meaning(wanted)}:"
            f' give them there{remedy}'
        )
    else:
        faults.append(
            f"'{file}' has {' and '.join(surplus)} in its size beside {' and '.join(wanted)}, which are what family"
            f" '{model_type}' reads: delete {' and '.join(surplus)} there"
        )
    return faults


def _meaning(wanted: tuple[str, ...]) -> str:
    return ' (least and most pixels of an image)' if wanted == PIXEL_LIMITS else ''


def _json(file: Path, faults: list[str], limit: int = MAX_JSON) -> dict[str, Any] | None:
    """The content of a JSON file; None, and a sentence in ``faults``, where it cannot be used."""
    found = _unusable(file)
    if found:
        faults += found
        return None
    try:
        return read_json(file, limit)
    except ModelError as error:
        faults.append(str(error))
        return None


def _unusable(file: Path) -> list[str]:
    with file.open('rb') as opened:
        start = opened.read(len(LFS_POINTER))
    if not start:
        return [f"'{file}' is empty; fetch it again"]
    return [f"'{file}' is only a Git LFS pointer; fetch it with git lfs pull"] if start == LFS_POINTER else []
