"""FLOPs and KV-cache bytes of a language model by formula, and lower bounds of the time a device needs for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stprune_ros.pruning.pruner import final_budget
from stprune_ros.vlm.hf.memory import kv_bytes

TEXT_TOKENS = 96  # of the prompt around the images, where no prompt was run
FLOAT16_BYTES = 2  # and those of bfloat16


@dataclass(frozen=True)
class LanguageShape:
    """A decoder with grouped-query attention and SwiGLU, as its published config.json describes it."""

    name: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int

    @property
    def layer_weights(self) -> int:
        """Number of weights in the matrices of one layer."""
        attention = 2 * self.hidden_size * (self.heads + self.kv_heads) * self.head_dim
        return attention + 3 * self.hidden_size * self.intermediate_size

    def prefill_flops(self, tokens: int) -> int:
        """FLOPs of a prefill, 2 per multiply-add: L (2 n W + 4 n^2 h d_h) with W the weights of a layer."""
        return self.layers * (2 * tokens * self.layer_weights + 4 * tokens**2 * self.heads * self.head_dim)

    def kv_bytes(self, tokens: int, value_bytes: int = FLOAT16_BYTES) -> int:
        """Bytes of the keys and values of all layers."""
        return kv_bytes(self.layers, self.kv_heads, self.head_dim, tokens, value_bytes)

    def weight_bytes(self, value_bytes: int = FLOAT16_BYTES) -> int:
        """Bytes that generating one token reads: all layers, and the vocabulary once."""
        return (self.layers * self.layer_weights + self.vocab_size * self.hidden_size) * value_bytes


LLAMA_8B = LanguageShape('Llama-3.1-8B', 32, 4096, 32, 8, 128, 14336, 128256)
QWEN3_VL_2B = LanguageShape('Qwen3-VL-2B', 28, 2048, 16, 8, 128, 6144, 151936)
QWEN3_VL_4B = LanguageShape('Qwen3-VL-4B', 36, 2560, 32, 8, 128, 9728, 151936)
QWEN25_VL_3B = LanguageShape('Qwen2.5-VL-3B', 36, 2048, 16, 2, 128, 11008, 151936)


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


def lower_bounds(
    shapes: Sequence[LanguageShape], devices: Sequence[DeviceSpec], views: int, per_view: int, keeps: Sequence[float]
) -> list[dict[str, Any]]:
    """Lower bounds of latency, computed and not measured: everything at the device's peak rates, weights in FP16.

    There are ``per_view`` tokens in each of ``views`` views and `TEXT_TOKENS` around them. A prefill takes its FLOPs or
    one pass over the weights, whichever is longer; a generated token takes one pass over the weights and the KV cache.
    """
    rows = []
    for device in devices:
        for shape in shapes:
            for keep in keeps:
                tokens = views * final_budget(keep, per_view) + TEXT_TOKENS
                weights_s = shape.weight_bytes() / device.gb_s / 1e9
                flops = shape.prefill_flops(tokens)
                rows.append(
                    {
                        'measured': False,
                        'device': device.name,
                        'assumed_tflops': device.tflops,
                        'assumed_gb_s': device.gb_s,
                        'assumed_from': device.source,
                        'model': shape.name,
                        'keep': keep,
                        'tokens': tokens,
                        'prefill_flops': flops,
                        'kv_bytes': shape.kv_bytes(tokens),
                        'prefill_ms_at_best': round(1e3 * max(flops / device.tflops / 1e12, weights_s), 3),
                        'token_ms_at_best': round(1e3 * (weights_s + shape.kv_bytes(tokens) / device.gb_s / 1e9), 3),
                    }
                )
    return rows
