"""Who is served by `stprune view` and how, without a node: other names, slow browsers, ports, the command line."""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import socket
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip('aiohttp', reason="aiohttp is not installed: the extra 'view'")

from helpers.live_page import JPEG, board_at, log_line, picture_message, serving, wait_for

from stprune_ros.arguments import port
from stprune_ros.cli import main
from stprune_ros.errors import SettingsError, plain
from stprune_ros.view import server as servers
from stprune_ros.view.server import is_ours


@pytest.mark.parametrize(
    ('host', 'address', 'ours'),
    [
        ('127.0.0.1:8642', '127.0.0.1', True),
        ('localhost:9000', '127.0.0.1', True),  # through ssh -L
        ('[::1]:8642', '::1', True),
        ('evil.example:8642', '127.0.0.1', False),
        ('127.0.0.1.evil.example', '127.0.0.1', False),
        ('localhost.evil.example', '127.0.0.1', False),
        ('192.168.1.5:8642', '127.0.0.1', False),
        ('192.168.1.5:8642', '0.0.0.0', True),
        ('evil.example', '0.0.0.0', False),
        ('evil.example', '192.168.1.5', False),
        ('Car.local', 'car.local', True),
        (socket.gethostname(), '0.0.0.0', True),
        (socket.gethostname(), '127.0.0.1', False),
        ('[::1', '127.0.0.1', False),
        ('', '0.0.0.0', False),
        ('user@127.0.0.1', '127.0.0.1', True),
    ],
)
def test_only_hosts_that_nobody_can_make_point_here_are_served(host: str, address: str, ours: bool):
    assert is_ours(host, address) == ours


def ask(port: int, path: str, method: str = 'GET', host: str = '') -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
    connection.request(method, path, headers={'Host': host} if host else {})
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return found


def test_pages_are_served_with_their_policy_and_to_nobody_under_another_name():
    board, _ = board_at()
    with serving(board) as server:
        assert ask(server.port, '/picture.jpg?1')[0] == 404
        board.hear('picture', picture_message(JPEG))
        for path, kind in (('/', 'text/html; charset=utf-8'), ('/picture.jpg?1', 'image/jpeg')):
            status, headers, body = ask(server.port, path)
            assert (status, headers['content-type']) == (200, kind)
            assert headers['x-content-type-options'] == 'nosniff'
            assert headers['cross-origin-resource-policy'] == 'same-origin'
            assert headers['cache-control'] == 'no-store'
            policy = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
            assert (headers['content-security-policy'], headers['referrer-policy']) == (policy, 'no-referrer')
            assert 'access-control-allow-origin' not in headers
            status, headers, refusal = ask(server.port, path, host='evil.example:80')
            assert status == 403 and headers['x-content-type-options'] == 'nosniff'
            expected = f"this page is not served as 'evil.example:80': open http://127.0.0.1:{server.port}/"
            assert refusal.decode() == expected
        assert body == JPEG
        before, (status, _, body), after = board.now(), ask(server.port, '/now'), board.now()
        assert status == 200 and before <= float(body) <= after
        assert before <= board.update({})['now'] <= board.now(), 'of the same clock'
        assert ask(server.port, '/now', host='evil.example')[0] == 403
        assert ask(server.port, '/events', host='evil.example')[0] == 403
        for method in ('POST', 'PUT', 'DELETE'):
            assert ask(server.port, '/', method)[0] == 405
        assert ask(server.port, '/../pyproject.toml')[0] == 404
        for query in ('', '?', '?0', '?2', '?-1', '?1.0', '?x', '?' + '9' * 5000):
            assert ask(server.port, f'/picture.jpg{query}')[0] == 404


def stream(port: int, receive_buffer: int = 0) -> socket.socket:
    """A connection that has asked for events and read nothing."""
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(30)
    connection.connect(('127.0.0.1', port))
    connection.sendall(b'GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n')
    return connection


def test_a_browser_that_takes_nothing_delays_nobody_and_is_let_go(monkeypatch):
    monkeypatch.setattr(servers, 'SILENT_S', 1.0)
    board, _ = board_at()
    with serving(board) as server:
        slow = stream(server.port, 4096)
        quick = stream(server.port)
        wait_for(lambda: board.watchers == 2, 'two watchers')
        received, ended = bytearray(), threading.Event()

        def read() -> None:
            while not ended.is_set():
                received.extend(quick.recv(2**16))

        reader = threading.Thread(target=read, daemon=True)  # a test that fails must end all the same
        reader.start()
        count, waits = 0, []
        end = time.monotonic() + 60
        while board.watchers == 2:
            assert time.monotonic() < end
            count += 1
            board.hear('log', log_line(f'line {count} ' + 'x' * 1900))
            began = time.monotonic()
            wait_for(lambda: f'line {count} '.encode() in received, 'line')  # noqa: B023
            waits.append(time.monotonic() - began)
            received.clear()
        assert board.watchers == 1
        assert sorted(waits)[len(waits) // 2] < 0.5
        board.hear('log', log_line('after that'))
        wait_for(lambda: b'after that' in received, 'line to the quick one')
        ended.set()
        reader.join(30)
        slow.close()
        quick.close()
        wait_for(lambda: board.watchers == 0, 'end of both')


def test_where_nothing_is_new_only_the_beat_is_sent():
    board, _ = board_at()
    with serving(board) as server:
        connection = stream(server.port)
        board.hear('log', log_line('the last news'))
        received, end = b'', time.monotonic() + 2.0
        while time.monotonic() < end:
            received += connection.recv(2**16)
        connection.close()
    assert b'the last news' in received
    assert 2 <= received.count(b'data: ') <= 2.0 / servers.BEAT_S + 4


def test_it_stops_at_once_with_browsers_that_take_nothing():
    board, _ = board_at()
    connections = []
    with serving(board) as server:
        connections = [stream(server.port, 4096) for _ in range(3)]
        wait_for(lambda: board.watchers == 3, 'three watchers')
        for number in range(40):
            board.hear('log', log_line(f'{number} ' + 'x' * 1900))
            time.sleep(0.06)
        began = time.monotonic()
    assert time.monotonic() - began < 2.0
    for connection in connections:
        connection.close()


def test_so_many_pages_and_no_more(monkeypatch):
    monkeypatch.setattr(servers, 'MAX_BROWSERS', 2)
    board, _ = board_at()
    with serving(board) as server:
        held = [stream(server.port) for _ in range(2)]
        wait_for(lambda: board.watchers == 2, 'two watchers')
        third = http.client.HTTPConnection('127.0.0.1', server.port, timeout=30)
        third.request('GET', '/events')
        answer = third.getresponse()
        assert answer.status == 503  # a stream would have no end to read
        assert answer.read() == b'2 pages are open already'
        third.close()
        held.pop().close()
        wait_for(lambda: board.watchers == 1, 'one that is gone')
        held.pop().close()


def test_a_port_in_use_and_an_address_of_others_are_refused():
    board, _ = board_at()
    with serving(board) as server:
        with pytest.raises(SettingsError) as caught, serving(board, server.port):
            pass
        assert str(caught.value) == (
            f"port {server.port} of '127.0.0.1' is in use; name another with --port, or 0 for any"
        )
    for address in ('203.0.113.7', '127.0.0.1:80', 'a..b', 'x' * 300, 'a\udcff'):
        with pytest.raises(SettingsError) as caught, serving(board, address=address):
            pass
        assert str(caught.value).startswith(f"cannot listen on '{plain(address)}', port 0 (")
        assert str(caught.value).endswith('); name an address of this machine')


def test_without_aiohttp_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'aiohttp' else object())
    assert main(['view']) == 1
    assert capsys.readouterr().err == (
        "stprune: `stprune view` needs aiohttp: pip install 'aiohttp>=3.9,<4', or the extra [view]\n"
    )


def test_the_command_line_is_read_without_aiohttp():
    program = "import sys; sys.modules['aiohttp'] = None; from stprune_ros.cli import main; main(['view', '--help'])"
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and '--address' in done.stdout


def test_an_empty_address_is_not_taken_for_every_one(capsys):
    with pytest.raises(SystemExit) as ended:
        main(['view', '--address', ''])
    assert ended.value.code == 2
    assert 'it is empty; name an address of this machine, or 0.0.0.0 for all of them' in capsys.readouterr().err


@pytest.mark.parametrize('text', ['-1', '65536', 'x'])
def test_ports_have_a_range(text: str):
    with pytest.raises((ValueError, argparse.ArgumentTypeError), match='port in 0 to 65535|invalid literal'):
        port(text)
    assert port('0') == 0 and port('65535') == 65535
