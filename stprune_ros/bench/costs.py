"""FLOPs, weights and KV-cache bytes of a language model by formula."""

from __future__ import annotations

from dataclasses import dataclass

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

    def causal_flops(self, tokens: int) -> int:
        """FLOPs of a prefill that leaves out the half of the attention which no token may see."""
        return self.prefill_flops(tokens) - self.layers * 2 * tokens**2 * self.heads * self.head_dim

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
