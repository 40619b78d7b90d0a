"""A vision-language model hosted on transformers through public hooks; the one file that imports transformers."""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch

from stprune_ros.cuda_graph import capture_graph
from stprune_ros.errors import StpruneError, one_line
from stprune_ros.vlm.backend import Context, Generated, ImageFeatures, ModelInfo, VisualFrame
from stprune_ros.vlm.device import DTYPES, find_device, find_dtype, free_memory, moved, name_of
from stprune_ros.vlm.hf.chat import Chat
from stprune_ros.vlm.hf.family import EncoderOutput, Family
from stprune_ros.vlm.hf.memory import check_room
from stprune_ros.vlm.hf.model_checks import HOOK, check_images, check_parts, check_weights, naming, supported_class
from stprune_ros.vlm.hf.model_folder import ModelFolder, find_model, legacy_template
from stprune_ros.vlm.hf.quantization import packing
from stprune_ros.vlm.hf.static_cache import Prefix, Slots, slots_for
from stprune_ros.vlm.token_tree import Tree

try:
    import transformers
except ImportError as missing:
    raise StpruneError(f"'{missing.name}' is not installed; install it with pip install 'transformers>=5.18'") from None

NONE = torch.empty(0, dtype=torch.int64)
# Least share of a prompt for which its static part is kept (ours): behind a cache, attention needs a mask and cannot
# take its fastest kernel, which long unpruned prompts need most.
STATIC_SHARE = 0.1


@dataclass
class HookOutput(transformers.utils.ModelOutput):  # type: ignore[misc]
    """`family.EncoderOutput` in the library's own kind of output: since 5.24 it takes nothing else."""

    last_hidden_state: Any = None
    pooler_output: Any = None
    deepstack_features: Any = None


class TransformersBackend:
    """Implements ``backend.Backend``; make one with ``load``. One thread at a time."""

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, family: Family, info: ModelInfo, max_image_pixels: int = 0
    ) -> None:
        self.info = info
        self._model = model
        self._tokenizer = tokenizer
        self._processor = processor
        self._family = family
        self._device = torch.device(info.device)
        self._image_id: int = model.config.image_token_id
        self._config: dict[str, Any] = model.config.to_dict()
        self._image_options = family.image_options(self._config, processor, max_image_pixels)
        self.model_pixels = family.model_pixels(self._config, self._image_options)
        stops = model.generation_config.eos_token_id
        self._stop_ids = {tokenizer.eos_token_id, *(stops if isinstance(stops, list) else [stops])}
        self._chat = Chat(tokenizer, family, self._image_id, self._stop_ids)
        self._static: tuple[tuple[int, ...], tuple[Any, ...]] = (), ()  # ids and KV of the last prompt's static part
        self._slots: Slots | None = None  # what the last description was written in
        self._recorder = capture_graph if self._device.type == 'cuda' else None
        # 'past_key_values' before transformers 5.24.
        self._cache_name = 'cache' if 'cache' in inspect.signature(model.forward).parameters else 'past_key_values'
        penalty = model.generation_config.repetition_penalty
        # Part of what `generate` does for this model: Qwen2.5-VL ships 1.05.
        self._penalty = transformers.RepetitionPenaltyLogitsProcessor(penalty) if penalty and penalty != 1.0 else None

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
        quantization: str = 'none',
    ) -> TransformersBackend:
        """Load a model folder or hub id: safetensors only, no code of its own, no network without ``allow_download``.

        ``device`` 'auto' is CUDA where there is one; ``dtype`` 'auto' is the weights' own, on the CPU float32; images
        are reduced to at most ``max_image_pixels`` pixels (0: as the model folder says). ``quantization`` '4bit' or
        '8bit' packs the language model's matrices with bitsandbytes while loading.
        Raises StpruneError where a file is missing or broken, or the family or the transformers version unsupported.
        """
        folder = find_model(path_or_id, revision, allow_download)
        place = find_device(device)
        parts = read_parts(folder)
        number = find_dtype(dtype, place)
        check_room(folder, name_of(number), quantization, free_memory(place))
        packed = {}
        if quantization != 'none':
            options = packing(quantization, folder.family, number)
            packed = {'quantization_config': transformers.BitsAndBytesConfig(**options), 'device_map': {'': place}}
        with naming('model', folder):
            model, report = supported_class(folder.family, transformers).from_pretrained(
                folder.path,
                config=parts.config,
                dtype=number or 'auto',
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **packed,
            )
        check_weights(folder, report)
        with naming('model', folder):
            model = model.eval() if packed else model.to(place).eval()  # a packed model is where it belongs
        kind = name_of(model.dtype) + (f', {quantization}' if packed else '')
        family = folder.family
        info = ModelInfo(
            folder.model_id, folder.revision, family.model_type, folder.trained, str(place), kind, folder.knows
        )
        return cls(model, parts.tokenizer, parts.processor, family, info, max_image_pixels)

    @classmethod
    def untrained(
        cls,
        name: str,
        family: Family,
        config: dict[str, Any],
        tokens: dict[str, str],
        parts: Path,
        processor: dict[str, Any],
        dtype: str,
    ) -> TransformersBackend:
        """A model of the given shape with random weights, for measuring: the same time and memory, no answers.

        ``config`` holds text_config and vision_config, ``tokens`` the special tokens whose ids belong into it, by key;
        ``processor`` what differs in the image processor. Tokenizer and chat template come from the folder ``parts``.
        """
        model_class = supported_class(family, transformers)
        tokenizer = transformers.AutoTokenizer.from_pretrained(parts, local_files_only=True)
        images = transformers.AutoImageProcessor.from_pretrained(
            parts, backend='pil', local_files_only=True, **processor
        )
        ids = {key: tokenizer.convert_tokens_to_ids(token) for key, token in tokens.items()}
        place = find_device('auto')
        shape = model_class.config_class(**config, **ids)
        shape.dtype = shape.text_config.dtype = shape.vision_config.dtype = DTYPES[dtype]
        with place:
            model = model_class._from_config(shape, dtype=DTYPES[dtype]).eval()
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        info = ModelInfo(name, '', family.model_type, False, str(place), dtype)
        return cls(model, tokenizer, images, family, info)

    def encode(self, images: Sequence[np.ndarray]) -> list[ImageFeatures]:
        """See ``Backend.encode``; StpruneError for an image that is not uint8 (height, width, 3) or too oblong."""
        check_images(images)
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
        given = self._family.vision_inputs(batch, len(images))
        inputs = {name: moved(value, self._device) for name, value in given.items()}
        with torch.inference_mode():
            output = self._model.get_image_features(**inputs, return_dict=True)
        return self._family.features(output, batch, self._config)

    def prefill(self, system: str, content: Sequence[str | VisualFrame]) -> Context:
        """See ``Backend.prefill``; an empty ``system`` leaves the system turn out.

        Content should end with an image or a line break: the question is tokenised apart from it.
        """
        frames = [part for part in content if not isinstance(part, str)]
        full = self._chat.prompt(system, content)
        positions = self._family.positions(self._model, full.ids, self._image_id, frames)
        tokens_visual = sum(int(frame.keep.sum()) for frame in frames)
        ids, rows = full.ids[full.keep], positions[:, full.keep]
        shown = bool((ids == self._image_id).any())
        hook = {HOOK: {'image': _hook_output(self._family.encoder_output(frames))}} if shown else {}
        visible = self._family.visible(ids, self._image_id)
        first = full.static if full.static >= STATIC_SHARE * len(ids) else 0
        cache = self._static_cache(ids[:first], rows[:, :first])
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
            tuple((layer[0], layer[1]) for layer in cache),
            tuple(ids.tolist()),
            rows[0],
            int(positions.max()) + 1,
            full.tail,
        )
        return Context(len(ids) - tokens_visual, tokens_visual, prefix)

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
            stem = tree.grow(self._chat.ids(question + prefix.tail), None)
            answers = [[*self._chat.ids(self._chat.lead + candidate), self._chat.end_id] for candidate in candidates]
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
            torch.tensor(tree.depths).add(prefix.next_position)[None],
            transformers.DynamicCache(prefix.layers),
            prefix.seen,
            tree.visible(len(prefix.ids)),
            torch.tensor(needed),
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

        A loop of our own: it continues a shared prefix at given positions, and looks at the deadline before every step,
        the first one included.
        """
        prefix: Prefix = context.state
        asked = self._chat.ids(question + prefix.tail)
        slots = self._slots_behind(prefix, len(asked) + max_new_tokens)
        step, position = torch.tensor(asked), prefix.next_position
        seen = [*prefix.ids, *asked]
        written: list[int] = []
        finished = timed_out = False
        while len(written) < max_new_tokens and not finished:
            timed_out = deadline is not None and time.monotonic() >= deadline
            if timed_out or (cancel is not None and cancel.is_set()):
                break
            logits = slots.step(step, torch.arange(position, position + len(step)))
            if self._penalty is not None:
                logits = self._penalty(torch.tensor([seen], device=self._device), logits.float())
            token = int(logits[-1].argmax())
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
        self._static = (), ()
        self._slots = None
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
        needed: torch.Tensor = NONE,
        **hook: Any,
    ) -> torch.Tensor:
        """Run ids (n,) at positions (rows, n) behind ``cache``, which grows; logits are (needed, vocabulary).

        ``seen`` (k,) are the positions of what is cached; ``visible`` (n, k + n) says who sees whom, if not everybody
        what is before.
        """
        inputs = self._inputs(ids, positions, len(seen), visible, torch.cat([seen, positions[0]]))
        return self._run(cache, inputs, needed.to(self._device), **hook)

    def _inputs(
        self, ids: torch.Tensor, positions: torch.Tensor, start: int, visible: torch.Tensor | None, keys: torch.Tensor
    ) -> dict[str, Any]:
        """What the model takes for ids (n,) at positions (rows, n) or (n,) behind ``start`` cached tokens.

        See `Family.attention_mask` for the rest.
        """
        rows = positions.expand(self._family.position_rows, -1)
        inputs = {
            'input_ids': ids[None],
            'position_ids': self._family.position_ids(rows, start),
            'attention_mask': self._family.attention_mask(
                self._model.config.text_config, visible, rows[0], keys, self._model.dtype
            ),
        }
        return {name: moved(value, self._device) for name, value in inputs.items()}

    def _run(self, cache: Any, inputs: dict[str, Any], needed: torch.Tensor | int = 1, **hook: Any) -> torch.Tensor:
        """Logits (needed, vocabulary) for rows ``needed`` of the inputs, or for so many at the end."""
        with torch.inference_mode():
            output = self._model(**inputs, **{self._cache_name: cache}, use_cache=True, logits_to_keep=needed, **hook)
        logits: torch.Tensor = output.logits[0]
        return logits

    def _slots_behind(self, prefix: Prefix, room: int) -> Slots:
        """Memory of fixed size that holds the prefix and ``room`` further tokens."""
        tokens = len(prefix.ids) + room
        if self._slots is None or not self._slots.suit(tokens):
            self._slots = None  # gives its memory back first
            capacity = slots_for(tokens)
            cache = transformers.Cache(layers=[transformers.StaticLayer(capacity) for _ in prefix.layers])
            self._slots = Slots(cache, capacity, self._inputs, self._run, self._recorder)
        self._slots.fill(prefix)
        return self._slots

    def _static_cache(self, ids: torch.Tensor, rows: torch.Tensor) -> Any:
        """A cache filled with the beginning ``ids`` (n,) of a prompt at ``rows`` (rows, n), run once while it stays."""
        if not len(ids):
            return transformers.DynamicCache()
        key = tuple(ids.tolist())
        if key != self._static[0]:
            cache = transformers.DynamicCache()
            self._forward(ids, rows, cache, NONE, self._family.visible(ids, self._image_id))
            self._static = key, tuple((layer[0], layer[1]) for layer in cache)
        return transformers.DynamicCache(self._static[1])


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model folder holds beside the weights."""

    config: Any
    tokenizer: Any
    processor: Any


def read_parts(folder: ModelFolder) -> Parts:
    """Read and check everything but the weights; StpruneError naming the part that is broken or does not fit."""
    model_class = supported_class(folder.family, transformers)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # what matters is raised here, in one sentence
    local = {'local_files_only': True, 'trust_remote_code': False}
    with naming('config.json', folder):
        config = model_class.config_class.from_pretrained(folder.path)
    with naming('tokenizer', folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder.path, config=config, **local)
    with naming('image processor', folder):
        # The PIL backend everywhere: the same pixels, so the same hints, with and without torchvision.
        processor = transformers.AutoImageProcessor.from_pretrained(folder.path, backend='pil', **local)
    tokenizer.chat_template = legacy_template(folder.path) or tokenizer.chat_template
    check_parts(folder, config, tokenizer)
    return Parts(config, tokenizer, processor)


def _hook_output(kept: EncoderOutput) -> HookOutput:
    return HookOutput(pooler_output=kept.pooler_output, deepstack_features=kept.deepstack_features)
