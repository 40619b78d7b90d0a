"""The page of drives in a real browser: any drive by its menus and keys, on a phone, in the dark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.browser import FAINT, NAMELESS, OpenPage, chromium

from stprune_ros.driving.drive import run_drive
from stprune_ros.driving.files import drive_as_json
from stprune_ros.driving.guides import NoHints, TrueHints
from stprune_ros.driving.page import drive_page
from stprune_ros.driving.plan import ALL_TOKENS, NO_HINTS, TRUE_HINTS, DrivePlan, Source
from stprune_ros.driving.planner import Planner
from stprune_ros.driving.summary import summarize

SEEDS, PHONE = (930_015, 930_016), 390  # a pedestrian, a stop line and a red light without hints; a vehicle ahead
LATE = 'late </option><script>document.title="caught"</script>'  # as no method is called, and harmless all the same


@pytest.fixture(scope='module')
def drives() -> tuple[DrivePlan, dict[tuple[int, str], Any]]:
    """Drives that need no model: what stands for all tokens are true hints, which end soon."""
    plan = DrivePlan(tuple(map(Source, (NO_HINTS, TRUE_HINTS, ALL_TOKENS))), SEEDS, 'ringworld', 3.0, 2.0)
    guides = {NO_HINTS: lambda: NoHints(), TRUE_HINTS: lambda: TrueHints(1000.0), ALL_TOKENS: lambda: TrueHints(1000.0)}
    found = {
        (seed, source.name): json.loads(
            json.dumps(
                drive_as_json(
                    run_drive(
                        plan.new_world(seed), Planner(source.method != NO_HINTS), guides[source.method](), plan.hz
                    )
                )
            )
        )
        for seed in SEEDS
        for source in plan.sources
    }
    return plan, found


@pytest.fixture(scope='module')
def page(drives: tuple[DrivePlan, dict[tuple[int, str], Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    plan, found = drives
    ran = {'seconds': 3.0, 'world': LATE, 'profile': 'none', 'valid_for_ms': 1000.0, 'model': ['ringworld', '1']}
    file = tmp_path_factory.mktemp('page') / 'drive.html'
    file.write_text(drive_page(plan, summarize(plan, ran, found), found, [], 'film.webp'), encoding='utf-8')
    return file


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def test_every_drive_can_be_looked_at(browser: Any, page: Path, drives: Any) -> None:
    opened, (plan, found) = OpenPage(browser, page), drives
    assert opened.page.title() == 'stprune drive: 2 worlds'
    for seed in SEEDS:
        opened.page.select_option('#world', str(seed))
        for source in plan.sources:
            opened.page.select_option('#source', source.name)
            measures = found[seed, source.name]['measures']
            shown = opened.page.eval_on_selector_all('#measures dd', 'all => all.map((one) => one.textContent)')
            assert shown == ['n/a' if value is None else f'{value:g}' for value in measures.values()]
            events = found[seed, source.name]['events']
            assert opened.page.locator('#events button').count() == len(events)
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith('file:')] == []


def test_one_drive_is_told_as_one(drives: Any) -> None:
    plan, found = drives
    one = replace(plan, seeds=SEEDS[:1])
    ran = {'seconds': 3.0, 'world': 'ringworld', 'profile': 'none', 'valid_for_ms': 1000.0, 'model': ['ringworld', '1']}
    html = drive_page(one, summarize(one, ran, found), found, [], '')
    assert '<title>stprune drive: 1 world</title>' in html
    assert f'1 drive of 3 s for each source of hints, ringworld, world {SEEDS[0]} &middot;' in html
    assert 'In this page: 1 of 1 world.' in html
    whole = drive_page(plan, summarize(plan, ran, found), found, [], '')
    assert f'2 drives of 3 s for each source of hints, ringworld, worlds from {SEEDS[0]} on &middot;' in whole
    assert 'In this page: 2 of 2 worlds.' in whole


def test_an_event_leads_to_its_time_and_the_map_shows_who_is_there(browser: Any, page: Path) -> None:
    opened = OpenPage(browser, page)
    assert opened.text('#said') == 'no valid hint at 0.00 s'
    data = json.loads(opened.text('#data'))['drives'][f'{SEEDS[0]} no hints']
    assert [event['kind'] for event in data['events']] == ['pedestrian', 'stop line', 'red light']
    opened.page.click('#events button >> nth=1')
    step = int(opened.page.input_value('#slider'))
    assert data['t'][step] <= data['events'][1]['t'] < data['t'][step] + 0.25
    assert opened.text('#speed') == f'{data["speed"][step]:.1f} m/s'
    boxes = opened.page.locator('#map .k1, #map .k6').count()
    assert boxes == len(data['actors'][step]) > 1
    assert opened.page.locator('#map .was').count() == 1
    opened.page.focus('#slider')
    opened.page.keyboard.press('ArrowRight')
    assert opened.text('#said').endswith(f'at {data["t"][step + 1]:.2f} s')
    strip = opened.page.locator('.strip >> nth=0')
    strip.click(position={'x': 0.51 * strip.bounding_box()['width'], 'y': 4})
    assert opened.text('#said').endswith('at 1.50 s')


@pytest.mark.parametrize('width', [1280, PHONE])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_it_can_be_read_and_named_anywhere(browser: Any, page: Path, width: int, scheme: str) -> None:
    opened = OpenPage(browser, page, width, scheme)
    content, window = opened.widths()
    assert content <= window
    assert opened.page.evaluate(FAINT) == []
    assert opened.page.evaluate(NAMELESS) == []
