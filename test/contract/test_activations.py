"""The estimate of activations against what PyTorch allocates, for every family, and by hand for a published model."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers import tiny_models
from helpers.allocations import peak_bytes
from helpers.tiny_models import FAMILIES, make_tiny_model

from stprune_ros.bench.ticks import GPU_MODELS
from stprune_ros.vlm.backend import VisualFrame
from stprune_ros.vlm.hf import families
from stprune_ros.vlm.hf.activations import FLOAT32, VisionShape, encode_bytes, prefill_bytes, vision_shape
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.hf.memory import BYTES, kv_bytes, kv_shape
from stprune_ros.vlm.hf.static_cache import MOST_SPARE, STATIC_SHARE

WIDTH = 256  # the proportions of published models matter here: tiny ones hold little beside their pixels
IMAGES = 24


@pytest.fixture(scope='module', params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    plain = tiny_models._config

    def widened(family: str, tokenizer: Any, width: int) -> Any:
        config = plain(family, tokenizer, width)
        text, vision = config.text_config, config.vision_config
        text.intermediate_size = 4 * WIDTH
        if family == 'qwen2_vl':
            vision.embed_dim, vision.mlp_ratio = WIDTH, 4
        else:
            vision.hidden_size, vision.intermediate_size = WIDTH, 4 * WIDTH
        for heads in ('num_heads', 'num_attention_heads'):
            if hasattr(vision, heads):
                setattr(vision, heads, WIDTH // 16)
        return config

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, '_config', widened)
        return make_tiny_model(tmp_path_factory.mktemp('wide') / request.param, request.param, width=WIDTH)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_estimate_bounds_what_is_allocated(folder: Path, dtype: str) -> None:
    backend = TransformersBackend.load(folder, device='cpu', dtype=dtype)
    family, config, width = backend._family, backend._model.config.to_dict(), BYTES[dtype]
    images = [np.random.default_rng(3).integers(0, 256, (90, 160, 3), np.uint8)] * IMAGES
    backend.encode(images[:1])
    held, features = peak_bytes(lambda: backend.encode(images))
    held -= size_of([part for item in features for part in (item.tokens, *item.deep, item.extra) if part is not None])
    shape = vision_shape(family, config, len(features[0].tokens) + family.extra_tokens)
    pixels = IMAGES * shape.values * FLOAT32  # the processor's, in NumPy
    assert held + pixels < encode_bytes(shape, IMAGES, width) < 1.8 * (held + pixels)

    frames = [VisualFrame(item, torch.ones(len(item.tokens), dtype=torch.bool)) for item in features]
    for system, masked, most in (('', False, 1.3), ('Look around the car. ' * 10, True, 2.2)):
        backend.prefill(system, ['The views:\n', frames[0], '\n'])  # the static part is cached
        held, context = peak_bytes(partial(backend.prefill, system, ['The views:\n', *frames, '\n']))
        tokens = context.tokens_text + context.tokens_visual
        assert (len(backend._static_prefix[0]) >= STATIC_SHARE * tokens) == masked
        held -= size_of([part for layer in context.state.layers for part in layer])
        found = prefill_bytes(family, config, tokens, width, masked, False)
        assert held < found < most * held, system


def size_of(parts: list[torch.Tensor]) -> int:
    return sum(part.numel() * part.element_size() for part in parts)


QWEN25_3B = {
    'vision_config': {
        'hidden_size': 1280,
        'intermediate_size': 3420,
        'patch_size': 14,
        'temporal_patch_size': 2,
        'spatial_merge_size': 2,
    },
    'text_config': {'hidden_size': 2048, 'intermediate_size': 11008, 'num_attention_heads': 16},
}


def test_a_published_model_by_the_stated_formula() -> None:
    """1920x1080: 2691 tokens of 4 patches of 2 x 3 x 14 x 14 numbers; attention in float32 is its largest part."""
    family = families.FAMILIES['qwen2_5_vl']
    shape = vision_shape(family, QWEN25_3B, 2691)
    assert shape == VisionShape(10764, 10764 * 1176, 1280, 3420, True)
    assert encode_bytes(shape, 24, 2) == 24 * (10764 * 1176 * 6 + 10764 * 1280 * (6 * 2 + 32))
    layer = 2 * (4 * 2048 + 3 * 11008 + 4 * 2048)
    assert prefill_bytes(family, QWEN25_3B, 6456, 2, False, False) == 6456 * layer
    assert prefill_bytes(family, QWEN25_3B, 6456, 2, True, False) == 6456 * layer + 6456**2
    assert prefill_bytes(family, QWEN25_3B, 6456, 2, False, True) == 6456 * layer + 2 * 2048 * 11008


def test_a_long_prompt_behind_a_cache_is_all_mask() -> None:
    family, tokens = families.FAMILIES['qwen2_5_vl'], 10**6
    attention = tokens * 2 * (4 * 2048 + 2 * 2048 + 6 * 2048)
    assert prefill_bytes(family, QWEN25_3B, tokens, 2, True, False) == attention + 3 * tokens**2
    gemma = families.FAMILIES['gemma3']
    assert prefill_bytes(gemma, QWEN25_3B, tokens, 2, False, False) == 13 * tokens**2


def test_towers_of_one_tile_and_ratios_for_inner_widths() -> None:
    tile = {'hidden_size': 1152, 'intermediate_size': 4304, 'patch_size': 14, 'image_size': 384}
    shape = vision_shape(families.FAMILIES['llava_onevision'], {'vision_config': tile}, 730)
    assert shape == VisionShape(384 * 384 // 196, 3 * 384 * 384, 1152, 4304, False)
    assert encode_bytes(shape, 1, 2) == shape.values * 6 + shape.patches * 2 * (3 * 4304 + 4 * 1152)
    qwen2 = {**QWEN25_3B['vision_config'], 'embed_dim': 1280, 'hidden_size': 1536, 'mlp_ratio': 4.0}
    del qwen2['intermediate_size']
    found = vision_shape(families.FAMILIES['qwen2_vl'], {'vision_config': qwen2}, 1)
    assert (found.width, found.inner) == (1280, 5120)


GPU_PEAKS = json.loads((Path(__file__).parents[2] / 'benchmark' / 'results' / 'bench_gpu.json').read_text())['ticks']


@pytest.mark.parametrize('row', GPU_PEAKS, ids=lambda row: f'{row["model"]} {row["keep"]}')
def test_the_estimate_is_near_the_peaks_that_a_gpu_had(row: dict[str, Any]) -> None:
    """The committed run encoded six images a tick; counted are all 24, as `check` does."""
    [model] = [model for model in GPU_MODELS if model.label == row['model']]
    family = families.FAMILIES[model.architecture.family]
    shape = model.architecture.config(model.layers, model.vision_layers)
    config = getattr(transformers, family.architecture).config_class(**shape)
    with torch.device('meta'):
        weights = getattr(transformers, family.architecture)._from_config(config).num_parameters()
    tree, images = config.to_dict(), model.views * model.frames
    image, tokens = model.tokens_per_edge**2, row['tokens_visual'] + row['tokens_text']
    width = tree['text_config']['hidden_size']
    held = 2 * weights + kv_bytes(*kv_shape(tree), 3 * tokens + MOST_SPARE, 2)
    held += 2 * images * image * (1 + family.deepstack(tree)) * width
    held += 4 * images * image * (model.frames * image + width) if row['keep'] < 1 else 0
    vision = vision_shape(family, tree, image)
    prefill = prefill_bytes(family, tree, tokens, 2, row['tokens_text'] >= STATIC_SHARE * tokens, False)
    found = held + max(encode_bytes(vision, images, 2), prefill)
    spare = found - row['peak_bytes']
    # What an earlier tick of another ratio left in the static KV cache is in some of the peaks.
    assert -0.2 * 2**30 < spare < 2**30
