"""What a GPU runs in place of two parts of the Qwen families' vision towers, which transformers leaves slow there.

Attention: the tokens of all images stand in one row, and a token sees its window, or its image. transformers asks a
flash kernel for all of that in one call, and any other kernel for one window after the other: thousands of calls a
tick, each with less work than its launch. Here the windows are the batch of one call, whatever the kernel is.

Patch embedding: a Conv3d whose stride is its kernel is a matrix product, but some versions of cuDNN run it many times
slower in bfloat16, or leave it to a slow fallback.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stprune_ros.vlm.hf.library import transformers

# Functions with 'flash' in their name are given all windows of a layer at once.
NAME = 'stprune_flash_packed'


def adapt_tower(model: Any) -> None:
    """Replace both parts in the vision tower of ``model``, where it is one that packs its images."""
    tower = getattr(model.base_model, 'visual', None)
    if tower is not None:
        transformers.AttentionInterface.register(NAME, packed_attention)
        tower.config._attn_implementation = NAME
        tower.patch_embed.proj = PatchProjection(tower.patch_embed.proj)


class PatchProjection(torch.nn.Module):  # type: ignore[misc]
    """A Conv3d over patches of its kernel's size as a product with the same weights: (n, out) for (n, in, t, h, w)."""

    def __init__(self, convolution: torch.nn.Conv3d) -> None:
        super().__init__()
        self.weight = convolution.weight  # the owner asks for its dtype
        self.bias = convolution.bias

    def forward(self, patches: Tensor) -> Tensor:
        """See the class."""
        return torch.nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within consecutive windows: (1, n, heads, d) for query, key and value (1, heads, n, d).

    ``cu_seq_lens_q`` (windows + 1,) says where they begin and end, ``max_length_q`` how long the longest is. The host
    does not wait for the device.
    """
    assert cu_seq_lens_q is not None and max_length_q is not None, 'what transformers gives every flash kernel'
    bounds, longest = cu_seq_lens_q, int(max_length_q)
    windows, tokens = len(bounds) - 1, query.shape[2]
    if windows * longest == tokens:  # none is shorter than another
        parts = [x[0].unflatten(1, (windows, longest)).transpose(0, 1) for x in (query, key, value)]
        out = torch.nn.functional.scaled_dot_product_attention(*parts, scale=scaling)  # [W, heads, L, d]
        return out.transpose(1, 2).flatten(0, 1)[None], None
    starts, ends = bounds[:-1, None], bounds[1:, None]
    places = starts + torch.arange(longest, device=bounds.device)  # [W, L]
    inside = places < ends
    index = places.where(inside, starts).long()  # whatever stands in a free place is masked
    parts = [x[0][:, index].transpose(0, 1) for x in (query, key, value)]  # [W, heads, L, d]
    out = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=inside[:, None, None], scale=scaling)
    here = torch.arange(tokens, device=bounds.device)
    window = torch.searchsorted(bounds[1:].contiguous(), here, right=True)  # [n]
    return out[window, :, here - bounds[window]][None], None
