"""Write MCAP files that survive an interruption: each flush puts a complete chunk on disk.

rosbags' own writer keeps up to 1 MiB in memory, which for small messages is a whole run; a killed run would lose it.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from mcap.writer import CompressionType, Writer


class McapWriter:
    """Writes serialized messages to one MCAP file; use as a context manager, so that the index is written at the end.

    Without ``close`` (a killed process) the file lacks only its index: every flushed message can be read.
    """

    def __init__(self, path: Path) -> None:
        """Create or replace ``path``; raises OSError if that is impossible."""
        self._file = path.open('wb')
        self._writer = Writer(self._file, compression=CompressionType.NONE)
        self._writer.start(profile='ros2', library='stprune_ros')
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._counts: dict[str, int] = {}

    def add_topic(self, topic: str, msgtype: str, definition: str, digest: str = '') -> None:
        """Add a topic; ``definition`` is the concatenated .msg text, ``digest`` the RIHS01 type hash."""
        if msgtype not in self._schemas:
            self._schemas[msgtype] = self._writer.register_schema(msgtype, 'ros2msg', definition.encode())
        details = {'offered_qos_profiles': '', 'topic_type_hash': digest}
        self._channels[topic] = self._writer.register_channel(topic, 'cdr', self._schemas[msgtype], details)
        self._counts[topic] = 0

    def write(self, topic: str, log_ns: int, data: bytes) -> None:
        """Append one CDR message to a topic that was added before; readers sort by ``log_ns``."""
        self._writer.add_message(self._channels[topic], log_ns, data, log_ns, self._counts[topic])
        self._counts[topic] += 1

    def flush(self) -> None:
        """Put everything written so far on disk as one chunk."""
        self._writer.flush()  # type: ignore[no-untyped-call]
        self._file.flush()

    def close(self) -> None:
        """Write the rest and the index; calling it again does nothing."""
        if not self._file.closed:
            self._writer.finish()  # type: ignore[no-untyped-call]
            self._file.close()

    def __enter__(self) -> McapWriter:
        """Return the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the index, whatever happened inside."""
        self.close()
