"""From a bag to windows: cameras and ring from a rig file, topics that are not used, messages that cannot be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.small_bags import START_NS, Item, drive, odometry, write_bag

from stprune_ros.errors import BagError
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.settings.settings import Settings

# Other azimuths than the bag's own calibration, so that one sees which of them is used.
ENTRY = '{{azimuth_deg: {}, hfov_deg: 60, width: 64, height: 48}}'


def rig_file(folder: Path, **azimuths: float) -> str:
    path = folder / 'rig.yaml'
    path.write_text('cameras:\n' + ''.join(f'  {name}: {ENTRY.format(a)}\n' for name, a in azimuths.items()))
    return str(path)


def test_a_rig_file_names_the_cameras_and_their_geometry(tmp_path: Path):
    settings = Settings.from_values({'cameras.rig_file': rig_file(tmp_path, front=0, left=120)})
    with Bag(write_bag(tmp_path / 'bag', drive(2))) as bag:
        windows = BagWindows(bag, settings)
        assert windows.rig.ring == ('front', 'left')
        assert [sorted(window.current.frames) for window in windows.read()] == [['front', 'left']] * 2
        assert windows.rig.overlap_deg('front', 'left') == 0.0


def test_named_cameras_are_looked_up_in_the_rig_file(tmp_path: Path):
    path = rig_file(tmp_path, front=0, left=120)
    with Bag(write_bag(tmp_path / 'bag', drive(1))) as bag:
        named = Settings.from_values({'cameras.rig_file': path, 'cameras.names': ['front']})
        assert BagWindows(bag, named).rig.ring == ('front',)
        unknown = Settings.from_values({'cameras.rig_file': path, 'cameras.names': ['front', 'right']})
        with pytest.raises(BagError, match="has no camera 'right'; it has front, left"):
            BagWindows(bag, unknown)


def test_odometry_that_is_not_used_is_named(tmp_path: Path):
    items = [*drive(2), Item('/gps/odom', START_NS, odometry(START_NS))]
    with Bag(write_bag(tmp_path / 'bag', items)) as bag:
        windows = BagWindows(bag, Settings())
        other = '/gps/odom' if windows.topics.odometry == '/odom' else '/odom'
        [note] = windows.notes
        assert note.startswith(f"odometry is read from '{windows.topics.odometry}', ")
        assert note.endswith(f"not from {other}: set 'topics.odometry' to choose")


def test_a_message_that_cannot_be_read_is_an_error_and_the_rest_is_read(tmp_path: Path, monkeypatch):
    with Bag(write_bag(tmp_path / 'bag', drive(3))) as bag:
        windows, whole = BagWindows(bag, Settings()), Bag.messages

        def cut(self, topics):
            """The first message of the left camera loses most of its bytes."""
            seen = set()
            for record in whole(self, topics):
                if 'left/image' in record.topic and record.topic not in seen:
                    seen.add(record.topic)
                    record = replace(record, data=bytes(record.data[:10]))
                yield record

        monkeypatch.setattr(Bag, 'messages', cut)
        counted = []
        sets = [window.current for window in windows.read(lambda: counted.append(1))]
        assert [len(one.frames) for one in sets] == [2, 3, 3]
        [error] = windows.errors
        assert 'left' in error
        assert windows.notes == []
        assert len(counted) == windows.message_count
