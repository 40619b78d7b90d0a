"""On recorded images: which labelled objects keep a token, how many more of their tokens stay than of the background.

    python benchmark/real_pixels.py FOLDER --output benchmark/results/real_pixels.json
    python benchmark/real_pixels.py FOLDER --features NETWORK --layer NAME --output FILE

FOLDER holds ``bag/`` (a rosbag2 of a camera ring) and ``boxes.json`` (rows: camera, stamp_ns, box in pixels, motion,
range_m). Features are those of the bundled vision tower, which was trained on synthetic pictures only, or one layer of
a network on your disk in any format that OpenCV reads (ONNX, TFLite ...): one token per cell of its feature map.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from tqdm import tqdm

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Window
from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.things import BACKGROUND, THING, detector_area, newest_commonness
from stprune_ros.evaluation.variants import WHOLE_FIRST_FRAME, name_of, variant_of
from stprune_ros.inference.features import FeatureCache, view_tokens
from stprune_ros.inference.stages import StageClock
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.io.images import decode_for_model
from stprune_ros.pruning.commonness import separability
from stprune_ros.pruning.config import METHOD_NAMES
from stprune_ros.pruning.pruner import SpatioTemporalPruner
from stprune_ros.pruning.view_tokens import ViewTokens
from stprune_ros.results import table, write_json
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import ImageFeatures
from stprune_ros.vlm.loading import load_model

MAX_RANGE_M = 50.0  # farther objects are smaller than a patch of this model
Box = dict[str, Any]


class Encoder(Protocol):
    """What makes tokens of images: that much of a `vlm.backend.Backend`."""

    model_pixels: int

    def prepare(self, images: Sequence[np.ndarray], side: bool = False) -> Any: ...

    def encode(self, images: Any) -> list[ImageFeatures]: ...


@dataclass
class NetworkLayer:
    """One layer of a convolutional network as tokens: each cell of its feature map is one, its channels the values."""

    network: Any
    layer: str
    side: int
    model_pixels: int = 0

    @classmethod
    def load(cls, path: Path, layer: str, side: int) -> NetworkLayer:
        """Read a network; ``layer`` is the end of a layer's name, ``side`` the pixels of its square input."""
        network = cv2.dnn.readNet(str(path))
        names = [name for name in network.getLayerNames() if name.endswith(layer)]
        if len(names) != 1:
            raise StpruneError(f"{len(names)} layers of '{path}' end in '{layer}': name exactly one with --layer")
        return cls(network, names[0], side)

    def prepare(self, images: Sequence[np.ndarray], side: bool = False) -> list[np.ndarray]:
        """The images as they are."""
        return list(images)

    def encode(self, images: Sequence[np.ndarray]) -> list[ImageFeatures]:
        """Tokens of each image RGB uint8 (height, width, 3), whose values go in as -1 to 1."""
        return [self._encode(image) for image in images]

    def _encode(self, image: np.ndarray) -> ImageFeatures:
        blob = cv2.dnn.blobFromImage(np.ascontiguousarray(image), 1 / 127.5, (self.side, self.side), (127.5,) * 3)
        self.network.setInput(blob)
        [found] = self.network.forward(self.layer)  # (D, rows, columns)
        tokens = torch.from_numpy(found.reshape(len(found), -1).T.copy())
        return ImageFeatures(tokens, (found.shape[1], found.shape[2]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--output', type=Path, required=True)
    default = name_of(Settings().pruning)
    everything = (default, *(method for method in METHOD_NAMES if method != 'none'))
    parser.add_argument('--methods', default=','.join(everything), help='separated by commas; default: all')
    parser.add_argument('--keep', default='0.1,0.05,0.02', help='keep ratios; default: %(default)s')
    parser.add_argument('--features', type=Path, help='a network file; default: the bundled vision tower')
    parser.add_argument('--layer', default='', help='the end of the name of one layer of that network')
    parser.add_argument('--side', type=int, default=300, help='pixels of its square input; default: %(default)s')
    options = parser.parse_args()
    boxes = defaultdict(list)
    for box in json.loads((options.folder / 'boxes.json').read_text()):
        boxes[box['camera'], box['stamp_ns']].append(box)
    settings = Settings()
    if options.features is not None:
        encoder: Encoder = NetworkLayer.load(options.features, options.layer, options.side)
    else:
        encoder = backend = load_model(settings)[0]
        settings = replace(settings, pruning=settings.pruning.for_model(backend.info.joint_common))
    methods, keeps = options.methods.split(','), [float(ratio) for ratio in options.keep.split(',')]
    found = measure_kept_objects(options.folder / 'bag', boxes, methods, keeps, encoder, settings)
    machine = f'{platform.processor() or platform.machine()}, {date.today()}'
    features = options.features.name if options.features is not None else 'bundled tower'
    write_json(options.output, {'bag': options.folder.name, 'features': features, 'machine': machine, **found})
    print(f'commonness: AUC for things {found["auc"]:.2f}, separability {found["separability"]:.2f}')
    print(to_markdown(found['rows']))


def measure_kept_objects(
    bag_path: Path,
    boxes: Mapping[tuple[str, int], Sequence[Box]],
    methods: Sequence[str],
    keeps: Sequence[float],
    encoder: Encoder,
    settings: Settings,
) -> dict[str, Any]:
    """One row per method and keep ratio over all ticks of the bag, and how well commonness tells things apart there."""
    for method in methods:
        if variant_of(method, 1.0, 0, settings).reads_question:
            raise StpruneError(f"'{method}' reads a question, and there is none here; omit it from --methods")
    counts: dict[tuple[str, float], Counter[str]] = defaultdict(Counter)
    gauges, aucs = [], []
    with Bag(bag_path) as bag:
        windows = BagWindows(bag, settings)
        rig = windows.rig
        features = FeatureCache(encoder, rig, decode_for_model, settings.cameras)  # type: ignore[arg-type]
        for window in tqdm(list(windows.read()), unit='tick', disable=not sys.stderr.isatty()):
            views = [
                view_tokens(view.camera, view.features, view.slots, rig, view.egos, overlap=True, motion=True)
                for view in features.update(window, StageClock())[0]
            ]
            gauge, auc = tell_apart(views, window, boxes, rig)
            gauges.append(gauge)
            aucs.append(auc)
            for method in methods:
                for keep in keeps:
                    if method in WHOLE_FIRST_FRAME and keep * window.slots < 1:
                        continue
                    variant = variant_of(method, keep, window.current.sequence, settings)
                    masks = SpatioTemporalPruner(variant.config, options=variant.options)(views, window.slots)
                    current = {v.name: mask[-1].cpu().numpy() for v, mask in zip(views, masks) if v.count}
                    add_tick(counts[method, keep], current, window, boxes, rig)
    return {
        'separability': round(float(np.mean(gauges)), 4),
        'auc': round(float(np.nanmean(aucs)), 4),
        'rows': [_row(method, keep, found) for (method, keep), found in counts.items()],
    }


def tell_apart(
    views: Sequence[ViewTokens], window: Window, boxes: Mapping[tuple[str, int], Sequence[Box]], rig: CameraRig
) -> tuple[float, float]:
    """Separability of the commonness in the current frame, and its area under the curve as a detector of objects."""
    things = [things_of(view.name, view.tokens.shape[1:3], window, boxes, rig).ravel() for view in views if view.count]
    values = newest_commonness(views)
    return float(separability(values)), detector_area(
        -values.numpy(), np.where(np.concatenate(things), THING, BACKGROUND)
    )


def things_of(
    camera: str,
    grid: Sequence[int],
    window: Window,
    boxes: Mapping[tuple[str, int], Sequence[Box]],
    rig: CameraRig,
) -> np.ndarray:
    """Patches of the current frame that any labelled object covers: bool (rows, columns)."""
    covered = np.zeros(tuple(grid), dtype=bool)
    model = rig.cameras[camera]
    for box in boxes.get((camera, window.current.frames[camera].stamp_ns), ()):
        covered |= patches_of(box['box'], grid, model.width, model.height)
    return covered


def add_tick(
    total: Counter[str],
    current: Mapping[str, np.ndarray],
    window: Window,
    boxes: Mapping[tuple[str, int], Sequence[Box]],
    rig: CameraRig,
) -> None:
    """Count objects with a kept token in the current frame, kept tokens of things and background, and of two views.

    ``current``: by camera the keep mask (rows, columns) of its current frame.
    """
    for camera, keep in current.items():
        covered = things_of(camera, keep.shape, window, boxes, rig)
        for box in boxes.get((camera, window.current.frames[camera].stamp_ns), ()):
            patches = patches_of(box['box'], keep.shape, rig.cameras[camera].width, rig.cameras[camera].height)
            if box['range_m'] <= MAX_RANGE_M and box['motion'] in ('Moving', 'Parked') and patches.any():
                total[f'{box["motion"]} objects'] += 1
                total[f'{box["motion"]} seen'] += bool((patches & keep).any())
        total['things'] += int(covered.sum())
        total['things kept'] += int((covered & keep).sum())
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
        return found[part] / max(found[whole], 1)

    things, background = fraction('things kept', 'things'), fraction('background kept', 'background')
    return {
        'method': method,
        'keep': keep,
        'moving': round(fraction('Moving seen', 'Moving objects'), 4),
        'parked': round(fraction('Parked seen', 'Parked objects'), 4),
        'things': round(things, 4),
        'background': round(background, 4),
        'lift': round(things / background, 3) if background else None,
        'twice': round(fraction('twice', 'kept'), 4),
        'moving_objects': found['Moving objects'],
        'parked_objects': found['Parked objects'],
    }


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Fractions in per cent by method and keep ratio, and the lift as a factor, as a Markdown table."""
    kinds = ('moving', 'parked', 'things', 'background', 'twice')
    lines = [
        (
            row['method'],
            f'{row["keep"]:.0%}',
            *(f'{100 * row[kind]:.0f}' for kind in kinds),
            'n/a' if row['lift'] is None else f'{row["lift"]:.2f}',
        )
        for row in rows
    ]
    return table(('method', 'keep', *kinds, 'lift'), lines)


if __name__ == '__main__':
    main()
