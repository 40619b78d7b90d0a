"""GGUF files of the language half of the tiny models: whole ones, and ones that somebody tampered with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stprune_ros.vlm.llama_cpp.export import export_gguf


def make_tiny_gguf(folder: Path, path: Path, kind: str = 'F32') -> Path:
    """The language model of the model folder, its matrices as ``kind``."""
    export_gguf(str(folder), path, kind)
    return path


def changed_gguf(source: Path, path: Path, entries: Mapping[str, Any], architecture: str = '') -> Path:
    """A copy of a GGUF file of float32 with other entries in its header; None leaves one out."""
    import gguf

    reader = gguf.GGUFReader(source)
    held = {name: field for name, field in reader.fields.items() if not name.startswith('GGUF.')}
    own = held.pop('general.architecture').contents()
    writer = gguf.GGUFWriter(path, architecture or own)
    for name, field in held.items():
        value = entries.get(name, field.contents())
        if value is not None:
            renamed = name.replace(own, architecture, 1) if architecture and name.startswith(own) else name
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(renamed, value, field.types[0], sub_type=inner)
    for name in entries.keys() - held.keys():
        writer.add_uint32(name, entries[name])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
