"""How much attention goes to visual tokens that show no actor; training keeps it low.

A model comes to rely on the sum of attention over a thousand background tokens, and its answers then depend on how many
of them there are. All tokens stay in the sequence; only where attention goes is guided, by the renderer's truth.
"""

from __future__ import annotations

from typing import Any

import torch

SAMPLED_QUERIES = 96  # visual tokens per step whose attention is measured


def attention_to_background(
    layer: Any,
    hidden: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    keys: torch.Tensor,
    visible: torch.Tensor,
    background: torch.Tensor,
) -> torch.Tensor:
    """Share of attention (B, heads, Q) that ``layer`` gives to ``background`` keys (B, Q or 1, K).

    ``hidden`` (B, Q, D) enters the layer, ``rotary`` holds cosine and sine (B, Q, d) of its positions, ``keys``
    (B, heads, K, d) are rotated already; ``visible`` (B or 1, Q, K) says which keys a query may attend to.
    """
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

    attention = layer.self_attn
    inner = attention.q_proj(layer.input_layernorm(hidden)).view(*hidden.shape[:2], -1, attention.head_dim)
    query = attention.q_norm(inner).transpose(1, 2)
    query = apply_rotary_pos_emb(query, query, *rotary)[0]
    scores = query @ keys.transpose(2, 3) * attention.scaling
    shares = scores.masked_fill(~visible[:, None], torch.finfo(torch.float32).min).softmax(-1)
    return (shares * background[:, None]).sum(-1)
