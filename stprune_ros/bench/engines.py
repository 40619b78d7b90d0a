"""`stprune bench --engines`: one random model on every engine and weight type in one run, and what GGUF types weigh.

The language model has the shape of Qwen3-0.6B behind a vision tower of two layers; each engine gets the same prompt.
CPU seconds are those of all threads of the process, so that others on the machine count little.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stprune_ros.bench.architectures import MERGE_SIZE, QWEN3_2B, SPECIAL_TOKENS
from stprune_ros.bench.bench import device_description, package_versions
from stprune_ros.bench.costs import QWEN3_VL_2B, QWEN3_VL_4B, QWEN25_VL_3B, LanguageShape
from stprune_ros.resources import resource_path
from stprune_ros.results import table
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend, VisualFrame
from stprune_ros.vlm.hf.families import FAMILIES
from stprune_ros.vlm.hf.pretrained import random_model
from stprune_ros.vlm.llama_cpp.export import export_gguf
from stprune_ros.vlm.llama_cpp.gguf_file import number_types
from stprune_ros.vlm.llama_cpp.library import find_library
from stprune_ros.vlm.loading import BUNDLED_MODEL, DEFAULT_PROMPT, load_engine
from stprune_ros.vlm.prompt import Prompt

SHAPE = LanguageShape('Qwen3-0.6B', 28, 1024, 16, 8, 128, 3072, 151936)
VISION_LAYERS = 2
EDGE_TOKENS = 14  # visual tokens along an edge of the image
ROUNDS = 2
WRITTEN = 16  # tokens
CONTEXT_TOKENS = 1024
PUBLISHED = (QWEN3_VL_2B, QWEN25_VL_3B, QWEN3_VL_4B)
KINDS = ('F16', 'Q8_0', 'Q4_K_M')
# Of one weight, with the scales of its block.
BYTES = {
    'float32': 4.0,
    'bfloat16': 2.0,
    'F16': 2.0,
    'Q8_0': 34 / 32,
    'Q6_K': 210 / 256,
    'Q4_K': 144 / 256,
    'Q4_0': 18 / 32,
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """An engine with its parameters below ``model.``; ``kind`` is the type of its weights."""

    engine: str
    kind: str


CONTENDERS = (
    Contender('transformers', 'float32'),
    Contender('transformers', 'bfloat16'),
    *(Contender('llama.cpp', kind) for kind in ('F16', 'Q8_0', 'Q4_0')),
)


def bench_engines(shape: LanguageShape = SHAPE, rounds: int = ROUNDS, written: int = WRITTEN) -> dict[str, Any]:
    """Run `stprune bench --engines`; returns the content of its JSON file.

    Raises ModelError where llama.cpp is not installed.
    """
    number_types()
    find_library('')
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='stprune-bench-') as place:
        folder = save_random_model(Path(place) / 'model', shape)
        rows = [
            measure(contender, load(contender, folder, Path(place)), shape, rounds, written) for contender in CONTENDERS
        ]
    return {
        'device': device_description(),
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'versions': {**package_versions(), **{name: version(name) for name in ('gguf', 'xllamacpp')}},
        'seconds': round(time.monotonic() - started, 1),
        'model': shape.name,
        'rounds': rounds,
        'engines': rows,
        'computed': [
            {'model': published.name, **{kind: token_bytes(published, kind) for kind in KINDS}}
            for published in PUBLISHED
        ],
    }


def save_random_model(folder: Path, shape: LanguageShape) -> Path:
    """A model folder of random bfloat16 weights with the language model ``shape``."""
    architecture = replace(QWEN3_2B, language=shape)
    pixels = (EDGE_TOKENS * architecture.patch_size * MERGE_SIZE) ** 2
    processor = {
        'patch_size': architecture.patch_size,
        'merge_size': MERGE_SIZE,
        'temporal_patch_size': 2,
        'size': {'shortest_edge': pixels, 'longest_edge': pixels},
    }
    config = architecture.config(shape.layers, VISION_LAYERS)
    family, bundled = FAMILIES[architecture.family], resource_path(BUNDLED_MODEL)
    torch.manual_seed(1)
    model, parts = random_model(family, config, SPECIAL_TOKENS, bundled, processor, torch.device('cpu'), 'bfloat16')
    for part in (model, parts.tokenizer, parts.processor):
        part.save_pretrained(folder)
    (folder / 'stprune.json').write_text(json.dumps({'trained': False}), encoding='utf-8')
    return folder


def load(contender: Contender, folder: Path, place: Path) -> Backend:
    """The backend of a contender; a GGUF file of its type is written to ``place``."""
    values: dict[str, object] = {'model.engine': contender.engine, 'model.path': str(folder), 'model.device': 'cpu'}
    if contender.engine == 'transformers':
        values['model.dtype'] = contender.kind
    else:
        file = place / f'{contender.kind}.gguf'
        export_gguf(str(folder), file, contender.kind)
        # Half precision, as on a vehicle: the tower in bfloat16, the KV cache in float16.
        values |= {'model.gguf': str(file), 'model.dtype': 'bfloat16', 'model.context_tokens': CONTEXT_TOKENS}
    return load_engine(contender.engine, Settings.from_values(values))


def measure(contender: Contender, backend: Backend, shape: LanguageShape, rounds: int, written: int) -> Row:
    """Median CPU and wall milliseconds of each stage; the backend is given up afterwards."""
    prompt = Prompt.load(resource_path(DEFAULT_PROMPT))
    candidates = [text for _, text in prompt.candidates]
    edge = EDGE_TOKENS * QWEN3_2B.patch_size * MERGE_SIZE
    image = np.random.default_rng(1).integers(0, 256, (edge, edge, 3), np.uint8)
    (features,) = backend.encode([image])
    frame = VisualFrame(features, torch.ones(len(features.tokens), dtype=torch.bool))
    times: dict[str, list[tuple[float, float]]] = {}
    tokens = 0
    for number in range(rounds + 1):
        with timed(times, 'encode'):
            backend.encode([image])
        with timed(times, 'prefill'):
            context = backend.prefill('', ['The front view.\n', frame, '\n'])
        with timed(times, 'hint'):
            backend.score(context, prompt.hint_question, candidates)
        with timed(times, 'first token'):
            backend.generate(context, prompt.describe_question, 1)
        with timed(times, 'text'):
            tokens = backend.generate(context, prompt.describe_question, written + 1).tokens
        if not number:  # what is made once
            times.clear()
    medians = {name: [round(float(np.median(values)), 2) for values in zip(*found)] for name, found in times.items()}
    first, last = medians.pop('first token'), medians['text']
    medians['token'] = [round((late - early) / max(tokens - 1, 1), 2) for late, early in zip(last, first)]
    return {
        'engine': contender.engine,
        'weights': contender.kind,
        'prefilled': context.tokens_text + context.tokens_visual,
        'written': tokens,
        'cpu_ms': {name: pair[0] for name, pair in medians.items()},
        'wall_ms': {name: pair[1] for name, pair in medians.items()},
        'token_bytes': token_bytes(shape, contender.kind),
    }


@contextmanager
def timed(times: dict[str, list[tuple[float, float]]], name: str) -> Iterator[None]:
    """Append the CPU and wall milliseconds of the block to ``times[name]``."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    times.setdefault(name, []).append(((time.process_time() - cpu) * 1e3, (time.perf_counter() - wall) * 1e3))


def token_bytes(shape: LanguageShape, kind: str) -> int:
    """Bytes of weights that one token reads, all layers and the vocabulary once, with weights of ``kind``.

    Q4_0 as `stprune export-gguf` makes it has a vocabulary of Q8_0. Q4_K_M as llama.cpp makes it has one of Q6_K, as
    have half of the layers' value and down projections; their other matrices are Q4_K.
    """
    vocabulary, layers = shape.vocab_size * shape.hidden_size, shape.layers * shape.layer_weights
    if kind == 'Q4_0':
        return round(layers * BYTES['Q4_0'] + vocabulary * BYTES['Q8_0'])
    if kind != 'Q4_K_M':
        return round((layers + vocabulary) * BYTES[kind])
    finer = shape.layers * shape.hidden_size * (shape.intermediate_size + shape.kv_heads * shape.head_dim) / 2
    return round((layers - finer) * BYTES['Q4_K'] + (finer + vocabulary) * BYTES['Q6_K'])


def to_markdown(result: dict[str, Any]) -> str:
    """What was measured, and the bytes that are computed, as tables."""
    device = result['device']
    versions = ', '.join(f'{name} {number}' for name, number in result['versions'].items())
    rows = result['engines']
    stages = list(rows[0]['cpu_ms'])
    return '\n\n'.join(
        [
            f'Device: {device["name"]} ({device["kind"]}, {device["threads"]} threads), {result["date"]}, {versions};'
            f' {result["seconds"]:.0f} s in all.',
            f'{result["model"]}, {rows[0]["prefilled"]} tokens before the question: CPU ms (wall ms), median of'
            f' {result["rounds"]}; bytes that one token reads, computed',
            table(
                ('engine', 'weights', *stages, 'MiB'),
                [
                    (
                        row['engine'],
                        row['weights'],
                        *(f'{row["cpu_ms"][stage]:.0f} ({row["wall_ms"][stage]:.0f})' for stage in stages),
                        f'{row["token_bytes"] / 2**20:.0f}',
                    )
                    for row in rows
                ],
            ),
            'Computed, not measured: GiB of weights that one token reads',
            table(
                ('model', *KINDS),
                [(row['model'], *(f'{row[kind] / 2**30:.2f}' for kind in KINDS)) for row in result['computed']],
            ),
        ]
    )
