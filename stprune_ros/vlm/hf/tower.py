"""The vision half of a model: images in, visual tokens out. An engine may run the language half elsewhere.

No transformers import: model and image processor are handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stprune_ros.errors import StpruneError, one_line
from stprune_ros.vlm.backend import ImageFeatures, PreparedImages
from stprune_ros.vlm.device import to_device
from stprune_ros.vlm.hf.family import SIDE_IMAGE_PIXELS, Family
from stprune_ros.vlm.hf.model_checks import check_images


class VisionTower:
    """Image processor and vision tower of one model.

    Of ``model`` only ``config`` and ``get_image_features`` are used, so the weights of its language half need not be
    there. Images are reduced to at most ``max_image_pixels`` pixels (0: as the model folder says), of side cameras to
    ``side_image_pixels`` (0: the same); ``model_pixels`` and ``side_pixels`` are the numbers to which larger images are
    reduced, see `Backend`. Where the family allows it, a GPU scales the pixels, which takes the CPU most of its time,
    to the same bits.
    Raises ModelError where the image processor does not belong to the model, or the limit cannot be kept.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        family: Family,
        device: torch.device,
        max_image_pixels: int = 0,
        side_image_pixels: int = 0,
    ) -> None:
        self._model = model
        self._processor = processor
        self._family = family
        self._device = device
        self._config: dict[str, Any] = model.config.to_dict()
        side = side_image_pixels or max_image_pixels
        self._options = family.image_options(self._config, processor, max_image_pixels)
        self._side_options = family.image_options(self._config, processor, side, SIDE_IMAGE_PIXELS)
        self.model_pixels = family.model_pixels(self._config, self._options)
        self.side_pixels = family.model_pixels(self._config, self._side_options)
        self._scaled_pixels: torch.Tensor | None = None
        if device.type != 'cpu' and family.scales_late:
            self._scaled_pixels = scaled_pixels(processor).to(device)
            for options in (self._options, self._side_options):
                options |= {'do_rescale': False, 'do_normalize': False}

    def prepare(self, images: Sequence[np.ndarray], side: bool = False) -> PreparedImages:
        """See `Backend.prepare`."""
        check_images(images)
        if not images:
            return PreparedImages(0, {})
        try:
            batch = self._processor(
                images=self._family.nested(images),
                return_tensors='pt',
                input_data_format='channels_last',
                **(self._side_options if side else self._options),
            )
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:  # a picture that it cannot resize
            raise StpruneError(f'images cannot be prepared for the model: {one_line(error)}') from None
        if self._scaled_pixels is not None:
            batch['pixel_values'] = batch['pixel_values'].to(torch.uint8)  # whole numbers, and a quarter of the bytes
        return PreparedImages(len(images), batch)

    def encode(self, images: Sequence[np.ndarray] | PreparedImages) -> list[ImageFeatures]:
        """See `Backend.encode`."""
        prepared = images if isinstance(images, PreparedImages) else self.prepare(images)
        if not prepared.count:
            return []
        batch = prepared.state
        inputs = to_device(self._family.vision_inputs(batch, prepared.count), self._device)
        with torch.inference_mode():
            if self._scaled_pixels is not None:
                inputs['pixel_values'] = scale_patches(inputs['pixel_values'], self._scaled_pixels)
            output = self._model.get_image_features(**inputs, return_dict=True)
        return self._family.features(output, batch, self._config)


def scaled_pixels(processor: Any) -> torch.Tensor:
    """What an image processor makes of each pixel value, float32 (channels, 256), with its own order of rounding."""
    values = np.arange(256, dtype=np.float64) * (processor.rescale_factor if processor.do_rescale else 1.0)
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
    mean, std = (np.array(each, np.float32)[:, None] for each in (mean, std))
    return torch.from_numpy((values.astype(np.float32) - mean) / std)


def scale_patches(patches: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Pixels uint8 (n, channels * values), by channel, through ``table`` (channels, 256): float32 of that shape."""
    channels = len(table)
    pixels = patches.unflatten(1, (channels, -1)).long()  # [n, channels, values]
    return table.expand(len(patches), channels, 256).gather(2, pixels).flatten(1)
