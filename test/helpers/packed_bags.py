"""MCAP files whose chunks are not what their writer made of them, with an index that fits all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from helpers.small_bags import STORE, Item
from mcap.data_stream import RecordBuilder
from mcap.records import Chunk, ChunkIndex, Footer, MessageIndex
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer

MAGIC = b'\x89MCAP0\r\n'


def chunked(path: Path, items: Iterable[Item], compression: CompressionType) -> Path:
    """A file with one message in each chunk."""
    with path.open('wb') as file:
        writer = Writer(file, compression=compression, chunk_size=1)
        writer.start(profile='ros2', library='test')
        channels: dict[str, int] = {}
        for item in items:
            msgtype = item.message.__msgtype__
            if item.topic not in channels:
                definition, _ = STORE.generate_msgdef(msgtype, ros_version=2)
                schema = writer.register_schema(msgtype, 'ros2msg', definition.encode())
                channels[item.topic] = writer.register_channel(item.topic, 'cdr', schema)
            data = bytes(STORE.serialize_cdr(item.message, msgtype))
            writer.add_message(channels[item.topic], item.stamp_ns, data, item.stamp_ns)
        writer.finish()
    return path


def change_chunks(path: Path, change: Callable[[int, Chunk], object]) -> Path:
    """Let ``change`` alter each chunk, given its number, and write the file anew with the index that fits."""
    with path.open('rb') as file:
        records = list(StreamReader(file, emit_chunks=True).records)
    content = bytearray(MAGIC)
    places: list[tuple[int, int, Chunk]] = []  # offset, length and chunk
    summary_start = 0
    for record in records:
        builder = RecordBuilder()
        if isinstance(record, Chunk):
            change(len(places), record)
        if isinstance(record, MessageIndex):
            continue  # its numbers would be those of the old chunk; readers live without
        if isinstance(record, ChunkIndex):
            number = sum(1 for one in records[: records.index(record)] if isinstance(one, ChunkIndex))
            offset, length, chunk = places[number]
            record.chunk_start_offset, record.chunk_length = offset, length
            record.message_start_time, record.message_end_time = chunk.message_start_time, chunk.message_end_time
            record.compression, record.compressed_size = chunk.compression, len(chunk.data)
            record.uncompressed_size = chunk.uncompressed_size
        if isinstance(record, Footer):
            record.summary_start, record.summary_offset_start, record.summary_crc = summary_start, 0, 0
        record.write(builder)
        data = builder.end()
        if isinstance(record, Chunk):
            places.append((len(content), len(data), record))
        content += data
        if data[0] == 0x0F:  # the data end here
            summary_start = len(content)
    path.write_bytes(bytes(content) + MAGIC)
    return path
