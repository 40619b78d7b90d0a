"""Scenes for training and for held-out tests: pictures as the model gets them, dense truth per token, truth per tick.

A scene is one window of a world, four frames of six views, the last one current, or a drive with many windows.
Scene ``n`` follows from ``n`` alone.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from stprune_ros.core.types import Behavior
from stprune_ros.ringworld.renderer import (
    CLASSES,
    GREEN_LIGHT,
    HEIGHT,
    PEDESTRIAN,
    RED_LIGHT,
    RING,
    VEHICLE,
    WIDTH,
    Picture,
    render,
)
from stprune_ros.ringworld.truth import Truth, hazard, truth_of
from stprune_ros.ringworld.world import COLOURS, Snapshot, World

FRAMES = 4
GRID = (6, 10)  # token rows and columns of a view
PATCH = 16
JPEG_QUALITY = 90
WORLD_SECONDS = 8.0
DRIVE_SECONDS = 12.0
HELD_OUT = 1_000_000  # seeds from here on are never trained on
KIND = {VEHICLE: 0, PEDESTRIAN: 1, RED_LIGHT: 2, GREEN_LIGHT: 3}


@dataclass(frozen=True)
class Scene:
    """``images`` uint8 (F, V, 96, 160, 3); ``tokens``: dense truth, each (F, V, 60, ...); one truth per frame.

    Each window names the four of the F frames that the model sees together, the last one current.
    """

    seed: int
    images: np.ndarray
    tokens: dict[str, np.ndarray]
    truths: tuple[Truth, ...]
    windows: tuple[tuple[int, ...], ...]


def scene(seed: int) -> Scene:
    """One window at a time drawn so that the three behaviors are about equally frequent: what exams are made of."""
    world = World(seed, WORLD_SECONDS)
    rng = np.random.default_rng([seed, 3])
    now = _moment(world, seed, rng, 1.6)
    gap = 0.5 if rng.random() < 0.75 else float(rng.integers(1, 5)) / 10
    return _shoot(world, seed, [now - gap - 1.0, now - gap - 0.5, now - gap, now], ((0, 1, 2, 3),))


def drive(seed: int) -> Scene:
    """Many windows of one world, for training: ten frames 0.5 s apart, and two more that follow one sooner."""
    world = World(seed, DRIVE_SECONDS)
    rng = np.random.default_rng([seed, 3])
    start = min(max(_moment(world, seed, rng, 0.0) - 2.5, 0.0), DRIVE_SECONDS - 4.6)
    times = [start + 0.5 * n for n in range(10)]
    windows = [(n - 3, n - 2, n - 1, n) for n in range(3, 10)]
    for _ in range(2):
        last = int(rng.integers(3, 9))
        windows.append((last - 2, last - 1, last, len(times)))
        times.append(times[last] + float(rng.integers(1, 5)) / 10)
    return _shoot(world, seed, times, tuple(windows))


def _shoot(world: World, seed: int, times: Sequence[float], windows: tuple[tuple[int, ...], ...]) -> Scene:
    images, tokens, truths = [], [], []
    for t in times:
        snapshot = world.snapshot(t)
        pictures = [render(snapshot, camera) for camera in RING]
        truth = truth_of(world, snapshot, RING, pictures)
        truths.append(truth)
        images.append([as_seen(picture.rgb) for picture in pictures])
        tokens.append([token_truth(picture, snapshot, truth, index) for index, picture in enumerate(pictures)])
    stacked = {name: np.array([[view[name] for view in views] for views in tokens]) for name in tokens[0][0]}
    return Scene(seed, np.array(images), stacked, tuple(truths), windows)


def _moment(world: World, seed: int, rng: np.random.Generator, first: float) -> float:
    times = rng.uniform(first, world.seconds, 40)
    wanted = (Behavior.NONE, Behavior.SLOW_DOWN, Behavior.STOP)[seed % 3]
    good = []
    for t in times:
        snapshot = world.snapshot(float(t))
        behavior, thing, _ = hazard(world, snapshot, {other.id for other in snapshot.things})
        if behavior == wanted:
            good += [float(t)] * (6 if thing is not None and thing.kind == 'pedestrian' else 1)
    return good[int(rng.integers(len(good)))] if good else float(times[0])


def as_seen(rgb: np.ndarray) -> np.ndarray:
    """A picture after JPEG and the reduction that the image processor does: uint8 (96, 160, 3)."""
    from PIL import Image

    data = cv2.imencode('.jpg', rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1]
    size = (GRID[1] * PATCH, GRID[0] * PATCH)
    return np.asarray(Image.fromarray(np.ascontiguousarray(decoded)).resize(size, Image.Resampling.BICUBIC))


def token_truth(picture: Picture, snapshot: Snapshot, truth: Truth, view: int) -> dict[str, np.ndarray]:
    """Dense truth of one view, (60, ...), of the thing with most pixels in each patch.

    ``share`` of classes; ``kind``, ``colour``, ``place``: middle in the patch, way to the middle of the whole thing (in
    patches) and log of depth over focal length; ``heading`` as cosine and sine to the line of sight; ``anchor``: the
    patch that holds the middle of a thing in sight; ``nearest`` of its kind in this view; ``moving``, ``side`` it moves
    to; ``reason`` of the hint; ``copy``: also seen in a view before this one. -1 where there is nothing to say.
    """
    rows, columns = GRID
    n = rows * columns
    patch = (np.arange(HEIGHT)[:, None] * rows // HEIGHT) * columns + np.arange(WIDTH)[None, :] * columns // WIDTH
    share = np.bincount(patch.ravel() * len(CLASSES) + picture.classes.ravel(), minlength=n * len(CLASSES)).reshape(
        n, -1
    )
    out: dict[str, np.ndarray] = {
        'share': np.round(share * (255.0 * n / (WIDTH * HEIGHT))).astype(np.uint8),
        **{name: np.full(n, -1, np.int8) for name in ('kind', 'colour', 'moving', 'side', 'nearest', 'copy')},
        'anchor': np.zeros(n, np.int8),
        'reason': np.zeros(n, np.int8),
        'thing': np.full(n, -1, np.int16),
        'place': np.zeros((n, 5), np.float16),
        'heading': np.zeros((n, 2), np.float16),
    }
    camera, ego = RING[view], snapshot.ego
    sights = {sight.id: sight for sight in truth.views[view]}
    earlier = {sight.id for other in truth.views[:view] for sight in other}
    first = {kind: next((s.id for s in truth.views[view] if s.kind == kind), -1) for kind in ('vehicle', 'pedestrian')}
    best = np.full(n, 8)  # pixels below which a thing is not worth a token's attention
    solid = np.isin(picture.classes, list(KIND)) & (picture.things >= 0)
    v, u = np.nonzero(solid)
    ids, where, depth = picture.things[v, u], patch[v, u], picture.depth[v, u]
    grid_u, grid_v = np.arange(n) % columns * 32 + 15.5, np.arange(n) // columns * 32 + 15.5
    for number in np.unique(ids):
        thing, mine = snapshot.things[number], ids == number
        count = np.bincount(where[mine], minlength=n)
        sight = sights.get(int(number))
        if sight:
            near = np.flatnonzero(count)
            away = np.hypot(grid_u[near] - sight.u, grid_v[near] - sight.v)
            out['anchor'][near[int(away.argmin())]] = 1
        wins = count > best
        best = np.maximum(best, count)
        total = np.maximum(count, 1)
        middle = [np.bincount(where[mine], w, n) / total for w in (u[mine], v[mine], np.log(depth[mine]))]
        kind = {'vehicle': 0, 'pedestrian': 1}.get(thing.kind, 2 if thing.state == 'red' else 3)
        place = [(middle[0] - grid_u) / 16, (middle[1] - grid_v) / 16]
        place += [
            ((sight.u if sight else u[mine].mean()) - grid_u) / 32,
            ((sight.v if sight else v[mine].mean()) - grid_v) / 32,
        ]
        place += [middle[2] - math.log(camera.focal)]
        turn = thing.yaw - math.atan2(thing.y - ego.y, thing.x - ego.x)
        out['kind'][wins], out['thing'][wins] = kind, number
        out['colour'][wins] = COLOURS.index(thing.colour) if kind == 0 else -1
        out['heading'][wins] = (math.cos(turn), math.sin(turn)) if kind == 0 else (0.0, 0.0)
        out['moving'][wins] = int(thing.moving) if kind < 2 else -1
        out['side'][wins] = (2 if not thing.moving else int(sight.sideways > 0)) if kind == 1 and sight else -1
        out['nearest'][wins] = int(first[thing.kind] == number) if kind < 2 else -1
        out['copy'][wins] = int(number in earlier) if kind < 2 and sight else -1
        out['reason'][wins] = (
            {Behavior.SLOW_DOWN: 1, Behavior.STOP: 2}.get(truth.behavior, 0) if number == truth.reason_id else 0
        )
        out['place'][wins] = np.stack(place, 1)[wins]
    return out


def write_shards(folder: Path, seeds: Iterable[range], make: Callable[[int], Scene]) -> None:
    """One file of ``make(seed)`` for each range of seeds; those that exist are left alone, so that a run goes on."""
    cv2.setNumThreads(1)
    folder.mkdir(parents=True, exist_ok=True)
    for part in seeds:
        path = folder / f'scenes_{part.start:07d}.pkl'
        if path.exists():
            continue
        scenes = [make(seed) for seed in part]
        partial = path.with_suffix('.part')
        partial.write_bytes(pickle.dumps(scenes, protocol=5))
        partial.rename(path)


def read_shards(folder: Path) -> Iterable[list[Scene]]:
    """The shards written so far, in order of their seeds; only read folders that you wrote (they are pickles)."""
    for path in sorted(folder.glob('scenes_*.pkl')):
        yield pickle.loads(path.read_bytes())
