"""A vision-language model hosted on transformers through public hooks; the one file that imports transformers."""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch

from stprune_ros.core.types import StpruneError
from stprune_ros.vlm.backend import Context, Generated, ImageFeatures, ModelInfo, VisualFrame
from stprune_ros.vlm.families import QwenVL
from stprune_ros.vlm.model_folder import ModelFolder, find_model, one_line
from stprune_ros.vlm.tree import Tree

try:
    import transformers
except ImportError as missing:
    raise StpruneError(f"'{missing.name}' is not installed; install it with pip install 'transformers>=5.18'") from None

HOOK = 'mm_encoder_outputs'  # came with transformers 5.18
QUESTION = '[[stprune:question]]'  # stands for the question while the chat template is rendered
NO_ROWS = torch.empty(0, dtype=torch.int64)
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


@dataclass(frozen=True, slots=True)
class Prefix:
    """State of a Context: KV per layer, kept ids, the next position, and what the template writes after a question.

    The KV tensors are never written to: every question works on a cache of its own.
    """

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    ids: tuple[int, ...]
    next_position: int
    tail: str


class TransformersBackend:
    """Implements ``backend.Backend``; make one with ``load``. One thread at a time."""

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any, family: QwenVL, info: ModelInfo, max_image_pixels: int = 0
    ) -> None:
        self.info = info
        self._model = model
        self._tokenizer = tokenizer
        self._processor = processor
        self._family = family
        self._device = torch.device(info.device)
        self._image_id: int = model.config.image_token_id
        self._image_text: str = tokenizer.convert_ids_to_tokens(self._image_id)
        self._merge: int = model.config.vision_config.spatial_merge_size
        self._size = _image_size(processor, max_image_pixels)
        self.model_pixels = self._size['longest_edge']
        self._end_id: int = tokenizer.eos_token_id
        stops = model.generation_config.eos_token_id
        self._stop_ids = {self._end_id, *(stops if isinstance(stops, list) else [stops])}
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
    ) -> TransformersBackend:
        """Load a model folder or hub id: safetensors only, no code of its own, no network without ``allow_download``.

        ``device`` 'auto' is CUDA where there is one; ``dtype`` 'auto' is the weights' own, on the CPU float32; images
        are reduced to at most ``max_image_pixels`` pixels (0: as the model folder says).
        Raises StpruneError where a file is missing or broken, or the family or the transformers version unsupported.
        """
        folder = find_model(path_or_id, revision, allow_download)
        model_class = supported_class(folder.family)
        place = _device(device)
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()  # what matters is raised below, in one sentence
        local = {'local_files_only': True, 'trust_remote_code': False}
        with _naming('config.json', folder):
            config = model_class.config_class.from_pretrained(folder.path)
        with _naming('tokenizer', folder):
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder.path, config=config, **local)
        with _naming('image processor', folder):
            # The PIL backend everywhere: the same pixels, so the same hints, with and without torchvision.
            processor = transformers.AutoImageProcessor.from_pretrained(folder.path, backend='pil', **local)
        with _naming('model', folder):
            model, report = model_class.from_pretrained(
                folder.path,
                config=config,
                dtype=_dtype(dtype, place),
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        _check_weights(folder, report)
        _check_parts(folder, model.config, tokenizer, processor)
        with _naming('model', folder):
            model = model.to(place).eval()
        kind = str(model.dtype).removeprefix('torch.')
        info = ModelInfo(
            folder.model_id,
            folder.revision,
            folder.family.model_type,
            folder.trained,
            str(place),
            kind,
            folder.knows,
        )
        return cls(model, tokenizer, processor, folder.family, info, max_image_pixels)

    @classmethod
    def untrained(
        cls, name: str, family: QwenVL, config: dict[str, Any], parts: Path, processor: dict[str, Any], dtype: str
    ) -> TransformersBackend:
        """A model of the given shape with random weights, for measuring: the same time and memory, no answers.

        ``config`` holds text_config and vision_config, ``processor`` what differs in the image processor; tokenizer and
        chat template come from the folder ``parts``.
        """
        model_class = supported_class(family)
        tokenizer = transformers.AutoTokenizer.from_pretrained(parts, local_files_only=True)
        images = transformers.AutoImageProcessor.from_pretrained(
            parts, backend='pil', local_files_only=True, **processor
        )
        marks = {'image': '<|image_pad|>', 'video': '<|video_pad|>', 'vision_start': '<|vision_start|>'}
        ids = {f'{key}_token_id': tokenizer.convert_tokens_to_ids(mark) for key, mark in marks.items()}
        place = _device('auto')
        shape = model_class.config_class(**config, **ids)
        shape.dtype = shape.text_config.dtype = shape.vision_config.dtype = DTYPES[dtype]
        with place:
            model = model_class._from_config(shape, dtype=DTYPES[dtype]).eval()
        model.generation_config.eos_token_id = tokenizer.eos_token_id
        info = ModelInfo(name, '', family.model_type, False, str(place), dtype)
        return cls(model, tokenizer, images, family, info)

    def encode(self, images: Sequence[np.ndarray]) -> list[ImageFeatures]:
        """See ``Backend.encode``; StpruneError for an image that is not uint8 (height, width, 3) or too oblong."""
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
                raise StpruneError(f'image is {image.dtype} {image.shape}; it must be uint8 (height, width, 3)')
        if not images:
            return []
        try:
            batch = self._processor(
                images=list(images), size=self._size, return_tensors='pt', input_data_format='channels_last'
            )
        except ValueError as error:
            raise StpruneError(f'images cannot be prepared for the model: {one_line(error)}') from None
        grid_thw = batch['image_grid_thw']
        with torch.inference_mode():
            output = self._model.get_image_features(
                batch['pixel_values'].to(self._device), grid_thw.to(self._device), return_dict=True
            )
        return self._family.features(output, grid_thw, self._merge)

    def prefill(self, system: str, content: Sequence[str | VisualFrame]) -> Context:
        """See ``Backend.prefill``; an empty ``system`` leaves the system turn out.

        Content should end with an image or a line break: the question is tokenised apart from it.
        """
        frames = [part for part in content if not isinstance(part, str)]
        head, tail = self._render(system, content)
        ids, keep = self._full_prompt(head, frames)
        full = torch.tensor(ids)
        kept = torch.tensor(keep)
        grid_thw = torch.tensor([(1, *(side * self._merge for side in frame.features.grid)) for frame in frames])
        positions = self._family.positions(self._model, full, self._image_id, grid_thw)
        cache = transformers.DynamicCache()
        tokens_visual = sum(int(frame.keep.sum()) for frame in frames)
        hook = {HOOK: {'image': self._family.encoder_output(frames)}} if tokens_visual else {}
        kept_ids = full[kept]
        # The vocabulary is not asked: a question comes first.
        self._forward(kept_ids, positions[:, kept], cache, logits_to_keep=NO_ROWS.to(self._device), **hook)
        # The next position counts pruned tokens too: the question stands where it stood in the full prompt.
        prefix = Prefix(
            tuple((layer[0], layer[1]) for layer in cache),
            tuple(kept_ids.tolist()),
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
            answers = [[*self._ids(candidate), self._end_id] for candidate in candidates]
            # Nothing is predicted from the end token, so it need not be run.
            branches = [tree.grow(answer[:-1], stem) for answer in answers]
            wanted.append([([stem[-1], *branch], answer) for branch, answer in zip(branches, answers, strict=True)])
        # Nothing is read from inside a question: its rows need not go through the vocabulary.
        needed = sorted({row for answers in wanted for rows, _ in answers for row in rows})
        if not needed:
            return [[] for _ in wanted]
        mask = tree.mask(len(prefix.ids), self._model.dtype)
        place = {row: index for index, row in enumerate(needed)}
        logits = self._forward(
            torch.tensor(tree.ids),
            torch.tensor(tree.depths).add(prefix.next_position).expand(3, -1),
            self._cache(prefix),
            attention_mask=mask.to(self._device),
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
        seen = [*prefix.ids, *step.tolist()]
        written: list[int] = []
        finished = timed_out = False
        while len(written) < max_new_tokens and not finished:
            timed_out = deadline is not None and time.monotonic() >= deadline
            if timed_out or (cancel is not None and cancel.is_set()):
                break
            positions = torch.arange(position, position + len(step)).expand(3, -1)
            logits = self._forward(step, positions, cache)
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
        gc.collect()
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, cache: Any, **options: Any) -> torch.Tensor:
        """Run ids (n,) at positions (3, n) behind ``cache``, which grows; logits are (logits_to_keep, vocabulary)."""
        start = cache.get_seq_length()
        # Row 0 counts what is really there: gaps in it would be read as packed sequences, without a word.
        rows = torch.cat([torch.arange(start, start + len(ids))[None], positions])
        with torch.inference_mode():
            output = self._model(
                input_ids=ids[None].to(self._device),
                position_ids=rows[:, None].to(self._device),
                past_key_values=cache,
                use_cache=True,
                **{'logits_to_keep': 1, **options},
            )
        logits: torch.Tensor = output.logits[0]
        return logits

    def _cache(self, prefix: Prefix) -> Any:
        return transformers.DynamicCache(prefix.layers)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _render(self, system: str, content: Sequence[str | VisualFrame]) -> tuple[str, str]:
        """The chat template's text before and after the question."""
        parts = [{'type': 'text', 'text': part} if isinstance(part, str) else {'type': 'image'} for part in content]
        turns = [{'role': 'system', 'content': [{'type': 'text', 'text': system}]}] if system else []
        turns.append({'role': 'user', 'content': [*parts, {'type': 'text', 'text': QUESTION}]})
        text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        head, _, tail = text.partition(QUESTION)
        return head, tail

    def _full_prompt(self, head: str, frames: Sequence[VisualFrame]) -> tuple[list[int], list[bool]]:
        """Ids of the prompt with every visual token, and which of them stay."""
        pieces = head.split(self._image_text)
        if len(pieces) != len(frames) + 1:
            raise StpruneError(
                f"the prompt has {len(pieces) - 1} image placeholders '{self._image_text}' for {len(frames)} images;"
                ' remove them from the prompt file, or use a chat template that writes one for each image'
            )
        texts = self._tokenizer(pieces, add_special_tokens=False).input_ids
        ids, keep = list(texts[0]), [True] * len(texts[0])
        for frame, text in zip(frames, texts[1:], strict=True):
            tokens = len(frame.features.tokens)
            if frame.keep.shape != (tokens,):
                raise StpruneError(f'keep mask is {tuple(frame.keep.shape)} for {tokens} visual tokens')
            ids += [self._image_id] * tokens + text
            keep += [*frame.keep.tolist(), *[True] * len(text)]
        return ids, keep


def supported_class(family: QwenVL, library: Any = transformers) -> Any:
    """The model class of ``family``; StpruneError where the installed transformers is too old for pruned prompts."""
    model_class = getattr(library, family.architecture, None)
    if model_class is None or HOOK not in inspect.signature(model_class.forward).parameters:
        raise StpruneError(
            f'transformers {library.__version__} is too old for pruned prompts with {family.model_type};'
            ' install transformers>=5.18'
        )
    return model_class


def _image_size(processor: Any, max_pixels: int) -> dict[str, int]:
    """Least and most pixels per image, in the processor's words."""
    least, most = processor.size['shortest_edge'], processor.size['longest_edge']
    cap = max_pixels or most
    return {'shortest_edge': min(least, cap), 'longest_edge': min(most, cap)}


def _device(name: str) -> torch.device:
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise StpruneError(f"parameter 'model.device' is '{name}', unusable here: {one_line(error)}") from None
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype | str:
    if name == 'auto':
        return torch.float32 if device.type == 'cpu' else 'auto'
    return DTYPES[name]


@contextmanager
def _naming(part: str, folder: ModelFolder) -> Iterator[None]:
    """Whatever goes wrong inside, as one sentence that names the part and the folder."""
    try:
        yield
    except Exception as error:  # transformers and tokenizers raise all kinds, bare Exception among them
        raise StpruneError(f"{part} of '{folder.path}' cannot be loaded: {one_line(error)}") from None


def _check_weights(folder: ModelFolder, report: dict[str, Any]) -> None:
    """Refuse weights that do not cover the model: transformers would fill the rest with random numbers."""
    missing = sorted(report['missing_keys'])
    if missing:
        raise StpruneError(
            f"weights of '{folder.path}' lack {len(missing)} of the model's tensors, such as '{missing[0]}';"
            ' config.json and the safetensors files do not belong together'
        )
    if report['mismatched_keys']:
        name, found, wanted = sorted(report['mismatched_keys'])[0]
        raise StpruneError(
            f"weights of '{folder.path}' hold '{name}' as {tuple(found)} where config.json asks for {tuple(wanted)}"
        )


def _check_parts(folder: ModelFolder, config: Any, tokenizer: Any, processor: Any) -> None:
    """Refuse combinations that would answer wrongly without a word."""
    text, vision = config.text_config, config.vision_config
    if tokenizer.chat_template is None:
        raise StpruneError(f"tokenizer of '{folder.path}' has no chat template")
    if tokenizer.eos_token_id is None:
        raise StpruneError(f"tokenizer of '{folder.path}' has no end-of-turn token (eos_token)")
    if 'sliding_attention' in (getattr(text, 'layer_types', None) or ()):
        raise StpruneError(f"model '{folder.path}' uses sliding-window attention, which is not supported")
    if len(tokenizer) > text.vocab_size:
        raise StpruneError(f"tokenizer of '{folder.path}' has {len(tokenizer)} tokens, its model {text.vocab_size}")
    if config.image_token_id >= len(tokenizer):
        raise StpruneError(f"tokenizer of '{folder.path}' lacks the model's image token {config.image_token_id}")
    if not (processor.size['shortest_edge'] and processor.size['longest_edge']):
        raise StpruneError(f"image processor of '{folder.path}' has no shortest_edge and longest_edge in its size")
    for ours, theirs in (('merge_size', 'spatial_merge_size'), ('patch_size',) * 2, ('temporal_patch_size',) * 2):
        found, wanted = getattr(processor, ours), getattr(vision, theirs)
        if found != wanted:
            raise StpruneError(f"image processor of '{folder.path}' has {ours} {found}, its model {theirs} {wanted}")
