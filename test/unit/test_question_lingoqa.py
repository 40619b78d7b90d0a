"""LingoQA on invented sets: rows, ids, and files that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.question_sets import (
    GREY,
    draw,
    make_lingoqa,
    needs_packages,
)

from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.datasets import lingoqa
from stprune_ros.evaluation.datasets.dataset import require_questions

pytestmark = needs_packages


def test_rows_of_lingoqa_are_answers_and_questions_about_the_same_pictures_share_them(tmp_path: Path) -> None:
    make_lingoqa(tmp_path / 'evaluation')
    found = lingoqa.read(tmp_path)
    assert [len(moment.questions) for moment in found.moments] == [4, 4]
    assert all(len(q.answers) == 2 and q.answers[1] == f'it is {q.answers[0]}' for q in found.questions)
    assert {q.measures for q in found.questions} == {('judge', 'language')}, 'the judge counts where one is named'
    [moment, _] = found.moments
    names = [path.name if path else None for path in moment.pictures['CAM_FRONT']]
    assert names == [f'{n}.jpg' for n in range(5)] and moment.egos == (None,) * 5
    assert moment.rig.ring == ('CAM_FRONT',) and found.single_camera
    assert [row.name for row in lingoqa.read(tmp_path, 2).moments[0].pictures['CAM_FRONT'] if row] == ['3.jpg', '4.jpg']


def parquet_of(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_broken_rows_of_lingoqa_are_counted_and_the_others_read(tmp_path: Path) -> None:
    import pyarrow.parquet

    path = make_lingoqa(tmp_path)
    rows = pyarrow.parquet.read_table(path).to_pylist()
    first, outside = rows[0], {'question_id': 'o', 'segment_id': 'o', 'question': 'where?', 'answer': 'there'}
    (tmp_path / 'images' / 'val' / 'seg1' / '2.jpg').unlink()
    rows += [{**first, 'question_id': None}, {**first, 'images': []}, {**first, 'question': 'another?'}]
    draw(tmp_path.parent / 'evil.jpg', GREY)
    rows += [{**outside, 'images': ['../evil.jpg']}, {**outside, 'question_id': 'p', 'images': ['/etc/passwd']}]
    rows += [{**outside, 'question_id': 'r', 'images': [f'/else/where/{name}' for name in first['images']]}]
    found = lingoqa.read(parquet_of(path, rows))
    assert found.questions[-1].id == 'r/o' and found.moments[-1].pictures == found.moments[0].pictures
    assert len(found.questions) == 9 and [q.fields['question_id'] for q in found.left_out] == ['o', 'p']
    assert found.moments[1].pictures['CAM_FRONT'][2] is None
    assert found.faults.sentences == [
        'rows left out, without an id, a question or names of pictures: 2; the first is row 16',
        'rows left out, with another question under an id that is there: 1; the first is q0',
        'earlier pictures that are missing: 1; the first is images/val/seg1/2.jpg',
        'questions left out, a picture is missing: 2; the first is ../evil.jpg',
    ]


def test_files_that_are_no_parquet_or_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / 'val.parquet'
    path.write_bytes(b'PAR1 no')
    with pytest.raises(StpruneError, match=r"val.parquet' is no parquet file that can be read: "):
        lingoqa.read(path)
    parquet_of(path, [{'question_id': 'a', 'answer': 'b'}])
    table = pyarrow.Table.from_pylist([dict.fromkeys(lingoqa.COLUMNS, 'x')])
    parquet.write_table(table.append_column('answer', table['answer']), path)
    with pytest.raises(StpruneError, match=r"val.parquet' has the column 'answer' twice, and nobody knows which"):
        lingoqa.read(path)
    parquet_of(path, [{'question_id': 'a', 'answer': 'b'}])
    with pytest.raises(StpruneError, match="lacks the columns 'segment_id', 'images', 'question'"):
        lingoqa.read(path)
    row = {'question_id': 'a', 'segment_id': 'b', 'images': ['x.jpg'], 'question': 'q' * 10_000, 'answer': 'c'}
    parquet_of(path, [row] * 2000)
    assert path.stat().st_size < 200_000, 'packed it is small'
    monkeypatch.setattr(lingoqa, 'MAX_BYTES', 10_000_000)
    with pytest.raises(StpruneError, match='has more than 10000000 bytes when unpacked: split it'):
        lingoqa.read(path)
    monkeypatch.setattr(lingoqa, 'MAX_ROWS', 1999)
    with pytest.raises(StpruneError, match='has 2000 rows; a file of questions may have 1999: split it'):
        lingoqa.read(path)


def test_rows_of_lingoqa_with_other_pictures_are_counted_and_ids_stay_apart(tmp_path: Path) -> None:
    make_lingoqa(tmp_path)
    names = [f'images/val/seg0/{n}.jpg' for n in range(5)]
    row = {'question_id': 'a/b', 'segment_id': 'c', 'images': names, 'question': 'what?', 'answer': 'that'}
    rows = [
        row,
        {**row, 'answer': 'this'},
        {**row, 'answer': 'of others', 'images': names[:4]},
        {**row, 'question_id': 'a', 'segment_id': 'b/c', 'answer': 'else'},
        {**row, 'question_id': 'a%2Fb', 'answer': 'third'},
        {**row, 'question_id': 'd', 'images': [*names[:4], '']},
        {**row, 'question_id': 'e', 'images': [*names[:4], None]},
    ]
    found = require_questions(lingoqa.read(parquet_of(tmp_path / 'val.parquet', rows)))
    assert {question.id: question.answers for question in found.questions} == {
        'a%2Fb/c': ('that', 'this'),
        'a/b%2Fc': ('else',),
        'a%252Fb/c': ('third',),
    }
    assert found.faults.sentences == [
        'rows left out, with other pictures under an id that is there: 1; the first is a/b',
        'rows left out, without an id, a question or names of pictures: 2; the first is row 5',
    ]


def test_clips_of_one_segment_are_one_drive(tmp_path: Path) -> None:
    make_lingoqa(tmp_path)
    shown = [('seg0', 5), ('seg1', 5), ('seg0', 4)]
    rows = [
        {
            'question_id': str(n),
            'segment_id': segment,
            'images': [f'images/val/{segment}/{at}.jpg' for at in range(count)],
            'question': 'what?',
            'answer': 'that',
        }
        for n, (segment, count) in enumerate(shown)
    ]
    found = lingoqa.read(parquet_of(tmp_path / 'val.parquet', rows))
    assert [(moment.drive, len(moment.egos)) for moment in found.moments] == [(0, 5), (1, 5), (0, 4)]


def test_whole_numbers_are_ids(tmp_path: Path) -> None:
    make_lingoqa(tmp_path)
    names = ['images/val/seg0/0.jpg']
    row = {'question_id': 7, 'segment_id': 0, 'images': names, 'question': 'what?', 'answer': 'that'}
    path = parquet_of(tmp_path / 'val.parquet', [row, {**row, 'answer': 'this'}, {**row, 'question_id': None}])
    found = lingoqa.read(path)
    [question] = found.questions
    assert (question.id, question.answers) == ('7/0', ('that', 'this'))
    lingoqa.write_answers(tmp_path / 'a.csv', found, {'7/0': 'x'})
    assert (tmp_path / 'a.csv').read_text().splitlines()[1] == '7,0,x'
    assert found.faults.sentences == [
        'rows left out, without an id, a question or names of pictures: 1; the first is row 2'
    ]
    for wrong in (True, 7.5):
        path = parquet_of(tmp_path / 'val.parquet', [{**row, 'question_id': wrong}])
        assert lingoqa.read(path).questions == []
