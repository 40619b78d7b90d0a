"""What a killed recorder leaves, and files that are no bag: read without changing them, or named with a command."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import zstandard
from helpers.small_bags import START_NS, STORAGES, STORE, Item, header, write_bag
from mcap.writer import Writer as McapFile
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Writer

from stprune_ros.errors import BagError
from stprune_ros.io import sqlite_log
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.sqlite_log import WriteAheadLog, beside

TEXT = 'std_msgs/msg/Header'
MESSAGES = 30
LATCHED = Qos(
    *(QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL),
    *(QosTime(0, 0), QosTime(0, 0), QosLiveliness.AUTOMATIC, QosTime(0, 0), False),
)
# Writes `messages` into a database in batches and dies, as a recorder does that is killed.
KILLED = """
import os, sqlite3, sys
path, mode, batch, done, rows = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), eval(sys.stdin.read())
database = sqlite3.connect(path, isolation_level=None)
database.execute(f'PRAGMA journal_mode={mode}')
database.execute('PRAGMA wal_autocheckpoint=0')
database.execute('PRAGMA cache_size=2')
for first in range(0, done, batch):
    database.execute('BEGIN')
    database.executemany('INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)', rows[first:first + batch])
    database.execute('COMMIT')
if done < len(rows):
    database.execute('BEGIN')
    database.executemany('INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)', rows[done:])
os._exit(9)
"""


def recorded(folder: Path, mode: str = 'wal', batch: int = 5, done: int = MESSAGES, in_file: int = 0) -> Path:
    """A .db3 file whose first ``in_file`` messages are in the database, the others up to ``done`` in its log."""
    folder.mkdir(parents=True)
    with Writer(folder / 'bag', version=9, storage_plugin=STORAGES[1]) as writer:
        connection = writer.add_connection('/status', TEXT, typestore=STORE, offered_qos_profiles=[LATCHED])
        for number in range(in_file):
            writer.write(connection, START_NS + number, payload(number))
    [file] = (folder / 'bag').glob('*.db3')
    metadata = (folder / 'bag' / 'metadata.yaml').read_text().replace(file.name, 'a b.db3')
    folder.with_suffix('.yaml').write_text(metadata)
    shutil.move(file, folder / 'a b.db3')
    rows = [(1, START_NS + number, payload(number)) for number in range(in_file, MESSAGES)]
    arguments = [sys.executable, '-c', KILLED, str(folder / 'a b.db3'), mode, str(batch), str(done - in_file)]
    subprocess.run(arguments, input=repr(rows).encode(), check=False)
    shutil.rmtree(folder / 'bag')
    return folder / 'a b.db3'


def payload(number: int) -> bytes:
    return bytes(STORE.serialize_cdr(header(START_NS + number, f'frame {number} {"x" * 3000}'), TEXT))


def numbers(bag: Bag) -> list[int]:
    found = [int(record.message().frame_id.split()[1]) for record in bag.messages()]
    assert [record.receive_ns for record in bag.messages(['/status'])] == [START_NS + number for number in found]
    return found


def state(folder: Path) -> dict[str, tuple[str, int, int]]:
    return {
        file.name: (hashlib.sha1(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns, file.stat().st_ino)
        for file in folder.iterdir()
    }


@pytest.mark.parametrize('in_file', [0, 12])
@pytest.mark.parametrize('with_index', [True, False])
@pytest.mark.parametrize('opened', ['file', 'folder', 'link', 'with metadata'])
def test_messages_in_a_write_ahead_log_are_read(tmp_path: Path, in_file: int, with_index: bool, opened: str):
    file = recorded(tmp_path / 'bag', in_file=in_file)
    if not with_index:
        beside(file, '-shm').unlink()
    path = {'file': file, 'folder': file.parent}.get(opened, file.parent)
    if opened == 'link':
        path = tmp_path / 'linked.db3'
        path.symlink_to(file)
    if opened == 'with metadata':
        shutil.move(file.parent.with_suffix('.yaml'), file.parent / 'metadata.yaml')  # of before the crash
    before = state(file.parent)
    with Bag(path) as bag:
        assert numbers(bag) == list(range(MESSAGES))
        topic = bag.topics['/status']
        assert (topic.count, topic.latched, topic.digest) == (MESSAGES, True, STORE.hash_rihs01(TEXT))
        assert f'{MESSAGES} messages in all' in bag.notes[-1]
    assert state(file.parent) == before


def test_a_folder_that_cannot_be_written_to(tmp_path: Path):
    file = recorded(tmp_path / 'bag')
    for part in file.parent.iterdir():
        part.chmod(0o444)
    file.parent.chmod(0o555)
    try:
        with Bag(file) as bag:
            assert len(numbers(bag)) == MESSAGES
    finally:
        file.parent.chmod(0o755)


def frames(log: Path) -> tuple[int, int]:
    """(bytes of a frame, number of frames) of a log."""
    size = 24 + struct.unpack('>I', log.read_bytes()[8:12])[0]
    return size, (log.stat().st_size - 32) // size


@pytest.mark.parametrize('with_index', [True, False])
@pytest.mark.parametrize('damage', ['cut', 'cut in a page', 'flipped'])
def test_a_damaged_log_is_read_up_to_the_damage(tmp_path: Path, damage: str, with_index: bool):
    file = recorded(tmp_path / 'bag', batch=1)
    log = beside(file, '-wal')
    size, count = frames(log)
    place = 32 + size * (count // 2)
    data = bytearray(log.read_bytes())
    if damage == 'flipped':
        data[place + 100] ^= 1
    else:
        del data[place + (100 if damage == 'cut in a page' else 0) :]
    log.write_bytes(data)
    if not with_index:
        beside(file, '-shm').unlink()
    with closing(sqlite3.connect(shutil.copytree(file.parent, tmp_path / 'copy') / file.name)) as database:
        [(expected,)] = database.execute('SELECT count(*) FROM messages')  # as SQLite itself mends it
    assert 5 < expected < MESSAGES
    before = state(file.parent)
    with Bag(file) as bag:
        assert numbers(bag) == list(range(expected))
        assert f'{expected} messages in all' in bag.notes[-1]
        lost = WriteAheadLog.beside(file).lost
        assert lost == 0 or f'the last {lost} pages' in bag.notes[0]
        assert lost > 0 or damage == 'cut'
    assert state(file.parent) == before


def test_an_unfinished_transaction_is_counted(tmp_path: Path):
    file = recorded(tmp_path / 'bag', done=20)
    log = WriteAheadLog.beside(file)
    assert log.lost > 0
    with Bag(file) as bag:
        assert numbers(bag) == list(range(20))
        assert bag.notes[0].startswith(f"the last {log.lost} pages of '{file.name}-wal'")


@pytest.mark.parametrize('damage', ['magic', 'first frame', 'short', 'page size'])
def test_a_log_of_which_nothing_can_be_read_is_left_alone(tmp_path: Path, damage: str):
    file = recorded(tmp_path / 'bag', in_file=12)
    log = beside(file, '-wal')
    data = bytearray(log.read_bytes())
    place = {'magic': 0, 'first frame': 60, 'page size': 10}.get(damage, 0)
    data[place] ^= 0x21
    log.write_bytes(data[:20] if damage == 'short' else data)
    before = state(file.parent)
    with Bag(file) as bag:
        assert numbers(bag) == list(range(12))
        assert damage == 'short' or 'were never finished or are damaged' in bag.notes[0]
    assert state(file.parent) == before


def test_frames_from_before_the_last_checkpoint_are_not_lost(tmp_path: Path):
    file = recorded(tmp_path / 'bag')
    with closing(sqlite3.connect(file, isolation_level=None)) as first:
        first.execute('PRAGMA wal_autocheckpoint=0')
        assert first.execute('SELECT count(*) FROM messages').fetchall() == [(MESSAGES,)]
        first.execute('PRAGMA wal_checkpoint(RESTART)')
        first.execute('INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)', (START_NS + 30, payload(30)))
        copy = shutil.copytree(file.parent, tmp_path / 'copy') / file.name
    log = WriteAheadLog.beside(copy)
    assert (log.lost, log.committed) == (0, log.committed) and 0 < log.committed < frames(beside(copy, '-wal'))[1]
    with Bag(copy) as bag:
        assert numbers(bag) == list(range(MESSAGES + 1))


def test_a_database_that_is_empty_but_for_its_log(tmp_path: Path):
    file = recorded(tmp_path / 'bag')
    with closing(sqlite3.connect(file)) as database:  # everything into a log, as a first checkpoint would find it
        content = list(database.iterdump())
    file.unlink()
    for suffix in ('-wal', '-shm'):
        beside(file, suffix).unlink(missing_ok=True)
    script = 'import os, sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute("PRAGMA journal_mode=wal");'
    script += 'd.executescript(sys.stdin.read()); os._exit(9)'
    subprocess.run([sys.executable, '-c', script, str(file)], input='\n'.join(content).encode(), check=False)
    file.write_bytes(b'')
    before = state(file.parent)
    with Bag(file) as bag:
        assert numbers(bag) == list(range(MESSAGES))
    assert state(file.parent) == before


def test_a_copy_that_has_no_room_is_refused_with_the_command(tmp_path: Path, monkeypatch):
    file = recorded(tmp_path / 'bag')
    beside(file, '-shm').unlink()
    monkeypatch.setattr(sqlite_log.shutil, 'disk_usage', lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(BagError, match=r"too large to be copied; merge them with sqlite3 '.*' 'PRAGMA wal_checkpoint"):
        Bag(file)


def test_a_hot_journal_is_said(tmp_path: Path):
    file = recorded(tmp_path / 'bag', mode='delete', done=20)
    assert beside(file, '-journal').stat().st_size
    before = state(file.parent)
    with Bag(file) as bag:
        assert "'PRAGMA quick_check' rolls it back" in bag.notes[0]
        assert numbers(bag)[:10] == list(range(10))
    assert state(file.parent) == before


def test_messages_that_the_metadata_counts_and_the_file_lacks_are_lost(tmp_path: Path):
    items = [Item('/status', START_NS + number, header(START_NS)) for number in range(10)]
    folder = write_bag(tmp_path / 'bag', items, STORAGES[1])
    [file] = folder.glob('*.db3')
    with closing(sqlite3.connect(file)) as database:
        database.execute('DELETE FROM messages WHERE id > 7')
        database.commit()
    with Bag(folder) as bag:
        assert len(list(bag.messages())) == len(list(bag.messages())) == 7
        assert bag.notes == [f"'{folder}' says that it holds 10 messages of /status, but 3 of them are lost"]


@pytest.mark.parametrize('storage', STORAGES)
def test_single_messages_in_zstd_without_metadata(tmp_path: Path, storage):
    folder = tmp_path / 'bag'
    with Writer(folder, version=9, storage_plugin=storage) as writer:
        connection = writer.add_connection('/status', TEXT, typestore=STORE)
        for number in range(4):
            writer.write(connection, START_NS + number, zstandard.compress(payload(number)))
    (folder / 'metadata.yaml').unlink()
    with Bag(folder) as bag:
        assert numbers(bag) == [0, 1, 2, 3]


@pytest.mark.parametrize('mode', [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_compression_that_the_metadata_tells(tmp_path: Path, mode):
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=STORAGES[1])
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/status', TEXT, typestore=STORE)
        writer.write(connection, START_NS, payload(0))
    with Bag(tmp_path / 'bag') as bag:
        assert numbers(bag) == [0] and bag.notes == []


@pytest.mark.parametrize(
    ('name', 'command'),
    [
        ('x.db3.zstd', "zstd -d '{}/x.db3.zstd' -o '{}/x.db3'"),
        ('x.mcap.zst', "zstd -d '{}/x.mcap.zst' -o '{}/x.mcap'"),
        ('x.mcap.lz4', "lz4 -d '{}/x.mcap.lz4' '{}/x.mcap'"),
        ('x.tar', "tar -xf '{}/x.tar'"),
        ('x.bag', "rosbags-convert --src '{}/x.bag' --dst '{}/x'"),
    ],
)
@pytest.mark.parametrize('as_folder', [True, False])
def test_other_files_come_with_the_command_that_converts_them(tmp_path: Path, name: str, command: str, as_folder: bool):
    (tmp_path / name).write_bytes(b'anything')
    with pytest.raises(BagError) as caught:
        Bag(tmp_path if as_folder else tmp_path / name)
    assert command.replace('{}', str(tmp_path)) in str(caught.value)


def write_mcap(path: Path, profile: str, schema: str, encoding: str, form: str, data: bytes) -> Path:
    with path.open('wb') as file:
        writer = McapFile(file)
        writer.start(profile=profile)
        definition = STORE.generate_msgdef(TEXT, ros_version=2)[0] if encoding == 'ros2msg' else 'x'
        number = writer.register_schema(schema, encoding, definition.encode())
        channel = writer.register_channel('/status', form, number)
        writer.add_message(channel, START_NS, data, START_NS)
        writer.finish()
    return path


def test_another_profile_is_no_damage(tmp_path: Path):
    with Bag(write_mcap(tmp_path / 'a.mcap', '', TEXT, 'ros2msg', 'cdr', payload(0))) as bag:
        assert numbers(bag) == [0]
        assert "has the MCAP profile '' and not 'ros2'; its 1 messages are read" in bag.notes[0]


@pytest.mark.parametrize(
    ('encoding', 'form'),
    [('ros1msg', 'ros1'), ('protobuf', 'protobuf'), ('jsonschema', 'json'), ('flatbuffer', 'flatbuffer')],
)
def test_how_messages_are_serialized_is_known(tmp_path: Path, encoding: str, form: str):
    with Bag(write_mcap(tmp_path / 'a.mcap', 'x', 'some.Image', encoding, form, b'\xff{}')) as bag:
        assert (bag.topics['/status'].form, bag.topics['/status'].msgtype) == (form, 'some.Image')


def test_running_as_anybody_leaves_no_files_behind(tmp_path: Path, monkeypatch):
    monkeypatch.setenv('TMPDIR', str(tmp_path / 'room'))
    monkeypatch.setattr('tempfile.tempdir', None)
    os.mkdir(tmp_path / 'room')
    file = recorded(tmp_path / 'bag')
    beside(file, '-shm').unlink()
    with Bag(file) as bag:
        next(bag.messages()).message()
        assert len(numbers(bag)) == MESSAGES
    assert list((tmp_path / 'room').iterdir()) == []


def pieces(folder: Path, count: int = 2) -> list[Path]:
    """The files of a recording that was split, in a folder without metadata.yaml."""
    folder.mkdir()
    files = []
    for piece in range(count):
        items = [Item('/status', START_NS + piece * 10 + tick, header(START_NS)) for tick in range(5)]
        [file] = write_bag(folder.parent / f'piece_{piece}', items).glob('*.mcap')
        files.append(Path(shutil.move(file, folder / f'split_{piece}.mcap')))
    return files


@pytest.mark.parametrize('left', [0, 40])
@pytest.mark.parametrize('broken', [0, 1])
def test_one_broken_piece_does_not_take_the_others_along(tmp_path: Path, broken: int, left: int):
    file = pieces(tmp_path / 'split')[broken]
    file.write_bytes(file.read_bytes()[:left])
    with Bag(tmp_path / 'split') as bag:
        assert len(list(bag.messages())) == 5
        [note] = [note for note in bag.notes if file.name in note]
    assert note.startswith(f"'{file}' is not a readable bag: ")
    assert note.endswith(': its messages are lost')


def test_a_bag_of_broken_pieces_only_is_refused(tmp_path: Path):
    for file in pieces(tmp_path / 'split'):
        file.write_bytes(b'')
    with pytest.raises(BagError, match='split_0.mcap. is not a readable bag'):
        Bag(tmp_path / 'split')


def test_a_file_that_the_metadata_does_not_name_is_said(tmp_path: Path):
    bag_folder = write_bag(tmp_path / 'bag', [Item('/status', START_NS, header(START_NS))])
    shutil.copy(next(bag_folder.glob('*.mcap')), bag_folder / 'later.mcap')
    with Bag(bag_folder) as bag:
        assert bag.notes == [
            f"metadata.yaml of bag '{bag_folder}' does not name 'later.mcap': not read; 'ros2 bag reindex' writes that"
            ' file anew'
        ]
