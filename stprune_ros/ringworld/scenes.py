"""Scenes for training and for evaluation: images as the model gets them, dense truth per token, truth per frame.

A scene is one window of a world (four frames of six views, the last one current), or a drive with many windows.
A scene follows from its seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from stprune_ros.core.types import Behavior
from stprune_ros.ringworld.renderer import HEIGHT, RING, WIDTH, RenderedView, render_view
from stprune_ros.ringworld.shapes import CLASSES, GREEN_LIGHT, PEDESTRIAN, RED_LIGHT, VEHICLE
from stprune_ros.ringworld.traffic import COLOURS
from stprune_ros.ringworld.truth import SceneTruth, hazard, scene_truth
from stprune_ros.ringworld.world import Snapshot, World

FRAMES = 4
GRID = (6, 10)  # token rows and columns of a view
PATCH = 16  # pixels of the model's image per side of a token
JPEG_QUALITY = 90
SCENE_SECONDS = 8.0
DRIVE_SECONDS = 12.0
HELD_OUT = 1_000_000  # seeds from here on are never trained on
ACTOR_CLASSES = (VEHICLE, PEDESTRIAN, RED_LIGHT, GREEN_LIGHT)
MIN_TOKEN_PIXELS = 8  # pixels that an actor must exceed in a patch to be the content of its token


@dataclass(frozen=True)
class Scene:
    """``images`` uint8 (F, V, 96, 160, 3); ``tokens``: dense truth, each (F, V, 60, ...); one truth per frame.

    Each of ``windows`` holds the indices of the four frames that the model sees together, the last one current.
    """

    seed: int
    images: np.ndarray
    tokens: dict[str, np.ndarray]
    truths: tuple[SceneTruth, ...]
    windows: tuple[tuple[int, ...], ...]


def make_scene(seed: int, hard: bool = False) -> Scene:
    """One window, its time drawn such that the three behaviors are about equally frequent; used for evaluation."""
    world = World(seed, SCENE_SECONDS, hard)
    rng = np.random.default_rng([seed, 3])
    now = draw_time(world, seed, rng, 1.6)
    gap = 0.5 if rng.random() < 0.75 else float(rng.integers(1, 5)) / 10
    return _render_scene(world, seed, [now - gap - 1.0, now - gap - 0.5, now - gap, now], ((0, 1, 2, 3),))


def make_drive(seed: int, hard: bool = False) -> Scene:
    """Many windows of one world, used for training: ten frames 0.5 s apart, and two that follow one sooner."""
    world = World(seed, DRIVE_SECONDS, hard)
    rng = np.random.default_rng([seed, 3])
    start = min(max(draw_time(world, seed, rng, 0.0) - 2.5, 0.0), DRIVE_SECONDS - 4.6)
    times = [start + 0.5 * n for n in range(10)]
    windows = [(n - 3, n - 2, n - 1, n) for n in range(3, 10)]
    for _ in range(2):
        last = int(rng.integers(3, 9))
        windows.append((last - 2, last - 1, last, len(times)))
        times.append(times[last] + float(rng.integers(1, 5)) / 10)
    return _render_scene(world, seed, times, tuple(windows))


def _render_scene(world: World, seed: int, times: Sequence[float], windows: tuple[tuple[int, ...], ...]) -> Scene:
    images, tokens, truths = [], [], []
    for t in times:
        snapshot = world.snapshot(t)
        rendered = [render_view(snapshot, camera) for camera in RING]
        truth = scene_truth(world, snapshot, RING, rendered)
        truths.append(truth)
        images.append([model_image(view.rgb) for view in rendered])
        tokens.append([token_truth(view, snapshot, truth, index) for index, view in enumerate(rendered)])
    stacked = {name: np.array([[view[name] for view in views] for views in tokens]) for name in tokens[0][0]}
    return Scene(seed, np.array(images), stacked, tuple(truths), windows)


def draw_time(world: World, seed: int, rng: np.random.Generator, earliest: float) -> float:
    """A time at which the hint is the one whose turn it is by seed; pedestrians as its reason count six times."""
    times = rng.uniform(earliest, world.seconds, 40)
    wanted = (Behavior.NONE, Behavior.SLOW_DOWN, Behavior.STOP)[seed % 3]
    fitting = []
    for t in times:
        snapshot = world.snapshot(float(t))
        behavior, reason, _ = hazard(world, snapshot, {actor.id for actor in snapshot.actors})
        if behavior == wanted:
            fitting += [float(t)] * (6 if reason is not None and reason.kind == 'pedestrian' else 1)
    return fitting[int(rng.integers(len(fitting)))] if fitting else float(times[0])


def model_image(rgb: np.ndarray) -> np.ndarray:
    """An image after JPEG compression and the image processor's resize: uint8 (96, 160, 3)."""
    from PIL import Image

    data = cv2.imencode('.jpg', rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1]
    size = (GRID[1] * PATCH, GRID[0] * PATCH)
    return np.asarray(Image.fromarray(np.ascontiguousarray(decoded)).resize(size, Image.Resampling.BICUBIC))


def token_truth(rendered: RenderedView, snapshot: Snapshot, truth: SceneTruth, view: int) -> dict[str, np.ndarray]:
    """Dense truth of one view, arrays (60, ...), about the actor with most pixels in each patch.

    - ``share`` uint8 (60, classes): pixels of each class, 255 for a whole patch
    - ``kind``: 0 vehicle, 1 pedestrian, 2 red light, 3 green light; ``colour``: index into `COLOURS`, of vehicles
    - ``actor``: id; ``copy``: 1 where a view before this one shows the actor too
    - ``position`` (60, 5): the actor's centre within the patch (u, v), the offset to the centre of all its pixels in
      patches (u, v), and the log of depth over focal length
    - ``heading`` (60, 2): cosine and sine of a vehicle's heading against the line of sight
    - ``anchor``: 1 for the patch nearest to the centre of a visible actor; ``nearest``: 1 for the nearest of its kind
    - ``moving``: 0 or 1; ``side``: where a pedestrian walks, 0 left, 1 right, 2 nowhere
    - ``reason``: 1 for the reason to slow down, 2 for the reason to stop

    -1 where a question does not apply.
    """
    rows, columns = GRID
    n = rows * columns
    patch = (np.arange(HEIGHT)[:, None] * rows // HEIGHT) * columns + np.arange(WIDTH)[None, :] * columns // WIDTH
    pairs = patch.ravel() * len(CLASSES) + rendered.classes.ravel()
    share = np.bincount(pairs, minlength=n * len(CLASSES)).reshape(n, -1)
    out: dict[str, np.ndarray] = {
        'share': np.round(share * (255.0 * n / (WIDTH * HEIGHT))).astype(np.uint8),
        **{name: np.full(n, -1, np.int8) for name in ('kind', 'colour', 'moving', 'side', 'nearest', 'copy')},
        'anchor': np.zeros(n, np.int8),
        'reason': np.zeros(n, np.int8),
        'actor': np.full(n, -1, np.int16),
        'position': np.zeros((n, 5), np.float16),
        'heading': np.zeros((n, 2), np.float16),
    }
    camera, ego = RING[view], snapshot.ego
    visible_here = {actor.id: actor for actor in truth.views[view]}
    visible_before = {actor.id for other in truth.views[:view] for actor in other}
    first = {kind: next((a.id for a in truth.views[view] if a.kind == kind), -1) for kind in ('vehicle', 'pedestrian')}
    reason_level = {Behavior.SLOW_DOWN: 1, Behavior.STOP: 2}.get(truth.behavior, 0)
    most = np.full(n, MIN_TOKEN_PIXELS)
    solid = np.isin(rendered.classes, ACTOR_CLASSES) & (rendered.actor_ids >= 0)
    v, u = np.nonzero(solid)
    ids, cell, depth = rendered.actor_ids[v, u], patch[v, u], rendered.depth[v, u]
    grid_u, grid_v = np.arange(n) % columns * 32 + 15.5, np.arange(n) // columns * 32 + 15.5
    for number in np.unique(ids):
        actor, mask = snapshot.actors[number], ids == number
        count = np.bincount(cell[mask], minlength=n)
        visible = visible_here.get(int(number))
        if visible:
            occupied = np.flatnonzero(count)
            away = np.hypot(grid_u[occupied] - visible.u, grid_v[occupied] - visible.v)
            out['anchor'][occupied[int(away.argmin())]] = 1
        wins = count > most
        most = np.maximum(most, count)
        total = np.maximum(count, 1)
        mean_u, mean_v, mean_log_depth = (
            np.bincount(cell[mask], weights, n) / total for weights in (u[mask], v[mask], np.log(depth[mask]))
        )
        centre_u, centre_v = (visible.u, visible.v) if visible else (u[mask].mean(), v[mask].mean())
        position = [
            (mean_u - grid_u) / 16,
            (mean_v - grid_v) / 16,
            (centre_u - grid_u) / 32,
            (centre_v - grid_v) / 32,
            mean_log_depth - math.log(camera.focal),
        ]
        kind = {'vehicle': 0, 'pedestrian': 1}.get(actor.kind, 2 if actor.state == 'red' else 3)
        turn = actor.yaw - math.atan2(actor.y - ego.y, actor.x - ego.x)
        out['kind'][wins], out['actor'][wins] = kind, number
        out['colour'][wins] = COLOURS.index(actor.colour) if kind == 0 else -1
        out['heading'][wins] = (math.cos(turn), math.sin(turn)) if kind == 0 else (0.0, 0.0)
        out['moving'][wins] = int(actor.moving) if kind < 2 else -1
        out['side'][wins] = (2 if not actor.moving else int(visible.sideways > 0)) if kind == 1 and visible else -1
        out['nearest'][wins] = int(first[actor.kind] == number) if kind < 2 else -1
        out['copy'][wins] = int(number in visible_before) if kind < 2 and visible else -1
        out['reason'][wins] = reason_level if number == truth.reason_id else 0
        out['position'][wins] = np.stack(position, 1)[wins]
    return out
