"""Bags that anybody may have written, and bags cut at every message: a beginning or a sentence, and soon."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from helpers.small_bags import STORE, Item, drive, write_bag
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType, Writer
from rosbags.rosbag2 import StoragePlugin

from stprune_ros.errors import StpruneError
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.settings.settings import Settings

MERGES = 'a0: &a0 {x: 1}\n' + ''.join(f'a{i}: &a{i} {{<<: [{", ".join([f"*a{i - 1}"] * 10)}]}}\n' for i in range(1, 9))
HOSTILE = {'merges': MERGES, 'deep': '[' * 100_000, 'wide': f'[{"1, " * 300_000}1]', 'long': 'x' * 2**23 + 'x'}
RECORD = 9  # bytes before the content of an MCAP record
MESSAGE = 5
TOPIC = '/camera/front/image_raw/compressed'


def unchunked(path: Path, items: list[Item]) -> Path:
    """The same messages, each in a record of its own."""
    with path.open('wb') as file:
        writer = Writer(file, compression=CompressionType.NONE, use_chunking=False)
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


def record_ends(data: bytes) -> list[tuple[int, int]]:
    """Kind and end of every record of an MCAP file."""
    found, at = [], 8
    while at + RECORD <= len(data) - 8:
        kind, length = data[at], int.from_bytes(data[at + 1 : at + RECORD], 'little')
        at += RECORD + length
        found.append((kind, at))
    return found


def stamps(path: Path) -> list[tuple[int, tuple[str, ...]]]:
    """Stamp and cameras of every set that a bag gives."""
    with Bag(path) as bag:
        windows = BagWindows(bag, Settings())
        return [(window.current.stamp_ns, tuple(window.current.frames)) for window in windows.read()]


def test_a_bag_cut_at_every_message_gives_the_ticks_before_the_cut(tmp_path):
    items = drive(ticks=6)
    data = unchunked(tmp_path / 'whole.mcap', items).read_bytes()
    whole = stamps(tmp_path / 'whole.mcap')
    assert len(whole) == 6
    ends = [end for kind, end in record_ends(data) if kind == MESSAGE]
    assert len(ends) == len(items)
    cut = tmp_path / 'cut.mcap'
    ticks = []
    for number, end in enumerate(ends, 1):
        for spare in (0, 1, RECORD):  # at the message, and within the next record's head
            cut.write_bytes(data[: end + spare])
            with Bag(cut) as bag:
                assert sum(1 for _ in bag.messages()) == number
        try:
            found = stamps(cut)
        except StpruneError:
            found = []
        assert [stamp for stamp, _ in found] == [stamp for stamp, _ in whole[: len(found)]]
        assert found[:-1] == whole[: len(found)][:-1]  # the last one may lack what comes behind the cut
        ticks.append(len(found))
    assert ticks == sorted(ticks) and ticks[-1] == 6 and ticks[0] == 0


@settings(max_examples=60)
@given(st.data())
def test_a_bag_with_changed_bytes_gives_sets_or_a_sentence(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp('bag')
    content = bytearray(unchunked(folder / 'whole.mcap', drive(ticks=2)).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / 'whole.mcap').write_bytes(bytes(content))
    try:
        stamps(folder / 'whole.mcap')
    except StpruneError as error:
        sentence = str(error)
    else:
        sentence = ''
    assert sentence.isprintable()


def with_profiles(folder: Path, text: str, storage: StoragePlugin) -> Path:
    """A single file whose topics come with these QoS profiles."""
    if storage is StoragePlugin.MCAP:
        path = folder / 'profiles.mcap'
        with path.open('wb') as file:
            writer = Writer(file)
            writer.start(profile='ros2', library='test')
            for item in drive(ticks=2):
                msgtype = item.message.__msgtype__
                schema = writer.register_schema(
                    msgtype, 'ros2msg', STORE.generate_msgdef(msgtype, ros_version=2)[0].encode()
                )
                channel = writer.register_channel(item.topic, 'cdr', schema, {'offered_qos_profiles': text})
                data = bytes(STORE.serialize_cdr(item.message, msgtype))
                writer.add_message(channel, item.stamp_ns, data, item.stamp_ns)
            writer.finish()
        return path
    bag = write_bag(folder / 'bag', drive(ticks=2), storage)
    path = next(bag.glob('*.db3')).rename(folder / 'profiles.db3')
    with closing(sqlite3.connect(path)) as database:
        database.execute('UPDATE topics SET offered_qos_profiles = ?', (text,))
        database.commit()
    return path


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_metadata_is_not_followed(tmp_path, name):
    bag = write_bag(tmp_path / 'bag', drive(ticks=2))
    (bag / 'metadata.yaml').write_text(HOSTILE[name])
    started = time.process_time()
    with Bag(bag) as opened:
        assert sum(1 for _ in opened.messages()) == len(drive(ticks=2))
        [note] = opened.notes
    assert time.process_time() - started < 2.0
    assert note.startswith(f"metadata.yaml of bag '{bag}' cannot be followed (")
    assert 'it has ' in note or 'nesting' in note
    assert note.isprintable() and len(note) < 500


@pytest.mark.parametrize('storage', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize('name', ['merges', 'deep'])
def test_hostile_profiles_are_not_read_and_the_messages_are(tmp_path, name, storage):
    path = with_profiles(tmp_path, HOSTILE[name], storage)
    started = time.process_time()
    with Bag(path) as opened:
        assert sum(1 for _ in opened.messages()) == len(drive(ticks=2))
        assert any('it has ' in note or 'nesting' in note for note in opened.notes)
    assert time.process_time() - started < 2.0


def test_names_that_ros_does_not_allow_are_passed_over(tmp_path):
    forged = '/camera/x\n[ERROR] [brake.node]: brakes failed'
    items = [Item(forged, item.stamp_ns, item.message) if item.topic == TOPIC else item for item in drive(ticks=2)]
    items += [Item('/t' + 'x' * 10**6, items[0].stamp_ns, items[0].message)]
    with Bag(unchunked(tmp_path / 'names.mcap', items)) as bag:
        assert all(name.isprintable() and len(name) < 256 for name in bag.topics)
        assert sum('has a name or a type that ROS does not allow' in note for note in bag.notes) == 2
        assert all(note.isprintable() and len(note) < 500 for note in bag.notes)
        assert '/camera/x?[ERROR]' in ''.join(bag.notes)


def test_a_hostile_truth_file_ends_in_a_sentence(tmp_path):
    from stprune_ros.io.ground_truth import GroundTruth

    for text in ('[' * 200_000, '{"ticks": [{"stamp_ns": 1e999, "behavior": "NONE"}]}', '{"ticks": {"a": 1}}', '7'):
        (tmp_path / 'truth.json').write_text(text)
        with pytest.raises(StpruneError, match='is not readable'):
            GroundTruth.beside(tmp_path)


def test_memory_while_hostile_metadata_is_opened(tmp_path):
    bag = write_bag(tmp_path / 'bag', drive(ticks=2))
    (bag / 'metadata.yaml').write_text(MERGES)
    program = (
        'import resource, sys; from stprune_ros.io.bag_reader import Bag;'
        'before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; Bag(sys.argv[1]).close();'
        'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)'
    )
    done = subprocess.run([sys.executable, '-c', program, str(bag)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50_000
