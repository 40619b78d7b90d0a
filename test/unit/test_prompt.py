"""Prompt files: what the model is asked, and one sentence for whatever is wrong with a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stprune_ros.core.types import DIRECTIONS, Behavior, EgoState
from stprune_ros.errors import StpruneError
from stprune_ros.vlm.backend import ImageFeatures, VisualFrame
from stprune_ros.vlm.prompt import MOTIONS, Prompt, View, motion

PROMPTS = Path(__file__).resolve().parents[2] / 'config' / 'prompts'
DRIVING, GERMAN = PROMPTS / 'driving.yaml', PROMPTS / 'driving_de.yaml'


WORDS = {word: f'<{word}>' for word in (*DIRECTIONS, *MOTIONS)}


def tree() -> dict[str, Any]:
    return {
        'name': 'small',
        'system': 'You drive.',
        'view': 'The {direction} view of {camera}, {frames} frames:',
        'missing_view': 'The {direction} view has no data.',
        'ego': 'Ego {speed:.1f} m/s, {yaw_rate:+.2f} rad/s, {motion}.',
        'missing_ego': 'Ego unknown.',
        'hint': {
            'question': 'What now?',
            'candidates': [{'behavior': 'NONE', 'text': 'go on'}, {'behavior': 'STOP', 'text': 'stop'}],
        },
        'describe': {'question': 'What is there?'},
    }


def written(path: Path, content: Any) -> Path:
    path = path / 'prompt.yaml'
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def frame() -> VisualFrame:
    return VisualFrame(ImageFeatures(torch.zeros(2, 4), (1, 2)), torch.ones(2, dtype=torch.bool))


def ego(speed: float, yaw_rate: float) -> EgoState:
    return EgoState(0, None, None, (speed, 0.0, 0.0), (0.0, 0.0, yaw_rate))


def test_content_follows_the_views(tmp_path: Path) -> None:
    prompt = Prompt.load(written(tmp_path, tree()))
    old, new = frame(), frame()
    views = [View('front', 'CAM_A', [old, new]), View('back left', 'CAM_B', [])]
    assert prompt.content(views, ego(5.04, -0.2)) == [
        'Ego 5.0 m/s, -0.20 rad/s, turning right.\n',
        'The front view of CAM_A, 2 frames:\n',
        old,
        new,
        'The back left view has no data.\n',
        '\n',
    ]
    assert prompt.content(views, None)[0] == 'Ego unknown.\n'


def test_content_keeps_the_order_of_views_and_frames(tmp_path: Path) -> None:
    """Ego motion first, then the views as they stand around the ring, the frames of each oldest first."""
    ring = ['left', 'front', 'right']
    frames = {direction: [frame() for _ in range(3)] for direction in ring}
    prompt = Prompt.load(written(tmp_path, tree()))
    content = prompt.content([View(name, name.upper(), frames[name]) for name in ring], ego(5.0, 0.0))
    assert content[0] == 'Ego 5.0 m/s, +0.00 rad/s, driving straight.\n'
    for place, name in enumerate(ring):
        text, *shown = content[1 + 4 * place : 5 + 4 * place]
        assert text == f'The {name} view of {name.upper()}, 3 frames:\n'
        assert all(found is given for found, given in zip(shown, frames[name], strict=True))
    assert content[13:] == ['\n']


def test_speed_is_that_of_the_whole_motion(tmp_path: Path) -> None:
    sideways = EgoState(0, None, None, (3.0, 4.0, 0.0), (0.0, 0.0, 0.0))
    content = Prompt.load(written(tmp_path, tree())).content([], sideways)
    assert content == ['Ego 5.0 m/s, +0.00 rad/s, driving straight.\n', '\n']


@pytest.mark.parametrize(
    ('linear', 'yaw_rate', 'words'),
    [
        ((-3.0, 0.0, 0.0), 0.0, 'reversing'),
        ((-3.0, 0.0, 0.0), -0.2, 'reversing to the left'),  # wheels to the left: the nose goes right
        ((-3.0, 0.0, 0.0), 0.2, 'reversing to the right'),
        ((-0.1, 0.0, 0.0), 0.2, 'standing'),
        ((-0.3, 2.0, 0.0), 0.0, 'driving straight'),  # it drifts sideways
        ((3.0, 0.0, 0.0), 0.2, 'turning left'),
    ],
)
def test_reversing_is_a_motion_of_its_own(linear: tuple[float, float, float], yaw_rate: float, words: str) -> None:
    state = EgoState(0, None, None, linear, (0.0, 0.0, yaw_rate))
    assert motion(state) == words
    assert state.is_reversing == (linear[0] < -abs(linear[1]))
    assert (state.forward, state.speed) == (linear[0], pytest.approx(math.hypot(*linear)))


def test_the_prompt_of_a_reversing_car() -> None:
    text = Prompt.load(DRIVING).content([], EgoState(0, None, None, (-3.0, 0.0, 0.0), (0.0, 0.0, 0.0)))[0]
    assert text == 'The car is reversing at 3.0 m/s.\n'


def test_ego_text_may_be_left_out(tmp_path: Path) -> None:
    prompt = Prompt.load(written(tmp_path, {**tree(), 'missing_ego': '', 'system': ''}))
    assert prompt.system == ''
    assert prompt.content([View('front', 'A', [])], None) == ['The front view has no data.\n', '\n']


def test_questions_and_closed_set(tmp_path: Path) -> None:
    prompt = Prompt.load(written(tmp_path, tree()))
    assert prompt.hint_question == 'What now?'
    assert prompt.describe_question == 'What is there?'
    assert prompt.candidates == ((Behavior.NONE, 'go on'), (Behavior.STOP, 'stop'))


def test_id_names_the_content(tmp_path: Path) -> None:
    first = Prompt.load(written(tmp_path, tree())).id
    assert first.startswith('small-')
    assert len(first) == len('small-') + 8
    assert Prompt.load(written(tmp_path, tree())).id == first
    assert Prompt.load(written(tmp_path, {**tree(), 'system': 'You ride.'})).id != first


@pytest.mark.parametrize(
    ('speed', 'yaw_rate', 'words'),
    [
        (0.1, 0.3, 'standing'),
        (0.19, 0.3, 'standing'),
        (0.21, 0.0, 'driving straight'),
        (5.0, 0.049, 'driving straight'),
        (5.0, -0.049, 'driving straight'),
        (5.0, 0.051, 'turning left'),
        (5.0, -0.051, 'turning right'),
    ],
)
def test_motion_in_words(speed: float, yaw_rate: float, words: str) -> None:
    assert motion(ego(speed, yaw_rate)) == words


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        ({'extra': 1}, r"'extra' is not known; known are name, system, .*, describe, words"),
        ({'words': {}}, r"'words.front' is missing"),
        ({'words': None}, r"'words' must be a mapping with front, front left, .*, reversing to the right"),
        ({'words': {'above': 'oben'}}, r"'words.above' is not known; known are front"),
        ({'words': {**WORDS, 'standing': ''}}, r"'words.standing' is empty"),
        ({'view': None}, r"'view' is None; it must be a text"),
        ({'view': ' '}, r"'view' is empty"),
        ({'name': 7}, r"'name' is 7"),
        ({'view': 'The {side} view'}, r"'view' uses \{side\}; it may use \{direction\}, \{camera\}, \{frames\}"),
        ({'view': 'The {} view'}, r"'view' uses \{\}; it may use"),
        ({'view': 'The {direction view'}, r"'view' is no valid template"),
        ({'view': 'The {direction:.1f} view'}, r"'view' is no valid template"),
        ({'ego': '{speed.real}'}, r"'ego' uses \{speed.real\}"),
        ({'ego': '{speed:{speed}}'}, r"'ego' has the format '{speed}'; width and precision have at most two digits"),
        ({'ego': '{speed:999999999}'}, r"'ego' has the format '999999999'"),
        ({'ego': '{speed:.999f}'}, r"'ego' has the format '.999f'"),
        ({'ego': '{speed.__class__.__init__.__globals__}'}, r"'ego' uses \{speed.__class__"),
        ({'hint': 'What now?'}, r"'hint' must be a mapping with question, candidates"),
        ({'hint': {'question': 'What?'}}, r"'hint.candidates' is missing"),
        ({'hint': {'question': 'What?', 'candidates': []}}, r"'hint.candidates' must be a list of at least two"),
        ({'describe': {}}, r"'describe.question' is missing"),
    ],
)
def test_wrong_keys_are_named(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    path = written(tmp_path, {**tree(), **change})
    with pytest.raises(StpruneError, match=sentence) as caught:
        Prompt.load(path)
    assert str(path) in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('entries', 'sentence'),
    [
        ([('NONE', 'none'), ('FLY', 'fly')], r"candidates\[1\].behavior' is 'FLY'; known are NONE, SLOW_DOWN"),
        ([('NONE', 'none'), ('UNKNOWN', 'what')], r"candidates\[1\].behavior' is 'UNKNOWN'"),
        ([('NONE', 'stop'), ('STOP', 'stop')], r"candidates\[1\].text' is 'stop' a second time"),
        ([('STOP', 'halt'), ('STOP', 'stop')], r"candidates\[1\].behavior' is 'STOP' a second time"),
        ([('STOP', 'stop'), ('YIELD', 'yield')], r"'hint.candidates' has no entry for NONE"),
    ],
)
def test_wrong_candidates_are_named(tmp_path: Path, entries: list[tuple[str, str]], sentence: str) -> None:
    content = tree()
    content['hint']['candidates'] = [{'behavior': behavior, 'text': text} for behavior, text in entries]
    with pytest.raises(StpruneError, match=sentence):
        Prompt.load(written(tmp_path, content))


@pytest.mark.parametrize(
    ('content', 'sentence'),
    [
        ('a: [', 'is not YAML'),
        ('name: a\nsystem: b\nname: c\n', "is not YAML: line 3: 'name' is given a second time; remove one"),
        ('name: a\nhint: {candidates: [{text: a, text: b}]}', "is not YAML: line 2: 'text' is given a second time"),
        ('- a\n- b\n', 'its content must be a mapping with name, system'),
        ('', 'its content must be a mapping'),
        ('name: only\n', "'system' is missing"),
    ],
)
def test_files_that_are_no_prompt(tmp_path: Path, content: str, sentence: str) -> None:
    with pytest.raises(StpruneError, match=sentence):
        Prompt.load(written(tmp_path, content))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StpruneError, match=r"prompt file '.*none.yaml' cannot be read: No such file"):
        Prompt.load(tmp_path / 'none.yaml')
    with pytest.raises(StpruneError, match='cannot be read: Is a directory'):
        Prompt.load(tmp_path)
    binary = tmp_path / 'binary.yaml'
    binary.write_bytes(b'\xff\xfe\x00\xd8name')
    with pytest.raises(StpruneError, match='is not YAML'):
        Prompt.load(binary)


def test_directions_and_motions_can_be_said_in_another_language(tmp_path: Path) -> None:
    prompt = Prompt.load(written(tmp_path, {**tree(), 'words': WORDS}))
    views = [View('front', 'CAM_A', [frame()]), View('back left', 'CAM_B', [])]
    content = prompt.content(views, ego(5.04, -0.2))
    assert content[0] == 'Ego 5.0 m/s, -0.20 rad/s, <turning right>.\n'
    assert content[1] == 'The <front> view of CAM_A, 1 frames:\n'
    assert content[3] == 'The <back left> view has no data.\n'


def test_every_motion_has_a_word() -> None:
    speeds, rates = ((0.0, 0.0, 0.0), (3.0, 0.0, 0.0), (-3.0, 0.0, 0.0)), (-0.2, 0.0, 0.2)
    said = {motion(EgoState(0, None, None, speed, (0.0, 0.0, rate))) for speed in speeds for rate in rates}
    assert said == {*MOTIONS}


@pytest.mark.parametrize('file', [DRIVING, GERMAN])
def test_driving_prompts_only_restrict(file: Path) -> None:
    prompt = Prompt.load(file)
    assert prompt.id.startswith(f'{file.stem}-')
    assert prompt.candidates[0][0] == Behavior.NONE
    turns = {Behavior.UNKNOWN, Behavior.TURN_LEFT, Behavior.TURN_RIGHT}
    assert {behavior for behavior, _ in prompt.candidates} == {*Behavior} - turns


@pytest.mark.parametrize('file', [DRIVING, GERMAN])
def test_rules_stand_in_the_system_text(file: Path) -> None:
    """Which is run once: what is run in every tick is short."""
    prompt = Prompt.load(file)
    for _, text in prompt.candidates:
        assert prompt.system.count(f'\n{text}: ') == 1
        assert f'{text}:' not in prompt.hint_question
    content = prompt.content([View('front', 'CAM', [])] * 6, ego(3.0, 0.0))
    every_tick = [*content, prompt.hint_question, prompt.describe_question]
    assert sum(len(str(part).split()) for part in every_tick) < len(prompt.system.split()) / 3


@pytest.mark.parametrize('file', [DRIVING, GERMAN])
def test_candidates_begin_with_words_of_their_own(file: Path) -> None:
    texts = [text for _, text in Prompt.load(file).candidates]
    assert len({text.split()[0] for text in texts}) == len(texts)


def test_what_the_driving_prompts_say() -> None:
    views = [View('front left', 'CAM', [frame()]), View('back', 'CAM_BACK', [])]
    content = Prompt.load(DRIVING).content(views, ego(3.0, 0.0))
    assert content[0] == 'The car is driving straight at 3.0 m/s.\n'
    assert (content[1], content[3]) == ('front left:\n', 'back: no image.\n')
    content = Prompt.load(GERMAN).content(views, ego(3.0, 0.0))
    assert content[0] == 'Das Auto fährt geradeaus, 3.0 m/s.\n'
    assert (content[1], content[3]) == ('vorn links:\n', 'hinten: kein Bild.\n')
    english = {*DIRECTIONS, *MOTIONS}
    assert not english & {*Prompt.load(GERMAN).words.values()}
