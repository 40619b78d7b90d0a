"""How the transformers engine runs a prompt: which tokens, at which positions, and what it keeps between prompts."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.engines import CANDIDATES, OTHER, QUESTION, SYSTEM, content_of, frames_of, images, keeps_of, plain_prompt
from helpers.plain_models import QWEN, STYLES, PlainModel
from helpers.tiny_models import FAMILIES, make_tiny_model

from stprune_ros.vlm.backend import VisualFrame
from stprune_ros.vlm.hf import backend as hf_backend
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.hf.tower import VisionTower

TOKENS = 24


@pytest.fixture(scope='module', params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp('models') / request.param, request.param)


@pytest.fixture(scope='module')
def backend(folder: Path) -> TransformersBackend:
    return TransformersBackend.load(folder, device='cpu')


@pytest.fixture(scope='module')
def plain(folder: Path) -> PlainModel:
    return PlainModel(folder)


@contextmanager
def recorded(backend: TransformersBackend) -> Iterator[list[dict[str, Any]]]:
    """Arguments and logits of every forward pass of the model."""
    calls: list[dict[str, Any]] = []

    def note(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        calls.append({**kwargs, 'past': int(kwargs[backend._cache_name].get_seq_length()), 'logits': output.logits[0]})

    handle = backend._model.register_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def test_written_tokens_and_their_logits_are_the_plain_model_s(backend: TransformersBackend, plain: PlainModel) -> None:
    context = backend.prefill(SYSTEM, content_of(frames_of(backend)))
    for question in (QUESTION, OTHER):
        reference = plain_prompt(plain, question)
        with recorded(backend) as calls:
            backend.generate(context, question, TOKENS)
        assert [int(call['logits'][-1].argmax()) for call in calls] == reference.generate(TOKENS)
        torch.testing.assert_close(calls[0]['logits'][-1], reference.logits()[-1], rtol=1e-5, atol=1e-4)
    assert context.tokens_text + context.tokens_visual == calls[0]['past'] - calls[0]['input_ids'].shape[1]


@pytest.mark.parametrize(('ratio', 'empty'), [(0.5, ()), (0.1, ()), (0.3, (2, 3)), (1.0, (0,)), (0.0, ())])
def test_only_kept_tokens_are_run(
    backend: TransformersBackend, plain: PlainModel, ratio: float, empty: tuple[int, ...]
) -> None:
    frames = frames_of(backend, ratio, empty)
    whole = plain_prompt(plain, QUESTION)
    reference = whole.logits(keeps_of(frames))[-1]
    backend.free()
    with recorded(backend) as calls:
        context = backend.prefill(SYSTEM, content_of(frames))
        backend.generate(context, QUESTION, 1)
    *prefill, answer = calls
    torch.testing.assert_close(answer['logits'][-1], reference, rtol=1e-5, atol=1e-4)
    assert (whole.logits()[-1] - reference).abs().max() > 0.01, 'pruning must change something here'
    assert [len(call['logits']) for call in prefill] == [0] * len(prefill), 'the vocabulary is not asked'
    assert len(answer['logits']) == 1
    tokens = sum(call['input_ids'].shape[1] for call in prefill)
    assert tokens == context.tokens_text + context.tokens_visual
    assert tokens + answer['input_ids'].shape[1] == int(whole.kept(keeps_of(frames)).sum())
    assert context.tokens_visual == sum(int(frame.keep.sum()) for frame in frames)


def test_kept_tokens_keep_their_positions(backend: TransformersBackend, plain: PlainModel) -> None:
    frames = frames_of(backend, 0.3, (1,))
    backend.free()
    with recorded(backend) as calls:
        context = backend.prefill(SYSTEM, content_of(frames))
        backend.generate(context, QUESTION, 3)
    whole = plain_prompt(plain, QUESTION)
    expected = whole.positions()[:, whole.kept(keeps_of(frames))]
    rows = torch.cat([call['position_ids'].flatten(0, -2) for call in calls], -1)
    mrope = STYLES[backend.info.family] is QWEN
    last = int(expected.max())
    written = torch.tensor([last + 1, last + 2]).expand(len(expected), -1)
    assert torch.equal(rows[1:] if mrope else rows, torch.cat([expected, written], -1))
    assert expected.diff(dim=-1).gt(1).any(), 'there are gaps'


@pytest.mark.parametrize('folder', [name for name in FAMILIES if STYLES.get(name, QWEN) is QWEN], indirect=True)
def test_row_zero_is_contiguous_where_there_are_more_rows(backend: TransformersBackend) -> None:
    backend.free()
    with recorded(backend) as calls:
        context = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.3, (1,))))
        backend.score(context, QUESTION, CANDIDATES)
        backend.generate(context, QUESTION, 3)
    assert len(calls) == 6, 'static part, prompt, candidates, three tokens'
    for call in calls:
        rows = call['position_ids'][:, 0]
        start = call['past'] - rows.shape[1]
        assert rows.shape[0] == 4
        assert rows[0].tolist() == list(range(start, call['past']))


def test_static_part_of_the_prompt_is_run_once(backend: TransformersBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = frames_of(backend, 0.3)
    content = content_of(frames)
    text = 'The front view has no data.\n'
    backend.free()

    def run(system: str, content: list[str | VisualFrame]) -> tuple[list[int], list[float]]:
        """Tokens of each pass of the prefill, and scores behind it."""
        with recorded(backend) as calls:
            context = backend.prefill(system, content)
        return [call['input_ids'].shape[1] for call in calls], backend.score(context, QUESTION, CANDIDATES)

    (static, rest), scores = run(SYSTEM, content)
    assert static >= len(backend._chat.ids(SYSTEM)), 'the system text is part of it'
    bare, full = (backend._chat.prompt(SYSTEM, part).ids.tolist() for part in ([], content))
    assert bare[:static] == full[:static]
    assert bare[static : static + 1] != full[static : static + 1], 'everything that is alike'
    assert run(SYSTEM, content) == ([rest], scores)
    (other,), others = run(SYSTEM, [text])
    assert other < rest
    assert run(SYSTEM, content) == ([rest], scores), 'what stands behind it was not written into it'
    backend.free()
    assert run(SYSTEM, [text]) == ([static, other], others)
    assert len(run('Another system.', content)[0]) == 2
    assert len(run('', content)[0]) <= 2
    monkeypatch.setattr(hf_backend, 'STATIC_SHARE', 2.0)
    whole, alike = run(SYSTEM, content)
    assert whole == [static + rest]
    assert scores == pytest.approx(alike, rel=1e-5, abs=1e-3)


def test_a_text_that_is_left_does_not_hold_its_context(backend: TransformersBackend) -> None:
    """Its keys and values were copied: so `memory_estimate` counts them as often as without pauses."""
    context = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.5)))
    held = [weakref.ref(tensor) for layer in context.state.layers for tensor in layer]
    text = backend.begin(context, OTHER, TOKENS)
    del context
    assert text.write(pause=lambda written: written >= 2) is None
    gc.collect()
    assert [tensor() for tensor in held] == [None] * len(held)
    assert text.write() is not None


def test_what_candidates_share_is_run_once_and_what_is_forced_not_at_all(backend: TransformersBackend) -> None:
    context = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.3)))
    asked = backend._chat.text_ids(QUESTION + context.state.question_suffix)
    blank = ' ' * backend._chat.answer_prefix.endswith(' ')
    with recorded(backend) as calls:
        backend.score(context, QUESTION, ['none', 'slow down', 'shift left', 'shift right now'])
        backend.score(context, QUESTION, ['none', 'slow down'])
    forms = [f'{before}{word}' for word in ('shift', 'Shift') for before in {blank, ''}]
    shared = [token for form in forms for token in backend._chat.ids(form)]
    assert len(shared) == len(forms), 'one token each'
    assert sorted(calls[0]['input_ids'][0].tolist()) == sorted([*asked, *shared])
    assert len(calls[0]['logits']) == 1 + len(forms), 'behind the question and behind each form of the shared word'
    assert calls[1]['input_ids'][0].tolist() == asked, 'nothing of a candidate'
    with recorded(backend) as calls:
        backend.score_all(context, [(QUESTION, ['none', 'stop']), (f'{QUESTION} Now?', ['stop', 'none'])])
    (call,) = calls
    other = backend._chat.text_ids(f'{QUESTION} Now?' + context.state.question_suffix)
    alike = next(place for place, tokens in enumerate(zip(asked, other)) if len({*tokens}) > 1)
    assert alike >= 3
    assert call['input_ids'].shape[1] == len(asked) + len(other) - alike, 'nor the beginning of another question'


def test_no_candidate_wins_for_having_fewer_tokens(backend: TransformersBackend) -> None:
    """Random weights prefer nothing: candidates of two and three tokens win as often as chance has it."""
    torch.manual_seed(4)
    choices = ['none', 'slow down', 'stop', 'yield', 'shift left', 'increase the gap']
    before = len(backend._chat.text_ids(''))  # the end of a thought, the same for all
    tokens = [len(backend._chat.ids(backend._chat.answer_prefix + text)) - before for text in choices]
    assert tokens == [1, 2, 1, 1, 2, 3]
    context = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.3)))
    head = backend._model.lm_head.weight
    trained, trials, wins = head.detach().clone(), 240, 0
    with torch.no_grad():
        for _ in range(trials):  # anew, because the words that one model prefers are alike in every context
            torch.nn.init.normal_(head, std=0.25)
            wins += tokens[int(np.argmax(backend.score(context, QUESTION, choices)))] > 1
        head.copy_(trained)
    assert abs(wins - trials / 2) <= 3.29 * (trials / 4) ** 0.5, 'outside of 99.9 %: ten models are tried'


def test_the_vision_tower_needs_no_language_half(backend: TransformersBackend, plain: PlainModel) -> None:
    """So another engine may run the language model: its weights here are shapes only."""
    model = deepcopy(plain.model)
    model.get_decoder().to('meta')
    model.lm_head.to('meta')
    tower = VisionTower(model, plain.processor, backend._family, torch.device('cpu'))
    assert tower.model_pixels == backend.model_pixels
    for found, known in zip(tower.encode(images()), backend.encode(images()), strict=True):
        assert found.grid == known.grid
        for tokens, expected in zip((found.tokens, *found.deep), (known.tokens, *known.deep), strict=True):
            assert torch.equal(tokens, expected)
