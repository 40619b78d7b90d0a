"""Replays side by side: the ticks that differ and no others, and refusals of what cannot be compared."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from enum import IntEnum
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from helpers.answers import make_answer
from helpers.replayed import JPEG, write_run

from stprune_ros.cli import main
from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Answer, Behavior, CameraState, Description, Status, ViewReport
from stprune_ros.errors import BagError
from stprune_ros.replay.compare import LETTERS, MAX_SHOWN, compare, to_text
from stprune_ros.replay.folders import read_run
from stprune_ros.replay.moment import plain_values
from stprune_ros.settings.settings import Settings

START_NS = 1_700_000_000 * 10**9
RIG = """
cameras:
  front: {width: 64, height: 48, hfov_deg: 90, azimuth_deg: 0}
  back: {width: 64, height: 48, hfov_deg: 90, azimuth_deg: 180}
"""
PARAMETERS = plain_values(Settings())
STOP, NONE, SLOW = Behavior.STOP, Behavior.NONE, Behavior.SLOW_DOWN


@pytest.fixture
def rig(tmp_path: Path) -> CameraRig:
    path = tmp_path / 'rig.yaml'
    path.write_text(RIG)
    return CameraRig.from_file(path)


def drive(*said: Behavior | Status, first: int = 0, kept: int = 3, ratios: Sequence[float] = ()) -> list[Answer]:
    """One answer per hint, or per status that brings none."""
    answers = []
    for number, one in enumerate(said, start=first):
        status, behavior = (one, Behavior.UNKNOWN) if isinstance(one, Status) else (Status.OK, one)
        views = (
            ViewReport('front', CameraState.OK, 1, 1, 20, kept + number),
            ViewReport('back', CameraState.FROZEN),
        )
        answers.append(
            make_answer(
                status,
                text=f'<b>{number}</b>',
                behavior=behavior,
                stamp_ns=START_NS + number * 10**8,
                sequence=number,
                distribution=((STOP, 0.75), (NONE, 0.25)) if status.is_valid else (),
                confidence=0.75,
                views=views,
                stage_ms={'encode': 30.0 + number, 'hint': 4.0},
                keep_ratio=ratios[number] if ratios else 0.1,
            )
        )
    return answers


def test_exactly_the_ticks_that_differ_are_found(tmp_path: Path, rig: CameraRig):
    one = write_run(tmp_path / 'one', drive(STOP, NONE, SLOW, Status.TIMEOUT, NONE), rig, keep_ratio=1.0)
    other = write_run(tmp_path / 'other', drive(STOP, STOP, SLOW, Status.ERROR, NONE, kept=1), rig)
    found = compare([one, other], tmp_path / 'out')
    assert found == json.loads((tmp_path / 'out' / 'compare.json').read_text())
    assert (found['ticks_common'], found['ticks_differing'], found['agree']) == (5, 2, {'AB': 3})
    first, second = found['differing']
    assert (first['stamp_ns'], first['seconds'], first['truth']) == (START_NS + 10**8, 0.1, '')
    assert {letter: run['said'] for letter, run in second['runs'].items()} == {'A': 'TIMEOUT', 'B': 'ERROR'}
    assert first['runs']['B'] == {
        'said': 'STOP',
        'probabilities': {'STOP': 0.75, 'NONE': 0.25},
        'keep_ratio': 0.1,
        'tokens_kept': {'front': 2, 'back': 0},
        'tokens_full': {'front': 20, 'back': 0},
        'states': {'front': 'OK', 'back': 'FROZEN'},
        'stage_ms': {'encode': 31.0, 'hint': 4.0},
        'description': '<b>1</b>',
    }
    assert [run['keep_ratio'] for run in found['runs']] == [1.0, 0.1]
    assert [run['tokens_kept'] for run in found['runs']] == [5.0, 3.0]


def test_tokens_are_means_of_all_ticks_and_the_strip_ends_where_they_do(tmp_path: Path, rig: CameraRig):
    *few, last = drive(STOP, NONE, SLOW)  # keep 3, 4 and 5 of 20
    many = replace(last, views=(ViewReport('front', CameraState.OK, 1, 1, 50, 11), last.views[1]))
    folders = [write_run(tmp_path / name, [*few, many], rig) for name in 'ab']
    for run in compare(folders, tmp_path / 'out')['runs']:
        assert (run['tokens_kept'], run['tokens_full']) == (6.0, 30.0)
    assert 'From 0.0 to 0.2 s.' in (tmp_path / 'out' / 'compare.html').read_text()


def test_a_description_counts_in_the_tick_and_not_up_to_the_hint(tmp_path: Path, rig: CameraRig):
    folders = [write_run(tmp_path / str(ms), drive(STOP), rig, describe_ms=ms) for ms in (0.0, 50.0)]
    without, described = compare(folders, tmp_path / 'out')['runs']
    assert (without['hint_ms']['p50'], without['tick_ms']['p50']) == (34.0, 34.0)
    assert (described['hint_ms']['p50'], described['tick_ms']['p50']) == (34.0, 84.0)
    assert described['stage_ms']['describe'] == {'p50': 50.0, 'p95': 50.0, 'max': 50.0}


def test_a_description_of_whatever_length_controls_nothing(tmp_path: Path, rig: CameraRig):
    said = replace(drive(STOP)[0], description=Description(Status.OK, '\x1b[2J' + 'y' * 3000))
    folders = [write_run(tmp_path / name, answers, rig) for name, answers in (('a', [said]), ('b', drive(NONE)))]
    text = compare(folders, tmp_path / 'out')['differing'][0]['runs']['A']['description']
    assert text.startswith('?[2Jyyy') and len(text) == 2000


def test_three_replays_and_pairs_of_them(tmp_path: Path, rig: CameraRig):
    runs = ((STOP, NONE, NONE), (STOP, STOP, NONE), (STOP, STOP, STOP))
    folders = [write_run(tmp_path / str(i), drive(*said), rig) for i, said in enumerate(runs)]
    found = compare(folders, tmp_path / 'out')
    assert found['agree'] == {'AB': 2, 'AC': 1, 'BC': 2}
    html = (tmp_path / 'out' / 'compare.html').read_text()
    figures = re.findall(r'<li class="card"><b>(.*?)</b><span class="soft small">(.*?)</span>', html)
    agreeing = [(2, 'A and B'), (1, 'A and C'), (2, 'B and C')]
    told = [(f'{count} of 3', f'ticks in which {pair} say the same') for count, pair in agreeing]
    assert figures == [('2 of 3', 'ticks in which the hints differ'), *told]
    assert 'aria-label="stop in A: 1 tick"' in html and 'aria-label="stop in B: 2 ticks"' in html
    assert list(found['differing'][0]['runs']) == ['A', 'B', 'C']
    text = to_text(found, tmp_path / 'out')
    assert 'differ  in 2 of 3 ticks\n        1700000000.100000000  A NONE  B STOP  C STOP' in text


def test_only_common_ticks_count(tmp_path: Path, rig: CameraRig):
    whole = write_run(tmp_path / 'whole', drive(STOP, NONE, NONE), rig)
    part = write_run(tmp_path / 'part', drive(STOP, first=1), rig)
    found = compare([whole, part], tmp_path / 'out')
    assert (found['ticks_common'], found['ticks_differing']) == (1, 1)
    assert [run['ticks'] for run in found['runs']] == [3, 1]
    assert [run['ticks_not_in_all'] for run in found['runs']] == [2, 0]
    assert found['notes'] == [f"2 of 3 ticks of '{whole}' are not in every replay and count nowhere here"]
    for run in found['runs']:  # what is told of the tick in common, and no other: 4 of 20 tokens, 31 + 4 ms
        assert (run['tokens_kept'], run['tokens_full']) == (4.0, 20.0)
        assert run['stage_ms']['encode'] == {'p50': 31.0, 'p95': 31.0, 'max': 31.0}
        assert run['hint_ms']['max'] == run['tick_ms']['p50'] == 35.0
    text = to_text(found, tmp_path)
    assert found['notes'][0] in text and '2 of 3 ticks' in (tmp_path / 'out' / 'compare.html').read_text()
    other = write_run(tmp_path / 'other', drive(STOP, first=7), rig)
    with pytest.raises(BagError, match=r'^no tick is in each of .*whole, .*other: replay the same part of the bag$'):
        compare([whole, other], tmp_path / 'out')


def test_truth_beside_the_bag_is_counted(tmp_path: Path, rig: CameraRig):
    bag = tmp_path / 'bag'
    bag.mkdir()
    truth = [{'stamp_ns': START_NS, 'behavior': 'STOP'}, {'stamp_ns': START_NS + 10**8, 'behavior': 'NONE'}]
    (bag / 'truth.json').write_text(json.dumps({'ticks': truth}))
    folders = [
        write_run(tmp_path / str(i), drive(STOP, said), rig, bag=str(bag)) for i, said in enumerate((STOP, NONE))
    ]
    found = compare(folders, tmp_path / 'out')
    assert [(run['hits'], run['known']) for run in found['runs']] == [(1, 2), (2, 2)]
    assert found['differing'][0]['truth'] == 'NONE'
    html = (tmp_path / 'out' / 'compare.html').read_text()
    assert html.count('right</span>') == html.count('wrong</span>') == 1
    (bag / 'truth.json').write_text('{')
    broken = compare(folders, tmp_path / 'out')
    assert broken['notes'][0].startswith('truth file') and broken['runs'][0]['known'] == 0


def test_page_shows_each_difference_and_escapes_what_models_say(tmp_path: Path, rig: CameraRig):
    one, other = (write_run(tmp_path / name, drive(STOP, said), rig) for name, said in (('a & b', NONE), ('c', STOP)))
    compare([one, other], tmp_path / 'out')
    html = (tmp_path / 'out' / 'compare.html').read_text()
    assert re.findall(r'<li class="card" data-stamp="(\d+)">', html) == [str(START_NS + 10**8)]
    assert '<b>1</b>' not in html and '&lt;b&gt;1&lt;/b&gt;' in html
    assert 'A: a &amp; b, st_prune' in html
    assert html.count('<img ') == html.count('src="data:image/jpeg;base64,') == 2
    assert 'script-src &#39;none&#39;' in html or "script-src 'none'" in unescape(html)
    assert '<script' not in html
    strips = re.findall(r'data-lane="(\w)" data-name="([\w ]+)">.*?</svg>', html)
    assert strips == [('A', 'no restriction'), ('B', 'no restriction'), ('A', 'stop'), ('B', 'stop')]
    bars = re.findall(r'<rect class="k(\d)" x="([\d.]+)" y="0" width="([\d.]+)"', html)
    assert bars == [('0', '500.0', '500.0'), ('0', '0.0', '500.0'), ('1', '0.0', '1000.0')]
    assert re.findall(r'<rect class="off" x="([\d.]+)"', html) == ['500.0']


def rows(html: str) -> list[list[str]]:
    """The cells of the table of replays, without what is small."""
    table = html[html.index('aria-label="replays"') : html.index('Hints over time')]
    bodies = re.findall(r'<tr><th scope="row">(.*?)</tr>', table, re.DOTALL)
    return [[re.sub(r'<br>', ' ', cell) for cell in re.findall(r'<td>(.*?)</td>', body, re.DOTALL)] for body in bodies]


@pytest.mark.parametrize(
    ('changes', 'engine'),
    [
        ({}, 'transformers'),
        ({'model.quantization': '8bit'}, 'transformers, 8bit'),
        ({'model.engine': 'llama.cpp', 'model.gguf': '/models/a-q4_k_m.gguf'}, 'llama.cpp, a-q4_k_m.gguf'),
    ],
)
def test_engine_and_quantization_of_each_replay_are_shown(tmp_path: Path, rig: CameraRig, changes, engine: str):
    plain = write_run(tmp_path / 'plain', drive(STOP), rig)
    other = write_run(tmp_path / 'other', drive(NONE), rig, parameters={**PARAMETERS, **changes})
    found = compare([plain, other], tmp_path / 'out')
    assert [run['engine'] for run in found['runs']] == ['transformers', engine]
    assert to_text(found, tmp_path).splitlines()[1].startswith(f'B: other, st_prune_joint at 0.1, tiny ({engine}): ')
    html = (tmp_path / 'out' / 'compare.html').read_text()
    assert [cells[0] for cells in rows(html)] == ['transformers', engine]
    assert html.count(f'B: other, st_prune_joint at 0.1, tiny ({engine})') == 2  # beside the tick that differs, twice


def test_a_keep_ratio_that_followed_a_latency_is_told_from_a_given_one(tmp_path: Path, rig: CameraRig):
    """From the ticks that have a hint: whatever inferred nothing carries the ratio of the settings."""
    given = write_run(tmp_path / 'given', drive(STOP, STOP, STOP, STOP), rig)
    said, ratios = (STOP, NONE, Status.NO_HINT, STOP), (0.05, 0.2, 0.9, 0.25)
    latency = {'target_ms': 80.0}
    other = write_run(tmp_path / 'other', drive(*said, ratios=ratios), rig, keep_ratio=0.9, latency=latency)
    found = compare([given, other], tmp_path / 'out')
    first, second = found['runs']
    assert (first['target_ms'], first['keep_ratios']) == (None, {'min': 0.1, 'median': 0.1, 'max': 0.1})
    assert (second['target_ms'], second['keep_ratios']) == (80.0, {'min': 0.05, 'median': 0.2, 'max': 0.25})
    assert second['label'].startswith('B: other, st_prune_joint at a ratio that follows the latency, tiny')
    assert [tick['runs']['B']['keep_ratio'] for tick in found['differing']] == [0.2, 0.9]
    html = (tmp_path / 'out' / 'compare.html').read_text()
    expected = '0.05 to 0.25, median 0.2 <span class="soft small">follows a target of 80 ms</span>'
    assert [cells[3] for cells in rows(html)] == ['0.1', expected]
    nothing = write_run(tmp_path / 'nothing', drive(*[Status.ERROR] * 4), rig, latency=latency)
    assert compare([given, nothing], tmp_path / 'out')['runs'][1]['keep_ratios'] is None
    assert rows((tmp_path / 'out' / 'compare.html').read_text())[1][3].startswith('none ')


def test_the_weight_of_commonness_that_held_is_told(tmp_path: Path, rig: CameraRig):
    one = write_run(tmp_path / 'one', drive(STOP), rig, joint_common=0.6)
    other = write_run(tmp_path / 'other', drive(NONE), rig, joint_common=None)
    found = compare([one, other], tmp_path / 'out')
    assert [run['joint_common'] for run in found['runs']] == [0.6, None]
    assert [cells[2] for cells in rows((tmp_path / 'out' / 'compare.html').read_text())] == ['0.6', 'n/a']


def test_replays_that_agree_say_so(tmp_path: Path, rig: CameraRig):
    folders = [write_run(tmp_path / name, drive(STOP), rig) for name in 'ab']
    assert compare(folders, tmp_path / 'out')['differing'] == []
    assert 'Nowhere: every tick has the same hint' in (tmp_path / 'out' / 'compare.html').read_text()


def test_many_differences_and_large_pictures_make_no_endless_page(tmp_path: Path, rig: CameraRig):
    count = 2 * MAX_SHOWN + 1
    jpeg = JPEG + bytes(20_000)
    folders = [
        write_run(tmp_path / str(i), drive(*[said] * count), rig, jpeg=jpeg) for i, said in enumerate((STOP, NONE))
    ]
    found = compare(folders, tmp_path / 'out')
    html = (tmp_path / 'out' / 'compare.html').read_text()
    assert len(found['differing']) == count
    told = re.findall(r'^        (\S+)  A STOP  B NONE$', to_text(found, tmp_path), re.MULTILINE)
    assert (len(told), told[0], told[-1]) == (20, '1700000000.000000000', '1700000001.900000000')
    shown = [int(stamp) for stamp in re.findall(r'data-stamp="(\d+)"', html)]
    assert MAX_SHOWN / 2 < len(shown) <= MAX_SHOWN
    assert f'{len(shown)} of {count} ticks' in html
    assert 0.5e6 < sum(map(len, re.findall(r'base64,([^"]*)', html))) < 2.8e6


@pytest.mark.parametrize('missing', ['summary.json', 'results.mcap'])
def test_what_is_no_replay_is_named(tmp_path: Path, rig: CameraRig, missing: str, capsys):
    good, bad = (write_run(tmp_path / name, drive(STOP), rig) for name in ('good', 'bad'))
    (bad / missing).unlink()
    assert main(['compare', str(good), str(bad), '--output', str(tmp_path / 'out')]) == 1
    assert f"'{bad}' is no output folder of `stprune replay`" in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('{', 'is not readable'),
        ('[]', "does not say 'bag'"),
        ('{"bag": "b"}', "does not say 'bag_id': an older release wrote it; replay the bag again"),
    ],
)
def test_broken_or_old_summaries_are_named(tmp_path: Path, rig: CameraRig, text: str, words: str):
    folder = write_run(tmp_path / 'run', drive(STOP), rig)
    (folder / 'summary.json').write_text(text)
    with pytest.raises(BagError, match=re.escape(words)) as error:
        read_run(folder, 'A')
    assert str(folder / 'summary.json') in str(error.value)


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('keep_ratio', math.nan),
        ('keep_ratio', True),
        ('keep_ratio', '0.1'),
        ('model_id', None),
        ('stage_ms', []),
        ('parameters', {}),
        ('parameters', {**PARAMETERS, 'model.quantization': None}),
        ('parameters', {**PARAMETERS, 'model.gguf': 4}),
        ('latency', {}),
        ('latency', {'target_ms': math.inf}),
    ],
)
def test_summaries_that_say_something_else_are_named(tmp_path: Path, rig: CameraRig, key: str, value: Any):
    folder = write_run(tmp_path / 'run', drive(STOP), rig, **{key: value})
    with pytest.raises(BagError) as error:
        read_run(folder, 'A')
    sentence = f"does not say '{key}': an older release wrote it; replay the bag again"
    assert str(error.value) == f"'{folder / 'summary.json'}' {sentence}"


def test_hints_of_another_release_are_named(tmp_path: Path, rig: CameraRig, monkeypatch: pytest.MonkeyPatch):
    folder = write_run(tmp_path / 'run', drive(STOP), rig)
    monkeypatch.setattr('stprune_ros.replay.folders.CameraState', IntEnum('CameraState', {'OK': int(CameraState.OK)}))
    with pytest.raises(BagError) as error:
        read_run(folder, 'A')
    assert str(error.value) == (
        f"'{folder / 'results.mcap'}' is of another release, whose hints are not understood"
        f' ({CameraState.FROZEN:d} is not a valid CameraState): replay the bag again'
    )


def test_names_of_a_summary_control_no_terminal(tmp_path: Path, rig: CameraRig):
    folder = write_run(tmp_path / 'run', drive(STOP), rig, model_id='\x1b[2J', method='\u202e')
    assert read_run(folder, 'A').label == 'A: run, ? at 0.1, ?[2J (transformers)'


def test_folders_of_different_bags_are_refused_in_one_sentence(tmp_path: Path, rig: CameraRig, capsys):
    one = write_run(tmp_path / 'one', drive(STOP), rig, bag='/bags/x', bag_id='1')
    other = write_run(tmp_path / 'other', drive(STOP), rig, bag='/bags/y', bag_id='2')
    assert main(['compare', str(one), str(other), '--output', str(tmp_path / 'out')]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"stprune: '{one}' is of bag '/bags/x' and '{other}' of another one, '/bags/y': compare replays of one bag"
    ]
    moved = write_run(tmp_path / 'moved', drive(STOP), rig, bag='/elsewhere/x', bag_id='1')
    assert main(['compare', str(one), str(moved), '--output', str(tmp_path / 'out')]) == 0


def test_one_replay_and_too_many_are_refused(tmp_path: Path, rig: CameraRig, capsys):
    folder = str(write_run(tmp_path / 'run', drive(STOP), rig))
    assert main(['compare', folder, '--output', str(tmp_path / 'out')]) == 1
    assert f"there is only '{folder}': name at least two replays of one bag" in capsys.readouterr().err
    count = len(LETTERS) + 1
    assert main(['compare', *[folder] * count, '--output', str(tmp_path / 'out')]) == 1
    assert f'{count} replays are too many to compare: name at most {len(LETTERS)}' in capsys.readouterr().err


def test_comparison_as_json(tmp_path: Path, rig: CameraRig, capsys):
    folders = [str(write_run(tmp_path / name, drive(said), rig)) for name, said in (('a', STOP), ('b', NONE))]
    assert main(['compare', *folders, '--output', str(tmp_path / 'out'), '--json']) == 0
    result = json.loads(capsys.readouterr().out)['result']
    assert result['ticks_differing'] == 1
    assert result['files'] == [str(tmp_path / 'out' / name) for name in ('compare.html', 'compare.json')]
