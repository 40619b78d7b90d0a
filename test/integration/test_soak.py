"""Two minutes of random faults, with a process of its own for whoever breaks the node; test/soak.py tells more."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip('rclpy')

from helpers.harness import TEST


def test_two_minutes_of_faults_add_up_and_leave_nothing_behind():
    words = [sys.executable, str(TEST / 'soak.py'), '--minutes', '2', '--seed', '7']
    found = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    last = found.stdout.splitlines()[-1]
    assert found.returncode == 0, found.stdout + found.stderr
    assert last.startswith('soak: ok (')
    assert ' sets = ' in found.stdout and ' answers + ' in found.stdout
