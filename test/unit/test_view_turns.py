"""Views in turn: who shows an earlier frame, how old it may get, and that stamps alone decide."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.core.types import CameraFrame, EgoState, FrameSet
from stprune_ros.core.view_turns import ViewTurns

MS = 1_000_000
NAMES = ('FRONT', 'A', 'B', 'C', 'D')
SIDE = NAMES[1:]


def frame_set(ms, without=(), frozen=()):
    frames = {n: CameraFrame(n, ms * MS, frozen=n in frozen) for n in NAMES if n not in without}
    return FrameSet(0, ms * MS, NAMES, frames, ego=EgoState(ms * MS, None, None, (1.0, 0.0, 0.0), (0.0, 0.0, 0.0)))


def shown(turns, *sets):
    """Per set, the age in ms of what each camera shows; 0 for its own frame."""
    return [
        {
            camera: (one.stamp_ns - turned.held[camera].frame.stamp_ns) // MS if camera in turned.held else 0
            for camera in one.frames
        }
        for one in sets
        for turned in [turns.take(one)]
    ]


def test_one_side_camera_after_another_has_its_turn():
    turns = ViewTurns(SIDE, 1000 * MS)
    found = shown(turns, *map(frame_set, range(10_000, 12_001, 250)))
    assert set(found[0].values()) == {0}  # nothing was there to be shown again
    assert [[camera for camera in SIDE if ages[camera] == 0] for ages in found[1:]] == [
        ['D'],
        ['C'],
        ['B'],
        ['A'],
    ] * 2
    assert found[4] == {'FRONT': 0, 'A': 0, 'B': 250, 'C': 500, 'D': 750}


def test_a_view_that_is_held_has_the_ego_state_of_its_time():
    turns = ViewTurns(SIDE, 1000 * MS)
    turns.take(frame_set(10_000))
    held = turns.take(frame_set(10_250)).held
    assert {camera: one.ego.stamp_ns // MS for camera, one in held.items()} == {'A': 10_000, 'B': 10_000, 'C': 10_000}


def test_without_a_period_the_set_stays_what_it_is():
    one = frame_set(10_000)
    assert ViewTurns(SIDE, 0).take(one) is one
    assert ViewTurns((), 1000 * MS).take(one).held == {}


def test_a_camera_that_lacks_its_turn_takes_it_with_its_next_frame():
    turns = ViewTurns(('A',), 1000 * MS)
    found = shown(
        turns,
        frame_set(10_900),
        frame_set(11_000, without='A'),
        frame_set(11_300),
        frame_set(11_900),
        frame_set(12_000),
    )
    assert [ages.get('A') for ages in found] == [0, None, 0, 600, 0]


def test_what_freezes_or_wakes_up_is_seen_at_once():
    turns = ViewTurns(('A', 'B'), 1000 * MS)
    sets = [frame_set(10_000), frame_set(10_100, frozen='A'), frame_set(10_200, frozen='A'), frame_set(10_300)]
    found = shown(turns, *sets, frame_set(10_400))
    assert [ages['A'] for ages in found] == [0, 0, 0, 0, 100]
    assert [ages['B'] for ages in found] == [0, 100, 200, 300, 400]


def test_forgotten_cameras_show_their_next_frame():
    turns = ViewTurns(('A', 'B'), 1000 * MS)
    turns.take(frame_set(10_000))
    turns.forget('A')
    assert set(turns.take(frame_set(10_100)).held) == {'B'}
    turns.clear()
    assert not turns.take(frame_set(10_200)).held


STEPS = st.lists(st.tuples(st.integers(20, 600), st.sets(st.sampled_from(SIDE))), min_size=1, max_size=80)


@given(STEPS, st.sampled_from([300, 500, 1000, 1700]))
def test_no_view_is_as_old_as_the_period_nor_encoded_more_often(steps, period):
    turns, now, encoded = ViewTurns(SIDE, period * MS), 10_000, []
    for step, without in steps:
        now += step
        [ages] = shown(turns, frame_set(now, without=without))
        assert all(0 <= age < period for age in ages.values())
        assert ages['FRONT'] == 0
        encoded += [(camera, now) for camera in ages if camera in SIDE and ages[camera] == 0]
    for camera in SIDE:
        times = [ms for name, ms in encoded if name == camera]
        shift = SIDE.index(camera) * period * MS // len(SIDE)
        cells = [(ms * MS + shift) // (period * MS) for ms in times]
        assert len(cells) == len(set(cells))


@given(STEPS, st.integers(1, 40))
def test_a_later_start_shows_the_same_from_the_next_period_on(steps, skipped):
    sets, now = [], 10_000
    for step, without in steps:
        now += step
        sets.append(frame_set(now, without=without))
    early, late = ViewTurns(SIDE, 1000 * MS), ViewTurns(SIDE, 1000 * MS)
    for one in sets[:skipped]:
        early.take(one)
    for one in sets[skipped:]:
        found, other = early.take(one), late.take(one)
        if one.stamp_ns >= sets[skipped].stamp_ns + 1000 * MS:
            assert found.held == other.held


def test_a_set_without_images_holds_none():
    one = frame_set(10_000)
    full = replace(one, frames={name: replace(frame, payload=b'x') for name, frame in one.frames.items()})
    turns = ViewTurns(SIDE, 1000 * MS)
    turns.take(full)
    held = turns.take(replace(full, stamp_ns=10_100 * MS)).without_images().held
    assert [one.frame.payload for one in held.values()] == [None] * 4
