"""Read what is left of a damaged bag file: every message before the damage.

Used only where the reader of rosbags refuses a file, usually because the recorder was killed or a copy cut short.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader

MAX_RECORD = 2**31  # bytes; a longer record is damage


@dataclass(frozen=True)
class SalvagedTopic:
    """A topic of a damaged file; ``definition`` and its ``encoding`` (ros2msg, ros2idl) may be empty."""

    topic: str
    msgtype: str
    encoding: str = ''
    definition: str = ''


@dataclass
class Salvage:
    """What can be read of a damaged file: ``topics`` with their numbers of messages, and the messages in file order."""

    path: Path
    topics: dict[SalvagedTopic, int] = field(default_factory=dict)

    @classmethod
    def scan(cls, path: Path) -> Salvage:
        """Read ``path`` once and count the messages of each topic; an unreadable file has no topics."""
        salvage = cls(path)
        for topic, _, _ in salvage.messages():
            salvage.topics[topic] = salvage.topics.get(topic, 0) + 1
        return salvage

    def messages(self) -> Iterator[tuple[SalvagedTopic, int, bytes]]:
        """Yield (topic, log time in ns, serialized message) up to the damage."""
        return _mcap_messages(self.path) if self.path.suffix == '.mcap' else _sqlite_messages(self.path)


def _mcap_messages(path: Path) -> Iterator[tuple[SalvagedTopic, int, bytes]]:
    schemas: dict[int, Schema | None] = {0: None}
    channels: dict[int, SalvagedTopic] = {}
    with path.open('rb') as file:
        try:
            for record in StreamReader(file, record_size_limit=MAX_RECORD).records:
                if isinstance(record, Schema):
                    schemas[record.id] = record
                elif isinstance(record, Channel):
                    channels[record.id] = _topic(record.topic, schemas[record.schema_id])
                elif isinstance(record, Message):
                    yield channels[record.channel_id], record.log_time, record.data
        except Exception:  # whatever the parser or a codec raises, the damage begins here
            return


def _topic(name: str, schema: Schema | None) -> SalvagedTopic:
    if schema is None:
        return SalvagedTopic(name, '')
    return SalvagedTopic(name, schema.name, schema.encoding, schema.data.decode())


def _sqlite_messages(path: Path) -> Iterator[tuple[SalvagedTopic, int, bytes]]:
    try:
        with closing(sqlite3.connect(f'{path.resolve().as_uri()}?immutable=1', uri=True)) as database:
            database.execute('PRAGMA writable_schema=ON')  # makes SQLite open a file that is shorter than it says
            rows = database.execute('SELECT id, name, type FROM topics')
            topics = {number: SalvagedTopic(name, kind) for number, name, kind in rows}
            # By row and not by time: the index may lie in the part that is lost.
            for number, stamp, data in database.execute('SELECT topic_id, timestamp, data FROM messages NOT INDEXED'):
                yield topics[number], stamp, data
    except (sqlite3.Error, KeyError):
        return
