"""The process that watches over another: two real processes in every test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stprune_ros.ros import watchdog

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60.0
HEAD = """
import os, re, signal, sys, time
from threading import Thread
from stprune_ros.ros.watchdog import Watchdog
watchdog = Watchdog('tested')

def beat_for(seconds, limit_s):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        watchdog.beat(limit_s)
        time.sleep(0.05)

def hold_the_lock():
    re.match(r'(a+)+$', 'a' * 60 + 'b')
"""


def start(program: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    return subprocess.Popen(
        [sys.executable, '-c', HEAD + program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': paths},
    )


def run(program: str) -> tuple[int, str]:
    process = start(program)
    _, said = finish(process)
    return process.returncode, said


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it printed, once it has ended."""
    try:
        return process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()


def test_no_signal_meets_the_watching_process_while_it_starts():
    """Ctrl-C goes to the whole group, and an interpreter that has not set its handlers prints a traceback."""
    code, said = run("""
status = dict(line.split(':', 1) for line in open(f'/proc/{watchdog._process.pid}/status'))
held = int(status['SigBlk'], 16) | int(status['SigIgn'], 16)
print([number for number in (1, 2, 15) if held >> number - 1 & 1], file=sys.stderr)
os.kill(watchdog._process.pid, signal.SIGINT)
beat_for(1.5, 1.0)
print(watchdog._process.poll(), signal.pthread_sigmask(signal.SIG_BLOCK, []), file=sys.stderr)
""")
    assert said.splitlines() == ['[1, 2, 15]', 'None set()'] and code == 0


def test_a_process_that_beats_or_has_no_limit_is_left_alone():
    code, said = run('beat_for(2.5, 2.0)\nwatchdog.beat(0.0)\ntime.sleep(3.0)\nos._exit(9)')
    assert (code, said) == (9, '')


def test_a_process_that_stands_still_is_ended_with_its_stacks():
    code, said = run('beat_for(0.2, 1.5)\nThread(target=hold_the_lock, daemon=True).start()\nbeat_for(60.0, 1.5)')
    assert code == -watchdog.SIGNAL
    assert said.startswith('tested: the process has stood still for 1.5 s: it is ended by signal 14\n')
    assert 'in hold_the_lock' in said and 'in <module>' in said  # of both threads


def test_a_signal_that_is_not_followed_is_followed_here():
    """Also while the lock is held; the handler would never run."""
    program = """
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
print('ready', flush=True)
Thread(target=hold_the_lock, daemon=True).start()
beat_for(60.0, 0.0)
"""
    process = start(program)
    assert process.stdout is not None and process.stdout.readline() == 'ready\n'
    time.sleep(1.0)  # until the lock is held for good
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, said = finish(process)
    assert process.returncode == -watchdog.SIGNAL
    assert watchdog.STOP_S - 0.5 < time.monotonic() - began < 10.0
    assert 'tested: the process was still there 3.3 s after it was told to stop' in said


def test_who_watches_is_replaced_and_ends_with_the_process():
    program = """
def watches(pid):
    try:
        return os.kill(pid, 0) is None
    except ProcessLookupError:
        return False

beat_for(0.5, 30.0)
first = watchdog._process.pid
os.kill(first, signal.SIGKILL)
beat_for(0.5, 30.0)
second = watchdog._process.pid
print(first != second, watches(first), watches(second), second, flush=True)
os._exit(0)
"""
    process = start(program)
    out, said = finish(process)
    *found, second = out.split()
    assert found == ['True', 'False', 'True']
    assert said == 'tested: the process that watches over it had ended and is started anew\n'
    until = time.monotonic() + TIMEOUT_S
    while Path(f'/proc/{second}').exists():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_leaves_the_watch_alone(number):
    """As Ctrl-C does: it is the node's, and the one who watches ends after it."""
    program = f"""
signal.signal({int(number)}, lambda *_: print('told', flush=True))
beat_for(0.5, 30.0)
os.kill(watchdog._process.pid, {int(number)})
os.kill(os.getpid(), {int(number)})
beat_for(0.5, 30.0)
print(watchdog._process.poll(), flush=True)
os._exit(0)
"""
    process = start(program)
    out, said = finish(process)
    assert (out, said) == ('told\nNone\n', '')


def test_nobody_ends_for_want_of_a_reader():
    """stderr is a pipe whose other end is closed, as with `| head -1`."""
    code = 'from stprune_ros.ros.watchdog import tell; tell("a word"); tell("another"); import os; os._exit(7)'
    process = subprocess.Popen([sys.executable, '-c', code], stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(TIMEOUT_S) == 7


def test_a_lost_terminal_ends_the_node_unless_that_was_ruled_out():
    code = 'from stprune_ros.ros.watchdog import stop_signals; print(*(number.name for number in stop_signals()))'
    for setting, expected in (('SIG_DFL', 'SIGINT SIGTERM SIGHUP'), ('SIG_IGN', 'SIGINT SIGTERM')):
        program = f'import signal; signal.signal(signal.SIGHUP, signal.{setting}); {code}'
        said = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True, cwd=ROOT)
        assert said.stdout.strip() == expected
