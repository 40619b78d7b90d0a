"""A command under a terminal of its own: what it shows there, and keys that reach all of its processes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time

LIMIT_S = 240.0
COLUMNS = 120


class Terminal:
    """Runs ``stprune arguments``; ``shown`` is everything so far."""

    def __init__(self, *arguments: str) -> None:
        self._pid, self._descriptor = pty.fork()
        if not self._pid:
            os.execv(sys.executable, [sys.executable, '-m', 'stprune_ros.cli', *arguments])
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack('HHHH', 24, COLUMNS, 0, 0))
        self._raw = b''
        self._end = time.monotonic() + LIMIT_S

    @property
    def shown(self) -> str:
        return self._raw.decode(errors='replace').replace('\r\n', '\n')

    def wait_for(self, pattern: str) -> None:
        """Until something that matches ``pattern`` was shown."""
        while not re.search(pattern, self.shown):
            assert self._read(), f'it ended without {pattern!r}: {self.shown}'

    def press_ctrl_c(self) -> None:
        os.write(self._descriptor, b'\x03')

    def wait_for_end(self) -> int:
        """The exit code."""
        while self._read():
            pass
        os.close(self._descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self) -> bool:
        assert time.monotonic() < self._end, f'it hangs: {self.shown}'
        if not select.select([self._descriptor], [], [], 1.0)[0]:
            return True
        try:
            part = os.read(self._descriptor, 65536)
        except OSError:  # how Linux says that nobody is at the other end any more
            return False
        self._raw += part
        return bool(part)
