"""What every engine must guarantee through `Backend` alone, against plain transformers on tiny random models."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from helpers.engines import (
    CANDIDATES,
    CASES,
    ONE_CONTEXT,
    OTHER,
    QUESTION,
    SYSTEM,
    content_of,
    frames_of,
    images,
    keeps_of,
    load_tiny,
    make_tiny,
    plain_prompt,
    plain_scores,
)
from helpers.plain_models import QWEN, STYLES, PlainModel
from tokenizers import Tokenizer, processors

from stprune_ros.errors import ModelError, StpruneError
from stprune_ros.vlm.backend import Backend, TextEmbedder, VisualFrame

TOKENS = 24
PRUNED = [(0.5, ()), (0.1, ()), (0.3, (2, 3)), (1.0, (0,)), (0.0, ())]


@pytest.fixture(scope='module', params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Engine and family."""
    return request.param


@pytest.fixture(scope='module')
def folder(case: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(case[0], tmp_path_factory.mktemp('models') / case[1], case[1])


@pytest.fixture(scope='module')
def backend(case: tuple[str, str], folder: Path) -> Backend:
    return load_tiny(case[0], folder)


@pytest.fixture(scope='module')
def plain(folder: Path) -> PlainModel:
    return PlainModel(folder)


def changed(folder: Path, path: Path, **generation: Any) -> Path:
    """A copy of a model folder with other entries in generation_config.json."""
    shutil.copytree(folder, path)
    file = path / 'generation_config.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), **generation}))
    return path


def test_keep_all_equals_plain_generate(backend: Backend, plain: PlainModel) -> None:
    frames = frames_of(backend)
    context = backend.prefill(SYSTEM, content_of(frames))
    for question in (QUESTION, OTHER):
        expected = plain_prompt(plain, question).generate(TOKENS)
        assert len(set(expected)) > 3, 'a model that repeats itself proves little'
        result = backend.generate(context, question, TOKENS)
        assert result.text == plain.text(expected)
        assert result.finished == (expected[-1] in plain.ends)
        assert result.tokens == len(expected) - result.finished, 'the end itself is not counted'
    whole = plain_prompt(plain, QUESTION)
    assert context.tokens_visual == sum(len(frame.features.tokens) for frame in frames)
    assert context.tokens_text + context.tokens_visual == whole.length - whole.asked


def test_a_question_is_embedded_as_the_language_model_takes_it(backend: Backend, plain: PlainModel) -> None:
    if not isinstance(backend, TextEmbedder):
        pytest.skip('this engine embeds no text')
    ids = plain.tokenizer(QUESTION, add_special_tokens=False, return_tensors='pt').input_ids[0]
    with torch.inference_mode():
        expected = plain.model.get_input_embeddings()(ids)
    found = backend.embed(QUESTION)
    assert torch.equal(found, expected) and len(found) > 3
    assert found.shape[1] == frames_of(backend)[0].features.tokens.shape[1]


def test_repetition_penalty_of_the_model_is_part_of_generate(
    case: tuple[str, str], folder: Path, backend: Backend, tmp_path: Path
) -> None:
    other = changed(folder, tmp_path / 'model', repetition_penalty=1.3)
    plain, penalised = PlainModel(other), load_tiny(case[0], other)
    expected = plain_prompt(plain, QUESTION).generate(TOKENS)
    context = penalised.prefill(SYSTEM, content_of(frames_of(penalised)))
    result = penalised.generate(context, QUESTION, TOKENS)
    assert result.text == plain.text(expected)
    whole = backend.prefill(SYSTEM, content_of(frames_of(backend)))
    assert result.text != backend.generate(whole, QUESTION, TOKENS).text


@pytest.mark.parametrize(('ratio', 'empty'), PRUNED)
def test_pruned_equals_masked_reference(
    backend: Backend, plain: PlainModel, ratio: float, empty: tuple[int, ...]
) -> None:
    frames = frames_of(backend, ratio, empty)
    keeps = keeps_of(frames)
    context = backend.prefill(SYSTEM, content_of(frames))
    scores = backend.score(context, QUESTION, CANDIDATES)
    assert scores == pytest.approx(plain_scores(plain, QUESTION, CANDIDATES, keeps), rel=1e-5, abs=1e-3)
    written = plain_prompt(plain, QUESTION).generate_masked(5, keeps)
    assert backend.generate(context, QUESTION, len(written)).text == plain.text(written)
    whole = backend.prefill(SYSTEM, content_of(frames_of(backend)))
    assert scores != pytest.approx(backend.score(whole, QUESTION, CANDIDATES), abs=2e-3), 'pruning changes them'
    prompt = plain_prompt(plain, QUESTION)
    assert context.tokens_visual == sum(int(keep.sum()) for keep in keeps)
    assert context.tokens_text + context.tokens_visual == int(prompt.kept(keeps).sum()) - prompt.asked


def test_the_model_s_own_mask_is_the_masked_reference_s(backend: Backend, plain: PlainModel) -> None:
    """The reference above is only worth something if its masks, with everything kept, are what the model does."""
    whole = plain_prompt(plain, QUESTION)
    torch.testing.assert_close(whole.logits(keeps_of(frames_of(backend, 2.0))), whole.logits(), rtol=1e-5, atol=1e-4)


def test_text_only_prompt(backend: Backend) -> None:
    context = backend.prefill(SYSTEM, ['The front view has no data.\n'])
    assert context.tokens_visual == 0
    assert backend.generate(context, QUESTION, 4).tokens <= 4


def test_an_empty_system_text_leaves_the_turn_out(backend: Backend, plain: PlainModel) -> None:
    context = backend.prefill('', content_of(frames_of(backend)))
    whole = plain_prompt(plain, QUESTION, system='')
    assert context.tokens_text + context.tokens_visual == whole.length - whole.asked
    assert backend.generate(context, QUESTION, 3).text == plain.text(whole.generate(3))


def test_tokens_that_a_tokenizer_adds_to_any_text_stay_out(
    case: tuple[str, str], folder: Path, backend: Backend, tmp_path: Path
) -> None:
    """Such as the <bos> of Llama and Gemma: a prompt is tokenised piece by piece, and its template has written it."""
    other = Path(shutil.copytree(folder, tmp_path / 'model'))
    tokenizer = Tokenizer.from_file(str(other / 'tokenizer.json'))
    token, number = next((token, number) for token, number in tokenizer.get_vocab().items() if number == 1)
    tokenizer.post_processor = processors.TemplateProcessing(f'{token} $A', special_tokens=[(token, number)])
    tokenizer.save(str(other / 'tokenizer.json'))
    assert PlainModel(other).tokenizer('a').input_ids[0] == number
    adding = load_tiny(case[0], other)
    contexts = [one.prefill(SYSTEM, content_of(frames_of(one, 0.4))) for one in (backend, adding)]
    assert contexts[0].tokens_text == contexts[1].tokens_text
    assert adding.score(contexts[1], QUESTION, CANDIDATES) == backend.score(contexts[0], QUESTION, CANDIDATES)


def test_the_order_of_the_content_counts(backend: Backend) -> None:
    frames = frames_of(backend, 0.5)
    content = content_of(frames)
    swapped = [content[0], content[2], content[1], *content[3:]]
    first, second = (backend.score(backend.prefill(SYSTEM, part), QUESTION, CANDIDATES) for part in (content, swapped))
    assert first != pytest.approx(second, abs=1e-3)


def test_features_do_not_depend_on_the_batch(backend: Backend) -> None:
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


def test_features_are_those_of_the_plain_model(backend: Backend, plain: PlainModel) -> None:
    alone = [backend.encode([image])[0] for image in images()]
    rows = [part for item in alone for part in (item.tokens, item.extra) if part is not None]
    torch.testing.assert_close(torch.cat(rows), plain_prompt(plain, QUESTION).features(), rtol=0, atol=1e-6)


def test_score_equals_one_plain_pass_per_form_of_each_candidate(backend: Backend, plain: PlainModel) -> None:
    frames = frames_of(backend, 0.4)
    context = backend.prefill(SYSTEM, content_of(frames))
    scores = backend.score(context, QUESTION, CANDIDATES)
    assert scores == pytest.approx(plain_scores(plain, QUESTION, CANDIDATES, keeps_of(frames)), rel=1e-5, abs=1e-3)
    assert np.exp(scores).sum() == pytest.approx(1.0)
    assert scores[0] != pytest.approx(scores[1], abs=5e-3), 'the end of the turn tells a beginning from the whole'
    assert np.ptp(scores) > 0.2, 'equal candidates prove little'
    assert backend.score(context, QUESTION, []) == []
    assert backend.score(context, QUESTION, ['stop']) == pytest.approx([0.0]), 'nothing competes with it'


def test_the_order_of_candidates_changes_nothing(backend: Backend) -> None:
    context = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.4)))
    scores = backend.score(context, QUESTION, CANDIDATES)
    assert backend.score(context, QUESTION, CANDIDATES[::-1]) == pytest.approx(scores[::-1], rel=1e-5, abs=1e-4)


def test_candidates_of_the_same_tokens_are_named(backend: Backend) -> None:
    context = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.4)))
    with pytest.raises(StpruneError, match="candidates 'stop' and 'stop' are the same tokens to this model"):
        backend.score(context, QUESTION, ['stop', 'none', 'stop'])


def test_an_answer_may_merge_with_what_the_template_writes_before_it(
    case: tuple[str, str], folder: Path, tmp_path: Path
) -> None:
    """Two line breaks are one token: the invitation to answer ends with one, and answers begin with one."""
    if case[1] != 'qwen3_vl':
        pytest.skip('one template is enough')
    other = Path(shutil.copytree(folder, tmp_path / 'model'))
    template = other / 'chat_template.jinja'
    turn = "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    text = template.read_text(encoding='utf-8')
    assert turn in text
    blank = "{{ '\\n' if message['role'] == 'assistant' }}"
    template.write_text(text.replace(turn, turn + blank), encoding='utf-8')
    backend, plain = load_tiny(case[0], other), PlainModel(other)
    assert len(plain.tokenizer('a\n\nstop').input_ids) == 3
    frames = frames_of(backend, 0.4)
    scores = backend.score(backend.prefill(SYSTEM, content_of(frames)), QUESTION, CANDIDATES)
    expected = plain_scores(plain, QUESTION, CANDIDATES, keeps_of(frames), blank='\n')
    assert scores == pytest.approx(expected, rel=1e-5, abs=1e-3)


def test_questions_scored_together_do_not_see_one_another(backend: Backend) -> None:
    context = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.4)))
    asked = [(QUESTION, CANDIDATES), (OTHER, CANDIDATES[:2]), (QUESTION, CANDIDATES[:1]), (OTHER, [])]
    together = backend.score_all(context, asked)
    for (question, candidates), scores in zip(asked, together, strict=True):
        assert scores == pytest.approx(backend.score(context, question, candidates), rel=1e-5, abs=1e-3)
    assert together[0][:2] != pytest.approx(together[1], abs=0.1)
    assert backend.score_all(context, []) == []


def test_context_can_be_used_any_number_of_times(case: tuple[str, str], backend: Backend) -> None:
    content = content_of(frames_of(backend, 0.4))
    context = backend.prefill(SYSTEM, content)
    scores = backend.score(context, QUESTION, CANDIDATES)
    text = backend.generate(context, OTHER, TOKENS)
    assert backend.score(context, QUESTION, CANDIDATES) == scores
    assert backend.generate(context, OTHER, TOKENS) == text
    other = backend.prefill(SYSTEM, ['The front view has no data.\n'])
    backend.generate(other, QUESTION, 3)
    if case[0] in ONE_CONTEXT:
        for use in (backend.generate, backend.score):
            with pytest.raises(ModelError, match='a context of an earlier prompt was used'):
                use(context, OTHER, CANDIDATES if use == backend.score else TOKENS)
        assert backend.generate(other, QUESTION, 3).tokens == 3, 'the newest one is not harmed'
    else:
        assert backend.generate(context, OTHER, TOKENS) == text
        assert backend.score(context, QUESTION, CANDIDATES) == scores
    context = backend.prefill(SYSTEM, content)
    assert backend.generate(context, OTHER, TOKENS) == text
    assert backend.score(context, QUESTION, CANDIDATES) == scores


def test_caches_that_were_freed_are_made_anew(backend: Backend) -> None:
    content = content_of(frames_of(backend, 0.4))
    context = backend.prefill(SYSTEM, content)
    before = backend.score(context, QUESTION, CANDIDATES), backend.generate(context, OTHER, 4)
    backend.free()
    context = backend.prefill(SYSTEM, content)
    assert (backend.score(context, QUESTION, CANDIDATES), backend.generate(context, OTHER, 4)) == before


class Looks(Event):
    """A cancel event that counts how often it was looked at, as time does, and is set from look ``set_at`` on."""

    def __init__(self, set_at: int = 10**6) -> None:
        super().__init__()
        self.set_at, self.looks = set_at, 0

    def is_set(self) -> bool:
        self.looks += 1
        return self.looks > self.set_at


def test_deadline_stops_generation(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    context = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.4)))
    whole = backend.generate(context, OTHER, TOKENS)
    assert not whole.timed_out
    assert backend.generate(context, OTHER, TOKENS, deadline=time.monotonic() + 600, cancel=Event()) == whole
    late = backend.generate(context, OTHER, TOKENS, deadline=time.monotonic())
    assert (late.tokens, late.text, late.finished, late.timed_out) == (0, '', False, True)
    clock = Looks()
    monkeypatch.setattr(time, 'monotonic', lambda: float(clock.looks))
    cut = backend.generate(context, OTHER, TOKENS, deadline=2.0, cancel=clock)
    assert cut.tokens in (1, 2), 'before every token'
    assert (cut.finished, cut.timed_out) == (False, True)
    assert whole.text.startswith(cut.text.rstrip('\ufffd'))


@pytest.mark.parametrize('count', [0, 1, 3])
def test_cancel_stops_generation(backend: Backend, count: int) -> None:
    context = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.4)))
    whole = backend.generate(context, OTHER, TOKENS)
    cut = backend.generate(context, OTHER, TOKENS, cancel=Looks(set_at=count))
    assert (cut.tokens, cut.finished, cut.timed_out) == (count, False, False)
    assert whole.text.startswith(cut.text.rstrip('\ufffd'))


@pytest.mark.parametrize('slices', [(0, 1, 2, 3, 5, 8), (0, 0, 7), (TOKENS - 1,)])
def test_a_text_goes_on_word_for_word_while_newer_prompts_are_run(backend: Backend, slices: tuple[int, ...]) -> None:
    """A prompt without images first: what is kept of an answer's static part moves, too."""
    first, other = content_of(frames_of(backend, 0.5)), content_of(frames_of(backend, 0.3))
    whole = backend.generate(backend.prefill(SYSTEM, first), OTHER, TOKENS)
    alone = backend.score_all(backend.prefill(SYSTEM, other), [(QUESTION, CANDIDATES)])[0]
    context = backend.prefill(SYSTEM, first)
    text = backend.begin(context, OTHER, TOKENS)
    for number, tokens in enumerate(slices):
        assert text.write(pause=lambda written, enough=tokens: written >= enough) is None
        newer = backend.prefill(SYSTEM, other) if number % 2 == 0 else backend.prefill('', ['No image at all.\n'])
        scores = backend.score_all(newer, [(QUESTION, CANDIDATES)])[0]
        if number % 2 == 0:
            assert scores == pytest.approx(alone, rel=0, abs=1e-4), 'nor does the text show in them'
    assert text.write() == whole


def test_a_text_that_has_ended_does_not_go_on(backend: Backend) -> None:
    context, over = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.5))), 'a text was to go on that had ended'
    whole = backend.generate(context, OTHER, TOKENS)
    left = backend.begin(context, OTHER, TOKENS)
    assert left.write(pause=lambda written: written >= 2) is None
    assert backend.generate(context, OTHER, TOKENS) == whole, 'there is one at a time'
    with pytest.raises(ModelError, match=over):
        left.write()
    closed, freed = backend.begin(context, OTHER, TOKENS), backend.begin(context, QUESTION, TOKENS)
    closed.close()
    assert freed.write(pause=lambda written: written >= 1) is None, 'closing what is over harms nothing'
    backend.free()
    with pytest.raises(ModelError, match=over):
        freed.write()


def test_deadline_and_cancel_end_a_text_that_was_left(backend: Backend) -> None:
    context = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.5)))
    for stop, timed_out in (({'deadline': 0.0}, True), ({'cancel': Looks(set_at=0)}, False)):
        text = backend.begin(context, OTHER, TOKENS)
        assert text.write(pause=lambda written: written >= 3) is None
        cut = text.write(**stop)
        assert cut is not None
        assert (cut.tokens, cut.finished, cut.timed_out, cut.note) == (3, False, timed_out, '')


def test_end_of_turn_finishes(case: tuple[str, str], folder: Path, plain: PlainModel, tmp_path: Path) -> None:
    """A token that ends a turn ends the text, is no part of it, and is not counted."""
    written = plain_prompt(plain, QUESTION).generate(4)
    backend = load_tiny(case[0], changed(folder, tmp_path / 'model', eos_token_id=written[2]))
    context = backend.prefill(SYSTEM, content_of(frames_of(backend)))
    ended = backend.generate(context, QUESTION, 4)
    count = written.index(written[2])
    assert (ended.tokens, ended.finished, ended.timed_out) == (count, True, False)
    assert ended.text == plain.text(written[:count])
    assert backend.generate(context, QUESTION, count).finished is False


def test_bfloat16(case: tuple[str, str], folder: Path) -> None:
    half = load_tiny(case[0], folder, dtype='bfloat16')
    assert half.info.dtype.split(',')[0] == 'bfloat16'
    features = half.encode(images())
    assert features[0].tokens.dtype == torch.bfloat16
    context = half.prefill(SYSTEM, content_of(frames_of(half, 0.4)))
    scores = half.score(context, QUESTION, CANDIDATES)
    assert len(scores) == len(CANDIDATES)
    assert np.isfinite(scores).all()
    assert half.generate(context, OTHER, 4).tokens <= 4


def test_pixels_can_be_capped(case: tuple[str, str], folder: Path, backend: Backend) -> None:
    if STYLES[backend.info.family] is not QWEN:
        with pytest.raises(StpruneError, match=r"'model.max_image_pixels' is 2048, but family .* set it to 0"):
            load_tiny(case[0], folder, max_image_pixels=2048)
        return
    half = load_tiny(case[0], folder, max_image_pixels=2048)
    assert half.model_pixels == 2048 < backend.model_pixels
    full, small = backend.encode(images(1))[0], half.encode(images(1))[0]
    assert full.grid != backend.encode(images())[2].grid, 'the grid follows the size of the image'
    assert 0 < len(small.tokens) < len(full.tokens)


def test_pixels_of_side_cameras_can_be_capped(case: tuple[str, str], folder: Path, backend: Backend) -> None:
    if STYLES[backend.info.family] is not QWEN:
        with pytest.raises(StpruneError, match=r"'model.side_image_pixels' is 2048, but family .* set it to 0"):
            load_tiny(case[0], folder, side_image_pixels=2048)
        return
    capped, both = load_tiny(case[0], folder, max_image_pixels=2048), load_tiny(case[0], folder, side_image_pixels=2048)
    assert (both.model_pixels, both.side_pixels) == (backend.model_pixels, 2048)
    assert (capped.model_pixels, capped.side_pixels) == (2048, 2048)
    for found, expected in (
        (both.encode(both.prepare(images(), side=True)), capped.encode(images())),
        (both.encode(both.prepare(images())), backend.encode(images())),
        (capped.encode(capped.prepare(images(), side=True)), capped.encode(images())),
    ):
        for one, other in zip(found, expected, strict=True):
            assert one.grid == other.grid and torch.equal(one.tokens, other.tokens)


def test_views_of_different_grids_stand_in_one_prompt(case: tuple[str, str], folder: Path, plain: PlainModel) -> None:
    if STYLES[plain.model.config.model_type] is not QWEN:
        pytest.skip('every image of this family is one size')
    both = load_tiny(case[0], folder, side_image_pixels=2048)
    features = [*both.encode(images(2)), *both.encode(both.prepare(images(2), side=True))]
    assert features[0].grid != features[2].grid
    frames = [VisualFrame(one, torch.ones(len(one.tokens), dtype=torch.bool)) for one in features]
    context = both.prefill(SYSTEM, content_of(frames))
    assert context.tokens_visual == sum(len(one.tokens) for one in features)
    scores = both.score(context, QUESTION, CANDIDATES)
    assert np.exp(scores).sum() == pytest.approx(1.0, abs=1e-4)


def test_wrong_images_are_named(backend: Backend) -> None:
    with pytest.raises(StpruneError, match=r'float32 \(4, 4, 3\).*uint8'):
        backend.encode([np.zeros((4, 4, 3), np.float32)])
    with pytest.raises(StpruneError, match=r'\(4, 4\)'):
        backend.encode([np.zeros((4, 4), np.uint8)])


def test_oblong_images_are_encoded_or_named(backend: Backend) -> None:
    oblong = np.zeros((2, 900, 3), np.uint8)
    if STYLES[backend.info.family] is QWEN:
        with pytest.raises(StpruneError, match='aspect ratio'):
            backend.encode([oblong])
    else:
        (wide,) = backend.encode([oblong])
        assert wide.grid == backend.encode(images(1))[0].grid


def test_wrong_prompts_are_named(backend: Backend) -> None:
    frame = frames_of(backend)[0]
    placeholder = STYLES[backend.info.family].placeholder
    with pytest.raises(StpruneError, match=r'2 image placeholders .* for 1 images'):
        backend.prefill(SYSTEM, [frame, f'What is {placeholder}?\n'])
    short = replace(frame, keep=frame.keep[:-1])
    with pytest.raises(StpruneError, match=f'{len(frame.keep)} visual tokens'):
        backend.prefill(SYSTEM, [short])
    context = backend.prefill(SYSTEM, [frame])
    with pytest.raises(StpruneError, match='which is no word to this model'):
        backend.generate(context, f'What is {placeholder}?', 1)


def test_info(case: tuple[str, str], backend: Backend) -> None:
    info = backend.info
    assert (info.model_id, info.trained, info.domain) == (case[1], False, '')
    assert (info.device, info.dtype) == ('cpu', 'float32' if case[0] == 'transformers' else 'float32, F32')
    assert len(info.revision) == 12
