"""The model and the prompt that the settings ask for; node, replay and benchmarks load them here."""

from __future__ import annotations

from pathlib import Path

from stprune_ros.settings import Settings
from stprune_ros.share import share
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.model_folder import hub_snapshot
from stprune_ros.vlm.prompt import Prompt

BUNDLED_MODEL = 'models/ringworld'
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


def prompt_file(model: str, revision: str) -> Path:
    """The prompt that a model folder or hub snapshot brings along, else the package's own."""
    folder = Path(model) if Path(model).is_dir() else hub_snapshot(model, revision, allow_download=False)
    own = folder / 'prompt.yaml'
    return own if own.is_file() else share(DEFAULT_PROMPT)
