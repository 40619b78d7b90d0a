"""What a model will take of a device's memory, counted from its files before anything is loaded (ours, issue 4)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stprune_ros.core.types import StpruneError
from stprune_ros.vlm.family import Family, value
from stprune_ros.vlm.model_folder import one_line

GIB = 1024**3
TEXT_TOKENS = 300  # prompt around the images, question and answer
ITEM_BYTES = {'F64': 8, 'F32': 4, 'F16': 2, 'BF16': 2, 'I64': 8, 'I32': 4, 'I8': 1, 'U8': 1, 'BOOL': 1, 'F8_E4M3': 1}
DTYPE_BYTES = {'float32': 4, 'bfloat16': 2, 'float16': 2}
SPARE = (
    0.1  # of the memory, for what is not counted: the libraries' own buffers, fragmentation, the vision tower at work
)


@dataclass(frozen=True)
class Load:
    """What the node will show the model: cameras, frames per camera, pixels per image, share of tokens kept."""

    cameras: int
    frames: int
    pixels: int
    max_pixels: int
    keep: float


@dataclass(frozen=True)
class Budget:
    """Bytes by part; ``tokens`` visual ones in the prompt, ``kept`` of them after pruning."""

    weights: int
    features: int
    kv: int
    kv_full: int
    prefill: int
    tokens: int
    kept: int

    @property
    def total(self) -> int:
        """What has to fit at the same time."""
        return self.weights + self.features + self.kv + self.prefill


def budget_of(
    family: Family,
    config: Mapping[str, Any],
    processor: Mapping[str, Any],
    weights: Sequence[Path],
    dtype: str,
    load: Load,
) -> Budget:
    """Count a model; ``config`` with defaults filled in, ``dtype`` '' for the one that the weights are stored in.

    KV: 2 * layers * KV heads * head width per token. Prefill is an estimate: per token, the widest layer's inputs and
    outputs. Raises StpruneError where a file or an entry is missing.
    """
    stored = [header(path) for path in weights]
    count = sum(numbers for file in stored for numbers in file.values())
    held = sum(numbers * ITEM_BYTES.get(kind, 4) for file in stored for kind, numbers in file.items())
    item = DTYPE_BYTES[dtype] if dtype else max(1, round(held / max(count, 1)))
    text = config.get('text_config') or config
    width, layers = value(text, 'hidden_size'), value(text, 'num_hidden_layers')
    heads = value(text, 'num_attention_heads')
    kv_heads = text.get('num_key_value_heads') or heads
    head = text.get('head_dim') or width // heads
    per_image = family.image_tokens(config, processor, load.pixels, load.max_pixels)
    tokens = load.cameras * load.frames * per_image
    kept = math.ceil(load.keep * tokens)
    per_token = 2 * layers * kv_heads * head * item
    busy = (4 * width + 2 * value(text, 'intermediate_size')) * item
    return Budget(
        weights=count * item if dtype else held,
        features=tokens * width * (1 + family.deepstack(config)) * item,
        kv=(kept + TEXT_TOKENS) * per_token,
        kv_full=(tokens + TEXT_TOKENS) * per_token,
        prefill=(kept + TEXT_TOKENS) * busy,
        tokens=tokens,
        kept=kept,
    )


def header(path: Path) -> dict[str, int]:
    """Numbers stored in a safetensors file, by type; only its header is read. StpruneError if it has none."""
    try:
        with path.open('rb') as file:
            size = int.from_bytes(file.read(8), 'little')
            if not 0 < size < 1 << 28:
                raise ValueError(f'its header would have {size} bytes')
            entries = json.loads(file.read(size))
    except (OSError, ValueError) as error:
        raise StpruneError(f"weights file '{path}' is broken: {one_line(error)}") from None
    found: dict[str, int] = {}
    for name, entry in entries.items():
        if name != '__metadata__':
            found[entry['dtype']] = found.get(entry['dtype'], 0) + math.prod(entry['shape'])
    return found


def available(meminfo: Path = Path('/proc/meminfo')) -> int:
    """Bytes that programs can still get on this machine: MemAvailable, which counts on integrated GPUs, too."""
    for line in meminfo.read_text(encoding='ascii').splitlines():
        name, _, rest = line.partition(':')
        if name == 'MemAvailable':
            return int(rest.split()[0]) * 1024
    raise StpruneError(f"'{meminfo}' does not say MemAvailable; give the memory in GiB with --memory")


def as_text(budget: Budget, memory: int, load: Load) -> str:
    """The budget as lines, the verdict last."""
    lines = [
        f'{load.cameras} cameras x {load.frames} frames, {budget.tokens} visual tokens, {budget.kept} kept',
        f'weights        {_gib(budget.weights)}',
        f'feature cache  {_gib(budget.features)}   every frame of the window',
        f'KV cache       {_gib(budget.kv)}   with all tokens {_gib(budget.kv_full).strip()}',
        f'prefill        {_gib(budget.prefill)}   estimated',
        f'together       {_gib(budget.total)}   of {_gib(memory).strip()}',
        f'fits with {SPARE:.0%} to spare' if fits(budget, memory) else too_much(budget, memory),
    ]
    return '\n'.join(lines)


def fits(budget: Budget, memory: int) -> bool:
    """Whether the budget leaves enough for what it does not count."""
    return budget.total <= (1 - SPARE) * memory


def too_much(budget: Budget, memory: int) -> str:
    """Sentence: what is too much, and what would help."""
    return (
        f'needs {_gib(budget.total).strip()}, but {_gib((1 - SPARE) * memory).strip()} can be used of'
        f' {_gib(memory).strip()}: choose a smaller model or model.dtype, or lower history.frames,'
        ' model.max_image_pixels or pruning.keep_ratio'
    )


def _gib(size: float) -> str:
    return f'{size / GIB:7.2f} GiB'
