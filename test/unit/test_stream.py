"""The front half of node and replay: which sets become ticks, with which history, ego motion and missing views."""

import math
from collections import Counter
from types import SimpleNamespace as Box

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.stream import CameraRoles, SensorStream
from stprune_ros.errors import StpruneError
from stprune_ros.settings.settings import Settings

MS = 1_000_000
NAMES = ('FRONT', 'RIGHT', 'LEFT')
RIG_FILE = 'cameras:\n' + '\n'.join(
    f'  {name}: {{azimuth_deg: {azimuth}, hfov_deg: 90, width: 8, height: 6}}'
    for name, azimuth in zip(NAMES, (0, -120, 120))
)


@pytest.fixture
def rig(tmp_path):
    path = tmp_path / 'rig.yaml'
    path.write_text(RIG_FILE)
    return CameraRig.from_file(path)


def header(ms):
    return Box(stamp=Box(sec=ms // 1000, nanosec=ms % 1000 * MS), frame_id='f')


def image(ms):
    return Box(header=header(ms), height=6, width=8, encoding='rgb8', step=24, data=b'')


def odometry(ms, speed=3.0):
    vector = Box(x=1.0, y=0.0, z=0.0)
    return Box(
        header=header(ms),
        child_frame_id='base_link',
        pose=Box(pose=Box(position=vector, orientation=Box(x=0.0, y=0.0, z=0.0, w=1.0))),
        twist=Box(twist=Box(linear=Box(x=speed, y=0.0, z=0.0), angular=Box(x=0.0, y=0.0, z=0.0)), covariance=[1.0]),
    )


def feed(stream, times, without=(), odometry_every=50):
    """A triggered ring at the given times, with odometry in between; returns the windows."""
    windows = []
    for ms in times:
        for name in NAMES:
            if name not in without:
                windows += stream.add_image(name, image(ms))
        if odometry_every:
            windows += stream.add_odometry(odometry(ms))
    return windows + stream.finish()


def test_every_set_is_a_tick_unless_a_period_is_set(rig):
    times = range(1000, 3000, 100)
    assert len(feed(SensorStream(Settings(), rig), times)) == 20
    windows = feed(SensorStream(Settings.from_values({'inference.period_ms': 500.0}), rig), times)
    assert [w.current.stamp_ns // MS for w in windows] == [1000, 1500, 2000, 2500]


def test_images_before_a_reset_do_not_make_those_after_it_frozen(rig):
    def still(ms):
        message = image(ms)
        message.data = b'still'
        return message

    def states(stream, times):
        windows = [w for ms in times for name in NAMES for w in stream.add_image(name, still(ms))]
        return {frame.frozen for window in windows for frame in window.current.frames.values()}

    stream = SensorStream(Settings.from_values({'cameras.frozen_after_ms': 1000.0, 'ego.max_age_ms': 1.0}), rig)
    assert states(stream, range(5000, 9000, 500)) == {False, True}
    stream.reset('a reason')
    assert states(stream, range(9000, 10500, 500)) == {False}


def test_a_camera_that_was_never_seen_is_stale_and_not_only_missing(rig):
    windows = feed(
        SensorStream(Settings.from_values({'sync.min_views': 2}), rig), range(1000, 1500, 100), without={'LEFT'}
    )
    assert [window.current.stale for window in windows] == [{'LEFT'}] * 5


def test_a_camera_that_flushes_the_history_all_the_time_makes_no_more_ticks(rig):
    stream = SensorStream(Settings.from_values({'inference.period_ms': 500.0}), rig)
    windows = []
    for number, ms in enumerate(range(1000, 3000, 100)):
        for name in NAMES:
            message = image(ms)
            message.encoding = ('rgb8', 'bgr8')[number % 2] if name == NAMES[-1] else 'rgb8'
            windows += stream.add_image(name, message)
        windows += stream.add_odometry(odometry(ms))
    assert stream.counters['flushes'] > 15
    assert [w.current.stamp_ns // MS for w in windows + stream.finish()] == [1000, 1500, 2000, 2500]


def test_ticks_and_history_do_not_depend_on_when_one_joins(rig):
    settings = Settings.from_values({'inference.period_ms': 500.0})
    early = feed(SensorStream(settings, rig), range(1000, 6000, 70))
    late = feed(SensorStream(settings, rig), range(2400, 6000, 70))

    def stamps(windows):
        return [[s.stamp_ns for s in w.sets] for w in windows if w.current.stamp_ns > 4600 * MS]

    assert stamps(early) == stamps(late)


def test_a_set_waits_for_the_odometry_that_brackets_it(rig):
    stream = SensorStream(Settings(), rig)
    for ms in (850, 900, 950):
        stream.add_odometry(odometry(ms, speed=2.0))
    stream.add_odometry(odometry(990, speed=2.0))
    for name in NAMES:
        assert stream.add_image(name, image(1000)) == []
    [window] = stream.add_odometry(odometry(1010, speed=4.0))
    assert window.current.ego.speed == pytest.approx(3.0)


def test_odometry_that_starts_a_little_later_than_the_images_is_waited_for(rig):
    stream = SensorStream(Settings(), rig)
    for name in NAMES:
        assert stream.add_image(name, image(1000)) == []
    for ms in (1000, 1050):
        assert stream.add_odometry(odometry(ms)) == []  # too few to be judged
    [window] = stream.add_odometry(odometry(1100))
    assert window.current.ego.speed == 3.0


def test_a_set_does_not_wait_for_long_to_have_its_odometry_judged(rig):
    stream = SensorStream(Settings(), rig)
    stream.add_odometry(odometry(1000))
    due = []
    for ms in range(1000, 1700, 100):
        for name in NAMES:
            due += [(ms, w.current.stamp_ns // MS, w.current.ego is None) for w in stream.add_image(name, image(ms))]
    assert due[0] == (1500, 1000, False)
    assert due[-1] == (1600, 1600, True)


def test_why_odometry_is_not_used_lasts_as_long_as_it_does(rig):
    stream = SensorStream(Settings(), rig)
    assert stream.odometry_fault == ''
    for ms in range(1000, 1200, 50):
        stream.add_odometry(odometry(ms, speed=math.nan))
    assert 'NaN' in stream.odometry_fault
    feed(stream, range(1200, 2000, 50))
    assert stream.odometry_fault == ''
    feed(stream, range(2000, 4000, 50), odometry_every=0)
    assert 'behind the images' in stream.odometry_fault


def test_odometry_of_another_frame_is_turned(rig):
    turned = {'imu': (np.diag([-1.0, -1.0, 1.0]), np.zeros(3))}
    stream = SensorStream(Settings(), rig, turned.get)
    message = odometry(1000)
    message.child_frame_id = 'imu'
    stream.add_odometry(message)
    [window] = feed(stream, (1000,), odometry_every=0)
    assert window.current.ego.forward == -3.0


def test_sets_wait_for_missing_odometry_only_at_the_start(rig):
    stream = SensorStream(Settings(), rig)
    due = []
    for ms in range(1000, 2300, 100):
        for name in NAMES:
            due += [(ms, w.current.stamp_ns // MS) for w in stream.add_image(name, image(ms))]
    assert due[:2] == [(1100, 1000), (1200, 1100)]
    assert due[-2:] == [(2100, 2100), (2200, 2200)]


def test_a_set_does_not_wait_for_dead_odometry(rig):
    stream = SensorStream(Settings(), rig)
    windows = feed(stream, (1000, 1100), odometry_every=0)
    assert [w.current.ego for w in windows] == [None, None]
    assert stream.take_notes() == ['no odometry: hints come without ego motion']
    assert stream.take_notes() == []


def test_silent_cameras_become_stale(rig):
    stream = SensorStream(Settings.from_values({'cameras.stale_after_ms': 300.0}), rig)
    windows = feed(stream, (1000, 1100)) + feed(stream, (1200, 1300, 1400, 1500), without=('LEFT',))
    assert [sorted(w.current.stale) for w in windows] == [[], [], [], [], [], ['LEFT']]
    assert all(w.current.missing == ('LEFT',) for w in windows[2:])


def test_a_gap_flushes_the_history_and_says_so(rig):
    stream = SensorStream(Settings.from_values({'history.max_gap_ms': 1000.0}), rig)
    windows = feed(stream, (1000, 1600, 2200, 9000))
    assert [len(w.sets) for w in windows] == [1, 2, 3, 1]
    assert stream.counters['flushes'] == 1
    assert 'history flushed: gap of 6.8 s between frame sets, more than 1 s' in stream.take_notes()


def test_a_looped_bag_flushes_the_history(rig):
    stream = SensorStream(Settings(), rig)
    first, second = feed(stream, range(1000, 4000, 100)), feed(stream, range(1000, 4000, 100))
    assert [len(w.sets) for w in first] == [len(w.sets) for w in second]


def test_reset_forgets_everything(rig):
    stream = SensorStream(Settings(), rig)
    feed(stream, range(1000, 4000, 100))
    stream.reset('the ROS clock jumped back')
    [window] = feed(stream, (4000,))
    assert len(window.sets) == 1
    assert 'history flushed: the ROS clock jumped back' in stream.take_notes()


STEPS = st.lists(st.sampled_from([-5000, -300, 0, 20, 100, 100, 100, 700, 3000, 'odometry', 'clock', 'anew']))


@given(STEPS, st.sampled_from([0.0, 250.0]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_became_of_the_sets_adds_up_over_all_streams(rig, steps, period_ms):
    given_settings = Settings.from_values({'inference.period_ms': period_ms})
    counters, ms, windows = Counter(), 100_000, 0
    stream = SensorStream(given_settings, rig, counters=counters)
    for step in steps:
        if step == 'odometry':
            windows += len(stream.add_odometry(odometry(ms)))
        elif step == 'clock':
            stream.reset('the clock jumped')
        elif step == 'anew':
            stream.close()
            stream = SensorStream(given_settings, rig, counters=counters)
        else:
            ms = max(ms + step, 1000)
            windows += sum(len(stream.add_image(name, image(ms))) for name in NAMES)
    stream.close()
    assert counters is stream.counters and counters['ticks'] == windows
    sets = counters['sets_full'] + counters['sets_partial']
    assert counters['ticks'] + counters['sets_flushed'] + counters['sets_between'] == sets


@pytest.mark.parametrize('after_ms', [30, 70])  # nearest to the set before, or to the next one
def test_a_camera_of_two_publishers_is_left_out_of_sets_and_history(rig, after_ms):
    stream = SensorStream(Settings.from_values({'history.stride_ms': 100.0}), rig)
    windows, notes = [], []
    for tick in range(60):
        ms = 1000 + 100 * tick
        stream.add_odometry(odometry(ms))
        for name in NAMES:
            windows += stream.add_image(name, image(ms), publisher=b'one')
        if 10 <= tick < 20:
            windows += stream.add_image('LEFT', image(ms + after_ms), publisher=b'other')
            assert stream.mixed == (frozenset() if tick == 10 else {'LEFT'})
        notes += stream.take_notes()
    sets = {(window.current.stamp_ns // MS - 1000) // 100: window for window in windows}
    said = "images of camera 'LEFT' come from several publishers in turn, and nobody knows which of them is meant"
    assert [note.startswith(said) for note in notes if 'LEFT' in note] == [True]
    assert not sets[9].current.mixed and sets[9].current.full
    for tick in (11, 12, 19, 30):
        assert sets[tick].current.mixed == {'LEFT'} and sets[tick].current.missing == ('LEFT',)
        assert all('LEFT' not in one.frames for one in sets[tick].sets)  # nobody knows whose they were
    assert sets[55].current.full and not sets[55].current.mixed
    assert stream.mixed == frozenset() and stream.fault('LEFT') is None


def test_an_anchor_of_two_publishers_opens_no_sets(rig):
    stream = SensorStream(Settings(), rig)
    windows = []
    for ms in range(1000, 3000, 100):
        for publisher in (b'one', b'other'):
            windows += stream.add_image('FRONT', image(ms + 7 * (publisher == b'other')), publisher=publisher)
        for name in NAMES[1:]:
            windows += stream.add_image(name, image(ms))
    assert len(windows) <= 1
    assert stream.mixed == {'FRONT'}
    assert stream.fault('FRONT').startswith("images of camera 'FRONT' come from several publishers in turn")


def test_odometry_of_two_publishers_is_not_used(rig):
    stream = SensorStream(Settings(), rig)
    windows = []
    for ms in range(1000, 3000, 100):
        stream.add_odometry(odometry(ms), b'one')
        stream.add_odometry(odometry(ms + 20, speed=3.3), b'other')
        for name in NAMES:
            windows += stream.add_image(name, image(ms))
    assert len(windows) > 15
    assert all(window.current.ego is None for window in windows if window.current.stamp_ns >= 1100 * MS)
    assert stream.odometry_fault.startswith('odometry messages come from several publishers in turn')
    assert stream.mixed == frozenset()
    for ms in range(3000, 7000, 100):
        stream.add_odometry(odometry(ms), b'one')
        for name in NAMES:
            windows += stream.add_image(name, image(ms))
    assert windows[-1].current.ego.speed == pytest.approx(3.0)
    assert stream.odometry_fault == ''


def test_images_without_a_stamp_are_refused_once_in_words(rig):
    stream = SensorStream(Settings(), rig)
    assert stream.add_image('LEFT', image(0)) == []
    stream.add_image('LEFT', image(0))
    assert stream.counters['frames_unstamped'] == 2
    [note] = stream.take_notes()
    assert "camera 'LEFT' have no stamp" in note


def test_offsets_belong_to_names(rig):
    settings = Settings.from_values(
        {'cameras.names': list(NAMES), 'cameras.offsets_ms': [0.0, 60.0, -60.0], 'sync.max_wait_ms': 150.0}
    )
    stream = SensorStream(settings, rig)
    windows = []
    for ms in range(1000, 2000, 100):
        for name, offset in (('LEFT', -60), ('FRONT', 0), ('RIGHT', 60)):
            windows += stream.add_image(name, image(ms + offset))
    windows += stream.finish()
    assert [w.current.full for w in windows] == [True] * 10
    assert {w.current.spread_ns for w in windows} == {0}


def test_roles_are_checked_against_the_ring(rig):
    assert CameraRoles.from_settings(Settings(), rig) == CameraRoles('FRONT', ('FRONT',), ('RIGHT', 'LEFT'))
    assert CameraRoles.from_settings(Settings.from_values({'cameras.anchor': 'LEFT'}), rig).critical == ('LEFT',)
    with pytest.raises(StpruneError, match="camera 'REAR'.*FRONT, RIGHT, LEFT"):
        CameraRoles.from_settings(Settings.from_values({'cameras.critical': ['REAR']}), rig)


def test_images_that_sets_hold_are_counted_by_camera(rig):
    stream = SensorStream(Settings(), rig)
    for ms in range(1000, 2000, 100):
        stream.add_image('FRONT', image(ms))
        stream.add_image('RIGHT', image(ms + 60_000))  # comes, but belongs to no set
        if ms % 200 == 0:
            stream.add_image('LEFT', image(ms))
    stream.finish()
    assert stream.used == {'FRONT': 10, 'LEFT': 5}


def test_odometry_that_is_not_used_is_counted(rig):
    stream = SensorStream(Settings(), rig)
    for ms, speed in ((1000, 3.0), (1050, math.nan), (1100, 3.0), (1150, math.inf), (1200, 3.0)):
        stream.add_odometry(odometry(ms, speed))
    assert stream.odometry_refused == 2


def held(windows):
    """Per tick its time, and the times of what side cameras show instead of their own frames, in ms."""
    return {
        w.current.stamp_ns // MS: {camera: one.frame.stamp_ns // MS for camera, one in w.current.held.items()}
        for w in windows
    }


REFRESH = {'cameras.refresh_ms': 400.0, 'history.stride_ms': 400.0}  # of RIGHT from 1200 on, of LEFT from 1000 on


def test_side_cameras_take_turns_by_their_stamps(rig):
    times = range(1000, 2000, 100)
    found = held(feed(SensorStream(Settings.from_values(REFRESH), rig), times))
    assert found[1000] == {}
    assert found[1200] == {'LEFT': 1000}
    assert found[1300] == {'RIGHT': 1200, 'LEFT': 1000}
    assert found[1400] == {'RIGHT': 1200}
    assert found[1700] == {'RIGHT': 1600, 'LEFT': 1400}
    later = held(feed(SensorStream(Settings.from_values(REFRESH), rig), times[3:]))
    assert [later[ms] for ms in times[7:]] == [found[ms] for ms in times[7:]]
    critical = held(feed(SensorStream(Settings.from_values({**REFRESH, 'cameras.critical': ['LEFT']}), rig), times))
    assert all('LEFT' not in each and 'FRONT' not in each for each in critical.values())
    assert critical[1300] == {'RIGHT': 1200}
    assert not any(held(feed(SensorStream(Settings(), rig), times)).values())


def test_turns_belong_to_ticks_and_every_view_is_new_after_a_reset(rig):
    stream = SensorStream(Settings.from_values({**REFRESH, 'inference.period_ms': 300.0}), rig)
    found = held(feed(stream, range(1000, 2000, 100)))
    assert list(found) == [1000, 1200, 1500, 1800]
    assert found[1500] == {'RIGHT': 1200}  # the turn of LEFT at 1400 was no tick
    stream.reset('the clock jumped')
    assert held(feed(stream, [1850, 1900])) == {1850: {}}
    stream = SensorStream(Settings.from_values(REFRESH), rig)
    windows = feed(stream, [1000, 1100, 4000, 4100])  # a gap flushes
    assert stream.counters['flushes'] == 1
    assert held(windows) == {
        1000: {},
        1100: {'RIGHT': 1000, 'LEFT': 1000},
        4000: {},
        4100: {'RIGHT': 4000, 'LEFT': 4000},
    }
