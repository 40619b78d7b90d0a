"""On recorded images: which labelled objects keep a token, and how many kept tokens show what a neighbour also shows.

    python benchmark/real_pixels.py FOLDER --output benchmark/results/real_pixels.json

FOLDER holds ``bag/`` (a rosbag2 of a camera ring) and ``boxes.json`` (rows: camera, stamp_ns, box in pixels, motion).
Features are those of the bundled vision tower, which was trained on synthetic pictures only.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Answer, Window
from stprune_ros.evaluation.variants import config_of
from stprune_ros.inference.pipeline import Pipeline
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.io.images import decode_for_model
from stprune_ros.pruning.config import METHOD_NAMES
from stprune_ros.results import table, write_json
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

KEEP_RATIOS = (0.5, 0.25, 0.1, 0.05)
MAX_RANGE_M = 50.0  # farther objects are smaller than a patch of this model
Box = dict[str, Any]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--output', type=Path, required=True)
    parser.add_argument('--methods', default=','.join(method for method in METHOD_NAMES if method != 'none'))
    options = parser.parse_args()
    methods = options.methods.split(',')
    boxes = defaultdict(list)
    for box in json.loads((options.folder / 'boxes.json').read_text()):
        boxes[box['camera'], box['stamp_ns']].append(box)
    rows = measure_kept_objects(options.folder / 'bag', boxes, methods)
    machine = f'{platform.processor() or platform.machine()}, {date.today()}'
    write_json(options.output, {'bag': options.folder.name, 'machine': machine, 'rows': rows})
    print(to_markdown(rows))


def measure_kept_objects(
    bag_path: Path, boxes: Mapping[tuple[str, int], Sequence[Box]], methods: Sequence[str]
) -> list[dict[str, Any]]:
    """One row per method and keep ratio, over all ticks of the bag."""
    settings = Settings.from_values({'inference.describe': False})
    counts: dict[tuple[str, float], Counter[str]] = defaultdict(Counter)
    with Bag(bag_path) as bag:
        windows = BagWindows(bag, settings)
        rig = windows.rig
        backend, prompt = load_model(settings)
        pipeline = Pipeline(settings, backend, rig, prompt, decode_for_model)
        for window in tqdm(list(windows.read()), unit='tick', disable=not sys.stderr.isatty()):
            for method in methods:
                for keep in KEEP_RATIOS:
                    pipeline.settings = settings_of(method, keep, settings)  # the same window: nothing is encoded twice
                    add_tick(counts[method, keep], pipeline.run(window), window, boxes, rig)
    return [_row(method, keep, found) for (method, keep), found in counts.items()]


def settings_of(name: str, keep: float, settings: Settings) -> Settings:
    """Settings for a method name with switches, such as 'st_prune+skip_frozen'."""
    config = config_of(name, keep, 0, settings)
    return replace(settings, pruning=config)


def add_tick(
    total: Counter[str], answer: Answer, window: Window, boxes: Mapping[tuple[str, int], Sequence[Box]], rig: CameraRig
) -> None:
    """Count objects with a kept token in the current frame, kept background tokens and tokens kept in two views."""
    current = {view.camera: view.keep[-1] for view in answer.views if view.keep is not None and len(view.keep)}
    for camera, keep in current.items():
        covered = np.zeros(keep.shape, dtype=bool)
        for box in boxes.get((camera, window.current.frames[camera].stamp_ns), ()):
            patches = patches_of(box['box'], keep.shape, rig.cameras[camera].width, rig.cameras[camera].height)
            covered |= patches
            if box['range_m'] <= MAX_RANGE_M and box['motion'] in ('Moving', 'Parked') and patches.any():
                total[f'{box["motion"]} objects'] += 1
                total[f'{box["motion"]} seen'] += bool((patches & keep).any())
        total['background'] += int((~covered).sum())
        total['background kept'] += int((~covered & keep).sum())
        total['kept'] += int(keep.sum())
        other = rig.right(camera)
        if other in current:
            total['twice'] += int((keep & kept_in_neighbour(rig, camera, other, keep.shape, current[other])).sum())


def patches_of(box: Sequence[float], grid: Sequence[int], width: int, height: int) -> np.ndarray:
    """Patches of which a box covers at least a quarter, else the one with its centre: bool (rows, columns)."""
    rows, columns = grid
    x0, x1 = (value * columns / width for value in (box[0], box[2]))
    y0, y1 = (value * rows / height for value in (box[1], box[3]))
    row, column = np.arange(rows)[:, None], np.arange(columns)[None]
    area = np.clip(np.minimum(x1, column + 1) - np.maximum(x0, column), 0, None) * np.clip(
        np.minimum(y1, row + 1) - np.maximum(y0, row), 0, None
    )
    centre = ((y0 + y1) / 2 // 1 == row) & ((x0 + x1) / 2 // 1 == column)
    covered: np.ndarray = area >= 0.25
    return covered if covered.any() else np.asarray(centre)


def kept_in_neighbour(rig: CameraRig, camera: str, other: str, grid: Sequence[int], kept: np.ndarray) -> np.ndarray:
    """Patches of ``camera`` whose centre, far away, lies in a kept patch of ``other``: bool (rows, columns)."""
    rows, columns = grid
    model, neighbour = rig.cameras[camera], rig.cameras[other]
    v, u = np.mgrid[:rows, :columns]
    rays = model.rays((u.ravel() + 0.5) * model.width / columns - 0.5, (v.ravel() + 0.5) * model.height / rows - 0.5)
    there_u, there_v = neighbour.project(neighbour.translation + rays)
    row = np.floor((there_v + 0.5) * kept.shape[0] / neighbour.height)
    column = np.floor((there_u + 0.5) * kept.shape[1] / neighbour.width)
    inside = (row >= 0) & (row < kept.shape[0]) & (column >= 0) & (column < kept.shape[1])
    found = np.zeros(rows * columns, dtype=bool)
    found[inside] = kept[row[inside].astype(int), column[inside].astype(int)]
    return found.reshape(rows, columns)


def _row(method: str, keep: float, found: Counter[str]) -> dict[str, Any]:
    def fraction(part: str, whole: str) -> float:
        return round(found[part] / max(found[whole], 1), 4)

    return {
        'method': method,
        'keep': keep,
        'moving': fraction('Moving seen', 'Moving objects'),
        'parked': fraction('Parked seen', 'Parked objects'),
        'background': fraction('background kept', 'background'),
        'twice': fraction('twice', 'kept'),
        'moving_objects': found['Moving objects'],
        'parked_objects': found['Parked objects'],
    }


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Fractions in per cent by method and keep ratio, as a Markdown table."""
    kinds = ('moving', 'parked', 'background', 'twice')
    lines = [(row['method'], f'{row["keep"]:.0%}', *(f'{100 * row[kind]:.0f}' for kind in kinds)) for row in rows]
    return table(('method', 'keep', *kinds), lines)


if __name__ == '__main__':
    main()
