"""Bags of every storage, whole and damaged, and what is found in them."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from helpers.small_bags import (
    PERIOD_NS,
    START_NS,
    STORAGES,
    STORE,
    Item,
    camera_info,
    drive,
    header,
    image,
    jpeg,
    make,
    odometry,
    write_bag,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import Writer

from stprune_ros.errors import BagError
from stprune_ros.io.bag_reader import Bag, message_store
from stprune_ros.io.mcap_writer import McapWriter

FRONT = '/camera/front/image_raw/compressed'
QOS_HEAD = (QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE)
QOS_TAIL = (QosTime(0, 0), QosTime(0, 0), QosLiveliness.AUTOMATIC, QosTime(0, 0), False)


def storage_file(bag: Path) -> Path:
    [file] = [file for file in bag.iterdir() if file.suffix in ('.mcap', '.db3')]
    return file


def contents(bag: Bag) -> list[tuple[str, int, bytes]]:
    return [(record.topic, record.receive_ns, bytes(record.data)) for record in bag.messages()]


@pytest.mark.parametrize('storage', STORAGES)
def test_messages_come_in_recorded_order(tmp_path: Path, storage):
    items = drive(3)
    with Bag(write_bag(tmp_path / 'bag', items, storage)) as bag:
        assert bag.notes == []
        assert [(record.topic, record.receive_ns) for record in bag.messages()] == [
            (i.topic, i.stamp_ns) for i in items
        ]
        assert bag.topics['/odom'].digest == STORE.hash_rihs01('nav_msgs/msg/Odometry')
        found = list(bag.messages([FRONT]))
        assert [record.topic for record in found] == [FRONT] * 3
        message = found[1].message()
        assert message.format == 'jpeg'
        assert message.header.stamp.nanosec == PERIOD_NS


@pytest.mark.parametrize('storage', STORAGES)
def test_a_single_file_is_a_bag_too(tmp_path: Path, storage):
    folder = write_bag(tmp_path / 'bag', drive(2), storage)
    with Bag(folder) as whole, Bag(storage_file(folder)) as single:
        assert contents(single) == contents(whole)
        assert single.notes == []


def test_bag_without_definitions_uses_those_of_its_distribution(tmp_path: Path):
    folder = write_bag(tmp_path / 'bag', drive(1), STORAGES[1])
    with closing(sqlite3.connect(storage_file(folder))) as database:
        database.execute('DELETE FROM message_definitions')
        database.commit()
    with Bag(folder) as bag:
        assert bag.first('/odom').child_frame_id == 'base_link'


def test_recorded_odometry_without_definitions(test_data: Path):
    with Bag(test_data / 'vehicle_odometry' / 'bag') as bag:
        name = '/odometry'
        messages = [record.message() for record in bag.messages([name])]
        assert len(messages) == bag.topics[name].count > 2000
        unknown = next(bag.messages(['/vehicle_command_ackermann']))
        with pytest.raises(BagError, match='no definition of this type'):
            unknown.message()


def write_part(folder: Path, ticks: range, latched: bool) -> Path:
    """One file of a bag: a message per tick on /status; returns the file."""
    header_type = 'std_msgs/msg/Header'
    qos = [Qos(*QOS_HEAD, QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE, *QOS_TAIL)]
    with Writer(folder, version=9, storage_plugin=STORAGES[0]) as writer:
        connection = writer.add_connection('/status', header_type, typestore=STORE, offered_qos_profiles=qos)
        for tick in ticks:
            message = header(START_NS + tick, str(tick))
            writer.write(connection, START_NS + tick, STORE.serialize_cdr(message, header_type))
    return storage_file(folder)


def test_files_of_a_bag_are_read_as_one(tmp_path: Path):
    folder = tmp_path / 'bag'
    folder.mkdir()
    for number, (ticks, latched) in enumerate([(range(0, 12, 3), True), (range(1, 12), False)]):
        shutil.copy(write_part(tmp_path / str(number), ticks, latched), folder / f'{number}.mcap')
    with Bag(folder) as bag:
        stamps = [stamp for _, stamp, _ in contents(bag)]
        assert stamps == sorted(stamps) and len(stamps) == 15
        topic = bag.topics['/status']
        assert (topic.count, topic.latched) == (15, True)
    with Bag(folder / '1.mcap') as bag:
        assert not bag.topics['/status'].latched


def test_damage_in_the_middle_is_noted_once(tmp_path: Path):
    folder = write_bag(tmp_path / 'bag', [Item('/odom', START_NS + i, odometry(START_NS + i)) for i in range(4000)])
    file = storage_file(folder)
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 5000] = bytes(5000)
    file.write_bytes(data)
    with Bag(folder) as bag:
        first, second = contents(bag), contents(bag)
        assert first == second and len(first) < 4000
        assert len(bag.notes) == 1


def test_missing_metadata_is_said_and_got_over(tmp_path: Path):
    folder = write_bag(tmp_path / 'bag', drive(2))
    with Bag(folder) as bag:
        whole = contents(bag)
    (folder / 'metadata.yaml').unlink()
    with Bag(folder) as bag:
        assert contents(bag) == whole
        assert bag.notes == [f"bag '{folder}' has no metadata.yaml; reading the files themselves"]


def test_broken_metadata_is_said_and_got_over(tmp_path: Path):
    folder = write_bag(tmp_path / 'bag', drive(2))
    (folder / 'metadata.yaml').write_text('rosbag2_bagfile_information: {version: 9}\n')
    with Bag(folder) as bag:
        assert len(contents(bag)) == len(drive(2))
        assert 'cannot be followed' in bag.notes[0]


@pytest.mark.parametrize(
    ('storage', 'share'),
    [(STORAGES[0], 0.6), (STORAGES[0], 0.9), (STORAGES[0], 0.999), (STORAGES[1], 0.9), (STORAGES[1], 0.999)],
)
def test_truncated_file_gives_what_is_before_the_cut(tmp_path: Path, storage, share: float):
    folder = tmp_path / 'bag'
    noise = [Item('/odom', START_NS + i, odometry(START_NS + i)) for i in range(4000)]  # several chunks, several pages
    write_bag(folder, noise, storage)
    with Bag(folder) as bag:
        whole = contents(bag)
    file = storage_file(folder)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    with Bag(folder) as bag:
        rest = contents(bag)
        assert rest == whole[: len(rest)]
        assert len(rest) > 0.5 * share * len(whole)
        assert 'is damaged' in bag.notes[-1]
        assert f'{len(rest)} messages' in bag.notes[-1]


@pytest.fixture(scope='module')
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results file as replay writes it: one chunk a tick."""
    store = message_store()
    path = tmp_path_factory.mktemp('results') / 'results.mcap'
    with McapWriter(path) as writer:
        definition, _ = store.generate_msgdef('nav_msgs/msg/Odometry', ros_version=2)
        writer.add_topic('/odom', 'nav_msgs/msg/Odometry', definition, store.hash_rihs01('nav_msgs/msg/Odometry'))
        for tick in range(20):
            writer.write(
                '/odom', START_NS + tick, bytes(store.serialize_cdr(odometry(START_NS + tick), 'nav_msgs/msg/Odometry'))
            )
            writer.flush()
    return path


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(share=st.floats(0, 1), flip=st.booleans())
def test_damage_anywhere_gives_a_beginning_or_one_sentence(written: Path, tmp_path: Path, share: float, flip: bool):
    data = bytearray(written.read_bytes())
    place = min(int(share * len(data)), len(data) - 1)
    if flip:
        data[place] ^= 0x55
    else:
        del data[place:]
    broken = tmp_path / 'broken.mcap'
    broken.write_bytes(data)
    stamps, sentence = [], str(broken)
    try:
        with Bag(broken) as bag:
            stamps = [record.receive_ns for record in bag.messages()]
    except BagError as error:
        sentence = str(error)
    assert str(broken) in sentence
    assert '\n' not in sentence
    if not flip:
        assert stamps == list(range(START_NS, START_NS + len(stamps)))


def test_writer_without_its_end_loses_nothing_that_was_flushed(tmp_path: Path):
    store, path = message_store(), tmp_path / 'killed.mcap'
    writer = McapWriter(path)
    definition, _ = store.generate_msgdef('std_msgs/msg/Header', ros_version=2)
    writer.add_topic('/a', 'std_msgs/msg/Header', definition)
    for tick in range(3):
        writer.write(
            '/a', START_NS + tick, bytes(store.serialize_cdr(header(START_NS, f'frame {tick}'), 'std_msgs/msg/Header'))
        )
        writer.flush()
    copy = Path(shutil.copy(path, tmp_path / 'copy.mcap'))  # what a kill at this moment leaves
    with Bag(copy) as bag:
        assert [record.message().frame_id for record in bag.messages()] == ['frame 0', 'frame 1', 'frame 2']


def test_messages_of_this_package_survive_the_way_through_a_bag(tmp_path: Path):
    hint = {'uint8': 0, 'float32': 0.25}
    duration = make('builtin_interfaces/Duration', 1, 0)
    camera = make('stprune_ros/CameraStatus', 'front', 1, header(START_NS).stamp, 4, 72, 7)
    info = make(
        'stprune_ros/InferenceInfo', 3, [camera], 'model', 'abc', True, 'prompt', '', 'st_prune', 0.25, 72, 7, 40,
        ['hint'], message_array([1.5]), float('nan'), ['note'],
    )  # fmt: skip
    message = make(
        'stprune_ros/PlanningHint', header(START_NS), duration, 5, 1, 3, hint['float32'], 1, message_array([3], 'u1'),
        message_array([0.25]), info,
    )  # fmt: skip
    with Bag(write_bag(tmp_path / 'bag', [Item('/hint', START_NS, message)])) as bag:
        found = bag.first('/hint')
    assert (found.alive_counter, found.behavior, found.probabilities.tolist()) == (5, 3, [0.25])
    assert found.info.cameras[0].tokens_kept == 7


def message_array(values: list[float], kind: str = 'f4'):
    import numpy as np

    return np.array(values, kind)


def make_text_file(folder: Path) -> Path:
    (folder / 'notes.txt').write_text('not a bag')
    return folder / 'notes.txt'


def make_wrong_mcap(folder: Path) -> Path:
    (folder / 'wrong.mcap').write_text('not a bag either')
    return folder / 'wrong.mcap'


def make_wrong_database(folder: Path) -> Path:
    (folder / 'wrong.db3').write_bytes(b'SQLite format 3\0' + bytes(200))
    return folder / 'wrong.db3'


def make_empty_file(folder: Path) -> Path:
    (folder / 'empty.mcap').touch()
    return folder / 'empty.mcap'


def make_ros1_bag(folder: Path) -> Path:
    (folder / 'old.bag').write_text('#ROSBAG V2.0\n')
    return folder / 'old.bag'


def make_empty_folder(folder: Path) -> Path:
    (folder / 'nothing').mkdir()
    return folder / 'nothing'


def make_empty_bag(folder: Path) -> Path:
    return write_bag(folder / 'bag', [])


NO_BAGS = {
    make_text_file: 'not a rosbag2 bag',
    make_wrong_mcap: 'not a readable bag',
    make_wrong_database: 'not a readable bag',
    make_empty_file: 'not a readable bag',
    make_ros1_bag: 'ROS 1 bag; convert it',
    make_empty_folder: 'not a rosbag2 bag',
    make_empty_bag: 'holds no message',
    lambda folder: folder / 'missing': 'does not exist',
}


@pytest.mark.parametrize(('maker', 'words'), NO_BAGS.items())
def test_what_is_no_bag_ends_in_one_sentence(tmp_path: Path, maker, words: str):
    path = maker(tmp_path)
    with pytest.raises(BagError, match=words) as caught:
        Bag(path)
    assert str(path) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_message_that_does_not_fit_its_type_is_named(tmp_path: Path):
    folder = write_bag(tmp_path / 'bag', drive(1))
    with Bag(folder) as bag:
        record = next(bag.messages(['/odom']))
        cut = type(record)(record.topic, record.msgtype, record.receive_ns, bytes(record.data)[:40], record.store)
        with pytest.raises(BagError, match="message on '/odom' recorded at .* is not a readable nav_msgs/msg/Odometry"):
            cut.message()


def test_topic_with_two_types_is_read_as_one(tmp_path: Path):
    items = [
        Item('/a', START_NS, jpeg(START_NS)),
        Item('/b', START_NS + 1, image(START_NS + 1)),
        Item('/c', START_NS, camera_info(START_NS, 'front')),
    ]
    folder = write_bag(tmp_path / 'bag', items, STORAGES[1])
    with closing(sqlite3.connect(storage_file(folder))) as database:
        database.execute("UPDATE topics SET name = '/a' WHERE name = '/b'")
        database.commit()
    with Bag(storage_file(folder)) as bag:
        assert [type(record.message()).__name__ for record in bag.messages(['/a'])] == [
            'sensor_msgs__msg__CompressedImage'
        ]
        assert bag.notes == [
            "topic '/a' has the types sensor_msgs/msg/CompressedImage and sensor_msgs/msg/Image; only the first is read"
        ]
