"""The architectures that can be trained as hosts of ringworld: towers, image processors and positions of each.

transformers is imported inside the functions: only training needs this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from stprune_ros.ringworld.scenes import GRID, PATCH
from stprune_ros.ringworld.training.tokenizer import IMAGE, SPECIAL_TOKENS, TURN_END, VISION_END, VISION_START

HIDDEN_SIZE = 128  # of the language model and of the visual tokens
NORMALIZATION = {'image_mean': [0.5, 0.5, 0.5], 'image_std': [0.5, 0.5, 0.5]}
TEXT = {
    'hidden_size': HIDDEN_SIZE,
    'intermediate_size': 384,
    'num_hidden_layers': 4,
    'num_attention_heads': 4,
    'num_key_value_heads': 4,
    'max_position_embeddings': 4096,
}
EMBEDDING_STD = 0.2
ROPE = {'rope_type': 'default', 'rope_theta': 10000.0}


@dataclass(frozen=True, slots=True)
class Host:
    """An architecture; ``grid`` is (rows, columns) of visual tokens of an image."""

    name: str
    grid: tuple[int, int]
    token_truth: ClassVar[bool]  # whether the grid is the one of the renderer's truth per token
    image_markup: ClassVar[str]  # what the chat template writes for an image

    @property
    def tokens(self) -> int:
        """Visual tokens of an image."""
        return self.grid[0] * self.grid[1]

    def make_model(self, tokenizer: Any) -> Any:
        """The model with random weights."""
        raise NotImplementedError

    def make_processor(self) -> Any:
        """The image processor of the exported folder; values are brought to [-1, 1]."""
        raise NotImplementedError

    def tower(self, model: Any) -> nn.ModuleList:
        """The modules between pixels and visual tokens."""
        raise NotImplementedError

    def visual_tokens(self, model: Any, images: torch.Tensor) -> torch.Tensor:
        """Visual tokens (n, tokens, D) of uint8 images (n, 96, 160, 3)."""
        raise NotImplementedError

    def positions(self, model: Any, ids: torch.Tensor, images: int) -> torch.Tensor:
        """Positions (rows, N) of a prefix ``ids`` (N,) with so many images, as the runtime gives them."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Qwen3VLHost(Host):
    """Qwen3-VL: images keep their shape, a token is a patch of 16 x 16 pixels, positions have three rows (M-RoPE)."""

    token_truth: ClassVar[bool] = True
    image_markup: ClassVar[str] = VISION_START + IMAGE + VISION_END

    def make_model(self, tokenizer: Any) -> Any:
        """See `Host.make_model`."""
        from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

        ids = token_ids(tokenizer)
        vision = {
            'depth': 4,
            'hidden_size': 192,
            'intermediate_size': 512,
            'num_heads': 6,
            'patch_size': PATCH,
            'temporal_patch_size': 1,
            'spatial_merge_size': 1,
            'out_hidden_size': HIDDEN_SIZE,
            'num_position_embeddings': 256,
            'deepstack_visual_indexes': [],
        }
        rope = {**ROPE, 'mrope_section': [6, 5, 5], 'mrope_interleaved': True}
        config = Qwen3VLConfig(
            vision_config=vision,
            text_config={
                **TEXT,
                'vocab_size': len(tokenizer),
                'head_dim': 32,
                'pad_token_id': ids['<|pad|>'],
                'rope_parameters': rope,
            },
            image_token_id=ids[IMAGE],
            video_token_id=ids['<|video_pad|>'],
            vision_start_token_id=ids[VISION_START],
            vision_end_token_id=ids[VISION_END],
            eos_token_id=ids[TURN_END],
            pad_token_id=ids['<|pad|>'],
        )
        return _prepared(Qwen3VLForConditionalGeneration(config), ids)

    def make_processor(self) -> Any:
        """See `Host.make_processor`: any image to about 60 patches of 16 x 16 pixels."""
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        pixels = self.tokens * PATCH**2
        return Qwen2VLImageProcessorPil(
            size={'shortest_edge': pixels, 'longest_edge': pixels},
            patch_size=PATCH,
            merge_size=1,
            temporal_patch_size=1,
            **NORMALIZATION,
        )

    def tower(self, model: Any) -> nn.ModuleList:
        """See `Host.tower`."""
        return nn.ModuleList([model.model.visual])

    def visual_tokens(self, model: Any, images: torch.Tensor) -> torch.Tensor:
        """See `Host.visual_tokens`; the tower's own loop runs image by image, here all of them go through at once."""
        visual, patches = model.model.visual, self.patches(images)
        entered, rotary = _at_first_block(visual, patches[: self.tokens], self.grid)
        places = entered - visual.patch_embed(patches[: self.tokens])
        hidden = visual.patch_embed(patches).view(len(images), self.tokens, -1) + places
        for block in visual.blocks:
            attention = block.attn
            inner = attention.qkv(block.norm1(hidden)).unflatten(-1, (3, attention.num_heads, -1))
            query, keys, values = inner.permute(2, 0, 3, 1, 4)
            query, keys = (rotate(x.float(), *rotary).to(values.dtype) for x in (query, keys))
            seen = functional.scaled_dot_product_attention(query, keys, values)
            hidden = hidden + attention.proj(seen.transpose(1, 2).flatten(2))
            hidden = hidden + block.mlp(block.norm2(hidden))
        tokens: torch.Tensor = visual.merger(hidden.flatten(0, 1))
        return tokens.view(len(images), self.tokens, -1)

    def patches(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels as the image processor returns them: (n, 96, 160, 3) uint8 to (n * 60, 3 * 16 * 16) in [-1, 1]."""
        rows, columns = self.grid
        x = images.reshape(len(images), rows, PATCH, columns, PATCH, 3)
        return x.permute(0, 1, 3, 5, 2, 4).reshape(len(images) * self.tokens, -1).float() / 127.5 - 1.0

    def positions(self, model: Any, ids: torch.Tensor, images: int) -> torch.Tensor:
        """See `Host.positions`: (3, N)."""
        kinds = (ids == model.config.image_token_id).int()[None]
        grid = torch.tensor([[1, *self.grid]] * images)
        rows: torch.Tensor = model.model.get_rope_index(ids[None], mm_token_type_ids=kinds, image_grid_thw=grid)[0]
        return rows[:, 0]


@dataclass(frozen=True, slots=True)
class InternVLHost(Host):
    """InternVL: every image is stretched to 128 x 128 pixels, a token is 2 x 2 patches of 8 x 8, positions count.

    The language model is a Qwen2. Tokens lie on another grid than the renderer's truth, so nothing here is trained on
    truth per token.
    """

    token_truth: ClassVar[bool] = False
    image_markup: ClassVar[str] = IMAGE  # the runtime's family puts the start and the end around it
    patch: ClassVar[int] = 8

    @property
    def side(self) -> int:
        """Pixels per side of the square that an image becomes."""
        return 2 * self.patch * self.grid[0]

    def make_model(self, tokenizer: Any) -> Any:
        """See `Host.make_model`."""
        from transformers import InternVLConfig, InternVLForConditionalGeneration

        ids = token_ids(tokenizer)
        vision = {
            'num_hidden_layers': 4,
            'hidden_size': 192,
            'intermediate_size': 512,
            'num_attention_heads': 6,
            'attention_bias': True,
            'image_size': [self.side, self.side],
            'patch_size': [self.patch, self.patch],
            'layer_scale_init_value': 1.0,
        }
        text = {
            **TEXT,
            'model_type': 'qwen2',
            'vocab_size': len(tokenizer),
            'pad_token_id': ids['<|pad|>'],
            'bos_token_id': None,
            'eos_token_id': ids[TURN_END],
            'rope_parameters': ROPE,
            'tie_word_embeddings': False,
        }
        config = InternVLConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=ids[IMAGE],
            image_seq_length=self.tokens,
            tie_word_embeddings=False,
        )
        model = _prepared(InternVLForConditionalGeneration(config), ids)
        nn.init.normal_(model.model.vision_tower.embeddings.position_embeddings, std=0.02)  # zeros otherwise
        return model

    def make_processor(self) -> Any:
        """See `Host.make_processor`."""
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

        return GotOcr2ImageProcessorPil(
            size={'height': self.side, 'width': self.side}, crop_to_patches=False, **NORMALIZATION
        )

    def tower(self, model: Any) -> nn.ModuleList:
        """See `Host.tower`."""
        return nn.ModuleList([model.model.vision_tower, model.model.multi_modal_projector])

    def visual_tokens(self, model: Any, images: torch.Tensor) -> torch.Tensor:
        """See `Host.visual_tokens`."""
        tokens: torch.Tensor = model.model.get_image_features(pixel_values=self.pixels(images)).pooler_output
        return tokens

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels as the image processor returns them: (n, 96, 160, 3) uint8 to (n, 3, 128, 128) in [-1, 1].

        Like Pillow's resize it rounds between columns and rows.
        """
        x = images.permute(0, 3, 1, 2).float()
        for size in ((x.shape[2], self.side), (self.side, self.side)):
            x = functional.interpolate(x, size, mode='bicubic', antialias=True).round().clamp(0, 255)
        return x / 127.5 - 1.0

    def positions(self, model: Any, ids: torch.Tensor, images: int) -> torch.Tensor:
        """See `Host.positions`: (1, N)."""
        return torch.arange(len(ids))[None]


HOSTS: Mapping[str, Host] = {'qwen3_vl': Qwen3VLHost('qwen3_vl', GRID), 'internvl': InternVLHost('internvl', (8, 8))}


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of (B, heads, N, d) by angles of (B or 1, N, d)."""
    low, high = x.chunk(2, -1)
    return x * cosine[:, None] + torch.cat([-high, low], -1) * sine[:, None]


def _at_first_block(
    visual: Any, patches: torch.Tensor, grid: tuple[int, int]
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """What enters the first block for one image (n, C), and the rotary angles (1, n, d) of its patches."""
    seen: list[Any] = []
    block = visual.blocks[0]
    hook = block.register_forward_pre_hook(lambda _, args, options: seen.append((args, options)), with_kwargs=True)
    visual(patches, grid_thw=torch.tensor([[1, *grid]], device=patches.device))
    hook.remove()
    (entered,), options = seen[0]
    cosine, sine = options['position_embeddings']
    return entered, (cosine[None], sine[None])


def token_ids(tokenizer: Any) -> dict[str, int]:
    """Ids of the special tokens."""
    return {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}


def _prepared(model: Any, ids: Mapping[str, int]) -> Any:
    nn.init.normal_(model.model.language_model.embed_tokens.weight, std=EMBEDDING_STD)
    model.generation_config.eos_token_id = ids[TURN_END]
    model.generation_config.pad_token_id = ids['<|pad|>']
    return model
