"""The structs of llama.h that are passed by value, for the releases whose layout is known.

They change without notice: a new field once shifted all that follow. So a library is asked for its default parameters,
and the layout is taken in which every field has the default that the release of that layout is known to have.
"""

from __future__ import annotations

import ctypes as c

F16 = 1  # of ggml's types of numbers
F32 = 0
NO_SPLIT = 0  # of split_mode: one GPU holds all
NO_FLASH = 0  # of flash_attn_type
LARGEST = 512  # bytes; no struct here has as many

# Name, ctypes class and default of each field, in order.
Fields = tuple[tuple[str, type, object], ...]


class Layout:
    """One struct of one release: its ctypes class ``struct``, and the defaults that tell it from others."""

    def __init__(self, name: str, fields: Fields) -> None:
        self.struct: type[c.Structure] = type(name, (c.Structure,), {'_fields_': [field[:2] for field in fields]})
        self._defaults = {field: default for field, _, default in fields}

    def matches(self, raw: bytes) -> bool:
        """Whether ``raw``, what a library returns as its defaults, reads as this layout's."""
        found = self.struct.from_buffer_copy(raw)
        return all(getattr(found, name) == default for name, default in self._defaults.items())


class Batch(c.Structure):
    """struct llama_batch, the same in all releases so far."""

    _fields_ = (
        ('n_tokens', c.c_int32),
        ('token', c.POINTER(c.c_int32)),
        ('embd', c.POINTER(c.c_float)),
        ('pos', c.POINTER(c.c_int32)),
        ('n_seq_id', c.POINTER(c.c_int32)),
        ('seq_id', c.POINTER(c.POINTER(c.c_int32))),
        ('logits', c.POINTER(c.c_int8)),
    )


class Raw(c.Structure):
    """Room for any struct that a library returns."""

    _fields_ = (('bytes', c.c_uint8 * LARGEST),)


def _fields(names: str, kind: type, default: object) -> Fields:
    return tuple((name, kind, default) for name in names.split())


_MODEL: Fields = (
    *_fields('devices tensor_buft_overrides', c.c_void_p, None),
    ('n_gpu_layers', c.c_int32, -1),
    ('split_mode', c.c_int32, 1),
    ('load_mode', c.c_int32, -1),
    ('lazy_mode', c.c_int32, 1),
    ('main_gpu', c.c_int32, 0),
    *_fields('tensor_split progress_callback progress_callback_user_data kv_overrides', c.c_void_p, None),
    *_fields('vocab_only check_tensors', c.c_bool, False),
    ('use_extra_bufts', c.c_bool, True),
    *_fields('no_host no_alloc load_mtp', c.c_bool, False),
)
_CONTEXT_HEAD: Fields = (
    ('n_ctx', c.c_uint32, 512),
    ('n_batch', c.c_uint32, 2048),
    ('n_ubatch', c.c_uint32, 512),
    ('n_seq_max', c.c_uint32, 1),
    *_fields('n_rs_seq n_outputs_max', c.c_uint32, 0),
    ('n_outputs_max_per_seq', c.c_uint32, 1),
    *_fields('n_threads n_threads_batch', c.c_int32, 4),
    ('ctx_type', c.c_int32, 0),
    *_fields('rope_scaling_type pooling_type attention_type flash_attn_type', c.c_int32, -1),
    *_fields('rope_freq_base rope_freq_scale', c.c_float, 0.0),
    *_fields('yarn_ext_factor yarn_attn_factor yarn_beta_fast yarn_beta_slow', c.c_float, -1.0),
    ('yarn_orig_ctx', c.c_uint32, 0),
    ('defrag_thold', c.c_float, -1.0),
    *_fields('cb_eval cb_eval_user_data', c.c_void_p, None),
    *_fields('type_k type_v', c.c_int32, F16),
)
_MOE_CACHE: Fields = (('moe_cache_size', c.c_size_t, 0),)
_CONTEXT_TAIL: Fields = (
    *_fields('abort_callback abort_callback_data', c.c_void_p, None),
    ('embeddings', c.c_bool, False),
    *_fields('offload_kqv no_perf op_offload swa_full', c.c_bool, True),
    ('kv_unified', c.c_bool, False),
    ('samplers', c.c_void_p, None),
    ('n_samplers', c.c_size_t, 0),
    ('ctx_other', c.c_void_p, None),
)

MODEL_LAYOUTS = (Layout('ModelParams', _MODEL),)
CONTEXT_LAYOUTS = (
    Layout('ContextParams', (*_CONTEXT_HEAD, *_MOE_CACHE, *_CONTEXT_TAIL)),  # xllamacpp 2026.10
    Layout('ContextParams', (*_CONTEXT_HEAD, *_CONTEXT_TAIL)),  # llama-cpp-python 0.3.36
)
