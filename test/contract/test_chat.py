"""Where a prompt's texts, images and answers meet: the tokens of the whole text, whatever merges over a border."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers.engines import CANDIDATES, OTHER, QUESTION, SYSTEM, content_of, frames_of, images, plain_prompt
from helpers.plain_models import STYLES, Plain, PlainModel
from helpers.tiny_models import FAMILIES, TEMPLATE, THINKING, make_tiny_model

from stprune_ros.errors import ModelError
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.hf.chat import answer_borders

FORMS = [*CANDIDATES, 'slow down', 'Stop', ' stop', '\nstop', '.\n\nstop', 'stop\n']


@pytest.fixture(scope='module', params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp('models') / request.param, request.param)


@pytest.fixture(scope='module')
def backend(folder: Path) -> TransformersBackend:
    return TransformersBackend.load(folder, device='cpu')


@pytest.fixture(scope='module')
def plain(folder: Path) -> PlainModel:
    return PlainModel(folder)


def test_the_tiny_tokenizers_are_as_awkward_as_real_ones(backend: TransformersBackend) -> None:
    chat = backend._chat
    assert [len(chat.ids(text)) for text in ('stop', 'none', 'slow down', 'shift left', 'increase the gap')] == [
        *(1, 1, 2, 2, 3)
    ]
    for left, right in (('\n', '\n'), ('.', '\n\n'), (' ', 'stop')):
        assert chat.ids(left + right) != chat.ids(left) + chat.ids(right)


@pytest.mark.parametrize('system', [SYSTEM, ''])
def test_every_token_is_that_of_the_whole_text(backend: TransformersBackend, plain: PlainModel, system: str) -> None:
    chat = backend._chat
    full = chat.prompt(system, content_of(frames_of(backend)))
    for question in (QUESTION, OTHER):
        whole = plain_prompt(plain, question, system=system).ids[0].tolist()
        assert [*full.ids.tolist(), *chat.text_ids(question + full.question_suffix)] == whole
        blank = STYLES[plain.family].answer[0]
        for form in FORMS:
            answer = chat.ids(question + full.question_suffix + chat.answer_prefix + form)
            answered = plain_prompt(plain, question, blank + form, system=system).ids[0].tolist()
            assert [*full.ids.tolist(), *answer, chat.end_id] == answered


def test_texts_and_images_may_stand_in_any_order(backend: TransformersBackend, plain: PlainModel) -> None:
    """A view without frames, an image first, two texts in a row, blanks and line breaks at borders."""
    front, left, _, _ = frames_of(backend)
    shown, also, _, _ = images()
    for content in (
        ['The car drives.\n', 'The front view:\n', 0, 'The left view has no data.\n', '\n'],
        [0, '\n', 1, '\n\n', '\n'],
        ['The front view:\n\n', 0, ' The left view: ', 1, '\n'],
        ['The front view.\n', '\n'],
    ):
        pruned = [(front, left)[part] if isinstance(part, int) else part for part in content]
        whole = [(shown, also)[part] if isinstance(part, int) else part for part in content]
        full = backend._chat.prompt(SYSTEM, pruned)
        found = [*full.ids.tolist(), *backend._chat.text_ids(QUESTION + full.question_suffix)]
        images_shown = sum(not isinstance(part, str) for part in content)
        if images_shown == 1 and STYLES[plain.family].nested and plain.family == 'llava_onevision':
            continue  # alone, its own processor would cut the image up
        if not images_shown:
            assert plain.text(found).endswith(plain.text(backend._chat.text_ids(QUESTION + full.question_suffix)))
            continue
        assert found == Plain(plain, SYSTEM, [*whole, QUESTION]).ids[0].tolist()


@pytest.mark.parametrize('folder', ['smolvlm'], indirect=True)
def test_a_blank_before_answers_belongs_to_their_first_word(backend: TransformersBackend) -> None:
    chat = backend._chat
    assert chat.answer_prefix == ' '
    asked = 'What now? Assistant:'
    assert chat.text_ids(asked) == chat.ids(asked)
    assert chat.ids(asked + chat.answer_prefix + 'stop') == [*chat.ids(asked), *chat.ids(' stop')]
    assert chat.notes('tiny') == []


@pytest.mark.parametrize('folder', ['thinking'], indirect=True)
def test_an_open_thought_is_ended_and_that_is_said(backend: TransformersBackend, plain: PlainModel) -> None:
    chat = backend._chat
    assert chat.answer_prefix == '\n</think>\n\n'
    ended = chat.ids('<think>\n\n</think>\n\n')
    assert chat.text_ids('<think>\n') == ended
    assert chat.ids('<think>\n' + chat.answer_prefix + 'stop') == [*ended, *chat.ids('stop')]
    assert len(ended) < len(chat.ids('<think>\n')) + len(chat.ids('\n</think>\n\n')), 'its line breaks merge'
    assert backend.info.notes == (
        r"answers of 'thinking' begin behind '\n</think>\n\n', as its chat template has them: it does not think first",
    )


def test_a_template_that_drops_the_thought_is_refused() -> None:
    class Template:
        def apply_chat_template(self, turns: list[dict[str, Any]], add_generation_prompt: bool, **_: Any) -> str:
            text = ''.join(f'<{turn["role"]}>{turn["content"][0]["text"]}</>' for turn in turns)
            return text + self.invitation * add_generation_prompt

        def __init__(self, invitation: str) -> None:
            self.invitation = invitation

    with pytest.raises(ModelError, match=r"invites an answer with '<think>\\n' and shows a given answer without it"):
        answer_borders(Template('<assistant><think>\n'))
    assert answer_borders(Template('<assistant>')) == ('', '</>')
    assert answer_borders(Template('<assistant>\n')) == ('', '</>'), 'as LLaVA-OneVision has it'
    assert answer_borders(Template('<assist')) == ('ant>', '</>')


@pytest.mark.parametrize('folder', ['thinking'], indirect=True)
def test_such_a_folder_is_refused_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / 'model', 'thinking')
    (other / 'chat_template.jinja').write_text(THINKING.replace("'<think>\\n' + '\\n</think>\\n\\n'", "''"))
    with pytest.raises(ModelError) as caught:
        TransformersBackend.load(other, device='cpu')
    assert str(caught.value).startswith(f"chat template of '{other}' cannot be loaded: the chat template invites")
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('folder', ['internvl'], indirect=True)
def test_a_tokenizer_may_be_longer_than_the_vocabulary(backend: TransformersBackend, plain: PlainModel) -> None:
    vocabulary = plain.model.config.text_config.vocab_size
    assert len(plain.tokenizer) == vocabulary + 1
    frame = frames_of(backend)[0]
    context = backend.prefill(SYSTEM, ['The front view:\n', frame, '\n'])
    sentence = (
        f"the prompt holds '<video>', token {vocabulary} of the tokenizer, and the model has {vocabulary}: remove it"
        ' from the prompt file'
    )
    for use in (
        lambda: backend.prefill(SYSTEM, ['No <video>.\n', frame, '\n']),
        lambda: backend.prefill('No <video>.', [frame, '\n']),
        lambda: backend.score(context, 'A <video>?', ['stop']),
        lambda: backend.score(context, QUESTION, ['stop', '<video>']),
        lambda: backend.generate(context, 'A <video>?', 1),
    ):
        with pytest.raises(ModelError) as caught:
            use()
        assert str(caught.value) == sentence


def test_questions_and_candidates_hold_words_only(backend: TransformersBackend) -> None:
    context = backend.prefill(SYSTEM, content_of(frames_of(backend)))
    mark, end = backend._chat._image_text, backend._chat._tokenizer.convert_ids_to_tokens(backend._chat.end_id)
    for question, candidates, token in (
        (f'What {mark} now?', ['stop', 'none'], mark),
        (QUESTION, ['stop', f'none{mark}'], mark),
        (QUESTION, ['stop', f'stop{end} now', 'none'], end),
    ):
        with pytest.raises(ModelError, match=f"holds '{re.escape(token)}', which is no word to this model"):
            backend.score(context, question, candidates)
    with pytest.raises(ModelError, match=f"holds '{re.escape(end)}', which is no word to this model"):
        backend.generate(context, f'What{end} now?', 1)


@pytest.mark.parametrize(
    'changed', ["part['text'] | upper", "part['text'] + part['text']", "part['text'] | truncate(9, true)"]
)
@pytest.mark.parametrize('folder', ['qwen3_vl'], indirect=True)
def test_a_template_that_changes_texts_is_refused(folder: Path, tmp_path: Path, changed: str) -> None:
    other = make_tiny_model(tmp_path / 'model', 'qwen3_vl')
    (other / 'chat_template.jinja').write_text(TEMPLATE.replace("part['text']", changed))
    with pytest.raises(ModelError, match='changes, repeats or leaves out the texts that it is given'):
        TransformersBackend.load(other, device='cpu')


@pytest.mark.parametrize('folder', ['llava_onevision'], indirect=True)
def test_a_template_that_writes_parts_as_python_has_them_is_refused(folder: Path, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / 'model', 'llava_onevision')
    (other / 'chat_template.jinja').write_text(
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
    )
    with pytest.raises(ModelError, match='changes, repeats or leaves out the texts that it is given'):
        TransformersBackend.load(other, device='cpu')
