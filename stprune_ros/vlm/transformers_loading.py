"""Models as transformers loads them, or makes them with random weights; safetensors only, never any code of theirs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stprune_ros.core.types import StpruneError
from stprune_ros.vlm.backend import ModelInfo
from stprune_ros.vlm.family import Family
from stprune_ros.vlm.model_checks import check_parts, check_weights
from stprune_ros.vlm.model_folder import ModelFolder, find_model, legacy_template, one_line

try:
    import transformers
except ImportError as missing:
    raise StpruneError(f"'{missing.name}' is not installed; install it with pip install 'transformers>=5.18'") from None

HOOK = 'mm_encoder_outputs'  # came with transformers 5.18
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model consists of: weights, tokenizer, image processor and the family that knows how to use them."""

    model: Any
    tokenizer: Any
    processor: Any
    family: Family
    info: ModelInfo


def load_parts(
    path_or_id: str | Path,
    *,
    device: str = 'auto',
    dtype: str = 'auto',
    revision: str = '',
    allow_download: bool = False,
) -> Parts:
    """Load a model folder or hub id: safetensors only, no code of its own, no network without ``allow_download``.

    ``device`` 'auto' is CUDA where there is one; ``dtype`` 'auto' is the weights' own, on the CPU float32.
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
    tokenizer.chat_template = legacy_template(folder.path) or tokenizer.chat_template
    check_parts(folder, config, tokenizer)
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
    check_weights(folder, report)
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
    return Parts(model, tokenizer, processor, folder.family, info)


def whole_config(folder: ModelFolder) -> dict[str, Any]:
    """config.json with every default filled in."""
    with _naming('config.json', folder):
        config: dict[str, Any] = supported_class(folder.family).config_class.from_pretrained(folder.path).to_dict()
    return config


def cache_argument(model: Any) -> str:
    """What ``forward`` calls its cache: another name since transformers 5.24."""
    return 'cache' if 'cache' in inspect.signature(type(model).forward).parameters else 'past_key_values'


def stored_dtype(dtype: str, device: str) -> str:
    """The type that weights will be held in, '' for their own."""
    chosen = _dtype(dtype, _device(device))
    return '' if isinstance(chosen, str) else str(chosen).removeprefix('torch.')


def device_memory(name: str) -> int | None:
    """Free bytes of a GPU of its own; None for the CPU and integrated GPUs, which use the machine's memory."""
    place = _device(name)
    if place.type != 'cuda' or torch.cuda.get_device_properties(place).is_integrated:
        return None
    return int(torch.cuda.mem_get_info(place)[0])


def untrained_parts(
    name: str, family: Family, config: dict[str, Any], parts: Path, processor: dict[str, Any], dtype: str
) -> Parts:
    """A model of the given shape with random weights, for measuring: the same time and memory, no answers.

    ``config`` holds text_config and vision_config, ``processor`` what differs in the image processor; tokenizer and
    chat template come from the folder ``parts``.
    """
    model_class = supported_class(family)
    tokenizer = transformers.AutoTokenizer.from_pretrained(parts, local_files_only=True)
    images = transformers.AutoImageProcessor.from_pretrained(parts, backend='pil', local_files_only=True, **processor)
    marks = {'image': '<|image_pad|>', 'video': '<|video_pad|>', 'vision_start': '<|vision_start|>'}
    ids = {f'{key}_token_id': tokenizer.convert_tokens_to_ids(mark) for key, mark in marks.items()}
    place = _device('auto')
    shape = model_class.config_class(**config, **ids)
    shape.dtype = shape.text_config.dtype = shape.vision_config.dtype = DTYPES[dtype]
    with place:
        model = model_class._from_config(shape, dtype=DTYPES[dtype]).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    info = ModelInfo(name, '', family.model_type, False, str(place), dtype)
    return Parts(model, tokenizer, images, family, info)


def supported_class(family: Family, library: Any = transformers) -> Any:
    """The model class of ``family``; StpruneError where the installed transformers is too old for pruned prompts."""
    model_class = getattr(library, family.architecture, None)
    if model_class is None or HOOK not in inspect.signature(model_class.forward).parameters:
        raise StpruneError(
            f'transformers {library.__version__} is too old for pruned prompts with {family.model_type};'
            ' install transformers>=5.18'
        )
    return model_class


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
