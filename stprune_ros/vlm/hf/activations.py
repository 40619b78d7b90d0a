"""What a model holds for a moment while it encodes and prefills, from its configuration; no transformers import.

Upper bounds of what PyTorch allocates, at most about twice of it (test/contract/test_memory_estimate.py measures).
With W bytes per number, a layer of width D and inner width I holds, for each token, the larger of

    its perceptron   W (3 I + 4 D)     gate, up and product; residual, normed input, output and one copy
    its attention    W 8 D             the same; queries, keys and values, turned and repeated; output
                     W 6 D + 32 D      vision towers with rotary positions: they turn in float32, eight numbers

The language model holds 4 D besides: the embeddings of the prompt and the kept visual tokens, each with a copy, and 2 D
for each deepstack layer; and where attention needs a mask one bool per pair of tokens, while it runs one number, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stprune_ros.vlm.hf.family import Family, pair
from stprune_ros.vlm.hf.files import value

CHANNELS = 3
FLOAT32 = 4
PADDING_TEST = 9  # bytes per value of an image where it is compared with 0 and counted in int64
MASK_MAKING = 11  # bytes per pair while the masks of sliding windows are made, from int64 distances


@dataclass(frozen=True, slots=True)
class VisionShape:
    """What an image is to a vision tower: ``patches`` of ``values`` numbers in all; widths of its layers."""

    patches: int
    values: int
    width: int
    inner: int
    rotary: bool


def vision_shape(family: Family, config: Mapping[str, Any], image_tokens: int) -> VisionShape:
    """The shape for an image that becomes ``image_tokens`` tokens. Raises ModelError where the config does not say."""
    vision = value(config, 'vision_config')
    width: int = vision.get('embed_dim') or value(vision, 'hidden_size')  # Qwen2-VL calls its output hidden_size
    inner = vision.get('intermediate_size') or round(width * value(vision, 'mlp_ratio'))
    patch = pair(vision, 'patch_size')
    if 'spatial_merge_size' in vision:
        patches = image_tokens * vision['spatial_merge_size'] ** 2
        values = patches * CHANNELS * vision['temporal_patch_size'] * math.prod(patch)
        return VisionShape(patches, values, width, inner, True)
    pixels = math.prod(family.pixels(config))
    return VisionShape(pixels // math.prod(patch), CHANNELS * pixels, width, inner, False)


def encode_bytes(shape: VisionShape, images: int, value_bytes: int) -> int:
    """Bytes while so many images are encoded at once: their pixels, twice, and one layer of the tower."""
    perceptron = value_bytes * (3 * shape.inner + 4 * shape.width)
    attention = shape.width * (6 * value_bytes + 8 * FLOAT32 if shape.rotary else 8 * value_bytes)
    layer = shape.patches * max(perceptron, attention)
    return images * (shape.values * (FLOAT32 + value_bytes) + max(layer, PADDING_TEST * shape.values))


def prefill_bytes(
    family: Family, config: Mapping[str, Any], tokens: int, value_bytes: int, masked: bool, packed: bool
) -> int:
    """Bytes while so many tokens are prefilled; ``masked`` where they stand behind a cached part of the prompt.

    With ``packed`` weights one matrix is unpacked at a time.
    """
    text = value(config, 'text_config')
    width, inner, heads = (int(value(text, key)) for key in ('hidden_size', 'intermediate_size', 'num_attention_heads'))
    turned: int = heads * (text.get('head_dim') or width // heads)
    held = (4 + 2 * family.deepstack(config)) * width
    perceptron = tokens * value_bytes * (held + 3 * inner + 4 * width) + (value_bytes * width * inner if packed else 0)
    attention = tokens * value_bytes * (held + 2 * width + 6 * turned)
    pairs = tokens**2
    if family.sliding_window:  # both masks are made for every prompt
        made = pairs * (MASK_MAKING + value_bytes)
        return max(made, perceptron + pairs * 2 * value_bytes, attention + pairs * 2 * (1 + value_bytes))
    mask = pairs if masked else 0  # of bools; attention turns them into numbers
    return max(perceptron + mask, attention + mask * (1 + value_bytes))
