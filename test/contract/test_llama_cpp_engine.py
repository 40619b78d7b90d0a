"""How the llama.cpp engine runs a prompt, against our transformers engine: logits, cache, limits, memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from helpers.engines import (
    CANDIDATES,
    OTHER,
    QUESTION,
    RUNS,
    SYSTEM,
    content_of,
    frames_of,
    load_tiny,
    make_tiny,
    needs_llama,
)
from helpers.tiny_gguf import make_tiny_gguf

from stprune_ros.errors import ModelError
from stprune_ros.vlm.backend import Context
from stprune_ros.vlm.hf.backend import TransformersBackend
from stprune_ros.vlm.llama_cpp import backend as engine
from stprune_ros.vlm.llama_cpp import language_model

pytestmark = needs_llama
TOLERANCE = 5e-5  # of logits of about 5


@pytest.fixture(scope='module', params=RUNS['llama.cpp'])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny('llama.cpp', tmp_path_factory.mktemp('models') / request.param, request.param)


@pytest.fixture(scope='module')
def backend(folder: Path) -> Any:
    return load_tiny('llama.cpp', folder)


@pytest.fixture(scope='module')
def reference(folder: Path) -> TransformersBackend:
    return TransformersBackend.load(folder, device='cpu')


def first_logits(backend: Any, context: Context) -> np.ndarray:
    """Logits behind the question, before anything is written."""
    asked = backend._chat.text_ids(QUESTION + context.state.question_suffix)
    position = context.state.next_position
    if isinstance(backend, TransformersBackend):
        cache = backend._kv_cache_behind(context.state, len(asked))
        return cache.step(torch.tensor(asked), torch.arange(position, position + len(asked)))[-1].numpy()
    backend._language.begin_text()
    found = backend._language.run_tokens(asked, position)
    backend._language.end_text()
    return np.array(found)


@pytest.mark.parametrize(('ratio', 'empty'), [(1.0, ()), (0.3, ()), (0.1, ()), (0.3, (2, 3)), (0.0, ())])
def test_logits_are_those_of_the_transformers_engine(
    backend: Any, reference: TransformersBackend, ratio: float, empty: tuple[int, ...]
) -> None:
    frames = frames_of(reference, ratio, empty)
    contexts = [one.prefill(SYSTEM, content_of(frames)) for one in (reference, backend)]
    expected, found = (first_logits(*pair) for pair in zip((reference, backend), contexts))
    assert np.ptp(expected) > 5
    assert found == pytest.approx(expected, rel=0, abs=TOLERANCE)
    for asked in ([(QUESTION, CANDIDATES)], [(QUESTION, CANDIDATES), (OTHER, CANDIDATES[:2])]):
        both = [one.score_all(context, asked) for one, context in zip((reference, backend), contexts)]
        for one, other in zip(*both, strict=True):
            assert other == pytest.approx(one, rel=0, abs=TOLERANCE)
    texts = [one.generate(context, OTHER, 24) for one, context in zip((reference, backend), contexts)]
    assert texts[0] == texts[1]
    assert len(texts[0].text) > 3


@pytest.mark.parametrize('folder', ['qwen3_vl'], indirect=True)
def test_llama_cpp_gets_deepstack_rows(backend: Any, reference: TransformersBackend) -> None:
    frames = frames_of(reference, 0.5)
    rows = backend._rows(*prompt_ids(backend, frames))
    width = backend._embeddings.width
    assert rows.shape[1] == 3 * width
    visual = np.abs(rows[:, width:]).sum(1) > 0
    assert visual.sum() == sum(int(frame.keep.sum()) for frame in frames), 'text rows have none'
    kept = torch.cat([frame.features.deep[1][frame.keep] for frame in frames]).numpy()
    assert np.array_equal(rows[visual, 2 * width :], kept)


def prompt_ids(backend: Any, frames: Sequence[Any]) -> tuple[np.ndarray, Sequence[Any]]:
    full = backend._chat.prompt(SYSTEM, content_of(list(frames)))
    return full.ids[full.keep].numpy(), frames


@pytest.mark.parametrize('folder', ['qwen3_vl'], indirect=True)
def test_llama_cpp_runs_the_static_part_once(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    content, run = content_of(frames_of(backend, 0.3)), []
    backend.free()
    rows = backend._language.run_rows
    monkeypatch.setattr(backend._language, 'run_rows', lambda *given: run.append(len(given[0])) or rows(*given))

    def logits(system: str) -> np.ndarray:
        return first_logits(backend, backend.prefill(system, content))

    first = logits(SYSTEM)
    static, rest = run
    assert static >= len(backend._chat.ids(SYSTEM)), 'the system text is part of it'
    assert np.array_equal(logits(SYSTEM), first), 'to the last bit'
    assert run == [static, rest, rest]
    other = logits('Another system.')
    assert np.abs(other - first).max() > 0.01
    assert len(run) == 5
    assert np.array_equal(logits(SYSTEM), first)
    assert run[5:] == [static, rest]
    backend.free()
    assert np.array_equal(logits(SYSTEM), first)
    monkeypatch.setattr(backend._chat, '_static', lambda *given: 0)
    assert logits(SYSTEM) == pytest.approx(first, rel=0, abs=TOLERANCE)
    assert run[-1] == static + rest, 'where nothing is static all is run at once'


@pytest.mark.parametrize('folder', ['qwen3_vl'], indirect=True)
def test_llama_cpp_scores_all_candidates_in_one_decode(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    context, calls = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.3))), []
    tree = backend._language.run_tree
    monkeypatch.setattr(backend._language, 'run_tree', lambda *given: calls.append(given) or tree(*given))
    asked = [(QUESTION, CANDIDATES), (OTHER, CANDIDATES)]
    together = backend.score_all(context, asked)
    [(ids, *_)] = calls
    choices = backend._answers.choices(asked, context.state.question_suffix)
    paths = [branch.path for choice in choices for branch in choice.branches]
    assert len(ids) < sum(map(len, paths)), 'what paths share is run once'
    monkeypatch.setattr(engine, 'LEAVES', 2)
    for one, other in zip(together, backend.score_all(context, asked), strict=True):
        assert other == pytest.approx(one, rel=0, abs=TOLERANCE)
    assert len(calls) > 3, 'two branches at a time'


@pytest.mark.parametrize('folder', ['qwen2_5_vl', 'qwen3_vl'], indirect=True)
def test_a_prompt_may_be_computed_in_llama_cpp_step_by_step(
    folder: Path, reference: TransformersBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, 'STEP', 16)
    stepping: Any = load_tiny('llama.cpp', folder)
    frames = frames_of(reference, 0.6)
    contexts = [one.prefill(SYSTEM, content_of(frames)) for one in (reference, stepping)]
    assert contexts[0].tokens_visual > 16
    expected, found = (first_logits(*pair) for pair in zip((reference, stepping), contexts))
    assert found == pytest.approx(expected, rel=0, abs=TOLERANCE)


@pytest.mark.parametrize('folder', ['qwen3_vl'], indirect=True)
def test_a_long_decode_of_llama_cpp_is_cut_short(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the call has begun, not before: the clock and the event are looked at between two operations."""
    context = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.3)))
    whole = backend.generate(context, OTHER, 4)
    monkeypatch.setattr(language_model, 'LOOK_S', 0.0)
    cancel, tokens = Event(), backend._language.run_tokens

    def cancelled(*given: Any) -> np.ndarray:
        cancel.set()
        found: np.ndarray = tokens(*given)
        return found

    monkeypatch.setattr(backend._language, 'run_tokens', cancelled)
    cut = backend.generate(context, OTHER, 4, cancel=cancel)
    assert (cut.tokens, cut.finished, cut.timed_out) == (0, False, False)
    assert backend.score(context, QUESTION, CANDIDATES), 'what ends a text ends nothing else'

    def late(*given: Any) -> np.ndarray:
        monkeypatch.setattr(time, 'monotonic', lambda: 1e12)
        found: np.ndarray = tokens(*given)
        return found

    monkeypatch.setattr(backend._language, 'run_tokens', late)
    cut = backend.generate(context, OTHER, 4, deadline=time.monotonic() + 600)
    assert (cut.tokens, cut.finished, cut.timed_out) == (0, False, True)
    monkeypatch.setattr(backend._language, 'run_tokens', tokens)
    assert backend.generate(context, OTHER, 4) == whole, 'nothing is left of them'


def used(context: Context) -> int:
    return context.tokens_text + context.tokens_visual


@pytest.mark.parametrize('folder', ['qwen3_vl'], indirect=True)
def test_a_text_in_the_cache_of_llama_cpp_yields_to_the_next_prompt(folder: Path) -> None:
    """Where there is no room for both: the tick does not fail, the text ends as it is, and that is said."""
    small: Any = load_tiny('llama.cpp', folder, context_tokens=256)
    content, room = content_of(frames_of(small, 0.3)), ''
    while used(small.prefill(SYSTEM, [*content, room])) < 200:  # of 256; two of them share the system text only
        room += 'A long road. '
    content = [*content, room]
    whole = small.generate(small.prefill(SYSTEM, content), OTHER, 24)
    alone = small.score(small.prefill(SYSTEM, content), QUESTION, CANDIDATES)
    text = small.begin(small.prefill(SYSTEM, content), OTHER, 24)
    assert text.write(pause=lambda written: written >= 3) is None
    newer = small.prefill(SYSTEM, content)
    assert small.score(newer, QUESTION, CANDIDATES) == pytest.approx(alone, rel=0, abs=TOLERANCE)
    cut = text.write()
    assert (cut.tokens, cut.finished, cut.timed_out) == (3, False, False)
    assert cut.note.startswith('the description was cut short because the KV cache has no room for it')
    assert small.generate(small.prefill(SYSTEM, content), OTHER, 24) == whole, 'and all its cells are free'


@pytest.mark.parametrize('folder', ['qwen3_vl'], indirect=True)
@pytest.mark.parametrize('tokens', [0, 3])
def test_a_text_of_llama_cpp_ends_where_the_next_prompt_leaves_it_no_room(folder: Path, tokens: int) -> None:
    """As it is, and no error: that would empty every cache, as after a fault."""
    small: Any = load_tiny('llama.cpp', folder, context_tokens=256)
    content = content_of(frames_of(small, 0.3))

    def left_beside(newer: list[Any]) -> tuple[Any, Context]:
        text = small.begin(small.prefill(SYSTEM, content), OTHER, 24)
        assert text.write(pause=lambda written: written >= tokens) is None
        return text, small.prefill(SYSTEM, newer)

    whole = small.generate(small.prefill(SYSTEM, content), OTHER, 24)
    newer = longest = content
    left_beside(newer)
    while small._language.has_text:  # the longest prompt to which no text has to yield
        longest, newer = newer, [*newer, 'A wide field. ']
        left_beside(newer)
    text, context = left_beside(longest)
    cut = text.write()
    assert tokens <= cut.tokens < 24 and whole.text.startswith(cut.text.rstrip('\ufffd'))
    assert (cut.finished, cut.timed_out) == (False, False)
    assert cut.note.startswith('the description was cut short because the KV cache has no room for it')
    found = small.score(context, QUESTION, CANDIDATES)
    alone = small.score(small.prefill(SYSTEM, longest), QUESTION, CANDIDATES)
    assert found == pytest.approx(alone, rel=0, abs=TOLERANCE)


@pytest.mark.parametrize('folder', ['qwen3_vl'], indirect=True)
def test_a_text_in_the_cache_of_llama_cpp_stays_while_many_candidates_are_scored(backend: Any) -> None:
    """More than there are sequences: none of them is that of the text."""
    context = backend.prefill(SYSTEM, content_of(frames_of(backend, 0.3)))
    whole = backend.generate(context, OTHER, 8)
    text = backend.begin(context, OTHER, 8)
    assert text.write(pause=lambda written: written >= 3) is None
    many = [f'{number} {unit}' for number in range(3 * language_model.SEQUENCES) for unit in ('metres', 'yards')]
    [choice] = backend._answers.choices([(QUESTION, many)], context.state.question_suffix)
    assert len(choice.branches) > 3 * language_model.SEQUENCES, 'some passes have nothing but leaves'
    backend.score(context, QUESTION, many)
    assert text.write() == whole


@pytest.mark.parametrize('folder', ['qwen3_vl'], indirect=True)
def test_what_does_not_fit_into_the_context_of_llama_cpp_is_refused(folder: Path) -> None:
    small: Any = load_tiny('llama.cpp', folder, context_tokens=256)
    words = 'tokens more do not fit into a context of 256: raise model.context_tokens, or lower pruning.keep_ratio'
    content = content_of(frames_of(small))
    with pytest.raises(ModelError, match=words):
        small.prefill(SYSTEM, [*content, 'The road. ' * 200])
    context = small.prefill(SYSTEM, content_of(frames_of(small, 0.3)))
    with pytest.raises(ModelError, match=words):
        small.score(context, 'What now? ' * 100, CANDIDATES)
    with pytest.raises(ModelError, match=words):
        small.generate(context, 'What now? ' * 100, 4)
    assert small.generate(context, OTHER, 4).tokens, 'the context is as it was'
    alone = small.score(context, QUESTION, CANDIDATES)
    with pytest.raises(ModelError, match=words):
        small.prefill('The road. ' * 200, content)
    again = small.prefill(SYSTEM, content_of(frames_of(small, 0.3)))
    assert small.score(again, QUESTION, CANDIDATES) == pytest.approx(alone, rel=0, abs=TOLERANCE)


@pytest.mark.parametrize('folder', ['qwen3_vl'], indirect=True)
def test_only_the_tower_of_the_folder_is_loaded_for_llama_cpp(backend: Any, reference: TransformersBackend) -> None:
    loaded = {name for name, weight in backend._model.named_parameters() if weight.device.type != 'meta'}
    assert loaded == {f'model.visual.{name}' for name, _ in backend._model.model.visual.named_parameters()}
    own = dict(reference._model.named_parameters())
    assert all(torch.equal(weight, own[name]) for name, weight in backend._model.named_parameters() if name in loaded)


@pytest.mark.parametrize('folder', ['qwen3_vl'], indirect=True)
@pytest.mark.parametrize(('kind', 'most'), [('F16', 0.05), ('Q8_0', 0.5), ('Q4_0', 6.0)])
def test_packed_weights_of_llama_cpp_are_near_those_of_the_folder(
    folder: Path, reference: TransformersBackend, tmp_path: Path, kind: str, most: float
) -> None:
    file = make_tiny_gguf(folder, tmp_path / 'packed.gguf', kind)
    packed: Any = load_tiny('llama.cpp', folder, gguf=str(file))
    frames = frames_of(reference, 0.5)
    expected, found = (first_logits(one, one.prefill(SYSTEM, content_of(frames))) for one in (reference, packed))
    assert 1e-4 < np.abs(found - expected).max() < most
    assert packed.info.dtype.endswith(kind)


@pytest.mark.parametrize('folder', ['qwen2_5_vl', 'qwen3_vl'], indirect=True)
def test_that_llama_cpp_does_not_read_eps_is_said(backend: Any, folder: Path) -> None:
    said = [note for note in backend.info.notes if 'does not read rms_norm_eps' in note]
    assert len(said) == (folder.name == 'qwen2_5_vl')
