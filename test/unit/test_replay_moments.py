"""The report of a replay beside its results, and replays of a span of the bag."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers.small_bags import PERIOD_NS, START_NS, Item, drive, write_bag
from helpers.small_replays import (
    hints_of,
    page_data,
    run,
    tiny_parameters,
    trained_model,
)

from stprune_ros.cli import main
from stprune_ros.io import drawing
from stprune_ros.io.bag_reader import Bag
from stprune_ros.io.drawing import FOOTER_HEIGHT, HEADER_HEIGHT, TILE_HEIGHT, TILE_WIDTH
from stprune_ros.pruning.reason import DROPPED_REASONS, KEPT_REASONS
from stprune_ros.replay.moment import Span
from stprune_ros.replay.page import picture_data
from stprune_ros.replay.records import stamp_text
from stprune_ros.replay.results import OVERLAY_TOPIC


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_model(tmp_path_factory.mktemp('models'))


@pytest.fixture
def params(tmp_path: Path, model: Path) -> Path:
    return tiny_parameters(tmp_path, model)


def test_report_shows_every_tick_with_the_picture_that_the_results_have(tmp_path: Path, params: Path):
    output = tmp_path / 'out'
    run(write_bag(tmp_path / 'bag', drive(3)), output, params)
    data = page_data(output)
    assert data['speed'] == [5.0] * 3 and data['seconds'] == [0, 0.1, 0.2]
    assert data['stamp'] == [stamp_text(START_NS + tick * PERIOD_NS) for tick in range(3)]
    assert all(len(values) == 3 for values in (*data['kept'].values(), *data['stages'].values()))
    with Bag(output / 'results.mcap') as results:
        overlays = [record.message().data.tobytes() for record in results.messages([OVERLAY_TOPIC])]
    assert [picture_data(jpeg) for jpeg in overlays] == list(data['pictures'].values())
    decoded = cv2.imdecode(np.frombuffer(overlays[0], np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (HEADER_HEIGHT + 2 * (TILE_HEIGHT + FOOTER_HEIGHT), 2 * TILE_WIDTH, 3)


def test_pictures_of_a_replay_have_reasons(tmp_path: Path, params: Path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        drawing, 'ring_picture', lambda answer, overlaps: seen.append(answer) or np.zeros((8, 8, 3), np.uint8)
    )
    run(write_bag(tmp_path / 'bag', drive(2)), tmp_path / 'out', params)
    for answer in seen:
        for view in answer.views:
            assert view.reasons.shape == view.keep.shape
            assert set(view.reasons[view.keep].tolist()) <= set(KEPT_REASONS)
            assert set(view.reasons[~view.keep].tolist()) <= set(DROPPED_REASONS)
    assert len(seen) == 2


def test_a_span_gives_the_same_hints_as_the_whole(tmp_path: Path, params: Path):
    bag = write_bag(tmp_path / 'bag', drive(6))
    whole = run(bag, tmp_path / 'whole', params)
    first, last = (stamp_text(START_NS + tick * PERIOD_NS) for tick in (3, 4))
    part = run(bag, tmp_path / 'part', params, '--from', first, '--until', last)
    everything, found = hints_of(tmp_path / 'whole'), hints_of(tmp_path / 'part')
    assert [one[:2] + one[3:] for one in found] == [one[:2] + one[3:] for one in everything[3:5]], 'history included'
    assert np.allclose([one[2] for one in found], [one[2] for one in everything[3:5]], atol=1e-4)
    assert whole['span'] is None and whole['bag_id'] == part['bag_id']
    assert (part['ticks'], part['span']['from_ns']) == (2, START_NS + 3 * PERIOD_NS)
    assert 'only the ticks from' in (tmp_path / 'part' / 'report.html').read_text()


@pytest.mark.parametrize(
    ('span', 'sets'),
    [
        ((None, None), (5, 2, 3)),
        ((3, 7), (3, 1, 1)),
        ((7, None), (2, 0, 1)),
        ((None, 2), (1, 1, 1)),
        ((4, 4), (1, 0, 0)),
    ],
)
def test_frame_sets_of_a_span_are_counted(tmp_path: Path, params: Path, span, sets):
    """The left camera is lost at ticks 1 and 5; at 2, 6 and 9 only the front one is there, which is skipped."""
    lost = {'left': (1, 2, 5, 6, 9), 'right': (2, 6, 9)}

    def broken(item: Item) -> Item | None:
        camera, tick = item.topic.split('/')[2:3], (item.stamp_ns - START_NS) // PERIOD_NS
        return None if 'image' in item.topic and tick in lost.get(*camera, ()) else item

    values = json.loads(params.read_text())
    values['/**']['ros__parameters']['sync.min_views'] = 2
    params.write_text(json.dumps(values))
    bag = write_bag(tmp_path / 'bag', drive(10, broken))
    ends = [
        word
        for name, tick in zip(('--from', '--until'), span)
        if tick is not None
        for word in (name, stamp_text(START_NS + tick * PERIOD_NS))
    ]
    found = run(bag, tmp_path / 'out', params, *ends)
    assert tuple(found[name] for name in ('sets_full', 'sets_partial', 'sets_skipped')) == sets
    assert found['ticks'] == sets[0] + sets[1]


def slow_odometry(item: Item) -> Item | None:
    return None if item.topic == '/odom' and (item.stamp_ns - START_NS) // PERIOD_NS % 3 else item


@pytest.mark.parametrize(
    ('more', 'span', 'sets', 'ticks'),
    [
        ({}, (3, 9), 7, 7),  # sets wait for odometry in threes, and all close before the first of them is a tick
        ({}, (3, 7), 5, 5),
        ({'inference.period_ms': 300.0}, (0, 9), 10, 4),  # ticks are 0, 1, 4 and 7
        ({'inference.period_ms': 300.0}, (3, 6), 4, 1),
        ({'inference.period_ms': 300.0}, (8, 9), 2, 0),
        ({'inference.period_ms': 300.0}, (20, 30), 0, 0),
    ],
)
def test_sets_of_a_span_are_those_with_a_stamp_in_it(tmp_path: Path, params: Path, more, span, sets, ticks):
    """Whenever they close, and whether they become ticks or not."""
    values = json.loads(params.read_text())
    values['/**']['ros__parameters'].update(more)
    params.write_text(json.dumps(values))
    bag, output = write_bag(tmp_path / 'bag', drive(10, slow_odometry)), tmp_path / 'out'
    ends = (stamp_text(START_NS + tick * PERIOD_NS) for tick in span)
    words = [word for pair in zip(('--from', '--until'), ends) for word in pair]
    assert main(['replay', str(bag), '--output', str(output), '--params', str(params), *words]) == (not ticks)
    found = json.loads((output / 'summary.json').read_text())
    assert (found['sets_full'], found['ticks']) == (sets, ticks)


def test_the_command_of_the_report_replays_its_moment(tmp_path: Path, params: Path):
    bag, output = write_bag(tmp_path / 'bag', drive(4)), tmp_path / 'out'
    run(bag, output, params)
    data = page_data(output)
    command = data['command'].replace(data['stamp_word'], data['stamp'][2])
    folder, _, arguments = command.partition(' && stprune ')
    assert folder == f'cd {Path.cwd()}'
    assert main(shlex.split(arguments)) == 0
    [moment] = hints_of(output / f'at_{data["stamp"][2]}')
    assert moment[:2] == hints_of(output)[2][:2]
    assert moment[3] == hints_of(output)[2][3], 'the same parameters and the same history'


def test_which_stamp_is_nearer_to_a_span():
    span = Span(10, 20)
    assert [span.nearest(*stamps) for stamps in ((5, None), (5, 26), (26, 5), (30, 21))] == [5, 5, 5, 21]
    assert [span.nearest(*stamps) for stamps in ((5, 25), (25, 5))] == [25, 5], 'of equal ones the second'
    assert [span.nearest(*stamps) for stamps in ((15, 11), (20, 9), (9, 10))] == [11, 20, 10], 'within it all are near'
    assert span.summary(15) == {'from_ns': 10, 'until_ns': 20, 'nearest_ns': 15}
    assert Span(7, 7).summary(None) == {'from_ns': 7, 'until_ns': 7, 'nearest_ns': None}


@pytest.mark.parametrize(('stamp_ns', 'nearest'), [(START_NS - 10**9, 0), (START_NS + 10**9, 3)])
def test_a_span_without_a_tick_names_the_nearest_one(tmp_path: Path, params: Path, capsys, stamp_ns: int, nearest: int):
    bag, at = write_bag(tmp_path / 'bag', drive(4)), stamp_text(stamp_ns)
    words = [
        'replay',
        str(bag),
        '--output',
        str(tmp_path / 'out'),
        '--params',
        str(params),
        '--from',
        at,
        '--until',
        at,
    ]
    assert main(words) == 1
    found = stamp_text(START_NS + nearest * PERIOD_NS)
    expected = f"bag '{bag}' has no tick from {at} until {at}; the nearest one is at {found}: change --from or --until"
    assert capsys.readouterr().err.splitlines()[-1] == f'stprune: {expected}'


def test_spans_that_mean_nothing_are_refused(tmp_path: Path, params: Path, capsys):
    bag = str(write_bag(tmp_path / 'bag', drive(1)))
    words = ['replay', bag, '--output', str(tmp_path / 'out'), '--params', str(params)]
    assert main([*words, '--from', '2.5', '--until', '1']) == 1
    assert '--from 2.500000000 is after --until 1.000000000: exchange them' in capsys.readouterr().err
    for text in ('-1', '1e9', 'now', '1.0000000001', ''):
        with pytest.raises(SystemExit):
            main([*words, f'--from={text}'])
        assert 'is not a stamp in seconds such as' in capsys.readouterr().err
