"""Second stage of training: the language model learns to read frozen visual tokens, all of them, in many answers.

Every scene is prefilled once; its questions stand side by side behind that prefix, hidden from one another, at the
positions where the runtime puts a question. The prompt is the one of the exported prompt file.
"""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from stprune_ros.core.types import EgoState
from stprune_ros.ringworld.attention import QUERIES, background_mass
from stprune_ros.ringworld.dataset import FRAMES, read_shards
from stprune_ros.ringworld.model import IMAGE, TURN_END
from stprune_ros.ringworld.questions import DESCRIBE_QUESTION, describe, hint_question, questions_about
from stprune_ros.ringworld.truth import DIRECTIONS, Truth
from stprune_ros.ringworld.vision_stage import TOKENS, features
from stprune_ros.vlm.backend import ImageFeatures, VisualFrame
from stprune_ros.vlm.prompt import Prompt, View

ALL_VIEWS = tuple(range(len(DIRECTIONS)))
NOISE = 0.1
DENSE = ('kind', 'moving', 'side', 'reason')


@dataclass(frozen=True)
class Lesson:
    """A scene ready for the language model: ``tokens`` half (T, V, 60, D), dense truth, truths."""

    tokens: torch.Tensor
    dense: dict[str, torch.Tensor]
    truths: tuple[Truth, ...]


@dataclass(frozen=True)
class Asked:
    """A question with its answer as token ids; ``kind`` for the statistics, ``weight`` per answer token."""

    kind: str
    question: list[int]
    answer: list[int]
    weight: float


class Reader:
    """Turns scenes into prompts and questions into ids, with the runtime's prompt and chat template."""

    def __init__(self, tokenizer: Any, prompt: Prompt) -> None:
        self.tokenizer, self.prompt = tokenizer, prompt
        self.image = tokenizer.convert_tokens_to_ids(IMAGE)
        self.end = tokenizer.convert_tokens_to_ids(TURN_END)
        self.known: dict[str, list[int]] = {}
        self.tail = self.ids(self._render([])[1])

    def ids(self, text: str) -> list[int]:
        if text not in self.known:
            self.known[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self.known[text]

    def prefix(self, views: Sequence[int], frames: int, truth: Truth, ego: bool) -> list[int]:
        """Ids of the prompt up to the question, one image token for each visual token."""
        frame = VisualFrame(ImageFeatures(torch.empty(0), (0, 0)), torch.empty(0))
        shown = [View(name, name, [frame] * frames if index in views else []) for index, name in enumerate(DIRECTIONS)]
        state = EgoState(0, None, None, (truth.speed, 0.0, 0.0), (0.0, 0.0, truth.yaw_rate)) if ego else None
        head = self._render(self.prompt.content(shown, state))[0]
        pieces = head.split(IMAGE)
        ids = list(self.ids(pieces[0]))
        for piece in pieces[1:]:
            ids += [self.image] * TOKENS + self.ids(piece)
        return ids

    def _render(self, content: Sequence[Any]) -> tuple[str, str]:
        parts = [{'type': 'text', 'text': part} if isinstance(part, str) else {'type': 'image'} for part in content]
        parts.append({'type': 'text', 'text': '[[question]]'})
        turns = [
            {'role': 'system', 'content': [{'type': 'text', 'text': self.prompt.system}]},
            {'role': 'user', 'content': parts},
        ]
        head, _, tail = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True).partition(
            '[[question]]'
        )
        return head, tail

    def asked(self, kind: str, question: str, answer: str, weight: float) -> Asked:
        return Asked(kind, self.ids(question) + self.tail, [*self.ids(answer), self.end], weight)

    def lesson_questions(
        self, truth: Truth, rng: np.random.Generator, count: int, views: tuple[int, ...], motion: bool
    ) -> list[Asked]:
        """The hint, the description and ``count`` drawn questions."""
        hint = hint_question(truth)
        asked = [self.asked('hint', hint.text, hint.answer, 3.0)]
        asked.append(self.asked('describe', DESCRIBE_QUESTION, describe(truth, views), 0.4))
        for question in questions_about(truth, rng, count, views, motion):
            asked.append(self.asked(question.kind, question.text, question.answer, 1.0))
        return asked


class DenseHeads(nn.Module):
    """Read-outs of the visual tokens inside the language model; they serve training only and are not exported."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.view = nn.Linear(width, len(DIRECTIONS))
        self.moving = nn.Linear(width, 2)
        self.side = nn.Linear(width, 3)
        self.reason = nn.Linear(width, 3)
        self.current = nn.Linear(width, 2)

    def loss(
        self, hidden: torch.Tensor, dense: dict[str, torch.Tensor], views: Sequence[int], frames: int
    ) -> torch.Tensor:
        """``hidden`` (B, views * frames * 60, D) in prompt order; dense truth (B, V, T, 60)."""
        b, n = len(hidden), len(views)
        x = hidden.view(b, n, frames, TOKENS, -1)
        which = torch.tensor(views).view(1, n, 1, 1).expand(b, n, frames, TOKENS)
        kind, reason = dense['kind'].long(), dense['reason'].long()
        some, walker = kind >= 0, kind == 1
        moved = (dense['moving'].long() >= 0).clone()
        moved[:, :, 0] = False  # one frame does not tell what moves
        sideways = (dense['side'].long() >= 0) & walker & moved
        loss = 0.3 * functional.cross_entropy(self.view(x).flatten(0, 3), which.flatten())
        loss = loss + functional.cross_entropy(self.reason(x[some]), reason[some])
        last = (torch.arange(frames) == frames - 1).long().view(1, 1, frames, 1).expand(b, n, frames, TOKENS)
        loss = loss + functional.cross_entropy(self.current(x).flatten(0, 3), last.flatten())
        for head, mask, target in ((self.moving, moved, dense['moving']), (self.side, sideways, dense['side'])):
            if mask.any():
                loss = loss + 0.4 * functional.cross_entropy(head(x[mask]), target[mask].long())
        return loss


def read_lessons(model: Any, folder: Path) -> list[Lesson]:
    """All scenes of a folder, pictures turned into visual tokens; kept beside the folder for the next start."""
    cache = folder.with_suffix('.lessons')
    if cache.exists():
        return pickle.loads(cache.read_bytes())  # type: ignore[no-any-return]
    lessons = []
    for shard in read_shards(folder):
        for scene in shard:
            dense = {name: torch.from_numpy(scene.tokens[name]) for name in DENSE}
            lessons.append(Lesson(features(model, scene.images), dense, scene.truths))
    cache.write_bytes(pickle.dumps(lessons, protocol=5))
    return lessons


@dataclass(frozen=True)
class Batch:
    """``ids`` (B, N) padded to the right, ``lengths`` (B,), ``tokens`` (B, n, D), truth (B, V, T, 60), questions."""

    ids: torch.Tensor
    lengths: torch.Tensor
    tokens: torch.Tensor
    dense: dict[str, torch.Tensor]
    views: tuple[int, ...]
    frames: int
    asked: list[list[Asked]]


def make_batch(
    lessons: Sequence[Lesson],
    reader: Reader,
    rng: np.random.Generator,
    size: int,
    frames: int,
    count: int,
    plain: bool = False,
) -> Batch:
    """Draw ``size`` scenes with ``frames`` frames; unless ``plain``, now and then without a view or the odometry."""
    views = ALL_VIEWS
    if not plain and rng.random() < 0.12:
        gone = int(rng.integers(len(ALL_VIEWS)))
        views = tuple(view for view in ALL_VIEWS if view != gone)
    ids, tokens, asked, dense = [], [], [], defaultdict(list)
    for number in rng.choice(len(lessons), size, replace=False):
        lesson = lessons[int(number)]
        last = FRAMES - 1 if plain else int(rng.integers(frames - 1, FRAMES))
        truth, span = lesson.truths[last], slice(last - frames + 1, last + 1)
        ids.append(reader.prefix(views, frames, truth, plain or rng.random() > 0.08))
        tokens.append(lesson.tokens[span][:, list(views)].transpose(0, 1).flatten(0, 2))
        for name in DENSE:
            dense[name].append(lesson.dense[name][span][:, list(views)].transpose(0, 1))
        asked.append(reader.lesson_questions(truth, rng, count, views, frames > 1))
    seen = torch.stack(tokens).float()
    if not plain:  # few scenes, frozen features: a little noise keeps them from being learned by heart
        seen = seen + NOISE * seen.std() * torch.from_numpy(rng.standard_normal(seen.shape, np.float32))
    lengths = torch.tensor([len(row) for row in ids])
    padded = torch.zeros(size, int(lengths.max()), dtype=torch.long)
    for row, line in zip(padded, ids, strict=True):
        row[: len(line)] = torch.tensor(line)
    return Batch(
        padded,
        lengths,
        seen,
        {n: torch.stack(v) for n, v in dense.items()},
        views,
        frames,
        asked,
    )


@dataclass(frozen=True)
class Prefilled:
    """Prefixes that were run: the cache, visual tokens after the second layer (B, n, D), positions (3, N), and which
    keys show nothing: ``background`` bool (B, N); ``stray`` is the attention that visual tokens give to those.
    """

    cache: Any
    middle: torch.Tensor
    positions: torch.Tensor
    background: torch.Tensor
    stray: torch.Tensor


def prefill(model: Any, batch: Batch, image: int) -> Prefilled:
    """Run the prefixes. Of the last layer only keys and values are computed: nothing reads its output there."""
    from transformers import DynamicCache
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

    core = model.model.language_model
    longest = batch.ids[int(batch.lengths.argmax())][None]
    kinds = (longest == image).int()
    grid = torch.tensor([[1, 6, 10]] * (len(batch.views) * batch.frames))
    positions, _ = model.model.get_rope_index(longest, mm_token_type_ids=kinds, image_grid_thw=grid)
    hidden = core.embed_tokens(batch.ids)
    where = kinds[0].nonzero()[:, 0]
    hidden = hidden.index_copy(1, where, batch.tokens)
    rotary = core.rotary_emb(hidden, positions.expand(3, len(hidden), -1))
    background = torch.zeros(batch.ids.shape, dtype=torch.bool)
    background[:, where] = batch.dense['kind'].flatten(1) < 0
    some = where[torch.randperm(len(where))[:QUERIES]]
    every = torch.arange(batch.ids.shape[1])
    earlier, others = every <= some[:, None], every != some[:, None]
    part = rotary[0][:, some], rotary[1][:, some]
    cache = DynamicCache()
    middle, stray = hidden, []
    for index, layer in enumerate(core.layers[:-1]):
        entered = hidden[:, some]
        hidden = layer(hidden, attention_mask=None, past_key_values=cache, position_embeddings=rotary)
        keys = cache.layers[index].keys
        stray.append(background_mass(layer, entered, part, keys, earlier[None], background[:, None] & others).mean())
        if index == 1:
            middle = hidden[:, where]
    last = core.layers[-1]
    inner = last.input_layernorm(hidden)
    shape = (*inner.shape[:2], -1, last.self_attn.head_dim)
    keys = last.self_attn.k_norm(last.self_attn.k_proj(inner).view(shape)).transpose(1, 2)
    values = last.self_attn.v_proj(inner).view(shape).transpose(1, 2)
    keys = apply_rotary_pos_emb(keys, keys, *rotary)[1]
    cache.update(keys, values, len(core.layers) - 1)
    return Prefilled(cache, middle, positions[:, 0], background, torch.stack(stray).mean())


@dataclass(frozen=True)
class Answered:
    """Loss of the answers, visual tokens after the second layer, attention to background (visual tokens and answers),
    and per question its kind and whether the whole answer is right.
    """

    loss: torch.Tensor
    middle: torch.Tensor
    stray: torch.Tensor
    results: list[tuple[str, bool]]


def answer(model: Any, batch: Batch, image: int) -> Answered:
    """Prefill, then answer all questions of the batch at once, given the answers so far (teacher forcing)."""
    ahead = prefill(model, batch, image)
    size, n = batch.ids.shape
    width = max(sum(len(a.question) + len(a.answer) - 1 for a in asked) for asked in batch.asked)
    ids, labels = torch.zeros(size, width, dtype=torch.long), torch.full((size, width), -100)
    weights, branch = torch.zeros(size, width), torch.full((size, width), -1)
    steps = torch.zeros(size, width, dtype=torch.long)
    spans: list[tuple[str, int, int, int]] = []
    for row, asked in enumerate(batch.asked):
        begin = int(ahead.positions[0, int(batch.lengths[row]) - 1]) + 1
        at = 0
        for number, one in enumerate(asked):
            line = one.question + one.answer[:-1]
            stop, first = at + len(line), at + len(one.question) - 1
            ids[row, at:stop] = torch.tensor(line)
            labels[row, first:stop] = torch.tensor(one.answer)
            weights[row, first:stop] = one.weight
            branch[row, at:stop] = number
            steps[row, at:stop] = torch.arange(begin, begin + len(line))
            spans.append((one.kind, row, first, stop))
            at = stop
    there = torch.arange(n)[None] < batch.lengths[:, None]
    visible = (branch[:, :, None] == branch[:, None]) & torch.ones(width, width, dtype=torch.bool).tril()
    visible = torch.cat([there[:, None].expand(-1, width, -1), visible], 2)
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[:, None]
    background = torch.cat([ahead.background, torch.zeros(size, width, dtype=torch.bool)], 1)[:, None]
    core = model.model.language_model
    hidden = core.embed_tokens(ids)
    rotary = core.rotary_emb(hidden, steps.expand(3, -1, -1))
    stray = [ahead.stray]
    for index, layer in enumerate(core.layers):
        entered = hidden
        hidden = layer(hidden, attention_mask=mask, past_key_values=ahead.cache, position_embeddings=rotary)
        mass = background_mass(layer, entered, rotary, ahead.cache.layers[index].keys, visible, background)
        stray.append(mass.transpose(1, 2)[branch >= 0].mean() / len(core.layers))
    chosen = labels >= 0
    logits = model.lm_head(core.norm(hidden)[chosen])
    each = functional.cross_entropy(logits, labels[chosen], reduction='none')
    loss = (each * weights[chosen]).sum() / weights[chosen].sum()
    right = torch.zeros(size, width, dtype=torch.bool)
    right[chosen] = logits.argmax(-1) == labels[chosen]
    results = [(kind, bool(right[row, first:stop].all())) for kind, row, first, stop in spans]
    return Answered(loss, ahead.middle, torch.stack(stray).sum(), results)


def exact(results: Sequence[tuple[str, bool]]) -> dict[str, float]:
    """Share of questions whose every answer token is right, by kind."""
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for kind, right in results:
        by_kind[kind].append(right)
    return {kind: round(sum(found) / len(found), 3) for kind, found in sorted(by_kind.items())}
