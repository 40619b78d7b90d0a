"""Rendered scenes on disk: rendering takes minutes, so that training does it once and reads pickles afterwards."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import cv2
from tqdm import tqdm

from stprune_ros.ringworld.scenes import HELD_OUT, Scene, make_drive, make_scene

SCENES_PER_SHARD = 25
TRAIN, HELD_OUT_FOLDER = 'train', 'held_out'  # folders below the work folder

ShardTask = tuple[Path, range, Callable[[int], Scene]]


def render_missing(work: Path, drives: int, held_out: int, workers: int) -> None:
    """Render the training drives and held-out scenes that ``work`` does not hold yet, one shard per task."""
    tasks = [(work / TRAIN, seeds, make_drive) for seeds in _shards(0, drives)]
    tasks += [(work / HELD_OUT_FOLDER, seeds, make_scene) for seeds in _shards(HELD_OUT, held_out)]
    missing = [task for task in tasks if not shard_path(task[0], task[1]).exists()]
    if not missing:
        return
    with get_context('spawn').Pool(workers) as pool:
        for _ in tqdm(pool.imap_unordered(_write_task, missing), total=len(missing), desc='scenes'):
            pass


def shard_path(folder: Path, seeds: range) -> Path:
    """The file that holds the scenes of ``seeds``."""
    return folder / f'scenes_{seeds.start:07d}.pkl'


def write_shard(folder: Path, seeds: range, make: Callable[[int], Scene]) -> None:
    """Write ``make(seed)`` of all ``seeds`` into one file; an interrupted write leaves none under its name."""
    cv2.setNumThreads(1)  # processes are the parallel part
    folder.mkdir(parents=True, exist_ok=True)
    path = shard_path(folder, seeds)
    partial = path.with_suffix('.part')
    partial.write_bytes(pickle.dumps([make(seed) for seed in seeds], protocol=5))
    partial.rename(path)


def read_shards(folder: Path) -> Iterator[list[Scene]]:
    """The shards of a folder in order of their seeds. They are pickles: only read folders that you wrote yourself."""
    for path in sorted(folder.glob('scenes_*.pkl')):
        yield pickle.loads(path.read_bytes())


def _shards(first: int, count: int) -> list[range]:
    return [range(n, n + SCENES_PER_SHARD) for n in range(first, first + count, SCENES_PER_SHARD)]


def _write_task(task: ShardTask) -> None:
    write_shard(*task)
