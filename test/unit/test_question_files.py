"""Files of public sets as they come: names that lie, pictures that are not there, tables with a part missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.question_sets import (
    CAMERAS,
    FIRST_US,
    GREY,
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
    write_tables,
)

from stprune_ros import cli
from stprune_ros.errors import StpruneError
from stprune_ros.evaluation.datasets import drivelm, files, lingoqa, nuinstruct
from stprune_ros.evaluation.datasets.dataset import require_questions
from stprune_ros.evaluation.datasets.nuscenes import NO_TABLES, Picture, Shot, Tables

pytestmark = needs_packages


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


ASKED = {'perception': [qa('what?', 'that', 2), qa('and else?', 'this', 2)]}


def set_with(folder: Path, **frames: dict[str, Any]) -> Path:
    """A set of DriveLM with a good key frame before and behind ``frames``."""
    path = grey_set(folder, {'a': ASKED, 'z': ASKED})
    tree = json.loads(path.read_text())
    known = tree['s']['key_frames']
    tree['s']['key_frames'] = {'a': known['a'], **frames, 'z': known['z']}
    path.write_text(json.dumps(tree))
    return path


def frame_with(**paths: Any) -> dict[str, Any]:
    frame = key_frame(0, 0, ASKED)
    frame['image_paths'] |= paths
    return frame


@pytest.mark.parametrize(
    ('paths', 'sentence'),
    [
        ({'CAM_BACK': f'x__CAM_BACK__{"1" * 10}.jpg'}, 'questions left out, a picture is missing: 2; the first is x__'),
        (
            {'CAM_BACK': f'{"x" * 300}__CAM_BACK__1600000000000000.jpg'},
            'questions left out, a picture is missing: 2; the first is xxx',
        ),
        (
            {'CAM_TOP': 'n__CAM_TOP__1600000000000000.jpg'},
            "questions left out, a camera has no place in the ring: 2; the first is camera 'CAM_TOP' is none of CAM_",
        ),
        (
            {'CAM_FRONT': f'../samples/CAM_BACK/{picture_name(0, 0, "CAM_BACK")}'},
            "key frames left out, with a picture of another camera under a camera's name: 1; the first is s_b: "
            f'{picture_name(0, 0, "CAM_BACK")} under CAM_FRONT',
        ),
        ({'CAM_BACK': 7}, 'key frames left out, with names of pictures that are none: 1; the first is s_b'),
        ({'CAM_BACK': 'x.jpg'}, 'key frames left out, with names of pictures that are none: 1; the first is s_b'),
    ],
    ids=['missing', 'long', 'unknown camera', 'other camera', 'number', 'other name'],
)
def test_a_picture_that_cannot_be_shown_costs_its_key_frame_only(
    tmp_path: Path, paths: dict[str, Any], sentence: str
) -> None:
    path = set_with(tmp_path, b=frame_with(**paths))
    draw(tmp_path / 'nuscenes' / 'samples' / 'CAM_TOP' / 'n__CAM_TOP__1600000000000000.jpg', GREY)
    found = require_questions(drivelm.read(path, 1))
    assert [question.id for question in found.questions] == ['s_a_0', 's_a_1', 's_z_0', 's_z_1']
    assert [question.id for question in found.left_out] == ['s_b_0', 's_b_1'], 'with empty answers in the file'
    assert [question.id for question in found.in_file_order][2:4] == ['s_b_0', 's_b_1']
    [fault] = found.faults.sentences
    assert fault.startswith(sentence)


def test_the_history_is_the_last_key_frames_before(tmp_path: Path) -> None:
    path = make_drivelm(tmp_path)
    for moment, scene in zip(drivelm.read(path, 3).moments, (0, 1), strict=True):
        names = [row.name if row else None for row in moment.pictures['CAM_BACK']]
        assert names == [picture_name(scene, n, 'CAM_BACK') for n in (1, 2, 3)]


def test_tags_that_are_none_are_counted(tmp_path: Path) -> None:
    asked = [{**qa('what?', 'that'), 'tag': tag} for tag in ([[0]], ['0'], [None], [9], [0.0], 0, [7, 1, 1])]
    found = drivelm.read(grey_set(tmp_path, {'f': {'perception': asked}}))
    assert [question.measures for question in found.questions] == [*[('language',)] * 6, ('judge',)]
    sentence = 'questions without a tag, judged by what they ask: 6; the first is s_f_0'
    assert found.faults.sentences == [sentence]


def test_a_key_frame_without_usable_names_is_no_history(tmp_path: Path) -> None:
    path = make_drivelm(tmp_path)
    tree = json.loads(path.read_text())
    tree['s0']['key_frames']['f01']['image_paths']['CAM_BACK'] = 'x.jpg'
    del tree['s0']['key_frames']['f02']['QA']
    path.write_text(json.dumps(tree))
    found = drivelm.read(path)
    names = [row.name if row else None for row in found.moments[0].pictures['CAM_FRONT']]
    assert names == [None, None, picture_name(0, 0, 'CAM_FRONT'), picture_name(0, 3, 'CAM_FRONT')]
    assert found.faults.sentences == [
        'key frames left out, with names of pictures that are none: 1; the first is s0_f01',
        'key frames left out, without questions: 1; the first is s0_f02',
    ]


@pytest.mark.parametrize(
    ('read', 'make', 'instants'),
    [(drivelm.read, make_drivelm, (0, 1)), (nuinstruct.read, make_nuinstruct, (1, 2))],
    ids=['drivelm', 'nuinstruct'],
)
@pytest.mark.parametrize('tables', [False, True], ids=['no tables', 'tables'])
def test_earlier_pictures_that_are_missing_are_counted(
    tmp_path: Path, read: Any, make: Any, instants: tuple[int, int], tables: bool
) -> None:
    path = make(tmp_path)
    if tables:
        token = 'f{}{}' if read is drivelm.read else 'sample{}{}'
        write_tables(tmp_path, {(scene, n): token.format(scene, n) for scene in range(2) for n in range(4)})
    samples = path.parent / ('nuscenes/samples' if read is drivelm.read else 'samples')
    gone = [(instants[0], 'CAM_BACK'), (instants[1], 'CAM_BACK'), (instants[1], 'CAM_FRONT')]
    for n, camera in gone:
        (samples / camera / picture_name(1, n, camera)).unlink()
    found = read(path)
    assert len(found.moments) == 2
    [fault] = found.faults.sentences
    names = {picture_name(1, n, camera) for n, camera in gone}
    assert fault.startswith('earlier pictures that are missing: 3; the first is ') and fault.rpartition(' ')[2] in names
    shown = found.moments[1].pictures
    missing = {(camera, n) for camera, row in shown.items() for n, file in enumerate(row) if file is None}
    assert missing == {('CAM_BACK', 0), ('CAM_BACK', 1), ('CAM_FRONT', 1)}


def test_clips_with_names_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    path = make_nuinstruct(tmp_path)
    rows = json.loads(path.read_text())
    clip = rows[0]['img_path']
    by_camera = {camera: [instant[camera] for instant in clip] for camera in CAMERAS}
    odd = [
        {'img_path': {**by_camera, 'CAM_FRONT': by_camera['CAM_BACK']}},
        {'img_path': {'samples': {**by_camera, 'CAM_FRONT': {'0': clip[0]['CAM_BACK']}}}},
        {'img_path': [*clip, 'thumbs.db', 5]},
        {'img_path': [*clip[:2], {c: name for c, name in clip[2].items() if c != 'CAM_BACK'}]},
        {'img_path': {**clip[0], 'CAM_TOP': 'n__CAM_TOP__1600000000500000.jpg'}},
        {'img_path': [f'{"x" * 300}__CAM_BACK__1600000001500000.jpg']},
    ]
    path.write_text(json.dumps([*rows, *({**rows[0], **entry, 'qa_id': f'odd{n}'} for n, entry in enumerate(odd))]))
    draw(tmp_path / 'samples' / 'CAM_TOP' / 'n__CAM_TOP__1600000000500000.jpg', GREY)
    found = nuinstruct.read(path)
    asked = {question.id: moment for moment in found.moments for question in moment.questions}
    assert [name.partition('/')[2] for name in asked if '/odd' in name] == ['odd2', 'odd3']
    assert asked['perception-status/odd2'] is asked['perception-status/0-0']
    assert asked['perception-status/odd3'].rig.ring == tuple(camera for camera in CAMERAS if camera != 'CAM_BACK')
    assert found.faults.sentences == [
        "questions left out, with a picture of another camera under a camera's name: 2; the first is "
        f'{picture_name(0, 1, "CAM_BACK")} under CAM_FRONT',
        "names that are no pictures, left out: 2; the first is 'thumbs.db'",
        'cameras left out, without a picture of the present: 1; the first is CAM_BACK of perception-status/odd3',
        "questions left out, a camera has no place in the ring: 1; the first is camera 'CAM_TOP' is none of "
        + ', '.join(CAMERAS),
        f'questions left out, a picture is missing: 1; the first is {"x" * 300}__CAM_BACK__1600000001500000.jpg',
    ]


def test_clips_that_the_tables_do_not_know_whole_are_counted(tmp_path: Path) -> None:
    """Of the second clip they have no sample, of the first one no picture of one camera."""
    path = make_nuinstruct(tmp_path)
    tables = write_tables(tmp_path, {(0, n): f'sample0{n}' for n in range(4)})
    found = nuinstruct.read(path)
    sentence = 'clips that the tables do not know, with the nominal mounting'
    assert found.faults.sentences == [f'{sentence}: 1; the first is perception-status/1-0']
    assert [moment.egos[-1] is None for moment in found.moments] == [False, True]
    rows = json.loads((tables / 'sample_data.json').read_text())
    (tables / 'sample_data.json').write_text(
        json.dumps([row for row in rows if 'CAM_BACK_LEFT' not in row['filename']])
    )
    found = nuinstruct.read(path)
    assert found.faults.sentences == [f'{sentence}: 2; the first is perception-status/0-0']
    assert [(moment.rig.ring, moment.egos) for moment in found.moments] == [(CAMERAS, (None,) * 3)] * 2


def test_clips_of_one_log_are_one_drive_and_answers_are_texts_or_numbers(tmp_path: Path) -> None:
    path = make_nuinstruct(tmp_path)
    rows = json.loads(path.read_text())
    clips = [rows[0]['img_path'], rows[0]['img_path'][:2], rows[-1]['img_path']]
    said: list[Any] = ['moving', 3, 2.5, True, None, [1], ' ']
    path.write_text(
        json.dumps(
            [{**rows[0], 'img_path': clips[n % 3], 'qa_id': n, 'Answer': answer} for n, answer in enumerate(said)]
        )
    )
    found = nuinstruct.read(path)
    assert [moment.drive for moment in found.moments] == [0, 0, 1]
    answers = [question.answers for question in found.in_file_order]
    assert answers == [('moving',), ('3',), ('2.5',), (), (), (), ()]


def test_conversations_with_other_pictures_are_counted(tmp_path: Path) -> None:
    path = grey_set(tmp_path, {'f': ASKED})
    images = [f'samples/{c}/{picture_name(0, 0, c)}' for c in CAMERAS]
    other = [f'samples/CAM_FRONT/{picture_name(0, 1, "CAM_FRONT")}']
    rows = [
        {'id': name, 'image': shown, 'conversations': [{'value': f'{name}?'}, {'value': 'x'}]}
        for name, shown in (
            ('s_f_0', []),
            ('s_f_1', images),
            ('s_f_2', [f'elsewhere/{name}' for name in reversed(images)]),
            ('s_f_3', images[:-1]),
            ('s_f_4', None),
            ('s_g_0', [*images, *other]),
            ('s_h_0', [*images, 'x.jpg']),
            ('s_i_0', [*images, *images]),
        )
    ]
    path.write_text(json.dumps(rows))
    found = drivelm.read(path)
    assert [question.id for question in found.questions] == ['s_f_0', 's_f_1', 's_f_2', 's_f_4', 's_i_0']
    assert [question.id for question in found.left_out] == ['s_g_0', 's_h_0']
    assert [fault for fault in found.faults.sentences if 'without a tag' not in fault] == [
        'conversations left out, with other pictures than the first about their key frame: 1; the first is s_f_3',
        "key frames left out, with a picture of another camera under a camera's name: 1; the first is s_g: "
        f'{picture_name(0, 1, "CAM_FRONT")} under {other[0]}',
        'key frames left out, with names of pictures that are none: 1; the first is s_h',
    ]


@pytest.mark.parametrize(
    ('missing', 'notes', 'motion', 'calibrated'),
    [
        (['ego_pose.json'], ["'v1.0-made-up' lacks 'ego_pose.json': the motion of the car is not known"], False, True),
        (
            ['sample.json', 'ego_pose.json'],
            ["'v1.0-made-up' lacks 'sample.json', 'ego_pose.json': the tables in it are not used", NO_TABLES],
            False,
            False,
        ),
        (
            ['calibrated_sensor.json'],
            ["'v1.0-made-up' lacks 'calibrated_sensor.json': the tables in it are not used", NO_TABLES],
            False,
            False,
        ),
        (['sample.json', 'sample_data.json', 'calibrated_sensor.json', 'ego_pose.json'], [NO_TABLES], False, False),
        ([], [], True, True),
    ],
    ids=lambda value: ' '.join(value).replace('.json', '') if isinstance(value, list) else None,
)
def test_tables_are_used_as_far_as_they_are_there(
    tmp_path: Path, missing: list[str], notes: list[str], motion: bool, calibrated: bool
) -> None:
    path = make_drivelm(tmp_path)
    swapped = {'CAM_FRONT_LEFT': 'CAM_FRONT_RIGHT', 'CAM_FRONT_RIGHT': 'CAM_FRONT_LEFT'}
    samples = {(scene, n): f'f{scene}{n}' for scene in range(2) for n in range(4)}
    tables = write_tables(tmp_path / 'nuscenes', samples, swapped)
    for name in missing:
        (tables / name).unlink()
    found = drivelm.read(path)
    assert list(found.notes) == notes and found.faults.sentences == []
    for moment in found.moments:
        assert (moment.rig.ring[1] == 'CAM_FRONT_LEFT') == calibrated, 'as the tables have swapped them'
        assert all((ego is not None) == motion for ego in moment.egos)


def test_speed_is_that_since_the_picture_before() -> None:
    """Of a car that gains speed; of the first picture that up to the next one."""
    stamps = [FIRST_US + n * STRIDE_US for n in range(3)]
    shots = [Shot(Picture('log', 'CAM_FRONT', stamp, 'name'), str(n), 'sensor') for n, stamp in enumerate(stamps)]
    poses = {str(n): (np.eye(3), np.array([x, 7.0, 0.0])) for n, x in enumerate((0.0, 1.0, 4.0))}
    tables = Tables(poses=poses)
    speeds = [
        ego.linear[0] for stamp in stamps if (ego := tables.ego(shots, stamp + 100_000)) is not None and ego.linear
    ]
    assert speeds == [2.0, 2.0, 6.0]
    egos = [tables.ego(shots, stamp) for stamp in stamps]
    assert [ego.position for ego in egos if ego] == [(x, 7.0, 0.0) for x in (0.0, 1.0, 4.0)], 'where each was taken'
    assert tables.ego(shots, stamps[2] + 200_000) is None, 'too far from any picture'
    assert tables.ego(shots[:1], stamps[0]) is None, 'one place is no motion'
    assert Tables().ego(shots, stamps[0]) is None


def test_tables_of_other_samples_are_no_tables_of_the_set(tmp_path: Path) -> None:
    path = make_drivelm(tmp_path)
    write_tables(tmp_path / 'nuscenes', {(5, 0): 'another'})
    (tmp_path / 'v1.0-round').symlink_to(tmp_path / 'v1.0-round')
    (tmp_path / 'v1.0-trainval').write_text('an archive that was not unpacked')
    (tmp_path / 'v1.0-mini').mkdir()
    assert drivelm.read(path).notes == (NO_TABLES,)


def parquet_of(path: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


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


def test_ids_of_nuinstruct_stay_apart(tmp_path: Path) -> None:
    path = make_nuinstruct(tmp_path)
    rows = json.loads(path.read_text())[:4]
    for row, (task, qa_id) in zip(rows, (('a/b', 'c'), ('a', 'b/c'), ('a', None), ('a', 2)), strict=True):
        row.update(task=task, qa_id=qa_id)
    path.write_text(json.dumps(rows))
    found = require_questions(nuinstruct.read(path))
    assert [question.id for question in found.questions] == ['a%2Fb/c', 'a/b%2Fc', 'a/2']
    assert found.faults.sentences == [
        'questions of tasks that are not known, judged as texts: 4; the first is a/b',
        'questions left out, with an id that another has: 1; the first is a/2',
    ]
