"""What a GPU runs in the vision towers of the Qwen families, on the CPU: the same features as transformers' own way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.engines import images
from helpers.tiny_models import make_tiny_model
from torch.nn.functional import scaled_dot_product_attention

from stprune_ros.vlm.hf import gpu_tower
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.hf.gpu_tower import adapt_tower, packed_attention
from stprune_ros.vlm.hf.tower import VisionTower, scale_patches, scaled_pixels

FAMILIES = ('qwen2_vl', 'qwen2_5_vl', 'qwen3_vl', 'ringworld')


@pytest.fixture(scope='module', params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp('models') / request.param, request.param)


@pytest.fixture
def backend(folder: Path) -> TransformersBackend:
    return TransformersBackend.load(folder, device='cpu')


@pytest.mark.parametrize('count', [1, 2, 4])
def test_features_stay_what_they_are(backend: TransformersBackend, count: int) -> None:
    """Of images of one size and of several, whose windows are not equally long."""
    expected = backend.encode(images(count))
    adapt_tower(backend._model)
    for found, known in zip(backend.encode(images(count)), expected, strict=True):
        for one, other in zip((found.tokens, *found.deep), (known.tokens, *known.deep), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_a_layer_attends_in_one_call(backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(query: torch.Tensor, *more: torch.Tensor, **options: Any) -> torch.Tensor:
        calls.append(tuple(query.shape))
        return scaled_dot_product_attention(query, *more, **options)

    monkeypatch.setattr(torch.nn.functional, 'scaled_dot_product_attention', counted)
    backend.encode(images())
    layers = len(backend._model.base_model.visual.blocks)
    assert len(calls) >= layers * len(images()), 'one after the other, as it was'
    calls.clear()
    adapt_tower(backend._model)
    backend.encode(images())
    assert len(calls) == layers
    assert min(shape[0] for shape in calls) == len(images()), 'the images are the batch where nothing is smaller'


def test_a_model_without_such_a_tower_stays_as_it_is(tmp_path: Path) -> None:
    backend = TransformersBackend.load(make_tiny_model(tmp_path / 'm', 'llava_onevision'), device='cpu')
    before = backend.encode(images())
    adapt_tower(backend._model)
    for found, known in zip(backend.encode(images()), before, strict=True):
        assert torch.equal(found.tokens, known.tokens)


@pytest.mark.parametrize('lengths', [(3, 3, 3), (1,), (4, 1, 2, 4), (1, 5), (2, 1)])
@pytest.mark.parametrize('longest_as_tensor', [False, True])
def test_nobody_sees_beyond_his_window(lengths: tuple[int, ...], longest_as_tensor: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, sum(lengths), 8, generator=generator) for _ in range(3))
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    longest = torch.tensor(max(lengths)) if longest_as_tensor else max(lengths)
    found, _ = packed_attention(None, query, key, value, None, 0.3, cu_seq_lens_q=bounds, max_length_q=longest)
    parts = [
        scaled_dot_product_attention(*window, scale=0.3)
        for window in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(parts, dim=2).transpose(1, 2))


def test_patches_are_embedded_as_by_the_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    for bias in (False, True):
        convolution = torch.nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4), bias=bias)
        patches = torch.randn(5, 3, 2, 4, 4, generator=generator)
        product = gpu_tower.PatchProjection(convolution)
        torch.testing.assert_close(product(patches), convolution(patches).flatten(1))
        assert product.weight is convolution.weight, 'no second copy'


class LateTower(VisionTower):
    """Scales pixels behind the image processor, as on a GPU, and runs on the CPU."""

    def __init__(self, backend: TransformersBackend) -> None:
        parts = (backend._model, backend._tower._processor, backend._family)
        super().__init__(*parts, torch.device('meta'))
        assert self._scaled_pixels is not None and self._scaled_pixels.device.type == 'meta'
        self._device = torch.device('cpu')
        self._scaled_pixels = scaled_pixels(backend._tower._processor)


@pytest.mark.parametrize(
    'changed', [{}, {'do_normalize': False}, {'do_rescale': False}, {'image_mean': [0.1, 0.6, 0.2]}]
)
@pytest.mark.parametrize('side', [False, True])
def test_pixels_scaled_on_the_device_are_the_same_to_the_bit(
    backend: TransformersBackend, changed: dict[str, Any], side: bool
) -> None:
    for name, value in changed.items():
        setattr(backend._tower._processor, name, value)
    late = LateTower(backend)
    before, after = backend.prepare(images(), side), late.prepare(images(), side)
    pixels = after.state['pixel_values']
    assert pixels.dtype == torch.uint8
    assert torch.equal(scale_patches(pixels, scaled_pixels(backend._tower._processor)), before.state['pixel_values'])
    for one, other in zip(late.encode(after), backend.encode(before), strict=True):
        assert torch.equal(one.tokens, other.tokens)


def test_images_prepared_before_are_not_prepared_again(backend: TransformersBackend) -> None:
    prepared = backend.prepare(images())
    assert len(prepared) == len(images())
    backend._tower._processor = None
    expected = TransformersBackend.encode(backend, prepared)
    assert [item.grid for item in expected] and all(item.tokens.isfinite().all() for item in expected)
    assert backend.encode(backend.prepare([])) == []
