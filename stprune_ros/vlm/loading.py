"""The model and the prompt that the settings ask for; node, replay and benchmarks load them here."""

from __future__ import annotations

from pathlib import Path

from stprune_ros.settings import Settings
from stprune_ros.share import share
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.memory import Budget, Load, available, budget_of
from stprune_ros.vlm.model_folder import find_model, hub_snapshot, read_json
from stprune_ros.vlm.prompt import Prompt

BUNDLED_MODEL = 'models/ringworld'
RING = 6  # cameras, where the settings leave them to be found in a bag
DEFAULT_PROMPT = 'config/prompts/driving.yaml'


def load(settings: Settings) -> tuple[Backend, Prompt]:
    """Backend and prompt of ``model.*`` and ``prompt.file``.

    Raises StpruneError naming what is missing, wrong or unsupported.
    """
    path = settings['model.path'] or str(share(BUNDLED_MODEL))
    prompt = Prompt.load(settings['prompt.file']) if settings['prompt.file'] else None
    # Takes seconds to import: a wrong prompt file has been named by now.
    from stprune_ros.vlm.transformers_backend import TransformersBackend

    backend = TransformersBackend.load(
        path,
        device=settings['model.device'],
        dtype=settings['model.dtype'],
        revision=settings['model.revision'],
        allow_download=settings['model.allow_download'],
        max_image_pixels=settings['model.max_image_pixels'],
    )
    return backend, prompt or Prompt.load(prompt_file(path, settings['model.revision']))


def memory(settings: Settings, pixels: int, memory_bytes: int | None = None) -> tuple[Budget, int, Load]:
    """What the settings' model will take, bytes there are (``memory_bytes`` if given), and the load counted for.

    ``pixels`` per camera image. Weights are not loaded. Raises StpruneError as `load` does.
    """
    folder = find_model(
        settings['model.path'] or share(BUNDLED_MODEL), settings['model.revision'], settings['model.allow_download']
    )
    from stprune_ros.vlm.transformers_loading import device_memory, stored_dtype, whole_config

    names = ('preprocessor_config.json', 'processor_config.json')
    processor = next(read_json(folder.path / name) for name in names if (folder.path / name).is_file())
    shown = Load(
        len(settings['cameras.names']) or RING,
        settings['history.frames'],
        pixels,
        settings['model.max_image_pixels'],
        1.0 if settings['pruning.method'] == 'none' else settings['pruning.keep_ratio'],
    )
    dtype = stored_dtype(settings['model.dtype'], settings['model.device'])
    counted = budget_of(folder.family, whole_config(folder), processor, folder.weights, dtype, shown)
    there = memory_bytes or device_memory(settings['model.device']) or available()
    return counted, there, shown


def prompt_file(model: str, revision: str) -> Path:
    """The prompt that a model folder or hub snapshot brings along, else the package's own."""
    folder = Path(model) if Path(model).is_dir() else hub_snapshot(model, revision, allow_download=False)
    own = folder / 'prompt.yaml'
    return own if own.is_file() else share(DEFAULT_PROMPT)
