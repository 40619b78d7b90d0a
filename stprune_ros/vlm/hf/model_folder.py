"""Find a model on this machine and check its files before anything is loaded; no torch, no transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stprune_ros.errors import MAX_NAME, ModelError, one_line, plain, shown
from stprune_ros.progress import Say, say_nothing
from stprune_ros.vlm.hf.files import PROCESSOR, read_json
from stprune_ros.vlm.hf.folder_faults import folder_faults, packed_bits
from stprune_ros.vlm.hf.weight_digest import weights_digest
from stprune_ros.vlm.hf.weight_faults import weight_names

if TYPE_CHECKING:
    from stprune_ros.vlm.hf.family import Family

HUB_ID = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')
HUB_FILES = ['*.json', '*.safetensors', '*.txt', '*.jinja', '*.yaml']


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A checked model folder: every file is there, the family is known; ``weights`` lists the safetensors files.

    ``trained``, ``domain`` and ``joint_common`` are what stprune.json says, see `ModelInfo`; ``packed`` is '4bit' or
    '8bit' where the weights are packed already; ``notes`` are sentences about what is there and not used.
    """

    path: Path
    model_id: str
    revision: str
    family: Family
    trained: bool
    domain: str
    joint_common: float | None
    weights: tuple[Path, ...]
    packed: str = ''
    notes: tuple[str, ...] = ()


def find_model(
    path_or_id: str | Path, revision: str = '', allow_download: bool = False, say: Say = say_nothing
) -> ModelFolder:
    """The folder ``path_or_id``, or the local snapshot of that hub id; downloads only with ``allow_download``.

    The revision is the hub commit, or for a folder the digest of its safetensors files, see `weights_digest`.
    Raises ModelError naming what is missing or unsupported.
    """
    folder = locate_model(path_or_id, revision, allow_download)
    return folder if folder.revision else replace(folder, revision=weights_digest(folder.weights, say))


def locate_model(path_or_id: str | Path, revision: str = '', allow_download: bool = False) -> ModelFolder:
    """`find_model` without reading the weights: the revision of a folder stays empty."""
    path = locate_folder(path_or_id, revision, allow_download)
    if Path(path_or_id).is_dir():
        return replace(check_folder(path), model_id=path.resolve().name)
    return replace(check_folder(path), model_id=str(path_or_id), revision=path.name)


def locate_folder(path_or_id: str | Path, revision: str = '', allow_download: bool = False) -> Path:
    """The folder of a model, unchecked: ``path_or_id`` itself, or the snapshot of that hub id. Raises ModelError."""
    require_path(path_or_id)
    path = Path(path_or_id)
    return path if path.is_dir() else hub_snapshot(str(path_or_id), revision, allow_download)


def require_path(path_or_id: str | Path) -> None:
    """Raise ModelError where ``path_or_id`` is neither a folder nor could be a hub id."""
    path = Path(path_or_id)
    if str(path_or_id) and path.is_dir():
        return
    if path.is_file():
        raise ModelError(f"model '{path}' is a file; set model.path to the folder that holds it")
    if not HUB_ID.fullmatch(str(path_or_id)):
        raise ModelError(f"model folder '{path_or_id}' does not exist; set model.path to a model folder or a hub id")


def hub_snapshot(hub_id: str, revision: str, allow_download: bool) -> Path:
    """Local folder with the files of ``hub_id``; touches the network only with ``allow_download``."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    named = f"model '{hub_id}'" + (f" at revision '{revision}'" if revision else '')
    try:
        found = huggingface_hub.snapshot_download(
            hub_id, revision=revision or None, local_files_only=not allow_download, allow_patterns=HUB_FILES
        )
    except LocalEntryNotFoundError:
        if allow_download:
            raise ModelError(f'{named} cannot be downloaded: the hub is not reachable from this machine') from None
        raise ModelError(f'{named} is not on this machine; download it or set model.allow_download: true') from None
    except (OSError, ValueError) as error:
        raise ModelError(f'{named} cannot be downloaded: {one_line(error)}') from None
    return Path(found)


def inspect_folder(path: Path) -> tuple[list[str], list[str]]:
    """All that is wrong with a model folder, and what is worth knowing about it; one sentence each."""
    faults, notes = folder_faults(path)
    try:
        _facts(path)
    except ModelError as error:
        faults.append(str(error))
    return faults, notes


def asked_joint_common(path: Path) -> float | None:
    """The pruning.joint_common that a model folder asks for, None where it says nothing. Raises ModelError."""
    return _facts(path)[2]


def check_folder(path: Path) -> ModelFolder:
    """Check that ``path`` holds a supported model with all its files; identity fields stay empty.

    Raises ModelError naming all that is wrong, one fault a line.
    """
    faults, notes = inspect_folder(path)
    if faults:
        raise ModelError('\n'.join(faults))
    from stprune_ros.vlm.hf.families import FAMILIES  # brings torch, which a fault need not wait for

    family = FAMILIES[str(read_json(path / 'config.json')['model_type'])]
    weights = tuple(path / name for name in weight_names(path))
    return ModelFolder(path, '', '', family, *_facts(path), weights, packed_bits(path), tuple(notes))


def packing_fault(path: Path, packed: str, quantization: str) -> list[str]:
    """What is wrong between weights that are ``packed`` already and ``model.quantization``; empty where nothing is."""
    if not packed or quantization == 'none':
        return []
    return [
        f"parameter 'model.quantization' is '{quantization}', but the weights of '{path}' are packed with bitsandbytes"
        " already: set it to 'none'"
    ]


def processor_template(path: Path) -> str | None:
    """The chat template that only processors read; None where the tokenizer's own counts.

    As the library has it, the one in processor_config.json comes before all others; chat_template.json is the oldest.
    """
    if (path / PROCESSOR).is_file():
        template = read_json(path / PROCESSOR).get('chat_template')
        if isinstance(template, str):
            return template
    legacy = path / 'chat_template.json'
    if (path / 'chat_template.jinja').is_file() or not legacy.is_file():
        return None
    template = read_json(legacy).get('chat_template')
    return template if isinstance(template, str) else None


def image_processor_name(path: Path) -> str:
    """The class that a model folder names for its image processor, '' where it names none."""
    file = path / 'preprocessor_config.json'
    found = read_json(file if file.is_file() else path / PROCESSOR)
    inner = found.get('image_processor')
    return str((inner if isinstance(inner, Mapping) else found).get('image_processor_type', ''))


def _facts(path: Path) -> tuple[bool, str, float | None]:
    """What stprune.json beside the weights says; a model without that file is taken as trained, for anything."""
    note = path / 'stprune.json'
    if not note.is_file():
        return True, '', None
    facts = read_json(note)
    key = 'domain' if 'domain' in facts or 'knows' not in facts else 'knows'  # the old name, for one release
    trained, domain = facts.get('trained'), facts.get(key, '')
    if not isinstance(trained, bool):
        raise ModelError(f"'trained' in '{note}' is {shown(trained)}; it must be true or false")
    if not isinstance(domain, str):
        raise ModelError(f"'{key}' in '{note}' is {shown(domain)}; it must be a text")
    common = facts.get('pruning.joint_common')
    if common is not None and not (type(common) in (int, float) and 0 <= common <= 10):
        raise ModelError(f"'pruning.joint_common' in '{note}' is {shown(common)}; it must be a number from 0 to 10")
    return trained, plain(domain, 2 * MAX_NAME), None if common is None else float(common)
