"""Frame sets: the same stamps give the same sets, whatever the order of arrival; nothing starves, nothing grows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stprune_ros.core.synchronizer import RingSynchronizer
from stprune_ros.core.types import CameraFrame
from stprune_ros.errors import StpruneError

MS = 1_000_000
RING = ('FRONT', 'RIGHT', 'BACK', 'LEFT')


def synchronizer(**changes):
    values = {'tolerance_ns': 50 * MS, 'max_wait_ns': 100 * MS, 'max_spread_ns': 100 * MS, **changes}
    return RingSynchronizer(RING, 'FRONT', **values)


def frame(camera, ms):
    return CameraFrame(camera, round(ms * MS))


def run(sync, frames):
    sets = [frame_set for f in frames for frame_set in sync.add(f)]
    return sets + sync.flush()


def as_stamps(sets):
    return [(s.stamp_ns, {camera: f.stamp_ns for camera, f in s.frames.items()}) for s in sets]


def ring(ticks, shift=None):
    return [frame(camera, 1000 + tick * 100 + (shift or {}).get(camera, 0)) for tick in range(ticks) for camera in RING]


def test_a_triggered_ring_closes_at_once():
    sync = synchronizer()
    closed = [sync.add(f) for f in ring(3)]
    assert [len(sets) for sets in closed] == [0, 0, 0, 1] * 3
    assert sync.counters['sets_full'] == 3


def test_a_rolling_ring_without_offsets_gives_full_sets():
    sync = synchronizer()
    shift = {'FRONT': 0, 'RIGHT': 27, 'BACK': 54, 'LEFT': 81}
    sets = run(sync, sorted(ring(20, shift=shift), key=lambda f: f.stamp_ns))
    assert [s.full for s in sets[1:]] == [True] * 19
    assert sets[5].spread_ns == 73 * MS  # BACK and LEFT of the round before are nearer


def test_offsets_bring_a_rolling_ring_together():
    shift = {'FRONT': 0, 'RIGHT': 27, 'BACK': 54, 'LEFT': 81}
    sync = synchronizer(offsets_ns={camera: ms * MS for camera, ms in shift.items()}, max_wait_ns=200 * MS)
    sets = run(sync, sorted(ring(20, shift=shift), key=lambda f: f.stamp_ns))
    assert all(s.full and s.spread_ns == 0 for s in sets)


def test_a_dead_camera_does_not_starve_the_ring():
    sync = synchronizer()
    sets = run(sync, [f for f in ring(10) if f.camera != 'BACK'])
    assert len(sets) == 10
    assert all(s.missing == ('BACK',) for s in sets)


def test_max_spread_leaves_the_farthest_out():
    sync = synchronizer(max_spread_ns=60 * MS)
    [found] = run(sync, [frame('LEFT', 955), frame('FRONT', 1000), frame('RIGHT', 1010), frame('BACK', 1048)])
    assert found.missing == ('BACK',)
    assert found.spread_ns == 55 * MS


def test_min_views_skips_and_counts():
    sync = synchronizer(min_views=3)
    assert run(sync, [frame('FRONT', 1000), frame('LEFT', 1001)]) == []
    assert sync.counters['sets_skipped'] == 1


def test_a_wrong_clock_closes_nothing():
    sync = synchronizer()
    sync.add(frame('LEFT', 66 * 86_400_000))
    assert sync.add(frame('FRONT', 1000)) == []
    assert sync.add(frame('RIGHT', 1010)) == []
    [closed] = sync.add(frame('RIGHT', 1110))
    assert closed.missing == ('BACK', 'LEFT')


def test_a_looped_bag_starts_anew():
    sync = synchronizer()
    first = run(sync, ring(20))
    again = run(sync, ring(20))
    assert as_stamps(again) == as_stamps(first)
    assert sync.counters['clock_jumps'] == 1
    assert again[0].sequence == 20  # numbers never repeat


def test_a_set_of_the_past_is_late_not_lost_in_silence():
    sync = synchronizer()
    run(sync, ring(3))
    assert sync.add(frame('FRONT', 1050)) == []
    assert sync.counters['frames_late'] == 1


def test_duplicates_are_counted():
    sync = synchronizer()
    sync.add(frame('FRONT', 1000))
    sync.add(frame('FRONT', 1000))
    assert sync.counters['frames_duplicate'] == 1


def test_unknown_names_are_refused():
    with pytest.raises(StpruneError, match="'REAR'.*FRONT, RIGHT, BACK, LEFT"):
        synchronizer().add(frame('REAR', 1))
    with pytest.raises(StpruneError, match="anchor camera 'X'"):
        RingSynchronizer(RING, 'X', tolerance_ns=1, max_wait_ns=1, max_spread_ns=1)


def test_memory_is_bounded_without_an_anchor():
    sync = synchronizer()
    for ms in range(1000, 100_000, 20):
        sync.add(frame('LEFT', ms))
    assert len(sync._frames['LEFT']) <= 11  # max_wait + 2 * tolerance = 200 ms at 50 Hz


@st.composite
def streams(draw):
    """Frames of a jittering, dropping ring, and an order in which each set's frames arrive before its closing stamp.

    The anchor's own frames stay in order; every other frame may be late by what max_wait leaves after the tolerance.
    """
    frames = []
    for camera in RING:
        period = 100 if camera == 'FRONT' else draw(st.sampled_from([30, 50, 100]))
        phase = draw(st.integers(0, period - 1))
        for tick in range(draw(st.integers(2, 1000 // period))):
            if draw(st.integers(0, 5)):
                frames.append(frame(camera, 1000 + period * tick + phase + draw(st.integers(-5, 5))))
    slack = 100 - 50
    keys = {id(f): f.stamp_ns / MS + (draw(st.floats(0, slack - 0.1)) if f.camera != 'FRONT' else 0) for f in frames}
    return sorted(frames, key=lambda f: f.stamp_ns), sorted(frames, key=lambda f: keys[id(f)])


@settings(max_examples=300)
@given(streams())
def test_arrival_order_does_not_matter(stream):
    in_order, shuffled = stream
    first, second = synchronizer(), synchronizer()
    assert as_stamps(run(first, in_order)) == as_stamps(run(second, shuffled))
    assert first.counters == second.counters


@settings(max_examples=200)
@given(streams())
def test_every_set_holds_the_nearest_frames_and_every_anchor_gets_a_set(stream):
    in_order, _ = stream
    sets = run(synchronizer(), in_order)
    anchors = sorted({f.stamp_ns for f in in_order if f.camera == 'FRONT'})
    assert [s.stamp_ns for s in sets] == anchors
    for s in sets:
        for camera in RING[1:]:
            away = [abs(f.stamp_ns - s.stamp_ns) for f in in_order if f.camera == camera]
            best = min(away, default=None)
            if best is not None and best <= 50 * MS:
                assert abs(s.frames[camera].stamp_ns - s.stamp_ns) == best
            else:
                assert camera in s.missing


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(RING), st.integers(0, 2**62)), max_size=60))
def test_any_stamps_at_all_keep_the_promises(pairs):
    sync = synchronizer(max_spread_ns=60 * MS)
    sets = [s for camera, stamp in pairs for s in sync.add(CameraFrame(camera, stamp))] + sync.flush()
    assert [s.sequence for s in sets] == list(range(len(sets)))
    for s in sets:
        assert s.frames['FRONT'].stamp_ns == s.stamp_ns
        assert s.spread_ns <= 60 * MS
        assert all(abs(f.stamp_ns - s.stamp_ns) <= 50 * MS for f in s.frames.values())
