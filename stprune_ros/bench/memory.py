"""`stprune bench --memory`: what `stprune check --model` counts for a model, against what a process takes that runs it.

Qwen2.5-VL-3B at full depth: the vision tower with random weights in bfloat16, the language model as a Q4_0 GGUF file.
Its weights are zeros: what they take is the same, and they need not be made. The child process loads the engine and
runs two ticks, the first of which encodes all images. Counted from what it held once its libraries were imported.

llama.cpp maps the file and packs most weights anew, in memory of its own: pages of the file that nothing reads again
are still the process's until the system needs them. They are given back before the ticks, which fetch what they use.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import mmap
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stprune_ros.bench.architectures import QWEN25_3B, SPECIAL_TOKENS
from stprune_ros.bench.bench import device_description, package_versions
from stprune_ros.bench.report import aims_table
from stprune_ros.bench.ticks import (
    TickCell,
    TickModel,
    TickRunner,
    available_memory,
    full_depth,
    peak_memory,
    processor_options,
    reset_peak_memory,
)
from stprune_ros.errors import StpruneError
from stprune_ros.resources import resource_path
from stprune_ros.results import table
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.device import proc_bytes
from stprune_ros.vlm.hf.families import FAMILIES
from stprune_ros.vlm.hf.files import gib, single_weights_file
from stprune_ros.vlm.hf.pretrained import random_model
from stprune_ros.vlm.llama_cpp.export import export_gguf
from stprune_ros.vlm.loading import BUNDLED_MODEL, estimate_memory, load_engine

KIND = 'Q4_0'
TOWER = 'visual.'  # how tensors of the vision tower are told from others
BFLOAT16_BYTES = 2
CHUNK = 2**24  # numbers that are made at once
NEED = 5 * 2**30  # of memory, for the process and what writes its files
TOLERANCE = 10.0  # per cent, the aim

Row = dict[str, Any]


def bench_memory(model: TickModel | None = None, need: int = NEED) -> dict[str, Any]:
    """Run `stprune bench --memory`; returns the content of its JSON file.

    Raises StpruneError where less than ``need`` bytes of memory, or as much of the disk for temporary files, are free.
    """
    model = model or full_depth(QWEN25_3B)
    free = available_memory()
    if free is not None and free < need:
        raise StpruneError(
            f'stprune bench --memory needs {gib(need)} of memory, and {gib(free)} are free; end other programs first'
        )
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='stprune-bench-') as place:
        room = shutil.disk_usage(place).free
        if room < need:
            raise StpruneError(
                f"stprune bench --memory needs {gib(need)} in '{place}', and {gib(room)} are free;"
                ' set TMPDIR to another disk'
            )
        values = make_files(Path(place), model)
        counted = estimate_memory(Settings.from_values(values), (model.edge, model.edge))
        context = multiprocessing.get_context('spawn')
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            taken = pool.submit(run_child, model, values).result()
    return {
        'device': device_description(),
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'versions': {**package_versions(), **{name: version(name) for name in ('gguf', 'xllamacpp')}},
        'seconds': round(time.monotonic() - started, 1),
        'model': model.label,
        'weights': KIND,
        'counted': {**asdict(counted), 'kept': counted.kept},
        'taken': taken,
    }


def make_files(place: Path, model: TickModel) -> dict[str, object]:
    """A model folder that holds the tower alone, and the language model as GGUF; returns the settings to run them."""
    folder, whole, gguf = place / 'model', place / 'whole', place / f'{KIND}.gguf'
    architecture = model.architecture
    config = architecture.config(model.layers, model.vision_layers)
    family, bundled = FAMILIES[architecture.family], resource_path(BUNDLED_MODEL)
    meta = torch.device('meta')
    weights, parts = random_model(family, config, SPECIAL_TOKENS, bundled, processor_options(model), meta, 'bfloat16')
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.state_dict().items() if name != 'lm_head.weight'}
    towers = {name: shape for name, shape in shapes.items() if TOWER in name}
    for path, held in ((folder, towers), (whole, shapes)):
        path.mkdir()
        for part in (parts.config, parts.tokenizer, parts.processor):
            part.save_pretrained(path)
        (path / 'stprune.json').write_text(json.dumps({'trained': False}), encoding='utf-8')
        write_safetensors(single_weights_file(path), held, fill=path == folder)
    export_gguf(str(whole), gguf, KIND)
    shutil.rmtree(whole)
    return {
        'model.engine': 'llama.cpp',
        'model.path': str(folder),
        'model.gguf': str(gguf),
        'model.device': 'cpu',
        'model.dtype': 'bfloat16',
        'cameras.names': [f'CAM_{i}' for i in range(model.views)],
        'history.frames': model.frames,
    }


def write_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]], fill: bool) -> None:
    """A file of bfloat16 tensors: small random numbers with ``fill``, else zeros that take no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + BFLOAT16_BYTES * math.prod(shape)
        header[name] = {'dtype': 'BF16', 'shape': list(shape), 'data_offsets': [begin, end]}
    head = json.dumps(header).encode()
    with path.open('wb') as file:
        file.write(len(head).to_bytes(8, 'little') + head)
        start = file.tell()
        for numbers in random_numbers(end // BFLOAT16_BYTES) if fill else ():
            file.write(numbers.tobytes())
        file.truncate(start + end)


def random_numbers(count: int) -> Iterator[np.ndarray]:
    """``count`` bfloat16 numbers as uint16 in parts, of standard deviation 0.02: the upper half of their float32."""
    generator = np.random.default_rng(1)
    for begin in range(0, count, CHUNK):
        numbers = generator.standard_normal(min(CHUNK, count - begin), np.float32) * np.float32(0.02)
        yield (numbers.view(np.uint32) >> 16).astype(np.uint16)


def run_child(model: TickModel, values: dict[str, object]) -> dict[str, int | None]:
    """In a process of its own: bytes held before and after loading, without pages of the file, and in two ticks."""
    import stprune_ros.vlm.llama_cpp.backend  # noqa: F401  its libraries are not what is measured

    gc.collect()
    before = proc_bytes('/proc/self/status', 'VmRSS')
    backend = load_engine('llama.cpp', Settings.from_values(values))
    loaded = proc_bytes('/proc/self/status', 'VmRSS')
    give_back_pages(str(values['model.gguf']))
    held = proc_bytes('/proc/self/status', 'VmRSS')
    runner = TickRunner(model, KIND, backend)
    peaks = []
    for cell in (TickCell(0.1, False), TickCell(0.1, True)):
        reset_peak_memory()
        runner.run(cell)
        peaks.append(peak_memory())
    return {'before': before, 'loaded': loaded, 'held': held, 'first_tick': peaks[0], 'next_tick': peaks[1]}


def give_back_pages(path: str) -> None:
    """Let the system take the pages of a mapped file from this process; whoever reads one gets it again."""
    libc = ctypes.CDLL(None, use_errno=True)
    for line in Path('/proc/self/maps').read_text(encoding='utf-8').splitlines():
        span, *_, name = line.split(maxsplit=5)
        if name == path:
            begin, end = (int(number, 16) for number in span.split('-'))
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def judge_aims(result: Mapping[str, Any]) -> list[Row]:
    """How far what was counted lies from what the process took, its libraries left out."""
    taken = max(result['taken'][tick] for tick in ('first_tick', 'next_tick')) - result['taken']['before']
    off = 100 * (result['counted']['kept'] / taken - 1)
    aim = f'{result["model"]}, {result["weights"]}: counted against taken, in per cent, within {TOLERANCE:g}'
    return [{'aim': aim, 'found': round(off, 2), 'computed': None, 'holds': abs(off) <= TOLERANCE}]


def to_markdown(result: dict[str, Any]) -> str:
    """All of it, for people."""
    return '\n\n'.join(blocks(result).values())


def blocks(result: dict[str, Any]) -> dict[str, str]:
    """The parts of a page, by name."""
    counted, taken = result['counted'], result['taken']
    parts = {
        'weights': counted['weights'],
        'feature cache': counted['features'],
        'similarities': counted['similarities'],
        f'KV cache of {counted["context"]} tokens': counted['kept_kv'],
        'computing: encoding or prefill, the larger': max(counted['encode'], counted['kept_prefill']),
        'together': counted['kept'],
    }
    lines = [(name, _mib(size), '') for name, size in parts.items()]
    for name, key in (
        ('loaded, with pages of the file that are read once', 'loaded'),
        ('without them', 'held'),
        ('first tick, all images', 'first_tick'),
        ('next tick', 'next_tick'),
    ):
        lines.append((f'process: {name}', '', _mib(taken[key] - taken['before'])))
    lines.append(('process: its libraries, not in the lines above', '', _mib(taken['before'])))
    head = f'{result["model"]}, {result["weights"]} ({result["date"][:10]}, {result["device"]["name"]})'
    return {'memory': table((head, 'counted, MiB', 'taken, MiB'), lines) + '\n\n' + aims_table(judge_aims(result))}


def _mib(size: int) -> str:
    return f'{size / 2**20:,.0f}'
