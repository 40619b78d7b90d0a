"""Second stage of training: the language model learns to answer questions about frozen visual tokens.

Every scene is prefilled once. Its questions follow that prefix side by side, masked from one another, at the positions
where the runtime puts a question. The prompt is the one of the exported prompt file. The ego text has the same number
of tokens whatever it says, so that all scenes of a batch have their visual tokens at the same indices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from stprune_ros.ringworld.scenes import GRID
from stprune_ros.ringworld.training.attention import SAMPLED_QUERIES, attention_to_background
from stprune_ros.ringworld.training.batches import Batch

IGNORED = -100  # label of tokens that are no answers


@dataclass(frozen=True)
class Prefilled:
    """Prefixes after prefill: the KV cache, visual tokens after the second and third layer (B, n, D), positions (3, N).

    ``background`` bool (B, N) marks keys that show no actor; ``background_attention`` is the mean share of attention
    that visual tokens give to them.
    """

    cache: Any
    middle: torch.Tensor
    late: torch.Tensor
    positions: torch.Tensor
    background: torch.Tensor
    background_attention: torch.Tensor


def prefill(model: Any, batch: Batch, image: int) -> Prefilled:
    """Run the prefixes. Of the last layer only keys and values are computed: its output there is never used."""
    from transformers import DynamicCache
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

    core = model.model.language_model
    first = batch.ids[:1]
    kinds = (first == image).int()
    grid = torch.tensor([[1, *GRID]] * (len(batch.subset.views) * batch.subset.frames))
    positions, _ = model.model.get_rope_index(first, mm_token_type_ids=kinds, image_grid_thw=grid)
    hidden = core.embed_tokens(batch.ids)
    where = kinds[0].nonzero()[:, 0]
    hidden = hidden.index_copy(1, where, batch.tokens)
    rotary = core.rotary_emb(hidden, positions.expand(3, len(hidden), -1))
    background = torch.zeros(batch.ids.shape, dtype=torch.bool)
    background[:, where] = batch.dense['kind'].flatten(1) < 0
    sampled = where[torch.randperm(len(where))[:SAMPLED_QUERIES]]
    indices = torch.arange(batch.ids.shape[1])
    earlier, others = indices <= sampled[:, None], indices != sampled[:, None]
    sampled_rotary = rotary[0][:, sampled], rotary[1][:, sampled]
    cache = DynamicCache()
    middle, background_attention = hidden, []
    for index, layer in enumerate(core.layers[:-1]):
        entered = hidden[:, sampled]
        hidden = layer(hidden, attention_mask=None, past_key_values=cache, position_embeddings=rotary)
        keys = cache.layers[index].keys
        share = attention_to_background(
            layer, entered, sampled_rotary, keys, earlier[None], background[:, None] & others
        )
        background_attention.append(share.mean())
        if index == 1:
            middle = hidden[:, where]
    last = core.layers[-1]
    inner = last.input_layernorm(hidden)
    shape = (*inner.shape[:2], -1, last.self_attn.head_dim)
    keys = last.self_attn.k_norm(last.self_attn.k_proj(inner).view(shape)).transpose(1, 2)
    values = last.self_attn.v_proj(inner).view(shape).transpose(1, 2)
    keys = apply_rotary_pos_emb(keys, keys, *rotary)[1]
    cache.update(keys, values, len(core.layers) - 1)
    return Prefilled(
        cache, middle, hidden[:, where], positions[:, 0], background, torch.stack(background_attention).mean()
    )


@dataclass(frozen=True)
class Answered:
    """Loss of the answers, visual tokens after the second and third layer, attention to background tokens.

    ``results`` holds for each question its kind and whether every token of the answer is right.
    """

    loss: torch.Tensor
    middle: torch.Tensor
    late: torch.Tensor
    background_attention: torch.Tensor
    results: list[tuple[str, bool]]


def answer_questions(model: Any, batch: Batch, image: int) -> Answered:
    """Prefill, then predict the answers of all questions of the batch in one pass (teacher forcing)."""
    prefilled = prefill(model, batch, image)
    size, n = batch.ids.shape
    width = max(sum(len(q.question) + len(q.answer) - 1 for q in questions) for questions in batch.questions)
    ids, labels = torch.zeros(size, width, dtype=torch.long), torch.full((size, width), IGNORED)
    weights, owner = torch.zeros(size, width), torch.full((size, width), -1)
    question_positions = torch.zeros(size, width, dtype=torch.long)
    spans: list[tuple[str, int, int, int]] = []
    for row, questions in enumerate(batch.questions):
        first_position = int(prefilled.positions.max()) + 1
        start = 0
        for number, encoded in enumerate(questions):
            tokens = encoded.question + encoded.answer[:-1]
            stop, first = start + len(tokens), start + len(encoded.question) - 1
            ids[row, start:stop] = torch.tensor(tokens)
            labels[row, first:stop] = torch.tensor(encoded.answer)
            weights[row, first:stop] = encoded.weight
            owner[row, start:stop] = number
            question_positions[row, start:stop] = torch.arange(first_position, first_position + len(tokens))
            spans.append((encoded.kind, row, first, stop))
            start = stop
    visible = (owner[:, :, None] == owner[:, None]) & torch.ones(width, width, dtype=torch.bool).tril()
    visible = torch.cat([torch.ones(size, width, n, dtype=torch.bool), visible], 2)
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[:, None]
    background = torch.cat([prefilled.background, torch.zeros(size, width, dtype=torch.bool)], 1)[:, None]
    core = model.model.language_model
    hidden = core.embed_tokens(ids)
    rotary = core.rotary_emb(hidden, question_positions.expand(3, -1, -1))
    background_attention = [prefilled.background_attention]
    for index, layer in enumerate(core.layers):
        entered = hidden
        hidden = layer(hidden, attention_mask=mask, past_key_values=prefilled.cache, position_embeddings=rotary)
        share = attention_to_background(layer, entered, rotary, prefilled.cache.layers[index].keys, visible, background)
        background_attention.append(share.transpose(1, 2)[owner >= 0].mean() / len(core.layers))
    is_answer = labels >= 0
    logits = model.lm_head(core.norm(hidden)[is_answer])
    losses = functional.cross_entropy(logits, labels[is_answer], reduction='none')
    loss = (losses * weights[is_answer]).sum() / weights[is_answer].sum()
    right = torch.zeros(size, width, dtype=torch.bool)
    right[is_answer] = logits.argmax(-1) == labels[is_answer]
    results = [(kind, bool(right[row, first:stop].all())) for kind, row, first, stop in spans]
    return Answered(loss, prefilled.middle, prefilled.late, torch.stack(background_attention).sum(), results)


def accuracy_by_kind(results: Sequence[tuple[str, bool]]) -> dict[str, float]:
    """Share of questions with every answer token right, by kind."""
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for kind, right in results:
        by_kind[kind].append(right)
    return {kind: round(sum(found) / len(found), 3) for kind, found in sorted(by_kind.items())}
