"""A folder of results is written by one command at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from stprune_ros.errors import StpruneError


@contextmanager
def locked(output: Path, lock: Path, writer: str) -> Iterator[None]:
    """Hold the folder by a file ``lock`` in it; makes both, and leaves nothing of that where nothing was written.

    Raises StpruneError while another ``writer`` ('fleet', say) holds it. The lock ends with its process.
    """
    made = [folder for folder in dict.fromkeys((lock.parent, output, *output.parents)) if not folder.exists()]
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open('w') as file:
        if not _is_taken(file, lock):
            raise StpruneError(f"another {writer} is writing to '{output}': wait for its end, or name another --output")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            _remove_empty(made)


def _is_taken(file: TextIO, lock: Path) -> bool:
    """Take the lock, where nobody has it and it is still the file of this name: a command that ends removes its own."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the innermost first, as long as they are empty."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
