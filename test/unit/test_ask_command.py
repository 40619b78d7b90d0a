"""`stprune ask`: a moment of a bag, what is refused, and what stands on stdout."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from helpers.answers import make_answer
from helpers.reports import report_in
from helpers.small_bags import PERIOD_NS, START_NS, drive, write_bag
from helpers.tiny_models import make_tiny_model

from stprune_ros.cli import main
from stprune_ros.commands.ask import WordsInTurn, answer_text, end_of
from stprune_ros.core.types import Status
from stprune_ros.inference.question import Question, Reply, status_name
from stprune_ros.replay.ask import reply_summary
from stprune_ros.resources import resource_path
from stprune_ros.settings.settings import Settings

CANDIDATES = ['--candidate', 'a car', '--candidate', 'a wall']


@pytest.fixture(scope='module')
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command up to its options: a bag of five ticks, and a tiny model that passes for a trained one."""
    folder = tmp_path_factory.mktemp('asked')
    path = make_tiny_model(folder / 'tiny', 'ringworld')
    (path / 'stprune.json').unlink(missing_ok=True)
    params = folder / 'my.param.yaml'
    params.write_text(
        f"/**: {{ros__parameters: {{model: {{path: '{path}'}}, inference: {{max_new_tokens: 4}},"
        ' history: {frames: 2, stride_ms: 200.0}, output: {valid_for_ms: 3000.0}}}'
    )
    return ['ask', 'what is left?', '--bag', str(write_bag(folder / 'bag', drive())), '--params', str(params)]


def asked(capsys: pytest.CaptureFixture[str], words: list[str], *options: str) -> dict[str, Any]:
    """What is found, which is there without an error."""
    assert main([*words, '--json', '--deadline', '60', *options]) == 0
    report = report_in(capsys.readouterr().out, 'ask')
    assert report['errors'] == []
    found: dict[str, Any] = report['result']
    return found


@pytest.mark.parametrize(
    ('at', 'tick'),
    [(None, 4), ('1700000000.2', 2), ('1700000000.399999999', 3), ('1700000009', 4), ('1700000000', 0)],
)
def test_the_newest_window_up_to_a_stamp_is_asked(words, capsys, at, tick):
    found = asked(capsys, words, *(['--at', at] if at else []))
    assert found['status'] == 'OK' and found['text'] and 0 < found['tokens'] <= 4
    assert found['stamp_ns'] == START_NS + tick * PERIOD_NS
    assert found['valid_until_ns'] == found['stamp_ns'] + 3 * 10**9
    assert found['cameras'] == dict.fromkeys(['front', 'right', 'left'], 'OK')
    assert [*found['stage_ms']] == ['write'] and found['candidates'] == []


def test_parts_of_a_window_and_candidates(words, capsys):
    found = asked(capsys, words, '--cameras', 'left,front', '--current-only', *CANDIDATES)
    assert [one['text'] for one in found['candidates']] == ['a car', 'a wall']
    assert sum(one['probability'] for one in found['candidates']) == pytest.approx(1)
    assert [*found['stage_ms']] == ['prefill', 'score'] and found['tokens'] == 0


def test_the_text_is_on_stdout_and_nothing_else(words, capsys):
    assert main([*words, '--deadline', '60']) == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1 and 'loading the model' in shown.err
    assert shown.out.strip() == asked(capsys, words)['text']


def test_candidates_are_shown_most_probable_first():
    found = {'text': 'b', 'candidates': [{'text': 'a', 'probability': 0.25}, {'text': 'b', 'probability': 0.75}]}
    assert answer_text(found) == ' 75.0%  b\n 25.0%  a'
    assert answer_text({'text': 'a car', 'candidates': []}) == 'a car'
    assert answer_text({**found, 'text': ''}) == ''


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        (
            ['--at', '1699999999'],
            r"bag '.*' has no tick up to 1699999999\.000000000: the first is at 1700000000\.000000000, change --at",
        ),
        (['--cameras', 'rear'], "camera 'rear' cannot be asked about: the ring has 'front', 'right', 'left'"),
        (['--candidate', 'one'], 'candidates are 1: give 2 to 16, or none for a text'),
        (['--deadline', '61'], 'the deadline is 61 s: it must be above 0 and at most 60 s'),
        (['--node', '/other'], '--node is for a running node, and a recording is asked: leave --bag or --node out'),
        (
            ['--candidate', 'yes', '--candidate', '<|im_end|>'],
            r"question or candidate '<\|im_end\|>' holds '<\|im_end\|>', which is no word to this model: remove it",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else '',
)
def test_what_cannot_be_asked_ends_with_a_sentence(words, capsys, options, sentence):
    assert main([*words, '--json', *options]) == 1
    report = report_in(capsys.readouterr().out, 'ask')
    [said] = report['errors']
    assert report['result'].get('status', 'NO_ANSWER') == 'NO_ANSWER'
    assert re.fullmatch(sentence, said)


@pytest.mark.parametrize(
    ('option', 'value'), [('at', '1700000000'), ('params', 'my.yaml'), ('keep', '0.1'), ('method', 'none')]
)
def test_options_of_recordings_are_refused_for_a_node(capsys, option, value):
    assert main(['ask', 'what?', f'--{option}', value]) == 1
    said = f'--{option} is for a recording, and a running node is asked: add --bag, or leave it out'
    assert capsys.readouterr().err == f'stprune: {said}\n'


def test_what_is_no_answer_has_neither_probabilities_nor_validity():
    question = Question('which?', candidates=('a car', 'a wall'))
    reply = Reply(Status.OK, '', 'a car', probabilities=(0.75, 0.25), answer=make_answer(stamp_ns=START_NS))
    settings = Settings().changed({'output.valid_for_ms': 500.0})
    found = reply_summary(reply, question, settings)
    assert found['valid_until_ns'] == START_NS + 500_000_000
    assert [one['probability'] for one in found['candidates']] == [0.75, 0.25]
    nothing = reply_summary(replace(reply, status=Status.INVALID), question, settings)
    assert (nothing['text'], nothing['candidates'], nothing['valid_until_ns']) == ('', [], START_NS)


def test_a_node_that_is_not_there_is_named(capsys, monkeypatch):
    pytest.importorskip('rclpy')
    from stprune_ros.ros import ask_client

    monkeypatch.setattr(ask_client, 'FOUND_S', 0.5)
    assert main(['ask', 'what?', '--node', '/nobody']) == 1
    assert "no node '/nobody' that can be asked was found within 0.5 s: look at its name" in capsys.readouterr().err


def test_the_numbers_of_statuses_are_those_of_the_other_messages():
    text = resource_path('action/Ask.action').read_text()
    found = {name: int(number) for name, number in re.findall(r'^uint8 ([A-Z_]+)=(\d+)', text, re.MULTILINE)}
    assert found == {status_name(status): int(status) for status in Status} and found['NO_ANSWER'] == 3


def test_a_terminal_shows_the_end_of_the_words_so_far(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '10')
    words = WordsInTurn()
    words('a car stands left')
    assert capsys.readouterr().out == '\r\x1b[Kands left'
    words.end()
    assert capsys.readouterr().out == '\r\x1b[K'


@pytest.mark.parametrize(
    ('text', 'columns', 'end'),
    [
        ('a car', 5, 'a car'),
        ('a car', 4, ' car'),
        ('左边有车', 5, '有车'),
        ('a 车', 4, 'a 车'),
        ('a', 0, ''),
        ('', 9, ''),
    ],
)
def test_letters_of_east_asia_take_two_columns(text, columns, end):
    assert end_of(text, columns) == end


@pytest.mark.parametrize(
    ('name', 'shown'), [('two words', '/two words'), ('', '/'), ('/a//b/', '/a//b'), ('a\u00ff', '/a\u00ff')]
)
def test_a_name_that_no_node_can_have_is_refused(capsys, name, shown):
    pytest.importorskip('rclpy')
    assert main(['ask', 'what?', '--node', name]) == 1
    sentence = f"no node can be called '{shown}': a full name is of letters, digits, _ and /, as in /car/stprune_node"
    assert capsys.readouterr().err == f'stprune: {sentence}\n'


def test_why_an_answer_is_not_whole_is_said_beside_it(words, capsys, monkeypatch):
    found = {**asked(capsys, words), 'reason': 'the input was incomplete'}
    monkeypatch.setattr('stprune_ros.replay.ask.ask_bag', lambda *_: found)
    assert main(words) == 0
    assert capsys.readouterr() == (f'{found["text"]}\n', 'stprune: the input was incomplete\n')
