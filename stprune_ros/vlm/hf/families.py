"""The supported model families, one small class each; see `family.Family` for what they must say.

Families whose processors cut an image into tiles take the one-tile path here, so that a view is one grid of tokens.
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
from stprune_ros.vlm.hf.family import MAX_IMAGE_PIXELS, Family, ImageMarkup, Size, pair
from stprune_ros.vlm.hf.files import value
from stprune_ros.vlm.hf.folder_faults import ARCHITECTURES
from stprune_ros.vlm.token_tree import additive_mask

MOST_OBLONG = 200  # longer to shorter side of an image that Qwen's image processor takes


@dataclass(frozen=True, slots=True)
class QwenVL(Family):
    """Qwen2-VL and Qwen2.5-VL: images of any size, merge_size x merge_size patches to a token, M-RoPE positions.

    Positions are (time, row, column). A fourth row counts what is really there: gaps in it would be read as packed
    sequences, without a word.
    """

    position_rows: ClassVar[int] = 3
    scales_late: ClassVar[bool] = True
    unquantized: ClassVar[tuple[str, ...]] = ('lm_head', 'model.visual')

    def image_tokens(self, config: Mapping[str, Any], processor: Mapping[str, Any], size: Size, cap: int) -> int:
        """See `Family.image_tokens`.

        Sides are rounded as smart_resize of the image processor does it, operation for operation: another order of the
        same ones rounds some sizes to another row. Raises ModelError where an image is too oblong for it.
        """
        if max(size) > MOST_OBLONG * min(size):
            raise ModelError(
                f"images of {size[1]} x {size[0]} pixels are too oblong for family '{self.model_type}': it takes sides"
                f' of {MOST_OBLONG} to 1 at most'
            )
        most = value(processor, 'size', 'longest_edge')
        most = min(most, cap) if cap else most
        least = min(value(processor, 'size', 'shortest_edge'), most)
        side: int = value(processor, 'patch_size') * value(processor, 'merge_size')
        rows, columns = (round(edge / side) for edge in size)
        if rows * columns * side**2 > most:
            shrink = math.sqrt(math.prod(size) / most)
            rows, columns = (max(1, math.floor(edge / shrink / side)) for edge in size)
        elif rows * columns * side**2 < least:
            grow = math.sqrt(least / math.prod(size))
            rows, columns = (math.ceil(edge * grow / side) for edge in size)
        return rows * columns

    def image_options(
        self, config: Mapping[str, Any], processor: Any, cap: int, parameter: str = MAX_IMAGE_PIXELS
    ) -> dict[str, Any]:
        """See `Family.image_options`: least and most pixels per image, in the processor's words."""
        least, most = processor.size['shortest_edge'], processor.size['longest_edge']
        if not (least and most):
            raise ModelError('the image processor has no shortest_edge and longest_edge in its size')
        vision = config['vision_config']
        for name, key in (('merge_size', 'spatial_merge_size'), ('patch_size',) * 2, ('temporal_patch_size',) * 2):
            found, wanted = getattr(processor, name), vision[key]
            if found != wanted:
                raise ModelError(f'the image processor has {name} {found}, its model {key} {wanted}')
        cap = cap or most
        return {'size': {'shortest_edge': min(least, cap), 'longest_edge': min(most, cap)}}

    def model_pixels(self, config: Mapping[str, Any], options: Mapping[str, Any]) -> int:
        """See `Family.model_pixels`."""
        most: int = options['size']['longest_edge']
        return most

    def vision_inputs(self, batch: Mapping[str, Any], count: int) -> dict[str, Any]:
        """See `Family.vision_inputs`."""
        return {'pixel_values': batch['pixel_values'], 'image_grid_thw': batch['image_grid_thw']}

    def features(self, output: Any, batch: Mapping[str, Any], config: Mapping[str, Any]) -> list[ImageFeatures]:
        """See `Family.features`; the grids are those of the batch, in patches."""
        grids = (batch['image_grid_thw'][:, 1:] // config['vision_config']['spatial_merge_size']).tolist()
        return [
            ImageFeatures(tokens.clone(), (grid[0], grid[1]), self._deep(output, index))
            for index, (tokens, grid) in enumerate(zip(output.pooler_output, grids, strict=True))
        ]

    def _deep(self, output: Any, index: int) -> tuple[torch.Tensor, ...]:
        return ()

    def positions(
        self, model: Any, ids: torch.Tensor, image_token_id: int, frames: Sequence[VisualFrame]
    ) -> torch.Tensor:
        """See `Family.positions`."""
        merge = model.config.vision_config.spatial_merge_size
        grids = [(1, *(side * merge for side in frame.features.grid)) for frame in frames]
        kinds = (ids == image_token_id).int()[None]
        positions, _ = model.base_model.get_rope_index(
            ids[None], mm_token_type_ids=kinds, image_grid_thw=torch.tensor(grids) if grids else None
        )
        rows: torch.Tensor = positions[:, 0]
        return rows

    def position_ids(self, positions: torch.Tensor, start: int) -> torch.Tensor:
        """See `Family.position_ids`: (4, 1, n)."""
        counted = torch.arange(start, start + positions.shape[1])
        return torch.cat([counted[None], positions])[:, None]


@dataclass(frozen=True, slots=True)
class Qwen3VL(QwenVL):
    """Qwen3-VL: features of earlier vision layers are added in the first decoder layers, too (deepstack)."""

    def deepstack(self, config: Mapping[str, Any]) -> int:
        """See `Family.deepstack`."""
        return len(value(config, 'vision_config', 'deepstack_visual_indexes'))

    def _deep(self, output: Any, index: int) -> tuple[torch.Tensor, ...]:
        return tuple(layer[index].clone() for layer in output.deepstack_features)


@dataclass(frozen=True, slots=True)
class LlavaOnevision(Family):
    """LLaVA-OneVision: each image padded to a square and resized, one token per patch and a newline token behind them.

    That is the family's own way with several images; a single one, which it would cut into tiles, goes the same way.
    Its template shows all images before all text, so the placeholders are written into the text, where they belong.
    """

    written_placeholder: ClassVar[str] = '<image>'
    extra_tokens: ClassVar[int] = 1

    def grid(self, config: Mapping[str, Any]) -> Size:
        """See `Family.grid`."""
        patch = pair(config, 'vision_config', 'patch_size')
        height, width = self.pixels(config)
        return height // patch[0], width // patch[1]

    def nested(self, images: Sequence[np.ndarray]) -> list[Any]:
        """See `Family.nested`: one prompt with all images; an image alone comes twice, or it would be cut up."""
        return [list(images) * (2 if len(images) == 1 else 1)]

    def vision_inputs(self, batch: Mapping[str, Any], count: int) -> dict[str, Any]:
        """See `Family.vision_inputs`."""
        return {
            'pixel_values': batch['pixel_values'][:count],
            'image_sizes': batch['image_sizes'][:count],
            'batch_num_images': [max(count, 2)],
        }


@dataclass(frozen=True, slots=True)
class InternVL(Family):
    """InternVL (hf): each image resized to one square tile; a token is a square of patches."""

    one_tensor: ClassVar[bool] = True

    def grid(self, config: Mapping[str, Any]) -> Size:
        """See `Family.grid`."""
        patch, ratio = pair(config, 'vision_config', 'patch_size'), value(config, 'downsample_ratio')
        height, width = self.pixels(config)
        return int(height // patch[0] * ratio), int(width // patch[1] * ratio)

    def one_tile(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family.one_tile`."""
        return {'crop_to_patches': False}

    def image_markup(self, tokenizer: Any, image_text: str) -> ImageMarkup:
        """See `Family.image_markup`."""
        start, end = (getattr(tokenizer, f'{edge}_image_token', None) for edge in ('start', 'end'))
        return ImageMarkup(image_text, start or '<img>', end or '</img>')


@dataclass(frozen=True, slots=True)
class SmolVLM(Family):
    """SmolVLM and Idefics3: the image as one square tile, what they call the global image; a token is some patches.

    The image is brought to the size of the tile at once; by default it would be enlarged for splitting first. One
    tensor goes back because transformers 5.18 takes nothing else here.
    """

    one_tensor: ClassVar[bool] = True
    unquantized: ClassVar[tuple[str, ...]] = ('lm_head', 'model.vision_model', 'model.connector')

    def grid(self, config: Mapping[str, Any]) -> Size:
        """See `Family.grid`."""
        patch, factor = pair(config, 'vision_config', 'patch_size'), value(config, 'scale_factor')
        height, width = self.pixels(config)
        return height // patch[0] // factor, width // patch[1] // factor

    def processor_pixels(self, processor: Any) -> Size:
        """See `Family.processor_pixels`."""
        side = processor.max_image_size['longest_edge'] or 0
        return side, side

    def one_tile(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family.one_tile`."""
        return {'do_image_splitting': False, 'size': {'longest_edge': max(self.pixels(config))}}

    def nested(self, images: Sequence[np.ndarray]) -> list[Any]:
        """See `Family.nested`: a sample of its own for each, so that the features come back image by image."""
        return [[image] for image in images]

    def vision_inputs(self, batch: Mapping[str, Any], count: int) -> dict[str, Any]:
        """See `Family.vision_inputs`."""
        return {name: batch[name] for name in ('pixel_values', 'pixel_attention_mask')}

    def image_markup(self, tokenizer: Any, image_text: str) -> ImageMarkup:
        """See `Family.image_markup`."""
        fence = getattr(tokenizer, 'fake_image_token', None) or '<fake_token_around_image>'
        whole = getattr(tokenizer, 'global_image_token', None) or '<global-img>'
        return ImageMarkup(image_text, fence + whole, fence)


@dataclass(frozen=True, slots=True)
class Gemma3(Family):
    """Gemma3: each image resized to one square tile whose tokens see one another in both directions.

    Most layers see only a window of positions. Both masks are made here, over positions of the full prompt: the
    model's own would count kept tokens, so that pruning would widen the window.
    """

    one_tensor: ClassVar[bool] = True
    sliding_window: ClassVar[bool] = True

    def grid(self, config: Mapping[str, Any]) -> Size:
        """See `Family.grid`."""
        side = math.isqrt(value(config, 'mm_tokens_per_image'))
        return side, side

    def one_tile(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """See `Family.one_tile`."""
        return {'do_pan_and_scan': False}

    def image_markup(self, tokenizer: Any, image_text: str) -> ImageMarkup:
        """See `Family.image_markup`."""
        start, end = (getattr(tokenizer, f'{edge}_token', None) for edge in ('boi', 'eoi'))
        start, end = start or '<start_of_image>', end or '<end_of_image>'
        return ImageMarkup(start, f'\n\n{start}', f'{end}\n\n')

    def visible(self, ids: torch.Tensor, image_token_id: int) -> torch.Tensor | None:
        """See `Family.visible`: the markup around images keeps their tokens apart, also after pruning."""
        image = ids == image_token_id
        run = (~image).cumsum(0).masked_fill(~image, -1)  # tokens without text between them belong to one image
        same = (run[:, None] == run[None]) & image[None]
        return same | torch.ones(len(ids), len(ids), dtype=torch.bool).tril()

    def attention_mask(
        self, text_config: Any, visible: torch.Tensor | None, here: torch.Tensor, keys: torch.Tensor, dtype: torch.dtype
    ) -> Any:
        """See `Family.attention_mask`: one mask for each kind of layer."""
        if visible is None:
            visible = torch.ones(len(here), len(keys), dtype=torch.bool).tril(len(keys) - len(here))
        near = here[:, None] - keys[None] < text_config.sliding_window
        return {
            'full_attention': additive_mask(visible, dtype),
            'sliding_attention': additive_mask(visible & near, dtype),
        }


CLASSES: Mapping[str, type[Family]] = {
    'qwen2_vl': QwenVL,
    'qwen2_5_vl': QwenVL,
    'qwen3_vl': Qwen3VL,
    'llava_onevision': LlavaOnevision,
    'internvl': InternVL,
    'smolvlm': SmolVLM,
    'idefics3': SmolVLM,
    'gemma3': Gemma3,
}
FAMILIES: Mapping[str, Family] = {
    model_type: CLASSES[model_type](model_type, architecture) for model_type, architecture in ARCHITECTURES.items()
}
