"""The files of a model folder: names, JSON, and the headers of safetensors files; no torch and no transformers."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stprune_ros.bounded_yaml import read_text
from stprune_ros.errors import ModelError, one_line, plain, word

INDEX = 'model.safetensors.index.json'
PROCESSOR = 'processor_config.json'  # may hold image processor and chat template, which have files of their own, too
# Number types of safetensors by torch's names; others are not converted when weights are loaded.
NUMBERS = {'F64': 'float64', 'F32': 'float32', 'BF16': 'bfloat16', 'F16': 'float16'}
TOWER = re.compile(r'(?:model\.)?visual\.(.+)')  # a tensor of Qwen's vision towers, as published and as saved
LFS_POINTER = b'version https://git-lfs'
MAX_JSON = 2**22  # bytes of a configuration or an index
MAX_TOKENIZER = 2**26  # bytes of tokenizer.json; that of Gemma has 33 million
MAX_HEADER = 2**23  # bytes of a safetensors header: some 60,000 tensors


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a safetensors file: ``kind`` is its dtype there (F32, BF16 ...)."""

    name: str
    kind: str
    shape: tuple[int, ...]
    size: int

    @property
    def count(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)


def single_weights_file(path: Path) -> Path:
    """Where weights in one file are; transformers takes it before shards."""
    return path / 'model.safetensors'


def read_json(path: Path, limit: int = MAX_JSON) -> dict[str, Any]:
    """A JSON file of at most ``limit`` bytes that holds an object. Raises ModelError naming it where it does not."""
    try:
        value = json.loads(read_text(path, limit))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{path}' cannot be read as JSON: {one_line(error)}") from None
    if not isinstance(value, dict):
        raise ModelError(f"'{path}' holds no JSON object")
    return value


def tensors(path: Path) -> Iterator[Tensor]:
    """The tensors of a safetensors file, from its header. Raises ModelError where it is broken or cut short."""
    try:
        with path.open('rb') as file:
            length = int.from_bytes(file.read(8), 'little')
            held = path.stat().st_size
            if length > held - 8:
                raise ModelError(
                    f"weights file '{path}' has no readable header: it would take {length} bytes, the file has {held};"
                    ' fetch it again'
                )
            if length > MAX_HEADER:
                raise ModelError(f"weights file '{path}' has a header of {length} bytes, more than {MAX_HEADER}")
            header = json.loads(file.read(length))
        found = [(name, entry) for name, entry in header.items() if name != '__metadata__']
        for name, entry in found:
            start, end = entry['data_offsets']
            yield Tensor(plain(name), word(entry['dtype']), tuple(map(int, entry['shape'])), end - start)
        needed = 8 + length + max((entry['data_offsets'][1] for _, entry in found), default=0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ModelError(f"weights file '{path}' has no readable header: {one_line(error)}") from None
    if held != needed:
        raise ModelError(
            f"weights file '{path}' is cut short or damaged: it has {held} bytes, its header says {needed}; fetch it"
            ' again'
        )


def value(config: Mapping[str, Any], *keys: str) -> Any:
    """The entry under ``keys``. Raises ModelError naming it where there is none."""
    found: Any = config
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    if found is None:
        raise ModelError(f"the model's configuration has no '{'.'.join(keys)}'")
    return found


def gib(size: int) -> str:
    """Bytes in words; small ones in MiB."""
    return f'{size / 2**30:.2f} GiB' if size >= 2**29 else f'{size / 2**20:.2f} MiB'
