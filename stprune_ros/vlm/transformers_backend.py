"""A vision-language model hosted on transformers through public hooks; only the files `transformers_*` import it."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
import transformers

from stprune_ros.core.types import StpruneError
from stprune_ros.vlm.backend import Context, Generated, ImageFeatures, VisualFrame
from stprune_ros.vlm.family import EncoderOutput
from stprune_ros.vlm.model_folder import one_line
from stprune_ros.vlm.transformers_loading import HOOK, Parts, cache_argument, load_parts
from stprune_ros.vlm.tree import Tree

QUESTION = '[[stprune:question]]'  # stands for the question while the chat template is rendered
NO_ROWS = torch.empty(0, dtype=torch.int64)
ANSWER = '[[stprune:answer]]'


@dataclass
class HookOutput(transformers.utils.ModelOutput):  # type: ignore[misc]
    """`family.EncoderOutput` in the library's own kind of output: since 5.24 it takes nothing else."""

    last_hidden_state: Any = None
    pooler_output: Any = None
    deepstack_features: Any = None


@dataclass(frozen=True, slots=True)
class Prefix:
    """State of a Context: KV per layer, kept ids and where they stand (first row of their positions), the next
    position, and what the template writes after a question.

    The KV tensors are never written to: every question works on a cache of its own.
    """

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    ids: tuple[int, ...]
    seen: torch.Tensor
    next_position: int
    tail: str


class TransformersBackend:
    """Implements ``backend.Backend``; make one with ``load``. One thread at a time."""

    def __init__(self, parts: Parts, max_image_pixels: int = 0) -> None:
        self.info = parts.info
        self._model, self._tokenizer, self._processor, self._family = model, tokenizer, processor, family = (
            parts.model,
            parts.tokenizer,
            parts.processor,
            parts.family,
        )
        self._device = torch.device(parts.info.device)
        self._cache_argument = cache_argument(parts.model)
        self._image_id: int = model.config.image_token_id
        self._image_text: str = tokenizer.convert_ids_to_tokens(self._image_id)
        self._marks = family.marks(tokenizer, self._image_text)
        self._config: dict[str, Any] = model.config.to_dict()
        self._image_options = family.image_options(self._config, processor, max_image_pixels)
        self.model_pixels = family.model_pixels(self._config, self._image_options)
        stops = model.generation_config.eos_token_id
        self._stop_ids = {tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])}
        self._lead, self._end_id = self._around_answers()
        penalty = model.generation_config.repetition_penalty
        # Part of what `generate` does for this model: Qwen2.5-VL ships 1.05.
        self._penalty = transformers.RepetitionPenaltyLogitsProcessor(penalty) if penalty and penalty != 1.0 else None

    @classmethod
    def load(cls, path_or_id: str | Path, *, max_image_pixels: int = 0, **options: Any) -> TransformersBackend:
        """Host a model folder or hub id; images are reduced to ``max_image_pixels`` pixels (0: as the folder says).

        ``options`` and errors: see `load_parts`.
        """
        return cls(load_parts(path_or_id, **options), max_image_pixels)

    def encode(self, images: Sequence[np.ndarray]) -> list[ImageFeatures]:
        """See ``Backend.encode``; StpruneError for an image that is not uint8 (height, width, 3) or too oblong."""
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
                raise StpruneError(f'image is {image.dtype} {image.shape}; it must be uint8 (height, width, 3)')
        if not images:
            return []
        try:
            batch = self._processor(
                images=self._family.nested(images),
                return_tensors='pt',
                input_data_format='channels_last',
                **self._image_options,
            )
        except ValueError as error:
            raise StpruneError(f'images cannot be prepared for the model: {one_line(error)}') from None
        inputs = {
            name: item.to(self._device) if isinstance(item, torch.Tensor) else item
            for name, item in self._family.vision_inputs(batch, len(images)).items()
        }
        with torch.inference_mode():
            output = self._model.get_image_features(**inputs, return_dict=True)
        return self._family.features(output, batch, self._config)

    def prefill(self, system: str, content: Sequence[str | VisualFrame]) -> Context:
        """See ``Backend.prefill``; an empty ``system`` leaves the system turn out.

        Content should end with an image or a line break: the question is tokenised apart from it.
        """
        frames = [part for part in content if not isinstance(part, str)]
        head, tail = self._render(system, content)
        ids, keep = self._full_prompt(head, frames)
        full = torch.tensor(ids)
        kept = torch.tensor(keep)
        positions = self._family.positions(self._model, full, self._image_id, frames)
        cache = transformers.DynamicCache()
        tokens_visual = sum(int(frame.keep.sum()) for frame in frames)
        kept_ids, kept_positions = full[kept], positions[:, kept]
        shown = bool((kept_ids == self._image_id).any())
        hook = {HOOK: {'image': _hook_output(self._family.encoder_output(frames))}} if shown else {}
        visible = self._family.visible(kept_ids, self._image_id)
        # The vocabulary is not asked: a question comes first.
        self._forward(
            kept_ids, kept_positions, cache, NO_ROWS, visible, logits_to_keep=NO_ROWS.to(self._device), **hook
        )
        # The next position counts pruned tokens too: the question stands where it stood in the full prompt.
        prefix = Prefix(
            tuple((layer[0], layer[1]) for layer in cache),
            tuple(kept_ids.tolist()),
            kept_positions[0],
            int(positions.max()) + 1,
            tail,
        )
        return Context(len(kept_ids) - tokens_visual, tokens_visual, prefix)

    def score(self, context: Context, question: str, candidates: Sequence[str]) -> list[float]:
        """See ``Backend.score``."""
        return self.score_all(context, [(question, candidates)])[0]

    def score_all(self, context: Context, asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        """See ``Backend.score_all``; the end of the turn counts, so that no candidate is the beginning of another.

        Questions and candidates stand in one sequence behind the prefix, as a tree: each question at the position that
        follows the prefix, its candidates behind it, and nobody sees another branch. So the prefix is neither run nor
        copied once per candidate.
        """
        prefix: Prefix = context.state
        tree = Tree()
        wanted: list[list[tuple[list[int], list[int]]]] = []  # per question and candidate: rows of logits, their tokens
        for question, candidates in asked:
            stem = tree.grow(self._ids(question + prefix.tail), None)
            answers = [[*self._ids(self._lead + candidate), self._end_id] for candidate in candidates]
            # Nothing is predicted from the end token, so it need not be run.
            branches = [tree.grow(answer[:-1], stem) for answer in answers]
            wanted.append([([stem[-1], *branch], answer) for branch, answer in zip(branches, answers, strict=True)])
        # Nothing is read from inside a question: its rows need not go through the vocabulary.
        needed = sorted({row for answers in wanted for rows, _ in answers for row in rows})
        if not needed:
            return [[] for _ in wanted]
        place = {row: index for index, row in enumerate(needed)}
        logits = self._forward(
            torch.tensor(tree.ids),
            self._rows(torch.tensor(tree.depths).add(prefix.next_position)),
            self._cache(prefix),
            prefix.seen,
            tree.visible(len(prefix.ids)),
            logits_to_keep=torch.tensor(needed, device=self._device),
        )
        logprobs = logits.float().log_softmax(-1).cpu()
        return [
            [float(logprobs[[place[row] for row in rows], answer].sum()) for rows, answer in answers]
            for answers in wanted
        ]

    def generate(
        self,
        context: Context,
        question: str,
        max_new_tokens: int,
        deadline: float | None = None,
        cancel: Event | None = None,
    ) -> Generated:
        """See ``Backend.generate``; the same tokens as the model's own greedy ``generate``.

        A loop of our own: it continues a shared cache at given positions, and looks at the deadline before every step,
        the first one included.
        """
        prefix: Prefix = context.state
        cache = self._cache(prefix)
        step = torch.tensor(self._ids(question + prefix.tail))
        position = prefix.next_position
        here = prefix.seen
        seen = [*prefix.ids, *step.tolist()]
        written: list[int] = []
        finished = timed_out = False
        while len(written) < max_new_tokens and not finished:
            timed_out = deadline is not None and time.monotonic() >= deadline
            if timed_out or (cancel is not None and cancel.is_set()):
                break
            positions = self._rows(torch.arange(position, position + len(step)))
            logits = self._forward(step, positions, cache, here)
            if self._penalty is not None:
                logits = self._penalty(torch.tensor([seen], device=self._device), logits.float())
            token = int(logits[-1].argmax())
            here = torch.cat([here, positions[0]])
            position += len(step)
            step = torch.tensor([token])
            finished = token in self._stop_ids
            if not finished:
                written.append(token)
                seen.append(token)
        text = self._tokenizer.decode(written, skip_special_tokens=True)
        return Generated(text, len(written), finished, timed_out)

    def free(self) -> None:
        """See ``Backend.free``: contexts that are still held keep their memory."""
        gc.collect()
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()

    def _forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        cache: Any,
        seen: torch.Tensor,
        visible: torch.Tensor | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """Run ids (n,) at positions (rows, n) behind ``cache``, which grows; logits are (logits_to_keep, vocabulary).

        ``seen`` (k,) are the positions of what is cached; ``visible`` (n, k + n) says who sees whom, if not everybody
        what is before.
        """
        rows = self._family.position_ids(positions, cache.get_seq_length())
        text = self._model.config.text_config
        mask = self._family.attention_mask(text, visible, positions[0], seen, self._model.dtype)
        if isinstance(mask, dict):
            mask = {name: part.to(self._device) for name, part in mask.items()}
        elif mask is not None:
            mask = mask.to(self._device)
        with torch.inference_mode():
            output = self._model(
                input_ids=ids[None].to(self._device),
                position_ids=rows.to(self._device),
                attention_mask=mask,
                use_cache=True,
                **{self._cache_argument: cache, 'logits_to_keep': 1, **options},
            )
        logits: torch.Tensor = output.logits[0]
        return logits

    def _rows(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions of text (n,) as (rows, n)."""
        return positions.expand(self._family.position_rows, -1)

    def _cache(self, prefix: Prefix) -> Any:
        return transformers.DynamicCache(prefix.layers)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _render(self, system: str, content: Sequence[str | VisualFrame]) -> tuple[str, str]:
        """The chat template's text before and after the question."""
        written = self._family.written_placeholder
        parts = [{'type': 'text', 'text': part} if isinstance(part, str) else {'type': 'image'} for part in content]
        parts.append({'type': 'text', 'text': QUESTION})
        if written:
            parts = [{'type': 'text', 'text': ''.join(part.get('text', written) for part in parts)}]
        turns = [{'role': 'system', 'content': [{'type': 'text', 'text': system}]}] if system else []
        text = self._template([*turns, {'role': 'user', 'content': parts}], add_generation_prompt=True)
        head, _, tail = text.partition(QUESTION)
        return head, tail

    def _template(self, turns: list[dict[str, Any]], **options: Any) -> str:
        text: str = self._tokenizer.apply_chat_template(turns, tokenize=False, **options)
        return text

    def _around_answers(self) -> tuple[str, int]:
        """What the template writes between its invitation to answer and an answer, and the token that ends one.

        Some templates put a blank before answers; some end turns with another token than the tokenizer's eos_token.
        """
        asked = {'role': 'user', 'content': [{'type': 'text', 'text': QUESTION}]}
        answered = [asked, {'role': 'assistant', 'content': [{'type': 'text', 'text': ANSWER}]}]
        before, _, after = self._template(answered).partition(ANSWER)
        invitation = self._template([asked], add_generation_prompt=True)
        lead = before.removeprefix(invitation) if before.startswith(invitation) else ''
        ends = [token for token in self._ids(after)[:1] if token in self._stop_ids]
        return lead, ends[0] if ends else self._tokenizer.eos_token_id

    def _full_prompt(self, head: str, frames: Sequence[VisualFrame]) -> tuple[list[int], list[bool]]:
        """Ids of the prompt with every visual token, and which of them stay."""
        for frame in frames:
            if frame.keep.shape != frame.features.tokens.shape[:1]:
                raise StpruneError(
                    f'keep mask is {tuple(frame.keep.shape)} for {len(frame.features.tokens)} visual tokens'
                )
        marks = self._marks
        shown = head.replace(marks.placeholder, f'{marks.before}{self._image_text}{marks.after}')
        found = self._ids(shown)
        images = found.count(self._image_id)
        if images != len(frames):
            raise StpruneError(
                f"the prompt has {images} image placeholders '{marks.placeholder}' for {len(frames)} images;"
                ' remove them from the prompt file, or use a chat template that writes one for each image'
            )
        ids: list[int] = []
        keep: list[bool] = []
        left = iter(frames)
        for token in found:
            stay = [True]
            if token == self._image_id:
                frame = next(left)
                stay = [*frame.keep.tolist(), *[True] * self._family.extra_tokens]
            ids += [token] * len(stay)
            keep += stay
        return ids, keep


def _hook_output(kept: EncoderOutput) -> HookOutput:
    return HookOutput(pooler_output=kept.pooler_output, deepstack_features=kept.deepstack_features)
