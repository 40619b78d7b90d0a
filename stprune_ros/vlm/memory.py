"""What a model takes of a device's memory, worked out from its files before anything is loaded; no transformers import.

Counted are weights, the feature cache and the KV cache. Activations and what the runtime itself takes come on top.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stprune_ros.core.types import StpruneError
from stprune_ros.pruning.pruner import final_budget
from stprune_ros.vlm.device import Memory
from stprune_ros.vlm.family import Family, value
from stprune_ros.vlm.model_folder import ModelFolder, one_line
from stprune_ros.vlm.quantization import BYTES_PER_WEIGHT, is_packed

TEXT_TOKENS = 512  # of a prompt around its images, with its questions, generously (ours)
BYTES = {'F64': 8, 'F32': 4, 'BF16': 2, 'F16': 2}  # other kinds are not converted
NAMES = {'F64': 'float64', 'F32': 'float32', 'BF16': 'bfloat16', 'F16': 'float16'}


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a safetensors file: ``kind`` is its number type there (F32, BF16 ...)."""

    name: str
    kind: str
    shape: tuple[int, ...]
    size: int

    @property
    def count(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Ring:
    """What the model looks at: so many views, frames of each, and pixels of an image."""

    views: int
    frames: int
    pixels: int


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes and tokens of one tick; ``kept`` at the keep ratio, ``full`` without pruning.

    The KV cache counts twice: the prefix that all questions share, and the copy that one question works on.
    """

    dtype: str
    weights: int
    images: int
    image_tokens: int
    features: int
    kept_tokens: int
    full_tokens: int
    kept_kv: int
    full_kv: int

    @property
    def kept(self) -> int:
        """Everything together at the keep ratio."""
        return self.weights + self.features + self.kept_kv

    @property
    def full(self) -> int:
        """Everything together without pruning."""
        return self.weights + self.features + self.full_kv


def tensors(path: Path) -> Iterator[Tensor]:
    """The tensors of a safetensors file, from its header; StpruneError where it is broken."""
    try:
        with path.open('rb') as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), 'little')))
        found = [(name, entry) for name, entry in header.items() if name != '__metadata__']
        for name, entry in found:
            start, end = entry['data_offsets']
            yield Tensor(name, entry['dtype'], tuple(entry['shape']), end - start)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise StpruneError(f"weights file '{path}' has no readable header: {one_line(error)}") from None


def weight_bytes(folder: ModelFolder, dtype: str, quantization: str) -> tuple[int, str]:
    """Bytes of the loaded weights and their number type; ``dtype`` is '' for the files' own."""
    found = [tensor for path in folder.weights for tensor in tensors(path)]
    sizes: dict[str, int] = {}
    for tensor in found:
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.size
    own = max(sizes, key=lambda kind: sizes[kind], default='F32')
    target = dtype or NAMES.get(own, own)
    width = {name: BYTES[kind] for kind, name in NAMES.items()}.get(dtype)
    return round(sum(_loaded(tensor, width, quantization) for tensor in found)), target


def _loaded(tensor: Tensor, width: int | None, quantization: str) -> float:
    if quantization in BYTES_PER_WEIGHT and is_packed(tensor.name, tensor.shape):
        return tensor.count * BYTES_PER_WEIGHT[quantization]
    return tensor.count * width if width and tensor.kind in BYTES else tensor.size


def kv_bytes(config: Mapping[str, Any], tokens: int, width: int) -> int:
    """Keys and values of all layers for ``tokens`` tokens of ``width`` bytes per number."""
    text = value(config, 'text_config')
    heads = value(text, 'num_attention_heads')
    head_dim = text.get('head_dim') or value(text, 'hidden_size') // heads
    layers, kv_heads = value(text, 'num_hidden_layers'), text.get('num_key_value_heads') or heads
    total: int = 2 * layers * kv_heads * head_dim * tokens * width
    return total


def budget(
    folder: ModelFolder,
    config: Mapping[str, Any],
    processor: Mapping[str, Any],
    settings: Mapping[str, Any],
    ring: Ring,
    dtype: str,
) -> Budget:
    """The budget of a checked folder; ``config`` and ``processor`` with all defaults, ``dtype`` '' for the files' own.

    Images that the family lets be of any size are taken as ``ring`` says; their tokens are right within a few.
    """
    family: Family = folder.family
    weights, kind = weight_bytes(folder, dtype, settings['model.quantization'])
    width = {name: BYTES[key] for key, name in NAMES.items()}.get(kind, 2)
    image = family.image_tokens(config, processor, ring.pixels, settings['model.max_image_pixels'])
    images = ring.views * ring.frames
    around = TEXT_TOKENS + settings['inference.max_new_tokens'] + images * family.extra_tokens
    patches = ring.frames * (image - family.extra_tokens)
    ratio = settings['pruning.keep_ratio'] if settings['pruning.method'] != 'none' else 1.0
    kept, full = (ring.views * final_budget(share, patches) + around for share in (ratio, 1.0))
    hidden = value(config, 'text_config', 'hidden_size')
    return Budget(
        dtype=kind,
        weights=weights,
        images=images,
        image_tokens=image,
        features=images * image * (1 + family.deepstack(config)) * hidden * width,
        kept_tokens=kept,
        full_tokens=full,
        kept_kv=2 * kv_bytes(config, kept, width),
        full_kv=2 * kv_bytes(config, full, width),
    )


def as_text(found: Budget, memory: Memory, ratio: float) -> str:
    """The budget as a table for people."""
    rows = [
        ('weights', found.weights, found.dtype),
        ('feature cache', found.features, f'{found.images} images of {found.image_tokens} tokens'),
        (f'KV cache, {ratio:g} kept', found.kept_kv, f'{found.kept_tokens} tokens, twice'),
        ('KV cache, all kept', found.full_kv, f'{found.full_tokens} tokens, twice'),
        (f'together, {ratio:g} kept', found.kept, ''),
        ('together, all kept', found.full, ''),
    ]
    lines = [f'{name:<22}{gib(size):>12}  {note}'.rstrip() for name, size, note in rows]
    free = gib(memory.free) if memory.free is not None else 'not known'
    return '\n'.join([*lines, f'{"free":<22}{free:>12}  {memory.source}'])


def gib(size: int) -> str:
    """Bytes in words; small ones in MiB."""
    return f'{size / 2**30:.2f} GiB' if size >= 2**29 else f'{size / 2**20:.2f} MiB'
