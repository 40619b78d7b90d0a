"""What every model family must say: images in, features out of the vision tower and back in, positions, attention.

No transformers import: a family works on the model, the processor and the outputs that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from stprune_ros.errors import ModelError
from stprune_ros.vlm.backend import ImageFeatures, VisualFrame
from stprune_ros.vlm.hf.files import value
from stprune_ros.vlm.token_tree import additive_mask

Size = tuple[int, int]  # height, width

MAX_IMAGE_PIXELS, SIDE_IMAGE_PIXELS = 'model.max_image_pixels', 'model.side_image_pixels'


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """Visual tokens as ``mm_encoder_outputs`` wants them: (n_i, D) per image, the same for each deepstack layer.

    Some families want all images in one: (1, n, D).
    """

    pooler_output: tuple[torch.Tensor, ...] | torch.Tensor
    deepstack_features: tuple[tuple[torch.Tensor, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class ImageMarkup:
    """How a prompt shows an image: ``placeholder`` is what the rendered template holds for one.

    In its place go ``before``, the image tokens and ``after``.
    """

    placeholder: str
    before: str = ''
    after: str = ''


@dataclass(frozen=True, slots=True)
class Family:
    """A family whose images are one square tile each and whose positions simply count.

    ``config`` is config.json as a dict everywhere, with or without defaults filled in.
    """

    model_type: str
    architecture: str
    position_rows: ClassVar[int] = 1  # how many position ids a token has
    written_placeholder: ClassVar[str] = ''  # goes into the text for an image; empty: the template has image parts
    extra_tokens: ClassVar[int] = 0  # learned tokens that follow the patches of an image
    one_tensor: ClassVar[bool] = False  # whether the features of all images go back as one tensor
    sliding_window: ClassVar[bool] = False  # whether sliding-window layers are handled
    scales_late: ClassVar[bool] = False  # whether the image processor makes rows of patches, channel by channel
    # Vision tower, projector and vocabulary.
    unquantized: ClassVar[tuple[str, ...]] = ('lm_head', 'model.vision_tower', 'model.multi_modal_projector')

    def grid(self, config: Mapping[str, Any]) -> Size:
        """(rows, columns) of tokens of every image."""
        raise NotImplementedError

    def pixels(self, config: Mapping[str, Any]) -> Size:
        """(height, width) to which every image is brought."""
        return pair(config, 'vision_config', 'image_size')

    def image_tokens(self, config: Mapping[str, Any], processor: Mapping[str, Any], size: Size, cap: int) -> int:
        """Tokens of an image of (height, width) pixels, at most ``cap`` of them used (0: as the processor says)."""
        rows, columns = self.grid(config)
        return rows * columns + self.extra_tokens

    def deepstack(self, config: Mapping[str, Any]) -> int:
        """How many further tensors of the size of the features an image has."""
        return 0

    def image_options(
        self, config: Mapping[str, Any], processor: Any, cap: int, parameter: str = MAX_IMAGE_PIXELS
    ) -> dict[str, Any]:
        """What to call the image processor with, for at most ``cap`` pixels (0: no cap), which ``parameter`` gave.

        Raises ModelError where the processor does not belong to the model, or the cap cannot be kept.
        """
        wanted, found = self.pixels(config), self.processor_pixels(processor)
        if found != wanted:
            raise ModelError(
                f'the image processor makes images of {times(found)} pixels, its model sees {times(wanted)};'
                ' preprocessor_config.json and config.json do not belong together'
            )
        if cap and cap < wanted[0] * wanted[1]:
            raise ModelError(
                f"parameter '{parameter}' is {cap}, but family '{self.model_type}' brings every image to"
                f' {times(wanted)} = {wanted[0] * wanted[1]} pixels; set it to 0'
            )
        return self.one_tile(config)

    def model_pixels(self, config: Mapping[str, Any], options: Mapping[str, Any]) -> int:
        """To how many pixels a larger image is reduced; ``options`` as `image_options` gives them."""
        return math.prod(self.pixels(config))

    def processor_pixels(self, processor: Any) -> Size:
        """(height, width) of what the image processor makes; zeros where it does not say."""
        return processor.size['height'] or 0, processor.size['width'] or 0

    def one_tile(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Options that keep the image processor from cutting an image into tiles."""
        return {}

    def nested(self, images: Sequence[np.ndarray]) -> list[Any]:
        """The images as the image processor wants them."""
        return list(images)

    def vision_inputs(self, batch: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Arguments of ``get_image_features`` for the first ``count`` images of a processed batch."""
        return {'pixel_values': batch['pixel_values'][:count]}

    def features(self, output: Any, batch: Mapping[str, Any], config: Mapping[str, Any]) -> list[ImageFeatures]:
        """Split the result of ``get_image_features`` by image.

        The tokens are copied, so that keeping one frame does not keep the whole batch alive.
        Raises ModelError where an image has another number of tokens than its grid.
        """
        rows, columns = self.grid(config)
        patches, found = rows * columns, []
        for tokens in output.pooler_output:
            if len(tokens) != patches + self.extra_tokens:
                raise ModelError(
                    f"an image has {len(tokens)} tokens where config.json of family '{self.model_type}' gives"
                    f' {rows} x {columns} + {self.extra_tokens}'
                )
            extra = tokens[patches:].clone() if self.extra_tokens else None
            found.append(ImageFeatures(tokens[:patches].clone(), (rows, columns), extra=extra))
        return found

    def image_markup(self, tokenizer: Any, image_text: str) -> ImageMarkup:
        """How the prompt shows an image; ``image_text`` is the text of the image token."""
        return ImageMarkup(image_text)

    def encoder_output(self, frames: Sequence[VisualFrame]) -> EncoderOutput:
        """The kept tokens of every frame and the extra ones, in prompt order."""
        layers = len(frames[0].features.deep)
        kept = tuple(_kept(frame) for frame in frames)
        return EncoderOutput(
            torch.cat(kept)[None] if self.one_tensor else kept,
            tuple(tuple(frame.features.deep[layer][frame.keep] for frame in frames) for layer in range(layers)),
        )

    def positions(
        self, model: Any, ids: torch.Tensor, image_token_id: int, frames: Sequence[VisualFrame]
    ) -> torch.Tensor:
        """Positions (position_rows, S) of the unpruned prompt ``ids`` (S,)."""
        return torch.arange(len(ids))[None]

    def position_ids(self, positions: torch.Tensor, start: int) -> torch.Tensor:
        """``positions`` (position_rows, n) as the model wants them, with a batch axis, behind ``start`` cached tokens.

        Gaps are right in one row because there always is a cache: without one they would be read as packed sequences.
        """
        return positions

    def visible(self, ids: torch.Tensor, image_token_id: int) -> torch.Tensor | None:
        """Who sees whom in a prompt of kept ``ids`` (n,): bool (n, n), or None where everybody sees what is before."""
        return None

    def attention_mask(
        self, text_config: Any, visible: torch.Tensor | None, here: torch.Tensor, keys: torch.Tensor, dtype: torch.dtype
    ) -> Any:
        """The attention mask for tokens at positions ``here`` (n,) that look at cached ones at positions ``keys`` (k,).

        ``visible`` is bool (n, k), or None where the last n keys are the tokens themselves and everybody sees what is
        before; None asks for the model's own mask.
        """
        return None if visible is None else additive_mask(visible, dtype)


def pair(config: Mapping[str, Any], *keys: str) -> Size:
    """An entry that is one number or two, as (height, width)."""
    found = value(config, *keys)
    return (found, found) if isinstance(found, int) else (found[0], found[1])


def _kept(frame: VisualFrame) -> torch.Tensor:
    kept = frame.features.tokens[frame.keep]
    return kept if frame.features.extra is None else torch.cat([kept, frame.features.extra])


def times(size: Size) -> str:
    """A size in words."""
    return f'{size[0]} x {size[1]}'
