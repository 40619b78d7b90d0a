"""Reads what is left of a damaged bag file: everything before the first byte that makes no sense.

Used only where the regular reader refuses a file, usually because a recording was killed or a copy cut short.
"""

from __future__ import annotations

import importlib
import sqlite3
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from stprune_ros.offline.mcap import CHANNEL, CHUNK, MAGIC, MESSAGE, SCHEMA


@dataclass(frozen=True)
class SalvagedTopic:
    """A topic of a damaged file; ``definition`` and its ``encoding`` (ros2msg, ros2idl) may be empty."""

    topic: str
    msgtype: str
    encoding: str = ''
    definition: str = ''


@dataclass
class Salvage:
    """What a damaged file still holds: topics with message counts, and the messages in file order."""

    path: Path
    topics: dict[SalvagedTopic, int] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> Salvage:
        """Scan ``path`` once and count what can be read; an unreadable file has no topics."""
        salvage = cls(path)
        for topic, _, _ in salvage.messages():
            salvage.topics[topic] = salvage.topics.get(topic, 0) + 1
        return salvage

    def messages(self) -> Iterator[tuple[SalvagedTopic, int, bytes]]:
        """Yield (topic, log time in ns, serialized message) up to the damage."""
        return _mcap_messages(self.path) if self.path.suffix == '.mcap' else _sqlite_messages(self.path)


def _mcap_messages(path: Path) -> Iterator[tuple[SalvagedTopic, int, bytes]]:
    schemas: dict[int, tuple[str, str, str]] = {0: ('', '', '')}
    channels: dict[int, SalvagedTopic] = {}
    with path.open('rb') as file:
        if file.read(len(MAGIC)) != MAGIC:
            return
        for kind, body in _records(file):
            try:
                if kind == SCHEMA:
                    name, encoding, definition = _texts(body, 2, 3)
                    schemas[struct.unpack_from('<H', body)[0]] = (name, encoding, definition)
                elif kind == CHANNEL:
                    number, schema = struct.unpack_from('<HH', body)
                    channels[number] = SalvagedTopic(_texts(body, 4, 1)[0], *schemas[schema])
                elif kind == MESSAGE:
                    number, _, log_ns, _ = struct.unpack_from('<HIQQ', body)
                    yield channels[number], log_ns, body[22:]
            except (struct.error, UnicodeDecodeError, KeyError):
                return


def _records(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Records of an MCAP file, those inside chunks included, up to the first incomplete one."""
    while len(head := file.read(9)) == 9:
        kind, size = struct.unpack('<BQ', head)
        body = file.read(min(size, 2**40))
        if kind == CHUNK:
            yield from _chunk_records(body)
        elif len(body) == size:
            yield kind, body
        if len(body) < size:
            return


def _chunk_records(body: bytes) -> Iterator[tuple[int, bytes]]:
    try:
        (length,) = struct.unpack_from('<I', body, 28)
        compression = body[32 : 32 + length].decode()
        data = _decompressor(compression)(body[40 + length :])
    except Exception:  # every codec has its own errors, and all mean the same: this chunk is lost
        return
    position = 0
    while position + 9 <= len(data):
        kind, size = struct.unpack_from('<BQ', data, position)
        if position + 9 + size > len(data):
            return
        yield kind, data[position + 9 : position + 9 + size]
        position += 9 + size


def _decompressor(compression: str) -> Callable[[bytes], bytes]:
    modules = {'lz4': 'lz4.frame', 'zstd': 'compression.zstd' if sys.version_info >= (3, 14) else 'backports.zstd'}
    if not compression:
        return bytes
    decompress: Callable[[bytes], bytes] = importlib.import_module(modules[compression]).decompress
    return decompress


def _texts(body: bytes, position: int, count: int) -> list[str]:
    found = []
    for _ in range(count):
        (length,) = struct.unpack_from('<I', body, position)
        found.append(body[position + 4 : position + 4 + length].decode())
        position += 4 + length
    return found


def _sqlite_messages(path: Path) -> Iterator[tuple[SalvagedTopic, int, bytes]]:
    try:
        with closing(sqlite3.connect(f'{path.resolve().as_uri()}?immutable=1', uri=True)) as database:
            topics = {
                number: SalvagedTopic(name, kind)
                for number, name, kind in database.execute('SELECT id, name, type FROM topics')
            }
            # No ORDER BY: an index may lie in the part that is lost; rows come in the order of recording.
            for number, stamp, data in database.execute('SELECT topic_id, timestamp, data FROM messages NOT INDEXED'):
                yield topics[number], stamp, data
    except (sqlite3.Error, KeyError):
        return
