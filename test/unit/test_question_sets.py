"""Readers of public data sets on invented ones: questions, history, calibration, and files that are broken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers.question_sets import (
    CAMERAS,
    FIRST_US,
    GREY,
    OPTIONS,
    SCENE_US,
    STRIDE_US,
    draw,
    grey_set,
    key_frame,
    make_drivelm,
    make_lingoqa,
    make_nuinstruct,
    needs_packages,
    picture_name,
    qa,
    write_pictures,
    write_tables,
)

from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.datasets import drivelm, files, lingoqa, nuinstruct
from stprune_ros.evaluation.datasets.dataset import require_questions

pytestmark = needs_packages
GREY_JPEG = cv2.imencode('.jpg', GREY)[1].tobytes()


def test_questions_of_drivelm_are_numbered_over_all_groups_and_judged_by_their_tags(tmp_path: Path) -> None:
    groups: dict[str, list[Any]] = {
        'behavior': [qa(f'what next? {OPTIONS}', 'B', 0)],
        'planning': [qa('safe?', 'no', 1), {'A': 'no question'}, qa('where?', 'here 1.0, 2.0', 3, 2)],
        'perception': [qa('what is there?', 'a car', 2), qa('Is it red?', 'No.', 0), qa('Is it red?', 'Maybe.', 0)],
        'prediction': [qa('how many?', None, 0), qa('and what else?', 'a bus'), qa('Does it move?', 'No.')],
    }
    found = drivelm.read(grey_set(tmp_path, {'f': groups}))
    asked = {q.id: (q.text, q.measures, q.answers, q.candidates, q.form) for q in found.questions}
    assert asked == {
        's_f_0': ('what is there?', ('language',), ('a car',), (), 'perception'),
        's_f_1': ('Is it red?', ('accuracy',), ('No.',), ('Yes.', 'No.'), 'perception'),
        's_f_2': ('Is it red?', ('accuracy',), ('Maybe.',), (), 'perception'),
        's_f_3': ('how many?', ('accuracy',), (), (), 'prediction'),
        's_f_4': ('and what else?', ('language',), ('a bus',), (), 'prediction'),
        's_f_5': ('Does it move?', ('accuracy',), ('No.',), ('Yes.', 'No.'), 'prediction'),
        's_f_6': ('safe?', ('judge',), ('no',), (), 'planning'),
        's_f_8': ('where?', ('match', 'language'), ('here 1.0, 2.0',), (), 'planning'),
        's_f_9': (f'what next? {OPTIONS}', ('accuracy',), ('B',), ('A', 'B', 'C', 'D'), 'behavior'),
    }
    assert found.faults.sentences == [
        'questions without a tag, judged by what they ask: 2; the first is s_f_4',
        'questions left out, without a text: 1; the first is s_f_7',
    ]


@pytest.mark.parametrize(
    ('options', 'letters'),
    [
        ('A. red. B. blue. C. green. D. none.', 'ABCD'),
        ('A. red. B. blue. C. D.', 'ABCD'),
        ('A. B.', 'AB'),
        ('A. left. B. right. C. both. D. C.', 'ABCD'),
        ('A. vitamin B. B. sugar.', 'AB'),
        ('A. as C. says. B. x. C. y.', 'ABC'),
        ('A.\nred\nB.\nblue', 'AB'),
        ('A. red. B. blue. D. none.', ''),
        ('B. red. C. blue.', ''),
        ('A. red.', ''),
        ('A.red. B.blue.', ''),
        ('', ''),
    ],
)
def test_options_are_letters_in_a_row(options: str, letters: str) -> None:
    assert drivelm.options_of(f'What is it? Select from the following options: {options}') == tuple(letters)
    assert drivelm.options_of(f'What is it? {options}') == (), 'only what is called options is one'


def test_an_answer_that_is_none_of_the_letters_is_written(tmp_path: Path) -> None:
    options = 'following options: A. left. B. right. C. both. D. C.'
    asked = [qa(f'which? {options}', answer, 0) for answer in ('D', 'D.', 'D. C.', 'E', '')]
    found = drivelm.read(grey_set(tmp_path, {'f': {'perception': asked}}))
    assert [''.join(question.candidates) for question in found.questions] == ['ABCD', '', '', '', 'ABCD']


def test_each_of_a_list_of_answers_is_true_and_what_is_no_answer_leaves_its_question(tmp_path: Path) -> None:
    asked = [
        qa('what is there?', ['a car', 'an auto', 'a car', ' '], 2),
        qa(f'which? {OPTIONS}', ['B', 'C'], 0),
        qa(f'which? {OPTIONS}', ['B', 'blue'], 0),
        qa('how many?', 3, 0),
        qa('how far?', [], 2),
        qa('where?', {'x': 1.0}, 3),
        qa('Is it?', True, 0),
        qa('who?', ['a car', None], 2),
    ]
    found = drivelm.read(grey_set(tmp_path, {'f': {'perception': asked}}))
    assert [(q.id, q.answers, ''.join(q.candidates)) for q in found.questions] == [
        ('s_f_0', ('a car', 'an auto'), ''),
        ('s_f_1', ('B', 'C'), 'ABCD'),
        ('s_f_2', ('B', 'blue'), ''),
        ('s_f_3', ('3',), ''),
        ('s_f_4', (), ''),
        ('s_f_5', (), ''),
        ('s_f_6', (), 'Yes.No.'),
        ('s_f_7', (), ''),
    ]
    assert found.faults.sentences == [
        'answers left out that are no texts, their questions asked and not scored: 3; the first is s_f_5'
    ]


def test_history_of_drivelm_is_its_key_frames_without_tables(tmp_path: Path) -> None:
    make_drivelm(tmp_path)
    found = drivelm.read(tmp_path)
    assert [(m.drive, len(m.questions)) for m in found.moments] == [(0, 8), (1, 8)]
    for scene, moment in enumerate(found.moments):
        assert moment.rig.ring == CAMERAS, 'clockwise from the front, whatever the order in the file'
        assert moment.egos == (None,) * 4
        for camera in CAMERAS:
            names = [path.name if path else None for path in moment.pictures[camera]]
            assert names == [picture_name(scene, n, camera) for n in range(4)]
    assert 'the mounting of cameras is the nominal one' in found.notes[0]
    [one, _] = drivelm.read(tmp_path, 1).moments
    assert {len(row) for row in one.pictures.values()} == {1}
    [many, _] = drivelm.read(tmp_path, 6).moments
    assert [path is None for path in many.pictures['CAM_BACK']] == [True, True, False, False, False, False]


def test_tables_of_nuscenes_bring_calibration_motion_and_the_pictures_between(tmp_path: Path) -> None:
    """Only the last instant is a key frame here; the car drives a known arc, and two cameras have swapped places."""
    write_pictures(tmp_path / 'nuscenes')
    groups = {'perception': [qa('what is there?', 'a car', 2)]}
    tree = {f's{n}': {'key_frames': {f'sample{n}3': key_frame(n, 3, groups)}} for n in range(2)}
    (tmp_path / 'set.json').write_text(json.dumps(tree))
    samples = {(scene, n): f'sample{scene}{n}' for scene in range(2) for n in range(4)}
    swapped = {'CAM_FRONT_LEFT': 'CAM_FRONT_RIGHT', 'CAM_FRONT_RIGHT': 'CAM_FRONT_LEFT'}
    write_tables(tmp_path / 'nuscenes', samples, swapped, speed=6.0, yaw_rate=0.2)
    found = drivelm.read(tmp_path)
    assert found.notes == () and found.faults.sentences == []
    for scene, moment in enumerate(found.moments):
        assert moment.rig.ring == (
            *('CAM_FRONT', 'CAM_FRONT_LEFT', 'CAM_BACK_RIGHT', 'CAM_BACK', 'CAM_BACK_LEFT', 'CAM_FRONT_RIGHT'),
        )  # fmt: skip
        names = [path.name if path else None for path in moment.pictures['CAM_BACK_LEFT']]
        assert names == [picture_name(scene, n, 'CAM_BACK_LEFT') for n in range(4)]
        for n, ego in enumerate(moment.egos):
            assert ego is not None
            assert ego.stamp_ns == 1000 * (FIRST_US + scene * SCENE_US + n * STRIDE_US)
            assert ego.linear == pytest.approx((6.0, 0.0, 0.0), abs=0.02)
            assert ego.angular == pytest.approx((0.0, 0.0, 0.2), abs=1e-6)
    scene_shown = found.cases(0)[0].scene
    assert scene_shown.ego_motion == 'ego turning'


def test_a_sample_that_the_tables_do_not_know_is_counted(tmp_path: Path) -> None:
    make_drivelm(tmp_path)
    write_tables(tmp_path / 'nuscenes', {(0, n): f'f0{n}' for n in range(4)})
    found = drivelm.read(tmp_path)
    assert [moment.egos[-1] is None for moment in found.moments] == [False, True]
    sentence = 'key frames that the tables do not know, with the nominal mounting: 1; the first is f13'
    assert found.faults.sentences == [sentence]


def test_broken_tables_are_named(tmp_path: Path) -> None:
    make_drivelm(tmp_path)
    tables = write_tables(tmp_path / 'nuscenes', {(0, n): f'f0{n}' for n in range(4)})
    content = (tables / 'calibrated_sensor.json').read_text()
    (tables / 'calibrated_sensor.json').write_text(content.replace('"rotation"', '"turned"', 1))
    with pytest.raises(StpruneError, match="has a calibration of CAM_FRONT that is none, cal-CAM_FRONT: 'rotation'"):
        drivelm.read(tmp_path)
    rows = json.loads(content)
    for row in rows:
        row['camera_intrinsic'] = [[10**400, 0, 1], [0, 1, 1], [0, 0, 1]]  # more than a float holds
    (tables / 'calibrated_sensor.json').write_text(json.dumps(rows))
    with pytest.raises(StpruneError, match='has a calibration of CAM_FRONT that is none'):
        drivelm.read(tmp_path)
    (tables / 'calibrated_sensor.json').write_text(content)
    data = (tables / 'sample_data.json').read_text()
    for width in ('"abc"', 'NaN', '[1]', 'Infinity', 'true', '{}'):
        (tables / 'sample_data.json').write_text(re.sub(r'"width": \d+', f'"width": {width}', data))
        with pytest.raises(StpruneError, match='has a calibration of CAM_FRONT that is none'):
            drivelm.read(tmp_path)
    (tables / 'sample_data.json').write_text(data)
    (tables / 'calibrated_sensor.json').write_text(content[:-40])
    with pytest.raises(StpruneError, match=r"calibrated_sensor.json' is no list of JSON objects that is whole"):
        drivelm.read(tmp_path)


def test_conversations_are_read_as_the_scenes_that_they_were_made_of(tmp_path: Path) -> None:
    groups = {'perception': [qa('what is there?', 'a car'), qa('Is it red?', 'No.')]}
    path = grey_set(tmp_path, {'f': groups})
    before = drivelm.read(path)
    rows = [
        {
            'id': f's_f_{n}',
            'image': [f'data/nuscenes/samples/{c}/{picture_name(0, 0, c)}' for c in CAMERAS],
            'conversations': [{'from': 'human', 'value': f'<image>\n{q}'}, {'from': 'gpt', 'value': a}],
        }
        for n, (q, a) in enumerate((row['Q'], row['A']) for row in groups['perception'])
    ]
    path.write_text(json.dumps([*rows, {'id': 'short'}, 7]))
    found = drivelm.read(path)
    assert (found.questions, found.moments[0].pictures) == (before.questions, before.moments[0].pictures)
    assert found.faults.sentences[0] == 'conversations left out, without an id or a question: 2; the first is short'
    path.write_text(json.dumps([{**rows[1], 'id': 's_f_7'}, {**rows[0], 'id': 's_f_4'}]))  # a part, in another order
    assert [(one.id, one.text) for one in drivelm.read(path).questions] == [
        ('s_f_7', 'Is it red?'),
        ('s_f_4', 'what is there?'),
    ]


@pytest.mark.parametrize('shape', ['by instant', 'by camera', 'in one row'])
def test_clips_of_nuinstruct_are_read_in_every_shape(tmp_path: Path, shape: str) -> None:
    path = make_nuinstruct(tmp_path)
    before = nuinstruct.read(path)
    rows = json.loads(path.read_text())
    for row in rows:
        clip = row.pop('img_path')
        by_camera = {camera: [instant[camera] for instant in clip] for camera in clip[0]}
        in_one = [name for names in by_camera.values() for name in reversed(names)]
        row['img_paths'] = {'by instant': clip, 'by camera': by_camera, 'in one row': in_one}[shape]
    path.write_text(json.dumps(rows))
    found = nuinstruct.read(path)
    assert [m.pictures for m in found.moments] == [m.pictures for m in before.moments]
    assert [len(m.questions) for m in found.moments] == [7, 7]
    for scene, moment in enumerate(found.moments):
        names = [path.name if path else None for path in moment.pictures['CAM_BACK']]
        assert names == [picture_name(scene, n, 'CAM_BACK') for n in (1, 2, 3)]
    [short, _] = nuinstruct.read(path, 2).moments
    assert short.pictures['CAM_BACK'] == found.moments[0].pictures['CAM_BACK'][1:]


def test_clips_of_nuinstruct_have_calibration_and_motion_from_the_tables(tmp_path: Path) -> None:
    path = make_nuinstruct(tmp_path)
    write_tables(tmp_path, {(scene, n): f'sample{scene}{n}' for scene in range(2) for n in range(4)}, yaw_rate=0.01)
    found = nuinstruct.read(path)
    assert found.notes == ()
    for moment in found.moments:
        assert [ego and round(ego.speed, 2) for ego in moment.egos] == [6.0] * 3
        assert moment.rig.cameras['CAM_BACK'].k[0, 0] < moment.rig.cameras['CAM_FRONT'].k[0, 0]


def test_questions_of_nuinstruct_are_judged_by_their_task(tmp_path: Path) -> None:
    path = make_nuinstruct(tmp_path)
    rows = json.loads(path.read_text())
    rows += [{**rows[0], 'Answer': 'again'}, {'task': 'x'}, {**rows[0], 'qa_id': 'n', 'img_path': 'no.jpg'}, 'text']
    path.write_text(json.dumps(rows))
    found = require_questions(nuinstruct.read(path))
    measures = {q.kind: q.measures for q in found.questions}
    assert measures == {
        'perception-status': ('agreement',),
        'perception-distance': ('mae',),
        'perception-closest': ('agreement',),
        'risk-crossing': ('map',),
        'reasoning-reasoning': ('language',),
    }
    assert found.faults.sentences == [
        'questions left out, without a task or a text: 2; the first is x/15',
        'questions left out, without names of pictures: 1; the first is perception-status/n',
        'questions left out, with an id that another has: 1; the first is perception-status/0-0',
    ]


def test_tasks_of_nuinstruct_that_are_not_known_are_counted(tmp_path: Path) -> None:
    path = make_nuinstruct(tmp_path)
    rows = json.loads(path.read_text())[:3]
    rows[0]['task'], rows[1]['task'] = 'Perception-Distance', 'prediction-unheard_of'
    path.write_text(json.dumps(rows))
    found = require_questions(nuinstruct.read(path))
    assert [q.measures for q in found.questions] == [('language',), ('language',), ('agreement',)]
    assert found.faults.sentences == [
        'questions of tasks that are not known, judged as texts: 2; the first is Perception-Distance'
    ]


def test_rows_of_lingoqa_are_answers_and_questions_about_the_same_pictures_share_them(tmp_path: Path) -> None:
    make_lingoqa(tmp_path / 'evaluation')
    found = lingoqa.read(tmp_path)
    assert [len(moment.questions) for moment in found.moments] == [4, 4]
    assert all(len(q.answers) == 2 and q.answers[1] == f'it is {q.answers[0]}' for q in found.questions)
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


def test_names_that_make_the_same_id_are_counted(tmp_path: Path) -> None:
    path = grey_set(tmp_path, {'f': {'perception': [qa('what?', 'that', 2)]}})
    [frame] = json.loads(path.read_text())['s']['key_frames'].values()
    path.write_text(json.dumps({'a': {'key_frames': {'b_c': frame}}, 'a_b': {'key_frames': {'c': frame}}}))
    found = require_questions(drivelm.read(path))
    assert [len(moment.questions) for moment in found.moments] == [1, 0]
    assert found.faults.sentences == ['questions left out, with an id that another has: 1; the first is a_b_c_0']


def test_half_a_character_is_replaced_and_counted(tmp_path: Path) -> None:
    path = grey_set(
        tmp_path, {'f': {'perception': [qa('what \ud83d?', 'that', 2), qa('whole \U0001f600?', 'this', 2)]}}
    )
    found = drivelm.read(path)
    assert [q.text for q in found.questions] == ['what \ufffd?', 'whole \U0001f600?']
    assert found.faults.sentences == ['texts with half a character, which is replaced: 1; the first is what ??']


def test_an_earlier_picture_of_another_size_is_a_gap(tmp_path: Path) -> None:
    make_drivelm(tmp_path)
    path = tmp_path / 'nuscenes' / 'samples' / 'CAM_BACK' / picture_name(0, 1, 'CAM_BACK')
    draw(path, GREY)
    found = drivelm.read(tmp_path)
    shown = found.cases(0)[0].scene
    assert [image is None for image in shown.images['CAM_BACK']] == [False, True, False, False]
    sentence = f"earlier pictures left out: 1; the first is picture '{path}' has another size than the present one"
    assert found.faults.sentences == [sentence]
