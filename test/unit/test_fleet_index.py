"""What an index says: entries of runs, sums by setting, which bag is the worst, rows of ticks, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.answers import make_answer
from helpers.replayed import summary_of, write_run
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Behavior, CameraState, Status, ViewReport
from stprune_ros.fleet.index import DONE, FAILED, Entry, badness, content, hints_in, join_rows, write_rows
from stprune_ros.fleet.page import fleet_page
from stprune_ros.fleet.plan import Drive, Run, settings_of
from stprune_ros.settings.settings import Settings

RIG = """
cameras:
  front: {width: 64, height: 48, hfov_deg: 90, azimuth_deg: 0}
  back: {width: 64, height: 48, hfov_deg: 90, azimuth_deg: 180}
"""
FACTS = {'version': '1', 'date': 'today', 'notes': []}
START_NS = 1_700_000_000 * 10**9
EVIL = '</script><img src=x onerror="alert(1)">'


@pytest.fixture
def rig(tmp_path: Path) -> CameraRig:
    path = tmp_path / 'rig.yaml'
    path.write_text(RIG)
    return CameraRig.from_file(path)


def run_of(bag: str, ratio: str = '0.1') -> Run:
    [setting] = settings_of(Settings(), [f'pruning.keep_ratio={ratio}'])
    return Run(Drive(Path('drives', bag), bag, 10), setting)


def entry(bag: str, ratio: str, said: str, **more: Any) -> Entry:
    """A run whose hints are these letters, one a tick."""
    names = {'S': 'STOP', 'N': 'NONE', 'x': 'INVALID'}
    hints = [names[one] for one in said]
    summary = {
        'ticks': len(said),
        'sets_full': len(said),
        'status': {'OK': len(said) - said.count('x'), 'INVALID': said.count('x')},
        'hints': {hint: hints.count(hint) for hint in set(hints)},
        'tokens_full': 100.0,
        'tokens_kept': 100.0 * float(ratio),
        'hint_ms': {'p50': 10.0, 'p95': 20.0, 'max': 30.0},
        'errors': 0,
        'truth': None,
        **more,
    }
    return Entry(run_of(bag, ratio), DONE, summary=summary, said={(n, 0): hint for n, hint in enumerate(hints)})


def test_flips_are_counted_against_the_first_setting_of_the_same_bag():
    found = content([entry('a', '0.1', 'SSNNN'), entry('a', '0.2', 'SNNNx'), entry('b', '0.1', 'N')], FACTS)
    runs = {(run['bag'], run['values']['pruning.keep_ratio']): run for bag in found['bags'] for run in bag['runs']}
    assert runs['a', '0.1']['flips'] is None and runs['b', '0.1']['flips'] is None
    assert runs['a', '0.2']['flips'] == {'ticks': 2, 'common': 5}
    assert runs['a', '0.2']['not_valid'] == 1
    assert [one['flips'] for one in found['settings']] == [None, {'ticks': 2, 'common': 5}]


def test_flips_are_of_ticks_that_both_have():
    short, long = entry('a', '0.1', 'SS'), entry('a', '0.2', 'SNN')
    assert content([short, long], FACTS)['settings'][1]['flips'] == {'ticks': 1, 'common': 2}
    missing = Entry(run_of('a', '0.1'))
    assert content([missing, long], FACTS)['settings'][1]['flips'] is None


def test_settings_are_summed_over_bags_and_weighted_by_ticks():
    first = entry('a', '0.1', 'SSS', tokens_kept=10.0, truth={'known': 3, 'hits': 2, 'misses': 1}, errors=1)
    other = entry('b', '0.1', 'N', tokens_kept=30.0, hint_ms={'p50': 30.0, 'p95': 90.0, 'max': 99.0})
    [found] = content([first, other, Entry(run_of('c'))], FACTS)['settings']
    assert (found['done'], found['runs'], found['ticks'], found['errors']) == (2, 3, 4, 1)
    assert found['tokens_kept'] == 15.0
    assert found['truth'] == {'known': 3, 'hits': 2, 'misses': 1}
    assert found['hint_ms'] == {'p50': 20.0, 'p95': 90.0}
    assert found['hints'] == {'NONE': 1, 'STOP': 3}


def test_of_a_replay_that_failed_only_errors_count():
    """In most of its ticks nothing could be inferred: its means and its flips are those of nothing."""
    failed = entry('b', '0.1', 'xxxS', tokens_kept=1.0, errors=3, truth={'known': 1, 'hits': 0, 'misses': 1})
    failed.state, failed.sentence = FAILED, 'no memory'
    other = entry('b', '0.2', 'NNNN')
    found = content([entry('a', '0.1', 'SS', tokens_kept=10.0), failed, entry('a', '0.2', 'SN'), other], FACTS)
    first, second = found['settings']
    assert (first['done'], first['runs'], first['ticks'], first['errors']) == (1, 2, 2, 3)
    assert (first['tokens_kept'], first['hints'], first['not_valid'], first['truth']) == (10.0, {'STOP': 2}, 0, None)
    assert second['flips'] == {'ticks': 1, 'common': 2}
    [only] = content([failed], FACTS)['settings']
    assert (only['tokens_kept'], only['hint_ms'], only['truth'], only['ticks']) == (0.0, None, None, 0)
    flips = [run['flips'] for bag in found['bags'] for run in bag['runs'] if run['bag'] == 'b']
    assert flips == [None, None]


def test_what_is_counted_adds_up():
    entries = [entry('a', '0.1', 'S'), Entry(run_of('b'), FAILED, 'no bag', deaths=3), Entry(run_of('c'))]
    found = content(entries, FACTS)
    assert [found[key] for key in ('runs', 'done', 'failed', 'missing', 'ticks', 'deaths')] == [3, 1, 1, 1, 1, 3]
    assert [bag['bag'] for bag in found['bags']] == ['b', 'a', 'c']
    assert found['bags'][0]['runs'][0]['sentence'] == 'no bag' and found['bags'][0]['runs'][0]['folder'] == ''


def test_the_worst_bags_come_first():
    entries = [
        entry('slow', '0.1', 'SSSS', hint_ms={'p50': 1.0, 'p95': 999.0, 'max': 1e3}),
        entry('good', '0.1', 'SSSS'),
        entry('wrong', '0.1', 'SSSS', truth={'known': 4, 'hits': 1, 'misses': 3}),
        entry('invalid', '0.1', 'SxSS'),
        entry('errors', '0.1', 'SSSS', errors=1),
        Entry(run_of('missing')),
        Entry(run_of('failed'), FAILED, 'no'),
        entry('flips', '0.1', 'SSSS'),
        entry('flips', '0.2', 'SSNN'),
    ]
    order = [bag['bag'] for bag in content(entries, FACTS)['bags']]
    assert order == ['failed', 'errors', 'invalid', 'wrong', 'flips', 'slow', 'good', 'missing']


@given(st.integers(0, 50), st.integers(1, 50), st.integers(1, 50))
def test_more_errors_of_as_many_ticks_are_worse(errors: int, more: int, ticks: int):
    fine, worse = (
        content([entry('a', '0.1', 'S' * ticks, errors=number)], FACTS)['bags'][0]['runs'][0]
        for number in (errors, errors + more)
    )
    assert badness(fine) < badness(worse)


def test_the_page_escapes_what_others_wrote_and_links_to_reports(rig: CameraRig):
    evil = Entry(Run(Drive(Path(EVIL), EVIL, 1), run_of('a').setting), FAILED, f'not readable: {EVIL}')
    fine = entry('one #1', '0.1', 'SN')
    text = fleet_page(json.loads(json.dumps(content([fine, evil], {**FACTS, 'notes': [EVIL]}))))
    assert EVIL not in text and '<script' not in text
    assert 'href="one%20%231/pruning.keep_ratio=0.1/report.html"' in text
    assert text.count('not readable: ') == 1


def test_a_stamp_that_comes_again_has_a_row_again(tmp_path: Path, rig: CameraRig):
    pytest.importorskip('pyarrow', reason="pyarrow is not installed: pip install '.[fleet]'")
    said = [Behavior.STOP, Behavior.NONE, Behavior.STOP]
    answers = [
        make_answer(
            Status.OK, behavior=one, stamp_ns=START_NS + 10**8 * (n % 2), text=str(n), stage_ms={'hint': 1.0 + n}
        )
        for n, one in enumerate(said)
    ]
    rows = tmp_path / 'rows' / 'a.parquet'
    write_rows(write_run(tmp_path / 'run', answers, rig), run_of('a'), rows)
    found = sorted((row['stamp_ns'], row['hint'], row['description'], row['tick_ms']) for row in _read(rows))
    assert found == [(START_NS, 'STOP', '0', 1.0), (START_NS, 'STOP', '2', 3.0), (START_NS + 10**8, 'NONE', '1', 2.0)]


def test_hints_of_a_stamp_that_comes_again_are_compared_one_by_one(tmp_path: Path, rig: CameraRig):
    pytest.importorskip('pyarrow', reason="pyarrow is not installed: pip install '.[fleet]'")
    hints = []
    for name, said in (('a', 'SNS'), ('b', 'SNN')):
        behaviors = [{'S': Behavior.STOP, 'N': Behavior.NONE}[one] for one in said]
        answers = [make_answer(Status.OK, behavior=one, stamp_ns=START_NS, stage_ms={'hint': 1.0}) for one in behaviors]
        rows = tmp_path / f'{name}.parquet'
        write_rows(write_run(tmp_path / name, answers, rig), run_of('a'), rows)
        hints.append(hints_in(rows))
    assert hints[0] == {(START_NS, 0): 'STOP', (START_NS, 1): 'NONE', (START_NS, 2): 'STOP'}
    first, second = (Entry(run_of('a', ratio), DONE, said=said) for ratio, said in zip(('0.1', '0.2'), hints))
    assert content([first, second], FACTS)['settings'][1]['flips'] == {'ticks': 1, 'common': 3}


def test_rows_are_what_the_messages_say(tmp_path: Path, rig: CameraRig):
    pytest.importorskip('pyarrow', reason="pyarrow is not installed: pip install '.[fleet]'")
    views = (
        ViewReport('front', CameraState.OK, START_NS, 1, 40, 4),
        ViewReport('back', CameraState.MISSING),
    )
    answers = [
        make_answer(Status.OK, stamp_ns=START_NS, views=views, notes=('dark',), text='a car'),
        make_answer(Status.INVALID, stamp_ns=START_NS + 10**8, views=views),
    ]
    folder = write_run(tmp_path / 'run', answers, rig)
    rows = tmp_path / 'rows' / 'a.parquet'
    run = run_of('a')
    write_rows(folder, run, rows)
    first, second = _read(rows)
    hint = answers[0].hint
    assert (first['bag'], first['setting'], first['stamp_ns']) == ('a', run.setting.name, START_NS)
    assert first['hint'] == hint.behavior.name and first['status'] == 'OK' and first['truth'] is None
    assert first['confidence'] == pytest.approx(hint.confidence)
    for behavior, share in hint.distribution:
        assert first[f'p_{behavior.name.lower()}'] == pytest.approx(share)
    assert first['p_increase_gap'] is None or Behavior.INCREASE_GAP in dict(hint.distribution)
    assert (first['tokens_full'], first['tokens_kept']) == (40, 4)
    assert dict(first['cameras']) == {'front': 'OK', 'back': 'MISSING'}
    assert first['notes'] == ['dark'] and first['description'] == 'a car'
    assert dict(first['stage_ms']) == pytest.approx(dict(answers[0].timing.stage_ms))
    assert (second['hint'], second['confidence']) == ('INVALID', None)
    assert hints_in(rows) == {(START_NS, 0): hint.behavior.name, (START_NS + 10**8, 0): 'INVALID'}
    joined = tmp_path / 'all.parquet'
    join_rows([rows, rows], joined)
    assert [row['stamp_ns'] for row in _read(joined)] == [START_NS, START_NS + 10**8] * 2
    join_rows([], joined)
    assert _read(joined) == []


def _read(path: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    return list(parquet.read_table(path).to_pylist())


def test_a_summary_of_a_real_replay_is_understood(rig: CameraRig):
    answers = [make_answer(Status.OK, stamp_ns=START_NS + n * 10**8) for n in range(3)]
    summary = summary_of(answers, rig, truths=['STOP', 'NONE', 'NONE'], errors=['it broke'])
    found = content([Entry(run_of('a'), DONE, summary=summary)], FACTS)['bags'][0]['runs'][0]
    assert (found['ticks'], found['errors'], found['not_valid']) == (3, 1, 0)
    assert found['truth']['known'] == 3
    assert found['sets'] == {'full': 3, 'partial': 0, 'skipped': 0}
    assert found['hints'] == summary['hints'] and found['error_sentences'] == {'it broke': 1}
