"""A vision-language model hosted on transformers, through its public hooks: load, encode, prefill, score, generate."""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stprune_ros.cuda_graph import capture_graph
from stprune_ros.errors import ModelError
from stprune_ros.progress import Say, said_while_slow, say_nothing
from stprune_ros.vlm.backend import Backend, Context, ImageFeatures, ModelInfo, PreparedImages, VisualFrame
from stprune_ros.vlm.device import dtype_name, find_device, find_dtype, free_memory, to_device
from stprune_ros.vlm.greedy_text import GreedyText
from stprune_ros.vlm.guided_choice import log_probabilities
from stprune_ros.vlm.hf.answers import Answers
from stprune_ros.vlm.hf.family import Family
from stprune_ros.vlm.hf.files import gib
from stprune_ros.vlm.hf.gpu_tower import adapt_tower
from stprune_ros.vlm.hf.library import image_hook, transformers
from stprune_ros.vlm.hf.memory import check_room
from stprune_ros.vlm.hf.model_folder import find_model, packing_fault
from stprune_ros.vlm.hf.pretrained import load_pretrained, random_model, read_parts
from stprune_ros.vlm.hf.static_cache import STATIC_SHARE, Prefix, StaticKVCache, capacity_for
from stprune_ros.vlm.hf.tower import VisionTower
from stprune_ros.vlm.token_tree import TokenTree

NONE = torch.empty(0, dtype=torch.int64)


class TransformersBackend(Backend):
    """Implements `backend.Backend`; make one with ``load``. One thread at a time."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        processor: Any,
        family: Family,
        info: ModelInfo,
        max_image_pixels: int = 0,
        side_image_pixels: int = 0,
    ) -> None:
        self._model = model
        self._family = family
        self._device = torch.device(info.device)
        if self._device.type != 'cpu':
            adapt_tower(model)
        self._image_id: int = model.config.image_token_id
        self._tower = VisionTower(model, processor, family, self._device, max_image_pixels, side_image_pixels)
        self.model_pixels, self.side_pixels = self._tower.model_pixels, self._tower.side_pixels
        self._answers = Answers(model, tokenizer, family, info)
        self._chat = self._answers.chat
        self.info = self._answers.info
        # Ids and KV of the last prompt's static part.
        self._static_prefix: tuple[tuple[int, ...], tuple[Any, ...]] = (), ()
        self._kv_cache: StaticKVCache | None = None  # what the last text is written in
        self._text: GreedyText | None = None  # the last one
        self._recorder = capture_graph if self._device.type == 'cuda' else None
        # 'past_key_values' before transformers 5.24.
        self._cache_name = 'cache' if 'cache' in inspect.signature(model.forward).parameters else 'past_key_values'

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        *,
        device: str = 'auto',
        dtype: str = 'auto',
        revision: str = '',
        allow_download: bool = False,
        max_image_pixels: int = 0,
        side_image_pixels: int = 0,
        quantization: str = 'none',
        say: Say = say_nothing,
    ) -> TransformersBackend:
        """Load a model folder or hub id: safetensors only, no code of its own, no network without ``allow_download``.

        ``device`` 'auto' is CUDA where there is one; ``dtype`` 'auto' is the weights' own, on the CPU float32; images
        are reduced to at most ``max_image_pixels`` pixels (0: as the model folder says), those of side cameras to
        ``side_image_pixels`` (0: the same). ``quantization`` '4bit' or '8bit' packs the language model's matrices with
        bitsandbytes while loading, 'int4' with torchao. ``say`` gets a line about what takes long.
        Raises ModelError where a file is missing or broken, the family or the transformers version unsupported, or the
        memory too small.
        """
        folder = find_model(path_or_id, revision, allow_download, say)
        for fault in packing_fault(folder.path, folder.packed, quantization):
            raise ModelError(fault)
        torch_device = find_device(device)
        parts = read_parts(folder)
        torch_dtype = find_dtype(dtype, torch_device)
        on_gpu = torch_device.type == 'cuda'
        check_room(folder, dtype_name(torch_dtype), quantization, free_memory(torch_device), on_gpu)
        start, size = time.monotonic(), gib(sum(path.stat().st_size for path in folder.weights))
        with said_while_slow(
            say,
            lambda: f"loading the weights of '{folder.path}', {size}: {time.monotonic() - start:.0f} s so far",
        ):
            model = load_pretrained(folder, parts.config, torch_device, torch_dtype, quantization)
        bits = folder.packed or quantization
        info = ModelInfo(
            model_id=folder.model_id,
            revision=folder.revision,
            family=folder.family.model_type,
            trained=folder.trained,
            device=str(torch_device),
            dtype=dtype_name(model.dtype) + (f', {bits}' if bits != 'none' else ''),
            domain=folder.domain,
            joint_common=folder.joint_common,
            notes=folder.notes,
        )
        return cls(model, parts.tokenizer, parts.processor, folder.family, info, max_image_pixels, side_image_pixels)

    @classmethod
    def untrained(
        cls,
        name: str,
        family: Family,
        config: dict[str, Any],
        tokens: dict[str, str],
        folder: Path,
        processor: dict[str, Any],
        dtype: str,
    ) -> TransformersBackend:
        """A model of the given shape with random weights, for measuring: the same time and memory, no answers.

        ``config`` holds text_config and vision_config, ``tokens`` the special tokens whose ids belong into it, by key;
        ``processor`` what differs in the image processor. Tokenizer and chat template come from ``folder``.
        """
        device = find_device('auto')
        model, parts = random_model(family, config, tokens, folder, processor, device, dtype)
        info = ModelInfo(name, '', family.model_type, False, str(device), dtype)
        return cls(model, parts.tokenizer, parts.processor, family, info)

    def prepare(self, images: Sequence[np.ndarray], side: bool = False) -> PreparedImages:
        """See `Backend.prepare`."""
        return self._tower.prepare(images, side)

    def encode(self, images: Sequence[np.ndarray] | PreparedImages) -> list[ImageFeatures]:
        """See `Backend.encode`."""
        return self._tower.encode(images)

    def embed(self, text: str) -> torch.Tensor:
        """See `TextEmbedder.embed`."""
        ids = torch.tensor(self._chat.ids(text), device=self._device)
        with torch.inference_mode():
            embeddings: torch.Tensor = self._model.get_input_embeddings()(ids)
        return embeddings

    def prefill(self, system: str, content: Sequence[str | VisualFrame]) -> Context:
        """See `Backend.prefill`."""
        frames = [part for part in content if not isinstance(part, str)]
        full_prompt = self._chat.prompt(system, content)
        positions = self._family.positions(self._model, full_prompt.ids, self._image_id, frames)
        tokens_visual = sum(int(frame.keep.sum()) for frame in frames)
        ids, rows = full_prompt.ids[full_prompt.keep], positions[:, full_prompt.keep]
        shown = bool((ids == self._image_id).any())
        hook = image_hook(self._family.encoder_output(frames)) if shown else {}
        visible = self._family.visible(ids, self._image_id)
        first = full_prompt.static if full_prompt.static >= STATIC_SHARE * len(ids) else 0
        cache = self._static_prefix_cache(ids[:first], rows[:, :first])
        # The vocabulary is not asked: a question comes first.
        self._forward(
            ids[first:],
            rows[:, first:],
            cache,
            rows[0, :first],
            None if visible is None else visible[first:],
            **hook,
        )
        # The next position counts pruned tokens too: the question stands where it stood in the full prompt.
        prefix = Prefix(
            layers=tuple((layer[0], layer[1]) for layer in cache),
            ids=tuple(ids.tolist()),
            positions=rows[0],
            next_position=int(positions.max()) + 1,
            question_suffix=full_prompt.question_suffix,
        )
        return Context(len(ids) - tokens_visual, tokens_visual, prefix)

    def check_candidates(self, question: str, candidates: Sequence[str]) -> None:
        """See `Backend.check_candidates`."""
        self._answers.check(question, candidates)

    def score(self, context: Context, question: str, candidates: Sequence[str]) -> list[float]:
        """See `Backend.score`."""
        return self.score_all(context, [(question, candidates)])[0]

    def score_all(self, context: Context, asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        """See `Backend.score_all`.

        Questions and the beginnings of candidates stand in one sequence behind the prefix, as a tree: each at the
        position that follows what is before it, and nobody sees another path. So neither the prefix nor what questions
        or candidates share is run twice, and what follows the last branch is not run at all.
        """
        prefix: Prefix = context.state
        choices = self._answers.choices(asked, prefix.question_suffix)
        branches = [branch for choice in choices for branch in choice.branches]
        if not branches:
            return log_probabilities(choices, [])
        token_tree = TokenTree()
        rows = [token_tree.grow(branch.path) for branch in branches]
        # Only there is anything read: other rows need not go through the vocabulary.
        needed = sorted({*rows})
        logits = self._forward(
            torch.tensor(token_tree.ids),
            torch.tensor(token_tree.depths).add(prefix.next_position)[None],
            transformers.DynamicCache(prefix.layers),
            prefix.positions,
            token_tree.visible(len(prefix.ids)),
            torch.tensor(needed),
        )
        index = {row: number for number, row in enumerate(needed)}
        wanted = [(index[row], token) for row, branch in zip(rows, branches) for token in branch.tokens]
        found = iter(logits[tuple(torch.tensor(wanted, device=self._device).T)].float().tolist())
        return log_probabilities(choices, [list(islice(found, len(branch.tokens))) for branch in branches])

    def begin(self, context: Context, question: str, max_new_tokens: int) -> GreedyText:
        """See `Backend.begin`; the same tokens as the model's own greedy ``generate``.

        That one could neither continue a shared prefix at given positions nor look at a deadline before every step.
        The text has a KV cache of its own, into which the context was copied: it does not hold the context.
        """
        prefix: Prefix = context.state
        self._chat.require_words(question)
        asked = self._chat.text_ids(question + prefix.question_suffix)
        self._end_text()
        cache = self._kv_cache_behind(prefix, len(asked) + max_new_tokens)
        position = prefix.next_position
        seen = self._seen(prefix.ids)

        def next_token(step: Sequence[int]) -> int:
            nonlocal position
            ids = torch.tensor(step)
            logits = cache.step(ids, torch.arange(position, position + len(step)))
            position += len(step)
            seen.index_fill_(0, ids.to(self._device, non_blocking=True), True)
            return int(self._penalised(logits[-1], seen).argmax())

        self._text = GreedyText(next_token, asked, self._answers.ends, max_new_tokens, self._answers.generated)
        return self._text

    def free(self) -> None:
        """See `Backend.free`: contexts that are still held keep their memory."""
        self._static_prefix = (), ()
        self._end_text()
        self._kv_cache = None
        gc.collect()
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()

    def _end_text(self) -> None:
        if self._text is not None:
            self._text.close()

    def _seen(self, ids: Sequence[int]) -> torch.Tensor:
        """Which tokens of the vocabulary are among ``ids``: bool (vocabulary,), on the device, where it stays."""
        seen = torch.zeros(self._model.config.text_config.vocab_size, dtype=torch.bool, device=self._device)
        return seen.index_fill_(0, torch.tensor(ids).to(self._device, non_blocking=True), True)

    def _penalised(self, logits: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Logits (vocabulary,) with the model's repetition penalty on the tokens in ``seen``."""
        penalty = self._answers.penalty
        if penalty == 1.0:
            return logits
        logits = logits.float()
        return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)

    def _forward(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        cache: Any,
        cached: torch.Tensor,
        visible: torch.Tensor | None = None,
        needed: torch.Tensor = NONE,
        **hook: Any,
    ) -> torch.Tensor:
        """Run ids (n,) at positions (rows, n) behind ``cache``, which grows; logits are (needed, vocabulary).

        ``cached`` (k,) are the positions of what is cached; ``visible`` (n, k + n) says who sees whom, if not everybody
        what is before.
        """
        inputs = self._inputs(ids, positions, len(cached), visible, torch.cat([cached, positions[0]]))
        return self._run(cache, inputs, needed.to(self._device), **hook)

    def _inputs(
        self, ids: torch.Tensor, positions: torch.Tensor, start: int, visible: torch.Tensor | None, keys: torch.Tensor
    ) -> dict[str, Any]:
        """What the model takes for ids (n,) at positions (rows, n) or (n,) behind ``start`` cached tokens, on the host.

        See `Family.attention_mask` for the rest.
        """
        rows = positions.expand(self._family.position_rows, -1)
        return {
            'input_ids': ids[None],
            'position_ids': self._family.position_ids(rows, start),
            'attention_mask': self._family.attention_mask(
                self._model.config.text_config, visible, rows[0], keys, self._model.dtype
            ),
        }

    def _run(self, cache: Any, inputs: dict[str, Any], needed: torch.Tensor | int = 1, **hook: Any) -> torch.Tensor:
        """Logits (needed, vocabulary) for rows ``needed`` of the inputs, or for so many at the end."""
        inputs = to_device(inputs, self._device)
        with torch.inference_mode():
            output = self._model(**inputs, **{self._cache_name: cache}, use_cache=True, logits_to_keep=needed, **hook)
        logits: torch.Tensor = output.logits[0]
        return logits

    def _kv_cache_behind(self, prefix: Prefix, room: int) -> StaticKVCache:
        """Memory of fixed size that holds the prefix and ``room`` further tokens."""
        tokens = len(prefix.ids) + room
        if self._kv_cache is None or not self._kv_cache.fits(tokens):
            self._kv_cache = None  # gives its memory back first
            capacity = capacity_for(tokens)
            cache = transformers.Cache(layers=[transformers.StaticLayer(capacity) for _ in prefix.layers])
            self._kv_cache = StaticKVCache(cache, capacity, self._inputs, self._run, self._recorder)
        self._kv_cache.fill(prefix)
        if self._kv_cache.recording_failed:
            self._recorder = None  # the next one would fail as well
        return self._kv_cache

    def _static_prefix_cache(self, ids: torch.Tensor, rows: torch.Tensor) -> Any:
        """A cache filled with the beginning ``ids`` (n,) of a prompt at ``rows`` (rows, n), run once while it stays."""
        if not len(ids):
            return transformers.DynamicCache()
        key = tuple(ids.tolist())
        if key != self._static_prefix[0]:
            cache = transformers.DynamicCache()
            self._forward(ids, rows, cache, NONE, self._family.visible(ids, self._image_id))
            self._static_prefix = key, tuple((layer[0], layer[1]) for layer in cache)
        return transformers.DynamicCache(self._static_prefix[1])
