"""What `stprune view` does: listen to a node and serve its page, until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from stprune_ros.replay.page import render
from stprune_ros.ros.spectator import Spectator
from stprune_ros.view.board import Board
from stprune_ros.view.server import Server

PAGES = Path(__file__).with_name('pages')


def view(name: str, address: str, port: int, ready: Callable[[str], object]) -> None:
    """Serve the page of node ``name`` (a full name) until SIGINT or SIGTERM; ``ready`` is given its address.

    Raises SettingsError where no node can have that name, or nothing can be served on that address and port.
    """
    board = Board(name)
    page = render('view.html.jinja', 'view.js', PAGES, node=name)
    with Spectator(name, board.hear, lambda: board.watchers > 0) as spectator:
        board.clock = spectator.time
        asyncio.run(_serve(Server(board, page, address, port), ready))


async def _serve(server: Server, ready: Callable[[str], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    await server.serve(ready)
