"""How much attention goes to visual tokens that show no actor; the shipped model's training keeps it low.

A model comes to rely on the sum of attention over a thousand background tokens, and its answers then depend on how many
of them there are. All tokens stay in the sequence; only where attention goes is guided, by the renderer's truth.
"""

from __future__ import annotations

import torch

SAMPLED_QUERIES = 96  # visual tokens per step whose attention is measured


def background_share(
    query: torch.Tensor, keys: torch.Tensor, visible: torch.Tensor, background: torch.Tensor
) -> torch.Tensor:
    """Share of attention (B, heads, Q) that queries (B, heads, Q, d) give to ``background`` keys (B, Q or 1, K).

    ``keys`` are (B, heads, K, d); ``visible`` (B or 1, Q, K) says which keys a query may attend to.
    """
    scores = (query @ keys.transpose(2, 3)).float() * query.shape[-1] ** -0.5
    shares = scores.masked_fill(~visible[:, None], torch.finfo(torch.float32).min).softmax(-1)
    return (shares * background[:, None]).sum(-1)
