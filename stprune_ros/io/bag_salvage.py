"""Read what the reader of rosbags does not: other profiles of MCAP, write-ahead logs, what is left of damaged files.

A damaged file, usually of a recorder that was killed or a copy cut short, gives every message before the damage.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path

from mcap.records import Channel, Header, Message, Schema

from stprune_ros.errors import one_line
from stprune_ros.io.sqlite_log import connect_with_log
from stprune_ros.io.unpacking import mcap_records

CDR = 'cdr'  # how ROS 2 serializes messages


@dataclass(frozen=True)
class SalvagedTopic:
    """A topic of such a file; ``definition`` and its ``encoding`` (ros2msg, ros2idl) may be empty.

    ``form`` is how its messages are serialized; ``latched`` and ``digest`` are those of `Topic`.
    """

    topic: str
    msgtype: str
    encoding: str = ''
    definition: str = ''
    form: str = CDR
    latched: bool = False
    digest: str = ''


@dataclass
class Salvage:
    """What can be read of a file: ``topics`` with their numbers of messages, and the messages in file order.

    ``with_log`` reads an SQLite database together with its write-ahead log. ``profile`` is that of an MCAP file,
    ``problem`` what ended the reading before the end of the file, '' where nothing did.
    """

    path: Path
    with_log: bool = False
    topics: dict[SalvagedTopic, int] = field(default_factory=dict)
    profile: str = ''
    problem: str = ''

    @classmethod
    def scan(cls, path: Path, with_log: bool = False) -> Salvage:
        """Read ``path`` once and count the messages of each topic; an unreadable file has no topics."""
        salvage = cls(path, with_log)
        for topic, _, _ in salvage.messages():
            salvage.topics[topic] = salvage.topics.get(topic, 0) + 1
        return salvage

    def messages(self) -> Iterator[tuple[SalvagedTopic, int, bytes]]:
        """Yield (topic, log time in ns, serialized message) up to the damage."""
        return self._mcap_messages() if self.path.suffix == '.mcap' else self._sqlite_messages()

    def _mcap_messages(self) -> Iterator[tuple[SalvagedTopic, int, bytes]]:
        schemas: dict[int, Schema | None] = {0: None}
        channels: dict[int, SalvagedTopic] = {}
        with self.path.open('rb') as file:
            try:
                for record in mcap_records(file):
                    if isinstance(record, Header):
                        self.profile = record.profile
                    elif isinstance(record, Schema):
                        schemas[record.id] = record
                    elif isinstance(record, Channel):
                        channels[record.id] = _topic(record, schemas[record.schema_id])
                    elif isinstance(record, Message):
                        yield channels[record.channel_id], record.log_time, record.data
            except Exception as error:  # whatever the parser or a codec raises, the damage begins here
                self.problem = one_line(error)

    def _sqlite_messages(self) -> Iterator[tuple[SalvagedTopic, int, bytes]]:
        try:
            with self._connect() as database:
                topics = dict(_sqlite_topics(database))
                # By row and not by time where the index may lie in the part that is lost.
                order = 'ORDER BY timestamp, id' if self.with_log else 'NOT INDEXED'
                for number, stamp, data in database.execute(f'SELECT topic_id, timestamp, data FROM messages {order}'):
                    yield topics[number], stamp, data
        except (sqlite3.Error, KeyError) as error:
            self.problem = one_line(error)

    def _connect(self) -> AbstractContextManager[sqlite3.Connection]:
        if self.with_log:
            return connect_with_log(self.path)
        database = sqlite3.connect(f'{self.path.resolve().as_uri()}?immutable=1', uri=True)
        database.execute('PRAGMA writable_schema=ON')  # makes SQLite open a file that is shorter than it says
        return closing(database)


def is_latched(profiles: str) -> bool:
    """Whether one of the QoS profiles that rosbag2 wrote down is transient local."""
    return re.search(r'durability: (1\b|transient_local)', profiles) is not None


def _topic(channel: Channel, schema: Schema | None) -> SalvagedTopic:
    latched = is_latched(channel.metadata.get('offered_qos_profiles', ''))
    form = channel.message_encoding or CDR
    if schema is None:
        return SalvagedTopic(channel.topic, '', form=form, latched=latched)
    definition = schema.data.decode(errors='replace')
    return SalvagedTopic(channel.topic, schema.name, schema.encoding, definition, form, latched)


def _sqlite_topics(database: sqlite3.Connection) -> Iterator[tuple[int, SalvagedTopic]]:
    """Number and topic; rosbag2 stores what it knows of a topic in columns that it added over the years."""
    columns = {name for _, name, *_ in database.execute('PRAGMA table_info(topics)')}
    definitions: dict[str, tuple[str, str]] = {}
    try:
        rows = database.execute('SELECT topic_type, encoding, encoded_message_definition FROM message_definitions')
        definitions = {msgtype: (encoding, text) for msgtype, encoding, text in rows}
    except sqlite3.Error:
        pass  # written before Iron, or in the part that is lost
    known = ['id', 'name', 'type', 'serialization_format', 'offered_qos_profiles', 'type_description_hash']
    chosen = ', '.join(name if name in columns else "''" for name in known)
    for number, name, msgtype, form, profiles, digest in database.execute(f'SELECT {chosen} FROM topics'):
        encoding, definition = definitions.get(msgtype, ('', ''))
        yield number, SalvagedTopic(name, msgtype, encoding, definition, form or CDR, is_latched(profiles), digest)
