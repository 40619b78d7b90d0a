"""What a model takes of a device's memory, worked out from its files before anything is loaded; no transformers import.

Counted are weights, feature cache, similarities, KV cache and activations (see `activations`). The runtime itself and
what its allocator cannot use come on top: MARGIN of the free memory should be left to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stprune_ros.errors import ModelError
from stprune_ros.pruning.pruner import final_budget
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.device import Memory
from stprune_ros.vlm.hf.activations import encode_bytes, prefill_bytes, vision_shape
from stprune_ros.vlm.hf.family import Family, Size
from stprune_ros.vlm.hf.files import NUMBERS, Tensor, gib, tensors, value
from stprune_ros.vlm.hf.model_folder import ModelFolder
from stprune_ros.vlm.hf.quantization import BITSANDBYTES_BYTES, packed_bytes
from stprune_ros.vlm.hf.static_cache import MOST_SPARE, STATIC_SHARE

MARGIN = 0.1
TEXT_TOKENS = 768  # of a prompt around its images, with its questions, generously
BYTES = {'float64': 8, 'float32': 4, 'bfloat16': 2, 'float16': 2}


@dataclass(frozen=True, slots=True)
class Ring:
    """What the model looks at: so many views, ``side`` of them of side cameras, frames of each, (height, width)."""

    views: int
    frames: int
    size: Size
    side: int = 0


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes and tokens of one tick; ``kept`` at the keep ratio of `largest_ratio`, ``full`` without pruning.

    Activations count where they are largest: while all ``images`` are encoded at once, as after a failure or where a
    tick takes longer than the history's stride, or during the prefill.
    ``similarities`` are what selection holds at once: unit rows and their products within each view, in float32. The
    KV cache counts three times: the prefix that all questions share, the copy that scoring works on, and the static
    cache that descriptions are written in.
    """

    dtype: str
    weights: int
    images: int
    image_tokens: int
    features: int
    similarities: int
    kept_tokens: int
    full_tokens: int
    kept_kv: int
    full_kv: int
    encode: int
    kept_prefill: int
    full_prefill: int
    context: int = 0  # tokens of a KV cache that is made at once and holds one prompt; 0: it grows, see above
    side_tokens: int = 0  # of an image of a side camera; 0: as many as of any other

    @property
    def kept(self) -> int:
        """Everything together at the keep ratio."""
        held = self.weights + self.features + self.similarities + self.kept_kv
        return held + max(self.encode, self.kept_prefill)

    @property
    def full(self) -> int:
        """Everything together without pruning."""
        return self.weights + self.features + self.full_kv + max(self.encode, self.full_prefill)


def weight_bytes(folder: ModelFolder, dtype: str, quantization: str, on_gpu: bool = False) -> tuple[int, str]:
    """Bytes of the loaded weights and their dtype; ``dtype`` is '' for the files' own."""
    found = [tensor for path in folder.weights for tensor in tensors(path)]
    sizes: dict[str, int] = {}
    for tensor in found:
        sizes[tensor.kind] = sizes.get(tensor.kind, 0) + tensor.size
    own = max(sizes, key=lambda kind: sizes[kind], default='F32')
    kind = dtype or NUMBERS.get(own, own)
    loaded = (_loaded(tensor, dtype, quantization, BYTES.get(kind, 2), on_gpu) for tensor in found)
    return round(sum(loaded)), kind


def _loaded(tensor: Tensor, dtype: str, quantization: str, width: int, on_gpu: bool) -> float:
    packed = packed_bytes(tensor.name, tensor.shape, quantization, width, on_gpu)
    if packed is not None:
        return packed
    return tensor.count * BYTES[dtype] if dtype and tensor.kind in NUMBERS else tensor.size


def check_room(folder: ModelFolder, dtype: str, quantization: str, memory: Memory, on_gpu: bool = False) -> None:
    """Raises ModelError where the weights, as `weight_bytes` counts them, are larger than the free memory."""
    require_room(folder.path, *weight_bytes(folder, dtype, quantization, on_gpu), memory)


def require_room(path: Path, need: int, kind: str, memory: Memory) -> None:
    """Raises ModelError where ``need`` bytes of weights as ``kind`` are more than the free memory."""
    if memory.free is not None and need > memory.free:
        raise ModelError(
            f"weights of '{path}' take {gib(need)} as {kind}, {gib(memory.free)} are free ({memory.source});"
            ' set model.dtype or model.quantization, or take a smaller model'
        )


def kv_bytes(layers: int, kv_heads: int, head_dim: int, tokens: int, value_bytes: int) -> int:
    """Bytes of the keys and values of all layers; ``value_bytes`` of one number."""
    return 2 * layers * kv_heads * head_dim * tokens * value_bytes


def kv_shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Layers, KV heads and head dimension of a language model. Raises ModelError where the config does not say."""
    text = value(config, 'text_config')
    heads = value(text, 'num_attention_heads')
    head_dim = text.get('head_dim') or value(text, 'hidden_size') // heads
    return value(text, 'num_hidden_layers'), text.get('num_key_value_heads') or heads, head_dim


def largest_ratio(settings: Settings) -> float:
    """The keep ratio that memory must be enough for: with a latency target, the highest that it may lead to."""
    if settings.pruning.method == 'none':
        return 1.0
    return settings.latency.keep_max if settings.latency.target_ms else settings.pruning.keep_ratio


def memory_estimate(
    folder: ModelFolder,
    config: Mapping[str, Any],
    processor: Mapping[str, Any],
    settings: Settings,
    ring: Ring,
    dtype: str,
    on_gpu: bool = False,
) -> MemoryEstimate:
    """What a checked model folder takes of memory.

    ``config`` and ``processor`` have all defaults filled in; ``dtype`` is '' for that of the weights.
    """
    family: Family = folder.family
    weights, kind = weight_bytes(folder, dtype, settings.model.quantization, on_gpu)
    width = BYTES.get(kind, 2)
    model = settings.model
    image = family.image_tokens(config, processor, ring.size, model.max_image_pixels)
    side = family.image_tokens(config, processor, ring.size, model.side_image_pixels or model.max_image_pixels)
    side_views = ring.side if model.side_image_pixels else 0
    views = ((ring.views - side_views, image), (side_views, side))  # so many, with images of so many tokens
    images = ring.views * ring.frames
    cached = ring.frames * sum(count * tokens for count, tokens in views)
    around = TEXT_TOKENS + settings.inference.max_new_tokens + images * family.extra_tokens
    patches = [(count, ring.frames * (tokens - family.extra_tokens)) for count, tokens in views]
    pruned = settings.pruning.method != 'none'
    kept, full = (
        sum(count * final_budget(share, each) for count, each in patches) + around
        for share in (largest_ratio(settings), 1.0)
    )
    hidden, shape = value(config, 'text_config', 'hidden_size'), kv_shape(config)
    packed = bool(folder.packed) or settings.model.quantization in BITSANDBYTES_BYTES
    # A static part of the prompt is cached where it is long enough; it is some of the text around the images.
    kept_prefill, full_prefill = (
        prefill_bytes(family, config, tokens, width, around >= STATIC_SHARE * tokens, packed) for tokens in (kept, full)
    )
    return MemoryEstimate(
        dtype=kind,
        weights=weights,
        images=images,
        image_tokens=image,
        side_tokens=side if side_views else 0,
        features=cached * (1 + family.deepstack(config)) * hidden * width,
        similarities=4 * sum(count * each * (each + hidden) for count, each in patches) if pruned else 0,
        kept_tokens=kept,
        full_tokens=full,
        kept_kv=kv_bytes(*shape, 3 * kept + MOST_SPARE, width),
        full_kv=kv_bytes(*shape, 3 * full + MOST_SPARE, width),
        # The two groups are encoded one after the other.
        encode=max(
            encode_bytes(vision_shape(family, config, tokens), count * ring.frames, width) for count, tokens in views
        ),
        kept_prefill=kept_prefill,
        full_prefill=full_prefill,
    )


def summary_text(found: MemoryEstimate, memory: Memory, ratio: float) -> str:
    """The estimate as a table for people; ``ratio`` is the keep ratio that it was made for."""

    def cached(tokens: int) -> str:
        return f'{tokens} tokens of {found.context}' if found.context else f'{tokens} tokens, three times'

    side, at_once = '', f'{found.images} images at once'
    if found.side_tokens:
        side, at_once = f', side cameras {found.side_tokens}', 'the larger of two groups of images'
    rows = [
        ('weights', found.weights, found.dtype),
        ('feature cache', found.features, f'{found.images} images of {found.image_tokens} tokens{side}'),
        ('similarities', found.similarities, 'of all views'),
        (f'KV cache, {ratio:g} kept', found.kept_kv, cached(found.kept_tokens)),
        ('KV cache, all kept', found.full_kv, cached(found.full_tokens)),
        ('encoding', found.encode, f'activations of {at_once}'),
        (f'prefill, {ratio:g} kept', found.kept_prefill, 'activations; not held together with those of encoding'),
        ('prefill, all kept', found.full_prefill, ''),
        (f'together, {ratio:g} kept', found.kept, ''),
        ('together, all kept', found.full, ''),
    ]
    lines = [f'{name:<22}{gib(size):>12}  {note}'.rstrip() for name, size, note in rows]
    free = gib(memory.free) if memory.free is not None else 'not known'
    lines.append(f'{"free":<22}{free:>12}  {memory.source}')
    if memory.free is not None and memory.free >= found.kept:
        lines.append(f'{"left":<22}{gib(memory.free - found.kept):>12}  at {ratio:g}, for the runtime')
    return '\n'.join(lines)


def tight(found: MemoryEstimate, memory: Memory) -> str:
    """What to say where less than MARGIN of the free memory is left, '' elsewhere and where it does not fit at all."""
    if memory.free is None or not 0 <= memory.free - found.kept < MARGIN * memory.free:
        return ''
    return (
        f'only {gib(memory.free - found.kept)} of {gib(memory.free)} are left for the runtime and for what its'
        f' allocator cannot use, where {MARGIN:.0%} should be: lower history.frames,'
        ' pruning.keep_ratio, latency.keep_max or model.max_image_pixels, or quantize it'
    )
