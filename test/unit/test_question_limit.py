"""`--limit` of `stprune eval --dataset`: the first questions of the file, in whatever order the file has them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.question_sets import (
    CAMERAS,
    GREY,
    draw,
    grey_set,
    key_frame,
    make_lingoqa,
    make_nuinstruct,
    needs_packages,
    picture_name,
    qa,
)

from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.datasets import drivelm, lingoqa, nuinstruct
from stprune_ros.evaluation.datasets.dataset import Dataset, require_questions

pytestmark = needs_packages


def by_moment(found: Dataset) -> list[list[str]]:
    return [[question.id for question in moment.questions] for moment in found.moments]


def interleaved(rows: list[Any]) -> list[Any]:
    """A row of the first half, one of the second, and so on."""
    half = len(rows) // 2
    return [row for pair in zip(rows[:half], rows[half:], strict=True) for row in pair]


def test_the_first_questions_of_a_file_that_goes_from_clip_to_clip(tmp_path: Path) -> None:
    path = make_nuinstruct(tmp_path)
    rows = interleaved(json.loads(path.read_text()))
    path.write_text(json.dumps(rows))
    found = require_questions(nuinstruct.read(path))
    names = [f'{row["task"]}/{row["qa_id"]}' for row in rows]
    assert [question.id for question in found.in_file_order] == names
    few = found.first(3)
    assert by_moment(few) == [[names[0], names[2]], [names[1]]]
    assert [moment.id for moment in few.moments] == [0, 1]
    assert by_moment(found.first(1)) == [[names[0]], []]
    assert few.cases(1)[0].id == names[1], 'a moment is found by its place'
    assert found.first(14) is found.first(99) is found.first(None) is found


def test_what_cannot_be_asked_does_not_count_and_is_left_out_of_the_answers_behind_the_last_one(tmp_path: Path) -> None:
    import pyarrow.parquet

    path = make_lingoqa(tmp_path)
    rows = interleaved(pyarrow.parquet.read_table(path).to_pylist())
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (tmp_path / 'images' / 'val' / 'seg1' / '4.jpg').unlink()
    found = require_questions(lingoqa.read(path))
    few = found.first(2)
    assert by_moment(few) == [['q0/seg0', 'q1/seg0']]
    lingoqa.write_answers(tmp_path / 'a.csv', few, {'q0/seg0': 'one', 'q1/seg0': 'two'})
    assert list(csv.reader((tmp_path / 'a.csv').open())) == [
        ['question_id', 'segment_id', 'answer'],
        ['q0', 'seg0', 'one'],
        ['q0', 'seg1', ''],
        ['q1', 'seg0', 'two'],
    ]


def test_questions_of_a_key_frame_follow_on_each_other_and_conversations_keep_their_order(tmp_path: Path) -> None:
    groups = {'behavior': [qa('what next?', 'go', 2)], 'perception': [qa('what?', 'that', 2)]}
    path = grey_set(tmp_path, {'f': groups, 'g': groups})
    found = require_questions(drivelm.read(path))
    assert by_moment(found.first(3)) == [['s_f_0', 's_f_1'], ['s_g_0']]
    assert [question.text for question in found.first(1).questions] == ['what?'], 'in the order of its number'
    images = [f'samples/{c}/{picture_name(0, 0, c)}' for c in CAMERAS]
    order = ['s_g_1', 's_f_0', 's_g_0', 's_f_1']
    talks = [{'id': i, 'image': images, 'conversations': [{'value': f'at {i}?'}, {'value': 'x'}]} for i in order]
    path.write_text(json.dumps(talks))
    found = require_questions(drivelm.read(path))
    assert [question.id for question in found.in_file_order] == order
    assert sorted(question.id for question in found.first(2).questions) == ['s_f_0', 's_g_1']


def test_questions_that_are_too_long_for_a_model_are_left_out_and_have_an_empty_answer(tmp_path: Path) -> None:
    texts = ['what?', 'x' * 2001, 'y' * 2000, 'z' * 300_000]
    path = grey_set(tmp_path, {'f': {'perception': [qa(text, 'that', 2) for text in texts]}})
    found = require_questions(drivelm.read(path))
    assert by_moment(found) == [['s_f_0', 's_f_2']]
    assert found.faults.sentences == [
        'questions left out, of more than 2000 characters: 2; the first is s_f_1, which has 2001'
    ]
    drivelm.write_answers(tmp_path / 'a.json', found, {'s_f_0': 'one', 's_f_2': 'two'})
    assert [row['answer'] for row in json.loads((tmp_path / 'a.json').read_text())] == ['one', '', 'two', '']
    path.write_text(path.read_text().replace('what?', 'w' * 2001).replace('y' * 2000, 'y' * 2001))
    with pytest.raises(StpruneError, match='has no question that can be asked: .*: 4; the first is s_f_0, which has'):
        require_questions(drivelm.read(path))


def test_an_empty_key_in_a_file_of_scenes_is_no_id(tmp_path: Path) -> None:
    path = grey_set(tmp_path, {'f': {'perception': [{**qa('what?', 'that', 2), '': ['x', 0]}]}})
    assert [question.id for question in drivelm.read(path).questions] == ['s_f_0']


def test_an_id_that_cannot_be_asked_is_in_the_answers_once(tmp_path: Path) -> None:
    groups = {'perception': [qa('what?', 'that', 2)]}
    for camera in CAMERAS:
        draw(tmp_path / 'nuscenes' / 'samples' / camera / picture_name(0, 0, camera), GREY)
    shown, gone = key_frame(0, 0, groups), key_frame(0, 1, groups)
    tree = {'a': {'key_frames': {'b_c': gone}}, 'a_b': {'key_frames': {'c': shown}}, 'a_b_c': {'key_frames': {}}}
    (tmp_path / 'set.json').write_text(json.dumps(tree))
    found = require_questions(drivelm.read(tmp_path))
    drivelm.write_answers(tmp_path / 'a.json', found, {'a_b_c_0': 'yes'})
    assert json.loads((tmp_path / 'a.json').read_text()) == [{'id': 'a_b_c_0', 'question': 'what?', 'answer': 'yes'}]
    assert found.faults.sentences[-1] == 'questions left out, with an id that another has: 1; the first is a_b_c_0'
