"""The model and the prompt that the settings ask for; node, replay and benchmarks load them here."""

from __future__ import annotations

from pathlib import Path

from stprune_ros.resources import resource_path
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.hf.model_folder import hub_snapshot, locate_model
from stprune_ros.vlm.prompt import Prompt

BUNDLED_MODEL = 'models/ringworld'
DEFAULT_PROMPT = 'config/prompts/driving.yaml'
SIX = 6  # views of a ring whose cameras are not named yet


def load(settings: Settings) -> tuple[Backend, Prompt]:
    """Backend and prompt of ``model.*`` and ``prompt.file``.

    Raises StpruneError naming what is missing, wrong or unsupported.
    """
    path = _model_path(settings)
    prompt = Prompt.load(settings.prompt.file) if settings.prompt.file else None
    # Takes seconds to import: a wrong prompt file has been named by now.
    from stprune_ros.vlm.hf.backend import TransformersBackend

    backend = TransformersBackend.load(
        path,
        device=settings.model.device,
        dtype=settings.model.dtype,
        revision=settings.model.revision,
        allow_download=settings.model.allow_download,
        max_image_pixels=settings.model.max_image_pixels,
        quantization=settings.model.quantization,
    )
    return backend, prompt or Prompt.load(prompt_file(path, settings.model.revision))


def check_memory(settings: Settings, size: tuple[int, int]) -> tuple[str, bool]:
    """What the model of ``model.*`` takes of its device's memory, in words, and whether that fits; loads no weights.

    Images are ``size`` = (height, width) pixels; without ``cameras.names`` there are six cameras.
    Raises StpruneError where the model folder is not what `load` would take.
    """
    folder = locate_model(
        _model_path(settings),
        settings.model.revision,
        settings.model.allow_download,
    )
    from stprune_ros.vlm.device import find_device, find_dtype, free_memory, name_of
    from stprune_ros.vlm.hf.backend import read_parts
    from stprune_ros.vlm.hf.memory import Ring, as_text, budget

    device = find_device(settings.model.device)
    parts = read_parts(folder)
    config = parts.config.to_dict()
    folder.family.image_options(config, parts.processor, settings.model.max_image_pixels)
    dtype = name_of(find_dtype(settings.model.dtype, device))
    ring = Ring(len(settings.cameras.names) or SIX, settings.history.frames, size)
    found = budget(folder, config, parts.processor.to_dict(), settings, ring, dtype)
    memory = free_memory(device)
    head = f'{folder.model_id} ({folder.family.model_type}) on {device}: {ring.views} views of {ring.frames} frames'
    fits = memory.free is None or found.kept <= memory.free
    return f'{head}\n{as_text(found, memory, settings.pruning.keep_ratio)}', fits


def _model_path(settings: Settings) -> str:
    return settings.model.path or str(resource_path(BUNDLED_MODEL))


def prompt_file(model: str, revision: str) -> Path:
    """The prompt that a model folder or hub snapshot brings along, else the package's own."""
    folder = Path(model) if Path(model).is_dir() else hub_snapshot(model, revision, allow_download=False)
    own = folder / 'prompt.yaml'
    return own if own.is_file() else resource_path(DEFAULT_PROMPT)
