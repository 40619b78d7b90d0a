"""The memory estimate against what a model of every family really holds, and weights of 4 and 8 bits."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.tiny_models import FAMILIES, make_tiny_model
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from stprune_ros.errors import ModelError, StpruneError
from stprune_ros.pruning.similarity import SimilarityCache
from stprune_ros.pruning.view_tokens import ViewTokens
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import VisualFrame
from stprune_ros.vlm.hf import families, quantization
from stprune_ros.vlm.hf.activations import encode_bytes, prefill_bytes, vision_shape
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.hf.memory import BYTES, TEXT_TOKENS, MemoryEstimate, Ring, memory_estimate
from stprune_ros.vlm.hf.model_folder import locate_model
from stprune_ros.vlm.hf.pretrained import read_parts
from stprune_ros.vlm.hf.static_cache import MOST_SPARE

HEIGHT, WIDTH = 90, 160
VIEWS, FRAMES = 2, 3


@pytest.fixture(scope='module', params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # bitsandbytes packs blocks of 64 numbers of a row.
    return make_tiny_model(tmp_path_factory.mktemp('models') / request.param, request.param, width=128)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_estimate_is_what_the_model_holds(folder: Path, dtype: str) -> None:
    backend = TransformersBackend.load(folder, device='cpu', dtype=dtype)
    images = [np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)] * VIEWS * FRAMES
    features = backend.encode(images)
    frames = [VisualFrame(item, torch.ones(len(item.tokens), dtype=torch.bool)) for item in features]
    context = backend.prefill('', ['The views:\n', *frames, '\n'])
    tokens = context.tokens_text + context.tokens_visual
    held = [part for item in features for part in (item.tokens, *item.deep, item.extra) if part is not None]

    model = locate_model(folder)
    parts = read_parts(model)
    settings = Settings.from_values({'pruning.keep_ratio': 0.25, 'inference.max_new_tokens': 64})
    config, processor = parts.config.to_dict(), parts.processor.to_dict()
    found = memory_estimate(model, config, processor, settings, Ring(VIEWS, FRAMES, (HEIGHT, WIDTH)), dtype)

    assert found.dtype == dtype
    assert found.weights == size_of(list(backend._model.parameters()))
    extra = model.family.extra_tokens
    assert found.image_tokens == len(features[0].tokens) + extra
    assert found.features == size_of(held)
    per_token = size_of([part for layer in context.state.layers for part in layer]) / tokens
    backend.generate(context, 'Describe the road.', 4)
    kv_cache = backend._kv_cache
    assert kv_cache is not None
    assert tokens <= kv_cache.capacity <= tokens + MOST_SPARE
    assert size_of([part for layer in kv_cache._cache.layers for part in (layer.keys, layer.values)]) == (
        per_token * kv_cache.capacity
    )
    assert found.full_kv == per_token * (3 * found.full_tokens + MOST_SPARE)
    assert found.kept_kv == per_token * (3 * found.kept_tokens + MOST_SPARE)
    patches = VIEWS * FRAMES * (found.image_tokens - extra)
    around = TEXT_TOKENS + 64 + VIEWS * FRAMES * extra
    assert found.full_tokens == patches + around
    assert found.kept_tokens == pytest.approx(patches / 4 + around, abs=VIEWS)
    cache = SimilarityCache()
    grid = features[0].grid
    rows = [
        ViewTokens(f'v{i}', torch.rand(FRAMES, *grid, 128), (0, 1, 2), frames=tuple(torch.rand(FRAMES))) for i in (0, 1)
    ]
    cache.attach(rows)
    assert found.similarities == cache.bytes
    width = BYTES[dtype]
    assert found.encode == encode_bytes(vision_shape(model.family, config, found.image_tokens), VIEWS * FRAMES, width)
    for tokens, prefill in ((found.kept_tokens, found.kept_prefill), (found.full_tokens, found.full_prefill)):
        assert prefill == prefill_bytes(model.family, config, tokens, width, True, False)
    assert found.full == found.weights + found.features + found.full_kv + max(found.encode, found.full_prefill)
    held = found.weights + found.features + found.similarities + found.kept_kv
    assert found.kept == held + max(found.encode, found.kept_prefill)


@pytest.mark.parametrize(('columns', 'packed'), [(96, False), (128, True)])
def test_rows_that_groups_of_int4_do_not_divide_stay_as_they_are(columns: int, packed: bool) -> None:
    """As torchao leaves them."""
    quantize = pytest.importorskip('torchao.quantization').quantize_
    layer = torch.nn.Sequential(torch.nn.Linear(columns, 64, bias=False))
    plain = type(layer[0].weight)
    quantize(layer, quantization._int4(torch.device('cpu')))
    assert (type(layer[0].weight) is not plain) == packed
    size = quantization.packed_bytes('model.layers.0.mlp.up_proj.weight', (64, columns), 'int4', 4, False)
    assert size == (64 * columns * (0.5 + 8 / 64) if packed else None)


@pytest.mark.parametrize('bits', ['4bit', '8bit', 'int4'])
def test_quantized_weights_are_in_the_estimate_and_answer(folder: Path, bits: str) -> None:
    for library in quantization.LIBRARIES[bits]:
        pytest.importorskip(library)
    backend = TransformersBackend.load(folder, device='cpu', quantization=bits)
    whole = TransformersBackend.load(folder, device='cpu')
    assert backend.info.dtype == f'float32, {bits}'
    kinds = {name: type(module).__name__ for name, module in backend._model.named_modules()}
    weights = {name.removesuffix('.weight'): part for name, part in backend._model.named_parameters()}
    grouped = {name: part for name, part in weights.items() if hasattr(part, 'scale_and_zero')}  # by torchao
    packed = {*grouped, *(name for name, kind in kinds.items() if kind in ('Linear4bit', 'Linear8bitLt'))}
    assert len(packed) == 3 * 7, 'every matrix of every layer'
    assert all('.layers.' in name and 'vis' not in name for name in packed), 'eyes and vocabulary stay as they are'

    model = locate_model(folder)
    parts = read_parts(model)
    settings = Settings.from_values({'model.quantization': bits})
    config, processor = parts.config.to_dict(), parts.processor.to_dict()
    found = memory_estimate(model, config, processor, settings, Ring(1, 1, (HEIGHT, WIDTH)), 'float32')
    # Before the first pass: bitsandbytes packs anew for CPUs when it is first used.
    linear = [backend._model.get_submodule(name) for name in packed if kinds[name] == 'Linear4bit']
    scales = size_of([module.weight.quant_state.absmax for module in linear])
    scales += size_of([part.scale_and_zero for part in grouped.values()])
    assert found.weights == size_of([getattr(part, 'qdata', part) for part in weights.values()]) + scales

    contexts = [one.prefill('', ['What should the driver do?\n']) for one in (backend, whole)]
    close, exact = (one.score(context, 'Now?', ['stop', 'none']) for one, context in zip((backend, whole), contexts))
    assert np.isfinite(close).all()
    assert close != pytest.approx(exact, abs=1e-6), 'weights were packed'
    if bits == '8bit':
        assert np.exp(close) == pytest.approx(np.exp(exact), abs=0.1)


def test_what_quantization_needs_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, 'find_spec', lambda name: None if name == 'bitsandbytes' else object())
    with pytest.raises(StpruneError) as caught:
        TransformersBackend.load(folder, device='cpu', quantization='4bit')
    assert str(caught.value) == (
        "parameter 'model.quantization' is '4bit', which needs bitsandbytes;"
        " pip install bitsandbytes accelerate, or set it to 'none'"
    )
    monkeypatch.setattr(quantization, 'find_spec', lambda name: object())
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    with pytest.raises(StpruneError, match='would download code through the package kernels'):
        TransformersBackend.load(folder, device='cpu', quantization='8bit')
    monkeypatch.setattr(quantization, 'find_spec', lambda name: None if name == 'accelerate' else object())
    with pytest.raises(StpruneError, match="is 'int4', which needs accelerate; pip install torchao accelerate"):
        TransformersBackend.load(folder, device='cpu', quantization='int4')


def test_int4_on_a_gpu_needs_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantization, 'find_spec', lambda name: object())
    gpu = torch.device('cuda:1')
    for dtype, name in ((None, 'auto'), (torch.float16, 'float16')):
        with pytest.raises(ModelError) as caught:
            quantization.require_packable('int4', gpu, dtype)
        assert str(caught.value) == (
            "parameter 'model.quantization' is 'int4', which computes in bfloat16 on a GPU, but 'model.dtype' is"
            f" '{name}': set it to 'bfloat16'"
        )
    quantization.require_packable('int4', gpu, torch.bfloat16)
    quantization.require_packable('int4', torch.device('cpu'), torch.float32)


def test_int4_that_the_device_cannot_run_is_refused_before_it_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a torchao that has its layouts elsewhere, or a GPU whose PyTorch has no such kernel."""

    class Layer:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            assert (x.dtype, x.device) == (torch.float16, self.device)
            raise RuntimeError('_weight_int4pack_mm_cuda requires compute capability >= 8.0')

    monkeypatch.setattr(quantization, 'find_spec', lambda name: object())
    monkeypatch.setattr(quantization, '_packed_layer', lambda name, device, dtype: Layer(device))
    with pytest.raises(ModelError) as caught:
        TransformersBackend.load(folder, device='cpu', dtype='float16', quantization='int4')
    assert str(caught.value) == (
        "torchao cannot run int4 weights on 'cpu': _weight_int4pack_mm_cuda requires compute capability >= 8.0;"
        ' install a build of it that is made for this device, or take weights that are not packed'
    )


@pytest.mark.parametrize('bits', ['4bit', '8bit'])
def test_weights_that_the_device_cannot_run_are_refused_before_they_are_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, bits: str
) -> None:
    """As on a Jetson, where bitsandbytes is imported and has no kernels."""

    class Layer(torch.nn.Linear):
        def __init__(self, *size: int, bias: bool, **options: Any) -> None:
            super().__init__(*size, bias=bias, dtype=torch.bfloat16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError('Error named symbol not found at line 233 in file /src/csrc/ops.cu')

    layers = SimpleNamespace(Linear4bit=Layer, Linear8bitLt=Layer)
    monkeypatch.setitem(sys.modules, 'bitsandbytes', SimpleNamespace(nn=layers))
    monkeypatch.setattr(quantization, 'find_spec', lambda name: None if name == 'kernels' else object())
    with pytest.raises(ModelError) as caught:
        TransformersBackend.load(folder, device='cpu', quantization=bits)
    assert str(caught.value) == (
        f"bitsandbytes cannot run {bits} weights on 'cpu': Error named symbol not found at line 233 in file"
        ' /src/csrc/ops.cu; install a build of it that is made for this device, or take weights that are not packed'
    )


def test_images_of_side_cameras_count_with_their_own_tokens(folder: Path) -> None:
    model = locate_model(folder)
    parts = read_parts(model)
    if model.family.position_rows == 1:
        pytest.skip('every image of this family is one size')
    config, processor = parts.config.to_dict(), parts.processor.to_dict()

    def estimate(views: int, side: int = 0, **values: int) -> MemoryEstimate:
        settings = Settings.from_values({'pruning.keep_ratio': 0.25, **values})
        ring = Ring(views, FRAMES, (HEIGHT, WIDTH), side)
        return memory_estimate(model, config, processor, settings, ring, 'float32')

    few = {'model.side_image_pixels': 2048}
    front, side, mixed = estimate(1), estimate(2, **{'model.max_image_pixels': 2048}), estimate(3, 2, **few)
    assert side.image_tokens < front.image_tokens
    assert (mixed.image_tokens, mixed.side_tokens) == (front.image_tokens, side.image_tokens)
    assert mixed.features == front.features + side.features
    assert mixed.similarities == front.similarities + side.similarities
    around = TEXT_TOKENS + 64
    assert mixed.full_tokens - around == front.full_tokens + side.full_tokens - 2 * around
    assert mixed.kept_tokens - around == front.kept_tokens + side.kept_tokens - 2 * around
    assert mixed.encode == max(front.encode, side.encode)
    assert estimate(3, 2) == estimate(3)  # all alike without a number for side cameras
    assert estimate(3, 2).side_tokens == 0


def size_of(parts: list[torch.Tensor]) -> int:
    return sum(part.numel() * part.element_size() for part in parts)


@pytest.mark.parametrize('size', [(90, 160), (33, 400), (40, 40), (500, 90), (720, 1280)])
@pytest.mark.parametrize('cap', [0, 3000, 10**6])
def test_tokens_of_an_image_follow_from_its_sides(folder: Path, size: tuple[int, int], cap: int) -> None:
    model = locate_model(folder)
    if cap and model.family.position_rows == 1:
        cap = 0
    backend = TransformersBackend.load(folder, device='cpu', max_image_pixels=cap)
    (found,) = backend.encode([np.zeros((*size, 3), np.uint8)])
    parts = read_parts(model)
    counted = model.family.image_tokens(parts.config.to_dict(), parts.processor.to_dict(), size, cap)
    assert counted == len(found.tokens) + model.family.extra_tokens


SIDES = st.one_of(st.integers(1, 200), st.integers(1, 8192))
LIMITS = [(3136, 12845056), (3136, 501760), (65536, 16777216), (200704, 1003520), (1024, 4096)]


@pytest.mark.parametrize(
    ('family', 'patch'), [('qwen2_vl', 14), ('qwen2_5_vl', 14), ('qwen3_vl', 16)], ids=lambda value: str(value)
)
@settings(max_examples=400)
@given(height=SIDES, width=SIDES, limits=st.sampled_from(LIMITS), cap=st.sampled_from([0, 2000, 501760, 2**30]))
@example(height=460, width=1150, limits=(3136, 501760), cap=0)
@example(height=1150, width=460, limits=(3136, 12845056), cap=501760)
@example(height=478, width=1195, limits=(3136, 501760), cap=0)
@example(height=1, width=200, limits=(3136, 12845056), cap=0)
def test_tokens_of_an_image_are_the_library_s(
    family: str, patch: int, height: int, width: int, limits: tuple[int, int], cap: int
) -> None:
    """What its own image processor makes of a size, within the limits that the backend gives it."""
    assume(max(height, width) <= 200 * min(height, width))
    model = families.FAMILIES[family]
    processor = transformers.Qwen2VLImageProcessorPil(
        patch_size=patch, size={'shortest_edge': limits[0], 'longest_edge': limits[1]}
    )
    vision = {'patch_size': patch, 'spatial_merge_size': 2, 'temporal_patch_size': 2}
    size = model.image_options({'vision_config': vision}, processor, cap)['size']
    given_limits = {'min_pixels': size['shortest_edge'], 'max_pixels': size['longest_edge']}
    patches = processor.get_number_of_image_patches(height, width, given_limits)
    assert model.image_tokens({}, processor.to_dict(), (height, width), cap) == patches // 4


@given(short=st.integers(1, 20), over=st.integers(1, 50), upright=st.booleans())
def test_images_too_oblong_for_the_library_are_refused(short: int, over: int, upright: bool) -> None:
    processor = transformers.Qwen2VLImageProcessorPil().to_dict()
    long = 200 * short + over
    size = (long, short) if upright else (short, long)
    with pytest.raises(ValueError, match='aspect ratio'):
        transformers.Qwen2VLImageProcessorPil().get_number_of_image_patches(*size)
    with pytest.raises(ModelError) as caught:
        families.FAMILIES['qwen2_vl'].image_tokens({}, processor, size, 0)
    assert str(caught.value) == (
        f"images of {size[1]} x {size[0]} pixels are too oblong for family 'qwen2_vl': it takes sides of 200 to 1 at"
        ' most'
    )
