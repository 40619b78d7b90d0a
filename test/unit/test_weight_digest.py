"""Weights are hashed once: what is remembered, what makes it void, and that no cache is no fault."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stprune_ros.vlm.hf import weight_digest
from stprune_ros.vlm.hf.weight_digest import cache_folder, weights_digest

DATA = b'first', b'second file'
EXPECTED = hashlib.sha256(b''.join(DATA)).hexdigest()[:12]


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, ...]:
    paths = tuple(tmp_path / name for name in ('b.safetensors', 'a.safetensors'))
    for path, data in zip(paths, DATA):
        path.write_bytes(data)
    return paths


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own that takes files of any size and age."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr(weight_digest, 'CACHED_FROM', 0)
    monkeypatch.setattr(weight_digest, 'SETTLED_S', -60.0)
    return tmp_path / 'cache' / 'stprune' / 'digests'


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the bytes that are hashed, call by call."""
    found: list[int] = []
    original = weight_digest._sha256

    def counted(files: Any, total: int, say: Any) -> str:
        found.append(total)
        return original(files, total, say)

    monkeypatch.setattr(weight_digest, '_sha256', counted)
    return found


def entry_of(cache: Path) -> Path:
    [entry] = cache.iterdir()
    return entry


def test_what_others_could_have_written_is_not_believed(weights, cache, reads):
    assert weights_digest(weights) == EXPECTED
    entry = entry_of(cache)
    entry.write_text(entry.read_text().replace(hashlib.sha256(b''.join(DATA)).hexdigest(), 'f' * 64))
    assert weights_digest(weights) == 'f' * 12  # nobody but this user can have written it
    cache.chmod(0o777)
    assert weights_digest(weights) == EXPECTED
    entry.unlink()
    assert weights_digest(weights) == EXPECTED
    assert list(cache.iterdir()) == [] and len(reads) == 3


def test_a_digest_is_kept_for_this_user_only(weights, cache):
    weights_digest(weights)
    assert entry_of(cache).stat().st_mode & 0o777 == 0o600


def test_files_are_read_once(weights, cache, reads):
    assert [weights_digest(weights) for _ in range(3)] == [EXPECTED] * 3
    assert reads == [16]
    kept = json.loads(entry_of(cache).read_text())
    assert kept['sha256'][:12] == EXPECTED
    assert [file['path'] for file in kept['files']] == [str(path) for path in weights]


def change_content(path: Path) -> None:
    """Same size, same time of modification, same inode."""
    before = path.stat()
    with path.open('r+b') as file:
        file.write(b'FIRST')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def change_time(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def put_another_in_its_place(path: Path) -> None:
    other = path.with_name('other')
    other.write_bytes(b'FIRST')
    os.replace(other, path)


@pytest.mark.parametrize('change', [change_content, change_time, put_another_in_its_place])
def test_any_change_makes_them_be_read_again(weights, cache, reads, change: Callable[[Path], None]):
    assert weights_digest(weights) == EXPECTED
    change(weights[0])
    expected = hashlib.sha256(b''.join(path.read_bytes() for path in weights)).hexdigest()[:12]
    assert [weights_digest(weights) for _ in range(2)] == [expected] * 2
    assert reads == [16, 16]
    assert entry_of(cache), 'the new digest takes the place of the old'


def test_the_order_of_files_counts(weights, reads):
    assert weights_digest(weights) != weights_digest(weights[::-1])
    assert len(reads) == 2


@pytest.mark.parametrize(
    'content', ['', 'null', '[]', '{', '{"files": 3}', '[' * 100_000, '{"files": %, "sha256": "../../etc"}', '\x00']
)
def test_a_broken_entry_is_written_anew(weights, cache, reads, content: str):
    weights_digest(weights)
    files = json.dumps(json.loads(entry_of(cache).read_text())['files'])
    entry_of(cache).write_text(content.replace('%', files))
    assert [weights_digest(weights) for _ in range(2)] == [EXPECTED] * 2
    assert reads == [16, 16]


def test_without_a_cache_they_are_read_each_time(weights, tmp_path, reads, monkeypatch):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert [weights_digest(weights) for _ in range(2)] == [EXPECTED] * 2
    assert reads == [16, 16]

    def no_home() -> Path:
        raise RuntimeError('no home')

    monkeypatch.setenv('XDG_CACHE_HOME', '')
    monkeypatch.setattr(Path, 'home', no_home)
    assert cache_folder() is None
    assert weights_digest(weights) == EXPECTED


@pytest.mark.parametrize(('named', 'below'), [('/somewhere', '/somewhere'), ('', '/me/.cache'), ('here', '/me/.cache')])
def test_where_the_cache_is(monkeypatch, named: str, below: str):
    monkeypatch.setenv('XDG_CACHE_HOME', named)
    monkeypatch.setenv('HOME', '/me')
    assert cache_folder() == Path(below) / 'stprune' / 'digests'


def test_small_and_fresh_files_are_not_remembered(weights, cache, monkeypatch):
    monkeypatch.setattr(weight_digest, 'CACHED_FROM', 17)
    assert weights_digest(weights) == EXPECTED
    assert not cache.exists()
    monkeypatch.setattr(weight_digest, 'CACHED_FROM', 16)
    monkeypatch.setattr(weight_digest, 'SETTLED_S', 3600.0)
    assert weights_digest(weights) == EXPECTED
    assert not cache.exists()


def test_files_that_change_while_they_are_read_are_not_remembered(weights, cache, monkeypatch):
    original = weight_digest._sha256

    def disturbed(*arguments: Any) -> str:
        weights[0].write_bytes(b'longer than before')
        return original(*arguments)

    monkeypatch.setattr(weight_digest, '_sha256', disturbed)
    weights_digest(weights)
    assert not cache.exists()


def test_the_oldest_of_too_many_entries_go(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(weight_digest, 'MOST_ENTRIES', 3)
    for number in range(6):
        path = tmp_path / f'{number}.safetensors'
        path.write_bytes(b'x')
        weights_digest([path])
        os.utime(max(cache.iterdir(), key=lambda entry: entry.stat().st_ctime_ns), (number, number))
    kept = [json.loads(entry.read_text())['files'][0]['path'] for entry in cache.iterdir()]
    assert sorted(Path(path).name for path in kept) == ['3.safetensors', '4.safetensors', '5.safetensors']


OFTEN = """
import sys
from pathlib import Path
from stprune_ros.vlm.hf import weight_digest

weight_digest.CACHED_FROM, weight_digest.SETTLED_S = 0, -60.0
paths = [Path(name) for name in sys.argv[1:]]
for number in range(300):
    if number % 3 == 0:
        for entry in weight_digest.cache_folder().glob('*.json'):
            entry.unlink(missing_ok=True)
    assert weight_digest.weights_digest(paths) == 'EXPECTED'
"""


def test_several_processes_may_do_it_at_once(weights, cache):
    """Each reads, writes and drops the one entry all the time."""
    command = [sys.executable, '-c', OFTEN.replace('EXPECTED', EXPECTED), *map(str, weights)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=120)[1] for process in running] == [''] * 3
    assert entry_of(cache).suffix == '.json', 'no half-written file is left'
