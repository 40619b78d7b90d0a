"""`stprune view` in a real browser, beside a running node over DDS."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
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
from helpers.harness import Listener, NodeProcess, Vehicle, base_values, playing
from helpers.live_page import SLOW_S, camera, until, wait_for
from helpers.reports import report_in
from helpers.tiny_models import make_tiny_model

from stprune_ros.cli import main

PHONE = 390
STOPS_S = 4.0  # a third of a second where the machine has nothing else to do

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

        wait_for(is_said, 'address', SLOW_S)
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


def has_picture(opened: OpenPage) -> bool:
    return bool(opened.page.evaluate("document.getElementById('picture').naturalWidth > 300"))


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
            wait(lambda: not opened.page.is_visible('#trouble'), 'a page without trouble')
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
            wait_for(lambda: subscriptions() == 0, 'end of the subscription', SLOW_S)
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
    assert view.process.wait(SLOW_S) == 1
    [line] = view.told().splitlines()
    assert line == (
        "stprune: no node can be called '/two words': a full name is of letters, digits, _ and /, as in"
        ' /car/stprune_node'
    )
