"""The report: self-contained, bounded, honest about the model and the truth."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers.answers import make_answer

from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Answer, Behavior, CameraState, Choice, Status, ViewReport
from stprune_ros.io.drawing import VIEW_QUALITY, encode_jpeg, encode_png, history_masks, kept_tokens
from stprune_ros.io.ground_truth import TickTruth
from stprune_ros.replay.replay import SHOWN_TICKS, EvenSampler
from stprune_ros.replay.report import ReportTick, TimelinePoint, ViewPicture, render
from stprune_ros.replay.summary import MAX_SENTENCES, ReplayStatistics, Sentences, quantiles
from stprune_ros.settings.settings import Settings

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
        'stamp_ns': 5,
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


def page(rig: CameraRig, answers: list[Answer], truths: list[str], errors: tuple[str, ...] = ()) -> str:
    statistics = ReplayStatistics()
    for each, truth in zip(answers, truths):
        statistics.add(each, truth)
    for error in errors:
        statistics.errors.add(error)
    topics = {'images': {}, 'odometry': ''}
    summary = statistics.summary(Path('a <bag>'), Settings(), rig, 'front', {'sets_full': len(answers)}, topics)
    timeline = [TimelinePoint.from_answer(each, i / 10, truth) for i, (each, truth) in enumerate(zip(answers, truths))]
    image = np.full((48, 64, 3), 200, np.uint8)
    keep = answers[0].views[0].keep
    front = encode_jpeg(kept_tokens(image, keep[-1]), VIEW_QUALITY)
    pictures = (
        ViewPicture('front', 'front', front, encode_png(history_masks(keep))),
        ViewPicture('right', 'right'),
    )
    shown = [
        ReportTick(each, 0.1, pictures, 3.0, TickTruth(truth, 'really <so>')) for each, truth in zip(answers, truths)
    ]
    return render(summary, timeline, shown[:SHOWN_TICKS], rig)


class Tags(HTMLParser):
    """Checks that every tag that opens also closes, in order."""

    EMPTY = frozenset({'meta', 'img', 'br'})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag not in self.EMPTY:
            self.open.append(tag)
        self.sources += [value for name, value in attributes if name in ('src', 'href')]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_from_outside(rig: CameraRig):
    html = page(rig, [answer()], ['STOP'])
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.sources
    assert all(source.startswith('data:image/') for source in tags.sources)
    assert not re.search(r'https?://|@import|url\(|<script|<link', html)


def test_texts_from_outside_are_escaped(rig: CameraRig):
    html = page(rig, [answer()], ['STOP'], ('broken <image>',))
    assert 'A &lt;b&gt;van&lt;/b&gt; &amp; a dog' in html
    assert 'a &lt;bag&gt;' in html
    assert 'really &lt;so&gt;' in html
    assert '1 &times; broken &lt;image&gt;' in html


def test_truth_is_counted_and_shown(rig: CameraRig):
    html = page(rig, [answer(), answer(Behavior.NONE), answer(status=Status.STALE)], ['STOP', 'STOP', 'STOP'])
    assert '1 of 3' in html
    assert '&#10003; so is the truth' in html
    assert '&#10007; truth: stop' in html


def test_without_truth_nothing_is_said_about_it(rig: CameraRig):
    html = page(rig, [answer()], [''])
    assert 'the truth' not in html
    assert '>truth<' not in html


@pytest.mark.parametrize('trained', [True, False])
def test_untrained_model_is_marked(rig: CameraRig, trained: bool):
    assert ('This model is not trained.' in page(rig, [answer(model_trained=trained)], [''])) is not trained


def test_missing_view_is_said(rig: CameraRig):
    html = page(rig, [answer()], [''])
    assert 'no usable frame: missing' in html
    assert 'never seen: right, left' in html


def test_a_thousand_ticks_make_no_larger_page(rig: CameraRig):
    few, many = page(rig, [answer()] * 12, ['STOP'] * 12), page(rig, [answer()] * 1000, ['STOP'] * 1000)
    assert len(many) < len(few) + 200


def test_latency_target_and_what_became_of_it(rig: CameraRig):
    html = page(rig, [governed(0.4, 30.0), governed(0.2, 45.0), governed(0.05, 60.0), governed(0.05, 48.0)], [''] * 4)
    assert '75 %' in html
    assert 'keep ratio 0.05 to 0.4, 1 out of reach' in html
    assert html.count('<polyline') == 2
    assert '<polyline' not in page(rig, [answer()], [''])


def test_a_thousand_governed_ticks_make_no_larger_page(rig: CameraRig):
    few, many = ([governed(0.1 + i % 7 / 10, 40.0 + i % 20) for i in range(count)] for count in (150, 3000))
    assert len(page(rig, many, [''] * 3000)) < len(page(rig, few, [''] * 150)) + 300


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


def test_pictures_stand_as_seen_from_above(rig: CameraRig):
    names = ('front', 'front right', 'back right', 'back', 'back left', 'front left')
    tick = ReportTick(answer(), 0.0, tuple(ViewPicture(name, name) for name in names))
    shown = re.findall(r'<div class="view" title="([a-z ]+)">', render_only(rig, tick))
    assert shown == ['front left', 'front', 'front right', 'back left', 'back', 'back right']


def render_only(rig: CameraRig, tick: ReportTick) -> str:
    summary = ReplayStatistics().summary(Path('bag'), Settings(), rig, 'front', {}, {'images': {}, 'odometry': ''})
    return render(summary, [], [tick], rig)


def test_quantiles_are_what_they_are_called():
    assert quantiles(range(101)) == {'p50': 50.0, 'p95': 95.0, 'max': 100.0}


def test_a_cut_description_and_an_invalid_hint_look_like_it(rig: CameraRig):
    cut, whole = page(rig, [answer(truncated=True)], ['']), page(rig, [answer()], [''])
    assert '&hellip;' in cut
    assert '&hellip;' not in whole
    sure = '<span class="small soft">75 %</span>'
    assert sure in whole
    assert sure not in page(rig, [answer(status=Status.TIMEOUT)], [''])


def test_the_ring_is_drawn_as_seen_from_above(rig: CameraRig):
    html = page(rig, [answer()], [''])
    places = {
        number: float(x) for x, number in re.findall(r'<text x="([-.0-9]+)" y="[-.0-9]+" [^>]*>(\d)</text>', html)
    }
    assert abs(places['1']) < 1
    assert places['2'] > 10, 'the right camera is on the right'
    assert places['3'] < -10


def test_time_line_counts_from_the_anchor_stamp():
    point = TimelinePoint.from_answer(governed(0.2, 45.0, 10.0), 1.0, 'STOP')
    assert point == TimelinePoint(1.0, 'OK', 'STOP', 'STOP', 0.2, 55.0)


def test_page_of_nothing(rig: CameraRig):
    summary = ReplayStatistics().summary(Path('bag'), Settings(), rig, 'front', {}, {'images': {}, 'odometry': ''})
    assert 'no tick' in render(summary, [], [], rig)


@pytest.mark.parametrize('count', [1, 12, 13, 100, 1000])
def test_shown_ticks_are_spread_evenly(count: int):
    sampler = EvenSampler(12)
    for index in range(count):
        sampler.add(ReportTick(answer(), float(index), ()) if sampler.wants_next() else None)
    times = [tick.seconds for tick in sampler.kept]
    assert min(count, 6) <= len(times) <= 12
    assert len({b - a for a, b in itertools.pairwise(times)}) <= 1
    assert times[0] == 0
    assert times[-1] >= count - 1 - sampler.step


def test_sentences_are_bounded():
    sentences = Sentences()
    news = [sentences.add(f'error {number % 80}') for number in range(200)]
    listed = sentences.listed()
    assert len(listed) == MAX_SENTENCES + 1
    assert sum(listed.values()) == sentences.total == 200
    assert sum(news) == MAX_SENTENCES
