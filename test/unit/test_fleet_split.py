"""Where long bags are cut, from where on a part warms up, and that parts put together are the whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.fleets import messages_of
from helpers.small_bags import PERIOD_NS, START_NS, Item, drive, jpeg, odometry, write_bag
from helpers.tiny_models import make_tiny_model
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.core.types import CameraFrame, FrameSet, HeldFrame, Window
from stprune_ros.errors import BagError
from stprune_ros.fleet.parts import RecordedTicks, write_part
from stprune_ros.fleet.split import GENERATIONS, SeenTick, cuts, seen_ticks, warm_up_from, why_whole
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.bag_windows import BagWindows
from stprune_ros.replay.moment import Span
from stprune_ros.replay.replay import replay, write_replay
from stprune_ros.replay.ticks import Inference, Tick, ticks_within
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.loading import load_model

TICKS = 60
SETTINGS = {'history.stride_ms': 200.0, 'history.frames': 3, 'pruning.keep_ratio': 0.3, 'inference.max_new_tokens': 3}


def window(*stamps: int, held: tuple[int, ...] = ()) -> Window:
    """A window of sets of one camera; the current one may hold earlier frames of another."""
    sets = [FrameSet(n, stamp, ('a',), {'a': CameraFrame('a', stamp)}) for n, stamp in enumerate(stamps)]
    others = {f'b{stamp}': HeldFrame(CameraFrame(f'b{stamp}', stamp), None) for stamp in held}
    return Window((*sets[:-1], replace(sets[-1], held=others)), 3)


def test_each_tick_knows_the_first_one_that_saw_what_it_holds():
    found = seen_ticks([window(1), window(1, 2), window(1, 3), window(3, 4), window(3, 5), window(6), window(6, 7)])
    assert [tick.stamp_ns for tick in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [tick.oldest for tick in found] == [0, 0, 0, 2, 2, 5, 5]


def test_frames_that_are_held_count_too():
    found = seen_ticks([window(1, held=(1,)), window(2, held=(1,)), window(3)])
    assert [tick.oldest for tick in found] == [0, 0, 2]


def test_stamps_that_go_back_are_refused():
    with pytest.raises(BagError, match='go back, from 5 to 5 ns'):
        seen_ticks([window(5), window(5)])


def test_a_part_warms_up_over_three_generations_of_its_window():
    ticks = [SeenTick(n, max(0, n - 4)) for n in range(40)]
    assert GENERATIONS == 3
    assert warm_up_from(ticks, 30) == 18
    assert warm_up_from(ticks, 2) == 0
    fresh = [*ticks[:20], *(SeenTick(n, max(20, n - 4)) for n in range(20, 40))]  # the history was flushed at 20
    assert warm_up_from(fresh, 23) == 20


@given(
    st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 9)), min_size=1, max_size=60),
    st.floats(0.1, 30.0),
)
def test_cuts_cover_every_tick_once(steps: list[tuple[int, int]], window_s: float):
    stamps = [sum(step for step, _ in steps[: n + 1]) for n in range(len(steps))]
    ticks = [SeenTick(stamp, max(0, n - back)) for n, (stamp, (_, back)) in enumerate(zip(stamps, steps))]
    found = cuts(ticks, window_s)
    covered = [stamp for cut in found for stamp in stamps if cut.from_ns <= stamp <= cut.until_ns]
    assert covered == stamps
    assert [cut.ticks for cut in found] == [sum(c.from_ns <= s <= c.until_ns for s in stamps) for c in found]
    assert all(cut.ticks > 0 and cut.warm_up_ns <= cut.from_ns for cut in found)
    assert max(cut.ticks for cut in found) - min(cut.ticks for cut in found) <= 1
    seconds = (stamps[-1] - stamps[0]) / 1e9
    assert len(found) == min(len(stamps), max(1, round(seconds / window_s)))


def test_no_part_is_shorter_than_a_tick():
    ticks = [SeenTick(stamp, 0) for stamp in (0, 10**9, 2 * 10**9)]
    found = cuts(ticks, 0.1)
    assert [(cut.from_ns, cut.until_ns, cut.ticks) for cut in found] == [(t.stamp_ns, t.stamp_ns, 1) for t in ticks]


def test_no_tick_needs_no_part():
    assert cuts([], 1.0) == []


@pytest.mark.parametrize(
    ('changes', 'named'),
    [
        ({'latency.target_ms': 200.0}, "'latency.target_ms' 200 "),
        ({'inference.describe_period_ms': 500.0}, "'inference.describe_period_ms' 500 "),
        ({'inference.describe_period_ms': 500.0, 'inference.describe': False}, ''),
        ({}, ''),
    ],
)
def test_what_follows_from_every_tick_before_is_not_split(changes: dict[str, Any], named: str):
    why = why_whole(Settings().changed(changes))
    assert named in why and bool(why) == bool(named)


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_tiny_model(tmp_path_factory.mktemp('models') / 'tiny', 'ringworld')
    (path / 'stprune.json').write_text(json.dumps({'trained': True}))
    return path


def awkward(item: Item) -> Item | None:
    """A broken picture, a silence of two cameras, odometry that stops: what a stream carries on from tick to tick."""
    tick = (item.stamp_ns - START_NS) // PERIOD_NS
    if 'left/image' in item.topic and tick in (14, 33):
        return replace(item, message=jpeg(item.stamp_ns, tick, cut=30))
    if 'right/image' in item.topic and 18 <= tick < 24:
        return None
    if item.topic == '/odom' and 40 <= tick < 46:
        return None
    if item.topic == '/odom' and tick == 50:
        return replace(item, message=odometry(item.stamp_ns, speed=-2.0))
    return item


def untimed(summary: dict[str, Any]) -> str:
    return json.dumps({key: summary[key] for key in summary if key not in ('stage_ms', 'hint_ms', 'tick_ms', 'times')})


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'inference.period_ms': 300.0},
        # Room for one set in a tick: a part leaves history for later where it begins.
        {'cameras.refresh_ms': 400.0, 'cameras.max_pixels': 64 * 48},
    ],
    ids=lambda changes: next(iter(changes), 'plain'),
)
def test_parts_put_together_are_the_whole(tmp_path: Path, model: Path, changes: dict[str, Any]):
    settings = Settings().changed({**SETTINGS, 'model.path': str(model), **changes})
    path = write_bag(tmp_path / 'bag', drive(TICKS, awkward))
    backend, prompt = load_model(settings)
    with Bag(path) as bag:
        whole = replay(BagWindows(bag, settings), backend, prompt, tmp_path / 'whole')
    assert whole['errors'] and whole['notes'] and whole['ticks'] >= TICKS // 3
    with Bag(path) as bag:
        ticks = seen_ticks(BagWindows(bag, settings).read())
    found = cuts(ticks, 1.5)
    assert len(found) == 4
    assert ticks[0].stamp_ns < found[-1].warm_up_ns < found[-1].from_ns
    files = [tmp_path / f'{number}.jsonl' for number in range(len(found))]
    for cut, file in zip(found, files):
        with Bag(path) as bag:
            windows = BagWindows(bag, settings)
            inference = Inference(windows, backend, prompt)
            write_part(file, ticks_within(windows, inference, Span(cut.from_ns, cut.until_ns), cut.warm_up_ns))
    with Bag(path) as bag:
        joined = write_replay(BagWindows(bag, settings), RecordedTicks(files).tick, tmp_path / 'joined')
    assert untimed(joined) == untimed(whole)
    assert messages_of(tmp_path / 'joined') == messages_of(tmp_path / 'whole')


def test_a_part_warms_up_without_writing_texts(tmp_path: Path, model: Path):
    settings = Settings().changed({**SETTINGS, 'model.path': str(model)})
    backend, prompt = load_model(settings)
    with Bag(write_bag(tmp_path / 'bag', drive(10))) as bag:
        windows = BagWindows(bag, settings)
        inference = Inference(windows, backend, prompt)
        told: list[str] = []
        tick = inference.tick

        def counted(window: Window) -> Tick:
            found = tick(window)
            told.append(found.answer.description.status.name)
            return found

        inference.tick = counted  # type: ignore[method-assign]
        begin = START_NS + 6 * PERIOD_NS
        found = list(ticks_within(windows, inference, Span(begin, begin + PERIOD_NS), START_NS + 4 * PERIOD_NS))
    assert [one.answer.stamp_ns for one in found] == [begin, begin + PERIOD_NS]
    assert told == ['NO_HINT', 'NO_HINT', 'OK', 'OK']


def test_parts_of_another_bag_are_refused(tmp_path: Path, model: Path):
    settings = Settings().changed({**SETTINGS, 'model.path': str(model)})
    backend, prompt = load_model(settings)
    file = tmp_path / 'part.jsonl'
    with Bag(write_bag(tmp_path / 'short', drive(2))) as bag:
        windows = BagWindows(bag, settings)
        write_part(file, ticks_within(windows, Inference(windows, backend, prompt), Span(), 0))
    with Bag(write_bag(tmp_path / 'long', drive(3))) as bag, pytest.raises(BagError, match='the parts hold none'):
        write_replay(BagWindows(bag, settings), RecordedTicks([file]).tick, tmp_path / 'out')
    file.write_text(file.read_text().replace('"hint"', '"hnit"'))
    with Bag(tmp_path / 'short') as bag, pytest.raises(BagError, match=r"part\.jsonl' is not readable: 'hint'"):
        write_replay(BagWindows(bag, settings), RecordedTicks([file]).tick, tmp_path / 'out')
