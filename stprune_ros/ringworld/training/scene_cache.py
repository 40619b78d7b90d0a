"""Rendered scenes on disk: rendering takes minutes, so that training does it once and reads pickles afterwards.

``python -m stprune_ros.ringworld.training.scene_cache`` renders only; several hosts share the folder.
"""

from __future__ import annotations

import argparse
import os
import pickle
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, zip_longest
from multiprocessing import get_context
from pathlib import Path

import cv2
from tqdm import tqdm

from stprune_ros.errors import StpruneError
from stprune_ros.private_folder import is_private
from stprune_ros.ringworld.scenes import HELD_OUT, Scene, make_drive, make_scene

SCENES_PER_SHARD = 25
HARD = 500_000  # seeds from here on are drives of the hard world
TRAIN, HELD_OUT_FOLDER = 'train', 'held_out'  # folders below the work folder

ShardTask = tuple[Path, range, Callable[[int], Scene]]
make_hard_drive = partial(make_drive, hard=True)


def render_missing(work: Path, drives: int, hard_drives: int, held_out: int, workers: int) -> None:
    """Render the training drives and held-out scenes that ``work`` does not hold yet, one shard per task.

    Drives of both worlds take turns, so that those who read while others come find a mixture.
    """
    tasks: list[ShardTask] = [(work / HELD_OUT_FOLDER, seeds, make_scene) for seeds in _shards(HELD_OUT, held_out)]
    easy: list[ShardTask] = [(work / TRAIN, seeds, make_drive) for seeds in _shards(0, drives)]
    hard: list[ShardTask] = [(work / TRAIN, seeds, make_hard_drive) for seeds in _shards(HARD, hard_drives)]
    tasks += [task for task in chain(*zip_longest(easy, hard)) if task]
    missing = [task for task in tasks if not shard_path(task[0], task[1]).exists()]
    if not missing:
        return
    with get_context('spawn').Pool(workers) as pool:
        for _ in tqdm(pool.imap_unordered(_write_task, missing), total=len(missing), desc='scenes'):
            pass


def is_hard(shard: Path) -> bool:
    """Whether a shard holds drives of the hard world."""
    return _first_seed(shard) in range(HARD, HELD_OUT)


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


def training_seeds(drives: int, hard_drives: int) -> tuple[range, range]:
    """The seeds of so many drives of the ordinary and of the hard world."""
    return range(drives), range(HARD, HARD + hard_drives)


def held_out_seeds(count: int) -> tuple[range]:
    """The seeds of so many held-out scenes."""
    return (range(HELD_OUT, HELD_OUT + count),)


def shard_paths(folder: Path, seeds: Sequence[range]) -> list[Path]:
    """The shards of a folder that begin with one of these seeds, in order: others are of those who share it."""
    return sorted(path for path in folder.glob('scenes_*.pkl') if any(_first_seed(path) in part for part in seeds))


def read_shard(path: Path) -> list[Scene]:
    """The scenes of a shard. It is a pickle, which is code: raises StpruneError where others can write."""
    if not is_private(path.parent):
        raise StpruneError(f"'{path}' is not read: others can write to its folder, and it would be run as code")
    scenes: list[Scene] = pickle.loads(path.read_bytes())
    return scenes


def _shards(first: int, count: int) -> list[range]:
    return [range(n, n + SCENES_PER_SHARD) for n in range(first, first + count, SCENES_PER_SHARD)]


def _first_seed(shard: Path) -> int:
    return int(shard.stem.removeprefix('scenes_'))


def _write_task(task: ShardTask) -> None:
    write_shard(*task)


def wait_for_shards(work: Path, drives: int, seeds: Sequence[range], held_out: int, seconds: float = 600.0) -> None:
    """Wait until another process has rendered ``drives`` drives of these seeds and some of the held-out scenes.

    Raises TimeoutError after so many seconds.
    """
    wanted, end = -(-drives // SCENES_PER_SHARD), time.monotonic() + seconds
    while True:
        found = len(shard_paths(work / TRAIN, seeds))
        if found >= wanted and shard_paths(work / HELD_OUT_FOLDER, held_out_seeds(held_out)):
            return
        if time.monotonic() > end:
            raise TimeoutError(f"'{work}' holds {found} of {wanted} shards of scenes after {seconds:g} s")
        time.sleep(0.2)


def main() -> None:
    """Command line of the rendering."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument('--scenes-folder', type=Path, default=Path('out/ringworld'))
    parser.add_argument('--scenes', type=int, default=1000, help='training drives')
    parser.add_argument('--hard-scenes', type=int, default=0, help='training drives of the hard world')
    parser.add_argument('--held-out', type=int, default=200, help='held-out scenes')
    parser.add_argument('--workers', type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    render_missing(args.scenes_folder, args.scenes, args.hard_scenes, args.held_out, args.workers)


if __name__ == '__main__':
    main()
