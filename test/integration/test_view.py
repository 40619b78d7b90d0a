"""`stprune view` in a real browser: beside a running node over DDS, and with a board that is told what no node says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy')
pytest.importorskip('aiohttp', reason="aiohttp is not installed: the extra 'view'")

import yaml
from helpers.browser import FAINT, NAMELESS, OpenPage, chromium
from helpers.harness import Listener, NodeProcess, Vehicle, base_values, jpeg, playing
from helpers.live_page import (
    NODE,
    START_NS,
    Clock,
    diagnostics,
    hint_message,
    log_line,
    picture_message,
    serving,
    wait_for,
)
from helpers.reports import report_in
from helpers.tiny_models import make_tiny_model

from stprune_ros.cli import main
from stprune_ros.view.board import Board

PHONE = 390
LIMIT_S = 180.0  # only bounds how long a failure takes
STOPS_S = 4.0  # a third of a second where the machine has nothing else to do
EVIL = '</script><script>document.title="caught"</script><img src=x onerror=\'document.title="caught"\'>'
LONG = 'a_camera_with_a_name_as_long_as_some_people_like_them_and_longer_than_pages_like_them'

# What the page shows at one moment.
SHOWN = """
() => {
  const text = (selector) => document.querySelector(selector).textContent;
  const cells = (row, tag) => [...row.querySelectorAll(tag)].map((cell) => cell.textContent);
  return {said: text('#said'), stamp: text('#stamp'), text: text('#text'), tokens: text('#tokens'),
    shares: [...document.querySelectorAll('#shares > span')].map((span) => span.textContent),
    cameras: Object.fromEntries([...document.querySelectorAll('[data-camera]')]
      .map((row) => [row.dataset.camera, cells(row, 'td')]))};
}
"""


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


class View:
    """`stprune view` in a process of its own."""

    def __init__(self, folder: Path, domain_id: int, node: str, *options: str) -> None:
        self._out, self._err = folder / 'view.out', folder / 'view.err'
        command = ['-m', 'stprune_ros.cli', 'view', '--node', node, '--port', '0', *options]
        env = {**os.environ, 'ROS_DOMAIN_ID': str(domain_id)}
        with self._out.open('wb') as out, self._err.open('wb') as err:
            self.process = subprocess.Popen([sys.executable, *command], stdout=out, stderr=err, env=env)
        self.address = ''

    def wait_for_address(self) -> str:
        def is_said() -> bool:
            assert self.process.poll() is None, self.told()
            return 'until Ctrl-C' in self.told()

        wait_for(is_said, 'address', LIMIT_S)
        [self.address] = re.findall(r'is shown on (http://\S+/) until', self.told())
        return self.address

    def told(self) -> str:
        return self._out.read_text() + self._err.read_text()

    def output(self) -> str:
        return self._out.read_text()

    def stop(self, number: int = signal.SIGINT) -> tuple[int, float]:
        """Exit code, and the seconds that it took."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(30), time.monotonic() - began
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@contextmanager
def viewing(folder: Path, domain_id: int, node: str, *options: str) -> Iterator[View]:
    view = View(folder, domain_id, node, *options)
    try:
        view.wait_for_address()
        yield view
    finally:
        view.stop(signal.SIGKILL)


def until(opened: OpenPage, condition: Callable[[], bool], what: str) -> None:
    """Wait while the page runs: its own policy forbids the browser to evaluate a condition by itself."""
    wait_for(condition, what, LIMIT_S, lambda: opened.page.wait_for_timeout(50))


def has_picture(opened: OpenPage) -> bool:
    return bool(opened.page.evaluate("document.getElementById('picture').naturalWidth > 300"))


def camera(opened: OpenPage, name: str) -> list[str]:
    """The cells of a camera's row: in the last answer, tokens, diagnostics, images per s, used per s."""
    return opened.page.evaluate(
        'name => [...(document.querySelector(`[data-camera="${name}"]`)?.querySelectorAll("td") ?? [])]'
        '.map((cell) => cell.textContent)',
        name,
    )


def test_a_playing_bag_is_seen_with_hint_picture_cameras_and_log(tmp_path: Path, domain_id: int, browser):
    """In a namespace, with the time of the bag; two browsers, one of them a phone in the dark."""
    bag, params = tmp_path / 'world', tmp_path / 'my.param.yaml'
    assert main(['world', str(bag), '--seconds', '6', '--hz', '2']) == 0
    assert main(['init', str(bag), '--output', str(params)]) == 0
    listener = Listener(domain_id, '/car')
    groups = yaml.safe_load(params.read_text())['/**']['ros__parameters']
    values = {f'{group}.{leaf}': value for group, entries in groups.items() for leaf, value in entries.items()}
    node = NodeProcess(tmp_path, listener, {**values, 'use_sim_time': True, 'output.valid_for_ms': 5000.0})
    try:
        with (
            viewing(tmp_path, domain_id, '/car/stprune_node') as view,
            playing(bag, listener, '--clock', '--wait', '120', '--loop', '20'),
        ):
            opened = OpenPage(browser, view.address)
            phone = OpenPage(browser, view.address, PHONE, 'dark')
            names, shown = values['cameras.names'], {}

            def is_complete() -> bool:
                """Everything at one moment: the bag loops, and then hints are briefly from the future."""
                listener.listen_until(lambda: True, 0.1)
                shown.update(opened.page.evaluate(SHOWN))
                rows = [shown['cameras'].get(name, [''] * 5) for name in names]
                cameras = all(row[0] == 'ok' and row[2] in ('ok', 'OK') and row[4] != 'n/a' for row in rows)
                return cameras and shown['said'] != 'no hint' and shown['text'] and has_picture(opened)

            until(opened, is_complete, 'hint, picture, text and six cameras')
            until(phone, lambda: has_picture(phone) and phone.text('#said') != 'no hint', 'the same on the phone')
            assert re.fullmatch(r'(no restriction|slow down|stop), \d+ %', shown['said'])
            percent = [int(text.removesuffix(' %')) for text in shown['shares'][1::2]]
            assert shown['shares'][::2] == ['no restriction', 'slow down', 'stop']
            assert 98 <= sum(percent) <= 102 and shown['said'].endswith(f' {max(percent)} %')
            assert re.fullmatch(r'170000000\d\.\d00000000', shown['stamp']), 'the time of the bag'
            kept, full = (sum(int(shown['cameras'][name][1].split()[i]) for name in names) for i in (0, 2))
            assert kept == pytest.approx(full / 10, abs=1) and shown['tokens'] == f'{kept} of {full}'
            assert 'ring, clockwise: CAM_FRONT (front)' in opened.text('#log')
            assert 'ringworld' in opened.text('#model')
            assert re.fullmatch(r'\d+\.\d\d s', opened.text('#latency'))
            assert 'prefill' in opened.text('#stages')
            for one in (opened, phone):
                assert one.page.evaluate(FAINT) == []
                assert one.page.evaluate(NAMELESS) == []
            wide, window = phone.widths()
            assert wide <= window == PHONE
            assert opened.complaints == phone.complaints == []
            assert all(request.startswith(view.address) for request in opened.requests)
            code, seconds = view.stop()
            assert code == 130 and seconds < STOPS_S
            assert 'Traceback' not in view.told()
    finally:
        node.stop()
        listener.close()


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that passes for a trained one."""
    path = make_tiny_model(tmp_path_factory.mktemp('model') / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    return path


def test_a_dead_camera_and_then_a_dead_node_do_not_look_healthy(tmp_path: Path, domain_id: int, model: Path, browser):
    vehicle = Vehicle(domain_id, '/dies')
    node = NodeProcess(tmp_path, vehicle, {**base_values(model), 'output.valid_for_ms': 4000.0})
    try:
        with viewing(tmp_path, domain_id, vehicle.node_name, '--json') as view:
            opened = OpenPage(browser, view.address)

            def wait(condition: Callable[[], bool], what: str) -> None:
                def drives() -> bool:
                    vehicle.listen_until(lambda: False, 0.2)
                    return condition()

                until(opened, drives, what)

            wait(lambda: camera(opened, 'left')[:1] == ['ok'] and has_picture(opened), 'three cameras')
            wait(lambda: opened.text('#said') != 'no hint', 'hint')
            del vehicle.images['left']
            wait(lambda: camera(opened, 'left')[0] in ('missing', 'stale'), 'the dead camera in an answer')
            wait(lambda: camera(opened, 'left')[2] in ('no images', 'stale'), 'the dead camera in diagnostics')
            assert camera(opened, 'front')[0] == 'ok'
            wait(lambda: opened.text('#verdict').startswith('degraded'), 'a degraded hint')
            # By keyboard, and what is open stays open and in focus while values change.
            summary = '#states [data-name="camera left"] summary'
            opened.page.focus(summary)
            opened.page.keyboard.press('Enter')
            count = len(vehicle.diagnostics)
            wait(lambda: len(vehicle.diagnostics) > count + 2, 'more diagnostics')
            assert opened.page.evaluate('document.activeElement.textContent').startswith('camera left: ')
            assert opened.page.is_visible('#states [data-name="camera left"] dl')

            node.process.kill()
            node.wait()
            pattern = r'no hint since \d+\.\d s'
            wait(lambda: re.fullmatch(pattern, opened.text('#hint')) is not None, 'the end of the last hint')
            assert opened.page.query_selector_all('#shares .track') == []
            wait(lambda: opened.text('#trouble') == 'Nothing is heard of the node any more.', 'word of its end')
            assert camera(opened, 'front') == ['unknown', 'n/a', 'unknown', 'n/a', 'n/a']
            assert opened.text('#pictured').startswith('Not current')
            first = float(opened.text('#since').split()[1])
            wait(lambda: float(opened.text('#since').split()[1]) > first + 1, 'time that goes on')

            node = NodeProcess(tmp_path, vehicle, {**base_values(model), 'output.valid_for_ms': 4000.0})
            wait(lambda: opened.text('#said') != 'no hint', 'a hint of the next node')
            assert not opened.page.is_visible('#trouble')
            assert opened.complaints == []
            opened.page.close()
            code, seconds = view.stop(signal.SIGTERM)
            assert code == 130 and seconds < STOPS_S
            report = report_in(view.output(), 'view')
            assert report['result'] == {'address': view.address, 'node': vehicle.node_name}
    finally:
        node.stop()
        vehicle.close()


def test_the_node_draws_only_while_somebody_looks(tmp_path: Path, domain_id: int, model: Path, browser):
    listener = Listener(domain_id, '/draws')
    topic = f'{listener.node_name}/debug/kept_tokens/image/compressed'
    try:
        with viewing(tmp_path, domain_id, listener.node_name) as view:

            def subscriptions() -> int:
                listener.listen_until(lambda: True, 0.1)
                return listener.node.count_subscribers(topic)

            assert subscriptions() == 0
            opened = OpenPage(browser, view.address)
            until(opened, lambda: subscriptions() == 1, 'subscription to the picture')
            sentence = f"there is no node '{listener.node_name}': look at ROS_DOMAIN_ID, or start it"
            until(opened, lambda: opened.text('#trouble') == sentence, 'the sentence')
            assert opened.text('#hint') == 'no hint yet'
            opened.page.close()
            wait_for(lambda: subscriptions() == 0, 'end of the subscription', LIMIT_S)
    finally:
        listener.close()


def test_another_node_is_named_where_there_is_none_of_that_name(tmp_path: Path, domain_id: int, browser):
    listener = Listener(domain_id, '/one')
    from stprune_ros.msg import PlanningHint

    listener.node.create_publisher(PlanningHint, '/one/stprune_node/output/planning_hint', 1)
    try:
        with viewing(tmp_path, domain_id, '/two/stprune_node', '--address', '0.0.0.0') as view:
            opened = OpenPage(browser, view.address.replace('0.0.0.0', '127.0.0.1'))
            sentence = "there is no node '/two/stprune_node', but /one/stprune_node: give --node one of these"
            until(opened, lambda: opened.text('#trouble') == sentence, 'the sentence')
            assert f'stprune: whoever reaches {view.address} sees the pictures of the cameras' in view.told()
    finally:
        listener.close()


def test_a_name_that_no_node_can_have_is_refused(tmp_path: Path, domain_id: int):
    view = View(tmp_path, domain_id, '/two words')
    assert view.process.wait(LIMIT_S) == 1
    [line] = view.told().splitlines()
    assert line == (
        "stprune: no node can be called '/two words': a full name is of letters, digits, _ and /, as in"
        ' /car/stprune_node'
    )


def board_and_clock() -> tuple[Board, Clock]:
    board, clock = Board(NODE), Clock()
    board.clock = clock
    return board, clock


def test_a_hint_ends_on_the_page_although_nothing_more_comes(browser):
    board, _ = board_and_clock()
    with serving(board) as server:
        opened = OpenPage(browser, f'http://127.0.0.1:{server.port}/')
        until(opened, lambda: board.watchers == 1, 'the browser')
        board.hear('hint', hint_message(stamp_ns=board.clock()[0], valid_ms=1500.0))
        until(opened, lambda: opened.text('#said') == 'stop, 75 %', 'the hint')
        end = threading.Event()
        board.update = lambda seen: end.wait(LIMIT_S) and {'now': 0.0}  # type: ignore[method-assign] # the server hangs
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
        board.update = lambda seen: end.wait(LIMIT_S) and {'now': 0.0}  # type: ignore[method-assign] # the server hangs
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
        assert opened.text('#said') == 'stop, n/a' and opened.text('#shares').startswith('stopn/a')
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
