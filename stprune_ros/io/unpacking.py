"""Compressed parts of recordings, unpacked within bounds: a few kilobytes can claim to hold any number of bytes.

MCAP compresses chunks (zstd, lz4), rosbag2 single messages or whole files (zstd).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import lz4.frame
import zstandard
from mcap.records import Chunk, ChunkIndex, McapRecord
from mcap.stream_reader import StreamReader, breakup_chunk
from rosbags.rosbag2 import storage_mcap

from stprune_ros.errors import BagError, one_line

MAX_UNPACKED = 2**28  # bytes of one message or chunk; no image has more
MAX_AT_ONCE = 2**29  # bytes of chunks whose times overlap: all of them are held while messages are sorted
MAX_RECORD = 2**31  # bytes; a longer record of MCAP is damage
DISK_SHARE = 0.5  # of the free space that an unpacked file may take
ZSTD_START = b'\x28\xb5\x2f\xfd'
HEAD, BLOCK = 18, 2**20  # bytes: the longest header of a zstd frame, and what is read at a time


def unpack_message(data: bytes) -> bytes:
    """Unpack a message in zstd. Raises BagError where it is damaged or has more than MAX_UNPACKED bytes."""
    return _unpack(data, 'zstd', MAX_UNPACKED, 'a message', 'that are read at once')


def unpack_chunk(data: bytes, stated: int, compression: str) -> bytes:
    """Unpack a chunk of MCAP that says that it has ``stated`` bytes.

    Raises BagError where it is damaged, has more bytes than that, or states more than MAX_UNPACKED.
    """
    if stated > MAX_UNPACKED:
        raise BagError(
            f'a chunk of {len(data)} bytes says that it has {stated} bytes unpacked, more than the {MAX_UNPACKED} that'
            ' are read at once'
        )
    plain = _unpack(data, compression, stated, 'a chunk', 'that it states')
    if len(plain) < stated:
        raise BagError(f'a chunk of {len(data)} bytes unpacks to {len(plain)} bytes, fewer than the {stated} it states')
    return plain


# The reader of rosbags gives this table the size that a chunk states, and its own entries do not look at it.
storage_mcap.DECOMPRESSORS.update({name: partial(unpack_chunk, compression=name) for name in ('zstd', 'lz4')})


def mcap_records(file: BinaryIO, skip_magic: bool = False) -> Iterator[McapRecord]:
    """The records of an MCAP file from where ``file`` stands, those in chunks too, unpacked within the bounds."""
    reader = StreamReader(file, skip_magic=skip_magic, emit_chunks=True, record_size_limit=MAX_RECORD)
    for record in reader.records:
        if not isinstance(record, Chunk):
            yield record
            continue
        if record.compression in ('zstd', 'lz4'):
            record.data = unpack_chunk(record.data, record.uncompressed_size, record.compression)
            record.compression = ''
        yield from breakup_chunk(record)


def chunks_fault(chunks: Iterable[ChunkIndex]) -> str:
    """Why the messages of a file cannot be sorted by time: too much would be unpacked at once; '' where they can."""
    edges = []
    for chunk in chunks:
        edges += [(chunk.message_start_time, 0, chunk.uncompressed_size)]
        edges += [(chunk.message_end_time, 1, -chunk.uncompressed_size)]
    held = most = 0
    for _, _, size in sorted(edges):
        held += size
        most = max(most, held)
    if most <= MAX_AT_ONCE:
        return ''
    return f'chunks of one time have {most} bytes unpacked, more than the {MAX_AT_ONCE} that are held at once'


def unpack_file(packed: Path, folder: Path) -> Path:
    """Unpack a file in zstd into ``folder``, named as it is but for the ending.

    Raises BagError where it is damaged, has more bytes than its header states, or would take more than DISK_SHARE of
    the free space.
    """
    plain = folder / packed.stem
    room = int(DISK_SHARE * shutil.disk_usage(folder).free)
    try:
        with packed.open('rb') as source, plain.open('wb') as target:
            stated = _zstd_size(source.read(HEAD))
            if stated is not None and stated > room:
                raise BagError(
                    f"'{packed}' has {stated} bytes unpacked, more than the {room} that may be written to '{folder}';"
                    ' make room, or unpack it yourself: zstd -d'
                )
            limit, reason = (room, f"that may be written to '{folder}'") if stated is None else (stated, 'it states')
            source.seek(0)
            written = 0
            reader = zstandard.ZstdDecompressor(max_window_size=MAX_UNPACKED).stream_reader(
                source, read_across_frames=True
            )
            while block := reader.read(BLOCK):
                written += len(block)
                if written > limit:
                    raise BagError(
                        f"'{packed}' has {packed.stat().st_size} bytes and unpacks to more than the {limit} {reason}"
                    )
                target.write(block)
    except (zstandard.ZstdError, OSError, MemoryError) as error:
        raise BagError(f"'{packed}' cannot be unpacked: {one_line(error)}") from None
    return plain


def _unpack(data: bytes, compression: str, limit: int, what: str, why: str) -> bytes:
    """At most ``limit`` bytes, or a BagError that calls the data ``what`` and says ``why`` that is the limit."""
    try:
        stated = _zstd_size(data) if compression == 'zstd' else _lz4_size(data)
        if stated is not None and stated > limit:
            raise BagError(
                f'{what} of {len(data)} bytes says in its {compression} header that it has {stated} bytes unpacked,'
                f' more than the {limit} {why}'
            )
        if compression == 'zstd':
            with zstandard.ZstdDecompressor(max_window_size=MAX_UNPACKED).stream_reader(
                data, read_across_frames=True
            ) as stream:
                plain = stream.read(limit + 1)
        else:
            plain = lz4.frame.LZ4FrameDecompressor().decompress(data, limit + 1)
    except (zstandard.ZstdError, RuntimeError, EOFError, MemoryError) as error:
        raise BagError(f'{what} is compressed with {compression} and damaged: {one_line(error)}') from None
    if stated is not None and len(plain) < stated:
        raise BagError(
            f'{what} is compressed with {compression} and damaged: {len(plain)} of its {stated} bytes are left'
        )
    if len(plain) > limit:
        raise BagError(f'{what} of {len(data)} bytes unpacks with {compression} to more than the {limit} bytes {why}')
    return bytes(plain)


def _zstd_size(data: bytes) -> int | None:
    """The size that the first frame of zstd states, None where it states none."""
    size = zstandard.frame_content_size(data)
    return None if size < 0 else int(size)


def _lz4_size(data: bytes) -> int | None:
    """As `_zstd_size`; 0 stands for none."""
    return lz4.frame.get_frame_info(data)['content_size'] or None
