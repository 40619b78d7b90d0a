"""Second stage of training: the language model learns to read frozen visual tokens, all of them, in many answers.

Every scene is prefilled once; its questions stand side by side behind that prefix, hidden from one another, at the
positions where the runtime puts a question. The prompt is the one of the exported prompt file. The ego text is written
in so many signs whatever it says, so that all scenes of a batch have their tokens at the same places.
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
from stprune_ros.ringworld.questions import (
    DESCRIBE_QUESTION,
    car_count,
    car_view,
    clear,
    describe,
    pedestrian_count,
    pedestrian_walks,
    questions_about,
    same_car,
    what_to_do,
)
from stprune_ros.ringworld.scenes import FRAMES, GRID, read_shards
from stprune_ros.ringworld.training.attention import QUERIES, background_mass
from stprune_ros.ringworld.training.model import IMAGE, TURN_END
from stprune_ros.ringworld.training.vision_stage import TOKENS, features
from stprune_ros.ringworld.truth import DIRECTIONS, Truth
from stprune_ros.vlm.backend import ImageFeatures, VisualFrame
from stprune_ros.vlm.prompt import Prompt, View

ALL_VIEWS = tuple(range(len(DIRECTIONS)))
NOISE = 0.1
HARD = (car_count, car_view, pedestrian_count, pedestrian_walks, pedestrian_walks, same_car, same_car)  # asked more
WAY_WEIGHT = 2.0
WEIGHTS = {'moving': 1.0, 'side': 1.0}
LATE = ('moving', 'side')  # read after the third layer, all else after the second
BACK = (1, 2)  # frames over which a thing's way is read
DENSE = {'kind': 5, 'moving': 2, 'side': 3, 'reason': 3, 'nearest': 2, 'copy': 2}  # classes, nothing left out


@dataclass(frozen=True)
class Lesson:
    """A drive ready for the language model: ``tokens`` half (F, V, 60, D), dense truth, truths, windows of frames.

    Beside the classes of `DENSE`, dense truth holds ``thing``, the id, and ``middle``, see `middles`.
    """

    tokens: torch.Tensor
    dense: dict[str, torch.Tensor]
    truths: tuple[Truth, ...]
    windows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Layout:
    """What all scenes of a batch have in common: views, frames per view, whether odometry is there."""

    views: tuple[int, ...] = ALL_VIEWS
    frames: int = FRAMES
    ego: bool = True


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

    def prefix(self, layout: Layout, truth: Truth) -> list[int]:
        """Ids of the prompt up to the question, one image token for each visual token."""
        frames = [VisualFrame(ImageFeatures(torch.empty(0), (0, 0)), torch.empty(0))] * layout.frames
        shown = [View(name, name, frames if index in layout.views else []) for index, name in enumerate(DIRECTIONS)]
        state = EgoState(0, None, None, (truth.speed, 0.0, 0.0), (0.0, 0.0, truth.yaw_rate)) if layout.ego else None
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

    def lesson_questions(self, truth: Truth, rng: np.random.Generator, count: int, layout: Layout) -> list[Asked]:
        """The hint where it is clear, the description and ``count`` drawn questions."""
        views, asked = layout.views, []
        if 0 in views:
            asked = [self.asked('hint', q.text, q.answer, 2.0) for q in clear(what_to_do, truth, views)]
            asked.append(self.asked('describe', DESCRIBE_QUESTION, describe(truth, views), 0.4))
        for question in questions_about(truth, rng, count, views, layout.frames > 1, HARD):
            asked.append(self.asked(question.kind, question.text, question.answer, 1.0))
        return asked


class DenseHeads(nn.Module):
    """Read-outs of the visual tokens inside the language model; they serve training only and are not exported."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.view = nn.Linear(width, len(DIRECTIONS))
        self.current = nn.Linear(width, 2)
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in DENSE.items()})
        self.way = nn.Linear(width, 3 * len(BACK))

    def loss(
        self, middle: torch.Tensor, late: torch.Tensor, dense: dict[str, torch.Tensor], layout: Layout
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss, and how often it is right.

        ``middle`` and ``late``: visual tokens after the second and third layer, (B, views * frames * 60, D) in prompt
        order; dense truth (B, V, T, 60, ...).
        """
        b, n, frames = len(middle), len(layout.views), layout.frames
        x, after = (hidden.view(b, n, frames, TOKENS, -1) for hidden in (middle, late))
        which = torch.tensor(layout.views).view(1, n, 1, 1).expand(b, n, frames, TOKENS)
        last = (torch.arange(frames) == frames - 1).long().view(1, 1, frames, 1).expand(b, n, frames, TOKENS)
        loss = 0.3 * functional.cross_entropy(self.view(x).flatten(0, 3), which.flatten())
        loss = loss + 0.5 * functional.cross_entropy(self.current(x).flatten(0, 3), last.flatten())
        moved = torch.ones_like(dense['moving'], dtype=torch.bool)
        moved[:, :, 0] = False  # one frame does not tell what moves
        thing = dense['kind'] >= 0
        where = {
            'kind': thing | (torch.rand(thing.shape) < 0.05),
            'moving': (dense['moving'] >= 0) & moved,
            'side': (dense['side'] >= 0) & moved,
            'nearest': dense['nearest'] >= 0,
        }
        if 0 in layout.views:
            where['reason'] = thing
        if n > 1:
            where['copy'] = dense['copy'] >= 0
        right = {}
        for name, mask in where.items():
            target = dense[name][mask].long() + (name == 'kind')
            if len(target):
                said = self.heads[name]((after if name in LATE else x)[mask])
                loss = loss + WEIGHTS.get(name, 0.5) * functional.cross_entropy(said, target)
                right[name] = (said.argmax(-1) == target).float().mean().item()
        said = self.way(x).unflatten(-1, (len(BACK), 3))
        for index, back in enumerate(BACK):
            way, seen = ways(dense['thing'], dense['middle'], back)
            if seen.any():
                error = functional.smooth_l1_loss(said[..., index, :][seen], way[seen], beta=0.1)
                loss = loss + WAY_WEIGHT * error
                right[f'way {back}'] = error.item()
        return loss, right


def middles(place: torch.Tensor) -> torch.Tensor:
    """Where the thing in each patch is, (F, V, 60, 3): middle in patches, row and column, and log of its depth."""
    cells = torch.arange(TOKENS)
    grid = torch.stack([cells % GRID[1], cells // GRID[1]], -1)
    return torch.cat([place[..., 2:4].float() + grid, place[..., 4:5].float()], -1).half()


def ways(things: torch.Tensor, middle: torch.Tensor, back: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How things have moved in the picture since ``back`` frames ago: (B, V, T, 60, 3), and where that is known."""
    match = (things[:, :, back:, :, None] == things[:, :, :-back, None, :]) & (things[:, :, back:, :, None] >= 0)
    before = match.int().argmax(-1)
    moved = middle[:, :, back:] - middle[:, :, :-back].gather(3, before[..., None].expand(*before.shape, 3))
    way, seen = torch.zeros(middle.shape), torch.zeros(things.shape, dtype=torch.bool)
    way[:, :, back:], seen[:, :, back:] = moved.float().clamp(-3, 3), match.any(-1)
    return way, seen


def read_lessons(model: Any, folder: Path) -> list[Lesson]:
    """All scenes of a folder, pictures turned into visual tokens; kept beside the folder for the next start."""
    cache = folder.with_suffix('.lessons')
    if cache.exists():
        return pickle.loads(cache.read_bytes())  # type: ignore[no-any-return]
    lessons = []
    for shard in read_shards(folder):
        for scene in shard:
            dense = {name: torch.from_numpy(scene.tokens[name]) for name in (*DENSE, 'thing')}
            dense['middle'] = middles(torch.from_numpy(scene.tokens['place']))
            lessons.append(Lesson(features(model, scene.images), dense, scene.truths, scene.windows))
    cache.write_bytes(pickle.dumps(lessons, protocol=5))
    return lessons


@dataclass(frozen=True)
class Batch:
    """``ids`` (B, N), ``tokens`` (B, n, D), dense truth (B, V, T, 60), questions per scene."""

    ids: torch.Tensor
    tokens: torch.Tensor
    dense: dict[str, torch.Tensor]
    layout: Layout
    asked: list[list[Asked]]


def make_batch(
    lessons: Sequence[Lesson],
    reader: Reader,
    rng: np.random.Generator,
    size: int,
    count: int,
    layout: Layout,
    noise: float = NOISE,
) -> Batch:
    """Draw ``size`` scenes, about as many for each behavior, with ``count`` questions each."""
    ids, tokens, asked, dense = [], [], [], defaultdict(list)
    views = list(layout.views)
    for number in rng.choice(len(lessons), size, replace=False):
        lesson = lessons[int(number)]
        window = _window(lesson, rng)[-layout.frames :]
        truth, span = lesson.truths[window[-1]], list(window)
        ids.append(reader.prefix(layout, truth))
        tokens.append(lesson.tokens[span][:, views].transpose(0, 1).flatten(0, 2))
        for name in lesson.dense:
            dense[name].append(lesson.dense[name][span][:, views].transpose(0, 1))
        asked.append(reader.lesson_questions(truth, rng, count, layout))
    seen = torch.stack(tokens).float()
    # Few scenes, frozen features: a little noise keeps them from being learned by heart.
    seen = seen + noise * seen.std() * torch.from_numpy(rng.standard_normal(seen.shape, np.float32))
    return Batch(torch.tensor(ids), seen, {n: torch.stack(v) for n, v in dense.items()}, layout, asked)


def _window(lesson: Lesson, rng: np.random.Generator) -> tuple[int, ...]:
    behaviors = [lesson.truths[window[-1]].behavior for window in lesson.windows]
    wanted = sorted(set(behaviors))[int(rng.integers(len(set(behaviors))))]
    fitting = [window for window, behavior in zip(lesson.windows, behaviors) if behavior == wanted]
    return fitting[int(rng.integers(len(fitting)))]


@dataclass(frozen=True)
class Prefilled:
    """Prefixes that were run: the cache, visual tokens after the second and third layer (B, n, D), positions (3, N).

    ``background``, bool (B, N): keys that show nothing; ``stray``: the attention that visual tokens give to those.
    """

    cache: Any
    middle: torch.Tensor
    late: torch.Tensor
    positions: torch.Tensor
    background: torch.Tensor
    stray: torch.Tensor


def prefill(model: Any, batch: Batch, image: int) -> Prefilled:
    """Run the prefixes. Of the last layer only keys and values are computed: nothing reads its output there."""
    from transformers import DynamicCache
    from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

    core = model.model.language_model
    first = batch.ids[:1]
    kinds = (first == image).int()
    grid = torch.tensor([[1, *GRID]] * (len(batch.layout.views) * batch.layout.frames))
    positions, _ = model.model.get_rope_index(first, mm_token_type_ids=kinds, image_grid_thw=grid)
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
    return Prefilled(cache, middle, hidden[:, where], positions[:, 0], background, torch.stack(stray).mean())


@dataclass(frozen=True)
class Answered:
    """Loss of the answers, visual tokens after the second and third layer, attention to background.

    ``results``: per question its kind and whether the whole answer is right.
    """

    loss: torch.Tensor
    middle: torch.Tensor
    late: torch.Tensor
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
        begin = int(ahead.positions.max()) + 1
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
    visible = (branch[:, :, None] == branch[:, None]) & torch.ones(width, width, dtype=torch.bool).tril()
    visible = torch.cat([torch.ones(size, width, n, dtype=torch.bool), visible], 2)
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
    return Answered(loss, ahead.middle, ahead.late, torch.stack(stray).sum(), results)


def exact(results: Sequence[tuple[str, bool]]) -> dict[str, float]:
    """Share of questions whose every answer token is right, by kind."""
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for kind, right in results:
        by_kind[kind].append(right)
    return {kind: round(sum(found) / len(found), 3) for kind, found in sorted(by_kind.items())}
