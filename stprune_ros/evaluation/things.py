"""How well what a method goes by tells things (road users and lights) from background: a gauge of how hard a world is.

Only tokens of the newest frame count, so that a method's wish for new frames tells nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from stprune_ros.evaluation.case import CaseScene, CaseSource
from stprune_ros.evaluation.exam import EncodedScene
from stprune_ros.evaluation.variants import WHOLE, WHOLE_FIRST_FRAME, variant_of
from stprune_ros.pruning.commonness import commonness, separability
from stprune_ros.pruning.view_tokens import ViewTokens, unit_rows
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Backend

LADDER = (0.02, 0.05, 0.1, 0.25, 0.5)  # keep ratios through whose sets a method's curve goes
THING, BACKGROUND, UNSEEN = 1, 0, -1  # of a place in the newest image; UNSEEN: a thing that is hidden, left out


def measure_things(
    source: CaseSource, scene_ids: Iterable[int], methods: Sequence[str], backend: Backend, settings: Settings
) -> dict[str, Any]:
    """Mean areas under the curve over scenes whose things are known: of commonness, and of each method; JSON data.

    A method's curve is the share of things kept over the share of background kept, at the ratios of `LADDER`. With it
    comes the mean separability of commonness, which needs no truth. Methods that see fewer images are left out: what
    they show is not all of the newest instant.
    """
    methods = [method for method in methods if variant_of(method, 1.0, 0, settings).encoding == WHOLE]
    gauges, areas = [], []
    for scene_id in tqdm(list(scene_ids), unit='scene', desc='things', disable=None):
        scene = source.cases(scene_id)[0].scene
        if scene.things is None:
            continue
        encoded = EncodedScene.encode(scene, backend)
        truth = things_of(scene, encoded.views)
        values = newest_commonness(encoded.views)
        gauges.append(float(separability(values)))
        found = {'commonness': detector_area(-values.numpy(), truth)}
        areas.append(found | {method: keep_area(method, encoded, truth, scene, settings) for method in methods})
    names = ('commonness', *methods)
    return {
        'scenes': len(areas),
        'separability': round(float(np.mean(gauges)), 4) if gauges else None,
        'auc': {name: _mean(np.array([area[name] for area in areas], float)) for name in names},
    }


def things_of(scene: CaseScene, views: Sequence[ViewTokens]) -> np.ndarray:
    """`THING`, `BACKGROUND` or `UNSEEN` for every token of the newest frame, view after view: int8 (N,)."""
    found = []
    for view in views:
        if view.count and scene.things is not None:
            truth, grid = scene.things[view.name], view.tokens.shape[1:3]
            rows, columns = ((np.arange(n) + 0.5) * side // n for n, side in zip(grid, truth.shape))
            found.append(truth[rows.astype(int)[:, None], columns.astype(int)].ravel())
    return np.concatenate(found)


def newest_commonness(views: Sequence[ViewTokens]) -> torch.Tensor:
    """Commonness of the tokens of the newest frame, view after view: (N,)."""
    common = commonness([unit_rows(view) for view in views], [view.slots for view in views])
    return torch.cat([x.reshape(len(v.tokens), -1)[-1] for v, x in zip(views, common) if v.count]).cpu()


def detector_area(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the curve of scores (N,) as a detector of things, ties counting half; NaN where one side is empty."""
    things, background = scores[truth == THING], np.sort(scores[truth == BACKGROUND])
    if not (len(things) and len(background)):
        return float('nan')
    ranks = (np.searchsorted(background, things, side) for side in ('left', 'right'))
    return float(sum(rank.mean() for rank in ranks) / (2 * len(background)))


def keep_area(method: str, encoded: EncodedScene, truth: np.ndarray, scene: CaseScene, settings: Settings) -> float:
    """Area under the curve through the keep sets of a method; NaN where one side is empty or no set defined."""
    kept = []
    for keep in LADDER:
        variant = variant_of(method, keep, scene.id, settings)
        undefined = variant.config.method in WHOLE_FIRST_FRAME and keep * encoded.history < 1
        if undefined or variant.reads_question:
            continue
        masks = encoded.keep_masks(variant.config, variant.options)
        kept.append(np.concatenate([m[-1].flatten().cpu().numpy() for m, v in zip(masks, encoded.views) if v.count]))
    things, background = truth == THING, truth == BACKGROUND
    if not (kept and things.any() and background.any()):
        return float('nan')
    hits, alarms = ([0.0, *(float(mask[part].mean()) for mask in kept), 1.0] for part in (things, background))
    return float(np.sum(np.diff(alarms) * (np.array(hits[1:]) + hits[:-1]) / 2))


def _mean(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return round(float(defined.mean()), 4) if len(defined) else None
