"""Who opens the frame sets: a late or dead anchor is replaced, and nobody is called missing because another lags."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stprune_ros.core.anchor import AnchorWatch
from stprune_ros.core.synchronizer import RingSynchronizer
from stprune_ros.core.types import CameraFrame, FrameSet

MS = 1_000_000
RING = ('FRONT', 'RIGHT', 'BACK_RIGHT', 'BACK', 'BACK_LEFT', 'LEFT')
OTHERS = RING[1:]


def synchronizer(replaceable: bool = True) -> RingSynchronizer:
    limits = {'tolerance_ns': 50 * MS, 'max_wait_ns': 100 * MS, 'max_spread_ns': 100 * MS}
    return RingSynchronizer(RING, 'FRONT', replaceable=replaceable, **limits)


def arriving(frames: Iterable[tuple[int, str, int]]) -> list[CameraFrame]:
    """Frames in the order of their arrival, from (arrival, camera, stamp) in ms."""
    return [CameraFrame(camera, stamp * MS) for _, camera, stamp in sorted(frames, key=lambda item: item[0])]


def run(sync: RingSynchronizer, frames: Iterable[CameraFrame]) -> list[FrameSet]:
    return [frame_set for frame in frames for frame_set in sync.add(frame)]


def ring(start: int, stop: int, late: dict[str, int] | None = None, without: Iterable[str] = ()) -> list:
    """A triggered ring at 10 Hz; ``late`` says how many ms after the others a camera's frames arrive."""
    return [
        (ms + (late or {}).get(camera, 0), camera, ms)
        for ms in range(start, stop, 100)
        for camera in RING
        if camera not in without
    ]


def test_a_dead_anchor_is_replaced_by_the_next_camera_and_comes_back():
    sync = synchronizer()
    before = run(sync, arriving(ring(1000, 3000)))
    assert [one.full for one in before] == [True] * 20
    during = run(sync, arriving(ring(3000, 6000, without=['FRONT'])))
    assert {one.missing for one in during} == {('FRONT',)}
    assert {one.frames['RIGHT'].stamp_ns - one.stamp_ns for one in during} == {0}
    assert during[0].stamp_ns <= 4100 * MS  # within a second and the wait for the missing one
    after = run(sync, arriving(ring(6000, 8000)))
    assert all(one.full for one in after[4:])
    stamps = [one.stamp_ns for one in before + during + after]
    assert stamps == sorted(set(stamps))
    assert sync.take_notes() == [
        "the anchor, camera 'FRONT', sends nothing: camera 'RIGHT' is the anchor meanwhile; look at its driver, or"
        ' raise sync.max_wait_ms where it is late',
        "camera 'FRONT' is the anchor again",
    ]
    assert sync.anchor_fault == ''


def test_a_dead_replacement_is_replaced_too():
    sync = synchronizer()
    run(sync, arriving(ring(1000, 2000)))
    run(sync, arriving(ring(2000, 5000, without=['FRONT'])))
    found = run(sync, arriving(ring(5000, 9000, without=['FRONT', 'RIGHT'])))
    assert found[-1].missing == ('FRONT', 'RIGHT')
    assert "camera 'RIGHT' sends nothing: camera 'BACK_RIGHT' is the anchor meanwhile" in sync.take_notes()


def test_an_anchor_that_never_comes_is_replaced():
    sync = synchronizer()
    found = run(sync, arriving(ring(1000, 4000, without=['FRONT'])))
    assert len(found) >= 15
    assert sync.anchor_fault.startswith("the anchor, camera 'FRONT', sends nothing")


def test_a_critical_anchor_is_not_replaced():
    sync = synchronizer(replaceable=False)
    run(sync, arriving(ring(1000, 2000)))
    assert run(sync, arriving(ring(2000, 6000, without=['FRONT']))) == []
    assert sync.take_notes() == []


def test_the_first_set_of_a_replacement_is_not_the_last_one_again():
    sync = synchronizer()
    frames = [
        (ms + (7 if camera == 'RIGHT' else 0), camera, ms + (7 if camera == 'RIGHT' else 0))
        for ms, camera, _ in ring(1000, 2000)
    ]
    before = run(sync, arriving(frames))
    after = [(ms + 7, 'RIGHT', ms + 7) for ms in range(2000, 5000, 100)]
    after += [(ms, camera, ms) for ms in range(2000, 5000, 100) for camera in OTHERS[1:]]
    found = run(sync, arriving(after))
    chosen = [one.frames['BACK'].stamp_ns for one in before + found]
    assert len(found) > 15 and chosen == sorted(set(chosen))  # no frame of a third camera is shown twice


def test_frames_are_not_kept_for_a_critical_anchor_that_is_dead():
    sync = synchronizer(replaceable=False)
    run(sync, arriving(ring(1000, 2000)))
    run(sync, arriving(ring(2000, 4500, without=['FRONT'])))
    assert all(len(sync._frames[camera]) <= 3 for camera in OTHERS)  # 200 ms, and not the second of a late one
    never = synchronizer(replaceable=False)
    run(never, arriving(ring(1000, 4500, without=['FRONT'])))
    assert all(len(never._frames[camera]) <= 3 for camera in OTHERS)


@pytest.mark.parametrize('late_ms', [150, 300, 900])
def test_a_late_anchor_calls_nobody_missing(late_ms):
    """It is critical: its sets come late, and are full."""
    sync = synchronizer(replaceable=False)
    found = run(sync, arriving(ring(1000, 6000, late={'FRONT': late_ms})))
    assert len(found) >= 40
    assert {one.missing for one in found} == {()}


def test_a_late_anchor_that_is_not_critical_is_replaced_and_the_others_are_not_held_up():
    sync = synchronizer()
    found = run(sync, arriving(ring(1000, 6000, late={'FRONT': 300})))
    assert {one.missing for one in found} <= {(), ('FRONT',)}
    assert [one.missing for one in found[10:40]] == [('FRONT',)] * 30
    [note] = sync.take_notes()
    assert note.startswith("the anchor, camera 'FRONT', comes 0.2 s after the others: camera 'RIGHT' is the anchor")


@pytest.mark.parametrize('replaceable', [True, False])
def test_an_anchor_whose_clock_is_an_hour_behind_calls_nobody_missing(replaceable):
    sync = synchronizer(replaceable)
    frames = [
        (ms, camera, ms - (3_600_000 if camera == 'FRONT' else 0)) for ms, camera, _ in ring(4_000_000, 4_005_000)
    ]
    found = run(sync, arriving(frames))
    assert {one.missing for one in found} == ({('FRONT',)} if replaceable else set())
    [note] = sync.take_notes()
    assert '3599.9 s' in note and "'FRONT'" in note
    assert ('nothing is inferred' in note) is not replaceable


def test_one_camera_whose_clock_is_ahead_does_not_make_the_anchor_late():
    sync = synchronizer()
    frames = [(ms, camera, ms + (5_000 if camera == 'LEFT' else 0)) for ms, camera, _ in ring(1000, 5000)]
    found = run(sync, arriving(frames))
    assert {one.missing for one in found} == {('LEFT',)}
    assert sync.take_notes() == []


def test_a_clock_that_is_set_is_no_silence_of_the_anchor():
    watch = AnchorWatch(('A', 'B'), 'A', replaceable=True, silent_ns=1000 * MS, late_ns=100 * MS)
    watch.saw('A', 0)
    watch.saw('B', 0)
    watch.saw('B', 3_600_000 * MS)
    assert watch.acting == 'A'


def test_a_slow_anchor_is_not_silent_between_its_frames():
    watch = AnchorWatch(('A', 'B', 'C'), 'A', replaceable=True, silent_ns=1000 * MS, late_ns=100 * MS)
    for ms in range(0, 20_000, 100):
        for camera in 'ABC':
            if camera != 'A' or ms % 2000 == 0:
                watch.saw(camera, ms * MS)
        assert watch.acting == 'A' or ms < 7000


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(RING), st.integers(0, 400), st.sampled_from([0, 0, 0, 300, -3000, 10_000])),
        max_size=200,
    ),
    st.booleans(),
)
def test_sets_only_go_forward_and_never_come_twice(steps, replaceable):
    """Whoever dies, lags or has a wrong clock: between two jumps of the clock stamps rise and no frame pair repeats."""
    sync, now, last = synchronizer(replaceable), 1_000_000, None
    for camera, step, wrong in steps:
        now += step
        jumps = sync.counters['clock_jumps']
        for one in sync.add(CameraFrame(camera, (now + wrong) * MS)):
            assert last is None or one.stamp_ns > last or sync.counters['clock_jumps'] > jumps
            last = one.stamp_ns
        last = None if sync.counters['clock_jumps'] > jumps else last
