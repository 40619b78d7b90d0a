"""A small process that ends the node where the node's own interpreter is stuck.

A native call that holds the interpreter's lock stops every Python thread, the one that would notice included. So this
file is run once more as a process of its own, which needs nothing but the standard library: the node sends it a beat
several times a second, and what signals arrive, which Python passes on without that lock.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

SIGNAL = signal.SIGALRM  # what ends the node: its exit code is -14, 142 in a shell
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # meant for the node, which ends the process with it
STOP_S = 3.3  # so long after SIGINT or SIGTERM the node must be gone; `ros2 launch` escalates after 5 s
KILL_AFTER_S = 1.0
BEAT_S = 0.1
LOOK_S = 0.5
PAUSE_S = 3.0  # this process stood still itself for so long, as after Ctrl-Z: nothing can be said of the other one


class Watchdog:
    """Starts the process that watches this one as long as it lives. For the main thread.

    Where it strikes, the stacks of all threads go to stderr before the process ends.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._told, self._limit_s = 0.0, 0.0  # when the last beat was sent, and with what
        faulthandler.register(SIGNAL, chain=True)
        self._start()

    def beat(self, limit_s: float) -> None:
        """This process is alive, and shall be ended where it does not beat again within ``limit_s``; 0: never.

        May be called as often as it is convenient.
        """
        now = time.monotonic()
        if now - self._told < BEAT_S and limit_s == self._limit_s:
            return
        self._told, self._limit_s = now, limit_s
        try:
            os.write(self._beats, f'{limit_s:g}\n'.encode())
        except BlockingIOError:  # it reads late; there are beats enough in the pipe
            pass
        except BrokenPipeError:
            tell(f'{self._name}: the process that watches over it had ended and is started anew')
            signal.set_wakeup_fd(-1)
            os.close(self._beats)
            os.close(self._signals)
            self._process.wait()
            self._start()

    def _start(self) -> None:
        read_beats, self._beats = os.pipe()
        read_signals, self._signals = os.pipe()
        os.set_blocking(self._beats, False)
        os.set_blocking(self._signals, False)
        # Isolated and without site-packages: it starts at once and takes 12 MB, half of them shared with this process.
        command = [sys.executable, '-I', '-S', str(Path(__file__).resolve()), self._name, str(os.getpid())]
        ends = (read_beats, read_signals)
        # Blocked until it ignores them: Ctrl-C goes to the whole group, and an interpreter that starts would print.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
        try:
            self._process = subprocess.Popen([*command, *map(str, ends)], stdin=subprocess.DEVNULL, pass_fds=ends)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for end in ends:
            os.close(end)
        signal.set_wakeup_fd(self._signals, warn_on_full_buffer=False)


def stop_signals() -> list[signal.Signals]:
    """What tells the node to end. A lost terminal does, too, unless whoever started it (nohup) said otherwise."""
    hangs_up = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *[signal.SIGHUP] * hangs_up]


def tell(sentence: str) -> None:
    """Write to stderr; whoever read it may be gone, which is no reason to end."""
    with suppress(OSError):
        print(sentence, file=sys.stderr, flush=True)


def watch(name: str, node: int, beats: int, signals: int) -> None:
    """Until the process ``node`` has ended: read its beats and its signals, and end it where it is stuck."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    os.set_blocking(beats, False)
    os.set_blocking(signals, False)
    looked = time.monotonic()
    limit_s, due, stop_due = 0.0, 0.0, 0.0  # 0: none
    while True:
        next_due = min([looked + LOOK_S, *filter(None, (due, stop_due))])
        ready, _, _ = select.select([beats, signals], [], [], max(0.0, next_due - looked))
        now = time.monotonic()
        if now - looked > PAUSE_S:
            due, stop_due = due and now + limit_s, stop_due and now + STOP_S
        looked = now
        if beats in ready:
            data = os.read(beats, 65536)
            if not data:
                return
            limit_s = float(data.split()[-1])
            due = limit_s and now + limit_s
        if signals in ready and not stop_due:
            numbers = os.read(signals, 65536)
            if set(numbers) & {*IGNORED}:
                stop_due = now + STOP_S
        if due and now > due:
            _end(name, node, f'the process has stood still for {limit_s:g} s')
            return
        if stop_due and now > stop_due:
            _end(name, node, f'the process was still there {STOP_S:g} s after it was told to stop')
            return


def _end(name: str, node: int, reason: str) -> None:
    tell(f'{name}: {reason}: it is ended by signal {SIGNAL.value}')
    for number in (SIGNAL, signal.SIGKILL):
        if os.getppid() != node:  # gone; the number may be another process by now
            return
        os.kill(node, number)
        time.sleep(KILL_AFTER_S)


if __name__ == '__main__':
    watch(sys.argv[1], *map(int, sys.argv[2:]))
