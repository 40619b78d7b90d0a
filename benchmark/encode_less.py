"""Views in turn and fewer pixels for side cameras, side by side in one run: images, tokens and time of a tick.

    stprune world w --seed 1000004 --seconds 12 --hz 5
    OMP_NUM_THREADS=1 python benchmark/encode_less.py w --output encode_less.json

Each window goes through every setting before the next one does, so that a machine that others share slows all alike.
CPU seconds are those of this process, whatever else runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stprune_ros.core.types import Answer, Window
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.io.images import decode_for_model
from stprune_ros.results import table, write_json
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend, ImageFeatures, PreparedImages
from stprune_ros.vlm.loading import load_model

WARM_UP = 5  # ticks that do not count: first compilation, history not full yet
SIDE_PIXELS = 7680  # half of what the bundled model sees
SETTINGS: Mapping[str, Mapping[str, float]] = {
    'every image, all pixels': {},
    'turns within 500 ms': {'cameras.refresh_ms': 500.0},
    'turns within 1000 ms': {'cameras.refresh_ms': 1000.0},
    'half the pixels': {'model.side_image_pixels': SIDE_PIXELS},
    'turns within 1000 ms, half the pixels': {'cameras.refresh_ms': 1000.0, 'model.side_image_pixels': SIDE_PIXELS},
}


class Measured:
    """A backend that counts images and the CPU seconds of preparing and encoding them."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.images = 0
        self.cpu_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def prepare(self, images: Sequence[np.ndarray], side: bool = False) -> PreparedImages:
        """See `Backend.prepare`."""
        started = time.process_time()
        prepared = self._backend.prepare(images, side)
        self.cpu_s += time.process_time() - started
        return prepared

    def encode(self, images: PreparedImages) -> list[ImageFeatures]:
        """See `Backend.encode`."""
        started = time.process_time()
        features = self._backend.encode(images)
        self.cpu_s += time.process_time() - started
        self.images += len(features)
        return features


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('bag', type=Path)
    parser.add_argument('--output', type=Path, required=True)
    options = parser.parse_args()
    rows = run_settings(options.bag)
    machine = f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {date.today()}'
    write_json(options.output, {'machine': machine, 'rows': rows})
    print(f'{machine}\n\n{to_markdown(rows)}')


def run_settings(path: Path) -> list[dict[str, Any]]:
    """A row for each of SETTINGS: means per tick of a bag, all ticks interleaved."""
    settings = {name: Settings.from_values(values) for name, values in SETTINGS.items()}
    shown: dict[str, list[Window]] = {}
    pipelines: dict[str, tuple[Pipeline, Measured]] = {}
    backend, prompt = load_model(Settings.from_values({'model.side_image_pixels': SIDE_PIXELS}))
    for name, values in settings.items():
        with Bag(path) as bag:
            bag_windows = BagWindows(bag, values)
            shown[name] = list(bag_windows.read())
        measured = Measured(backend)
        pipelines[name] = Pipeline(values, measured, bag_windows.rig, prompt, decode_for_model), measured
    found: dict[str, list[dict[str, float]]] = {name: [] for name in settings}
    for tick in tqdm(range(len(shown[next(iter(shown))])), unit='tick', disable=None):
        for name, (pipeline, measured) in pipelines.items():
            before, images, encoding = time.process_time(), measured.images, measured.cpu_s
            answer = pipeline.run(shown[name][tick])
            spent = time.process_time() - before
            figures = {'images': measured.images - images, 'encode_cpu_ms': 1e3 * (measured.cpu_s - encoding)}
            found[name].append({**figures, 'tick_cpu_ms': 1e3 * spent, **_figures(answer, pipeline.roles.side)})
    return [
        {'setting': name, 'ticks': len(ticks) - WARM_UP, **_means(ticks[WARM_UP:])} for name, ticks in found.items()
    ]


def _figures(answer: Answer, side: Sequence[str]) -> dict[str, float]:
    stages = answer.timing.stage_ms
    ages = [answer.stamp_ns - view.stamp_ns for view in answer.views if view.camera in side]
    return {
        'tokens': answer.tokens_full,
        'age_ms': float(np.mean(ages)) / 1e6,
        'encode_ms': stages['prepare'] + stages['encode'],
        'hint_ms': answer.timing.hint_ms,
        'tick_ms': answer.timing.tick_ms,
    }


def _means(ticks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: round(float(np.mean([tick[key] for tick in ticks])), 1) for key in ticks[0]}


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a Markdown table."""
    columns = {
        'setting': 'setting',
        'images': 'images',
        'tokens': 'tokens before pruning',
        'age_ms': 'age of side views, ms',
        'encode_cpu_ms': 'CPU: prepare and encode',
        'tick_cpu_ms': 'CPU: tick',
        'encode_ms': 'prepare and encode',
        'hint_ms': 'up to the hint',
        'tick_ms': 'tick',
    }
    return table(tuple(columns.values()), [tuple(str(row[key]) for key in columns) for row in rows])


if __name__ == '__main__':
    main()
