"""Second stage of training: the language model learns to answer questions about frozen visual tokens.

Every scene's prefix is run once. Its questions follow that prefix side by side, masked from one another, at the
positions where the runtime puts a question. The prompt is the one of the exported prompt file. The ego text has the
same number of tokens whatever it says, so that all scenes of a batch have their visual tokens at the same indices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from stprune_ros.ringworld.training.attention import SAMPLED_QUERIES, background_share
from stprune_ros.ringworld.training.batches import IGNORED, Batch, Span
from stprune_ros.ringworld.training.hosts import Host, rotate

PROBED_LAYER = 1  # visual tokens behind it are `Answered.middle`, those behind the next one `Answered.late`


@dataclass(frozen=True)
class Answered:
    """Loss of the answers, visual tokens after the second and third layer, attention to background tokens.

    ``right`` bool (B, W) says where the most probable token is the answer's. The visual tokens are empty where some
    were dropped; ``background_attention`` is 0 where it is not asked for.
    """

    loss: torch.Tensor
    middle: torch.Tensor
    late: torch.Tensor
    background_attention: torch.Tensor
    right: torch.Tensor


class LanguageStage:
    """The forward pass of training: prefixes and questions through the layers of a model's language half.

    It is the model's own arithmetic, written out so that a prefix runs once for all its questions and the last layer
    runs for questions only.
    """

    def __init__(self, host: Host, model: Any) -> None:
        self._host, self._model = host, model
        self._image = model.config.image_token_id
        self._positions: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def answer(self, batch: Batch, background: bool = False) -> Answered:
        """Predict the answers of all questions of the batch in one pass (teacher forcing).

        With ``background`` the attention to background tokens is measured; that needs a batch with dense truth and
        without dropped tokens.
        """
        core, device = self._model.model.language_model, batch.tokens.device
        positions, where = self._prefix_layout(batch)
        prefix = core.embed_tokens(batch.ids).index_copy(1, where, batch.tokens.to(core.embed_tokens.weight.dtype))
        asked_positions = positions.max() + 1 + batch.offsets.expand(len(positions), -1, -1)
        positions = positions[:, None].expand(-1, len(prefix), -1)
        if batch.kept is not None:
            prefix = prefix.gather(1, batch.kept[..., None].expand(-1, -1, prefix.shape[-1]))
            positions = positions.gather(2, batch.kept.expand(len(positions), -1, -1))
        n = prefix.shape[1]
        hidden = torch.cat([prefix, core.embed_tokens(batch.asked)], 1)
        positions = torch.cat([positions, asked_positions], 2)
        rotary = core.rotary_emb(hidden, positions if len(positions) > 1 else positions[0])
        width = batch.asked.shape[1]
        same = batch.owner[:, :, None] == batch.owner[:, None]
        same = same & torch.ones(width, width, dtype=torch.bool, device=device).tril()
        visible = torch.cat([same.new_ones(len(same), width, n), same], 2)
        watch = _Watch(batch, where, n, visible) if background else None
        probed = []
        for index, layer in enumerate(core.layers[:-1]):
            hidden = run_layer(layer, hidden, rotary, n, visible, watch)
            if index in (PROBED_LAYER, PROBED_LAYER + 1) and batch.kept is None:
                probed.append(hidden[:, where])
        hidden = run_layer(core.layers[-1], hidden, rotary, n, visible, watch, questions_only=True)
        logits = self._model.lm_head(core.norm(hidden)).float()
        losses = functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction='none')
        weights = batch.weights.flatten() * (batch.labels.flatten() != IGNORED)
        loss = (losses * weights).sum() / weights.sum()
        middle, late = probed if probed else (hidden[:, :0],) * 2
        attention = watch.mean() if watch else loss.new_zeros(())
        return Answered(loss, middle, late, attention, logits.argmax(-1) == batch.labels)

    def _prefix_layout(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions (rows, N) of the prefixes and the indices of their visual tokens, kept for the next batch."""
        plan = batch.plan
        key = (*plan.subset.views, -plan.subset.frames, plan.ids.shape[1])
        if key not in self._positions:
            ids, images = torch.from_numpy(plan.ids[0]), len(plan.subset.views) * plan.subset.frames
            where = (ids == self._image).nonzero()[:, 0]
            rows, device = self._host.positions(self._model, ids, images), batch.tokens.device
            self._positions[key] = rows.to(device), where.to(device)
        return self._positions[key]


def run_layer(
    layer: Any,
    hidden: torch.Tensor,
    rotary: tuple[torch.Tensor, torch.Tensor],
    n: int,
    visible: torch.Tensor,
    watch: _Watch | None = None,
    questions_only: bool = False,
) -> torch.Tensor:
    """A decoder layer over prefixes and questions (B, n + W, D).

    The first ``n`` tokens see what is before them, the others what ``visible`` (B, W, n + W) says. With
    ``questions_only`` the result is (B, W, D).
    """
    attention = layer.self_attn
    inner = layer.input_layernorm(hidden)
    heads = (*inner.shape[:2], -1, attention.head_dim)
    query, keys = attention.q_proj(inner).view(heads), attention.k_proj(inner).view(heads)
    values = attention.v_proj(inner).view(heads).transpose(1, 2)
    if hasattr(attention, 'q_norm'):  # Qwen3 has it, Qwen2 does not
        query, keys = attention.q_norm(query), attention.k_norm(keys)
    query, keys = (rotate(x.transpose(1, 2), *rotary).to(values.dtype) for x in (query, keys))
    if watch:
        watch.see(query, keys)
    asked = functional.scaled_dot_product_attention(query[:, :, n:], keys, values, attn_mask=visible[:, None])
    if questions_only:
        seen, hidden = asked, hidden[:, n:]
    else:
        prefix = functional.scaled_dot_product_attention(
            query[:, :, :n], keys[:, :, :n], values[:, :, :n], is_causal=True
        )
        seen = torch.cat([prefix, asked], 2)
    hidden = hidden + attention.o_proj(seen.transpose(1, 2).flatten(2))
    return hidden + layer.mlp(layer.post_attention_layernorm(hidden))


class _Watch:
    """Attention to background tokens: of all questions, and of some visual tokens."""

    def __init__(self, batch: Batch, where: torch.Tensor, n: int, visible: torch.Tensor) -> None:
        device, total = batch.tokens.device, visible.shape[2]
        self._background = torch.zeros(len(visible), 1, total, dtype=torch.bool, device=device)
        self._background[:, 0, where] = batch.dense['kind'].flatten(1) < 0
        self._sampled = where[torch.randperm(len(where), device=device)[:SAMPLED_QUERIES]]
        indices = torch.arange(n, device=device)
        self._earlier = (indices <= self._sampled[:, None])[None]
        self._others = indices != self._sampled[:, None]
        self._n, self._visible, self._asked = n, visible, batch.owner >= 0
        self._shares: list[tuple[torch.Tensor, torch.Tensor]] = []

    def see(self, query: torch.Tensor, keys: torch.Tensor) -> None:
        """Note the attention of one layer."""
        n = self._n
        visual = background_share(
            query[:, :, self._sampled], keys[:, :, :n], self._earlier, self._background[..., :n] & self._others
        )
        asked = background_share(query[:, :, n:], keys, self._visible, self._background)
        self._shares.append((visual.mean(), asked.transpose(1, 2)[self._asked].mean()))

    def mean(self) -> torch.Tensor:
        """Mean share over the layers: of visual tokens, which the last layer does not change, plus of questions."""
        visual, asked = zip(*self._shares)
        return torch.stack(visual[:-1]).mean() + torch.stack(asked).mean()


def questions_right(spans: Sequence[Span], right: torch.Tensor) -> dict[str, list[bool]]:
    """Whether each question has every answer token right, by kind; ``right`` is (B, W)."""
    by_kind: dict[str, list[bool]] = defaultdict(list)
    found = right.cpu().numpy()
    for kind, row, first, stop in spans:
        by_kind[kind].append(bool(found[row, first:stop].all()))
    return by_kind
