"""What a fleet is to run: bags that are found, sweeps that are read, and the order of runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from helpers.small_bags import drive, write_bag
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.errors import BagError, SettingsError, StpruneError
from stprune_ros.fleet.plan import BASE, Drive, find_drives, runs_of, settings_of
from stprune_ros.settings.settings import Settings


@pytest.fixture
def drives(tmp_path: Path) -> Path:
    """Two bags and one file of a third, at several depths."""
    write_bag(tmp_path / 'drives' / 'monday' / 'one', drive(1))
    write_bag(tmp_path / 'drives' / 'two', drive(3))
    bag = write_bag(tmp_path / 'elsewhere' / 'three', drive(1))
    next(bag.glob('*.mcap')).rename(tmp_path / 'three.mcap')
    return tmp_path


def names(*given: Path | str) -> list[str]:
    return sorted(found.name for found in find_drives([str(one) for one in given]))


def test_bags_are_found_by_folder_file_and_pattern(drives: Path):
    assert names(drives / 'drives' / 'two') == ['two']
    assert names(drives / 'drives') == ['one', 'two']
    assert names(drives / 'drives' / '*') == ['one', 'two']
    assert names(drives / '**' / 'o*') == ['one']
    assert names(drives / 'three.mcap', drives / 'drives') == ['one', 'three', 'two']
    found = find_drives([str(drives / 'drives')])
    assert [one.bytes for one in found] == [
        sum(file.stat().st_size for file in (drives / path).iterdir()) for path in ('drives/monday/one', 'drives/two')
    ]


def test_a_bag_that_is_named_twice_runs_once(drives: Path):
    assert names(drives / 'drives', drives / 'drives' / 'two') == ['one', 'two']


def test_links_that_lead_back_end_there(drives: Path):
    (drives / 'drives' / 'here').symlink_to('.')
    (drives / 'drives' / 'more' / 'deep').mkdir(parents=True)
    (drives / 'drives' / 'more' / 'up').symlink_to('..')
    (drives / 'drives' / 'more' / 'deep' / 'up').symlink_to('../..')
    assert names(drives / 'drives') == ['one', 'two']


@pytest.mark.parametrize('beside', ['summary.json', 'replay.param.yaml'])
def test_what_replays_left_and_hidden_folders_are_no_drives(drives: Path, beside: str):
    """Neither where a folder is searched nor where a pattern names the file itself; a killed one left no summary."""
    left = drives / 'drives' / 'out' / 'two' / 'base'
    left.mkdir(parents=True)
    (left / 'results.mcap').write_bytes((drives / 'three.mcap').read_bytes())
    (left / beside).write_text('{}')
    write_bag(drives / 'drives' / '.trash' / 'old', drive(1))
    assert names(drives / 'drives') == ['one', 'two']
    assert names(drives / 'drives' / '**') == ['one', 'two']
    with pytest.raises(BagError, match="' holds no bag: name bag folders"):
        find_drives([str(left / 'results.mcap')])


def test_a_drive_may_have_a_summary_of_its_own(drives: Path):
    (drives / 'drives' / 'two' / 'summary.json').write_text('{"rain": true}')
    assert names(drives / 'drives') == ['one', 'two']


def test_a_link_gives_no_other_name_to_a_bag_that_is_found_too(drives: Path):
    (drives / 'drives' / 'a_link').symlink_to('two')
    (drives / 'drives' / 'z_link').symlink_to('two')
    (drives / 'a_link.mcap').symlink_to('three.mcap')
    assert names(drives / 'drives') == ['one', 'two']
    assert names(drives / '*.mcap') == ['three'] and names(drives / 'a_link.mcap') == ['a_link']
    assert names(drives / 'drives' / 'z_link', drives / 'drives' / 'two') == ['two']
    assert names(drives / 'drives' / 'z_link') == ['z_link'], 'as it was named'


@pytest.mark.parametrize('name', ['fleet.json', 'fleet.html', 'fleet.parquet', 'fleet.json.part'])
def test_no_bag_has_the_name_of_a_report(drives: Path, name: str):
    (drives / 'drives' / 'two').rename(drives / 'drives' / name)
    [found] = find_drives([str(drives / 'drives' / name)])
    assert re.fullmatch(f'{re.escape(name)}-[0-9a-f]{{8}}', found.name)


def test_bags_whose_names_are_no_utf8_are_refused_before_anything_runs(drives: Path):
    write_bag(drives / 'drives' / os.fsdecode(b'stra\xdfe'), drive(1))
    with pytest.raises(StpruneError, match=r"stra\?e' is not UTF-8, in which results would name it: rename it"):
        find_drives([str(drives / 'drives')])


def test_names_of_folders_leave_room_for_endings(drives: Path):
    """A file system counts bytes."""
    long = ['\U0001f697' * 60, '\U0001f697' * 60 + 'x', 'ä' * 100]
    for name in long:
        write_bag(drives / 'long' / name, drive(1))
    found = names(drives / 'long')
    assert len(set(found)) == 3 and all(len(name.encode()) <= 100 + 9 for name in found)
    settings = settings_of(Settings(), [f'model.path={",".join(long)}'])
    assert len({one.name for one in settings}) == 3
    assert all(len(one.name.encode()) <= 100 + 9 for one in settings)
    assert settings_of(Settings(), ['model.path=ä'])[0].name == 'model.path=ä'


@pytest.mark.parametrize(
    ('missing', 'words'),
    [('nowhere', "nowhere' names nothing that is there"), ('empty', "empty' holds no bag"), ('no*', 'names nothing')],
)
def test_what_names_no_bag_is_refused(drives: Path, missing: str, words: str):
    (drives / 'empty').mkdir()
    with pytest.raises(BagError, match=words):
        find_drives([str(drives / 'drives'), str(drives / missing)])


def test_two_bags_of_one_name_are_refused(drives: Path):
    other = write_bag(drives / 'again' / 'two', drive(1))
    with pytest.raises(BagError) as error:
        find_drives([str(drives / 'drives'), str(other)])
    assert f"'{drives / 'drives' / 'two'}' and '{other}' have one name, 'two'" in str(error.value)


def test_files_without_metadata_may_be_one_bag_or_several(drives: Path):
    folder = drives / 'loose'
    folder.mkdir()
    for name in ('a.mcap', 'b.mcap'):
        (folder / name).write_bytes((drives / 'three.mcap').read_bytes())
    with pytest.raises(BagError, match=r'holds 2 bag files and no metadata\.yaml'):
        find_drives([str(folder)])
    assert names(folder / '*.mcap') == ['a', 'b']


def test_a_sweep_gives_every_combination_in_order():
    found = settings_of(Settings(), ['pruning.keep_ratio=0.05, 0.1', 'pruning.method=uniform,st_prune'])
    assert [(one.settings.pruning.keep_ratio, one.settings.pruning.method) for one in found] == [
        (0.05, 'uniform'),
        (0.05, 'st_prune'),
        (0.1, 'uniform'),
        (0.1, 'st_prune'),
    ]
    assert found[1].name == 'pruning.keep_ratio=0.05,pruning.method=st_prune'
    assert found[1].given == (('pruning.keep_ratio', '0.05'), ('pruning.method', 'st_prune'))


def test_without_a_sweep_there_is_one_setting():
    base = Settings().changed({'pruning.keep_ratio': 0.3})
    assert [(one.name, one.settings) for one in settings_of(base, [])] == [(BASE, base)]


@pytest.mark.parametrize(
    ('sweep', 'name', 'values'),
    [
        ('inference.describe=true,false', 'inference.describe', [True, False]),
        ('history.frames=1,4', 'history.frames', [1, 4]),
        ('cameras.names=[a, b],[c]', 'cameras.names', [('a', 'b'), ('c',)]),
        ('pruning.keep_ratio=1e-2,1', 'pruning.keep_ratio', [0.01, 1.0]),
        ('model.path=/a/b,c', 'model.path', ['/a/b', 'c']),
    ],
)
def test_values_are_read_in_the_type_of_their_parameter(sweep: str, name: str, values: list[object]):
    found = settings_of(Settings(), [sweep])
    assert [one.settings.values()[name] for one in found] == values
    assert len({one.name for one in found}) == len(values)
    assert not any('/' in one.name or ' ' in one.name for one in found)


@pytest.mark.parametrize(
    ('sweeps', 'words'),
    [
        (['pruning.keep=0.1'], "there is no parameter 'pruning.keep'"),
        (['pruning.keep_ratio=0.1,2'], "'pruning.keep_ratio' is 2"),
        (['pruning.keep_ratio=abc'], "'pruning.keep_ratio' is 'abc'"),
        (['pruning.method=magic'], "'pruning.method' is 'magic'"),
        (['pruning.keep_ratio=0_1'], "'pruning.keep_ratio' is '0_1'"),
        (['history.frames=1_0'], "'history.frames' is '1_0'"),
        (['history.frames=1.5'], "'history.frames' is '1.5'"),
        (['pruning.keep_ratio'], 'not of the form'),
        (['pruning.keep_ratio='], 'not of the form'),
        (['pruning.keep_ratio=0.1,,0.2'], 'not of the form'),
        (['pruning.keep_ratio=0.1,'], 'not of the form'),
        (['pruning.keep_ratio=0.1,0.10'], "gives 'pruning.keep_ratio' the value 0.10 twice"),
        (['history.frames=1', 'history.frames=2'], "names 'history.frames' twice"),
    ],
)
def test_a_sweep_that_is_wrong_is_refused(sweeps: list[str], words: str):
    with pytest.raises(SettingsError) as error:
        settings_of(Settings(), sweeps)
    assert words in str(error.value)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=8), st.integers(1, 3))
def test_every_bag_runs_under_every_setting_and_the_largest_bags_first(sizes: list[int], count: int):
    drives = [Drive(Path(str(i)), str(i), size) for i, size in enumerate(sizes)]
    ratios = ','.join(f'0.{i + 1}' for i in range(count))
    settings = settings_of(Settings(), [f'pruning.keep_ratio={ratios}'])
    runs = runs_of(drives, settings)
    assert sorted((run.drive.name, run.setting.name) for run in runs) == sorted(
        (one.name, setting.name) for one in drives for setting in settings
    )
    assert [run.drive.bytes for run in runs] == sorted((run.drive.bytes for run in runs), reverse=True)
    assert len({run.folder for run in runs}) == len(runs)


def test_a_model_is_loaded_once_for_all_bags():
    drives = [Drive(Path('small'), 'small', 1), Drive(Path('large'), 'large', 2)]
    settings = settings_of(Settings(), ['model.path=a,b', 'pruning.keep_ratio=0.1,0.2'])
    runs = runs_of(drives, settings)
    assert [run.setting.settings.model.path for run in runs] == ['a'] * 4 + ['b'] * 4
    assert [run.drive.name for run in runs] == ['large', 'large', 'small', 'small'] * 2


@given(
    st.lists(
        st.text(min_size=1, max_size=150).filter(
            lambda text: ',' not in text and text.strip() == text and '[' not in text
        ),
        min_size=1,
        max_size=5,
        unique=True,
    )
)
def test_settings_have_folders_of_their_own_whatever_their_values_are(values: list[str]):
    found = settings_of(Settings(), [f'model.path={",".join(values)}'])
    folders = [one.name for one in found]
    assert len(set(folders)) == len(values) == len(folders)
    assert all(len(Path(folder).parts) == 1 and len(folder.encode()) <= 109 for folder in folders)
