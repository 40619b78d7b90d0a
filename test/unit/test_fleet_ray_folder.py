"""The folder of a local Ray: held as long as its command runs, gone with it or, where it was killed, with the next."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stprune_ros.fleet.ray_folder import OWNER, ray_folder

HOLD = """
import sys
from pathlib import Path
from stprune_ros.fleet.ray_folder import ray_folder
with ray_folder(Path(sys.argv[1])) as folder:
    (folder / 'ray').mkdir()
    print(folder, flush=True)
    sys.stdin.read()
"""


def hold(below: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that holds a folder of its own, and that folder."""
    process = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(below)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_is_for_its_owner_only_and_goes_with_the_block(tmp_path: Path):
    with ray_folder(tmp_path) as folder:
        (folder / 'ray').mkdir()
        assert folder.parent == tmp_path and folder.name.startswith('stprune-')
        assert folder.stat().st_mode & 0o777 == 0o700
        assert sorted(path.name for path in folder.iterdir()) == [OWNER, 'ray']
    assert not list(tmp_path.iterdir())


def test_what_is_written_into_it_while_it_goes_does_not_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tries, remove = [], shutil.rmtree

    def removed(folder: Path, ignore_errors: bool) -> None:
        tries.append(folder)
        remove(folder, ignore_errors=ignore_errors)
        if len(tries) < 3:  # a process wrote between the listing and the end
            (folder / 'ray').mkdir(parents=True)

    monkeypatch.setattr(shutil, 'rmtree', removed)
    with ray_folder(tmp_path) as folder:
        pass
    assert tries == [folder] * 3 and not list(tmp_path.iterdir())


def test_what_a_killed_command_left_goes_with_the_next_one_and_what_is_in_use_stays(tmp_path: Path):
    (living, held), (killed, left) = hold(tmp_path), hold(tmp_path)
    try:
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
        assert (left / 'ray').is_dir()
        with ray_folder(tmp_path) as folder:
            assert sorted(tmp_path.iterdir()) == sorted([held, folder])
            assert (held / 'ray').is_dir()
        assert list(tmp_path.iterdir()) == [held]
    finally:
        living.communicate('', timeout=60)
        killed.communicate(timeout=60)
    assert living.returncode == 0 and not list(tmp_path.iterdir())


def test_what_others_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / 'stprune-bench-x').mkdir()  # of another command, which nobody holds
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'elsewhere' / OWNER).touch()
    (tmp_path / 'stprune-link').symlink_to(tmp_path / 'elsewhere')
    with ray_folder(tmp_path):
        pass
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {'stprune-bench-x', 'elsewhere', 'stprune-link'} and (tmp_path / 'elsewhere' / OWNER).is_file()

    (tmp_path / 'stprune-theirs').mkdir()
    (tmp_path / 'stprune-theirs' / OWNER).touch()
    me = os.getuid()
    monkeypatch.setattr('stprune_ros.fleet.ray_folder.os.getuid', lambda: me + 1)
    with ray_folder(tmp_path):
        pass
    assert (tmp_path / 'stprune-theirs' / OWNER).is_file()
    monkeypatch.undo()
    with ray_folder(tmp_path):
        pass
    assert not (tmp_path / 'stprune-theirs').exists()
