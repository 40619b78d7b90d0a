"""GGUF files of the language half of the tiny models, whole ones and ones that were tampered with."""

from __future__ import annotations

from pathlib import Path

from stprune_ros.vlm.llama_cpp.export import export_gguf


def make_tiny_gguf(folder: Path, path: Path, kind: str = 'F32') -> Path:
    """The language model of the model folder, its matrices as ``kind``."""
    export_gguf(str(folder), path, kind)
    return path
