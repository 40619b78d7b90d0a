"""Read an SQLite database together with its write-ahead log, without a byte written to either.

A recorder that was killed leaves NAME.db3-wal, and what it wrote last stands only there.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import numpy as np

from stprune_ros.errors import BagError, one_line

HEADER, FRAME_HEADER = 32, 24  # bytes
MAGIC = {0x377F0682: '<u4', 0x377F0683: '>u4'}  # and the byte order of the words that its checksums add up
JOURNAL_MAGIC = bytes.fromhex('d9d505f920a163d7')
MASK = 2**32 - 1
COPY_SHARE = 0.5  # of the free space; a larger database is not copied


@dataclass(frozen=True)
class WriteAheadLog:
    """Pages in a log: ``committed`` ones that SQLite reads, ``lost`` ones behind them, unfinished or damaged."""

    committed: int = 0
    lost: int = 0

    @classmethod
    def beside(cls, database: Path) -> WriteAheadLog:
        """Look through the log of ``database``; both numbers are 0 where it has none."""
        try:
            path = beside(database, '-wal')
            with path.open('rb') as file:
                return cls._scan(file, path.stat().st_size)
        except OSError:
            return cls()

    @classmethod
    def _scan(cls, file: BinaryIO, size: int) -> WriteAheadLog:
        """See https://www.sqlite.org/fileformat2.html#walformat: a frame counts if salts and running checksum fit."""
        header = file.read(HEADER)
        words = np.frombuffer(header[: len(header) // 4 * 4], '>u4').tolist()
        page_size = words[2] if len(words) == HEADER // 4 else 0
        if not 512 <= page_size <= 65536 or page_size & (page_size - 1):
            return cls(0, -(-max(0, size - HEADER) // (FRAME_HEADER + 4096)))
        frame_size = FRAME_HEADER + page_size
        order = MAGIC.get(words[0])
        sums = _Checksum(order or '<u4', HEADER - 8)
        if order is None or sums.add((0, 0), header[: HEADER - 8]) != tuple(words[6:8]):
            return cls(0, -(-(size - HEADER) // frame_size))
        state, salts = (words[6], words[7]), words[4:6]
        sums, intact, seen, committed = _Checksum(order, page_size + 8), True, 0, 0
        for number in range(-(-(size - HEADER) // frame_size)):
            frame = file.read(frame_size)
            head = np.frombuffer(frame[: len(frame) // 4 * 4][:FRAME_HEADER], '>u4').tolist()
            if len(head) == 6 and head[2:4] != salts:
                break  # the rest is older than the last checkpoint
            seen = number + 1
            if intact and len(frame) == frame_size:
                state = sums.add(state, frame[:8] + frame[FRAME_HEADER:])
                intact = state == tuple(head[4:6])
                if intact and head[1]:
                    committed = seen
            else:
                intact = False
        return cls(committed, seen - committed)


class _Checksum:
    """SQLite's checksum of blocks of ``size`` bytes: s0 += x0 + s1, s1 += x1 + s0 for each pair of words."""

    def __init__(self, order: str, size: int) -> None:
        self._order = order
        a, b, c, d = 1, 0, 0, 1  # how the state after a pair weighs in the result, from the last pair backwards
        weights = []
        for _ in range(size // 8):
            weights.append((a + b, b, c + d, d))
            a, b, c, d = (a + b) & MASK, (a + 2 * b) & MASK, (c + d) & MASK, (c + 2 * d) & MASK
        self._weights = (np.array(weights[::-1], np.uint64) & MASK).astype(np.uint32)
        self._start = (a, b, c, d)

    def add(self, state: tuple[int, int], block: bytes) -> tuple[int, int]:
        """The state after ``block``."""
        pairs = np.frombuffer(block, self._order).astype(np.uint32).reshape(-1, 2)
        (x, y), (a, b, c, d) = state, self._start
        parts = (self._weights.reshape(-1, 2, 2) * pairs[:, None]).sum((0, 2), dtype=np.uint64).tolist()
        return (a * x + b * y + parts[0]) & MASK, (c * x + d * y + parts[1]) & MASK


def beside(database: Path, suffix: str) -> Path:
    """The file that SQLite looks for beside a database: the real one, where ``database`` is a link."""
    real = database.resolve()
    return real.with_name(real.name + suffix)


def has_hot_journal(database: Path) -> bool:
    """Whether a rollback journal lies beside, so that the last transaction stands half written in the database."""
    with suppress(OSError), beside(database, '-journal').open('rb') as file:
        return file.read(len(JOURNAL_MAGIC)) == JOURNAL_MAGIC
    return False


@contextmanager
def connect_with_log(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection that sees the log of ``database``, whose files stay as they are.

    SQLite needs the index of the log (-shm), which it can read but must not write here; without one, it gets a
    private copy. Raises BagError if that is too large, sqlite3.Error if the database is broken.
    """
    if beside(database, '-shm').is_file() and database.stat().st_size:
        connection = sqlite3.connect(f'{database.resolve().as_uri()}?mode=ro&readonly_shm=1', uri=True)
        try:
            connection.execute('SELECT count(*) FROM sqlite_master').fetchone()
        except sqlite3.OperationalError:  # such as a file system without shared memory
            connection.close()
        else:
            try:
                yield connection
            finally:
                connection.close()
            return
    with TemporaryDirectory() as folder:
        connection = sqlite3.connect(_copy_of(database, Path(folder)))
        try:
            yield connection
        finally:
            connection.close()


def _copy_of(database: Path, folder: Path) -> Path:
    log = beside(database, '-wal')
    size = database.stat().st_size + log.stat().st_size
    if size > COPY_SHARE * shutil.disk_usage(folder).free:
        raise BagError(
            f"'{log}' holds messages, but '{database}' is too large to be copied; merge them with"
            f" sqlite3 '{database}' 'PRAGMA wal_checkpoint(TRUNCATE)'"
        )
    copy = folder / 'copy.db3'
    try:
        shutil.copyfile(database, copy)
        shutil.copyfile(log, folder / 'copy.db3-wal')
    except OSError as error:
        raise BagError(f"'{database}' and its -wal cannot be copied to '{folder}': {one_line(error)}") from None
    if not database.stat().st_size:
        copy.write_bytes(bytes(4096))  # SQLite deletes the log of an empty file
    return copy
