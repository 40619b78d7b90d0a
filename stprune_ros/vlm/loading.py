"""The model and the prompt that the settings ask for: node, replay and benchmarks load them here.

A new engine is a folder beside ``hf/`` that implements `Backend`, and an entry in ENGINES.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stprune_ros.errors import ModelError, SettingsError
from stprune_ros.progress import Say, say_nothing
from stprune_ros.pruning.config import LEFT_TO_MODEL
from stprune_ros.resources import resource_path
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.hf.files import gib
from stprune_ros.vlm.hf.folder_faults import packed_bits
from stprune_ros.vlm.hf.model_folder import (
    ModelFolder,
    asked_joint_common,
    find_model,
    hub_snapshot,
    inspect_folder,
    locate_folder,
    locate_model,
    packing_fault,
)
from stprune_ros.vlm.hf.weight_faults import weight_names
from stprune_ros.vlm.hint_calibration import HintCalibration
from stprune_ros.vlm.prompt import Prompt

if TYPE_CHECKING:  # they import torch
    from stprune_ros.vlm.hf.memory import MemoryEstimate, Ring

BUNDLED_MODEL = 'models/ringworld'
DEFAULT_PROMPT = 'config/prompts/driving.yaml'
DEFAULT_VIEWS = 6  # of a ring whose cameras are not named yet


def require_model(settings: Settings) -> None:
    """Raise what `load_model` would say about the files that it reads, before torch is imported.

    Raises ModelError naming all that is wrong with the prompt file, the calibration file or the model folder.
    """
    prompt = Prompt.load(settings.prompt.file) if settings.prompt.file else None
    load_calibration(settings, prompt)
    faults, _ = inspect_model(settings)
    if faults:
        raise ModelError('\n'.join(faults))


def load_model(settings: Settings, say: Say = say_nothing) -> tuple[Backend, Prompt]:
    """Backend and prompt of ``model.*`` and ``prompt.*``; ``say`` gets a line about what takes longer than a second.

    Raises ModelError naming what is missing, wrong or unsupported, SettingsError for an unknown engine.
    """
    path = model_path(settings)
    # Before the engine, which takes seconds to import.
    prompt = Prompt.load(settings.prompt.file) if settings.prompt.file else None
    calibration = load_calibration(settings, prompt)
    if not settings.model.path:
        from stprune_ros.vlm.device import use_one_thread

        use_one_thread()  # the bundled model is too small for threads to help it
    backend = load_engine(settings.model.engine, settings, say)
    prompt = prompt or Prompt.load(prompt_file(path, settings.model.revision))
    backend.check_candidates(prompt.hint_question, [text for _, text in prompt.candidates])
    if calibration is not None:
        calibration.require_prompt(prompt.id, prompt.behaviors)
        calibration.require_model(backend.info.model_id, backend.info.revision)
        calibration.require_settings(settings.for_model(backend.info.joint_common))
    return backend, replace(prompt, calibration=calibration)


def load_calibration(settings: Settings, prompt: Prompt | None = None) -> HintCalibration | None:
    """The calibration that ``prompt.calibration`` names, None where it is empty.

    Raises ModelError where it cannot be read, or does not hold for these settings or for ``prompt``.
    """
    if not settings.prompt.calibration:
        return None
    found = HintCalibration.load(settings.prompt.calibration)
    found.require_settings(as_its_model_asks(settings))
    if prompt is not None:
        found.require_prompt(prompt.id, prompt.behaviors)
    return found


def as_its_model_asks(settings: Settings) -> Settings:
    """With the weight of commonness that the model folder asks for; as they are where there is none here."""
    try:
        folder = locate_folder(model_path(settings), settings.model.revision)
        return settings.for_model(asked_joint_common(folder))
    except ModelError:  # which is said where the model is loaded
        return settings


def load_engine(name: str, settings: Settings, say: Say = say_nothing) -> Backend:
    """The model of ``model.*`` on the engine ``name`` of ENGINES; ``say`` as in `load_model`.

    Raises SettingsError for an unknown engine, ModelError where the model cannot be loaded.
    """
    if name not in ENGINES:
        raise SettingsError(f"parameter 'model.engine' is '{name}'; known are {', '.join(sorted(ENGINES))}")
    return ENGINES[name](settings, say)


def _load_transformers(settings: Settings, say: Say) -> Backend:
    from stprune_ros.vlm.hf.backend import TransformersBackend

    return TransformersBackend.load(
        model_path(settings),
        device=settings.model.device,
        dtype=settings.model.dtype,
        revision=settings.model.revision,
        allow_download=settings.model.allow_download,
        max_image_pixels=settings.model.max_image_pixels,
        side_image_pixels=settings.model.side_image_pixels,
        quantization=settings.model.quantization,
        say=say,
    )


def _load_llama_cpp(settings: Settings, say: Say) -> Backend:
    from stprune_ros.vlm.llama_cpp.backend import LlamaCppBackend

    return LlamaCppBackend.load(
        model_path(settings),
        settings.model.gguf,
        library=settings.model.engine_library,
        context_tokens=settings.model.context_tokens,
        device=settings.model.device,
        dtype=settings.model.dtype,
        revision=settings.model.revision,
        allow_download=settings.model.allow_download,
        max_image_pixels=settings.model.max_image_pixels,
        side_image_pixels=settings.model.side_image_pixels,
        say=say,
    )


# Loaders by the name of their engine; a library is imported only when its engine is asked for.
ENGINES: Mapping[str, Callable[[Settings, Say], Backend]] = {
    'transformers': _load_transformers,
    'llama.cpp': _load_llama_cpp,
}


def inspect_model(settings: Settings, here: bool = True) -> tuple[list[str], list[str]]:
    """All that is wrong with the model folder of ``model.*``, and what is worth knowing about it, one sentence each.

    With engine llama.cpp also with the GGUF file, the library, and between all three; a library that will not run
    ``here`` is not looked at. Imports neither torch nor transformers.
    """
    try:
        folder = locate_folder(model_path(settings), settings.model.revision, settings.model.allow_download)
    except ModelError as error:
        return [str(error)], []
    faults, notes = inspect_folder(folder)
    if not faults:
        faults = packing_fault(folder, packed_bits(folder), settings.model.quantization)
    if not faults and settings.model.engine == 'llama.cpp':
        from stprune_ros.vlm.llama_cpp.pairing import engine_faults

        faults = engine_faults(settings.model.gguf, settings.model.engine_library if here else None, folder)
    if not faults and settings.pruning.joint_common == LEFT_TO_MODEL:
        asked = asked_joint_common(folder)
        said = 'says nothing of it' if asked is None else 'asks for that'
        weight = settings.pruning.for_model(asked).joint_common
        notes = [*notes, f"'pruning.joint_common' is left to the model: {weight:g}, stprune.json {said}"]
    return faults, notes


def require_calibration(settings: Settings, say: Say = say_nothing) -> None:
    """Raise ModelError where the calibration of ``prompt.calibration`` is not for the model and prompt of ``settings``.

    Reads the weights of a folder for their digest, unless that is known; ``say`` as in `load_model`.
    """
    calibration = load_calibration(settings)
    if calibration is None:
        return
    prompt = Prompt.load(settings.prompt.file or prompt_file(model_path(settings), settings.model.revision))
    calibration.require_prompt(prompt.id, prompt.behaviors)
    calibration.require_model(*_model_id(settings, say))


class ModelIdentity(NamedTuple):
    """What tells a model with its prompt from others, as summary.json names it."""

    model_id: str
    model_revision: str
    prompt_id: str
    hint_calibration_id: str
    joint_common: float


def model_identity(settings: Settings, say: Say = say_nothing) -> ModelIdentity:
    """What `load_model` would load. Reads weights for their digest, unless that is known; ``say`` as there.

    Imports no torch. Raises ModelError where there is no such model.
    """
    prompt = Prompt.load(settings.prompt.file or prompt_file(model_path(settings), settings.model.revision))
    calibration = load_calibration(settings, prompt)
    model_id = _model_id(settings, say)
    weight = as_its_model_asks(settings).pruning.joint_common
    return ModelIdentity(*model_id, prompt.id, calibration.id if calibration is not None else '', weight)


def _model_id(settings: Settings, say: Say) -> tuple[str, str]:
    """Name and revision of the model."""
    path, model = model_path(settings), settings.model
    if model.engine == 'llama.cpp':
        from stprune_ros.vlm.llama_cpp.pairing import revision_of

        folder = locate_model(path, model.revision, model.allow_download)
        return folder.model_id, revision_of(folder.weights, model.gguf, say)
    folder = find_model(path, model.revision, model.allow_download, say)
    return folder.model_id, folder.revision


class MemoryCheck(NamedTuple):
    """What a model takes of its device's memory: in words, whether that fits, a warning or '', and the figures.

    ``figures`` are bytes and tokens of the estimate by name, and ``free``, None where nobody knows it.
    """

    text: str
    fits: bool
    warning: str
    figures: Mapping[str, Any]


def check_memory(settings: Settings, size: tuple[int, int], free: int | None = None) -> MemoryCheck:
    """What the model of ``model.*`` takes of its device's memory.

    See `estimate_memory`. With ``free`` bytes given, the device is that of another machine.
    """
    from stprune_ros.vlm.device import Memory, find_device, free_memory
    from stprune_ros.vlm.hf.memory import largest_ratio, summary_text, tight

    found, ring, folder = _estimate(settings, size, here=free is None)
    device = find_device(settings.model.device, here=free is None)
    memory = free_memory(device) if free is None else Memory(free, '--memory')
    head = (
        f'{folder.model_id} ({folder.family.model_type}) on {device}: {ring.views} views of {ring.frames} frames,'
        f' images of {size[1]}x{size[0]} (--image)'
    )
    fits = memory.free is None or found.kept <= memory.free
    text = f'{head}\n{summary_text(found, memory, largest_ratio(settings))}'
    figures = {**asdict(found), 'kept': found.kept, 'full': found.full, 'free': memory.free}
    return MemoryCheck(text, fits, tight(found, memory), figures)


def estimate_memory(settings: Settings, size: tuple[int, int]) -> MemoryEstimate:
    """What the model of ``model.*`` takes of its device's memory.

    Loads no weights. Images are ``size`` = (height, width) pixels; without ``cameras.names`` there are six cameras.
    Raises ModelError where the model folder is not what `load_model` would take.
    """
    return _estimate(settings, size, here=True)[0]


def _estimate(settings: Settings, size: tuple[int, int], here: bool) -> tuple[MemoryEstimate, Ring, ModelFolder]:
    folder = locate_model(
        model_path(settings),
        settings.model.revision,
        settings.model.allow_download,
    )
    for fault in packing_fault(folder.path, folder.packed, settings.model.quantization):
        raise ModelError(fault)
    from stprune_ros.vlm.device import dtype_name, find_device, find_dtype
    from stprune_ros.vlm.hf.family import SIDE_IMAGE_PIXELS
    from stprune_ros.vlm.hf.memory import Ring, memory_estimate
    from stprune_ros.vlm.hf.pretrained import read_parts

    device = find_device(settings.model.device, here=here)
    parts = read_parts(folder)
    config = parts.config.to_dict()
    folder.family.image_options(config, parts.processor, settings.model.max_image_pixels)
    folder.family.image_options(config, parts.processor, settings.model.side_image_pixels, SIDE_IMAGE_PIXELS)
    dtype = dtype_name(find_dtype(settings.model.dtype, device))
    views = len(settings.cameras.names) or DEFAULT_VIEWS
    ring = Ring(views, settings.history.frames, size, side=views - min(front_views(settings), views))
    sizes = (folder, config, parts.processor.to_dict())
    if settings.model.engine == 'llama.cpp':
        from stprune_ros.vlm.llama_cpp.gguf_file import GgufFile
        from stprune_ros.vlm.llama_cpp.memory import engine_memory

        return engine_memory(*sizes, GgufFile.read(settings.model.gguf), settings, ring, dtype), ring, folder
    return memory_estimate(*sizes, settings, ring, dtype, device.type == 'cuda'), ring, folder


def check_candidates(settings: Settings) -> None:
    """Raise ModelError where the model's tokenizer cannot tell the candidates of the prompt apart; loads no weights."""
    path, revision = model_path(settings), settings.model.revision
    folder = locate_model(path, revision, settings.model.allow_download)
    from stprune_ros.vlm.hf.answers import choice_among, unknown_token
    from stprune_ros.vlm.hf.chat import Chat
    from stprune_ros.vlm.hf.pretrained import read_parts

    parts = read_parts(folder)
    prompt = Prompt.load(settings.prompt.file or prompt_file(path, revision))
    chat = Chat(parts.tokenizer, folder.family, parts.config.image_token_id, parts.config.text_config.vocab_size)
    unknown = unknown_token(parts.tokenizer, folder.trained)
    texts = [text for _, text in prompt.candidates]
    choice_among(texts, prompt.hint_question, '', chat, unknown, folder.model_id)


def loading_text(settings: Settings) -> str:
    """What to say before `load_model`: which model, and how many bytes are read. Raises ModelError."""
    folder = locate_folder(model_path(settings), settings.model.revision, settings.model.allow_download)
    files = [folder / name for name in weight_names(folder)]
    if settings.model.gguf:
        files.append(Path(settings.model.gguf))
    return f"loading the model '{folder}', {gib(sum(file.stat().st_size for file in files))} ..."


def front_views(settings: Settings) -> int:
    """How many cameras are no side cameras, at most: an anchor that is not named may be one of the critical ones."""
    return len({settings.cameras.anchor, *settings.cameras.critical})


def model_path(settings: Settings) -> str:
    """The model folder or hub id of ``model.path``, that of the bundled model where it is empty."""
    return settings.model.path or str(resource_path(BUNDLED_MODEL))


def prompt_file(model: str, revision: str) -> Path:
    """The prompt that a model folder or hub snapshot brings along, else the package's own."""
    folder = Path(model) if Path(model).is_dir() else hub_snapshot(model, revision, allow_download=False)
    own = folder / 'prompt.yaml'
    return own if own.is_file() else resource_path(DEFAULT_PROMPT)
