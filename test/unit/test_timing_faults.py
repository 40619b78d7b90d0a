"""Time faults are named with distance and parameter, and healthy rings are left alone."""

from __future__ import annotations

import random
from types import SimpleNamespace as Box

import pytest

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.stream import SensorStream
from stprune_ros.settings.settings import Settings

RING = ('FRONT', 'RIGHT', 'BACK', 'LEFT')
AZIMUTHS = (0, -90, 180, 90)


@pytest.fixture
def rig(tmp_path):
    lines = [f'  {n}: {{azimuth_deg: {a}, hfov_deg: 90, width: 8, height: 6}}' for n, a in zip(RING, AZIMUTHS)]
    path = tmp_path / 'rig.yaml'
    path.write_text('cameras:\n' + '\n'.join(lines))
    return CameraRig.from_file(path)


def image(ms):
    ns = round(ms * 1e6)
    header = Box(stamp=Box(sec=ns // 10**9, nanosec=ns % 10**9), frame_id='f')
    return Box(header=header, height=6, width=8, encoding='rgb8', step=24, data=b'')


def frames(ticks=30, period=100, offsets=(), start=10_000):
    """(received ms, camera, stamp ms) of a ring; received when the stamp says."""
    shift = dict(zip(RING, offsets or (0,) * len(RING)))
    times = [(start + tick * period + shift[camera], camera) for tick in range(ticks) for camera in RING]
    return [(ms, camera, ms) for ms, camera in sorted(times, key=lambda one: one[0])]


def run(rig, items, receipts=True, **values):
    """The stream after these frames, and its notes about time."""
    stream = SensorStream(Settings.from_values({name.replace('__', '.'): value for name, value in values.items()}), rig)
    windows = []
    for received, camera, stamp in items:
        windows += stream.add_image(camera, image(stamp), round(received * 1e6) if receipts else None)
    windows += stream.finish()
    return Box(stream=stream, notes=[note for note in stream.take_notes() if 'odometry' not in note], windows=windows)


def changed(items, camera, change):
    """The same frames with those of one camera replaced (None drops one)."""
    found = []
    for received, name, stamp in items:
        new = change(received, stamp) if name == camera else (received, stamp)
        if new is not None:
            found.append((new[0], name, new[1]))
    return sorted(found, key=lambda one: one[0])


def test_offset_is_named_with_the_list_that_mends_it(rig):
    items = frames(period=250, offsets=(0, 70, 140, -30))
    found = run(rig, items, cameras__names=[*RING], cameras__anchor='FRONT')
    right = (
        "camera 'RIGHT' comes 70 ms after the anchor, tolerance is 50 ms: set cameras.offsets_ms to [0, 70, 140, -30]"
        ' or sync.tolerance_ms (with the offsets, sync.max_wait_ms: 190)'
    )
    assert found.notes == [right, right.replace('RIGHT', 'BACK').replace('70 ms after', '140 ms after')]
    assert [found.stream.fault(camera) for camera in RING] == [None, *found.notes, None]
    mended = run(
        rig, items, cameras__names=[*RING], cameras__offsets_ms=[0.0, 70.0, 140.0, -30.0], sync__max_wait_ms=190.0
    )
    assert mended.notes == []
    assert all(window.current.full for window in mended.windows[1:])


def test_offset_before_the_anchor_is_negative(rig):
    found = run(rig, frames(period=250, offsets=(0, 0, -80, 10)), cameras__names=['LEFT', 'BACK', 'FRONT', 'RIGHT'])
    [note] = found.notes
    assert note.startswith(
        "camera 'BACK' comes 80 ms before the anchor, tolerance is 50 ms: set cameras.offsets_ms to "
    )
    assert '[10, -80, 0, 0] or sync.tolerance_ms (with the offsets, sync.max_wait_ms: 130)' in note


def test_offsets_without_names_come_with_the_names(rig):
    [note] = run(rig, frames(period=300, offsets=(0, 0, 60, 0))).notes
    assert (
        'to [0, 0, 60, 0] or sync.tolerance_ms (with the offsets, cameras.names: [FRONT, RIGHT, BACK, LEFT] and' in note
    )


def test_wrong_offset_that_was_set_is_named_beside_the_right_one(rig):
    values = {'cameras__names': [*RING], 'cameras__offsets_ms': [0.0, 0.0, 100.0, 0.0], 'sync__max_wait_ms': 200.0}
    [note] = run(rig, frames(period=400, offsets=(0, 0, -90, 0)), **values).notes
    assert "camera 'BACK' comes 90 ms before the anchor instead of 100 ms" in note
    assert 'to [0, 0, -90, 0] or' in note


def test_offset_that_ends_is_forgotten_and_told_again_when_it_returns(rig):
    bad, good = frames(30, 200, (0, 0, 90, 0)), frames(30, 200, start=16_000)
    found = run(rig, [*bad, *good])
    assert found.stream.fault('BACK') is None
    assert len(found.notes) == 1
    again = run(rig, [*bad, *good, *frames(30, 200, (0, 0, 90, 0), start=22_000)])
    assert again.stream.fault('BACK') is not None
    assert len(again.notes) == 2


@pytest.mark.parametrize('receipts', [True, False])
@pytest.mark.parametrize(
    ('shift', 'words'), [(5000, '5.0 s ahead of'), (-5000, '5.0 s behind'), (1730, '1.7 s ahead of')]
)
def test_wrong_clock_is_no_offset(rig, shift, words, receipts):
    found = run(rig, changed(frames(), 'LEFT', lambda received, stamp: (received, stamp + shift)), receipts)
    assert found.notes == [f"camera 'LEFT' is {words} the anchor: check the clocks"]
    assert found.stream.fault('LEFT') == found.notes[0]


@pytest.mark.parametrize('shift', [5000, -5000])
def test_a_clock_that_is_set_while_it_runs_is_told_by_how_much_from_the_first(rig, shift):
    before, after = (
        frames(15),
        changed(frames(15, start=11_500), 'LEFT', lambda received, stamp: (received, stamp + shift)),
    )
    found = run(rig, [*before, *after])
    side = 'ahead of' if shift > 0 else 'behind'
    assert found.notes[-1:] == [f"camera 'LEFT' is 5.0 s {side} the anchor: check the clocks"]
    assert not [note for note in found.notes if 'check the clocks' in note and '5.0 s' not in note]


def test_wrong_clock_is_exact_when_the_camera_speaks_before_the_anchor(rig):
    items = changed(frames(period=200), 'LEFT', lambda received, stamp: (received - 5, stamp + 5000))
    assert run(rig, items).notes == ["camera 'LEFT' is 5.0 s ahead of the anchor: check the clocks"]


def test_clock_that_is_less_than_a_second_ahead(rig):
    items = changed(frames(period=50, ticks=60), 'LEFT', lambda received, stamp: (received, stamp + 800))
    assert run(rig, items).notes == ["camera 'LEFT' is 0.8 s ahead of the anchor: check the clocks"]


def test_images_that_come_late_are_named_with_max_wait(rig):
    items = changed(frames(), 'RIGHT', lambda received, stamp: (received + 320, stamp))
    [note] = run(rig, items).notes
    assert note == (
        "images of camera 'RIGHT' come 320 ms later than the anchor's, when their set is closed:"
        ' set sync.max_wait_ms, 100, to 370 or more, or check the clocks'
    )
    assert run(rig, items, sync__max_wait_ms=370.0).notes == []


def test_repeated_stamps_are_counted_for_every_camera(rig):
    items = [(received, camera, 10_000) for received, camera, _ in frames(5)]
    found = run(rig, items)
    ending = '; the driver must set header.stamp anew for each'
    assert sorted(found.notes) == sorted(
        f"images of camera '{camera}' repeat their stamp: 4 dropped of 5{ending}" for camera in RING
    )
    assert found.stream.fault('FRONT') == f"images of camera 'FRONT' repeat their stamp: 4 dropped of 5{ending}"


def test_every_stamp_twice_is_a_fault_until_it_ends(rig):
    twice = [one for item in frames(20) for one in ([item] * 2 if item[1] == 'BACK' else [item])]
    found = run(rig, twice)
    assert len(found.windows) == 20
    assert 'repeat their stamp: 20 dropped of 40' in found.notes[0]
    after = run(rig, [*twice, *frames(20, start=12_000)])
    assert after.stream.fault('BACK') is None
    assert 'repeat their stamp: 20 dropped of 60' in after.notes[0]


def test_zero_stamps_are_named_for_every_camera_concerned(rig):
    items = [(received, camera, 0 if camera in ('BACK', 'LEFT') else stamp) for received, camera, stamp in frames(6)]
    found = run(rig, items)
    assert found.notes == [
        "images of camera 'BACK' have no stamp and are refused; the driver must set header.stamp",
        "images of camera 'LEFT' have no stamp and are refused; the driver must set header.stamp",
        "camera 'BACK' sent 6 of 6 images without a stamp",
        "camera 'LEFT' sent 6 of 6 images without a stamp",
    ]
    assert (
        found.stream.fault('LEFT')
        == "6 images of camera 'LEFT' had no stamp that can be: the driver must set header.stamp"
    )
    assert found.stream.fault('RIGHT') is None


def test_stamps_that_go_back_and_forth(rig):
    ticks = iter(range(100))
    items = changed(frames(20), 'RIGHT', lambda received, stamp: (received, stamp - 3000 * (next(ticks) % 2)))
    found = run(rig, items)
    assert found.notes == [
        "stamps of camera 'RIGHT' went back 10 times, by up to 2.9 s: two publishers on its topic, or a clock that is"
        ' being set'
    ]
    assert found.stream.fault('RIGHT') == found.notes[0]


@pytest.mark.parametrize(('every', 'rate'), [(2, '5.0'), (5, '2.0'), (3, '3.3')])
def test_camera_at_a_fraction_of_the_rate(rig, every, rate):
    items = changed(
        frames(60), 'LEFT', lambda received, stamp: (received, stamp) if stamp // 100 % every == 0 else None
    )
    found = run(rig, items)
    [note] = found.notes
    assert note.startswith(f"camera 'LEFT' sends {rate} Hz where the anchor sends 10.0 Hz")
    assert found.stream.fault('LEFT') == note


def test_camera_with_a_period_of_its_own(rig):
    items = [item for item in frames(60, 300) if item[1] != 'LEFT']
    items += [(10_000 + 271 * tick, 'LEFT', 10_000 + 271 * tick) for tick in range(60)]
    notes = run(rig, sorted(items, key=lambda one: one[0])).notes
    assert notes[0].startswith("camera 'LEFT' fires at times of its own, up to ")


def test_span_of_the_sets_is_named(rig):
    values = {'sync__max_spread_ms': 60.0}
    [note] = run(rig, frames(period=200, offsets=(0, 45, 0, -40)), **values).notes
    assert note.startswith("camera 'RIGHT' is in time, but left out of most sets, which would span more than")
    assert 'sync.max_spread_ms, 60 ms' in note


ROLLING = (0, 27, 54, 81)


@pytest.mark.parametrize('seed', range(5))
def test_healthy_rings_are_left_alone(rig, seed):
    chance = random.Random(seed)
    jitter = [(r + chance.uniform(0, 30), c, s + chance.uniform(-8, 8)) for r, c, s in frames(80)]
    lossy = [item for item in jitter if chance.random() > 0.25]
    late_start = [item for item in jitter if item[1] != 'BACK' or item[0] > 14_000]
    pause = [item for item in jitter if item[1] != 'BACK' or not 12_000 < item[0] < 15_500]
    anchor_pause = [item for item in jitter if item[1] != 'FRONT' or not 12_000 < item[0] < 15_500]
    faster = sorted([*jitter, *((r + 50, c, s + 50) for r, c, s in jitter if c == 'LEFT')], key=lambda one: one[0])
    dead = [item for item in jitter if item[1] != 'BACK' or item[0] < 12_000]
    for items in (jitter, lossy, late_start, pause, anchor_pause, faster, dead, frames(80, offsets=ROLLING)):
        found = run(rig, sorted(items, key=lambda one: one[0]))
        assert found.notes in ([], ['history flushed: gap of 3.5 s between frame sets, more than 2 s']) or all(
            note.startswith('history flushed') for note in found.notes
        )
        assert [found.stream.fault(camera) for camera in RING] == [None] * 4


def test_rolling_ring_with_its_offsets_and_a_looped_bag_are_left_alone(rig):
    values = {'cameras__names': [*RING], 'cameras__offsets_ms': [float(ms) for ms in ROLLING]}
    assert run(rig, frames(80, offsets=ROLLING), sync__max_wait_ms=131.0, **values).notes == []
    short = frames(12)
    found = run(rig, [*short, *((r + 2000, c, s) for r, c, s in short)] * 1)
    assert all(note.startswith('history flushed') for note in found.notes)


def test_bag_that_is_played_slowly_or_fast_has_no_other_clock(rig):
    for rate in (0.2, 3.0):
        slow = [(10_000 + (received - 10_000) / rate, camera, stamp) for received, camera, stamp in frames()]
        assert run(rig, slow).notes == []


@pytest.mark.parametrize('phase', range(0, 160, 40))
def test_camera_that_is_in_most_sets_at_a_lower_rate_is_left_alone(rig, phase):
    items = [item for item in frames(60) if item[1] != 'LEFT']
    items += [(10_000 + phase + 160 * tick, 'LEFT', 10_000 + phase + 160 * tick) for tick in range(36)]
    found = run(rig, sorted(items, key=lambda one: one[0]))
    assert found.stream.counters['sets_partial'] > 15
    assert found.notes == []


@pytest.mark.parametrize(
    ('ticks', 'when'),
    [(range(10), 'last 2.0 s'), (range(15, 30), 'first 1.5 s'), (range(25), ''), (range(5, 30), '')],
)
def test_an_anchor_that_is_silent_at_an_end_is_told(rig, ticks, when):
    sent = {10_000 + tick * 100 for tick in ticks}
    items = changed(frames(), 'FRONT', lambda received, stamp: (received, stamp) if stamp in sent else None)
    sentence = (
        f"the anchor, camera 'FRONT', sends nothing in the {when}: nothing is inferred there; cameras.anchor makes"
        ' another camera the anchor'
    )
    assert run(rig, items).notes == ([sentence] if when else [])


def test_images_that_come_after_their_sets_are_closed(rig):
    items = changed(frames(offsets=(0, 0, 0, 45)), 'LEFT', lambda received, stamp: (received + 60, stamp))
    found = run(rig, items, cameras__names=list(RING), cameras__offsets_ms=[0.0, 0.0, 0.0, 45.0])
    assert found.stream.counters['sets_partial'] >= 28
    assert found.notes == [
        "images of camera 'LEFT' come when their sets are closed already: raise sync.max_wait_ms, 100, or check the"
        ' clocks of the other cameras, which close sets when they are ahead'
    ]
    mended = run(
        rig, items, cameras__names=list(RING), cameras__offsets_ms=[0.0, 0.0, 0.0, 45.0], sync__max_wait_ms=200.0
    )
    assert mended.notes == [] and mended.stream.counters['sets_full'] == 30
