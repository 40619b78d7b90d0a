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
    vision_config lists the layers that differ from the others, and their indexes at full depth. With ``gated_vision``
    the tower's perceptrons have three matrices, else two.
    """

    family: str
    language: LanguageShape
    vision_layers: int
    patch_size: int
    text_config: dict[str, Any]
    vision_config: dict[str, Any]
    layer_indexes: tuple[str, tuple[int, ...]]
    gated_vision: bool = False

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

    def vision_flops(self, image_tokens: int, vision_layers: int) -> int:
        """FLOPs of one image that becomes ``image_tokens`` tokens, 2 per multiply-add, in so many layers.

        n patches of width h through each layer's weights W take 2 n W, attention over the w patches that each one sees
        4 n w h: all of them, or a window's in layers that are not among ``layer_indexes``.
        """
        vision = self.config(1, vision_layers)['vision_config']
        patches, width = image_tokens * MERGE_SIZE**2, self._vision_width
        window = (vision['window_size'] // self.patch_size) ** 2 if 'window_size' in vision else patches
        whole = len(vision[self.layer_indexes[0]]) if 'window_size' in vision else vision_layers
        seen = whole * patches + (vision_layers - whole) * min(window, patches)
        weights = self.patch_values * width + vision_layers * self._vision_layer_weights
        return 2 * patches * weights + 4 * patches * seen * width + 2 * image_tokens * self._mergers(vision_layers)

    def vision_weights(self, vision_layers: int) -> int:
        """Number of weights in the matrices of a tower of so many layers."""
        width = self._vision_width
        return self.patch_values * width + vision_layers * self._vision_layer_weights + self._mergers(vision_layers)

    @property
    def patch_values(self) -> int:
        """Numbers in one patch: three colours, twice for the two frames of a video."""
        return 3 * 2 * self.patch_size**2

    @property
    def _vision_width(self) -> int:
        return int(self.vision_config['hidden_size'])

    @property
    def _vision_layer_weights(self) -> int:
        width, inner = self._vision_width, int(self.vision_config['intermediate_size'])
        return 4 * width**2 + (3 if self.gated_vision else 2) * width * inner

    def _mergers(self, vision_layers: int) -> int:
        """Weights of what makes tokens of patches: at the end, and where layers' outputs go deeper into the model."""
        wide = MERGE_SIZE**2 * self._vision_width
        key, _ = self.layer_indexes
        deep = len(self.config(1, vision_layers)['vision_config'][key]) if key.startswith('deepstack') else 0
        return (1 + deep) * (wide**2 + wide * self.language.hidden_size)


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
    gated_vision=True,
)
