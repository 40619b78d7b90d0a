"""The llama.cpp library: where it is, whether its structs are as known, and its C functions with their types.

Looked for in this order: the file that `model.engine_library` names, such as a build with CUDA of one's own; the one in
the package llama_cpp (llama-cpp-python); the one in the package xllamacpp. No Python code of either is imported.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stprune_ros.errors import ModelError, one_line, plain
from stprune_ros.vlm.llama_cpp.layouts import CONTEXT_LAYOUTS, MODEL_LAYOUTS, Batch, Layout, Raw

INSTALL = "pip install 'stprune_ros[llama]'"
PACKAGES = {'llama_cpp': ('lib/libllama.so',), 'xllamacpp': ('*.so',)}  # patterns of the file within the package
ERROR_LEVEL, CONTINUED = 4, 5  # of enum ggml_log_level; the second goes on with the line before
KEPT_LINES = 8

_LOG = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)
ABORT = c.CFUNCTYPE(c.c_bool, c.c_void_p)
_POINTER, _INT, _BOOL = c.c_void_p, c.c_int32, c.c_bool
# What is called, but for those that take or return structs of a layout: result and arguments.
_FUNCTIONS: dict[str, tuple[Any, Sequence[Any]]] = {
    'llama_backend_init': (None, ()),
    'llama_log_set': (None, (_LOG, _POINTER)),
    'llama_supports_gpu_offload': (_BOOL, ()),
    'llama_model_free': (None, (_POINTER,)),
    'llama_free': (None, (_POINTER,)),
    'llama_model_get_vocab': (_POINTER, (_POINTER,)),
    'llama_vocab_n_tokens': (_INT, (_POINTER,)),
    'llama_model_n_embd_inp': (_INT, (_POINTER,)),
    'llama_n_ctx': (c.c_uint32, (_POINTER,)),
    'llama_get_memory': (_POINTER, (_POINTER,)),
    'llama_memory_seq_rm': (_BOOL, (_POINTER, _INT, _INT, _INT)),
    'llama_memory_seq_cp': (None, (_POINTER, _INT, _INT, _INT, _INT)),
    'llama_memory_clear': (None, (_POINTER, _BOOL)),
    'llama_batch_init': (Batch, (_INT, _INT, _INT)),
    'llama_batch_free': (None, (Batch,)),
    'llama_decode': (_INT, (_POINTER, Batch)),
    'llama_synchronize': (None, (_POINTER,)),
    'llama_get_logits_ith': (c.POINTER(c.c_float), (_POINTER, _INT)),
    'llama_set_abort_callback': (None, (_POINTER, ABORT, _POINTER)),
}
_OF_LAYOUT = (
    'llama_model_default_params',
    'llama_context_default_params',
    'llama_model_load_from_file',
    'llama_init_from_model',
)


@dataclass(frozen=True, slots=True)
class Library:
    """A checked library; ``calls`` has its functions by name, ``log`` the last lines of what it logs as it works."""

    path: Path
    calls: Any
    log: Log

    @property
    def has_gpu(self) -> bool:
        """Whether it was built for some GPU, and finds one."""
        return bool(self.calls.llama_supports_gpu_offload())


class Log:
    """What a library says: the last errors, and every line while ``lines`` is a list."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.lines: list[str] | None = None
        self._level = 0
        self.callback = _LOG(self._take)

    def reason(self) -> str:
        """The first of the last errors, '' where there was none; forgets them."""
        first = next(iter(self.errors), '')
        self.errors.clear()
        return plain(' '.join(first.split()).rstrip('.'), 200)

    def _take(self, level: int, text: bytes, _: object) -> None:
        self._level = self._level if level == CONTINUED else level
        line = text.decode('utf-8', 'replace')
        if self._level == ERROR_LEVEL and len(self.errors) < KEPT_LINES:
            self.errors.append(line)
        if self.lines is not None:
            self.lines.append(line)


def find_library(given: str) -> Path:
    """The library file that ``given`` names, or else the first package has. Raises ModelError where there is none."""
    if given:
        path = Path(given)
        if not path.is_file():
            raise ModelError(f"parameter 'model.engine_library' is '{given}', and there is no such file")
        return path.resolve()
    for package, patterns in PACKAGES.items():
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            found = next((path for pattern in patterns for path in sorted(Path(folder).glob(pattern))), None)
            if found is not None:
                return found
    raise ModelError(f"model.engine 'llama.cpp' needs its library: {INSTALL}, or name a build in model.engine_library")


@lru_cache
def load_library(path: Path) -> Library:
    """Load and check the library at ``path``; a process does so once.

    Raises ModelError where it cannot be loaded, lacks a function, or has structs of a layout that is not known.
    """
    try:
        loaded = c.CDLL(str(path))
    except OSError as error:
        raise ModelError(f"llama.cpp library '{path}' cannot be loaded: {one_line(error)}") from None
    lacking = [name for name in (*_OF_LAYOUT, *_FUNCTIONS) if not hasattr(loaded, name)]
    if lacking:
        raise ModelError(
            f"llama.cpp library '{path}' lacks {len(lacking)} functions, such as '{lacking[0]}': {INSTALL}, or build a"
            ' release that docs/engines.md names'
        )
    model = _layout(loaded.llama_model_default_params, MODEL_LAYOUTS, path)
    context = _layout(loaded.llama_context_default_params, CONTEXT_LAYOUTS, path)
    loaded.llama_model_default_params.restype = model.struct
    loaded.llama_context_default_params.restype = context.struct
    _declare(loaded, 'llama_model_load_from_file', _POINTER, (c.c_char_p, model.struct))
    _declare(loaded, 'llama_init_from_model', _POINTER, (_POINTER, context.struct))
    for name, (result, arguments) in _FUNCTIONS.items():
        _declare(loaded, name, result, arguments)
    log = Log()
    loaded.llama_log_set(log.callback, None)
    loaded.llama_backend_init()
    _check_batch(loaded, path)
    return Library(path, loaded, log)


def _declare(loaded: Any, name: str, result: Any, arguments: Sequence[Any]) -> None:
    function = getattr(loaded, name)
    function.restype, function.argtypes = result, list(arguments)


def _layout(defaults: Any, layouts: Sequence[Layout], path: Path) -> Layout:
    """The layout that the default parameters of a library are read with."""
    defaults.restype, defaults.argtypes = Raw, []
    raw = bytes(defaults().bytes)
    found = next((layout for layout in layouts if layout.matches(raw)), None)
    if found is None:
        raise _unknown(path, defaults.__name__.removesuffix('_default_params'))
    return found


def _check_batch(loaded: Any, path: Path) -> None:
    """A batch made for one token has the pointers where the layout says, and no embeddings."""
    batch = loaded.llama_batch_init(1, 0, 1)
    good = batch.n_tokens == 0 and not batch.embd
    if not (good and batch.token and batch.pos and batch.n_seq_id and batch.seq_id and batch.logits):
        raise _unknown(path, 'llama_batch')
    loaded.llama_batch_free(batch)


def _unknown(path: Path, struct: str) -> ModelError:
    return ModelError(
        f"llama.cpp library '{path}' is of a release whose {struct} parameters are laid out in a way that is not known:"
        f' {INSTALL}, or build a release that docs/engines.md names'
    )
