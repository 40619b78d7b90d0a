"""The live page without a node: a board that is told messages, and its server in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from helpers.answers import make_answer
from helpers.browser import OpenPage

from stprune_ros.core.types import Behavior, CameraState, Status, ViewReport
from stprune_ros.io import messages
from stprune_ros.io.bag_reader import message_store
from stprune_ros.replay.page import render
from stprune_ros.settings.settings import Settings
from stprune_ros.view.board import Board
from stprune_ros.view.command import PAGES
from stprune_ros.view.server import Server

NODE = '/car/stprune_node'
START_NS = 1_700_000_000 * 10**9
LIMIT_S, SLOW_S = 30.0, 180.0  # only bound how long a failure takes; the second one beside a browser
JPEG = b'\xff\xd8\xff\xe0' + bytes(100)  # as far as a board looks


def hint_message(status: Status = Status.OK, stamp_ns: int = START_NS, valid_ms: float = 1000.0, **values: Any) -> Any:
    """A PlanningHint of two cameras, filled by the same function as the node's."""
    views = (
        ViewReport('front', CameraState.OK, frames=1, tokens_full=60, tokens_kept=9),
        ViewReport('back', CameraState.MISSING, frames=0, tokens_full=0, tokens_kept=0),
    )
    given = {
        'behavior': Behavior.STOP,
        'confidence': 0.75,
        'distribution': ((Behavior.STOP, 0.75), (Behavior.NONE, 0.25)),
        'views': views,
        'stage_ms': {'encode': 12.0, 'hint': 3.0},
        **values,
    }
    answer = make_answer(status, stamp_ns=stamp_ns, **given)
    settings = Settings().changed({'output.valid_for_ms': valid_ms})
    return messages.planning_hint(answer, settings, messages.store_types(message_store()), 0.25, 1)


def log_line(text: str, name: str = 'car.stprune_node', level: int = 30) -> Any:
    """A message of /rosout, as far as it is read."""
    return SimpleNamespace(name=name, level=level, msg=text, stamp=SimpleNamespace(sec=5, nanosec=6))


def diagnostics(*states: tuple[str, int, str]) -> Any:
    """A message of /diagnostics with states of name, level and message, as far as it is read."""
    found = [
        SimpleNamespace(
            name=name,
            level=bytes([level]),
            message=message,
            values=[SimpleNamespace(key='received_hz', value='4.8'), SimpleNamespace(key='used_hz', value='4.7')],
        )
        for name, level, message in states
    ]
    return SimpleNamespace(status=found)


def picture_message(data: bytes, stamp_ns: int = START_NS) -> Any:
    """A CompressedImage, as far as it is read."""
    stamp = SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return SimpleNamespace(data=data, header=SimpleNamespace(stamp=stamp))


class Clock:
    """What a board takes for the node's clock: real time from ``start_ns`` on, and ``fault``."""

    def __init__(self, start_ns: int = START_NS) -> None:
        self.start_ns, self.fault = start_ns, ''
        self._began = time.monotonic_ns()

    def __call__(self) -> tuple[int, str]:
        return self.start_ns + time.monotonic_ns() - self._began, self.fault


def board_at(now_ns: int = START_NS, fault: str = '') -> tuple[Board, list[Any]]:
    """A board, and the time and fault that its clock tells, to be changed."""
    told = [now_ns, fault]
    board = Board(NODE)
    board.clock = lambda: (told[0], told[1])
    return board, told


@contextmanager
def serving(board: Board, port: int = 0, address: str = '127.0.0.1') -> Iterator[Server]:
    """The page of a board; ``server.port`` says where."""
    server = Server(board, render('view.html.jinja', 'view.js', PAGES, node=NODE), address, port)
    ready = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    failures: list[Exception] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve(lambda _: ready.set())

    def run() -> None:
        try:
            asyncio.run(serve())
        except Exception as error:
            failures.append(error)
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(LIMIT_S)
    if failures:
        thread.join(LIMIT_S)
        raise failures[0]
    try:
        yield server
    finally:
        loops[0].call_soon_threadsafe(server.stop)
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def wait_for(
    condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S, pause: Callable[[], Any] | None = None
) -> None:
    """Wait until ``condition`` holds; fails with ``what``."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f'no {what} within {limit_s} s'
        if pause is None:
            time.sleep(0.02)
        else:
            pause()


def until(opened: OpenPage, condition: Callable[[], bool], what: str) -> None:
    """Wait while the page runs: its own policy forbids the browser to evaluate a condition by itself."""
    wait_for(condition, what, SLOW_S, lambda: opened.page.wait_for_timeout(50))


def camera(opened: OpenPage, name: str) -> list[str]:
    """The cells of a camera's row: in the last answer, tokens, diagnostics, images per s, used per s."""
    return opened.page.evaluate(
        'name => [...(document.querySelector(`[data-camera="${name}"]`)?.querySelectorAll("td") ?? [])]'
        '.map((cell) => cell.textContent)',
        name,
    )


def board_and_clock() -> tuple[Board, Clock]:
    """A board, and the clock of its node."""
    board, clock = Board(NODE), Clock()
    board.clock = clock
    return board, clock
