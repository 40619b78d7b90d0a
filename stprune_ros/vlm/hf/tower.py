"""The vision half of a model: images in, visual tokens out. An engine may run the language half elsewhere.

No transformers import: model and image processor are handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stprune_ros.errors import StpruneError, one_line
from stprune_ros.vlm.backend import ImageFeatures
from stprune_ros.vlm.device import to_device
from stprune_ros.vlm.hf.family import Family
from stprune_ros.vlm.hf.model_checks import check_images


class VisionTower:
    """Image processor and vision tower of one model.

    Of ``model`` only ``config`` and ``get_image_features`` are used, so the weights of its language half need not be
    there. Images are reduced to at most ``max_image_pixels`` pixels (0: as the model folder says); ``model_pixels`` is
    the number to which larger images are reduced, see `Backend`.
    Raises ModelError where the image processor does not belong to the model, or the limit cannot be kept.
    """

    def __init__(
        self, model: Any, processor: Any, family: Family, device: torch.device, max_image_pixels: int = 0
    ) -> None:
        self._model = model
        self._processor = processor
        self._family = family
        self._device = device
        self._config: dict[str, Any] = model.config.to_dict()
        self._options = family.image_options(self._config, processor, max_image_pixels)
        self.model_pixels = family.model_pixels(self._config, self._options)

    def encode(self, images: Sequence[np.ndarray]) -> list[ImageFeatures]:
        """See `Backend.encode`."""
        check_images(images)
        if not images:
            return []
        try:
            batch = self._processor(
                images=self._family.nested(images),
                return_tensors='pt',
                input_data_format='channels_last',
                **self._options,
            )
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:  # a picture that it cannot resize
            raise StpruneError(f'images cannot be prepared for the model: {one_line(error)}') from None
        inputs = to_device(self._family.vision_inputs(batch, len(images)), self._device)
        with torch.inference_mode():
            output = self._model.get_image_features(**inputs, return_dict=True)
        return self._family.features(output, batch, self._config)
