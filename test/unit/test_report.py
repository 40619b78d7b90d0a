"""The report: self-contained, bounded, honest about the model and the truth."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers.answers import make_answer
from helpers.replayed import page_of, summary_of

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Answer, Behavior, CameraState, Choice, Status, ViewReport
from stprune_ros.replay.album import Album
from stprune_ros.replay.moment import Moments, plain_values
from stprune_ros.replay.page import counted, short
from stprune_ros.replay.records import TickRecord, columns, stamp_text
from stprune_ros.replay.report import _shown, report_page
from stprune_ros.replay.summary import MAX_SENTENCES, ReplayStatistics, Sentences, quantiles
from stprune_ros.settings.settings import Settings

START_NS = 1_700_000_000 * 10**9

RIG = """
cameras:
  front: {width: 64, height: 48, hfov_deg: 90, azimuth_deg: 0}
  right: {width: 64, height: 48, hfov_deg: 90, azimuth_deg: -80}
  left: {width: 64, height: 48, hfov_deg: 90, azimuth_deg: 80}
"""


@pytest.fixture
def rig(tmp_path: Path) -> CameraRig:
    path = tmp_path / 'rig.yaml'
    path.write_text(RIG)
    return CameraRig.from_file(path)


def answer(behavior: Behavior = Behavior.STOP, **changes) -> Answer:
    keep = np.zeros((2, 3, 4), bool)
    keep[1, 0, :2] = True
    view = ViewReport('front', CameraState.OK, 5, 2, 24, 2, keep)
    missing = [ViewReport(camera, CameraState.MISSING) for camera in ('right', 'left')]
    values = {
        'sequence': 1,
        'stamp_ns': START_NS,
        'status': Status.OK,
        'behavior': behavior,
        'distribution': ((Behavior.STOP, 0.75), (Behavior.NONE, 0.25)),
        'confidence': 0.75,
        'text': 'A <b>van</b> & a dog',
        'views': (view, *missing),
        'model_id': 'model',
        'stage_ms': {'encode': 3.0, 'hint': 1.0},
    }
    return make_answer(**{**values, **changes})


def governed(ratio: float, hint_ms: float, wait_ms: float = 0.0) -> Answer:
    return answer(keep_ratio=ratio, wait_ms=wait_ms, hint_ms=hint_ms, choice=Choice(ratio, hint_ms, 50.0))


def drive(*behaviors: Behavior, **changes) -> list[Answer]:
    """One answer after another, ten in a second."""
    return [
        answer(behavior, stamp_ns=START_NS + i * 10**8, sequence=i, **changes) for i, behavior in enumerate(behaviors)
    ]


def data_of(html: str) -> dict:
    """What the page's script reads."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


class Tags(HTMLParser):
    """Checks that every tag that opens also closes, in order; collects links and ids."""

    EMPTY = frozenset({'meta', 'img', 'br', 'input'})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag not in self.EMPTY:
            self.open.append(tag)
        self.links += [value for name, value in attributes if name in ('src', 'href')]
        self.ids += [value for name, value in attributes if name == 'id']

    def handle_endtag(self, tag):
        if tag in ('path', 'rect') and (not self.open or self.open[-1] != tag):
            return
        while self.open and self.open[-1] in ('path', 'rect') and tag not in ('path', 'rect'):
            self.open.pop()
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_from_outside(rig: CameraRig):
    html = page_of(drive(Behavior.STOP, Behavior.NONE), rig, ['STOP', 'STOP'])
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    assert all(link.startswith('#') and link[1:] in tags.ids for link in tags.links)
    assert not re.search(r'https?://(?!www\.w3\.org/2000/svg)|@import|<link|<iframe', html)


def test_only_the_own_script_may_run(rig: CameraRig):
    html = page_of(drive(Behavior.STOP), rig)
    [script] = re.findall(r'<script>(.*?)</script>', html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert unescape(policy) == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )


def test_texts_from_outside_are_escaped(rig: CameraRig):
    evil = '</script><script>alert(1)</script><img src=x>'
    given = drive(Behavior.STOP, text=evil, notes=(evil,), model_id=evil)
    html = page_of(given, rig, ['STOP'], bag=f'a {evil}', errors=[f'broken {evil}'], prompt_id=evil)
    assert 'alert(1)</script>' not in html and '<img src=x' not in html
    found = data_of(html)
    assert found['texts'][found['text'][0]] == evil
    assert found['texts'][found['true_text'][0]] == 'really <so>'
    assert [found['texts'][note] for note in found['notes'][0]] == [evil]
    shown = unescape(re.sub(r'<script.*?</script>', '', html, flags=re.DOTALL))
    assert f'broken {evil}' in shown and f'a {evil}' in shown


def test_every_tick_has_its_numbers(rig: CameraRig):
    given = drive(Behavior.STOP, Behavior.NONE, hint_ms=45.0, wait_ms=10.0)
    given.append(answer(status=Status.ERROR, stamp_ns=START_NS + 250_000_001, views=(), distribution=(), stage_ms={}))
    found = data_of(page_of(given, rig, ['STOP', 'STOP', 'NONE']))
    assert found['stamp'] == ['1700000000.000000000', '1700000000.100000000', '1700000000.250000001']
    assert found['seconds'] == [0, 0.1, 0.25]
    assert found['said'] == ['STOP', 'NONE', 'ERROR']
    assert found['confidence'] == [0.75, 0.75, None]
    assert found['shares'] == {'STOP': [0.75, 0.75, 0], 'NONE': [0.25, 0.25, 0]}
    assert found['stages'] == {'encode': [3, 3, 0], 'hint': [1, 1, 0]}
    assert found['hint_ms'] == [55, 55, None]
    assert found['kept'] == {'front': [2, 2, 0], 'right': [0, 0, 0], 'left': [0, 0, 0]}
    assert found['full']['front'] == [24, 24, 0]
    assert found['state']['right'] == ['MISSING', 'MISSING', 'UNKNOWN']
    assert found['truth'] == ['STOP', 'STOP', 'NONE']
    assert found['speed'] == [3.0] * 3
    assert list(found['kept']) == ['front', 'right', 'left'], 'ring order'


def test_numbers_that_are_none_stay_valid_json(rig: CameraRig):
    html = page_of(drive(Behavior.STOP, distribution=((Behavior.STOP, math.nan),), confidence=math.inf), rig)
    assert data_of(html)['shares'] == {'STOP': [None]} and data_of(html)['confidence'] == [None]


def test_the_command_replays_the_moment_from_anywhere(rig: CameraRig, tmp_path: Path):
    bag, output = tmp_path / "it's a bag", tmp_path / 'out put'
    found = Moments(bag, output).command()
    assert found == (
        f"cd {Path.cwd()} && stprune replay '{tmp_path}/it'\"'\"'s a bag' --params '{output}/replay.param.yaml'"
        f" --from STAMP --until STAMP --output '{output}/at_STAMP'"
    )
    data = data_of(page_of(drive(Behavior.STOP), rig))
    assert data['command'] == Moments(Path('bag'), Path('out')).command() and data['stamp_word'] == 'STAMP'


def test_events_are_listed_with_what_happened(rig: CameraRig):
    given = drive(Behavior.STOP, Behavior.STOP, Behavior.NONE, views=())
    given.append(answer(status=Status.TIMEOUT, stamp_ns=START_NS + 10**9, views=()))
    html = unescape(page_of(given, rig, ['STOP', 'STOP', 'STOP', '']))
    found = re.findall(
        r'data-tick="(\d)"><span class="time"></span> (.*?)</button> <span class="small soft">(.*?)</s', html
    )
    assert found == [
        ('2', 'stop → no restriction', 'the hint changes, truth: stop'),
        ('3', 'no restriction → timeout', 'the hint changes, no valid hint'),
    ]
    assert 'Ticks with a picture:\n4 of 4; of those in which the hint changes 2 of 2.' in html


def test_events_beyond_a_number_are_only_counted(rig: CameraRig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('stprune_ros.replay.report.MAX_EVENTS', 2)
    html = page_of(drive(*[Behavior.STOP, Behavior.NONE] * 3, views=()), rig)  # the hint changes in each but the first
    assert re.findall(r'data-tick="(\d)"', html) == ['1', '2']
    assert '<p class="soft">and 3 more.</p>' in html
    assert 'more.</p>' not in page_of(drive(Behavior.STOP, Behavior.NONE, views=()), rig)


def test_a_change_without_room_for_its_picture_is_told(rig: CameraRig):
    html = page_of(drive(*[Behavior.STOP, Behavior.NONE] * 3, views=()), rig, jpeg=bytes(700_000))
    assert [*data_of(html)['pictures']] == ['1', '5']
    assert 'Ticks with a picture:\n2 of 6; of those in which the hint changes 2 of 5.' in html
    pictured = re.findall(r'data-tick="(\d)".*?<span class="small soft">the hint changes(.*?)</span>', html)
    assert pictured == [(str(n), '' if n in (1, 5) else '; no picture') for n in range(1, 6)]
    drawn = page_of(drive(Behavior.STOP, Behavior.STOP, Behavior.NONE), rig, ['NONE'] * 3)
    assert '3 of 3; of those in which the hint changes 1 of 1.' in drawn, 'a wrong hint is no change'


def test_the_large_numbers_are_what_they_are_called(rig: CameraRig):
    given = [answer(hint_ms=ms) for ms in (10.0, 20.0, 90.0)]
    given = [
        replace(one, timing=replace(one.timing, stage_ms={'hint': ms, 'describe': 2 * ms}))
        for one, ms in zip(given, (10.0, 20.0, 90.0), strict=True)
    ]
    html = page_of(given, rig, ['STOP', 'NONE', 'NONE'], sets_partial=2, sets_skipped=5)
    assert re.findall(r'<li class="card"><b>(.*?)</b><span class="soft small">(.*?)</span>', html) == [
        ('3', 'ticks; frame sets: 3 full, 2 partial, 5 skipped'),
        ('8.3 %', 'visual tokens kept: 2 of 24 per tick'),
        ('1 of 3', 'hints equal the truth; 2 do not'),
        ('20 ms', 'up to the hint, median; 95 % stay below 83 ms'),
        ('60 ms', 'whole tick, description included, median; 95 % stay below 249 ms'),
    ]
    rows = re.findall(
        r'<tr><th scope="row">([\w ]+)</th><td>([\d.]+)</td><td>([\d.]+)</td><td>([\d.]+)</td></tr>', html
    )
    assert rows == [
        ('hint', '20.0', '83.0', '90.0'),
        ('describe', '40.0', '166.0', '180.0'),
        ('up to the hint', '20.0', '83.0', '90.0'),
        ('whole tick', '60.0', '249.0', '270.0'),
    ]


def test_what_was_said_stands_before_what_was_true(rig: CameraRig):
    html = page_of(drive(Behavior.STOP, Behavior.STOP, Behavior.NONE), rig, ['STOP', 'NONE', 'YIELD'])
    rows = re.findall(r'<tr><th scope="row">([\w ]+)</th><td>(\d)</td><td>(\d)</td></tr>', html)
    assert rows == [('no restriction', '1', '1'), ('stop', '2', '1'), ('yield', '0', '1')]


def test_what_was_warned_says_when(rig: CameraRig):
    given = drive(Behavior.STOP, Behavior.STOP, Behavior.STOP, notes=('always',))
    html = page_of(given, rig, errors=['once'])
    rows = re.findall(r'<tr><td>(\w+)</td><td>(\d)</td><td class="mono">(.*?)</td><td class="mono">(.*?)</td>', html)
    assert rows == [
        ('once', '1', '1700000000.200000000', '1700000000.200000000'),
        ('always', '3', '1700000000.000000000', '1700000000.200000000'),
    ]


def test_parameters_that_differ_are_marked_and_versions_stand_there(rig: CameraRig):
    values = {**plain_values(Settings()), 'pruning.keep_ratio': 0.25}
    html = page_of(drive(Behavior.STOP), rig, parameters=values, versions={'torch': '9.8.7'})
    assert re.findall(r'<dt><b>(.*?) \*</b></dt><dd>(.*?)</dd>', html) == [('pruning.keep_ratio', '0.25')]
    assert html.count('<dt>pruning.') == sum(name.startswith('pruning.') for name in values) - 1
    assert '<dt>torch</dt><dd>9.8.7</dd>' in html


def test_a_span_is_named(rig: CameraRig):
    html = page_of(
        drive(Behavior.STOP), rig, span={'from_ns': START_NS, 'until_ns': START_NS + 5, 'nearest_ns': START_NS}
    )
    assert 'from 1700000000.000000000 until 1700000000.000000005' in html


def test_200_ticks_stay_below_3_mb_and_more_cost_little(rig: CameraRig):
    notes = tuple(f'a note of usual length about camera number {i}' for i in range(3))
    stages = dict.fromkeys(('decode', 'prepare', 'encode', 'prune', 'prefill', 'hint', 'describe'), 123.4)
    given = drive(*[Behavior.STOP, Behavior.NONE] * 500, notes=notes, stage_ms=stages)
    given = [
        replace(one, description=replace(one.description, text=f'{i} {"word " * 20}')) for i, one in enumerate(given)
    ]
    picture = bytes(90_000)
    few, many = page_of(given[:200], rig, jpeg=picture), page_of(given, rig, jpeg=picture)
    assert len(few) < 3_000_000
    assert len(many) - len(few) < 800 * 400
    assert len(data_of(few)['pictures']) == len(data_of(many)['pictures']) == 22


@pytest.mark.parametrize('trained', [True, False])
def test_untrained_model_is_marked(rig: CameraRig, trained: bool):
    assert ('This model is not trained.' in page_of([answer(model_trained=trained)], rig)) is not trained


def test_latency_in_the_summary(rig: CameraRig):
    statistics = ReplayStatistics()
    for each in (governed(0.4, 30.0), governed(0.2, 45.0, 10.0), governed(0.1, math.nan)):
        statistics.add(each)
    summary = statistics.summary(Path('bag'), Settings(), rig, 'front', {}, {'images': {}, 'odometry': ''})
    assert summary['latency'] == {
        'target_ms': 50.0,
        'ticks': 3,
        'met': 1,
        'met_share': 0.3333,
        'out_of_reach': 0,
        'keep_ratio': {'min': 0.1, 'median': 0.2, 'max': 0.4},
    }
    assert summary['hint_ms']['max'] == 45.0
    assert summary['tick_ms']['max'] == 4.0


def test_summary_tells_views_and_counters_apart(rig: CameraRig):
    statistics = ReplayStatistics()
    off = ViewReport('front', CameraState.OK, 5, 1, 100, 13)
    more, less = replace(off, tokens_kept=18), replace(off, camera='right', tokens_kept=2)  # one budget for both
    for each in (answer(views=(off,)), answer(views=(more, less)), answer()):
        statistics.add(each)
    counters = {'sets_full': 3, 'ticks': 3, 'odometry': 7}
    summary = statistics.summary(Path('bag'), Settings(), rig, 'front', counters, {'images': {}, 'odometry': ''})
    assert summary['counters'] == {'odometry': 7}
    assert summary['tokens_off_budget_max'] == 3.0, 'the worst tick, not the last one'
    assert {camera: view['ticks_without'] for camera, view in summary['views'].items()} == {
        'front': 0, 'right': 1, 'left': 1,
    }  # fmt: skip
    overlaps = [view['overlap_right_deg'] for view in summary['views'].values()]
    assert overlaps == pytest.approx([10.0, 0.0, 10.0], abs=1.0)


def test_a_run_of_nothing_but_errors_has_seen_no_camera(rig: CameraRig):
    statistics = ReplayStatistics()
    statistics.add(answer(status=Status.ERROR, views=()))
    summary = statistics.summary(Path('bag'), Settings(), rig, 'front', {}, {'images': {}, 'odometry': ''})
    assert summary['cameras_missing'] == list(rig.ring)


def test_quantiles_are_what_they_are_called():
    assert quantiles(range(101)) == {'p50': 50.0, 'p95': 95.0, 'max': 100.0}


def test_sentences_are_bounded():
    sentences = Sentences()
    news = [sentences.add(f'error {number % 80}') for number in range(200)]
    listed = sentences.listed()
    assert len(listed) == MAX_SENTENCES + 1
    assert sum(listed.values()) == sentences.total == 200
    assert sum(news) == MAX_SENTENCES


def test_times_of_sentences():
    sentences = Sentences()
    for stamp in (0, 3, 9):
        sentences.add('a', stamp)
    sentences.add('b', 4)
    assert sentences.timed() == [
        {'sentence': 'a', 'count': 3, 'first_ns': 0, 'last_ns': 9},
        {'sentence': 'b', 'count': 1, 'first_ns': 4, 'last_ns': 4},
    ]


def test_missing_cameras_are_said(rig: CameraRig):
    assert 'never seen: right, left' in page_of(drive(Behavior.STOP), rig)


def test_latency_target_and_what_became_of_it(rig: CameraRig):
    given = [governed(0.4, 30.0), governed(0.2, 45.0), governed(0.05, 60.0), governed(0.05, 48.0)]
    html = page_of(given, rig)
    assert '<b>75 %</b>' in html
    assert 'keep ratio 0.05 to 0.4, 1 out of reach' in html
    assert data_of(html)['ratio'] == [0.4, 0.2, 0.05, 0.05]


def test_truth_is_counted(rig: CameraRig):
    given = [answer(), answer(Behavior.NONE), answer(status=Status.STALE)]
    assert '<b>1 of 3</b>' in page_of(given, rig, ['STOP'] * 3)
    assert 'the truth' not in re.sub(r'<script>.*?</script>', '', page_of(given, rig), flags=re.DOTALL)


def test_interrupted_runs_and_errors_are_marked(rig: CameraRig):
    html = page_of(drive(Behavior.STOP), rig, interrupted=True, errors=['broken'])
    assert '<b>Interrupted.</b>' in html and '<b>1 error,</b> listed under' in html
    assert 'class="warning"><b>' not in page_of(drive(Behavior.STOP), rig)


def test_a_cut_description_looks_like_it():
    cut, whole = (TickRecord.from_answer(answer(truncated=truncated)) for truncated in (True, False))
    assert columns([cut, whole])['texts'] == ['A <b>van</b> & a dog ...', 'A <b>van</b> & a dog', '']


def test_the_ring_is_drawn_as_seen_from_above(rig: CameraRig):
    html = page_of(drive(Behavior.STOP), rig)
    places = {
        number: float(x) for x, number in re.findall(r'<text x="([-.0-9]+)" y="[-.0-9]+" [^>]*>(\d)</text>', html)
    }
    assert abs(places['1']) < 1
    assert places['2'] > 10, 'the right camera is on the right'
    assert places['3'] < -10
    assert '<text x="0.0" y="-70.0"' in html.replace('-0.0', '0.0'), 'the front is up'
    sectors = re.findall(r'd="M0 0 L(\S+) (\S+) A100 100 0 (\d) 1 (\S+) (\S+) Z"><title>(.*?)</title>', html)
    assert sectors[0] == ('-70.2', '-71.3', '0', '70.2', '-71.3', 'front: 89 degrees'), 'clockwise from its left end'
    looks = re.findall(r'<th scope="row">\d (\w+)</th><td>([\w-]+)</td>', html)
    assert looks == [(camera, rig.direction(camera)) for camera in ('front', 'right', 'left')]
    assert len({direction for _, direction in looks}) == 3


def test_more_than_half_a_circle_is_drawn_the_long_way_round(tmp_path: Path):
    path = tmp_path / 'rig.yaml'
    wide = '{width: 64, height: 64, hfov_deg: 220, azimuth_deg: 180, distortion_model: equidistant, d: [0, 0, 0, 0]}'
    path.write_text(f'{RIG}  back: {wide}\n')
    html = page_of([answer()], CameraRig.from_file(path))
    drawn = re.findall(r'0 (\d) 1 \S+ \S+ Z"><title>(\w+): (\d+) degrees', html)
    assert [one[:2] for one in drawn] == [('0', 'front'), ('0', 'right'), ('1', 'back'), ('0', 'left')]
    assert [int(degrees) for *_, degrees in drawn] == pytest.approx([90, 90, 220, 90], abs=4)


def test_page_of_nothing(rig: CameraRig):
    html = report_page(summary_of([], rig), [], Album(), rig, Moments(Path('bag'), Path('out')))
    assert 'There is no tick to look at.' in html and 'id="slider"' not in html


def test_nothing_and_zero_are_told_apart(rig: CameraRig):
    assert [short(None), short(0.0), short(1.25, 2)] == ['n/a', '0.0', '1.25']
    assert [counted(number, 'tick') for number in (0, 1, 2)] == ['0 ticks', '1 tick', '2 ticks']
    found = columns([TickRecord.from_answer(answer(stage_ms={'hint': 3.25}), speed) for speed in (None, 0.0, 1.26)])
    assert (found['speed'], found['stages']) == ([None, 0.0, 1.3], {'hint': [3.2] * 3})


@pytest.mark.parametrize('stamp_ns', [0, 5, 10**9, START_NS + 123_456_789])
def test_stamps_are_exact(stamp_ns: int):
    seconds, _, rest = stamp_text(stamp_ns).partition('.')
    assert int(seconds) * 10**9 + int(rest) == stamp_ns and len(rest) == 9


@pytest.mark.parametrize(
    ('weight', 'held', 'text'), [(-1.0, 0.6, '-1: left to the model, 0.6'), (-1.0, None, -1.0), (3.0, 3.0, 3.0)]
)
def test_a_parameter_that_is_left_to_the_model_shows_what_held(weight, held, text):
    assert _shown('pruning.joint_common', weight, {'joint_common': held}) == text
    assert _shown('pruning.keep_ratio', -1.0, {'joint_common': held}) == -1.0
