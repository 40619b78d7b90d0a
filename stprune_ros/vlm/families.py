"""What differs between model families: class name, features out of the vision tower and back in, positions.

No transformers import: a family works on the model and the outputs that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stprune_ros.vlm.backend import ImageFeatures, VisualFrame


@dataclass(frozen=True, slots=True)
class EncoderOutput:
    """Visual tokens as ``mm_encoder_outputs`` wants them: (n_i, D) per image, the same for each deepstack layer."""

    pooler_output: tuple[torch.Tensor, ...]
    deepstack_features: tuple[tuple[torch.Tensor, ...], ...] = ()

    def to_tuple(self) -> tuple[Any, ...]:
        """Asked for by transformers 5.24 and newer, whose outputs carry this one."""
        return self.pooler_output, self.deepstack_features


@dataclass(frozen=True, slots=True)
class QwenVL:
    """Qwen2-VL and Qwen2.5-VL: tokens of merge_size x merge_size patches, positions as (time, row, column)."""

    model_type: str
    architecture: str

    def features(self, output: Any, grid_thw: torch.Tensor, merge_size: int) -> list[ImageFeatures]:
        """Split the result of ``get_image_features`` by image; ``grid_thw`` is (images, 3) in patches.

        The tokens are copied, so that keeping one frame does not keep the whole batch alive.
        """
        grids = (grid_thw[:, 1:] // merge_size).tolist()
        return [
            ImageFeatures(tokens.clone(), (grid[0], grid[1]), self._deep(output, index))
            for index, (tokens, grid) in enumerate(zip(output.pooler_output, grids, strict=True))
        ]

    def _deep(self, output: Any, index: int) -> tuple[torch.Tensor, ...]:
        return ()

    def encoder_output(self, frames: Sequence[VisualFrame]) -> EncoderOutput:
        """The kept tokens of every frame, in prompt order."""
        layers = len(frames[0].features.deep)
        return EncoderOutput(
            tuple(frame.features.tokens[frame.keep] for frame in frames),
            tuple(tuple(frame.features.deep[layer][frame.keep] for frame in frames) for layer in range(layers)),
        )

    def positions(self, model: Any, ids: torch.Tensor, image_token_id: int, grid_thw: torch.Tensor) -> torch.Tensor:
        """Positions (3, S) of the unpruned prompt ``ids`` (S,); ``grid_thw`` is (images, 3) in patches."""
        kinds = (ids == image_token_id).int()[None]
        grids = grid_thw if len(grid_thw) else None
        positions, _ = model.base_model.get_rope_index(ids[None], mm_token_type_ids=kinds, image_grid_thw=grids)
        row: torch.Tensor = positions[:, 0]
        return row


@dataclass(frozen=True, slots=True)
class Qwen3VL(QwenVL):
    """Qwen3-VL: features of earlier vision layers are added in the first decoder layers, too (deepstack)."""

    def _deep(self, output: Any, index: int) -> tuple[torch.Tensor, ...]:
        return tuple(layer[index].clone() for layer in output.deepstack_features)


FAMILIES: Mapping[str, QwenVL] = {
    family.model_type: family
    for family in (
        QwenVL('qwen2_vl', 'Qwen2VLForConditionalGeneration'),
        QwenVL('qwen2_5_vl', 'Qwen2_5_VLForConditionalGeneration'),
        Qwen3VL('qwen3_vl', 'Qwen3VLForConditionalGeneration'),
    )
}
