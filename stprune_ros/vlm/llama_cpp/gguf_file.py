"""A GGUF file: its header within bounds, and rows of its embedding table. No torch.

The reader of the package gguf takes seconds for a vocabulary and does not bound what it reads; its tables of number
types and its dequantisation are used.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stprune_ros.errors import ModelError, plain, shown
from stprune_ros.vlm.hf.files import LFS_POINTER

MAGIC = b'GGUF'
VERSIONS = (2, 3)
SCALARS = {0: 'B', 1: 'b', 2: 'H', 3: 'h', 4: 'I', 5: 'i', 6: 'f', 7: '?', 10: 'Q', 11: 'q', 12: 'd'}
STRING, ARRAY = 8, 9
MAX_TEXT = 2**20  # bytes of one text: chat templates are the longest
MAX_ITEMS = 2**20  # of one array: vocabularies and their merges
MAX_ENTRIES = 2**16  # tensors, or entries of the header
TOKENS = 'tokenizer.ggml.tokens'


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: ``shape`` with the row length first, ``kind`` by ggml's numbers, ``size`` bytes from ``start``."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A checked header: ``entries`` by key, texts and numbers and lists of them, and the tensors by name."""

    path: Path
    entries: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @classmethod
    def read(cls, path: str | Path) -> GgufFile:
        """Read and check a header. Raises ModelError naming what is wrong, or that the package gguf is missing."""
        path = Path(path)
        sizes = number_types()
        try:
            with path.open('rb') as file:
                start = file.read(len(LFS_POINTER))
                if start == LFS_POINTER:
                    raise ModelError(f"GGUF file '{path}' is only a Git LFS pointer; fetch it with git lfs pull")
                if start[: len(MAGIC)] != MAGIC:
                    raise ModelError(f"file '{path}' is no GGUF: it does not begin with 'GGUF'")
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    return cls._parse(path, _Cursor(path, data), sizes)
        except OSError as error:
            raise ModelError(f"GGUF file '{path}' cannot be read: {error.strerror}") from None

    @classmethod
    def _parse(cls, path: Path, cursor: _Cursor, sizes: dict[int, tuple[int, int]]) -> GgufFile:
        cursor.skip(len(MAGIC))
        version = cursor.scalar('I')
        if version not in VERSIONS:
            raise ModelError(f"GGUF file '{path}' has version {version}; read are {', '.join(map(str, VERSIONS))}")
        counts = [cursor.count(MAX_ENTRIES) for _ in range(2)]
        entries = {cursor.text(): cursor.value() for _ in range(counts[1])}
        heads = [cursor.tensor() for _ in range(counts[0])]
        alignment = entries.get('general.alignment', 32)
        if not isinstance(alignment, int) or not 0 < alignment <= MAX_TEXT:
            raise damaged(path, f'its alignment is {shown(alignment)}')
        parts = entries.get('split.count', 1)
        if parts not in (0, 1):
            raise ModelError(
                f"GGUF file '{path}' is one of {shown(parts)} parts; merge them with `llama-gguf-split --merge`"
            )
        begin = -(-cursor.place // alignment) * alignment
        tensors = {}
        for name, shape, kind, offset in heads:
            if kind not in sizes:
                raise damaged(path, f"'{plain(name)}' is of number type {kind}, which is not known")
            block, width = sizes[kind]
            size = math.prod(shape) // block * width
            if begin + offset + size > len(cursor.data):
                raise ModelError(
                    f"GGUF file '{path}' is cut short: it has {len(cursor.data)} bytes, its header says at least"
                    f' {begin + offset + size}; fetch it again'
                )
            tensors[name] = GgufTensor(name, shape, kind, begin + offset, size)
        return cls(path, entries, tensors)

    @property
    def architecture(self) -> str:
        """The name of the architecture, '' where the file does not say."""
        return str(self.entries.get('general.architecture', ''))

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.size for tensor in self.tensors.values())

    @property
    def tokens(self) -> Sequence[str]:
        """The vocabulary by id, empty where the file has none."""
        found = self.entries.get(TOKENS)
        return found if isinstance(found, list) else []

    def number(self, key: str, default: int | None = None) -> int:
        """A whole number of the architecture. Raises ModelError where it is not there, without a ``default``."""
        found = self.entries.get(f'{self.architecture}.{key}', default)
        if isinstance(found, bool) or not isinstance(found, int):
            raise ModelError(f"GGUF file '{self.path}' has no number '{self.architecture}.{key}'")
        return found

    def tensor(self, name: str) -> GgufTensor:
        """The tensor called ``name``. Raises ModelError where there is none."""
        if name not in self.tensors:
            raise ModelError(f"GGUF file '{self.path}' has no tensor '{name}': it holds no whole language model")
        return self.tensors[name]

    @property
    def kind(self) -> str:
        """The type of its weights as in Q4_K_M, '' where the file does not say."""
        import gguf

        try:
            found = gguf.LlamaFileType(self.entries.get('general.file_type', -1))
        except ValueError:
            return ''
        return str(found.name).removeprefix('MOSTLY_').removeprefix('ALL_')


class EmbeddingTable:
    """Rows of a matrix of a GGUF file, dequantised when they are asked for; the file stays mapped."""

    def __init__(self, file: GgufFile, name: str) -> None:
        import gguf

        found = file.tensor(name)
        self.width, self.rows = found.shape
        self._kind = gguf.GGMLQuantizationType(found.kind)
        self._dequantize = gguf.quants.dequantize
        raw = np.memmap(file.path, np.uint8, 'r', found.start, (self.rows, found.size // self.rows))
        self._raw = raw

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        """Rows ``ids`` (n,) as float32 (n, width)."""
        unique, places = np.unique(ids, return_inverse=True)
        raw = np.ascontiguousarray(self._raw[unique])
        if self._kind.name == 'F32':
            return raw.view(np.float32)[places]
        if self._kind.name == 'F16':
            return raw.view(np.float16).astype(np.float32)[places]
        found: np.ndarray = self._dequantize(raw, self._kind)[places]
        return found


@dataclass(slots=True)
class _Cursor:
    """A place in a mapped file. Everything read is bounded; what reaches beyond the end is a ModelError."""

    path: Path
    data: mmap.mmap
    place: int = 0

    def skip(self, count: int) -> int:
        """Go on by ``count`` bytes; returns where they begin."""
        start = self.place
        if count > len(self.data) - start:
            raise ModelError(f"GGUF file '{self.path}' is cut short: it ends within its header; fetch it again")
        self.place = start + count
        return start

    def scalar(self, code: str) -> Any:
        """One number or truth value by its struct code."""
        return struct.unpack_from(f'<{code}', self.data, self.skip(struct.calcsize(f'<{code}')))[0]

    def count(self, limit: int) -> int:
        """A length of at most ``limit``."""
        found: int = self.scalar('Q')
        if found > limit:
            raise damaged(self.path, f'a length is {found}, more than {limit}')
        return found

    def text(self) -> str:
        """A text."""
        length = self.count(MAX_TEXT)
        start = self.skip(length)
        return self.data[start : start + length].decode('utf-8', 'replace')

    def value(self) -> Any:
        """The value of an entry: a number, a text, or a list of either."""
        kind = self.scalar('I')
        if kind == STRING:
            return self.text()
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind != ARRAY:
            raise damaged(self.path, f'it holds a value of type {kind}')
        inner, count = self.scalar('I'), self.count(MAX_ITEMS)
        if inner == STRING:
            return [self.text() for _ in range(count)]
        if inner not in SCALARS:
            raise damaged(self.path, f'it holds a list of type {inner}')
        code = SCALARS[inner]
        return list(struct.unpack_from(f'<{count}{code}', self.data, self.skip(struct.calcsize(f'<{count}{code}'))))

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, number type and offset of a tensor."""
        name, dimensions = self.text(), self.scalar('I')
        if dimensions > 4:
            raise damaged(self.path, f"'{plain(name)}' has {dimensions} dimensions")
        shape = tuple(self.scalar('Q') for _ in range(dimensions))
        return name, shape, self.scalar('I'), self.scalar('Q')


def damaged(path: Path, what: str) -> ModelError:
    """What to say of a header that cannot be true."""
    return ModelError(f"GGUF file '{path}' is damaged: {what}; fetch it again")


def number_types() -> dict[int, tuple[int, int]]:
    """Numbers and bytes of a block, by ggml's number type. Raises ModelError where the package gguf is missing."""
    try:
        import gguf
    except ImportError:
        raise ModelError("model.engine 'llama.cpp' needs the package gguf: pip install 'stprune_ros[llama]'") from None
    return {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
