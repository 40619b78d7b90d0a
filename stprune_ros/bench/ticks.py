"""Time and memory of whole ticks through the pipeline, on published architectures with random weights."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch

from stprune_ros.bench.architectures import MERGE_SIZE, QWEN3_2B, QWEN3_4B, QWEN25_3B, SPECIAL_TOKENS, Architecture
from stprune_ros.bench.costs import FLOAT16_BYTES, LanguageShape
from stprune_ros.core.camera_model import OPTICAL_FROM_LINK, CameraModel
from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import CameraFrame, EgoState, FrameSet, Window
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.inference.stages import STAGES
from stprune_ros.resources import resource_path
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.device import proc_bytes
from stprune_ros.vlm.hf.families import FAMILIES
from stprune_ros.vlm.loading import BUNDLED_MODEL, DEFAULT_PROMPT
from stprune_ros.vlm.prompt import Prompt

KEEP_RATIOS, QUICK_KEEP_RATIOS = (1.0, 0.5, 0.25, 0.1), (1.0, 0.1)
NEW_TOKENS = 16  # of the description, in every tick
ROUNDS, QUICK_ROUNDS = 3, 2  # over all cells, where the time allows
FLOAT32_BYTES = 4
OVERHEAD_BYTES = 5 * 2**30  # for the vision tower, activations and the KV cache, a generous estimate
FIRST_STAMP = 100  # of the first current set; the keyframes lie before it


class TickCell(NamedTuple):
    """What is varied between ticks: the keep ratio, and whether features of earlier frames are cached."""

    keep: float
    feature_cache: bool


@dataclass(frozen=True)
class TickModel:
    """An architecture with so many of its layers, for ``views`` x ``frames`` square images.

    No figure is extrapolated to the full depth.
    """

    architecture: Architecture
    layers: int
    vision_layers: int
    views: int = 6
    frames: int = 4
    tokens_per_edge: int = 14  # of an image

    @property
    def shape(self) -> LanguageShape:
        """The language model with the layers that are run."""
        return replace(self.architecture.language, layers=self.layers)

    @property
    def edge(self) -> int:
        """Pixels along an image edge."""
        return self.tokens_per_edge * self.architecture.patch_size * MERGE_SIZE

    @property
    def label(self) -> str:
        """Name for tables, with the depth where layers are left out."""
        language, vision_layers = self.architecture.language, self.architecture.vision_layers
        if self == replace(self, layers=language.layers, vision_layers=vision_layers):
            return language.name
        depth = f'{self.layers} of {language.layers} layers, vision {self.vision_layers} of {vision_layers}'
        return f'{language.name} ({depth})'


def full_depth(architecture: Architecture) -> TickModel:
    """A model with all its layers."""
    return TickModel(architecture, architecture.language.layers, architecture.vision_layers)


DEFAULT_MODELS = (TickModel(QWEN3_2B, 4, 3), TickModel(QWEN3_4B, 4, 3))  # two rounds of each in minutes on two cores
QUICK_MODELS = (TickModel(QWEN3_2B, 1, 1, views=3, frames=2, tokens_per_edge=7),)
FULL_DEPTH_MODELS = (full_depth(QWEN3_2B), full_depth(QWEN25_3B))  # one round of each in half an hour on two cores
GPU_MODELS = (full_depth(QWEN3_2B), full_depth(QWEN25_3B), full_depth(QWEN3_4B))


def processor_options(model: TickModel) -> dict[str, Any]:
    """What the image processor of a model must be told."""
    pixels = model.edge**2
    return {
        'patch_size': model.architecture.patch_size,
        'merge_size': MERGE_SIZE,
        'temporal_patch_size': 2,
        'size': {'shortest_edge': pixels, 'longest_edge': pixels},
    }


class CacheProbe:
    """Wraps a backend and records the size of the KV cache after each prefill, and its prompt in ``prefilled``."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.kv_bytes = 0
        self.prefilled: tuple[Any, ...] = ()

    def prefill(self, system: str, content: Any) -> Any:
        self.prefilled = system, content
        context = self._backend.prefill(system, content)
        layers = getattr(context.state, 'layers', ())  # llama.cpp's cache is of one size, whatever the prompt
        self.kv_bytes = sum(part.numel() * part.element_size() for layer in layers for part in layer)
        return context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


@dataclass
class TickRunner:
    """Runs ticks of one model through a pipeline of its own, on ``backend`` or else on transformers."""

    model: TickModel
    dtype: str
    backend: Any = None
    pipeline: Pipeline = field(init=False)
    _tick: int = 0

    def __post_init__(self) -> None:
        backend = self.backend or self._untrained()
        settings = Settings.from_values({'history.frames': self.model.frames, 'inference.max_new_tokens': NEW_TOKENS})
        prompt = Prompt.load(resource_path(DEFAULT_PROMPT))
        self.pipeline = Pipeline(settings, CacheProbe(backend), self.rig(), prompt, lambda frame, _: (frame.payload, 1))

    def _untrained(self) -> Any:
        from stprune_ros.vlm.hf.backend import TransformersBackend

        architecture = self.model.architecture
        return TransformersBackend.untrained(
            self.model.label,
            FAMILIES[architecture.family],
            architecture.config(self.model.layers, self.model.vision_layers),
            SPECIAL_TOKENS,
            resource_path(BUNDLED_MODEL),
            processor_options(self.model),
            self.dtype,
        )

    @property
    def probe(self) -> Any:
        """The `CacheProbe` around the pipeline's backend."""
        return self.pipeline.backend

    def rig(self) -> CameraRig:
        """A ring of pinhole cameras at even angles, 90 degrees wide."""
        edge = self.model.edge
        k = np.array([[edge / 2, 0, edge / 2], [0, edge / 2, edge / 2], [0, 0, 1.0]])
        angles = [2 * math.pi * i / self.model.views for i in range(self.model.views)]
        turns = [np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]]) for a in angles]
        return CameraRig(
            CameraModel(f'CAM_{i}', edge, edge, k, turn @ OPTICAL_FROM_LINK, np.zeros(3))
            for i, turn in enumerate(turns)
        )

    def window(self, frames: int) -> Window:
        """A window of noise images: keyframes that stay, and a current set that is new in every tick."""
        self._tick += 1
        numbers = [*range(-frames + 1, 0), self._tick]
        edge, ring = self.model.edge, self.pipeline.rig.ring

        def image(camera: int, number: int) -> np.ndarray:
            return np.random.default_rng([camera, number + FIRST_STAMP]).integers(0, 256, (edge, edge, 3), np.uint8)

        sets = []
        for number in numbers:
            stamp = number + FIRST_STAMP
            found = {name: CameraFrame(name, stamp, payload=image(i, number)) for i, name in enumerate(ring)}
            ego = EgoState(stamp, None, None, (5.0, 0.0, 0.0), (0.0, 0.0, 0.0))
            sets.append(FrameSet(stamp, stamp, ring, found, ego=ego))
        return Window(tuple(sets), self.model.frames)

    def run(self, cell: TickCell, frames: int | None = None) -> dict[str, Any]:
        """Stage times in ms, tokens and memory of one tick; without the feature cache every frame is encoded."""
        self.pipeline.settings = self.pipeline.settings.changed({'pruning.keep_ratio': cell.keep})
        if not cell.feature_cache:
            self.pipeline.free()
        window = self.window(frames or self.model.frames)
        reset_peak_memory()
        started = time.process_time()
        answer = self.pipeline.run(window)
        return {
            'cpu_ms': 1e3 * (time.process_time() - started),  # of all threads
            'stage_ms': dict(answer.timing.stage_ms),
            'hint_ms': answer.timing.source_to_hint_ms,
            'tokens_full': answer.tokens_full,
            'tokens_visual': answer.tokens_kept,
            'tokens_text': answer.provenance.tokens_text,
            'kv_bytes': self.probe.kv_bytes,
            'peak_bytes': peak_memory(),
        }


def tick_cells(keep_ratios: tuple[float, ...]) -> list[TickCell]:
    """All cells in the order of measuring: both ends first, which the aims compare.

    The first one is without the feature cache: it leaves the features of the history to the next.
    """
    low, high = min(keep_ratios), max(keep_ratios)
    between = [keep for keep in sorted(keep_ratios) if low < keep < high]
    cells = [(low, False), (low, True), (high, True), (high, False), *((keep, True) for keep in between)]
    return [TickCell(*cell) for cell in cells]


def measure_ticks(
    model: TickModel,
    deadline: float,
    keep_ratios: tuple[float, ...],
    rounds: int,
    on_cell_done: Callable[[], object],
) -> list[dict[str, Any]]:
    """One row per cell, with a 'reason' instead of times where ``deadline`` (monotonic clock, s) left no time for it.

    All cells are run once before any is run again, in at most ``rounds`` rounds; a small tick before them warms up and
    is not reported. ``on_cell_done`` is called after each cell of the first round.
    """
    gpu = torch.cuda.is_available()
    dtype = 'bfloat16' if gpu else 'float32'
    cells = tick_cells(keep_ratios)
    heads = {cell: {'model': model.label, 'dtype': dtype, **cell._asdict()} for cell in cells}
    need = model.shape.weight_bytes(FLOAT32_BYTES) + OVERHEAD_BYTES
    if not gpu and (free := available_memory()) is not None and free < need:
        reason = f'needs about {need / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free'
        return [{**head, 'reason': reason} for head in heads.values()]
    runner = TickRunner(model, dtype)
    runner.run(TickCell(min(keep_ratios), True), frames=1)
    runs: dict[TickCell, list[dict[str, Any]]] = {}
    reasons: dict[TickCell, str] = {}
    for number in range(rounds):
        for cell in cells:
            expected = _expected_s(model, cell, runs)
            if time.monotonic() + expected < deadline:
                runs.setdefault(cell, []).append(runner.run(cell))
            elif number == 0:
                reasons[cell] = f'about {expected:.0f} s would have exceeded the time of this run'
            if number == 0:
                on_cell_done()
    del runner
    gc.collect()
    return [
        head | (_summary(model, runs[cell], dtype) if cell in runs else {'reason': reasons[cell]})
        for cell, head in heads.items()
    ]


def _expected_s(model: TickModel, cell: TickCell, runs: dict[TickCell, list[dict[str, Any]]]) -> float:
    """Seconds that a tick is expected to take, 0 before the first run.

    Scaled from the last run of the same cell, else of the cell that was measured last.
    """
    if not runs:
        return 0.0
    measured = cell if cell in runs else list(runs)[-1]
    run = runs[measured][-1]
    stages = dict(run['stage_ms'])
    tokens = model.views * model.frames * model.tokens_per_edge**2
    flops, measured_flops = (
        model.shape.prefill_flops(int(keep * tokens) + run['tokens_text']) for keep in (cell.keep, measured.keep)
    )
    stages['prefill'] *= flops / measured_flops
    encoded, measured_encoded = (1 if each.feature_cache else model.frames for each in (cell, measured))
    for stage in ('prepare', 'encode'):
        stages[stage] *= encoded / measured_encoded
    return float(sum(stages.values())) / 1e3


def _summary(model: TickModel, runs: list[dict[str, Any]], dtype: str) -> dict[str, Any]:
    last = runs[-1]
    tokens = last['tokens_visual'] + last['tokens_text']
    totals = [sum(run['stage_ms'].values()) for run in runs]
    value_bytes = FLOAT32_BYTES if dtype == 'float32' else FLOAT16_BYTES
    return {
        'runs': len(runs),
        'views': model.views,
        'frames': model.frames,
        'layers': model.layers,
        'layers_of': model.architecture.language.layers,
        'vision_layers': model.vision_layers,
        'vision_layers_of': model.architecture.vision_layers,
        'extrapolated': False,
        'describe_tokens': NEW_TOKENS,
        **{key: last[key] for key in ('tokens_full', 'tokens_visual', 'tokens_text', 'kv_bytes')},
        'tick_ms': median_and_range(totals),
        'stage_ms': {s: median_and_range([run['stage_ms'].get(s, 0.0) for run in runs]) for s in STAGES},
        'prefill_flops': model.shape.prefill_flops(tokens),
        'kv_bytes_by_formula': model.shape.kv_bytes(tokens, value_bytes),
        'peak_bytes': max((run['peak_bytes'] for run in runs if run['peak_bytes'] is not None), default=None),
    }


def median_and_range(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest value."""
    return {'median': round(median(values), 3), 'min': round(min(values), 3), 'max': round(max(values), 3)}


def available_memory() -> int | None:
    """Bytes of memory that a process could still allocate, None where the system does not say."""
    return proc_bytes('/proc/meminfo', 'MemAvailable')


def reset_peak_memory() -> None:
    """Start to measure `peak_memory` anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        return


def peak_memory() -> int | None:
    """Most bytes held since `reset_peak_memory`, weights included: on the GPU if there is one, else by this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return proc_bytes('/proc/self/status', 'VmHWM')
