"""The folder of a local Ray: below /tmp, since paths of sockets must be short, for its owner only, and not for ever."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stprune_ros.fleet.interrupts import unstoppable

BELOW, PREFIX = Path('/tmp'), 'stprune-'
ENDING_S, AGAIN_S = 10.0, 0.1  # for how long processes of Ray may be ending, and between two tries
OWNER = 'owner'  # a file that the process whose folder it is holds locked; who is killed holds nothing any more


@contextmanager
def ray_folder(below: Path = BELOW) -> Iterator[Path]:
    """A new folder that goes with the block; those that killed commands of this user left ``below`` go first."""
    _remove_left(below)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=below))
    try:
        with (folder / f'new-{OWNER}').open('w') as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            Path(owner.name).rename(folder / OWNER)  # locked as soon as others see it
            yield folder
    finally:
        with unstoppable():
            _remove(folder)


def _remove(folder: Path) -> None:
    """What is just ending may still write into it, so that it is not empty when it should go: then again."""
    end = time.monotonic() + ENDING_S
    shutil.rmtree(folder, ignore_errors=True)
    while folder.exists() and time.monotonic() < end:
        time.sleep(AGAIN_S)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_left(below: Path) -> None:
    for folder in below.glob(f'{PREFIX}*'):
        try:
            if folder.lstat().st_uid != os.getuid():
                continue
            with (folder / OWNER).open('r+') as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # it is in use, was made for something else, or is just being removed
            continue
