"""Nothing grows: whatever comes in, buffers hold a number of things that follows from the settings."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace as Box

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stprune_ros.core.ego import KEPT, MAX_PENDING, MAX_SAID, EgoTrack
from stprune_ros.core.rig import CameraRig
from stprune_ros.core.stamps import LATEST_S, impossible, stamp_of
from stprune_ros.core.stream import MAX_WAITING, SensorStream
from stprune_ros.core.synchronizer import RingSynchronizer
from stprune_ros.core.transforms import MAX_FRAMES, StaticTransforms
from stprune_ros.core.types import CameraFrame
from stprune_ros.errors import StpruneError
from stprune_ros.settings.settings import Settings

MS = 1_000_000
RING = ('FRONT', 'RIGHT', 'LEFT')


class Payload:
    """An image that can be counted."""

    data = b''
    encoding, height, width, step = 'rgb8', 6, 8, 24

    def __init__(self, sec: int, nanosec: int) -> None:
        self.header = Box(stamp=Box(sec=sec, nanosec=nanosec), frame_id='f')


class Census:
    """How many of the payloads that it handed out are still held by anybody."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[Payload] = weakref.WeakSet()

    def payload(self, stamp_ns: int) -> Payload:
        found = Payload(*divmod(stamp_ns, 10**9))
        self._all.add(found)
        return found

    @property
    def alive(self) -> int:
        gc.collect()
        return len(self._all)


def synchronizer(**changes: int) -> RingSynchronizer:
    values = {'tolerance_ns': 50 * MS, 'max_wait_ns': 100 * MS, 'max_spread_ns': 100 * MS, **changes}
    return RingSynchronizer(RING, 'FRONT', **values)


@pytest.fixture
def rig(tmp_path) -> CameraRig:
    path = tmp_path / 'rig.yaml'
    entries = [f'{n}: {{azimuth_deg: {a}, hfov_deg: 90, width: 8, height: 6}}' for n, a in zip(RING, (0, -120, 120))]
    path.write_text('cameras:\n  ' + '\n  '.join(entries))
    return CameraRig.from_file(path)


@pytest.mark.parametrize('cameras', [('LEFT',), ('FRONT',), RING])
def test_frames_of_stamps_that_hardly_move_are_bounded_by_count(cameras):
    sync, census = synchronizer(), Census()
    for number in range(3000):
        for camera in cameras:
            stamp = 10**18 + number  # a nanosecond each
            sync.add(CameraFrame(camera, stamp, payload=census.payload(stamp)))
    assert census.alive <= 60 * len(RING)
    assert sync.counters['frames_crowded'] > 0


def test_sets_that_wait_for_odometry_with_a_stuck_stamp_are_bounded(rig):
    stream, census = SensorStream(Settings(), rig), Census()
    message = odometry(10**18)
    stream.add_odometry(message)
    windows = 0
    for number in range(2000):
        stamp = 10**18 + number
        for camera in RING:
            windows += len(stream.add_image(camera, census.payload(stamp)))
        stream.add_odometry(message)
    assert windows >= 2000 - MAX_WAITING - 60
    # The synchroniser's frames, the waiting sets, the keyframes and the last image of each camera.
    assert census.alive <= 3 * (60 + MAX_WAITING + 8)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from(RING), st.integers(0, 2**62)), min_size=1, max_size=40),
    st.integers(0, 200 * MS),
)
def test_the_synchroniser_is_bounded_for_any_stamps_in_any_order(pattern, step):
    sync, census = synchronizer(), Census()
    for turn in range(400 // len(pattern) + 1):
        for camera, stamp in pattern:
            moved = stamp + turn * step
            sync.add(CameraFrame(camera, moved, payload=census.payload(moved)))
    assert all(len(frames) <= 52 for frames in sync._frames.values())
    assert len(sync._pending) <= 53
    assert census.alive <= 53 * 4


def odometry(stamp_ns: int, speed: float = 3.0, child: str = 'base_link') -> Box:
    vector = Box(x=1.0, y=0.0, z=0.0)
    sec, nanosec = divmod(stamp_ns, 10**9)
    return Box(
        header=Box(stamp=Box(sec=sec, nanosec=nanosec), frame_id='odom'),
        child_frame_id=child,
        pose=Box(pose=Box(position=vector, orientation=Box(x=0.0, y=0.0, z=0.0, w=1.0))),
        twist=Box(twist=Box(linear=Box(x=speed, y=0.0, z=0.0), angular=Box(x=0.0, y=0.0, z=0.0)), covariance=[1.0]),
    )


@pytest.mark.parametrize('speed', [3.0, float('nan'), 900.0])
@pytest.mark.parametrize('step', [0, 1])
def test_ego_samples_of_a_stuck_stamp_are_bounded(speed, step):
    track = EgoTrack(200 * MS)
    for number in range(KEPT + 500):
        track.add(odometry(10**18 + number * step, speed))
    assert len(track._pending) <= MAX_PENDING
    assert len(track._states) <= KEPT and len(track._refused) <= KEPT


def test_sentences_with_names_that_always_differ_are_not_all_remembered():
    track = EgoTrack(200 * MS)
    said = [
        note for number in range(5000) for note in track.add(odometry(10**18 + number * MS, child=f'f{"x" * number}'))
    ]
    assert len(track._said) == MAX_SAID
    assert len(said) == MAX_SAID
    assert max(map(len, said)) < 500


def transforms(names: range) -> Box:
    pose = Box(translation=Box(x=0.0, y=0.0, z=0.0), rotation=Box(x=0.0, y=0.0, z=0.0, w=1.0))
    return Box(
        transforms=[Box(header=Box(frame_id='base_link'), child_frame_id=f'f{name}', transform=pose) for name in names]
    )


def test_transforms_are_bounded_and_it_is_said():
    known = StaticTransforms()
    for start in range(0, 5 * MAX_FRAMES, 500):
        known.add(transforms(range(start, start + 500)))
        known.add_moving(transforms(range(start, start + 500)))
    assert len(known) == len(known._moving) == MAX_FRAMES
    known.lookup('base_link', 'f7')
    with pytest.raises(StpruneError, match=f"from 'f9999' to 'base_link' among the {MAX_FRAMES} frames that are kept"):
        known.lookup('base_link', 'f9999')


def test_one_message_with_too_many_transforms_is_bounded():
    known = StaticTransforms()
    known.add(transforms(range(MAX_FRAMES + 5)))
    assert len(known) == MAX_FRAMES
    with pytest.raises(StpruneError, match='and more are published'):
        known.lookup('base_link', f'f{MAX_FRAMES + 4}')


@pytest.mark.parametrize(
    ('sec', 'nanosec', 'good'),
    [
        (1, 0, True),
        (LATEST_S - 1, 999_999_999, True),
        (LATEST_S, 0, False),
        (2**31 - 1, 999_999_999, False),
        (-1, 0, False),
        (-(2**31), 0, False),
        (1_700_000_000, 10**9, False),
        (1_700_000_000, 2**32 - 1, False),
        (1_700_000_000, -1, False),
    ],
)
def test_stamps_that_no_clock_has_are_refused_and_named(rig, sec, nanosec, good):
    header = Box(stamp=Box(sec=sec, nanosec=nanosec))
    assert (stamp_of(header) != 0) is good
    assert impossible(header) == ('' if good else f'{sec} s {nanosec} ns')
    stream = SensorStream(Settings(), rig)
    stream.add_image('FRONT', Payload(sec, nanosec))
    message = odometry(0)
    message.header.stamp = header.stamp
    stream.add_odometry(message)
    notes = stream.take_notes()
    assert any(f"images of camera 'FRONT' have the stamp {sec} s {nanosec} ns" in note for note in notes) is not good
    assert any(f'odometry with the stamp {sec} s {nanosec} ns' in note for note in notes) is not good
    assert stream.counters['frames_unstamped'] == (not good)
