"""Whole ticks through the pipeline on real architectures with random weights: where the time and the memory go."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from stprune_ros.bench.architectures import MERGE, QWEN3_2B, QWEN3_4B, QWEN25_3B, SPECIAL_TOKENS, Architecture
from stprune_ros.bench.costs import LanguageShape
from stprune_ros.core.rig import OPTICAL_FROM_LINK, CameraModel, CameraRig
from stprune_ros.core.types import CameraFrame, EgoState, FrameSet, Window
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.inference.stages import STAGES
from stprune_ros.resources import resource_path
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.device import proc_bytes
from stprune_ros.vlm.hf.families import FAMILIES
from stprune_ros.vlm.loading import BUNDLED_MODEL, DEFAULT_PROMPT
from stprune_ros.vlm.prompt import Prompt

KEEPS = (1.0, 0.5, 0.25, 0.1)
NEW_TOKENS = 16  # of the description, in every tick
RUNS, QUICK_RUNS = 3, 2  # of a tick, where the time allows
QUICK_KEEPS = (1.0, 0.1)
FP32 = 4
ROOM = 5 * 2**30  # bytes for the vision tower, activations and the KV cache, generously
PAST = 100  # stamp of the first current set; the keyframes lie before it

Cell = tuple[float, bool]  # keep ratio, with the feature cache


@dataclass(frozen=True)
class TickModel:
    """A model of published widths with so many of its layers, looking at ``views`` x ``frames`` square images.

    What is left out is left out: no figure is scaled up to the whole depth.
    """

    of: Architecture
    layers: int
    vision_layers: int
    views: int = 6
    frames: int = 4
    side: int = 14  # visual tokens along an image edge

    @property
    def shape(self) -> LanguageShape:
        """The language model that is really run."""
        return replace(self.of.language, layers=self.layers)

    @property
    def edge(self) -> int:
        """Pixels along an image edge."""
        return self.side * self.of.patch * MERGE

    @property
    def label(self) -> str:
        """Name with its depth, as it stands in every table."""
        name, layers, vision_layers = self.of.language.name, self.of.language.layers, self.of.vision_layers
        if (self.layers, self.vision_layers) == (layers, vision_layers):
            return name
        return f'{name} ({self.layers} of {layers} layers, vision {self.vision_layers} of {vision_layers})'


def whole(of: Architecture) -> TickModel:
    """A model with all its layers."""
    return TickModel(of, of.language.layers, of.vision_layers)


FULL = (TickModel(QWEN3_2B, 4, 3), TickModel(QWEN3_4B, 4, 3))  # two turns of each in minutes on two cores
QUICK = (TickModel(QWEN3_2B, 1, 1, views=3, frames=2, side=7),)
WHOLE = (whole(QWEN3_2B), whole(QWEN25_3B))  # one turn of each in half an hour on two cores
ON_GPU = (whole(QWEN3_2B), whole(QWEN25_3B), whole(QWEN3_4B))


class Probe:
    """The backend, noting what the last prefill cached."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.kv_bytes = self.tokens = 0

    def prefill(self, system: str, content: Any) -> Any:
        context = self._backend.prefill(system, content)
        self.tokens = context.tokens_text + context.tokens_visual
        self.kv_bytes = sum(part.numel() * part.element_size() for layer in context.state.layers for part in layer)
        return context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


@dataclass
class TickBench:
    """One model with its pipeline, and the ticks it has run."""

    model: TickModel
    dtype: str
    pipeline: Pipeline = field(init=False)
    _tick: int = 0

    def __post_init__(self) -> None:
        from stprune_ros.vlm.hf.backend import TransformersBackend

        of, pixels = self.model.of, self.model.edge**2
        processor = {
            'patch_size': of.patch,
            'merge_size': MERGE,
            'temporal_patch_size': 2,
            'size': {'shortest_edge': pixels, 'longest_edge': pixels},
        }
        config = of.config(self.model.layers, self.model.vision_layers)
        backend = TransformersBackend.untrained(
            self.model.label,
            FAMILIES[of.family],
            config,
            SPECIAL_TOKENS,
            resource_path(BUNDLED_MODEL),
            processor,
            self.dtype,
        )
        settings = Settings.from_values({'history.frames': self.model.frames, 'inference.max_new_tokens': NEW_TOKENS})
        prompt = Prompt.load(resource_path(DEFAULT_PROMPT))
        self.pipeline = Pipeline(settings, Probe(backend), self.rig(), prompt, lambda frame, _: (frame.payload, 1))  # type: ignore[arg-type]

    @property
    def probe(self) -> Any:
        return self.pipeline.backend

    def rig(self) -> CameraRig:
        """Cameras at even angles."""
        edge = self.model.edge
        k = np.array([[edge / 2, 0, edge / 2], [0, edge / 2, edge / 2], [0, 0, 1.0]])
        angles = [2 * math.pi * i / self.model.views for i in range(self.model.views)]
        turns = [np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]]) for a in angles]
        return CameraRig(
            CameraModel(f'CAM_{i}', edge, edge, k, turn @ OPTICAL_FROM_LINK, np.zeros(3))
            for i, turn in enumerate(turns)
        )

    def window(self, frames: int) -> Window:
        """Keyframes that stay and a current set that is new every time, images of noise."""
        self._tick += 1
        numbers = [*range(-frames + 1, 0), self._tick]
        edge, ring = self.model.edge, self.pipeline.rig.ring

        def image(camera: int, number: int) -> np.ndarray:
            return np.random.default_rng([camera, number + PAST]).integers(0, 256, (edge, edge, 3), np.uint8)

        sets = []
        for number in numbers:
            stamp = number + PAST
            found = {name: CameraFrame(name, stamp, payload=image(i, number)) for i, name in enumerate(ring)}
            ego = EgoState(stamp, None, None, (5.0, 0.0, 0.0), (0.0, 0.0, 0.0))
            sets.append(FrameSet(stamp, stamp, ring, found, ego=ego))
        return Window(tuple(sets), self.model.frames)

    def run(self, cell: Cell, frames: int | None = None) -> dict[str, Any]:
        """One tick: its stage times in ms and what it cached. Without the cache every frame is encoded anew."""
        keep, cached = cell
        self.pipeline.settings = self.pipeline.settings.changed({'pruning.keep_ratio': keep})
        if not cached:
            self.pipeline.free()
        window = self.window(frames or self.model.frames)
        reset_peak()
        answer = self.pipeline.run(window)
        return {
            'stage_ms': dict(answer.timing.stage_ms),
            'tokens_full': answer.tokens_full,
            'tokens_visual': answer.tokens_kept,
            'tokens_text': answer.provenance.tokens_text,
            'kv_bytes': self.probe.kv_bytes,
            'peak_bytes': peak_bytes(),
        }


def cells(keeps: tuple[float, ...]) -> list[Cell]:
    """Both ends first, as the aims compare them; the very first without the cache, which fills in the history."""
    low, high = min(keeps), max(keeps)
    between = [keep for keep in sorted(keeps) if low < keep < high]
    return [(low, False), (low, True), (high, True), (high, False), *((keep, True) for keep in between)]


def measure(
    model: TickModel, deadline: float, keeps: tuple[float, ...], most: int, said: Callable[[], object]
) -> list[dict[str, Any]]:
    """Rows for `ticks`, and one with a 'reason' for every cell that found no time before ``deadline`` (monotonic s).

    Cells take turns, ``most`` times each, so that every one is measured before any is measured again; one small tick
    before them is not reported. ``said`` is called after each cell of the first turn.
    """
    gpu = torch.cuda.is_available()
    dtype = 'bfloat16' if gpu else 'float32'
    wanted = cells(keeps)
    names = {
        (keep, cached): {'model': model.label, 'dtype': dtype, 'keep': keep, 'feature_cache': cached}
        for keep, cached in wanted
    }
    need = model.shape.weight_bytes(FP32) + ROOM
    if not gpu and (free := free_bytes()) is not None and free < need:
        reason = f'needs about {need / 2**30:.1f} GiB of memory, {free / 2**30:.1f} GiB are free'
        return [{**name, 'reason': reason} for name in names.values()]
    bench = TickBench(model, dtype)
    bench.run((min(keeps), True), frames=1)
    runs: dict[Cell, list[dict[str, Any]]] = {}
    late: dict[Cell, float] = {}
    for turn in range(most):
        for cell in wanted:
            expected = _expected(model, cell, runs)
            if time.monotonic() + expected < deadline:
                runs.setdefault(cell, []).append(bench.run(cell))
            elif turn == 0:
                late[cell] = expected
            if turn == 0:
                said()
    del bench
    gc.collect()
    reasons = {
        cell: f'about {expected:.0f} s would have exceeded the time of this run' for cell, expected in late.items()
    }
    return [
        name | (_summary(model, runs[cell], dtype) if cell in runs else {'reason': reasons[cell]})
        for cell, name in names.items()
    ]


def _expected(model: TickModel, cell: Cell, runs: dict[Cell, list[dict[str, Any]]]) -> float:
    """Seconds that a tick may take, from its last run or that of the cell measured last; 0 where there is none."""
    if not runs:
        return 0.0
    (keep, cached), run = (
        (cell, runs[cell][-1]) if cell in runs else [(key, found[-1]) for key, found in runs.items()][-1]
    )
    stages = dict(run['stage_ms'])
    tokens = model.views * model.frames * model.side**2
    ratio = [model.shape.prefill_flops(int(share * tokens) + run['tokens_text']) for share in (cell[0], keep)]
    stages['prefill'] *= ratio[0] / ratio[1]
    stages['encode'] *= (1 if cell[1] else model.frames) / (1 if cached else model.frames)
    return float(sum(stages.values())) / 1e3


def _summary(model: TickModel, runs: list[dict[str, Any]], dtype: str) -> dict[str, Any]:
    last = runs[-1]
    tokens = last['tokens_visual'] + last['tokens_text']
    ticks = [sum(run['stage_ms'].values()) for run in runs]
    value_bytes = FP32 if dtype == 'float32' else 2
    return {
        'runs': len(runs),
        'views': model.views,
        'frames': model.frames,
        'layers': model.layers,
        'layers_of': model.of.language.layers,
        'vision_layers': model.vision_layers,
        'vision_layers_of': model.of.vision_layers,
        'extrapolated': False,
        'describe_tokens': NEW_TOKENS,
        **{key: last[key] for key in ('tokens_full', 'tokens_visual', 'tokens_text', 'kv_bytes')},
        'tick_ms': spread_of(ticks),
        'stage_ms': {s: spread_of([run['stage_ms'].get(s, 0.0) for run in runs]) for s in STAGES},
        'prefill_flops': model.shape.prefill_flops(tokens),
        'kv_bytes_by_formula': model.shape.kv_bytes(tokens, value_bytes),
        'peak_bytes': max((run['peak_bytes'] for run in runs if run['peak_bytes'] is not None), default=None),
    }


def spread_of(values: list[float]) -> dict[str, float]:
    """Median and both ends."""
    return {'median': round(median(values), 3), 'min': round(min(values), 3), 'max': round(max(values), 3)}


def free_bytes() -> int | None:
    """Memory that a process could still take; None where the system does not say."""
    return proc_bytes('/proc/meminfo', 'MemAvailable')


def reset_peak() -> None:
    """Start to count the peak anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        return


def peak_bytes() -> int | None:
    """Most memory held since `reset_peak`, weights included: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return proc_bytes('/proc/self/status', 'VmHWM')
