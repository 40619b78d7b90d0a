"""Lower bounds of what a device needs for a tick, computed and not measured: everything at its peak rates.

    encode    FLOPs of the vision tower over the peak rate, or one pass over its weights, in 16 bits
    prefill   FLOPs over the peak rate, or one pass over the weights
    hint      one pass over the weights and the KV cache, and so is every written token

The longer of two counts. Weights of 4 bits are unpacked before they are multiplied: they save bytes, not FLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stprune_ros.bench.architectures import QWEN3_2B, QWEN3_4B, QWEN25_3B, Architecture
from stprune_ros.bench.costs import FLOAT16_BYTES, TEXT_TOKENS, LanguageShape
from stprune_ros.pruning.pruner import final_budget
from stprune_ros.results import table

WRITTEN = 32  # tokens of a description
# Bytes of one weight, with the scales of its block.
BYTES = {
    'float32': 4.0,
    'bfloat16': 2.0,
    'F16': 2.0,
    'Q8_0': 34 / 32,
    'Q6_K': 210 / 256,
    'Q4_K': 144 / 256,
    'Q4_0': 18 / 32,
}
KINDS = ('F16', 'Q4_K_M')  # of the weights in the table
PUBLISHED = (QWEN3_2B, QWEN25_3B, QWEN3_4B)
CELLS = ((1.0, False), (0.1, True))  # keep ratio, and whether features of earlier frames are cached

Row = dict[str, Any]


@dataclass(frozen=True)
class DeviceSpec:
    """Peak rates of a device: dense FP16 tensor TFLOPS of its GPU and memory bandwidth in GB/s, from ``source``."""

    name: str
    tflops: float
    gb_s: float
    source: str


DEVICES = (
    DeviceSpec(
        'Jetson AGX Orin 64 GB',
        42.5,
        204.8,
        'NVIDIA data sheet: GPU 170 sparse INT8 TOPS, a quarter of which is dense FP16; 256-bit LPDDR5',
    ),
    DeviceSpec(
        'Jetson Orin NX 16 GB',
        15.0,
        102.4,
        'NVIDIA data sheet: GPU 60 sparse INT8 TOPS, a quarter of which is dense FP16; 128-bit LPDDR5',
    ),
)


def token_bytes(shape: LanguageShape, kind: str) -> int:
    """Bytes of weights that one token reads, all layers and the vocabulary once, with weights of ``kind``.

    Q4_0 as `stprune export-gguf` makes it has a vocabulary of Q8_0. Q4_K_M as llama.cpp makes it has one of Q6_K, as
    have half of the layers' value and down projections; their other matrices are Q4_K.
    """
    vocabulary, layers = shape.vocab_size * shape.hidden_size, shape.layers * shape.layer_weights
    if kind == 'Q4_0':
        return round(layers * BYTES['Q4_0'] + vocabulary * BYTES['Q8_0'])
    if kind != 'Q4_K_M':
        return round((layers + vocabulary) * BYTES[kind])
    finer = shape.layers * shape.hidden_size * (shape.intermediate_size + shape.kv_heads * shape.head_dim) / 2
    return round((layers - finer) * BYTES['Q4_K'] + (finer + vocabulary) * BYTES['Q6_K'])


def lower_bounds(
    architectures: Sequence[Architecture], devices: Sequence[DeviceSpec], views: int, frames: int, image_tokens: int
) -> list[Row]:
    """One row for each device, model, kind of weights and cell of `CELLS`; see the module for the formulas.

    Each of ``views`` x ``frames`` images becomes ``image_tokens`` visual tokens, with `TEXT_TOKENS` around all of them.
    """
    return [
        _row(architecture, device, kind, keep, cached, (views, frames, image_tokens))
        for device in devices
        for architecture in architectures
        for kind in KINDS
        for keep, cached in CELLS
    ]


def published_bounds() -> list[Row]:
    """The bounds of published models on Jetsons, for six views of four images of 196 tokens."""
    return lower_bounds(PUBLISHED, DEVICES, 6, 4, 196)


def _row(
    architecture: Architecture, device: DeviceSpec, kind: str, keep: float, cached: bool, ring: tuple[int, int, int]
) -> Row:
    shape, (views, frames, image_tokens) = architecture.language, ring
    tokens = views * final_budget(keep, frames * image_tokens) + TEXT_TOKENS
    images = views if cached else views * frames
    encode_flops = images * architecture.vision_flops(image_tokens, architecture.vision_layers)
    prefill_flops, read = shape.prefill_flops(tokens), token_bytes(shape, kind)
    tower_bytes = FLOAT16_BYTES * architecture.vision_weights(architecture.vision_layers)
    stage_ms = {
        'encode': 1e3 * max(encode_flops / device.tflops / 1e12, tower_bytes / device.gb_s / 1e9),
        'prefill': 1e3 * max(prefill_flops / device.tflops / 1e12, read / device.gb_s / 1e9),
        'hint': 1e3 * (read + shape.kv_bytes(tokens)) / device.gb_s / 1e9,
    }
    stage_ms['write'] = WRITTEN * stage_ms['hint']
    up_to_hint = sum(stage_ms.values()) - stage_ms['write']
    return {
        'measured': False,
        'device': device.name,
        'assumed_tflops': device.tflops,
        'assumed_gb_s': device.gb_s,
        'assumed_from': device.source,
        'model': shape.name,
        'weights': kind,
        'keep': keep,
        'feature_cache': cached,
        'images': images,
        'tokens': tokens,
        'encode_flops': encode_flops,
        'prefill_flops': prefill_flops,
        'kv_bytes': shape.kv_bytes(tokens),
        'token_bytes': read,
        'stage_ms': {stage: round(ms, 3) for stage, ms in stage_ms.items()},
        'token_ms': round(stage_ms['hint'], 3),
        'hint_ms': round(up_to_hint, 3),
        'tick_ms': round(up_to_hint + stage_ms['write'], 3),
    }


def to_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table in ms."""
    lines = [
        (
            f'{row["device"]} ({row["assumed_tflops"]:g} TFLOPS, {row["assumed_gb_s"]:g} GB/s)',
            row['model'],
            row['weights'],
            f'{row["keep"]:.0%}' + ('' if row['feature_cache'] else ', no feature cache'),
            *(f'{row["stage_ms"][stage]:.0f}' for stage in ('encode', 'prefill', 'hint')),
            f'{row["token_ms"]:.1f}',
            f'{row["hint_ms"]:.0f}',
            f'{row["tick_ms"]:.0f}',
        )
        for row in rows
    ]
    head = ('device (assumed)', 'model', 'weights', 'kept', 'encode', 'prefill', 'hint', 'each written token')
    return table((*head, 'up to the hint', f'tick, {WRITTEN} tokens written'), lines)
