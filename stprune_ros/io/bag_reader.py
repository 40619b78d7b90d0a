"""Read rosbag2 recordings, MCAP or SQLite, whole or damaged: their messages in the order of recording."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from stprune_ros.errors import BagError, one_line, plain
from stprune_ros.io.bag_metadata import compressed_files, metadata_fault, metadata_text, metadata_version, storage_fault
from stprune_ros.io.bag_salvage import CDR, Salvage
from stprune_ros.io.foreign_files import no_bag
from stprune_ros.io.sqlite_log import WriteAheadLog, has_hot_journal
from stprune_ros.io.unpacking import ZSTD_START, unpack_file, unpack_message
from stprune_ros.resources import resource_path

PACKAGE_MESSAGES = ('CameraStatus', 'InferenceInfo', 'PlanningHint', 'SceneDescription')
# Read by the names of their fields, which no distribution of ROS 2 has changed.
CORE = ('builtin_interfaces/', 'std_msgs/', 'geometry_msgs/', 'nav_msgs/', 'sensor_msgs/', 'tf2_msgs/')
# By the version in metadata.yaml, for recordings that do not name the distribution that wrote them.
DISTRIBUTION_BY_VERSION = {
    1: 'dashing',
    2: 'eloquent',
    3: 'foxy',
    4: 'galactic',
    5: 'humble',
    6: 'iron',
    7: 'iron',
    8: 'jazzy',
}
STORAGES = ('.mcap', '.db3')
MAX_NAME = 255  # characters of a topic or a type
ROS2_PROFILE = 'ros2'


def register_package_messages(store: Typestore) -> Typestore:
    """Add the messages of this package that ``store`` lacks, from the installed .msg files; returns ``store``."""
    for name in PACKAGE_MESSAGES:
        full = f'stprune_ros/msg/{name}'
        if full not in store.fielddefs:
            store.register(get_types_from_msg(resource_path(f'msg/{name}.msg').read_text(encoding='utf-8'), full))
    return store


def message_store() -> Typestore:
    """A typestore with the standard messages of the newest distribution and those of this package."""
    return register_package_messages(get_typestore(Stores.LATEST))


@dataclass(frozen=True)
class Topic:
    """A topic of a bag: name, type ('pkg/msg/Name') and number of messages.

    ``digest`` is the RIHS01 type hash, '' where the bag has none; ``latched`` is True where the topic was offered as
    transient local; ``form`` is how its messages are serialized, which only as 'cdr' can be read.
    """

    name: str
    msgtype: str
    count: int
    digest: str = ''
    latched: bool = False
    form: str = CDR


@dataclass(frozen=True, slots=True)
class Record:
    """One message of a bag, still serialized: ``data`` is CDR, ``receive_ns`` the time of reception in ns."""

    topic: str
    msgtype: str
    receive_ns: int
    data: bytes
    store: Typestore = field(repr=False)

    def message(self) -> Any:
        """The deserialized message. Raises BagError if the bytes do not fit the type or the type is unknown."""
        try:
            return self.store.deserialize_cdr(self.data, self.msgtype)
        except Exception as error:  # rosbags compiles its parsers, so that any exception can come out of them
            known = self.msgtype in self.store.fielddefs
            reason = one_line(error) if known else 'the bag brings no definition of this type'
            where = f"the message on '{self.topic}' recorded at {self.receive_ns} ns"
            raise BagError(f'{where} is not a readable {self.msgtype}: {reason}') from None


class Bag:
    """An open rosbag2 recording; use as a context manager.

    ``topics`` are by name; ``notes`` are sentences about what is wrong with the recording, and grow while reading.
    """

    def __init__(self, path: str | Path) -> None:
        """Open ``path``, a bag folder or one .mcap or .db3 file.

        Raises BagError if it is missing, not a bag, or holds no message.
        """
        self.path = Path(path)
        self.notes: list[str] = []
        self._readers: list[Reader] = []
        self._salvages: list[Salvage] = []
        self._unpacked = ExitStack()  # of files in zstd, to be removed at the end
        try:
            self._open()
            self.store = self._typestore()
            self.topics = self._topics()
            if not any(topic.count for topic in self.topics.values()):
                raise BagError(f"bag '{self.path}' holds no message{self._reason()}")
        except BaseException:
            self.close()
            raise

    @property
    def duration_ns(self) -> int:
        """Time from the first message to the last, as the files say; 0 where one is too damaged to tell."""
        spans = [] if self._salvages else [(reader.start_time, reader.end_time) for reader in self._readers]
        return int(max(end for _, end in spans) - min(start for start, _ in spans)) if spans else 0

    def messages(self, topics: Collection[str] = ()) -> Iterator[Record]:
        """Yield the messages of ``topics`` (default: all topics) in the order of recording.

        A damaged file ends where the damage begins, with a note; the messages before it have been yielded.
        """
        wanted = set(topics) or set(self.topics)
        streams = [self._read(reader, wanted) for reader in self._readers]
        streams += [self._read_salvage(salvage, wanted) for salvage in self._salvages]
        return merge(*streams, key=lambda item: item.receive_ns)

    def first(self, topic: str) -> Any:
        """The first message on ``topic``, deserialized."""
        return next(self.messages([topic])).message()

    def close(self) -> None:
        """Close every file."""
        for reader in self._readers:
            with suppress(Exception):  # a damaged file may refuse even that
                reader.close()
        self._readers.clear()
        self._unpacked.close()

    def __enter__(self) -> Bag:
        """Return the bag itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every file."""
        self.close()

    def _open(self) -> None:
        if not self.path.exists():
            raise BagError(f"bag '{self.path}' does not exist")
        if self.path.is_file():
            self._note_journal(self.path)
            self._open_file(self.path)
            return
        files = sorted(file for file in self.path.iterdir() if file.suffix in STORAGES)
        for file in files:
            self._note_journal(file)
        has_metadata = (self.path / 'metadata.yaml').is_file()
        # What is compressed does not go through the reader of folders, which unpacks without a bound.
        is_compressed, packed = compressed_files(self.path) if has_metadata else (False, [])
        logged = [file for file in files if file.suffix == '.db3' and WriteAheadLog.beside(file) != WriteAheadLog()]
        if has_metadata and not logged and not is_compressed:
            problem = self._open_reader(self.path)
            if not problem:
                self._note_strangers(files)
                return
            self.notes.append(
                f"metadata.yaml of bag '{self.path}' cannot be followed ({problem}); reading the files themselves"
            )
        if not files and not packed:
            raise no_bag(self.path, self._reason())
        if not has_metadata:
            self.notes.append(f"bag '{self.path}' has no metadata.yaml; reading the files themselves")
        lost = []
        for file in [*files, *packed]:
            try:
                self._open_file(self._unpack(file) if file in packed else file)
            except BagError as error:
                lost.append(error)
        if lost and not self._readers and not self._salvages:
            raise lost[0]
        self.notes += [f'{error}: its messages are lost' for error in lost]

    def _unpack(self, packed: Path) -> Path:
        return unpack_file(packed, Path(self._unpacked.enter_context(TemporaryDirectory())))

    def _note_strangers(self, files: list[Path]) -> None:
        """Say which files of the folder metadata.yaml does not name: the reader follows it."""
        text = metadata_text(self.path)
        strangers = [f"'{file.name}'" for file in files if file.name not in text]
        if strangers:
            self.notes.append(
                f"metadata.yaml of bag '{self.path}' does not name {', '.join(strangers)}: not read; 'ros2 bag reindex'"
                ' writes that file anew'
            )

    def _open_file(self, file: Path) -> None:
        if file.suffix not in STORAGES:
            raise no_bag(file)
        log = WriteAheadLog.beside(file) if file.suffix == '.db3' else WriteAheadLog()
        if log.lost:
            self.notes.append(
                f"the last {log.lost} pages of '{file.name}-wal' were never finished or are damaged; the messages in"
                ' them are lost'
            )
        problem = '' if log.committed else self._open_reader(file)
        if not log.committed and not problem:
            return
        salvage = Salvage.scan(file, with_log=bool(log.committed))
        if not salvage.topics:
            raise BagError(f"'{file}' is not a readable bag: {problem or salvage.problem or 'it has no message'}")
        self._salvages.append(salvage)
        count = sum(salvage.topics.values())
        if salvage.problem or (problem and (file.suffix == '.db3' or salvage.profile == ROS2_PROFILE)):
            reasons = '; '.join(dict.fromkeys(filter(None, (problem, salvage.problem))))
            self.notes.append(f"'{file}' is damaged ({reasons}); {count} messages before the damage are read")
        elif problem:
            self.notes.append(
                f"'{file}' has the MCAP profile '{salvage.profile}' and not '{ROS2_PROFILE}'; its {count} messages are"
                ' read in the order of the file'
            )
        else:
            self.notes.append(f"'{file}' is read together with '{file.name}-wal', {count} messages in all")

    def _note_journal(self, file: Path) -> None:
        if file.suffix == '.db3' and has_hot_journal(file):
            self.notes.append(
                f"'{file.name}-journal' lies beside: the recorder was killed while it wrote, and what it wrote last may"
                f" be damaged; sqlite3 '{file}' 'PRAGMA quick_check' rolls it back"
            )

    def _open_reader(self, path: Path) -> str:
        """Open with the reader of rosbags; returns what is wrong, '' if nothing is."""
        files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in STORAGES)
        hostile = '' if path.is_file() else metadata_fault(path)
        hostile = hostile or next(filter(None, map(storage_fault, files)), '')
        if hostile:
            return hostile
        try:
            reader = Reader(path)
            reader.open()
        except Exception as error:  # damage makes parsers fail in ways of their own, from struct.error to TypeError
            return one_line(error)
        self._readers.append(reader)
        return ''

    def _reason(self) -> str:
        return f' ({"; ".join(self.notes)})' if self.notes else ''

    def _connections(self) -> list[Connection]:
        return [connection for reader in self._readers for connection in reader.connections]

    def _typestore(self) -> Typestore:
        """Message definitions of the bag, else of the distribution that wrote it, else of this package."""
        store = get_typestore(Stores.EMPTY)
        definitions = {
            c.msgtype: (c.msgdef.format == MessageDefinitionFormat.IDL, c.msgdef.data)
            for c in self._connections()
            if c.msgdef.data
        }
        for salvage in self._salvages:
            definitions.update(
                {
                    t.msgtype: (t.encoding != 'ros2msg', t.definition)
                    for t in salvage.topics
                    if t.definition and t.form == CDR
                }
            )
        standard = get_typestore(self._distribution())
        for msgtype, (is_idl, text) in sorted(definitions.items()):
            try:
                parsed = _parse_idl(text) if is_idl else get_types_from_msg(text, msgtype)
                for name in sorted(set(parsed) - set(store.fielddefs)):
                    known = _field_names(standard.fielddefs, name) if name.startswith(CORE) else []
                    damaged = bool(known) and known != _field_names(parsed, name)
                    store.register({name: (standard.fielddefs if damaged else parsed)[name]})
                    if damaged:
                        self.notes.append(f'the definition of {name} in the bag is not that of ROS, which is taken')
            except Exception as error:  # the parser's grammar errors have no common base
                self.notes.append(f'the definition of {plain(msgtype)} in the bag is not readable ({one_line(error)})')
        recorded = {c.msgtype for c in self._connections()}
        recorded |= {t.msgtype for s in self._salvages for t in s.topics if t.form == CDR}
        if not recorded <= store.fielddefs.keys():
            store.register({name: fields for name, fields in standard.fielddefs.items() if name not in store.fielddefs})
            register_package_messages(store)
        return store

    def _distribution(self) -> Stores:
        name = next((reader.ros_distro for reader in self._readers if reader.ros_distro), '')
        if not name:
            name = DISTRIBUTION_BY_VERSION.get(metadata_version(self.path), '')
        try:
            return Stores(f'ros2_{name}')
        except ValueError:
            return Stores.LATEST

    def _topics(self) -> dict[str, Topic]:
        topics: dict[str, Topic] = {}
        found = [(c.topic, c.msgtype, c.msgcount, c.digest, _latched(c), _form(c)) for c in self._connections()]
        found += [
            (t.topic, t.msgtype, count, t.digest, t.latched, t.form)
            for salvage in self._salvages
            for t, count in salvage.topics.items()
        ]
        for name, msgtype, count, digest, latched, form in sorted(found):
            if plain(name, MAX_NAME) != name or plain(msgtype, MAX_NAME) != msgtype:
                self._note_once(f"topic '{plain(name)}' has a name or a type that ROS does not allow; it is not read")
                continue
            known = topics.get(name, Topic(name, msgtype, 0, digest, latched, form))
            if known.msgtype != msgtype:
                self.notes.append(f"topic '{name}' has the types {known.msgtype} and {msgtype}; only the first is read")
                continue
            topics[name] = Topic(
                name, msgtype, known.count + count, known.digest or digest, known.latched or latched, known.form
            )
        return topics

    def _read(self, reader: Reader, wanted: set[str]) -> Iterator[Record]:
        connections = [c for c in reader.connections if c.topic in wanted and self.topics[c.topic].msgtype == c.msgtype]
        if not connections:
            return
        count = 0
        try:
            for connection, stamp, data in reader.messages(connections):
                yield Record(connection.topic, connection.msgtype, stamp, _unpacked(data), self.store)
                count += 1
        except Exception as error:  # see _open_reader
            self._note_once(f"'{reader.path}' is damaged after {count} messages ({one_line(error)}); the rest is lost")
            return
        expected = sum(connection.msgcount for connection in connections)
        if count < expected:
            topics = ', '.join(sorted({connection.topic for connection in connections}))
            self._note_once(
                f"'{reader.path}' says that it holds {expected} messages of {topics}, but {expected - count} of them"
                ' are lost'
            )

    def _note_once(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _read_salvage(self, salvage: Salvage, wanted: set[str]) -> Iterator[Record]:
        try:
            for topic, stamp, data in salvage.messages():
                if topic.topic in wanted and self.topics[topic.topic].msgtype == topic.msgtype:
                    yield Record(topic.topic, topic.msgtype, stamp, _unpacked(data), self.store)
        except BagError as error:
            self._note_once(f"'{salvage.path}' is read no further: {error}")


def _latched(connection: Connection) -> bool:
    return any(one.durability.name == 'TRANSIENT_LOCAL' for one in getattr(connection.ext, 'offered_qos_profiles', []))


def _form(connection: Connection) -> str:
    return getattr(connection.ext, 'serialization_format', '') or CDR


def _unpacked(data: bytes) -> bytes:
    """A message that rosbag2 may have compressed by itself, which only metadata.yaml would tell; CDR begins with 0."""
    return unpack_message(data) if data[:4] == ZSTD_START else data


def _parse_idl(text: str) -> dict[str, Any]:
    """Types of an IDL definition, which rosbag2 joins from several files, each under a ruler and a header line."""
    ruler = '=' * 80 + '\n'
    if not text.startswith(f'{ruler}IDL: '):
        return dict(get_types_from_idl(text))
    parsed: dict[str, Any] = {}
    for part in text.split(ruler)[1:]:
        parsed.update(get_types_from_idl(part.partition('\n')[2]))
    return parsed


def _field_names(definitions: Mapping[str, Any], msgtype: str) -> list[str]:
    """Names of the fields of a type, in order; none where it is not known."""
    return [name for name, _ in definitions[msgtype][1]] if msgtype in definitions else []


def readable(records: Iterable[Record], doubts: list[str] | None = None) -> Iterator[Any]:
    """The messages that can be read; ``doubts`` grows by what is wrong with the others."""
    for record in records:
        try:
            yield record.message()
        except BagError as error:
            if doubts is not None:
                doubts.append(f'{error}; it is left out')
