"""History: keyframes by absolute time, bounded, flushed with a reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.core.frame_buffer import FrameBuffer
from stprune_ros.core.types import CameraFrame, FrameSet
from stprune_ros.core.view_turns import ViewTurns

MS = 1_000_000


def frame_set(ms, encoding='rgb8', width=320, sequence=0):
    frame = CameraFrame('A', ms * MS, encoding, 192, width)
    return FrameSet(sequence, ms * MS, ('A', 'B'), {'A': frame})


def buffer(frames=4, stride_ms=500, gap_ms=2000):
    return FrameBuffer(frames, stride_ms * MS, gap_ms * MS)


def stamps(window):
    return [s.stamp_ns // MS for s in window.sets]


def test_window_is_the_keyframes_and_the_current_set():
    history = buffer()
    for ms in range(1000, 4001, 100):
        assert history.add(frame_set(ms)) is None
    assert stamps(history.window()) == [2500, 3000, 3500, 4000]
    history.add(frame_set(4100))
    assert stamps(history.window()) == [3000, 3500, 4000, 4100]
    assert history.window().slots == 4


def test_history_does_not_depend_on_who_looks():
    eager, lazy = buffer(), buffer()
    for ms in range(1000, 3950, 70):
        eager.add(frame_set(ms))
        eager.window()
        lazy.add(frame_set(ms))
    assert stamps(eager.window()) == stamps(lazy.window())


def test_one_frame_means_no_history():
    history = buffer(frames=1)
    for ms in (1000, 1600, 2200):
        history.add(frame_set(ms))
    assert stamps(history.window()) == [2200]


@pytest.mark.parametrize(
    ('following', 'reason'),
    [
        (frame_set(500), 'time jumped back by 500 ms'),
        (frame_set(1000), 'time jumped back by 0 ms'),
        (frame_set(3500), 'gap of 2.5 s between frame sets, more than 2 s'),
        (frame_set(1100, encoding='mono8'), "camera 'A' changed its encoding from 'rgb8' to 'mono8'"),
        (frame_set(1100, width=640), "camera 'A' changed its size from 320x192 to 640x192"),
    ],
)
def test_flushes_say_why(following, reason):
    history = buffer()
    history.add(frame_set(1000))
    assert history.add(following) == reason
    assert stamps(history.window()) == [following.stamp_ns // MS]


def test_a_broken_frame_without_pixels_flushes_nothing():
    history = buffer()
    history.add(frame_set(1000))
    assert history.add(frame_set(1100, width=0, encoding='')) is None
    assert history.add(frame_set(1200)) is None
    assert history.add(frame_set(1300, width=640)) is not None


@given(st.lists(st.integers(1, 900), min_size=1, max_size=200), st.integers(1, 6), st.integers(1, 1000))
def test_window_is_bounded_rising_and_spaced(steps, frames, stride):
    history = buffer(frames, stride)
    now = 10_000
    for step in steps:
        now += step
        history.add(frame_set(now))
        found = stamps(history.window())
        assert found[-1] == now
        assert len(found) <= frames
        cells = [ms // stride for ms in found[:-1]]
        assert cells == sorted(set(cells))
        assert len(history._keyframes) <= frames


def test_window_before_the_first_set_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match='before the first'):
        buffer().window()


def turning(period_ms=1000):
    """A buffer whose camera A shows one frame per period; its turns come at whole periods."""
    return FrameBuffer(4, 500 * MS, 2000 * MS, ViewTurns(('A',), period_ms * MS))


def held(window):
    return [s.held['A'].frame.stamp_ns // MS if s.held else None for s in window.sets]


def test_keyframes_keep_what_they_showed():
    history = turning()
    for ms in (1000, 1500, 2000, 2300):
        history.add(frame_set(ms))
    assert held(history.window()) == [None, 1000, None, 2000]


@pytest.mark.parametrize(('is_tick', 'shown'), [(True, 2150), (False, None)])
def test_sets_that_nobody_sees_take_no_turn(is_tick, shown):
    history = turning(period_ms=700)  # turns at 2100 and 2800
    history.add(frame_set(2050))
    history.add(frame_set(2150), is_tick)
    history.add(frame_set(2300))
    assert held(history.window()) == [None, shown]


def test_keyframes_take_turns_whether_or_not_they_are_ticks():
    history = turning()
    for ms in (1900, 2000, 2100):
        history.add(frame_set(ms), is_tick=ms != 2000)
    assert held(history.window()) == [None, None, 2000]


@pytest.mark.parametrize('following', [frame_set(500), frame_set(3500), frame_set(1100, encoding='mono8')])
def test_after_a_flush_every_view_is_new(following):
    history = turning()
    history.add(frame_set(1000))
    assert history.add(frame_set(1050)) is None
    assert held(history.window()) == [None, 1000]
    assert history.add(following) is not None
    assert held(history.window()) == [None]


def test_a_forgotten_camera_is_held_nowhere():
    history = turning()
    for ms in (1000, 1500, 1600):
        history.add(frame_set(ms))
    history.forget('A')
    history.add(frame_set(1700))
    window = history.window()
    assert [s.frames.get('A') is None for s in window.sets] == [True, True, False]
    assert [dict(s.held) for s in window.sets] == [{}, {}, {}]
