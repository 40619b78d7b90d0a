"""What the command says around a replay, and in which order it looks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.small_bags import START_NS, Item, drive, header, make, write_bag

from stprune_ros.cli import main
from stprune_ros.core.types import EgoState
from stprune_ros.io.ground_truth import GroundTruth, TickTruth
from stprune_ros.replay.command import summary_text

SUMMARY = {
    'sets_full': 3,
    'sets_partial': 2,
    'sets_skipped': 1,
    'tokens_kept': 10.0,
    'tokens_full': 100.0,
    'latency': None,
    'keep_ratio': 0.1,
    'cameras': ['front', 'back'],
    'ticks': 5,
    'method': 'mtp',
    'hints': {'STOP': 5},
    'truth': {'hits': 3, 'known': 4},
    'errors': 7,
    'model_trained': False,
}


def test_a_replay_in_a_few_lines():
    assert summary_text(SUMMARY, Path('out')).splitlines() == [
        'ring    front, back',
        'ticks   5 (3 full, 2 partial, 1 skipped frame sets)',
        'tokens  10.0 of 100.0 kept per tick, mtp at 0.1',
        'hints   STOP 5',
        'truth   3 of 4 hints are right',
        'errors  7, listed in summary.json',
        'model   NOT TRAINED: its weights are random, nothing it says means anything',
        'report  out/report.html',
    ]
    quiet = {**SUMMARY, 'truth': None, 'errors': 0, 'model_trained': True, 'hints': {}}
    assert [line.split()[0] for line in summary_text(quiet, Path('out')).splitlines()] == [
        *('ring', 'ticks', 'tokens', 'hints', 'report')
    ]


def test_the_nearer_of_two_truths_counts():
    truth = GroundTruth({100_000_000: TickTruth('STOP'), 130_000_000: TickTruth('NONE')})
    found = [truth.at(ms * 1_000_000).behavior for ms in (79, 85, 110, 114, 116, 125, 150, 151)]
    assert found == ['', 'STOP', 'STOP', 'STOP', 'NONE', 'NONE', 'NONE', '']


def test_a_message_that_cannot_be_read_is_an_error(tmp_path: Path):
    def cut(item: Item) -> Item:
        if item.topic == '/camera/left/image_raw/compressed' and item.stamp_ns > START_NS:
            return Item(item.topic, item.stamp_ns, make('sensor_msgs/CompressedImage', header(item.stamp_ns), 'jpeg',
                                                        item.message.data[:20]))  # fmt: skip
        return item

    bag = write_bag(tmp_path / 'bag', drive(3, cut))
    assert main(['replay', str(bag), '--output', str(tmp_path / 'out')]) == 0
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['errors'] == 2
    assert all("camera 'left'" in sentence for sentence in summary['error_sentences'])
    assert not set(summary['error_sentences']) & set(summary['notes'])


@pytest.mark.parametrize(('linear', 'speed'), [((3.0, 4.0, 0.0), 5.0), ((-2.0, 0.0, 0.0), 2.0), ((0.0, 0.0, 9.0), 0.0)])
def test_speed_is_over_ground(linear, speed):
    assert EgoState(0, None, None, linear, (0.0, 0.0, 0.0)).speed == pytest.approx(speed)
