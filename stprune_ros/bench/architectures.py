"""Vision-language models by the sizes of their published config.json, at full depth or with fewer layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stprune_ros.bench.costs import QWEN3_VL_2B, QWEN3_VL_4B, QWEN25_VL_3B, LanguageShape

MERGE_SIZE = 2  # patches along each edge of a visual token
SPECIAL_TOKENS = {
    'image_token_id': '<|image_pad|>',
    'video_token_id': '<|video_pad|>',
    'vision_start_token_id': '<|vision_start|>',
}


@dataclass(frozen=True)
class Architecture:
    """A vision tower of ``vision_layers`` layers in front of a language model, as a family's configuration says it.

    ``text_config`` and ``vision_config`` are further entries of those two. ``layer_indexes`` is the key under which
    vision_config lists the layers that differ from the others, and their indexes at full depth.
    """

    family: str
    language: LanguageShape
    vision_layers: int
    patch_size: int
    text_config: dict[str, Any]
    vision_config: dict[str, Any]
    layer_indexes: tuple[str, tuple[int, ...]]

    def config(self, layers: int, vision_layers: int) -> dict[str, Any]:
        """Content of config.json for so many layers; ``layer_indexes`` shrink in proportion."""
        shape = self.language
        text = {
            'hidden_size': shape.hidden_size,
            'intermediate_size': shape.intermediate_size,
            'num_hidden_layers': layers,
            'num_attention_heads': shape.heads,
            'num_key_value_heads': shape.kv_heads,
            'vocab_size': shape.vocab_size,
            'rms_norm_eps': 1e-6,
            'tie_word_embeddings': True,
            **self.text_config,
        }
        key, indexes = self.layer_indexes
        vision = {
            'depth': vision_layers,
            'patch_size': self.patch_size,
            'spatial_merge_size': MERGE_SIZE,
            'temporal_patch_size': 2,
            'out_hidden_size': shape.hidden_size,
            key: sorted({vision_layers * index // self.vision_layers for index in indexes}),
            **self.vision_config,
        }
        return {'text_config': text, 'vision_config': vision, 'tie_word_embeddings': True}


def _qwen3(language: LanguageShape) -> Architecture:
    rope = {'rope_type': 'default', 'rope_theta': 5e6, 'mrope_section': [24, 20, 20], 'mrope_interleaved': True}
    return Architecture(
        'qwen3_vl',
        language,
        24,
        16,
        {'head_dim': language.head_dim, 'max_position_embeddings': 262144, 'rope_parameters': rope},
        {'hidden_size': 1024, 'intermediate_size': 4096, 'num_heads': 16, 'num_position_embeddings': 2304},
        ('deepstack_visual_indexes', (5, 11, 17)),
    )


QWEN3_2B, QWEN3_4B = _qwen3(QWEN3_VL_2B), _qwen3(QWEN3_VL_4B)
QWEN25_3B = Architecture(
    'qwen2_5_vl',
    QWEN25_VL_3B,
    32,
    14,
    {
        'max_position_embeddings': 128000,
        'rope_parameters': {'rope_type': 'default', 'rope_theta': 1e6, 'mrope_section': [16, 24, 24]},
    },
    {'hidden_size': 1280, 'intermediate_size': 3420, 'num_heads': 16, 'window_size': 112},
    ('fullatt_block_indexes', (7, 15, 23, 31)),
)
