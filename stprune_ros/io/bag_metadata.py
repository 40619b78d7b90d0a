"""What a bag says of itself in YAML, looked through before a library reads it: metadata.yaml, profiles of topics."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from mcap.reader import make_reader

from stprune_ros import bounded_yaml
from stprune_ros.errors import one_line

MAX_BYTES = 2**23  # of metadata.yaml
MAX_NODES = 200_000  # in it: a topic has some 30, a file 8
MAX_PROFILE_NODES = 1000  # in the profiles of one topic
PROFILES = 'offered_qos_profiles'


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


def profiles_fault(file: Path) -> str:
    """Why the QoS profiles that stand as YAML in a .mcap or .db3 file should not be read, '' where they can be."""
    try:
        found = list(_mcap_profiles(file) if file.suffix == '.mcap' else _sqlite_profiles(file))
    except Exception:  # damage makes parsers fail in ways of their own, from struct.error to TypeError
        return ''  # its reader says it
    return next(filter(None, (bounded_yaml.fault(text, MAX_PROFILE_NODES) for text in found)), '')


def _mcap_profiles(file: Path) -> Iterator[str]:
    with file.open('rb') as opened:
        summary = make_reader(opened).get_summary()
        for channel in summary.channels.values() if summary is not None else ():
            yield channel.metadata.get(PROFILES, '')


def _sqlite_profiles(file: Path) -> Iterator[str]:
    with closing(sqlite3.connect(f'{file.resolve().as_uri()}?immutable=1', uri=True)) as database:
        for (text,) in database.execute(f'SELECT {PROFILES} FROM topics'):
            yield str(text)
