"""What stands on the board of `stprune view`: of each message what holds, and of hostile ones no more than so much."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

pytest.importorskip('aiohttp', reason="aiohttp is not installed: the extra 'view'")

from helpers.answers import make_answer
from helpers.live_page import (
    JPEG,
    NODE,
    START_NS,
    board_at,
    diagnostics,
    hint_message,
    log_line,
    picture_message,
)

from stprune_ros.core.types import Status
from stprune_ros.io import messages
from stprune_ros.io.bag_reader import message_store
from stprune_ros.results import as_json
from stprune_ros.settings.settings import Settings
from stprune_ros.view import board as boards
from stprune_ros.view.board import Board

MS = 10**6


def said(board: Board) -> str | None:
    hint = board.update({})['hint']
    return None if hint is None else hint['said']


def test_a_hint_stands_until_it_expires_counted_from_its_stamp():
    board, told = board_at(START_NS + 300 * MS)
    assert board.update({})['last_hint'] is None
    board.hear('hint', hint_message(valid_ms=1000.0))
    now = board.update({})
    assert now['hint']['said'] == 'STOP' and now['hint']['confidence'] == 0.75
    assert now['hint']['shares'] == [['STOP', 0.75], ['NONE', 0.25]]
    assert now['hint']['until'] - now['now'] == pytest.approx(0.7, abs=1e-6)
    told[0] = START_NS + 1000 * MS - 1
    assert said(board) == 'STOP'
    told[0] = START_NS + 1000 * MS
    assert said(board) is None
    assert board.update({})['last_hint'] == pytest.approx(time.monotonic(), abs=5.0)


def test_what_is_old_ahead_or_of_an_unknown_age_never_stands():
    late, _ = board_at(START_NS + 1000 * MS)
    late.hear('hint', hint_message(valid_ms=1000.0))
    assert said(late) is None
    ahead, told = board_at(START_NS - 101 * MS)
    ahead.hear('hint', hint_message())
    assert said(ahead) is None
    told[0] = START_NS - 100 * MS
    ahead.hear('hint', hint_message())
    assert said(ahead) == 'STOP'
    told[1] = 'ROS time stands still'
    assert said(ahead) is None
    assert ahead.update({})['fault'] == 'ROS time stands still'
    unknown, told = board_at(START_NS, 'not known')
    unknown.hear('hint', hint_message())
    told[1] = ''
    assert said(unknown) is None


@pytest.mark.parametrize('status', [Status.NO_HINT, Status.STALE, Status.ERROR, Status.UNKNOWN])
def test_messages_without_a_hint_take_nothing_back_and_bring_nothing(status: Status):
    board, _ = board_at()
    board.hear('hint', hint_message(status, stamp_ns=START_NS - MS))
    assert said(board) is None
    board.hear('hint', hint_message())
    board.hear('hint', hint_message(status, stamp_ns=START_NS + MS))
    assert said(board) == 'STOP'
    assert board.update({})['answer']['status'] == status.name


def test_an_older_hint_does_not_replace_a_newer_one_but_time_may_go_back():
    board, told = board_at(START_NS + 10 * MS)
    board.hear('hint', hint_message(stamp_ns=START_NS + 10 * MS))
    board.hear('hint', hint_message(stamp_ns=START_NS, confidence=0.5))
    assert board.update({})['hint']['confidence'] == 0.75
    told[0] = START_NS - 5000 * MS  # a bag begins anew
    assert said(board) is None
    board.hear('hint', hint_message(stamp_ns=START_NS - 5000 * MS, confidence=0.5))
    assert board.update({})['hint']['confidence'] == 0.5


def test_a_degraded_hint_stands_and_says_so():
    board, _ = board_at()
    board.hear('hint', hint_message(Status.DEGRADED))
    now = board.update({})
    assert (now['hint']['said'], now['hint']['status'], now['hint']['source']) == ('STOP', 'DEGRADED', 'NONE')
    assert now['hint']['stamp'] == now['answer']['stamp'] == '1700000000.000000000'


def test_what_an_answer_saw_and_took_stays_until_the_next_one():
    """A heartbeat has no cameras, and takes none of it away."""
    board, _ = board_at()
    board.hear('hint', hint_message(model_trained=False, keep_ratio=0.25))
    cost, answer = (board.update({})[name] for name in ('cost', 'answer'))
    assert cost['cameras'] == [
        {'name': 'front', 'state': 'OK', 'kept': 9, 'full': 60},
        {'name': 'back', 'state': 'MISSING', 'kept': 0, 'full': 0},
    ]
    assert (cost['kept'], cost['full'], cost['latency_s']) == (9, 60, 0.25)
    assert cost['stages'] == [['encode', 12.0], ['hint', 3.0]]
    assert {name: answer[name] for name in ('model', 'trained', 'prompt', 'method', 'keep_ratio')} == {
        'model': 'tiny',
        'trained': False,
        'prompt': 'driving-1',
        'method': 'st_prune',
        'keep_ratio': 0.25,
    }
    board.hear('hint', hint_message(Status.NO_HINT, views=()))
    assert board.update({})['cost'] == cost and board.update({})['answer']['status'] == 'NO_HINT'


def text_message(status: Status, truncated: bool = False) -> Any:
    """A SceneDescription that is valid for a second."""
    answer = make_answer(Status.OK, 'a car', status, truncated, stamp_ns=START_NS)
    settings = Settings().changed({'output.valid_for_ms': 1000.0})
    return messages.scene_description(answer, settings, messages.store_types(message_store()))


@pytest.mark.parametrize('status', Status)
def test_a_text_is_shown_where_there_is_one_and_stays(status: Status):
    board, _ = board_at(START_NS + 400 * MS)
    board.hear('text', text_message(Status.OK))
    before = board.update({})['text']
    assert (before['text'], before['cut']) == ('a car', False)
    assert before['until'] - before['at'] == pytest.approx(0.6, abs=0.05)
    board.hear('text', text_message(status, truncated=True))
    has_text = status in (Status.OK, Status.DEGRADED, Status.TIMEOUT)
    assert board.update({})['text']['cut'] == has_text
    assert (board.update({})['text'] == before) == (not has_text)


def test_a_text_of_an_unknown_age_is_not_current():
    board, _ = board_at(START_NS, 'ROS time stands still')
    board.hear('text', text_message(Status.OK))
    text = board.update({})['text']
    assert text['until'] - text['at'] == pytest.approx(0.0, abs=0.05)


def test_a_reader_gets_each_part_once_and_readers_do_not_share():
    board, _ = board_at()
    board.hear('log', log_line('a'))
    first, second = {}, {}
    assert [line['text'] for line in board.update(first)['log']['lines']] == ['a']
    assert 'log' not in board.update(first)
    assert 'log' in board.update(second)
    board.hear('log', log_line('b'))
    assert [line['text'] for line in board.update(first)['log']['lines']] == ['a', 'b']


def test_only_the_nodes_own_log_and_diagnostics_are_shown():
    board, _ = board_at()
    board.hear('log', log_line('other', 'car.stprune_node2'))
    board.hear('log', log_line('child', 'car.stprune_node.rig', 50))
    board.hear('diagnostics', diagnostics(('/other: model', 2, 'bad')))
    assert 'states' not in board.update({})
    board.hear('diagnostics', diagnostics((f'{NODE}: camera back', 2, 'no images'), ('/other: model', 0, 'OK')))
    now = board.update({})
    assert now['log']['lines'] == [{'stamp': '5.000000006', 'level': 'fatal', 'text': 'child'}]
    assert now['states']['states'] == {
        'camera back': {
            'level': 'error',
            'message': 'no images',
            'values': [['received_hz', '4.8'], ['used_hz', '4.7']],
        }
    }


@pytest.mark.parametrize(
    ('level', 'name'), [(0, 'ok'), (1, 'warning'), (2, 'error'), (3, 'stale'), (4, 'level 4'), (255, 'level 255')]
)
def test_levels_of_diagnostics_have_names(level: int, name: str):
    board, _ = board_at()
    board.hear('diagnostics', diagnostics((f'{NODE}: model', level, 'a sentence')))
    assert board.update({})['states']['states']['model']['level'] == name


def test_what_is_held_of_hostile_messages_is_bounded_and_strict_json():
    board, _ = board_at()
    huge = 'x\x1b[2J' + 'y' * 10**6
    hint = hint_message(notes=(huge,) * 500)
    hint.behavior, hint.status, hint.confidence = 77, 1, float('nan')
    hint.candidates, hint.probabilities = list(range(200)) * 50, [float('inf')] * 10**4
    hint.info.cameras[0].name, hint.info.cameras[0].state = huge, 99
    hint.info.cameras = list(hint.info.cameras) * 500
    hint.info.stage_names, hint.info.stage_ms = [huge] * 500, [float('nan')] * 500
    board.hear('hint', hint)
    for _ in range(300):
        board.hear('log', log_line(huge, level=77))
    board.hear('diagnostics', diagnostics(*((f'{NODE}: {number}{huge}', 200, huge) for number in range(500))))
    board.hear('picture', picture_message(b'<script>'))
    text = as_json(board.update({}))
    assert len(text) < 1_500_000
    assert '\x1b' not in text and '\\u001b' not in text
    now = json.loads(text)
    assert now['hint']['said'] == 'Behavior 77' and now['hint']['confidence'] is None
    assert now['cost']['cameras'][0]['state'] == 'CameraState 99'
    assert len(now['log']['lines']) == boards.LOG_LINES and now['log']['lines'][0]['level'] == 'level 77'
    assert len(now['states']['states']) == len(now['cost']['cameras']) == len(now['answer']['notes']) == 64
    assert now['picture']['problem'] == '8 bytes are no picture'
    assert board.picture(1) == b''


def test_pictures_are_held_up_to_a_size():
    board, _ = board_at()
    board.hear('picture', picture_message(JPEG))
    assert board.picture(1) == JPEG and board.update({})['picture']['number'] == 1
    board.hear('picture', picture_message(JPEG + bytes(boards.MAX_PICTURE)))
    assert board.update({})['picture']['problem'] == f'{len(JPEG) + boards.MAX_PICTURE} bytes are no picture'
    assert board.picture(1) == JPEG and board.picture(2) == b'' == board.picture(0)


def test_each_picture_has_a_number_and_the_last_ones_stay():
    board, _ = board_at()
    for number in range(1, 7):
        board.hear('picture', picture_message(JPEG + bytes([number]), START_NS + number))
        told = board.update({})['picture']
        assert (told['number'], told['stamp'][-1]) == (number, str(number))
    assert [board.picture(number)[-1:] for number in range(8)] == [b'', b'', b'', b'\3', b'\4', b'\5', b'\6', b'']
