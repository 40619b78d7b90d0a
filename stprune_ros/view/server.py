"""Serves the live page over HTTP: the page, pictures, the time, and a stream of server-sent events. Read-only.

Each browser has a task of its own that sends what is newest when the browser is ready for more: one that is slow misses
updates in between and delays nobody, and nothing is queued for it.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from aiohttp import web

from stprune_ros.errors import SettingsError, one_line, plain
from stprune_ros.results import as_json
from stprune_ros.view.board import Board

BEAT_S = 0.25  # something is sent at least so often: whoever hears nothing for longer knows that the link is lost
GAP_S = 0.05  # and at most so often
SILENT_S = 5.0  # a browser that takes nothing for so long is let go
MAX_BROWSERS = 16
CLOSING_S = 0.5
SEND_BUFFER = 2**16  # bytes that the system holds for a browser: what lies there is old when it arrives
NUMBER = re.compile(r'[0-9]{1,18}')
HEADERS = {
    'Cache-Control': 'no-store',
    'Content-Security-Policy': "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches ``address``."""
    if address == 'localhost':
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def is_ours(host: str, address: str) -> bool:
    """Whether the Host header of a request names us, who listen on ``address``.

    A web page elsewhere can have its own name point at our address (DNS rebinding), but its name stays in the header.
    """
    try:
        name = urlsplit(f'//{host}').hostname or ''
    except ValueError:
        return False
    if is_loopback(name) or name == address.lower():
        return True
    if is_loopback(address):
        return False
    try:
        ipaddress.ip_address(name)
        return True  # no name, and so none that could be made to point here
    except ValueError:
        return name == socket.gethostname().lower()


def url_of(address: str, port: int) -> str:
    """The address of the page."""
    return f'http://[{address}]:{port}/' if ':' in address else f'http://{address}:{port}/'


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


@dataclass(slots=True)
class Server:
    """Serves ``page`` and what is on ``board`` on ``address`` and ``port`` (0: any that is free)."""

    board: Board
    page: str
    address: str
    port: int
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, ready: Callable[[str], object]) -> None:
        """Serve until `stop`; ``ready`` is given the page's address. Raises SettingsError."""
        loop = asyncio.get_running_loop()
        self.board.changed = lambda: loop.call_soon_threadsafe(self._wake)
        runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=CLOSING_S)
        await runner.setup()
        try:
            await self._listen(runner)
            ready(url_of(self.address, self.port))
            await self._stopped.wait()
        finally:
            self.board.changed = lambda: None
            self.stop()
            await runner.cleanup()

    def stop(self) -> None:
        """End `serve`; to be called in its loop."""
        self._stopped.set()
        self._wake()

    async def _listen(self, runner: web.AppRunner) -> None:
        try:
            await web.TCPSite(runner, self.address, self.port).start()
        except (OSError, UnicodeError) as error:  # the second one for what cannot be a host's name
            if getattr(error, 'errno', None) == errno.EADDRINUSE:
                raise SettingsError(
                    f"port {self.port} of '{self.address}' is in use; name another with --port, or 0 for any"
                ) from None
            why = getattr(error, 'strerror', None) or one_line(error)
            raise SettingsError(
                f"cannot listen on '{plain(self.address)}', port {self.port} ({why}); name an address of this machine"
            ) from None
        self.port = runner.addresses[0][1]

    def _app(self) -> web.Application:
        app = web.Application()
        app.on_response_prepare.append(_add_headers)
        app.router.add_get('/', self._guarded(self._send_page))
        app.router.add_get('/favicon.ico', self._guarded(self._send_nothing))
        app.router.add_get('/picture.jpg', self._guarded(self._send_picture))
        app.router.add_get('/now', self._guarded(self._send_time))
        app.router.add_get('/events', self._guarded(self._send_events), allow_head=False)
        return app

    def _guarded(self, handler: Handler) -> Handler:
        """The handler for requests that are meant for us; others are told where the page is."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            if is_ours(request.host, self.address):
                return await handler(request)
            sentence = f"this page is not served as '{plain(request.host)}': open {url_of(self.address, self.port)}"
            return web.Response(status=403, text=sentence)

        return guarded

    async def _send_page(self, _: web.Request) -> web.Response:
        return web.Response(text=self.page, content_type='text/html')

    async def _send_nothing(self, _: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _send_picture(self, request: web.Request) -> web.Response:
        number = request.query_string
        data = self.board.picture(int(number) if NUMBER.fullmatch(number) else 0)
        if not data:
            raise web.HTTPNotFound(text='there is no such picture, or not any more')
        return web.Response(body=data, content_type='image/jpeg')

    async def _send_time(self, _: web.Request) -> web.Response:
        return web.Response(text=repr(self.board.now()))

    async def _send_events(self, request: web.Request) -> web.StreamResponse:
        if self.board.watchers >= MAX_BROWSERS:
            raise web.HTTPServiceUnavailable(text=f'{MAX_BROWSERS} pages are open already')
        self.board.watchers += 1
        try:
            response = web.StreamResponse(headers={'Content-Type': 'text/event-stream'})
            await response.prepare(request)
            transport = request.transport
            if transport is not None:
                transport.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            try:
                await self._send_updates(response)
            except (ConnectionError, asyncio.TimeoutError):  # it went away, or takes nothing any more
                if transport is not None:
                    transport.abort()
            return response
        finally:
            self.board.watchers -= 1

    async def _send_updates(self, response: web.StreamResponse) -> None:
        seen: dict[str, int] = {}
        while not self._stopped.is_set():
            changed = self._changed
            event = f'data: {as_json(self.board.update(seen))}\n\n'.encode()
            await asyncio.wait_for(response.write(event), SILENT_S)
            await asyncio.sleep(GAP_S)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), BEAT_S - GAP_S)

    def _wake(self) -> None:
        """Every task that waits goes on; those that come later wait for the next change."""
        self._changed.set()
        self._changed = asyncio.Event()
