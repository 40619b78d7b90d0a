"""What a bag says of itself, looked through before a library follows it: metadata.yaml, profiles, index of chunks."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from os import SEEK_END
from pathlib import Path, PurePath
from typing import BinaryIO

import yaml
from mcap.records import Channel, ChunkIndex, Footer, McapRecord, Schema, Statistics

from stprune_ros import bounded_yaml
from stprune_ros.errors import one_line
from stprune_ros.io.unpacking import chunks_fault, mcap_records

MAX_BYTES = 2**23  # of metadata.yaml
MAX_NODES = 200_000  # in it: a topic has some 30, a file 8
MAX_PROFILE_NODES = 1000  # in the profiles of one topic
PROFILES = 'offered_qos_profiles'
MCAP_END = 37  # bytes of footer and magic number


def metadata_fault(folder: Path) -> str:
    """Why metadata.yaml of a bag folder should not be read, '' where it can be."""
    try:
        text = metadata_text(folder)
    except (OSError, ValueError) as error:
        return getattr(error, 'strerror', None) or one_line(error)
    return bounded_yaml.fault(text, MAX_NODES)


def metadata_text(folder: Path) -> str:
    """The text of metadata.yaml. Raises OSError, and ValueError where it is no text or too long."""
    return bounded_yaml.read_text(folder / 'metadata.yaml', MAX_BYTES)


def metadata_version(folder: Path) -> int:
    """The version that metadata.yaml says it has, 0 where it says none or is not there; it may be damaged elsewhere."""
    try:
        lines = metadata_text(folder).splitlines()
    except (OSError, ValueError):
        return 0
    versions = (re.fullmatch(r'\s*version:\s*(\d{1,4})\s*', line) for line in lines)
    return next((int(found[1]) for found in versions if found), 0)


def compressed_files(folder: Path) -> tuple[bool, list[Path]]:
    """Whether metadata.yaml says that something is compressed, and the files that are so as a whole."""
    try:
        if metadata_fault(folder):
            return False, []
        told = yaml.safe_load(metadata_text(folder))['rosbag2_bagfile_information']
        mode = str(told.get('compression_mode') or 'none').lower()
        names = [PurePath(name).name for name in told['relative_file_paths']]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return False, []  # its reader says it
    return mode != 'none', [folder / name for name in names] if mode == 'file' else []


def storage_fault(file: Path) -> str:
    """Why a .mcap or .db3 file should not be given to the reader of rosbags, '' where nothing speaks against it.

    Looked at is what stands in it as YAML, the QoS profiles of topics, and which chunks would be unpacked together.
    """
    try:
        if file.suffix == '.db3':
            return next(filter(None, map(_profiles_fault, _sqlite_profiles(file))), '')
        with file.open('rb') as opened:
            return _mcap_fault(opened)
    except Exception:  # damage makes parsers fail in ways of their own, from struct.error to TypeError
        return ''  # its reader says it


def _mcap_fault(file: BinaryIO) -> str:
    chunks = []
    for record in _mcap_index(file):
        fault = _profiles_fault(record.metadata.get(PROFILES, '')) if isinstance(record, Channel) else ''
        if fault:
            return fault
        if isinstance(record, ChunkIndex):
            chunks.append(record)
    return chunks_fault(chunks)


def _mcap_index(file: BinaryIO) -> Iterator[McapRecord]:
    """The records of the summary and, where it lacks what its reader needs, of the whole file."""
    file.seek(-MCAP_END, SEEK_END)
    footer = next(mcap_records(file, skip_magic=True))
    counted = defined = False
    if isinstance(footer, Footer) and footer.summary_start:
        file.seek(footer.summary_start)
        for record in mcap_records(file, skip_magic=True):
            counted |= isinstance(record, (Statistics, ChunkIndex))
            defined |= isinstance(record, Schema)
            yield record
    if not (counted and defined):
        file.seek(0)
        yield from (record for record in mcap_records(file) if not isinstance(record, ChunkIndex))


def _profiles_fault(text: str) -> str:
    return bounded_yaml.fault(text, MAX_PROFILE_NODES)


def _sqlite_profiles(file: Path) -> Iterator[str]:
    with closing(sqlite3.connect(f'{file.resolve().as_uri()}?immutable=1', uri=True)) as database:
        for (text,) in database.execute(f'SELECT {PROFILES} FROM topics'):
            yield str(text)
