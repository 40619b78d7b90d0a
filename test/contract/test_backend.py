"""What the hosted model must guarantee, against plain transformers on tiny random models of every family."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from helpers.plain_models import QWEN, STYLES, Plain
from helpers.tiny_models import FAMILIES, make_tiny_model

from stprune_ros.errors import StpruneError
from stprune_ros.vlm.backend import VisualFrame
from stprune_ros.vlm.hf import backend as hf_backend
from stprune_ros.vlm.hf.backend import TransformersBackend

SYSTEM = 'You look through the cameras of a car.'
QUESTION = 'What should the driver do?'
OTHER = 'Describe the road.'
CANDIDATES = ['stop', 'stop now', 'slow_down', 'none', '']
SIZES = [(90, 160), (90, 160), (60, 200), (100, 100)]
TOKENS = 24


@pytest.fixture(scope='module', params=FAMILIES)
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TransformersBackend:
    folder = make_tiny_model(tmp_path_factory.mktemp('models') / request.param, request.param)
    return TransformersBackend.load(folder, device='cpu')


def images(count: int = len(SIZES)) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES[:count]]


def frames_of(backend: TransformersBackend, ratio: float = 1.0, empty: tuple[int, ...] = ()) -> list[VisualFrame]:
    """Every test image with a random mask; those in ``empty`` keep nothing."""
    generator = torch.Generator().manual_seed(5)
    features = backend.encode(images())
    keeps = [torch.rand(len(item.tokens), generator=generator) < ratio for item in features]
    return [
        VisualFrame(item, keep & (index not in empty))
        for index, (item, keep) in enumerate(zip(features, keeps, strict=True))
    ]


def content_of(frames: list[VisualFrame]) -> list[str | VisualFrame]:
    first, second, third, fourth = frames
    return ['The front view:\n', first, second, '\nThe left view:\n', third, fourth, '\nThe car drives at 5.0 m/s.\n']


def plain(backend: TransformersBackend, question: str, answer: str | None = None) -> Plain:
    """The same prompt for the plain model, images and all."""
    left = iter(images())
    content = [part if isinstance(part, str) else next(left) for part in content_of(frames_of(backend))]
    return Plain(backend, SYSTEM, [*content, question], answer)


def keeps_of(frames: list[VisualFrame]) -> list[torch.Tensor]:
    return [frame.keep for frame in frames]


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


def test_keep_all_equals_plain_generate(backend: TransformersBackend) -> None:
    context = backend.prefill(SYSTEM, content_of(frames_of(backend)))
    for question in (QUESTION, OTHER):
        reference = plain(backend, question)
        expected = reference.generate(TOKENS)
        with recorded(backend) as calls:
            result = backend.generate(context, question, TOKENS)
        written = [int(call['logits'][-1].argmax()) for call in calls]
        assert written == expected
        assert len(set(written)) > 3, 'a model that repeats itself proves little'
        assert result.text == backend._tokenizer.decode(expected, skip_special_tokens=True)
        torch.testing.assert_close(calls[0]['logits'][-1], reference.logits()[-1], rtol=1e-5, atol=1e-4)
    assert context.tokens_visual == sum(len(frame.features.tokens) for frame in frames_of(backend))
    assert context.tokens_text + context.tokens_visual == calls[0]['past'] - calls[0]['input_ids'].shape[1]


def test_repetition_penalty_of_the_model_is_part_of_generate(backend: TransformersBackend) -> None:
    config = backend._model.generation_config
    before, config.repetition_penalty = config.repetition_penalty, 1.3
    try:
        penalised = TransformersBackend(
            backend._model, backend._tokenizer, backend._tower._processor, backend._family, backend.info
        )
        expected = plain(penalised, QUESTION).generate(TOKENS)
        context = penalised.prefill(SYSTEM, content_of(frames_of(penalised)))
        result = penalised.generate(context, QUESTION, TOKENS)
    finally:
        config.repetition_penalty = before
    assert result.text == backend._tokenizer.decode(expected, skip_special_tokens=True)
    assert result.text != backend.generate(context, QUESTION, TOKENS).text


@pytest.mark.parametrize(('ratio', 'empty'), [(0.5, ()), (0.1, ()), (0.3, (2, 3)), (1.0, (0,))])
def test_pruned_equals_masked_reference(backend: TransformersBackend, ratio: float, empty: tuple[int, ...]) -> None:
    frames = frames_of(backend, ratio, empty)
    whole = plain(backend, QUESTION)
    reference = whole.logits(keeps_of(frames))[-1]
    backend.free()
    with recorded(backend) as calls:
        context = backend.prefill(SYSTEM, content_of(frames))
        backend.generate(context, QUESTION, 1)
    *prefill, answer = calls
    torch.testing.assert_close(answer['logits'][-1], reference, rtol=1e-5, atol=1e-4)
    assert (whole.logits()[-1] - reference).abs().max() > 0.01, 'pruning must change something here'
    tokens = sum(call['input_ids'].shape[1] for call in prefill)
    assert tokens == context.tokens_text + context.tokens_visual, 'only kept tokens are run'
    assert tokens + answer['input_ids'].shape[1] == int(whole.kept(keeps_of(frames)).sum())
    assert context.tokens_visual == sum(int(frame.keep.sum()) for frame in frames)


def test_the_model_s_own_mask_is_the_masked_reference_s(backend: TransformersBackend) -> None:
    """The reference above is only worth something if its masks, with everything kept, are what the model does."""
    whole = plain(backend, QUESTION)
    torch.testing.assert_close(whole.logits(keeps_of(frames_of(backend, 2.0))), whole.logits(), rtol=1e-5, atol=1e-4)


def test_no_visual_token_at_all(backend: TransformersBackend) -> None:
    frames = frames_of(backend, 0.0)
    context = backend.prefill(SYSTEM, content_of(frames))
    assert context.tokens_visual == 0
    reference = plain(backend, QUESTION).logits(keeps_of(frames))[-1]
    with recorded(backend) as calls:
        backend.generate(context, QUESTION, 1)
    torch.testing.assert_close(calls[0]['logits'][-1], reference, rtol=1e-5, atol=1e-4)


def test_text_only_prompt(backend: TransformersBackend) -> None:
    context = backend.prefill(SYSTEM, ['The front view has no data.\n'])
    assert context.tokens_visual == 0
    assert backend.generate(context, QUESTION, 4).tokens <= 4


def test_kept_tokens_keep_their_positions(backend: TransformersBackend) -> None:
    frames = frames_of(backend, 0.3, (1,))
    backend.free()
    with recorded(backend) as calls:
        context = backend.prefill(SYSTEM, content_of(frames))
        backend.generate(context, QUESTION, 3)
    whole = plain(backend, QUESTION)
    expected = whole.positions()[:, whole.kept(keeps_of(frames))]
    rows = torch.cat([call['position_ids'].flatten(0, -2) for call in calls], -1)
    mrope = STYLES[backend.info.family] is QWEN
    last = int(expected.max())
    written = torch.tensor([last + 1, last + 2]).expand(len(expected), -1)
    assert torch.equal(rows[1:] if mrope else rows, torch.cat([expected, written], -1))
    assert expected.diff(dim=-1).gt(1).any(), 'there are gaps'


@pytest.mark.parametrize('backend', [name for name in FAMILIES if STYLES.get(name, QWEN) is QWEN], indirect=True)
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


def test_features_do_not_depend_on_the_batch(backend: TransformersBackend) -> None:
    together = backend.encode(images())
    for image, cached in zip(images(), together, strict=True):
        (fresh,) = backend.encode([image])
        assert fresh.grid == cached.grid
        assert torch.equal(fresh.tokens, cached.tokens)
        assert (fresh.extra is None) == (cached.extra is None)
        assert fresh.extra is None or torch.equal(fresh.extra, cached.extra)
        assert len(fresh.deep) == len(cached.deep)
        assert all(torch.equal(one, other) for one, other in zip(fresh.deep, cached.deep, strict=True))
    assert all(item.grid[0] * item.grid[1] == len(item.tokens) for item in together)
    assert len(together[0].deep) == (2 if backend.info.model_id == 'qwen3_vl' else 0)
    assert backend.encode([]) == []


def test_features_are_those_of_the_plain_model(backend: TransformersBackend) -> None:
    alone = [backend.encode([image])[0] for image in images()]
    rows = [part for item in alone for part in (item.tokens, item.extra) if part is not None]
    torch.testing.assert_close(torch.cat(rows), plain(backend, QUESTION).features(), rtol=0, atol=1e-6)


def test_score_equals_one_plain_pass_per_candidate(backend: TransformersBackend) -> None:
    frames = frames_of(backend, 0.4)
    context = backend.prefill(SYSTEM, content_of(frames))
    scores = backend.score(context, QUESTION, CANDIDATES)
    before = plain(backend, QUESTION).length
    for candidate, score in zip(CANDIDATES, scores, strict=True):
        whole = plain(backend, QUESTION, candidate)
        logprobs = whole.logits(keeps_of(frames)).log_softmax(-1)
        answer = whole.ids[0, before:]
        expected = sum(float(logprobs[before - 1 + index, token]) for index, token in enumerate(answer))
        assert score == pytest.approx(expected, rel=1e-5, abs=1e-3)
    assert scores[0] != pytest.approx(scores[1], abs=0.1), 'the end of the turn tells a beginning from the whole'
    assert backend.score(context, QUESTION, []) == []
    alone = [backend.score(context, QUESTION, [candidate])[0] for candidate in CANDIDATES]
    assert alone == pytest.approx(scores, rel=1e-5, abs=1e-3)


def test_questions_scored_together_do_not_see_one_another(backend: TransformersBackend) -> None:
    context = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.4)))
    asked = [(QUESTION, CANDIDATES), (OTHER, CANDIDATES[:2]), (QUESTION, CANDIDATES[:1])]
    together = backend.score_all(context, asked)
    for (question, candidates), scores in zip(asked, together, strict=True):
        assert scores == pytest.approx(backend.score(context, question, candidates), rel=1e-5, abs=1e-3)
    assert together[0][:2] != pytest.approx(together[1], abs=0.1)
    assert backend.score_all(context, []) == []


def test_context_can_be_used_any_number_of_times(backend: TransformersBackend) -> None:
    content = content_of(frames_of(backend, 0.4))
    context = backend.prefill(SYSTEM, content)
    scores = backend.score(context, QUESTION, CANDIDATES)
    text = backend.generate(context, OTHER, TOKENS)
    assert backend.score(context, QUESTION, CANDIDATES) == scores
    assert backend.generate(context, OTHER, TOKENS) == text
    other = backend.prefill(SYSTEM, ['The front view has no data.\n'])
    backend.generate(other, QUESTION, 3)
    assert backend.generate(context, OTHER, TOKENS) == text
    assert backend.score(context, QUESTION, CANDIDATES) == scores
    assert backend.generate(backend.prefill(SYSTEM, content), OTHER, TOKENS) == text


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
    before = backend._chat.ids(SYSTEM)
    assert static >= len(before), 'the system text is part of it'
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


def test_deadline_and_cancel_stop_generation(backend: TransformersBackend) -> None:
    context = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.4)))
    whole = backend.generate(context, OTHER, TOKENS)
    assert not whole.timed_out

    late = backend.generate(context, OTHER, TOKENS, deadline=time.monotonic())
    assert (late.tokens, late.text, late.finished, late.timed_out) == (0, '', False, True)

    cancel = Event()
    steps: list[int] = []

    def stop_at_third(*_: Any) -> None:
        steps.append(1)
        if len(steps) == 3:
            cancel.set()

    handle = backend._model.register_forward_hook(stop_at_third)
    try:
        cut = backend.generate(context, OTHER, TOKENS, cancel=cancel)
    finally:
        handle.remove()
    assert (cut.tokens, cut.finished, cut.timed_out) == (3, False, False)
    assert whole.text.startswith(cut.text.rstrip('\ufffd'))

    assert backend.generate(context, OTHER, TOKENS, deadline=time.monotonic() + 600, cancel=Event()) == whole


def test_end_of_turn_finishes(backend: TransformersBackend) -> None:
    context = backend.prefill(SYSTEM, content_of(frames_of(backend)))
    with recorded(backend) as calls:
        cut = backend.generate(context, QUESTION, 4)
    tokens = [int(call['logits'][-1].argmax()) for call in calls]
    assert not cut.finished
    stopping = TransformersBackend(
        backend._model, backend._tokenizer, backend._tower._processor, backend._family, backend.info
    )
    stopping._stop_ids = {tokens[2]}
    ended = stopping.generate(context, QUESTION, 4)
    assert ended.finished
    assert not ended.timed_out
    assert ended.tokens == tokens.index(tokens[2])


def test_bfloat16(backend: TransformersBackend) -> None:
    half = TransformersBackend.load(backend._model.config._name_or_path, device='cpu', dtype='bfloat16')
    assert half.info.dtype == 'bfloat16'
    features = half.encode(images())
    assert features[0].tokens.dtype == torch.bfloat16
    context = half.prefill(SYSTEM, content_of(frames_of(half, 0.4)))
    scores = half.score(context, QUESTION, CANDIDATES)
    assert len(scores) == len(CANDIDATES)
    assert np.isfinite(scores).all()
    assert half.generate(context, OTHER, 4).tokens <= 4


def test_pixels_can_be_capped(backend: TransformersBackend) -> None:
    folder = backend._model.config._name_or_path
    if STYLES[backend.info.family] is not QWEN:
        with pytest.raises(StpruneError, match=r"'model.max_image_pixels' is 2048, but family .* set it to 0"):
            TransformersBackend.load(folder, device='cpu', max_image_pixels=2048)
        return
    half = TransformersBackend.load(folder, device='cpu', max_image_pixels=2048)
    full, small = backend.encode(images(1))[0], half.encode(images(1))[0]
    assert full.grid != backend.encode(images())[2].grid, 'the grid follows the size of the image'
    assert 0 < len(small.tokens) < len(full.tokens)


def test_wrong_images_are_named(backend: TransformersBackend) -> None:
    with pytest.raises(StpruneError, match=r'float32 \(4, 4, 3\).*uint8'):
        backend.encode([np.zeros((4, 4, 3), np.float32)])
    with pytest.raises(StpruneError, match=r'\(4, 4\)'):
        backend.encode([np.zeros((4, 4), np.uint8)])


def test_oblong_images_are_encoded_or_named(backend: TransformersBackend) -> None:
    oblong = np.zeros((2, 900, 3), np.uint8)
    if STYLES[backend.info.family] is QWEN:
        with pytest.raises(StpruneError, match='aspect ratio'):
            backend.encode([oblong])
    else:
        (wide,) = backend.encode([oblong])
        assert wide.grid == backend.encode(images(1))[0].grid


def test_wrong_prompts_are_named(backend: TransformersBackend) -> None:
    frame = frames_of(backend)[0]
    placeholder = STYLES[backend.info.family].placeholder
    with pytest.raises(StpruneError, match=r'2 image placeholders .* for 1 images'):
        backend.prefill(SYSTEM, [frame, f'What is {placeholder}?\n'])
    short = replace(frame, keep=frame.keep[:-1])
    with pytest.raises(StpruneError, match=f'{len(frame.keep)} visual tokens'):
        backend.prefill(SYSTEM, [short])


def test_info(backend: TransformersBackend) -> None:
    assert not backend.info.trained
    assert (backend.info.device, backend.info.dtype) == ('cpu', 'float32')
    assert len(backend.info.revision) == 12
    backend.free()
