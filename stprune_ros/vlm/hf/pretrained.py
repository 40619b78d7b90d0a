"""A model folder read through transformers: configuration, tokenizer and image processor, then the weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from stprune_ros.vlm.device import DTYPES
from stprune_ros.vlm.hf.family import Family
from stprune_ros.vlm.hf.files import NUMBERS, TOWER, Tensor, tensors
from stprune_ros.vlm.hf.library import transformers
from stprune_ros.vlm.hf.model_checks import check_parts, check_weights, error_context, supported_class
from stprune_ros.vlm.hf.model_folder import ModelFolder, image_processor_name, processor_template
from stprune_ros.vlm.hf.quantization import bitsandbytes_options, require_packable, torchao_options, try_kernel

# Names of image processors in checkpoints that are older than their family in transformers, which has no such class.
FIRST_RELEASE = ('Qwen2_5_VLImageProcessor',)
LOCAL = {'local_files_only': True, 'trust_remote_code': False}


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model folder holds beside the weights."""

    config: Any
    tokenizer: Any
    processor: Any


def read_parts(folder: ModelFolder) -> Parts:
    """Read and check everything but the weights.

    Raises ModelError naming the part that is broken or does not fit, or where transformers is too old.
    """
    model_class = supported_class(folder.family, transformers)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # what matters is raised here, in one sentence
    with error_context('config.json', folder):
        config = model_class.config_class.from_pretrained(folder.path)
    with error_context('tokenizer', folder):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder.path, config=config, **LOCAL)
    with error_context('image processor', folder):
        # The PIL backend everywhere: the same pixels, so the same hints, with and without torchvision.
        # With the configuration, a name that is not known stands for the family's own image processor.
        by_family = {'config': config} if image_processor_name(folder.path) in FIRST_RELEASE else {}
        processor = transformers.AutoImageProcessor.from_pretrained(folder.path, backend='pil', **by_family, **LOCAL)
    tokenizer.chat_template = processor_template(folder.path) or tokenizer.chat_template
    check_parts(folder, config, tokenizer)
    return Parts(config, tokenizer, processor)


def load_pretrained(
    folder: ModelFolder, config: Any, device: torch.device, dtype: torch.dtype | None, quantization: str
) -> Any:
    """The model of ``folder`` with its weights, from safetensors only; ``dtype`` None is that of the weights.

    ``quantization`` '4bit' or '8bit' packs the language model's matrices with bitsandbytes while loading, 'int4' with
    torchao.
    Raises ModelError where weights are missing or broken, or packed in a way that the device cannot run.
    """
    # Packed weights go straight to their device: moving them later is refused for some.
    packed: dict[str, Any] = {'device_map': {'': device}} if folder.packed else {}
    if quantization != 'none':
        require_packable(quantization, device, dtype)
    if folder.packed or quantization != 'none':
        try_kernel(folder.packed or quantization, device, dtype)
    if quantization != 'none':
        how = _packing(quantization, folder.family, device, dtype)
        packed = {'quantization_config': how, 'device_map': {'': device}}
    with error_context('model', folder):
        model, report = supported_class(folder.family, transformers).from_pretrained(
            folder.path,
            config=config,
            dtype=dtype or 'auto',
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **packed,
        )
    check_weights(folder, report)
    with error_context('model', folder):
        return model.eval() if packed else model.to(device).eval()  # a packed model is where it belongs


def _packing(name: str, family: Family, device: torch.device, dtype: torch.dtype | None) -> Any:
    if name == 'int4':
        return transformers.TorchAoConfig(**torchao_options(device, family))
    return transformers.BitsAndBytesConfig(**bitsandbytes_options(name, family, dtype))


def load_tower(folder: ModelFolder, config: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """The model of ``folder`` with the weights of its vision tower only: those of the rest are shapes without memory.

    Its generation settings are those of the folder; ``dtype`` None is that of the tower's weights.
    Raises ModelError where weights of the tower are missing, broken or of another shape.
    """
    held = {found[1]: tensor for tensor in _tensors(folder) if (found := TOWER.match(tensor.name))}
    with error_context('model', folder):
        with torch.device('meta'):
            model = supported_class(folder.family, transformers)._from_config(config)
        if (folder.path / 'generation_config.json').is_file():
            model.generation_config = transformers.GenerationConfig.from_pretrained(folder.path, **LOCAL)
        own = DTYPES.get(NUMBERS.get(next(iter(held.values())).kind, ''), torch.float32) if held else None
        tower = type(model.base_model.visual)._from_config(config.vision_config, dtype=dtype or own)
    weights = dict(tower.named_parameters())
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    report = {
        'missing_keys': shapes.keys() - held.keys(),
        'unexpected_keys': held.keys() - shapes.keys(),
        'mismatched_keys': [
            (tensor.name, tensor.shape, shapes[name])
            for name, tensor in held.items()
            if tensor.shape != shapes.get(name, tensor.shape)
        ],
    }
    check_weights(folder, report)
    places = {tensor.name: weights[name] for name, tensor in held.items() if name in weights}
    for path in folder.weights:
        with error_context('model', folder), torch.no_grad(), safe_open(path, 'pt') as file:
            for name in places.keys() & set(file.keys()):
                places[name].copy_(file.get_tensor(name))
    model.base_model.visual = tower.to(device)
    return model.eval()


def _tensors(folder: ModelFolder) -> Iterator[Tensor]:
    for path in folder.weights:
        yield from tensors(path)


def random_model(
    family: Family,
    config: dict[str, Any],
    tokens: dict[str, str],
    folder: Path,
    processor: dict[str, Any],
    device: torch.device,
    dtype: str,
) -> tuple[Any, Parts]:
    """A model of the given shape with random weights; tokenizer and chat template come from ``folder``.

    See `TransformersBackend.untrained` for the arguments.
    """
    model_class = supported_class(family, transformers)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    images = transformers.AutoImageProcessor.from_pretrained(folder, backend='pil', local_files_only=True, **processor)
    ids = {key: tokenizer.convert_tokens_to_ids(token) for key, token in tokens.items()}
    shape = model_class.config_class(**config, **ids)
    shape.dtype = shape.text_config.dtype = shape.vision_config.dtype = DTYPES[dtype]
    with device:
        model = model_class._from_config(shape, dtype=DTYPES[dtype]).eval()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model, Parts(shape, tokenizer, images)
