"""Find a model on this machine and check its files before anything is loaded; no transformers import."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stprune_ros.errors import ModelError, one_line
from stprune_ros.vlm.hf.families import FAMILIES
from stprune_ros.vlm.hf.family import Family

HUB_ID = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')
HUB_FILES = ['*.json', '*.safetensors', '*.txt', '*.jinja', '*.yaml']
LFS_POINTER = b'version https://git-lfs'


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A checked model folder: every file is there, the family is known; ``weights`` lists the safetensors files.

    ``trained`` and ``domain`` are what stprune.json says, see `ModelInfo`.
    """

    path: Path
    model_id: str
    revision: str
    family: Family
    trained: bool
    domain: str
    weights: tuple[Path, ...]


def find_model(path_or_id: str | Path, revision: str = '', allow_download: bool = False) -> ModelFolder:
    """The folder ``path_or_id``, or the local snapshot of that hub id; downloads only with ``allow_download``.

    The revision is the hub commit, or for a folder 12 hex digits of the SHA-256 over its safetensors files.
    Raises ModelError naming what is missing or unsupported.
    """
    folder = locate_model(path_or_id, revision, allow_download)
    return folder if folder.revision else replace(folder, revision=digest(folder.weights))


def locate_model(path_or_id: str | Path, revision: str = '', allow_download: bool = False) -> ModelFolder:
    """`find_model` without reading the weights: the revision of a folder stays empty."""
    path = Path(path_or_id)
    if str(path_or_id) and path.is_dir():
        return replace(check_folder(path), model_id=path.resolve().name)
    if path.is_file():
        raise ModelError(f"model '{path}' is a file; set model.path to the folder that holds it")
    if not HUB_ID.fullmatch(str(path_or_id)):
        raise ModelError(f"model folder '{path_or_id}' does not exist; set model.path to a model folder or a hub id")
    snapshot = hub_snapshot(str(path_or_id), revision, allow_download)
    return replace(check_folder(snapshot), model_id=str(path_or_id), revision=snapshot.name)


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


def check_folder(path: Path) -> ModelFolder:
    """Check that ``path`` holds a supported model with all its files; identity fields stay empty."""
    family = _family(path)
    weights = _weights(path)
    slow_tokenizer = (path / 'vocab.json').is_file() and (path / 'merges.txt').is_file()
    if not (path / 'tokenizer.json').is_file() and not slow_tokenizer:
        raise ModelError(f"model folder '{path}' has no tokenizer: tokenizer.json, or vocab.json with merges.txt")
    if not (path / 'tokenizer_config.json').is_file():
        raise ModelError(f"model folder '{path}' has no tokenizer_config.json")
    if not (path / 'preprocessor_config.json').is_file() and not (path / 'processor_config.json').is_file():
        raise ModelError(f"model folder '{path}' has no image processor: preprocessor_config.json")
    return ModelFolder(path, '', '', family, *_facts(path), weights)


def digest(weights: tuple[Path, ...]) -> str:
    """12 hex digits of the SHA-256 over the files, in the given order."""
    total = hashlib.sha256()
    for path in weights:
        with path.open('rb') as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()[:12]


def legacy_template(path: Path) -> str | None:
    """The chat template of chat_template.json, which only processors used to read; None where a newer file counts."""
    legacy = path / 'chat_template.json'
    if (path / 'chat_template.jinja').is_file() or not legacy.is_file():
        return None
    template = read_json(legacy).get('chat_template')
    return template if isinstance(template, str) else None


def _family(path: Path) -> Family:
    if not (path / 'config.json').is_file():
        raise ModelError(f"'{path}' is no model folder: it has no config.json")
    model_type = str(read_json(path / 'config.json').get('model_type'))
    if model_type not in FAMILIES:
        raise ModelError(
            f"model family '{model_type}' of '{path}' is not supported; supported are {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def _weights(path: Path) -> tuple[Path, ...]:
    index = path / 'model.safetensors.index.json'
    names = ['model.safetensors']
    if index.is_file():
        names = sorted(set(read_json(index).get('weight_map', {}).values()))
    elif not (path / names[0]).is_file() and any(path.glob('*.bin')):
        raise ModelError(
            f"model folder '{path}' has weights as .bin only; convert them to safetensors, nothing else is loaded"
        )
    for name in names:
        if not (path / name).is_file():
            raise ModelError(f"model folder '{path}' has no weights file '{name}'")
        with (path / name).open('rb') as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise ModelError(f"weights file '{path / name}' is only a Git LFS pointer; fetch it with git lfs pull")
    return tuple(path / name for name in names)


def _facts(path: Path) -> tuple[bool, str]:
    """What stprune.json beside the weights says; a model without that file is taken as trained, for anything."""
    note = path / 'stprune.json'
    if not note.is_file():
        return True, ''
    facts = read_json(note)
    key = 'domain' if 'domain' in facts or 'knows' not in facts else 'knows'  # the old name, for one release
    trained, domain = facts.get('trained'), facts.get(key, '')
    if not isinstance(trained, bool):
        raise ModelError(f"'trained' in '{note}' is {trained!r}; it must be true or false")
    if not isinstance(domain, str):
        raise ModelError(f"'{key}' in '{note}' is {domain!r}; it must be a text")
    return trained, domain


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ModelError naming it where it does not."""
    try:
        value = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ModelError(f"'{path}' cannot be read as JSON: {one_line(error)}") from None
    if not isinstance(value, dict):
        raise ModelError(f"'{path}' holds no JSON object")
    return value
