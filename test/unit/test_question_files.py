"""Files of sets: which one is meant, JSON in any Unicode, pictures, and what is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.question_sets import (
    GREY,
    grey_set,
    make_drivelm,
    make_lingoqa,
    make_nuinstruct,
    needs_packages,
    qa,
)

from stprune_ros import cli
from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.datasets import drivelm, files

pytestmark = needs_packages
GREY_JPEG = cv2.imencode('.jpg', GREY)[1].tobytes()


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32'])
def test_json_is_read_in_any_unicode(tmp_path: Path, encoding: str) -> None:
    path = grey_set(tmp_path, {'f': {'perception': [qa('wie heißt die Straße? 道路', 'Lindenstraße', 2)]}})
    before = drivelm.read(path)
    path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=False), encoding=encoding)
    found = drivelm.read(path)
    assert found.questions == before.questions and found.questions[0].text == 'wie heißt die Straße? 道路'


def test_the_file_of_questions_is_found_or_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StpruneError, match=r'has no .json file with questions in it; give the file as --data'):
        drivelm.read(tmp_path)
    with pytest.raises(
        StpruneError, match=r"there is no folder '.*nowhere'; give the folder of the data set as --data"
    ):
        drivelm.read(tmp_path / 'nowhere')
    first = grey_set(tmp_path, {'f': {'perception': [qa('what?', 'that', 2)]}}, 'train.json')
    assert drivelm.read(tmp_path).path == first
    second = grey_set(tmp_path, {'f': {'perception': [qa('what?', 'that', 2)]}}, 'val.json')
    with pytest.raises(StpruneError, match=rf"has 2 .json files, '{first}', '{second}'; give one of them as --data"):
        drivelm.read(tmp_path)
    assert drivelm.read(second).path == second
    with pytest.raises(StpruneError, match=r"'.*set.zip' is packed; unpack it first: unzip '.*set.zip'"):
        drivelm.read(tmp_path / 'set.zip')


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = grey_set(tmp_path, {'f': {'perception': [qa('what?', 'that', 2)]}})
    monkeypatch.setattr(files, 'MAX_JSON_BYTES', 100)
    size = path.stat().st_size
    with pytest.raises(StpruneError, match=f'has {size} bytes; a file of questions may have 100: split it'):
        drivelm.read(path)


def test_keys_that_come_twice_are_counted_and_the_first_is_taken(tmp_path: Path) -> None:
    path = grey_set(tmp_path, {'f': {'perception': [qa('what?', 'that', 2)]}})
    content = path.read_text()
    path.write_text(content[:-1] + ', "s": {"key_frames": {}}}')
    found = drivelm.read(path)
    assert len(found.questions) == 1
    assert found.faults.sentences == ['keys that an object has again, of which the first counts: 1; the first is s']


def test_rows_are_read_one_by_one_over_the_ends_of_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{'n': n, 'text': 'é]},{' * (n % 7)} for n in range(200)]
    path = tmp_path / 'rows.json'
    for chunk in (1, 7, 64, 2**20):
        monkeypatch.setattr(files, 'CHUNK', chunk)
        for text in (json.dumps(rows), json.dumps(rows, indent=2, ensure_ascii=False)):
            path.write_text(text, encoding='utf-8')
            assert list(files.rows_of(path)) == rows
    for broken in (json.dumps(rows)[:-1], json.dumps(rows)[:-9], '{}', '[1]', '', '[{"a": }]'):
        path.write_text(broken)
        with pytest.raises(StpruneError, match='is no list of JSON objects that is whole'):
            list(files.rows_of(path))


def test_a_row_of_a_table_is_no_longer_than_one_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, 'CHUNK', 64)
    monkeypatch.setattr(files, 'MAX_ROW_CHARACTERS', 100)
    path = tmp_path / 'rows.json'
    for letters, length in ((80, 1), (1000, 0)):
        path.write_text(json.dumps([{'n': 1}, {'text': 'x' * letters}]))
        rows = files.rows_of(path)
        assert next(rows) == {'n': 1}
        if length:
            assert len(next(rows)['text']) == letters
        else:
            with pytest.raises(StpruneError, match='is no list of JSON objects that is whole'):
                next(rows)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', 'the file is empty; download it again'),
        (b'no picture', 'the file is no JPEG or PNG; download it again, or convert it'),
        (b'\0\0\0\1 a stream', 'the file is no JPEG or PNG; download it again, or convert it'),
        (b'BM' + bytes(40), 'the file is no JPEG or PNG; download it again, or convert it'),
        (GREY_JPEG[:-20], f'the file is cut off after {len(GREY_JPEG) - 20} bytes; download it again'),
        (b'\xff\xd8' + bytes(3000), 'the file has more than 2000 bytes; save it smaller'),
        (
            GREY_JPEG[:-2] + 101 * b'\xff\xda' + b'\xff\xd9',
            'the file is a JPEG of more than 100 scans; save it as a plain one',
        ),
        (
            cv2.imencode('.png', GREY[..., 0].astype(np.uint16))[1].tobytes(),
            'the file is a PNG of 16-bit grey, which may be depth; convert it to 8 bits, if it is a picture',
        ),
        (cv2.imencode('.png', GREY)[1].tobytes(), f'it has {64}x{32} pixels, more than 2000 in all; save it smaller'),
    ],
    ids=['empty', 'text', 'video', 'bmp', 'cut', 'large', 'scans', 'depth', 'pixels'],
)
def test_pictures_that_are_none_end_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, reason: str
) -> None:
    """In words for whoever has a folder of files: nobody can mend the driver of a camera that they never had."""
    monkeypatch.setattr(files, 'MAX_PICTURE_BYTES', 2000)
    monkeypatch.setattr(files, 'MAX_PICTURE_PIXELS', 2000 if 'pixels' in reason else 2**26)
    path = tmp_path / 'p.jpg'
    path.write_bytes(content)
    with pytest.raises(StpruneError) as caught:
        files.read_picture(path)
    assert str(caught.value) == f"picture '{path}' cannot be used: {reason}"
    with pytest.raises(StpruneError, match=f"picture '{tmp_path}' cannot be read: Is a directory"):
        files.read_picture(tmp_path)


@pytest.mark.parametrize('ending', ['.jpg', '.png'])
def test_pictures_within_the_bounds_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    content = cv2.imencode(ending, GREY)[1].tobytes()
    monkeypatch.setattr(files, 'MAX_PICTURE_BYTES', len(content))
    monkeypatch.setattr(files, 'MAX_PICTURE_PIXELS', 64 * 32)
    (tmp_path / 'p').write_bytes(content)
    assert files.read_picture(tmp_path / 'p').tolist() == GREY.tolist()


def test_half_a_character_is_replaced_and_counted(tmp_path: Path) -> None:
    path = grey_set(
        tmp_path, {'f': {'perception': [qa('what \ud83d?', 'that', 2), qa('whole \U0001f600?', 'this', 2)]}}
    )
    found = drivelm.read(path)
    assert [q.text for q in found.questions] == ['what \ufffd?', 'whole \U0001f600?']
    assert found.faults.sentences == ['texts with half a character, which is replaced: 1; the first is what ??']


@pytest.mark.parametrize(
    ('name', 'make'), [('drivelm', make_drivelm), ('lingoqa', make_lingoqa), ('nuinstruct', make_nuinstruct)]
)
def test_results_and_hidden_files_in_the_folder_of_a_set_are_no_questions(
    tmp_path: Path, name: str, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make(tmp_path)
    data.with_name(f'._{data.name}').write_bytes(b'\0\5\x16\7')
    command = ['eval', '--dataset', name, '--data', str(tmp_path), '--model', 'ringworld', '--method', 'uniform']
    for output in ('r.json', 's.json', 'r.json'):
        again = ['--resume'] if (tmp_path / output).exists() else []
        assert cli.main([*command, '--limit', '1', '--output', str(tmp_path / output), *again]) == 0, (
            capsys.readouterr()
        )
    assert files.find_file(tmp_path, data.suffix) == data


def test_only_what_a_run_wrote_is_passed_over(tmp_path: Path) -> None:
    for name, content in (('a.json', '{"default": "x", "tables": []}'), ('b.output.json', '[]'), ('.c.json', '{}')):
        (tmp_path / name).write_text(content)
        with pytest.raises(StpruneError, match=r'has no .json file with questions in it; give the file as --data'):
            files.find_file(tmp_path, '.json')
    (tmp_path / 'd.json').mkdir()
    (tmp_path / 'e.json').write_text('{"defaults": 1}')
    assert files.find_file(tmp_path, '.json').name == 'e.json'
    assert files.find_file(tmp_path / 'a.json', '.json').name == 'a.json', 'who names a file means it'
    (tmp_path / 'outputs.json').write_text('[]')
    with pytest.raises(StpruneError, match='has 2 .json files'):
        files.find_file(tmp_path, '.json')
