"""The digest of a folder's weights: read once, then remembered in the user's cache folder while the files stay alike.

That folder is the user's own and trusted as the weights are.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stprune_ros.private_folder import is_private
from stprune_ros.progress import Say, said_while_slow, say_nothing
from stprune_ros.vlm.hf.files import gib

DIGITS = 12  # of the 64 of a SHA-256
BLOCK = 2**20
CACHED_FROM = 2**26  # bytes; less is read before one notices
MOST_ENTRIES = 64
SETTLED_S = 2.0  # a file that changed later than this before it is read may change again within one tick of its clock


def weights_digest(weights: Sequence[Path], say: Say = say_nothing) -> str:
    """DIGITS hex digits of the SHA-256 over the files, in the given order.

    Files of together CACHED_FROM bytes and more are read once: what was found is kept beside their paths, sizes, times
    of change and inodes. A cache that cannot be read or written is none. ``say`` gets a line where reading takes long.
    """
    start, files = time.time(), [_state(path) for path in weights]
    total = sum(file['bytes'] for file in files)
    entry = _entry(weights) if total >= CACHED_FROM else None
    found = _remembered(entry, files) if entry is not None else None
    if found is None:
        found = _sha256(weights, total, say)
        settled = start - max((file['ctime_ns'] for file in files), default=0) / 1e9 >= SETTLED_S
        if entry is not None and settled and files == [_state(path) for path in weights]:
            _remember(entry, {'files': files, 'sha256': found})
    return found[:DIGITS]


def cache_folder() -> Path | None:
    """Where digests are kept, below XDG_CACHE_HOME or ~/.cache; None for a user without a home."""
    named = Path(os.environ.get('XDG_CACHE_HOME', ''))
    if named.is_absolute():  # others are to be ignored, says the XDG specification
        return named / 'stprune' / 'digests'
    try:
        return Path.home() / '.cache' / 'stprune' / 'digests'
    except RuntimeError:
        return None


def _sha256(weights: Sequence[Path], total: int, say: Say) -> str:
    digest, done = hashlib.sha256(), 0
    folder = weights[0].parent if weights else Path()
    with said_while_slow(say, lambda: f"hashing the weights of '{folder}': {gib(done)} of {gib(total)}"):
        for path in weights:
            with path.open('rb') as file:
                while block := file.read(BLOCK):
                    digest.update(block)
                    done += len(block)
    return digest.hexdigest()


def _state(path: Path) -> dict[str, Any]:
    """What is compared to see whether a file is the one that was read."""
    found = path.stat()
    return {
        'path': str(path.resolve()),
        'bytes': found.st_size,
        'mtime_ns': found.st_mtime_ns,
        'ctime_ns': found.st_ctime_ns,  # a tool can set the other time back, not this one
        'inode': found.st_ino,
    }


def _entry(weights: Sequence[Path]) -> Path | None:
    """The file that remembers the digest of these paths: one for a model, whatever its files hold.

    None where others could write it: they would have another model pass for this one.
    """
    folder = cache_folder()
    if folder is None or not is_private(folder):
        return None
    paths = json.dumps([str(path.resolve()) for path in weights])
    return folder / f'{hashlib.sha256(paths.encode()).hexdigest()[:32]}.json'


def _remembered(entry: Path, files: list[dict[str, Any]]) -> str | None:
    try:
        known = json.loads(entry.read_text(encoding='utf-8'))
        found = known['sha256'] if known['files'] == files else ''
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) and re.fullmatch('[0-9a-f]{64}', found) else None


def _remember(entry: Path, content: dict[str, Any]) -> None:
    """Write in one step, so that other processes never see half an entry; then drop the oldest of too many."""
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix='.', dir=entry.parent)
        try:
            with os.fdopen(handle, 'w', encoding='utf-8') as file:
                json.dump(content, file, indent=1)
            os.replace(part, entry)
        finally:
            Path(part).unlink(missing_ok=True)  # what a full disk left
        by_age = sorted(entry.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in by_age[:-MOST_ENTRIES]:
            path.unlink(missing_ok=True)
