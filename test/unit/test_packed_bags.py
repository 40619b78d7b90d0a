"""Compressed bags that claim to hold more than anybody reads: one sentence with both numbers, and soon."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lz4.frame
import pytest
import zstandard
from helpers.packed_bags import change_chunks, chunked
from helpers.small_bags import START_NS, STORAGES, STORE, Item, drive, make
from mcap.records import Chunk, ChunkIndex
from mcap.writer import CompressionType
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from stprune_ros.errors import BagError
from stprune_ros.io import unpacking
from stprune_ros.io.bag_metadata import storage_fault
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.unpacking import (
    MAX_AT_ONCE,
    MAX_UNPACKED,
    chunks_fault,
    unpack_chunk,
    unpack_file,
    unpack_message,
)

BOMB = 600_000_000  # bytes, all zero
TEXT = 'std_msgs/msg/String'
UNSIZED = zstandard.ZstdCompressor(write_content_size=False)


def zstd_bomb(sized: bool = True) -> bytes:
    """BOMB bytes in zstd, which states the size or not."""
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=sized).compressobj(BOMB if sized else -1)
    block = bytes(2**20)
    parts = [compressor.compress(block[: min(len(block), BOMB - at)]) for at in range(0, BOMB, len(block))]
    return b''.join([*parts, compressor.flush()])


def lz4_bomb(sized: bool = True) -> bytes:
    """The same in lz4, whose blocks shrink 255 times at most."""
    compressor = lz4.frame.LZ4FrameCompressor()
    block = bytes(2**20)
    parts = [compressor.begin(BOMB if sized else 0)]
    parts += [compressor.compress(block[: min(len(block), BOMB - at)]) for at in range(0, BOMB, len(block))]
    return b''.join([*parts, compressor.flush()])


BOMBS = {
    'zstd, sized': ('zstd', zstd_bomb()),
    'zstd, unsized': ('zstd', zstd_bomb(sized=False)),
    'lz4, sized': ('lz4', lz4_bomb()),
    'lz4, unsized': ('lz4', lz4_bomb(sized=False)),
}
BOMBS['zstd, second frame'] = ('zstd', zstandard.compress(b'good') + BOMBS['zstd, sized'][1])


def one_after_another() -> list[Item]:
    """Messages of a drive, no two of them received at one time."""
    return [replace(item, stamp_ns=START_NS + number) for number, item in enumerate(drive(ticks=2))]


READ = """
import resource, sys, time
from stprune_ros.io.bag_reader import Bag
before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
with Bag(sys.argv[1]) as bag:
    print(sum(1 for _ in bag.messages()))
    print('; '.join(bag.notes))
print(time.process_time() - started)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def read_elsewhere(path: Path) -> tuple[int, str]:
    """Messages and notes of a bag, read in a process of its own that must stay quick and small."""
    done = subprocess.run([sys.executable, '-c', READ, str(path)], capture_output=True, text=True, check=True)
    count, notes, seconds, kilobytes = done.stdout.split('\n')[:4]
    assert float(seconds) < 2.0
    assert int(kilobytes) < 100_000
    return int(count), notes


@pytest.mark.parametrize('indexed', [True, False])
@pytest.mark.parametrize('name', BOMBS)
def test_a_chunk_that_holds_more_than_it_states_ends_the_file(tmp_path: Path, name: str, indexed: bool):
    compression, data = BOMBS[name]
    items = one_after_another()
    path = chunked(tmp_path / 'x.mcap', items, CompressionType.NONE)
    stated = []

    def change(number: int, chunk: Chunk) -> None:
        if number == len(items) - 1:
            stated.append(chunk.uncompressed_size)
            chunk.data, chunk.compression = data, compression

    change_chunks(path, change)
    if not indexed:
        path.write_bytes(path.read_bytes()[:-20])
    count, notes = read_elsewhere(path)
    assert count == len(items) - 1
    size = f' {BOMB} bytes unpacked, more than the ' if name.endswith(', sized') else ' more than the '
    assert f'a chunk of {len(data)} bytes ' in notes
    assert f'{size}{stated[0]}' in notes


@pytest.mark.parametrize('indexed', [True, False])
@pytest.mark.parametrize('compression', ['zstd', 'lz4'])
def test_a_chunk_that_states_more_than_anybody_reads_ends_the_file(tmp_path: Path, compression: str, indexed: bool):
    items = one_after_another()
    path = chunked(tmp_path / 'x.mcap', items, CompressionType.NONE)
    data = BOMBS[f'{compression}, sized'][1]

    def change(number: int, chunk: Chunk) -> None:
        if number == len(items) - 1:
            chunk.data, chunk.compression, chunk.uncompressed_size = data, compression, BOMB

    change_chunks(path, change)
    if not indexed:
        path.write_bytes(path.read_bytes()[:-20])
    count, notes = read_elsewhere(path)
    assert count == len(items) - 1
    sentence = f'a chunk of {len(data)} bytes says that it has {BOMB} bytes unpacked, more than the {MAX_UNPACKED} that'
    assert sentence in notes


@pytest.mark.parametrize('compression', [CompressionType.ZSTD, CompressionType.LZ4])
def test_chunks_that_hold_what_they_state_are_read(tmp_path: Path, compression: CompressionType):
    items = drive(ticks=3)
    with Bag(chunked(tmp_path / 'x.mcap', items, compression)) as bag:
        assert [record.data for record in bag.messages(['/odom'])] == [
            bytes(STORE.serialize_cdr(item.message, item.message.__msgtype__))
            for item in items
            if item.topic == '/odom'
        ]
        assert bag.notes == []


@pytest.mark.parametrize('compression', ['zstd', 'lz4'])
def test_a_chunk_that_holds_less_than_it_states_is_refused(compression: str):
    data = zstandard.compress(b'1234') if compression == 'zstd' else lz4.frame.compress(b'1234')
    assert unpack_chunk(data, 4, compression) == b'1234'
    with pytest.raises(
        BagError, match=f'^a chunk of {len(data)} bytes unpacks to 4 bytes, fewer than the 5 it states$'
    ):
        unpack_chunk(data, 5, compression)
    with pytest.raises(BagError, match='has 4 bytes unpacked, more than the 3 that it states$'):
        unpack_chunk(data, 3, compression)
    with pytest.raises(BagError, match=f'^a chunk is compressed with {compression} and damaged: '):
        unpack_chunk(data[:3], 4, compression)
    unsized = UNSIZED.compress(b'1234') if compression == 'zstd' else lz4.frame.compress(b'1234', store_size=False)
    assert unpack_chunk(unsized, 4, compression) == b'1234'


def test_messages_in_several_frames_of_zstd_are_read_whole():
    frames = UNSIZED.compress(b'12'), UNSIZED.compress(b'34')
    assert unpack_message(b''.join(frames)) == b'1234'


def test_messages_are_unpacked_up_to_a_bound():
    assert unpack_message(zstandard.compress(b'good')) == b'good'
    assert unpack_message(UNSIZED.compress(b'good')) == b'good'
    bomb = BOMBS['zstd, sized'][1]
    with pytest.raises(BagError) as caught:
        unpack_message(bomb)
    assert str(caught.value) == (
        f'a message of {len(bomb)} bytes says in its zstd header that it has {BOMB} bytes unpacked, more than the'
        f' {MAX_UNPACKED} that are read at once'
    )
    with pytest.raises(BagError, match=f' unpacks with zstd to more than the {MAX_UNPACKED} bytes that are read'):
        unpack_message(BOMBS['zstd, second frame'][1])
    half = zstandard.compress(bytes(range(256)) * 1000)
    with pytest.raises(BagError, match='^a message is compressed with zstd and damaged: 131072 of its 256000 bytes'):
        unpack_message(half[:-10])


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('with_metadata', [True, False])
def test_a_message_that_unpacks_without_end_ends_the_file(tmp_path: Path, storage: StoragePlugin, with_metadata: bool):
    folder = tmp_path / 'bag'
    good = bytes(STORE.serialize_cdr(make('std_msgs/String', 'good'), TEXT))
    bomb = BOMBS['zstd, sized'][1]
    with Writer(folder, version=9, storage_plugin=storage) as writer:
        connection = writer.add_connection('/status', TEXT, typestore=STORE)
        for number, data in enumerate([zstandard.compress(good), bomb, zstandard.compress(good)]):
            writer.write(connection, START_NS + number, data)
    metadata = folder / 'metadata.yaml'
    if with_metadata:
        text = metadata.read_text()
        text = text.replace("compression_mode: ''", 'compression_mode: MESSAGE')
        metadata.write_text(text.replace("compression_format: ''", 'compression_format: zstd'))
        assert 'compression_mode: MESSAGE' in metadata.read_text()
    else:
        metadata.unlink()
    count, notes = read_elsewhere(folder)
    assert count == 1
    assert f'a message of {len(bomb)} bytes says in its zstd header that it has {BOMB} bytes' in notes


def packed_folder(folder: Path) -> tuple[Path, Path]:
    """A bag whose file is compressed as a whole, and that file."""
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(CompressionMode.FILE, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/status', TEXT, typestore=STORE)
        writer.write(connection, START_NS, STORE.serialize_cdr(make('std_msgs/String', 'good'), TEXT))
    [packed] = folder.glob('*.zstd')
    return folder, packed


def test_a_file_that_unpacks_to_more_than_the_disk_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, packed = packed_folder(tmp_path / 'bag')
    packed.write_bytes(zstandard.compress(bytes(30_000)))
    usage = unpacking.shutil.disk_usage(tmp_path)._replace(free=40_000)
    monkeypatch.setattr(unpacking.shutil, 'disk_usage', lambda _: usage)
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    with pytest.raises(BagError) as caught:
        Bag(folder)
    assert str(caught.value).startswith(
        f"'{packed}' has 30000 bytes unpacked, more than the 20000 that may be written to '"
    )
    packed.write_bytes(UNSIZED.compress(bytes(30_000)))
    with pytest.raises(BagError, match='bytes and unpacks to more than the 20000 that may be written to '):
        Bag(folder)


def test_a_file_that_unpacks_to_more_than_it_states_is_refused(tmp_path: Path):
    folder, packed = packed_folder(tmp_path / 'bag')
    with zstandard.open(packed) as file:
        plain = file.read()
    size = len(plain)
    packed.write_bytes(zstandard.compress(plain) + BOMBS['zstd, sized'][1])
    with pytest.raises(BagError, match=f'bytes and unpacks to more than the {size} it states$'):
        Bag(folder)
    (tmp_path / 'plain').mkdir()
    with pytest.raises(BagError):
        unpack_file(packed, tmp_path / 'plain')
    assert (tmp_path / 'plain' / packed.stem).stat().st_size <= size


def test_what_was_unpacked_is_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, packed = packed_folder(tmp_path / 'bag')
    room = tmp_path / 'room'
    room.mkdir()

    monkeypatch.setattr('tempfile.tempdir', str(room))
    with Bag(folder) as bag:
        assert sum(1 for _ in bag.messages()) == 1
        assert len(list(room.iterdir())) == 1
    assert list(room.iterdir()) == []
    packed.write_bytes(b'nothing')
    with pytest.raises(BagError, match='cannot be unpacked'):
        Bag(folder)
    assert list(room.iterdir()) == []


def index(start: int, end: int, size: int) -> ChunkIndex:
    return ChunkIndex(0, 0, '', 0, end, 0, {}, start, size)


def test_chunks_of_one_time_are_added_up():
    third = MAX_AT_ONCE // 3 + 1
    assert chunks_fault([index(0, 10, third), index(10, 20, third), index(21, 30, third)]) == ''
    assert chunks_fault([index(0, 10, third), index(5, 20, third), index(10, 30, third)]) == (
        f'chunks of one time have {3 * third} bytes unpacked, more than the {MAX_AT_ONCE} that are held at once'
    )
    assert chunks_fault([]) == ''


def test_chunks_of_one_time_are_read_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    items = drive(ticks=2)
    path = chunked(tmp_path / 'x.mcap', items, CompressionType.ZSTD)
    change_chunks(path, lambda _, chunk: setattr(chunk, 'message_start_time', START_NS))
    assert storage_fault(path) == ''
    monkeypatch.setattr(unpacking, 'MAX_AT_ONCE', 5000)
    assert storage_fault(path).endswith(' bytes unpacked, more than the 5000 that are held at once')
    with Bag(path) as bag:
        assert sum(1 for _ in bag.messages()) == len(items)
        [note] = bag.notes
    assert 'more than the 5000 that are held at once' in note
