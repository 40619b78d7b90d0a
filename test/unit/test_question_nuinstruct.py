"""NuInstruct on invented sets: clips, tasks and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.question_sets import (
    CAMERAS,
    GREY,
    draw,
    make_nuinstruct,
    needs_packages,
    picture_name,
)

from stprune_ros.evaluation.datasets import nuinstruct
from stprune_ros.evaluation.datasets.dataset import require_questions

pytestmark = needs_packages


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
