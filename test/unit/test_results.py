"""JSON files that are never half written, and tables that Markdown renders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stprune_ros.results import replaced_at_once, table, write_json


def test_json_is_readable_and_replaces_what_was_there(tmp_path: Path):
    path = tmp_path / 'result.json'
    write_json(path, {'old': 1})
    write_json(path, {'sentence': 'fünf', 'rows': [1, 2]})
    text = path.read_text(encoding='utf-8')
    assert json.loads(text) == {'sentence': 'fünf', 'rows': [1, 2]}
    assert text == '{\n  "sentence": "fünf",\n  "rows": [\n    1,\n    2\n  ]\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_are_no_unicode_come_back_as_they_were(tmp_path: Path):
    name = os.fsdecode(b'caf\xe9.mcap')
    write_json(tmp_path / 'result.json', {name: 'ü'})
    assert json.loads((tmp_path / 'result.json').read_text(encoding='utf-8')) == {name: 'ü'}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / 'result.json'
    write_json(path, {'old': 1})

    def fill_the_disk(part: Path, text: str, encoding: str, errors: str) -> int:
        with part.open('w', encoding=encoding) as file:
            file.write(text[:3])
        raise OSError('no space left on device')

    monkeypatch.setattr(Path, 'write_text', fill_the_disk)
    with pytest.raises(OSError, match='no space'):
        write_json(path, {'new': 2})
    assert json.loads(path.read_text()) == {'old': 1}


def test_table_has_a_ruler_below_its_head():
    assert table(('method', 'ms'), [('tfps', 1.5), ('none', 2)]) == (
        '| method | ms |\n|---|---|\n| tfps | 1.5 |\n| none | 2 |'
    )


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / 'result.yaml'
    with replaced_at_once(path) as part:
        part.write_text('first')
        assert not path.exists()
    assert path.read_text() == 'first'
    with pytest.raises(UnicodeEncodeError), replaced_at_once(path) as part:
        part.write_text('half \ud800', encoding='utf-8')
    assert path.read_text() == 'first'
    assert [*tmp_path.iterdir()] == [path]
