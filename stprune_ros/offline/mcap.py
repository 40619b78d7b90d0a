"""Writes MCAP files that survive an interruption: each flush puts a complete chunk on disk.

rosbags' writer keeps up to 1 MiB in memory, which for small messages is a whole run; a killed run would lose it.
Format: https://mcap.dev/spec, profile ros2, no compression.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

MAGIC = b'\x89MCAP0\r\n'
HEADER, FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, MESSAGE_INDEX, CHUNK_INDEX = range(1, 9)
STATISTICS, DATA_END = 0x0B, 0x0F


def record(kind: int, body: bytes) -> bytes:
    """One MCAP record: opcode, length, body."""
    return struct.pack('<BQ', kind, len(body)) + body


def text(value: str) -> bytes:
    """A length-prefixed UTF-8 string."""
    data = value.encode()
    return struct.pack('<I', len(data)) + data


def mapping(values: Mapping[str, str]) -> bytes:
    """A length-prefixed map of strings."""
    body = b''.join(text(key) + text(value) for key, value in values.items())
    return struct.pack('<I', len(body)) + body


class McapWriter:
    """Writes serialized messages to one MCAP file; use as a context manager, so that the index is written at the end.

    Without ``close`` (a killed process) the file lacks only its index: every flushed message can be read.
    """

    def __init__(self, path: Path) -> None:
        """Create or replace ``path``; raises OSError where that is impossible."""
        self.path = path
        self._file = path.open('wb')
        self._file.write(MAGIC + record(HEADER, text('ros2') + text('stprune_ros')))
        self._schemas: dict[str, tuple[int, bytes]] = {}
        self._channels: dict[str, tuple[int, bytes]] = {}
        self._counts: dict[int, int] = {}
        self._chunk = bytearray()
        self._chunk_index: dict[int, list[tuple[int, int]]] = {}
        self._chunk_records: list[bytes] = []
        self._first, self._last = 2**64 - 1, 0

    def add_topic(self, topic: str, msgtype: str, definition: str, digest: str = '') -> None:
        """Announce ``topic``; ``definition`` is the concatenated .msg text, ``digest`` the RIHS01 type hash."""
        if msgtype not in self._schemas:
            number = len(self._schemas) + 1
            self._schemas[msgtype] = (
                number,
                struct.pack('<H', number) + text(msgtype) + text('ros2msg') + text(definition),
            )
            self._chunk += record(SCHEMA, self._schemas[msgtype][1])
        number = len(self._channels) + 1
        details = mapping({'offered_qos_profiles': '', 'topic_type_hash': digest})
        body = struct.pack('<HH', number, self._schemas[msgtype][0]) + text(topic) + text('cdr') + details
        self._channels[topic] = (number, body)
        self._counts[number] = 0
        self._chunk += record(CHANNEL, body)

    def write(self, topic: str, log_ns: int, data: bytes) -> None:
        """Append one serialized message of an announced topic; ``log_ns`` is what readers sort by."""
        number = self._channels[topic][0]
        self._chunk_index.setdefault(number, []).append((log_ns, len(self._chunk)))
        self._chunk += record(MESSAGE, struct.pack('<HIQQ', number, self._counts[number], log_ns, log_ns) + data)
        self._counts[number] += 1

    def flush(self) -> None:
        """Put everything written so far on disk as one chunk."""
        if not self._chunk:
            return
        stamps = [stamp for entries in self._chunk_index.values() for stamp, _ in entries]
        first, last = (min(stamps), max(stamps)) if stamps else (0, 0)
        if stamps:
            self._first, self._last = min(self._first, first), max(self._last, last)
        size = len(self._chunk)
        start = self._file.tell()
        # The checksum 0 means "none"; the operating system's file is as good as its disk.
        head = struct.pack('<QQQI', first, last, size, 0) + text('') + struct.pack('<Q', size)
        self._file.write(record(CHUNK, head + bytes(self._chunk)))
        end = self._file.tell()
        offsets = b''
        for number, entries in self._chunk_index.items():
            offsets += struct.pack('<HQ', number, self._file.tell())
            index = b''.join(struct.pack('<QQ', stamp, offset) for stamp, offset in entries)
            self._file.write(record(MESSAGE_INDEX, struct.pack('<HI', number, len(index)) + index))
        self._chunk_records.append(
            struct.pack('<QQQQI', first, last, start, end - start, len(offsets))
            + offsets
            + struct.pack('<Q', self._file.tell() - end)
            + text('')
            + struct.pack('<QQ', size, size)
        )
        self._file.flush()
        self._chunk.clear()
        self._chunk_index = {}

    def close(self) -> None:
        """Write the rest and the index; calling it again does nothing."""
        if self._file.closed:
            return
        self.flush()
        self._file.write(record(DATA_END, struct.pack('<I', 0)))
        summary = self._file.tell()
        for _, body in self._schemas.values():
            self._file.write(record(SCHEMA, body))
        for _, body in self._channels.values():
            self._file.write(record(CHANNEL, body))
        for body in self._chunk_records:
            self._file.write(record(CHUNK_INDEX, body))
        self._file.write(record(STATISTICS, self._statistics()))
        self._file.write(record(FOOTER, struct.pack('<QQI', summary, 0, 0)) + MAGIC)
        self._file.close()

    def _statistics(self) -> bytes:
        total = sum(self._counts.values())
        first = self._first if total else 0
        counts = b''.join(struct.pack('<HQ', number, count) for number, count in self._counts.items())
        sizes = (total, len(self._schemas), len(self._channels), 0, 0, len(self._chunk_records), first, self._last)
        return struct.pack('<QHIIIIQQ', *sizes) + struct.pack('<I', len(counts)) + counts

    def __enter__(self) -> McapWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the index, whatever happened inside."""
        self.close()
