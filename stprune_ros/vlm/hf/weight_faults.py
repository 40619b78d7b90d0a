"""What is wrong with the weights of a model folder: shards, index, length against header; no torch, no transformers."""

from __future__ import annotations

import re
from pathlib import Path

from stprune_ros.errors import ModelError, plain
from stprune_ros.vlm.hf.files import INDEX, LFS_POINTER, read_json, single_weights_file, tensors

SHARD = re.compile(r'.*-(\d+)-of-(\d+)\.safetensors')
SHARD_NAME = re.compile(r'[\w.-]{1,255}\.safetensors')  # and no path
PICKLED = ('.bin', '.pth', '.pt', '.ckpt')
OTHER_FORMATS = {'.gguf': 'GGUF', '.onnx': 'ONNX', '.h5': 'TensorFlow', '.msgpack': 'Flax', '.npz': 'MLX'}


def weight_names(path: Path) -> list[str]:
    """The safetensors files that are loaded from a folder: one, or the shards of its index. Raises ModelError."""
    if single_weights_file(path).is_file() or not (path / INDEX).is_file():
        return [single_weights_file(path).name]
    return sorted(set(_weight_map(path).values()))


def weight_faults(path: Path, declared: bool) -> list[str]:
    """Every fault as a sentence; ``declared`` says that config.json calls the weights quantised."""
    single = single_weights_file(path).is_file()
    if not single and not (path / INDEX).is_file():
        return [_no_weights(path)]
    try:
        places = {} if single else _weight_map(path)
    except ModelError as error:
        return [str(error)]
    names = [single_weights_file(path).name] if single else sorted(set(places.values()))
    absent = [name for name in names if not (path / name).is_file()]
    faults = []
    if len(absent) == 1:
        faults.append(f"model folder '{path}' has no weights file '{absent[0]}'")
    elif absent:
        faults.append(
            f"model folder '{path}' lacks {len(absent)} of the {len(names)} weights files that its index names, such"
            f" as '{absent[0]}'; fetch them"
        )
    kinds: set[str] = set()
    for name in names:
        if name in absent:
            continue
        placed = {tensor for tensor, file in places.items() if file == name}
        faults += _file_faults(path / name, placed, kinds)
    eights = sorted(kind for kind in kinds if kind.startswith('F8'))
    if eights and not declared:
        faults.append(
            f"weights of '{path}' are quantised with {eights[0]}, which is not supported: take the unquantised"
            " checkpoint and set model.quantization to '4bit' or '8bit'"
        )
    return faults


def _file_faults(file: Path, placed: set[str], kinds: set[str]) -> list[str]:
    """Faults of one file that the index says holds the tensors ``placed``; adds the dtypes found to ``kinds``."""
    with file.open('rb') as opened:
        start = opened.read(len(LFS_POINTER))
    if not start:
        return [f"weights file '{file}' is empty; fetch it again"]
    if start == LFS_POINTER:
        return [f"weights file '{file}' is only a Git LFS pointer; fetch it with git lfs pull"]
    try:
        held = {tensor.name: tensor.kind for tensor in tensors(file)}
    except ModelError as error:
        return [str(error)]
    kinds.update(held.values())
    lacking = sorted(placed - held.keys())
    if lacking:
        return [
            f"weights file '{file}' lacks {len(lacking)} tensors that the index places there, such as '{lacking[0]}';"
            ' index and shards do not belong together'
        ]
    return [] if held else [f"weights file '{file}' holds no tensor"]


def _no_weights(path: Path) -> str:
    shards = sorted(file.name for file in path.glob('*.safetensors') if SHARD.fullmatch(file.name))
    if shards:
        total = int(SHARD.fullmatch(shards[0])[2])  # type: ignore[index]
        return (
            f"model folder '{path}' has {len(shards)} of {total} shards, '{shards[0]}' among them, but the index is"
            f" missing: fetch 'model.safetensors.index.json'"
        )
    files = sorted(file for file in path.iterdir() if file.is_file())
    for suffix, name in OTHER_FORMATS.items():
        found = [file.name for file in files if file.suffix == suffix]
        if found:
            return (
                f"model folder '{path}' holds {name} ('{found[0]}'), and {name} is not read: take the safetensors"
                ' checkpoint'
            )
    if (path / 'openvino_model.xml').is_file() or any(file.name.startswith('openvino_') for file in files):
        return f"model folder '{path}' holds OpenVINO files, and OpenVINO is not read: take the safetensors checkpoint"
    pickled = next((suffix for suffix in PICKLED for file in files if file.suffix == suffix), '')
    if pickled:
        return (
            f"model folder '{path}' has weights as {pickled} only; convert them to safetensors, nothing else is loaded"
        )
    others = [file.name for file in files if file.suffix == '.safetensors']
    hint = f"; it has '{others[0]}', which is not read" if others else ''
    return f"model folder '{path}' has no weights file '{single_weights_file(path).name}'{hint}"


def _weight_map(path: Path) -> dict[str, str]:
    found = read_json(path / INDEX).get('weight_map')
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise ModelError(f"'{path / INDEX}' has no weight_map that names the file of each tensor")
    outside = next((name for name in found.values() if not SHARD_NAME.fullmatch(name)), None)
    if outside is not None:
        raise ModelError(f"'{path / INDEX}' names '{plain(outside)}', which is no safetensors file of its own folder")
    return {plain(tensor): name for tensor, name in found.items()}
