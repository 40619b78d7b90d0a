"""One drive to look at: a moving picture of what the model saw, kept and said, beside the road from above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Answer, Behavior
from stprune_ros.driving.events import CENTRE, LENGTH, NEAR, WIDTH, near_actors
from stprune_ros.driving.guides import seconds
from stprune_ros.driving.record import Drive, Step
from stprune_ros.io.drawing import GROUND, INK, SOFT, overlap_columns, ring_picture
from stprune_ros.ringworld.route import BLOCK
from stprune_ros.ringworld.world import ROAD, STEP, STOP_LINE, Snapshot, SteppedWorld

QUALITY = 45  # of WebP, so that a film of 20 s stays below 2 MB
SCALE = 0.7  # of the ring's picture
SIDE = 300  # pixels of the map's width
ROAD_COLOUR, CAR_COLOUR, PEDESTRIAN_COLOUR, EGO_COLOUR = (62, 68, 80), (150, 158, 170), (213, 94, 0), (86, 180, 233)
RED, GREEN = (200, 60, 60), (0, 158, 115)


def write_film(path: Path, answers: Sequence[Answer], drive: Drive, world: SteppedWorld, rig: CameraRig) -> None:
    """Write a frame for each answer, which stands until the next one does; animated WebP in real time.

    ``answers`` have their pictures, ``world`` is that of the drive after it.
    """
    frames = [frame_picture(answer, drive, world, rig) for answer in answers]
    times = [seconds(answer.stamp_ns) for answer in answers]
    ends = [*times[1:], max(drive.seconds, times[-1] + STEP)]
    durations = [round(1e3 * (end - start)) for start, end in zip(times, ends, strict=True)]
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, quality=QUALITY, method=4)


def frame_picture(answer: Answer, drive: Drive, world: SteppedWorld, rig: CameraRig) -> np.ndarray:
    """What the model saw in a tick, and the road at the same moment: RGB uint8."""
    ring = ring_picture(answer, overlap_columns(rig, answer.views))
    ring = cv2.resize(ring, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_AREA)
    t = seconds(answer.stamp_ns)
    step = drive.steps[min(round(t / STEP), len(drive.steps) - 1)]
    road = road_picture(world.snapshot(t), [world.light(axis, t) == 'red' for axis in (0, 1)], ring.shape[0])
    _caption(road, drive, step)
    return np.hstack([ring, road])


def road_picture(snapshot: Snapshot, red: Sequence[bool], height: int) -> np.ndarray:
    """The road from above, the ego vehicle's way up: RGB uint8 (height, `SIDE`, 3); ``red`` by axis."""
    picture, ego = np.full((height, SIDE, 3), GROUND, np.uint8), snapshot.ego
    scale = SIDE / NEAR

    def pixels(points: np.ndarray) -> np.ndarray:
        ahead, left = (
            np.array([math.cos(ego.yaw), math.sin(ego.yaw)]),
            np.array([-math.sin(ego.yaw), math.cos(ego.yaw)]),
        )
        moved = points - (ego.x, ego.y)
        columns, rows = SIDE / 2 - scale * (moved @ left), 0.72 * height - scale * (moved @ ahead)
        return np.asarray(np.stack([columns, rows], -1).round().astype(np.int32))

    def fill(low: tuple[float, float], high: tuple[float, float], colour: tuple[int, int, int]) -> None:
        corners = np.array([low, (high[0], low[1]), high, (low[0], high[1])])
        cv2.fillPoly(picture, [pixels(corners)], colour, cv2.LINE_AA)

    base = [round(value / BLOCK) * BLOCK for value in (ego.x, ego.y)]
    middles = [[middle + shift * BLOCK for shift in (-1, 0, 1)] for middle in base]
    for x in middles[0]:
        fill((x - ROAD, ego.y - 2 * NEAR), (x + ROAD, ego.y + 2 * NEAR), ROAD_COLOUR)
    for y in middles[1]:
        fill((ego.x - 2 * NEAR, y - ROAD), (ego.x + 2 * NEAR, y + ROAD), ROAD_COLOUR)
    for x in middles[0]:
        for y in middles[1]:
            for sign in (1, -1):
                along, across = sorted((-sign * ROAD, 0.0)), sorted((0.0, sign * ROAD))
                line = -sign * STOP_LINE
                fill((x + line - 0.25, y + along[0]), (x + line + 0.25, y + along[1]), RED if red[0] else GREEN)
                fill((x + across[0], y + line - 0.25), (x + across[1], y + line + 0.25), RED if red[1] else GREEN)
    for actor in near_actors(snapshot):
        colour = PEDESTRIAN_COLOUR if actor.kind == 'pedestrian' else CAR_COLOUR
        sizes = (max(actor.length, 1.0), max(actor.width, 1.0))
        cv2.fillPoly(picture, [pixels(_corners(actor.x, actor.y, actor.yaw, *sizes))], colour, cv2.LINE_AA)
    centre = (ego.x + CENTRE * math.cos(ego.yaw), ego.y + CENTRE * math.sin(ego.yaw))
    cv2.fillPoly(picture, [pixels(_corners(*centre, ego.yaw, LENGTH, WIDTH))], EGO_COLOUR, cv2.LINE_AA)
    return picture


def _corners(x: float, y: float, yaw: float, length: float, width: float) -> np.ndarray:
    along, left = np.array([math.cos(yaw), math.sin(yaw)]), np.array([-math.sin(yaw), math.cos(yaw)])
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    return np.array([np.array([x, y]) + a * along * length / 2 + b * left * width / 2 for a, b in signs])


def _caption(picture: np.ndarray, drive: Drive, step: Step) -> None:
    """What the planner does, and what has happened so far."""
    holds = 'no valid hint' if step.behavior == Behavior.UNKNOWN else f'holds {step.behavior.name}'
    happened = [event.kind for event in drive.events if event.t <= step.t]
    lines = [f'{step.t:4.1f} s  {step.speed:.1f} m/s, limit {step.limit:.1f}', holds, *(happened[-2:])]
    picture[: 20 + 18 * len(lines)] //= 3
    for row, text in enumerate(lines):
        place = (8, 20 + 18 * row)
        cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, INK if row < 2 else SOFT, 1, cv2.LINE_AA)
