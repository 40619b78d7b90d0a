"""The live page in a real browser, with a board that is told what no node says, and links and clocks that are bad."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('aiohttp', reason="aiohttp is not installed: the extra 'view'")

from helpers.browser import EVIL, FAINT, LONG, OpenPage, chromium
from helpers.harness import jpeg
from helpers.live_page import (
    NODE,
    SLOW_S,
    START_NS,
    board_and_clock,
    camera,
    diagnostics,
    hint_message,
    log_line,
    picture_message,
    serving,
    until,
)

PHONE = 390


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def test_a_hint_ends_on_the_page_although_nothing_more_comes(browser):
    board, _ = board_and_clock()
    with serving(board) as server:
        opened = OpenPage(browser, f'http://127.0.0.1:{server.port}/')
        until(opened, lambda: board.watchers == 1, 'the browser')
        board.hear('hint', hint_message(stamp_ns=board.clock()[0], valid_ms=1500.0))
        until(opened, lambda: opened.text('#said') == 'stop, 75 %', 'the hint')
        end = threading.Event()
        board.update = lambda seen: end.wait(SLOW_S) and {'now': 0.0}  # type: ignore[method-assign] # the server hangs
        until(opened, lambda: opened.text('#said') == 'no hint', 'its end')
        trouble = 'No connection to stprune view: nothing here is current.'
        until(opened, lambda: opened.text('#trouble') == trouble, 'word of it')
        end.set()
        del board.update


def test_a_node_that_is_not_active_says_so_at_the_top(browser):
    board, _ = board_and_clock()
    with serving(board) as server:
        opened = OpenPage(browser, f'http://127.0.0.1:{server.port}/')
        board.hear('diagnostics', diagnostics((f'{NODE}: lifecycle', 1, 'not active: nothing is inferred')))
        said = 'The node says: not active: nothing is inferred.'
        until(opened, lambda: opened.text('#trouble') == said, 'word of it')
        board.hear('diagnostics', diagnostics((f'{NODE}: lifecycle', 0, 'all is well')))
        until(opened, lambda: not opened.page.is_visible('#trouble'), 'the end of it')


def test_hints_that_come_late_over_a_slow_link_are_not_valid(browser):
    """A link that holds everything back for longer than hints are valid: by the page's own clock they would be."""
    board, _ = board_and_clock()
    with serving(board) as server:
        opened = OpenPage(browser, f'http://127.0.0.1:{server.port}/')
        until(opened, lambda: board.watchers == 1, 'the browser')
        opened.page.wait_for_timeout(500)
        hint = {'said': 'STOP', 'status': 'OK', 'stamp': '1.0', 'confidence': 1.0, 'source': 'NONE', 'shares': []}
        sent = time.monotonic()
        late = {'now': sent - 3.0, 'fault': '', 'last_hint': sent - 3.0, 'hint': {**hint, 'until': sent - 2.0}}
        receive = 'message => { receive(message); return document.getElementById("said").textContent; }'
        assert opened.page.evaluate(receive, late) == 'no hint'
        current = {**late, 'now': sent, 'hint': {**hint, 'until': sent + 60}}
        assert opened.page.evaluate(receive, current) == 'stop, 100 %'


@pytest.mark.parametrize('rate', [2.0, 0.5])
def test_ages_go_by_the_servers_clock_however_the_browsers_drifts(browser, rate: float):
    """In seconds what takes a clock hours."""
    board, clock = board_and_clock()
    drifts = f'const right = performance.now.bind(performance); performance.now = () => {rate} * right();'
    with serving(board) as server:
        opened = OpenPage(browser, f'http://127.0.0.1:{server.port}/', script=drifts)
        until(opened, lambda: board.watchers == 1, 'the browser')
        opened.page.wait_for_timeout(6000)  # at the double rate 6 s ahead

        def is_current() -> bool:
            board.hear('hint', hint_message(stamp_ns=clock()[0], valid_ms=2000.0))
            board.hear('diagnostics', diagnostics((f'{NODE}: model', 0, 'all is well')))
            return opened.text('#said') == 'stop, 75 %' and opened.text('#states-age').startswith('Heard ')

        until(opened, is_current, 'what is current')
        told, real = opened.page.evaluate('now()'), board.now()
        assert -1.5 < told - real < 1.5, 'what it drifts by until it asks the next time'
        until(opened, lambda: opened.text('#said') == 'no hint', 'the end of the hint')


def test_what_the_servers_time_takes_to_come_makes_nothing_look_newer(browser):
    """Nor does a browser that was asleep: what comes in is of the past."""
    board, _ = board_and_clock()
    with serving(board) as server:
        opened = OpenPage(browser, f'http://127.0.0.1:{server.port}/')
        until(opened, lambda: opened.page.evaluate('timed'), 'the time')
        end = threading.Event()
        board.update = lambda seen: end.wait(SLOW_S) and {'now': 0.0}  # type: ignore[method-assign] # the server hangs
        answered = []

        def answer(route: Any) -> None:
            seconds = board.now()
            time.sleep(2.0)
            route.fulfill(body=str(seconds))
            answered.append(seconds)

        opened.page.route('**/now', answer)
        until(opened, lambda: len(answered) > 1, 'two late answers')
        assert opened.page.evaluate('now()') > board.now() - 0.3
        ahead = board.now() + 100.0
        jump = 'time => { receive({now: time, fault: "", hint: null, last_hint: null}); return now(); }'
        assert opened.page.evaluate(jump, ahead) >= ahead
        end.set()
        del board.update


def test_the_page_comes_back_when_the_server_does(browser):
    board, _ = board_and_clock()
    with serving(board) as server:
        port = server.port
        opened = OpenPage(browser, f'http://127.0.0.1:{port}/')
        board.hear('log', log_line('of the first'))
        until(opened, lambda: 'of the first' in opened.text('#log'), 'log')
    until(opened, lambda: opened.page.is_visible('#trouble'), 'word of the lost link')
    other, clock = board_and_clock()
    with serving(other, port):
        other.hear('log', log_line('of the second'))
        other.hear('hint', hint_message(stamp_ns=clock()[0], valid_ms=60000.0))
        until(opened, lambda: 'of the second' in opened.text('#log'), 'log of the next')
        until(opened, lambda: opened.text('#said') == 'stop, 75 %', 'hint of the next')
        assert not opened.page.is_visible('#trouble') and 'of the first' not in opened.text('#log')
    assert {text for text in opened.complaints if 'ERR_CONNECTION_REFUSED' not in text} <= {
        'Failed to load resource: net::ERR_INCOMPLETE_CHUNKED_ENCODING'
    }


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_hostile_texts_and_long_names_do_no_harm(browser, scheme: str):
    board, clock = board_and_clock()
    with serving(board) as server:
        opened = OpenPage(browser, f'http://127.0.0.1:{server.port}/', PHONE, scheme)
        hint = hint_message(
            stamp_ns=clock()[0], valid_ms=60000.0, notes=(EVIL, LONG * 3), model_id=EVIL, prompt_id=LONG
        )
        hint.info.cameras[0].name, hint.info.cameras[1].name = EVIL, LONG
        hint.info.stage_names[0], hint.confidence, hint.probabilities[0] = EVIL, float('nan'), float('nan')
        board.hear('hint', hint)
        board.hear('log', log_line(EVIL))
        board.hear('diagnostics', diagnostics((f'{NODE}: camera {EVIL}', 2, EVIL), (f'{NODE}: {LONG}', 1, LONG)))
        board.hear('picture', picture_message(b'<svg onload="document.title=1">'))
        until(opened, lambda: EVIL in opened.text('#log'), 'log')
        until(opened, lambda: len(opened.page.query_selector_all('#states details')) == 2, 'states')
        wide, window = opened.widths()
        assert wide <= window == PHONE
        until(opened, lambda: opened.text('#said') == 'stop, n/a', 'the hint')  # the page asked for the time before
        assert opened.text('#shares').startswith('stopn/a')
        assert opened.page.title() == f'stprune: {NODE}, live'
        assert opened.page.evaluate('document.images.length') == 1
        assert EVIL in opened.text('#notes')

        def has_cameras() -> bool:
            board.hear('hint', hint)  # again, for on a busy machine the first is old by now
            return camera(opened, LONG)[:1] == ['missing']

        until(opened, has_cameras, 'the camera with the long name')
        assert opened.page.evaluate(FAINT) == []
        assert opened.complaints == []


def test_what_is_said_of_a_picture_holds_for_the_one_that_is_seen(browser):
    """Whatever comes after it and cannot be shown."""
    board, clock = board_and_clock()
    first, second, third = ({'stamp_ns': START_NS + number * 10**9} for number in range(1, 4))
    with serving(board) as server:
        opened = OpenPage(browser, f'http://127.0.0.1:{server.port}/')
        board.hear('hint', hint_message(stamp_ns=clock()[0], valid_ms=60000.0))

        def is_current(picture: dict[str, int], said: str) -> bool:
            board.hear('picture', picture_message(jpeg(), **picture))  # again: where it takes 3 s to come it is old
            opened.page.wait_for_timeout(200)
            text, shown = opened.page.evaluate('[element("pictured").textContent, element("shown").className]')
            return text.startswith(f'The picture is of {said}.') and shown == ''

        until(opened, lambda: is_current(first, '1700000001'), 'the first')
        board.hear('picture', picture_message(jpeg()[:30], **second))
        until(opened, lambda: opened.page.get_attribute('#shown', 'class') == 'old', 'word that it is old')
        assert opened.text('#pictured').startswith('Not current: the picture is of 1700000001.000000000 and came ')
        assert opened.page.get_attribute('#picture', 'alt').endswith(' at 1700000001.000000000')
        until(opened, lambda: is_current(third, '1700000003'), 'the third')
        board.hear('picture', picture_message(b'GIF89a'))
        sentence = '6 bytes are no picture. Not current: the picture is of 1700000003.000000000 and came '
        until(opened, lambda: opened.text('#pictured').startswith(sentence), 'the sentence')
        assert opened.page.get_attribute('#shown', 'class') == 'old'


def test_a_hidden_page_gives_its_connection_back_and_shows_no_hint(browser):
    board, clock = board_and_clock()
    with serving(board) as server:
        opened = OpenPage(browser, f'http://127.0.0.1:{server.port}/')
        board.hear('hint', hint_message(stamp_ns=clock()[0], valid_ms=60000.0))
        until(opened, lambda: opened.text('#said') == 'stop, 75 %', 'the hint')
        hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});" + (
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        opened.page.evaluate(hide % 'true')
        assert opened.text('#said') == 'no hint'
        until(opened, lambda: board.watchers == 0, 'end of the connection')
        opened.page.evaluate(hide % 'false')
        until(opened, lambda: opened.text('#said') == 'stop, 75 %', 'the hint again')
