"""`stprune bench --engines`: whole ticks of one random model on every engine and weight type, side by side in one run.

The language model is half of Qwen3-0.6B's layers behind 4 of the 24 of Qwen3-VL's vision tower: about the share that
the whole tower has beside the 2B language model that it was published with. CPU milliseconds are those of all threads
of the process, so that others on the machine count little.
"""

from __future__ import annotations

import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from stprune_ros.bench.architectures import QWEN3_2B, SPECIAL_TOKENS
from stprune_ros.bench.bench import device_description, package_versions
from stprune_ros.bench.bounds import token_bytes
from stprune_ros.bench.costs import LanguageShape
from stprune_ros.bench.ticks import TickCell, TickModel, TickRunner, processor_options
from stprune_ros.resources import resource_path
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend
from stprune_ros.vlm.hf.families import FAMILIES
from stprune_ros.vlm.hf.pretrained import random_model
from stprune_ros.vlm.llama_cpp.export import export_gguf
from stprune_ros.vlm.llama_cpp.gguf_file import number_types
from stprune_ros.vlm.llama_cpp.library import find_library
from stprune_ros.vlm.loading import BUNDLED_MODEL, load_engine

SHAPE = LanguageShape('Qwen3-0.6B', 28, 1024, 16, 8, 128, 3072, 151936)
MODEL = TickModel(replace(QWEN3_2B, language=SHAPE), 14, 4)
ROUNDS = 2
CONTEXT_TOKENS = 8192
WHOLE, PRUNED = TickCell(1.0, False), TickCell(0.1, True)
STAGES = {'prepare': 'encode', 'encode': 'encode', 'prefill': 'prefill', 'score': 'hint', 'begin': 'write'}
ROOF_EDGE, ROOF_BYTES, ROOF_RUNS = 2048, 2**28, 3  # of what the machine's rates are measured with

Row = dict[str, Any]
Times = dict[str, list[float]]  # CPU and wall milliseconds by stage


@dataclass(frozen=True)
class Contender:
    """An engine with the type of its weights; with ``whole`` it also runs the tick that pruning and caching replace."""

    engine: str
    kind: str
    whole: bool = False


CONTENDERS = (
    Contender('transformers', 'float32', True),
    Contender('transformers', 'bfloat16', True),
    Contender('llama.cpp', 'F16'),
    Contender('llama.cpp', 'Q8_0'),
    Contender('llama.cpp', 'Q4_0', True),
)


def bench_engines(model: TickModel = MODEL, rounds: int = ROUNDS) -> dict[str, Any]:
    """Run `stprune bench --engines`; returns the content of its JSON file.

    Raises ModelError where llama.cpp is not installed.
    """
    number_types()
    find_library('')
    started = time.monotonic()
    roofs = {'float32': product_rate(torch.float32), 'bfloat16': product_rate(torch.bfloat16), 'read': read_rate()}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix='stprune-bench-') as place:
        folder = save_random_model(Path(place) / 'model', model)
        for contender in CONTENDERS:
            rows += measure(contender, load(contender, folder, Path(place)), model, rounds, roofs)
            gc.collect()
    return {
        'device': device_description(),
        'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'versions': {**package_versions(), **{name: version(name) for name in ('gguf', 'xllamacpp')}},
        'seconds': round(time.monotonic() - started, 1),
        'model': model.label,
        'rounds': rounds,
        'roofs': {name: round(rate) for name, rate in roofs.items()},
        'engines': rows,
    }


def product_rate(dtype: torch.dtype) -> float:
    """FLOPs in a CPU second of a square product in ``dtype``: what encoding and prefill can reach at best."""
    x = torch.ones(ROOF_EDGE, ROOF_EDGE, dtype=dtype)
    return 2 * ROOF_EDGE**3 / _least_s(lambda: x @ x)


def read_rate() -> float:
    """Bytes that a CPU second reads from memory: what writing can reach at best."""
    x = torch.ones(ROOF_BYTES // 4)
    return ROOF_BYTES / _least_s(x.sum)


def _least_s(work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(ROOF_RUNS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def save_random_model(folder: Path, model: TickModel) -> Path:
    """A model folder of random bfloat16 weights."""
    architecture = model.architecture
    config = architecture.config(model.layers, model.vision_layers)
    family, bundled = FAMILIES[architecture.family], resource_path(BUNDLED_MODEL)
    torch.manual_seed(1)
    device = torch.device('cpu')
    weights, parts = random_model(family, config, SPECIAL_TOKENS, bundled, processor_options(model), device, 'bfloat16')
    for part in (weights, parts.tokenizer, parts.processor):
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


class TimedBackend:
    """Wraps a backend and adds up what its calls take, by the stage of a tick that they belong to."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.times: Times = {}
        self.context: Any = None  # of the last prefill
        self.written = 0  # tokens of the last text

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        return self._timed(name, found) if name in STAGES else found

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            with timed(self.times, STAGES[name]):
                result = call(*args, **options)
            if name == 'prefill':
                self.context = result
            return TimedText(self, result) if name == 'begin' else result

        return run


class TimedText:
    """Wraps a text that is being written, and adds up what that takes."""

    def __init__(self, owner: TimedBackend, text: Any) -> None:
        self._owner, self._text = owner, text

    def write(self, *args: Any, **options: Any) -> Any:
        with timed(self._owner.times, 'write'):
            result = self._text.write(*args, **options)
        if result is not None:
            self._owner.written = result.tokens
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._text, name)


@contextmanager
def timed(times: Times, name: str) -> Iterator[None]:
    """Add the CPU and wall milliseconds of the block to ``times[name]``."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    spent = times.setdefault(name, [0.0, 0.0])
    spent[0] += (time.process_time() - cpu) * 1e3
    spent[1] += (time.perf_counter() - wall) * 1e3


def measure(
    contender: Contender, backend: Backend, model: TickModel, rounds: int, roofs: Mapping[str, float]
) -> list[Row]:
    """One row per cell: median CPU and wall milliseconds of each stage, and what they are by formula."""
    timed_backend = TimedBackend(backend)
    runner = TickRunner(model, contender.kind, timed_backend)
    if contender.whole:
        runner.run(PRUNED, frames=1)  # what is made once
        cells = [WHOLE, *[PRUNED] * rounds]
    else:
        runner.run(PRUNED)  # the same, and the features of the history
        cells = [PRUNED] * rounds
    runs: dict[TickCell, list[tuple[Row, Times]]] = {}
    for cell in cells:
        timed_backend.times = {}
        found = runner.run(cell)
        found['written'] = timed_backend.written
        timed_backend.times['tick'] = [found['cpu_ms'], sum(found['stage_ms'].values())]
        with timed(timed_backend.times, 'first token'):
            backend.generate(timed_backend.context, runner.pipeline.prompt.describe_question, 1)
        runs.setdefault(cell, []).append((found, timed_backend.times))
    return [_row(contender, model, cell, found, roofs) for cell, found in runs.items()]


def _row(
    contender: Contender, model: TickModel, cell: TickCell, runs: list[tuple[Row, Times]], roofs: Mapping[str, float]
) -> Row:
    last, _ = runs[-1]
    tokens, images = (
        last['tokens_visual'] + last['tokens_text'],
        model.views * (1 if cell.feature_cache else model.frames),
    )
    flops = {
        'encode': images * model.architecture.vision_flops(model.tokens_per_edge**2, model.vision_layers),
        'prefill': model.shape.causal_flops(tokens),
    }
    read = token_bytes(model.shape, contender.kind) + model.shape.kv_bytes(tokens)
    product = roofs['float32' if contender.kind == 'float32' else 'bfloat16']
    computed = {stage: count / product for stage, count in flops.items()} | {'token': read / roofs['read']}
    cpu, wall = ({name: round(median(times[name][i] for _, times in runs), 2) for name in runs[0][1]} for i in (0, 1))
    for spent in (cpu, wall):
        first = spent.pop('first token')
        spent['token'] = round((spent['write'] - first) / max(last['written'] - 1, 1), 2)
        stages = sum(spent[stage] for stage in dict.fromkeys(STAGES.values()))
        spent['prune'] = round(spent['tick'] - stages, 2)  # selection, prompt and what is between the calls
    return {
        'engine': contender.engine,
        'weights': contender.kind,
        **cell._asdict(),
        'runs': len(runs),
        'images': images,
        **{key: last[key] for key in ('tokens_full', 'tokens_visual', 'tokens_text', 'written')},
        'cpu_ms': cpu,
        'wall_ms': wall,
        'computed_ms': {name: round(1e3 * seconds, 2) for name, seconds in computed.items()},
        'flops': flops,
        'token_bytes': token_bytes(model.shape, contender.kind),
    }
