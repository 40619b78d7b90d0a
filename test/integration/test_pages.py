"""The pages of two replays of the demo's drive in a real browser: by keyboard, on a phone, in the dark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.answers import make_answer
from helpers.browser import EVIL, FAINT, LONG, NAMELESS, OpenPage, chromium
from helpers.replayed import page_of, write_run

from stprune_ros.cli import main
from stprune_ros.commands.world import DEMO_SEED
from stprune_ros.core.rig import CameraRig
from stprune_ros.core.types import Behavior, CameraState, Status, ViewReport
from stprune_ros.io.bag_reader import Bag
from stprune_ros.replay.compare import compare
from stprune_ros.replay.results import HINT_TOPIC

TICKS, HZ = 60, 5
PHONE = 390


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's drive, replayed with all tokens and with a tenth of them, and both compared."""
    folder = tmp_path_factory.mktemp('demo')
    params = folder / 'params.yaml'
    params.write_text(json.dumps({'/**': {'ros__parameters': {'inference.describe': False}}}))
    world = ['world', str(folder / 'world'), '--seed', str(DEMO_SEED), '--seconds', str(TICKS / HZ), '--hz', str(HZ)]
    assert main(world) == 0
    for keep in ('1.0', '0.1'):
        output = str(folder / keep)
        assert main(['replay', str(folder / 'world'), '--output', output, '--keep', keep, '--params', str(params)]) == 0
    replays = [str(folder / keep) for keep in ('1.0', '0.1')]
    assert main(['compare', *replays, '--output', str(folder / 'compared')]) == 0
    return folder


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def hints(folder: Path) -> dict[int, str]:
    """What results.mcap says, read by its messages alone."""
    with Bag(folder / 'results.mcap') as bag:
        messages = [record.message() for record in bag.messages([HINT_TOPIC])]
    return {
        m.header.stamp.sec * 10**9 + m.header.stamp.nanosec: Behavior(m.behavior).name
        if Status(m.status).is_valid
        else Status(m.status).name
        for m in messages
    }


def test_compare_finds_exactly_the_ticks_whose_hints_differ(demo: Path):
    full, pruned = hints(demo / '1.0'), hints(demo / '0.1')
    found = json.loads((demo / 'compared' / 'compare.json').read_text())
    expected = [stamp for stamp in full if full[stamp] != pruned[stamp]]
    assert len(full) == len(pruned) == found['ticks_common'] == TICKS
    assert [tick['stamp_ns'] for tick in found['differing']] == expected
    for run, said in zip(found['runs'], (full, pruned)):
        summary = json.loads((Path(run['folder']) / 'summary.json').read_text())
        counted = {name: list(said.values()).count(name) for name in set(said.values())}
        assert summary['hints'] == counted
    assert found['runs'][0]['tokens_kept'] > 9 * found['runs'][1]['tokens_kept']


def test_slider_goes_by_keyboard_and_shows_each_tick(demo: Path, browser):
    said = list(hints(demo / '0.1').values())
    opened = OpenPage(browser, demo / '0.1' / 'report.html')
    page = opened.page
    page.focus('#slider')
    page.keyboard.press('Home')
    for tick in range(3):
        assert page.input_value('#slider') == str(tick)
        assert opened.text('#stamp') == f'1700000000.{2 * tick}00000000'
        assert f'tick {tick + 1} of {TICKS}' in page.get_attribute('#slider', 'aria-valuetext')
        assert opened.text('#command').count(opened.text('#stamp')) == 3
        page.keyboard.press('ArrowRight')
    page.keyboard.press('End')
    assert page.input_value('#slider') == str(TICKS - 1)
    page.keyboard.press('ArrowLeft')
    words = {'NONE': 'no restriction', 'SLOW_DOWN': 'slow down', 'STOP': 'stop'}
    assert opened.text('#said').startswith(words[said[TICKS - 2]])
    page.evaluate('document.activeElement.blur()')
    page.keyboard.press('ArrowLeft')
    assert page.input_value('#slider') == str(TICKS - 3), 'arrow keys work anywhere on the page'
    page.click('#next')
    assert page.input_value('#slider') == str(TICKS - 2)
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(('file:', 'data:'))] == []


def test_every_flip_of_the_demo_has_a_picture(demo: Path, browser):
    said = list(hints(demo / '0.1').values())
    flips = [tick for tick in range(1, TICKS) if said[tick] != said[tick - 1]]
    assert len(flips) >= 3
    opened = OpenPage(browser, demo / '0.1' / 'report.html')
    listed = {int(one.get_attribute('data-tick')) for one in opened.page.query_selector_all('[data-tick]')}
    assert set(flips) <= listed
    for tick in flips:
        opened.page.click(f'[data-tick="{tick}"]')
        assert opened.page.input_value('#slider') == str(tick)
        opened.page.wait_for_function('document.getElementById("picture").naturalWidth > 900')
        assert opened.page.is_visible('#picture') and not opened.page.is_visible('#unpictured')


def test_ticks_without_a_picture_lead_to_the_nearest_one(demo: Path, browser):
    opened = OpenPage(browser, demo / '0.1' / 'report.html')
    page = opened.page
    page.focus('#slider')
    page.keyboard.press('Home')
    while not page.is_visible('#unpictured'):
        page.keyboard.press('ArrowRight')
    page.click('#nearest')
    assert page.is_visible('#picture')


def test_lanes_have_a_point_for_every_tick(demo: Path, browser):
    opened = OpenPage(browser, demo / '0.1' / 'report.html')
    summary = json.loads((demo / '0.1' / 'summary.json').read_text())
    points = opened.points()
    groups = {group: [found for (one, _), found in points.items() if one == group] for group, _ in points}
    assert groups['hint'] == [[TICKS]] * 3
    assert groups['stages'] == [[2 * TICKS] * len(summary['stage_ms'])]
    assert groups['tokens'] == [[TICKS]] * 6 and groups['ratio'] == [[TICKS]]
    assert [name for group, name in points if group == 'tokens'] == summary['cameras'], 'in ring order'
    assert [name for group, name in points if group == 'state'] == summary['cameras']
    strip = opened.page.query_selector('[data-lane=tokens] .strip')
    box = strip.bounding_box()
    strip.click(position={'x': box['width'] / 2 + 1, 'y': box['height'] / 2})
    assert opened.page.input_value('#slider') == str(TICKS // 2)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('name', ['0.1/report.html', 'compared/compare.html'])
def test_pages_fit_a_phone_and_can_be_read_and_named(demo: Path, browser, scheme: str, name: str):
    opened = OpenPage(browser, demo / name, PHONE, scheme)
    wide, window = opened.widths()
    assert wide <= window == PHONE
    assert opened.page.evaluate(FAINT) == []
    assert opened.page.evaluate(NAMELESS) == []
    assert opened.complaints == []
    assert (demo / name).stat().st_size < 3_000_000


def test_comparison_shows_each_difference_with_both_pictures(demo: Path, browser):
    found = json.loads((demo / 'compared' / 'compare.json').read_text())
    opened = OpenPage(browser, demo / 'compared' / 'compare.html')
    cards = opened.page.query_selector_all('[data-stamp]')
    assert [int(card.get_attribute('data-stamp')) for card in cards] == [one['stamp_ns'] for one in found['differing']]
    for card in cards:
        card.scroll_into_view_if_needed()
        assert len(card.query_selector_all('img')) == 2
    opened.page.wait_for_function('[...document.images].every((image) => image.naturalWidth > 900)')
    assert opened.complaints == []


def test_long_names_and_hostile_texts_do_no_harm(tmp_path: Path, browser):
    rig_file = tmp_path / 'rig.yaml'
    cameras = [f'  {LONG}{i}: {{width: 64, height: 48, hfov_deg: 90, azimuth_deg: {i * 90}}}' for i in range(4)]
    rig_file.write_text('cameras:\n' + '\n'.join(cameras))
    rig = CameraRig.from_file(rig_file)
    seen = [
        ViewReport(camera, CameraState.FROZEN if i else CameraState.OK, 1, 1, 9, 3) for i, camera in enumerate(rig.ring)
    ]
    answers = [
        make_answer(
            behavior=Behavior.STOP if i else Behavior.NONE,
            distribution=((Behavior.STOP, 0.6), (Behavior.NONE, 0.4)),
            text=EVIL,
            notes=(EVIL, LONG),
            model_id=LONG,
            stamp_ns=10**18 + i * 10**8,
            stage_ms={'hint': 3.0},
            views=tuple(seen),
        )
        for i in range(3)
    ]
    report = tmp_path / 'report.html'
    report.write_text(page_of(answers, rig, ['STOP'] * 3, bag=LONG, errors=[EVIL]), encoding='utf-8')
    folders = [
        write_run(tmp_path / f'{name}{LONG[:60]}', chosen, rig) for name, chosen in (('a', answers), ('b', answers[:1]))
    ]
    (folders[1] / 'summary.json').write_text(
        (folders[1] / 'summary.json').read_text().replace('"method": "', f'"method": "{LONG}')
    )
    compare(folders, tmp_path / 'out')
    for file in (report, tmp_path / 'out' / 'compare.html'):
        opened = OpenPage(browser, file, PHONE)
        wide, window = opened.widths()
        assert wide <= window
        assert 'caught' not in opened.page.title()
        assert opened.complaints == []
    opened = OpenPage(browser, report)
    assert opened.text('#text') == EVIL
    bars = opened.page.evaluate("document.querySelectorAll('[data-lane=state] rect').length")
    assert bars == 3, 'one for each camera that is not ok'
