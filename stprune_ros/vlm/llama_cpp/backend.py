"""Our vision tower and selection, and a language model on llama.cpp: prefill, score and write in its one KV cache.

The prompt goes in as embeddings in one call: the rows of its text from the table of the GGUF file, those of its kept
visual tokens from the tower. Questions and what is written go in as token ids.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stprune_ros.errors import ModelError
from stprune_ros.progress import Say, said_while_slow, say_nothing
from stprune_ros.vlm.backend import Backend, Context, Generated, ImageFeatures, ModelInfo, PreparedImages, VisualFrame
from stprune_ros.vlm.device import dtype_name, find_device, find_dtype, free_memory
from stprune_ros.vlm.greedy_text import GreedyText, Written
from stprune_ros.vlm.guided_choice import Branch, log_probabilities
from stprune_ros.vlm.hf.answers import Answers
from stprune_ros.vlm.hf.family import Family
from stprune_ros.vlm.hf.files import gib
from stprune_ros.vlm.hf.gpu_tower import adapt_tower
from stprune_ros.vlm.hf.memory import BYTES, require_room
from stprune_ros.vlm.hf.model_folder import locate_model
from stprune_ros.vlm.hf.pretrained import load_tower, read_parts
from stprune_ros.vlm.hf.tower import VisionTower
from stprune_ros.vlm.llama_cpp.gguf_file import EmbeddingTable, GgufFile
from stprune_ros.vlm.llama_cpp.language_model import LEAVES, CutShortError, LanguageModel, NoRoomError, RunOptions
from stprune_ros.vlm.llama_cpp.library import find_library, load_library
from stprune_ros.vlm.llama_cpp.memory import tower_bytes
from stprune_ros.vlm.llama_cpp.pairing import EMBEDDINGS, family_fault, pairing_faults, revision_of, vocabulary_fault
from stprune_ros.vlm.token_tree import TokenTree

CROWDED_OUT = (
    'the description was cut short because the KV cache has no room for it beside the next prompt: raise'
    ' model.context_tokens, or lower pruning.keep_ratio or inference.max_new_tokens'
)


@dataclass(frozen=True, slots=True)
class Prefix:
    """State of a Context: what is in the cache as long as its ``serial`` number is the newest.

    ``ids`` are the kept tokens, ``next_position`` where a question begins, ``question_suffix`` what the template writes
    after it.
    """

    serial: int
    ids: np.ndarray
    next_position: int
    question_suffix: str


class LlamaCppBackend(Backend):
    """Implements `backend.Backend`; make one with ``load``. One thread at a time.

    There is one KV cache: a context can be used until the next prefill, and an older one raises ModelError. A text
    that was begun in time goes on, as long as the cache has room for its prompt and the next one.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        processor: Any,
        family: Family,
        info: ModelInfo,
        language: LanguageModel,
        embeddings: EmbeddingTable,
        max_image_pixels: int = 0,
        side_image_pixels: int = 0,
    ) -> None:
        self._model = model
        self._family = family
        device = torch.device(info.device)
        if device.type != 'cpu':
            adapt_tower(model)
        self._image_id: int = model.config.image_token_id
        self._tower = VisionTower(model, processor, family, device, max_image_pixels, side_image_pixels)
        self.model_pixels, self.side_pixels = self._tower.model_pixels, self._tower.side_pixels
        self._answers = Answers(model, tokenizer, family, info)
        self._chat = self._answers.chat
        self.info = self._answers.info
        self._language = language
        self._embeddings = embeddings
        self._static: tuple[int, ...] = ()  # ids at the beginning of the cache that any prompt may begin with
        self._serial = 0
        self._text: GreedyText | None = None  # the last one

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        gguf: str | Path,
        *,
        library: str = '',
        context_tokens: int = 8192,
        device: str = 'auto',
        dtype: str = 'auto',
        revision: str = '',
        allow_download: bool = False,
        max_image_pixels: int = 0,
        side_image_pixels: int = 0,
        say: Say = say_nothing,
    ) -> LlamaCppBackend:
        """Load the vision tower of a model folder or hub id, and the language model of the file ``gguf``.

        ``library`` names a build of llama.cpp, '' is that of an installed package; its KV cache holds
        ``context_tokens`` tokens, in float32 where ``dtype`` is, else in float16. The rest is as in
        `TransformersBackend.load`.
        Raises ModelError where a file is missing or broken, or folder, GGUF and library do not fit together: before any
        weights are loaded.
        """
        folder = locate_model(path_or_id, revision, allow_download)
        family = folder.family
        for fault in family_fault(family.model_type):
            raise ModelError(fault)
        file = GgufFile.read(gguf)
        found = load_library(find_library(library))
        torch_device = find_device(device)
        gpu = (torch_device.index or 0) if torch_device.type == 'cuda' else None
        if gpu is not None and not found.has_gpu:
            raise ModelError(
                f"llama.cpp library '{found.path}' was built without a GPU, and the device is '{torch_device}': name a"
                " build with CUDA in model.engine_library, or set model.device to 'cpu'"
            )
        parts = read_parts(folder)
        faults = pairing_faults(file, family.model_type, parts.config.to_dict())
        tokens = parts.tokenizer.convert_ids_to_tokens(range(min(len(file.tokens), len(parts.tokenizer))))
        for fault in [*faults, *vocabulary_fault(file, tokens)]:
            raise ModelError(fault)
        torch_dtype = find_dtype(dtype, torch_device)
        kind = dtype_name(torch_dtype)
        need = file.size + tower_bytes(folder, BYTES.get(kind, 0))
        require_room(file.path, need, f'{file.kind} with the vision tower of the folder', free_memory(torch_device))
        digest = revision_of(folder.weights, file.path, say)
        start = time.monotonic()
        with said_while_slow(
            say, lambda: f"loading the weights of '{gguf}', {gib(file.size)}: {time.monotonic() - start:.0f} s so far"
        ):
            model = load_tower(folder, parts.config, torch_device, torch_dtype)
            kind = dtype_name(model.base_model.visual.dtype)
            options = RunOptions(context_tokens, torch.get_num_threads(), gpu, kind == 'float32')
            language = LanguageModel(found, str(gguf), options)
        info = ModelInfo(
            model_id=folder.model_id,
            revision=digest,
            family=family.model_type,
            trained=folder.trained,
            device=str(torch_device),
            dtype=f'{kind}, {file.kind}'.removesuffix(', '),
            domain=folder.domain,
            joint_common=folder.joint_common,
            notes=(*folder.notes, *_eps_note(language, file)),
        )
        embeddings = EmbeddingTable(file, EMBEDDINGS)
        parts_of = (parts.tokenizer, parts.processor, family, info, language, embeddings)
        return cls(model, *parts_of, max_image_pixels, side_image_pixels)

    def prepare(self, images: Sequence[np.ndarray], side: bool = False) -> PreparedImages:
        """See `Backend.prepare`."""
        return self._tower.prepare(images, side)

    def encode(self, images: Sequence[np.ndarray] | PreparedImages) -> list[ImageFeatures]:
        """See `Backend.encode`."""
        return self._tower.encode(images)

    def embed(self, text: str) -> torch.Tensor:
        """See `TextEmbedder.embed`."""
        rows = torch.from_numpy(self._embeddings[np.array(self._chat.ids(text), np.int64)])
        return rows.to(self.info.device, self._model.base_model.visual.dtype)

    def prefill(self, system: str, content: Sequence[str | VisualFrame]) -> Context:
        """See `Backend.prefill`; contexts of earlier ones are used up."""
        frames = [part for part in content if not isinstance(part, str)]
        full_prompt = self._chat.prompt(system, content)
        positions = self._family.positions(self._model, full_prompt.ids, self._image_id, frames)
        ids = full_prompt.ids[full_prompt.keep].numpy()
        placed = positions[:, full_prompt.keep].numpy()
        tokens_visual = sum(int(frame.keep.sum()) for frame in frames)
        rows = self._rows(ids, frames)
        first = full_prompt.static
        static = tuple(ids[:first].tolist())
        self._serial += 1
        self._language.open()
        try:
            # In a pass of its own, so that what follows is the same whether it was kept or run.
            if static and static != self._static:
                self._static = ()
                self._language.cut(0)
                self._language.run_rows(rows[:first], placed[:, :first])
            self._static = static
            self._language.cut(first)
            self._language.run_rows(rows[first:], placed[:, first:])
        except ModelError:
            self._language.cut(len(self._static))
            raise
        # The next position counts pruned tokens too: the question stands where it stood in the full prompt.
        prefix = Prefix(self._serial, ids, int(positions.max()) + 1, full_prompt.question_suffix)
        return Context(len(ids) - tokens_visual, tokens_visual, prefix)

    def check_candidates(self, question: str, candidates: Sequence[str]) -> None:
        """See `Backend.check_candidates`."""
        self._answers.check(question, candidates)

    def score(self, context: Context, question: str, candidates: Sequence[str]) -> list[float]:
        """See `Backend.score`."""
        return self.score_all(context, [(question, candidates)])[0]

    def score_all(self, context: Context, asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[float]]:
        """See `Backend.score_all`.

        Each path of the token tree is a sequence that shares the cells of the prompt, and of what it has in common with
        others. More than LEAVES branches take several passes.
        """
        prefix = self._current(context)
        choices = self._answers.choices(asked, prefix.question_suffix)
        branches = [branch for choice in choices for branch in choice.branches]
        logits: list[list[float]] = []
        for start in range(0, len(branches), LEAVES):
            logits += self._branch_logits(branches[start : start + LEAVES], prefix.next_position)
        return log_probabilities(choices, logits)

    def begin(self, context: Context, question: str, max_new_tokens: int) -> GreedyText:
        """See `Backend.begin`; it stands in a sequence of its own."""
        prefix = self._current(context)
        self._chat.require_words(question)
        asked = self._chat.text_ids(question + prefix.question_suffix)
        language, position = self._language, prefix.next_position
        self._end_text()
        language.begin_text()
        seen = np.zeros(language.vocabulary, bool)
        seen[prefix.ids] = True
        crowded_out = False

        def next_token(step: Sequence[int]) -> int | None:
            nonlocal position, crowded_out
            crowded_out = not language.has_text
            if crowded_out:
                return None
            try:
                logits = language.run_tokens(step, position)
            except CutShortError:
                return None
            except NoRoomError:
                crowded_out = prefix.serial != self._serial
                if not crowded_out:  # it alone is too long
                    raise
                return None
            position += len(step)
            seen[list(step)] = True
            return int(self._penalised(logits, seen).argmax())

        def read(written: Written) -> Generated:
            return replace(self._answers.generated(written), note=CROWDED_OUT if crowded_out else '')

        ends, guard = self._answers.ends, language.interruptible
        self._text = GreedyText(next_token, asked, ends, max_new_tokens, read, language.end_text, guard)
        return self._text

    def free(self) -> None:
        """See `Backend.free`: the KV cache is made anew for the next prompt; contexts are used up."""
        self._serial += 1
        self._static = ()
        self._end_text()
        self._language.close()

    def _end_text(self) -> None:
        if self._text is not None:
            self._text.close()

    def _current(self, context: Context) -> Prefix:
        """The state of a context. Raises ModelError for one that is used up."""
        prefix: Prefix = context.state
        if prefix.serial != self._serial:
            raise ModelError(
                'a context of an earlier prompt was used: llama.cpp has one KV cache, which holds the newest one'
            )
        return prefix

    def _rows(self, ids: np.ndarray, frames: Sequence[VisualFrame]) -> np.ndarray:
        """What stands for each kept token: embeddings, float32 (n, row_width); behind them the deepstack layers'."""
        width = self._embeddings.width
        rows = np.zeros((len(ids), self._language.row_width), np.float32)
        visual = ids == self._image_id
        rows[~visual, :width] = self._embeddings[ids[~visual]]
        if visual.any():
            rows[visual] = torch.cat([_kept(frame) for frame in frames]).float().cpu().numpy()
        return rows

    def _branch_logits(self, branches: Sequence[Branch], position: int) -> list[list[float]]:
        """For each branch the logits of its tokens, behind a prompt whose questions begin at ``position``."""
        token_tree = TokenTree()
        rows = [token_tree.grow(branch.path) for branch in branches]
        needed = sorted({*rows})
        found = self._language.run_tree(
            token_tree.ids, np.array(token_tree.depths, np.int32) + position, token_tree.leaves(), needed
        )
        index = {row: number for number, row in enumerate(needed)}
        return [found[index[row], list(branch.tokens)].tolist() for row, branch in zip(rows, branches)]

    def _penalised(self, logits: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Logits (vocabulary,) with the model's repetition penalty on the tokens in ``seen``."""
        penalty = self._answers.penalty
        if penalty == 1.0:
            return logits
        return np.where(seen, np.where(logits < 0, logits * penalty, logits / penalty), logits)


def _kept(frame: VisualFrame) -> torch.Tensor:
    """The kept tokens of an image, (n, D), and beside them those of its deepstack layers."""
    layers = (frame.features.tokens, *frame.features.deep)
    return torch.cat([layer[frame.keep.to(layer.device)] for layer in layers], 1)


def _eps_note(language: LanguageModel, file: GgufFile) -> list[str]:
    if not language.reads_no_eps:
        return []
    return [
        f"this release of llama.cpp does not read rms_norm_eps for architecture '{file.architecture}' and takes 0:"
        ' logits differ a little from those of transformers'
    ]
