"""Truth files: what is read, and what is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stprune_ros.errors import StpruneError
from stprune_ros.io.ground_truth import EVERY_BAG, GroundTruth, TickTruth, read_truth


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding='utf-8')
    return path


def test_a_table_for_every_bag(tmp_path: Path):
    file = write(tmp_path / 't.csv', '\ufeffbehavior,stamp_ns\nSTOP,20\n NONE ,10\n')
    found = read_truth(file)
    assert [*found] == [EVERY_BAG]
    assert found[EVERY_BAG].stamps == [10, 20]
    assert [found[EVERY_BAG].at(stamp, 1).behavior for stamp in (10, 11, 12, 19, 21)] == [
        *('NONE', 'NONE', '', 'STOP', 'STOP')
    ]


def test_a_table_by_bag(tmp_path: Path):
    found = read_truth(write(tmp_path / 't.csv', 'stamp_ns,behavior,bag\n1,STOP,a\n1,NONE,b\n2,NONE,a\n'))
    assert {bag: truth.stamps for bag, truth in found.items()} == {'a': [1, 2], 'b': [1]}
    assert found['b'].at(1).behavior == 'NONE'


def test_what_a_synthetic_bag_brings_along(tmp_path: Path):
    ticks = [{'stamp_ns': 5, 'behavior': 'STOP', 'description': 'a wall'}, {'stamp_ns': 9, 'behavior': 'NONE'}]
    write(tmp_path / 'truth.json', json.dumps({'ticks': ticks}))
    found = GroundTruth.beside(tmp_path)
    assert found is not None
    assert [found.at(stamp, 0) for stamp in (5, 9, 6)] == [
        TickTruth('STOP', 'a wall'),
        TickTruth('NONE'),
        TickTruth(''),
    ]
    assert GroundTruth.beside(tmp_path / 'bag_0.mcap') is not None, 'a file in the folder'
    (tmp_path / 'none').mkdir()
    assert GroundTruth.beside(tmp_path / 'none') is None


def test_the_nearest_stamp_within_the_tolerance():
    truth = GroundTruth({100: TickTruth('STOP'), 130: TickTruth('NONE')})
    assert [truth.nearest(stamp, 20) for stamp in (79, 80, 114, 115, 116, 150, 151)] == [
        *(None, 100, 100, 100, 130, 130, None)
    ]
    assert truth.nearest(100, 0) == 100


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'has the columns none; they must be stamp_ns, behavior, and may be bag'),
        ('stamp,behavior\n1,STOP\n', 'has the columns stamp, behavior; they must be'),
        ('stamp_ns;behavior\n1;STOP\n', 'has the columns stamp_ns;behavior; they must be'),
        ('stamp_ns,behavior,Bag\n1,STOP,a\n', 'has the columns stamp_ns, behavior, Bag;'),
        ('stamp_ns,behavior\n', 'holds no stamp'),
        ('stamp_ns,behavior\n1,STOP\n2\n', 'line 3 has not one value for each of stamp_ns, behavior'),
        ('stamp_ns,behavior\n1,STOP,a\n', 'line 2 has not one value'),
        ('stamp_ns,behavior,bag\n1,STOP,\n', 'line 2 has not one value'),
        ('stamp_ns,behavior\n1.5,STOP\n', "line 2: stamp_ns is '1.5'; it must be a whole number of nanoseconds"),
        ('stamp_ns,behavior\n-1,STOP\n', "stamp_ns is '-1'"),
        ('stamp_ns,behavior\n1,stop\n', "line 2: 'stop' is no behavior; known are NONE, SLOW_DOWN, STOP,"),
        ('stamp_ns,behavior\n1,UNKNOWN\n', "'UNKNOWN' is no behavior"),
        ('stamp_ns,behavior\n1,STOP\n1,NONE\n', 'holds stamp 1 twice: remove one'),
        ('stamp_ns,behavior\n1,"STOP\n', 'is not readable'),
        (f'stamp_ns,behavior\n{"9" * 5000},STOP\n', 'is not readable'),
    ],
)
def test_wrong_tables_are_one_sentence(tmp_path: Path, text: str, words: str):
    file = write(tmp_path / 't.csv', text)
    with pytest.raises(StpruneError) as caught:
        read_truth(file)
    assert str(caught.value).startswith(f"truth file '{file}'")
    assert words in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', 'is not readable'),
        ('[]', 'is not readable'),
        ('{"ticks": [{"stamp_ns": 3}]}', "is not readable: KeyError('behavior')"),
        ('{"ticks": [{"stamp_ns": 3, "behavior": "FLY"}]}', "stamp 3: 'FLY' is no behavior; known are"),
        ('{"ticks": []}', 'holds no stamp'),
        ('[' * 100_000, 'is not readable'),
    ],
)
def test_wrong_json_is_one_sentence(tmp_path: Path, text: str, words: str):
    with pytest.raises(StpruneError) as caught:
        read_truth(write(tmp_path / 'truth.json', text))
    assert words in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path):
    for name in ('t.csv', 't.json'):
        with pytest.raises(StpruneError, match=r"truth file '.*' cannot be read: No such file"):
            read_truth(tmp_path / name)
    (tmp_path / 'b.csv').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(StpruneError, match='is not readable: UnicodeDecodeError'):
        read_truth(tmp_path / 'b.csv')
