"""DriveLM on invented sets: questions, options, history, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.question_sets import (
    CAMERAS,
    GREY,
    OPTIONS,
    draw,
    grey_set,
    key_frame,
    make_drivelm,
    make_nuinstruct,
    needs_packages,
    picture_name,
    qa,
    write_tables,
)

from stprune_ros.evaluation.datasets import drivelm, nuinstruct
from stprune_ros.evaluation.datasets.dataset import require_questions

pytestmark = needs_packages


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


def test_names_that_make_the_same_id_are_counted(tmp_path: Path) -> None:
    path = grey_set(tmp_path, {'f': {'perception': [qa('what?', 'that', 2)]}})
    [frame] = json.loads(path.read_text())['s']['key_frames'].values()
    path.write_text(json.dumps({'a': {'key_frames': {'b_c': frame}}, 'a_b': {'key_frames': {'c': frame}}}))
    found = require_questions(drivelm.read(path))
    assert [len(moment.questions) for moment in found.moments] == [1, 0]
    assert found.faults.sentences == ['questions left out, with an id that another has: 1; the first is a_b_c_0']


def test_an_earlier_picture_of_another_size_is_a_gap(tmp_path: Path) -> None:
    make_drivelm(tmp_path)
    path = tmp_path / 'nuscenes' / 'samples' / 'CAM_BACK' / picture_name(0, 1, 'CAM_BACK')
    draw(path, GREY)
    found = drivelm.read(tmp_path)
    shown = found.cases(0)[0].scene
    assert [image is None for image in shown.images['CAM_BACK']] == [False, True, False, False]
    sentence = f"earlier pictures left out: 1; the first is picture '{path}' has another size than the present one"
    assert found.faults.sentences == [sentence]


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
